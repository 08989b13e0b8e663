//! Callbacks: what happens between the steps of a training.

use super::progress::Progress;
use super::{Checkpoint, History, Logs};
use crate::autograd::Gradients;
use crate::io::StateDict;
use crate::nn::Module;
use crate::optim::{AveragedModel, Optimizer};
use crate::{Error, Result};

/// Where a training is, and its model and optimizer: what callbacks are given.
#[non_exhaustive]
pub struct Run<'r> {
    /// The model.
    pub model: &'r dyn Module,
    /// The optimizer.
    pub optimizer: &'r mut (dyn Optimizer + 'r),
    pub(super) average: Option<&'r AveragedModel>,
    pub(super) state: &'r mut State,
    pub(super) progress: &'r Progress,
}

/// What a training knows of itself.
#[derive(Default)]
pub(super) struct State {
    pub epoch: u64,
    pub epochs: u64,
    pub batch: usize,
    pub batches: Option<usize>,
    pub step: u64,
    /// Rows trained on since the start, as far as the steps said how many they had.
    pub rows: u64,
    pub logs: Logs,
    pub history: History,
    /// Values by name, running over the epoch.
    pub means: Vec<(String, super::Mean)>,
    /// The last epoch had no validation, though the training has one.
    pub unvalidated: bool,
    pub stop: Option<String>,
}

impl State {
    /// A number of the last epoch, which is `epoch`; `None` where it can be one of the validation that this epoch did not have.
    pub fn monitored(&self, who: &'static str, name: &str, epoch: u64) -> Result<Option<f64>> {
        let missing = || format!("no number {name:?} was logged in epoch {epoch}; there are {}", self.logs.names());
        match self.logs.get(name) {
            None if !self.unvalidated => Err(Error::argument(who, missing())),
            value => Ok(value),
        }
    }
}

impl Run<'_> {
    /// The number of epochs that are done.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// The number of epochs asked for.
    pub fn epochs(&self) -> u64 {
        self.state.epochs
    }

    /// The number of batches of this epoch that are done.
    pub fn batch(&self) -> usize {
        self.state.batch
    }

    /// The number of batches of an epoch, where that is known.
    pub fn batches(&self) -> Option<usize> {
        self.state.batches
    }

    /// The number of optimizer steps since the start of the training, those before a resume included.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The numbers of the last epoch: empty before its end.
    pub fn logs(&self) -> &Logs {
        &self.state.logs
    }

    /// Adds a number to those of the epoch, in [`Callback::on_validation_end`] say, so that loggers see it.
    pub fn log(&mut self, name: &str, value: f64) {
        self.state.logs.set(name, value);
    }

    /// A number of the last epoch. `None` where there is none of this name and [`validate_every`](super::Trainer::validate_every) let the epoch go without
    /// the validation that may log it: whoever watches the number passes over the epoch.
    ///
    /// # Errors
    /// `Error::Argument` where there is none of this name in an epoch that lacked nothing, with the names that there are.
    pub fn monitored(&self, who: &'static str, name: &str) -> Result<Option<f64>> {
        self.state.monitored(who, name, self.state.epoch)
    }

    /// The weights that a validation sees: the averages, where the training keeps some ([`Trainer::average`](super::Trainer::average)), else the model's own.
    ///
    /// # Errors
    /// Those of [`AveragedModel::with`].
    pub fn validated_weights(&self) -> Result<StateDict> {
        match self.average {
            // Before the first step there is no average.
            Some(average) if average.n_averaged() > 0 => average.with(self.model, || self.model.state_dict()),
            _ => Ok(self.model.state_dict()),
        }
    }

    /// The numbers of all epochs so far.
    pub fn history(&self) -> &History {
        &self.state.history
    }

    /// Ends the training after this step or epoch.
    pub fn stop(&mut self, reason: impl Into<String>) {
        self.state.stop.get_or_insert(reason.into());
    }

    /// Prints a line above the progress bar.
    pub fn print(&self, line: &str) {
        self.progress.print(line);
    }
}

/// When a checkpoint could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After an optimizer's step, in the middle of an epoch.
    Step,
    /// After an epoch, its validation and all callbacks.
    Epoch,
    /// Nothing follows: the last epoch or step is done, a callback has stopped the training, or it was interrupted (Ctrl-C).
    Leave,
}

/// Something that a [`Trainer`](super::Trainer) calls at each stage. All methods do nothing unless they are written.
///
/// The order of an epoch: `on_epoch_start`; for each optimizer step `on_gradients`, `on_step`, and, once its values have been read (one step
/// later, so that the device never waits), `on_step_logs`; `on_validation_start`, `on_validation_end`; `on_epoch_end`. After a step and after an
/// epoch `wants_checkpoint` is asked, and if anybody wants one, it is made of everybody's `save`, and those who wanted it get it.
///
/// ```
/// use fornax::train::{Callback, Run};
/// use fornax::Result;
///
/// /// Halves the learning rate after each epoch.
/// struct Halve;
///
/// impl Callback for Halve {
///     fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
///         let lr = run.optimizer.lr();
///         run.optimizer.set_lr(lr / 2.0);
///         Ok(())
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait Callback {
    /// Before the first step, after a resumed state was loaded.
    ///
    /// # Errors
    /// Any error of a callback ends the training with it.
    fn on_fit_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Before the first batch of an epoch (not where an epoch is resumed in its middle).
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_epoch_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Between the backward pass and the optimizer's step, with the accumulated gradients: the place to change or look at them.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_gradients(&mut self, gradients: &mut Gradients, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// After an optimizer's step: the parameters have their new values, the loss is not read yet.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_step(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// With the values of optimizer step number `step` (counted from 1): `loss`, those that the step returned, and `lr`.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_step_logs(&mut self, step: u64, logs: &Logs, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Before a validation.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_validation_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// After a validation; its numbers are in `run.logs()`.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_validation_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// After an epoch, with all of its numbers in `run.logs()`; `run.epoch()` counts it already.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// After the last epoch, however the training ended, but for an error.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_fit_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether a checkpoint should be taken now.
    fn wants_checkpoint(&mut self, when: When, run: &Run<'_>) -> bool {
        false
    }

    /// With the checkpoint that it wanted.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, run: &mut Run<'_>) -> Result<()> {
        Ok(())
    }

    /// Puts its own state into a checkpoint, under names of its own (the trainer itself has `model`, `optimizer`, `scheduler`, `scaler`, `average`).
    fn save(&self, checkpoint: &mut Checkpoint) {}

    /// Takes its state from a checkpoint that is resumed from. One that was taken without this callback has none.
    ///
    /// # Errors
    /// As [`on_fit_start`](Callback::on_fit_start).
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

macro_rules! forward {
    ($($t:ty),*) => { $(
        impl<C: Callback + ?Sized> Callback for $t {
            fn on_fit_start(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_fit_start(run)
            }
            fn on_epoch_start(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_epoch_start(run)
            }
            fn on_gradients(&mut self, gradients: &mut Gradients, run: &mut Run<'_>) -> Result<()> {
                (**self).on_gradients(gradients, run)
            }
            fn on_step(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_step(run)
            }
            fn on_step_logs(&mut self, step: u64, logs: &Logs, run: &mut Run<'_>) -> Result<()> {
                (**self).on_step_logs(step, logs, run)
            }
            fn on_validation_start(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_validation_start(run)
            }
            fn on_validation_end(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_validation_end(run)
            }
            fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_epoch_end(run)
            }
            fn on_fit_end(&mut self, run: &mut Run<'_>) -> Result<()> {
                (**self).on_fit_end(run)
            }
            fn wants_checkpoint(&mut self, when: When, run: &Run<'_>) -> bool {
                (**self).wants_checkpoint(when, run)
            }
            fn on_checkpoint(&mut self, checkpoint: &Checkpoint, run: &mut Run<'_>) -> Result<()> {
                (**self).on_checkpoint(checkpoint, run)
            }
            fn save(&self, checkpoint: &mut Checkpoint) {
                (**self).save(checkpoint)
            }
            fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
                (**self).load(checkpoint)
            }
        }
    )* };
}
forward!(&mut C, Box<C>);
