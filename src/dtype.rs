//! Element types of tensors.

use half::{bf16, f16};
use std::fmt;

/// The type of a tensor's elements.
///
/// | dtype | CPU | GPU storage |
/// |---|---|---|
/// | `Bool` | one byte, 0 or 1 | one `u32` an element |
/// | `U8` | one byte | packed, four in a word |
/// | `I32`, `U32`, `F32` | four bytes | one word |
/// | `F16`, `BF16` | two bytes | packed, two in a word; computed in f32 |
/// | `I64`, `F64` | eight bytes | not available: a clear error says so |
///
/// ```
/// use fornax::DType;
/// assert_eq!(DType::BF16.size(), 2);
/// assert_eq!(DType::F16.promote(DType::BF16), DType::F32);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// True or false.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 32-bit integer: the dtype of indices.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer, on the CPU only.
    I64,
    /// IEEE half precision: a storage format, computed in f32.
    F16,
    /// bfloat16: a storage format, computed in f32.
    BF16,
    /// IEEE single precision: the default.
    F32,
    /// IEEE double precision, on the CPU only.
    F64,
}

impl DType {
    /// Every dtype.
    pub const ALL: [DType; 9] =
        [DType::Bool, DType::U8, DType::I32, DType::U32, DType::I64, DType::F16, DType::BF16, DType::F32, DType::F64];

    /// Bytes of one element in host memory.
    ///
    /// ```
    /// assert_eq!(fornax::DType::BF16.size(), 2);
    /// ```
    pub const fn size(self) -> usize {
        match self {
            DType::Bool | DType::U8 => 1,
            DType::F16 | DType::BF16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }

    /// Bytes of one element in GPU memory (a bool takes a whole word there).
    ///
    /// ```
    /// use fornax::DType;
    /// assert_eq!((DType::Bool.size(), DType::Bool.gpu_size()), (1, 4));
    /// ```
    pub const fn gpu_size(self) -> usize {
        match self {
            DType::Bool => 4,
            d => d.size(),
        }
    }

    /// Whether this is a floating-point dtype: the ones that can carry gradients.
    ///
    /// ```
    /// use fornax::DType;
    /// assert!(DType::F16.is_float() && !DType::I32.is_float());
    /// ```
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// Whether this is an integer dtype (`Bool` is not).
    ///
    /// ```
    /// use fornax::DType;
    /// assert!(DType::U8.is_int() && !DType::Bool.is_int());
    /// ```
    pub const fn is_int(self) -> bool {
        matches!(self, DType::U8 | DType::I32 | DType::U32 | DType::I64)
    }

    /// Whether a GPU can hold this dtype.
    ///
    /// ```
    /// use fornax::DType;
    /// assert!(DType::F16.on_gpu() && !DType::F64.on_gpu());
    /// ```
    pub const fn on_gpu(self) -> bool {
        !matches!(self, DType::I64 | DType::F64)
    }

    /// The dtype in which arithmetic on this one is done: f32 for f16 and bf16, itself otherwise.
    ///
    /// ```
    /// use fornax::DType;
    /// assert_eq!((DType::F16.compute(), DType::I32.compute()), (DType::F32, DType::I32));
    /// ```
    pub const fn compute(self) -> DType {
        match self {
            DType::F16 | DType::BF16 => DType::F32,
            d => d,
        }
    }

    /// The dtype of an operation between two dtypes, by PyTorch's promotion lattice: a float beats an integer, the wider beats the
    /// narrower, f16 with bf16 gives f32, a signed with an unsigned integer of its size gives i64.
    ///
    /// ```
    /// use fornax::DType::*;
    /// assert_eq!(I32.promote(F16), F16);
    /// assert_eq!(F16.promote(BF16), F32);
    /// ```
    pub fn promote(self, other: DType) -> DType {
        use DType::*;
        if self == other {
            return self;
        }
        let (a, b) = if self < other { (self, other) } else { (other, self) };
        match (a, b) {
            (F16, BF16) => F32,
            (I32, U32) => I64,
            _ => b,
        }
    }

    /// The short name used in messages: `f32`, `i64`, `bool`.
    ///
    /// ```
    /// assert_eq!(fornax::DType::BF16.name(), "bf16");
    /// ```
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A Rust type that can be an element of a tensor.
///
/// ```
/// use fornax::{DType, Element};
/// assert_eq!(f32::DTYPE, DType::F32);
/// assert_eq!(bool::DTYPE, DType::Bool);
/// ```
pub trait Element: bytemuck::NoUninit + bytemuck::CheckedBitPattern + Send + Sync + PartialEq + fmt::Debug + 'static {
    /// The dtype of tensors of this type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
elements!(bool => Bool, u8 => U8, i32 => I32, u32 => U32, i64 => I64, f16 => F16, bf16 => BF16, f32 => F32, f64 => F64);

/// A number given to an op as an attribute: a learning rate, a bound, a fill value. It never enters a plan's key.
///
/// ```
/// use fornax::Scalar;
/// assert_eq!(Scalar::from(2).as_f64(), 2.0);
/// assert_eq!(Scalar::from(2.7).as_i64(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A real number.
    Float(f64),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl Scalar {
    /// As a real number.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(v) => v,
            Scalar::Int(v) => v as f64,
            Scalar::Bool(v) => v as u8 as f64,
        }
    }

    /// As an integer, truncated toward zero and saturating.
    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::Float(v) => v as i64,
            Scalar::Int(v) => v,
            Scalar::Bool(v) => v as i64,
        }
    }

    /// As a truth value: false only for zero.
    pub fn as_bool(self) -> bool {
        match self {
            Scalar::Float(v) => v != 0.0,
            Scalar::Int(v) => v != 0,
            Scalar::Bool(v) => v,
        }
    }

    /// The dtype of an op between a tensor of `dtype` and this scalar: the tensor's, unless the scalar is of a higher kind
    /// (a float beside an integer gives f32, an integer beside a bool gives i32).
    pub fn promote(self, dtype: DType) -> DType {
        match self {
            Scalar::Float(_) if !dtype.is_float() => DType::F32,
            Scalar::Int(_) if dtype == DType::Bool => DType::I32,
            _ => dtype,
        }
    }

    /// The smallest and the largest number of an integer dtype.
    pub(crate) fn bounds(dtype: DType) -> (i64, i64) {
        match dtype {
            DType::U8 => (0, u8::MAX as i64),
            DType::U32 => (0, u32::MAX as i64),
            DType::I32 => (i32::MIN as i64, i32::MAX as i64),
            _ => (i64::MIN, i64::MAX),
        }
    }

    /// This scalar, of `dtype`'s kind (truncated, for an integer), where the dtype can hold it. As in PyTorch, -1 is the largest number of an unsigned dtype.
    pub(crate) fn fit(self, op: &'static str, dtype: DType) -> crate::Result<Scalar> {
        let v = self.as_f64();
        let (fits, holds) = match dtype {
            DType::Bool => return Ok(Scalar::Bool(self.as_bool())),
            d if d.is_int() => {
                let (lo, hi) = Scalar::bounds(dtype);
                let wraps = if lo == 0 { -hi } else { lo };
                let fits = v.is_finite() && v >= i64::MIN as f64 && v <= i64::MAX as f64 && (wraps..=hi).contains(&self.as_i64());
                (fits, format!("{lo} to {hi}"))
            }
            d => {
                let largest = match d {
                    DType::F16 => f16::MAX.to_f64(),
                    DType::BF16 => bf16::MAX.to_f64(),
                    DType::F32 => f32::MAX as f64,
                    _ => f64::MAX,
                };
                (!v.is_finite() || v.abs() <= largest, format!("numbers up to {largest:e}"))
            }
        };
        if !fits {
            return Err(crate::Error::argument(op, format!("{v} cannot be converted to {dtype} without overflow: it holds {holds}")));
        }
        Ok(if dtype.is_int() { Scalar::Int(self.as_i64()) } else { self })
    }

    /// The scalar as one word of a GPU parameter block for the given compute dtype (bool and integers as integers).
    pub(crate) fn word(self, dtype: DType) -> u32 {
        match dtype {
            DType::Bool => self.as_bool() as u32,
            DType::U8 => self.as_i64() as u8 as u32,
            DType::U32 | DType::I64 => self.as_i64() as u32,
            DType::I32 => self.as_i64() as i32 as u32,
            DType::F16 | DType::BF16 | DType::F32 | DType::F64 => (self.as_f64() as f32).to_bits(),
        }
    }
}

macro_rules! scalars {
    ($($t:ty => $v:ident as $u:ty),*) => { $(impl From<$t> for Scalar { fn from(v: $t) -> Self { Scalar::$v(v as $u) } })* };
}
scalars!(f32 => Float as f64, f64 => Float as f64, i32 => Int as i64, i64 => Int as i64, u8 => Int as i64, u32 => Int as i64, usize => Int as i64);

impl From<bool> for Scalar {
    fn from(v: bool) -> Self {
        Scalar::Bool(v)
    }
}
