//! Memory that kernels need for themselves.

use std::cell::RefCell;

thread_local! {
    /// A stack, since a task may start others and help them on this thread.
    static SCRATCH: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Elements of 8 bytes in a cache line, at which scratch memory begins.
const LINE: usize = 8;

/// Gives `f` that many elements of this thread's scratch memory, with whatever was left there.
pub(crate) fn scratch<T: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut words = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let needed = (len * size_of::<T>()).div_ceil(8) + LINE;
    if words.len() < needed {
        words = vec![0; needed];
    }
    let start = words.as_ptr().align_offset(8 * LINE).min(LINE);
    let result = f(&mut bytemuck::cast_slice_mut(&mut words[start..])[..len]);
    SCRATCH.with_borrow_mut(|s| s.push(words));
    result
}
