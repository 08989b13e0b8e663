//! Views and assemble.

use crate::harness::*;
use fornax::{Device, Tensor};

pub fn cases() -> Vec<Case> {
    vec![
        case("reshape", &[real(&[2, 6])], |t| t[0].try_reshape([3, 4])).oracle(|a| a[0].v.clone()),
        case("reshape to a scalar", &[real(&[1, 1])], |t| t[0].try_reshape(())),
        case("reshape_infer", &[real(&[2, 6])], |t| t[0].try_reshape_infer(&[4, -1])),
        case("flatten", &[real(&[2, 3, 2])], |t| t[0].try_flatten(1, -1)),
        case("permute", &[real(&[2, 3, 2])], |t| t[0].try_permute(&[2, 0, 1]))
            .oracle(|a| (0..12).map(|i| a[0].v[i / 3 % 2 * 6 + i % 3 * 2 + i / 6]).collect()),
        case("transpose and reshape", &[real(&[3, 4])], |t| t[0].try_transpose(0, 1)?.try_reshape([2, 6])),
        case("movedim", &[real(&[2, 3, 2])], |t| t[0].try_movedim(0, 2)),
        case("t", &[real(&[3, 4])], |t| t[0].try_t()),
        case("expand", &[real(&[3, 1])], |t| t[0].try_expand([2, 3, 4])).oracle(|a| (0..24).map(|i| a[0].v[i / 4 % 3]).collect()),
        case("expand a scalar", &[real(&[])], |t| t[0].try_expand([2, 3])),
        case("expand to nothing", &[real(&[1, 3])], |t| t[0].try_expand([0, 3])).flat(),
        case("unsqueeze and squeeze", &[real(&[2, 3])], |t| t[0].try_unsqueeze(1)?.try_unsqueeze(-1)?.try_squeeze(1)),
        case("slice", &[real(&[5, 3])], |t| t[0].try_slice(0, 1, -1, 2))
            .oracle(|a| a[0].v[3..6].iter().chain(&a[0].v[9..12]).copied().collect()),
        case("slice backward", &[real(&[5, 3])], |t| t[0].try_slice(0, -1, isize::MIN, -2)),
        case("slice of slices", &[real(&[7, 5])], |t| t[0].try_slice(0, 1, 7, 2)?.try_slice(1, 4, 0, -1)?.try_slice(0, 2, isize::MIN, -1)),
        case("slice to nothing", &[real(&[5, 3])], |t| t[0].try_slice(0, 3, 3, 1)).flat(),
        case("narrow", &[real(&[4, 3])], |t| t[0].try_narrow(1, 1, 2)),
        case("select", &[real(&[4, 3])], |t| t[0].try_select(0, -2)),
        case("split", &[real(&[5, 2])], |t| {
            let p = t[0].try_split([2, 0, 3], 0)?;
            p[0].try_sum(())?.try_mul(&p[2])
        }),
        case("slices that overlap", &[real(&[6])], |t| {
            let p = [t[0].try_narrow(0, 0, 4)?, t[0].try_narrow(0, 2, 4)?, t[0].try_slice(0, 5, isize::MIN, -1)?.try_narrow(0, 1, 4)?];
            p[0].try_mul(&p[1])?.try_mul(&p[2])
        }),
        case("chunk", &[real(&[2, 7])], |t| t[0].try_chunk(3, 1)?[1].try_square()),
        case("unbind", &[real(&[3, 2])], |t| {
            let p = t[0].try_unbind(0)?;
            p[0].try_mul(&p[1])?.try_mul(&p[2])
        }),
        case("windows", &[real(&[7, 2])], |t| t[0].try_windows(0, 3, 2, 1)?.try_square())
            .oracle(|a| (0..18).map(|i| a[0].v[(2 * (i / 6) + i / 2 % 3) * 2 + i % 2].powi(2)).collect()),
        case("windows with gaps", &[real(&[2, 9])], |t| t[0].try_windows(1, 2, 4, 3)?.try_square()),
        case("windows, more places than windows", &[real(&[9])], |t| t[0].try_windows(0, 6, 3, 1)?.try_square()),
        case("windows of windows", &[real(&[5, 5])], |t| t[0].try_windows(0, 3, 1, 1)?.try_windows(2, 2, 1, 2)?.try_square()),
        case("windows that do not fit", &[real(&[3])], |t| t[0].try_windows(0, 4, 1, 1)).flat(),
        case("flip", &[real(&[2, 3])], |t| t[0].try_flip(-1)),
        case("flip all", &[real(&[2, 3])], |t| t[0].try_flip(())).oracle(|a| a[0].v.iter().rev().copied().collect()),
        case("repeat", &[real(&[2, 2])], |t| t[0].try_repeat(&[2, 1, 3])),
        case("tile", &[real(&[2, 2])], |t| t[0].try_tile(&[3])),
        case("roll", &[real(&[2, 5])], |t| t[0].try_roll(-2, 1)),
        case("diagonal", &[real(&[3, 4])], |t| t[0].try_diagonal(1, 0, 1)).oracle(|a| vec![a[0].v[1], a[0].v[6], a[0].v[11]]),
        case("diagonal below", &[real(&[2, 4, 3])], |t| t[0].try_diagonal(-1, 1, 2)),
        case("assemble, many tiles", &[real(&[300, 257])], |t| {
            t[0].try_slice(0, 299, isize::MIN, -2)?.try_mul(&t[0].try_slice(0, 0, 300, 2)?)?.try_slice(1, 0, 257, 3)
        })
        .once()
        .no_half()
        .tol(1e-4),
        case("a view of a view of a copy", &[real(&[4, 6])], |t| {
            let x = t[0].try_transpose(0, 1)?.try_reshape([4, 6])?.try_slice(1, 5, isize::MIN, -2)?;
            x.try_unsqueeze(0)?.try_expand([2, 4, 3])?.try_permute(&[2, 0, 1])?.try_reshape([6, 4])
        }),
    ]
}

#[test]
fn views() {
    check_all(&cases(), &[("gradient", 349), ("second derivative", 64), ("second, by element", 27), ("layout", 120), ("gpu = cpu", 33)]);
}

#[test]
fn wrong_views_are_errors() {
    let x = Tensor::zeros([2, 3], Device::cpu());
    let bad: Vec<fornax::Result<Tensor>> = vec![
        x.try_reshape([4, 2]),
        x.try_reshape([usize::MAX, usize::MAX]),
        x.try_reshape_infer(&[-1, -1]),
        x.try_reshape_infer(&[-1, 4]),
        x.try_reshape_infer(&[-1, 0]),
        x.try_permute(&[0, 0]),
        x.try_permute(&[0]),
        x.try_permute(&[0, 2]),
        x.try_expand([3, 3]),
        x.try_expand([3]),
        x.try_expand([usize::MAX / 4, 2, 3]),
        x.try_unsqueeze(4),
        x.try_squeeze(2),
        x.try_slice(0, 0, 1, 0),
        x.try_slice(2, 0, 1, 1),
        x.try_narrow(0, 1, 2),
        x.try_narrow(0, usize::MAX, 2),
        x.try_select(0, 2),
        x.try_select(0, -3),
        x.try_windows(0, 0, 1, 1),
        x.try_windows(0, 1, 0, 1),
        x.try_windows(0, 2, 1, 0),
        x.try_windows(0, usize::MAX, 1, usize::MAX),
        x.try_repeat(&[2]),
        x.try_flatten(1, 0),
        x.try_diagonal(0, 1, -1),
    ];
    for (i, r) in bad.into_iter().enumerate() {
        assert!(r.is_err(), "number {i} is no error: {r:?}");
    }
    assert!(x.try_split([1, 3], 1).is_err() && x.try_split([usize::MAX, 4], 1).is_err());
    assert!(x.try_chunk(0, 1).is_err());
    // What is odd but right.
    assert_eq!(x.slice(0, 5, 9, 1).dims(), [0, 3]);
    assert_eq!(x.slice(0, 0, isize::MAX, isize::MAX).dims(), [1, 3]);
    assert_eq!(x.windows(0, 2, usize::MAX, usize::MAX / 8).dims(), [0, 2, 3]);
    assert_eq!(x.diagonal(7, 0, 1).dims(), [0]);
    assert_eq!(x.repeat(&[0, 1]).dims(), [0, 3]);
    assert_eq!(Tensor::zeros((), Device::cpu()).flatten(0, -1).dims(), [1]);
}
