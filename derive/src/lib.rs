//! The macros of the `fornax` crate: `#[derive(Module)]`, and the generator of panicking wrappers that the crate itself uses.

mod fallible;
mod module;

use proc_macro::TokenStream;

/// On an `impl` block: for each method `try_name(…) -> Result<T>` also makes `name(…) -> T`, which panics at the caller's line with the
/// error's message, and errors of wrong use name this op, whatever ops it is made of. Documentation goes on the `try_` form; the wrapper gets it too.
#[proc_macro_attribute]
pub fn fallible(_args: TokenStream, item: TokenStream) -> TokenStream {
    fallible::expand(item.into()).unwrap_or_else(|e| e.into_compile_error()).into()
}

/// Makes a struct (or an enum) a `fornax::nn::Module`: its parameters are found through its fields, and a field's name is a part of the
/// path, as in `layers.0.attn.q_proj.weight`.
///
/// A field may be a `Param`, a `Buffer`, another module, an `Option`, `Vec`, array, tuple or map of these, or plain data: whatever is
/// `Copy`, and strings, and lists of both, is passed over. Anything else is a compile error until it is marked:
///
/// - `#[module(skip)]`: no part of the module;
/// - `#[module(name = "weight_ih_l0")]`: another name in the path;
/// - `#[module(flatten)]`: no name in the path.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(item: TokenStream) -> TokenStream {
    module::expand(item.into()).unwrap_or_else(|e| e.into_compile_error()).into()
}
