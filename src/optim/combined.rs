//! Several optimizers as one.

use super::Optimizer;
use crate::autograd::Gradients;
use crate::io::StateDict;
use crate::{Error, Result, Tensor};

/// Several optimizers, each for parameters of its own, that step together: [`Muon`](super::Muon) for the matrices of a model and
/// [`AdamW`](super::AdamW) for the rest, say. Their groups are numbered through, in order; a schedule acts on all of them, each from its own learning rate.
///
/// ```
/// use fornax::nn::{Linear, Module};
/// use fornax::optim::{AdamW, Combined, Muon, Optimizer};
/// use fornax::{Device, Tensor};
/// let layer = Linear::new(3, 2, Device::cpu());
/// let (matrices, rest): (Vec<_>, Vec<_>) = layer.parameters().into_iter().partition(|p| p.shape().rank() == 2);
/// let mut optimizer = Combined::new([Box::new(Muon::new(matrices, 0.02)) as Box<dyn Optimizer>, Box::new(AdamW::new(rest, 1e-3))]);
/// let loss = Tensor::ones([4, 3], Device::cpu()).linear(&layer.weight.get(), None).square().mean(());
/// optimizer.step(loss.backward()?)?;
/// assert_eq!(optimizer.lrs(), [0.02, 1e-3]);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct Combined<'a> {
    parts: Vec<Box<dyn Optimizer + 'a>>,
}

impl<'a> Combined<'a> {
    /// Of these. A parameter belongs into one of them: of several, the first takes its gradient.
    pub fn new(parts: impl IntoIterator<Item = Box<dyn Optimizer + 'a>>) -> Combined<'a> {
        Combined { parts: parts.into_iter().collect() }
    }

    /// The optimizers.
    pub fn parts(&self) -> &[Box<dyn Optimizer + 'a>] {
        &self.parts
    }

    /// The optimizer that a group belongs to, and its number there.
    fn place(&self, group: usize) -> Option<(usize, usize)> {
        let mut first = 0;
        for (i, part) in self.parts.iter().enumerate() {
            let n = part.num_groups();
            if group < first + n {
                return Some((i, group - first));
            }
            first += n;
        }
        None
    }
}

impl Optimizer for Combined<'_> {
    fn step(&mut self, mut grads: Gradients) -> Result<()> {
        let roots = self.record(&mut grads)?;
        drop(grads);
        super::slots::run(roots)
    }

    fn check(&self) -> Result<()> {
        self.parts.iter().try_for_each(|p| p.check())
    }

    fn record(&mut self, grads: &mut Gradients) -> Result<Vec<Tensor>> {
        self.check()?;
        let mut roots = Vec::new();
        for part in &mut self.parts {
            roots.extend(part.record(grads)?);
        }
        Ok(roots)
    }

    fn num_groups(&self) -> usize {
        self.parts.iter().map(|p| p.num_groups()).sum()
    }

    fn setting(&self, group: usize, name: &str) -> Option<f64> {
        let (part, group) = self.place(group)?;
        self.parts[part].setting(group, name)
    }

    fn set_setting(&mut self, group: usize, name: &str, value: f64) -> Result<()> {
        match self.place(group) {
            Some((part, group)) => self.parts[part].set_setting(group, name, value),
            None => Err(Error::argument("Combined", format!("group {group} of {}", self.num_groups()))),
        }
    }

    /// As theirs, behind the number of the optimizer: `1.0.exp_avg`.
    fn state_dict(&self) -> Result<StateDict> {
        let mut all = StateDict::new();
        for (i, part) in self.parts.iter().enumerate() {
            all.extend(part.state_dict()?.into_iter().map(|(key, t)| (format!("{i}.{key}"), t)));
        }
        Ok(all)
    }

    fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let mut shares = vec![StateDict::new(); self.parts.len()];
        for (key, t) in dict {
            let place = key.split_once('.').and_then(|(i, rest)| Some((i.parse::<usize>().ok().filter(|i| *i < shares.len())?, rest)));
            let Some((i, rest)) = place else {
                let message = format!("{key} names none of the {} optimizers: it must begin with a number below that", self.parts.len());
                return Err(Error::StateDict { message });
            };
            shares[i].insert(rest.to_string(), t.clone());
        }
        // All or nothing: those before one that refuses get their old state again.
        let before: Vec<StateDict> = self.parts.iter().map(|p| p.state_dict()).collect::<Result<_>>()?;
        for i in 0..self.parts.len() {
            if let Err(e) = self.parts[i].load_state_dict(&shares[i]) {
                for (part, old) in self.parts[..i].iter_mut().zip(&before) {
                    part.load_state_dict(old)?;
                }
                return Err(e);
            }
        }
        Ok(())
    }
}
