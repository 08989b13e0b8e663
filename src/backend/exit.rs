//! What is done when the process ends: statics are never dropped.

use std::sync::{Mutex, PoisonError};

static AT_EXIT: Mutex<Vec<Box<dyn Fn() + Send>>> = Mutex::new(Vec::new());

/// Calls `f` when the process ends in the ordinary way. It must not panic.
pub(crate) fn at_exit(f: impl Fn() + Send + 'static) {
    unsafe extern "C" {
        fn atexit(callback: extern "C" fn()) -> std::ffi::c_int;
    }
    extern "C" fn run() {
        AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|f| f());
    }
    let mut list = AT_EXIT.lock().unwrap_or_else(PoisonError::into_inner);
    list.push(Box::new(f));
    if list.len() == 1 {
        // SAFETY: the C library's function on every platform that we run on; the callback touches only statics and does not unwind.
        unsafe { atexit(run) };
    }
}
