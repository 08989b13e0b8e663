//! Fine-tuning language models on instructions and preferences: supervised fine-tuning with masked prompts and packed rows, reward models, direct preference
//! optimisation. With [`lora`](crate::lora) for the parameters, [`Trainer`](crate::train::Trainer) or a loop of one's own for the steps.
//!
//! ```
//! use fornax::align::{Dpo, Example, PreferenceBatch, answer_log_probs, batch, next_token_loss};
//! use fornax::lora::{Adapters, LoraConfig};
//! use fornax::optim::{AdamW, Optimizer};
//! use fornax::transformers::{CausalLm, Config};
//! use fornax::{Device, no_grad};
//! # fornax::manual_seed(3);
//! # let config = Config::parse(r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}"#)?;
//! let model = CausalLm::new(&config, Device::cpu())?;
//! let lora = Adapters::new(&model, LoraConfig { target_modules: Some(["q_proj", "v_proj"].into()), ..LoraConfig::default() })?;
//! let mut optimizer = AdamW::new(lora.parameters(), 1e-3);
//!
//! // Supervised: the prompt is read, the answer is learned.
//! let (tokens, labels) = batch(&[Example::new(&[1, 2, 3], &[4, 5])], 0, Device::cpu())?;
//! optimizer.step(next_token_loss(&model.forward(&tokens)?, &labels)?.backward()?)?;
//!
//! // Preferences: the reference is the model without its adapter.
//! let pairs = PreferenceBatch::new(&[(vec![1, 2, 3], vec![4, 5], vec![6])], 0, Device::cpu())?;
//! let reference = lora.disabled(|| no_grad(|| answer_log_probs(&model.forward(&pairs.tokens)?, &pairs.labels)))?;
//! let policy = answer_log_probs(&model.forward(&pairs.tokens)?, &pairs.labels)?;
//! let out = Dpo::default().forward(&policy, &reference)?;
//! optimizer.step(out.loss.backward()?)?;
//! # Ok::<(), fornax::Error>(())
//! ```

mod dpo;
mod reward;
mod sft;

pub use dpo::{Dpo, DpoKind, DpoOutput, PreferenceBatch, answer_log_probs};
pub use reward::{RewardLoss, RewardModel};
pub use sft::{Example, IGNORED, Packed, batch, next_token_loss, pack};
