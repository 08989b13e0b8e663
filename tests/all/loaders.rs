//! The loaders: workers change nothing but the time, states resume, faults come out, and no thread is left.

use fornax::data::{DataLoader, Dataset, LoaderOrder, LoaderState, Rng, Rows, Stream, StreamLoader, TensorDataset};
use fornax::train::Checkpoint;
use fornax::{Device, Error, Result, Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Rows that draw from both kinds of random numbers.
struct Noisy(usize);

impl Dataset for Noisy {
    type Item = (f32, Tensor);
    fn len(&self) -> usize {
        self.0
    }
    fn get(&self, row: usize, rng: &mut Rng) -> Result<(f32, Tensor)> {
        // Later rows are done sooner.
        std::thread::sleep(Duration::from_micros(300 - 10 * (row % 30) as u64));
        Ok((row as f32 + rng.uniform(0.0, 1.0) as f32, Tensor::try_normal([2], 0.0, 1.0, Device::cpu())?))
    }
}

fn values(batches: impl Iterator<Item = Result<(Tensor, Tensor)>>) -> Result<Vec<Vec<f32>>> {
    let read = |batch: Result<(Tensor, Tensor)>| {
        let (x, y) = batch?;
        Ok([x.to_vec::<f32>()?, y.to_vec::<f32>()?].concat())
    };
    batches.map(read).collect()
}

#[test]
fn any_number_of_workers_gives_the_same_batches() -> Result<()> {
    let plain = DataLoader::new(Noisy(31), 4).shuffle(9);
    let (first, second) = (values(plain.epoch(0))?, values(plain.epoch(1))?);
    assert_eq!((first.len(), first[7].len()), (8, 9));
    assert_ne!(first, second);
    for workers in [1, 2, 5] {
        let loader = DataLoader::new(Noisy(31), 4).shuffle(9).workers(workers).prefetch(3);
        assert_eq!(values(loader.epoch(0))?, first);
        let mut some = loader.epoch(1);
        let state = values(some.by_ref().take(3)).map(|_| some.state())?;
        assert_eq!((state.epoch, state.batch, some.len()), (1, 3, 5));
        drop(some);
        assert_eq!(values(loader.resume(&state)?)?, second[3..]);
        assert_eq!(values(plain.resume(&state)?)?, second[3..]);
        let other = DataLoader::new(Noisy(30), 4).shuffle(9);
        assert!(matches!(other.resume(&state), Err(Error::Argument { .. })));
    }
    Ok(())
}

#[test]
fn a_place_is_of_loaders_of_the_same_order() -> Result<()> {
    let rows = || Rows::new((0..10).collect::<Vec<i32>>());
    let loader = || DataLoader::new(rows(), 4);
    let shuffled = loader().shuffle(0).epoch(1).state();
    assert_eq!((shuffled.order, shuffled.drop_last), (Some(LoaderOrder::Shuffled), Some(false)));
    let refuses = |e: Error, what: &str| assert!(e.to_string().contains(what), "{e}");
    refuses(
        loader().resume(&shuffled).map(|_| ()).unwrap_err(),
        "of 10 shuffled rows in batches of 4 with seed 0, this one has 10 sequential rows",
    );
    refuses(loader().weighted(vec![1.0; 10], 10, false, 0)?.resume(&shuffled).map(|_| ()).unwrap_err(), "this one has 10 weighted rows");
    refuses(loader().shuffle(0).drop_last(true).resume(&shuffled).map(|_| ()).unwrap_err(), "the last left out where it is smaller");
    let stream = || StreamLoader::new(Stream::new(|_| Ok((0..5).map(Ok::<i32, _>))), 2);
    let of_stream = stream().epoch(0)?.state();
    assert!(stream().drop_last(true).resume(&of_stream).is_err() && stream().resume(&of_stream).is_ok());
    // A checkpoint keeps it; one from before there were these fields goes on with any order.
    let mut checkpoint = Checkpoint::new();
    for state in [shuffled, of_stream, loader().weighted(vec![1.0; 10], 3, true, 5)?.drop_last(true).epoch(2).state()] {
        checkpoint.set_loader(&state);
        assert_eq!(checkpoint.loader()?, Some(state));
    }
    checkpoint.set("loader", serde_json::json!({ "epoch": 1, "batch": 1, "rows": 10, "batch_size": 4, "seed": 0 }));
    let old = checkpoint.loader()?.unwrap();
    assert_eq!(old, LoaderState { batch: 1, order: None, drop_last: None, ..shuffled });
    assert_eq!((loader().resume(&old)?.count(), loader().shuffle(0).resume(&old)?.count()), (2, 2));
    checkpoint.set("loader", serde_json::json!({ "epoch": 1, "batch": 1, "rows": 10, "batch_size": 4, "seed": 0, "order": "sideways" }));
    refuses(checkpoint.loader().unwrap_err(), "sequential, shuffled or weighted");
    Ok(())
}

#[test]
fn errors_and_panics_of_workers_are_errors_of_their_batches() {
    let faulty = Rows::new((0..12).collect::<Vec<i32>>()).map(|i, _| match i {
        3 => Err(Error::argument("row", "three is broken")),
        7 => panic!("seven is worse"),
        i => Ok(i),
    });
    let loader = DataLoader::new(faulty, 2).workers(3);
    let results: Vec<Result<Tensor>> = loader.epoch(0).collect();
    let messages: Vec<String> = results.iter().map(|r| r.as_ref().map_or_else(|e| e.to_string(), |t| t.shape().to_string())).collect();
    assert_eq!(messages[0], "[2]");
    assert_eq!(messages[1], "row: three is broken");
    assert_eq!(messages[3], "a worker of the data loader failed: it panicked: seven is worse");
    assert!([2, 4, 5].iter().all(|&i| messages[i] == "[2]") && messages.len() == 6);
}

/// Counts the threads that run something with it.
#[derive(Clone, Default)]
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn enter(&self) {
        thread_local!(static HERE: std::cell::RefCell<Option<Leaves>> = const { std::cell::RefCell::new(None) });
        struct Leaves(Alive);
        impl Drop for Leaves {
            fn drop(&mut self) {
                self.0.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        HERE.with_borrow_mut(|here| {
            if here.is_none() {
                self.0.fetch_add(1, Ordering::SeqCst);
                *here = Some(Leaves(self.clone()));
            }
        });
    }
}

#[test]
fn prefetch_is_bounded_and_dropping_a_loader_early_leaves_no_thread() -> Result<()> {
    let (alive, got) = (Alive::default(), Arc::new(AtomicUsize::new(0)));
    let (inside, count) = (alive.clone(), got.clone());
    let rows = Rows::new(vec![1i32; 1000]).map(move |i, _| {
        inside.enter();
        count.fetch_add(1, Ordering::SeqCst);
        Ok(i)
    });
    let loader = DataLoader::new(rows, 1).workers(3).prefetch(5);
    let mut epoch = loader.epoch(0);
    epoch.next().unwrap()?;
    std::thread::sleep(Duration::from_millis(50));
    assert!((1..=6).contains(&got.load(Ordering::SeqCst)), "{got:?}");
    assert!(alive.0.load(Ordering::SeqCst) > 0);
    drop(epoch);
    assert_eq!(alive.0.load(Ordering::SeqCst), 0);

    let (inside, work) = (alive.clone(), alive.clone());
    let endless = Stream::new(move |_| {
        let inside = inside.clone();
        Ok((0i32..).map(move |i| (inside.enter(), Ok(i)).1))
    });
    let loader = StreamLoader::with_collate(endless, 2, move |items, _| (work.enter(), Ok(items)).1).workers(2);
    let mut epoch = loader.epoch(0)?;
    assert_eq!(epoch.next().unwrap()?, [0, 1]);
    assert_eq!(epoch.next().unwrap()?, [2, 3]);
    assert!(alive.0.load(Ordering::SeqCst) > 0);
    drop(epoch);
    assert_eq!(alive.0.load(Ordering::SeqCst), 0);
    Ok(())
}

#[test]
fn streams_shuffle_resume_and_end_with_their_error() -> Result<()> {
    let stream = Stream::new(|epoch| Ok((0..50).map(move |i| Ok(i + 100 * epoch as i32)))).shuffle(16, 3);
    let read = |workers, epoch| -> Result<Vec<Vec<i32>>> {
        StreamLoader::new(stream.clone(), 8).workers(workers).epoch(epoch)?.map(|b| b?.to_vec()).collect()
    };
    let plain = read(0, 1)?;
    let mut sorted = plain.concat();
    assert_ne!(sorted, (100..150).collect::<Vec<i32>>());
    sorted.sort_unstable();
    assert_eq!(sorted, (100..150).collect::<Vec<i32>>());
    assert_ne!(read(0, 0)?.concat(), plain.concat().iter().map(|i| i - 100).collect::<Vec<_>>());
    for workers in [1, 3] {
        assert_eq!(read(workers, 1)?, plain);
        let loader = StreamLoader::new(stream.clone(), 8).workers(workers);
        let mut some = loader.epoch(1)?;
        some.next();
        some.next();
        let state = some.state();
        let rest: Vec<Vec<i32>> = loader.resume(&state)?.map(|b| b?.to_vec()).collect::<Result<_>>()?;
        assert_eq!(rest, plain[2..]);
    }
    assert_eq!(StreamLoader::new(stream.clone(), 8).drop_last(true).epoch(0)?.count(), 6);

    for (workers, panics) in [(0, false), (2, false), (2, true)] {
        let broken = Stream::new(move |_| {
            Ok((0..9).map(move |i| match i {
                5 if panics => panic!("gone"),
                5 => Err(Error::argument("line", "no five")),
                i => Ok(i),
            }))
        });
        let results: Vec<Result<Tensor>> = StreamLoader::new(broken, 2).workers(workers).epoch(0)?.collect();
        assert_eq!(results.len(), 3);
        let message = results[2].as_ref().unwrap_err().to_string();
        assert_eq!(message, if panics { "a worker of the data loader failed: it panicked: gone" } else { "line: no five" });
    }
    Ok(())
}

#[test]
fn data_sets_are_put_together_and_taken_apart() -> Result<()> {
    let cpu = Device::cpu();
    let whole = TensorDataset::new([Tensor::arange(0, 10, 1, cpu), Tensor::arange(10, 20, 1, cpu)])?;
    let even = whole.clone().subset(vec![8, 0, 4])?;
    let [x, y] = DataLoader::new(&even, 2).epoch(0).next().unwrap()?;
    assert_eq!((x.to_vec::<f32>()?, y.to_vec::<f32>()?), (vec![8.0, 0.0], vec![18.0, 10.0]));
    let more = even.clone().concat(whole.clone().subset(vec![9])?);
    let all: Vec<f32> = DataLoader::new(more, 10).epoch(0).next().unwrap()?[0].to_vec()?;
    assert_eq!(all, [8.0, 0.0, 4.0, 9.0]);
    let large = whole.clone().filter(|[x, _]| x.item::<f32>().is_ok_and(|x| x > 6.5))?;
    assert_eq!(large.rows(), [7, 8, 9]);
    let labels = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
    let parts = whole.clone().stratified_split(&labels, &[0.5, 0.5], 1)?;
    assert!(parts.iter().all(|p| p.rows().iter().filter(|&&r| labels[r] == 1).count() == 2));
    assert!(whole.clone().stratified_split(&labels[1..], &[1.0], 1).is_err());
    assert!(matches!(whole.clone().subset(vec![10]), Err(Error::Index { .. })));
    assert!(whole.get(10, &mut Rng::new(0)).is_err() && even.get(3, &mut Rng::new(0)).is_err());

    let ragged = DataLoader::new(Rows::new(vec![vec![1.0f32], vec![1.0, 2.0]]), 2);
    assert!(matches!(ragged.epoch(0).next(), Some(Err(Error::Shape { .. }))));
    let rows = || Rows::new(vec![1i32, 2]);
    assert!(DataLoader::new(rows(), 1).weighted(vec![1.0], 1, true, 0).is_err());
    assert!(DataLoader::new(rows(), 1).weighted(vec![1.0, f64::NAN], 1, true, 0).is_err());
    assert!(DataLoader::new(rows(), 1).weighted(vec![0.0, 0.0], 1, true, 0).is_err());
    assert!(DataLoader::new(rows(), 1).weighted(vec![0.0, 1.0], 2, false, 0).is_err());
    Ok(())
}

#[test]
fn batches_are_made_on_the_device_that_was_asked_for() -> Result<()> {
    let Ok(gpu) = Device::gpu(0) else {
        assert!(std::env::var_os("FORNAX_REQUIRE_GPU").is_none(), "no GPU");
        return Ok(());
    };
    let loader = DataLoader::new(Noisy(6), 4).shuffle(2);
    let on_gpu = DataLoader::new(Noisy(6), 4).shuffle(2).workers(2).device(gpu);
    let (x, y) = on_gpu.epoch(0).next().unwrap()?;
    assert_eq!((x.device(), y.device()), (gpu, gpu));
    assert_eq!(values(loader.epoch(0))?[0], [x.to_vec::<f32>()?, y.to_vec::<f32>()?].concat());
    Ok(())
}
