//! Long sorts and scans; ops whose shape depends on values; random draws.

use crate::harness::gpu;
use fornax::{DType, Device, Result, Tensor};

fn devices() -> impl Iterator<Item = Device> {
    [Some(Device::cpu()), gpu()].into_iter().flatten()
}

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

#[test]
fn long_sorts_and_scans() -> Result<()> {
    for device in devices() {
        let n = 5000;
        let x = numbers(2 * n, 9);
        let t = Tensor::from_vec(x.clone(), [2, n], device)?;
        let (values, places) = t.try_sort(1, true)?;
        let (values, places) = (values.to_vec::<f32>()?, places.to_vec::<i32>()?);
        for r in 0..2 {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| x[r * n + b].total_cmp(&x[r * n + a]));
            assert!(order.iter().zip(&places[r * n..]).all(|(a, b)| *a == *b as usize), "{device}");
            assert!(order.iter().zip(&values[r * n..]).all(|(a, b)| x[r * n + a] == *b), "{device}");
        }
        let sums = t.try_cumsum(1)?.to_vec::<f32>()?;
        let mut s = 0.0f64;
        for i in 0..n {
            s += x[i] as f64;
            assert!((sums[i] as f64 - s).abs() < 1e-3, "{device}");
        }
        assert_eq!(t.try_topk(3, 1, false)?.0.to_vec::<f32>()?[..3], t.try_sort(1, false)?.0.try_narrow(1, 0, 3)?.to_vec::<f32>()?[..3]);
    }
    Ok(())
}

#[test]
fn what_depends_on_values() -> Result<()> {
    for device in devices() {
        let x = Tensor::from_vec(vec![3.0f32, 1.0, 0.0, 3.0, 2.0, 1.0], [2, 3], device)?;
        assert_eq!(x.nonzero()?.to_vec::<i32>()?, [0, 0, 0, 1, 1, 0, 1, 1, 1, 2]);
        assert_eq!(x.masked_select(&x.try_gt(1.5)?)?.to_vec::<f32>()?, [3.0, 3.0, 2.0]);
        let u = x.unique()?;
        assert_eq!(u.values.to_vec::<f32>()?, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(u.inverse.to_vec::<i32>()?, [3, 1, 0, 3, 2, 1]);
        assert_eq!(u.counts.to_vec::<i32>()?, [1, 2, 1, 2]);
        let i = Tensor::from_vec(vec![3, 1, 3], 3, device)?;
        assert_eq!(i.bincount(6)?.to_vec::<i32>()?, [0, 1, 0, 2, 0, 0]);
        let empty = Tensor::from_vec(Vec::<f32>::new(), [0, 3], device)?;
        assert_eq!(empty.nonzero()?.dims(), [0, 2]);
        assert_eq!(empty.unique()?.values.numel(), 0);
    }
    Ok(())
}

#[test]
fn draws_are_the_same_everywhere() -> Result<()> {
    let mut seen: Vec<(Vec<i32>, Vec<i32>)> = Vec::new();
    for device in devices() {
        let _seed = fornax::testing::seed(11);
        let p = Tensor::permutation(1500, device).to_vec::<i32>()?;
        let mut q = p.clone();
        q.sort();
        assert!(q.iter().enumerate().all(|(i, v)| i == *v as usize) && p != q);
        let w = Tensor::from_vec(vec![0.0f32, 1.0, 3.0, 0.0], 4, device)?;
        let drawn = w.multinomial(4000, true).to_vec::<i32>()?;
        let threes = drawn.iter().filter(|&&i| i == 2).count();
        assert!(drawn.iter().all(|&i| i == 1 || i == 2) && (2850..3150).contains(&threes), "{threes}");
        let mut both = w.multinomial(2, false).to_vec::<i32>()?;
        both.sort();
        assert_eq!(both, [1, 2]);
        seen.push((p, drawn));
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]));
    Ok(())
}

/// A slice and the same one backward differ in their strides alone.
#[test]
fn a_reversed_slice_has_a_plan_of_its_own() -> Result<()> {
    for device in devices() {
        let x = Tensor::arange(0.0f32, 32.0, 1.0, device);
        x.eval()?;
        let part = x.try_narrow(0, 9, 10)?;
        assert_eq!((&part * 2.0).to_vec::<f32>()?, (9..19).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
        let back = x.try_narrow(0, 0, 10)?.try_flip(0)?;
        assert_eq!((&back * 2.0).to_vec::<f32>()?, (0..10).rev().map(|i| 2.0 * i as f32).collect::<Vec<_>>());
    }
    Ok(())
}

/// What multiplies to more than memory can address is an error and no wrapped number.
#[test]
fn absurd_sizes_are_errors() -> Result<()> {
    for device in devices() {
        let one = Tensor::ones([1, 1], device);
        let wide = |a: usize, b: usize| one.try_expand([a, b]);
        assert!(wide(1 << 40, 1)?.try_matmul(&wide(1, 1 << 40)?).is_err());
        let image = Tensor::ones([1, 1, 1, 1], device);
        let options = fornax::ConvOptions { padding: (1 << 24).into(), ..Default::default() };
        assert!(image.try_expand([1, 1 << 16, 1, 1])?.try_unfold([1 << 24, 1 << 24], options).is_err());
        assert!(image.try_interpolate(fornax::Resize::To([1 << 25, 1 << 25].into()), fornax::Interpolation::Bilinear, false).is_err());
    }
    Ok(())
}

#[test]
fn einsum_keeps_u8() -> Result<()> {
    for device in devices() {
        let a = Tensor::from_vec(vec![1u8, 2, 3, 4], [2, 2], device)?;
        let b = Tensor::from_vec(vec![5u8, 6, 7, 200], [2, 2], device)?;
        let k = Tensor::try_einsum("ij,jk->k", &[&a, &b])?;
        assert_eq!(k.dtype(), DType::U8);
        // Wrapped, as products of u8 are: (1 + 3)·5 + (2 + 4)·7 and (1 + 3)·6 + (2 + 4)·200.
        assert_eq!(k.to_vec::<u8>()?, [62, (1224 % 256) as u8]);
    }
    Ok(())
}

#[test]
fn small_elements_move_as_they_are() -> Result<()> {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16, DType::U8, DType::Bool, DType::F32] {
            // Rows of whole words, and rows that are not.
            for n in [4, 8, 3] {
                let host: Vec<f32> = (0..6 * n).map(|i| if dtype == DType::Bool { i % 3 % 2 } else { i } as f32).collect();
                let row = |r: usize| host[r * n..(r + 1) * n].to_vec();
                let x = Tensor::from_vec(host.clone(), [6, n], device)?.try_cast(dtype)?;
                let index = Tensor::from_vec(vec![5, 0, 5], 3, device)?;
                assert_eq!(x.index_select(0, &index).to_vec::<f32>()?, [row(5), row(0), row(5)].concat(), "{device} {dtype} {n}");
                let (a, b) = (x.try_narrow(0, 0, 1)?, x.try_narrow(0, 3, 3)?);
                assert_eq!(Tensor::cat(&[&b, &a], 0).to_vec::<f32>()?, [row(3), row(4), row(5), row(0)].concat(), "{device} {dtype} {n}");
                let wide = Tensor::cat(&[&b, &b], 1).try_narrow(0, 1, 1)?;
                assert_eq!(wide.to_vec::<f32>()?, [row(4), row(4)].concat(), "{device} {dtype} {n}");
                let y = x.slice_assign_at(0, 2, &b);
                assert_eq!(y.to_vec::<f32>()?, [row(0), row(1), row(3), row(4), row(5), row(5)].concat(), "{device} {dtype} {n}");
            }
        }
        let x = Tensor::ones([3, 4], device).try_cast(DType::F16)?.requires_grad();
        let index = Tensor::from_vec(vec![2, 2, 0], 3, device)?;
        let grads = x.index_select(0, &index).sum(()).backward()?;
        let g = grads.get(&x).expect("a gradient");
        assert_eq!(g.to_vec::<f32>()?, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0]);
    }
    Ok(())
}

/// GPT-2's table of embeddings is larger than what some adapters bind at once.
#[test]
fn a_table_past_the_largest_binding() -> Result<()> {
    let Some(device) = gpu() else { return Ok(()) };
    let (n, d) = (40_000, 900);
    let table = Tensor::from_vec((0..n * d).map(|i| (i / d) as f32).collect(), [n, d], device)?;
    let ids = Tensor::from_vec(vec![0, 39_999, 36_000, 1, 37_283, 37_282, 37_376], 7, device)?;
    let y = table.embedding(&ids).to_vec::<f32>()?;
    assert!(y.iter().enumerate().all(|(i, v)| *v == [0.0, 39_999.0, 36_000.0, 1.0, 37_283.0, 37_282.0, 37_376.0][i / d]));
    Ok(())
}
