//! How `#[derive(Module)]` treats a field: as a module where it is one, and otherwise as plain data, which it passes over. Used by
//! generated code only.
//!
//! The choice is made by method resolution: `(&&&Field(x)).walk_field(walk)` takes the first of [`AsModule`], [`AsPod`] and [`AsPlain`]
//! that fits. A `Copy` value cannot own a parameter, so passing it over loses nothing.

use super::{Module, Walk};

/// A field.
pub struct Field<'a, T: ?Sized>(pub &'a T);

/// Fields that are modules.
pub trait AsModule {
    /// Walks it.
    fn walk_field(&self, walk: &mut Walk<'_>);
}

impl<T: Module + ?Sized> AsModule for &&Field<'_, T> {
    fn walk_field(&self, walk: &mut Walk<'_>) {
        self.0.walk(walk)
    }
}

/// Fields that are plain values.
pub trait AsPod {
    /// Passes it over.
    fn walk_field(&self, walk: &mut Walk<'_>);
}

impl<T: Copy> AsPod for &Field<'_, T> {
    fn walk_field(&self, _walk: &mut Walk<'_>) {}
}

/// Any other field.
pub trait AsPlain<T: ?Sized> {
    /// Passes it over, if it is plain data.
    fn walk_field(&self, walk: &mut Walk<'_>)
    where
        T: Plain;
}

impl<T: ?Sized> AsPlain<T> for Field<'_, T> {
    fn walk_field(&self, _walk: &mut Walk<'_>)
    where
        T: Plain,
    {
    }
}

/// Data that owns memory and no parameters.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a module nor plain data",
    label = "a field of this type cannot be walked",
    note = "derive or implement `Module` for it, wrap a tensor in `Param` or `Buffer`, or mark the field `#[module(skip)]`"
)]
pub trait Plain {}

impl Plain for String {}
impl Plain for str {}
impl Plain for std::path::PathBuf {}
impl Plain for crate::Shape {}
impl<T: Copy> Plain for std::ops::Range<T> {}
impl<T: Plain> Plain for Option<T> {}
impl<T: Item> Plain for Vec<T> {}
impl<T: Item> Plain for Box<[T]> {}

/// The elements of plain lists.
pub trait Item {}
impl Item for String {}
impl<T: Item> Item for Vec<T> {}
macro_rules! items {
    ($($t:ty),*) => { $(impl Item for $t {})* };
}
items!(bool, char, u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, f32, f64, crate::DType, crate::Device, (usize, usize), [usize; 2]);
