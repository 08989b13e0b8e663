//! The bound on what is recorded on a device and not yet run. It depends on recorded nodes and bytes alone, so that a loop is cut at the same place in
//! every round.

use super::node::{FAILED, Node, PENDING};
use super::op::Class;
use super::{Tensor, flush};
use crate::backend::cpu::threads;
use crate::stats::{COUNTERS, count};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// Pending nodes above which the live ones are run.
const MAX_NODES: usize = 32_768;
/// Bytes of recorded kernel outputs above which the live ones are run.
const MAX_BYTES: u64 = 16 << 30;

struct Window {
    nodes: Vec<Weak<Node>>,
    /// Pending nodes that a cut has left behind (recipes, and what only a gradient graph still holds): they do not count again.
    recipes: Vec<Weak<Node>>,
    /// The length at which dead and finished entries are swept out.
    sweep: usize,
    bytes: u64,
}

/// A window for each executor.
static WINDOWS: [Mutex<Window>; flush::LANES] =
    [const { Mutex::new(Window { nodes: Vec::new(), recipes: Vec::new(), sweep: 4096, bytes: 0 }) }; flush::LANES];

fn window(lane: usize) -> MutexGuard<'static, Window> {
    WINDOWS[lane].lock().unwrap_or_else(|e| e.into_inner())
}

thread_local! {
    static LAZY: Cell<bool> = const { Cell::new(true) };
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with no cut on this thread. A host step records nodes while a flush waits for it: a cut that they made would come to the same host step,
/// and that one to the next cut, until the stack is full.
pub(super) fn held<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            HELD.set(self.0)
        }
    }
    let _restore = Restore(HELD.replace(true));
    f()
}

/// Whether the ops of this thread wait for a flush. `FORNAX_LAZY=0` runs each when it is called.
pub(crate) fn set_lazy(on: bool) {
    LAZY.set(on);
}

fn lazy() -> bool {
    static FROM_ENV: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *FROM_ENV.get_or_init(|| std::env::var("FORNAX_LAZY").map_or(true, |v| v != "0")) && LAZY.get()
}

/// Notes a new pending node, and flushes when the bound is passed.
pub(crate) fn push(tensor: &Tensor, class: &Class) {
    count(&COUNTERS.recorded, 1);
    let lane = flush::lane(tensor.node.device);
    let (many, full) = {
        let mut w = window(lane);
        w.nodes.push(Arc::downgrade(&tensor.node));
        if let Class::Kernel = class {
            w.bytes += tensor.node.outs.iter().map(|o| (o.layout.numel() * o.dtype.size()) as u64).sum::<u64>();
        }
        if w.nodes.len() >= w.sweep {
            // Looking at a node holds it for a moment: not while a flush of another thread counts the handles on it.
            if let Some(_idle) = flush::idle(lane) {
                w.nodes.retain(|n| n.upgrade().is_some_and(|n| n.state.load(Ordering::Relaxed) == PENDING));
                w.sweep = (2 * w.nodes.len()).clamp(4096, MAX_NODES);
            } else {
                w.sweep += 256;
            }
        }
        (w.nodes.len() >= MAX_NODES, w.bytes > MAX_BYTES)
    };
    if many || full {
        cut(lane, many);
    } else if !lazy() {
        keep_error(tensor, flush::flush(std::slice::from_ref(tensor)));
    }
}

/// Forgets the bytes recorded so far: a flush has run.
pub(super) fn flushed(lane: usize) {
    window(lane).bytes = 0;
}

/// The nodes of a lane that are still pending, oldest first.
pub(super) fn live(lane: usize) -> Vec<Arc<Node>> {
    let w = window(lane);
    let mut all = pending(&w.recipes);
    all.append(&mut pending(&w.nodes));
    all
}

fn pending(list: &[Weak<Node>]) -> Vec<Arc<Node>> {
    list.iter().filter_map(Weak::upgrade).filter(|n| n.state.load(Ordering::Relaxed) == PENDING).collect()
}

/// Runs everything in a lane that is pending and has no pending consumer there.
fn cut(lane: usize, many: bool) {
    if threads::inside() || HELD.get() {
        // A kernel cannot wait for a flush, being part of one.
        return;
    }
    let roots: Vec<Tensor> = {
        // Looking at a node holds it for a moment: not while a flush of another thread counts the handles on it.
        let _alone = flush::alone(lane);
        // What earlier cuts have left behind is computed where it is wanted: nothing pending reads the most of it, but gradient graphs.
        let (recipes, nodes) = {
            let w = window(lane);
            (pending(&w.recipes), pending(&w.nodes))
        };
        let mut consumed: HashSet<*const Node> = HashSet::new();
        for n in recipes.iter().chain(&nodes) {
            consumed.extend(n.body().inputs.iter().map(|t| Arc::as_ptr(&t.node)));
        }
        nodes.into_iter().filter(|n| !consumed.contains(&Arc::as_ptr(n))).map(|node| Tensor { node, out: 0 }).collect()
    };
    // Where bytes are what is too much, nothing is kept that can be computed again.
    if if many { flush::flush_cut(&roots) } else { flush::flush(&roots) }.is_err() {
        // One by one, so that an error stays with the nodes that it concerns.
        roots.iter().for_each(|t| keep_error(t, flush::flush(std::slice::from_ref(t))));
    }
    drop(roots);
    let mut w = window(lane);
    let mut left = std::mem::take(&mut w.nodes);
    w.recipes.append(&mut left);
    w.recipes.retain(|n| n.upgrade().is_some_and(|n| n.state.load(Ordering::Relaxed) == PENDING));
    w.sweep = 4096;
    w.bytes = 0;
}

/// An error in a flush that nobody asked for stays with the node; the next read returns it.
fn keep_error(tensor: &Tensor, result: crate::Result<()>) {
    if let Err(e) = result
        && !tensor.node.is_ready()
    {
        let mut body = tensor.node.body();
        // Not where another thread's flush has computed it meanwhile.
        if tensor.node.state.compare_exchange(PENDING, FAILED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            body.error = Some(e);
        }
    }
}
