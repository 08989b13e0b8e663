//! Safetensors files: round trips, alignment, and files that lie.

use fornax::io::{StateDict, safetensors};
use fornax::{DType, Device, Error, Result, Tensor};
use proptest::prelude::*;
use std::path::PathBuf;
use tempfile::TempDir;

fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// A file with this header and this much data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

/// The message for a file that must be refused.
fn refused(bytes: &[u8]) -> String {
    let (_folder, path) = write(bytes);
    match safetensors::load(&path) {
        Err(e @ Error::Format { .. }) => e.to_string(),
        other => panic!("must be a format error: {other:?}", other = other.map(|d| d.len())),
    }
}

fn entry(dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
}

#[test]
fn every_dtype_survives() -> Result<()> {
    let cpu = Device::cpu();
    let mut dict = StateDict::new();
    for dtype in DType::ALL {
        let t = Tensor::from_slice(&[0.0f32, 1.0, 1.0, 0.0, 1.0, 0.0], [2, 3], cpu)?.cast(dtype);
        dict.insert(format!("a.{dtype}"), t.clone());
        dict.insert(format!("view \"{dtype}\" \n ü"), t.t().slice(0, 1, 3, 1));
    }
    dict.insert("scalar".into(), Tensor::full((), 2.5, cpu));
    dict.insert("empty".into(), Tensor::zeros([0, 3], cpu));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    safetensors::save(&path, &dict)?;
    // Over itself, while it is mapped.
    let first = safetensors::load(&path)?;
    safetensors::save(&path, &first)?;
    let second = safetensors::load(&path)?;
    assert_eq!(second.len(), dict.len());
    for (name, t) in &dict {
        for loaded in [&first[name], &second[name]] {
            assert_eq!((loaded.dtype(), loaded.shape()), (t.dtype(), t.shape()), "{name}");
            assert_eq!(loaded.to_vec::<f64>()?, t.to_vec::<f64>()?, "{name}");
        }
    }
    // Nothing else is left in the folder.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    safetensors::save(&path, &StateDict::new())?;
    assert!(safetensors::load(&path)?.is_empty());
    Ok(())
}

#[test]
fn misaligned_tensors_are_copied() -> Result<()> {
    let header = format!("{{\"b\":{},\"f\":{}}}", entry("U8", "[3]", 0, 3), entry("F32", "[2]", 3, 11));
    for pad in 0..4 {
        let mut data = vec![1, 2, 3];
        data.extend(1.5f32.to_le_bytes());
        data.extend((-2.0f32).to_le_bytes());
        let (_folder, path) = write(&file(&(header.clone() + &" ".repeat(pad)), &data));
        let dict = safetensors::load(&path)?;
        assert_eq!(dict["f"].to_vec::<f32>()?, [1.5, -2.0]);
        assert_eq!(dict["b"].to_vec::<u8>()?, [1, 2, 3]);
        assert_eq!((&dict["f"] * 2.0).to_vec::<f32>()?, [3.0, -4.0]);
    }
    Ok(())
}

#[test]
fn missing_files_and_folders_are_io_errors() {
    assert!(matches!(safetensors::load("/nowhere/x"), Err(Error::Io { .. })));
    assert!(safetensors::load(std::env::temp_dir()).is_err());
    let e = safetensors::save("/nowhere/x", &StateDict::new()).unwrap_err();
    assert!(matches!(e, Error::Io { .. }));
}

#[test]
fn lying_files_are_errors() {
    let f32s = |shape: &str, from, to| format!("{{\"x\":{}}}", entry("F32", shape, from, to));
    refused(b"");
    refused(&[0; 7]);
    refused(&[0; 8]);
    refused(&file("", &[]));
    refused(&file("{", &[]));
    refused(&file("[]", &[]));
    refused(&file("null", &[]));
    refused(&file(&"[".repeat(100_000), &[]));
    refused(&file("{\"x\":{}}", &[]));
    refused(&file("\u{7f}\u{0}", &[]));
    // A header longer than the file, up to the largest number.
    for n in [9, 1 << 20, 99_999_999, 100_000_001, u64::MAX / 2, u64::MAX - 7, u64::MAX] {
        let mut bytes = n.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        refused(&bytes);
    }
    // Truncated and padded data.
    refused(&file(&f32s("[4]", 0, 16), &[0; 15]));
    refused(&file(&f32s("[4]", 0, 16), &[0; 17]));
    refused(&file(&f32s("[4]", 0, 16), &[]));
    // Shapes that are not what the offsets say, or that overflow.
    refused(&file(&f32s("[5]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[-4]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[4.0]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[4294967296,4294967296,4]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[9223372036854775807,2]", 0, 16), &[0; 16]));
    refused(&file(&f32s("[0,9223372036854775807,9223372036854775807]", 0, 0), &[]));
    refused(&file(&f32s("[4611686018427387904]", 0, 0), &[]));
    // Offsets that run backward, leave gaps, overlap, or pass the end.
    refused(&file(&f32s("[4]", 16, 0), &[0; 16]));
    refused(&file(&f32s("[2]", 4, 12), &[0; 16]));
    refused(&file(&f32s("[4]", u64::MAX - 15, u64::MAX), &[0; 16]));
    refused(&file(&f32s("[1]", u64::MAX - 3, 0), &[0; 16]));
    let two = |a: (u64, u64), b: (u64, u64)| format!("{{\"x\":{},\"y\":{}}}", entry("F32", "[2]", a.0, a.1), entry("F32", "[2]", b.0, b.1));
    refused(&file(&two((0, 8), (4, 12)), &[0; 12]));
    refused(&file(&two((0, 8), (0, 8)), &[0; 8]));
    refused(&file(&two((0, 8), (12, 20)), &[0; 20]));
    // Dtypes: unknown, and known to the format alone.
    refused(&file(&format!("{{\"x\":{}}}", entry("F99", "[2]", 0, 8)), &[0; 8]));
    let e = refused(&file(&format!("{{\"x\":{}}}", entry("U64", "[1]", 0, 8)), &[0; 8]));
    assert!(e.contains("\"x\"") && e.contains("U64"), "{e}");
    // A bool that is neither.
    let e = refused(&file(&format!("{{\"x\":{}}}", entry("BOOL", "[3]", 0, 3)), &[0, 1, 2]));
    assert!(e.contains("other than 0 and 1"), "{e}");
    // An empty tensor is fine.
    let (_folder, path) = write(&file(&f32s("[0]", 0, 0), &[]));
    assert_eq!(safetensors::load(&path).unwrap()["x"].to_vec::<f32>().unwrap().len(), 0);
}

#[test]
fn hostile_headers_are_errors() {
    let x = |from, to| format!("\"x\":{}", entry("F32", "[1]", from, to));
    // One name twice, as it is and in another spelling: over the same bytes, and over others.
    for (a, b) in [((0, 4), (0, 4)), ((0, 4), (4, 8)), ((4, 8), (0, 4))] {
        for size in [4, 8] {
            refused(&file(&format!("{{{},{}}}", x(a.0, a.1), x(b.0, b.1)), &vec![0; size]));
            refused(&file(&format!("{{{},{}}}", x(a.0, a.1), x(b.0, b.1).replace("\"x\"", "\"\\u0078\"")), &vec![0; size]));
        }
    }
    let e = refused(&file(&format!("{{{},{}}}", x(0, 4), x(0, 4)), &[0; 4]));
    assert!(e.contains("2 tensors under 1 names"), "{e}");
    refused(&file(&format!("{{\"__metadata__\":{{}},\"__metadata__\":{{}},{}}}", x(0, 4)), &[0; 4]));
    // Names that look like structure are names.
    let odd = "a\\\"{[:,]}\\\\";
    let (_folder, path) =
        write(&file(&format!("{{\"__metadata__\":{{\"a:{{\":\"b\"}},\"{odd}\":{}}}", entry("F32", "[1]", 0, 4)), &[0; 4]));
    assert_eq!(safetensors::load(&path).unwrap()["a\"{[:,]}\\"].numel(), 1);
    // Tensors of no bytes: between others and at the end, but not past it, and not inside another.
    let with = |from: u64| {
        format!("{{\"e\":{},\"x\":{},\"y\":{}}}", entry("F32", "[0,3]", from, from), entry("F32", "[1]", 0, 4), entry("F32", "[1]", 4, 8))
    };
    for (from, good) in [(0, true), (4, true), (8, true), (2, false), (12, false), (u64::MAX, false)] {
        let bytes = file(&with(from), &[0; 8]);
        if good {
            let (_folder, path) = write(&bytes);
            assert_eq!(safetensors::load(&path).unwrap()["e"].dims(), [0, 3], "{from}");
        } else {
            refused(&bytes);
        }
    }
    // Bytes that are no UTF-8: in a name, in the metadata, everywhere.
    let mut bytes = file(&format!("{{{}}}", x(0, 4)), &[0; 4]);
    bytes[10] = 0xff;
    refused(&bytes);
    refused(&file(&"\u{fffd}".repeat(9), &[]));
    let mut bytes = file("{\"__metadata__\":{\"a\":\"bc\"}}", &[]);
    let at = bytes.len() - 5;
    bytes[at..at + 2].copy_from_slice(&[0xc3, 0x28]);
    refused(&bytes);
    // Nesting, closed and open, in every place.
    for n in [200, 100_000] {
        let (open, close) = ("[".repeat(n), "]".repeat(n));
        let objects = format!("{}0{}", "{\"a\":".repeat(n), "}".repeat(n));
        refused(&file(&format!("{open}{close}"), &[]));
        refused(&file(&objects, &[]));
        refused(&file(&format!("{{\"__metadata__\":{objects}}}"), &[]));
        refused(&file(&format!("{{\"__metadata__\":{{\"a\":{open}{close}}}}}"), &[]));
        refused(&file(&format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":{open}{close},\"data_offsets\":[0,4]}}}}"), &[0; 4]));
        refused(&file(&format!("{{\"x\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{open}"), &[0; 4]));
    }
    // Fields of the wrong kind, missing, or twice.
    for entry in [
        "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}",
        "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}",
        "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}",
        "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.5]}",
        "{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999999]}",
        "{\"dtype\":\"F32\",\"shape\":[99999999999999999999999],\"data_offsets\":[0,4]}",
        "{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}",
        "{\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]}",
        "{\"dtype\":\"F32\",\"data_offsets\":[0,4]}",
        "{\"shape\":[1],\"data_offsets\":[0,4]}",
        "{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}",
        "null",
        "[\"F32\",[1]]",
    ] {
        refused(&file(&format!("{{\"x\":{entry}}}"), &[0; 4]));
    }
    refused(&file("{\"__metadata__\":{\"a\":1}}", &[]));
    refused(&file("{\"__metadata__\":[]}", &[]));
    refused(&file("{}{}", &[]));
}

#[test]
fn a_huge_header_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    // A sparse file that is as long as it says.
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 33).unwrap();
    for n in [100_000_001u64, 1 << 32, (1 << 33) - 8] {
        use std::io::{Seek, Write};
        (&file).rewind().unwrap();
        (&file).write_all(&n.to_le_bytes()).unwrap();
        let start = std::time::Instant::now();
        assert!(matches!(safetensors::load(&path), Err(Error::Format { .. })), "{n}");
        assert!(start.elapsed().as_secs() < 5, "{n} took {:?}", start.elapsed());
    }
}

#[test]
fn many_axes_and_many_tensors_load() {
    // 5,000 axes of size one, and 20,000 tensors.
    let ones = format!("[{}]", vec!["1"; 5000].join(","));
    let (_folder, path) = write(&file(&format!("{{\"x\":{}}}", entry("F32", &ones, 0, 4)), &[0; 4]));
    assert_eq!(safetensors::load(&path).unwrap()["x"].rank(), 5000);
    let all: Vec<String> = (0..20_000).map(|i| format!("\"{i}\":{}", entry("U8", "[1]", i, i + 1))).collect();
    let (_folder, path) = write(&file(&format!("{{{}}}", all.join(",")), &vec![3; 20_000]));
    let dict = safetensors::load(&path).unwrap();
    assert_eq!((dict.len(), dict["19999"].to_vec::<u8>().unwrap()), (20_000, vec![3]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A valid file with bytes changed, cut or added: no panic, and what is accepted can be read.
    #[test]
    fn damaged_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in 0usize..40, add in 0usize..4) {
        let header = format!("{{\"a\":{},\"b\":{}}}   ", entry("F32", "[2,2]", 0, 16), entry("I64", "[1]", 16, 24));
        let mut bytes = file(&header, &[7; 24]);
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()).saturating_sub(20));
        bytes.extend(vec![0; add]);
        let (_folder, path) = write(&bytes);
        if let Ok(dict) = safetensors::load(&path) {
            for t in dict.values() {
                prop_assert!(t.to_vec::<f64>().is_ok());
            }
        }
    }
}
