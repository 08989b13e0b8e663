//! Recurrent layers against PyTorch's, forward and backward (`tests/golden/gen_rnn.py`).

use crate::golden::{Golden, on_all_devices};
use fornax::nn::{GRU, LSTM, Module, RNN};
use fornax::{Device, Error, Result, Tensor};

/// Runs a layer on (x, h?, c?).
trait Run: Module {
    fn run(&self, x: &[Tensor], lengths: Option<&[usize]>) -> Result<Vec<Tensor>>;
}

macro_rules! one_state {
    ($($name:ident),*) => { $(
        impl Run for $name {
            fn run(&self, x: &[Tensor], lengths: Option<&[usize]>) -> Result<Vec<Tensor>> {
                let (y, h) = match lengths {
                    Some(l) => self.forward_packed(&x[0], l, x.get(1))?,
                    None => self.forward(&x[0], x.get(1))?,
                };
                Ok(vec![y, h])
            }
        }
    )* };
}
one_state!(RNN, GRU);

impl Run for LSTM {
    fn run(&self, x: &[Tensor], lengths: Option<&[usize]>) -> Result<Vec<Tensor>> {
        let state = x.get(1).zip(x.get(2));
        let (y, (h, c)) = match lengths {
            Some(l) => self.forward_packed(&x[0], l, state)?,
            None => self.forward(&x[0], state)?,
        };
        Ok(vec![y, h, c])
    }
}

fn layer(g: &mut Golden, name: &str, layer: impl Run, lengths: Option<&[usize]>) {
    g.case(name, &layer, &|x| layer.run(x, lengths))
}

macro_rules! cases {
    ($g:ident, $name:literal, $kind:ident) => {
        let o = $g.options();
        layer($g, concat!($name, "_plain"), $kind::new(3, 4, o), None);
        layer($g, concat!($name, "_state"), $kind::new(3, 4, o).layers(2).batch_first(), None);
        layer($g, concat!($name, "_both"), $kind::new(2, 3, o).no_bias().layers(2).bidirectional(), None);
        layer($g, concat!($name, "_single"), $kind::new(3, 2, o), None);
        layer($g, concat!($name, "_packed"), $kind::new(2, 3, o).bidirectional().layers(2), Some(&[3, 5, 1]));
        layer($g, concat!($name, "_packed_first"), $kind::new(2, 3, o).batch_first(), Some(&[2, 1, 4]));
    };
}

#[test]
fn recurrent_layers_as_pytorch() {
    on_all_devices("rnn", [2e-6, 2e-7, 5e-6], |g| {
        cases!(g, "rnn", RNN);
        cases!(g, "lstm", LSTM);
        cases!(g, "gru", GRU);
        layer(g, "rnn_relu", RNN::new(3, 4, g.options()).relu(), None);
    });
}

#[test]
fn dropout_stands_between_layers_only() -> Result<()> {
    let x = Tensor::uniform([4, 2, 3], -1.0, 1.0, Device::cpu());
    let one = GRU::new(3, 5, Device::cpu()).dropout(0.5);
    assert_eq!(one.forward(&x, None)?.0.to_vec::<f32>()?, one.forward(&x, None)?.0.to_vec::<f32>()?);
    let two = GRU::new(3, 5, Device::cpu()).layers(2).dropout(0.5);
    assert_ne!(two.forward(&x, None)?.0.to_vec::<f32>()?, two.forward(&x, None)?.0.to_vec::<f32>()?);
    two.eval();
    assert_eq!(two.forward(&x, None)?.0.to_vec::<f32>()?, two.forward(&x, None)?.0.to_vec::<f32>()?);
    Ok(())
}

#[test]
fn wrong_recurrent_layers_say_what_is_right() {
    let cpu = Device::cpu();
    fn message<T>(r: Result<T, Error>) -> String {
        r.err().expect("an error").to_string()
    }
    let lstm = LSTM::new(3, 5, cpu);
    let x = Tensor::ones([4, 2, 3], cpu);
    let state = Tensor::zeros([1, 3, 5], cpu);
    for (got, want) in [
        (message(RNN::try_new(3, 0, cpu)), "at least 1"),
        (message(GRU::new(3, 5, cpu).try_layers(0)), "at least 1"),
        (message(GRU::new(3, 5, cpu).try_dropout(-0.1)), "0..=1"),
        (message(LSTM::try_new(3, usize::MAX / 2, cpu)), "too many"),
        (message(lstm.forward(&Tensor::ones([4, 2, 4], cpu), None)), "[T, N, inputs] with 3"),
        (message(lstm.forward(&Tensor::ones([0, 2, 3], cpu), None)), "at least one step"),
        (message(lstm.forward(&x, Some((&state, &state)))), "[1, 2, 5]"),
        (message(lstm.forward_packed(&x, &[4, 5], None)), "1..=4"),
        (message(lstm.forward_packed(&x, &[4, 0], None)), "1..=4"),
        (message(lstm.forward_packed(&x, &[4], None)), "each of the 2"),
    ] {
        assert!(got.contains(want), "{got:?} does not say {want:?}");
    }
}
