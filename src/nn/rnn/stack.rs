//! Layers and directions of recurrent cells, and the loop over time.

use crate::nn::dropout::drop_out;
use crate::nn::{Mode, Module, Param, Walk, init};
use crate::{Error, Options, Result, Tensor};

/// What a cell computes in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Tanh,
    Relu,
    Lstm,
    Gru,
}

/// What goes from a step to the next: `[N, hidden]`, or of all layers and directions `[layers · directions, N, hidden]`.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub h: Tensor,
    /// The cell state of an LSTM.
    pub c: Option<Tensor>,
}

impl State {
    fn try_map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<State> {
        Ok(State { h: f(&self.h)?, c: self.c.as_ref().map(f).transpose()? })
    }

    /// This state where `on`, else the other.
    fn or(&self, on: &Tensor, other: &State) -> Result<State> {
        let c = match (&self.c, &other.c) {
            (Some(new), Some(old)) => Some(on.try_where(new, old)?),
            _ => None,
        };
        Ok(State { h: on.try_where(&self.h, &other.h)?, c })
    }
}

impl Kind {
    fn gates(self) -> usize {
        match self {
            Kind::Tanh | Kind::Relu => 1,
            Kind::Lstm => 4,
            Kind::Gru => 3,
        }
    }

    /// Whether the bias of the state's product can be added to that of the input's product, once for all steps.
    fn one_bias(self) -> bool {
        self != Kind::Gru
    }

    /// The next state, from the input's product `[N, gates · hidden]` and the state: one product, and one fused kernel.
    fn step(self, from_input: &Tensor, state: &State, weight: &Tensor, bias: Option<&Tensor>) -> Result<State> {
        let h = &state.h;
        let from_state = h.try_linear(weight, bias)?;
        match self {
            Kind::Tanh => Ok(State { h: from_input.try_add(&from_state)?.try_tanh()?, c: None }),
            Kind::Relu => Ok(State { h: from_input.try_add(&from_state)?.try_relu()?, c: None }),
            Kind::Lstm => {
                let gates = from_input.try_add(&from_state)?.try_chunk(4, 1)?;
                let (Some(c), [i, f, g, o]) = (&state.c, gates.as_slice()) else {
                    return Err(Error::argument("LSTM", "a state (h, c) is wanted"));
                };
                let c = f.try_sigmoid()?.try_mul(c)?.try_add(i.try_sigmoid()?.try_mul(g.try_tanh()?)?)?;
                Ok(State { h: o.try_sigmoid()?.try_mul(c.try_tanh()?)?, c: Some(c) })
            }
            Kind::Gru => {
                let n = h.dims()[1];
                let part = |t: &Tensor, k: usize| t.try_narrow(1, k * n, n);
                let gate = |k: usize| part(from_input, k)?.try_add(part(&from_state, k)?)?.try_sigmoid();
                let (r, z) = (gate(0)?, gate(1)?);
                let new = part(from_input, 2)?.try_add(r.try_mul(part(&from_state, 2)?)?)?.try_tanh()?;
                Ok(State { h: new.try_add(z.try_mul(h.try_sub(&new)?)?)?, c: None })
            }
        }
    }

    /// All steps, from the input's products `[T, N, gates · hidden]`: the outputs `[T, N, hidden]` and the last state. `mask` `[T, N, 1]` says which steps a
    /// sequence has. Without one an LSTM is a kernel on the CPU.
    fn scan(
        self,
        from_input: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        first: State,
        mask: Option<&Tensor>,
        reverse: bool,
    ) -> Result<(Tensor, State)> {
        let steps = from_input.dims()[0];
        if let (Kind::Lstm, None, Some(c), false) = (self, mask, &first.c, weight.device().is_gpu()) {
            // Under autocast the product of the input comes in half precision.
            let (y, c) = from_input.try_cast(weight.dtype())?.try_lstm(weight, &first.h, c, reverse)?;
            let last = if reverse { 0 } else { -1 };
            let state = State { h: y.try_select(0, last)?, c: Some(c.try_select(0, last)?) };
            return Ok((y, state));
        }
        let mut outputs = vec![None; steps];
        let mut state = first;
        for i in 0..steps {
            let t = if reverse { steps - 1 - i } else { i };
            let next = self.step(&from_input.try_select(0, t as isize)?, &state, weight, bias)?;
            let Some(mask) = mask else {
                outputs[t] = Some(next.h.clone());
                state = next;
                continue;
            };
            let on = mask.try_select(0, t as isize)?;
            outputs[t] = Some(on.try_where(&next.h, 0.0)?);
            state = next.or(&on, &state)?;
        }
        let outputs: Vec<&Tensor> = outputs.iter().flatten().collect();
        Ok((Tensor::try_stack(&outputs, 0)?, state))
    }
}

/// The parameters of one layer in one direction.
#[derive(Debug)]
struct Direction {
    /// `l0`, `l0_reverse`, `l1` …
    suffix: String,
    weight_ih: Param,
    weight_hh: Param,
    bias: Option<[Param; 2]>,
}

/// Layers of cells, in one or two directions.
#[derive(Debug)]
pub(super) struct Stack {
    name: &'static str,
    pub kind: Kind,
    inputs: usize,
    hidden: usize,
    pub layers: usize,
    pub bidirectional: bool,
    pub batch_first: bool,
    bias: bool,
    dropout: f64,
    options: Options,
    directions: Vec<Direction>,
    mode: Mode,
}

impl Stack {
    pub fn new(name: &'static str, kind: Kind, inputs: usize, hidden: usize, options: Options) -> Result<Stack> {
        let (directions, mode) = (Vec::new(), Mode::default());
        let (layers, bidirectional, batch_first, bias, dropout) = (1, false, false, true, 0.0);
        Stack { name, kind, inputs, hidden, layers, bidirectional, batch_first, bias, dropout, options, directions, mode }.change(|_| {})
    }

    /// The stack after a change of its structure, with parameters drawn anew.
    pub fn change(mut self, change: impl FnOnce(&mut Stack)) -> Result<Stack> {
        change(&mut self);
        if self.hidden == 0 || self.layers == 0 {
            let message = format!("{} layers of {} hidden features: at least 1 of both is wanted", self.layers, self.hidden);
            return Err(Error::argument(self.name, message));
        }
        let overflow = || Error::argument(self.name, format!("{} hidden features are too many", self.hidden));
        let gates = self.kind.gates().checked_mul(self.hidden).filter(|g| g.checked_mul(2).is_some()).ok_or_else(overflow)?;
        let each = self.each();
        let mut directions = Vec::new();
        for layer in 0..self.layers {
            let inputs = if layer == 0 { self.inputs } else { each * self.hidden };
            for direction in 0..each {
                let suffix = format!("l{layer}{}", ["", "_reverse"][direction]);
                let bound = 1.0 / (self.hidden as f64).sqrt();
                let weight = |n: usize| Tensor::try_uniform([gates, n], -bound, bound, self.options).map(Param::new);
                let bias = || init::bias(gates, self.hidden, self.options).map(Param::new);
                let bias = if self.bias { Some([bias()?, bias()?]) } else { None };
                directions.push(Direction { suffix, weight_ih: weight(inputs)?, weight_hh: weight(self.hidden)?, bias });
            }
        }
        self.directions = directions;
        Ok(self)
    }

    pub fn dropout(mut self, p: f64) -> Result<Stack> {
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::argument(self.name, format!("dropout {p}: a probability in 0..=1 is wanted")));
        }
        self.dropout = p;
        Ok(self)
    }

    pub fn remove_bias(&mut self) {
        self.bias = false;
        self.directions.iter_mut().for_each(|d| d.bias = None);
    }

    /// The number of directions.
    fn each(&self) -> usize {
        1 + self.bidirectional as usize
    }

    /// The states before the first step, checked or zeros.
    fn first(&self, n: usize, given: Option<State>) -> Result<State> {
        let shape = [self.directions.len(), n, self.hidden];
        let Some(state) = given else {
            let zeros = Tensor::try_zeros(shape, self.options())?;
            return Ok(State { c: (self.kind == Kind::Lstm).then(|| zeros.clone()), h: zeros });
        };
        for t in [Some(&state.h), state.c.as_ref()].into_iter().flatten() {
            if t.dims() != shape {
                return Err(Error::shape(self.name, &[t.shape()], format!("a state {shape:?}: [layers · directions, N, hidden]")));
            }
        }
        Ok(state)
    }

    /// The dtype and device that the parameters have now.
    fn options(&self) -> Options {
        match self.directions.first() {
            Some(d) => Options { dtype: d.weight_ih.dtype(), device: d.weight_ih.device() },
            None => self.options,
        }
    }

    pub fn forward(&self, x: &Tensor, lengths: Option<&[usize]>, state: Option<State>) -> Result<(Tensor, State)> {
        if x.rank() == 2 {
            // One sequence without a batch: a batch of one.
            let axis = if self.batch_first { 0 } else { 1 };
            let state = state.map(|s| s.try_map(|t| t.try_unsqueeze(1))).transpose()?;
            let (y, state) = self.forward(&x.try_unsqueeze(axis)?, lengths, state)?;
            return Ok((y.try_squeeze(axis)?, state.try_map(|t| t.try_squeeze(1))?));
        }
        let layout = if self.batch_first { "[N, T, inputs]" } else { "[T, N, inputs]" };
        if x.rank() != 3 || x.dims()[2] != self.inputs {
            return Err(Error::shape(self.name, &[x.shape()], format!("an input {layout} with {} inputs", self.inputs)));
        }
        let mut x = if self.batch_first { x.try_transpose(0, 1)? } else { x.clone() };
        let (steps, n) = (x.dims()[0], x.dims()[1]);
        if steps == 0 {
            return Err(Error::shape(self.name, &[x.shape()], "at least one step"));
        }
        let mask = lengths.map(|l| self.mask(steps, n, l)).transpose()?;
        let first = self.first(n, state)?;
        let mut last = Vec::new();
        for layer in 0..self.layers {
            if layer > 0 && self.dropout > 0.0 && self.mode.is_training() {
                x = drop_out(&x, self.dropout, x.shape())?;
            }
            let mut outputs = Vec::new();
            for direction in 0..self.each() {
                let at = layer * self.each() + direction;
                let d = &self.directions[at];
                let (w, bias) = (d.weight_hh.get(), d.bias.as_ref().map(|[ih, hh]| (ih.get(), hh.get())));
                let (outer, inner) = match bias {
                    Some((ih, hh)) if self.kind.one_bias() => (Some(ih.try_add(&hh)?), None),
                    Some((ih, hh)) => (Some(ih), Some(hh)),
                    None => (None, None),
                };
                // The input's part of all steps is one product.
                let from_input = x.try_linear(&d.weight_ih.get(), outer.as_ref())?;
                let first = first.try_map(|t| t.try_select(0, at as isize))?;
                let (y, state) = self.kind.scan(&from_input, &w, inner.as_ref(), first, mask.as_ref(), direction == 1)?;
                outputs.push(y);
                last.push(state);
            }
            x = match outputs.as_slice() {
                [one] => one.clone(),
                more => Tensor::try_cat(&more.iter().collect::<Vec<_>>(), 2)?,
            };
        }
        let h: Vec<&Tensor> = last.iter().map(|s| &s.h).collect();
        let c: Vec<&Tensor> = last.iter().filter_map(|s| s.c.as_ref()).collect();
        let c = if c.is_empty() { None } else { Some(Tensor::try_stack(&c, 0)?) };
        let y = if self.batch_first { x.try_transpose(0, 1)? } else { x };
        Ok((y, State { h: Tensor::try_stack(&h, 0)?, c }))
    }

    /// Which of the steps each sequence has, `[T, N, 1]`.
    fn mask(&self, steps: usize, n: usize, lengths: &[usize]) -> Result<Tensor> {
        if lengths.len() != n || lengths.iter().any(|l| !(1..=steps).contains(l)) {
            let message = format!("lengths {lengths:?}: one of 1..={steps} is wanted for each of the {n} sequences");
            return Err(Error::argument(self.name, message));
        }
        let mask: Vec<bool> = (0..steps).flat_map(|t| lengths.iter().map(move |&l| t < l)).collect();
        Tensor::from_vec(mask, [steps, n, 1], self.options().device)
    }
}

impl Module for Stack {
    fn walk(&self, walk: &mut Walk<'_>) {
        for d in &self.directions {
            walk.field(&format!("weight_ih_{}", d.suffix), |walk| d.weight_ih.walk(walk));
            walk.field(&format!("weight_hh_{}", d.suffix), |walk| d.weight_hh.walk(walk));
            if let Some([ih, hh]) = &d.bias {
                walk.field(&format!("bias_ih_{}", d.suffix), |walk| ih.walk(walk));
                walk.field(&format!("bias_hh_{}", d.suffix), |walk| hh.walk(walk));
            }
        }
        self.mode.walk(walk);
    }
}
