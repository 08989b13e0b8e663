//! Optimizers: what turns gradients into new parameters.
//!
//! ```
//! use fornax::nn::Param;
//! use fornax::optim::{Optimizer, SGD};
//! use fornax::{Device, Tensor};
//! let w = Param::new(Tensor::ones(2, Device::cpu()));
//! let mut optimizer = SGD::new([w.clone()], 0.1);
//! let loss = w.get().square().sum(());
//! optimizer.step(loss.backward()?)?;
//! assert_eq!(w.value().to_vec::<f32>()?, [0.8, 0.8]);
//! # Ok::<(), fornax::Error>(())
//! ```

mod adam;
mod adaptive;
mod average;
mod clip;
mod combined;
mod engine;
mod lamb;
mod lbfgs;
pub mod lr_scheduler;
mod muon;
mod nadam;
mod num;
mod scaler;
mod sgd;
mod slots;

pub use adam::{Adam, AdamW};
pub use adaptive::{Adadelta, Adagrad, RMSprop};
pub use average::{AveragedModel, update_bn};
pub use clip::ClipNorm;
pub use combined::Combined;
pub use engine::Group;
pub use lamb::{Lamb, Lion};
pub use lbfgs::LBFGS;
pub use lr_scheduler::{Schedule, Scheduler};
pub use muon::{AdjustLr, Muon};
pub use nadam::{NAdam, RAdam};
pub use scaler::GradScaler;
pub use sgd::SGD;

use crate::autograd::Gradients;
use crate::io::StateDict;
use crate::{Error, Result, Tensor};

/// An optimizer: `let grads = loss.backward()?; optimizer.step(grads)?;`.
///
/// Its parameters lie in groups, each with settings of its own: `new` makes the first, `group` adds one.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::{AdamW, Optimizer};
/// use fornax::{Device, Tensor};
/// let layer = Linear::new(3, 1, Device::cpu());
/// let mut optimizer = AdamW::new(layer.parameters(), 1e-3);
/// let x = Tensor::ones([4, 3], Device::cpu());
/// for step in 0..3 {
///     optimizer.set_lr(1e-3 / (step + 1) as f64);
///     let loss = x.linear(&layer.weight.get(), None).square().mean(());
///     optimizer.step(loss.backward()?)?;
/// }
/// assert_eq!(optimizer.lr(), 1e-3 / 3.0);
/// assert!(optimizer.state_dict()?.contains_key("0.exp_avg"));
/// # Ok::<(), fornax::Error>(())
/// ```
pub trait Optimizer {
    /// One step: updates every parameter that has a gradient, and computes all new values at once. Frozen parameters, and those that the
    /// backward pass did not reach, stay.
    ///
    /// # Errors
    /// A setting out of its range (a negative learning rate), and nothing is changed then; those of evaluating the new values: memory, device loss.
    /// `Error::Index` where an op that ran since the device's last read met an index out of range: on the CPU at once; on a GPU, which a step
    /// does not wait for, the next read (of the loss, say) returns it. The parameters have their new values even so.
    fn step(&mut self, grads: Gradients) -> Result<()>;

    /// Records a step and leaves computing it to the caller: takes its parameters' gradients out of `grads`, sets the new values, and returns what must be
    /// computed. So several optimizers step in one pass: see [`Combined`]. An optimizer that cannot do that computes its step here.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step).
    fn record(&mut self, grads: &mut Gradients) -> Result<Vec<Tensor>> {
        self.step(grads.clone()).map(|()| Vec::new())
    }

    /// Whether a step could be taken with the settings as they are.
    ///
    /// # Errors
    /// A setting out of its range.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The number of parameter groups.
    fn num_groups(&self) -> usize;

    /// A setting of a group by name: `lr`, `weight_decay`, `momentum`, `beta1` …; an on-off one is 0 or 1. `initial_lr` is the learning rate that
    /// the first schedule found.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{AdamW, Optimizer};
    /// let layer = Linear::new(3, 1, fornax::Device::cpu());
    /// let mut optimizer = AdamW::new(layer.parameters(), 1e-3);
    /// optimizer.set_setting(0, "weight_decay", 0.1)?;
    /// assert_eq!((optimizer.setting(0, "weight_decay"), optimizer.setting(0, "momentum")), (Some(0.1), None));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    fn setting(&self, group: usize, name: &str) -> Option<f64>;

    /// Sets a setting of a group, for the steps from now on. Numbers are data, not part of any compiled plan.
    ///
    /// # Errors
    /// A group or a name that is not there. A value out of its range is an error of the next step.
    fn set_setting(&mut self, group: usize, name: &str, value: f64) -> Result<()>;

    /// The state (settings of the groups, momentum, moments, step counts): `3.exp_avg` belongs to the fourth parameter, `groups.0.lr` to the first
    /// group.
    ///
    /// # Errors
    /// No memory for a number.
    fn state_dict(&self) -> Result<StateDict>;

    /// Sets the state from what [`state_dict`](Optimizer::state_dict) gave: training goes on as it would have.
    ///
    /// # Errors
    /// `Error::StateDict` for entries that fit no parameter. Nothing is changed then.
    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()>;

    /// The learning rate of the first group.
    fn lr(&self) -> f64 {
        self.setting(0, "lr").unwrap_or(f64::NAN)
    }

    /// Sets the learning rate of all groups.
    fn set_lr(&mut self, lr: f64) {
        for group in 0..self.num_groups() {
            // Every group has one.
            let _ = self.set_setting(group, "lr", lr);
        }
    }

    /// The learning rate of each group.
    fn lrs(&self) -> Vec<f64> {
        (0..self.num_groups()).filter_map(|g| self.setting(g, "lr")).collect()
    }
}

/// Refuses the settings that PyTorch's constructors refuse: (name, value, from, up to but without).
fn check_settings(optimizer: &'static str, settings: &[(&str, f64, f64, f64)]) -> Result<()> {
    for &(name, value, from, end) in settings {
        if !(from..end).contains(&value) {
            let range = if end.is_finite() { format!("in {from}..{end}") } else { format!("from {from} on") };
            return Err(Error::argument(optimizer, format!("{name} = {value}: a number {range} is wanted")));
        }
    }
    Ok(())
}
