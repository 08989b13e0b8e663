//! Gradients: graph to graph. A vjp records ordinary ops, so gradients fuse with everything else and have gradients of their own.

mod check;
mod checkpoint;

pub use check::{GradCheck, check_gradients, check_second_gradients};
pub use checkpoint::checkpoint;

use crate::graph::node::{Node, insert, record, release, with_grad};
use crate::graph::{LeafId, Op, Vjp};
use crate::ops::assemble::assemble;
use crate::ops::view::{Alias, SliceSpec};
use crate::{Error, Operand, Result, Tensor, autocast};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The gradients of one backward pass, by the leaf they belong to: values, not hidden state.
///
/// ```
/// use fornax::{Device, Tensor};
/// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, Device::cpu())?.requires_grad();
/// let grads = (&x * &x).sum(()).backward()?;
/// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Gradients {
    by_leaf: BTreeMap<LeafId, Tensor>,
    /// Of one element, on the device: not zero where an optimizer must not take its step. A `GradScaler` that has undone its scaling sets it.
    skip: Option<Tensor>,
}

impl Gradients {
    pub(crate) fn skip(&self) -> Option<&Tensor> {
        self.skip.as_ref()
    }

    pub(crate) fn set_skip(&mut self, skip: Tensor) {
        self.skip = Some(skip);
    }

    pub(crate) fn take_skip(&mut self) -> Option<Tensor> {
        self.skip.take()
    }

    /// The gradient of a tensor that asked for it; `None` where nothing flowed back to it.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let unused = Tensor::ones(2, Device::cpu()).requires_grad();
    /// let grads = (&x * 3.0).sum(()).backward()?;
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [3.0, 3.0]);
    /// assert!(grads.get(&unused).is_none());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.by_leaf.get(&tensor.node.leaf?)
    }

    /// Takes the gradient of a tensor out.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let mut grads = x.square().sum(()).backward()?;
    /// assert_eq!(grads.take(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0]);
    /// assert!(grads.is_empty());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn take(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.by_leaf.remove(&tensor.node.leaf?)
    }

    /// The gradient of a leaf.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(2, Device::cpu()));
    /// let grads = (w.get() * 3.0).sum(()).backward()?;
    /// assert_eq!(grads.get_id(w.id()).unwrap().to_vec::<f32>()?, [3.0, 3.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn get_id(&self, id: LeafId) -> Option<&Tensor> {
        self.by_leaf.get(&id)
    }

    /// Takes the gradient of a leaf out.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(2, Device::cpu()));
    /// let mut grads = (w.get() * 3.0).sum(()).backward()?;
    /// assert!(grads.take_id(w.id()).is_some() && grads.take_id(w.id()).is_none());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn take_id(&mut self, id: LeafId) -> Option<Tensor> {
        self.by_leaf.remove(&id)
    }

    /// Puts a gradient in, in place of what is there: for clipping, scaling and the like.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(2, Device::cpu()));
    /// let mut grads = (w.get() * 3.0).sum(()).backward()?;
    /// // Clipped to 1.
    /// let clipped = w.grad(&grads).unwrap().clamp(-1.0, 1.0);
    /// grads.set_id(w.id(), clipped);
    /// assert_eq!(w.grad(&grads).unwrap().to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn set_id(&mut self, id: LeafId, gradient: Tensor) {
        self.by_leaf.insert(id, gradient);
    }

    /// Adds the gradients of another pass to these: accumulation over micro-batches.
    ///
    /// # Errors
    /// Where two gradients of one leaf do not add.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let mut grads = x.sum(()).backward()?;
    /// grads.accumulate((&x * 10.0).sum(()).backward()?)?;
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [11.0, 11.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn accumulate(&mut self, other: Gradients) -> Result<()> {
        with_grad(false, || {
            if let Some(skip) = other.skip {
                self.skip = Some(match self.skip.take() {
                    Some(own) => own.try_maximum(skip)?,
                    None => skip,
                });
            }
            for (id, g) in other.by_leaf {
                let sum = match self.by_leaf.remove(&id) {
                    Some(have) => have.try_add(&g)?,
                    None => g,
                };
                self.by_leaf.insert(id, sum);
            }
            Ok(())
        })
    }

    /// Multiplies all gradients: by `1 / n`, say, after n micro-batches.
    ///
    /// # Errors
    /// A factor that does not broadcast to them.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let mut grads = x.sum(()).backward()?;
    /// grads.accumulate((&x * 10.0).sum(()).backward()?)?;
    /// grads.scale(0.5)?; // the mean of the two
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [5.5, 5.5]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn scale(&mut self, factor: impl Into<Operand>) -> Result<()> {
        let factor = factor.into();
        self.map(|g| match &factor {
            // What is computed in f32 is rounded once.
            Operand::Tensor(f) => g.try_mul(f.try_to(g.device())?)?.try_cast(g.dtype()),
            scalar => g.try_mul(scalar),
        })
    }

    /// Replaces each gradient by what `f` makes of it, or none where it fails once.
    pub(crate) fn map(&mut self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        let new = with_grad(false, || self.by_leaf.iter().map(|(&id, g)| Ok((id, f(g)?))).collect::<Result<_>>())?;
        self.by_leaf = new;
        Ok(())
    }

    /// All gradients, in the order of their leaves.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let grads = x.square().sum(()).backward()?;
    /// let norms: Vec<f32> = grads.iter().map(|(_, g)| g.norm(2.0, ()).item()).collect::<fornax::Result<_>>()?;
    /// assert_eq!(norms, [20f32.sqrt()]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (LeafId, &Tensor)> {
        self.by_leaf.iter().map(|(&id, t)| (id, t))
    }

    /// How many leaves have a gradient.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// assert_eq!(x.sum(()).backward()?.len(), 1);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn len(&self) -> usize {
        self.by_leaf.len()
    }

    /// Whether no leaf has one.
    ///
    /// ```
    /// assert!(fornax::Gradients::default().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.by_leaf.is_empty()
    }
}

impl std::fmt::Debug for Gradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.by_leaf.iter().map(|(id, t)| (id.0, t.shape()))).finish()
    }
}

/// Runs `f` without recording gradients on this thread: for evaluation and for updates.
///
/// ```
/// use fornax::{Device, Tensor, no_grad};
/// let x = Tensor::ones(3, Device::cpu()).requires_grad();
/// assert!(!no_grad(|| &x * 2.0).is_differentiable());
/// ```
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    with_grad(false, f)
}

/// A place where gradients end: the same value, known by `id`.
pub(crate) fn leaf(value: &Tensor, id: LeafId) -> Tensor {
    let outs = smallvec::smallvec![value.meta().clone()];
    insert(value.node.device, Arc::new(Alias {}), smallvec::smallvec![value.clone()], outs, true, Some(id))
}

/// The gradients of `outputs`, summed, with respect to `inputs`, as tensors that can be differentiated again. The graph stays.
///
/// The cotangent of an output is ones. An input that no output depends on has `None`.
///
/// # Errors
/// `Error::Argument` where an input takes no part in gradients, `Error::NotDifferentiable`, `Error::Spent`.
///
/// ```
/// use fornax::{Device, Tensor, grad};
/// let x = Tensor::from_vec(vec![2.0f32], 1, Device::cpu())?.requires_grad();
/// let y = (&x * &x * &x).sum(());
/// let dy = grad(&[&y], &[&x])?[0].clone().unwrap();      // 3x²
/// let ddy = grad(&[&dy.sum(())], &[&x])?[0].clone().unwrap(); // 6x
/// assert_eq!((dy.item::<f32>()?, ddy.item::<f32>()?), (12.0, 12.0));
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn grad(outputs: &[&Tensor], inputs: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    grad_with(outputs, &vec![None; outputs.len()], inputs)
}

/// As [`grad`], with a cotangent for each output (`None`: ones).
///
/// ```
/// use fornax::{Device, Tensor, grad_with};
/// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
/// let cotangent = Tensor::from_slice(&[10.0f32, 100.0], 2, Device::cpu())?;
/// let g = grad_with(&[&x.square()], &[Some(&cotangent)], &[&x])?[0].clone().unwrap();
/// assert_eq!(g.to_vec::<f32>()?, [20.0, 400.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn grad_with(outputs: &[&Tensor], cotangents: &[Option<&Tensor>], inputs: &[&Tensor]) -> Result<Vec<Option<Tensor>>> {
    if let Some(bad) = inputs.iter().find(|t| !t.is_differentiable()) {
        let message = format!("an input of shape {} takes no part in gradients: call requires_grad() on it first", bad.shape());
        return Err(Error::argument("grad", message));
    }
    let seeds = seeds(outputs, cotangents)?;
    let mut pass = Pass { create_graph: true, ..Pass::default() };
    pass.targets = inputs.iter().map(|t| (Arc::as_ptr(&t.node), t.out)).collect();
    pass.run(seeds)?;
    Ok(inputs.iter().map(|t| pass.found.get(&(Arc::as_ptr(&t.node), t.out)).cloned()).collect())
}

fn seeds(outputs: &[&Tensor], cotangents: &[Option<&Tensor>]) -> Result<Vec<(Tensor, Tensor)>> {
    if outputs.len() != cotangents.len() {
        let message = format!("{} cotangents for {} outputs: give one each (None for ones)", cotangents.len(), outputs.len());
        return Err(Error::argument("grad", message));
    }
    let mut seeds = Vec::new();
    for (&y, c) in outputs.iter().zip(cotangents) {
        let seed = match c {
            Some(c) if c.shape() != y.shape() => {
                return Err(Error::shape("backward", &[y.shape(), c.shape()], "a cotangent has its output's shape"));
            }
            Some(c) => c.try_cast(y.dtype())?,
            None => with_grad(false, || y.try_ones_like())?,
        };
        seeds.push((y.clone(), seed));
    }
    Ok(seeds)
}

/// What flowed back to one output of a node.
enum Part {
    Whole(Tensor),
    /// The cotangent of a slice: put together with its siblings in one buffer.
    Slice(SliceSpec, Tensor),
}

#[derive(Default)]
struct Pass {
    create_graph: bool,
    retain: bool,
    /// Where `grad` stops; empty: everywhere down to the leaves.
    targets: HashSet<(*const Node, u32)>,
    /// With targets: gradients of leaves are collected too, and nothing flows past a target.
    collect: bool,
    found: HashMap<(*const Node, u32), Tensor>,
    gradients: Gradients,
    /// Nodes that were recorded before this number are another pass's: nothing flows into them here.
    floor: u64,
    /// What has flowed back to the outputs of such nodes.
    captured: Vec<(Tensor, Tensor)>,
}

/// A gradient that a vjp found on its own (checkpoint), beside those of its inputs.
enum Extra {
    /// Of a leaf.
    Leaf(LeafId, Tensor),
    /// Of a tensor that was recorded before the op: it flows on in the pass that called the vjp.
    Captured(Tensor, Tensor),
}

thread_local! {
    /// What a vjp has found: the visit that called it takes it up at once.
    static EXTRA: RefCell<Vec<Extra>> = const { RefCell::new(Vec::new()) };
}

impl Pass {
    fn run(&mut self, seeds: Vec<(Tensor, Tensor)>) -> Result<()> {
        let create_graph = self.create_graph;
        let wanted = if self.targets.is_empty() || self.collect { None } else { reaching(&seeds, &self.targets) };
        // The youngest node first: everything that consumes a node is younger than it.
        let mut queue: BTreeMap<u64, (Arc<Node>, Vec<Vec<Part>>)> = BTreeMap::new();
        for (y, seed) in seeds {
            if !y.is_differentiable() {
                let message = "no gradient can flow: nothing that it was computed from asked for one (requires_grad, Param), or it was \
                               computed under no_grad";
                return Err(Error::argument("backward", message));
            }
            add(&mut queue, &y, Part::Whole(seed));
        }
        let mut visited: Vec<Arc<Node>> = Vec::new();
        let mut walk = || {
            while let Some((_, (node, parts))) = queue.pop_last() {
                if node.seq < self.floor {
                    for (out, parts) in parts.into_iter().enumerate() {
                        let y = Tensor { node: node.clone(), out: out as u32 };
                        if let Some(c) = combine(&y, parts)? {
                            self.captured.push((y, c));
                        }
                    }
                    continue;
                }
                self.visit(&node, parts, wanted.as_ref(), &mut queue)?;
                visited.push(node);
            }
            Ok(())
        };
        // A vjp computes in the dtypes that the way forward had.
        let result = autocast::with(None, || with_grad(create_graph, &mut walk));
        if result.is_ok() && !self.retain && !self.create_graph {
            visited.iter().for_each(spend);
        }
        result
    }

    fn give(&mut self, id: LeafId, g: Tensor) -> Result<()> {
        let sum = match self.gradients.by_leaf.remove(&id) {
            Some(have) => with_grad(self.create_graph, || have.try_add(&g))?,
            None => g,
        };
        self.gradients.by_leaf.insert(id, sum);
        Ok(())
    }

    fn visit(
        &mut self,
        node: &Arc<Node>,
        parts: Vec<Vec<Part>>,
        wanted: Option<&HashSet<*const Node>>,
        queue: &mut BTreeMap<u64, (Arc<Node>, Vec<Vec<Part>>)>,
    ) -> Result<()> {
        let outputs: Vec<Tensor> = (0..node.outs.len() as u32).map(|out| Tensor { node: node.clone(), out }).collect();
        let mut cotangents = Vec::with_capacity(parts.len());
        for (y, p) in outputs.iter().zip(parts) {
            cotangents.push(combine(y, p)?);
        }
        let at = Arc::as_ptr(node);
        for (out, c) in cotangents.iter().enumerate() {
            if let Some(c) = c
                && self.targets.contains(&(at, out as u32))
            {
                self.found.insert((at, out as u32), c.clone());
            }
        }
        if self.collect && (0..outputs.len() as u32).any(|out| self.targets.contains(&(at, out))) {
            return Ok(());
        }
        if let Some(id) = node.leaf {
            if let Some(c) = cotangents.into_iter().next().flatten()
                && (self.targets.is_empty() || self.collect)
            {
                self.give(id, c)?;
            }
            return Ok(());
        }
        if wanted.is_some_and(|w| !w.contains(&at)) {
            return Ok(());
        }
        let (op, inputs) = {
            let body = node.body();
            match (&body.op, body.spent) {
                (Some(op), false) => (op.clone(), body.inputs.clone()),
                _ => return Err(Error::Spent),
            }
        };
        let is_wanted = |t: &Tensor| {
            let at = Arc::as_ptr(&t.node);
            t.is_differentiable() && wanted.is_none_or(|w| w.contains(&at) || self.targets.contains(&(at, t.out)))
        };
        let needs: Vec<bool> = inputs.iter().map(is_wanted).collect();
        if !needs.contains(&true) && !op.is_effectful() {
            return Ok(());
        }
        if let Some(spec) = op.slice_spec() {
            if let (Some(c), true) = (cotangents.into_iter().next().flatten(), needs[0]) {
                add(queue, &inputs[0], Part::Slice(spec.clone(), c));
            }
            return Ok(());
        }
        let ctx = Vjp { op: op.name(), inputs: &inputs, outputs: &outputs, cotangents: &cotangents, needs: &needs };
        let grads = op.vjp(&ctx);
        let extra = EXTRA.take();
        let grads = grads?;
        for e in extra {
            match e {
                Extra::Leaf(id, g) => self.give(id, g)?,
                Extra::Captured(y, g) => add(queue, &y, Part::Whole(g)),
            }
        }
        for ((g, x), need) in grads.into_iter().zip(&inputs).zip(&needs) {
            let (Some(g), true) = (g, *need) else { continue };
            if g.shape() != x.shape() || g.dtype() != x.dtype() {
                let message = format!("its vjp gave {} {} for an input {} {}", g.dtype(), g.shape(), x.dtype(), x.shape());
                return Err(Error::Kernel { op: op.name().into(), message });
            }
            add(queue, x, Part::Whole(g));
        }
        Ok(())
    }
}

fn add(queue: &mut BTreeMap<u64, (Arc<Node>, Vec<Vec<Part>>)>, t: &Tensor, part: Part) {
    let slot = queue.entry(t.node.seq).or_insert_with(|| (t.node.clone(), t.node.outs.iter().map(|_| Vec::new()).collect()));
    slot.1[t.out as usize].push(part);
}

/// The sum of what flowed back to `y`.
fn combine(y: &Tensor, parts: Vec<Part>) -> Result<Option<Tensor>> {
    let mut slices = Vec::new();
    let mut whole: Option<Tensor> = None;
    for p in parts {
        match p {
            Part::Whole(t) => {
                whole = Some(match whole {
                    Some(sum) => sum.try_add(&t)?,
                    None => t,
                })
            }
            Part::Slice(spec, t) => slices.push((spec, t)),
        }
    }
    if slices.is_empty() {
        return Ok(whole);
    }
    let parts: Vec<(&SliceSpec, &Tensor)> = slices.iter().map(|(s, t)| (s, t)).collect();
    let assembled = assemble(y.shape(), &parts)?;
    Ok(Some(match whole {
        Some(w) => w.try_add(&assembled)?,
        None => assembled,
    }))
}

/// The nodes from which a target can be reached by going back; `None` where an op on the way finds gradients beside those of its inputs, so that
/// it cannot be told.
fn reaching(seeds: &[(Tensor, Tensor)], targets: &HashSet<(*const Node, u32)>) -> Option<HashSet<*const Node>> {
    let ends: HashSet<*const Node> = targets.iter().map(|t| t.0).collect();
    let mut all: BTreeMap<u64, Arc<Node>> = BTreeMap::new();
    let mut stack: Vec<Arc<Node>> = seeds.iter().map(|s| s.0.node.clone()).collect();
    while let Some(n) = stack.pop() {
        if !n.requires_grad || all.insert(n.seq, n.clone()).is_some() || n.leaf.is_some() {
            continue;
        }
        if n.body().op.as_ref().is_some_and(|op| op.is_effectful()) {
            return None;
        }
        stack.extend(n.body().inputs.iter().filter(|t| t.node.requires_grad).map(|t| t.node.clone()));
    }
    let mut reach = HashSet::new();
    for n in all.values() {
        let leads = n.leaf.is_none()
            && n.body().inputs.iter().any(|t| {
                let p = Arc::as_ptr(&t.node);
                ends.contains(&p) || reach.contains(&p)
            });
        if leads {
            reach.insert(Arc::as_ptr(n));
        }
    }
    Some(reach)
}

/// After a backward pass nothing more is kept for gradients.
fn spend(node: &Arc<Node>) {
    if node.leaf.is_some() {
        return;
    }
    let mut garbage = Vec::new();
    {
        let mut body = node.body();
        body.spent = true;
        if node.is_ready() {
            body.op = None;
            garbage.extend(std::mem::take(&mut body.inputs));
        }
    }
    release(garbage);
}

/// The derivative of an op through its decomposition: the route for higher gradients of fused kernels.
pub(crate) fn vjp_by_decomposition(op: &dyn Op, ctx: &Vjp) -> Result<Vec<Option<Tensor>>> {
    let create_graph = crate::graph::node::grad_enabled();
    let (xs, ys) = with_grad(true, || -> Result<_> {
        let xs: Vec<Tensor> = ctx.inputs.iter().map(|x| record(Arc::new(Alias {}), &[x])).collect::<Result<_>>()?;
        let ys = op.decompose(&xs).ok_or(Error::NotDifferentiable { op: ctx.op })??;
        Ok((xs, ys))
    })?;
    let mut seeds = Vec::new();
    for (y, c) in ys.iter().zip(ctx.cotangents) {
        if let Some(c) = c
            && y.is_differentiable()
        {
            seeds.push((y.clone(), c.clone()));
        }
    }
    let mut pass = Pass { create_graph, retain: true, ..Pass::default() };
    pass.targets = xs.iter().zip(ctx.needs).filter(|(_, n)| **n).map(|(x, _)| (Arc::as_ptr(&x.node), 0)).collect();
    if !seeds.is_empty() && !pass.targets.is_empty() {
        pass.run(seeds)?;
    }
    Ok(xs.iter().map(|x| pass.found.get(&(Arc::as_ptr(&x.node), 0)).cloned()).collect())
}

impl Tensor {
    /// The same value as a leaf that gradients are collected for: `grads.get(&x)` after a backward pass.
    ///
    /// # Panics
    /// Where the dtype is not a floating-point one.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let grads = x.exp().log().sum(()).backward()?;
    /// assert!(grads.get(&x).unwrap().to_vec::<f32>()?.iter().all(|g| (g - 1.0).abs() < 1e-6));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    #[track_caller]
    pub fn requires_grad(&self) -> Tensor {
        self.try_requires_grad().unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`requires_grad`](Tensor::requires_grad).
    ///
    /// # Errors
    /// `Error::DType` where the dtype is not a floating-point one.
    pub fn try_requires_grad(&self) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return Err(Error::dtype("requires_grad", &[self.dtype()], "a float dtype, which others are cast to first"));
        }
        Ok(leaf(self, LeafId::new()))
    }

    /// Whether gradients flow through this tensor. (Not through positions and other integers, whatever they were computed from.)
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones(3, Device::cpu()).requires_grad();
    /// let (values, positions) = x.sort(0, false);
    /// assert!(values.is_differentiable() && !positions.is_differentiable() && !x.detach().is_differentiable());
    /// ```
    pub fn is_differentiable(&self) -> bool {
        self.node.requires_grad && self.dtype().is_float()
    }

    /// The same value, through which no gradient flows.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let grads = (&x * x.detach()).sum(()).backward()?;
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [1.0, 2.0]); // not 2x
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn detach(&self) -> Tensor {
        let outs = smallvec::smallvec![self.meta().clone()];
        insert(self.node.device, Arc::new(Alias {}), smallvec::smallvec![self.clone()], outs, false, None)
    }

    fn scalar_seed(&self) -> Result<Vec<(Tensor, Tensor)>> {
        if self.numel() != 1 || !self.dtype().is_float() {
            let message = format!("a float tensor of one element is wanted, not {} {}: use backward_with", self.dtype(), self.shape());
            return Err(Error::argument("backward", message));
        }
        seeds(&[self], &[None])
    }

    /// The gradients of this one number with respect to every leaf that it was computed from. Spends the graph.
    ///
    /// # Errors
    /// `Error::Argument` where this is not one float or takes no part in gradients, `Error::NotDifferentiable` where an op on the way has no
    /// derivative, `Error::Spent` where an earlier pass went through the same nodes.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let loss = x.square().sum(());
    /// assert_eq!(loss.backward()?.get(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0]);
    /// assert!(matches!(loss.backward(), Err(fornax::Error::Spent)));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn backward(&self) -> Result<Gradients> {
        let mut pass = Pass::default();
        pass.run(self.scalar_seed()?)?;
        Ok(pass.gradients)
    }

    /// As [`backward`](Tensor::backward), keeping the graph for another pass.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let loss = x.square().sum(());
    /// let (first, second) = (loss.backward_retain()?, loss.backward()?);
    /// assert_eq!(first.get(&x).unwrap().to_vec::<f32>()?, second.get(&x).unwrap().to_vec::<f32>()?);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn backward_retain(&self) -> Result<Gradients> {
        let mut pass = Pass { retain: true, ..Pass::default() };
        pass.run(self.scalar_seed()?)?;
        Ok(pass.gradients)
    }

    /// As [`backward`](Tensor::backward) for a tensor of any shape: `cotangent` is the gradient of the final number with respect to it.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?.requires_grad();
    /// let grads = x.square().backward_with(&Tensor::full(2, 0.5, Device::cpu()))?;
    /// assert_eq!(grads.get(&x).unwrap().to_vec::<f32>()?, [1.0, 2.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn backward_with(&self, cotangent: &Tensor) -> Result<Gradients> {
        let mut pass = Pass::default();
        pass.run(seeds(&[self], &[Some(cotangent)])?)?;
        Ok(pass.gradients)
    }
}
