//! Regression on real measurements: how diabetes progresses within a year, from ten numbers about a patient (`data/diabetes.csv`). A line, and a
//! small network. `cargo run --release --example 07_regression`

use fornax::data::{Csv, DataLoader, Dataset, TensorDataset};
use fornax::metrics::{MeanAbsoluteError, Metric, R2, RootMeanSquaredError};
use fornax::nn::{Dropout, Forward, Linear, Module};
use fornax::optim::{Adam, AdamW, Optimizer};
use fornax::{Device, Result, Tensor, nn};

#[derive(Module)]
struct Mlp {
    fc1: Linear,
    dropout: Dropout,
    fc2: Linear,
}

impl Forward for Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.fc2.forward(&self.dropout.forward(&self.fc1.forward(x)?.try_relu()?)?)
    }
}

fn train(model: &impl Forward, optimizer: &mut impl Optimizer, data: &TensorDataset<2>, epochs: u64) -> Result<()> {
    let loader = DataLoader::new(data, 64).shuffle(3);
    for epoch in 0..epochs {
        for batch in loader.epoch(epoch) {
            let [x, y] = batch?;
            let loss = nn::mse_loss(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
        }
    }
    Ok(())
}

/// A row of the table: errors in the target's own unit.
fn report(name: &str, predicted: &Tensor, target: &Tensor) -> Result<()> {
    let (mut mae, mut rmse, mut r2) = (MeanAbsoluteError::new(), RootMeanSquaredError::new(), R2::new());
    for metric in [&mut mae as &mut dyn Metric, &mut rmse, &mut r2] {
        metric.update(predicted, target)?;
    }
    println!("{name:<10} {:>8.2} {:>8.2} {:>8.3}", mae.compute()?, rmse.compute()?, r2.compute()?);
    Ok(())
}

fn main() -> Result<()> {
    let device = Device::from_env()?;
    fornax::manual_seed(0);
    let table = Csv::new().read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/diabetes.csv"))?;
    let names: Vec<&str> = table.columns().iter().map(String::as_str).filter(|&c| c != "target").collect();

    // The features are centred, with a sum of squares of 1 over all rows: this makes their deviations 1.
    let x = table.tensor(&names, device)?.try_mul((table.rows() as f64).sqrt())?;
    let y = table.tensor(&["target"], device)?;
    let (test, rest): (Vec<usize>, Vec<usize>) = (0..table.rows()).partition(|i| (i * 7919) % 10 < 3);
    let whole = TensorDataset::new([x, y])?;
    let [x_train, y_train] = whole.pick(&rest)?;
    let [x_test, y_test] = whole.pick(&test)?;
    // What is learned is the target less its mean, by its deviation.
    let values = y_train.to_vec::<f32>()?;
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
    let train_set = TensorDataset::new([x_train, y_train.try_sub(mean)?.try_div(deviation)?])?;
    println!("{} patients to train on, {} to test on", train_set.len(), test.len());

    let line = Linear::try_new(names.len(), 1, device)?;
    train(&line, &mut Adam::new(line.parameters(), 1e-2), &train_set, 60)?;

    let mlp = Mlp { fc1: Linear::try_new(names.len(), 64, device)?, dropout: Dropout::new(0.5), fc2: Linear::try_new(64, 1, device)? };
    train(&mlp, &mut AdamW::new(mlp.parameters(), 2e-3), &train_set, 60)?;
    mlp.eval();

    println!("\n{:<10} {:>8} {:>8} {:>8}", "test", "MAE", "RMSE", "R²");
    report("mean", &Tensor::try_full([test.len(), 1], mean, device)?, &y_test)?;
    for (name, model) in [("line", &line as &dyn Forward), ("network", &mlp)] {
        let predicted = fornax::no_grad(|| model.forward(&x_test))?.try_mul(deviation)?.try_add(mean)?;
        report(name, &predicted, &y_test)?;
    }

    println!("\nwhat one deviation of each feature adds, by the line:");
    let weights = line.weight.value().to_vec::<f32>()?;
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|&a, &b| weights[b].abs().total_cmp(&weights[a].abs()));
    for i in order {
        let effect = weights[i] * deviation;
        println!("{:>5} {effect:>+7.1} {}", names[i], "#".repeat((effect.abs() / 1.5) as usize));
    }
    Ok(())
}
