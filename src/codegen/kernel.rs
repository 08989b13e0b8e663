//! The generated kernels: pointwise programs and reductions over an iteration space.

use super::program::Program;
use crate::layout::Strides;
use crate::{DType, Shape};

/// What a kernel reads at a point of its iteration space. Strides are those of the iteration space (one a dimension, 0 where the operand
/// does not move), in elements. An operand that only gives a position (`Instr::Index`) has no buffer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operand {
    pub buffer: Option<usize>,
    pub dtype: DType,
    pub strides: Strides,
    pub offset: usize,
}

/// Where a scalar's value comes from at replay: scalar `index` of the op of node `entry` of the flush.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ScalarRef {
    pub entry: usize,
    pub index: usize,
}

/// A pointwise kernel. Every output is row-major over `shape`, from the first element of its buffer. An output's buffer may also be an
/// operand's (in place): then that operand is read at the same positions only.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fused {
    pub shape: Shape,
    pub program: Program,
    pub operands: Vec<Operand>,
    pub scalars: Vec<ScalarRef>,
    pub outputs: Vec<usize>,
}

/// The kind of a reduction. NaN wins in `Max`, `Min` and the arg forms, as in PyTorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReduceKind {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    /// The position (i32, row-major over the reduced axes) of the first maximum.
    ArgMax,
    ArgMin,
    Any,
    All,
}

/// A reduction of a program's one store over some dimensions of the iteration space. The output is row-major over the kept dimensions.
/// Sums of f32, f16 and bf16 accumulate in f32, in an order that depends on the shape alone. Empty: 0, NaN, 1, and for max and min the
/// caller has raised an error; any is false, all is true.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FusedReduce {
    pub kind: ReduceKind,
    pub shape: Shape,
    /// One flag a dimension of `shape`.
    pub reduced: Vec<bool>,
    pub program: Program,
    pub operands: Vec<Operand>,
    pub scalars: Vec<ScalarRef>,
    pub output: usize,
    /// The dtype in memory of the output.
    pub out_dtype: DType,
}

/// Pointwise code over the output of a matmul or a convolution: operand 0 is the kernel's own result (f32), in place; the others are read
/// beside it. The iteration space is `shape`, row-major over the output's elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Epilogue {
    pub shape: Shape,
    pub program: Program,
    pub operands: Vec<Operand>,
    pub scalars: Vec<ScalarRef>,
}

/// Drops dimensions of size 1 and merges neighbours that every operand walks as one (and that are both reduced or both kept). The result
/// has at least one dimension.
pub(crate) fn collapse(shape: &mut Shape, reduced: Option<&mut Vec<bool>>, operands: &mut [Operand]) {
    let mut none = vec![false; shape.rank()];
    let flags = reduced.unwrap_or(&mut none);
    let mut d = shape.rank();
    while d > 0 {
        d -= 1;
        if shape.rank() > 1 && shape[d] == 1 {
            shape.remove(d);
            flags.remove(d);
            for o in operands.iter_mut() {
                o.strides.remove(d);
            }
        }
    }
    let mut d = shape.rank();
    while d > 1 {
        d -= 1;
        let n = shape[d] as isize;
        if flags[d] == flags[d - 1] && operands.iter().all(|o| o.strides[d - 1] == o.strides[d] * n) {
            shape[d - 1] *= shape[d];
            shape.remove(d);
            flags.remove(d);
            for o in operands.iter_mut() {
                o.strides.remove(d - 1);
            }
        }
    }
    if shape.rank() == 0 {
        shape.push(1);
        flags.push(false);
        operands.iter_mut().for_each(|o| o.strides.push(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collapse_merges_what_moves_together() {
        let op = |strides: &[isize]| Operand { buffer: Some(0), dtype: DType::F32, strides: strides.iter().copied().collect(), offset: 0 };
        let mut shape = Shape::from([2, 1, 3, 4]);
        let mut ops = vec![op(&[12, 12, 4, 1]), op(&[0, 0, 4, 1])];
        collapse(&mut shape, None, &mut ops);
        assert_eq!(shape, [2, 12]);
        assert_eq!(ops[1].strides[..], [0, 1]);
        let mut shape = Shape::from([2, 3, 4]);
        let mut reduced = vec![false, true, true];
        let mut ops = vec![op(&[12, 4, 1])];
        collapse(&mut shape, Some(&mut reduced), &mut ops);
        assert_eq!((shape.to_vec(), reduced), (vec![2, 12], vec![false, true]));
    }
}
