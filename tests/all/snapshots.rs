//! Checkpoints: what is saved is what is loaded, kills leave the old one or the new one, liars are errors.

use fornax::io::StateDict;
use fornax::nn::{Linear, Module};
use fornax::optim::{AdamW, Optimizer};
use fornax::train::{Checkpoint, Checkpointer, Goal};
use fornax::{Device, Error, Result, Tensor};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn checkpoint(n: u64) -> Checkpoint {
    let mut c = Checkpoint::new();
    let tensor = |len: usize| Tensor::full(len, n as f64, Device::cpu());
    c.insert("model", StateDict::from([("a".to_string(), tensor(1000)), ("b".to_string(), tensor(7))]));
    c.insert("optimizer", StateDict::from([("0.step".to_string(), tensor(1))]));
    c.set("n", n);
    c
}

/// Its number, if it is whole.
fn number(c: &Checkpoint) -> u64 {
    let n = c.get("n").and_then(|n| n.as_u64()).unwrap();
    for part in ["model", "optimizer"] {
        for (name, t) in c.part(part).unwrap() {
            assert!(t.to_vec::<f32>().unwrap().iter().all(|&v| v == n as f32), "{part} {name} is not of checkpoint {n}");
        }
    }
    n
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_is_loaded() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/er/x");
    let mut c = checkpoint(3);
    let numbers = [0.1 + 0.2, f64::MIN_POSITIVE, 1.0 / 3.0, 5e-324, 1.7976931348623157e308, -0.0];
    c.set("numbers", numbers.to_vec());
    c.set_rng(fornax::RngState { seed: u64::MAX, counter: u64::MAX - 1 });
    c.save(&path)?;
    // Over itself, while it is mapped.
    let first = Checkpoint::load(&path)?;
    first.save(&path)?;
    let mut second = Checkpoint::load(&path)?;
    assert_eq!((number(&first), number(&second)), (3, 3));
    let read: Vec<u64> = second.get("numbers").unwrap().as_array().unwrap().iter().map(|v| v.as_f64().unwrap().to_bits()).collect();
    assert_eq!(read, numbers.map(f64::to_bits));
    assert_eq!(second.rng()?, fornax::RngState { seed: u64::MAX, counter: u64::MAX - 1 });
    assert!(second.loader()?.is_none());
    assert_eq!(names(&path), ["checkpoint.json", "model.safetensors", "optimizer.safetensors"]);
    assert_eq!(names(path.parent().unwrap()), ["x"]);
    let e = second.part("modle").unwrap_err().to_string();
    assert!(e.contains("no part modle; it has model, optimizer"), "{e}");
    for bad in ["", "a/b", "../x", ".hidden", "ü"] {
        second.insert(bad, StateDict::new());
        assert!(matches!(second.save(&path), Err(Error::Argument { .. })), "{bad:?}");
        second = Checkpoint::load(&path)?;
    }
    std::fs::write(folder.path().join("file"), "mine").unwrap();
    assert!(matches!(checkpoint(1).save(folder.path().join("file")), Err(Error::Io { .. })));
    assert!(checkpoint(1).save("/").is_err() && checkpoint(1).save("/proc/nowhere/x").is_err());
    assert!(matches!(Checkpoint::load(folder.path()), Err(Error::Io { .. })));
    Ok(())
}

#[test]
fn checkpoints_that_lie_are_errors() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    checkpoint(1).save(&path)?;
    let index = std::fs::read_to_string(path.join("checkpoint.json")).unwrap();
    let refused = |text: &str| {
        std::fs::write(path.join("checkpoint.json"), text).unwrap();
        match Checkpoint::load(&path) {
            Err(e @ (Error::Format { .. } | Error::Io { .. })) => e.to_string(),
            other => panic!("must be an error: {text}: {other:?}"),
        }
    };
    for cut in [0, 1, 10, index.len() / 2, index.len() - 3] {
        refused(&index[..cut]);
    }
    for (from, to) in [
        ("fornax-checkpoint", "other"),
        ("\"version\": 1", "\"version\": 2"),
        ("model.safetensors", "../x/model.safetensors"),
        ("model.safetensors", "/etc/passwd"),
        ("model.safetensors", "nothing.safetensors"),
        ("model.safetensors", "checkpoint.json"),
        ("\"bytes\": ", "\"bytes\": 1"),
        ("\"bytes\"", "\"other\""),
        ("\"parts\": {", "\"parts\": 1, \"x\": {"),
        ("\"values\": {", "\"values\": [], \"x\": {"),
    ] {
        assert!(index.contains(from), "{from}");
        refused(&index.replacen(from, to, 1));
    }
    std::fs::write(path.join("checkpoint.json"), &index).unwrap();
    let bytes = std::fs::read(path.join("model.safetensors")).unwrap();
    std::fs::write(path.join("model.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    let e = Checkpoint::load(&path).unwrap_err().to_string();
    assert!(e.contains("model.safetensors") && e.contains(&format!("the checkpoint says {}", bytes.len())), "{e}");
    // A loader's place or random numbers that are not whole.
    let mut c = Checkpoint::new();
    c.set("loader", 3);
    c.set("rng", "x");
    assert!(c.loader().is_err() && c.rng().is_err());
    Ok(())
}

#[test]
fn a_checkpointer_keeps_the_last_and_the_best() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    assert!(Checkpointer::last(&folder)?.is_none() && Checkpointer::best_of(&folder)?.is_none());
    let mut keeper = Checkpointer::new(&folder).keep(2).best("accuracy", Goal::Max);
    for (step, value) in [(1, Some(0.5)), (2, Some(0.9)), (3, None), (4, Some(f64::NAN)), (5, Some(0.9)), (6, Some(0.7))] {
        keeper.save(&checkpoint(step), step, value)?;
    }
    assert_eq!(keeper.saved(), [2, 5, 6]);
    assert_eq!(names(&folder), ["checkpoints.json", "step-00000002", "step-00000005", "step-00000006"]);
    assert_eq!(number(&Checkpoint::load(Checkpointer::last(&folder)?.unwrap())?), 6);
    assert_eq!(number(&Checkpoint::load(Checkpointer::best_of(&folder)?.unwrap())?), 2);
    // The same step again, now worse: the best is another.
    keeper.save(&checkpoint(2), 2, Some(0.1))?;
    assert_eq!(number(&Checkpoint::load(Checkpointer::last(&folder)?.unwrap())?), 2);
    // What a kill has left goes when the next training begins; what is not a checkpointer's stays.
    std::fs::create_dir(folder.join("step-00000009.tmp")).unwrap();
    std::fs::create_dir(folder.join("mine.tmp")).unwrap();
    let mut next = Checkpointer::new(&folder);
    next.save(&checkpoint(10), 10, None)?;
    assert!(!folder.join("step-00000009.tmp").exists() && folder.join("mine.tmp").exists());
    // As kills leave them: a replacement that was done, a removal in its middle, with its index and without; whole folders stay.
    let step = |n: u64| folder.join(format!("step-{n:08}"));
    for n in [12, 13, 14] {
        checkpoint(n).save(step(n))?;
    }
    std::fs::remove_file(step(12).join("model.safetensors")).unwrap();
    std::fs::remove_file(step(13).join("checkpoint.json")).unwrap();
    for old in ["step-00000010.old", "step-00000011.old"] {
        checkpoint(1).save(folder.join(old))?;
    }
    std::fs::create_dir(folder.join("step-mine")).unwrap();
    let mut next = Checkpointer::new(&folder);
    next.save(&checkpoint(15), 15, None)?;
    assert!([6, 14, 15].iter().all(|&n| step(n).exists()) && folder.join("step-mine").exists());
    assert_eq!(names(&folder).iter().filter(|n| n.contains("00000012") || n.contains("00000013") || n.ends_with(".old")).count(), 0);
    // A replacement in its middle: the old one is the checkpoint that the list names.
    std::fs::rename(step(15), folder.join("step-00000015.old")).unwrap();
    let mut next = Checkpointer::new(&folder);
    next.save(&checkpoint(16), 16, None)?;
    assert_eq!(number(&Checkpoint::load(step(15))?), 15);
    std::fs::write(folder.join("checkpoints.json"), "{\"saved\": 3}").unwrap();
    assert!(matches!(Checkpointer::last(&folder), Err(Error::Format { .. })));
    Ok(())
}

#[test]
fn a_replacement_cut_in_its_middle_is_the_old_one() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    checkpoint(1).save(&path)?;
    // As a kill leaves it between the two renames, and before the first.
    std::fs::rename(&path, folder.path().join("x.old")).unwrap();
    std::fs::create_dir(folder.path().join("x.tmp")).unwrap();
    assert_eq!(number(&Checkpoint::load(&path)?), 1);
    checkpoint(2).save(&path)?;
    assert_eq!(number(&Checkpoint::load(&path)?), 2);
    assert_eq!(names(folder.path()), ["x"]);
    Ok(())
}

/// Saves one checkpoint after the other, in both ways, until it is killed.
#[test]
#[ignore = "the child of the test below"]
fn saver() {
    let folder = PathBuf::from(std::env::var("FORNAX_TEST_FOLDER").unwrap());
    let mut keeper = Checkpointer::new(folder.join("kept")).keep(2);
    let first = Checkpoint::load(folder.join("single")).map_or(0, |c| number(&c));
    for n in first + 1.. {
        checkpoint(n).save(folder.join("single")).unwrap();
        keeper.save(&checkpoint(n), n, None).unwrap();
        let values = StateDict::from([("a".to_string(), Tensor::full(1000, n as f64, Device::cpu()))]);
        fornax::io::safetensors::save(folder.join("file.safetensors"), &values).unwrap();
    }
}

/// `KILLS` says how many; `tests/kill_saves.sh` asks for 100.
#[test]
fn kills_leave_whole_checkpoints() {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let folder = tempfile::tempdir().unwrap();
    let (mut last, mut saved) = ([0; 3], 0);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["snapshots::saver", "--exact", "--ignored", "--test-threads=1"])
            .env("FORNAX_TEST_FOLDER", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Until it saves for sure, and then at a moment that differs each time.
        let start = std::time::Instant::now();
        let index = folder.path().join("file.safetensors");
        let written = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        let before = written(&index);
        while written(&index) == before {
            assert!(start.elapsed().as_secs() < 120 && child.try_wait().unwrap().is_none(), "the child saves nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(kill.wrapping_mul(2_654_435_761) % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let single = number(&Checkpoint::load(folder.path().join("single")).unwrap());
        let kept = number(&Checkpoint::load(Checkpointer::last(folder.path().join("kept")).unwrap().unwrap()).unwrap());
        let file = fornax::io::safetensors::load(folder.path().join("file.safetensors")).unwrap()["a"].to_vec::<f32>().unwrap();
        assert!(file.iter().all(|&v| v == file[0]));
        let now = [single, kept, file[0] as u64];
        // Each is the one before, or a newer one; and none is more than one behind another.
        assert!(now.iter().zip(last).all(|(n, l)| *n >= l) && now[0] - now[2] <= 1, "{now:?} after {last:?}");
        saved += now[0] - last[0];
        last = now;
    }
    println!("{kills} kills, {saved} saves, each left the old checkpoint or the new one");
    // At most what one kill has left lies about.
    let left = names(folder.path()).into_iter().filter(|n| n.starts_with("single") && n != "single").count();
    assert!(left <= 2, "{:?}", names(folder.path()));
}

#[test]
fn a_loaded_checkpoint_trains_on() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for device in [Some(Device::cpu()), crate::harness::gpu()].into_iter().flatten() {
        let x = Tensor::linspace(-1.0, 1.0, 12, device).reshape([4, 3]);
        let step = |model: &Linear, optimizer: &mut AdamW| -> Result<()> {
            let loss = x.linear(&model.weight.get(), None).square().mean(());
            optimizer.step(loss.backward()?)
        };
        let model = Linear::new(3, 2, device);
        let mut optimizer = AdamW::new(model.parameters(), 1e-2);
        step(&model, &mut optimizer)?;
        let mut c = Checkpoint::new();
        c.insert("model", model.state_dict());
        c.insert("optimizer", optimizer.state_dict()?);
        c.save(folder.path().join("x"))?;
        step(&model, &mut optimizer)?;
        let (other, loaded) = (Linear::new(3, 2, device), Checkpoint::load(folder.path().join("x"))?);
        let mut its = AdamW::new(other.parameters(), 1.0);
        other.load_state_dict(loaded.part("model")?, true)?;
        its.load_state_dict(loaded.part("optimizer")?)?;
        // The file may go: what is mapped stays readable.
        std::fs::remove_dir_all(folder.path().join("x")).unwrap();
        step(&other, &mut its)?;
        assert_eq!(other.weight.value().to_vec::<f32>()?, model.weight.value().to_vec::<f32>()?, "{device}");
    }
    Ok(())
}
