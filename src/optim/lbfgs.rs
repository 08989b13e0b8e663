//! L-BFGS.

use super::check_settings;
use crate::graph::node::with_grad;
use crate::io::StateDict;
use crate::nn::Param;
use crate::{Device, Error, Result, Tensor};
use std::collections::HashSet;

/// Limited-memory BFGS (Nocedal 1980; the line search: Nocedal and Wright 2006, algorithms 3.5 and 3.6), as PyTorch's `torch.optim.LBFGS`: for small problems without
/// noise. It evaluates the loss several times a step, so it is given a closure, and waits for each value.
///
/// ```
/// use fornax::nn::Param;
/// use fornax::optim::LBFGS;
/// use fornax::{Device, Tensor};
/// // Rosenbrock's valley.
/// let w = Param::new(Tensor::from_slice(&[-1.2f32, 1.0], 2, Device::cpu())?);
/// let mut optimizer = LBFGS::new([w.clone()], 1.0).strong_wolfe(true);
/// for _ in 0..3 {
///     optimizer.step(|| {
///         let (x, y) = (w.get().try_select(0, 0)?, w.get().try_select(0, 1)?);
///         let (a, b) = (x.try_neg()?.try_add(1.0)?, y.try_sub(x.try_square()?)?);
///         a.try_square()?.try_add(b.try_square()?.try_mul(100.0)?)
///     })?;
/// }
/// assert!(w.value().to_vec::<f32>()?.iter().all(|v| (v - 1.0).abs() < 1e-2));
/// # Ok::<(), fornax::Error>(())
/// ```
pub struct LBFGS {
    params: Vec<Param>,
    lr: f64,
    max_iter: usize,
    max_eval: Option<usize>,
    tolerance_grad: f64,
    tolerance_change: f64,
    history_size: usize,
    strong_wolfe: bool,
    state: State,
}

/// What one step leaves to the next.
#[derive(Clone, Default)]
struct State {
    n_iter: u64,
    func_evals: u64,
    t: f64,
    prev_loss: f64,
    /// The direction, the gradient where it began, and the estimate of the curvature's inverse.
    last: Option<[Tensor; 3]>,
    /// Changes of the gradient, steps, and one over their products.
    history: Vec<[Tensor; 3]>,
}

/// A point on the line of a search.
#[derive(Clone)]
struct Point {
    t: f64,
    f: f64,
    g: Tensor,
    /// The slope along the line.
    slope: f64,
}

impl LBFGS {
    /// With PyTorch's defaults: no line search, so that the learning rate (1) is the length of a step.
    ///
    /// ```
    /// use fornax::nn::{Linear, Module};
    /// use fornax::optim::LBFGS;
    /// let layer = Linear::new(3, 1, fornax::Device::cpu());
    /// assert_eq!(LBFGS::new(layer.parameters(), 1.0).lr(), 1.0);
    /// ```
    pub fn new(params: impl IntoIterator<Item = Param>, lr: f64) -> LBFGS {
        let mut seen = HashSet::new();
        LBFGS {
            params: params.into_iter().filter(|p| seen.insert(p.id())).collect(),
            lr,
            max_iter: 20,
            max_eval: None,
            tolerance_grad: 1e-7,
            tolerance_change: 1e-9,
            history_size: 100,
            strong_wolfe: false,
            state: State::default(),
        }
    }

    /// The learning rate.
    pub fn lr(&self) -> f64 {
        self.lr
    }

    /// Sets the learning rate.
    pub fn set_lr(&mut self, lr: f64) {
        self.lr = lr;
    }

    /// One step: up to `max_iter` directions. The closure computes the loss, a tensor of one element. Returns the loss before the step.
    ///
    /// # Errors
    /// Those of the closure and of going backward; parameters on several devices or of several dtypes; settings out of their ranges.
    pub fn step(&mut self, mut closure: impl FnMut() -> Result<Tensor>) -> Result<f64> {
        let inf = f64::INFINITY;
        let tolerances = [("tolerance_grad", self.tolerance_grad, 0.0, inf), ("tolerance_change", self.tolerance_change, 0.0, inf)];
        check_settings("LBFGS", &[("lr", self.lr, 0.0, inf), ("history_size", self.history_size as f64, 1.0, inf)])?;
        check_settings("LBFGS", &tolerances)?;
        let closure: &mut dyn FnMut() -> Result<Tensor> = &mut closure;
        let params: Vec<Param> = self.params.iter().filter(|p| !p.is_frozen()).cloned().collect();
        let Some(first) = params.first() else { return closure()?.item::<f64>() };
        let kind = (first.device(), first.dtype());
        if params.iter().any(|p| (p.device(), p.dtype()) != kind) {
            return Err(Error::argument("LBFGS", "parameters of one device and one dtype are wanted"));
        }
        let before = evaluate(&params, closure)?;
        with_grad(false, || self.iterate(&params, closure, before))
    }

    fn iterate(&mut self, params: &[Param], closure: &mut dyn FnMut() -> Result<Tensor>, before: (f64, Tensor)) -> Result<f64> {
        let (start, _) = before;
        let (mut loss, mut g) = before;
        let mut state = self.state.clone();
        let max_eval = self.max_eval.unwrap_or(self.max_iter * 5 / 4);
        let mut evals = 1;
        state.func_evals += 1;
        if largest(&g)? <= self.tolerance_grad {
            self.state = state;
            return Ok(start);
        }
        for iteration in 1..=self.max_iter {
            state.n_iter += 1;
            let (d, h) = match &state.last {
                None => (g.try_neg()?, Tensor::try_full((), 1.0, (g.dtype(), g.device()))?),
                Some([d, prev, h]) => {
                    let (y, s) = (g.try_sub(prev)?, d.try_mul(state.t)?);
                    let ys = y.try_dot(&s)?;
                    let mut h = h.clone();
                    if ys.item::<f64>()? > 1e-10 {
                        if state.history.len() == self.history_size {
                            state.history.remove(0);
                        }
                        h = ys.try_div(y.try_dot(&y)?)?;
                        state.history.push([y, s, ys.try_recip()?]);
                    }
                    (direction(&state.history, &g, &h)?, h)
                }
            };
            crate::eval(&[&d, &h])?;
            state.prev_loss = loss;
            state.t = if state.n_iter == 1 { (1.0 / g.try_abs()?.try_sum(())?.item::<f64>()?).min(1.0) * self.lr } else { self.lr };
            let slope = g.try_dot(&d)?.item::<f64>()?;
            state.last = Some([d.clone(), g.clone(), h]);
            if slope > -self.tolerance_change {
                break;
            }
            let from: Vec<Tensor> = params.iter().map(Param::value).collect();
            let mut used = 0;
            let mut flat = false;
            if self.strong_wolfe {
                let mut along = |t: f64| {
                    place(params, &from, &d, t)?;
                    let (f, g) = with_grad(true, || evaluate(params, closure))?;
                    let slope = g.try_dot(&d)?.item::<f64>()?;
                    Ok(Point { t, f, g, slope })
                };
                let origin = Point { t: 0.0, f: loss, g: g.clone(), slope };
                let found = search(&mut along, origin, state.t, largest(&d)?, max_eval.saturating_sub(evals), &mut used)?;
                (loss, g, state.t) = (found.f, found.g, found.t);
                place(params, &from, &d, state.t)?;
                flat = largest(&g)? <= self.tolerance_grad;
            } else {
                place(params, &from, &d, state.t)?;
                if iteration != self.max_iter {
                    (loss, g) = with_grad(true, || evaluate(params, closure))?;
                    flat = largest(&g)? <= self.tolerance_grad;
                    used = 1;
                }
            }
            evals += used;
            state.func_evals += used as u64;
            let still = largest(&d)? * state.t.abs() <= self.tolerance_change || (loss - state.prev_loss).abs() < self.tolerance_change;
            if evals >= max_eval || flat || still {
                break;
            }
        }
        let values: Vec<Tensor> = params.iter().map(Param::value).collect();
        crate::eval(&values.iter().collect::<Vec<_>>())?;
        self.state = state;
        Ok(start)
    }

    /// The state, for a checkpoint: the history, the last direction and gradient, the learning rate.
    ///
    /// # Errors
    /// No memory for a number.
    pub fn state_dict(&self) -> Result<StateDict> {
        let s = &self.state;
        let mut dict = StateDict::new();
        let numbers =
            [("lr", self.lr), ("n_iter", s.n_iter as f64), ("func_evals", s.func_evals as f64), ("t", s.t), ("prev_loss", s.prev_loss)];
        for (name, value) in numbers {
            dict.insert(name.to_string(), Tensor::from_slice(&[value], (), Device::cpu())?);
        }
        for (name, t) in LAST.iter().zip(s.last.iter().flatten()) {
            dict.insert(name.to_string(), t.clone());
        }
        for (i, entry) in s.history.iter().enumerate() {
            for (name, t) in HISTORY.iter().zip(entry) {
                dict.insert(format!("{name}.{i}"), t.clone());
            }
        }
        Ok(dict)
    }

    /// Sets the state from what [`state_dict`](LBFGS::state_dict) gave.
    ///
    /// # Errors
    /// `Error::StateDict` for what is missing, unexpected or of another shape. Nothing is changed then.
    pub fn load_state_dict(&mut self, dict: &StateDict) -> Result<()> {
        let bad = |message: String| Error::StateDict { message: format!("LBFGS: {message}") };
        let number = |name: &str| match dict.get(name) {
            Some(t) if t.numel() == 1 => t.item::<f64>(),
            _ => Err(bad(format!("{name} must be a number"))),
        };
        let total: usize = self.params.iter().filter(|p| !p.is_frozen()).map(|p| p.shape().numel()).sum();
        let mut taken = 5;
        let mut tensors = |names: [String; 3], sizes: [Option<usize>; 3]| -> Result<Option<[Tensor; 3]>> {
            if !names.iter().any(|n| dict.contains_key(n)) {
                return Ok(None);
            }
            let mut found = Vec::new();
            for (name, size) in names.iter().zip(sizes) {
                let t = dict.get(name).ok_or_else(|| bad(format!("missing: {name}")))?;
                let shape = size.map_or(crate::Shape::from(()), crate::Shape::from);
                if *t.shape() != shape {
                    return Err(bad(format!("{name} is {}, must be {shape}", t.shape())));
                }
                let Some(first) = self.params.first() else { return Err(bad("there are no parameters".into())) };
                found.push(t.try_cast(first.dtype())?.try_to(first.device())?);
                taken += 1;
            }
            Ok(found.try_into().ok())
        };
        let vector = Some(total);
        let last = tensors(LAST.map(String::from), [vector, vector, None])?;
        let mut history = Vec::new();
        while let Some(entry) = tensors(HISTORY.map(|name| format!("{name}.{}", history.len())), [vector, vector, None])? {
            history.push(entry);
        }
        let lr = number("lr")?;
        let (n_iter, func_evals) = (number("n_iter")? as u64, number("func_evals")? as u64);
        let state = State { n_iter, func_evals, t: number("t")?, prev_loss: number("prev_loss")?, last, history };
        if taken != dict.len() {
            return Err(bad(format!("{} entries, of which {taken} are its own", dict.len())));
        }
        (self.lr, self.state) = (lr, state);
        Ok(())
    }
}

const LAST: [&str; 3] = ["d", "prev_flat_grad", "H_diag"];
const HISTORY: [&str; 3] = ["old_dirs", "old_stps", "ro"];

macro_rules! settings {
    ($( $(#[$doc:meta])* $field:ident : $t:ty = $example:literal; )*) => {
        impl LBFGS {
            $(
                $(#[$doc])*
                ///
                /// ```
                /// let layer = fornax::nn::Linear::new(3, 1, fornax::Device::cpu());
                #[doc = concat!("let optimizer = fornax::optim::LBFGS::new([layer.weight.clone()], 1.0).", stringify!($field), "(", $example, ");")]
                /// ```
                pub fn $field(mut self, $field: $t) -> LBFGS {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}
settings! {
    /// Sets the number of directions in a step (20).
    max_iter: usize = "10";
    /// Sets the number of evaluations in a step (5/4 of `max_iter`).
    max_eval: usize = "40";
    /// Sets the largest element of the gradient at which it is done (1e-7).
    tolerance_grad: f64 = "1e-5";
    /// Sets the change of the loss or of a parameter at which it is done (1e-9).
    tolerance_change: f64 = "1e-7";
    /// Sets the length of the history (100).
    history_size: usize = "10";
    /// Searches along each direction for a point that meets the strong Wolfe conditions (off).
    strong_wolfe: bool = "true";
}

/// The loss and the gradient, as one vector.
fn evaluate(params: &[Param], closure: &mut dyn FnMut() -> Result<Tensor>) -> Result<(f64, Tensor)> {
    let loss = closure()?;
    let grads = loss.backward()?;
    let parts = params
        .iter()
        .map(|p| match p.grad(&grads) {
            Some(g) => g.try_reshape(g.numel()),
            None => Tensor::try_zeros(p.shape().numel(), (p.dtype(), p.device())),
        })
        .collect::<Result<Vec<_>>>()?;
    let flat = Tensor::try_cat(&parts.iter().collect::<Vec<_>>(), 0)?;
    crate::eval(&[&loss, &flat])?;
    Ok((loss.item::<f64>()?, flat))
}

/// The largest |x|.
fn largest(x: &Tensor) -> Result<f64> {
    if x.numel() == 0 { Ok(0.0) } else { x.try_abs()?.try_max(())?.item::<f64>() }
}

/// Sets the parameters to `from + t · d`.
fn place(params: &[Param], from: &[Tensor], d: &Tensor, t: f64) -> Result<()> {
    let mut at = 0;
    for (p, from) in params.iter().zip(from) {
        let n = from.numel();
        let part = d.try_narrow(0, at, n)?.try_reshape(from.shape())?;
        p.set(from.try_add(part.try_mul(t)?)?)?;
        at += n;
    }
    Ok(())
}

/// −H g by the two loops over the history.
fn direction(history: &[[Tensor; 3]], g: &Tensor, h: &Tensor) -> Result<Tensor> {
    let mut q = g.try_neg()?;
    let mut weights = Vec::with_capacity(history.len());
    for [y, s, ro] in history.iter().rev() {
        let a = s.try_dot(&q)?.try_mul(ro)?;
        q = q.try_sub(y.try_mul(&a)?)?;
        weights.push(a);
    }
    let mut r = q.try_mul(h)?;
    for ([y, s, ro], a) in history.iter().zip(weights.iter().rev()) {
        let b = y.try_dot(&r)?.try_mul(ro)?;
        r = r.try_add(s.try_mul(a.try_sub(b)?)?)?;
    }
    Ok(r)
}

/// Where a cubic through two points with these slopes is least, within bounds.
fn cubic(a: &Point, b: &Point, bounds: (f64, f64)) -> f64 {
    let d1 = a.slope + b.slope - 3.0 * (a.f - b.f) / (a.t - b.t);
    let square = d1 * d1 - a.slope * b.slope;
    if !(square >= 0.0) {
        return (bounds.0 + bounds.1) / 2.0;
    }
    let (near, far) = if a.t <= b.t { (a, b) } else { (b, a) };
    let d2 = square.sqrt();
    let t = far.t - (far.t - near.t) * ((far.slope + d2 - d1) / (far.slope - near.slope + 2.0 * d2));
    t.max(bounds.0).min(bounds.1)
}

/// A point along the line that meets the strong Wolfe conditions, or the best that so many evaluations give.
fn search(
    along: &mut dyn FnMut(f64) -> Result<Point>,
    origin: Point,
    t: f64,
    d_norm: f64,
    max_ls: usize,
    used: &mut usize,
) -> Result<Point> {
    const C1: f64 = 1e-4;
    const C2: f64 = 0.9;
    const TOLERANCE: f64 = 1e-9;
    let too_high = |p: &Point| p.f > origin.f + C1 * p.t * origin.slope;
    let level = |p: &Point| p.slope.abs() <= -C2 * origin.slope;
    let mut point = along(t)?;
    *used = 1;
    // First: two points with one that meets the conditions between them.
    let mut before = origin.clone();
    let mut tries = 0;
    let mut bracket = loop {
        if tries >= max_ls {
            break [origin.clone(), point.clone()];
        }
        if too_high(&point) || (tries > 1 && point.f >= before.f) {
            break [before, point];
        }
        if level(&point) {
            return Ok(point);
        }
        if point.slope >= 0.0 {
            break [before, point];
        }
        let bounds = (point.t + 0.01 * (point.t - before.t), point.t * 10.0);
        let t = cubic(&before, &point, bounds);
        before = std::mem::replace(&mut point, along(t)?);
        *used += 1;
        tries += 1;
    };
    // Then: the two drawn together.
    let mut stuck = false;
    let mut low = if bracket[0].f <= bracket[1].f { 0 } else { 1 };
    while tries < max_ls {
        let (least, most) = (bracket[0].t.min(bracket[1].t), bracket[0].t.max(bracket[1].t));
        if (most - least) * d_norm < TOLERANCE {
            break;
        }
        let mut t = cubic(&bracket[0], &bracket[1], (least, most));
        let margin = 0.1 * (most - least);
        if (most - t).min(t - least) < margin {
            // Close to an end, for the second time or at the end itself: a tenth away from it.
            if stuck || t >= most || t <= least {
                t = if (t - most).abs() < (t - least).abs() { most - margin } else { least + margin };
                stuck = false;
            } else {
                stuck = true;
            }
        } else {
            stuck = false;
        }
        let point = along(t)?;
        *used += 1;
        tries += 1;
        let high = 1 - low;
        if too_high(&point) || point.f >= bracket[low].f {
            bracket[high] = point;
            low = if bracket[0].f <= bracket[1].f { 0 } else { 1 };
        } else {
            let done = level(&point);
            if !done && point.slope * (bracket[high].t - bracket[low].t) >= 0.0 {
                bracket[high] = bracket[low].clone();
            }
            bracket[low] = point;
            if done {
                break;
            }
        }
    }
    let [a, b] = bracket;
    Ok(if low == 0 { a } else { b })
}
