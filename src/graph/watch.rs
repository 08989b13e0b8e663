//! What a thread records, noted while it is asked for: the summary of a model is made of it.

use super::node::Inputs;
use super::op::{Class, Op, Outputs};
use crate::Shape;
use crate::layout::Layout;
use std::cell::{Cell, RefCell};

/// A node that was recorded.
pub(crate) struct Noted {
    pub seq: u64,
    /// The nodes that it reads.
    pub inputs: Vec<u64>,
    pub op: &'static str,
    /// Whether it is only another look at its input's memory.
    pub is_view: bool,
    pub flops: u64,
    /// The first output.
    pub shape: Shape,
    /// Bytes of all outputs.
    pub bytes: usize,
}

thread_local! {
    static NOTING: Cell<bool> = const { Cell::new(false) };
    static NOTED: RefCell<Vec<Noted>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` and notes the nodes that this thread records meanwhile.
pub(crate) fn noting<T>(f: impl FnOnce() -> T) -> (T, Vec<Noted>) {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            NOTING.set(false);
        }
    }
    let _stop = Stop;
    NOTED.take();
    NOTING.set(true);
    let out = f();
    (out, NOTED.take())
}

/// Whether they are noted now.
pub(super) fn is_on() -> bool {
    NOTING.get()
}

pub(super) fn note(seq: u64, op: &dyn Op, inputs: &Inputs, outs: &Outputs) {
    NOTED.with_borrow_mut(|noted| {
        let (ins, layouts): (Vec<&Layout>, Vec<&Layout>) =
            (inputs.iter().map(|t| t.layout()).collect(), outs.iter().map(|o| &o.layout).collect());
        noted.push(Noted {
            seq,
            inputs: inputs.iter().map(|t| t.node.seq).collect(),
            op: op.name(),
            is_view: matches!(op.class(), Class::View),
            flops: op.flops(&ins, &layouts),
            shape: outs[0].shape().clone(),
            bytes: outs.iter().map(|o| o.layout.numel() * o.dtype.size()).sum(),
        });
    });
}
