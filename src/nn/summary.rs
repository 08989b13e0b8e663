//! A model's summary: what a forward pass records, by layer.

use super::{Item, Module, Walk};
use crate::graph::watch::{Noted, noting};
use crate::train::modes::Modes;
use crate::{Result, Shape, Tensor};
use std::collections::{HashMap, HashSet};

/// One line of a [`Summary`]: a layer with parameters, or the ops between two of them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerSummary {
    /// The layer's path, as in parameters' names; empty for ops between layers.
    pub path: String,
    /// The layer's type; for ops between layers, their names.
    pub kind: String,
    /// The shape of what it gives.
    pub output: Shape,
    /// The number of its parameters; 0 where it was counted in a line before.
    pub parameters: usize,
    /// The multiply-adds of its products and convolutions.
    pub multiply_adds: u64,
}

/// What a model does with an input, in the order in which it runs: layers, output shapes, parameters, multiply-adds, memory. It is made of a forward
/// pass in evaluation mode that is recorded and never run. See [`Forward::summary`](super::Forward::summary).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The lines.
    pub layers: Vec<LayerSummary>,
    /// The number of parameters of the whole model, shared ones once.
    pub parameters: usize,
    /// Those of them that are not frozen.
    pub trained: usize,
    /// Multiply-adds of products and convolutions.
    pub multiply_adds: u64,
    /// Bytes of the parameters and buffers.
    pub parameter_bytes: usize,
    /// Bytes of all that the ops give. A training keeps most of it for the backward pass, less what is fused away.
    pub activation_bytes: usize,
}

/// The module that a parameter belongs to.
#[derive(Clone, Default)]
struct Owner {
    path: String,
    kind: &'static str,
    parameters: usize,
}

impl Summary {
    /// The summary of whatever `forward` records: for models with other inputs than one tensor of floats.
    ///
    /// ```
    /// use fornax::nn::{Embedding, Module, Summary};
    /// use fornax::{DType, Device, Tensor};
    /// let table = Embedding::new(100, 8, Device::cpu());
    /// let ids = Tensor::zeros([2, 5], (DType::I32, Device::cpu()));
    /// let summary = Summary::of(&table, || fornax::nn::Forward::forward(&table, &ids))?;
    /// assert_eq!((summary.layers[0].output.to_string(), summary.parameters), ("[2, 5, 8]".to_string(), 800));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of `forward`.
    pub fn of<T>(module: &dyn Module, forward: impl FnOnce() -> Result<T>) -> Result<Summary> {
        let _modes = Modes::evaluation(module);
        let mut owners: Vec<Owner> = Vec::new();
        let mut by_node: HashMap<u64, usize> = HashMap::new();
        let (mut parameters, mut trained, mut bytes) = (0, 0, 0);
        let mut seen = HashSet::new();
        let size = |t: &Tensor| t.numel() * t.dtype().size();
        module.walk(&mut Walk::new(&mut |path, item| {
            let inside = |o: &Owner| o.path.is_empty() || path.starts_with(&format!("{}.", o.path));
            let value = match item {
                Item::Module(kind) => {
                    owners.push(Owner { path: path.to_string(), kind, parameters: 0 });
                    return;
                }
                Item::Param(p) => {
                    let value = p.value();
                    if seen.insert(p.id()) {
                        bytes += size(&value);
                        parameters += value.numel();
                        trained += if p.is_frozen() { 0 } else { value.numel() };
                        if let Some(owner) = owners.iter_mut().rev().find(|o| inside(o)) {
                            owner.parameters += value.numel();
                        }
                    }
                    value
                }
                Item::Buffer(b) => {
                    bytes += size(&b.get());
                    b.get()
                }
                _ => return,
            };
            if let Some(owner) = owners.iter().rposition(inside) {
                by_node.entry(value.node.seq).or_insert(owner);
            }
        }));
        let rng = crate::rng_state();
        let (out, noted) = noting(|| crate::no_grad(forward));
        crate::set_rng_state(rng);
        out?;
        let mut summary =
            Summary { layers: Vec::new(), parameters, trained, multiply_adds: 0, parameter_bytes: bytes, activation_bytes: 0 };
        summary.fill(&noted, owners, by_node);
        Ok(summary)
    }

    fn fill(&mut self, noted: &[Noted], mut owners: Vec<Owner>, mut by_node: HashMap<u64, usize>) {
        /// Ops in a row that belong to one layer, or to none.
        struct Run<'n> {
            owner: Option<usize>,
            ops: Vec<&'n Noted>,
        }
        let mut runs: Vec<Run<'_>> = Vec::new();
        for n in noted {
            let of_parameters = |seq: &u64| by_node.get(seq).copied();
            // All that a model of one module does is that module's.
            let owner = n.inputs.iter().find_map(of_parameters).or((owners.len() == 1).then_some(0));
            if owner.is_some() && n.inputs.iter().all(|seq| by_node.contains_key(seq)) {
                // Made of parameters alone: a transposed weight, say.
                by_node.extend(owner.map(|o| (n.seq, o)));
                continue;
            }
            if n.inputs.is_empty() {
                continue;
            }
            // Ops between two of one layer are that layer's.
            let between = match &runs[..] {
                [.., before, between] if owner.is_some() && between.owner.is_none() && before.owner == owner => runs.pop(),
                _ => None,
            };
            match runs.last_mut() {
                Some(last) if last.owner == owner => {
                    last.ops.extend(between.map_or(Vec::new(), |r| r.ops));
                    last.ops.push(n);
                }
                _ => {
                    // What the first layer sees of its input in another shape is the layer's own doing.
                    let first = match &runs[..] {
                        [only] if owner.is_some() && only.owner.is_none() && only.ops.iter().all(|n| n.is_view) => runs.pop(),
                        _ => None,
                    };
                    let ops = first.map_or(Vec::new(), |r| r.ops).into_iter().chain([n]).collect();
                    runs.push(Run { owner, ops });
                }
            }
        }
        // So is, in a model that is one layer, how it shapes what it gives.
        if let [_, last] = &runs[..]
            && last.owner.is_none()
            && last.ops.iter().all(|n| n.is_view)
        {
            let last = runs.pop().map_or(Vec::new(), |r| r.ops);
            runs[0].ops.extend(last);
        }
        for Run { owner, ops } in runs {
            if owner.is_none() {
                let parts = pieces(&ops);
                if parts.len() > 1 && parts.len() <= 4 {
                    parts.into_iter().for_each(|ops| self.line(None, &ops, &mut owners));
                    continue;
                }
            }
            self.line(owner, &ops, &mut owners);
        }
    }

    /// A line for ops in a row.
    fn line(&mut self, owner: Option<usize>, ops: &[&Noted], owners: &mut [Owner]) {
        if let Some(last) = ops.last() {
            let multiply_adds = ops.iter().map(|n| n.flops).sum::<u64>() / 2;
            self.multiply_adds += multiply_adds;
            self.activation_bytes += ops.iter().filter(|n| !n.is_view).map(|n| n.bytes).sum::<usize>();
            let output = last.shape.clone();
            let line = match owner {
                Some(i) => {
                    let parameters = std::mem::take(&mut owners[i].parameters);
                    LayerSummary { path: owners[i].path.clone(), kind: owners[i].kind.to_string(), output, parameters, multiply_adds }
                }
                None => LayerSummary { path: String::new(), kind: names(ops), output, parameters: 0, multiply_adds },
            };
            self.layers.push(line);
        }
    }
}

/// The ops between layers one by one: repetitions together, views with what follows them, and by themselves at the end.
fn pieces<'n>(ops: &[&'n Noted]) -> Vec<Vec<&'n Noted>> {
    let mut parts: Vec<Vec<&'n Noted>> = Vec::new();
    let mut views: Vec<&'n Noted> = Vec::new();
    for &n in ops {
        if n.is_view {
            views.push(n);
            continue;
        }
        let again = parts.last().is_some_and(|p| p.last().is_some_and(|before| before.op == n.op));
        match parts.last_mut() {
            Some(part) if again => part.append(&mut views),
            _ => parts.push(std::mem::take(&mut views)),
        }
        if let Some(part) = parts.last_mut() {
            part.push(n);
        }
    }
    // The last view may be a layer, a flattening; those before it are the last op's own.
    if let (Some(last), Some(part)) = (views.pop(), parts.last_mut()) {
        part.append(&mut views);
        if part.last().is_some_and(|before| before.shape == last.shape) {
            part.push(last);
        } else {
            parts.push(vec![last]);
        }
    }
    parts
}

/// The names of ops in a row, views left out where there are others; the middle of a long list is left out.
fn names(ops: &[&Noted]) -> String {
    let views_only = ops.iter().all(|n| n.is_view);
    let mut names: Vec<(&str, usize)> = Vec::new();
    for n in ops.iter().filter(|n| views_only || !n.is_view) {
        match names.last_mut() {
            Some((name, count)) if *name == n.op => *count += 1,
            _ => names.push((n.op, 1)),
        }
    }
    let text = |&(name, count): &(&str, usize)| if count > 1 { format!("{name} ×{count}") } else { name.to_string() };
    let mut parts: Vec<String> = names.iter().map(text).collect();
    if parts.len() > 4 {
        parts.splice(2..parts.len() - 1, ["…".to_string()]);
    }
    parts.join(", ")
}

impl std::fmt::Display for Summary {
    /// A table, and the sums below it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |n: u64| if n > 0 { super::module::grouped(n as usize) } else { String::new() };
        let mut rows = vec![["layer", "type", "output", "parameters", "multiply-adds"].map(String::from)];
        rows.extend(self.layers.iter().map(|l| {
            let path = if l.path.is_empty() && l.parameters > 0 { "(all)".into() } else { l.path.clone() };
            [path, l.kind.clone(), l.output.to_string(), number(l.parameters as u64), number(l.multiply_adds)]
        }));
        let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let w: Vec<usize> = (0..5).map(width).collect();
        for (i, r) in rows.iter().enumerate() {
            let line = format!(
                "{:<a$}  {:<b$}  {:<c$}  {:>d$}  {:>e$}",
                r[0],
                r[1],
                r[2],
                r[3],
                r[4],
                a = w[0],
                b = w[1],
                c = w[2],
                d = w[3],
                e = w[4]
            );
            writeln!(f, "{}", line.trim_end())?;
            if i == 0 {
                writeln!(f, "{}", "-".repeat(w.iter().sum::<usize>() + 8))?;
            }
        }
        let grouped = super::module::grouped;
        writeln!(
            f,
            "{} parameters, {} trained; {} multiply-adds",
            grouped(self.parameters),
            grouped(self.trained),
            grouped(self.multiply_adds as usize)
        )?;
        writeln!(f, "{} of parameters, {} of activations", bytes(self.parameter_bytes), bytes(self.activation_bytes))
    }
}

/// A size with its unit.
fn bytes(n: usize) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut v, mut unit) = (n as f64, 0);
    while v >= 1024.0 && unit + 1 < units.len() {
        (v, unit) = (v / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{n} bytes") } else { format!("{v:.1} {}", units[unit]) }
}

/// An input of zeros for a model: on its device, of its dtype.
pub(super) fn zeros(module: &dyn Module, shape: Shape) -> Result<Tensor> {
    let float = module.parameters().into_iter().find(|p| p.dtype().is_float());
    let (dtype, device) = float.map_or((crate::DType::F32, crate::Device::cpu()), |p| (p.dtype(), p.device()));
    Tensor::try_zeros(shape, (dtype, device))
}
