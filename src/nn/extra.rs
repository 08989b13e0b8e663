//! State that is no tensor.

use super::{Item, Module, Walk};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Bytes of state that are no tensor, of any length: a description that travels with the weights, like PyTorch's extra state. They live on the host; state dicts
/// hold them as a list of u8.
///
/// ```
/// use fornax::nn::{Extra, Module};
/// let note = Extra::new(*b"{}");
/// assert_eq!(note.state_dict()[""].to_vec::<u8>()?, *b"{}");
/// note.set(*b"[1]");
/// assert_eq!(&*note.get(), b"[1]");
/// # Ok::<(), fornax::Error>(())
/// ```
#[derive(Default)]
pub struct Extra(Mutex<Arc<[u8]>>);

impl Extra {
    /// New state.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Extra {
        Extra(Mutex::new(bytes.into()))
    }

    /// The bytes.
    pub fn get(&self) -> Arc<[u8]> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Sets the bytes.
    pub fn set(&self, bytes: impl Into<Arc<[u8]>>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = bytes.into()
    }
}

impl Module for Extra {
    fn walk(&self, walk: &mut Walk<'_>) {
        walk.item(Item::Extra(self))
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extra({})", String::from_utf8_lossy(&self.get()))
    }
}
