use super::*;
use crate::ops::rows::testing::{close, cpu, gpu, numbers};

const SHAPES: [&[usize]; 6] = [&[5], &[7, 10], &[33, 1000], &[2, 3, 5], &[3, 21, 9, 13], &[4, 1]];

struct Case {
    weight: bool,
    eps: f64,
    x: Vec<f64>,
    w: Vec<f64>,
    t: Vec<f64>,
    dl: Vec<f64>,
}

impl Case {
    fn new(shape: &[usize], weight: bool, eps: f64) -> (Case, Around) {
        let a = Around::of(shape, class_axis(shape.len()));
        let t = (0..a.rows()).map(|i| if i % 5 == 3 { -100.0 } else { (i * 7 % a.n) as f64 }).collect();
        let w = numbers(a.n, 9).iter().map(|v| v.abs() + 0.1).collect();
        (Case { weight, eps, x: numbers(a.numel(), 8), w, t, dl: numbers(a.rows(), 10) }, a)
    }

    fn op(&self) -> Loss {
        Loss { weight: self.weight, smooth: self.eps > 0.0, scalars: [(-100).into(), self.eps.into()] }
    }

    /// Losses, counted weights, dx by the definition.
    fn naive(&self, a: Around) -> [Vec<f64>; 3] {
        let (mut loss, mut counted, mut dx) = (vec![], vec![], vec![0.0; self.x.len()]);
        for r in 0..a.rows() {
            let at = |k: usize| (r / a.inner * a.n + k) * a.inner + r % a.inner;
            let lse = (0..a.n).map(|k| self.x[at(k)].exp()).sum::<f64>().ln();
            let w = |k: usize| if self.weight { self.w[k] } else { 1.0 };
            if self.t[r] < 0.0 {
                loss.push(0.0);
                counted.push(0.0);
                continue;
            }
            let q = |k: usize| (1.0 - self.eps) * (k == self.t[r] as usize) as u8 as f64 + self.eps / a.n as f64;
            loss.push((0..a.n).map(|k| w(k) * q(k) * (lse - self.x[at(k)])).sum());
            counted.push(w(self.t[r] as usize));
            let total: f64 = (0..a.n).map(|k| w(k) * q(k)).sum();
            for k in 0..a.n {
                dx[at(k)] = self.dl[r] * (total * (self.x[at(k)] - lse).exp() - w(k) * q(k));
            }
        }
        [loss, counted, dx]
    }
}

fn each(f: impl Fn(&[usize], Case, Around)) {
    for shape in SHAPES {
        for (weight, eps) in [(false, 0.0), (true, 0.0), (false, 0.1), (true, 0.3)] {
            let (case, a) = Case::new(shape, weight, eps);
            f(shape, case, a);
        }
    }
}

#[test]
fn cpu_agrees_with_the_definition() {
    each(|shape, case, a| {
        let want = case.naive(a);
        let rows = positions(&shape.into());
        for (dtype, tol) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
            let classes = [a.n];
            let w = (dtype, &classes[..], &case.w[..]);
            let mut inputs = vec![(dtype, shape, &case.x[..]), (DType::I32, &rows[..], &case.t[..])];
            inputs.extend(case.weight.then_some(w));
            let (got, fault) = cpu(&case.op(), &inputs).unwrap();
            assert!(!fault);
            close(&got[0], &want[0], tol);
            close(&got[1], &want[1], tol);
            let mut inputs = vec![
                (dtype, &rows[..], &case.dl[..]),
                (dtype, shape, &case.x[..]),
                (DType::I32, &rows[..], &case.t[..]),
                (dtype, &rows[..], &got[2][..]),
            ];
            inputs.extend(case.weight.then_some(w));
            close(&cpu(&LossBackward(case.op()), &inputs).unwrap().0[0], &want[2], tol);
        }
    });
}

#[test]
fn a_class_out_of_range_is_a_fault() {
    for (shape, t) in [(&[2, 3][..], [0.0, 3.0]), (&[1, 3, 2], [-1.0, 1.0])] {
        let x = vec![0.0; shape.iter().product()];
        let op = Loss { weight: false, smooth: false, scalars: [(-100).into(), 0.0.into()] };
        let (got, fault) = cpu(&op, &[(DType::F32, shape, &x), (DType::I32, &positions(&shape.into()), &t)]).unwrap();
        assert!(fault && got[0].contains(&0.0) && got[1].iter().sum::<f64>() == 1.0);
    }
}

#[test]
fn shaders_are_valid() {
    each(|shape, case, a| {
        let rows = positions(&shape.into());
        let (f, i, classes) = (DType::F32, DType::I32, [a.n]);
        let mut inputs = vec![(f, shape), (i, &rows[..])];
        inputs.extend(case.weight.then_some((f, &classes[..])));
        gpu(&case.op(), &inputs);
        let mut inputs = vec![(f, &rows[..]), (f, shape), (i, &rows[..]), (f, &rows[..])];
        inputs.extend(case.weight.then_some((f, &classes[..])));
        gpu(&LossBackward(case.op()), &inputs);
    });
}
