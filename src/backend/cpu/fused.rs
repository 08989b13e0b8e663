//! Pointwise kernels: a fused program over all cores, one pass over memory.

use super::memory::CpuBuffer;
use super::threads::each;
use super::tile::{Code, Compiled, LARGE, SMALL, Tile, with_compiled, with_state};
use crate::codegen::kernel::{Epilogue, Fused, Operand, collapse};
use crate::{Scalar, Shape};
use smallvec::SmallVec;

/// Instructions × elements from which on waking other threads (about 13 µs) pays.
const PARALLEL: usize = 1 << 17;
/// The shortest last dimension along which tiles are cut row by row; shorter rows share a tile.
const LONG_ROW: usize = 256;
/// Sides from which on a transposed operand is read by square boxes.
const BOX_SIDE: usize = 8;

/// Boxes along the side of a square of them.
const SQUARE: usize = 8;

type Pointers = SmallVec<[*mut u8; 8]>;

/// Where the buffers of operands start.
pub(super) fn bases(operands: &[Operand], buffers: &[&CpuBuffer]) -> Pointers {
    operands.iter().map(|o| o.buffer.map_or(std::ptr::null_mut(), |b| buffers[b].as_ptr())).collect()
}

/// Runs a pointwise kernel. `scalars` are the program's, in its order. The outputs hold garbage before, or an operand (in place).
pub(crate) fn fused(k: &Fused, buffers: &[&CpuBuffer], scalars: &[Scalar]) {
    let bases = bases(&k.operands, buffers);
    let outs: Pointers = k.outputs.iter().map(|&b| buffers[b].as_ptr()).collect();
    pointwise(&Code { shape: &k.shape, program: &k.program, operands: &k.operands, scalars, bases: &bases, outs: &outs });
}

/// Runs pointwise code over the result of a product, in place: operand 0 is `out`.
pub(crate) fn epilogue(e: &Epilogue, out: &CpuBuffer, buffers: &[&CpuBuffer], scalars: &[Scalar]) {
    let mut bases = bases(&e.operands, buffers);
    let outs = [out.as_ptr()];
    if let Some(first) = bases.first_mut() {
        *first = out.as_ptr();
    }
    pointwise(&Code { shape: &e.shape, program: &e.program, operands: &e.operands, scalars, bases: &bases, outs: &outs });
}

/// Runs a program over its whole space.
pub(super) fn pointwise(code: &Code) {
    let n: usize = code.shape.iter().product();
    if n == 0 {
        return;
    }
    with_compiled(|c| {
        c.build(code, false, SMALL);
        if n <= c.tile {
            with_state(|s| {
                // SAFETY: the planner made the layouts fit the buffers, and nobody else has the outputs.
                unsafe {
                    s.prepare(c, code, n);
                    s.run(c, code, Tile::Run { start: 0, n });
                }
            });
        } else if !c.walks {
            let tile = c.tile;
            drive(c, code, n.div_ceil(tile), n, |t| Some(Tile::Run { start: t * tile, n: tile.min(n - t * tile) }));
        } else {
            walk(c, code, n);
        }
    });
}

/// Large kernels with operands that do not lie row-major.
fn walk(c: &mut Compiled, code: &Code, n: usize) {
    let mut shape: Shape = code.shape.iter().copied().collect();
    let mut operands = code.operands.to_vec();
    collapse(&mut shape, None, &mut operands);
    let code = &Code { shape: &shape, operands: &operands, ..*code };
    let last = shape.rank() - 1;
    let cols = shape[last];
    if let Some(dim) = transposed(&shape, &operands) {
        c.build(code, true, LARGE);
        let side = 1 << (c.tile.ilog2() / 2);
        let (rows, width) = (shape[dim], c.tile / side);
        let (down, across) = (rows.div_ceil(side), cols.div_ceil(width));
        // Elements between rows, and dimensions before and between.
        let step: usize = shape[dim + 1..].iter().product();
        let between = step / cols;
        // Squares of boxes, so that the pages of one are met again before they are forgotten.
        let (tall, wide) = (down.min(SQUARE), across.min(SQUARE));
        let (squares_down, squares_across) = (down.div_ceil(tall), across.div_ceil(wide));
        drive(c, code, n / (rows * cols) * squares_down * squares_across * tall * wide, n, |t| {
            let (t, y) = (t / tall, t % tall);
            let (t, x) = (t / wide, t % wide);
            let (t, x) = (t / squares_across, t % squares_across * wide + x);
            let (t, y) = (t / squares_down, t % squares_down * tall + y);
            let (before, between) = (t / between, t % between);
            let start = before * rows * step + y * side * step + between * cols + x * width;
            let inside = y < down && x < across;
            inside.then(|| Tile::Box { start, dim, rows: side.min(rows - y * side), cols: width.min(cols - x * width) })
        });
        return;
    }
    c.build(code, false, SMALL);
    let tile = c.tile;
    if !c.walks || cols < LONG_ROW {
        drive(c, code, n.div_ceil(tile), n, |t| Some(Tile::Run { start: t * tile, n: tile.min(n - t * tile) }));
    } else {
        let pieces = cols.div_ceil(tile);
        let len = cols.div_ceil(pieces).next_multiple_of(16).min(tile);
        drive(c, code, n / cols * pieces, n, |t| {
            let (row, at) = (t / pieces, t % pieces * len);
            Some(Tile::Run { start: row * cols + at, n: len.min(cols - at) })
        });
    }
}

/// The dimension along which some operand has its neighbours, where that is not the last one.
pub(super) fn transposed(shape: &[usize], operands: &[Operand]) -> Option<usize> {
    let last = shape.len() - 1;
    let mut found = None;
    for o in operands.iter().filter(|o| o.buffer.is_some() && o.strides[last].unsigned_abs() > 1 && shape[last] >= BOX_SIDE) {
        for d in 0..last {
            let s = o.strides[d].unsigned_abs();
            if s > 0 && s * 4 <= o.strides[last].unsigned_abs() && shape[d] >= BOX_SIDE {
                found = match found {
                    Some((best, _)) if best <= s => found,
                    _ => Some((s, d)),
                };
            }
        }
    }
    found.map(|(_, d)| d)
}

/// Runs all tiles, on all cores where it pays. Tiles are independent, so that neither their number nor their order shows in the result.
fn drive(c: &Compiled, code: &Code, tiles: usize, n: usize, at: impl Fn(usize) -> Option<Tile> + Sync) {
    let block = |range: std::ops::Range<usize>| {
        with_state(|s| {
            // SAFETY: as in `pointwise`.
            unsafe {
                s.prepare(c, code, c.tile.min(n));
                for tile in range.filter_map(&at) {
                    s.run(c, code, tile);
                }
                s.fence(c);
            }
        })
    };
    if n * (c.instructions() + 1) < PARALLEL {
        return block(0..tiles);
    }
    let len = (tiles / (4 * rayon::current_num_threads())).clamp(4, SQUARE * SQUARE);
    each(tiles.div_ceil(len), 1, &|b| block(b * len..tiles.min((b + 1) * len)));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::DType;
    use crate::codegen::program::{Def, Instr, Program, Reg, TileFn};
    use crate::layout::{Layout, row_major};
    use half::{bf16, f16};
    use smallvec::smallvec;

    unsafe fn binary(n: usize, args: &[*const u8], out: *mut u8, f: impl Fn(f32, f32) -> f32) {
        let (x, y, out) = (args[0].cast::<f32>(), args[1].cast::<f32>(), out.cast::<f32>());
        for a in [x, y] {
            assert!(a.wrapping_add(n) <= out || out.wrapping_add(n) <= a as *mut f32, "the output overlaps an argument");
        }
        (0..n).for_each(|i| unsafe { *out.add(i) = f(*x.add(i), *y.add(i)) });
    }
    unsafe fn add(n: usize, args: &[*const u8], out: *mut u8) {
        unsafe { binary(n, args, out, |a, b| a + b) }
    }
    unsafe fn mul(n: usize, args: &[*const u8], out: *mut u8) {
        unsafe { binary(n, args, out, |a, b| a * b) }
    }
    unsafe fn exp(n: usize, args: &[*const u8], out: *mut u8) {
        unsafe { binary(n, &[args[0], args[0]], out, |a, _| a.exp()) }
    }
    const fn def(name: &'static str, cpu: fn(DType) -> Option<TileFn>) -> Def {
        Def { name, cpu, wgsl: |_| None, prelude: "" }
    }
    pub static ADD: Def = def("add", |_| Some(add));
    pub static MUL: Def = def("mul", |_| Some(mul));
    pub static EXP: Def = def("exp", |_| Some(exp));

    pub fn call(def: &'static Def, args: &[Reg]) -> Instr {
        Instr::Apply { def, args: args.into(), dtype: DType::F32, out: DType::F32 }
    }

    /// A buffer of `n` elements with small values that f16 and bf16 hold exactly.
    pub fn data(dtype: DType, n: usize, seed: usize) -> CpuBuffer {
        let b = CpuBuffer::new(n * dtype.size()).unwrap();
        for i in 0..n {
            let v = ((i * 7 + seed * 13) % 31) as f32 / 8.0 - 1.5;
            unsafe {
                match dtype {
                    DType::F32 => b.slice_mut::<f32>()[i] = v,
                    DType::F16 => b.slice_mut::<f16>()[i] = f16::from_f32(v),
                    DType::BF16 => b.slice_mut::<bf16>()[i] = bf16::from_f32(v),
                    DType::F64 => b.slice_mut::<f64>()[i] = v as f64,
                    DType::I32 => b.slice_mut::<i32>()[i] = (v * 8.0) as i32,
                    DType::I64 => b.slice_mut::<i64>()[i] = (v * 8.0) as i64,
                    DType::U32 => b.slice_mut::<u32>()[i] = (v * 8.0) as u32,
                    DType::U8 | DType::Bool => b.slice_mut::<u8>()[i] = (v > 0.0) as u8,
                }
            }
        }
        b
    }

    pub fn read(b: &CpuBuffer, dtype: DType, i: usize) -> f64 {
        unsafe {
            match dtype {
                DType::F32 => b.slice::<f32>()[i] as f64,
                DType::F16 => b.slice::<f16>()[i].to_f64(),
                DType::BF16 => b.slice::<bf16>()[i].to_f64(),
                DType::F64 => b.slice::<f64>()[i],
                DType::I32 => b.slice::<i32>()[i] as f64,
                DType::I64 => b.slice::<i64>()[i] as f64,
                DType::U32 => b.slice::<u32>()[i] as f64,
                DType::U8 | DType::Bool => b.slice::<u8>()[i] as f64,
            }
        }
    }

    pub fn operand(buffer: usize, dtype: DType, layout: &Layout) -> Operand {
        Operand { buffer: Some(buffer), dtype, strides: layout.strides.clone(), offset: layout.offset }
    }

    /// A program of f32 registers, element by element: the value of each store.
    pub fn oracle(program: &Program, shape: &Shape, operands: &[Operand], buffers: &[&CpuBuffer], scalars: &[Scalar]) -> Vec<Vec<f32>> {
        let walks: Vec<Vec<usize>> = operands
            .iter()
            .map(|o| Layout { shape: shape.clone(), strides: o.strides.clone(), offset: o.offset }.positions().collect())
            .collect();
        let mut results = vec![Vec::new(); program.stores.len()];
        for i in 0..shape.numel() {
            let mut r: Vec<f32> = Vec::new();
            for instr in &program.instrs {
                r.push(match instr {
                    Instr::Load(k) => {
                        let o = &operands[*k as usize];
                        read(buffers[o.buffer.unwrap()], o.dtype, walks[*k as usize][i]) as f32
                    }
                    Instr::Scalar(k) => scalars[*k as usize].as_f64() as f32,
                    Instr::Index(k) => walks[*k as usize][i] as f32,
                    Instr::Apply { def, args, .. } => match def.name {
                        "add" => r[args[0] as usize] + r[args[1] as usize],
                        "mul" => r[args[0] as usize] * r[args[1] as usize],
                        _ => r[args[0] as usize].exp(),
                    },
                    Instr::Cast { arg, to, .. } => match to {
                        DType::F16 => f16::from_f32(r[*arg as usize]).to_f32(),
                        DType::BF16 => bf16::from_f32(r[*arg as usize]).to_f32(),
                        _ => r[*arg as usize],
                    },
                });
            }
            for (out, (reg, dtype)) in results.iter_mut().zip(&program.stores) {
                out.push(match dtype {
                    DType::F16 => f16::from_f32(r[*reg as usize]).to_f32(),
                    DType::BF16 => bf16::from_f32(r[*reg as usize]).to_f32(),
                    _ => r[*reg as usize],
                });
            }
        }
        results
    }

    /// Layouts that broadcast, transpose, slice and flip to `shape`, in buffers of `2 · numel + 64` elements.
    pub fn layouts(shape: &Shape) -> Vec<Layout> {
        let rank = shape.rank();
        let plain = Layout::contiguous(shape.clone());
        let mut all = vec![plain.clone(), Layout { offset: 5, ..plain.clone() }, Layout { strides: smallvec![0; rank], ..plain.clone() }];
        let order: Vec<usize> = (0..rank).rev().collect();
        let back: Shape = order.iter().map(|&d| shape[d]).collect();
        all.push(Layout::contiguous(back).permute(&order));
        let numel = plain.numel();
        all.push(Layout { strides: plain.strides.iter().map(|s| -s).collect(), offset: numel.max(1) - 1, ..plain.clone() });
        all.push(Layout { strides: plain.strides.iter().map(|s| s * 2).collect(), offset: 1, ..plain.clone() });
        for d in 0..rank {
            let mut one = shape.clone();
            one[d] = 1;
            all.push(Layout::contiguous(one).expand(shape));
            let mut only: Shape = (0..rank).map(|_| 1).collect();
            only[d] = shape[d];
            all.push(Layout::contiguous(only).expand(shape));
        }
        all
    }

    pub fn shapes() -> Vec<Shape> {
        let list: [&[usize]; 13] = [
            &[],
            &[1],
            &[7],
            &[0, 3],
            &[5000],
            &[3, 1, 5],
            &[13, 11],
            &[300, 7],
            &[3, 1025],
            &[130, 257],
            &[4, 33, 70],
            &[2, 3, 4, 5, 6, 7],
            &[9, 40_001],
        ];
        list.iter().map(|&s| s.iter().copied().collect()).collect()
    }

    fn check(k: &Fused, buffers: &[&CpuBuffer], scalars: &[Scalar]) {
        let want = oracle(&k.program, &k.shape, &k.operands, buffers, scalars);
        fused(k, buffers, scalars);
        for (s, &(_, dtype)) in k.program.stores.iter().enumerate() {
            for (i, &w) in want[s].iter().enumerate() {
                let got = read(buffers[k.outputs[s]], dtype, i);
                assert_eq!(got, w as f64, "store {s} at {i} of {} {k:?}", k.shape);
            }
        }
    }

    #[test]
    fn chains_over_all_layouts_and_dtypes() {
        for shape in shapes() {
            let n = shape.numel();
            let list = layouts(&shape);
            for (i, a) in list.iter().enumerate() {
                let b = &list[(i * 5 + 3) % list.len()];
                let c = &list[(i * 3 + 1) % list.len()];
                for (j, dtypes) in [[DType::F32; 3], [DType::F16, DType::F32, DType::BF16]].into_iter().enumerate() {
                    let ins: Vec<CpuBuffer> = dtypes.iter().enumerate().map(|(s, &d)| data(d, 2 * n + 64, s + j)).collect();
                    let outs: Vec<CpuBuffer> = dtypes.iter().map(|d| CpuBuffer::new(n * d.size()).unwrap()).collect();
                    let program = Program {
                        instrs: vec![
                            Instr::Load(0),
                            Instr::Scalar(0),
                            call(&MUL, &[0, 1]),
                            Instr::Load(1),
                            Instr::Cast { arg: 3, from: dtypes[1], to: DType::F32 },
                            call(&ADD, &[2, 4]),
                            call(&MUL, &[5, 5]),
                            Instr::Load(2),
                            Instr::Cast { arg: 6, from: DType::F32, to: DType::F16 },
                            call(&ADD, &[8, 7]),
                            Instr::Scalar(1),
                            call(&EXP, &[10]),
                            call(&ADD, &[9, 11]),
                        ],
                        scalars: vec![DType::F32; 2],
                        stores: vec![(12, dtypes[0]), (5, dtypes[1]), (7, dtypes[2])],
                    };
                    let k = Fused {
                        shape: shape.clone(),
                        program,
                        operands: [a, b, c].iter().enumerate().map(|(k, l)| operand(k, dtypes[k], l)).collect(),
                        scalars: vec![],
                        outputs: vec![3, 4, 5],
                    };
                    let buffers: Vec<&CpuBuffer> = ins.iter().chain(&outs).collect();
                    check(&k, &buffers, &[Scalar::Float(0.5), Scalar::Float(-1.25)]);
                }
            }
        }
    }

    #[test]
    fn copies_move_bits_of_every_size() {
        for shape in shapes() {
            for layout in layouts(&shape) {
                for dtype in DType::ALL {
                    let (x, y) = (data(dtype, 2 * shape.numel() + 64, 1), CpuBuffer::new(shape.numel() * dtype.size()).unwrap());
                    let program = Program { instrs: vec![Instr::Load(0)], scalars: vec![], stores: vec![(0, dtype)] };
                    let operands = vec![operand(0, dtype, &layout)];
                    check(&Fused { shape: shape.clone(), program, operands, scalars: vec![], outputs: vec![1] }, &[&x, &y], &[]);
                }
            }
        }
    }

    #[test]
    fn positions_follow_the_layout() {
        for shape in shapes() {
            for layout in layouts(&shape) {
                let y = CpuBuffer::new(shape.numel() * 4).unwrap();
                let program = Program {
                    instrs: vec![Instr::Index(0), Instr::Cast { arg: 0, from: DType::U32, to: DType::F32 }],
                    scalars: vec![],
                    stores: vec![(1, DType::F32)],
                };
                let operands = vec![Operand { buffer: None, ..operand(0, DType::U32, &layout) }];
                check(&Fused { shape: shape.clone(), program, operands, scalars: vec![], outputs: vec![0] }, &[&y], &[]);
            }
        }
    }

    #[test]
    fn in_place_and_epilogue() {
        for (dtype, n) in [(DType::F32, 5), (DType::F32, 100_003), (DType::F16, 5000)] {
            // x = (x + y) · x, and the old x goes to a second output.
            let (x, y, z) = (data(dtype, n, 1), data(dtype, n, 2), CpuBuffer::new(n * dtype.size()).unwrap());
            let program = Program {
                instrs: vec![Instr::Load(0), Instr::Load(1), call(&ADD, &[0, 1]), call(&MUL, &[2, 0])],
                scalars: vec![],
                stores: vec![(3, dtype), (0, dtype)],
            };
            let layout = Layout::contiguous([n].into());
            let operands = vec![operand(0, dtype, &layout), operand(1, dtype, &layout)];
            check(&Fused { shape: [n].into(), program, operands, scalars: vec![], outputs: vec![0, 2] }, &[&x, &y, &z], &[]);
        }
        let shape = Shape::from([37, 300]);
        let (x, bias) = (data(DType::F32, 37 * 300, 1), data(DType::F32, 300, 2));
        let program =
            Program { instrs: vec![Instr::Load(0), Instr::Load(1), call(&ADD, &[0, 1])], scalars: vec![], stores: vec![(2, DType::F32)] };
        let operands = vec![
            Operand { buffer: None, dtype: DType::F32, strides: row_major(&shape), offset: 0 },
            Operand { buffer: Some(0), dtype: DType::F32, strides: smallvec![0, 1], offset: 0 },
        ];
        let want: Vec<f64> = (0..37 * 300).map(|i| read(&x, DType::F32, i) + read(&bias, DType::F32, i % 300)).collect();
        epilogue(&Epilogue { shape, program, operands, scalars: vec![] }, &x, &[&bias], &[]);
        assert!((0..want.len()).all(|i| read(&x, DType::F32, i) == want[i]));
    }
}
