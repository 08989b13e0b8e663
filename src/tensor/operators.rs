//! `+ - * / % - ! & | ^` between tensors, references to tensors, and numbers. Each panics at the caller's line with the message of the
//! method that it stands for; `try_add` and its sisters return the error.

use crate::ops::pointwise::{binary, reversed};
use crate::{Error, Operand, Result, Scalar, Tensor};
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Sub};

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
    ($trait:ident, $method:ident, $try_method:ident, [$($number:ty),*]) => {
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

operator!(Add, add, try_add, [f32, f64, i32]);
operator!(Sub, sub, try_sub, [f32, f64, i32]);
operator!(Mul, mul, try_mul, [f32, f64, i32]);
operator!(Div, div, try_div, [f32, f64, i32]);
operator!(Rem, rem, try_rem, [f32, f64, i32]);
operator!(BitAnd, bitand, try_bitand, [i32]);
operator!(BitOr, bitor, try_bitor, [i32]);
operator!(BitXor, bitxor, try_bitxor, [i32]);

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
