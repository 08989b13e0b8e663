//! Running pending nodes: claim, plan (or find the plan), allocate, run, commit.

use super::claim::Claim;
use super::node::{Node, READY, release};
use super::op::{Class, Key};
use super::plan::{Plan, Planner};
use super::{Tensor, pending, run};
use crate::backend::cpu::threads;
use crate::codegen::dispatch::Caps;
use crate::device::Kind as DeviceKind;
use crate::stats::{COUNTERS, count};
use crate::{Device, Error, Result};
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

/// Plans kept; beyond, the ones that were not used for longest go.
const MAX_PLANS: usize = 512;

thread_local! {
    static FUSE: Cell<bool> = const { Cell::new(true) };
    static LIMITS: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Other limits than the GPU's for the flushes of this thread: the largest binding in bytes, and the work of a dispatch.
pub(crate) fn set_limits(limits: Option<(u64, u64)>) {
    LIMITS.set(limits);
}

/// Whether pointwise ops are fused, for the flushes of this thread. `FORNAX_FUSE=0` runs each as a kernel of its own.
pub(crate) fn set_fuse(on: bool) {
    FUSE.set(on);
}

fn fuse() -> bool {
    static FROM_ENV: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *FROM_ENV.get_or_init(|| std::env::var("FORNAX_FUSE").map_or(true, |v| v != "0")) && FUSE.get()
}

/// Hashes the words of a key; the map then compares them in full.
#[derive(Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(5) ^ v).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_usize(&mut self, v: usize) {
        self.write_u64(v as u64)
    }
}

#[derive(PartialEq, Eq)]
struct PlanKey(Box<[u64]>);

impl Hash for PlanKey {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.0.hash(h)
    }
}

impl std::borrow::Borrow<[u64]> for PlanKey {
    fn borrow(&self) -> &[u64] {
        &self.0
    }
}

/// What only one flush of a device at a time may touch.
#[derive(Default)]
struct Executor {
    key: Key,
    plans: HashMap<PlanKey, (Arc<Plan>, u64), BuildHasherDefault<WordHasher>>,
    clock: u64,
}

/// An executor for each device, so that they work beside each other; from the eighth device on, two share one.
static EXECUTORS: [Mutex<Option<Executor>>; LANES] = [const { Mutex::new(None) }; LANES];

/// How many devices flush at once.
pub(super) const LANES: usize = 8;

/// The executor, and the window of pending nodes, that serve a device.
pub(super) fn lane(device: Device) -> usize {
    device.word() as usize % LANES
}

fn executor(lane: usize) -> MutexGuard<'static, Option<Executor>> {
    EXECUTORS[lane].lock().unwrap_or_else(|e| e.into_inner())
}

/// Keeps flushes of a lane from starting, if none is running.
pub(super) fn idle(lane: usize) -> Option<impl Sized> {
    match EXECUTORS[lane].try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(e)) => Some(e.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// Keeps flushes of a lane from starting, once none is running. Not for a thread that runs one.
pub(super) fn alone(lane: usize) -> impl Sized {
    executor(lane)
}

/// Why a flush runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody wants the roots.
    Wanted,
    /// The roots take the place of older values.
    Owned,
    /// Too much is pending.
    Cut,
}

/// Computes the roots, on whatever devices they are.
pub(crate) fn flush(roots: &[Tensor]) -> Result<()> {
    flush_with(roots, Why::Wanted)
}

/// Computes the roots, and parts of what would stay recipes behind them: of a chain that goes on without end each cut would else compute all that lies before
/// it again.
pub(super) fn flush_cut(roots: &[Tensor]) -> Result<()> {
    flush_with(roots, Why::Cut)
}

/// Computes the roots, each of which takes the place of an older value that its owner has let go of: what else would read that older value is
/// computed first, so that its buffer can be overwritten.
pub(crate) fn flush_owned(roots: &[Tensor]) -> Result<()> {
    flush_with(roots, Why::Owned)
}

fn flush_with(roots: &[Tensor], why: Why) -> Result<()> {
    let mut devices: SmallVec<[Device; 2]> = SmallVec::new();
    for t in roots.iter().filter(|t| !t.node.is_ready()) {
        if !devices.contains(&t.node.device) {
            devices.push(t.node.device);
        }
    }
    match devices.len() {
        0 => Ok(()),
        1 => flush_on(devices[0], roots, why),
        _ => devices.into_iter().try_for_each(|d| {
            let here: Vec<Tensor> = roots.iter().filter(|t| t.node.device == d).cloned().collect();
            flush_on(d, &here, why)
        }),
    }
}

fn flush_on(device: Device, roots: &[Tensor], why: Why) -> Result<()> {
    if threads::inside() {
        let message = "a kernel may not evaluate tensors: compute them before, and give them to the op as inputs".into();
        return Err(Error::Kernel { op: "flush".into(), message });
    }
    let lane = lane(device);
    loop {
        let mut guard = executor(lane);
        let mut claim = Claim::collect(roots, why == Why::Owned)?;
        let hosts = claim.hosts();
        if hosts.is_empty() {
            let result = if claim.entries.is_empty() { Ok(()) } else { guard.get_or_insert_default().run(&mut claim, roots, why) };
            drop(guard);
            pending::flushed(lane);
            return result;
        }
        drop(guard);
        drop(claim);
        host_steps(hosts)?;
    }
}

/// The steps that a flush of these roots would be on a GPU that offers `caps`. Nothing runs but host steps, and no GPU is needed: for tests
/// of the shaders.
#[cfg(feature = "wgpu")]
pub(crate) fn gpu_steps(roots: &[Tensor], caps: &Caps) -> Result<Vec<crate::codegen::dispatch::GpuStep>> {
    loop {
        let guard = executor(lane(roots[0].node.device));
        let mut claim = Claim::collect(roots, false)?;
        let hosts = claim.hosts();
        if hosts.is_empty() {
            claim.liveness(roots, false);
            let plan = Planner::build(&claim, Device(DeviceKind::Gpu(0)), caps, fuse(), false)?;
            return Ok(super::plan::place::place(&plan, caps, &|_| 1)?.into_iter().map(|p| p.step).collect());
        }
        drop(guard);
        drop(claim);
        host_steps(hosts)?;
    }
}

/// Runs host steps, and first those that they wait for, the oldest first: so a chain of them, however long, needs no deep stack.
fn host_steps(hosts: Vec<Arc<Node>>) -> Result<()> {
    let mut found: BTreeMap<u64, Arc<Node>> = BTreeMap::new();
    let mut seen: HashSet<*const Node> = HashSet::new();
    let mut stack = hosts;
    while let Some(node) = stack.pop() {
        if node.is_ready() || !seen.insert(Arc::as_ptr(&node)) {
            continue;
        }
        let body = node.body();
        stack.extend(body.inputs.iter().map(|t| t.node.clone()));
        if body.op.as_ref().is_some_and(|op| matches!(op.class(), Class::Host)) {
            drop(body);
            found.insert(node.seq, node);
        }
    }
    found.into_values().try_for_each(|node| host_step(&node))
}

/// Runs a host step, outside of the executor's lock: its op may flush.
fn host_step(node: &Arc<Node>) -> Result<()> {
    let (op, inputs) = {
        let body = node.body();
        match &body.op {
            Some(op) if !node.is_ready() => (op.clone(), body.inputs.clone()),
            _ => return Ok(()),
        }
    };
    let outputs = pending::held(|| {
        flush(&inputs)?;
        let outputs = op.host(&inputs)?;
        flush(&outputs).map(|()| outputs)
    })?;
    let mut garbage = Vec::new();
    {
        let mut body = node.body();
        if !node.is_ready() {
            let taped = node.requires_grad && !body.spent;
            let values = outputs.iter().map(Tensor::storage).collect();
            super::claim::finish(node, &mut body, values, taped, &mut garbage);
            debug_assert_eq!(node.state.load(Ordering::Relaxed), READY);
        }
    }
    drop(inputs);
    release(garbage);
    Ok(())
}

fn caps(device: Device) -> Result<Caps> {
    match device.0 {
        DeviceKind::Cpu => Ok(Caps::PORTABLE),
        #[cfg(feature = "wgpu")]
        DeviceKind::Gpu(n) => {
            let caps = *crate::backend::gpu::open(n as usize, true)?.caps();
            let (max_binding, max_work) = LIMITS.get().unwrap_or((caps.max_binding, caps.max_work));
            Ok(Caps { max_binding, max_work, ..caps })
        }
        #[cfg(not(feature = "wgpu"))]
        DeviceKind::Gpu(_) => unreachable!("no GPU device can be made without the feature `wgpu`"),
    }
}

impl Executor {
    fn run(&mut self, claim: &mut Claim, roots: &[Tensor], why: Why) -> Result<()> {
        let owned = why == Why::Owned;
        claim.liveness(roots, why == Why::Cut);
        let device = claim.device.unwrap_or(Device::cpu());
        let fuse = fuse();
        claim.key(&mut self.key, fuse, owned);
        if let Some((binding, work)) = LIMITS.get() {
            self.key.add(binding).add(work);
        }
        self.clock += 1;
        count(&COUNTERS.flushes, 1);
        let plan = match self.plans.get_mut(&self.key.0[..]) {
            Some((plan, used)) => {
                *used = self.clock;
                count(&COUNTERS.plan_hits, 1);
                plan.clone()
            }
            None => {
                count(&COUNTERS.plan_misses, 1);
                let plan = Arc::new(Planner::build(claim, device, &caps(device)?, fuse, owned)?);
                super::trace::dump(claim, &plan);
                self.insert(plan.clone());
                plan
            }
        };
        run::run(&plan, claim, device)
    }

    fn insert(&mut self, plan: Arc<Plan>) {
        if self.plans.len() >= MAX_PLANS {
            let mut ages: Vec<u64> = self.plans.values().map(|p| p.1).collect();
            ages.sort_unstable();
            let cut = ages[MAX_PLANS / 4];
            self.plans.retain(|_, p| p.1 > cut);
        }
        self.plans.insert(PlanKey(self.key.0.clone().into_boxed_slice()), (plan, self.clock));
    }
}
