//! New tensors that need no data: constants, ranges, identity, triangles, one-hot. All are functions of the position, so they fuse with
//! what uses them and cost no memory traffic.

use super::movement::narrowed;
use super::pointwise::tile::tile;
use super::pointwise::{Row, Rule, generate};
use crate::codegen::program::Def;
use crate::graph::asked::asked;
use crate::{DType, Error, Options, Result, Scalar, Shape, Tensor};

/// `value` at every position.
pub(crate) static FULL: Row = Row {
    def: Def {
        name: "full",
        cpu: |d| match d {
            DType::Bool | DType::U8 => tile!(map2, u32, u8 => u8, |_, v| v),
            DType::F32 | DType::I32 | DType::U32 => tile!(map2, u32, u32 => u32, |_, v| v),
            DType::F64 | DType::I64 => tile!(map2, u32, u64 => u64, |_, v| v),
            DType::F16 | DType::BF16 => None,
        },
        wgsl: |d| (d.compute() == d && d.on_gpu()).then_some("$1"),
        prelude: "",
    },
    rule: Rule::Generator,
    grads: &[],
    domain: &[],
};

/// `start + i · step`.
pub(crate) static ARANGE: Row = Row {
    def: Def {
        name: "arange",
        cpu: |d| match d {
            DType::U8 => tile!(map3, u32, u8, u8 => u8, |i: u32, s: u8, d: u8| s.wrapping_add((i as u8).wrapping_mul(d))),
            DType::I32 => tile!(map3, u32, i32, i32 => i32, |i: u32, s: i32, d: i32| s.wrapping_add((i as i32).wrapping_mul(d))),
            DType::U32 => tile!(map3, u32, u32, u32 => u32, |i: u32, s: u32, d: u32| s.wrapping_add(i.wrapping_mul(d))),
            DType::I64 => tile!(map3, u32, i64, i64 => i64, |i: u32, s: i64, d: i64| s.wrapping_add((i as i64).wrapping_mul(d))),
            DType::F32 => tile!(map3, u32, f32, f32 => f32, |i: u32, s: f32, d: f32| s + i as f32 * d),
            DType::F64 => tile!(map3, u32, f64, f64 => f64, |i: u32, s: f64, d: f64| s + i as f64 * d),
            _ => None,
        },
        wgsl: |d| match d {
            DType::U8 => Some("(($1 + $0 * $2) & 0xffu)"),
            DType::I32 => Some("($1 + bitcast<i32>($0) * $2)"),
            DType::U32 => Some("($1 + $0 * $2)"),
            DType::F32 => Some("($1 + f32($0) * $2)"),
            _ => None,
        },
        prelude: "",
    },
    rule: Rule::Generator,
    grads: &[],
    domain: &[],
};

/// Whether the element at a row-major position of matrices with `cols` columns and `rows` rows lies on or below diagonal `k`.
macro_rules! triangle {
    ($i:expr, $rows:expr, $cols:expr, $k:expr) => {{
        let (row, col) = (($i / $cols) % $rows, $i % $cols);
        col as i64 <= row as i64 + $k as i64
    }};
}

/// The lower triangle of matrices, as bools: arguments position, rows, cols, k.
pub(crate) static TRIANGLE: Row = Row {
    def: Def {
        name: "triangle",
        cpu: |d| match d {
            DType::Bool => {
                struct F;
                impl super::pointwise::tile::Tile for F {
                    #[inline(always)]
                    unsafe fn run(n: usize, args: &[*const u8], out: *mut u8) {
                        for e in 0..n {
                            // SAFETY: the caller's promise: n elements each.
                            unsafe {
                                let i = *(args[0] as *const u32).add(e);
                                let (rows, cols) = (*(args[1] as *const u32).add(e), *(args[2] as *const u32).add(e));
                                let k = *(args[3] as *const i32).add(e);
                                *out.add(e) = triangle!(i, rows.max(1), cols.max(1), k) as u8;
                            }
                        }
                    }
                }
                Some(super::pointwise::tile::versions::<F>())
            }
            _ => None,
        },
        wgsl: |d| (d == DType::Bool).then_some("(bitcast<i32>($0 % max($2, 1u)) <= bitcast<i32>(($0 / max($2, 1u)) % max($1, 1u)) + $3)"),
        prelude: "",
    },
    rule: Rule::Generator,
    grads: &[],
    domain: &[],
};

/// The lower triangle of a stack of matrices, as bools.
fn triangle(op: &'static str, shape: &Shape, k: isize, device: crate::Device) -> Result<Tensor> {
    let &[.., rows, cols] = &shape[..] else {
        return Err(Error::shape(op, std::slice::from_ref(shape), "at least two axes: a matrix"));
    };
    let k = k.clamp(-(1 << 30), 1 << 30) as i64;
    let scalars = [(rows.into(), DType::U32), (cols.into(), DType::U32), (Scalar::Int(k), DType::I32)];
    generate(&TRIANGLE, &scalars, shape.clone(), DType::Bool, DType::Bool, device)
}

#[fornax_derive::fallible]
impl Tensor {
    /// A tensor with `value` everywhere.
    ///
    /// ```
    /// use fornax::{DType, Device, Tensor};
    /// let x = Tensor::full([2, 2], 7, (DType::I32, Device::cpu()));
    /// assert_eq!(x.to_vec::<i32>()?, [7; 4]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A value that the dtype cannot hold (-1 as the largest number of an unsigned dtype is no error); more than 2³² − 1 elements; a dtype that the
    /// device does not have.
    pub fn try_full(shape: impl Into<Shape>, value: impl Into<Scalar>, options: impl Into<Options>) -> Result<Tensor> {
        let (value, o) = (value.into(), options.into());
        let (value, compute) = (value.fit("full", o.dtype)?, o.dtype.compute());
        generate(&FULL, &[(value, compute)], shape.into(), o.dtype, compute, o.device)
    }

    /// A tensor of zeros.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::zeros(3, Device::cpu()).to_vec::<f32>()?, [0.0; 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`full`](Tensor::full).
    pub fn try_zeros(shape: impl Into<Shape>, options: impl Into<Options>) -> Result<Tensor> {
        Tensor::try_full(shape, 0, options)
    }

    /// A tensor of ones.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones(3, Device::cpu()).to_vec::<f32>()?, [1.0; 3]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`full`](Tensor::full).
    pub fn try_ones(shape: impl Into<Shape>, options: impl Into<Options>) -> Result<Tensor> {
        Tensor::try_full(shape, 1, options)
    }

    /// `value` everywhere, in this tensor's shape, dtype and device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::zeros([2, 2], Device::cpu());
    /// assert_eq!(x.full_like(2.5).to_vec::<f32>()?, [2.5; 4]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_full_like(&self, value: impl Into<Scalar>) -> Result<Tensor> {
        Tensor::try_full(self.shape(), value, (self.dtype(), self.device()))
    }

    /// Zeros in this tensor's shape, dtype and device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::ones(2, Device::cpu()).zeros_like().to_vec::<f32>()?, [0.0; 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_zeros_like(&self) -> Result<Tensor> {
        self.try_full_like(0)
    }

    /// Ones in this tensor's shape, dtype and device.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::zeros(2, Device::cpu()).ones_like().to_vec::<f32>()?, [1.0; 2]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn try_ones_like(&self) -> Result<Tensor> {
        self.try_full_like(1)
    }

    /// `start, start + step, …` up to and without `end`: `⌈(end − start) / step⌉` elements.
    ///
    /// ```
    /// use fornax::{DType, Device, Tensor};
    /// let x = Tensor::arange(0, 10, 3, (DType::I32, Device::cpu()));
    /// assert_eq!(x.to_vec::<i32>()?, [0, 3, 6, 9]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A step of zero, bounds or a step that are not finite, more than 2³² − 1 elements, the dtype bool.
    pub fn try_arange(
        start: impl Into<Scalar>,
        end: impl Into<Scalar>,
        step: impl Into<Scalar>,
        options: impl Into<Options>,
    ) -> Result<Tensor> {
        let (start, end, step, o) = (start.into(), end.into(), step.into(), options.into());
        let (a, b, s) = (start.as_f64(), end.as_f64(), step.as_f64());
        if s == 0.0 || !(a.is_finite() && b.is_finite() && s.is_finite()) {
            return Err(Error::argument("arange", format!("({a}, {b}, {s}): finite bounds and a finite step other than 0 are wanted")));
        }
        let count = match (start, end, step) {
            // Between whole numbers exactly, also where f64 does not tell them apart.
            (Scalar::Int(a), Scalar::Int(b), Scalar::Int(s)) => {
                let (a, b, s) = (i128::from(a), i128::from(b), i128::from(s));
                ((b - a) / s + i128::from((b - a) % s != 0 && ((b - a) < 0) == (s < 0))).max(0) as f64
            }
            _ => ((b - a) / s).ceil().max(0.0),
        };
        if count > u32::MAX as f64 {
            return Err(Error::argument("arange", format!("{count:e} elements: more than 2^32 - 1")));
        }
        if o.dtype == DType::Bool {
            return Err(Error::dtype("arange", &[o.dtype], "a number dtype"));
        }
        range(&ARANGE, start, step, count as usize, o)
    }

    /// `n` numbers from `start` to `end`, both included, in equal steps.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::linspace(0.0, 1.0, 5, Device::cpu()).to_vec::<f32>()?, [0.0, 0.25, 0.5, 0.75, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A dtype that is no float.
    pub fn try_linspace(start: f64, end: f64, n: usize, options: impl Into<Options>) -> Result<Tensor> {
        let o = options.into();
        if !o.dtype.is_float() {
            return Err(Error::dtype("linspace", &[o.dtype], "a float dtype"));
        }
        let step = if n > 1 { (end - start) / (n - 1) as f64 } else { 0.0 };
        // The second half counts from the end, so that both ends are exact.
        let i = Tensor::try_arange(0, n, 1, (o.dtype.compute(), o.device))?;
        let front = i.try_mul(step)?.try_add(start)?;
        let back = i.try_sub(n.saturating_sub(1))?.try_mul(step)?.try_add(end)?;
        i.try_lt(n.div_ceil(2))?.try_where(front, back)?.try_cast(o.dtype)
    }

    /// The identity matrix of `n` rows and columns.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// assert_eq!(Tensor::eye(2, Device::cpu()).to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`full`](Tensor::full).
    pub fn try_eye(n: usize, options: impl Into<Options>) -> Result<Tensor> {
        let o = options.into();
        let shape = Shape::from([n, n]);
        triangle("eye", &shape, 0, o.device)?.try_logical_xor(triangle("eye", &shape, -1, o.device)?)?.try_cast(o.dtype)
    }

    /// The matrices of the last two axes with zeros above diagonal `k` (0 is the main one, positive ones lie above it).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.tril(0).to_vec::<f32>()?, [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two axes.
    pub fn try_tril(&self, k: isize) -> Result<Tensor> {
        triangle("tril", self.shape(), k, self.device())?.try_where(self, zero(self))
    }

    /// The matrices of the last two axes with zeros below diagonal `k` (0 is the main one, positive ones lie above it).
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::ones([2, 3], Device::cpu());
    /// assert_eq!(x.triu(1).to_vec::<f32>()?, [0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two axes.
    pub fn try_triu(&self, k: isize) -> Result<Tensor> {
        triangle("triu", self.shape(), k.saturating_sub(1), self.device())?.try_where(zero(self), self)
    }

    /// Class numbers as rows with a single 1: shape `[…]` to `[…, n]`, dtype f32. A number outside 0..n gives a row of zeros, and the next read of the
    /// device's returns `Error::Index`.
    ///
    /// ```
    /// use fornax::{Device, Tensor};
    /// let x = Tensor::from_slice(&[2, 0], 2, Device::cpu())?;
    /// assert_eq!(x.one_hot(3).to_vec::<f32>()?, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// A dtype that is no integer.
    pub fn try_one_hot(&self, n: usize) -> Result<Tensor> {
        if !self.dtype().is_int() {
            return Err(Error::dtype("one_hot", &[self.dtype()], "an integer dtype: class numbers"));
        }
        let index = narrowed(self)?.try_unsqueeze(-1)?;
        let mut shape = self.shape().clone();
        shape.push(n);
        let ones = Tensor::try_ones(index.shape(), self.device())?;
        asked("one_hot", "", || Tensor::try_zeros(&shape, self.device())?.try_scatter(-1, &index, &ones))
    }
}

/// The zero of a tensor's kind, so that choosing it keeps the dtype.
fn zero(x: &Tensor) -> Scalar {
    if x.dtype() == DType::Bool { Scalar::Bool(false) } else { Scalar::Int(0) }
}

fn range(row: &'static Row, start: Scalar, step: Scalar, n: usize, o: Options) -> Result<Tensor> {
    let compute = o.dtype.compute();
    generate(row, &[(start, compute), (step, compute)], Shape::from(n), o.dtype, compute, o.device)
}

/// The generators' rows.
#[cfg(test)]
pub(crate) static ROWS: &[&Row] = &[&FULL, &ARANGE, &TRIANGLE];
