//! Training: a [`Trainer`], and the pieces that it is made of, each of which serves in a loop of one's own.
//!
//! | | |
//! |---|---|
//! | [`Trainer`] | epochs, validation, accumulation, a progress bar, late reading of the loss |
//! | [`Callback`] | what happens between the steps |
//! | [`EarlyStopping`] | ends a training that no longer gets better |
//! | [`Checkpoint`], [`Checkpointer`] | whole checkpoints at any moment; the last, the best, every n |
//! | [`CsvLogger`], [`JsonLogger`], [`TensorBoard`], [`EventWriter`] | logs |
//! | [`LrFinder`] | a learning rate to begin with |
//! | [`Mean`], [`Logs`], [`History`], [`Progress`], [`evaluate`], [`interrupted`] | the small ones |
//!
//! A loop of one's own with some of them:
//!
//! ```
//! use fornax::data::{DataLoader, TensorDataset};
//! use fornax::nn::{self, Forward, Module};
//! use fornax::optim::{AdamW, Optimizer};
//! use fornax::train::{Checkpoint, Checkpointer, EarlyStopping, Goal, JsonLogger, Logs, Mean, Progress};
//! use fornax::{Device, Tensor};
//! # let folder = std::env::temp_dir().join(format!("fornax-loop-{}", std::process::id()));
//! let x = Tensor::uniform([64, 1], -1.0, 1.0, Device::cpu());
//! let loader = DataLoader::new(TensorDataset::new([x.clone(), &x * 3.0])?, 16).shuffle(0);
//! let model = nn::Linear::new(1, 1, Device::cpu());
//! let mut optimizer = AdamW::new(model.parameters(), 0.1);
//! let mut early = EarlyStopping::new("loss").patience(3);
//! let mut checkpointer = Checkpointer::new(&folder).best("loss", Goal::Min);
//! let mut log = JsonLogger::new(folder.join("log.jsonl"));
//! let (progress, mut step) = (Progress::new(false), 0);
//! for epoch in 0..10 {
//!     progress.start(&format!("epoch {}", epoch + 1), Some(loader.len()), 0);
//!     let mut mean = Mean::new();
//!     for batch in loader.epoch(epoch) {
//!         let [x, y] = batch?;
//!         let loss = nn::mse_loss(&model.forward(&x)?, &y)?;
//!         let grads = loss.backward()?;
//!         optimizer.step(grads)?;
//!         step += 1;
//!         mean.update(loss.item::<f32>()?.into(), 16.0);
//!         progress.step(16, &Logs::from_iter([("loss", mean.value().unwrap_or(f64::NAN))]));
//!     }
//!     let loss = mean.value().unwrap_or(f64::NAN);
//!     log.log(epoch + 1, step, &Logs::from_iter([("loss", loss)]))?;
//!     let mut checkpoint = Checkpoint::new();
//!     checkpoint.insert("model", model.state_dict());
//!     checkpoint.insert("optimizer", optimizer.state_dict()?);
//!     checkpoint.set("epoch", epoch + 1);
//!     checkpoint.set_rng(fornax::rng_state());
//!     checkpointer.save(&checkpoint, step, Some(loss))?;
//!     if early.update(loss) || fornax::train::interrupted() {
//!         break;
//!     }
//! }
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok::<(), fornax::Error>(())
//! ```

mod callback;
mod checkpoint;
mod checkpointer;
#[cfg(feature = "plot")]
mod curves;
mod early_stopping;
mod fit;
mod interrupt;
mod loggers;
mod logs;
mod lr_finder;
pub(crate) mod modes;
mod progress;
mod step;
mod tensorboard;
mod trainer;

pub use callback::{Callback, Run, When};
pub use checkpoint::Checkpoint;
pub use checkpointer::Checkpointer;
#[cfg(feature = "plot")]
pub use curves::Curves;
pub use early_stopping::{EarlyStopping, Goal};
pub use interrupt::{Listening, interrupt, interrupted, listen};
pub use loggers::{CsvLogger, JsonLogger};
pub use logs::{History, Logs, Mean};
pub use lr_finder::{LrCurve, LrFinder};
pub use progress::Progress;
pub use step::Step;
pub use tensorboard::{EventWriter, TensorBoard};
pub use trainer::{Ended, Per, Report, Trainer, evaluate};
