//! Memory that kernels need for themselves, and results that tasks share.

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

/// A pointer that tasks share, each writing its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);
// SAFETY: as the methods say.
unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    pub(crate) fn new(first: *mut T) -> Shared<T> {
        Shared(first)
    }

    /// The first element.
    pub(crate) fn pointer(self) -> *mut T {
        self.0
    }

    /// # Safety
    /// The range is inside the buffer, and no other task touches it meanwhile.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
