//! Worker threads that make batches ahead of their reader: in order, and never more than a bound ahead.

use crate::{Error, Result};
use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Batches made by threads. Dropping it stops and joins them.
pub(super) struct Prefetch<B> {
    shared: Arc<Shared<B>>,
    threads: Vec<JoinHandle<()>>,
    /// The number of the batch that is handed out next.
    next: usize,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    changed: Condvar,
}

struct State<B> {
    ready: BTreeMap<usize, Result<B>>,
    /// Batches handed out.
    taken: usize,
    /// How many there are, once it is known.
    total: Option<usize>,
    stop: bool,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<B>>) -> MutexGuard<'a, State<B>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs that are left, and the number of the next.
struct Jobs<I> {
    jobs: I,
    next: usize,
}

impl<B: Send + 'static> Prefetch<B> {
    /// Starts `workers` threads that turn jobs into batches, at most `ahead` of them more than were taken. `jobs.next()` runs under a lock.
    pub(super) fn start<J, I, W>(jobs: I, work: W, workers: usize, ahead: usize) -> Prefetch<B>
    where
        I: Iterator<Item = J> + Send + 'static,
        W: Fn(J) -> Result<B> + Send + Sync + 'static,
    {
        let state = State { ready: BTreeMap::new(), taken: 0, total: None, stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (jobs, work) = (Arc::new(Mutex::new(Jobs { jobs, next: 0 })), Arc::new(work));
        let mut threads = Vec::new();
        for i in 0..workers.max(1) {
            let (own, jobs, work) = (shared.clone(), jobs.clone(), work.clone());
            let body = move || worker(&own, &jobs, &*work, ahead.max(1));
            match std::thread::Builder::new().name(format!("fornax-data-{i}")).spawn(body) {
                Ok(thread) => threads.push(thread),
                // Fewer workers make the same batches.
                Err(_) if !threads.is_empty() => break,
                Err(e) => {
                    let mut state = shared.lock();
                    state.ready.insert(0, Err(Error::Worker { message: format!("no thread could be started: {e}") }));
                    state.total = Some(1);
                    break;
                }
            }
        }
        Prefetch { shared, threads, next: 0 }
    }
}

fn worker<J, B>(shared: &Shared<B>, jobs: &Mutex<Jobs<impl Iterator<Item = J>>>, work: &impl Fn(J) -> Result<B>, ahead: usize) {
    loop {
        let (number, job) = {
            let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = shared.lock();
            while !state.stop && jobs.next >= state.taken.saturating_add(ahead) {
                state = shared.wait(state);
            }
            if state.stop {
                return;
            }
            drop(state);
            let number = jobs.next;
            let Some(job) = jobs.jobs.next() else {
                shared.lock().total = Some(number);
                shared.changed.notify_all();
                return;
            };
            jobs.next += 1;
            (number, job)
        };
        let batch = caught(|| work(job));
        shared.lock().ready.insert(number, batch);
        shared.changed.notify_all();
    }
}

/// What `f` returns; a panic is an error with its message.
pub(super) fn caught<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| Err(Error::Worker { message: format!("it panicked: {}", message(&*panic)) }))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

impl<B> Iterator for Prefetch<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.ready.remove(&self.next) {
                self.next += 1;
                state.taken = self.next;
                drop(state);
                self.shared.changed.notify_all();
                return Some(batch);
            }
            if state.total.is_some_and(|total| self.next >= total) {
                return None;
            }
            state = self.shared.wait(state);
        }
    }
}

impl<B> Drop for Prefetch<B> {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of what it runs.
            let _ = thread.join();
        }
    }
}
