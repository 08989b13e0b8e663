//! Forecasts a chaotic series with an LSTM: the equation of Mackey and Glass, `dx/dt = 0.2 x(t − 17) / (1 + x(t − 17)¹⁰) − 0.1 x(t)`, whose next value hangs on
//! what was long ago. From 40 values the network tells the next 20, and is held against two forecasts that cost nothing.
//! `cargo run --release --example 12_lstm_forecast`
//!
//! It leaves `out/lstm_forecast.png`: the error by how far ahead, and some forecasts of the part that it never saw.

use fornax::data::{DataLoader, TensorDataset};
use fornax::nn::{Forward, LSTM, Linear, Module};
use fornax::optim::{Adam, Optimizer};
use fornax::plot::{Canvas, Chart, Colour, INK};
use fornax::{Device, Result, Tensor, nn};

const SEED: u64 = 3;
/// Values that a forecast is made from, and that it is made of.
const PAST: usize = 40;
const AHEAD: usize = 20;
/// Values of the series, 3 units of time apart, and how many of them are for training.
const LENGTH: usize = 2000;
const TRAINED: usize = 1500;
/// The series comes back to about where it was after 50 units of time.
const PERIOD: usize = 17;
const EPOCHS: u64 = 40;
const PEAK_LR: f64 = 5e-3;

const TRUTH: Colour = [60, 60, 70];
const NETWORK: Colour = [30, 80, 190];

/// An LSTM over the past, and a linear layer from its last state to all of the future.
#[derive(Module)]
struct Forecaster {
    lstm: LSTM,
    head: Linear,
}

impl Forward for Forecaster {
    /// Values `[N, PAST]` to values `[N, AHEAD]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, (h, _)) = self.lstm.forward(&x.try_unsqueeze(2)?, None)?;
        // What changes from the last value on is easier to learn than the values.
        self.head.forward(&h.try_select(0, -1)?)?.try_add(x.try_narrow(1, PAST - 1, 1)?)
    }
}

/// The equation's solution by fourth-order Runge–Kutta steps of 0.1 units, one value every 3 units, after a time to settle; scaled to mean 0 and deviation 1.
fn mackey_glass() -> Vec<f32> {
    const STEPS: usize = 10;
    const DELAY: usize = 17 * STEPS;
    let slope = |x: f64, delayed: f64| 0.2 * delayed / (1.0 + delayed.powi(10)) - 0.1 * x;
    let mut x = vec![1.2f64; DELAY + 1];
    let (every, settle, h) = (3 * STEPS, 500 * STEPS, 1.0 / STEPS as f64);
    while x.len() < DELAY + 1 + settle + LENGTH * every {
        let n = x.len() - 1;
        let (now, then, next) = (x[n], x[n - DELAY], x[n + 1 - DELAY]);
        let middle = (then + next) / 2.0;
        let k1 = slope(now, then);
        let k2 = slope(now + h / 2.0 * k1, middle);
        let k3 = slope(now + h / 2.0 * k2, middle);
        let k4 = slope(now + h * k3, next);
        x.push(now + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4));
    }
    let x: Vec<f64> = x[DELAY + 1 + settle..].iter().step_by(every).take(LENGTH).copied().collect();
    let mean = x.iter().sum::<f64>() / LENGTH as f64;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / LENGTH as f64).sqrt();
    x.iter().map(|v| ((v - mean) / deviation) as f32).collect()
}

/// All windows of a part of the series: pasts `[N, PAST]` and futures `[N, AHEAD]`.
fn windows(series: &[f32], device: Device) -> Result<[Tensor; 2]> {
    let all = Tensor::from_slice(series, series.len(), device)?.try_windows(0, PAST + AHEAD, 1, 1)?;
    Ok([all.try_narrow(1, 0, PAST)?, all.try_narrow(1, PAST, AHEAD)?])
}

/// The root of the mean squared error, by how far ahead.
fn errors(forecast: &Tensor, truth: &Tensor) -> Result<Vec<f32>> {
    forecast.try_sub(truth)?.try_square()?.try_mean(0)?.try_sqrt()?.to_vec()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(SEED);
    let series = mackey_glass();
    let [past, future] = windows(&series[..TRAINED], device)?;
    let [test_past, test_future] = windows(&series[TRAINED..], device)?;
    println!("device: {device}; {} windows to train on, {} to test", past.dims()[0], test_past.dims()[0]);

    let model = Forecaster { lstm: LSTM::try_new(1, 48, device)?.batch_first(), head: Linear::try_new(48, AHEAD, device)? };
    print!("{}", model.describe());
    let loader = DataLoader::new(TensorDataset::new([past.try_contiguous()?, future.try_contiguous()?])?, 64).shuffle(SEED);
    let mut optimizer = Adam::new(model.parameters(), PEAK_LR);
    let steps = (EPOCHS * loader.len() as u64) as f64;
    let mut step = 0.0;
    for epoch in 0..EPOCHS {
        let mut losses = Vec::new();
        for batch in loader.epoch(epoch) {
            let [x, y] = batch?;
            optimizer.set_lr(PEAK_LR * (20.0 * step / steps + 0.05).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * step / steps).cos()));
            let loss = nn::smooth_l1_loss(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            losses.push(loss);
            step += 1.0;
        }
        if epoch % 5 == 4 {
            let mean = losses.iter().map(|l| l.item::<f32>()).sum::<Result<f32>>()? / losses.len() as f32;
            println!("epoch {:>2}  loss {mean:.5}", epoch + 1);
        }
    }

    model.eval();
    let forecast = fornax::no_grad(|| model.forward(&test_past))?;
    let last = test_past.try_narrow(1, PAST - 1, 1)?.try_expand([test_past.dims()[0], AHEAD])?;
    // What was there a period before: for what lies further ahead than that, two periods.
    let periodic: Vec<Tensor> =
        (0..AHEAD).map(|k| test_past.try_select(1, (PAST + k - PERIOD * (k / PERIOD + 1)) as isize)).collect::<Result<_>>()?;
    let periodic = Tensor::try_stack(&periodic.iter().collect::<Vec<_>>(), 1)?;
    let rows = [
        ("last value", errors(&last, &test_future)?),
        ("a period ago", errors(&periodic, &test_future)?),
        ("LSTM", errors(&forecast, &test_future)?),
    ];
    println!("\nroot mean squared error on the test part (the series has deviation 1)");
    println!("{:<14}{:>9}{:>9}{:>9}{:>9}{:>9}", "steps ahead", 1, 5, 10, 20, "all");
    for (name, e) in &rows {
        let all = (e.iter().map(|v| v * v).sum::<f32>() / AHEAD as f32).sqrt();
        println!("{name:<14}{:>9.3}{:>9.3}{:>9.3}{:>9.3}{all:>9.3}", e[0], e[4], e[9], e[19]);
    }

    draw(&rows.map(|r| r.1), &series[TRAINED..], &forecast.to_vec::<f32>()?)?;
    println!("drew out/lstm_forecast.png");
    Ok(())
}

/// The errors by how far ahead, and below it the test part with a forecast every so often.
fn draw(errors: &[Vec<f32>; 3], truth: &[f32], forecast: &[f32]) -> Result<(), Box<dyn std::error::Error>> {
    let mut canvas = Canvas::new(1000, 720)?;
    let mut chart = Chart::new("error by steps ahead").size(960, 330);
    for (name, e) in ["last value", "a period ago", "LSTM"].into_iter().zip(errors) {
        chart = chart.series(name, e.iter().enumerate().map(|(i, &v)| (i as f64 + 1.0, v as f64)));
    }
    chart.draw(&mut canvas, 20, 10);
    let place = |t: usize, v: f32| (60.0 + t as f32 * 900.0 / 240.0, 530.0 - v * 60.0);
    canvas.text(60, 350, 2, "THE SERIES AND FORECASTS OF 20 STEPS", INK);
    for t in 1..240 {
        canvas.line(place(t - 1, truth[t - 1]), place(t, truth[t]), 2.0, TRUTH);
    }
    for start in (0..240 - PAST - AHEAD).step_by(AHEAD * 2) {
        let at = start + PAST;
        canvas.fill(place(at, 0.0).0 as i32, 380, 1, 300, [200, 205, 220]);
        for k in 1..AHEAD {
            let v = |k: usize| forecast[start * AHEAD + k];
            canvas.line(place(at + k - 1, v(k - 1)), place(at + k, v(k)), 4.0, NETWORK);
        }
    }
    std::fs::create_dir_all("out")?;
    Ok(canvas.save("out/lstm_forecast.png")?)
}
