//! The trainer: what it computes, in which order, how it stops, how it goes on.

use crate::harness::{gpu, isolated};
use crate::trainer_numbers::StopAt;
use fornax::data::transforms::{RandomAffine, Transform};
use fornax::data::{DataLoader, Dataset, Image, Loader, Rows, Stream, StreamLoader, TensorDataset, digits};
use fornax::io::StateDict;
use fornax::metrics::Accuracy;
use fornax::nn::{self, BatchNorm2d, Conv2d, Dropout, Flatten, Forward, Linear, MaxPool2d, Module, ReLU, Sequential};
use fornax::optim::lr_scheduler::{CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau};
use fornax::optim::{AdamW, AveragedModel, GradScaler, Optimizer, SGD};
use fornax::train::*;
use fornax::{Device, Error, Gradients, Result, Tensor};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn cnn(device: Device) -> Sequential {
    Sequential::new()
        .add(Conv2d::new(1, 4, 3, device).padding(1))
        .add(BatchNorm2d::new(4, device))
        .add(ReLU)
        .add(MaxPool2d::new(2))
        .add(Dropout::new(0.2))
        .add(Flatten::default())
        .add(Linear::new(64, 10, device))
}

fn step(model: &Sequential, [x, y]: [Tensor; 2]) -> Result<Step> {
    let logits = model.forward(&x)?;
    Ok(Step::new(nn::cross_entropy(&logits, &y)?).output(&logits, &y))
}

/// The first rows of the digits.
fn rows(n: usize, device: Device) -> Result<TensorDataset<2>> {
    let digits = digits(device)?;
    let [images, labels] = digits.train.tensors();
    TensorDataset::new([images.narrow(0, 0, n), labels.narrow(0, 0, n)])
}

fn weights(model: &dyn Module) -> Vec<(String, Vec<f64>)> {
    model.state_dict().into_iter().map(|(name, t)| (name, t.to_vec::<f64>().unwrap())).collect()
}

#[test]
fn it_learns_on_both_devices() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let _seed = fornax::testing::seed(5);
        let set = rows(96, device)?;
        let (train, valid) = (DataLoader::new(&set, 16).shuffle(1), DataLoader::new(&set, 32));
        let model = cnn(device);
        let report = Trainer::new(&model, AdamW::new(model.parameters(), 1e-2))
            .epochs(4)
            .schedule(OneCycleLR::new(1e-2, 4 * 6), Per::Step)
            .metric(Accuracy::new())
            .validation(&valid, step, vec![Box::new(Accuracy::new())])
            .progress(false)
            .fit(&train, step)?;
        let losses = report.history.series("loss");
        assert!(losses[3].1 < 0.7 * losses[0].1, "{device}: {losses:?}");
        assert!(report.logs.get("val_accuracy").unwrap() > 0.6, "{device}: {}", report.logs);
        assert!(report.logs.get("accuracy").unwrap() > 0.5);
        assert_eq!((report.epochs, report.steps, report.rows, report.ended), (4, 24, 4 * 96, Ended::Finished));
    }
    Ok(())
}

#[test]
fn it_computes_what_a_visible_loop_does() {
    isolated("trainer::like_a_visible_loop");
}

/// Bit for bit.
#[test]
#[ignore = "runs in a process of its own, for it sets the process's seed"]
fn like_a_visible_loop() {
    let device = Device::cpu();
    let loader = DataLoader::new(rows(50, device).unwrap(), 16).shuffle(3).workers(2);
    fornax::manual_seed(9);
    let by_hand = cnn(device);
    let mut optimizer = AdamW::new(by_hand.parameters(), 1e-2);
    let mut means = Vec::new();
    for epoch in 0..2 {
        let mut mean = Mean::new();
        for batch in loader.epoch(epoch) {
            let [x, y] = batch.unwrap();
            let loss = nn::cross_entropy(&by_hand.forward(&x).unwrap(), &y).unwrap();
            let grads = loss.backward().unwrap();
            optimizer.step(grads).unwrap();
            mean.update(loss.item::<f32>().unwrap().into(), y.numel() as f64);
        }
        means.push(mean.value().unwrap());
    }
    fornax::manual_seed(9);
    let model = cnn(device);
    let report = Trainer::new(&model, AdamW::new(model.parameters(), 1e-2)).epochs(2).progress(false).fit(&loader, step).unwrap();
    assert_eq!(weights(&model), weights(&by_hand));
    assert_eq!(report.history.series("loss").into_iter().map(|p| p.1).collect::<Vec<_>>(), means);
}

#[test]
fn accumulated_batches_are_one_batch() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::linspace(-1.0, 1.0, 24, device).reshape([12, 2]);
        let set = TensorDataset::new([x.clone(), x.sum(1) * 2.0])?;
        let train = |batch: usize, accumulate: usize| -> Result<(Vec<f32>, Report)> {
            let model = Linear::new(2, 1, device).no_bias();
            model.weight.set(Tensor::from_slice(&[0.5f32, -0.25], [1, 2], device)?)?;
            let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1)).epochs(3).accumulate(accumulate).progress(false);
            let report = trainer.fit(&DataLoader::new(&set, batch), |m, [x, y]| nn::mse_loss(&m.forward(&x)?.try_squeeze(-1)?, &y))?;
            Ok((model.weight.value().to_vec()?, report))
        };
        let (whole, report) = train(6, 1)?;
        let (parts, of_parts) = train(2, 3)?;
        assert_eq!((report.steps, of_parts.steps), (6, 6));
        for (a, b) in whole.iter().zip(&parts) {
            assert!((a - b).abs() < 1e-6, "{device}: {whole:?} {parts:?}");
        }
        // 12 rows in batches of one: 5 + 5 + 2, the last of which makes a step of its own, of its own mean.
        assert_eq!(train(1, 5)?.1.steps, 9);
    }
    Ok(())
}

/// Writes down what is called.
#[derive(Default)]
struct Diary(Vec<String>);

impl Callback for Diary {
    fn on_fit_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("fit {}", run.epochs()));
        Ok(())
    }
    fn on_epoch_start(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("epoch {}", run.epoch()));
        Ok(())
    }
    fn on_gradients(&mut self, gradients: &mut Gradients, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("gradients {} of {}", gradients.len(), run.step()));
        Ok(())
    }
    fn on_step(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("step {} batch {}/{:?}", run.step(), run.batch(), run.batches()));
        Ok(())
    }
    fn on_step_logs(&mut self, step: u64, logs: &Logs, _run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("logs {step} {}", logs.iter().map(|l| l.0).collect::<Vec<_>>().join(" ")));
        Ok(())
    }
    fn on_validation_start(&mut self, _run: &mut Run<'_>) -> Result<()> {
        self.0.push("validation".into());
        Ok(())
    }
    fn on_validation_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("validated {}", run.logs().get("val_loss").is_some()));
        run.log("own", 7.0);
        Ok(())
    }
    fn on_epoch_end(&mut self, run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("end {} {}", run.epoch(), run.logs().iter().map(|l| l.0).collect::<Vec<_>>().join(" ")));
        Ok(())
    }
    fn on_fit_end(&mut self, _run: &mut Run<'_>) -> Result<()> {
        self.0.push("over".into());
        Ok(())
    }
    fn wants_checkpoint(&mut self, when: When, run: &Run<'_>) -> bool {
        self.0.push(format!("{when:?}"));
        run.step() == 2
    }
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, _run: &mut Run<'_>) -> Result<()> {
        self.0.push(format!("checkpoint {:?}", checkpoint.loader()?.map(|l| l.batch)));
        Ok(())
    }
}

#[test]
fn callbacks_are_called_in_order_and_losses_come_one_step_late() -> Result<()> {
    let set = TensorDataset::new([Tensor::ones([6, 2], Device::cpu())])?;
    let loader = DataLoader::new(&set, 2);
    let model = Linear::new(2, 1, Device::cpu());
    let step = |m: &Linear, [x]: [Tensor; 1]| Ok(Step::new(m.forward(&x)?.try_square()?.try_mean(())?).value("width", x.try_sum(())?));
    let mut diary = Diary::default();
    Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .callback(&mut diary)
        .validation(&loader, step, vec![])
        .progress(false)
        .fit(&loader, step)?;
    let want = [
        "fit 1",
        "epoch 0",
        "gradients 2 of 0",
        "step 1 batch 1/Some(3)",
        "Step",
        "gradients 2 of 1",
        "step 2 batch 2/Some(3)",
        "logs 1 loss width lr",
        "Step",
        // What is not read yet is read before a checkpoint.
        "logs 2 loss width lr",
        "checkpoint Some(2)",
        "gradients 2 of 2",
        "step 3 batch 3/Some(3)",
        "Step",
        "logs 3 loss width lr",
        "validation",
        "validated true",
        "end 1 loss width lr val_loss val_width own",
        "Leave",
        "over",
    ];
    assert_eq!(diary.0, want);
    Ok(())
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_that_names_its_place() -> Result<()> {
    let set = TensorDataset::new([Tensor::from_slice(&[1.0f32, 1.0, 1.0, f32::NAN], [4, 1], Device::cpu())?])?;
    let loader = DataLoader::new(&set, 1);
    let train = |stop: bool| {
        let model = Linear::new(1, 1, Device::cpu());
        let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.0)).epochs(2).stop_on_nan(stop).progress(false);
        trainer.fit(&loader, |m, [x]| m.forward(&x)?.try_mean(()))
    };
    let e = train(true).unwrap_err();
    assert!(matches!(e, Error::NotFinite { epoch: 1, step: 4, batch: 4, .. }), "{e:?}");
    assert!(e.to_string().starts_with("the loss is NaN in epoch 1, batch 4, optimizer step 4: lower"), "{e}");
    let report = train(false)?;
    assert!(report.steps == 8 && report.logs.get("loss").unwrap().is_nan());
    Ok(())
}

#[test]
fn wrong_use_is_an_error() -> Result<()> {
    let cpu = Device::cpu();
    let model = Linear::new(2, 1, cpu);
    let trainer = || Trainer::new(&model, SGD::new(model.parameters(), 0.1)).progress(false);
    let empty = TensorDataset::new([Tensor::zeros([0, 2], cpu)])?;
    let some = TensorDataset::new([Tensor::zeros([4, 2], cpu)])?;
    let loader = DataLoader::new(&some, 2);
    let loss = |m: &Linear, [x]: [Tensor; 1]| m.forward(&x)?.try_mean(());
    let says = |e: Error, what: &str| assert!(e.to_string().contains(what), "{e}");
    says(trainer().fit(&DataLoader::new(&empty, 2), loss).unwrap_err(), "no batch");
    says(trainer().fit(&loader, |m, [x]: [Tensor; 1]| m.forward(&x)).unwrap_err(), "one element for the loss");
    says(trainer().fit(&loader, |_, [x]: [Tensor; 1]| x.try_mean(())).unwrap_err(), "backward");
    says(trainer().metric(Accuracy::new()).fit(&loader, loss).unwrap_err(), "no output");
    says(
        trainer().callback(EarlyStopping::new("val_loss")).fit(&loader, loss).unwrap_err(),
        "no number \"val_loss\" was logged in epoch 1; there are loss, lr",
    );
    says(trainer().schedule(ReduceLROnPlateau::new(), Per::Monitored("x".into())).fit(&loader, loss).unwrap_err(), "no number \"x\"");
    says(trainer().fit(&loader, |_, _| Err::<Tensor, _>(Error::argument("mine", "broken"))).unwrap_err(), "mine: broken");
    says(trainer().resume("/dev/null").fit(&loader, loss).map(|_| ()).err().unwrap_or(Error::argument("x", "Not a directory")), "irectory");
    // No epoch is no error.
    assert_eq!(trainer().epochs(0).fit(&loader, loss)?.steps, 0);
    Ok(())
}

#[test]
fn early_stopping_waits_and_gives_the_best_weights_back() -> Result<()> {
    let cpu = Device::cpu();
    // NaN first, then worse within min_delta.
    let mut early = EarlyStopping::new("x").goal(Goal::Max).patience(2).min_delta(0.1);
    let stops: Vec<bool> = [f64::NAN, 0.5, 0.55, 0.7, 0.75, f64::NAN].iter().map(|&v| early.update(v)).collect();
    assert_eq!(stops, [false, false, false, false, false, true]);
    assert_eq!((early.best(), early.best_epoch()), (0.7, 4));
    // A model whose validation gets worse from the third epoch on.
    let model = Linear::new(1, 1, cpu).no_bias();
    let set = TensorDataset::new([Tensor::ones([2, 1], cpu)])?;
    let loader = DataLoader::new(&set, 2);
    let seen = std::cell::RefCell::new(Vec::new());
    let mut early = EarlyStopping::new("val_loss").patience(3).restore_best(true);
    let report = Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .epochs(50)
        .validate_with(|m| {
            seen.borrow_mut().push(m.weight.value().item::<f32>()?);
            let n = seen.borrow().len() as f64;
            Ok(Logs::from_iter([("loss", (n - 3.0).abs())]))
        })
        .callback(&mut early)
        .progress(false)
        .fit(&loader, |m, [x]| m.forward(&x)?.try_mean(()))?;
    assert_eq!(report.epochs, 6);
    assert!(matches!(&report.ended, Ended::Stopped(why) if why.contains("val_loss") && why.contains("epoch 3")), "{:?}", report.ended);
    assert_eq!(early.best_epoch(), 3);
    assert_eq!(model.weight.value().item::<f32>()?, seen.borrow()[2]);
    assert_ne!(seen.borrow()[2], seen.borrow()[5]);
    Ok(())
}

#[test]
fn validation_leaves_modes_as_they_were() -> Result<()> {
    let (first, second) = (Dropout::new(0.5), Dropout::new(0.5));
    second.eval();
    let model = Sequential::new().add(Linear::new(1, 1, Device::cpu())).add(first).add(second);
    let set = TensorDataset::new([Tensor::ones([2, 1], Device::cpu())])?;
    let loader = DataLoader::new(&set, 1);
    let modes = |m: &Sequential| {
        let mut modes = Vec::new();
        m.walk(&mut nn::Walk::new(&mut |_, item| {
            if let nn::Item::Mode(mode) = item {
                modes.push(mode.is_training());
            }
        }));
        modes
    };
    let report = Trainer::new(&model, SGD::new(model.parameters(), 0.1))
        .validate_with(|m| {
            assert_eq!(modes(m), [false, false]);
            assert!(!m.forward(&Tensor::ones([1, 1], Device::cpu()))?.is_differentiable());
            Ok(Logs::new())
        })
        .progress(false)
        .fit(&loader, |m, [x]| {
            assert_eq!(modes(m), [true, false]);
            m.forward(&x)?.try_mean(())
        })?;
    assert_eq!((modes(&model), report.steps), (vec![true, false], 2));
    Ok(())
}

/// An average of the weights over the steps, as a callback with tensors of its own.
struct Average(StateDict);

impl Callback for Average {
    fn on_step(&mut self, run: &mut Run<'_>) -> Result<()> {
        for (name, p) in run.model.named_parameters() {
            let old = self.0.remove(&name).unwrap_or(p.value());
            let new = fornax::no_grad(|| old.try_mul(0.9)?.try_add(p.value().try_mul(0.1)?))?;
            new.eval()?;
            self.0.insert(name, new);
        }
        Ok(())
    }
    fn save(&self, checkpoint: &mut Checkpoint) {
        checkpoint.insert("own_average", self.0.clone());
    }
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0 = checkpoint.part("own_average")?.clone();
        Ok(())
    }
}

/// Digits, turned and moved at random in each epoch, as images.
fn augmented(n: usize) -> Result<impl Dataset<Item = (Image, i32)> + Send + Sync + 'static> {
    let set = rows(n, Device::cpu())?;
    let [images, labels] = set.tensors();
    let (pixels, labels) = (images.to_vec::<f32>()?, labels.to_vec::<i32>()?);
    let images = pixels.chunks(64).map(|p| Image::new(1, 8, 8, p.to_vec()));
    let rows: Vec<(Image, i32)> = images.zip(labels).map(|(image, label)| Ok((image?, label))).collect::<Result<_>>()?;
    let augment = RandomAffine::new(10.0).translate(0.1, 0.1);
    Ok(Rows::new(rows).map(move |(image, label), rng| Ok((augment.apply(image, rng)?, label))))
}

/// One training with everything in it: dropout, batch norm, workers, augmentation, shuffling, a schedule, averages, metrics, logs.
fn everything(folder: &Path, stop: Option<u64>) -> Result<(Vec<(String, Vec<f64>)>, StateDict, Report)> {
    // The process's seed is set before the model is made, as in a program that is started again.
    fornax::manual_seed(21);
    let loader = DataLoader::new(augmented(80)?, 8).shuffle(4).workers(2);
    let set = rows(40, Device::cpu())?;
    let valid = DataLoader::new(&set, 20);
    let model = cnn(Device::cpu());
    let mut average = Average(StateDict::new());
    let mut ema = AveragedModel::ema(&model, 0.8)?;
    let step = |m: &Sequential, (x, y): (Tensor, Tensor)| step(m, [x, y]);
    let mut trainer = Trainer::new(&model, AdamW::new(model.parameters(), 5e-3))
        .epochs(4)
        .accumulate(2)
        .schedule(CosineAnnealingLR::new(20), Per::Step)
        .metric(Accuracy::new())
        .validation(&valid, |m, [x, y]| self::step(m, [x, y]), vec![Box::new(Accuracy::new())])
        .average(&mut ema)
        .clip_norm(1.0)
        .callback(&mut average)
        .callback(EarlyStopping::new("val_loss").patience(9).restore_best(true))
        .callback(CsvLogger::new(folder.join("log.csv")).every_steps(1))
        .callback(JsonLogger::new(folder.join("log.jsonl")).every_steps(2))
        .callback(Checkpointer::new(folder.join("checkpoints")).every_steps(3).keep(2).best("val_loss", Goal::Min))
        .resume(folder.join("checkpoints"))
        .progress(false);
    if let Some(step) = stop {
        trainer = trainer.callback(StopAt(step));
    }
    let report = trainer.fit(&loader, step)?;
    drop(trainer);
    average.0.extend(ema.state_dict()?);
    Ok((weights(&model), average.0, report))
}

#[test]
fn a_stopped_training_goes_on_bit_for_bit() {
    isolated("trainer::stopped_and_resumed");
}

#[test]
#[ignore = "runs in a process of its own, for it sets the process's seed"]
fn stopped_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (straight, average, report) = everything(&folder.path().join("straight"), None).unwrap();
    assert_eq!((report.steps, report.epochs), (20, 4));
    // In the middle of the first epoch, at the end of one, in the middle of later ones; and more than once.
    for stops in [vec![2], vec![5], vec![7, 13, 19]] {
        let own = folder.path().join(format!("{stops:?}"));
        for &stop in &stops {
            let (_, _, report) = everything(&own, Some(stop)).unwrap();
            assert_eq!((report.steps, report.ended), (stop, Ended::Stopped("enough".into())));
        }
        let (resumed, own_average, own_report) = everything(&own, None).unwrap();
        assert_eq!(resumed, straight, "{stops:?}");
        assert_eq!(own_report.history, report.history, "{stops:?}");
        for (name, t) in &average {
            assert_eq!(own_average[name].to_vec::<f32>().unwrap(), t.to_vec::<f32>().unwrap());
        }
        for log in ["log.csv", "log.jsonl"] {
            let read = |f: &Path| std::fs::read_to_string(f.join(log)).unwrap();
            assert_eq!(read(&own), read(&folder.path().join("straight")), "{stops:?}");
        }
        // Resuming what is done changes nothing.
        assert_eq!(everything(&own, None).unwrap().0, straight);
    }
}

#[test]
#[ignore = "the child of the test below"]
fn killed_child() {
    let folder = PathBuf::from(std::env::var("FORNAX_TEST_FOLDER").unwrap());
    let (weights, _, _) = everything(&folder, None).unwrap();
    std::fs::write(folder.join("done"), format!("{weights:?}")).unwrap();
}

/// A child process of this test binary.
fn child(test: &str, folder: &Path) -> std::process::Child {
    let exe = std::env::current_exe().unwrap();
    // Where the tests run in the background of a shell, they and their children ignore SIGINT.
    let (program, first) = if cfg!(target_os = "linux") { ("env".into(), vec!["--default-signal=INT".into(), exe]) } else { (exe, vec![]) };
    Command::new(program)
        .args(first)
        .args([test, "--exact", "--ignored", "--test-threads=1", "--nocapture"])
        .env("FORNAX_TEST_FOLDER", folder)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_training_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let straight = folder.path().join("straight");
    std::fs::create_dir(&straight).unwrap();
    let start = std::time::Instant::now();
    assert!(child("trainer::killed_child", &straight).wait().unwrap().success());
    let whole = start.elapsed();
    let killed = folder.path().join("killed");
    std::fs::create_dir(&killed).unwrap();
    let mut kills = 0;
    for part in [0.5, 0.6, 0.7, 0.8] {
        let mut child = child("trainer::killed_child", &killed);
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * part));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(child("trainer::killed_child", &killed).wait().unwrap().success());
    assert!(kills > 0, "no run was killed in its middle");
    let done = |f: &Path| std::fs::read_to_string(f.join("done")).unwrap();
    assert_eq!(done(&killed), done(&straight));
    let log = |f: &Path| std::fs::read_to_string(f.join("log.csv")).unwrap();
    assert_eq!(log(&killed), log(&straight));
}

#[test]
#[ignore = "the child of the test below"]
fn interrupted_child() {
    let folder = PathBuf::from(std::env::var("FORNAX_TEST_FOLDER").unwrap());
    let set = TensorDataset::new([Tensor::ones([1000, 1], Device::cpu())]).unwrap();
    let model = Linear::new(1, 1, Device::cpu());
    let report = Trainer::new(&model, SGD::new(model.parameters(), 1e-6))
        .epochs(1000)
        .callback(Checkpointer::new(folder.join("checkpoints")).every_epochs(0))
        .progress(false)
        .fit(&DataLoader::new(&set, 1), |m, [x]| {
            std::fs::write(folder.join("started"), "").unwrap();
            let slow = folder.join("slow").exists();
            std::thread::sleep(if slow { Duration::from_secs(60) } else { Duration::from_millis(1) });
            m.forward(&x)?.try_mean(())
        })
        .unwrap();
    std::fs::write(folder.join("report"), format!("{:?} {}", report.ended, report.steps)).unwrap();
}

#[cfg(all(unix, feature = "ctrlc"))]
#[test]
fn ctrl_c_saves_and_leaves_and_a_second_one_kills() {
    let wait_for = |path: PathBuf| {
        let start = std::time::Instant::now();
        while !path.exists() {
            assert!(start.elapsed().as_secs() < 60, "{} does not come", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let send = |signal: &str, child: &std::process::Child| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    let ends = |mut child: std::process::Child| {
        for _ in 0..6000 {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        panic!("the training does not end");
    };
    for signal in ["-INT", "-TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let child = child("trainer::interrupted_child", folder.path());
        wait_for(folder.path().join("started"));
        send(signal, &child);
        assert!(ends(child).success());
        let report = std::fs::read_to_string(folder.path().join("report")).unwrap();
        let steps = report.strip_prefix("Interrupted ").expect(&report);
        let last = Checkpointer::last(folder.path().join("checkpoints")).unwrap().unwrap();
        assert!(last.ends_with(format!("step-{:08}", steps.parse::<u64>().unwrap())));
        assert!(Checkpoint::load(last).unwrap().loader().unwrap().is_some());
    }
    // In the middle of a long step the first one waits, the second one does not.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("slow"), "").unwrap();
    let mut child = child("trainer::interrupted_child", folder.path());
    wait_for(folder.path().join("started"));
    send("-INT", &child);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none());
    send("-INT", &child);
    assert_eq!(ends(child).code(), Some(130));
}

#[test]
fn streams_train_and_resume_too() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let train = |name: &str, stop: Option<u64>| -> Result<(f32, Report)> {
        let stream = Stream::new(|epoch| Ok((0..20).map(move |i| Ok(vec![(i + epoch as i32) as f32 / 20.0])))).shuffle(8, 3);
        let loader = StreamLoader::new(stream, 4).workers(1);
        assert_eq!(loader.batches(), None);
        let model = Linear::new(1, 1, Device::cpu()).no_bias();
        model.weight.set(Tensor::full([1, 1], 0.5, Device::cpu()))?;
        let mut trainer = Trainer::new(&model, SGD::new(model.parameters(), 0.1).momentum(0.9))
            .epochs(3)
            .callback(Checkpointer::new(folder.path().join(name)))
            .resume(folder.path().join(name))
            .progress(false);
        if let Some(stop) = stop {
            trainer = trainer.callback(StopAt(stop));
        }
        let report = trainer.fit(&loader, |m, x| nn::mse_loss(&m.forward(&x)?, &x.try_mul(2.0)?))?;
        Ok((model.weight.value().item()?, report))
    };
    let (straight, report) = train("straight", None)?;
    assert_eq!((report.steps, report.rows), (15, 60));
    assert_eq!(train("stopped", Some(8))?.1.steps, 8);
    assert_eq!(train("stopped", None)?.0, straight);
    Ok(())
}

#[test]
fn a_finder_finds_a_rate_and_leaves_no_trace() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        let x = Tensor::linspace(-1.0, 1.0, 128, device).reshape([64, 2]);
        let set = TensorDataset::new([x.clone(), x.sum(1)])?;
        let loader = DataLoader::new(&set, 16).shuffle(1);
        let model = Linear::new(2, 1, device).no_bias();
        // Not what another test's draws leave of the generator.
        model.weight.set(Tensor::from_slice(&[-1.0f32, 2.0], [1, 2], device)?)?;
        let mut optimizer = SGD::new(model.parameters(), 0.05).momentum(0.9);
        let step = |m: &Linear, [x, y]: [Tensor; 2]| nn::mse_loss(&m.forward(&x)?.try_squeeze(-1)?, &y);
        let [x0, y0] = loader.epoch(0).next().unwrap()?;
        optimizer.step(step(&model, [x0, y0])?.backward()?)?;
        let before = (
            weights(&model),
            optimizer.state_dict().unwrap().into_iter().map(|(n, t)| (n, t.to_vec::<f64>().unwrap())).collect::<Vec<_>>(),
        );
        let steps = if device.is_gpu() { 25 } else { 100 };
        let curve = LrFinder::new().range(1e-5, 100.0).steps(steps).run(&model, &mut optimizer, &loader, step)?;
        let after = (
            weights(&model),
            optimizer.state_dict().unwrap().into_iter().map(|(n, t)| (n, t.to_vec::<f64>().unwrap())).collect::<Vec<_>>(),
        );
        assert_eq!(before, after);
        // It saw the loss diverge, and the rate lies below that.
        assert!(curve.points.len() < steps, "{} points", curve.points.len());
        let lr = curve.suggestion().unwrap();
        assert!(lr > 1e-4 && lr < curve.points[curve.points.len() - 1].0, "{lr}");
        let e = LrFinder::new().range(1.0, 0.1).run(&model, &mut optimizer, &loader, step).unwrap_err();
        assert!(e.to_string().contains("0 < start < end"), "{e}");
    }
    Ok(())
}

/// The scale of the gradient scaler at the end.
struct Scale(Option<f64>);

impl Callback for Scale {
    fn wants_checkpoint(&mut self, when: When, _run: &Run<'_>) -> bool {
        when == When::Leave
    }
    fn on_checkpoint(&mut self, checkpoint: &Checkpoint, _run: &mut Run<'_>) -> Result<()> {
        self.0 = checkpoint.has_part("scaler").then(|| checkpoint.part("scaler")?["scale"].item()).transpose()?;
        Ok(())
    }
}

#[test]
fn mixed_precision_trains_and_skips_what_overflows() -> Result<()> {
    for device in [Some(Device::cpu()), gpu()].into_iter().flatten() {
        for dtype in [fornax::DType::F16, fornax::DType::BF16] {
            let x = Tensor::linspace(-1.0, 1.0, 64, device).reshape([32, 2]);
            let set = TensorDataset::new([x.clone(), x.sum(1) * 2.0])?;
            let model = Linear::new(2, 1, device);
            let mut scale = Scale(None);
            let mut trainer = Trainer::new(&model, AdamW::new(model.parameters(), 0.1))
                .epochs(12)
                .autocast(dtype)?
                .clip_value(10.0)
                .callback(&mut scale)
                .progress(false);
            // So large that the gradient of the prediction, which is f16, overflows.
            let large = 2f64.powi(26);
            if dtype == fornax::DType::F16 {
                trainer = trainer.grad_scaler(GradScaler::new(device).init_scale(large)?);
            }
            let report = trainer.fit(&DataLoader::new(&set, 8), |m, [x, y]| {
                let y_hat = m.forward(&x)?;
                assert_eq!(y_hat.dtype(), dtype);
                nn::mse_loss(&y_hat.try_squeeze(-1)?, &y)
            })?;
            drop(trainer);
            let losses = report.history.series("loss");
            assert!(losses[11].1 < 0.2 * losses[0].1, "{device} {dtype}: {losses:?}");
            assert_eq!(model.weight.dtype(), fornax::DType::F32);
            assert_eq!((report.steps, report.ended), (48, Ended::Finished));
            assert!(weights(&model).iter().all(|(_, w)| w.iter().all(|v| v.is_finite())), "{device} {dtype}");
            match dtype {
                fornax::DType::F16 => assert!(scale.0.is_some_and(|s| (1.0..=large / 64.0).contains(&s)), "{device}: {:?}", scale.0),
                _ => assert_eq!(scale.0, None),
            }
        }
        assert!(Trainer::new(&Linear::new(1, 1, device), SGD::new([], 0.1)).autocast(fornax::DType::I32).is_err());
    }
    Ok(())
}
