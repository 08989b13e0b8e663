//! The digits again, now with the `Trainer` and what hangs on it: a learning rate found by a range test, a one-cycle schedule, validation, early
//! stopping, checkpoints, logs (CSV, JSON lines, TensorBoard), curves. Ctrl-C saves and leaves; the next run goes on from there.
//!
//! ```text
//! cargo run --release --example 09_trainer
//! tensorboard --logdir out/trainer
//! ```
//!
//! It leaves in `out/trainer` the checkpoints, the logs, and `curves.svg`, `curves.png` and `range_test.svg`.

use fornax::data::transforms::{RandomAffine, Transform};
use fornax::data::{DataLoader, Dataset, Filter, Image, Rows, TensorDataset, digits};
use fornax::metrics::{Accuracy, F1, Metric};
use fornax::nn::{BatchNorm2d, Conv2d, Dropout, Flatten, Forward, Linear, MaxPool2d, ReLU, Sequential};
use fornax::nn::{Module, cross_entropy};
use fornax::optim::AdamW;
use fornax::optim::lr_scheduler::OneCycleLR;
use fornax::plot::Chart;
use fornax::train::{
    Checkpoint, Checkpointer, CsvLogger, Curves, EarlyStopping, Ended, Goal, JsonLogger, LrFinder, Per, Step, TensorBoard, Trainer,
    evaluate,
};
use fornax::{Device, Result, Tensor};

const FOLDER: &str = "out/trainer";
const EPOCHS: u64 = 20;
const BATCH: usize = 64;

fn model(device: Device) -> Result<Sequential> {
    Ok(Sequential::new()
        .add(Conv2d::try_new(1, 16, 3, device)?.padding(1))
        .add(BatchNorm2d::try_new(16, device)?)
        .add(ReLU)
        .add(Conv2d::try_new(16, 32, 3, device)?.padding(1))
        .add(BatchNorm2d::try_new(32, device)?)
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Conv2d::try_new(32, 32, 3, device)?.padding(1))
        .add(BatchNorm2d::try_new(32, device)?)
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Flatten::default())
        .add(Dropout::new(0.2))
        .add(Linear::try_new(32 * 2 * 2, 10, device)?))
}

/// What is done with a batch: the loss, and the logits for the metrics.
fn step(model: &Sequential, images: &Tensor, labels: &Tensor) -> Result<Step> {
    let logits = model.forward(images)?;
    Ok(Step::new(cross_entropy(&logits, labels)?).output(&logits, labels))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::from_env()?;
    fornax::manual_seed(7);

    // Every tenth training image is for validation. Worker threads turn, move and scale the others a little, differently in each epoch.
    let digits = digits(device)?;
    let (held_out, trained): (Vec<usize>, Vec<usize>) = (0..digits.train.len()).partition(|i| i % 10 == 9);
    let valid = DataLoader::new(TensorDataset::new(digits.train.pick(&held_out)?)?, 128);
    let test = DataLoader::new(&digits.test, 128);
    let [images, labels] = digits.train.pick(&trained)?;
    let (pixels, labels) = (images.to_vec::<f32>()?, labels.to_vec::<i32>()?);
    let images: Vec<Image> = pixels.chunks(64).map(|p| Image::new(1, 8, 8, p.to_vec())).collect::<Result<_>>()?;
    let augment = RandomAffine::new(8.0).translate(0.07, 0.07).scale(0.9, 1.1).filter(Filter::Bilinear);
    let rows = Rows::new(images.into_iter().zip(labels).collect()).map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label)));
    let train = DataLoader::new(rows, BATCH).shuffle(7).drop_last(true).workers(2).device(device);

    let model = model(device)?;
    println!("{}", model.summary([BATCH, 1, 8, 8])?);

    // Which learning rate? The one at which the loss falls most steeply; the test leaves no trace in the model.
    let mut optimizer = AdamW::new(model.parameters(), 1e-3);
    let curve = LrFinder::new().range(1e-5, 1.0).run(&model, &mut optimizer, &train, |m, (x, y)| step(m, &x, &y))?;
    let chart = Chart::new("smoothed loss by learning rate").series("", curve.points.iter().copied()).log_x();
    chart.save(format!("{FOLDER}/range_test.svg"))?;
    let peak = curve.suggestion().unwrap_or(3e-3);
    println!("the range test suggests a learning rate of {peak:.1e}: the peak of the cycle\n");

    let mut early = EarlyStopping::new("val_loss").patience(12).restore_best(true);
    let report = Trainer::new(&model, optimizer)
        .epochs(EPOCHS)
        .schedule(OneCycleLR::new(peak, EPOCHS * train.len() as u64), Per::Step)
        .metric(Accuracy::new())
        .validation(&valid, |m, [x, y]| step(m, &x, &y), vec![Box::new(Accuracy::new())])
        .callback(&mut early)
        .callback(CsvLogger::new(format!("{FOLDER}/log.csv")))
        .callback(JsonLogger::new(format!("{FOLDER}/log.jsonl")).every_steps(10))
        .callback(TensorBoard::new(FOLDER).every_steps(10).histograms())
        .callback(Curves::new(format!("{FOLDER}/curves.svg")))
        .callback(Curves::new(format!("{FOLDER}/curves.png")))
        .callback(Checkpointer::new(format!("{FOLDER}/checkpoints")).best("val_loss", Goal::Min).keep(2))
        .resume(format!("{FOLDER}/checkpoints"))
        .fit(&train, |m, (x, y)| step(m, &x, &y))?;
    if report.ended == Ended::Interrupted {
        println!("saved after step {}; run it again to go on", report.steps);
        return Ok(());
    }
    let wait = 100.0 * report.waited.as_secs_f64() / report.elapsed.as_secs_f64().max(1e-9);
    println!("\n{} epochs in {:.1} s, {wait:.1} % of it waiting for data", report.epochs, report.elapsed.as_secs_f64());
    println!("the best was epoch {}, with a validation loss of {:.4}", early.best_epoch(), early.best());

    // The best checkpoint, as another program would load it.
    if let Some(best) = Checkpointer::best_of(format!("{FOLDER}/checkpoints"))? {
        model.load_state_dict(Checkpoint::load(&best)?.part("model")?, true)?;
        println!("loaded {}", best.display());
    }
    model.eval();
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::new()), Box::new(F1::new(10, fornax::metrics::Average::Macro))];
    let result = fornax::no_grad(|| evaluate(&model, &test, &mut |m, [x, y]: [Tensor; 2]| step(m, &x, &y), &mut metrics))?;
    println!("test: {result}");

    // Done: the next run starts anew.
    std::fs::remove_dir_all(format!("{FOLDER}/checkpoints"))?;
    Ok(())
}
