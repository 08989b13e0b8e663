//! `+ - * / % - ! & | ^` between tensors, references to tensors, and numbers. Each panics at the caller's line with the message of the
//! method that it stands for; `try_add` and its sisters return the error. On the left stand f64 and i32 alone: with f32 beside f64 the
//! compiler could not tell what the literal in `(1.0 - &x).exp()` is.

use crate::ops::pointwise::{binary, reversed};
use crate::{Error, Operand, Result, Scalar, Tensor};
use std::ops::{Add, AddAssign, BitAnd, BitAndAssign, BitOr, BitOrAssign, BitXor, BitXorAssign, Div, DivAssign, Mul, MulAssign};
use std::ops::{Neg, Not, Rem, RemAssign, Sub, SubAssign};

#[track_caller]
fn expect(result: Result<Tensor>) -> Tensor {
    match result {
        Ok(t) => t,
        Err(error) => fail(error),
    }
}

#[track_caller]
#[cold]
fn fail(error: Error) -> ! {
    panic!("{error}")
}

macro_rules! operator {
    ($trait:ident, $method:ident, $try_method:ident, $assign:ident, $assign_method:ident, [$($number:ty),*]) => {
        /// Replaces the handle; the old value stays with whoever else holds it.
        impl<R: Into<Operand>> $assign<R> for Tensor {
            #[track_caller]
            fn $assign_method(&mut self, rhs: R) {
                *self = expect(self.$try_method(rhs))
            }
        }
        impl<R: Into<Operand>> $trait<R> for &Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, rhs: R) -> Tensor {
                expect(self.$try_method(rhs))
            }
        }
        impl<R: Into<Operand>> $trait<R> for Tensor {
            type Output = Tensor;
            #[track_caller]
            fn $method(self, rhs: R) -> Tensor {
                expect(self.$try_method(rhs))
            }
        }
        $(
            impl $trait<&Tensor> for $number {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, rhs: &Tensor) -> Tensor {
                    expect(reversed(&binary::rows::$method, Scalar::from(self), rhs))
                }
            }
            impl $trait<Tensor> for $number {
                type Output = Tensor;
                #[track_caller]
                fn $method(self, rhs: Tensor) -> Tensor {
                    expect(reversed(&binary::rows::$method, Scalar::from(self), &rhs))
                }
            }
        )*
    };
}

operator!(Add, add, try_add, AddAssign, add_assign, [f64, i32]);
operator!(Sub, sub, try_sub, SubAssign, sub_assign, [f64, i32]);
operator!(Mul, mul, try_mul, MulAssign, mul_assign, [f64, i32]);
operator!(Div, div, try_div, DivAssign, div_assign, [f64, i32]);
operator!(Rem, rem, try_rem, RemAssign, rem_assign, [f64, i32]);
operator!(BitAnd, bitand, try_bitand, BitAndAssign, bitand_assign, [i32]);
operator!(BitOr, bitor, try_bitor, BitOrAssign, bitor_assign, [i32]);
operator!(BitXor, bitxor, try_bitxor, BitXorAssign, bitxor_assign, [i32]);

impl Neg for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        expect(self.try_neg())
    }
}
impl Neg for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn neg(self) -> Tensor {
        expect(self.try_neg())
    }
}
/// Every bit flipped; on bools, `not`.
impl Not for &Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        expect(self.try_bitnot())
    }
}
impl Not for Tensor {
    type Output = Tensor;
    #[track_caller]
    fn not(self) -> Tensor {
        expect(self.try_bitnot())
    }
}
