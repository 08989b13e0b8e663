//! The threads on which kernels run: a pool of our own.
//!
//! Not rayon's global pool: one of its workers, waiting in the middle of a kernel, may pick up a job of the user's, and where that job
//! evaluates a tensor it would wait for the very flush that it holds up.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    /// This thread is inside a kernel, or is a worker of the pool: waiting here for a flush would never end.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a kernel.
pub(crate) fn inside() -> bool {
    INSIDE.get()
}

fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let builder = ThreadPoolBuilder::new().thread_name(|i| format!("fornax-{i}")).start_handler(|_| INSIDE.set(true));
        builder.build().inspect_err(|e| eprintln!("fornax: no threads for kernels ({e}): they run on the caller's")).ok()
    })
    .as_ref()
}

/// Runs `f`, marked as a kernel; `wide` moves it to the pool, so that what it splits is split there.
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
    let Some(pool) = pool().filter(|_| wide && !inside()) else { return marked() };
    if rayon::current_thread_index().is_none() {
        return pool.install(marked);
    }
    // A worker of the user's pool: any way of waiting that rayon offers would pick up other jobs of that pool. A thread of its own waits.
    std::thread::scope(|s| match s.spawn(|| pool.install(marked)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
