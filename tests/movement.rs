//! Data movement, sorting and scans from end to end: forward on both devices, gradients to second order, faults, donation.

use fornax::{DType, Device, Error, GradCheck, PadMode, Result, Tensor, check_gradients, grad};

/// The devices to test on: the CPU, and a GPU where there is one.
fn devices() -> Vec<Device> {
    let gpu = Device::gpu(0);
    if gpu.is_err() && std::env::var("FORNAX_REQUIRE_GPU").is_ok_and(|v| v == "1") {
        panic!("FORNAX_REQUIRE_GPU=1, and there is no GPU");
    }
    [Device::cpu()].into_iter().chain(gpu).collect()
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

fn indices(n: usize, bound: usize, seed: u32) -> Vec<i32> {
    numbers(n, seed).iter().map(|v| (((v + 1.0) / 2.0 * bound as f32) as usize).min(bound - 1) as i32).collect()
}

type Case = (&'static str, &'static [usize], fn(&Tensor) -> Result<Tensor>);

fn index(x: &Tensor, shape: &[usize], bound: usize) -> Result<Tensor> {
    Tensor::from_vec(indices(shape.iter().product(), bound, 77), shape, x.device())
}

fn other(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(numbers(shape.iter().product(), 5), shape, x.device())?.try_cast(x.dtype())
}

/// Every differentiable op of the family, as a function of one tensor.
const CASES: &[Case] = &[
    ("cat", &[2, 3, 4], |x| Tensor::try_cat(&[x, &other(x, &[2, 2, 4])?, &x.try_narrow(1, 1, 2)?], 1)),
    ("cat of nine", &[3, 2], |x| Tensor::try_cat(&[x; 9], -1)),
    ("cat of transposed", &[3, 3], |x| Tensor::try_cat(&[x, &x.try_t()?], 0)),
    ("pad", &[2, 3, 4], |x| x.try_pad(&[(1, 2), (0, 3)], PadMode::Constant(1.5))),
    ("pad reflect", &[2, 3, 4], |x| x.try_pad(&[(2, 1), (0, 3)], PadMode::Reflect)),
    ("pad replicate", &[2, 3, 4], |x| x.try_pad(&[(2, 1), (0, 5)], PadMode::Replicate)),
    ("pad circular", &[2, 3, 4], |x| x.try_pad(&[(3, 1), (0, 2)], PadMode::Circular)),
    ("slice_assign, tensor", &[4, 5], |x| x.try_slice_assign(&[1..3, 2..5], &other(x, &[2, 3])?)),
    ("slice_assign, value", &[1, 3], |x| other(x, &[4, 5])?.try_slice_assign(&[1..3, 2..5], x)),
    ("slice_assign_at", &[4, 2, 3], |x| x.try_slice_assign_at(1, 1, &other(x, &[4, 1, 3])?)),
    ("gather", &[3, 4, 2], |x| x.try_gather(1, &index(x, &[3, 5, 2], 4)?)),
    ("gather of less", &[3, 4, 2], |x| x.try_gather(1, &index(x, &[2, 5, 1], 4)?)),
    ("take_along", &[3, 1, 2], |x| x.try_take_along(2, &index(x, &[1, 4, 5], 2)?)),
    ("index_select", &[3, 4, 2], |x| x.try_index_select(1, &index(x, &[6], 4)?)),
    ("index_select, many", &[5, 3], |x| x.try_index_select(0, &index(x, &[70], 5)?)),
    ("embedding", &[6, 3], |x| x.try_embedding(&index(x, &[2, 4], 6)?)),
    ("scatter, tensor", &[3, 4, 2], |x| x.try_scatter(1, &index(x, &[2, 5, 2], 4)?, &other(x, &[3, 5, 2])?)),
    ("scatter, source", &[3, 5, 2], |x| other(x, &[3, 4, 2])?.try_scatter(1, &index(x, &[3, 5, 2], 4)?, x)),
    ("scatter, long source", &[90], |x| other(x, &[7])?.try_scatter(0, &index(x, &[90], 7)?, x)),
    ("scatter_add, tensor", &[3, 4, 2], |x| x.try_scatter_add(1, &index(x, &[3, 5, 1], 4)?, &other(x, &[3, 5, 2])?)),
    ("scatter_add, source", &[3, 5, 2], |x| other(x, &[3, 4, 2])?.try_scatter_add(1, &index(x, &[3, 5, 2], 4)?, x)),
    ("scatter_add, long source", &[2, 90], |x| other(x, &[2, 7])?.try_scatter_add(1, &index(x, &[2, 90], 7)?, x)),
    ("index_add, tensor", &[3, 4], |x| x.try_index_add(0, &index(x, &[5], 3)?, &other(x, &[5, 4])?)),
    ("index_add, source", &[5, 4], |x| other(x, &[3, 4])?.try_index_add(0, &index(x, &[5], 3)?, x)),
    ("sort", &[3, 5], |x| Ok(x.try_sort(0, true)?.0)),
    ("sort long", &[3, 70], |x| Ok(x.try_sort(1, false)?.0)),
    ("topk", &[3, 7], |x| Ok(x.try_topk(2, 1, true)?.0)),
    ("cumsum", &[3, 4, 2], |x| x.try_cumsum(1)),
    ("cumsum long", &[2, 100], |x| x.try_cumsum(1)),
    ("cumprod", &[3, 4], |x| x.try_cumprod(1)),
    ("cumprod with zeros", &[2, 5], |x| {
        x.try_mul(&Tensor::from_vec(vec![1.0f32, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0], [2, 5], x.device())?.try_cast(x.dtype())?)?
            .try_cumprod(1)
    }),
    ("cummax", &[3, 6], |x| Ok(x.try_cummax(1)?.0)),
    ("linear_scan, values", &[2, 6], |x| x.try_linear_scan(&other(x, &[2, 6])?, 1, false)),
    ("linear_scan, factors", &[2, 6], |x| other(x, &[2, 6])?.try_linear_scan(x, 1, true)),
];

#[test]
fn gpu_agrees_with_cpu() -> Result<()> {
    for &device in &devices()[1..] {
        for (name, shape, f) in CASES {
            for dtype in [DType::F32, DType::F16, DType::I32, DType::U8] {
                if !dtype.is_float() && name.starts_with("linear_scan") {
                    continue;
                }
                let x: Vec<f32> = numbers(shape.iter().product(), 3)
                    .iter()
                    .map(|v| if dtype.is_float() { *v } else { (v * 2.0 + 2.0).round() })
                    .collect();
                let run = |device| -> Result<Vec<f32>> { f(&Tensor::from_vec(x.clone(), *shape, device)?.try_cast(dtype)?)?.to_vec() };
                let (a, b) = (run(Device::cpu())?, run(device)?);
                assert_eq!(a.len(), b.len(), "{name} {dtype}");
                for (a, b) in a.iter().zip(&b) {
                    assert!((a - b).abs() <= 1e-3 * (1.0 + a.abs()), "{name} {dtype}: {a} on the CPU, {b} on the GPU");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_match_differences() -> Result<()> {
    for (name, shape, f) in CASES {
        let x = Tensor::from_vec(numbers(shape.iter().product(), 3), *shape, Device::cpu())?.try_cast(DType::F64)?;
        check_gradients(|x| f(&x[0]), &[&x], GradCheck::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        // Second order, through a function whose gradient depends on its input.
        let second = |x: &[Tensor]| {
            let x = if x[0].is_differentiable() { x[0].clone() } else { x[0].requires_grad() };
            let y = f(&x)?;
            let z = y.try_mul(&y)?.try_mul(&y)?.try_sum(())?;
            Ok(grad(&[&z], &[&x])?.remove(0).expect("a gradient"))
        };
        if x.numel() <= 30 {
            check_gradients(second, &[&x], GradCheck { rtol: 1e-4, atol: 1e-5, ..GradCheck::default() })
                .unwrap_or_else(|e| panic!("{name}, second order: {e}"));
        }
    }
    Ok(())
}

#[test]
fn gpu_gradients_agree_with_cpu() -> Result<()> {
    for &device in &devices()[1..] {
        for (name, shape, f) in CASES {
            let run = |device| -> Result<Vec<f32>> {
                let x = Tensor::from_vec(numbers(shape.iter().product(), 3), *shape, device)?.requires_grad();
                let y = f(&x)?;
                let grads = y.try_mul(&y)?.try_sum(())?.backward()?;
                grads.get(&x).expect("a gradient").to_vec()
            };
            for (a, b) in run(Device::cpu())?.iter().zip(&run(device)?) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()), "{name}: {a} on the CPU, {b} on the GPU");
            }
        }
    }
    Ok(())
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
        assert!(matches!(Tensor::from_vec(vec![-1], 1, device)?.bincount(0), Err(Error::Index { .. })));
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
        fornax::manual_seed(11);
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
    assert!(seen.windows(2).all(|w| w[0].0 == w[1].0));
    Ok(())
}
