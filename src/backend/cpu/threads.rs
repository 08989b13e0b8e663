//! The threads on which kernels run: a pool of our own.
//!
//! Not rayon's global pool: one of its workers, waiting in the middle of a kernel, may pick up a job of the user's, and where that job
//! evaluates a tensor it would wait for the very flush that it holds up.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    /// This thread is inside a kernel, or is a worker of the pool: waiting here for a flush would never end.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// This thread is a worker of the pool.
    static WORKER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a kernel.
pub(crate) fn inside() -> bool {
    INSIDE.get()
}

/// A pool for kernels; with 0, of as many threads as there are cores.
pub(super) fn workers(threads: usize) -> Result<ThreadPool, ThreadPoolBuildError> {
    let named = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("fornax-{i}"));
    let mark = |_| {
        INSIDE.set(true);
        WORKER.set(true);
    };
    named.start_handler(mark).build()
}

fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| workers(0).inspect_err(|e| eprintln!("fornax: no threads for kernels ({e}): they run on the caller's")).ok())
        .as_ref()
}

/// Threads of the pool.
pub(crate) fn count() -> usize {
    pool().map_or(1, ThreadPool::current_num_threads)
}

/// Runs `f`, marked as a kernel; `wide` moves it to the pool, so that what it splits is split there. (What is split elsewhere moves by
/// itself, for each loop anew: see [`split`].)
pub(crate) fn kernels<R: Send>(wide: bool, f: impl FnOnce() -> R + Send) -> R {
    let marked = || {
        struct Restore(bool);
        impl Drop for Restore {
            fn drop(&mut self) {
                INSIDE.set(self.0)
            }
        }
        let _restore = Restore(INSIDE.replace(true));
        f()
    };
    let Some(pool) = pool().filter(|_| wide && !WORKER.get()) else { return marked() };
    if rayon::current_thread_index().is_none() {
        return pool.install(marked);
    }
    // A worker of the user's pool: any way of waiting that rayon offers would pick up other jobs of that pool. A thread of its own waits.
    std::thread::scope(|s| match s.spawn(|| pool.install(marked)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs `f`, which splits its work by rayon's means, on the pool, wherever this thread is: a kernel that was not moved there would hand its
/// parts to the threads of the user's pool, all of which may be waiting for this very flush.
pub(crate) fn split<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    kernels(true, f)
}

/// Calls `f` for each number below `n` on all threads; a thread takes at least `min` of them at a time. Not generic: what rayon makes of a loop is
/// compiled once, and not for each of some hundred kernels.
pub(crate) fn each(n: usize, min: usize, f: &(dyn Fn(usize) + Sync)) {
    if n <= min.max(1) || pool().is_none() {
        (0..n).for_each(f);
    } else {
        split(|| (0..n).into_par_iter().with_min_len(min.max(1)).for_each(f));
    }
}

/// Calls `f(number, chunk)` for each chunk of `len` elements (the last may be shorter) on all threads; a thread takes at least `min` of them at a time.
pub(crate) fn each_chunk<T: Send>(out: &mut [T], len: usize, min: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let (n, all) = (out.len(), Shared::new(out));
    // SAFETY: chunks do not overlap.
    each(n.div_ceil(len), min, &|i| f(i, unsafe { all.slice(i * len, len.min(n - i * len)) }));
}

/// Memory that several threads write at disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T, usize);

// SAFETY: the users of `at` and `slice` keep their places disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(all: &mut [T]) -> Shared<T> {
        Shared(all.as_mut_ptr(), all.len())
    }

    /// Memory that has no slice: between the places that its users touch, others' may lie.
    ///
    /// # Safety
    /// `len` elements lie at `start` while it is in use.
    pub unsafe fn from_raw(start: *mut T, len: usize) -> Shared<T> {
        Shared(start, len)
    }

    /// Where element `at` lies; `len` elements from there on are in bounds.
    pub fn pointer(&self, at: usize, len: usize) -> *mut T {
        assert!(len == 0 || at + len <= self.1);
        self.0.wrapping_add(at)
    }

    /// One element.
    ///
    /// # Safety
    /// It is in bounds, and no other thread touches it meanwhile.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn at(&self, i: usize) -> &mut T {
        debug_assert!(i < self.1);
        unsafe { &mut *self.0.add(i) }
    }

    /// `len` elements from `start` on.
    ///
    /// # Safety
    /// No other thread touches them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.1);
        // SAFETY: in bounds; disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user's worker that waits for a part of a kernel would pick up another job of its pool, and that job would wait for the kernel.
    #[test]
    fn no_part_of_a_kernel_runs_on_a_users_thread() {
        let user = ThreadPoolBuilder::new().num_threads(2).thread_name(|i| format!("user-{i}")).build().unwrap();
        let ours = |_: usize| assert!(std::thread::current().name().is_some_and(|n| n.starts_with("fornax-")));
        let places = [|f: &(dyn Fn() + Sync)| f(), |f: &(dyn Fn() + Sync)| kernels(false, f), |f: &(dyn Fn() + Sync)| kernels(true, f)];
        for place in places {
            place(&|| each(64, 1, &ours));
            user.install(|| place(&|| each(64, 1, &ours)));
            user.install(|| place(&|| split(|| ours(0))));
        }
    }
}
