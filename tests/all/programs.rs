//! Random programs: lazy and fused gives the same bits on the CPU as one op after the other, whatever handles are kept, dropped and read.

use crate::harness::{Rng, gpu};
use fornax::nn::{Buffer, Param};
use fornax::optim::{AdamW, Optimizer, SGD};
use fornax::{DType, Device, Error, Result, Tensor, s, testing};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Step {
    op: u8,
    a: usize,
    b: usize,
    read: bool,
    drop: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step =
        (0u8..OPS, 0usize..64, 0usize..64, 0u8..12, 0u8..4).prop_map(|(op, a, b, r, d)| Step { op, a, b, read: r == 0, drop: d == 0 });
    prop::collection::vec(step, 1..24)
}

/// Ops that make a tensor of two; from here on come those that change state or have several outputs.
const PURE: u8 = 34;
const OPS: u8 = 50;
/// Small differences of rounding between backends make these jump: comparisons, casts to integers, positions.
const JUMPING: [u8; 4] = [16, 18, 45, 46];

/// One step: a tensor of the same shape [n, m], its values of moderate size.
fn apply(op: u8, x: &Tensor, y: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (n, m) = (x.dims()[0], x.dims()[1]);
    match op {
        0 => x.try_add(y)?.try_mul(0.5),
        1 => x.try_sub(y),
        2 => x.try_mul(y),
        3 => x.try_maximum(y),
        4 => x.try_tanh(),
        5 => x.try_sigmoid(),
        6 => x.try_neg()?.try_exp()?.try_minimum(3.0),
        7 => x.try_div(y.try_abs()?.try_add(1.0)?),
        8 => x.try_sub(x.try_mean_keepdim(1)?),
        9 => x.try_sum_keepdim(0)?.try_mul(0.1)?.try_expand([n, m]),
        10 => x.try_max_keepdim(1)?.try_add(y)?.try_mul(0.5),
        11 => x.try_t()?.try_reshape([n, m]),
        12 => x.try_flip(0),
        13 => x.try_flip(1)?.try_add(y)?.try_tanh(),
        14 => x.try_roll(1, 0),
        15 => x.try_roll(-2, 1)?.try_mul(y),
        16 => x.try_gt(y)?.try_where(x, &y.try_mul(0.5)?),
        17 => x.try_cast(DType::F16)?.try_add(y.try_cast(DType::F16)?)?.try_cast(DType::F32)?.try_tanh(),
        18 => x.try_cast(DType::I32)?.try_add(1)?.try_cast(x.dtype())?.try_mul(0.25),
        19 => x.try_matmul(&y.try_t()?)?.try_mul(0.05)?.try_tanh()?.try_matmul(y)?.try_mul(0.05),
        20 => x.try_softmax(1)?.try_mul(3.0),
        21 => x.try_cumsum(1)?.try_mul(0.1),
        22 => x.try_index_select(0, ids)?.try_add(y)?.try_mul(0.5),
        23 => x.try_index_set(s![0], &y.try_select(0, -1)?),
        24 => {
            let h = n / 2;
            Tensor::try_cat(&[&x.try_narrow(0, h, n - h)?, &y.try_narrow(0, 0, h)?], 0)
        }
        25 => x.try_layer_norm(m, None, None, 1e-3),
        26 => x.try_square()?.try_add(1.0)?.try_sqrt()?.try_log(),
        27 => Ok(x.try_sort(1, false)?.0),
        28 => x.try_windows(0, n.min(2), 1, 1)?.try_sum([0, 1])?.try_mul(0.1)?.try_add(y)?.try_tanh(),
        29 => y.try_index_add(0, ids, &x.try_mul(0.5)?)?.try_tanh(),
        30 => x.try_slice(0, 0, isize::MAX, 2)?.try_square()?.try_sum(0)?.try_mul(0.1)?.try_sub(y),
        31 => x.try_pad(&[(1, 0), (0, 0)], fornax::PadMode::Constant(0.5))?.try_narrow(0, 0, n),
        32 => x.try_logsumexp(1)?.try_unsqueeze(1)?.try_expand([n, m])?.try_mul(0.3)?.try_add(x)?.try_mul(0.5),
        _ => x.try_select(1, 0)?.try_unsqueeze(1)?.try_mul(y)?.try_gelu(),
    }
}

/// Of what sort a run is.
#[derive(Clone, Copy, Debug)]
struct How {
    gradients: bool,
    adam: bool,
    /// Every tensor that ever was is kept: nothing can be overwritten in place.
    keep: bool,
}

const GRADIENTS: How = How { gradients: true, adam: true, keep: false };

/// What a program works on: tensors and state of one shape.
struct Machine {
    shape: [usize; 2],
    inputs: Vec<Tensor>,
    ids: Tensor,
    alive: Vec<Tensor>,
    params: [Param; 2],
    buffer: Buffer,
    optimizer: Box<dyn Optimizer + Send>,
    /// What was read.
    seen: Vec<Vec<f32>>,
    /// The gradients that were read.
    slopes: Vec<Vec<f32>>,
    kept: Option<Vec<Tensor>>,
}

impl Machine {
    fn new(shape: [usize; 2], device: Device, how: How) -> Result<Machine> {
        let mut rng = Rng(7 + shape[0] as u64);
        let n = shape[0] * shape[1];
        let mut noise = || Tensor::from_vec((0..n).map(|_| (rng.unit() * 4.0 - 2.0) as f32).collect(), shape, device);
        let mut inputs = vec![noise()?, noise()?, noise()?];
        let (params, buffer) = ([Param::new(noise()?), Param::new(noise()?)], Buffer::new(noise()?));
        if how.gradients {
            inputs.iter_mut().for_each(|t| *t = t.requires_grad());
        }
        let optimizer: Box<dyn Optimizer + Send> = match how.adam {
            true => Box::new(AdamW::new(params.clone(), 0.05)),
            false => Box::new(SGD::new(params.clone(), 0.02).momentum(0.9)),
        };
        let ids = Tensor::from_vec((0..shape[0]).map(|_| rng.below(shape[0]) as i32).collect(), shape[0], device)?;
        let (alive, kept) = (inputs.clone(), how.keep.then(Vec::new));
        Ok(Machine { shape, inputs, ids, alive, params, buffer, optimizer, seen: Vec::new(), slopes: Vec::new(), kept })
    }

    fn pick(&self, k: usize) -> Tensor {
        self.alive[k % self.alive.len()].clone()
    }

    /// Changes state; gives what the step adds to the tensors.
    fn change(&mut self, s: &Step) -> Result<Vec<Tensor>> {
        let (x, y) = (self.pick(s.a), self.pick(s.b));
        let (p, q) = (self.params[s.a % 2].clone(), self.params[1 - s.a % 2].clone());
        if let Some(kept) = &mut self.kept {
            kept.extend([p.value(), q.value(), self.buffer.get()]);
        }
        let n = self.shape[0];
        Ok(match s.op {
            34 => vec![p.get()],
            35 => vec![p.value(), p.get()],
            36 => vec![p.value().try_t()?.try_reshape(self.shape)?, p.get().try_flip(0)?],
            37 => {
                p.update(|w| w.try_mul(0.9)?.try_add(y.try_tanh()?.try_mul(0.1)?))?;
                vec![]
            }
            38 => {
                p.update(|w| w.try_slice_assign_at(0, s.b % n, &y.try_tanh()?.try_narrow(0, 0, 1)?))?;
                vec![]
            }
            39 => {
                p.update(|w| w.try_flip(1))?;
                vec![p.value()]
            }
            40 => {
                self.buffer.update(|b| b.try_mul(0.5)?.try_add(x.try_tanh()?.try_mean_keepdim(0)?))?;
                vec![]
            }
            41 => {
                p.set(x.try_tanh()?)?;
                vec![p.value()]
            }
            // Two cells, and a tensor beside them, see one memory.
            42 => {
                q.set(p.value())?;
                vec![q.get()]
            }
            43 | 44 => {
                let (x, y) = if s.op == 43 { (x.detach(), y.detach()) } else { (x, y) };
                let loss = x.try_mul(p.get())?.try_tanh()?.try_sum(())?.try_add(y.try_mul(q.get())?.try_mean(())?)?;
                match loss.backward() {
                    Ok(grads) => self.optimizer.step(grads)?,
                    Err(Error::Spent) => self.seen.push(vec![-1.0]),
                    Err(e) => return Err(e),
                }
                vec![loss.try_expand(self.shape)?.try_mul(0.01)?.detach()]
            }
            45 => {
                let (values, places) = x.try_sort(0, s.b.is_multiple_of(2))?;
                vec![values, places.try_cast(DType::F32)?.try_mul(0.1)?]
            }
            46 => {
                let (values, places) = x.try_cummax(1)?;
                vec![values, places.try_cast(DType::F32)?.try_mul(0.1)?]
            }
            47 if n > 1 => {
                let (y, mean, var) = x.try_batch_norm_training(None, None, 1e-2)?;
                self.buffer.update(|b| b.try_mul(0.9)?.try_add(mean.try_tanh()?.try_mul(0.1)?))?;
                vec![y, var.detach().try_tanh()?.try_expand(self.shape)?]
            }
            48 => {
                fornax::eval(&[&x, &y, &self.buffer.get()])?;
                vec![]
            }
            _ => vec![self.buffer.get().try_add(&y)?.try_tanh()?],
        })
    }

    fn step(&mut self, s: &Step) -> Result<()> {
        let new = match s.op {
            op if op < PURE => vec![apply(op, &self.pick(s.a), &self.pick(s.b), &self.ids)?],
            _ => self.change(s)?,
        };
        if let Some(kept) = &mut self.kept {
            kept.extend(new.iter().cloned());
        }
        if s.read
            && let Some(y) = new.first()
        {
            self.seen.push(y.to_vec::<f32>()?);
        }
        if s.drop && self.alive.len() > 2 {
            let k = s.a % self.alive.len();
            self.alive.swap_remove(k);
        }
        self.alive.extend(new);
        Ok(())
    }

    /// Reads the gradients of a number that hangs on everything alive.
    fn gradients(&mut self, retain: bool) -> Result<()> {
        let mut loss: Option<Tensor> = None;
        for t in self.alive.iter().filter(|t| t.is_differentiable()) {
            let part = t.try_tanh()?.try_sum(())?;
            loss = Some(match loss {
                None => part,
                Some(l) => l.try_add(&part)?,
            });
        }
        let Some(loss) = loss else { return Ok(()) };
        let found = match if retain { loss.backward_retain() } else { loss.backward() } {
            Ok(found) => found,
            Err(Error::Spent) => {
                self.seen.push(vec![-2.0]);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let gradients = self.inputs.iter().map(|t| found.get(t)).chain(self.params.iter().map(|p| p.grad(&found)));
        for g in gradients.flatten() {
            self.slopes.push(g.to_vec::<f32>()?);
        }
        Ok(())
    }

    /// All that was read, and what is alive at the end; and the gradients.
    fn finish(mut self) -> Result<[Vec<Vec<f32>>; 2]> {
        let state = self.params.iter().map(Param::value).chain([self.buffer.get()]);
        for t in self.alive.iter().cloned().chain(state) {
            self.seen.push(t.to_vec::<f32>()?);
        }
        Ok([self.seen, self.slopes])
    }
}

/// Runs a program and gives all that is alive, what was read in between, and gradients.
fn run(steps: &[Step], shape: [usize; 2], device: Device, how: How) -> Result<Vec<Vec<f32>>> {
    let mut machine = Machine::new(shape, device, how)?;
    steps.iter().try_for_each(|s| machine.step(s))?;
    if how.gradients {
        machine.gradients(false)?;
    }
    Ok(machine.finish()?.concat())
}

fn bits(v: &[Vec<f32>]) -> Vec<Vec<u32>> {
    v.iter().map(|v| v.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()).collect()
}

/// `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn fused_is_unfused(steps in steps(), large in prop::bool::weighted(0.1), gradients in any::<bool>(), adam in any::<bool>()) {
        let shape = if large { [67, 519] } else { [4, 6] };
        let how = How { gradients, adam, keep: false };
        let fused = run(&steps, shape, Device::cpu(), how).unwrap();
        let unfused = testing::with_fuse(false, || run(&steps, shape, Device::cpu(), how)).unwrap();
        prop_assert_eq!(bits(&fused), bits(&unfused));
        // One op after the other, and nothing in place.
        let eager = testing::with_lazy(false, || run(&steps, shape, Device::cpu(), How { keep: true, ..how })).unwrap();
        prop_assert_eq!(bits(&fused), bits(&eager));
    }

    #[test]
    fn a_replay_gives_the_same_bits(steps in steps()) {
        let first = run(&steps, [5, 3], Device::cpu(), GRADIENTS).unwrap();
        prop_assert_eq!(bits(&first), bits(&run(&steps, [5, 3], Device::cpu(), GRADIENTS).unwrap()));
    }

    #[test]
    fn small_and_degenerate_shapes(steps in steps(), n in 1usize..3, m in 1usize..3) {
        let fused = run(&steps, [n, m], Device::cpu(), GRADIENTS).unwrap();
        let eager = testing::with_lazy(false, || run(&steps, [n, m], Device::cpu(), How { keep: true, ..GRADIENTS })).unwrap();
        prop_assert_eq!(bits(&fused), bits(&eager));
    }

    #[test]
    fn threads_share_pending_tensors(base in steps(), parts in prop::collection::vec(steps(), 3), early in any::<bool>()) {
        let alone = testing::with_lazy(false, || together(&base, &parts, true, early)).unwrap();
        let beside = together(&base, &parts, false, early).unwrap();
        for ([a, da], [b, db]) in alone.iter().zip(&beside) {
            prop_assert_eq!(bits(a), bits(b));
            // What comes back to one tensor is added in the order of recording, which between threads is chance.
            for (a, b) in da.iter().flatten().zip(db.iter().flatten()) {
                prop_assert!((a - b).abs() <= 1e-4 * (1.0 + a.abs()) || bits(&[vec![*a]]) == bits(&[vec![*b]]), "{a} and {b}");
            }
        }
    }
}

/// Several threads build on the same pending tensors, then on each other's, with state of their own; or one does it all, part by part.
/// `early`: who made the first tensors lets go of them before the threads have read anything.
fn together(base: &[Step], parts: &[Vec<Step>], alone: bool, early: bool) -> Result<Vec<[Vec<Vec<f32>>; 2]>> {
    let shape = [6, 5];
    let mut first = Machine::new(shape, Device::cpu(), GRADIENTS)?;
    // Optimizer steps spend graphs, and whose comes first is chance.
    let pure = |s: &&Step| s.op != 44;
    base.iter().filter(|s| !s.read).filter(pure).try_for_each(|s| first.step(s))?;
    let mut machines = Vec::new();
    for _ in parts {
        let mut m = Machine::new(shape, Device::cpu(), GRADIENTS)?;
        m.inputs = first.inputs.clone();
        m.alive.extend(first.alive.iter().cloned());
        machines.push(m);
    }
    let held = if early { None } else { Some(first.alive.clone()) };
    drop(first);
    let half = |m: &mut Machine, steps: &[Step]| steps.iter().filter(pure).try_for_each(|s| m.step(s));
    let each = |machines: &mut Vec<Machine>, f: &(dyn Fn(usize, &mut Machine) -> Result<()> + Sync)| -> Result<()> {
        if alone {
            return machines.iter_mut().enumerate().try_for_each(|(k, m)| f(k, m));
        }
        std::thread::scope(|s| {
            let running: Vec<_> = machines.iter_mut().enumerate().map(|(k, m)| s.spawn(move || f(k, m))).collect();
            running.into_iter().try_for_each(|t| t.join().unwrap())
        })
    };
    each(&mut machines, &|k, m| half(m, &parts[k][..parts[k].len() / 2]))?;
    // What the neighbour has made, read or not.
    let made: Vec<Vec<Tensor>> = machines.iter().map(|m| m.alive.clone()).collect();
    let count = machines.len();
    for (k, m) in machines.iter_mut().enumerate() {
        m.alive.extend(made[(k + 1) % count].iter().cloned());
    }
    drop((made, held));
    each(&mut machines, &|k, m| {
        half(m, &parts[k][parts[k].len() / 2..])?;
        m.gradients(true)
    })?;
    machines.into_iter().map(Machine::finish).collect()
}

#[test]
fn programs_run_alike_on_threads() {
    let programs: Vec<Vec<Step>> = (0..6).map(|k| program(k, 20)).collect();
    let expected: Vec<_> = programs.iter().map(|p| bits(&run(p, [9, 7], Device::cpu(), GRADIENTS).unwrap())).collect();
    std::thread::scope(|s| {
        for k in 0..4 {
            let (programs, expected) = (&programs, &expected);
            s.spawn(move || {
                for i in 0..12 {
                    let i = (i + k) % 6;
                    assert_eq!(bits(&run(&programs[i], [9, 7], Device::cpu(), GRADIENTS).unwrap()), expected[i]);
                }
            });
        }
    });
}

fn program(seed: u64, len: usize) -> Vec<Step> {
    let mut rng = Rng(seed * 977 + 5);
    (0..len)
        .map(|_| Step {
            op: rng.below(OPS as usize) as u8,
            a: rng.below(64),
            b: rng.below(64),
            read: rng.below(8) == 0,
            drop: rng.below(4) == 0,
        })
        .collect()
}

#[test]
fn programs_run_alike_on_the_gpu() {
    let Some(device) = gpu() else { return };
    let programs: u64 = std::env::var("FORNAX_GPU_PROGRAMS").ok().and_then(|v| v.parse().ok()).unwrap_or(32);
    let mut wrong = Vec::new();
    for k in 0..programs {
        let steps: Vec<Step> = program(k, 12).into_iter().filter(|s| !JUMPING.contains(&s.op)).collect();
        // Adam divides by the size of a gradient, which makes a rounding a step.
        let how = How { gradients: true, adam: false, keep: false };
        let cpu = run(&steps, [4, 6], Device::cpu(), how).unwrap();
        let got = run(&steps, [4, 6], device, how).unwrap();
        assert_eq!(cpu.len(), got.len());
        let close = |c: f32, g: f32| (c - g).abs() <= 3e-3 + 3e-3 * c.abs() || c == g || (c.is_nan() && g.is_nan());
        if let Some((c, g)) = cpu.iter().flatten().zip(got.iter().flatten()).find(|(c, g)| !close(**c, **g)) {
            wrong.push(format!("program {k}: {c} and {g}: {steps:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} programs differ:\n{}", wrong.len(), wrong.join("\n"));
}
