//! Recurrent layers: RNN, LSTM and GRU, with PyTorch's weights, gates and names.

mod stack;

use super::{Module, Walk};
use crate::{Options, Result, Tensor};
use stack::{Kind, Stack, State};

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident $kind:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Stack);

        impl Module for $name {
            fn walk(&self, walk: &mut Walk<'_>) {
                walk.module(stringify!($name));
                self.0.walk(walk)
            }
        }

        #[fornax_derive::fallible]
        impl $name {
            /// One layer, forward in time, from `inputs` features to `hidden`, with biases; the batch is axis 1. Everything starts uniform between
            /// `±1/√hidden`.
            ///
            /// # Errors
            /// `hidden` 0; sizes that memory cannot hold, or a dtype that the device lacks.
            pub fn try_new(inputs: usize, hidden: usize, options: impl Into<Options>) -> Result<$name> {
                Ok($name(Stack::new(stringify!($name), $kind, inputs, hidden, options.into())?))
            }

            /// So many layers, each on the outputs of the one before; the parameters are drawn anew.
            ///
            /// # Errors
            /// No layers.
            pub fn try_layers(self, layers: usize) -> Result<$name> {
                Ok($name(self.0.change(|s| s.layers = layers)?))
            }

            /// A second direction, backward in time, whose outputs stand behind those of the first; the parameters are drawn anew.
            ///
            /// # Errors
            /// Sizes that memory cannot hold.
            pub fn try_bidirectional(self) -> Result<$name> {
                Ok($name(self.0.change(|s| s.bidirectional = true)?))
            }

            /// Dropout with probability `p` on the outputs of each layer but the last, in training mode.
            ///
            /// # Errors
            /// A `p` outside 0..=1.
            pub fn try_dropout(self, p: f64) -> Result<$name> {
                Ok($name(self.0.dropout(p)?))
            }
        }

        impl $name {
            /// The layer without biases.
            pub fn no_bias(mut self) -> $name {
                self.0.remove_bias();
                self
            }

            /// Takes and gives the batch as axis 0, `[N, T, ..]`, and not as axis 1, `[T, N, ..]`. (The states stay as they are.)
            pub fn batch_first(mut self) -> $name {
                self.0.batch_first = true;
                self
            }
        }
    )* };
}
layers! {
    /// The plain recurrent network (Elman 1990): `h_t = tanh(W_ih x_t + b_ih + W_hh h_{t−1} + b_hh)`.
    ///
    /// ```
    /// use fornax::nn::{Module, RNN};
    /// use fornax::{Device, Tensor};
    /// let rnn = RNN::new(3, 5, Device::cpu()).layers(2).batch_first();
    /// let (y, h) = rnn.forward(&Tensor::ones([4, 7, 3], Device::cpu()), None)?;
    /// assert_eq!((y.dims(), h.dims()), (&[4, 7, 5][..], &[2, 4, 5][..]));
    /// assert_eq!(rnn.named_parameters()[4].0, "weight_ih_l1");
    /// # Ok::<(), fornax::Error>(())
    /// ```
    RNN Kind::Tanh;
    /// Long short-term memory (Hochreiter and Schmidhuber 1997), with a forget gate:
    ///
    /// `i, f, o = σ(W x_t + b + W h_{t−1} + b)` each with its own weights, `g = tanh(…)` likewise, `c_t = f · c_{t−1} + i · g`, `h_t = o · tanh c_t`.
    ///
    /// The gates stand in the weights `weight_ih_l0 [4·hidden, inputs]`, `weight_hh_l0 [4·hidden, hidden]` in the order i, f, g, o.
    ///
    /// ```
    /// use fornax::nn::LSTM;
    /// use fornax::{Device, Tensor};
    /// let lstm = LSTM::new(3, 5, Device::cpu()).bidirectional();
    /// let (y, (h, c)) = lstm.forward(&Tensor::ones([7, 4, 3], Device::cpu()), None)?;
    /// assert_eq!(y.dims(), [7, 4, 10]);
    /// assert_eq!((h.dims(), c.dims()), (&[2, 4, 5][..], &[2, 4, 5][..]));
    /// # Ok::<(), fornax::Error>(())
    /// ```
    LSTM Kind::Lstm;
    /// The gated recurrent unit (Cho et al. 2014):
    ///
    /// `r, z = σ(W x_t + b + W h_{t−1} + b)`, `n = tanh(W_in x_t + b_in + r · (W_hn h_{t−1} + b_hn))`, `h_t = (1 − z) · n + z · h_{t−1}`.
    ///
    /// The gates stand in the weights in the order r, z, n.
    ///
    /// ```
    /// use fornax::nn::GRU;
    /// use fornax::{Device, Tensor};
    /// let gru = GRU::new(3, 5, Device::cpu());
    /// // Two sequences, of 7 and of 2 steps.
    /// let (y, h) = gru.forward_packed(&Tensor::ones([7, 2, 3], Device::cpu()), &[7, 2], None)?;
    /// assert_eq!(y.index(fornax::s![2.., 1]).abs().max(()).item::<f32>()?, 0.0);
    /// assert_eq!(y.index(fornax::s![1, 1]).to_vec::<f32>()?, h.index(fornax::s![0, 1]).to_vec::<f32>()?);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    GRU Kind::Gru;
}

impl RNN {
    /// `max(0, ·)` in the place of tanh.
    pub fn relu(mut self) -> RNN {
        self.0.kind = Kind::Relu;
        self
    }
}

macro_rules! one_state {
    ($($name:ident),*) => { $(
        impl $name {
            /// The outputs of the last layer at all times, and the last state of each layer and direction.
            ///
            /// `x` is `[T, N, inputs]` (`[N, T, inputs]` with the batch first), or `[T, inputs]`; the state before the first step, by default zeros, is
            /// `[layers · directions, N, hidden]`. The outputs are `[T, N, directions · hidden]`.
            ///
            /// # Errors
            /// Shapes that do not fit.
            pub fn forward(&self, x: &Tensor, h: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
                let (y, state) = self.0.forward(x, None, h.map(|h| State { h: h.clone(), c: None }))?;
                Ok((y, state.h))
            }

            /// As [`forward`](Self::forward), for sequences of different lengths that were padded to one: each ends after so many steps. What stands behind a
            /// sequence's end is not looked at, its outputs are zeros, and the state is that of its last step (backward: that of its first).
            ///
            /// # Errors
            /// Also lengths that are not one a sequence, in `1..=T`.
            pub fn forward_packed(&self, x: &Tensor, lengths: &[usize], h: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
                let (y, state) = self.0.forward(x, Some(lengths), h.map(|h| State { h: h.clone(), c: None }))?;
                Ok((y, state.h))
            }
        }
    )* };
}
one_state!(RNN, GRU);

impl LSTM {
    /// The outputs of the last layer at all times, and the last states h and c of each layer and direction.
    ///
    /// `x` is `[T, N, inputs]` (`[N, T, inputs]` with the batch first), or `[T, inputs]`; the states (h, c) before the first step, by default zeros, are
    /// `[layers · directions, N, hidden]`. The outputs are `[T, N, directions · hidden]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, state: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, (Tensor, Tensor))> {
        self.run(x, None, state)
    }

    /// As [`forward`](Self::forward), for sequences of different lengths that were padded to one: each ends after so many steps. What stands behind a
    /// sequence's end is not looked at, its outputs are zeros, and the state is that of its last step (backward: that of its first).
    ///
    /// # Errors
    /// Also lengths that are not one a sequence, in `1..=T`.
    pub fn forward_packed(&self, x: &Tensor, lengths: &[usize], state: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, (Tensor, Tensor))> {
        self.run(x, Some(lengths), state)
    }

    fn run(&self, x: &Tensor, lengths: Option<&[usize]>, state: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, (Tensor, Tensor))> {
        let (y, last) = self.0.forward(x, lengths, state.map(|(h, c)| State { h: h.clone(), c: Some(c.clone()) }))?;
        let c = last.c.unwrap_or_else(|| last.h.clone());
        Ok((y, (last.h, c)))
    }
}
