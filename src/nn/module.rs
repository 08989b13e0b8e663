//! The `Module` trait: parameters by path, state dicts, training mode, devices, a summary.

use super::{Adaptable, Buffer, Counter, Extra, Mode, Param, Slot, Tied, state};
use crate::io::StateDict;
use crate::{DType, Device, Error, Result, Tensor};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What a walk over a module meets.
#[non_exhaustive]
pub enum Item<'a> {
    /// A module begins; its type's name.
    Module(&'static str),
    /// A parameter.
    Param(&'a Param),
    /// A tensor of state that is not trained.
    Buffer(&'a Buffer),
    /// A number of state that is not trained.
    Counter(&'a Counter),
    /// State that is no tensor.
    Extra(&'a Extra),
    /// A training flag.
    Mode(&'a Mode),
    /// A layer that can be replaced; what is in it comes next.
    Slot(&'a Slot),
    /// A layer that adapters can be put around; its parameters come next.
    Layer(&'a dyn Adaptable),
    /// A weight that is another module's, or for a time its own.
    Tied(&'a Tied),
}

/// A walk over a module and all that is in it; `#[derive(Module)]` writes the calls.
pub struct Walk<'a> {
    path: String,
    visit: &'a mut dyn FnMut(&str, Item<'_>),
}

impl<'a> Walk<'a> {
    /// A walk that calls `visit` with the path of each item.
    pub fn new(visit: &'a mut dyn FnMut(&str, Item<'_>)) -> Walk<'a> {
        Walk { path: String::new(), visit }
    }

    /// Walks a field: `name` becomes a part of the path.
    pub fn field(&mut self, name: &str, walk: impl FnOnce(&mut Self)) {
        let end = self.enter(name);
        walk(self);
        self.path.truncate(end);
    }

    /// Goes down; the length of the path to come back to.
    fn enter(&mut self, name: &str) -> usize {
        let end = self.path.len();
        if end > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        end
    }

    /// Says that a module begins here.
    pub fn module(&mut self, kind: &'static str) {
        self.item(Item::Module(kind))
    }

    /// Hands an item to the visitor.
    pub fn item(&mut self, item: Item<'_>) {
        (self.visit)(&self.path, item)
    }
}

/// Something with parameters: a layer, a model, a list of layers. `#[derive(Module)]` implements it by walking the fields; what it computes
/// is its [`Forward`](super::Forward), or, with other inputs, any method of its own.
///
/// Parameters and state are shared cells, so all methods take `&self`.
///
/// ```
/// use fornax::nn::{self, Forward, Module};
/// use fornax::{Device, Result, Tensor};
///
/// #[derive(Module)]
/// struct Net {
///     fc1: nn::Linear,
///     fc2: nn::Linear,
/// }
///
/// impl Forward for Net {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         let x = self.fc1.forward(x)?.relu();
///         self.fc2.forward(&x)
///     }
/// }
///
/// let net = Net { fc1: nn::Linear::new(4, 8, Device::cpu()), fc2: nn::Linear::new(8, 3, Device::cpu()) };
/// let names: Vec<String> = net.named_parameters().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
/// assert_eq!(net.num_params(), 4 * 8 + 8 + 8 * 3 + 3);
/// ```
pub trait Module {
    /// Shows the walk everything in here.
    fn walk(&self, walk: &mut Walk<'_>);

    /// The parameters with their paths, in the order of the fields; a shared one once, under its first path.
    fn named_parameters(&self) -> Vec<(String, Param)> {
        params(&|walk| self.walk(walk))
    }

    /// The parameters: what an optimizer takes.
    fn parameters(&self) -> Vec<Param> {
        unnamed(self.named_parameters())
    }

    /// The buffers (running statistics and the like) with their paths.
    fn named_buffers(&self) -> Vec<(String, Buffer)> {
        buffers(&|walk| self.walk(walk))
    }

    /// The layers that can be replaced ([`Slot`]), with their paths.
    fn named_slots(&self) -> Vec<(String, Slot)> {
        slots(&|walk| self.walk(walk))
    }

    /// The number of elements of all parameters.
    fn num_params(&self) -> usize {
        count(self.parameters())
    }

    /// All parameters and persistent buffers by path, under PyTorch's names. The tensors are handles, not copies.
    fn state_dict(&self) -> StateDict {
        state::collect(&|walk| self.walk(walk))
    }

    /// Sets parameters and buffers from a state dict; values are cast to the dtype and moved to the device of what they replace.
    ///
    /// Returns what was missing and what was unexpected, which with `strict` is an error.
    ///
    /// # Errors
    /// `Error::StateDict` names every entry that is of another shape, and with `strict` every missing and unexpected one. Nothing is changed then.
    fn load_state_dict(&self, dict: &StateDict, strict: bool) -> Result<state::Loaded> {
        state::load(&|walk| self.walk(walk), dict, strict)
    }

    /// Loads a safetensors file, strictly. The file is memory-mapped: on the CPU the values are the file's own bytes, so that nobody may change it in place while
    /// they live. (A save does not: it puts a new file in its place.)
    ///
    /// # Errors
    /// As [`load_state_dict`](Module::load_state_dict), and `Error::Io` or `Error::Format` for the file.
    fn load_safetensors(&self, path: impl AsRef<Path>) -> Result<()>
    where
        Self: Sized,
    {
        self.load_state_dict(&crate::io::safetensors::load(path)?, true).map(|_| ())
    }

    /// Saves the [`state_dict`](Module::state_dict) as a safetensors file, which is written beside the old one and then takes its place.
    ///
    /// # Errors
    /// `Error::Io`, or what evaluating and reading the values can give.
    fn save_safetensors(&self, path: impl AsRef<Path>) -> Result<()>
    where
        Self: Sized,
    {
        crate::io::safetensors::save(path, &self.state_dict())
    }

    /// Training mode: dropout drops, batch normalisation uses the batch's statistics. The mode of a new module.
    fn train(&self) {
        self.set_training(true)
    }

    /// Evaluation mode.
    fn eval(&self) {
        self.set_training(false)
    }

    /// Training or evaluation mode.
    fn set_training(&self, on: bool) {
        set_training(&|walk| self.walk(walk), on)
    }

    /// Excludes the parameters from gradients.
    fn freeze(&self) {
        freeze(self.parameters(), true)
    }

    /// Includes the parameters in gradients again.
    fn unfreeze(&self) {
        freeze(self.parameters(), false)
    }

    /// Excludes from gradients the parameters whose path is `prefix` or lies below it: `"layer1"` is `layer1.0.conv1.weight` too, but not
    /// `layer10.weight`. Returns how many there are.
    ///
    /// ```
    /// use fornax::Device;
    /// use fornax::nn::{Linear, Module, ReLU, Sequential};
    /// let net = Sequential::new().add_named("body", Linear::new(2, 3, Device::cpu())).add(ReLU).add_named("head", Linear::new(3, 1, Device::cpu()));
    /// assert_eq!(net.freeze_prefix("body")?, 2);
    /// assert!(net.parameters()[0].is_frozen() && !net.parameters()[2].is_frozen());
    /// assert!(net.freeze_prefix("boy").unwrap_err().to_string().contains("body"));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A prefix that no parameter has; nothing is changed then.
    fn freeze_prefix(&self, prefix: &str) -> Result<usize> {
        set_frozen(self.named_parameters(), prefix, true)
    }

    /// Includes the parameters at and below a path in gradients again; see [`freeze_prefix`](Module::freeze_prefix).
    ///
    /// # Errors
    /// A prefix that no parameter has; nothing is changed then.
    fn unfreeze_prefix(&self, prefix: &str) -> Result<usize> {
        set_frozen(self.named_parameters(), prefix, false)
    }

    /// Moves parameters and buffers to a device.
    ///
    /// # Errors
    /// Where a dtype does not exist on the device, or its memory is full. Nothing is changed then.
    fn to(&self, device: Device) -> Result<()> {
        change(&|walk| self.walk(walk), false, &|t| t.try_to(device))
    }

    /// Casts floating-point parameters and buffers, but for those of a dtype of their own ([`Buffer::fixed`]).
    ///
    /// # Errors
    /// Where the dtype does not exist on the device. Nothing is changed then.
    fn to_dtype(&self, dtype: DType) -> Result<()> {
        change(&|walk| self.walk(walk), true, &|t| if t.dtype().is_float() { t.try_cast(dtype) } else { Ok(t.clone()) })
    }

    /// A table of the modules inside, their parameters' shapes and numbers. [`Forward::summary`](super::Forward::summary) also has the shapes of what they
    /// give.
    fn describe(&self) -> String {
        describe(&|walk| self.walk(walk))
    }
}

/// A module as its walk: what follows is compiled once, and not for each type of module.
pub(super) type Walks<'a> = &'a dyn Fn(&mut Walk<'_>);

fn params(walk: Walks) -> Vec<(String, Param)> {
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    walk(&mut Walk::new(&mut |path, item| {
        if let Item::Param(p) = item
            && seen.insert(p.id())
        {
            out.push((path.to_string(), p.clone()));
        }
    }));
    out
}

fn unnamed(params: Vec<(String, Param)>) -> Vec<Param> {
    params.into_iter().map(|(_, p)| p).collect()
}

fn count(params: Vec<Param>) -> usize {
    params.iter().map(|p| p.shape().numel()).sum()
}

fn freeze(params: Vec<Param>, frozen: bool) {
    params.iter().for_each(|p| p.set_frozen(frozen));
}

fn buffers(walk: Walks) -> Vec<(String, Buffer)> {
    let mut out = Vec::new();
    walk(&mut Walk::new(&mut |path, item| {
        if let Item::Buffer(b) = item {
            out.push((path.to_string(), b.clone()));
        }
    }));
    out
}

fn slots(walk: Walks) -> Vec<(String, Slot)> {
    let mut out = Vec::new();
    walk(&mut Walk::new(&mut |path, item| {
        if let Item::Slot(s) = item {
            out.push((path.to_string(), s.clone()));
        }
    }));
    out
}

fn set_training(walk: Walks, on: bool) {
    walk(&mut Walk::new(&mut |_, item| {
        if let Item::Mode(m) = item {
            m.set(on);
        }
    }));
}

/// Whether a path is this prefix or lies below it.
fn lies_in(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn set_frozen(params: Vec<(String, Param)>, prefix: &str, frozen: bool) -> Result<usize> {
    let count = params.iter().filter(|(path, _)| lies_in(path, prefix)).inspect(|(_, p)| p.set_frozen(frozen)).count();
    if count > 0 {
        return Ok(count);
    }
    let mut tops: Vec<&str> = params.iter().filter_map(|(path, _)| path.split('.').next()).collect();
    tops.dedup();
    let message = format!("no parameter lies at or below \"{prefix}\"; there are those of {}", tops.join(", "));
    Err(Error::argument(if frozen { "freeze_prefix" } else { "unfreeze_prefix" }, message))
}

/// Replaces the values of all cells, or of none. `casts`: what has a dtype of its own is left as it is.
fn change(walk: Walks, casts: bool, f: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    let mut params: Vec<(Param, Result<Tensor>)> = Vec::new();
    let mut buffers: Vec<(Buffer, Result<Tensor>)> = Vec::new();
    walk(&mut Walk::new(&mut |_, item| match item {
        Item::Param(p) => params.push((p.clone(), f(&p.value()))),
        Item::Buffer(b) if casts && b.is_fixed() => {}
        Item::Buffer(b) => buffers.push((b.clone(), f(&b.get()))),
        _ => {}
    }));
    let params: Vec<_> = params.into_iter().map(|(p, t)| t.map(|t| (p, t))).collect::<Result<_>>()?;
    let buffers: Vec<_> = buffers.into_iter().map(|(b, t)| t.map(|t| (b, t))).collect::<Result<_>>()?;
    params.into_iter().for_each(|(p, t)| p.replace(t));
    buffers.into_iter().for_each(|(b, t)| b.replace(t));
    Ok(())
}

fn describe(walk: Walks) -> String {
    struct Row {
        path: String,
        kind: &'static str,
        shapes: Vec<String>,
        count: usize,
    }
    let mut rows: Vec<Row> = Vec::new();
    let (mut total, mut trained) = (0, 0);
    let mut seen = HashSet::new();
    walk(&mut Walk::new(&mut |path, item| match item {
        Item::Module(kind) => rows.push(Row { path: path.to_string(), kind, shapes: Vec::new(), count: 0 }),
        Item::Param(p) => {
            let shape = p.shape();
            let n = shape.numel();
            let leaf = path.rsplit('.').next().unwrap_or(path);
            let fresh = seen.insert(p.id());
            if fresh {
                total += n;
                trained += if p.is_frozen() { 0 } else { n };
            }
            // The innermost module that this path lies in.
            let owner = rows.iter_mut().rev().find(|r| r.path.is_empty() || path.starts_with(&format!("{}.", r.path)));
            if let Some(row) = owner {
                let tied = if fresh { "" } else { " (shared)" };
                row.shapes.push(format!("{leaf} {shape}{tied}"));
                row.count += if fresh { n } else { 0 };
            }
        }
        _ => {}
    }));
    let rows: Vec<[String; 4]> = rows
        .into_iter()
        .map(|r| {
            let path = if r.path.is_empty() { "(all)".into() } else { r.path };
            [path, r.kind.to_string(), r.shapes.join(", "), if r.count > 0 { grouped(r.count) } else { String::new() }]
        })
        .collect();
    let heads = ["module", "type", "parameters", "number"];
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).chain([heads[c].len()]).max().unwrap_or(0);
    let w = [width(0), width(1), width(2), width(3)];
    let line = |r: [&str; 4]| {
        let s = format!("{:<a$}  {:<b$}  {:<c$}  {:>d$}", r[0], r[1], r[2], r[3], a = w[0], b = w[1], c = w[2], d = w[3]);
        s.trim_end().to_string() + "\n"
    };
    let mut out = line(heads);
    out += &("-".repeat(w.iter().sum::<usize>() + 6) + "\n");
    for r in &rows {
        out += &line([&r[0], &r[1], &r[2], &r[3]]);
    }
    out + &format!("{} parameters, {} trained\n", grouped(total), grouped(trained))
}

/// 1234567 as `1,234,567`.
pub(super) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

impl<M: Module + ?Sized> Module for &M {
    fn walk(&self, walk: &mut Walk<'_>) {
        (**self).walk(walk)
    }
}
impl<M: Module + ?Sized> Module for Box<M> {
    fn walk(&self, walk: &mut Walk<'_>) {
        (**self).walk(walk)
    }
}
impl<M: Module + ?Sized> Module for Arc<M> {
    fn walk(&self, walk: &mut Walk<'_>) {
        (**self).walk(walk)
    }
}
impl<M: Module> Module for Option<M> {
    fn walk(&self, walk: &mut Walk<'_>) {
        if let Some(m) = self {
            m.walk(walk)
        }
    }
}
impl<M: Module> Module for [M] {
    fn walk(&self, walk: &mut Walk<'_>) {
        for (i, m) in self.iter().enumerate() {
            walk.field(&i.to_string(), |walk| m.walk(walk));
        }
    }
}
impl<M: Module> Module for Vec<M> {
    fn walk(&self, walk: &mut Walk<'_>) {
        self.as_slice().walk(walk)
    }
}
impl<M: Module, const N: usize> Module for [M; N] {
    fn walk(&self, walk: &mut Walk<'_>) {
        self.as_slice().walk(walk)
    }
}
impl<M: Module> Module for BTreeMap<String, M> {
    fn walk(&self, walk: &mut Walk<'_>) {
        for (name, m) in self {
            walk.field(name, |walk| m.walk(walk));
        }
    }
}
impl<M: Module, S> Module for HashMap<String, M, S> {
    fn walk(&self, walk: &mut Walk<'_>) {
        let mut entries: Vec<(&String, &M)> = self.iter().collect();
        entries.sort_by_key(|(name, _)| *name);
        for (name, m) in entries {
            walk.field(name, |walk| m.walk(walk));
        }
    }
}
macro_rules! tuples {
    ($($($m:ident $i:tt),+;)*) => { $(
        impl<$($m: Module),+> Module for ($($m,)+) {
            fn walk(&self, walk: &mut Walk<'_>) {
                $(walk.field(stringify!($i), |walk| self.$i.walk(walk));)+
            }
        }
    )* };
}
tuples! {
    A 0;
    A 0, B 1;
    A 0, B 1, C 2;
    A 0, B 1, C 2, D 3;
    A 0, B 1, C 2, D 3, E 4;
    A 0, B 1, C 2, D 3, E 4, F 5;
}
