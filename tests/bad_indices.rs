//! Indices out of range: errors of the next read, said once. (Alone in its process: a device has one fault word.)

use fornax::{Device, Error, PadMode, Result, Tensor};

#[test]
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
