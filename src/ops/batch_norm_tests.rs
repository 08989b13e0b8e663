use super::*;
use crate::ops::rows::testing::{close, cpu, gpu, numbers};

const SHAPES: [&[usize]; 6] = [&[5, 3], &[2, 1], &[300, 70], &[3, 4, 2, 3], &[4, 5, 31], &[6, 37, 24, 24]];

/// y, mean, var, dx, dw, db.
fn naive(c: Channels, x: &[f64], w: &[f64], b: &[f64], eps: f64, dy: &[f64]) -> [Vec<f64>; 6] {
    let mut out: [Vec<f64>; 6] = [x.to_vec(), vec![], vec![], x.to_vec(), vec![], vec![]];
    for ch in 0..c.channels {
        let at: Vec<usize> =
            (0..c.outer).flat_map(|o| (0..c.inner).map(move |s| (o, s))).map(|(o, s)| (o * c.channels + ch) * c.inner + s).collect();
        let n = at.len() as f64;
        let mean = at.iter().map(|&i| x[i]).sum::<f64>() / n;
        let var = at.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (var + eps).sqrt();
        let db = at.iter().map(|&i| dy[i]).sum::<f64>();
        let dw = at.iter().map(|&i| dy[i] * (x[i] - mean) * rstd).sum::<f64>();
        for i in at {
            let xhat = (x[i] - mean) * rstd;
            out[0][i] = xhat * w[ch] + b[ch];
            out[3][i] = w[ch] * rstd * (dy[i] - (db + xhat * dw) / n);
        }
        for (k, v) in [(1, mean), (2, var), (4, dw), (5, db)] {
            out[k].push(v);
        }
    }
    out
}

#[test]
fn cpu_agrees_with_the_definition() {
    for shape in SHAPES {
        let c = Channels::from(shape);
        let x: Vec<f64> = numbers(c.numel(), 3).iter().map(|v| v + 3.0).collect();
        let (w, b, dy) = (numbers(c.channels, 4), numbers(c.channels, 5), numbers(x.len(), 6));
        let (ones, zeros) = (vec![1.0; c.channels], vec![0.0; c.channels]);
        for bits in 0..4 {
            let (weight, bias) = (bits & 1 > 0, bits & 2 > 0);
            let want = naive(c, &x, if weight { &w } else { &ones }, if bias { &b } else { &zeros }, 0.01, &dy);
            for (dtype, tol) in [(DType::F32, 2e-5), (DType::F64, 1e-12)] {
                let affine = [c.channels];
                let mut inputs = vec![(dtype, shape, &x[..])];
                inputs.extend(weight.then_some((dtype, &affine[..], &w[..])));
                inputs.extend(bias.then_some((dtype, &affine[..], &b[..])));
                let (got, _) = cpu(&BatchNorm { weight, bias, eps: [0.01.into()] }, &inputs).unwrap();
                (0..3).for_each(|i| close(&got[i], &want[i], tol));
                let mut inputs = vec![
                    (dtype, shape, &dy[..]),
                    (dtype, shape, &x[..]),
                    (dtype, &affine[..], &want[1][..]),
                    (dtype, &affine[..], &want[2][..]),
                ];
                inputs.extend(weight.then_some((dtype, &affine[..], &w[..])));
                for needs in 1..8 {
                    let op = BatchNormBackward { weight, dx: needs & 1 > 0, dw: needs & 2 > 0, db: needs & 4 > 0, eps: [0.01.into()] };
                    let (got, _) = cpu(&op, &inputs).unwrap();
                    let want = (0..3).filter(|i| needs >> i & 1 > 0).map(|i| &want[3 + i]);
                    for (g, w) in got.iter().zip(want) {
                        close(g, w, 10.0 * tol);
                    }
                }
            }
        }
    }
}

#[test]
fn shaders_are_valid() {
    for shape in SHAPES {
        let affine = [shape[1]];
        for bits in 0..4 {
            let (weight, bias) = (bits & 1 > 0, bits & 2 > 0);
            let mut inputs = vec![(DType::F32, shape)];
            inputs.extend((0..weight as usize + bias as usize).map(|_| (DType::F32, &affine[..])));
            gpu(&BatchNorm { weight, bias, eps: [0.01.into()] }, &inputs);
            let mut inputs = vec![(DType::F32, shape), (DType::F32, shape)];
            inputs.extend((0..2 + weight as usize).map(|_| (DType::F32, &affine[..])));
            for needs in 1..8 {
                gpu(&BatchNormBackward { weight, dx: needs & 1 > 0, dw: needs & 2 > 0, db: needs & 4 > 0, eps: [0.01.into()] }, &inputs);
            }
        }
    }
}
