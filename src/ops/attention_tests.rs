use super::*;
use crate::ops::rows::testing::{close, cpu, gpu, numbers};

struct Case {
    d: Dims,
    extra: Extra,
    causal: bool,
    position: usize,
}

fn cases() -> Vec<Case> {
    let d = |batch, heads, kv_heads, queries, keys, width, value_width| Dims { batch, heads, kv_heads, queries, keys, width, value_width };
    let mut out = Vec::new();
    for d in [
        d(1, 1, 1, 1, 1, 1, 1),
        d(2, 3, 1, 5, 7, 5, 3),
        d(1, 4, 2, 70, 131, 33, 17),
        d(1, 1, 1, 130, 300, 8, 8),
        d(2, 2, 2, 1, 40, 64, 64),
        d(1, 1, 1, 20, 9, 200, 256),
        d(1, 2, 1, 3, 0, 4, 4),
        d(0, 1, 1, 3, 3, 4, 4),
    ] {
        for (extra, causal, position) in [
            (Extra::Nothing, false, 0),
            (Extra::Mask, false, 0),
            (Extra::Bias, false, 0),
            (Extra::Nothing, true, 0),
            (Extra::Mask, true, 3),
            (Extra::Bias, true, 3),
        ] {
            out.push(Case { d, extra, causal, position });
        }
    }
    out
}

impl Case {
    fn shapes(&self) -> [[usize; 4]; 4] {
        let d = self.d;
        [
            [d.batch, d.heads, d.queries, d.width],
            [d.batch, d.kv_heads, d.keys, d.width],
            [d.batch, d.kv_heads, d.keys, d.value_width],
            [d.batch, d.heads, d.queries, d.keys],
        ]
    }

    fn op(&self) -> Sdpa {
        Sdpa { extra: self.extra, causal: self.causal, scalars: [0.3.into(), self.position.into()] }
    }

    fn extra(&self) -> Vec<f64> {
        let n = self.shapes()[3].iter().product();
        match self.extra {
            // The second query sees nothing.
            Extra::Mask => (0..n).map(|i| (i % 3 != 0 && i / self.d.keys % self.d.queries != 1) as u8 as f64).collect(),
            _ => numbers(n, 5),
        }
    }

    /// out, lse, dq, dk, dv by the definition.
    fn naive(&self, q: &[f64], k: &[f64], v: &[f64], e: &[f64], dout: &[f64]) -> [Vec<f64>; 5] {
        let d = self.d;
        let mut out = vec![0.0; d.batch * d.heads * d.queries * d.value_width];
        let mut lse = Vec::new();
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        for r in 0..d.batch * d.heads * d.queries {
            let (bh, i) = (r / d.queries, r % d.queries);
            let bg = bh / d.heads * d.kv_heads + bh % d.heads / d.group();
            let (q, dq) = (&q[r * d.width..(r + 1) * d.width], &mut dq[r * d.width..(r + 1) * d.width]);
            let s: Vec<f64> = (0..d.keys)
                .map(|j| {
                    let key = &k[(bg * d.keys + j) * d.width..][..d.width];
                    let s = 0.3 * q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
                    let hidden = self.causal && j > i + self.position || self.extra == Extra::Mask && e[r * d.keys + j] == 0.0;
                    if hidden { f64::NEG_INFINITY } else { s + if self.extra == Extra::Bias { e[r * d.keys + j] } else { 0.0 } }
                })
                .collect();
            let sum = s.iter().map(|s| s.exp()).sum::<f64>();
            lse.push(if sum == 0.0 { f64::INFINITY } else { sum.ln() });
            let w: Vec<f64> = s.iter().map(|s| (s - lse[r]).exp()).collect();
            let back = &dout[r * d.value_width..][..d.value_width];
            let value = |j: usize| (bg * d.keys + j) * d.value_width;
            let dw: Vec<f64> = (0..d.keys).map(|j| back.iter().zip(&v[value(j)..]).map(|(a, b)| a * b).sum()).collect();
            let delta: f64 = w.iter().zip(&dw).map(|(a, b)| a * b).sum();
            for j in 0..d.keys {
                for c in 0..d.value_width {
                    out[r * d.value_width + c] += w[j] * v[value(j) + c];
                    dv[value(j) + c] += w[j] * back[c];
                }
                let ds = 0.3 * w[j] * (dw[j] - delta);
                for c in 0..d.width {
                    dq[c] += ds * k[(bg * d.keys + j) * d.width + c];
                    dk[(bg * d.keys + j) * d.width + c] += ds * q[c];
                }
            }
        }
        [out, lse, dq, dk, dv]
    }
}

/// Axes 1 and 2 of a tensor of this shape swapped, as the kernels write their results.
fn swapped(x: &[f64], [b, heads, l, d]: [usize; 4]) -> Vec<f64> {
    let row = |r: usize| {
        let (b, i, h) = (r / heads / l, r / heads % l, r % heads);
        &x[((b * heads + h) * l + i) * d..][..d]
    };
    (0..b * l * heads).flat_map(row).copied().collect()
}

#[test]
fn cpu_agrees_with_the_definition() {
    for case in cases() {
        let [qs, ks, vs, es] = case.shapes();
        let size = |s: [usize; 4]| s.iter().product::<usize>();
        let (q, k, v) = (numbers(size(qs), 1), numbers(size(ks), 2), numbers(size(vs), 3));
        let out_shape = [qs[0], qs[1], qs[2], vs[3]];
        let dout = numbers(size(out_shape), 4);
        let e = case.extra();
        let want = case.naive(&q, &k, &v, &e, &dout);
        for (dtype, tol) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
            let extra = (if case.extra == Extra::Mask { DType::Bool } else { dtype }, &es[..], &e[..]);
            let with = case.extra != Extra::Nothing;
            let mut inputs = vec![(dtype, &qs[..], &q[..]), (dtype, &ks, &k), (dtype, &vs, &v)];
            inputs.extend(with.then_some(extra));
            let (got, _) = cpu(&case.op(), &inputs).unwrap();
            close(&got[0], &swapped(&want[0], out_shape), tol);
            close(&got[1], &want[1], tol);
            let rows = [qs[0], qs[1], qs[2]];
            let swapped_shape = [qs[0], qs[2], qs[1], vs[3]];
            let (out, back) = (swapped(&want[0], out_shape), swapped(&dout, out_shape));
            let mut inputs: Vec<crate::ops::rows::testing::In> = vec![
                (dtype, &qs, &q),
                (dtype, &ks, &k),
                (dtype, &vs, &v),
                (dtype, &swapped_shape, &out),
                (dtype, &rows, &want[1]),
                (dtype, &swapped_shape, &back),
            ];
            inputs.extend(with.then_some(extra));
            for bits in 1..8 {
                let needs = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
                let (got, _) = cpu(&SdpaBackward { forward: case.op(), needs }, &inputs).unwrap();
                let wanted = (0..3).filter(|&i| needs[i]).map(|i| swapped(&want[2 + i], [qs, ks, vs][i]));
                got.iter().zip(wanted).for_each(|(g, w)| close(g, &w, 10.0 * tol));
            }
        }
    }
}

#[test]
fn shaders_are_valid() {
    for case in cases() {
        let [qs, ks, vs, es] = case.shapes();
        let f = DType::F32;
        let extra = (if case.extra == Extra::Mask { DType::Bool } else { f }, &es[..]);
        let with = case.extra != Extra::Nothing;
        let mut inputs = vec![(f, &qs[..]), (f, &ks), (f, &vs)];
        inputs.extend(with.then_some(extra));
        gpu(&case.op(), &inputs);
        let (out, rows) = ([qs[0], qs[2], qs[1], vs[3]], [qs[0], qs[1], qs[2]]);
        let mut inputs = vec![(f, &qs[..]), (f, &ks), (f, &vs), (f, &out), (f, &rows), (f, &out)];
        inputs.extend(with.then_some(extra));
        for bits in 1..8 {
            let needs = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
            gpu(&SdpaBackward { forward: case.op(), needs }, &inputs);
        }
    }
}
