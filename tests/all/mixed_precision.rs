//! Mixed precision: what computes in which dtype, gradients, loss scaling.

use crate::harness;
use fornax::nn::{self, Conv2d, Flatten, Forward, LayerNorm, Linear, Module, ReLU, Sequential};
use fornax::optim::{AdamW, GradScaler, Optimizer};
use fornax::{Attention, DType, Device, Result, Tensor, autocast, checkpoint};

fn dtypes(device: Device) -> Result<()> {
    use DType::*;
    let x = Tensor::normal([2, 3, 8, 8], 0.0, 1.0, device);
    let (w, b) = (Tensor::normal([4, 3, 3, 3], 0.0, 1.0, device), Tensor::ones(4, device));
    let q = Tensor::normal([1, 2, 3, 4], 0.0, 1.0, device);
    for low in [F16, BF16] {
        autocast(low, || -> Result<()> {
            let m = x.try_matmul(&x)?;
            assert_eq!(m.dtype(), low);
            assert_eq!(x.try_linear(&Tensor::try_ones([5, 8], device)?, Some(&Tensor::try_ones(5, device)?))?.dtype(), low);
            assert_eq!(x.try_conv2d(&w, Some(&b), Default::default())?.dtype(), low);
            assert_eq!(x.try_conv_transpose2d(&Tensor::try_ones([3, 2, 3, 3], device)?, None, Default::default(), 0)?.dtype(), low);
            assert_eq!(q.try_scaled_dot_product_attention(&q, &q, &Attention::default())?.dtype(), low);
            // These want f32, whatever they get.
            for y in [m.try_softmax(-1)?, m.try_log_softmax(1)?, m.try_sum(1)?, m.try_mean(())?, m.try_norm(2.0, ())?, m.try_var(0, 1.0)?] {
                assert_eq!(y.dtype(), F32);
            }
            assert_eq!(m.try_layer_norm([8], None, None, 1e-5)?.dtype(), F32);
            assert_eq!(m.try_logsumexp(1)?.dtype(), F32);
            // Others take what they are given; integers are not touched.
            assert_eq!((m.try_relu()?.dtype(), m.try_add(&x)?.dtype()), (low, F32));
            let i = Tensor::try_ones([2, 2], (I32, device))?;
            assert_eq!(i.try_matmul(&i)?.dtype(), I32);
            // It can be turned off inside.
            assert_eq!(autocast(F32, || x.try_matmul(&x))?.dtype(), F32);
            Ok(())
        })?;
        assert_eq!(x.matmul(&x).dtype(), F32);
    }
    Ok(())
}

#[test]
fn ops_choose_their_dtypes() -> Result<()> {
    dtypes(Device::cpu())?;
    harness::gpu().map_or(Ok(()), dtypes)
}

#[test]
fn the_switch_belongs_to_a_thread_and_is_put_back() {
    let x = Tensor::ones([2, 2], Device::cpu());
    autocast(DType::BF16, || {
        let other = std::thread::scope(|s| s.spawn(|| x.matmul(&x).dtype()).join().unwrap());
        assert_eq!(other, DType::F32);
    });
    let caught = std::panic::catch_unwind(|| autocast(DType::F16, || panic!("inside")));
    assert!(caught.is_err() && x.matmul(&x).dtype() == DType::F32);
    assert!(std::panic::catch_unwind(|| autocast(DType::I32, || ())).is_err());
}

/// Gradients are f32, and those of the f32 model but for the rounding; a checkpoint has the same ones.
fn gradients(device: Device) -> Result<()> {
    let _seed = fornax::testing::seed(3);
    let model = Sequential::new().add(Linear::new(8, 16, device)).add(LayerNorm::new(16, device)).add(ReLU).add(Linear::new(16, 4, device));
    let x = Tensor::normal([6, 8], 0.0, 1.0, device);
    let target = Tensor::from_slice(&[0i32, 1, 2, 3, 0, 1], 6, device)?;
    let exact = nn::cross_entropy(&model.forward(&x)?, &target)?.backward()?;
    for (low, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        let loss = autocast(low, || nn::cross_entropy(&model.forward(&x)?, &target))?;
        assert_eq!(loss.dtype(), DType::F32);
        // Inside or outside: the way back has the dtypes of the way forward.
        let grads = autocast(low, || loss.backward())?;
        for p in model.parameters() {
            let (g, e) = (p.grad(&grads).unwrap(), p.grad(&exact).unwrap());
            assert_eq!(g.dtype(), DType::F32);
            let (difference, size) = ((g - e).norm(2.0, ()).item::<f32>()?, e.norm(2.0, ()).item::<f32>()?);
            assert!(difference < tolerance * size + 1e-6, "{low} on {device}: {difference} of {size}");
            assert!(p.shape().rank() == 1 || difference > 0.0, "nothing was rounded");
        }
    }
    let w = Tensor::normal([8, 8], 0.0, 1.0, device).requires_grad();
    let plain = autocast(DType::BF16, || x.try_matmul(&w)?.try_relu()?.try_mean(()))?.backward()?;
    let (inner, x2) = (w.clone(), x.clone());
    let again = autocast(DType::BF16, || {
        checkpoint(&[&w], move |w| {
            let _ = &inner;
            x2.try_matmul(&w[0])?.try_relu()
        })?
        .try_mean(())
    })?
    .backward()?;
    assert_eq!(plain.get(&w).unwrap().to_vec::<f32>()?, again.get(&w).unwrap().to_vec::<f32>()?);
    Ok(())
}

#[test]
fn gradients_are_those_of_f32_but_for_rounding() -> Result<()> {
    gradients(Device::cpu())?;
    harness::gpu().map_or(Ok(()), gradients)
}

/// A small model on digits: the loss after some steps in f32, bf16, and f16 with a scale that is far too large at first.
fn learns(device: Device, steps: usize) -> Result<()> {
    let digits = fornax::data::digits(device)?;
    let [images, labels] = digits.train.tensors();
    let (images, labels) = (images.narrow(0, 0, 64), labels.narrow(0, 0, 64));
    let mut losses = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let _seed = fornax::testing::seed(5);
        let model = Sequential::new()
            .add(Conv2d::new(1, 4, 3, device).padding(1))
            .add(ReLU)
            .add(Flatten::default())
            .add(Linear::new(256, 10, device));
        let mut optimizer = AdamW::new(model.parameters(), 1e-2);
        let mut scaler = GradScaler::new(device).init_scale(2f64.powi(24))?.enabled(dtype == DType::F16);
        let mut last = 0.0;
        for step in 0..steps {
            let loss = autocast(dtype, || nn::cross_entropy(&model.forward(&images)?, &labels))?;
            let mut grads = scaler.scale(&loss)?.backward()?;
            scaler.unscale(&mut grads)?;
            grads.clip_norm(5.0)?;
            scaler.step(&mut optimizer, grads)?;
            scaler.update()?;
            if step == steps - 1 {
                last = loss.item::<f32>()?;
            }
        }
        assert!(model.parameters().iter().all(|p| p.dtype() == DType::F32));
        if dtype == DType::F16 {
            let scale = scaler.get_scale()?;
            assert!((1.0..2f64.powi(24)).contains(&scale), "the scale has not come down: {scale}");
            let taken = optimizer.state_dict()?["0.step"].item::<i32>()?;
            let skipped = 24 - scale.log2() as i32;
            assert_eq!(taken, steps as i32 - skipped, "steps taken");
        }
        losses.push(last);
    }
    assert!(losses[0] < 1.0 && (losses[1] - losses[0]).abs() < 0.1 && losses[2] < losses[0] + 0.8, "{losses:?}");
    Ok(())
}

#[test]
fn half_precision_learns_as_f32_does() -> Result<()> {
    learns(Device::cpu(), 30)?;
    harness::gpu().map_or(Ok(()), |gpu| learns(gpu, 20))
}

#[test]
fn wrong_use_of_the_scaler() -> Result<()> {
    let w = nn::Param::new(Tensor::ones(2, Device::cpu()));
    let mut scaler = GradScaler::new(Device::cpu());
    assert!(scaler.update().is_err(), "no step was taken");
    let mut grads = scaler.scale(&w.get().square().sum(()))?.backward()?;
    scaler.unscale(&mut grads)?;
    assert_eq!(w.grad(&grads).unwrap().to_vec::<f32>()?, [2.0, 2.0]);
    assert!(scaler.unscale(&mut grads).is_err(), "twice");
    assert!(scaler.load_state_dict(&Default::default()).is_err());
    let mut dict = scaler.state_dict();
    dict.insert("x".into(), Tensor::ones((), Device::cpu()));
    assert!(scaler.load_state_dict(&dict).is_err());
    Ok(())
}
