//! A cache that grows by a step at a time is written in place and replays one plan. (Alone in its process: the counters are global.)

use fornax::{Device, Result, Tensor, stats};

#[test]
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
