//! `Display` against NumPy's `str`. The file comes from `tests/golden/gen_display.py`.

use crate::harness::gpu;
use fornax::{DType, Device, Result, Tensor};
use half::f16;

/// A tensor from a case's first line.
fn tensor(line: &str) -> Result<Tensor> {
    let mut words = line.split(' ').filter(|w| !w.is_empty());
    let (dtype, shape) = (words.next().unwrap(), words.next().unwrap());
    let dtype = DType::ALL.into_iter().find(|d| d.name() == dtype).unwrap();
    let shape: Vec<usize> = if shape == "-" { vec![] } else { shape.split(',').map(|d| d.parse().unwrap()).collect() };
    let words: Vec<&str> = words.collect();
    if words == ["arange"] {
        return Tensor::try_arange(0, shape.iter().product::<usize>(), 1, (dtype, Device::cpu()))?.try_reshape(shape);
    }
    let bits = || words.iter().map(|w| u64::from_str_radix(w, 16).unwrap());
    let ints = || words.iter().map(|w| w.parse::<i64>().unwrap());
    let cpu = Device::cpu();
    match dtype {
        DType::F32 => Tensor::from_vec(bits().map(|b| f32::from_bits(b as u32)).collect(), shape, cpu),
        DType::F64 => Tensor::from_vec(bits().map(f64::from_bits).collect(), shape, cpu),
        DType::F16 => Tensor::from_vec(bits().map(|b| f16::from_bits(b as u16)).collect(), shape, cpu),
        DType::Bool => Tensor::from_vec(ints().map(|v| v != 0).collect(), shape, cpu),
        d => Tensor::from_vec(ints().collect(), shape, cpu)?.try_cast(d),
    }
}

#[test]
fn tensors_print_as_numpys_arrays() -> Result<()> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/display.txt")).unwrap();
    let (mut count, mut wrong) = (0, String::new());
    for case in text.split("\n---\n").filter(|c| !c.is_empty()) {
        let (line, want) = case.split_once('\n').unwrap();
        let t = tensor(line)?;
        let mut check = |t: &Tensor| {
            let got = t.to_string();
            if got != want {
                wrong += &format!("{line}\non {}:\n{got}\nNumPy:\n{want}\n\n", t.device());
            }
            count += 1;
        };
        check(&t);
        // A few on the GPU: what is printed was read, wherever it was.
        if let Some(gpu) = gpu().filter(|_| t.dtype().on_gpu() && t.rank() == 2) {
            check(&t.try_to(gpu)?);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 260, "{count}");
    Ok(())
}

#[test]
fn precision_of_display() {
    let x = Tensor::from_vec(vec![0.5f32, 1.0 / 3.0], 2, Device::cpu()).unwrap();
    assert_eq!(format!("{x:.2}"), "[0.5  0.33]");
    assert_eq!(format!("{:.3}", x.sum(())), "0.833");
}
