//! Quantised products against plain loops, on every instruction set at hand; and the shaders.

use super::qmatmul::{Form, INT8, NF4, QMatMul};
use super::testing::{close, noise, run_mixed, validate};
use crate::DType;
use crate::backend::cpu::simd::{Level, limit};
use crate::graph::Meta;
use crate::layout::Layout;

/// Random codes and scales of a weight, and the dense weight that they stand for.
struct Sample {
    op: QMatMul,
    codes: Vec<u8>,
    small: Vec<u8>,
    scales: Vec<f32>,
    map: Vec<f32>,
    dense: Vec<f64>,
}

const OFFSET: f32 = 0.03125;

impl Sample {
    fn new(form: Form, n: usize, k: usize) -> Sample {
        let bytes = |n: usize, seed| noise(n, seed).iter().map(|v| ((v + 1.0) * 127.9) as u8).collect::<Vec<u8>>();
        let floats = |n: usize, seed| noise(n, seed).iter().map(|v| (v.abs() * 0.1 + 0.01) as f32).collect::<Vec<f32>>();
        let op = QMatMul { form, n, k, turned: false, first: 0, offset: [OFFSET.into()] };
        let numel = n * k;
        let map: Vec<f32> = (0..256).map(|i| (i as f32 - 127.5) / 1024.0).collect();
        let mut s = Sample { op, codes: Vec::new(), small: Vec::new(), scales: Vec::new(), map, dense: Vec::new() };
        let Some(block) = form.block() else {
            s.codes = bytes(numel, 1);
            s.scales = floats(n, 2);
            s.dense = (0..numel).map(|e| (s.codes[e] as i8 as f32 * s.scales[e / k] * INT8) as f64).collect();
            return s;
        };
        s.codes = bytes(numel.div_ceil(2), 1);
        let blocks = numel.div_ceil(block);
        let scale: Vec<f32> = match form {
            Form::Double { outer, .. } => {
                s.small = bytes(blocks, 3);
                s.scales = floats(blocks.div_ceil(outer), 4);
                (0..blocks).map(|b| s.map[s.small[b] as usize] * s.scales[b / outer] + OFFSET).collect()
            }
            _ => {
                s.scales = floats(blocks, 2);
                s.scales.clone()
            }
        };
        let code = |e: usize| (if e.is_multiple_of(2) { s.codes[e / 2] >> 4 } else { s.codes[e / 2] & 15 }) as usize;
        s.dense = (0..numel).map(|e| (NF4[code(e)] * scale[e / block]) as f64).collect();
        s
    }

    /// The inputs' metas, x first.
    fn metas(&self, m: usize, dtype: DType) -> Vec<Meta> {
        let (op, rows) = (&self.op, self.op.in_rows());
        let mut all = vec![Meta::new(dtype, [m, if op.turned { op.n } else { op.k }])];
        let list = |dtype, len: usize| Meta::new(dtype, if rows && op.n > 0 { vec![op.n, len / op.n] } else { vec![len] });
        match op.form {
            Form::Int8 => all.extend([Meta::new(DType::U8, [op.n, op.k]), Meta::new(DType::F32, op.n)]),
            Form::Nf4 { .. } => all.extend([list(DType::U8, self.codes.len()), list(DType::F32, self.scales.len())]),
            Form::Double { .. } => all.extend([
                list(DType::U8, self.codes.len()),
                list(DType::U8, self.small.len()),
                Meta::new(DType::F32, 256),
                Meta::new(DType::F32, self.scales.len()),
            ]),
        }
        all
    }

    fn run<T: bytemuck::Pod>(&self, m: usize, x: &[T], dtype: DType) -> Vec<T> {
        let mut bytes: Vec<&[u8]> = vec![bytemuck::cast_slice(x), &self.codes];
        if let Form::Double { .. } = self.op.form {
            bytes.extend([&self.small[..], bytemuck::cast_slice(&self.map)]);
        }
        bytes.push(bytemuck::cast_slice(&self.scales));
        let metas = self.metas(m, dtype);
        let inputs: Vec<(&[u8], &Layout, DType)> = bytes.iter().zip(&metas).map(|(b, meta)| (*b, &meta.layout, meta.dtype)).collect();
        run_mixed(&self.op, &inputs)
    }
}

const FORMS: [Form; 7] = [
    Form::Int8,
    Form::Nf4 { block: 64 },
    Form::Nf4 { block: 32 },
    Form::Nf4 { block: 128 },
    Form::Double { block: 64, outer: 256 },
    Form::Double { block: 64, outer: 32 },
    Form::Double { block: 4096, outer: 256 },
];

#[test]
fn products_agree_with_loops() {
    // Rows of whole blocks, of half a block, of an odd number; tiles full and cut; one row up to more than a panel's.
    for (n, k) in [(1, 64), (7, 128), (70, 320), (5, 96), (9, 33), (3, 1), (130, 1088), (0, 64), (4, 0)] {
        for form in FORMS {
            for turned in [false, true] {
                let mut s = Sample::new(form, n, k);
                s.op.turned = turned;
                let (cols, terms) = if turned { (k, n) } else { (n, k) };
                for m in [0, 1, 2, 3, 4, 5, 33, 300] {
                    if m == 300 && n * k > 30_000 {
                        continue;
                    }
                    let x = noise(m * terms, 7);
                    let w = |t: usize, c: usize| s.dense[if turned { t * k + c } else { c * k + t }];
                    let want: Vec<f64> =
                        (0..m * cols).map(|i| (0..terms).map(|t| x[i / cols * terms + t] * w(t, i % cols)).sum()).collect();
                    let what = format!("{form:?} {n}x{k} turned {turned}, {m} rows");
                    close(&s.run::<f64>(m, &x, DType::F64), &want, 1e-12, &what);
                    let narrow: Vec<f32> = x.iter().map(|&v| v as f32).collect();
                    for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
                        limit(level);
                        let got: Vec<f64> = s.run::<f32>(m, &narrow, DType::F32).iter().map(|&v| v as f64).collect();
                        close(&got, &want, 2e-5, &format!("{what}, {level:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn shaders_are_valid() {
    for (m, n, k) in [(1, 7, 128), (4, 64, 96), (5, 64, 64), (70, 130, 33), (3, 8, 4096), (100, 2000, 64), (8, 16, 8192)] {
        for form in FORMS {
            for turned in [false, true] {
                let mut s = Sample::new(form, n, k);
                s.op.turned = turned;
                validate(&s.op, &s.metas(m, DType::F32));
            }
        }
    }
}
