//! Averages of weights over the steps.

use crate::io::StateDict;
use crate::nn::{Buffer, Counter, Item, Mode, Module, Param, Walk};
use crate::{Device, Error, Result, Tensor};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Average {
    /// Of all, with equal weights.
    Equal,
    /// `decay` of the old, the rest of the new.
    Exponential(f64),
}

/// The running average of a model's weights, as PyTorch's `torch.optim.swa_utils.AveragedModel`: stochastic weight averaging (Izmailov et al. 2018),
/// `avg ← avg + (w − avg) / (n + 1)`, or an exponential moving average, `avg ← decay · avg + (1 − decay) · w`. The first update copies the weights.
///
/// Buffers (running statistics) are copied at each update, or averaged too with [`use_buffers`](AveragedModel::use_buffers). The average lies on the model's device; an
/// update is computed with the next step of the optimizer, in its plan.
///
/// ```
/// use fornax::nn::{self, Forward, Linear, Module};
/// use fornax::optim::{AveragedModel, Optimizer, SGD};
/// use fornax::{Device, Tensor};
/// let (model, x) = (Linear::new(3, 1, Device::cpu()), Tensor::ones([4, 3], Device::cpu()));
/// let mut optimizer = SGD::new(model.parameters(), 0.1);
/// let mut ema = AveragedModel::ema(&model, 0.9)?;
/// for _ in 0..5 {
///     let loss = model.forward(&x)?.square().mean(());
///     optimizer.step(loss.backward()?)?;
///     ema.update(&model)?;
/// }
/// let now = model.forward(&x)?.square().mean(()).item::<f32>()?;
/// // The model with the averaged weights, for as long as this takes.
/// let averaged = ema.with(&model, || model.forward(&x)?.square().mean(()).item::<f32>())??;
/// assert!(now < averaged);
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct AveragedModel {
    average: Average,
    use_buffers: bool,
    n_averaged: u64,
    params: Vec<(String, Buffer)>,
    buffers: Vec<(String, Buffer)>,
}

/// A value with memory of its own.
fn copy(t: &Tensor) -> Result<Tensor> {
    if t.dtype().is_float() { t.try_mul(1.0) } else { t.try_add(0) }
}

/// The persistent buffers, each once.
fn buffers(model: &(impl Module + ?Sized)) -> BTreeMap<String, Buffer> {
    model.named_buffers().into_iter().filter(|(_, b)| b.is_persistent()).collect()
}

impl AveragedModel {
    fn new(model: &(impl Module + ?Sized), average: Average) -> Result<AveragedModel> {
        let own = |name: String, t: Tensor| Ok((name, Buffer::transient(copy(&t)?)));
        Ok(AveragedModel {
            average,
            use_buffers: false,
            n_averaged: 0,
            params: model.named_parameters().into_iter().map(|(name, p)| own(name, p.value())).collect::<Result<_>>()?,
            buffers: buffers(model).into_iter().map(|(name, b)| own(name, b.get())).collect::<Result<_>>()?,
        })
    }

    /// The average of the weights at each update, all with equal weight.
    ///
    /// # Errors
    /// Those of a copy of the weights.
    ///
    /// ```
    /// use fornax::{nn::Linear, optim::AveragedModel, Device};
    /// let swa = AveragedModel::swa(&Linear::new(3, 1, Device::cpu()))?;
    /// assert_eq!(swa.n_averaged(), 0);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn swa(model: &(impl Module + ?Sized)) -> Result<AveragedModel> {
        AveragedModel::new(model, Average::Equal)
    }

    /// The exponential moving average of the weights.
    ///
    /// # Errors
    /// A decay outside 0..=1; those of a copy of the weights.
    ///
    /// ```
    /// use fornax::{nn::Linear, optim::AveragedModel, Device};
    /// let ema = AveragedModel::ema(&Linear::new(3, 1, Device::cpu()), 0.999)?;
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn ema(model: &(impl Module + ?Sized), decay: f64) -> Result<AveragedModel> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(Error::argument("AveragedModel::ema", format!("decay = {decay}: a number in 0..=1 is wanted")));
        }
        AveragedModel::new(model, Average::Exponential(decay))
    }

    /// Averages the running statistics too, and does not copy the newest (off).
    ///
    /// ```
    /// use fornax::{nn::BatchNorm1d, optim::AveragedModel, Device};
    /// let swa = AveragedModel::swa(&BatchNorm1d::new(3, Device::cpu()))?.use_buffers(true);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn use_buffers(mut self, use_buffers: bool) -> AveragedModel {
        self.use_buffers = use_buffers;
        self
    }

    /// The number of updates so far.
    pub fn n_averaged(&self) -> u64 {
        self.n_averaged
    }

    /// Takes the model's present weights into the average: after `optimizer.step`.
    ///
    /// # Errors
    /// A model of other parameters. Nothing is changed then.
    pub fn update(&mut self, model: &(impl Module + ?Sized)) -> Result<()> {
        let (params, state) = self.matching(model)?;
        let part = match self.average {
            _ if self.n_averaged == 0 => 1.0,
            Average::Equal => 1.0 / (self.n_averaged + 1) as f64,
            Average::Exponential(decay) => 1.0 - decay,
        };
        let mix = |own: &Buffer, new: Tensor, part: f64| {
            own.update(|old| {
                if part == 1.0 || !old.dtype().is_float() {
                    return copy(&new.try_to(old.device())?);
                }
                let new = new.try_to(old.device())?;
                old.try_add(new.try_sub(&old)?.try_mul(part)?)
            })
        };
        for ((_, own), p) in self.params.iter().zip(params) {
            mix(own, p.value(), part)?;
        }
        for ((_, own), b) in self.buffers.iter().zip(state) {
            mix(own, b.get(), if self.use_buffers { part } else { 1.0 })?;
        }
        self.n_averaged += 1;
        Ok(())
    }

    /// The model's cells in the order of the averages.
    fn matching(&self, model: &(impl Module + ?Sized)) -> Result<(Vec<Param>, Vec<Buffer>)> {
        let (params, mut state) = (model.named_parameters(), buffers(model));
        let bad = |name: &str| Error::StateDict { message: format!("AveragedModel: the model has changed at {name}") };
        if params.len() != self.params.len() || state.len() != self.buffers.len() {
            return Err(bad("the number of its tensors"));
        }
        for ((name, p), (own, average)) in params.iter().zip(&self.params) {
            if name != own || p.shape() != *average.get().shape() {
                return Err(bad(name));
            }
        }
        let state = self.buffers.iter().map(|(name, _)| state.remove(name).ok_or_else(|| bad(name))).collect::<Result<_>>()?;
        Ok((params.into_iter().map(|(_, p)| p).collect(), state))
    }

    /// Runs `f` while the model has the averaged weights, for an evaluation say; then it has its own again.
    ///
    /// # Errors
    /// A model of other parameters.
    ///
    /// ```
    /// use fornax::nn::Linear;
    /// use fornax::optim::AveragedModel;
    /// let model = Linear::new(3, 1, fornax::Device::cpu());
    /// let ema = AveragedModel::ema(&model, 0.9)?;
    /// let path = std::env::temp_dir().join(format!("fornax-ema-{}.safetensors", std::process::id()));
    /// ema.with(&model, || fornax::nn::Module::save_safetensors(&model, &path))??;
    /// # std::fs::remove_file(&path).ok();
    /// # Ok::<(), fornax::Error>(())
    /// ```
    pub fn with<T>(&self, model: &(impl Module + ?Sized), f: impl FnOnce() -> T) -> Result<T> {
        /// Puts back what was there, whatever happens.
        struct Restore(Vec<(Param, Tensor)>, Vec<(Buffer, Tensor)>);
        impl Drop for Restore {
            fn drop(&mut self) {
                self.0.drain(..).for_each(|(p, t)| p.replace(t));
                self.1.drain(..).for_each(|(b, t)| b.replace(t));
            }
        }
        let (params, state) = self.matching(model)?;
        let old = (params.iter().map(|p| (p.clone(), p.value())).collect(), state.iter().map(|b| (b.clone(), b.get())).collect());
        let placed = |own: &Buffer, like: &Tensor| own.get().try_cast(like.dtype())?.try_to(like.device());
        let new: Vec<Tensor> = self.params.iter().zip(&params).map(|((_, own), p)| placed(own, &p.value())).collect::<Result<_>>()?;
        let news: Vec<Tensor> = self.buffers.iter().zip(&state).map(|((_, own), b)| placed(own, &b.get())).collect::<Result<_>>()?;
        let _restore = Restore(old.0, old.1);
        params.iter().zip(new).for_each(|(p, t)| p.replace(t));
        state.iter().zip(news).for_each(|(b, t)| b.replace(t));
        Ok(f())
    }

    /// The averaged weights under the model's names: what another model of the kind loads.
    pub fn weights(&self) -> StateDict {
        self.params.iter().chain(&self.buffers).map(|(name, b)| (name.clone(), b.get())).collect()
    }

    /// The state, for a checkpoint: PyTorch's names, `module.…` and `n_averaged`.
    ///
    /// # Errors
    /// No memory for a number.
    pub fn state_dict(&self) -> Result<StateDict> {
        let mut dict: StateDict = self.weights().into_iter().map(|(name, t)| (format!("module.{name}"), t)).collect();
        dict.insert("n_averaged".to_string(), Tensor::from_slice(&[self.n_averaged as i64], (), Device::cpu())?);
        Ok(dict)
    }

    /// Sets the state from what [`state_dict`](AveragedModel::state_dict) gave.
    ///
    /// # Errors
    /// `Error::StateDict` for what is missing, unexpected (but for PyTorch's counts of batches) or of another shape. Nothing is changed then.
    pub fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let bad = |message: String| Error::StateDict { message };
        let n = dict.get("n_averaged").ok_or_else(|| bad("missing: n_averaged".into()))?.item::<i64>()?;
        let n = u64::try_from(n).map_err(|_| bad("n_averaged is negative".into()))?;
        let mut new = Vec::new();
        for (name, own) in self.params.iter().chain(&self.buffers) {
            let like = own.get();
            let t = dict.get(&format!("module.{name}")).ok_or_else(|| bad(format!("missing: module.{name}")))?;
            if t.shape() != like.shape() {
                return Err(bad(format!("module.{name} is {}, must be {}", t.shape(), like.shape())));
            }
            new.push(t.try_cast(like.dtype())?.try_to(like.device())?);
        }
        let known = |key: &str| {
            let mut names = self.params.iter().chain(&self.buffers).map(|(n, _)| n.as_str());
            key == "n_averaged" || key.ends_with(".num_batches_tracked") || names.any(|n| key.strip_prefix("module.") == Some(n))
        };
        if let Some(key) = dict.keys().find(|k| !known(k)) {
            return Err(bad(format!("unexpected: {key}")));
        }
        for ((_, own), t) in self.params.iter().chain(&self.buffers).zip(new) {
            own.replace(t);
        }
        self.n_averaged = n;
        Ok(())
    }
}

/// Computes the running statistics of the model's batch normalisations anew, as the plain average over these batches: PyTorch's
/// `torch.optim.swa_utils.update_bn`, for weights that no training step has had (an average). `forward` calls the model. The modes stay what they were.
///
/// # Errors
/// Those of `forward`, and of evaluating the statistics.
///
/// ```
/// use fornax::nn::{BatchNorm1d, Forward};
/// use fornax::optim::update_bn;
/// use fornax::{Device, Tensor};
/// let norm = BatchNorm1d::new(2, Device::cpu());
/// let batches = [1.0, 3.0].map(|mean| Tensor::normal([8, 2], mean, 1.0, Device::cpu()));
/// update_bn(&norm, &batches, |x| norm.forward(x))?;
/// let want = batches.iter().map(|x| x.mean(0)).fold(Tensor::zeros(2, Device::cpu()), |a, b| a + b * 0.5);
/// let difference = (norm.running_mean().expect("running statistics").get() - want).abs().max(()).item::<f32>()?;
/// assert!(difference < 1e-6);
/// # Ok::<(), fornax::Error>(())
/// ```
pub fn update_bn<B>(
    model: &(impl Module + ?Sized),
    batches: impl IntoIterator<Item = B>,
    mut forward: impl FnMut(B) -> Result<Tensor>,
) -> Result<()> {
    // What a batch normalisation holds, by its path.
    let mut norms: Vec<String> = Vec::new();
    let mut statistics: Vec<Buffer> = Vec::new();
    let mut failed = Ok(());
    model.walk(&mut Walk::new(&mut |path, item| {
        let of_norm =
            |name: &str| norms.iter().any(|n| path.strip_prefix(n.as_str()).is_some_and(|rest| rest.trim_start_matches('.') == name));
        match item {
            Item::Module(kind) if kind.starts_with("BatchNorm") => norms.push(path.to_string()),
            Item::Buffer(b) if of_norm("running_mean") || of_norm("running_var") => {
                let value = if of_norm("running_var") { 1.0 } else { 0.0 };
                match b.get().try_full_like(value) {
                    Ok(t) => b.replace(t),
                    Err(e) => failed = Err(e),
                }
                statistics.push(b.clone());
            }
            Item::Counter(c) if of_norm("num_batches_tracked") => Counter::set(c, 0),
            _ => {}
        }
    }));
    failed?;
    if norms.is_empty() {
        return Ok(());
    }
    let mut modes = Vec::new();
    let walk = |f: &mut dyn FnMut(&Mode)| {
        model.walk(&mut Walk::new(&mut |_, item| {
            if let Item::Mode(m) = item {
                f(m);
            }
        }))
    };
    walk(&mut |m| modes.push(m.is_training()));
    walk(&mut |m| {
        m.set(true);
        m.set_averaging(true);
    });
    let done = crate::no_grad(|| batches.into_iter().try_for_each(|b| forward(b).map(|_| ())));
    let mut modes = modes.into_iter();
    walk(&mut |m| {
        m.set(modes.next().unwrap_or(true));
        m.set_averaging(false);
    });
    done?;
    crate::graph::flush::flush(&statistics.iter().map(Buffer::get).collect::<Vec<_>>())
}
