//! Generated shaders against plain loops: validated by naga for every capability profile, and run where there is a GPU.

use super::dispatch::{Binding, Caps, Dispatch, GpuStep, Param, Slot};
use super::kernel::{Epilogue, Fused, FusedReduce, Operand, ReduceKind, ScalarRef};
use super::program::{Def, Instr, Program, Reg};
use super::wgsl::preprocess;
use super::wgsl_epilogue::epilogue;
use super::wgsl_fused::{fused, fused_pieces};
use super::wgsl_reduce::reduce;
use crate::layout::{Layout, row_major};
use crate::{DType, Shape};
use half::{bf16, f16};
use smallvec::smallvec;

pub(super) static ADD: Def = Def { name: "add", cpu: |_| None, wgsl: |_| Some("$0 + $1"), prelude: "" };
pub(super) static LT: Def = Def { name: "lt", cpu: |_| None, wgsl: |_| Some("$0 < $1"), prelude: "" };
static TWICE: Def = Def {
    name: "twice",
    cpu: |_| None,
    wgsl: |_| Some("twice($0)"),
    prelude: "const TWO: f32 = 2.0;\nfn twice(x: f32) -> f32 {\n    return x * TWO;\n}\n",
};

pub(super) const GPU_DTYPES: [DType; 7] = [DType::F32, DType::I32, DType::U32, DType::U8, DType::F16, DType::BF16, DType::Bool];

/// Parses and validates a shader.
pub(super) fn validate(d: &Dispatch) {
    let module = naga::front::wgsl::parse_str(&d.source).unwrap_or_else(|e| panic!("{}\n{}", e.emit_to_string(&d.source), d.source));
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32);
    validator.validate(&module).unwrap_or_else(|e| panic!("{}\n{}", e.emit_to_string(&d.source), d.source));
    assert!(d.bindings.len() <= 8, "{}", d.source);
}

/// The value that memory of a dtype keeps of `v`.
pub(super) fn kept(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F32 | DType::F64 => v as f32 as f64,
        DType::F16 => f16::from_f64(v as f32 as f64).to_f64(),
        DType::BF16 => bf16::from_f32(v as f32).to_f64(),
        DType::I32 => v as i32 as f64,
        DType::U32 => v as u32 as f64,
        DType::U8 => v as u8 as f64,
        DType::I64 => v as i64 as f64,
        DType::Bool => (v != 0.0) as u8 as f64,
    }
}

pub(super) fn to_bytes(dtype: DType, values: &[f64]) -> Vec<u8> {
    let one = |&v: &f64| -> Vec<u8> {
        match dtype {
            DType::F32 => (v as f32).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(v).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f64(v).to_le_bytes().to_vec(),
            DType::I32 => (v as i32).to_le_bytes().to_vec(),
            DType::U32 => (v as u32).to_le_bytes().to_vec(),
            DType::U8 => vec![v as u8],
            _ => ((v != 0.0) as u32).to_le_bytes().to_vec(),
        }
    };
    values.iter().flat_map(one).collect()
}

pub(super) fn from_bytes(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let word = |w: &[u8]| [w[0], w[1], w[2], w[3]];
    bytes
        .chunks_exact(dtype.gpu_size())
        .map(|w| match dtype {
            DType::F32 => f32::from_le_bytes(word(w)) as f64,
            DType::F16 => f16::from_le_bytes([w[0], w[1]]).to_f64(),
            DType::BF16 => bf16::from_le_bytes([w[0], w[1]]).to_f64(),
            DType::I32 => i32::from_le_bytes(word(w)) as f64,
            DType::U8 => w[0] as f64,
            _ => u32::from_le_bytes(word(w)) as f64,
        })
        .collect()
}

/// A small generator, so that tests need no seed from outside.
pub(super) struct Lcg(pub u64);

impl Lcg {
    pub fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }
}

/// Values that every dtype's rules have something to say about.
pub(super) fn sample(dtype: DType, n: usize, rng: &mut Lcg) -> Vec<f64> {
    const HARD: [f64; 14] =
        [0.0, -0.0, 1.5, -1.5, 0.1, 70000.0, -70000.0, 1e-6, 6e-8, 3e9, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 2049.0];
    (0..n)
        .map(|_| {
            let v = if rng.next(3) == 0 { HARD[rng.next(HARD.len())] } else { rng.next(2000) as f64 / 8.0 - 100.0 };
            kept(dtype, v)
        })
        .collect()
}

/// A view of a shape: contiguous, shifted, transposed, flipped, broadcast.
pub(super) fn view(shape: &Shape, kind: usize) -> Layout {
    let rank = shape.rank();
    match kind {
        0 => Layout::contiguous(shape.clone()),
        1 | 2 => Layout { offset: if kind == 1 { 8 } else { 3 }, ..Layout::contiguous(shape.clone()) },
        3 => {
            let order: Vec<usize> = (0..rank).rev().collect();
            let turned: Shape = order.iter().map(|&a| shape[a]).collect();
            Layout::contiguous(turned).permute(&order)
        }
        4 if rank > 0 && shape.numel() > 0 => Layout::contiguous(shape.clone()).slice(rank - 1, shape[rank - 1] - 1, -1, shape[rank - 1]),
        5 | 6 if rank > 0 => {
            let mut small = shape.clone();
            small[if kind == 5 { 0 } else { rank - 1 }] = 1;
            Layout::contiguous(small).expand(shape)
        }
        7 => Layout { shape: shape.clone(), strides: smallvec![0; rank], offset: 2 },
        8 if rank > 0 => {
            let mut wide = shape.clone();
            wide[rank - 1] += 4;
            Layout { shape: shape.clone(), strides: row_major(&wide), offset: 4 }
        }
        _ => Layout::contiguous(shape.clone()),
    }
}

pub(super) const VIEWS: usize = 9;

/// `cast(cast(a, f32) + s·… , out)`, and a comparison, over two operands.
pub(super) fn program(a: DType, b: DType, out: DType) -> Program {
    let mut p = Program { scalars: vec![DType::F32], ..Program::default() };
    let load = |p: &mut Program, k: u16, d: DType| -> Reg {
        let r = p.push(Instr::Load(k));
        if d == DType::F32 { r } else { p.push(Instr::Cast { arg: r, from: d, to: DType::F32 }) }
    };
    let (x, y) = (load(&mut p, 0, a), load(&mut p, 1, b));
    let s = p.push(Instr::Scalar(0));
    let sum = p.push(Instr::Apply { def: &ADD, args: smallvec![x, s], dtype: DType::F32, out: DType::F32 });
    let less = p.push(Instr::Apply { def: &LT, args: smallvec![x, y], dtype: DType::F32, out: DType::Bool });
    let twice = p.push(Instr::Apply { def: &TWICE, args: smallvec![sum], dtype: DType::F32, out: DType::F32 });
    let twice_again = p.push(Instr::Apply { def: &TWICE, args: smallvec![twice], dtype: DType::F32, out: DType::F32 });
    let cast = p.push(Instr::Cast { arg: twice_again, from: DType::F32, to: out });
    p.stores = vec![(cast, out), (less, DType::Bool)];
    p
}

fn expected(a: f64, b: f64, out: DType) -> (f64, f64) {
    let v = (a as f32 + 0.25) * 2.0 * 2.0;
    (kept(out, v as f64), ((a as f32) < (b as f32)) as u8 as f64)
}

fn operand(buffer: usize, dtype: DType, l: &Layout) -> Operand {
    Operand { buffer: Some(buffer), dtype, strides: l.strides.clone(), offset: l.offset }
}

fn kernel(shape: &Shape, a: (DType, &Layout), b: (DType, &Layout), out: DType) -> Fused {
    Fused {
        shape: shape.clone(),
        program: program(a.0, b.0, out),
        operands: vec![operand(0, a.0, a.1), operand(1, b.0, b.1)],
        scalars: vec![ScalarRef { entry: 0, index: 0 }],
        outputs: vec![2, 3],
    }
}

pub(super) fn shapes() -> Vec<Shape> {
    [vec![], vec![1], vec![5], vec![1024], vec![3, 7], vec![4, 8], vec![2, 3, 5, 4], vec![2, 1, 1029], vec![3, 5, 6]]
        .map(Shape::from)
        .to_vec()
}

#[test]
fn fused_text_is_valid() {
    let mut texts = std::collections::HashSet::new();
    for shape in shapes() {
        for v in 0..VIEWS * VIEWS {
            let (a, b) = (GPU_DTYPES[v % 7], GPU_DTYPES[(v / 2) % 7]);
            let k = kernel(&shape, (a, &view(&shape, v % VIEWS)), (b, &view(&shape, v / VIEWS)), GPU_DTYPES[(v / 3) % 7]);
            let d = fused(&k, &Caps::PORTABLE).unwrap();
            if texts.insert(d.source.clone()) {
                validate(&d);
            }
        }
    }
    // A new shape of the same kind has the same text.
    let text = |n: usize| {
        let shape = Shape::from([n, 12]);
        fused(&kernel(&shape, (DType::F32, &view(&shape, 0)), (DType::F16, &view(&shape, 5)), DType::F32), &Caps::PORTABLE).unwrap().source
    };
    assert_eq!(text(3), text(7));
}

pub(super) fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

#[cfg(feature = "wgpu")]
pub(super) mod on_gpu {
    use super::*;
    use crate::backend::gpu::{Gpu, GpuBuffer, test_gpu};
    use crate::codegen::dispatch::Placed;

    pub fn run(gpu: &Gpu, steps: Vec<Placed>, buffers: &[&GpuBuffer]) {
        let plan = gpu.compile(steps, gpu.caps()).unwrap();
        gpu.run(&plan, buffers, &|p| match p {
            Param::Remote { dtype, .. } => crate::Scalar::Float(0.25).word(*dtype),
            _ => 0,
        })
        .unwrap();
    }

    fn check(gpu: &Gpu, caps: &Caps, shape: &Shape, a: (DType, usize), b: (DType, usize), out: DType, in_place: bool) {
        let mut rng = Lcg(shape.numel() as u64 + a.1 as u64 * 7 + b.1 as u64);
        let (la, lb) = (view(shape, a.1), view(shape, b.1));
        let (va, vb) = (sample(a.0, la.end().max(1), &mut rng), sample(b.0, lb.end().max(1), &mut rng));
        let mut k = kernel(shape, (a.0, &la), (b.0, &lb), out);
        if in_place {
            k.outputs[0] = 0;
        }
        let n = shape.numel();
        let buffers = [
            gpu.upload(&to_bytes(a.0, &va)).unwrap(),
            gpu.upload(&to_bytes(b.0, &vb)).unwrap(),
            gpu.alloc(n * out.gpu_size()).unwrap(),
            gpu.alloc(n * 4).unwrap(),
        ];
        run(gpu, fused_pieces(&k, caps).unwrap().unwrap(), &buffers.each_ref());
        let y = from_bytes(out, &gpu.read(&buffers[k.outputs[0]], n * out.gpu_size()).unwrap());
        let less = from_bytes(DType::Bool, &gpu.read(&buffers[3], n * 4).unwrap());
        for (i, (pa, pb)) in la.positions().zip(lb.positions()).enumerate() {
            let want = expected(va[pa], vb[pb], out);
            assert!(
                same(y[i], want.0) && less[i] == want.1,
                "{shape} {a:?} {b:?} {out}: element {i} of {} is {:?}, not {want:?}\n{}",
                va[pa],
                (y[i], less[i]),
                fused(&k, gpu.caps()).unwrap().source
            );
        }
    }

    #[test]
    fn fused_kernels_agree_with_loops() {
        let Some(gpu) = test_gpu() else { return };
        let mut count = 0;
        for (s, shape) in shapes().iter().enumerate() {
            for v in 0..VIEWS {
                let (a, b) = (GPU_DTYPES[(v + s) % 7], GPU_DTYPES[(v + 2 * s + 1) % 7]);
                let out = GPU_DTYPES[(v * 3 + s) % 7];
                check(gpu, gpu.caps(), shape, (a, v), (b, (v * 2 + s) % VIEWS), out, false);
                count += 1;
            }
        }
        for d in GPU_DTYPES {
            for e in GPU_DTYPES {
                check(gpu, gpu.caps(), &Shape::from([1027]), (d, 0), (d, 2), e, false);
                count += 1;
            }
            check(gpu, gpu.caps(), &Shape::from([1027]), (d, 0), (d, 2), d, true);
        }
        check(gpu, gpu.caps(), &Shape::from([0, 3]), (DType::F32, 0), (DType::F32, 0), DType::F32, false);
        assert_eq!(count, 130);
    }

    #[test]
    fn more_than_65535_workgroups_fold() {
        let Some(gpu) = test_gpu() else { return };
        let shape = Shape::from([66_000, 1024]);
        let l = view(&shape, 7);
        let mut k = kernel(&shape, (DType::U8, &l), (DType::U8, &l), DType::U8);
        // Only the first output: the second would take four times as much.
        k.program.stores.truncate(1);
        k.outputs.truncate(1);
        let small = gpu.upload(&[9; 16]).unwrap();
        let out = gpu.alloc(shape.numel()).unwrap();
        run(gpu, fused_pieces(&k, gpu.caps()).unwrap().unwrap(), &[&small, &small, &out]);
        assert!(gpu.read(&out, shape.numel()).unwrap().iter().all(|&v| v == 37));
    }

    #[test]
    fn epilogues_run_inside_a_kernel() {
        let Some(gpu) = test_gpu() else { return };
        const KERNEL: &str = "
struct Params { n: u32, {{EPILOGUE_FIELDS}} }
@group(1) @binding(0) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read_write> out: array<f32>;
{{EPILOGUE}}
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < p.n) { out[id.x] = epilogue(f32(id.x), id.x); }
}";
        for v in 0..VIEWS {
            for (d, shape) in GPU_DTYPES.iter().zip([[3, 5, 7], [1, 4, 8], [2, 1, 6], [5, 5, 1], [1, 1, 1], [7, 3, 2], [2, 2, 4]]) {
                let shape = Shape::from(shape);
                let n = shape.numel();
                let l = view(&shape, v);
                let values = sample(*d, l.end(), &mut Lcg(v as u64));
                let mut program = Program { scalars: vec![DType::F32], ..Program::default() };
                program.push(Instr::Load(0));
                program.push(Instr::Load(1));
                program.push(Instr::Cast { arg: 1, from: *d, to: DType::F32 });
                program.push(Instr::Scalar(0));
                program.push(Instr::Apply { def: &ADD, args: smallvec![0, 2], dtype: DType::F32, out: DType::F32 });
                program.push(Instr::Apply { def: &ADD, args: smallvec![4, 3], dtype: DType::F32, out: DType::F32 });
                program.stores = vec![(5, DType::F32)];
                let own = Operand { buffer: None, ..operand(0, DType::F32, &Layout::contiguous(shape.clone())) };
                let scalars = vec![ScalarRef { entry: 0, index: 0 }];
                let e = Epilogue { shape: shape.clone(), program, operands: vec![own, operand(0, *d, &l)], scalars };
                let code = epilogue(Some(&e), 1).unwrap();
                let source = preprocess(KERNEL, &[("EPILOGUE", &code.declarations), ("EPILOGUE_FIELDS", &code.fields)]);
                let mut dispatch = Dispatch {
                    label: "epilogue",
                    source: source.into(),
                    bindings: vec![Binding { slot: Slot::Buffer(1), write: true }],
                    params: vec![n.into()],
                    groups: [n.div_ceil(64) as u32, 1, 1],
                    flops: 0,
                };
                dispatch.bindings.extend(code.bindings);
                dispatch.params.extend(code.params);
                validate(&dispatch);
                let (a, y) = (gpu.upload(&to_bytes(*d, &values)).unwrap(), gpu.alloc(n * 4).unwrap());
                run(gpu, vec![Placed { step: GpuStep::Dispatch(dispatch), windows: vec![] }], &[&a, &y]);
                let out = from_bytes(DType::F32, &gpu.read(&y, n * 4).unwrap());
                for (i, at) in l.positions().enumerate() {
                    let want = (i as f32 + values[at] as f32 + 0.25) as f64;
                    assert!(same(out[i], want), "{shape} {d} view {v}: {i} is {}, not {want}", out[i]);
                }
            }
        }
    }

    /// What a reduction gives, in f64 and in the order of the elements.
    fn reference(kind: ReduceKind, values: &[f64]) -> f64 {
        use ReduceKind::*;
        let best = |better: &dyn Fn(f64, f64) -> bool| {
            let mut at = 0;
            for (i, &v) in values.iter().enumerate() {
                if (v.is_nan() && !values[at].is_nan()) || better(v, values[at]) {
                    at = i;
                }
            }
            at
        };
        let (most, least) = (best(&|a, b| a > b), best(&|a, b| a < b));
        match kind {
            Sum => values.iter().sum(),
            Mean => values.iter().sum::<f64>() / values.len() as f64,
            Prod => values.iter().product(),
            Any => values.iter().any(|&v| v != 0.0) as u8 as f64,
            All => values.iter().all(|&v| v != 0.0) as u8 as f64,
            Max => values[most],
            Min => values[least],
            ArgMax => most as f64,
            ArgMin => least as f64,
        }
    }

    /// Reduces `load(0) + load(1)` (the second along the last dimension only) for f32, else `load(0)`.
    fn check_reduce(gpu: &Gpu, caps: &Caps, shape: &[usize], reduced: &[bool], kind: ReduceKind, dtype: DType, v: usize) -> usize {
        let shape = Shape::from(shape);
        let exact = matches!(kind, ReduceKind::Max | ReduceKind::Min | ReduceKind::ArgMax | ReduceKind::ArgMin);
        let mut rng = Lcg(shape.numel() as u64 + v as u64);
        let l = view(&shape, v);
        let mut values: Vec<f64> = (0..l.end().max(1)).map(|_| kept(dtype, rng.next(100) as f64 / 8.0 - 6.0)).collect();
        match kind {
            ReduceKind::Prod => values.iter_mut().for_each(|x| *x = if *x < -4.0 { -1.0 } else { 1.0 }),
            // Mostly zeros, or hardly any.
            ReduceKind::Any => values.iter_mut().for_each(|x| *x = if rng.next(3000) == 0 { 1.0 } else { 0.0 }),
            ReduceKind::All => values.iter_mut().for_each(|x| *x = if rng.next(3000) == 0 { 0.0 } else { 1.0 }),
            _ if exact && dtype == DType::F32 && v.is_multiple_of(2) => {
                let n = values.len();
                values[n / 2] = f64::NAN;
                values[0] = f64::INFINITY;
            }
            _ => {}
        }
        values.iter_mut().for_each(|x| *x = kept(dtype, *x));
        let two = dtype == DType::F32 && matches!(kind, ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Max) && shape.rank() > 1;
        let lb = view(&shape, 5);
        let vb: Vec<f64> = (0..lb.end().max(1)).map(|i| (i % 5) as f64).collect();
        let mut program = Program::default();
        program.push(Instr::Load(0));
        let mut operands = vec![operand(0, dtype, &l)];
        if two {
            program.push(Instr::Load(1));
            program.push(Instr::Apply { def: &ADD, args: smallvec![0, 1], dtype: DType::F32, out: DType::F32 });
            operands.push(operand(1, DType::F32, &lb));
        }
        program.stores = vec![((program.instrs.len() - 1) as Reg, dtype)];
        let out_dtype = match kind {
            ReduceKind::ArgMax | ReduceKind::ArgMin => DType::I32,
            ReduceKind::Any | ReduceKind::All => DType::Bool,
            ReduceKind::Mean if !dtype.is_float() => DType::F32,
            _ => dtype,
        };
        let k =
            FusedReduce { kind, shape: shape.clone(), reduced: reduced.to_vec(), program, operands, scalars: vec![], output: 2, out_dtype };
        let kept_shape: Vec<usize> = shape.iter().zip(reduced).filter(|(_, r)| !**r).map(|(&d, _)| d).collect();
        let n: usize = kept_shape.iter().product();
        let (placed, temps) = reduce(&k, caps).unwrap();
        let mut buffers = vec![
            gpu.upload(&to_bytes(dtype, &values)).unwrap(),
            gpu.upload(&to_bytes(DType::F32, &vb)).unwrap(),
            gpu.alloc(n * out_dtype.gpu_size()).unwrap(),
        ];
        buffers.extend(temps.iter().map(|&t| gpu.alloc(t).unwrap()));
        let mut steps = Vec::new();
        for Placed { step, windows } in placed {
            let GpuStep::Dispatch(mut d) = step else { panic!("{step:?}") };
            assert!(windows.iter().all(|w| w.bytes > 0 && w.bytes <= caps.max_binding));
            validate(&d);
            for b in &mut d.bindings {
                if let Slot::Temp(i) = b.slot {
                    b.slot = Slot::Buffer(3 + i);
                }
            }
            steps.push(Placed { step: GpuStep::Dispatch(d), windows });
        }
        let count = steps.len();
        let text = format!("{steps:?}").replace("\\n", "\n");
        run(gpu, steps, &buffers.iter().collect::<Vec<_>>());
        let out = from_bytes(out_dtype, &gpu.read(&buffers[2], n * out_dtype.gpu_size()).unwrap());
        // The elements of each output, in row-major order.
        let mut groups = vec![Vec::new(); n];
        for (i, (a, b)) in l.positions().zip(lb.positions()).enumerate() {
            let (mut rest, mut at, mut scale) = (i, 0, 1);
            for d in (0..shape.rank()).rev() {
                if !reduced[d] {
                    at += rest % shape[d] * scale;
                    scale *= shape[d];
                }
                rest /= shape[d];
            }
            groups[at].push(if two { (values[a] as f32 + vb[b] as f32) as f64 } else { values[a] });
        }
        for (i, group) in groups.iter().enumerate() {
            if group.is_empty() && exact {
                continue;
            }
            let want = kept(out_dtype, reference(kind, group));
            let size = group.iter().map(|v| v.abs()).sum::<f64>();
            let rounding = match out_dtype {
                DType::F16 => 1e-3,
                DType::BF16 => 8e-3,
                _ => 0.0,
            };
            let close = !exact && out_dtype.is_float() && (out[i] - want).abs() <= 1e-6 * size + rounding * want.abs();
            assert!(
                same(out[i], want) || close,
                "{kind:?} of {dtype} {shape} over {reduced:?}, view {v}: output {i} is {}, not {want}\n{text}",
                out[i]
            );
        }
        count
    }

    const KINDS: [ReduceKind; 9] = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Max,
        ReduceKind::ArgMax,
        ReduceKind::Prod,
        ReduceKind::Min,
        ReduceKind::ArgMin,
        ReduceKind::Any,
        ReduceKind::All,
    ];

    #[test]
    fn reductions_agree_with_loops() {
        let Some(gpu) = test_gpu() else { return };
        let shapes: [&[usize]; 17] = [
            &[1],
            &[7],
            &[1000],
            &[70_000],
            &[5, 3],
            &[3, 64],
            &[64, 3],
            &[2000, 40],
            &[40, 2000],
            &[4, 300, 36],
            &[36, 4, 300],
            &[2, 3, 4, 5],
            &[0, 3],
            &[3, 0],
            &[20_000, 3],
            &[3, 20_000],
            &[1, 66_000],
        ];
        let (mut cases, mut steps) = (0, 0);
        for (s, shape) in shapes.iter().enumerate() {
            for mask in 0..1usize << shape.len() {
                let reduced: Vec<bool> = (0..shape.len()).map(|d| mask >> d & 1 == 1).collect();
                let kind = KINDS[(cases + s) % 9];
                let v = cases % VIEWS;
                steps += check_reduce(gpu, gpu.caps(), shape, &reduced, kind, DType::F32, v);
                steps += check_reduce(gpu, gpu.caps(), shape, &reduced, KINDS[(cases + s + 4) % 9], GPU_DTYPES[cases % 7], (v + 3) % VIEWS);
                cases += 2;
            }
        }
        for kind in KINDS {
            for dtype in GPU_DTYPES {
                steps += check_reduce(gpu, gpu.caps(), &[6, 50], &[false, true], kind, dtype, 0);
                cases += 1;
            }
            // Two stages, of rows and of columns.
            steps += check_reduce(gpu, gpu.caps(), &[2, 9000], &[false, true], kind, DType::F32, 0);
            steps += check_reduce(gpu, gpu.caps(), &[9000, 5], &[true, false], kind, DType::F16, 0);
            steps += check_reduce(gpu, gpu.caps(), &[9000, 5], &[true, false], kind, DType::I32, 3);
            cases += 3;
        }
        println!("{cases} reductions in {steps} dispatches");
        assert!(steps > cases + 50);
    }

    #[test]
    fn buffers_past_the_largest_binding_are_split() {
        let Some(gpu) = test_gpu() else { return };
        let caps = Caps { max_binding: 64 << 10, ..*gpu.caps() };
        for (v, w) in [(0, 0), (0, 2), (1, 5), (2, 6), (4, 8), (8, 7)] {
            check(gpu, &caps, &Shape::from([300, 404]), (DType::F32, v), (DType::F16, w), DType::F32, false);
            check(gpu, &caps, &Shape::from([300, 403]), (DType::F16, v), (DType::F32, w), DType::BF16, false);
        }
        let shape = Shape::from([300, 404]);
        let transposed = view(&shape, 3);
        assert!(fused_pieces(&kernel(&shape, (DType::F32, &transposed), (DType::F32, &transposed), DType::F32), &caps).unwrap().is_none());
    }

    #[test]
    fn reductions_past_the_largest_binding_are_split() {
        let Some(gpu) = test_gpu() else { return };
        let caps = Caps { max_binding: 16 << 10, ..*gpu.caps() };
        let mut steps = 0;
        let mut cases = 0;
        for kind in KINDS {
            for (shape, reduced) in [
                (&[50, 404][..], &[false, true][..]),
                (&[50, 404], &[true, false]),
                (&[30001], &[true]),
                (&[3, 90, 41], &[false, true, false]),
                (&[7, 30, 41], &[true, false, true]),
                (&[2, 5003], &[false, true]),
            ] {
                for (dtype, v) in [(DType::F32, 0), (DType::F32, 3), (DType::I32, 1), (DType::F16, 0)] {
                    steps += check_reduce(gpu, &caps, shape, reduced, kind, dtype, v);
                    cases += 1;
                }
            }
        }
        println!("{cases} reductions in {steps} dispatches");
        assert!(steps > 3 * cases);
    }
}
