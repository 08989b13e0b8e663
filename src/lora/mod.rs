//! Fine-tuning with few parameters, as PEFT has it: a frozen model and small adapters around its layers.
//!
//! | `peft_type` | by |
//! |---|---|
//! | `LORA`, with rsLoRA, DoRA, PiSSA and OLoRA | [`Adapters`] with a [`LoraConfig`] |
//! | `IA3` | [`Adapters`] with an [`Ia3Config`] |
//! | bottlenecks (Houlsby, Pfeiffer; no type of PEFT's) | [`Adapters`] with a [`BottleneckConfig`] |
//! | `PROMPT_TUNING` | [`PromptTuning`] |
//! | `PREFIX_TUNING` | [`PrefixTuning`] |
//!
//! Any model will do: every [`Linear`](crate::nn::Linear), [`Embedding`](crate::nn::Embedding), [`Conv1d`](crate::nn::Conv1d) and [`Conv2d`](crate::nn::Conv2d) in
//! it has a [`Hook`](crate::nn::Hook), which is found by the layer's path, as are those of packed (4-bit, 8-bit) layers. A low-rank change is computed as
//! `xWᵀ + s(xAᵀ)Bᵀ`, two thin products; the dense change is made when adapters are merged, and only then.
//!
//! ```
//! use fornax::lora::{Adapters, LoraConfig};
//! use fornax::nn::Module;
//! use fornax::optim::{AdamW, Optimizer};
//! use fornax::transformers::{CausalLm, Config, Tokens};
//! use fornax::Device;
//! # fornax::manual_seed(3);
//! # let config = Config::parse(r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}"#)?;
//! let model = CausalLm::new(&config, Device::cpu())?;
//! let lora = Adapters::new(&model, LoraConfig { target_modules: Some(["q_proj", "v_proj"].into()), ..LoraConfig::default() })?;
//! println!("{}", lora.trainable());
//! let mut optimizer = AdamW::new(lora.parameters(), 1e-3);
//! let ids = Tokens::pad(&[vec![1, 2, 3, 4]], 0, Device::cpu())?;
//! let logits = model.forward(&ids)?.narrow(1, 0, 3).reshape([3, 50]);
//! let loss = fornax::nn::cross_entropy(&logits, &ids.ids.narrow(1, 1, 3).reshape(3))?;
//! optimizer.step(loss.backward()?)?;
//!
//! let folder = std::env::temp_dir().join(format!("fornax-lora-{}", std::process::id()));
//! lora.save(&folder)?;
//! lora.unload()?;
//! let again = Adapters::load(&model, &folder)?;
//! assert_eq!(again.active(), ["default"]);
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok::<(), fornax::Error>(())
//! ```

mod adapters;
mod combine;
mod config;
mod files;
mod json;
mod matrices;
mod merge;
mod part;
mod prompt;
mod targets;
mod wrap;

pub use adapters::{Adapters, Trainable};
pub use combine::Combination;
pub use config::{
    About, AdapterConfig, Bias, BottleneckConfig, Ia3Config, Init, LoraConfig, NonLinearity, PrefixTuningConfig, PromptTuningConfig,
    Targets,
};
pub use prompt::{PrefixTuning, PromptTuning, Prompted};
