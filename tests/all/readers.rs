//! Readers: files as others write them, files that are cut off or lie, and files with random faults.

use flate2::{Compression, write::GzEncoder};
use fornax::data::{Csv, Dataset, Image, ImageFolder, Lines, Rng, Stream, StreamLoader, cifar10, cifar100, mnist, read_idx};
use fornax::io::{StateDict, npy};
use fornax::{DType, Device, Error, Result, Tensor};
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/arrays").join(name)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An IDX file of these sizes.
fn idx(kind: u8, dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, dims.len() as u8];
    dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn png(color: png::ColorType, depth: png::BitDepth, width: u32, height: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    bytes
}

/// The message of the error that a file of these bytes gives, without its path.
fn fault<T>(bytes: &[u8], read: impl Fn(&Path) -> Result<T>) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    match read(file.path()) {
        Ok(_) => "no error".into(),
        Err(Error::Format { path, message }) => {
            assert_eq!(path, file.path().display().to_string());
            message
        }
        Err(e) => panic!("another kind of error: {e}"),
    }
}

#[test]
fn idx_files_of_every_type() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let read = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        read_idx(&path)
    };
    let cases: [(u8, Vec<u8>, DType, [f64; 2]); 6] = [
        (8, vec![1, 255], DType::U8, [1.0, 255.0]),
        (9, vec![1, 255], DType::I32, [1.0, -1.0]),
        (11, vec![1, 0, 255, 254], DType::I32, [256.0, -2.0]),
        (12, vec![0, 1, 0, 0, 255, 255, 255, 255], DType::I32, [65536.0, -1.0]),
        (13, [1.5f32.to_be_bytes(), (-2f32).to_be_bytes()].concat(), DType::F32, [1.5, -2.0]),
        (14, [1.5f64.to_be_bytes(), (-2f64).to_be_bytes()].concat(), DType::F64, [1.5, -2.0]),
    ];
    for (kind, data, dtype, want) in cases {
        for bytes in [idx(kind, &[2, 1], &data), gzip(&idx(kind, &[2, 1], &data))] {
            let x = read(bytes)?;
            assert_eq!((x.dtype(), x.dims(), x.to_vec::<f64>()?), (dtype, &[2, 1][..], want.to_vec()));
        }
    }
    assert_eq!(read(idx(8, &[0, 28, 28], &[]))?.dims(), [0, 28, 28]);
    assert!(matches!(read_idx("/nowhere"), Err(Error::Io { .. })));

    let message = |bytes: &[u8]| fault(bytes, |p| read_idx(p));
    assert_eq!(message(&idx(8, &[3, 4], &[0; 9])), "the file ends in row 2 of 3, at byte 9 of 12");
    assert_eq!(message(&idx(8, &[3], &[0; 4])), "there is more after the 3 bytes of sizes [3]");
    assert_eq!(message(&[0, 0, 8, 2, 0, 0]), "the header ends after 6 bytes, and has 2 sizes of 4");
    assert!(message(b"PNG").starts_with("not an IDX file") && message(b"").starts_with("not an IDX file"));
    assert!(message(&idx(10, &[1], &[0])).starts_with("type 0x0a"));
    // Headers that promise more than there is memory: nothing may be allocated for them.
    assert!(message(&idx(8, &[1 << 20, 1 << 20, 64], &[0; 9])).starts_with("the file ends in row 0"));
    assert!(message(&idx(14, &[u32::MAX; 200], &[0; 9])).contains("more than a file can hold"));
    let whole = gzip(&idx(8, &[200], &[7; 200]));
    assert!(message(&whole[..whole.len() - 6]).starts_with("not a whole gzip file"));
    Ok(())
}

#[test]
fn mnist_and_cifar_folders() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("train-images-idx3-ubyte.gz", &gzip(&idx(8, &[3, 2, 2], &(0..12).collect::<Vec<u8>>())));
    write("train-labels-idx1-ubyte", &idx(8, &[3], &[5, 0, 9]));
    write("t10k-images-idx3-ubyte", &idx(8, &[1, 2, 2], &[9; 4]));
    write("t10k-labels-idx1-ubyte", &idx(8, &[1], &[4]));
    let (train, test) = mnist(folder.path())?;
    assert_eq!((train.len(), test.len()), (3, 1));
    let [x, y] = train.pick(&[1])?;
    assert_eq!((x.dims(), x.to_vec::<u8>()?, y.to_vec::<i32>()?), (&[1, 1, 2, 2][..], vec![4, 5, 6, 7], vec![0]));
    write("t10k-labels-idx1-ubyte", &idx(8, &[2], &[4, 4]));
    assert!(matches!(mnist(folder.path()), Err(Error::Format { .. })));
    write("t10k-labels-idx1-ubyte", &idx(8, &[1], &[10]));
    let message = mnist(folder.path()).err().unwrap().to_string();
    assert!(message.ends_with("t10k-labels-idx1-ubyte: row 0: label 10 is out of range (there are 10)"), "{message}");

    let row = |labels: &[u8], pixel: u8| [labels, &[pixel; 3072]].concat();
    (1..=5).for_each(|i| write(&format!("data_batch_{i}.bin"), &[row(&[i], i), row(&[9 - i], 0)].concat()));
    write("test_batch.bin", &row(&[3], 200));
    let (train, test) = cifar10(folder.path())?;
    let [x, y] = train.pick(&[4, 5])?;
    assert_eq!((x.dims(), y.to_vec::<i32>()?, test.len()), (&[2, 3, 32, 32][..], vec![3, 6], 1));
    assert_eq!(x.to_vec::<u8>()?[0], 3);
    write("train.bin", &row(&[19, 99], 1));
    write("test.bin", &row(&[0, 42], 1));
    assert_eq!(cifar100(folder.path())?.1.tensors()[1].to_vec::<i32>()?, [42]);
    write("test.bin", &[row(&[0, 42], 1), row(&[20, 42], 1)].concat());
    let message = cifar100(folder.path()).err().unwrap().to_string();
    assert!(message.ends_with("test.bin: row 1, column 0: label 20 is out of range (there are 20)"), "{message}");
    write("test.bin", &row(&[0, 42], 1)[..3000]);
    let message = cifar100(folder.path()).err().unwrap().to_string();
    assert!(message.ends_with("3000 bytes: row 0 is cut off (a row has 3074)"), "{message}");
    Ok(())
}

#[test]
fn text_comes_line_by_line() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let text = b"{\"a\": 1}\n\n[2, 3]\r\n{\"a\" 4}\n\xff\n5";
    for bytes in [text.to_vec(), gzip(text)] {
        std::fs::write(&path, bytes).unwrap();
        let values: Vec<_> = Stream::json_lines(&path).epoch(0)?.collect();
        assert_eq!(values.len(), 5);
        assert_eq!((&values[0].as_ref().unwrap()["a"], &values[4].as_ref().unwrap().to_string()[..]), (&1.into(), "5"));
        let message = |i: usize| values[i].as_ref().unwrap_err().to_string().rsplit(": ").next().unwrap().to_string();
        assert!(message(2).contains("expected"), "{}", message(2));
        assert!(values[2].as_ref().unwrap_err().to_string().contains("line 4, column 6: "), "{:?}", values[2]);
        assert_eq!(message(3), "not valid UTF-8");
    }
    let cut = gzip(&b"one\ntwo\n".repeat(1000));
    std::fs::write(&path, &cut[..cut.len() - 8]).unwrap();
    let lines: Vec<_> = Lines::open(&path)?.collect();
    assert!(lines[0].is_ok() && lines.last().unwrap().is_err());

    std::fs::write(&path, "a,b\n1,2\n3,4\n5,\n6,x\n7,8\n").unwrap();
    let loader = StreamLoader::new(Csv::new().missing(0.5).stream(&path)?, 2).workers(1);
    let batches: Vec<Result<Tensor>> = loader.epoch(0)?.collect();
    assert_eq!(batches[0].as_ref().unwrap().to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
    assert!(batches.len() == 2 && batches[1].as_ref().unwrap_err().to_string().ends_with("line 5, column 2 (b): \"x\" is not a number"));
    std::fs::write(&path, gzip(b"a\n7\n")).unwrap();
    assert_eq!(Csv::new().read(&path)?.column("a")?, [7.0]);
    Ok(())
}

#[test]
fn numpys_files() -> Result<()> {
    let types = [
        ("u1", DType::U8),
        ("i1", DType::I32),
        ("i2", DType::I32),
        ("u2", DType::I32),
        ("i4", DType::I32),
        ("u4", DType::U32),
        ("i8", DType::I64),
        ("u8", DType::I64),
        ("f2", DType::F16),
        ("f4", DType::F32),
        ("f8", DType::F64),
        ("big_f4", DType::F32),
        ("big_i2", DType::I32),
        ("fortran", DType::F32),
    ];
    for (name, dtype) in types {
        let x = npy::load(golden(&format!("{name}.npy")))?;
        assert_eq!((x.dtype(), x.dims(), x.to_vec::<f64>()?), (dtype, &[2, 3][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), "{name}");
    }
    assert_eq!(npy::load(golden("bool.npy"))?.to_vec::<bool>()?, [true, false, true, false, true, false]);
    assert_eq!(npy::load(golden("scalar.npy"))?.item::<f32>()?, 7.0);
    assert_eq!(npy::load(golden("empty.npy"))?.dims(), [0, 3]);
    assert!(npy::load(golden("complex.npy")).unwrap_err().to_string().contains("\"<c8\""));
    assert!(npy::load(golden("records.npy")).unwrap_err().to_string().ends_with("records of several fields cannot be tensors"));
    let stored = npy::load_npz(golden("stored.npz"))?;
    assert_eq!((stored["x"].dtype(), stored["y"].dtype(), stored["y"].to_vec::<i32>()?), (DType::F32, DType::I64, vec![0, 1, 2, 3, 4, 5]));
    let packed = npy::load_npz(golden("packed.npz"))?;
    assert_eq!((packed["a.b"].dims(), packed["x"].to_vec::<f32>()?[5]), (&[50, 50][..], 5.0));

    // What is saved is loaded again, and is byte for byte what NumPy writes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    for name in ["u1", "i4", "u4", "i8", "f2", "f4", "f8", "bool", "scalar", "empty"] {
        let file = golden(&format!("{name}.npy"));
        npy::save(&path, &npy::load(&file)?)?;
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&file).unwrap(), "{name}");
    }
    let x = Tensor::arange(0, 5, 1, Device::cpu());
    let dict = StateDict::from([("w.x".to_string(), x.clone()), ("empty".to_string(), Tensor::zeros([2, 0], Device::cpu()))]);
    npy::save_npz(&path, &dict)?;
    let again = npy::load_npz(&path)?;
    assert_eq!((again["w.x"].to_vec::<f32>()?, again["empty"].dims(), again.len()), (x.to_vec::<f32>()?, &[2, 0][..], 2));
    assert!(matches!(npy::save(&path, &x.try_cast(DType::BF16)?), Err(Error::DType { .. })));
    assert_eq!(npy::load_npz(&path)?.len(), 2, "a save that failed leaves the old file");
    Ok(())
}

#[test]
fn arrays_that_lie_are_errors() {
    let file = |text: &str, data: usize| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let message = |shape: &str, data| {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        fault(&file(&text, data), |p| npy::load(p))
    };
    assert_eq!(message("(2, 3)", 23), "23 bytes of data, and shape [2, 3] of \"<f4\" needs 24");
    assert!(message("(1099511627776, 64)", 4).ends_with("needs 281474976710656"));
    assert!(message("(9223372036854775807, 9)", 4).ends_with("more than a file can hold"));
    assert!(message("(2, -3)", 24).contains("no size") && message("2", 8).ends_with("no tuple"));
    let npy = |bytes: &[u8]| fault(bytes, |p| npy::load(p));
    assert_eq!(npy(b""), "the file is empty");
    assert!(npy(b"NUMPY").starts_with("not a .npy file") && npy(b"\x93NUMPY\x07\x00").starts_with("version 7"));
    assert_eq!(npy(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"), "the header has 4294967295 bytes, more than the file");
    let bools = std::fs::read(golden("bool.npy")).unwrap();
    assert_eq!(npy(&[&bools[..bools.len() - 1], &[2]].concat()), "bytes of a bool other than 0 and 1");
    let npz = |bytes: &[u8]| fault(bytes, |p| npy::load_npz(p));
    let packed = std::fs::read(golden("packed.npz")).unwrap();
    assert!(npz(&packed[..packed.len() - 30]).starts_with("not a zip archive"));
    assert!(npz(&packed[9..]).contains("directory") || npz(&packed[9..]).contains("array"));
    let at = packed.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let mut lying = packed.clone();
    lying[at + 24..at + 28].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    assert!(npz(&lying).contains("the archive says 2147483647"), "{}", npz(&lying));
    // Two entries of the directory for the same bytes: each more costs the file 51 bytes, and the reader a whole array.
    let file = tempfile::NamedTempFile::new().unwrap();
    let x = Tensor::ones(100, Device::cpu());
    npy::save_npz(file.path(), &StateDict::from([("a".to_string(), x.clone()), ("b".to_string(), x)])).unwrap();
    let mut shared = std::fs::read(file.path()).unwrap();
    let second = shared.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    shared[second + 42..second + 46].copy_from_slice(&0u32.to_le_bytes());
    assert_eq!(npz(&shared), "arrays \"a\" and \"b\" lie in the same bytes");
}

#[test]
fn images_as_others_write_them() -> Result<()> {
    let photo = Image::read(golden("photo.jpg"))?;
    let pixels = npy::load(golden("photo.npy"))?.try_permute(&[2, 0, 1])?.to_vec::<f32>()?;
    assert_eq!((photo.channels(), photo.height(), photo.width()), (3, 19, 26));
    // Decoders may round the transform and the colours differently.
    let worst = photo.data().iter().zip(&pixels).map(|(a, b)| (a * 255.0 - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 4.0, "{worst}");

    let gray = Image::decode("gray", &png(png::ColorType::Grayscale, png::BitDepth::Eight, 2, 1, &[0, 51]))?;
    assert_eq!(gray.data(), [0.0, 0.2, 0.0, 0.2, 0.0, 0.2]);
    let rgb = Image::decode("rgb", &png(png::ColorType::Rgb, png::BitDepth::Eight, 1, 2, &[255, 0, 51, 0, 102, 0]))?;
    assert_eq!(rgb.data(), [1.0, 0.0, 0.0, 0.4, 0.2, 0.0]);
    let deep = Image::decode("deep", &png(png::ColorType::Rgb, png::BitDepth::Sixteen, 1, 1, &[255, 255, 0, 1, 0, 0]))?;
    assert_eq!(deep.data(), [1.0, 1.0 / 65535.0, 0.0]);

    let folder = tempfile::tempdir().unwrap();
    for (class, name, value) in [("dog", "b.png", 2u8), ("dog", "a.PNG", 1), ("cat", "deep/c.png", 3)] {
        let path = folder.path().join(class).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, png(png::ColorType::Grayscale, png::BitDepth::Eight, 1, 1, &[value])).unwrap();
    }
    std::fs::write(folder.path().join("cat/notes.txt"), "no image").unwrap();
    let images = ImageFolder::open(folder.path())?;
    assert_eq!((images.classes(), images.labels()), (&["cat".to_string(), "dog".to_string()][..], vec![0, 1, 1]));
    let values: Vec<f32> = (0..3).map(|i| Ok(images.get(i, &mut Rng::new(0))?.0.at(0, 0, 0) * 255.0)).collect::<Result<_>>()?;
    assert_eq!(values.iter().map(|v| v.round()).collect::<Vec<_>>(), [3.0, 1.0, 2.0]);
    std::fs::create_dir(folder.path().join("bird")).unwrap();
    assert!(matches!(ImageFolder::open(folder.path()), Err(Error::Format { .. })));
    std::fs::write(folder.path().join("dog/a.PNG"), "not a picture").unwrap();
    let message = images.get(1, &mut Rng::new(0)).unwrap_err().to_string();
    assert!(message.contains("a.PNG: "), "{message}");

    // A header of 60000 × 60000 pixels, and no pixels.
    let small = png(png::ColorType::Rgb, png::BitDepth::Eight, 1, 1, &[0; 3]);
    let mut lying = small.clone();
    lying[16..20].copy_from_slice(&60000u32.to_be_bytes());
    lying[20..24].copy_from_slice(&60000u32.to_be_bytes());
    let mut crc = flate2::Crc::new();
    crc.update(&lying[12..29]);
    lying[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let message = Image::decode("huge", &lying).unwrap_err().to_string();
    assert!(message.starts_with("huge: 60000×60000 pixels of 10800000000 bytes cannot be in a file of"), "{message}");
    assert!(Image::decode("cut", &small[..small.len() - 20]).is_err());

    // Black in two colours: deflate makes 1032 bytes of one, and the palette 24 of each, or 32 with transparency.
    for (transparent, bytes) in [(false, 3), (true, 4)] {
        let mut black = Vec::new();
        let mut encoder = png::Encoder::new(&mut black, 2000, 2000);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::One);
        encoder.set_compression(png::Compression::High);
        encoder.set_palette(vec![0u8, 0, 0, 255, 255, 255]);
        if transparent {
            encoder.set_trns(vec![255u8, 0]);
        }
        encoder.write_header().unwrap().write_image_data(&vec![0; 250 * 2000]).unwrap();
        assert!(2000 * 2000 * bytes > 2048 * black.len() + (1 << 16), "{} bytes are no hard case", black.len());
        let image = Image::decode("black", &black)?;
        assert_eq!((image.height(), image.width(), image.data().iter().sum::<f32>()), (2000, 2000, 0.0));
    }
    Ok(())
}

/// Reads these bytes by every reader: whatever comes out, none may panic.
fn read_by_all(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, bytes).unwrap();
    for batch in ["train.bin", "test.bin"] {
        std::fs::write(folder.path().join(batch), bytes).unwrap();
    }
    // What is loaded is also used, so that a tensor that lies about its memory would be found.
    let used = |x: Result<Tensor>| x.and_then(|x| x.to_vec::<f64>()).map(|v| v.len()).ok();
    used(read_idx(&path));
    used(npy::load(&path));
    npy::load_npz(&path).ok().into_iter().flatten().for_each(|(_, x)| assert!(used(Ok(x)).is_some()));
    let _ = cifar100(folder.path());
    let _ = Csv::new().missing(0.0).read(&path).map(|t| (t.rows(), t.row(0).len()));
    let _ = Csv::new().header(false).delimiter(b' ').read(&path);
    let _ = Lines::open(&path).map(|lines| lines.take(1000).count());
    let _ = Stream::json_lines(&path).epoch(0).map(|values| values.take(1000).count());
    let _ = Image::decode("x", bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_faults_never_panic(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let read = |name: &str| std::fs::read(golden(name)).unwrap();
        let whole = [
            idx(8, &[3, 2, 2], &[7; 12]),
            idx(13, &[3], &[1; 12]),
            gzip(&idx(8, &[3, 2, 2], &[7; 12])),
            read("f4.npy"),
            read("fortran.npy"),
            read("u8.npy"),
            read("stored.npz"),
            read("packed.npz"),
            read("photo.jpg"),
            png(png::ColorType::Rgb, png::BitDepth::Eight, 3, 3, &[9; 27]),
            b"a,b\n1,2\n\"3\",4\n".to_vec(),
            b"{\"a\": [1, 2]}\n{\"b\": null}\n".to_vec(),
            [&[1u8, 2][..], &[3; 3072]].concat(),
        ];
        for mut bytes in whole {
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(bytes.len().max(1));
                match rng.below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, rng.next_u32() as u8),
                    _ if bytes.is_empty() => {}
                    2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
                    _ => bytes[at] ^= 1 << rng.below(8),
                }
            }
            read_by_all(&bytes);
        }
    }
}
