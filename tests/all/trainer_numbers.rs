//! The trainer's numbers: who watches them in epochs that have none, averages that are validated, names, losses that overflow.

use crate::harness::gpu;
use fornax::data::{DataLoader, TensorDataset};
use fornax::metrics::{Accuracy, MeanSquaredError, Metric, TopK};
use fornax::nn::{self, Forward, Linear, Module};
use fornax::optim::lr_scheduler::ReduceLROnPlateau;
use fornax::optim::{AdamW, AveragedModel, GradScaler, SGD};
use fornax::train::*;
use fornax::{DType, Device, Error, Result, Tensor};
use std::cell::RefCell;
use std::path::Path;

/// Two batches an epoch, of ones.
fn ones() -> Result<DataLoader<TensorDataset<1>, [Tensor; 1]>> {
    Ok(DataLoader::new(TensorDataset::new([Tensor::ones([4, 1], Device::cpu())])?, 2))
}

fn line() -> Result<Linear> {
    let model = Linear::new(1, 1, Device::cpu()).no_bias();
    model.weight.set(Tensor::full([1, 1], 3.0, Device::cpu()))?;
    Ok(model)
}

fn loss(model: &Linear, [x]: [Tensor; 1]) -> Result<Tensor> {
    nn::mse_loss(&model.forward(&x)?, &x)
}

/// A validation that gives these losses, one after the other, and notes the weight that it sees.
fn validated<'a>(losses: &'a [f64], seen: &'a RefCell<Vec<f32>>) -> impl FnMut(&Linear) -> Result<Logs> + 'a {
    move |model| {
        seen.borrow_mut().push(model.weight.value().item()?);
        Ok(Logs::from_iter([("loss", losses[seen.borrow().len() - 1])]))
    }
}

#[test]
fn epochs_without_a_validation_are_passed_over() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let (model, loader, seen) = (line()?, ones()?, RefCell::default());
    let mut early = EarlyStopping::new("val_loss").patience(2).restore_best(true);
    let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .epochs(20)
        .validate_with(validated(&[1.0, 0.5, 0.7, 0.6], &seen))
        .validate_every(2)
        .schedule(ReduceLROnPlateau::new().patience(0), Per::Monitored("val_loss".into()))
        .callback(&mut early)
        .callback(Checkpointer::new(folder.path()).best("val_loss", Goal::Min))
        .progress(false);
    let report = trainer.fit(&loader, loss)?;
    let lr = trainer.optimizer().lr();
    drop(trainer);
    assert_eq!(report.history.series("val_loss"), [(2.0, 1.0), (4.0, 0.5), (6.0, 0.7), (8.0, 0.6)]);
    let why = "val_loss has not got better than 0.500000 (epoch 4) in the 2 epochs since that have it";
    assert_eq!((report.epochs, report.ended), (8, Ended::Stopped(why.into())));
    assert_eq!((early.best(), early.best_epoch()), (0.5, 4));
    assert_eq!(model.weight.value().item::<f32>()?, seen.borrow()[1]);
    // Two epochs with a worse number, two reductions.
    assert!((lr - 0.001).abs() < 1e-12, "{lr}");
    assert!(Checkpointer::best_of(folder.path())?.unwrap().ends_with("step-00000008"));
    assert!(Checkpointer::last(folder.path())?.unwrap().ends_with("step-00000016"));
    Ok(())
}

#[test]
fn a_number_that_nobody_logs_is_an_error_when_it_could_be_there() -> Result<()> {
    let (model, loader) = (line()?, ones()?);
    let trainer = |every: u64| {
        let losses = |_: &Linear| Ok(Logs::from_iter([("loss", 1.0)]));
        let optimizer = SGD::new(model.parameters(), 0.1);
        Trainer::new(&model, optimizer).epochs(9).validate_with(losses).validate_every(every).progress(false)
    };
    let folder = tempfile::tempdir().unwrap();
    let says = |trainer: Trainer<'_, Linear>, epoch: u64| {
        let mut trainer = trainer;
        let e = trainer.fit(&loader, loss).unwrap_err().to_string();
        assert!(e.contains(&format!("no number \"val_lss\" was logged in epoch {epoch}; there are loss, lr, val_loss")), "{e}");
    };
    for every in [1, 2, 3] {
        says(trainer(every).callback(EarlyStopping::new("val_lss")), every);
        says(trainer(every).callback(Checkpointer::new(folder.path()).best("val_lss", Goal::Min)), every);
        says(trainer(every).schedule(ReduceLROnPlateau::new(), Per::Monitored("val_lss".into())), every);
    }
    Ok(())
}

/// Ends the training after a step, as Ctrl-C does.
pub struct StopAt(pub u64);

impl Callback for StopAt {
    fn on_step(&mut self, run: &mut Run<'_>) -> Result<()> {
        if run.step() == self.0 {
            run.stop("enough");
        }
        Ok(())
    }
}

#[test]
fn a_stop_at_the_end_of_an_epoch_adds_no_validation() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let run = |folder: &Path, stop: Option<u64>| -> Result<(f32, Report)> {
        let (model, loader) = (line()?, ones()?);
        let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1).momentum(0.9))
            .epochs(7)
            // It gets better and worse: each validation more or less changes the learning rate.
            .validate_with(|m| Ok(Logs::from_iter([("loss", f64::from(m.weight.value().item::<f32>()? * 40.0).sin())])))
            .validate_every(3)
            .schedule(ReduceLROnPlateau::new().patience(0), Per::Monitored("val_loss".into()))
            .callback(EarlyStopping::new("val_loss").patience(100).restore_best(true))
            .callback(Checkpointer::new(folder).best("val_loss", Goal::Min))
            .resume(folder)
            .progress(false);
        if let Some(stop) = stop {
            trainer = trainer.callback(StopAt(stop));
        }
        let report = trainer.fit(&loader, loss)?;
        Ok((model.weight.value().item()?, report))
    };
    let (straight, report) = run(&folder.path().join("straight"), None)?;
    let validated: Vec<f64> = report.history.series("val_loss").iter().map(|p| p.0).collect();
    assert_eq!(validated, [3.0, 6.0, 7.0]);
    // Two steps an epoch: ends of epochs with a validation and without, and the middle of one.
    for stops in [vec![2], vec![4, 8], vec![6], vec![5, 10]] {
        let own = folder.path().join(format!("{stops:?}"));
        for stop in &stops {
            assert_eq!(run(&own, Some(*stop))?.1.steps, *stop);
        }
        let (resumed, own_report) = run(&own, None)?;
        assert_eq!((resumed, &own_report.history), (straight, &report.history), "{stops:?}");
        let best = |f: &Path| Checkpointer::best_of(f).unwrap().and_then(|p| p.file_name().map(|n| n.to_owned()));
        assert_eq!(best(&own), best(&folder.path().join("straight")), "{stops:?}");
    }
    Ok(())
}

#[test]
fn the_best_weights_are_the_averages_that_were_validated() -> Result<()> {
    for averaged in [false, true] {
        let (model, loader, seen) = (line()?, ones()?, RefCell::default());
        let mut ema = AveragedModel::ema(&model, 0.75)?;
        let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1))
            .epochs(4)
            .validate_with(validated(&[1.0, 0.5, 0.7, 0.6], &seen))
            .callback(EarlyStopping::new("val_loss").restore_best(true))
            .progress(false);
        if averaged {
            trainer = trainer.average(&mut ema);
        }
        trainer.fit(&loader, loss)?;
        drop(trainer);
        assert_eq!(model.weight.value().item::<f32>()?, seen.borrow()[1], "averaged {averaged}");
        if averaged {
            // The average itself is that of the end.
            assert_eq!(ema.weights()["weight"].item::<f32>()?, seen.borrow()[3]);
        }
    }
    Ok(())
}

#[test]
fn metrics_of_one_name_are_an_error_and_names_can_be_given() -> Result<()> {
    let set = TensorDataset::new([
        Tensor::linspace(-1.0, 1.0, 12, Device::cpu()).reshape([4, 3]),
        Tensor::zeros(4, (DType::I32, Device::cpu())),
    ])?;
    let loader = DataLoader::new(&set, 2);
    let model = Linear::new(3, 4, Device::cpu());
    let step = |m: &Linear, [x, y]: [Tensor; 2]| {
        let logits = m.forward(&x)?;
        Ok(Step::new(nn::cross_entropy(&logits, &y)?).output(&logits, &y).value("width", x.try_sum(())?))
    };
    let trainer = || Trainer::new(&model, SGD::new(model.parameters(), 0.1)).progress(false);
    let says = |result: Result<Report>, what: &str| {
        let e = result.unwrap_err().to_string();
        assert!(e.contains(what) && e.contains("Metric::named"), "{e}");
    };
    says(trainer().metric(TopK::new(1)).metric(TopK::new(2)).fit(&loader, step), "two metrics are called \"top_k\"");
    says(
        trainer().validation(&loader, step, vec![Box::new(TopK::new(1)), Box::new(TopK::new(2))]).fit(&loader, step),
        "two metrics are called \"top_k\"",
    );
    says(trainer().metric(Accuracy::new().named("width")).fit(&loader, step), "a metric and a number of the step are called \"width\"");
    let named = |k, name| TopK::new(k).named(name);
    let report = trainer()
        .metric(named(1, "top_1"))
        .metric(named(4, "top_4"))
        .validation(&loader, step, vec![Box::new(named(1, "top_1")), Box::new(named(4, "top_4"))])
        .fit(&loader, step)?;
    assert_eq!((report.logs.get("top_4"), report.logs.get("val_top_4")), (Some(1.0), Some(1.0)));
    assert!(report.logs.get("top_1").is_some() && report.logs.get("val_top_1").is_some(), "{}", report.logs);
    Ok(())
}

/// With `FORNAX_TENSORBOARD_OUT` the files stay there for `tests/golden/check_tensorboard.py`.
#[test]
fn event_files_for_tensorboard() -> Result<()> {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("FORNAX_TENSORBOARD_OUT").map_or(temporary.path().to_path_buf(), Into::into);
    let (model, loader) = (line()?, ones()?);
    Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .epochs(5)
        .validation(&loader, loss, vec![])
        .validate_every(2)
        .callback(TensorBoard::new(&folder).every_steps(1).histograms())
        .callback(JsonLogger::new(folder.join("log.jsonl")).every_steps(1))
        .progress(false)
        .fit(&loader, loss)?;
    let lines = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    assert_eq!((lines.lines().count(), lines.matches("val_loss").count()), (15, 3));
    let is_events = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("events.out.tfevents.");
    assert!(std::fs::read_dir(&folder).unwrap().flatten().any(|e| is_events(&e)));
    Ok(())
}

/// The scale of the scaler at the end, and the losses of all steps.
#[derive(Default)]
struct Scale {
    scale: f64,
    losses: Vec<f64>,
}

impl Callback for Scale {
    fn on_step_logs(&mut self, _step: u64, logs: &Logs, _run: &mut Run<'_>) -> Result<()> {
        self.losses.extend(logs.get("loss"));
        Ok(())
    }
    fn wants_checkpoint(&mut self, when: When, _run: &Run<'_>) -> bool {
        when == When::Leave
    }
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, _run: &mut Run<'_>) -> Result<()> {
        self.scale = checkpoint.part("scaler")?["scale"].item()?;
        Ok(())
    }
}

#[test]
fn a_loss_that_overflows_in_a_skipped_step_does_not_end_the_training() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        // The first row times a weight of 2 is more than f16 holds, in each epoch.
        let mut rows = vec![6e4f32, 6e4];
        rows.extend((0..30).map(|i| i as f32 / 15.0 - 1.0));
        let x = Tensor::from_vec(rows, [16, 2], device)?;
        let set = TensorDataset::new([x.clone(), x.sum(1).clamp(-2.0, 2.0)])?;
        let model = Linear::new(2, 1, device);
        model.weight.set(Tensor::full([1, 2], 2.0, device))?;
        let step = |m: &Linear, [x, y]: [Tensor; 2]| {
            let y_hat = m.forward(&x)?.try_squeeze(-1)?;
            Ok(Step::new(nn::mse_loss(&y_hat, &y)?).output(&y_hat, &y))
        };
        let mut seen = Scale::default();
        let report = Trainer::new(&model, AdamW::new(model.parameters(), 0.02))
            .epochs(5)
            .autocast(DType::F16)?
            .metric(MeanSquaredError::new())
            .callback(&mut seen)
            .progress(false)
            .fit(&DataLoader::new(&set, 4), step)?;
        assert_eq!((report.steps, report.ended), (20, Ended::Finished), "{device}");
        let overflown = seen.losses.iter().filter(|l| !l.is_finite()).count();
        assert_eq!((overflown, seen.losses.len()), (5, 20), "{device}: {:?}", seen.losses);
        // Halved by each of them.
        assert!(seen.scale <= 65536.0 / 32.0 && seen.scale > 0.0, "{device}: {}", seen.scale);
        assert!(report.history.epochs().iter().all(|(_, logs)| logs.iter().all(|(_, v)| v.is_finite())), "{device}: {}", report.logs);
        let losses = report.history.series("loss");
        assert!(losses[4].1 < losses[0].1, "{device}: {losses:?}");
        assert!(model.state_dict().values().all(|t| t.to_vec::<f32>().unwrap().iter().all(|w| w.is_finite())));

        // A step that was taken has no such excuse.
        let nan = |m: &Linear, [x, y]: [Tensor; 2]| nn::mse_loss(&m.forward(&x)?.try_squeeze(-1)?, &y)?.try_add(f64::NAN);
        let calm = TensorDataset::new([x.narrow(0, 1, 15), x.narrow(0, 1, 15).sum(1)])?;
        let mut trainer = Trainer::new(&model, AdamW::new(model.parameters(), 0.02))
            .grad_scaler(GradScaler::new(device).init_scale(2.0)?)
            .progress(false);
        let e = trainer.fit(&DataLoader::new(&calm, 5), nan).unwrap_err();
        assert!(matches!(e, Error::NotFinite { step: 1, .. }), "{device}: {e}");
    }
    Ok(())
}
