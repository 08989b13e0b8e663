//! Making a language model follow: supervised fine-tuning on answers, a reward model from preferences, and direct preference optimisation.
//!
//! ```
//! use fornax::align::{Batch, Sample, sft_loss};
//! use fornax::nn::Module;
//! use fornax::optim::{AdamW, Optimizer};
//! use fornax::transformers::{CausalLm, Config};
//! use fornax::Device;
//! # fornax::manual_seed(1);
//! let config = Config::parse(r#"{"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}"#)?;
//! let model = CausalLm::new(&config, Device::cpu())?;
//! let mut optimizer = AdamW::new(model.parameters(), 1e-2);
//! // Two questions with their answers: the loss is of the answers alone.
//! let samples = [Sample::new(&[1, 2, 3], &[4, 5]), Sample::new(&[6, 7], &[8, 9, 10])];
//! let batch = Batch::new(&samples, 0, Device::cpu())?;
//! let mut losses = Vec::new();
//! for _ in 0..20 {
//!     let loss = sft_loss(&model.forward(&batch.tokens)?, &batch.labels)?;
//!     optimizer.step(loss.backward()?)?;
//!     losses.push(loss.item::<f32>()?);
//! }
//! assert!(losses[19] < 0.5 * losses[0]);
//! # Ok::<(), fornax::Error>(())
//! ```
//!
//! The formulas and the names are those of TRL (`SFTTrainer`, `RewardTrainer`, `DPOTrainer`); what a trainer does around them is a loop of one's own or
//! [`Trainer`](crate::train::Trainer)'s.

mod dpo;
mod pack;
mod preference;
mod reward;
mod sample;

pub use dpo::{Dpo, DpoLoss};
pub use pack::{Packed, best_fit};
pub use preference::{Preference, PreferenceBatch};
pub use reward::{RewardLoss, RewardModel};
pub use sample::{Batch, IGNORED, Sample, sequence_log_probs, sft_loss};

use crate::{Result, Tensor};

/// log σ(x), without overflow.
fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    x.try_neg()?.try_softplus(1.0)?.try_neg()
}
