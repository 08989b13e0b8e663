//! The convolution kernels against loops, and their shaders through naga.

use super::conv::*;
use super::testing::{close, cpu, noise, validate};
use crate::DType;
use crate::graph::{Meta, Op};
use crate::layout::Layout;

struct Case {
    n: usize,
    c: usize,
    o: usize,
    h: [usize; 2],
    k: [usize; 2],
    window: Window,
    end: [isize; 2],
}

fn cases() -> Vec<Case> {
    let w = |stride, padding, dilation, groups| Window { stride, padding, dilation, groups };
    let case = |n, c, o, h, k, window: Window| Case { n, c, o, h, k, window, end: window.padding.map(|p| p as isize) };
    vec![
        case(2, 3, 4, [5, 6], [3, 3], w([1, 1], [1, 1], [1, 1], 1)),
        case(1, 1, 1, [1, 1], [1, 1], w([1, 1], [0, 0], [1, 1], 1)),
        case(3, 4, 6, [9, 7], [3, 2], w([2, 3], [1, 2], [1, 1], 2)),
        case(2, 6, 6, [11, 13], [3, 3], w([1, 2], [2, 1], [2, 3], 6)),
        case(2, 4, 8, [8, 8], [3, 3], w([1, 1], [1, 1], [1, 1], 4)),
        case(2, 5, 7, [12, 12], [1, 1], w([1, 1], [0, 0], [1, 1], 1)),
        case(2, 4, 6, [6, 5], [1, 1], w([2, 2], [0, 0], [1, 1], 2)),
        case(40, 3, 5, [4, 4], [3, 3], w([1, 1], [1, 1], [1, 1], 1)),
        case(1, 2, 3, [70, 61], [5, 3], w([1, 1], [2, 1], [1, 1], 1)),
        case(1, 20, 70, [17, 9], [3, 3], w([2, 1], [1, 1], [1, 1], 1)),
        case(2, 3, 2, [4, 4], [6, 6], w([1, 1], [3, 3], [1, 1], 1)),
        Case { end: [2, -1], ..case(2, 2, 3, [7, 8], [3, 3], w([2, 2], [1, 1], [1, 1], 1)) },
        case(2, 3, 2, [5, 5], [2, 2], w([3, 3], [4, 4], [1, 1], 1)),
        // Large enough for tiles: windows in place and gathered, several chunks of channels, images in a block, phases of a stride.
        case(1, 12, 33, [40, 37], [3, 3], w([1, 1], [1, 1], [1, 1], 1)),
        case(3, 75, 20, [8, 8], [3, 3], w([1, 1], [1, 1], [1, 1], 1)),
        case(9, 24, 70, [4, 4], [3, 3], w([1, 1], [1, 1], [1, 1], 1)),
        case(2, 24, 40, [15, 14], [3, 3], w([2, 2], [1, 1], [1, 1], 1)),
        case(2, 32, 32, [13, 17], [5, 3], w([2, 1], [2, 0], [1, 2], 2)),
        case(2, 16, 24, [10, 10], [1, 1], w([2, 2], [0, 0], [1, 1], 1)),
        case(1, 8, 8, [30, 40], [7, 7], w([2, 2], [3, 3], [1, 1], 1)),
        case(2, 16, 16, [7, 5], [3, 3], w([1, 1], [3, 4], [1, 1], 1)),
        case(4, 17, 18, [2, 3], [2, 2], w([4, 4], [1, 1], [1, 1], 1)),
        Case { end: [2, -1], ..case(2, 10, 9, [7, 8], [3, 3], w([2, 2], [1, 1], [1, 1], 1)) },
    ]
}

/// Calls `f(position in x, in w, in y)` for each product of the convolution.
fn each(s: &Sizes, mut f: impl FnMut(usize, usize, usize)) {
    for n in 0..s.n {
        for o in 0..s.groups * s.o {
            for c in 0..s.c {
                for i in 0..s.oh[0] * s.oh[1] {
                    for t in 0..s.taps() {
                        let (u, v) = (t / s.k[1], t % s.k[1]);
                        let y = (i / s.oh[1] * s.stride[0] + u * s.dilation[0]).wrapping_sub(s.padding[0]);
                        let x = (i % s.oh[1] * s.stride[1] + v * s.dilation[1]).wrapping_sub(s.padding[1]);
                        if y < s.h[0] && x < s.h[1] {
                            let ch = (n * s.groups + o / s.o) * s.c + c;
                            f(
                                (ch * s.h[0] + y) * s.h[1] + x,
                                (o * s.c + c) * s.taps() + t,
                                (n * s.groups * s.o + o) * s.oh[0] * s.oh[1] + i,
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn kernels_agree_with_loops() {
    for (number, c) in cases().iter().enumerate() {
        let forward = Conv2d { window: c.window, padding_end: c.end };
        let x_meta = Meta::new(DType::F64, [c.n, c.c, c.h[0], c.h[1]]);
        let w_meta = Meta::new(DType::F64, [c.o, c.c / c.window.groups, c.k[0], c.k[1]]);
        let y_meta = forward.infer(&[&x_meta, &w_meta]).unwrap()[0].clone();
        let s = Sizes::new(&c.window, x_meta.shape(), w_meta.shape(), y_meta.shape());
        let layout = |m: &Meta| Layout::contiguous(m.shape().clone());
        let (lx, lw, ly) = (layout(&x_meta), layout(&w_meta), layout(&y_meta));
        let (x, w, g) = (noise(lx.numel(), 1), noise(lw.numel(), 2), noise(ly.numel(), 3));
        let (mut y, mut dx, mut dw) = (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        each(&s, |i, k, j| {
            y[j] += x[i] * w[k];
            dx[i] += g[j] * w[k];
            dw[k] += g[j] * x[i];
        });
        let input = Conv2dInputGrad { window: c.window, padding_end: c.end, size: c.h };
        let weight = Conv2dWeightGrad { window: c.window, padding_end: c.end, kernel: c.k };
        let f32s = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let calls: [(&dyn Op, _, _, _, _, _); 3] =
            [(&forward, &x, &lx, &w, &lw, &y), (&input, &g, &ly, &w, &lw, &dx), (&weight, &x, &lx, &g, &ly, &dw)];
        for (op, a, la, b, lb, expected) in calls {
            let what = format!("{} case {number}", op.name());
            close(&cpu::<f64>(op, &[(a, la), (b, lb)], DType::F64), expected, 1e-12, &what);
            let got = cpu::<f32>(op, &[(&f32s(a), la), (&f32s(b), lb)], DType::F32);
            close(&got.iter().map(|&v| v as f64).collect::<Vec<_>>(), expected, 1e-4, &what);
            let meta = |l: &Layout| Meta { dtype: DType::F32, layout: l.clone() };
            validate(op, &[meta(la), meta(lb)]);
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_blocks_of_im2col() {
    use super::{conv_cpu, conv_direct};
    let mut counts = [0; 3];
    for c in &cases() {
        let x_shape = [c.n, c.c, c.h[0], c.h[1]];
        let w_shape = [c.o, c.c / c.window.groups, c.k[0], c.k[1]];
        let forward = Conv2d { window: c.window, padding_end: c.end };
        let y = forward.infer(&[&Meta::new(DType::F32, x_shape), &Meta::new(DType::F32, w_shape)]).unwrap()[0].clone();
        let s = Sizes::new(&c.window, &x_shape, &w_shape, y.shape());
        let f32s = |n: usize, seed| noise(n, seed).iter().map(|&v| v as f32).collect::<Vec<_>>();
        let (x, w) = (f32s(x_shape.iter().product(), 1), f32s(w_shape.iter().product(), 2));
        let g = f32s(y.shape().iter().product(), 3);
        let wide = |v: &[f32]| v.iter().map(|&v| v as f64).collect::<Vec<_>>();
        for &tile in crate::backend::cpu::micro::shapes() {
            let mut check = |i: usize, len: usize, fast: &dyn Fn(&mut [f32]) -> bool, slow: &dyn Fn(&mut [f32])| {
                let (mut a, mut b) = (vec![7.0; len], vec![9.0; len]);
                if fast(&mut a) {
                    counts[i] += 1;
                    slow(&mut b);
                    close(&wide(&a), &wide(&b), 1e-4, &format!("{tile:?} kernel {i} {s:?}"));
                }
            };
            check(0, g.len(), &|y| conv_direct::forward(tile, &s, &x, &w, y), &|y| conv_cpu::forward(&s, &x, &w, y));
            check(1, x.len(), &|dx| conv_direct::input_grad(tile, &s, &g, &w, dx), &|dx| conv_cpu::input_grad(&s, &g, &w, dx));
            check(2, w.len(), &|dw| conv_direct::weight_grad(tile, &s, &x, &g, dw), &|dw| conv_cpu::weight_grad(&s, &x, &g, dw));
        }
    }
    let sets = crate::backend::cpu::micro::shapes().len();
    assert!(counts.iter().all(|&n| n >= 6 * sets), "{counts:?}");
}
