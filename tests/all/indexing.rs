//! Indexing and printing, against what NumPy gives.
#![allow(clippy::reversed_empty_ranges)] // `2..0;-1` walks backward

use fornax::{Device, Error, Tensor, s};

const CPU: Device = Device::cpu();

fn x(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_vec((0..n).map(|i| i as f32).collect(), shape, CPU).unwrap()
}

fn ids(v: &[i32]) -> Tensor {
    Tensor::from_vec(v.to_vec(), v.len(), CPU).unwrap()
}

#[track_caller]
fn is(t: &Tensor, shape: &[usize], v: &[f32]) {
    assert_eq!(t.dims(), shape);
    assert_eq!(t.to_vec::<f32>().unwrap(), v);
}

#[test]
fn basic_indices() {
    let a = x(&[3, 4]);
    is(&a.index(s![1]), &[4], &[4., 5., 6., 7.]);
    is(&a.index(s![-1, -2]), &[], &[10.]);
    is(&a.index(s![.., 1]), &[3], &[1., 5., 9.]);
    is(&a.index(s![1.., ..2]), &[2, 2], &[4., 5., 8., 9.]);
    is(&a.index(s![..;-1, ..;3]), &[3, 2], &[8., 11., 4., 7., 0., 3.]);
    is(&a.index(s![..., 0]), &[3], &[0., 4., 8.]);
    is(&a.index(s![NewAxis, ..., 0..=1]), &[1, 3, 2], &[0., 1., 4., 5., 8., 9.]);
    is(&a.index(s![2..0;-1, 3..;-2]), &[2, 2], &[11., 9., 7., 5.]);
    is(&a.index(s![5.., 0]), &[0], &[]);
    assert_eq!(a.index(s![]).dims(), [3, 4]);
    assert_eq!(a.index(s![0, NewAxis, ..]).dims(), [1, 4]);
    let i = 2usize;
    is(&a.index(s![i, i - 1]), &[], &[9.]);
}

#[test]
fn index_tensors() {
    let a = x(&[3, 4]);
    is(&a.index(s![&ids(&[2, 0])]), &[2, 4], &[8., 9., 10., 11., 0., 1., 2., 3.]);
    is(&a.index(s![&ids(&[0, -1]), &ids(&[1, -1])]), &[2], &[1., 11.]);
    is(&a.index(s![ids(&[0, 2]).unsqueeze(1), &ids(&[3, 1, 0])]), &[2, 3], &[3., 1., 0., 11., 9., 8.]);
    is(&a.index(s![1.., &ids(&[3, 3])]), &[2, 2], &[7., 7., 11., 11.]);
    let b = x(&[2, 3, 4]);
    // NumPy: separated index tensors go in front.
    assert_eq!(b.index(s![&ids(&[0, 1, 1, 0, 0]), .., &ids(&[0])]).dims(), [5, 3]);
    assert_eq!(b.index(s![.., &ids(&[0, 1]), &ids(&[0, 3])]).dims(), [2, 2]);
    is(&b.index(s![1, .., &ids(&[0, 3])]), &[2, 3], &[12., 16., 20., 15., 19., 23.]);
    is(&b.index(s![1, &ids(&[0, 2])]), &[2, 4], &[12., 13., 14., 15., 20., 21., 22., 23.]);
    assert_eq!(b.index(s![&ids(&[]), ..]).dims(), [0, 3, 4]);
    assert_eq!(b.index(s![.., NewAxis, &ids(&[1, 1, 1])]).dims(), [2, 1, 3, 4]);
}

#[test]
fn masks() {
    let a = x(&[3, 4]);
    is(&a.index(s![a.gt(8)]), &[3], &[9., 10., 11.]);
    let rows = Tensor::from_vec(vec![true, false, true], 3, CPU).unwrap();
    is(&a.index(s![&rows, 0]), &[2], &[0., 8.]);
    is(&a.index(s![&rows, ..;3]), &[2, 2], &[0., 3., 8., 11.]);
    assert_eq!(a.index(s![a.gt(99)]).dims(), [0]);
    assert_eq!(a.index(s![.., a.index(s![0]).ge(2)]).dims(), [3, 2]);
}

#[test]
fn setting() {
    let a = x(&[2, 3]);
    is(&a.index_set(s![0], 9), &[2, 3], &[9., 9., 9., 3., 4., 5.]);
    is(&a.index_set(s![.., ..;-2], x(&[2])), &[2, 3], &[1., 1., 0., 1., 4., 0.]);
    is(&a.index_set(s![a.gt(3)], -1), &[2, 3], &[0., 1., 2., 3., -1., -1.]);
    is(&a.index_set(s![&ids(&[0, -1]), &ids(&[2, 0])], &(x(&[2]) + 50.0)), &[2, 3], &[0., 1., 50., 51., 4., 5.]);
    is(&a, &[2, 3], &[0., 1., 2., 3., 4., 5.]);
    assert!(a.try_index_set(s![0], x(&[2])).is_err());
}

#[test]
fn wrong_indices_are_errors() {
    let a = x(&[3, 4]);
    assert!(matches!(a.try_index(s![3]), Err(Error::Index { .. })));
    assert!(matches!(a.try_index(s![0, -5]), Err(Error::Index { .. })));
    assert!(matches!(a.try_index(s![0, 0, 0]), Err(Error::Index { .. })));
    assert!(a.try_index(s![..., 0, ...]).is_err());
    assert!(a.try_index(s![..;0]).is_err());
    assert!(a.try_index(s![&a]).is_err());
    assert!(a.try_index(s![a.t().gt(0)]).is_err());
    assert!(a.try_index(s![&ids(&[0, 1]), &ids(&[0, 1, 2])]).is_err());
}

#[test]
fn gradients_flow_through_indices() {
    let a = x(&[3, 4]).requires_grad();
    let y = (a.index(s![&ids(&[0, 0, -1]), 1..]) * 2.0).sum(()) + a.index(s![a.gt(9)]).sum(());
    let g = y.backward().unwrap();
    is(g.get(&a).unwrap(), &[3, 4], &[0., 4., 4., 4., 0., 0., 0., 0., 0., 2., 3., 3.]);
}

#[test]
fn debug_evaluates_nothing() {
    let y = x(&[3]) + 1.0;
    assert_eq!(format!("{y:?}"), "Tensor(f32 [3], cpu, add)");
}
