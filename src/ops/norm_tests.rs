use super::*;
use crate::ops::rows::testing::{close, cpu, gpu, numbers};

/// y, mean, rstd and, for a cotangent, dx, dw, db by the definition.
fn naive(norm: &Norm, x: &[f64], w: &[f64], b: &[f64], dy: &[f64]) -> [Vec<f64>; 6] {
    let n = norm.n();
    let count = norm.groups * norm.channels;
    let [mut y, mut dx] = [vec![0.0; x.len()], vec![0.0; x.len()]];
    let [mut dw, mut db] = [vec![0.0; count], vec![0.0; count]];
    let [mut means, mut rstds] = [Vec::new(), Vec::new()];
    for r in 0..x.len() / n {
        let at = |k: usize| (r % norm.groups) * norm.channels + k / norm.inner;
        let row = &x[r * n..(r + 1) * n];
        let mean = if norm.rms { 0.0 } else { row.iter().sum::<f64>() / n as f64 };
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let rstd = 1.0 / (var + norm.eps[0].as_f64()).sqrt();
        let xhat = |k: usize| (row[k] - mean) * rstd;
        let g = |k: usize| dy[r * n + k] * w[at(k)];
        let a = if norm.rms { 0.0 } else { (0..n).map(g).sum::<f64>() / n as f64 };
        let c = (0..n).map(|k| g(k) * xhat(k)).sum::<f64>() / n as f64;
        for k in 0..n {
            y[r * n + k] = xhat(k) * w[at(k)] + b[at(k)];
            dx[r * n + k] = rstd * (g(k) - a - xhat(k) * c);
            dw[at(k)] += dy[r * n + k] * xhat(k);
            db[at(k)] += dy[r * n + k];
        }
        means.push(mean);
        rstds.push(rstd);
    }
    [y, means, rstds, dx, dw, db]
}

/// (rms, groups, channels, inner, outer)
const CASES: [(bool, usize, usize, usize, usize); 8] = [
    (false, 1, 13, 1, 7),
    (false, 1, 768, 1, 130),
    (true, 1, 65, 1, 9),
    (false, 4, 3, 25, 3),
    (false, 2, 8, 400, 9),
    (false, 5, 1, 6, 2),
    (true, 1, 1, 1, 3),
    (false, 1, 5, 1, 0),
];

#[test]
fn cpu_agrees_with_the_definition() {
    for (rms, groups, channels, inner, outer) in CASES {
        let count = groups * channels;
        let shape = [outer, groups * channels * inner];
        let x: Vec<f64> = numbers(shape[0] * shape[1], 3).iter().map(|v| v + 3.0).collect();
        let (w, b, dy) = (numbers(count, 4), numbers(count, 5), numbers(x.len(), 6));
        for bits in 0..4 {
            let (weight, bias) = (bits & 1 > 0, bits & 2 > 0 && !rms);
            let norm = Norm { rms, groups, channels, inner, weight, bias, eps: [0.01.into()] };
            let want =
                naive(&norm, &x, if weight { &w } else { &[1.0; 8192][..count] }, if bias { &b } else { &[0.0; 8192][..count] }, &dy);
            for (dtype, tol) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                let mut inputs = vec![(dtype, &shape[..], &x[..])];
                let affine = [count];
                inputs.extend(weight.then_some((dtype, &affine[..], &w[..])));
                inputs.extend(bias.then_some((dtype, &affine[..], &b[..])));
                let (got, _) = cpu(&norm, &inputs).unwrap();
                close(&got[0], &want[0], tol);
                close(&got[got.len() - 1], &want[2], tol);
                let rows = [want[1].len()];
                let mut inputs = vec![(dtype, &shape[..], &dy[..]), (dtype, &shape[..], &x[..])];
                inputs.extend(weight.then_some((dtype, &affine[..], &w[..])));
                inputs.extend((!rms).then_some((dtype, &rows[..], &want[1][..])));
                inputs.push((dtype, &rows, &want[2]));
                for needs in 1..8 {
                    let op = NormBackward { norm: norm.clone(), dx: needs & 1 > 0, dw: needs & 2 > 0, db: needs & 4 > 0 };
                    let (got, _) = cpu(&op, &inputs).unwrap();
                    let want = (0..3).filter(|i| needs >> i & 1 > 0).map(|i| &want[3 + i]);
                    for (g, w) in got.iter().zip(want) {
                        close(g, w, 20.0 * tol);
                    }
                }
            }
        }
    }
}

#[test]
fn a_large_mean_does_not_hurt() {
    let x: Vec<f64> = numbers(1000, 1).iter().map(|v| 4096.0 + (v * 64.0).round() / 64.0).collect();
    let norm = Norm { rms: false, groups: 1, channels: 1000, inner: 1, weight: false, bias: false, eps: [0.0.into()] };
    let want = naive(&norm, &x, &[1.0; 1000], &[0.0; 1000], &x);
    let (got, _) = cpu(&norm, &[(DType::F32, &[1, 1000], &x)]).unwrap();
    close(&got[0], &want[0], 1e-3);
}

#[test]
fn shaders_are_valid() {
    for (rms, groups, channels, inner, outer) in CASES {
        for bits in 0..4 {
            let (weight, bias) = (bits & 1 > 0, bits & 2 > 0 && !rms);
            let norm = Norm { rms, groups, channels, inner, weight, bias, eps: [0.01.into()] };
            let shape = [outer, groups * channels * inner];
            let (affine, rows) = ([groups * channels], [outer * groups]);
            let mut inputs = vec![(DType::F32, &shape[..])];
            inputs.extend((0..weight as usize + bias as usize).map(|_| (DType::F32, &affine[..])));
            gpu(&norm, &inputs);
            let mut inputs = vec![(DType::F32, &shape[..]), (DType::F32, &shape[..])];
            inputs.extend(weight.then_some((DType::F32, &affine[..])));
            inputs.extend((0..2 - rms as usize).map(|_| (DType::F32, &rows[..])));
            for needs in 1..8 {
                gpu(&NormBackward { norm: norm.clone(), dx: needs & 1 > 0, dw: needs & 2 > 0, db: needs & 4 > 0 }, &inputs);
            }
        }
    }
}
