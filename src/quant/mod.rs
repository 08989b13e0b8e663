//! Quantised weights: 8 bits per output channel, and 4-bit NF4 with double quantisation, as bitsandbytes makes and stores them.
//!
//! [`quantize`] exchanges the linear layers of a model that match name patterns for [`QuantLinear`]; layer by layer, so that a model that was loaded lazily needs
//! little more memory than its file has bytes. A checkpoint that bitsandbytes has quantised loads as any other one (`transformers`), or by [`load`] into a model of
//! one's own; [`save`] writes what bitsandbytes reads.
//!
//! | format | bits a weight | relative error on N(0, σ²) |
//! |---|---|---|
//! | [`Format::Int8`] | 8 + 32 / inputs | 0.006 |
//! | [`Format::NF4`], blocks of 64 | 4.5 | 0.092 |
//! | the same, double quantisation | 4.127 | 0.092 |
//!
//! The perplexity of a small GPT that this crate's tests train is 10.765 in f32, 10.767 in 8 bits, 10.839 in NF4 and 10.837 with double quantisation.
//!
//! The weights are frozen: they are buffers and no parameters, have no gradient, and an optimizer keeps no state for them. Gradients pass through to the input, so that
//! adapters on top can be trained (QLoRA). Activations are not rounded (bitsandbytes' 8-bit product rounds them, too).
//!
//! ```
//! use fornax::nn::{Forward, Linear, Module, Slot};
//! use fornax::quant::{self, Format, QuantConfig};
//! use fornax::{Device, Tensor};
//! #[derive(Module)]
//! struct Net {
//!     up: Slot,
//!     lm_head: Slot,
//! }
//! let linear = |i, o| Slot::new(Linear::new(i, o, Device::cpu()));
//! let net = Net { up: linear(64, 32), lm_head: linear(32, 10) };
//! let done = quant::quantize(&net, &QuantConfig::new(Format::NF4))?;
//! assert_eq!(done, ["up"]);
//! let y = net.lm_head.forward(&net.up.forward(&Tensor::ones([2, 64], Device::cpu()))?)?;
//! assert_eq!(y.dims(), [2, 10]);
//! assert!(net.state_dict().contains_key("up.weight.quant_state.bitsandbytes__nf4"));
//! # Ok::<(), fornax::Error>(())
//! ```

mod linear;
mod make;
mod model;
mod state;

pub use crate::ops::qmatmul::{DoubleQuant, Quantized};
pub use linear::QuantLinear;
pub use make::{dynamic_map, int8, nf4, nf4_map};
pub(crate) use model::{Placement, prepare};
pub use model::{QuantConfig, load, quantize, save};

/// How weights are stored.
///
/// ```
/// use fornax::quant::Format;
/// assert_eq!(Format::NF4, Format::Nf4 { block_size: 64, double: true });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A signed byte each, and a scale per output channel.
    Int8,
    /// Four bits each, and a scale per block.
    Nf4 {
        /// Elements of a block: 32, 64, … 4096. (bitsandbytes' default: 64.)
        block_size: usize,
        /// Whether the scales are quantised in turn.
        double: bool,
    },
}

impl Format {
    /// QLoRA's: blocks of 64, double quantisation.
    pub const NF4: Format = Format::Nf4 { block_size: 64, double: true };
}
