//! The trainer: options, and what they mean. The loop is in `fit`.

use super::callback::State;
use super::fit::{Core, Feed};
use super::modes::Modes;
use super::progress::Progress;
use super::step::{Late, Step};
use super::{Callback, History, Logs, Mean};
use crate::data::Loader;
use crate::metrics::Metric;
use crate::nn::Module;
use crate::optim::{AveragedModel, GradScaler, Optimizer, Schedule};
use crate::{DType, Device, Error, Result};
use std::path::Path;
use std::time::Duration;

/// Trains a model: epochs of steps, validation, callbacks, checkpoints, a progress bar. Whatever it does can be done in a loop of your own with the
/// same pieces; see `examples/08_early_stopping.rs` for one.
///
/// A step is a function of the model and a batch that returns the loss (or a [`Step`] with more). The trainer goes backward, averages the
/// gradients of [`accumulate`](Trainer::accumulate) batches, and lets the optimizer step. It reads the loss one step later, so that a GPU never
/// waits for the host.
///
/// ```
/// use fornax::data::{DataLoader, TensorDataset};
/// use fornax::nn::{self, Forward, Module};
/// use fornax::optim::AdamW;
/// use fornax::train::{EarlyStopping, Trainer};
/// use fornax::{Device, Tensor};
/// let x = Tensor::uniform([256, 1], -1.0, 1.0, Device::cpu());
/// let loader = DataLoader::new(TensorDataset::new([x.clone(), &x * 3.0])?, 32).shuffle(0);
/// let model = nn::Linear::new(1, 1, Device::cpu());
///
/// let mut trainer = Trainer::new(&model, AdamW::new(model.parameters(), 0.1))
///     .epochs(20)
///     .progress(false)
///     .callback(EarlyStopping::new("loss").patience(5));
/// let report = trainer.fit(&loader, |model, [x, y]| nn::mse_loss(&model.forward(&x)?, &y))?;
/// assert!(report.logs.get("loss").unwrap() < 0.01);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Trainer<'a, M> {
    pub(super) model: &'a M,
    pub(super) core: Core<'a>,
}

/// When a schedule of the learning rate goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// After each optimizer step.
    Step,
    /// After each epoch.
    Epoch,
    /// After each epoch, by this number of it: for `ReduceLROnPlateau`. Epochs without the validation that gives the number are passed over.
    Monitored(String),
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// All epochs, or all steps, are done.
    Finished,
    /// A callback stopped it, for this reason.
    Stopped(String),
    /// Ctrl-C, or [`interrupt`](super::interrupt()).
    Interrupted,
}

/// What a training gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// Epochs done, those before a resume included.
    pub epochs: u64,
    /// Optimizer steps done, those before a resume included.
    pub steps: u64,
    /// The numbers of the last epoch.
    pub logs: Logs,
    /// The numbers of every epoch.
    pub history: History,
    /// Rows trained on by this call, as far as the steps said how many they had.
    pub rows: u64,
    /// How long this call took.
    pub elapsed: Duration,
    /// How long it waited for the training loader: with workers that keep up, next to nothing.
    pub waited: Duration,
}

impl<'a, M: Module> Trainer<'a, M> {
    /// A trainer of this model with this optimizer, for one epoch. Layers are trained in the mode that they are in, so that some can stay in evaluation
    /// mode; a model of which all are, as one that was loaded from a checkpoint or just evaluated, is put in training mode, with a notice.
    pub fn new(model: &'a M, optimizer: impl Optimizer + 'a) -> Trainer<'a, M> {
        Trainer { model, core: Core::new(model, Box::new(optimizer)) }
    }

    /// How many epochs to train in all, those before a resume included (1).
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.core.state.epochs = epochs;
        self
    }

    /// Ends after so many optimizer steps, those before a resume included.
    pub fn max_steps(mut self, steps: u64) -> Self {
        self.core.max_steps = Some(steps);
        self
    }

    /// Makes a step of the mean gradient of so many batches (1): a larger batch than memory holds. Batch normalisation still sees each batch for
    /// itself. What is left at the end of an epoch makes a step of its own.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::nn::{self, Forward, Module};
    /// use fornax::{Device, Tensor, optim::SGD, train::Trainer};
    /// let rows = TensorDataset::new([Tensor::ones([10, 2], Device::cpu())])?;
    /// let model = nn::Linear::new(2, 1, Device::cpu());
    /// let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).accumulate(4).progress(false);
    /// let report = trainer.fit(&DataLoader::new(rows, 1), |model, [x]| model.forward(&x)?.try_mean(()))?;
    /// assert_eq!(report.steps, 3); // 4 + 4 + 2 batches
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn accumulate(mut self, batches: usize) -> Self {
        self.core.accumulate = batches.max(1);
        self
    }

    /// Changes the learning rate by a schedule of [`optim::lr_scheduler`](crate::optim::lr_scheduler), which goes on after each optimizer step, after each epoch,
    /// or by a number of the epoch.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::{AdamW, lr_scheduler::OneCycleLR};
    /// use fornax::train::{Per, Trainer};
    /// let model = Linear::new(2, 1, fornax::Device::cpu());
    /// let (epochs, batches) = (10, 32);
    /// let trainer = Trainer::new(&model, AdamW::new(model.parameters(), 1e-3))
    ///     .epochs(epochs)
    ///     .schedule(OneCycleLR::new(3e-3, epochs * batches), Per::Step);
    /// ```
    pub fn schedule(mut self, schedule: impl Schedule + 'a, per: Per) -> Self {
        self.core.schedule = Some((Box::new(schedule), per));
        self
    }

    /// Runs forward passes with automatic mixed precision, as [`autocast`](crate::autocast()): products in this dtype, the rest in f32, parameters stay f32. With f16
    /// the loss is scaled by a [`GradScaler`] with its defaults; [`grad_scaler`](Trainer::grad_scaler) gives another.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::nn::{self, Forward, Module};
    /// use fornax::{DType, Device, Tensor, optim::AdamW, train::Trainer};
    /// let x = Tensor::uniform([64, 1], -1.0, 1.0, Device::cpu());
    /// let loader = DataLoader::new(TensorDataset::new([x.clone(), &x * 3.0])?, 16);
    /// let model = nn::Linear::new(1, 1, Device::cpu());
    /// let report = Trainer::new(&model, AdamW::new(model.parameters(), 0.1))
    ///     .epochs(20)
    ///     .autocast(DType::F16)?
    ///     .clip_norm(1.0)
    ///     .progress(false)
    ///     .fit(&loader, |model, [x, y]| nn::mse_loss(&model.forward(&x)?, &y))?;
    /// assert!(report.logs.get("loss").unwrap() < 0.05);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Error::DType` for a dtype other than f16, bf16 and f32 (which turns it off).
    pub fn autocast(mut self, dtype: DType) -> Result<Self> {
        self.core.autocast = match dtype {
            DType::F16 | DType::BF16 => Some(dtype),
            DType::F32 => None,
            _ => return Err(Error::dtype("Trainer::autocast", &[dtype], "f16, bf16 or f32")),
        };
        let device = self.model.parameters().first().map_or(Device::cpu(), |p| p.device());
        self.core.scaler = if dtype == DType::F16 { Some(GradScaler::try_new(device)?) } else { None };
        Ok(self)
    }

    /// Scales the loss and skips steps with gradients that are not finite, by this scaler.
    pub fn grad_scaler(mut self, scaler: GradScaler) -> Self {
        self.core.scaler = Some(scaler);
        self
    }

    /// Scales the gradients of each step down to this norm, where theirs is larger.
    pub fn clip_norm(mut self, norm: f64) -> Self {
        self.core.clip_norm = Some(norm);
        self
    }

    /// Cuts the gradients of each step to ± this.
    pub fn clip_value(mut self, value: f64) -> Self {
        self.core.clip_value = Some(value);
        self
    }

    /// Averages the weights over the steps (EMA or SWA), and validates with the averages. Checkpoints keep them.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::nn::{self, Forward, Module};
    /// use fornax::{Device, Tensor, optim::{AveragedModel, SGD}, train::Trainer};
    /// let loader = DataLoader::new(TensorDataset::new([Tensor::ones([8, 1], Device::cpu())])?, 4);
    /// let model = nn::Linear::new(1, 1, Device::cpu());
    /// let mut ema = AveragedModel::ema(&model, 0.99)?;
    /// let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).average(&mut ema).progress(false);
    /// trainer.fit(&loader, |model, [x]| model.forward(&x)?.try_mean(()))?;
    /// drop(trainer);
    /// assert_eq!(ema.n_averaged(), 2);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn average(mut self, average: &'a mut AveragedModel) -> Self {
        self.core.average = Some(average);
        self
    }

    /// Adds a callback. They are called in the order in which they were added. One that is wanted afterwards is given as `&mut`.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::{optim::SGD, train::{EarlyStopping, Trainer}};
    /// let model = Linear::new(2, 1, fornax::Device::cpu());
    /// let mut early = EarlyStopping::new("loss");
    /// let trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).callback(&mut early);
    /// # drop(trainer);
    /// println!("best in epoch {}", early.best_epoch());
    /// ```
    pub fn callback(mut self, callback: impl Callback + 'a) -> Self {
        self.core.callbacks.push(Box::new(callback));
        self
    }

    /// Adds a metric of the training batches, from the [`Step::output`] of each. It reads predictions on the host, one step late; a
    /// [`Step::value`] costs less. Of two of one name one gets another: `TopK::new(5).named("top_5")`.
    pub fn metric(mut self, metric: impl Metric + 'a) -> Self {
        self.core.metrics.push(Box::new(metric));
        self
    }

    /// Validates after each epoch: runs `step` over a loader in evaluation mode and without gradients. The means of its loss and values, and the
    /// metrics of its outputs, are logged as `val_loss` and so on.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::metrics::{Accuracy, Metric};
    /// use fornax::nn::{self, Forward, Module};
    /// use fornax::train::{Step, Trainer};
    /// use fornax::{Device, Tensor, optim::SGD};
    /// let x = Tensor::normal([64, 2], 0.0, 1.0, Device::cpu());
    /// let y = x.select(1, 0).gt(0.0).cast(fornax::DType::I32);
    /// let set = TensorDataset::new([x, y])?;
    /// let (train, valid) = (DataLoader::new(&set, 16).shuffle(1), DataLoader::new(&set, 64));
    /// let model = nn::Linear::new(2, 2, Device::cpu());
    /// let step = |model: &nn::Linear, [x, y]: [Tensor; 2]| {
    ///     let logits = model.forward(&x)?;
    ///     Ok(Step::new(nn::cross_entropy(&logits, &y)?).output(&logits, &y))
    /// };
    /// let report = Trainer::new(&model, SGD::new(model.parameters(), 0.5))
    ///     .epochs(5)
    ///     .validation(&valid, step, vec![Box::new(Accuracy::new())])
    ///     .progress(false)
    ///     .fit(&train, step)?;
    /// assert!(report.logs.get("val_accuracy").unwrap() > 0.9);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn validation<L, F, S>(self, loader: &'a L, mut step: F, mut metrics: Vec<Box<dyn Metric + 'a>>) -> Self
    where
        L: Loader,
        F: FnMut(&M, L::Batch) -> Result<S> + 'a,
        S: Into<Step>,
    {
        self.validate_with(move |model| evaluate(model, loader, &mut step, &mut metrics))
    }

    /// Validates after each epoch by a function of your own, which gives the numbers to be logged, each as `val_…`. It is called in evaluation mode and
    /// without gradients.
    pub fn validate_with(mut self, mut validate: impl FnMut(&M) -> Result<Logs> + 'a) -> Self {
        let model = self.model;
        self.core.validate = Some(Box::new(move || {
            let _modes = Modes::evaluation(model);
            crate::no_grad(|| validate(model))
        }));
        self
    }

    /// Validates after every so many epochs (1), and after the last of [`epochs`](Trainer::epochs). What watches a number of the validation
    /// (`EarlyStopping`, `Checkpointer::best`, [`Per::Monitored`]) passes over the epochs without one; a number that a validation does not give is an error.
    ///
    /// ```
    /// use fornax::data::{DataLoader, TensorDataset};
    /// use fornax::nn::{self, Forward, Module};
    /// use fornax::train::{EarlyStopping, Trainer};
    /// use fornax::{Device, Tensor, optim::SGD};
    /// let loader = DataLoader::new(TensorDataset::new([Tensor::ones([8, 1], Device::cpu())])?, 4);
    /// let model = nn::Linear::new(1, 1, Device::cpu());
    /// let step = |model: &nn::Linear, [x]: [Tensor; 1]| nn::mse_loss(&model.forward(&x)?, &x);
    /// let report = Trainer::new(&model, SGD::new(model.parameters(), 0.1))
    ///     .epochs(5)
    ///     .validation(&loader, step, vec![])
    ///     .validate_every(2)
    ///     .callback(EarlyStopping::new("val_loss").patience(2))
    ///     .progress(false)
    ///     .fit(&loader, step)?;
    /// let validated: Vec<f64> = report.history.series("val_loss").iter().map(|p| p.0).collect();
    /// assert_eq!(validated, [2.0, 4.0, 5.0]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn validate_every(mut self, epochs: u64) -> Self {
        self.core.validate_every = epochs.max(1);
        self
    }

    /// Goes on from a checkpoint: from the one at this path, or from the last one of a [`Checkpointer`](super::Checkpointer)'s folder; from the start where
    /// there is none. Everything goes on as if it had never stopped: on the CPU, bit for bit.
    ///
    /// It is loaded when [`fit`](Trainer::fit) begins.
    pub fn resume(mut self, path: impl AsRef<Path>) -> Self {
        self.core.resume = Some(path.as_ref().to_path_buf());
        self
    }

    /// Whether a progress bar is drawn, and a line printed for each epoch (it is; on the standard error output).
    pub fn progress(mut self, visible: bool) -> Self {
        self.core.progress = Progress::new(visible);
        self
    }

    /// Whether a loss that is not finite ends the training with `Error::NotFinite` (it does), or is passed over. That of a step which a [`GradScaler`]
    /// skipped is passed over in any case: it is in the numbers of the step, and not in those of the epoch.
    pub fn stop_on_nan(mut self, stop: bool) -> Self {
        self.core.stop_on_nan = stop;
        self
    }

    /// The optimizer.
    pub fn optimizer(&mut self) -> &mut (dyn Optimizer + 'a) {
        &mut *self.core.optimizer
    }

    /// Trains. Ctrl-C (feature `ctrlc`) lets the step end, has the [`Checkpointer`](super::Checkpointer)s save, and returns; a second one ends the process.
    ///
    /// # Errors
    /// Those of the step, the loaders, the optimizer and the callbacks; `Error::NotFinite` where the loss is NaN or infinite; `Error::Argument` where the
    /// loader has no batch, or where two metrics have one name.
    pub fn fit<L, F, S>(&mut self, loader: &L, step: F) -> Result<Report>
    where
        L: Loader,
        F: FnMut(&M, L::Batch) -> Result<S>,
        S: Into<Step>,
    {
        let mut feed = Feed::new(self.model, loader, step, self.core.autocast);
        self.core.fit(&mut feed)
    }
}

/// Runs a step over a loader, as it is: the weighted means of its loss and values, and the metrics of its outputs. For a loop of your own: call it in
/// evaluation mode, inside [`no_grad`](crate::no_grad).
///
/// # Errors
/// Those of the loader, the step and the metrics; `Error::Argument` where there is no batch, or where two metrics have one name.
///
/// ```
/// use fornax::data::{DataLoader, TensorDataset};
/// use fornax::nn::{self, Forward, Module};
/// use fornax::{Device, Tensor, train::evaluate};
/// let model = nn::Linear::new(2, 1, Device::cpu());
/// let loader = DataLoader::new(TensorDataset::new([Tensor::zeros([10, 2], Device::cpu())])?, 4);
/// model.eval();
/// let mut step = |model: &nn::Linear, [x]: [Tensor; 1]| model.forward(&x)?.try_mean(());
/// let logs = fornax::no_grad(|| evaluate(&model, &loader, &mut step, &mut []))?;
/// assert!((logs.get("loss").unwrap() - model.bias.unwrap().value().item::<f32>()? as f64).abs() < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn evaluate<'m, M, L, S>(
    model: &M,
    loader: &L,
    step: &mut dyn FnMut(&M, L::Batch) -> Result<S>,
    metrics: &mut [Box<dyn Metric + 'm>],
) -> Result<Logs>
where
    L: Loader,
    S: Into<Step>,
{
    distinct(metrics)?;
    metrics.iter_mut().for_each(|m| m.reset());
    let mut means: Vec<(String, Mean)> = Vec::new();
    let mut take = |late: Late| -> Result<()> {
        let (weight, output) = (late.weight as f64, late.output.clone());
        for (name, value) in late.wait()? {
            match means.iter_mut().find(|(n, _)| *n == name) {
                Some((_, mean)) => mean.update(value, weight),
                None => {
                    let mut mean = Mean::new();
                    mean.update(value, weight);
                    means.push((name, mean));
                }
            }
        }
        match output {
            Some((prediction, target)) => metrics.iter_mut().try_for_each(|m| m.update(&prediction, &target)),
            None if metrics.is_empty() => Ok(()),
            None => Err(no_output()),
        }
    };
    let mut before: Option<Late> = None;
    let (mut epoch, mut count) = (loader.start(0, None)?, 0);
    while let Some(batch) = epoch.next() {
        let batch = batch?;
        let rows = epoch.rows();
        let step: Step = step(model, batch)?.into();
        let step = step.or_rows(rows);
        step.check()?;
        count += 1;
        let now = Late::start(step, count);
        if let Some(late) = before.replace(now) {
            take(late)?;
        }
    }
    match before {
        Some(late) => take(late)?,
        None => return Err(Error::argument("evaluate", "the loader has no batch")),
    }
    let mut logs: Logs = means.iter().filter_map(|(n, m)| m.value().map(|v| (n.as_str(), v))).collect();
    log_metrics(&mut logs, metrics)?;
    Ok(logs)
}

/// Adds what the metrics give.
pub(super) fn log_metrics(logs: &mut Logs, metrics: &[Box<dyn Metric + '_>]) -> Result<()> {
    for m in metrics {
        if logs.get(m.name()).is_some() {
            return Err(taken(m.name(), "a metric and a number of the step"));
        }
        logs.set(m.name(), m.compute()?);
    }
    Ok(())
}

/// Refuses metrics of one name, before there is a batch.
pub(super) fn distinct(metrics: &[Box<dyn Metric + '_>]) -> Result<()> {
    for (i, m) in metrics.iter().enumerate() {
        if metrics[..i].iter().any(|other| other.name() == m.name()) {
            return Err(taken(m.name(), "two metrics"));
        }
    }
    Ok(())
}

fn taken(name: &str, who: &str) -> Error {
    Error::argument("Trainer", format!("{who} are called {name:?}: give the metric another name with Metric::named"))
}

pub(super) fn no_output() -> Error {
    Error::argument("Trainer", "there are metrics, and the step has no output: return Step::new(loss).output(&prediction, &target)")
}

/// The state at the start.
pub(super) fn fresh() -> State {
    State { epochs: 1, ..State::default() }
}
