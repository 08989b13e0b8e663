//! What is counted or noted for the whole process (fault words, statistics): one test, alone in its process.

use fornax::{Device, Error, PadMode, Result, Tensor, stats};

#[test]
fn faults_and_donations() -> Result<()> {
    bad_indices_are_errors_of_the_read()?;
    faults_are_cleared();
    a_cache_grows_in_place()
}

fn bad_indices_are_errors_of_the_read() -> Result<()> {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0], 3, device)?;
        let i = Tensor::from_vec(vec![1, 3], 2, device)?;
        for bad in [x.try_index_select(0, &i)?, x.try_gather(0, &i)?, x.try_scatter_add(0, &i, &x.try_narrow(0, 0, 2)?)?] {
            assert!(matches!(bad.to_vec::<f32>(), Err(Error::Index { .. })), "{device}");
            // Said once.
            assert_eq!(x.to_vec::<f32>()?, [1.0, 2.0, 3.0]);
        }
        assert!(matches!(x.try_index_select(1, &i), Err(Error::Axis { .. })));
        assert!(matches!(x.try_index_select(0, &x), Err(Error::DType { .. })));
        assert!(matches!(x.try_slice_assign(&[2..5], &x), Err(Error::Index { .. })));
        assert!(matches!(x.try_pad(&[(3, 0)], PadMode::Reflect), Err(Error::Argument { .. })));
        assert!(matches!(x.try_topk(4, 0, true), Err(Error::Argument { .. })));
    }
    Ok(())
}

fn faults_are_cleared() {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let x = Tensor::from_vec(vec![1f32, 2.0, 3.0], 3, device).unwrap();
        let bad = Tensor::from_vec(vec![0, 7], 2, device).unwrap();
        let y = x.index_select(0, &bad);
        assert!(matches!(y.to_vec::<f32>(), Err(fornax::Error::Index { .. })), "{device}");
        let good = Tensor::from_vec(vec![0, 2], 2, device).unwrap();
        assert_eq!(x.index_select(0, &good).to_vec::<f32>().unwrap(), [1.0, 3.0], "the fault is cleared on {device}");
        let y = x.try_index(fornax::s![&Tensor::from_vec(vec![-4], 1, device).unwrap()]).unwrap();
        assert!(matches!(y.to_vec::<f32>(), Err(fornax::Error::Index { .. })), "{device}");
    }
}

fn a_cache_grows_in_place() -> Result<()> {
    for device in [Device::cpu()].into_iter().chain(Device::gpu(0)) {
        let mut cache = Tensor::try_zeros([8, 2], device)?;
        cache.eval()?;
        let before = stats();
        for step in 0..8 {
            cache = cache.try_slice_assign_at(0, step, &Tensor::try_full([1, 2], step as f32, device)?)?;
            cache.eval()?;
        }
        let done = stats().since(&before);
        assert_eq!((done.donations_refused, done.donations), (0, 8), "{device}");
        assert!(done.plan_misses <= 1, "{device}: {} plans", done.plan_misses);
        assert_eq!(cache.to_vec::<f32>()?, (0..16).map(|i| (i / 2) as f32).collect::<Vec<_>>());
    }
    Ok(())
}
