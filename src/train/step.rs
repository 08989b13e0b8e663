//! What a step gives, and how its numbers are read without making the device wait.

use crate::{Error, Result, Tensor};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// What a step of a training computes from a batch: a loss, and what else is to be logged. A loss alone is one, too: `loss.into()`.
///
/// ```
/// use fornax::train::Step;
/// use fornax::{Device, Tensor};
/// let logits = Tensor::ones([8, 3], Device::cpu());
/// let labels = Tensor::zeros([8], (fornax::DType::I32, Device::cpu()));
/// let loss = fornax::nn::cross_entropy(&logits, &labels)?;
/// let step = Step::new(loss).rows(8).value("largest", logits.max(())).output(&logits, &labels);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Step {
    pub(super) loss: Tensor,
    pub(super) rows: Option<usize>,
    pub(super) values: Vec<(String, Tensor)>,
    pub(super) output: Option<(Tensor, Tensor)>,
}

impl Step {
    /// A step with this loss, of one element: the mean over the batch's rows.
    pub fn new(loss: Tensor) -> Step {
        Step { loss, rows: None, values: Vec::new(), output: None }
    }

    /// How many rows the batch has: the weight of its values in the means of the epoch, and what the throughput counts. Unless it is said, it is
    /// that of the output, or else the loader's.
    pub fn rows(mut self, rows: usize) -> Step {
        self.rows = Some(rows);
        self
    }

    /// Another number to log, a tensor of one element; it is read with the loss.
    pub fn value(mut self, name: &str, value: Tensor) -> Step {
        self.values.push((name.to_string(), value));
        self
    }

    /// What the model predicted and what would have been right, for the metrics.
    pub fn output(mut self, prediction: &Tensor, target: &Tensor) -> Step {
        self.output = Some((prediction.detach(), target.clone()));
        self
    }

    /// With what the loader knows of the batch, where neither the rows nor an output were given.
    pub(super) fn or_rows(mut self, rows: Option<usize>) -> Step {
        if self.output.is_none() {
            self.rows = self.rows.or(rows);
        }
        self
    }

    /// The weight of the batch.
    pub(super) fn weight(&self) -> usize {
        let of_output = || self.output.as_ref().and_then(|(_, target)| target.dims().first().copied());
        self.rows.or_else(of_output).unwrap_or(1)
    }

    pub(super) fn check(&self) -> Result<()> {
        let one = |name: &str, t: &Tensor| {
            let expected = format!("one element for {name}: take a mean");
            if t.numel() == 1 { Ok(()) } else { Err(Error::shape("Step", &[t.shape()], expected)) }
        };
        one("the loss", &self.loss)?;
        self.values.iter().try_for_each(|(name, t)| one(name, t))
    }
}

impl From<Tensor> for Step {
    fn from(loss: Tensor) -> Step {
        Step::new(loss)
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<f64>> + Send>>;

/// The numbers of a batch on their way to the host.
pub(super) struct Late {
    readings: Vec<(String, Reading)>,
    pub output: Option<(Tensor, Tensor)>,
    pub weight: usize,
    pub batch: usize,
}

impl Late {
    /// Starts to read what a batch gave. Its work was submitted before, so that nothing waits.
    pub fn start(step: Step, batch: usize) -> Late {
        let weight = step.weight();
        let read = |t: &Tensor| -> Reading { Box::pin(t.item_async::<f64>()) };
        let mut readings = vec![("loss".to_string(), read(&step.loss))];
        readings.extend(step.values.iter().map(|(name, t)| (name.clone(), read(t))));
        Late { readings, output: step.output, weight, batch }
    }

    /// Waits for the numbers; the loss is the first.
    pub fn wait(self) -> Result<Vec<(String, f64)>> {
        self.readings.into_iter().map(|(name, reading)| Ok((name, wait(reading)?))).collect()
    }
}

/// An optimizer's step whose numbers are on their way: those of each of its batches.
pub(super) struct LateStep {
    pub step: u64,
    pub lr: f64,
    /// Not 0 where a `GradScaler` has skipped the step.
    pub skip: Option<Tensor>,
    pub batches: Vec<Late>,
}

/// The steps that were not read yet.
pub(super) type Queue = VecDeque<LateStep>;

/// Runs a future on this thread.
fn wait<T>(mut future: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(out) => return out,
            Poll::Pending => std::thread::park(),
        }
    }
}
