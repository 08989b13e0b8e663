//! Single ops in the shapes of the peers' programs. `cargo bench --bench ops -- [--device cpu] [--only conv2d] [--json FILE] [--quick]`

mod common;

use common::{Bench, Work, bytes, flops};
use fornax::quant::{self, Format};
use fornax::{Attention, ConvOptions, PoolOptions, Result};

fn products(b: &mut Bench) -> Result<()> {
    for n in [64usize, 256, 512, 1024, 2048] {
        let work = flops(2.0 * (n as f64).powi(3), 12.0 * (n * n) as f64);
        b.op("matmul_f32", &format!("{n}x{n}x{n}"), work, |b| {
            let (x, y) = (b.normal([n, n])?, b.normal([n, n])?);
            Ok(move || x.try_matmul(&y))
        })?;
    }
    b.op("bmm_f32", "32x[128x64x128]", flops(2.0 * 32.0 * 128.0 * 64.0 * 128.0, 4.0 * 32.0 * (2.0 * 128.0 * 64.0 + 128.0 * 128.0)), |b| {
        let (x, y) = (b.normal([32, 128, 64])?, b.normal([32, 64, 128])?);
        Ok(move || x.try_matmul(&y))
    })
}

/// Products with quantised weights in the shapes of decoding (a row), and of a prompt. The bytes are those of the codes and scales.
fn quantised(b: &mut Bench) -> Result<()> {
    for (m, n, k) in [(1usize, 768usize, 768usize), (1, 2048, 768), (1, 768, 2048), (1, 4096, 4096), (4, 4096, 4096), (128, 4096, 4096)] {
        let (elements, shape) = ((n * k) as f64, format!("{m}x{k} by [{n}, {k}]"));
        let work = |bits: f64| {
            let (flops, bytes) = (2.0 * m as f64 * elements, bits / 8.0 * elements);
            Work { flops, bytes, memory_bound: m < 8, ..Work::default() }
        };
        b.op("linear_f32", &shape, work(32.0), |b| {
            let (x, w) = (b.normal([m, k])?, b.normal([n, k])?);
            Ok(move || x.try_linear(&w, None))
        })?;
        for (name, format, bits) in [
            ("qmatmul_int8", Format::Int8, 8.0),
            ("qmatmul_nf4", Format::Nf4 { block_size: 64, double: false }, 4.5),
            ("qmatmul_nf4_double", Format::NF4, 4.127),
        ] {
            b.op(name, &shape, work(bits), |b| {
                let (x, w) = (b.normal([m, k])?, b.normal([n, k])?);
                let q = match format {
                    Format::Int8 => quant::int8(&w)?,
                    Format::Nf4 { block_size, double } => quant::nf4(&w, block_size, double)?,
                };
                Ok(move || x.try_qmatmul(&q))
            })?;
        }
    }
    Ok(())
}

fn rows(b: &mut Bench) -> Result<()> {
    b.op("softmax", "4096x1024", bytes(8.0 * 4096.0 * 1024.0), |b| {
        let x = b.normal([4096, 1024])?;
        Ok(move || x.try_softmax(-1))
    })?;
    b.op("layer_norm", "4096x768", bytes(8.0 * 4096.0 * 768.0), |b| {
        let (x, w, bias) = (b.normal([4096, 768])?, b.normal([768])?, b.normal([768])?);
        Ok(move || x.try_layer_norm(768, Some(&w), Some(&bias), 1e-5))
    })?;
    for axis in [0, 1] {
        b.op(&format!("sum_axis{axis}"), "4096x4096", bytes(4.0 * 4096.0 * 4096.0), |b| {
            let x = b.normal([4096, 4096])?;
            Ok(move || x.try_sum(axis))
        })?;
    }
    Ok(())
}

/// Images, channels in, side, channels out, stride, groups; a kernel of 3 with padding 1.
const CONVOLUTIONS: [(&str, &str, [usize; 6]); 4] = [
    ("conv2d", "32x3x32x32->64k3p1", [32, 3, 32, 64, 1, 1]),
    ("conv2d", "32x64x56x56->64k3p1", [32, 64, 56, 64, 1, 1]),
    ("conv2d", "8x128x28x28->256k3s2p1", [8, 128, 28, 256, 2, 1]),
    ("conv2d_depthwise", "8x256x28x28k3p1", [8, 256, 28, 256, 1, 256]),
];

fn images(b: &mut Bench) -> Result<()> {
    for (op, shape, [n, c, side, o, stride, groups]) in CONVOLUTIONS {
        let out = (side + 2 - 3) / stride + 1;
        let taps = c / groups * 9;
        let touched = n * c * side * side + o * taps + n * o * out * out;
        b.op(op, shape, flops(2.0 * (n * o * out * out * taps) as f64, 4.0 * touched as f64), |b| {
            let (x, w, bias) = (b.normal([n, c, side, side])?, b.normal([o, c / groups, 3, 3])?, b.normal([o])?);
            let options = ConvOptions { stride: stride.into(), padding: 1.into(), groups, ..ConvOptions::default() };
            Ok(move || x.try_conv2d(&w, Some(&bias), options))
        })?;
    }
    b.op("max_pool2d", "32x64x56x56k2s2", bytes(5.0 * 32.0 * 64.0 * 56.0 * 56.0), |b| {
        let x = b.normal([32, 64, 56, 56])?;
        Ok(move || x.try_max_pool2d(2, PoolOptions::default()))
    })
}

fn attention(b: &mut Bench) -> Result<()> {
    let (shape, all) = ([8, 12, 512, 64], 4.0 * 96.0 * 512.0 * 512.0 * 64.0);
    for (op, causal, share) in [("sdpa", false, 1.0), ("sdpa_causal", true, 0.5)] {
        b.op(op, "8x12x512x64", flops(all * share, 4.0 * 4.0 * 96.0 * 512.0 * 64.0), |b| {
            let (q, k, v) = (b.normal(shape)?, b.normal(shape)?, b.normal(shape)?);
            Ok(move || q.try_scaled_dot_product_attention(&k, &v, &Attention { causal, ..Attention::default() }))
        })?;
    }
    Ok(())
}

fn indexing(b: &mut Bench) -> Result<()> {
    b.op("embedding", "32000x768[8x512]", bytes(8.0 * 8.0 * 512.0 * 768.0), |b| {
        let (table, ids) = (b.normal([32_000, 768])?, b.ids([8, 512], 32_000)?);
        Ok(move || table.try_embedding(&ids))
    })?;
    b.row("argsort", "1M", Default::default(), |b| {
        let x = b.normal([1 << 20])?;
        Ok(move || sorted(&x.try_argsort(-1, false)?))
    })?;
    b.row("topk100", "1M", Default::default(), |b| {
        let x = b.normal([1 << 20])?;
        Ok(move || {
            let (values, at) = x.try_topk(100, -1, true)?;
            fornax::eval(&[&values, &at])?;
            sorted(&at)
        })
    })
}

/// Waits for indices.
fn sorted(at: &fornax::Tensor) -> Result<()> {
    at.eval()?;
    if at.device().is_gpu() { at.try_narrow(0, 0, 1)?.to_vec::<i32>().map(drop) } else { Ok(()) }
}

fn main() -> Result<()> {
    let mut b = Bench::from_args()?;
    products(&mut b)?;
    quantised(&mut b)?;
    rows(&mut b)?;
    images(&mut b)?;
    attention(&mut b)?;
    indexing(&mut b)?;
    b.done();
    Ok(())
}
