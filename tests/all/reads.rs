//! Reads that do not block.

use crate::harness::gpu;
use fornax::{Device, Error, Result, Tensor};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

struct Count(AtomicUsize);
impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn futures_give_what_reads_give() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::arange(0, 1000, 1, device).try_reshape([10, 100])?;
        let y = x.try_mul(2.0)?;
        let (a, b) = (y.to_vec_async::<f32>(), x.try_sum(())?.item_async::<f64>());
        // The transposed view, and a slice that does not start at the buffer's start.
        let part = y.try_narrow(0, 3, 2)?;
        let (c, d) = (y.try_t()?.to_vec_async::<f32>(), part.to_vec_async::<f32>());
        let mask = x.try_lt(5.0)?.to_vec_async::<bool>();
        // In another order than they were asked for.
        assert_eq!(pollster::block_on(d)?, part.to_vec::<f32>()?, "{device}");
        assert_eq!(pollster::block_on(c)?, y.try_t()?.to_vec::<f32>()?);
        assert_eq!(pollster::block_on(b)?, 499_500.0);
        assert_eq!(pollster::block_on(a)?, y.to_vec::<f32>()?);
        assert_eq!(pollster::block_on(mask)?.iter().filter(|&&m| m).count(), 5);
        assert!(matches!(pollster::block_on(y.item_async::<f32>()), Err(Error::Shape { .. })));
        assert_eq!(pollster::block_on(Tensor::zeros([0, 3], device).to_vec_async::<f32>())?, Vec::<f32>::new());
        // One that nobody waits for.
        drop(y.to_vec_async::<f32>());
    }
    Ok(())
}

/// A future that is not ready keeps the waker, and calls it once it is.
#[test]
fn a_reading_wakes_its_task() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::ones([300, 300], device);
        let mut reading = Box::pin(x.try_matmul(&x)?.to_vec_async::<f32>());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let first = reading.as_mut().poll(&mut cx);
        if !device.is_gpu() {
            assert!(first.is_ready(), "on the CPU the value is there at once");
            continue;
        }
        let values = match first {
            Poll::Ready(v) => v?,
            Poll::Pending => {
                let start = std::time::Instant::now();
                while count.0.load(Ordering::SeqCst) == 0 {
                    assert!(start.elapsed().as_secs() < 60, "nobody woke the task");
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                match reading.as_mut().poll(&mut cx) {
                    Poll::Ready(v) => v?,
                    Poll::Pending => panic!("woken, and not ready"),
                }
            }
        };
        assert!(values.len() == 90_000 && values.iter().all(|&v| v == 300.0));
    }
    Ok(())
}
