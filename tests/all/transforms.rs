//! Image transforms: the fixed ones against torchvision's values, the random ones by what they promise.

use fornax::data::transforms::*;
use fornax::data::{Filter, Image, Rng};
use fornax::{Device, Error, PadMode, Result, Tensor};
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn image(case: &Value) -> Result<Image> {
    let shape = numbers(&case["shape"]);
    Image::new(shape[0] as usize, shape[1] as usize, shape[2] as usize, numbers(&case["values"]).iter().map(|&v| v as f32).collect())
}

/// What the case of this name asks for.
fn change(image: &Image, name: &str) -> Result<Image> {
    let words: Vec<&str> = name.split(' ').collect();
    let filter = match words.last() {
        Some(&"nearest") => Filter::Nearest,
        Some(&"bicubic") => Filter::Bicubic,
        _ => Filter::Bilinear,
    };
    let number: Vec<f64> = words.iter().filter_map(|w| w.parse().ok()).collect();
    let size: Vec<usize> = number.iter().map(|&n| n as usize).collect();
    match words[0] {
        "image" => Ok(image.clone()),
        "resize" => image.resize(size[0], size[1], filter),
        "center_crop" => image.center_crop(size[0], size[1]),
        "flip_horizontal" => Ok(image.flip_horizontal()),
        "flip_vertical" => Ok(image.flip_vertical()),
        "rotate" => Ok(image.rotate(number[0], filter, 0.0)),
        "rotate_whole" => Ok(image.rotate_whole(number[0], filter, 0.0)),
        "pad" => {
            let mode = match words[5] {
                "constant" => PadMode::Constant(0.5),
                "reflect" => PadMode::Reflect,
                _ => PadMode::Replicate,
            };
            image.pad([size[0], size[1], size[2], size[3]], mode)
        }
        "rotate_fill" => Ok(image.rotate(number[0], filter, 0.5)),
        "rotate_square" => Ok(image.crop(1, 0, 7, 7)?.rotate(number[0], filter, 0.0)),
        "affine" => image.affine(number[0], (number[1], number[2]), number[3], (number[4], number[5]), filter, 0.0),
        "brightness" => image.adjust_brightness(number[0] as f32),
        "contrast" => image.adjust_contrast(number[0] as f32),
        "saturation" => image.adjust_saturation(number[0] as f32),
        "hue" => image.adjust_hue(number[0] as f32),
        "grayscale" => image.grayscale(size[0]),
        "blur" => image.gaussian_blur(size[0], number[1]),
        "normalize" => image.normalize(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]),
        "erase" => Ok(image.erase(size[0], size[1], size[2], size[3], number[4] as f32)),
        other => panic!("{other}"),
    }
}

#[test]
fn fixed_transforms_equal_torchvisions() -> Result<()> {
    let golden = golden("transforms");
    let cases = golden["cases"].as_object().unwrap();
    let original = image(&cases["image"])?;
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let (got, want) = (change(&original, name)?, image(case)?);
        let shape = |i: &Image| [i.channels(), i.height(), i.width()];
        // f32 in another order; normalised numbers are up to 3.
        let worst = got.data().iter().zip(want.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if shape(&got) != shape(&want) || !(worst < 2e-6) {
            wrong.push(format!("{name}: {:?}, not {:?}; off by {worst}", shape(&got), shape(&want)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cases.len(), 101);
    Ok(())
}

/// Each pixel has a number of its own.
fn numbered(channels: usize, height: usize, width: usize) -> Result<Image> {
    let n = channels * height * width;
    Image::new(channels, height, width, (0..n).map(|i| (i + 1) as f32 / n as f32).collect())
}

#[test]
fn random_transforms_repeat_with_their_key_and_keep_their_bounds() -> Result<()> {
    let all: Vec<Box<dyn Transform>> = vec![
        Box::new(RandomCrop::new(6, 5).padding(2)),
        Box::new(RandomResizedCrop::new(6, 6)),
        Box::new(RandomHorizontalFlip::new(0.5)),
        Box::new(RandomVerticalFlip::new(0.5)),
        Box::new(RandomRotation::new(45.0).fill(0.5)),
        Box::new(RandomAffine::new(10.0).translate(0.2, 0.2).scale(0.8, 1.2).shear(5.0).filter(Filter::Bilinear)),
        Box::new(ColorJitter::new(0.4, 0.4, 0.4, 0.2)),
        Box::new(GaussianBlur::new(3)),
        Box::new(RandomErasing::new(0.9)),
        Box::new(RandomApply::new(Grayscale::new(3), 0.5)),
    ];
    let original = numbered(3, 8, 7)?;
    for (i, transform) in all.iter().enumerate() {
        let draw = |seed| transform.apply(original.clone(), &mut Rng::keyed(seed, 1, 2));
        let images: Vec<Image> = (0..20).map(draw).collect::<Result<_>>()?;
        assert_eq!(images[3], draw(3)?, "transform {i}");
        assert!(images.iter().any(|x| *x != images[0]), "transform {i} is not random");
        assert!(images.iter().all(|x| x.data().iter().all(|v| (-1e-6..=1.000001).contains(v))), "transform {i} leaves 0 to 1");
    }
    let line: Image = all.apply(original.clone(), &mut Rng::new(5))?;
    assert_eq!((line.channels(), line.height(), line.width()), (3, 6, 6));

    // Every place of a crop comes up, and each is a part of the image.
    let mut corners = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let crop = RandomCrop::new(6, 6).apply(numbered(1, 8, 7)?, &mut Rng::new(seed))?;
        let first = (crop.at(0, 0, 0) * 56.0).round() as usize - 1;
        assert_eq!(crop, numbered(1, 8, 7)?.crop((first / 7) as isize, (first % 7) as isize, 6, 6)?);
        corners.insert(first);
    }
    assert_eq!(corners.into_iter().collect::<Vec<_>>(), [0, 1, 7, 8, 14, 15]);
    // With a mirrored border, made larger where it must be.
    let crop = RandomCrop::new(9, 5).padding(1).padding_mode(PadMode::Reflect).pad_if_needed(true);
    let small = numbered(1, 4, 5)?;
    for seed in 0..20 {
        let got = crop.apply(small.clone(), &mut Rng::new(seed))?;
        // 4 rows and one on each side lack 3, which are mirrored from the 6.
        assert_eq!((got.height(), got.width()), (9, 5));
    }
    let turned = RandomRotation::new(45.0).expand(true).apply(numbered(1, 6, 6)?, &mut Rng::new(1))?;
    assert!(turned.height() >= 6 && turned.height() <= 10 && turned.height() == turned.width());
    // The parts erased are between the bounds.
    for seed in 0..100 {
        let erased = RandomErasing::new(1.0).apply(numbered(1, 20, 20)?, &mut Rng::new(seed))?;
        let share = erased.data().iter().filter(|v| **v == 0.0).count() as f64 / 400.0;
        assert!((0.01..=0.4).contains(&share), "{share}");
    }
    Ok(())
}

#[test]
fn wrong_options_are_errors() -> Result<()> {
    let image = numbered(3, 4, 4)?;
    let rng = &mut Rng::new(0);
    assert!(Image::new(1, 2, 2, vec![0.0; 3]).is_err() && Image::new(0, 2, 2, vec![]).is_err());
    assert!(image.resize(0, 3, Filter::Nearest).is_err() && image.crop(0, 0, 3, 0).is_err());
    assert!(image.resize(usize::MAX, 2, Filter::Nearest).is_err() && image.center_crop(1 << 40, 1 << 40).is_err());
    assert!(RandomCrop::new(5, 4).apply(image.clone(), rng).is_err());
    assert!(image.affine(0.0, (0.0, 0.0), 0.0, (0.0, 0.0), Filter::Nearest, 0.0).is_err());
    assert!(image.adjust_brightness(-1.0).is_err() && image.adjust_hue(0.6).is_err() && image.adjust_contrast(f32::NAN).is_err());
    assert!(numbered(2, 2, 2)?.grayscale(1).is_err() && image.grayscale(2).is_err());
    assert!(image.normalize(&[0.0, 1.0], &[1.0]).is_err() && image.normalize(&[0.0], &[0.0]).is_err());
    assert!(image.gaussian_blur(2, 1.0).is_err() && image.gaussian_blur(9, 1.0).is_err() && image.gaussian_blur(3, 0.0).is_err());
    assert!(ColorJitter::new(0.0, 0.0, 0.0, 0.6).apply(image.clone(), rng).is_err());
    // Numbers that are absurd, but not wrong.
    assert_eq!(image.crop(isize::MAX, isize::MIN, 1, 1)?.data(), [0.0; 3]);
    assert_eq!(image.erase(3, 0, usize::MAX, usize::MAX, 0.0).at(2, 3, 3), 0.0);
    assert!(image.rotate(f64::NAN, Filter::Bilinear, 0.0).data().len() == 48);
    Ok(())
}

#[test]
fn batches_are_mixed_with_their_neighbours() -> Result<()> {
    let cpu = Device::cpu();
    let x = Tensor::arange(0, 3, 1, cpu).try_reshape([3, 1, 1, 1])?.try_expand([3, 2, 4, 4])?;
    let y = Tensor::from_vec(vec![2i32, 0, 1], 3, cpu)?;
    for seed in 0..20 {
        let (mixed, labels) = MixUp::new(1.0, 3).apply(&x, &y, &mut Rng::new(seed))?;
        let (mixed, labels) = (mixed.to_vec::<f32>()?, labels.to_vec::<f32>()?);
        // Row 1 is a of 1 and the rest of row 0, so it is a; its label is a of class 0 and the rest of class 2.
        let share = mixed[32];
        assert!((labels[3] - share).abs() < 1e-6 && (labels[5] - (1.0 - share)).abs() < 1e-6 && labels[4] == 0.0);
        assert!((mixed[0] - 2.0 * (1.0 - share)).abs() < 1e-6);

        let (cut, labels) = CutMix::new(1.0, 3).apply(&x, &y, &mut Rng::new(seed))?;
        let (cut, labels) = (cut.to_vec::<f32>()?, labels.to_vec::<f32>()?);
        let own = cut[32..48].iter().filter(|v| **v == 1.0).count();
        assert!(cut[32..48].iter().all(|v| [0.0, 1.0].contains(v)));
        assert!((labels[3] - own as f32 / 16.0).abs() < 1e-6 && (labels[5] - (1.0 - own as f32 / 16.0)).abs() < 1e-6);
        assert_eq!(cut[32..48], cut[48..64], "the rectangle is the same in all channels");
    }
    assert!(matches!(MixUp::new(1.0, 3).apply(&y, &y, &mut Rng::new(0)), Err(Error::Shape { .. })));
    assert!(matches!(CutMix::new(0.0, 3).apply(&x, &y, &mut Rng::new(0)), Err(Error::Argument { .. })));
    Ok(())
}
