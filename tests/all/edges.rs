//! Numbers that a dtype cannot hold, scalars where an axis is asked for, arguments out of range: PyTorch's answers, the same on both backends, in the
//! name of the op that the user called.

use crate::harness::gpu;
use fornax::nn::{Dropout, Param};
use fornax::optim::{Adam, AdamW, Optimizer, SGD};
use fornax::{DType, Device, Element, Error, PadMode, Result, Tensor};

fn devices() -> impl Iterator<Item = Device> {
    [Some(Device::cpu()), gpu()].into_iter().flatten()
}

fn vector<T: Element>(v: &[T], device: Device) -> Tensor {
    Tensor::from_slice(v, v.len(), device).unwrap()
}

/// The op that an error names.
fn op<T>(result: Result<T>) -> &'static str {
    match result.err() {
        Some(
            Error::Argument { op, .. }
            | Error::Shape { op, .. }
            | Error::DType { op, .. }
            | Error::Axis { op, .. }
            | Error::Index { op, .. },
        ) => op,
        Some(other) => panic!("{other}"),
        None => "no error",
    }
}

#[test]
fn fills_that_a_dtype_cannot_hold() -> Result<()> {
    for device in devices() {
        let full = |v: f64, d: DType| Tensor::try_full(2, v, (d, device));
        for (v, d) in [
            (300.0, DType::U8),
            (-256.0, DType::U8),
            (3e9, DType::I32),
            (-3e9, DType::I32),
            (5e9, DType::U32),
            (f64::NAN, DType::I32),
            (f64::INFINITY, DType::I32),
            (1e39, DType::F32),
            (1e5, DType::F16),
        ] {
            assert_eq!(op(full(v, d)), "full", "{v} as {d}");
        }
        let message = full(300.0, DType::U8).unwrap_err().to_string();
        assert_eq!(message, "full: 300 cannot be converted to u8 without overflow: it holds 0 to 255");
        assert_eq!(full(-1.0, DType::U8)?.to_vec::<u8>()?, [255; 2]);
        assert_eq!(full(-1.0, DType::U32)?.to_vec::<u32>()?, [u32::MAX; 2]);
        assert_eq!(full(1.9, DType::I32)?.to_vec::<i32>()?, [1; 2]);
        assert_eq!(full(2.0, DType::Bool)?.to_vec::<bool>()?, [true; 2]);
        assert_eq!(full(f64::NEG_INFINITY, DType::F16)?.to_vec::<f32>()?, [f32::NEG_INFINITY; 2]);
        let u = vector(&[1u8, 200], device);
        let mask = u.try_gt(100)?;
        assert_eq!(op(u.try_masked_fill(&mask, 300)), "masked_fill");
        assert_eq!(op(u.try_masked_fill(&mask.try_reshape([2, 1])?.try_expand([2, 3])?, 3)), "masked_fill");
        assert_eq!(u.try_masked_fill(&mask, -1)?.to_vec::<u8>()?, [1, 255]);
        let truncated = u.try_masked_fill(&mask, 7.9)?;
        assert_eq!((truncated.dtype(), truncated.to_vec::<u8>()?), (DType::U8, vec![1, 7]));
        assert_eq!(op(mask.try_where(&u, 300)), "where");
        assert_eq!(mask.try_where(&u, 2.5)?.to_vec::<f32>()?, [2.5, 200.0]);
        assert_eq!(op(u.try_full_like(256)), "full_like");
        assert_eq!(op(u.try_pad(&[(1, 1)], PadMode::Constant(300.0))), "pad");
        assert_eq!(op(u.try_pow(300)), "pow");
    }
    Ok(())
}

#[test]
fn numbers_beyond_a_dtype_in_ops() -> Result<()> {
    for device in devices() {
        let u = vector(&[1u8, 200], device);
        let i = vector(&[5i32, -5], device);
        let w = vector(&[5u32, 0], device);
        let bytes = |t: Tensor| -> Result<Vec<u8>> { t.to_vec::<u8>() };
        let truths = |t: Tensor| -> Result<Vec<bool>> { t.to_vec::<bool>() };
        // Arithmetic wraps.
        assert_eq!(bytes(u.try_add(300)?)?, [45, 244]);
        assert_eq!(bytes(u.try_sub(1)?)?, [0, 199]);
        assert_eq!(bytes(u.try_mul(-1)?)?, [255, 56]);
        assert_eq!(bytes(300 - &u)?, [43, 100]);
        assert_eq!(bytes(u.try_floor_div(300)?)?, [0, 4]);
        assert_eq!(bytes(u.try_rem(300)?)?, [1, 24]);
        assert_eq!(bytes(u.try_bitand(300)?)?, [0, 8]);
        assert_eq!(i.try_add(1i64 << 31)?.to_vec::<i32>()?, [i32::MIN + 5, i32::MAX - 4]);
        assert_eq!(i.try_mul(1i64 << 40)?.to_vec::<i32>()?, [0, 0]);
        // Comparisons, minima and bounds know the number.
        assert_eq!(truths(u.try_lt(300)?)?, [true, true]);
        assert_eq!(truths(u.try_ge(300)?)?, [false, false]);
        assert_eq!(truths(u.try_gt(-1)?)?, [true, true]);
        assert_eq!(truths(u.try_eq(456)?)?, [false, false]);
        assert_eq!(truths(u.try_eq(-56)?)?, [false, false]);
        assert_eq!(truths(u.try_ne(456)?)?, [true, true]);
        assert_eq!(truths(i.try_lt(3_000_000_000i64)?)?, [true, true]);
        assert_eq!(truths(i.try_le(-3_000_000_000i64)?)?, [false, false]);
        assert_eq!(truths(w.try_gt(-1)?)?, [true, true]);
        assert_eq!(truths(i.try_gt(0.5)?)?, [true, false]);
        assert_eq!(u.try_lt(300)?.dims(), [2]);
        assert_eq!(bytes(u.try_maximum(300)?)?, [255, 255]);
        assert_eq!(bytes(u.try_minimum(300)?)?, [1, 200]);
        assert_eq!(bytes(u.try_clamp(-1, 300)?)?, [1, 200]);
        assert_eq!(bytes(u.try_clamp(-1, 20)?)?, [1, 20]);
        assert_eq!(i.try_clamp(-(1i64 << 40), 1i64 << 40)?.to_vec::<i32>()?, [5, -5]);
        assert_eq!(i.try_clamp(0, 1.5)?.to_vec::<f32>()?, [1.5, 0.0]);
        // Integers that become narrower wrap, floats saturate.
        assert_eq!(vector(&[300i32, -1], device).try_cast(DType::U8)?.to_vec::<u8>()?, [44, 255]);
        assert_eq!(vector(&[300.5f32, -1.0, f32::NAN], device).try_cast(DType::U8)?.to_vec::<u8>()?, [255, 0, 0]);
    }
    let long = vector(&[1i64 << 31, -1], Device::cpu());
    assert_eq!(long.try_cast(DType::I32)?.to_vec::<i32>()?, [i32::MIN, -1]);
    assert_eq!(long.try_lt(1i64 << 40)?.to_vec::<bool>()?, [true, true]);
    Ok(())
}

#[test]
fn dtypes_that_promote_to_what_a_gpu_lacks() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let (i, u) = (vector(&[1i32, 2], gpu), vector(&[3u32, 4], gpu));
    assert_eq!(op(i.try_add(&u)), "add");
    assert_eq!(op(i.try_lt(&u)), "lt");
    assert!(i.try_add(&u).unwrap_err().to_string().contains("i64"));
    assert_eq!(i.try_add(u.try_cast(DType::I32)?)?.to_vec::<i32>()?, [4, 6]);
    let cpu = i.try_to(Device::cpu())?.try_add(u.try_to(Device::cpu())?)?;
    assert_eq!((cpu.dtype(), cpu.to_vec::<i64>()?), (DType::I64, vec![4, 6]));
    Ok(())
}

#[test]
fn a_scalar_has_axis_0_where_pytorchs_has() -> Result<()> {
    for device in devices() {
        let z = Tensor::try_full((), 3.0, device)?;
        for axis in [0isize, -1] {
            let three = [
                z.try_sum(axis)?,
                z.try_sum_keepdim(axis)?,
                z.try_mean(axis)?,
                z.try_prod(axis)?,
                z.try_max(axis)?,
                z.try_min(axis)?,
                z.try_norm(2.0, axis)?,
                z.try_cumsum(axis)?,
                z.try_cumprod(axis)?,
                z.try_cummax(axis)?.0,
                z.try_sort(axis, false)?.0,
                z.try_topk(1, axis, true)?.0,
                z.try_logsumexp(axis)?,
                z.try_flip(axis)?,
                z.try_squeeze(axis)?,
            ];
            for (k, t) in three.iter().enumerate() {
                assert_eq!((t.rank(), t.item::<f32>()?), (0, 3.0), "{k}");
            }
            assert_eq!((z.try_softmax(axis)?.item::<f32>()?, z.try_log_softmax(axis)?.item::<f32>()?), (1.0, 0.0));
            let places =
                [z.try_argmax(axis)?, z.try_argmin(axis)?, z.try_argsort(axis, false)?, z.try_sort(axis, true)?.1, z.try_cummax(axis)?.1];
            assert!(places.iter().all(|p| p.rank() == 0 && p.item::<i32>().unwrap() == 0));
            assert!(z.try_any(axis)?.item::<bool>()? && z.try_all(axis)?.item::<bool>()?);
            assert_eq!(z.try_unsqueeze(axis)?.dims(), [1]);
        }
        for (name, e) in [
            ("sum", op(z.try_sum(1))),
            ("sum", op(z.try_sum([0, -1]))),
            ("argmax", op(z.try_argmax(1))),
            ("softmax", op(z.try_softmax(1))),
            ("cumsum", op(z.try_cumsum(-2))),
            ("sort", op(z.try_sort(1, false))),
            ("narrow", op(z.try_narrow(0, 0, 1))),
            ("select", op(z.try_select(0, 0))),
        ] {
            assert_eq!(name, e);
        }
        let x = z.requires_grad();
        let g = (x.try_softmax(0)? + x.try_cumsum(0)? * 2.0 + x.try_sum(0)?).backward()?;
        assert_eq!(g.get(&x).unwrap().item::<f32>()?, 3.0);
    }
    Ok(())
}

/// Ops that are made of others: the error names what the user called.
#[test]
fn errors_name_the_op_that_was_called() {
    let o = Device::cpu();
    let (a, b) = (Tensor::ones([2, 3], o), Tensor::ones([4, 5], o));
    for (name, e) in [
        ("stack", op(Tensor::try_stack(&[&a, &b], 0))),
        ("linear", op(a.try_linear(&b, None))),
        ("dot", op(a.try_dot(&b))),
        ("masked_fill", op(a.try_masked_fill(&b.gt(0), 1.0))),
        ("logsumexp", op(a.try_logsumexp(4))),
        ("std", op(a.try_std(4, 1.0))),
        ("split", op(a.try_split([4, 5], 0))),
        ("roll", op(a.try_roll(1, 5))),
        ("linspace", op(Tensor::try_linspace(0.0, 1.0, 3, (DType::I32, o)))),
        ("rand_like", op(a.try_cast(DType::I32).unwrap().try_rand_like())),
        ("embedding", op(a.try_embedding(&b))),
        ("clamp", op(a.gt(0).try_clamp(false, true))),
    ] {
        assert_eq!(name, e);
    }
}

#[test]
fn arguments_out_of_range() {
    for device in devices() {
        let o = (DType::F32, device);
        assert_eq!(op(Tensor::try_uniform(2, 2.0, 1.0, o)), "uniform");
        assert_eq!(op(Tensor::try_uniform(2, 0.0, f64::INFINITY, o)), "uniform");
        assert_eq!(op(Tensor::try_uniform(2, f64::NAN, 1.0, o)), "uniform");
        assert_eq!(op(Tensor::try_uniform(2, -3e38, 3e38, o)), "uniform");
        assert_eq!(Tensor::uniform(2, 1.5, 1.5, o).to_vec::<f32>().unwrap(), [1.5, 1.5]);
        assert_eq!(op(Tensor::try_normal(2, 0.0, -1.0, o)), "normal");
        assert_eq!(op(Tensor::try_normal(2, 0.0, f64::NAN, o)), "normal");
        assert_eq!(Tensor::normal(2, 1.5, 0.0, o).to_vec::<f32>().unwrap(), [1.5, 1.5]);
        for p in [-0.1, 1.5, f64::NAN] {
            assert_eq!(op(Tensor::try_bernoulli(2, p, o)), "bernoulli");
            assert_eq!(op(Dropout::try_new(p)), "Dropout");
        }
        for (lo, hi, dtype) in
            [(3, 3, DType::I32), (3, 2, DType::I32), (0, 300, DType::U8), (-1, 3, DType::U8), (0, (1 << 31) + 1, DType::I32)]
        {
            assert_eq!(op(Tensor::try_randint(2, lo, hi, (dtype, device))), "randint", "{lo}..{hi}");
        }
        let w = Tensor::ones([2, 3], device);
        assert_eq!(op(w.try_multinomial(4, false)), "multinomial");
        assert_eq!(op(w.try_cast(DType::I32).unwrap().try_multinomial(1, true)), "multinomial");
    }
}

/// Steps an optimizer made by a function; the error's op, and whether the weight stayed.
fn step<O: Optimizer>(make: impl Fn(Param) -> O) -> &'static str {
    let w = Param::new(Tensor::ones(2, Device::cpu()));
    let mut optimizer = make(w.clone());
    let grads = w.get().square().sum(()).backward().unwrap();
    let name = op(optimizer.step(grads));
    assert!(name == "no error" || w.value().to_vec::<f32>().unwrap() == [1.0, 1.0]);
    name
}

#[test]
fn settings_of_optimizers() {
    let one = |w: Param| [w];
    for lr in [-0.1, f64::NAN] {
        assert_eq!(step(|w| SGD::new(one(w), lr)), "SGD");
        assert_eq!(step(|w| Adam::new(one(w), lr)), "Adam");
        assert_eq!(step(|w| AdamW::new(one(w), lr)), "AdamW");
    }
    assert_eq!(step(|w| SGD::new(one(w), 0.1).momentum(-1.0)), "SGD");
    assert_eq!(step(|w| SGD::new(one(w), 0.1).weight_decay(-1.0)), "SGD");
    assert_eq!(step(|w| SGD::new(one(w), 0.1).nesterov(true)), "SGD");
    assert_eq!(step(|w| SGD::new(one(w), 0.1).momentum(0.9).nesterov(true)), "no error");
    assert_eq!(step(|w| Adam::new(one(w), 0.1).betas(1.0, 0.9)), "Adam");
    assert_eq!(step(|w| Adam::new(one(w), 0.1).betas(0.9, -0.1)), "Adam");
    assert_eq!(step(|w| Adam::new(one(w), 0.1).eps(-1.0)), "Adam");
    assert_eq!(step(|w| AdamW::new(one(w), 0.1).weight_decay(-1.0)), "AdamW");
    assert_eq!(step(|w| AdamW::new(one(w), 0.0).betas(0.0, 0.0).eps(0.0)), "no error");
}

#[test]
fn log_sums_of_infinities() -> Result<()> {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for device in devices() {
        for (x, value, slope) in [
            ([-inf, -inf], -inf, [nan, nan]),
            ([inf, 1.0], inf, [nan, 0.0]),
            ([inf, inf], inf, [nan, nan]),
            ([nan, 1.0], nan, [nan, nan]),
            ([-inf, 0.0], 0.0, [0.0, 1.0]),
        ] {
            let t = vector(&x, device).requires_grad();
            let y = t.try_logsumexp(0)?;
            let g = y.backward_retain()?.get(&t).unwrap().to_vec::<f32>()?;
            let bits = |v: f32| if v.is_nan() { nan.to_bits() } else { v.to_bits() };
            assert_eq!((bits(y.item()?), bits(g[0]), bits(g[1])), (bits(value), bits(slope[0]), bits(slope[1])), "{device} {x:?}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "runs in a process of its own"]
fn classes_out_of_range_fault() {
    for device in devices() {
        for bad in [-1i32, 3, i32::MAX] {
            let y = vector(&[1, bad], device).one_hot(3);
            assert!(matches!(y.to_vec::<f32>(), Err(Error::Index { .. })), "{device} {bad}");
        }
        assert_eq!(vector(&[1, 0], device).one_hot(2).to_vec::<f32>().unwrap(), [0.0, 1.0, 1.0, 0.0]);
    }
    let y = vector(&[(1i64 << 32) + 1], Device::cpu()).one_hot(3);
    assert!(matches!(y.to_vec::<f32>(), Err(Error::Index { .. })));
}

#[test]
#[ignore = "runs in a process of its own"]
fn weights_that_are_no_distribution_fault() {
    for device in devices() {
        for bad in [[-1.0f32, 2.0], [1.0, -1.0], [f32::NAN, 2.0], [0.0, 0.0], [f32::INFINITY, 1.0]] {
            for replacement in [false, true] {
                let drawn = vector(&bad, device).multinomial(2, replacement);
                assert!(matches!(drawn.to_vec::<i32>(), Err(Error::Index { .. })), "{device} {bad:?}");
                assert_eq!(drawn.to_vec::<i32>().unwrap(), [0, 0], "{device} {bad:?}");
            }
        }
        // Rows that are right, at the ends of what f32 holds.
        for w in [[0.0f32, 1e-45, 0.0], [0.0, 3e38, 0.0], [0.0, 1.0, 0.0]] {
            if device == Device::cpu() || w[1] >= f32::MIN_POSITIVE {
                assert_eq!(vector(&w, device).multinomial(50, true).to_vec::<i32>().unwrap(), [1; 50], "{device} {w:?}");
            }
        }
        assert!(vector(&[3e38f32, 3e38], device).multinomial(50, true).to_vec::<i32>().unwrap().iter().all(|i| (0..2).contains(i)));
    }
}
