//! Under which name an index out of range is reported, where an op is made of others.

use std::cell::Cell;

/// As what a user knows the op whose index is out of range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The op that was called.
    pub name: &'static str,
    /// What the index out of range means there; empty where it is one of the user's.
    pub means: &'static str,
}

thread_local! {
    static ASKED: Cell<Option<Asked>> = const { Cell::new(None) };
}

impl Asked {
    /// The op of this name, unless it is recorded on the way to another: see [`asked`].
    pub fn here(name: &'static str) -> Asked {
        ASKED.get().unwrap_or(Asked { name, means: "" })
    }

    /// Its part of a plan's key: a plan says whose index was out of range.
    pub fn word(&self) -> u64 {
        self.name.as_ptr() as u64
    }
}

/// Runs `f`, which makes an op of smaller ones, so that an index out of range is reported under the name of the whole (the outermost, if one stands in
/// another).
pub(crate) fn asked<T>(name: &'static str, means: &'static str, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Asked>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ASKED.set(self.0)
        }
    }
    let before = ASKED.get();
    let _restore = Restore(before);
    ASKED.set(before.or(Some(Asked { name, means })));
    f()
}
