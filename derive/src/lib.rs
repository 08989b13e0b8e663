//! The macros of the `fornax` crate: `#[derive(Module)]`, and the generator of panicking wrappers that the crate itself uses.

mod fallible;

use proc_macro::TokenStream;

/// On an `impl` block: for each method `try_name(…) -> Result<T>` also makes `name(…) -> T`, which panics at the caller's line with the
/// error's message. Documentation goes on the `try_` form; the wrapper gets it too.
#[proc_macro_attribute]
pub fn fallible(_args: TokenStream, item: TokenStream) -> TokenStream {
    fallible::expand(item.into()).unwrap_or_else(|e| e.into_compile_error()).into()
}
