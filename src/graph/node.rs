//! Nodes, the handle on them, and how an op is recorded.

use super::op::{Meta, Op, Outputs};
use super::{flush, pending};
use crate::backend::Storage;
use crate::{DType, Device, Error, Result, Shape, testing};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// An n-dimensional array on a device: a cheap handle on a node of the lazily evaluated graph.
///
/// Calling an op checks shapes, dtypes and devices at once, records a node and returns; the work is done when a value is read
/// ([`to_vec`](Tensor::to_vec), [`item`](Tensor::item), printing), at [`eval`](Tensor::eval), or at the end of an optimizer's step. A
/// tensor's value never changes.
///
/// ```
/// use fornax::{Device, Tensor};
/// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], [2, 2], Device::cpu())?;
/// let y = (&x * 2.0 + 1.0).sum(());
/// assert_eq!(y.item::<f32>()?, 24.0);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    pub(crate) node: Arc<Node>,
    pub(crate) out: u32,
}

/// The states of a node.
pub(crate) const PENDING: u8 = 0;
pub(crate) const READY: u8 = 1;
pub(crate) const FAILED: u8 = 2;

/// The identity of a place where gradients end: a parameter, or a tensor that asked for its gradient. Stable over a parameter's updates.
///
/// ```
/// use fornax::nn::Param;
/// use fornax::{Device, Tensor};
/// let w = Param::new(Tensor::ones(3, Device::cpu()));
/// let grads = w.get().sum(()).backward()?;
/// assert_eq!(grads.get_id(w.id()).unwrap().dims(), [3]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafId(pub(crate) u64);

impl LeafId {
    /// A new identity.
    pub(crate) fn new() -> LeafId {
        LeafId(SEQ.fetch_add(1, Ordering::Relaxed))
    }
}

pub(crate) type Inputs = SmallVec<[Tensor; 3]>;

pub(crate) struct Node {
    /// Ascending in the order of recording: inputs come before their consumers.
    pub seq: u64,
    pub device: Device,
    pub outs: Outputs,
    /// Whether a gradient can flow through this node.
    pub requires_grad: bool,
    pub state: AtomicU8,
    /// A place where gradients end, and the key under which they are found.
    pub leaf: Option<LeafId>,
    /// Scratch of the flush that holds the executor's lock: epoch << 32 | entry.
    pub mark: AtomicU64,
    body: Mutex<Body>,
}

/// What changes in a node's life.
#[derive(Default)]
pub(crate) struct Body {
    pub op: Option<Arc<dyn Op>>,
    pub inputs: Inputs,
    /// The outputs' memory, once it is there (auxiliary or unread outputs may stay empty).
    pub values: SmallVec<[Option<Arc<Storage>>; 1]>,
    /// Why an unasked flush of this node failed.
    pub error: Option<Error>,
    /// A backward pass went through here: nothing more is kept for gradients.
    pub spent: bool,
}

static SEQ: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static GRAD: Cell<bool> = const { Cell::new(true) };
    static DROPPING: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) };
}

/// Whether ops recorded by this thread now take part in gradients.
pub(crate) fn grad_enabled() -> bool {
    GRAD.get()
}

/// Runs `f` with gradients on or off.
pub(crate) fn with_grad<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            GRAD.set(self.0)
        }
    }
    let _restore = Restore(GRAD.replace(on));
    f()
}

/// A number that nodes which are recorded from now on do not go below.
pub(crate) fn next_seq() -> u64 {
    SEQ.load(Ordering::Relaxed)
}

impl Node {
    pub fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::Acquire) == READY
    }

    /// A node with a value.
    pub fn leaf(device: Device, meta: Meta, value: Arc<Storage>, requires_grad: bool) -> Tensor {
        let body = Body { values: SmallVec::from_iter([Some(value)]), ..Body::default() };
        let node = Node {
            seq: SEQ.fetch_add(1, Ordering::Relaxed),
            device,
            outs: SmallVec::from_iter([meta]),
            requires_grad,
            state: AtomicU8::new(READY),
            leaf: None,
            mark: AtomicU64::new(0),
            body: Mutex::new(body),
        };
        Tensor { node: Arc::new(node), out: 0 }
    }
}

/// Records an op on the device of its inputs (at least one) and returns its first output.
pub(crate) fn record(op: Arc<dyn Op>, inputs: &[&Tensor]) -> Result<Tensor> {
    if let Some(outs) = testing::instead(&op, inputs) {
        return Ok(outs?.swap_remove(0));
    }
    record_here(op, inputs)
}

fn record_here(op: Arc<dyn Op>, inputs: &[&Tensor]) -> Result<Tensor> {
    let device = inputs[0].node.device;
    if let Some(other) = inputs.iter().find(|t| t.node.device != device) {
        let message = format!("inputs on {device} and {}: move one with .to(device)", other.node.device);
        return Err(Error::Device { op: op.name(), message });
    }
    record_on(device, op, inputs)
}

/// Records an op and returns all its outputs.
pub(crate) fn record_all(op: Arc<dyn Op>, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    if let Some(outs) = testing::instead(&op, inputs) {
        return outs;
    }
    let first = record_here(op, inputs)?;
    Ok((0..first.node.outs.len() as u32).map(|out| Tensor { node: first.node.clone(), out }).collect())
}

/// Records an op on a device: for generators, which have no inputs, and host steps, whose inputs may be elsewhere.
pub(crate) fn record_on(device: Device, op: Arc<dyn Op>, inputs: &[&Tensor]) -> Result<Tensor> {
    testing::watch(op.name());
    let metas: SmallVec<[&Meta; 4]> = inputs.iter().map(|t| t.meta()).collect();
    let outs = op.infer(&metas)?;
    for o in &outs {
        if device.is_gpu() && !o.dtype.on_gpu() {
            let expected = format!("{} exists on the CPU only: cast to a dtype of 4 bytes or less first", o.dtype);
            return Err(Error::dtype(op.name(), &[o.dtype], expected));
        }
    }
    let requires_grad = grad_enabled() && inputs.iter().any(|t| t.is_differentiable()) && outs.iter().any(|o| o.dtype.is_float());
    Ok(insert(device, op, inputs.iter().map(|&t| t.clone()).collect(), outs, requires_grad, None))
}

/// Puts a node into the graph.
pub(crate) fn insert(device: Device, op: Arc<dyn Op>, inputs: Inputs, outs: Outputs, requires_grad: bool, leaf: Option<LeafId>) -> Tensor {
    let body = Body { op: Some(op.clone()), inputs, ..Body::default() };
    let node = Arc::new(Node {
        seq: SEQ.fetch_add(1, Ordering::Relaxed),
        device,
        outs,
        requires_grad,
        state: AtomicU8::new(PENDING),
        leaf,
        mark: AtomicU64::new(0),
        body: Mutex::new(body),
    });
    let tensor = Tensor { node, out: 0 };
    if super::watch::is_on() {
        super::watch::note(tensor.node.seq, &*op, &tensor.node.body().inputs, &tensor.node.outs);
    }
    pending::push(&tensor, &op.class());
    tensor
}

impl Tensor {
    pub(crate) fn meta(&self) -> &Meta {
        &self.node.outs[self.out as usize]
    }

    pub(crate) fn layout(&self) -> &crate::layout::Layout {
        &self.meta().layout
    }

    /// The size along each axis.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.shape().to_string(), "[2, 3]");
    /// ```
    pub fn shape(&self) -> &Shape {
        &self.meta().layout.shape
    }

    /// The size along each axis, as a slice.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.dims(), [2, 3]);
    /// ```
    pub fn dims(&self) -> &[usize] {
        self.shape()
    }

    /// The number of axes: 0 for a scalar.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.rank(), 2);
    /// ```
    pub fn rank(&self) -> usize {
        self.shape().rank()
    }

    /// The number of elements.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.numel(), 6);
    /// ```
    pub fn numel(&self) -> usize {
        self.shape().numel()
    }

    /// The type of the elements.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.dtype(), fornax::DType::F32);
    /// ```
    pub fn dtype(&self) -> DType {
        self.meta().dtype
    }

    /// Where the tensor lives.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.device(), Device::cpu());
    /// ```
    pub fn device(&self) -> Device {
        self.node.device
    }

    /// The value, if it has been computed.
    pub(crate) fn storage(&self) -> Option<Arc<Storage>> {
        self.node.body().values.get(self.out as usize).cloned().flatten()
    }

    /// Computes the value now, if it is not there yet.
    ///
    /// # Errors
    /// Memory, device loss, or an error kept from an earlier flush of this tensor.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones(1000, Device::cpu()).exp();
    /// x.eval()?; // the value is there now: what is built on it does not compute it again
    /// assert_eq!((&x - &x).sum(()).item::<f32>()?, 0.0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn eval(&self) -> Result<()> {
        flush::flush(std::slice::from_ref(self))
    }
}

impl Drop for Node {
    /// Takes the inputs apart with a list instead of recursion, so that a chain of any length can be dropped.
    fn drop(&mut self) {
        let body = self.body.get_mut().unwrap_or_else(|e| e.into_inner());
        if body.inputs.is_empty() {
            return;
        }
        let inputs = std::mem::take(&mut body.inputs);
        release(inputs);
    }
}

/// Drops tensors without recursion.
pub(crate) fn release(tensors: impl IntoIterator<Item = Tensor>) {
    // What others hold is let go of at once: no node goes with it.
    let tensors: SmallVec<[Tensor; 4]> = tensors.into_iter().filter(|t| Arc::strong_count(&t.node) == 1).collect();
    if tensors.is_empty() {
        return;
    }
    let nested = DROPPING.try_with(|d| d.borrow_mut().as_mut().is_some());
    match nested {
        Ok(true) => DROPPING.with(|d| {
            if let Some(list) = d.borrow_mut().as_mut() {
                list.extend(tensors)
            }
        }),
        Ok(false) => {
            DROPPING.with(|d| *d.borrow_mut() = Some(tensors.into_iter().collect()));
            while let Some(t) = DROPPING.with(|d| d.borrow_mut().as_mut().and_then(Vec::pop)) {
                drop(t);
            }
            DROPPING.with(|d| *d.borrow_mut() = None);
        }
        // The thread is ending and its list is gone.
        Err(_) => drop(tensors),
    }
}
