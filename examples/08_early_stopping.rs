//! A network for real medical data (`data/breast_cancer.csv`), trained until the validation loss stops falling, all of it visible.
//! `cargo run --release --example 08_early_stopping`
//!
//! It leaves `out/early_stopping.png`, the two losses by epoch.

use fornax::data::{DataLoader, Dataset, Table, TensorDataset, stratified_rows};
use fornax::io::StateDict;
use fornax::metrics::{Average, AveragePrecision, ConfusionMatrix, Metric, RocAuc};
use fornax::nn::{Dropout, Forward, Linear, Module};
use fornax::optim::{AdamW, Optimizer};
use fornax::plot::Chart;
use fornax::{Device, Result, Tensor, nn};

const PATIENCE: usize = 15;
const EPOCHS: u64 = 300;

#[derive(Module)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
    dropout: Dropout,
}

impl Forward for Mlp {
    /// Features `[N, 30]` to logits `[N, 2]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.dropout.forward(&self.fc1.forward(x)?.try_relu()?)?;
        let x = self.dropout.forward(&self.fc2.forward(&x)?.try_relu()?)?;
        self.fc3.forward(&x)
    }
}

/// The model's logits in evaluation mode.
fn evaluate(model: &Mlp, x: &Tensor) -> Result<Tensor> {
    model.eval();
    let logits = fornax::no_grad(|| model.forward(x));
    model.train();
    logits
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(4);
    let table = Table::read(concat!(env!("CARGO_MANIFEST_DIR"), "/data/breast_cancer.csv"))?;
    let names: Vec<&str> = table.columns().iter().map(String::as_str).filter(|&c| c != "target").collect();
    let whole = TensorDataset::new([table.tensor(&names, device)?, table.labels("target", device)?])?;
    let labels = whole.tensors()[1].to_vec::<i32>()?;

    // Three tenths are for the test. Of the rest a fifth is for validation, with the same share of each class.
    let (test, rest): (Vec<usize>, Vec<usize>) = (0..table.rows()).partition(|i| (i * 7919) % 10 < 3);
    let rest_labels: Vec<i32> = rest.iter().map(|&i| labels[i]).collect();
    let parts = stratified_rows(&rest_labels, &[0.8, 0.2], 1)?;
    let rows = |part: &[usize]| part.iter().map(|&i| rest[i]).collect::<Vec<_>>();
    let [x_train, y_train] = whole.pick(&rows(&parts[0]))?;
    let [x_valid, y_valid] = whole.pick(&rows(&parts[1]))?;
    let [x_test, y_test] = whole.pick(&test)?;

    // Mean 0 and deviation 1, by the rows to train on alone.
    let mean = x_train.try_mean_keepdim(0)?;
    let deviation = x_train.try_sub(&mean)?.try_square()?.try_mean_keepdim(0)?.try_sqrt()?;
    let scaled = |x: &Tensor| x.try_sub(&mean)?.try_div(&deviation);
    let train = TensorDataset::new([scaled(&x_train)?, y_train])?;
    let (x_valid, x_test) = (scaled(&x_valid)?, scaled(&x_test)?);
    println!("{} rows to train on, {} for validation, {} for the test", train.len(), y_valid.numel(), test.len());

    let model = Mlp {
        fc1: Linear::try_new(30, 32, device)?,
        fc2: Linear::try_new(32, 16, device)?,
        fc3: Linear::try_new(16, 2, device)?,
        dropout: Dropout::new(0.2),
    };
    let mut optimizer = AdamW::new(model.parameters(), 2e-3);
    let loader = DataLoader::new(train, 32).shuffle(9);

    // The best epoch so far: its validation loss, its number, its weights (values, which later updates do not change).
    let mut best: (f32, u64, StateDict) = (f32::INFINITY, 0, model.state_dict());
    let mut curves: [Vec<(f64, f64)>; 2] = Default::default();
    for epoch in 1..=EPOCHS {
        let mut total = 0.0;
        for batch in loader.epoch(epoch) {
            let [x, y] = batch?;
            let loss = nn::cross_entropy(&model.forward(&x)?, &y)?;
            let grads = loss.backward()?;
            optimizer.step(grads)?;
            total += loss.item::<f32>()?;
        }
        let training = total / loader.len() as f32;
        let validation = nn::cross_entropy(&evaluate(&model, &x_valid)?, &y_valid)?.item::<f32>()?;
        curves[0].push((epoch as f64, training.into()));
        curves[1].push((epoch as f64, validation.into()));
        if validation < best.0 {
            best = (validation, epoch, model.state_dict());
        }
        if epoch % 5 == 0 {
            println!("epoch {epoch:>3}  loss {training:.4}  validation {validation:.4}");
        }
        if epoch - best.1 >= PATIENCE as u64 {
            println!("stopped after epoch {epoch}: no better validation loss since epoch {}", best.1);
            break;
        }
    }
    model.load_state_dict(&best.2, true)?;

    let logits = evaluate(&model, &x_test)?;
    // Class 0 is malignant: the one that must not be missed.
    let malignant = logits.try_softmax(-1)?.try_select(1, 0)?;
    let is_malignant = y_test.try_eq(0)?;
    let (mut matrix, mut roc, mut precision) = (ConfusionMatrix::new(2), RocAuc::new(), AveragePrecision::new());
    matrix.update(&logits, &y_test)?;
    roc.update(&malignant, &is_malignant)?;
    precision.update(&malignant, &is_malignant)?;
    println!("\ntest                 taken for malignant   benign");
    println!("  malignant          {:>19} {:>8}", matrix.counts()[0], matrix.counts()[1]);
    println!("  benign             {:>19} {:>8}", matrix.counts()[2], matrix.counts()[3]);
    println!("  accuracy           {:.4}", matrix.accuracy()?);
    println!("  precision, recall  {:.4}, {:.4} of malignant", matrix.precision(Average::Class(0))?, matrix.recall(Average::Class(0))?);
    println!("  F1 (macro)         {:.4}", matrix.f1(Average::Macro)?);
    println!("  area under ROC     {:.4}", roc.compute()?);
    println!("  average precision  {:.4}", precision.compute()?);

    let [training, validation] = curves;
    Chart::new("loss by epoch").series("training", training).series("validation", validation).save("out/early_stopping.png")?;
    println!("drew out/early_stopping.png");
    Ok(())
}
