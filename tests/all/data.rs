//! Data sets and the loader.

use fornax::data::{DataLoader, Dataset, Table, TensorDataset, digits};
use fornax::{Device, Error, Result, Tensor};

#[test]
fn an_epoch_shows_every_row_once_and_pairs_stay_together() -> Result<()> {
    let n = 103usize;
    let x = Tensor::arange(0, n, 1, Device::cpu());
    let loader = DataLoader::new(TensorDataset::new([x.clone(), &x * 2.0])?, 10).shuffle(5);
    assert_eq!((loader.len(), loader.epoch(0).len()), (11, 11));
    let mut orders = Vec::new();
    for epoch in [0, 1, 0] {
        let mut seen = Vec::new();
        for batch in loader.epoch(epoch) {
            let [x, y] = batch?;
            let (x, y) = (x.to_vec::<f32>()?, y.to_vec::<f32>()?);
            assert!(x.iter().zip(&y).all(|(x, y)| x * 2.0 == *y));
            seen.extend(x);
        }
        let mut sorted = seen.clone();
        sorted.sort_by(f32::total_cmp);
        assert!(sorted.into_iter().eq((0..n).map(|i| i as f32)));
        orders.push(seen);
    }
    assert_eq!(orders[0], orders[2]);
    assert_ne!(orders[0], orders[1]);
    Ok(())
}

#[test]
fn wrong_data_sets_are_errors() -> Result<()> {
    let cpu = Device::cpu();
    let e = TensorDataset::new([Tensor::ones([3, 2], cpu), Tensor::ones(4, cpu)]).err().unwrap();
    assert!(matches!(e, Error::Shape { .. }), "{e}");
    assert!(TensorDataset::new([Tensor::ones((), cpu)]).is_err());
    assert!(matches!(TensorDataset::new([Tensor::ones(3, cpu)])?.pick(&[3]), Err(Error::Index { .. })));
    assert!(DataLoader::new(TensorDataset::new([Tensor::ones(0, cpu)])?, 4).is_empty());
    Ok(())
}

#[test]
fn the_digits_are_whole() -> Result<()> {
    let digits = digits(Device::cpu())?;
    let [images, labels] = digits.train.tensors();
    assert_eq!((images.dims(), labels.dims()), (&[1259, 1, 8, 8][..], &[1259][..]));
    assert_eq!(digits.test.len(), 538);
    let images = images.to_vec::<f32>()?;
    assert!(images.iter().all(|p| (0.0..=1.0).contains(p)) && images.contains(&1.0));
    let mut counts = [0; 10];
    labels.to_vec::<i32>()?.iter().for_each(|&l| counts[l as usize] += 1);
    assert!(counts.iter().all(|&c| c > 90), "{counts:?}");
    // Row 0 of the file is a test row: a zero.
    assert_eq!(digits.test.tensors()[1].to_vec::<i32>()?[0], 0);
    Ok(())
}

#[test]
fn tables_become_tensors() -> Result<()> {
    let t = Table::parse("t", "x, y ,label\n1,2.5,0\n-1,1e3,1\n")?;
    assert_eq!(t.tensor(&["y"], Device::cpu())?.to_vec::<f32>()?, [2.5, 1000.0]);
    assert!(t.tensor(&["z"], Device::cpu()).is_err());
    assert_eq!(t.row(1), [-1.0, 1000.0, 1.0]);
    assert!(t.row(2).is_empty());
    Ok(())
}
