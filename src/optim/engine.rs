//! What all optimizers share: parameters in groups, their state, one plan for a step.
//!
//! An optimizer is a [`Rule`]: settings, and what becomes of one weight and its state. Whatever depends on the number of steps is a coefficient: a
//! number of the host, an argument of the kernels and no part of the plan. Where the device decides whether a step is taken (`Gradients` that a
//! `GradScaler` has looked at), the number of steps lives there too, and the coefficients with it, packed into one small tensor. What does not need a
//! rule's type is in [`slots`](super::slots), compiled once.

use super::num::Num;
use super::slots::{self, Slots};
use crate::autograd::Gradients;
use crate::io::StateDict;
use crate::nn::Param;
use crate::{Result, Tensor};
use smallvec::SmallVec;

pub(super) type State = SmallVec<[Tensor; 4]>;

/// A setting as a number, as state dicts and schedules see it.
pub trait Setting {
    /// The number.
    fn get(&self) -> f64;
    /// Sets it.
    fn put(&mut self, value: f64);
}
impl Setting for f64 {
    fn get(&self) -> f64 {
        *self
    }
    fn put(&mut self, value: f64) {
        *self = value
    }
}
impl Setting for bool {
    fn get(&self) -> f64 {
        *self as u8 as f64
    }
    fn put(&mut self, value: f64) {
        *self = value != 0.0
    }
}
impl Setting for u32 {
    fn get(&self) -> f64 {
        *self as f64
    }
    fn put(&mut self, value: f64) {
        *self = value as u32
    }
}

/// One parameter on its way through a step.
pub struct Update<'a> {
    pub(super) w: Tensor,
    pub(super) g: Tensor,
    pub(super) lr: f64,
    /// What [`Rule::coefficients`] gave.
    pub(super) c: &'a [Num],
    /// One tensor for each name of [`Rule::state`]; the first time, of [`Rule::initial`].
    pub(super) state: State,
    pub(super) fresh: bool,
}

/// An optimizer's settings and formula.
pub trait Rule {
    /// The optimizer, for errors.
    fn name(&self) -> &'static str;
    /// The settings by name.
    fn settings(&mut self) -> Vec<(&'static str, &mut dyn Setting)>;
    /// The names of the state that the settings ask for.
    fn state(&self) -> &'static [&'static str];
    /// What the state starts from.
    fn initial(&self) -> f64 {
        0.0
    }
    /// Refuses settings out of their ranges.
    fn check(&self) -> Result<()>;
    /// Refuses parameters that it has no rule for.
    fn takes(&self, _param: &Param) -> Result<()> {
        Ok(())
    }
    /// The name of the product of the [`factor`](Rule::factor)s, where the rule has some.
    fn product(&self) -> Option<&'static str> {
        None
    }
    /// What is multiplied up over the steps, for step `t`.
    fn factor(&self, _t: &Num) -> Result<Option<Num>> {
        Ok(None)
    }
    /// What depends on the step `t` (from 1) and the product of the factors so far.
    fn coefficients(&self, lr: f64, t: &Num, product: &Num) -> Result<SmallVec<[Num; 4]>>;
    /// The new weight and state.
    fn apply(&self, update: Update) -> Result<(Tensor, SmallVec<[Tensor; 4]>)>;
}

/// The settings of a group of parameters, in the making: what the closure of an optimizer's `group` gets and returns.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::AdamW;
/// let (backbone, head) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
/// let optimizer = AdamW::new(head.parameters(), 1e-3).weight_decay(0.05).group(backbone.parameters(), |g| g.lr(1e-4));
/// ```
#[derive(Clone)]
pub struct Group<R> {
    pub(super) base: Base,
    pub(super) rule: R,
}

/// The settings of a group that every rule has.
#[derive(Clone)]
pub(super) struct Base {
    pub lr: f64,
    pub initial_lr: Option<f64>,
    pub maximize: bool,
}

impl<R> Group<R> {
    /// Sets the learning rate of the group.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// let (a, b) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
    /// let optimizer = SGD::new(a.parameters(), 0.1).group(b.parameters(), |g| g.lr(0.01));
    /// assert_eq!(optimizer.lrs(), [0.1, 0.01]);
    /// ```
    pub fn lr(mut self, lr: f64) -> Group<R> {
        self.base.lr = lr;
        self
    }

    /// Whether the group goes up the gradient, not down (off).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{Optimizer, SGD};
    /// let (player, opponent) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
    /// let optimizer = SGD::new(player.parameters(), 0.1).group(opponent.parameters(), |g| g.maximize(true));
    /// assert_eq!((optimizer.setting(0, "maximize"), optimizer.setting(1, "maximize")), (Some(0.0), Some(1.0)));
    /// ```
    pub fn maximize(mut self, maximize: bool) -> Group<R> {
        self.base.maximize = maximize;
        self
    }
}

/// An optimizer: the groups of its parameters, and the parameters.
pub(super) struct Core<R> {
    groups: Vec<Group<R>>,
    slots: Slots,
}

/// Groups as all rules have them.
fn views<R: Rule>(groups: &[Group<R>]) -> slots::Groups<'_> {
    groups.iter().map(|g| (&g.base, &g.rule as &dyn Rule)).collect()
}

fn views_mut<R: Rule>(groups: &mut [Group<R>]) -> slots::GroupsMut<'_> {
    groups.iter_mut().map(|g| (&mut g.base, &mut g.rule as &mut dyn Rule)).collect()
}

impl<R: Rule + Clone> Core<R> {
    pub fn new(params: impl IntoIterator<Item = Param>, lr: f64, rule: R) -> Core<R> {
        let mut core = Core { groups: Vec::new(), slots: Slots::default() };
        core.push(params, Group { base: Base { lr, initial_lr: None, maximize: false }, rule });
        core
    }

    fn push(&mut self, params: impl IntoIterator<Item = Param>, group: Group<R>) {
        let index = self.groups.len();
        self.groups.push(group);
        params.into_iter().for_each(|param| self.slots.push(param, index));
    }

    /// Adds a group that starts from the first one's settings.
    pub fn group(&mut self, params: impl IntoIterator<Item = Param>, f: impl FnOnce(Group<R>) -> Group<R>) {
        let mut start = self.groups[0].clone();
        start.base.initial_lr = None;
        self.push(params, f(start));
    }

    /// The first group's settings.
    pub fn first(&mut self) -> &mut R {
        &mut self.groups[0].rule
    }

    pub fn maximize(&mut self, maximize: bool) {
        self.groups[0].base.maximize = maximize;
    }

    pub fn num_groups(&self) -> usize {
        self.groups.len()
    }

    pub fn setting(&self, group: usize, name: &str) -> Option<f64> {
        let mut group = self.groups.get(group)?.clone();
        slots::setting(&group.base, &mut group.rule, name)
    }

    pub fn set_setting(&mut self, group: usize, name: &str, value: f64) -> Result<()> {
        slots::set_setting(&mut views_mut(&mut self.groups), group, name, value)
    }

    pub fn check(&self) -> Result<()> {
        self.slots.check(&views(&self.groups))
    }

    pub fn step(&mut self, mut grads: Gradients) -> Result<()> {
        let skip = grads.take_skip();
        let roots = self.record(&mut grads, skip)?;
        drop(grads);
        slots::run(roots)
    }

    /// Records a step; what is to be computed.
    pub fn record(&mut self, grads: &mut Gradients, skip: Option<Tensor>) -> Result<Vec<Tensor>> {
        self.slots.record(&views(&self.groups), grads, skip)
    }

    pub fn state_dict(&self) -> Result<StateDict> {
        self.slots.state_dict(&mut views_mut(&mut self.groups.clone()))
    }

    pub fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let mut groups = self.groups.clone();
        self.slots.load_state_dict(&mut views_mut(&mut groups), dict)?;
        self.groups = groups;
        Ok(())
    }
}

/// What an optimizer of this rule offers: `new`, `group`, its settings, the trait.
macro_rules! optimizer {
    ([$($name:ident = $make:expr),+], $rule:ident $settings:tt) => {
        $(optimizer!(@name $name, $make, $rule, $settings);)+
        optimizer!(@rule $rule, $settings);
    };
    (@name $name:ident, $make:expr, $rule:ident, {
        $( $(#[$doc:meta])* $method:ident($($field:ident : $t:ty),+) = $example:literal; )*
    }) => {
            impl $name {
                /// The optimizer with PyTorch's defaults on these parameters.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// use fornax::optim::Optimizer;
                /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                #[doc = concat!("assert_eq!(fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).lr(), 0.1);")]
                /// ```
                pub fn new(params: impl IntoIterator<Item = $crate::nn::Param>, lr: f64) -> $name {
                    $name($crate::optim::engine::Core::new(params, lr, $make))
                }

                /// Adds a group of parameters with settings of its own: a group starts from the first one's settings as they stand, and the closure
                /// changes them. A setting that is made later is the first group's. A parameter that is in a group already stays there.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// use fornax::optim::Optimizer;
                /// let (a, b) = (Linear::new(3, 8, fornax::Device::cpu()), Linear::new(8, 2, fornax::Device::cpu()));
                #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([a.weight.clone()], 0.1).group([b.weight.clone()], |g| g.lr(0.01));")]
                /// assert_eq!(optimizer.lrs(), [0.1, 0.01]);
                /// ```
                pub fn group(
                    mut self,
                    params: impl IntoIterator<Item = $crate::nn::Param>,
                    settings: impl FnOnce($crate::optim::Group<$rule>) -> $crate::optim::Group<$rule>,
                ) -> $name {
                    self.0.group(params, settings);
                    self
                }

                /// Whether to go up the gradient, not down (off): as a step down the gradient of the loss with its sign turned.
                ///
                /// ```
                /// use fornax::nn::{Linear, Module};
                /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).maximize(true);")]
                /// ```
                pub fn maximize(mut self, maximize: bool) -> $name {
                    self.0.maximize(maximize);
                    self
                }

                $(
                    $(#[$doc])*
                    ///
                    /// ```
                    /// use fornax::nn::{Linear, Module};
                    /// let layer = Linear::new(3, 2, fornax::Device::cpu());
                    #[doc = concat!("let optimizer = fornax::optim::", stringify!($name), "::new([layer.weight.clone()], 0.1).", stringify!($method), "(", $example, ");")]
                    /// ```
                    pub fn $method(mut self, $($field: $t),+) -> $name {
                        let rule = self.0.first();
                        $(rule.$field = $field;)+
                        self
                    }
                )*
            }

            impl $crate::optim::Optimizer for $name {
                fn step(&mut self, grads: $crate::Gradients) -> $crate::Result<()> {
                    self.0.step(grads)
                }
                fn record(&mut self, grads: &mut $crate::Gradients) -> $crate::Result<Vec<$crate::Tensor>> {
                    let skip = grads.skip().cloned();
                    self.0.record(grads, skip)
                }
                fn check(&self) -> $crate::Result<()> {
                    self.0.check()
                }
                fn num_groups(&self) -> usize {
                    self.0.num_groups()
                }
                fn setting(&self, group: usize, name: &str) -> Option<f64> {
                    self.0.setting(group, name)
                }
                fn set_setting(&mut self, group: usize, name: &str, value: f64) -> $crate::Result<()> {
                    self.0.set_setting(group, name, value)
                }
                fn state_dict(&self) -> $crate::Result<$crate::io::StateDict> {
                    self.0.state_dict()
                }
                fn load_state_dict(&mut self, dict: &$crate::io::StateDict) -> $crate::Result<()> {
                    self.0.load_state_dict(dict)
                }
            }
    };
    (@rule $rule:ident, {
        $( $(#[$doc:meta])* $method:ident($($field:ident : $t:ty),+) = $example:literal; )*
    }) => {
        impl $crate::optim::Group<$rule> {
            $(
                $(#[$doc])*
                pub fn $method(mut self, $($field: $t),+) -> Self {
                    let rule = &mut self.rule;
                    $(rule.$field = $field;)+
                    self
                }
            )*
        }

        impl $rule {
            /// The settings by name.
            fn fields(&mut self) -> Vec<(&'static str, &mut dyn $crate::optim::engine::Setting)> {
                vec![$($((stringify!($field), &mut self.$field as &mut dyn $crate::optim::engine::Setting),)+)*]
            }
        }
    };
}
pub(super) use optimizer;
