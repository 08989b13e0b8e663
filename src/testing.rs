//! Switches for tests. Not part of the public interface.

/// Turns fusion on or off for the process.
pub fn set_fuse(on: bool) {
    crate::graph::flush::set_fuse(on)
}

/// Turns laziness on or off for the process: off runs each op when it is called.
pub fn set_lazy(on: bool) {
    crate::graph::pending::set_lazy(on)
}
