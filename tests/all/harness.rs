//! The op harness: a case says how an op is called and on what; the harness compares backends, dtypes, layouts, switches and derivatives.

use fornax::{DType, Device, GradCheck, Result, Tensor, testing};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// What the elements of an input are.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Uniform reals.
    Real(f64, f64),
    /// Reals that are all different by at least 0.05, so that an order does not change under a small step.
    Distinct,
    /// Integers in `lo..hi` (i32).
    Int(i64, i64),
    Bool,
}

#[derive(Clone, Debug)]
pub struct In {
    pub shape: Vec<usize>,
    pub kind: Kind,
}

pub fn real(shape: &[usize]) -> In {
    In { shape: shape.to_vec(), kind: Kind::Real(-2.0, 2.0) }
}
pub fn within(lo: f64, hi: f64, shape: &[usize]) -> In {
    In { shape: shape.to_vec(), kind: Kind::Real(lo, hi) }
}
pub fn distinct(shape: &[usize]) -> In {
    In { shape: shape.to_vec(), kind: Kind::Distinct }
}
pub fn int(lo: i64, hi: i64, shape: &[usize]) -> In {
    In { shape: shape.to_vec(), kind: Kind::Int(lo, hi) }
}
pub fn bools(shape: &[usize]) -> In {
    In { shape: shape.to_vec(), kind: Kind::Bool }
}

/// Logical values, row-major, for an oracle.
#[derive(Clone, Debug)]
pub struct Arr {
    pub shape: Vec<usize>,
    pub v: Vec<f64>,
}

type Build = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;
type Oracle = Box<dyn Fn(&[Arr]) -> Vec<f64>>;

/// How an op is called, on what, and what is to be checked.
pub struct Case {
    pub name: String,
    ins: Vec<In>,
    build: Build,
    oracle: Option<Oracle>,
    /// Derivatives to check: 0, 1 or 2.
    order: usize,
    /// Relative (and a tenth of it absolute) tolerance of f32 against f64.
    tol: f64,
    gpu: bool,
    half: bool,
    /// Whether the op knows f64.
    double: bool,
    layouts: bool,
}

pub fn case(name: impl Into<String>, ins: &[In], build: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Case {
    Case {
        name: name.into(),
        ins: ins.to_vec(),
        build: Box::new(build),
        oracle: None,
        order: 2,
        tol: 2e-5,
        gpu: true,
        half: true,
        double: true,
        layouts: true,
    }
}

impl Case {
    /// A naive computation in f64.
    pub fn oracle(mut self, f: impl Fn(&[Arr]) -> Vec<f64> + 'static) -> Case {
        self.oracle = Some(Box::new(f));
        self
    }
    /// No derivative.
    pub fn flat(mut self) -> Case {
        self.order = 0;
        self
    }
    /// First derivative only.
    pub fn once(mut self) -> Case {
        self.order = 1;
        self
    }
    pub fn tol(mut self, tol: f64) -> Case {
        self.tol = tol;
        self
    }
    pub fn no_gpu(mut self) -> Case {
        self.gpu = false;
        self
    }
    pub fn no_half(mut self) -> Case {
        self.half = false;
        self
    }
    /// Too large for anything but a comparison on the CPU.
    pub fn large(self) -> Case {
        self.flat().no_gpu().no_half()
    }

    pub fn build(&self, inputs: &[Tensor]) -> Result<Tensor> {
        (self.build)(inputs)
    }

    pub fn order(&self) -> usize {
        self.order
    }

    /// Whether it takes half precision.
    pub fn takes_half(&self) -> bool {
        self.half
    }

    fn is_float(&self, i: usize) -> bool {
        matches!(self.ins[i].kind, Kind::Real(..) | Kind::Distinct)
    }
}

/// How the input's elements lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    Plain,
    Transposed,
    Sliced,
    Flipped,
    Broadcast,
}

pub const LIES: [Lie; 4] = [Lie::Transposed, Lie::Sliced, Lie::Flipped, Lie::Broadcast];

/// A small generator of its own, so that failures reproduce.
pub struct Rng(pub u64);
impl Rng {
    pub fn named(name: &str) -> Rng {
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3)))
    }
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n.max(1) as u64) as usize
    }
}

/// The position, row-major over `shape`, of each element in the order of the reversed axes.
fn reversed_axes(shape: &[usize], v: &[f64]) -> Vec<f64> {
    let n = v.len();
    let rank = shape.len();
    let mut strides = vec![1; rank];
    for a in (1..rank).rev() {
        strides[a - 1] = strides[a] * shape[a];
    }
    (0..n)
        .map(|mut i| {
            let mut at = 0;
            for a in 0..rank {
                at += (i % shape[a]) * strides[a];
                i /= shape[a];
            }
            v[at]
        })
        .collect()
}

impl In {
    /// Values that f32 holds exactly.
    fn values(&self, rng: &mut Rng, lie: Lie) -> Vec<f64> {
        let n: usize = self.shape.iter().product();
        let mut v: Vec<f64> = match self.kind {
            Kind::Real(lo, hi) => (0..n).map(|_| (lo + (hi - lo) * rng.unit()) as f32 as f64).collect(),
            Kind::Distinct => {
                let mut order: Vec<usize> = (0..n).collect();
                for i in (1..n).rev() {
                    order.swap(i, rng.below(i + 1));
                }
                order.iter().map(|&i| ((i as f64 - n as f64 / 2.0) * 0.0625 + 0.01 * rng.unit()) as f32 as f64).collect()
            }
            Kind::Int(lo, hi) => (0..n).map(|_| (lo + rng.below((hi - lo) as usize) as i64) as f64).collect(),
            Kind::Bool => (0..n).map(|_| rng.below(2) as f64).collect(),
        };
        if lie == Lie::Broadcast
            && let Some(a) = self.shape.iter().position(|&d| d > 1)
        {
            let inner: usize = self.shape[a + 1..].iter().product();
            let block = inner * self.shape[a];
            for i in 0..n {
                v[i] = v[i / block * block + i % inner];
            }
        }
        v
    }
}

fn upload(v: &[f64], shape: &[usize], dtype: DType, device: Device) -> Result<Tensor> {
    match dtype {
        DType::F64 => Tensor::from_vec(v.to_vec(), shape, device),
        DType::F32 => Tensor::from_vec(v.iter().map(|&x| x as f32).collect(), shape, device),
        DType::F16 => Tensor::from_vec(v.iter().map(|&x| half::f16::from_f64(x)).collect(), shape, device),
        DType::BF16 => Tensor::from_vec(v.iter().map(|&x| half::bf16::from_f64(x)).collect(), shape, device),
        DType::I32 => Tensor::from_vec(v.iter().map(|&x| x as i32).collect(), shape, device),
        DType::Bool => Tensor::from_vec(v.iter().map(|&x| x != 0.0).collect(), shape, device),
        d => panic!("the harness does not upload {d}"),
    }
}

/// A tensor with these logical values that lies as asked.
fn place(v: &[f64], shape: &[usize], dtype: DType, lie: Lie, device: Device) -> Result<Tensor> {
    let rank = shape.len();
    match lie {
        Lie::Transposed if rank > 1 => {
            let back: Vec<usize> = shape.iter().rev().copied().collect();
            let order: Vec<isize> = (0..rank as isize).rev().collect();
            upload(&reversed_axes(shape, v), &back, dtype, device)?.try_permute(&order)
        }
        Lie::Sliced if rank > 0 => {
            let wide: Vec<usize> = (0..rank).map(|a| if a + 1 == rank { 2 * shape[a] + 3 } else { shape[a] + 2 }).collect();
            let mut out = vec![9e9; wide.iter().product()];
            for (i, &x) in v.iter().enumerate() {
                let (mut rest, mut at, mut stride) = (i, 0, 1);
                for a in (0..rank).rev() {
                    let k = rest % shape[a];
                    rest /= shape[a];
                    at += stride * if a + 1 == rank { 2 * k + 1 } else { k + 1 };
                    stride *= wide[a];
                }
                out[at] = x;
            }
            let mut t = upload(&out, &wide, dtype, device)?;
            for a in 0..rank {
                let step = if a + 1 == rank { 2 } else { 1 };
                t = t.try_slice(a as isize, 1, 1 + (step * shape[a]) as isize, step as isize)?;
            }
            Ok(t)
        }
        Lie::Flipped if rank > 0 => upload(&v.iter().rev().copied().collect::<Vec<_>>(), shape, dtype, device)?.try_flip(()),
        Lie::Broadcast => match shape.iter().position(|&d| d > 1) {
            Some(a) => {
                let inner: usize = shape[a + 1..].iter().product();
                let block = inner * shape[a];
                let few: Vec<f64> = v.chunks(block.max(1)).flat_map(|c| &c[..inner]).copied().collect();
                let mut small = shape.to_vec();
                small[a] = 1;
                upload(&few, &small, dtype, device)?.try_expand(shape)
            }
            None => upload(v, shape, dtype, device),
        },
        _ => upload(v, shape, dtype, device),
    }
}

/// The GPU of the tests: any adapter, a software one included; `None`, said once, where there is none.
pub fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    *GPU.get_or_init(|| match Device::gpu(0) {
        Ok(d) => Some(d),
        Err(e) if std::env::var("FORNAX_REQUIRE_GPU").is_ok_and(|v| v == "1") => panic!("FORNAX_REQUIRE_GPU=1: {e}"),
        Err(e) => {
            eprintln!("no GPU, its cases are skipped: {e}");
            None
        }
    })
}

/// How many checks of each kind were done, and what failed.
#[derive(Default)]
pub struct Report {
    pub counts: BTreeMap<&'static str, usize>,
    pub failures: Vec<String>,
}

fn close(a: f64, b: f64, rel: f64, abs: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= abs + rel * b.abs()
}

impl Report {
    fn fail(&mut self, kind: &str, case: &Case, what: impl std::fmt::Display) {
        self.failures.push(format!("{}: {kind}: {what}", case.name));
    }

    /// Compares two results; both may be errors only if the op refuses.
    fn compare(&mut self, kind: &'static str, case: &Case, got: Result<Vec<f64>>, want: &[f64], rel: f64, abs: f64) {
        *self.counts.entry(kind).or_default() += 1;
        match got {
            Err(e) => self.fail(kind, case, e),
            Ok(got) if got.len() != want.len() => self.fail(kind, case, format!("{} elements, not {}", got.len(), want.len())),
            Ok(got) => {
                let bad: Vec<usize> = (0..want.len()).filter(|&i| !close(got[i], want[i], rel, abs)).collect();
                if let Some(&i) = bad.first() {
                    let n = want.len();
                    self.fail(kind, case, format!("element {i}: {} is not {} ({} of {n} differ)", got[i], want[i], bad.len()));
                }
            }
        }
    }

    /// Panics with all failures, or where fewer checks of a kind were done than promised.
    pub fn finish(self, at_least: &[(&str, usize)]) {
        println!("{:?}", self.counts);
        assert!(self.failures.is_empty(), "{} failures:\n{}", self.failures.len(), self.failures.join("\n"));
        for &(kind, n) in at_least {
            let done = self.counts.get(kind).copied().unwrap_or(0);
            let excused = kind.starts_with("gpu") && gpu().is_none();
            assert!(excused || done >= n, "{done} checks of kind {kind}, at least {n} were promised");
        }
    }
}

fn run(case: &Case, inputs: &[Tensor]) -> Result<Vec<f64>> {
    case.build(inputs)?.to_vec::<f64>()
}

/// All inputs of a case: logical values.
pub fn arrays(case: &Case, lie: Lie) -> Vec<Arr> {
    let mut rng = Rng::named(&case.name);
    case.ins.iter().map(|i| Arr { shape: i.shape.clone(), v: i.values(&mut rng, lie) }).collect()
}

/// The tensors of a case; floats in `dtype`.
pub fn tensors(case: &Case, arrays: &[Arr], dtype: DType, lie: Lie, device: Device) -> Result<Vec<Tensor>> {
    let one = |(i, a): (usize, &Arr)| {
        let dtype = match case.ins[i].kind {
            Kind::Int(..) => DType::I32,
            Kind::Bool => DType::Bool,
            _ => dtype,
        };
        place(&a.v, &a.shape, dtype, lie, device)
    };
    arrays.iter().enumerate().map(one).collect()
}

/// Runs every check on one case. A panic is a failure of that case.
pub fn check(report: &mut Report, case: &Case) {
    type Check = fn(&mut Report, &Case) -> Result<()>;
    let mut checks: Vec<(&str, Check)> = vec![("setup", check_values)];
    if case.order > 0 {
        checks.push(("gradient", check_gradients));
    }
    for (kind, check) in checks {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(report, case))) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => report.fail(kind, case, e),
            Err(_) => report.fail(kind, case, "panicked"),
        }
    }
}

fn check_values(report: &mut Report, case: &Case) -> Result<()> {
    let cpu = Device::cpu();
    let values = arrays(case, Lie::Plain);
    let (rel, abs) = (case.tol, case.tol * 0.1);
    let f32s = tensors(case, &values, DType::F32, Lie::Plain, cpu)?;
    let single = run(case, &f32s)?;

    // The oracle: the naive one, else the op in f64.
    if let Some(oracle) = &case.oracle {
        let want = oracle(&values);
        report.compare("f32 = oracle", case, Ok(single.clone()), &want, rel, abs);
        if case.double {
            report.compare("f64 = oracle", case, run(case, &tensors(case, &values, DType::F64, Lie::Plain, cpu)?), &want, 1e-9, 1e-10);
        }
    } else if case.double {
        let want = run(case, &tensors(case, &values, DType::F64, Lie::Plain, cpu)?)?;
        report.compare("f32 = f64", case, Ok(single.clone()), &want, rel, abs);
    }

    // Layouts, against the plain one on the same values.
    if case.layouts {
        for lie in LIES {
            if lie == Lie::Broadcast && case.ins.iter().any(|i| matches!(i.kind, Kind::Distinct)) {
                continue;
            }
            let values = arrays(case, lie);
            let want = run(case, &tensors(case, &values, DType::F32, Lie::Plain, cpu)?)?;
            report.compare("layout", case, run(case, &tensors(case, &values, DType::F32, lie, cpu)?), &want, rel, abs);
        }
    }

    // Half precision is the f32 op on rounded inputs, rounded.
    if case.half && case.ins.iter().enumerate().any(|(i, _)| case.is_float(i)) {
        for (dtype, eps) in [(DType::F16, 2e-3), (DType::BF16, 1.6e-2)] {
            let halves = tensors(case, &values, dtype, Lie::Plain, cpu)?;
            let wide: Vec<Tensor> =
                halves.iter().map(|t| if t.dtype() == dtype { t.try_cast(DType::F32) } else { Ok(t.clone()) }).collect::<Result<_>>()?;
            let want = run(case, &wide)?;
            let scale = want.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
            report.compare(
                if dtype == DType::F16 { "f16" } else { "bf16" },
                case,
                run(case, &halves),
                &want,
                eps,
                eps * 0.1 * scale.max(0.1),
            );
        }
    }

    // Fusion may change no bit on the CPU: the op between pointwise neighbours.
    let chain = |t: &[Tensor]| -> Result<Vec<f64>> {
        let pre = |t: &Tensor| if t.dtype().is_float() { t.try_mul(1.0)?.try_add(0.0) } else { Ok(t.clone()) };
        let out = case.build(&t.iter().map(pre).collect::<Result<Vec<_>>>()?)?;
        if out.dtype().is_float() { out.try_mul(1.25)?.try_sub(0.5)?.to_vec::<f64>() } else { out.to_vec::<f64>() }
    };
    let fused = chain(&f32s)?;
    let plain = testing::with_fuse(false, || chain(&f32s));
    report.compare("fused = unfused", case, plain, &fused, 0.0, 0.0);
    let eager = testing::with_lazy(false, || chain(&f32s));
    report.compare("lazy = eager", case, eager, &fused, 0.0, 0.0);

    // The decomposition, where there is one.
    let (split, n) = testing::decomposed(|| run(case, &f32s));
    if n > 0 {
        report.compare("kernel = decomposition", case, split, &single, 4.0 * rel, 4.0 * abs);
    }

    if case.gpu
        && let Some(device) = gpu()
    {
        let t = tensors(case, &values, DType::F32, Lie::Plain, device)?;
        report.compare("gpu = cpu", case, run(case, &t), &single, 4.0 * rel.max(2e-5), 4.0 * abs.max(2e-6));
        if case.layouts {
            let lie = [Lie::Transposed, Lie::Sliced, Lie::Flipped][case.name.len() % 3];
            let t = tensors(case, &values, DType::F32, lie, device)?;
            report.compare("gpu layout", case, run(case, &t), &single, 4.0 * rel.max(2e-5), 4.0 * abs.max(2e-6));
        }
        // Packed storage, on a third of the cases: each costs pipelines.
        if case.half && Rng::named(&case.name).word().is_multiple_of(3) {
            for (dtype, eps) in [(DType::F16, 2e-3), (DType::BF16, 1.6e-2)] {
                let want = run(case, &tensors(case, &values, dtype, Lie::Plain, cpu)?)?;
                let scale = want.iter().filter(|v| v.is_finite()).fold(0.1f64, |m, v| m.max(v.abs()));
                let t = tensors(case, &values, dtype, Lie::Plain, device)?;
                report.compare("gpu half", case, run(case, &t), &want, 2.0 * eps, eps * 0.2 * scale);
            }
        }
        if case.order > 0 {
            let want = gradient_values(case, &values, DType::F32, cpu)?;
            report.compare("gpu gradient", case, gradient_values(case, &values, DType::F32, device), &want, 1e-3, 1e-4);
        }
    }
    Ok(())
}

/// The GPU with the smallest bindings with which a case can run at all: nothing changes but the number of dispatches. Where something cannot be
/// cut further (a row of a softmax), the device says so before it runs anything, and larger ones are tried. The number of kernels in parts.
pub fn check_limited(report: &mut Report, case: &Case) -> Result<usize> {
    let (true, Some(device)) = (case.gpu, gpu()) else { return Ok(0) };
    let values = arrays(case, Lie::Plain);
    let (rel, abs) = (4.0 * case.tol.max(2e-5), 4.0 * (case.tol * 0.1).max(2e-6));
    let f32s = |device| tensors(case, &values, DType::F32, Lie::Plain, device);
    let want = run(case, &f32s(Device::cpu())?)?;
    let smallest = |f: &dyn Fn() -> Result<Vec<f64>>| {
        let mut limit = 64;
        loop {
            match testing::with_gpu_limits(limit, u64::MAX, f) {
                (Err(e), _) if limit < 64 << 10 && e.to_string().contains("this device binds at most") => limit *= 2,
                other => return other,
            }
        }
    };
    let (got, mut parts) = smallest(&|| run(case, &f32s(device)?));
    report.compare("gpu, small bindings", case, got, &want, rel, abs);
    if case.order > 0 {
        let want = gradient_values(case, &values, DType::F32, Device::cpu())?;
        let (got, more) = smallest(&|| gradient_values(case, &values, DType::F32, device));
        report.compare("gpu gradient, small bindings", case, got, &want, 1e-3, 1e-4);
        parts += more;
    }
    Ok(parts)
}

/// Fixed weights of a sum over an output.
fn weights(name: &str, n: usize) -> Vec<f64> {
    let mut rng = Rng::named(name);
    (0..n).map(|_| (0.5 + rng.unit()) as f32 as f64 * if rng.below(2) == 0 { -1.0 } else { 1.0 }).collect()
}

fn weigh(out: &Tensor, name: &str) -> Result<Tensor> {
    let w = upload(&weights(name, out.numel()), out.dims(), out.dtype(), out.device())?;
    out.try_mul(&w)?.try_sum(())
}

/// The loss of a case: its output under fixed weights.
fn loss(case: &Case, inputs: &[Tensor]) -> Result<Tensor> {
    weigh(&case.build(inputs)?, &case.name)
}

/// The inputs as leaves that want gradients, and which of them do.
fn leaves(case: &Case, arrays: &[Arr], dtype: DType, device: Device) -> Result<(Vec<Tensor>, Vec<usize>)> {
    let mut t = tensors(case, arrays, dtype, Lie::Plain, device)?;
    let wanted: Vec<usize> = (0..t.len()).filter(|&i| case.is_float(i)).collect();
    for &i in &wanted {
        t[i] = t[i].requires_grad();
    }
    Ok((t, wanted))
}

fn grad_of(y: &Tensor, t: &[Tensor], wanted: &[usize]) -> Result<Vec<Tensor>> {
    let targets: Vec<&Tensor> = wanted.iter().map(|&i| &t[i]).collect();
    let grads = fornax::grad(&[y], &targets)?;
    grads.into_iter().zip(&targets).map(|(g, t)| g.map_or_else(|| t.try_zeros_like(), Ok)).collect()
}

fn gradient_values(case: &Case, arrays: &[Arr], dtype: DType, device: Device) -> Result<Vec<f64>> {
    let (t, wanted) = leaves(case, arrays, dtype, device)?;
    let mut all = Vec::new();
    for g in grad_of(&loss(case, &t)?, &t, &wanted)? {
        all.extend(g.to_vec::<f64>()?);
    }
    Ok(all)
}

/// A number that depends on the inputs; its derivative along a direction by central differences.
fn along(case: &Case, arrays: &[Arr], direction: &[Vec<f64>], f: &dyn Fn(&[Arr]) -> Result<f64>) -> Result<f64> {
    let h = 1e-5;
    let moved = |s: f64| -> Vec<Arr> {
        let mut a = arrays.to_vec();
        for (i, a) in a.iter_mut().enumerate().filter(|(i, _)| case.is_float(*i)) {
            a.v.iter_mut().zip(&direction[i]).for_each(|(v, d)| *v += s * h * d);
        }
        a
    };
    Ok((f(&moved(1.0))? - f(&moved(-1.0))?) / (2.0 * h))
}

/// First derivatives by central differences in f64 along each element (few) and random directions, the second ones along directions.
fn check_gradients(report: &mut Report, case: &Case) -> Result<()> {
    let cpu = Device::cpu();
    let values = arrays(case, Lie::Plain);
    let (t, wanted) = leaves(case, &values, DType::F64, cpu)?;
    let grads = grad_of(&loss(case, &t)?, &t, &wanted)?;
    let mut g: Vec<Vec<f64>> = vec![Vec::new(); t.len()];
    for (&i, x) in wanted.iter().zip(&grads) {
        g[i] = x.to_vec::<f64>()?;
        if x.dims() != t[i].dims() || x.dtype() != t[i].dtype() {
            report.fail("gradient", case, format!("{} {} of input {i}, which is {} {}", x.dtype(), x.shape(), t[i].dtype(), t[i].shape()));
        }
    }
    let total: usize = wanted.iter().map(|&i| values[i].v.len()).sum();
    let mut rng = Rng::named(&case.name);
    let mut directions: Vec<Vec<Vec<f64>>> =
        (0..3).map(|_| values.iter().map(|a| a.v.iter().map(|_| if rng.below(2) == 0 { -1.0 } else { 1.0 }).collect()).collect()).collect();
    if total <= 16 {
        for &i in &wanted {
            for k in 0..values[i].v.len() {
                let mut d: Vec<Vec<f64>> = values.iter().map(|a| vec![0.0; a.v.len()]).collect();
                d[i][k] = 1.0;
                directions.push(d);
            }
        }
    }
    let scale = g.iter().flatten().fold(1.0f64, |m, v| m.max(v.abs())) * (total as f64).sqrt().max(1.0);
    let value = |a: &[Arr]| loss(case, &tensors(case, a, DType::F64, Lie::Plain, cpu)?)?.item::<f64>();
    for d in &directions {
        let want: f64 = g.iter().zip(d).flat_map(|(g, d)| g.iter().zip(d)).map(|(g, d)| g * d).sum();
        report.compare("gradient", case, along(case, &values, d, &value).map(|v| vec![v]), &[want], 1e-6, 1e-7 * scale);
    }
    if case.order < 2 || total == 0 {
        return Ok(());
    }
    // s(x) = Σ v·∂loss/∂x; its gradient by the graph and by differences.
    let dot = |a: &[Arr]| -> Result<(Tensor, Vec<Tensor>)> {
        let (t, wanted) = leaves(case, a, DType::F64, cpu)?;
        let grads = grad_of(&loss(case, &t)?, &t, &wanted)?;
        let mut sum: Option<Tensor> = None;
        for (k, g) in grads.iter().enumerate() {
            let s = weigh(g, &format!("{k} second {}", case.name))?;
            sum = Some(match sum {
                None => s,
                Some(p) => p.try_add(&s)?,
            });
        }
        Ok((sum.expect("a case with derivatives has float inputs"), t))
    };
    let (s, t) = dot(&values)?;
    let mut g: Vec<Vec<f64>> = vec![Vec::new(); t.len()];
    if s.is_differentiable() {
        for (&i, x) in wanted.iter().zip(grad_of(&s, &t, &wanted)?) {
            g[i] = x.to_vec::<f64>()?;
        }
    } else {
        // The op is linear: its second derivative is zero, which the differences must agree with.
        wanted.iter().for_each(|&i| g[i] = vec![0.0; values[i].v.len()]);
    }
    let scale = g.iter().flatten().fold(1.0f64, |m, v| m.max(v.abs())) * (total as f64).sqrt();
    for d in &directions[..2] {
        let want: f64 = g.iter().zip(d).flat_map(|(g, d)| g.iter().zip(d)).map(|(g, d)| g * d).sum();
        let value = |a: &[Arr]| dot(a)?.0.item::<f64>();
        report.compare("second derivative", case, along(case, &values, d, &value).map(|v| vec![v]), &[want], 1e-5, 1e-6 * scale);
    }
    // Few elements: each of them, and the cotangent's, through the public checker.
    if total <= 16 {
        let floats: Vec<&Tensor> = wanted.iter().map(|&i| &t[i]).collect();
        let build = |x: &[Tensor]| {
            let mut all = t.clone();
            wanted.iter().zip(x).for_each(|(&i, x)| all[i] = x.clone());
            case.build(&all)
        };
        *report.counts.entry("second, by element").or_default() += 1;
        let options = GradCheck { atol: 1e-6 * scale, ..GradCheck::default() };
        if let Err(e) = fornax::check_second_gradients(build, &floats, options) {
            report.fail("second, by element", case, e);
        }
    }
    Ok(())
}

/// Runs all checks on a list of cases.
pub fn check_all(cases: &[Case], at_least: &[(&str, usize)]) {
    let mut report = Report::default();
    for c in cases {
        check(&mut report, c);
    }
    report.counts.insert("cases", cases.len());
    report.finish(at_least);
}

/// Runs an ignored test of this binary in a process of its own: it provokes faults or measures memory, which other tests would disturb.
pub fn isolated(name: &str) {
    let exe = std::env::current_exe().expect("the test binary has a path");
    let out = std::process::Command::new(exe)
        .args([name, "--exact", "--ignored", "--test-threads=1", "--nocapture"])
        .output()
        .expect("it starts");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{name}:\n{text}");
}
