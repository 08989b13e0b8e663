//! Early stopping: the training ends when a number no longer gets better.

use super::checkpoint::{json_number, number_from};
use super::{Callback, Checkpoint, Run};
use crate::io::StateDict;
use crate::nn::Module;
use crate::{Error, Result};

/// Which numbers are better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Smaller ones: losses.
    #[default]
    Min,
    /// Larger ones: accuracies.
    Max,
}

impl Goal {
    /// Whether `new` is better than `old` by more than `delta`. NaN is never better.
    ///
    /// ```
    /// use fornax::train::Goal;
    /// assert!(Goal::Min.better(0.8, 1.0, 0.1) && !Goal::Min.better(0.95, 1.0, 0.1));
    /// assert!(Goal::Max.better(0.8, f64::NAN, 0.0) && !Goal::Max.better(f64::NAN, 0.8, 0.0));
    /// ```
    pub fn better(self, new: f64, old: f64, delta: f64) -> bool {
        if old.is_nan() {
            return !new.is_nan();
        }
        match self {
            Goal::Min => new < old - delta,
            Goal::Max => new > old + delta,
        }
    }
}

/// Stops when a number has not got better for `patience` epochs, as Keras' and Lightning's callbacks of this name.
///
/// As a callback of a [`Trainer`](super::Trainer) it watches the number of this name, and passes over epochs without the validation that gives it; in a loop of
/// your own call [`update`](EarlyStopping::update).
///
/// ```
/// use fornax::train::EarlyStopping;
/// let mut early = EarlyStopping::new("val_loss").patience(2);
/// let losses = [1.0, 0.5, 0.6, 0.55, 0.4];
/// let stopped = losses.iter().position(|&loss| early.update(loss));
/// assert_eq!(stopped, Some(3)); // two epochs after the best
/// assert_eq!((early.best(), early.best_epoch()), (0.5, 2));
/// ```
pub struct EarlyStopping {
    monitor: String,
    goal: Goal,
    patience: u64,
    min_delta: f64,
    restore_best: bool,
    best: f64,
    best_epoch: u64,
    /// Updates so far, and those since the best.
    updates: u64,
    waited: u64,
    weights: Option<StateDict>,
}

impl EarlyStopping {
    /// Watches a number that shall become small, for 10 epochs.
    pub fn new(monitor: &str) -> EarlyStopping {
        EarlyStopping {
            monitor: monitor.to_string(),
            goal: Goal::Min,
            patience: 3,
            min_delta: 0.0,
            restore_best: false,
            best: f64::NAN,
            best_epoch: 0,
            updates: 0,
            waited: 0,
            weights: None,
        }
    }

    /// Which numbers are better (small ones).
    ///
    /// ```
    /// use fornax::train::{EarlyStopping, Goal};
    /// let mut early = EarlyStopping::new("val_accuracy").goal(Goal::Max).patience(1);
    /// assert!(!early.update(0.9) && early.update(0.8));
    /// ```
    pub fn goal(mut self, goal: Goal) -> EarlyStopping {
        self.goal = goal;
        self
    }

    /// After how many epochs in a row without a better number to stop. Only epochs that have the number count.
    pub fn patience(mut self, epochs: u64) -> EarlyStopping {
        self.patience = epochs;
        self
    }

    /// By how much a number must be better to count (0).
    ///
    /// ```
    /// use fornax::train::EarlyStopping;
    /// let mut early = EarlyStopping::new("val_loss").min_delta(0.1).patience(1);
    /// assert!(!early.update(1.0) && early.update(0.95));
    /// ```
    pub fn min_delta(mut self, delta: f64) -> EarlyStopping {
        self.min_delta = delta;
        self
    }

    /// Whether the model gets the weights of its best epoch back at the end of the training, whether it was stopped early or not.
    ///
    /// They are the weights that were validated: where the trainer keeps an average ([`Trainer::average`](super::Trainer::average)), the averages as they were
    /// after that epoch, not the weights that the optimizer had reached. The average itself stays what it is at the end.
    pub fn restore_best(mut self, restore: bool) -> EarlyStopping {
        self.restore_best = restore;
        self
    }

    /// The best number so far: NaN before the first.
    pub fn best(&self) -> f64 {
        self.best
    }

    /// The number of the epoch that was best, counted from 1; 0 before the first.
    pub fn best_epoch(&self) -> u64 {
        self.best_epoch
    }

    /// Takes in the number of the next epoch; says whether to stop.
    pub fn update(&mut self, value: f64) -> bool {
        self.updates += 1;
        if self.goal.better(value, self.best, self.min_delta) {
            (self.best, self.best_epoch, self.waited) = (value, self.updates, 0);
        } else {
            self.waited += 1;
        }
        self.is_over()
    }

    /// As [`update`](EarlyStopping::update), for a model whose best weights are to be kept (as values: nothing is copied).
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::train::EarlyStopping;
    /// use fornax::{Device, Tensor};
    /// let model = Linear::new(2, 1, Device::cpu());
    /// let mut early = EarlyStopping::new("val_loss").restore_best(true).patience(2);
    /// early.update_with(0.5, &model);
    /// let best = model.weight.value().to_vec::<f32>()?;
    /// model.weight.set(Tensor::zeros([1, 2], Device::cpu()))?;
    /// early.update_with(0.7, &model);
    /// early.restore(&model)?;
    /// assert_eq!(model.weight.value().to_vec::<f32>()?, best);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn update_with(&mut self, value: f64, model: &dyn Module) -> bool {
        let over = self.update(value);
        if self.restore_best && self.waited == 0 {
            self.weights = Some(model.state_dict());
        }
        over
    }

    /// Gives a model the best weights back; does nothing where none were kept.
    ///
    /// # Errors
    /// `Error::StateDict` where the model is another one.
    pub fn restore(&self, model: &dyn Module) -> Result<()> {
        match &self.weights {
            Some(weights) => model.load_state_dict(weights, true).map(|_| ()),
            None => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.updates > 0 && self.waited >= self.patience.max(1)
    }

    fn reason(&self) -> String {
        let Self { monitor, best, best_epoch, waited, .. } = self;
        format!("{monitor} has not got better than {best:.6} (epoch {best_epoch}) in the {waited} epochs since that have it")
    }

    /// The name of its state in a checkpoint.
    fn key(&self) -> String {
        let fine = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        format!("early_stopping.{}", self.monitor.chars().map(fine).collect::<String>())
    }
}

impl Callback for EarlyStopping {
    fn on_fit_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        // A run that is resumed after it was stopped is over.
        if self.is_over() {
            run.stop(self.reason());
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        let Some(value) = run.monitored("EarlyStopping", &self.monitor)? else { return Ok(()) };
        let over = self.update(value);
        if self.waited == 0 {
            // Not the number of updates: an epoch without validation is none.
            self.best_epoch = run.epoch();
            if self.restore_best {
                self.weights = Some(run.validated_weights()?);
            }
        }
        if over {
            run.stop(self.reason());
        }
        Ok(())
    }

    fn on_fit_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.restore(run.model)
    }

    fn save(&self, checkpoint: &mut Checkpoint) {
        let numbers = [self.best, self.best_epoch as f64, self.updates as f64, self.waited as f64];
        checkpoint.set(&self.key(), numbers.iter().map(|&n| json_number(n)).collect::<Vec<_>>());
        if let Some(weights) = &self.weights {
            checkpoint.insert(&self.key(), weights.clone());
        }
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let key = self.key();
        let Some(state) = checkpoint.get(&key) else { return Ok(()) };
        let numbers: Option<Vec<f64>> = state.as_array().and_then(|list| list.iter().map(number_from).collect());
        let Some(&[best, best_epoch, updates, waited]) = numbers.as_deref() else {
            return Err(checkpoint.wrong(format!("{key} must be four numbers")));
        };
        (self.best, self.best_epoch, self.updates, self.waited) = (best, best_epoch as u64, updates as u64, waited as u64);
        if self.restore_best {
            if !checkpoint.has_part(&key) && updates > 0.0 && !best.is_nan() {
                return Err(Error::StateDict { message: format!("the checkpoint has no part {key}: it was taken without restore_best") });
            }
            self.weights = checkpoint.has_part(&key).then(|| checkpoint.part(&key).cloned()).transpose()?;
        }
        Ok(())
    }
}
