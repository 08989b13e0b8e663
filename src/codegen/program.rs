//! The SSA form of fused pointwise code, interpreted on the CPU over tiles and printed as WGSL for the GPU.

use crate::DType;
use smallvec::SmallVec;
use std::fmt;

/// A register: the position of the instruction that writes it.
pub(crate) type Reg = u16;

/// `n` elements of a pointwise function on the CPU: argument tiles in, one tile out, all of `n` elements of the register types.
///
/// # Safety
/// Every pointer must be valid for `n` elements of its type; `out` overlaps no argument.
pub(crate) type TileFn = unsafe fn(n: usize, args: &[*const u8], out: *mut u8);

/// The two bodies of a pointwise function. One static per row of the table in `ops/pointwise.rs`; compared by address.
pub(crate) struct Def {
    pub name: &'static str,
    /// The tile function for arguments of a compute dtype (for `where`, the dtype of the branches).
    pub cpu: fn(DType) -> Option<TileFn>,
    /// WGSL for a compute dtype: an expression in which `$0`, `$1`, … stand for the arguments.
    pub wgsl: fn(DType) -> Option<&'static str>,
    /// WGSL functions that the expression calls (may be empty); printed once a shader.
    pub prelude: &'static str,
}

impl Def {
    /// The def as a word of a plan's key.
    pub fn word(&'static self) -> u64 {
        self as *const Def as u64
    }
}

impl PartialEq for Def {
    fn eq(&self, other: &Def) -> bool {
        std::ptr::eq(self, other)
    }
}

impl fmt::Debug for Def {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One instruction. A register holds a *compute* dtype: f32 for f16 and bf16 (which exist in buffers only), bool as one byte on the
/// CPU and as `bool` in WGSL, everything else as itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Instr {
    /// The element of operand `k`, widened to its compute dtype.
    Load(u16),
    /// Scalar `k` of the program.
    Scalar(u16),
    /// The position (u32, in elements) at which operand `k`, which has a layout and no buffer, would be read: for generators such as
    /// iota and random numbers.
    Index(u16),
    /// A pointwise function; `dtype` is the argument that its `cpu` and `wgsl` want, `out` the dtype of its result.
    Apply { def: &'static Def, args: SmallVec<[Reg; 4]>, dtype: DType, out: DType },
    /// A conversion, by PyTorch's rules: to an integer truncates toward zero (out of range and NaN saturate as Rust's `as`), to bool
    /// means `!= 0`. To f16 or bf16 means rounding to that format; the register stays f32.
    Cast { arg: Reg, from: DType, to: DType },
}

/// A straight-line program: instruction `i` writes register `i`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Program {
    pub instrs: Vec<Instr>,
    /// The dtypes in which the scalars are wanted (compute dtypes).
    pub scalars: Vec<DType>,
    /// What is stored, in the order of the kernel's outputs: register and the dtype in memory.
    pub stores: Vec<(Reg, DType)>,
}

impl Program {
    /// Operations on an element.
    pub fn flops(&self) -> u64 {
        self.instrs.iter().filter(|i| matches!(i, Instr::Apply { .. })).count() as u64
    }

    pub fn push(&mut self, instr: Instr) -> Reg {
        self.instrs.push(instr);
        (self.instrs.len() - 1) as Reg
    }
}
