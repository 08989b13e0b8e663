//! State: shared cells that hold the tensors of a model which change.

use super::{Item, Module, Walk};
use crate::autograd::{self, Gradients};
use crate::graph::LeafId;
use crate::graph::node::{grad_enabled, with_grad};
use crate::{DType, Device, Error, Result, Shape, Tensor};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A tensor that is trained. A handle on a shared cell: a clone is the same parameter (tied weights), and a change through one handle
/// is seen through all.
///
/// ```
/// use fornax::nn::Param;
/// use fornax::{Device, Tensor};
/// let w = Param::new(Tensor::from_slice(&[1.0f32, 2.0], 2, Device::cpu())?);
/// let loss = (w.get() * w.get()).sum(());
/// let grads = loss.backward()?;
/// assert_eq!(w.grad(&grads).unwrap().to_vec::<f32>()?, [2.0, 4.0]);
/// w.update(|t| t.try_sub(1.0))?;
/// assert_eq!(w.value().to_vec::<f32>()?, [0.0, 1.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Param(Arc<ParamCell>);

struct ParamCell {
    id: LeafId,
    frozen: AtomicBool,
    value: Mutex<Tensor>,
}

/// A tensor of state that is not trained: running statistics, caches, averages. A handle on a shared cell, like [`Param`].
///
/// ```
/// use fornax::nn::Buffer;
/// use fornax::{Device, Tensor};
/// let mean = Buffer::new(Tensor::zeros(2, Device::cpu()));
/// mean.update(|m| m.try_add(1.0))?;
/// assert_eq!(mean.get().to_vec::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Clone)]
pub struct Buffer(Arc<BufferCell>);

struct BufferCell {
    persistent: bool,
    fixed: bool,
    value: Mutex<Tensor>,
    /// Updates since the value was last among the roots of a flush.
    updates: AtomicU32,
}

/// Buffers that were updated since the last optimizer step, each once.
static UPDATED: Mutex<Vec<Weak<BufferCell>>> = Mutex::new(Vec::new());

/// So many updates of a buffer wait for an optimizer's step; then the buffer is computed by itself. Without a bound, a loop that only runs
/// forward would keep what each of its updates is made from.
const WAITING: u32 = 16;

/// The values of the buffers that were updated since the last call: an optimizer's step computes them with the parameters.
pub(crate) fn take_updated() -> Vec<Tensor> {
    let cells = std::mem::take(&mut *UPDATED.lock().unwrap_or_else(|e| e.into_inner()));
    let value = |cell: Arc<BufferCell>| {
        cell.updates.store(0, Ordering::Relaxed);
        lock(&cell.value).clone()
    };
    cells.iter().filter_map(Weak::upgrade).map(value).collect()
}

fn lock(m: &Mutex<Tensor>) -> MutexGuard<'_, Tensor> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

/// A state's value is a constant: whatever computed it, no gradient flows on.
fn constant(t: Tensor) -> Tensor {
    if t.node.requires_grad { t.detach() } else { t }
}

/// Lets `f` make the next value of a cell. No lock is held while it runs, and the old value stays until it succeeds; afterwards the graph
/// alone holds the old value, so that the planner can overwrite it in place.
fn update(op: &'static str, cell: &Mutex<Tensor>, f: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<()> {
    let old = lock(cell).clone();
    let kind = (old.shape().clone(), old.dtype(), old.device(), old.node.seq);
    put(op, cell, kind, with_grad(false, || f(old))?)
}

/// Sets what [`update`] has computed from a value of this kind and number.
fn put(op: &'static str, cell: &Mutex<Tensor>, (shape, dtype, device, before): (Shape, DType, Device, u64), new: Tensor) -> Result<()> {
    if *new.shape() != shape {
        return Err(Error::shape(op, &[new.shape()], format!("the new value must have the shape of the old one, {shape}")));
    }
    if new.dtype() != dtype {
        return Err(Error::dtype(op, &[new.dtype()], format!("the new value must have the dtype of the old one, {dtype}")));
    }
    if new.device() != device {
        let message = format!("the new value is on {}, the old one on {device}: use Module::to to move a module", new.device());
        return Err(Error::Device { op, message });
    }
    // The old handle is dropped outside the lock.
    let _old = {
        let mut value = lock(cell);
        if value.node.seq != before {
            let message = "another update has changed the value meanwhile, and would be lost: update a cell from one thread at a time";
            return Err(Error::argument(op, message));
        }
        std::mem::replace(&mut *value, constant(new))
    };
    Ok(())
}

impl Param {
    /// A new parameter with this value; the value's own history is cut off.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.value().numel(), 6);
    /// ```
    pub fn new(value: Tensor) -> Param {
        let cell = ParamCell { id: LeafId::new(), frozen: AtomicBool::new(false), value: Mutex::new(constant(value)) };
        Param(Arc::new(cell))
    }

    /// The value, as a source of gradients: what `forward` computes with. (Frozen parameters give a constant.)
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(3, Device::cpu()));
    /// assert!(w.get().is_differentiable() && !w.value().is_differentiable());
    /// ```
    pub fn get(&self) -> Tensor {
        let value = self.value();
        if self.is_frozen() || !grad_enabled() || !value.dtype().is_float() { value } else { autograd::leaf(&value, self.0.id) }
    }

    /// The value, as a constant.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.value().to_vec::<f32>()?, [1.0; 6]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn value(&self) -> Tensor {
        lock(&self.0.value).clone()
    }

    /// The gradient of this parameter, if the backward pass came here.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(3, Device::cpu()));
    /// let grads = (w.get() * 4.0).sum(()).backward()?;
    /// assert_eq!(w.grad(&grads).unwrap().to_vec::<f32>()?, [4.0; 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn grad<'a>(&self, grads: &'a Gradients) -> Option<&'a Tensor> {
        grads.get_id(self.0.id)
    }

    /// Replaces the value by what `f` makes of it. Nothing that is recorded in `f` takes part in gradients.
    ///
    /// # Errors
    /// Those of `f`; a new value of another shape, dtype or device; a value that another thread has changed meanwhile. It stays as it is then.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(3, Device::cpu()));
    /// w.update(|w| w.try_mul(0.5))?;
    /// assert_eq!(w.value().to_vec::<f32>()?, [0.5; 3]);
    /// assert!(w.update(|w| w.try_reshape([3, 1])).is_err());
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn update(&self, f: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<()> {
        update("Param::update", &self.0.value, f)
    }

    /// Sets the value.
    ///
    /// # Errors
    /// A value of another shape, dtype or device.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(3, Device::cpu()));
    /// w.set(Tensor::zeros(3, Device::cpu()))?;
    /// assert_eq!(w.value().to_vec::<f32>()?, [0.0; 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn set(&self, value: Tensor) -> Result<()> {
        self.update(|_| Ok(value))
    }

    /// Sets a value that may be of another shape, dtype or on another device: as loading and moving a model do. Optimizers hold state of the old one.
    pub fn replace(&self, value: Tensor) {
        let _old = std::mem::replace(&mut *lock(&self.0.value), constant(value));
    }

    /// The shape.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.shape(), [2, 3]);
    /// ```
    pub fn shape(&self) -> Shape {
        lock(&self.0.value).shape().clone()
    }

    /// The dtype.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{DType, Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.dtype(), DType::F32);
    /// ```
    pub fn dtype(&self) -> DType {
        lock(&self.0.value).dtype()
    }

    /// The device.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.device(), Device::cpu());
    /// ```
    pub fn device(&self) -> Device {
        lock(&self.0.value).device()
    }

    /// Whether the parameter is excluded from gradients.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert!(!w.is_frozen());
    /// ```
    pub fn is_frozen(&self) -> bool {
        self.0.frozen.load(Ordering::Relaxed)
    }

    /// Excludes the parameter from gradients, or includes it again.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones(3, Device::cpu()));
    /// w.set_frozen(true);
    /// assert!(w.is_frozen() && !w.get().is_differentiable());
    /// ```
    pub fn set_frozen(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::Relaxed)
    }

    /// The parameter's identity: the key of its gradient.
    ///
    /// ```
    /// use fornax::nn::Param;
    /// use fornax::{Device, Tensor};
    /// let w = Param::new(Tensor::ones([2, 3], Device::cpu()));
    /// assert_eq!(w.id(), w.clone().id());
    /// ```
    pub fn id(&self) -> LeafId {
        self.0.id
    }
}

impl Buffer {
    /// A new buffer, saved in state dicts.
    ///
    /// ```
    /// use fornax::nn::Buffer;
    /// use fornax::{Device, Tensor};
    /// let mean = Buffer::new(Tensor::zeros(2, Device::cpu()));
    /// assert!(mean.is_persistent());
    /// ```
    pub fn new(value: Tensor) -> Buffer {
        Buffer::with(value, true, false)
    }

    /// A new buffer, saved in state dicts, whose dtype belongs to it: [`Module::to_dtype`] leaves it alone. Scales of quantised weights are such.
    ///
    /// ```
    /// use fornax::nn::{Buffer, Module};
    /// use fornax::{DType, Device, Tensor};
    /// let scales = Buffer::fixed(Tensor::zeros(2, Device::cpu()));
    /// scales.to_dtype(DType::F16)?;
    /// assert_eq!(scales.get().dtype(), DType::F32);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn fixed(value: Tensor) -> Buffer {
        Buffer::with(value, true, true)
    }

    /// A new buffer that state dicts leave out: a cache.
    ///
    /// ```
    /// use fornax::nn::Buffer;
    /// use fornax::{Device, Tensor};
    /// assert!(!Buffer::transient(Tensor::zeros(2, Device::cpu())).is_persistent());
    /// ```
    pub fn transient(value: Tensor) -> Buffer {
        Buffer::with(value, false, false)
    }

    fn with(value: Tensor, persistent: bool, fixed: bool) -> Buffer {
        Buffer(Arc::new(BufferCell { persistent, fixed, value: Mutex::new(constant(value)), updates: AtomicU32::new(0) }))
    }

    /// The value, a constant.
    pub fn get(&self) -> Tensor {
        lock(&self.0.value).clone()
    }

    /// Replaces the value by what `f` makes of it. Nothing that is recorded in `f` takes part in gradients. The next optimizer step computes
    /// the new value, together with the parameters.
    ///
    /// # Errors
    /// Those of `f`; a new value of another shape, dtype or device; a value that another thread has changed meanwhile. It stays as it is then.
    pub fn update(&self, f: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<()> {
        update("Buffer::update", &self.0.value, f)?;
        match self.0.updates.fetch_add(1, Ordering::Relaxed) {
            0 => UPDATED.lock().unwrap_or_else(|e| e.into_inner()).push(Arc::downgrade(&self.0)),
            n if n.is_multiple_of(WAITING) => self.get().eval()?,
            _ => {}
        }
        Ok(())
    }

    /// Sets the value, which may be of another shape, dtype or on another device (a cache that grew).
    pub fn replace(&self, value: Tensor) {
        let _old = std::mem::replace(&mut *lock(&self.0.value), constant(value));
    }

    /// Whether state dicts hold it.
    ///
    /// ```
    /// use fornax::nn::Buffer;
    /// use fornax::{Device, Tensor};
    /// let mean = Buffer::new(Tensor::zeros(2, Device::cpu()));
    /// assert!(mean.is_persistent());
    /// ```
    pub fn is_persistent(&self) -> bool {
        self.0.persistent
    }

    /// Whether its dtype belongs to it.
    pub(crate) fn is_fixed(&self) -> bool {
        self.0.fixed
    }
}

/// A whole number of state, such as the number of batches seen. It lives on the host; state dicts hold it as an i64 scalar.
///
/// ```
/// let c = fornax::nn::Counter::new(0);
/// assert_eq!((c.increment(), c.get()), (1, 1));
/// ```
#[derive(Debug, Default)]
pub struct Counter(AtomicI64);

impl Counter {
    /// A new counter.
    pub fn new(value: i64) -> Counter {
        Counter(AtomicI64::new(value))
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed)
    }

    /// Adds one and returns the new value.
    pub fn increment(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Whether a layer is in training or in evaluation mode; [`Module::train`] and [`Module::eval`] set it.
///
/// ```
/// let mode = fornax::nn::Mode::default();
/// assert!(mode.is_training());
/// ```
#[derive(Debug)]
pub struct Mode {
    training: AtomicBool,
    averaging: AtomicBool,
}

impl Default for Mode {
    fn default() -> Self {
        Mode { training: AtomicBool::new(true), averaging: AtomicBool::new(false) }
    }
}

impl Mode {
    /// Whether in training mode.
    pub fn is_training(&self) -> bool {
        self.training.load(Ordering::Relaxed)
    }

    /// Sets the mode.
    pub fn set(&self, training: bool) {
        self.training.store(training, Ordering::Relaxed)
    }

    /// Whether running statistics are the plain average of all batches, whatever the layer's momentum: `optim::update_bn` asks for it.
    pub(crate) fn is_averaging(&self) -> bool {
        self.averaging.load(Ordering::Relaxed)
    }

    pub(crate) fn set_averaging(&self, averaging: bool) {
        self.averaging.store(averaging, Ordering::Relaxed)
    }
}

impl Module for Param {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Param(self))
    }
}
impl Module for Buffer {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Buffer(self))
    }
}
impl Module for Counter {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Counter(self))
    }
}
impl Module for Mode {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Mode(self))
    }
}

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Param({} {} on {})", self.dtype(), self.shape(), self.device())
    }
}
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.get();
        write!(f, "Buffer({} {} on {})", value.dtype(), value.shape(), value.device())
    }
}
