//! The loop of the trainer.

use super::callback::State;
use super::checkpoint::{json_number, number_from};
use super::modes::evaluates;
use super::progress::Progress;
use super::step::{Late, LateStep, Queue, Step};
use super::trainer::{Ended, Per, Report, distinct, fresh, log_metrics, no_output};
use super::{Callback, Checkpoint, Checkpointer, History, Logs, Mean, Run, When, interrupt};
use crate::autograd::Gradients;
use crate::data::{EpochBatches, Json, Loader, LoaderState};
use crate::metrics::Metric;
use crate::nn::Module;
use crate::optim::{AveragedModel, GradScaler, Optimizer, Schedule, Scheduler};
use crate::{DType, Error, Result, Tensor};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Batches turned into steps: what of the loop depends on the types of model, loader and step.
pub(super) trait Source {
    /// Opens an epoch, or what is left of one.
    fn open(&mut self, epoch: u64, from: Option<&LoaderState>) -> Result<()>;
    /// The forward pass of the next batch.
    fn next(&mut self) -> Option<Result<Step>>;
    /// The place after it.
    fn place(&self) -> Option<LoaderState>;
    fn batches(&self) -> Option<usize>;
    /// The time spent waiting for batches.
    fn waited(&self) -> Duration;
}

pub(super) struct Feed<'l, M, L: Loader, F> {
    model: &'l M,
    loader: &'l L,
    step: F,
    autocast: Option<DType>,
    epoch: Option<Box<dyn EpochBatches<L::Batch> + 'l>>,
    waited: Duration,
}

impl<'l, M, L: Loader, F> Feed<'l, M, L, F> {
    pub fn new(model: &'l M, loader: &'l L, step: F, autocast: Option<DType>) -> Self {
        Feed { model, loader, step, autocast, epoch: None, waited: Duration::ZERO }
    }
}

impl<M, L: Loader, S: Into<Step>, F: FnMut(&M, L::Batch) -> Result<S>> Source for Feed<'_, M, L, F> {
    fn open(&mut self, epoch: u64, from: Option<&LoaderState>) -> Result<()> {
        // The workers of the last epoch end before those of this one start.
        self.epoch = None;
        self.epoch = Some(self.loader.start(epoch, from)?);
        Ok(())
    }

    fn next(&mut self) -> Option<Result<Step>> {
        let start = Instant::now();
        let batch = self.epoch.as_mut().and_then(|e| e.next());
        self.waited += start.elapsed();
        batch.map(|batch| {
            let batch = batch?;
            let rows = self.epoch.as_ref().and_then(|e| e.rows());
            let step: Step = cast(self.autocast, || (self.step)(self.model, batch))?.into();
            Ok(step.or_rows(rows))
        })
    }

    fn place(&self) -> Option<LoaderState> {
        self.epoch.as_ref().map(|e| e.state())
    }

    fn batches(&self) -> Option<usize> {
        self.loader.batches()
    }

    fn waited(&self) -> Duration {
        self.waited
    }
}

/// Runs a forward pass in the precision that was asked for.
pub(super) fn cast<T>(dtype: Option<DType>, f: impl FnOnce() -> T) -> T {
    match dtype {
        Some(dtype) => crate::autocast::with(Some(dtype), f),
        None => f(),
    }
}

/// All of a trainer but the type of its model.
pub(super) struct Core<'a> {
    pub model: &'a dyn Module,
    pub optimizer: Box<dyn Optimizer + 'a>,
    /// As it was given, until the first step.
    pub schedule: Option<(Box<dyn Schedule + 'a>, Per)>,
    pub scheduler: Option<(Box<dyn Scheduler>, Per)>,
    pub autocast: Option<DType>,
    pub scaler: Option<GradScaler>,
    /// The largest norm and the largest absolute value of the gradients.
    pub clip_norm: Option<f64>,
    pub clip_value: Option<f64>,
    pub average: Option<&'a mut AveragedModel>,
    pub callbacks: Vec<Box<dyn Callback + 'a>>,
    pub metrics: Vec<Box<dyn Metric + 'a>>,
    pub validate: Option<Box<dyn FnMut() -> Result<Logs> + 'a>>,
    pub validate_every: u64,
    pub state: State,
    pub progress: Progress,
    pub max_steps: Option<u64>,
    pub accumulate: usize,
    pub stop_on_nan: bool,
    pub resume: Option<PathBuf>,
    /// The batches of the step that is being made: their gradients, summed, and their numbers.
    gradients: Option<Gradients>,
    held: Vec<(Step, usize)>,
    /// Steps whose numbers are on their way.
    late: Queue,
}

impl<'a> Core<'a> {
    pub fn new(model: &'a dyn Module, optimizer: Box<dyn Optimizer + 'a>) -> Core<'a> {
        Core {
            model,
            optimizer,
            schedule: None,
            scheduler: None,
            autocast: None,
            scaler: None,
            clip_norm: None,
            clip_value: None,
            average: None,
            callbacks: Vec::new(),
            metrics: Vec::new(),
            validate: None,
            validate_every: 1,
            state: fresh(),
            progress: Progress::new(true),
            max_steps: None,
            accumulate: 1,
            stop_on_nan: true,
            resume: None,
            gradients: None,
            held: Vec::new(),
            late: Queue::new(),
        }
    }

    /// Calls all callbacks.
    fn each(&mut self, f: &mut dyn FnMut(&mut dyn Callback, &mut Run<'_>) -> Result<()>) -> Result<()> {
        let Core { model, optimizer, average, callbacks, state, progress, .. } = self;
        let mut run = Run { model: *model, optimizer: &mut **optimizer, average: average.as_deref(), state, progress };
        callbacks.iter_mut().try_for_each(|c| f(&mut **c, &mut run))
    }

    pub fn fit(&mut self, source: &mut dyn Source) -> Result<Report> {
        let (start, rows) = (Instant::now(), self.state.rows);
        let _listening = interrupt::listen();
        self.gradients = None;
        self.held.clear();
        self.late.clear();
        self.state.stop = None;
        distinct(&self.metrics)?;
        if evaluates(self.model) {
            self.progress.print("the model was in evaluation mode: it is trained in training mode");
            self.model.set_training(true);
        }
        let ended = self.run(source);
        self.progress.finish();
        let ended = ended?;
        self.each(&mut |c, run| c.on_fit_end(run))?;
        if let Ended::Stopped(reason) = &ended {
            self.progress.print(&format!("stopped: {reason}"));
        }
        Ok(Report {
            ended,
            epochs: self.state.epoch,
            steps: self.state.step,
            logs: self.state.logs.clone(),
            history: self.state.history.clone(),
            rows: self.state.rows - rows,
            elapsed: start.elapsed(),
            waited: source.waited(),
        })
    }

    fn run(&mut self, source: &mut dyn Source) -> Result<Ended> {
        if let Some((schedule, per)) = self.schedule.take() {
            self.scheduler = Some((schedule.start_boxed(&mut *self.optimizer)?, per));
        }
        let mut from = match self.resume.take() {
            Some(path) => self.load(path)?,
            None => None,
        };
        self.each(&mut |c, run| c.on_fit_start(run))?;
        self.state.batches = source.batches();
        loop {
            if let Some(reason) = self.state.stop.take() {
                return Ok(Ended::Stopped(reason));
            }
            if self.state.epoch >= self.state.epochs || self.is_last_step() {
                return Ok(Ended::Finished);
            }
            let whole = self.epoch(source, from.take())?;
            if whole {
                let last = self.leaves() || self.state.epoch >= self.state.epochs;
                self.take_checkpoint(if last { When::Leave } else { When::Epoch }, None)?;
            }
            if interrupt::interrupted() {
                return Ok(Ended::Interrupted);
            }
        }
    }

    fn is_last_step(&self) -> bool {
        self.max_steps.is_some_and(|n| self.state.step >= n)
    }

    /// Whether no other epoch follows.
    fn leaves(&self) -> bool {
        interrupt::interrupted() || self.state.stop.is_some() || self.is_last_step()
    }

    /// Runs an epoch, or what is left of it; says whether it came to its end.
    fn epoch(&mut self, source: &mut dyn Source, from: Option<LoaderState>) -> Result<bool> {
        source.open(self.state.epoch, from.as_ref())?;
        if from.is_none() {
            self.state.batch = 0;
            self.state.means.clear();
            self.metrics.iter_mut().for_each(|m| m.reset());
            self.each(&mut |c, run| c.on_epoch_start(run))?;
        }
        let (start, rows) = (Instant::now(), self.state.rows);
        let title = format!("epoch {}/{}", self.state.epoch + 1, self.state.epochs);
        self.progress.start(&title, self.state.batches, self.state.batch);
        while let Some(step) = source.next() {
            let step = step?;
            step.check()?;
            self.state.batch += 1;
            let weight = step.weight();
            self.state.rows += weight as u64;
            self.backward(step)?;
            let stepped = self.held.len() >= self.accumulate;
            if stepped {
                self.step()?;
            }
            self.progress.step(weight, &self.running());
            if !stepped {
                continue;
            }
            let ends = self.state.batches == Some(self.state.batch);
            if self.leaves() && !ends {
                self.take_checkpoint(When::Leave, source.place())?;
                // Nobody may have wanted it.
                self.read_late(0)?;
                return Ok(false);
            }
            self.take_checkpoint(When::Step, source.place())?;
        }
        if !self.held.is_empty() {
            self.step()?;
        }
        self.read_late(0)?;
        if self.state.batch == 0 {
            return Err(Error::argument("Trainer::fit", "the loader has no batch"));
        }
        let seconds = start.elapsed().as_secs_f64();
        self.end_epoch()?;
        let rate = (self.state.rows - rows) as f64 / seconds.max(1e-9);
        self.progress.print(&format!("{title}  {}  ({seconds:.1} s, {rate:.0} rows/s)", self.state.logs));
        self.each(&mut |c, run| c.on_epoch_end(run))?;
        Ok(true)
    }

    /// The running numbers, for the bar.
    fn running(&self) -> Logs {
        self.state.means.iter().filter_map(|(n, m)| m.value().map(|v| (n.as_str(), v))).collect()
    }

    /// Adds the gradients of a batch to those of the step.
    fn backward(&mut self, step: Step) -> Result<()> {
        let gradients = match &self.scaler {
            Some(scaler) => scaler.scale(&step.loss)?.backward()?,
            None => step.loss.backward()?,
        };
        match &mut self.gradients {
            Some(sum) => sum.accumulate(gradients)?,
            None => self.gradients = Some(gradients),
        }
        if self.accumulate > 1
            && let Some(sum) = &self.gradients
        {
            // Now, so that the memory of this batch's activations is free for the next.
            let all: Vec<&Tensor> = sum.iter().map(|(_, g)| g).collect();
            crate::eval(&all)?;
        }
        self.held.push((step, self.state.batch));
        Ok(())
    }

    /// One step of the optimizer.
    fn step(&mut self) -> Result<()> {
        let count = self.held.len();
        let mut gradients = self.gradients.take().unwrap_or_default();
        if count > 1 {
            gradients.scale(1.0 / count as f64)?;
        }
        if let Some(scaler) = &self.scaler {
            scaler.unscale(&mut gradients)?;
        }
        if let Some(value) = self.clip_value {
            gradients.clip_value(value)?;
        }
        if let Some(norm) = self.clip_norm {
            gradients.clip_norm(norm)?;
        }
        self.each(&mut |c, run| c.on_gradients(&mut gradients, run))?;
        let (lr, skip) = (self.optimizer.lr(), gradients.skip().cloned());
        match &mut self.scaler {
            Some(scaler) => {
                scaler.step(&mut *self.optimizer, gradients)?;
                scaler.update()?;
            }
            None => self.optimizer.step(gradients)?,
        }
        self.state.step += 1;
        // The step is submitted: its numbers can come when they are there.
        let batches = self.held.drain(..).map(|(step, batch)| Late::start(step, batch)).collect();
        self.late.push_back(LateStep { step: self.state.step, lr, skip, batches });
        if let Some(average) = &mut self.average {
            average.update(self.model)?;
        }
        if let Some((scheduler, Per::Step)) = &mut self.scheduler {
            scheduler.step(&mut *self.optimizer)?;
        }
        self.each(&mut |c, run| c.on_step(run))?;
        self.read_late(1)
    }

    /// Takes in the numbers of all steps but the last `keep`.
    fn read_late(&mut self, keep: usize) -> Result<()> {
        while self.late.len() > keep {
            let Some(LateStep { step, lr, skip, batches }) = self.late.pop_front() else { return Ok(()) };
            let mut own: Vec<(String, Mean)> = Vec::new();
            for late in batches {
                let (batch, weight, output) = (late.batch, late.weight as f64, late.output.clone());
                let numbers = late.wait()?;
                let value = numbers.first().map_or(0.0, |(_, loss)| *loss);
                if !value.is_finite() {
                    // What overflowed in a step that the scaler did not take is its affair: the scale is lower in the next one.
                    if skip.as_ref().map_or(Ok(0.0), |s| s.item::<f64>())? != 0.0 {
                        numbers.iter().for_each(|(name, value)| update(&mut own, name, *value, weight));
                        continue;
                    }
                    if self.stop_on_nan {
                        return Err(Error::NotFinite { what: "loss".into(), value, epoch: self.state.epoch + 1, step, batch });
                    }
                }
                for (name, value) in &numbers {
                    for means in [&mut own, &mut self.state.means] {
                        update(means, name, *value, weight);
                    }
                }
                match output {
                    Some((prediction, target)) => self.metrics.iter_mut().try_for_each(|m| m.update(&prediction, &target))?,
                    None if self.metrics.is_empty() => {}
                    None => return Err(no_output()),
                }
            }
            let mut logs: Logs = own.iter().filter_map(|(n, m)| m.value().map(|v| (n.as_str(), v))).collect();
            logs.set("lr", lr);
            self.each(&mut |c, run| c.on_step_logs(step, &logs, run))?;
        }
        Ok(())
    }

    /// The numbers of the epoch, and the validation.
    fn end_epoch(&mut self) -> Result<()> {
        let mut logs = self.running();
        log_metrics(&mut logs, &self.metrics)?;
        logs.set("lr", self.optimizer.lr());
        self.state.logs = logs;
        let epoch = self.state.epoch + 1;
        // Not where the training merely leaves: the run that goes on from there would have a validation that a run without a stop has not.
        let due = epoch.is_multiple_of(self.validate_every) || epoch == self.state.epochs;
        self.state.unvalidated = self.validate.is_some() && !due;
        if due && self.validate.is_some() {
            self.each(&mut |c, run| c.on_validation_start(run))?;
            if let Some(validate) = &mut self.validate {
                let autocast = self.autocast;
                let validated = || cast(autocast, validate);
                let numbers = match &self.average {
                    // Before the first step there is no average.
                    Some(average) if average.n_averaged() > 0 => average.with(self.model, validated)??,
                    _ => validated()?,
                };
                for (name, value) in numbers.iter() {
                    self.state.logs.set(&format!("val_{name}"), value);
                }
            }
            self.each(&mut |c, run| c.on_validation_end(run))?;
        }
        match &mut self.scheduler {
            Some((scheduler, Per::Epoch)) => scheduler.step(&mut *self.optimizer)?,
            Some((scheduler, Per::Monitored(name))) => {
                if let Some(value) = self.state.monitored("Trainer", name, epoch)? {
                    scheduler.step_with(value, &mut *self.optimizer)?;
                }
            }
            _ => {}
        }
        self.state.epoch += 1;
        self.state.batch = 0;
        self.state.means.clear();
        self.metrics.iter_mut().for_each(|m| m.reset());
        self.state.history.push(self.state.epoch, self.state.logs.clone());
        Ok(())
    }

    /// Takes a checkpoint if a callback wants one. `place`: the loader's, in the middle of an epoch.
    fn take_checkpoint(&mut self, when: When, place: Option<LoaderState>) -> Result<()> {
        let mut wanted = Vec::new();
        self.each(&mut |c, run| {
            wanted.push(c.wants_checkpoint(when, run));
            Ok(())
        })?;
        if !wanted.contains(&true) {
            return Ok(());
        }
        self.read_late(0)?;
        let checkpoint = self.checkpoint(place)?;
        let mut wanted = wanted.into_iter();
        self.each(&mut |c, run| if wanted.next() == Some(true) { c.on_checkpoint(&checkpoint, run) } else { Ok(()) })
    }

    fn checkpoint(&self, place: Option<LoaderState>) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new();
        let State { epoch, batch, step, rows, logs, history, means, .. } = &self.state;
        checkpoint.insert("model", self.model.state_dict());
        checkpoint.insert("optimizer", self.optimizer.state_dict()?);
        if let Some((scheduler, _)) = &self.scheduler {
            checkpoint.insert("scheduler", scheduler.state_dict()?);
        }
        if let Some(scaler) = &self.scaler {
            checkpoint.insert("scaler", scaler.state_dict());
        }
        if let Some(average) = &self.average {
            checkpoint.insert("average", average.state_dict()?);
        }
        checkpoint.set("trainer", serde_json::json!({ "epoch": epoch, "batch": batch, "step": step, "rows": rows }));
        checkpoint.set_rng(crate::rng_state());
        if let Some(place) = place {
            checkpoint.set_loader(&place);
        }
        checkpoint.set("logs", logs.to_json());
        checkpoint.set("history", history.to_json());
        checkpoint.set("means", means.iter().map(|(n, m)| Json::from(vec![Json::from(n.as_str()), m.to_json()])).collect::<Vec<_>>());
        let numbers = |state: Vec<f64>| Json::from(state.into_iter().map(json_number).collect::<Vec<_>>());
        checkpoint.set("metrics", self.metrics.iter().map(|m| numbers(m.state())).collect::<Vec<_>>());
        self.callbacks.iter().for_each(|c| c.save(&mut checkpoint));
        Ok(checkpoint)
    }

    /// Loads a checkpoint, if one is there; gives the loader's place where it is one in the middle of an epoch.
    fn load(&mut self, path: PathBuf) -> Result<Option<LoaderState>> {
        let place = if Checkpoint::find(&path).is_some() { Some(path) } else { Checkpointer::last(&path)? };
        let Some(place) = place else { return Ok(None) };
        let checkpoint = Checkpoint::load(place)?;
        let missing = |name: &str| checkpoint.wrong(format!("{name} is missing, or not what a trainer saves"));
        let number = |field| checkpoint.number("trainer", field);
        let (epoch, batch, step, rows) = (number("epoch")?, number("batch")? as usize, number("step")?, number("rows")?);
        let logs = checkpoint.get("logs").and_then(Logs::from_json).ok_or_else(|| missing("logs"))?;
        let history = checkpoint.get("history").and_then(History::from_json).ok_or_else(|| missing("history"))?;
        let mean = |pair: &Json| Some((pair.get(0)?.as_str()?.to_string(), Mean::from_json(pair.get(1)?)?));
        let means = checkpoint.get("means").and_then(Json::as_array).and_then(|list| list.iter().map(mean).collect::<Option<Vec<_>>>());
        let means = means.ok_or_else(|| missing("means"))?;
        let (loader, rng) = (checkpoint.loader()?, checkpoint.rng()?);
        if loader.is_some() {
            let states = checkpoint.get("metrics").and_then(Json::as_array).filter(|list| list.len() == self.metrics.len());
            let states =
                states.ok_or_else(|| checkpoint.wrong(format!("it is of a training with other metrics than {}", self.metrics.len())))?;
            for (metric, state) in self.metrics.iter_mut().zip(states) {
                let numbers: Option<Vec<f64>> = state.as_array().and_then(|list| list.iter().map(number_from).collect());
                metric.set_state(&numbers.ok_or_else(|| missing("metrics"))?)?;
            }
        }
        self.model.load_state_dict(checkpoint.part("model")?, true)?;
        self.optimizer.load_state_dict(checkpoint.part("optimizer")?)?;
        match &mut self.scheduler {
            Some(scheduler) => scheduler.0.load_state_dict(checkpoint.part("scheduler")?)?,
            None if checkpoint.has_part("scheduler") => {
                return Err(checkpoint.wrong("it is of a training with a schedule of the learning rate, this one has none"));
            }
            None => {}
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.load_state_dict(checkpoint.part("scaler")?)?;
        }
        if let Some(average) = &mut self.average {
            average.load_state_dict(checkpoint.part("average")?)?;
        }
        self.callbacks.iter_mut().try_for_each(|c| c.load(&checkpoint))?;
        self.state = State { epoch, batch, step, rows, logs, history, means, epochs: self.state.epochs, ..State::default() };
        crate::set_rng_state(rng);
        Ok(loader)
    }
}

/// Adds a value to the running mean of its name.
fn update(means: &mut Vec<(String, Mean)>, name: &str, value: f64, weight: f64) {
    match means.iter_mut().find(|(n, _)| n == name) {
        Some((_, mean)) => mean.update(value, weight),
        None => {
            let mut mean = Mean::new();
            mean.update(value, weight);
            means.push((name.to_string(), mean));
        }
    }
}
