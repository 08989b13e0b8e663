//! Quantising dense weights as bitsandbytes does on the CPU: codes and scales bit for bit. (The mean of the scales, a sum in f32, has no one order.)

use super::{DoubleQuant, Quantized};
use crate::{DType, Device, Error, Result, Tensor};
use rayon::prelude::*;

/// Blocks of scales in double quantisation.
const OUTER: usize = 256;
/// Below it a scale counts as zero.
const TINY: f32 = 1e-38;

/// The sixteen values of NF4, in order.
///
/// ```
/// assert_eq!(fornax::quant::nf4_map()[7], 0.0);
/// ```
pub fn nf4_map() -> [f32; 16] {
    crate::ops::qmatmul::NF4
}

/// bitsandbytes' signed dynamic map of 8 bits, in order: seven decades of each sign, the n-th of 2ⁿ values, zero and one (Dettmers, 8-bit approximations for parallelism in deep
/// learning, 2015). Double quantisation keeps scales in it.
///
/// ```
/// let map = fornax::quant::dynamic_map();
/// assert_eq!((map[127], map[255]), (0.0, 1.0));
/// assert!(map.windows(2).all(|w| w[0] < w[1]));
/// ```
pub fn dynamic_map() -> [f32; 256] {
    let mut map = [0f32; 256];
    let mut at = 0;
    for i in 0..7i32 {
        let n = 1usize << i;
        // n + 1 bounds from 0.1 to 1, from both ends and rounded once each as PyTorch's linspace, and the means of neighbours.
        let step = (1.0f32 - 0.1) / n as f32;
        let bound = |j: usize| if j < n.div_ceil(2) { step.mul_add(j as f32, 0.1) } else { (-step).mul_add((n - j) as f32, 1.0) };
        let decade = 10f64.powi(i - 6) as f32;
        for j in 0..n {
            let value = decade * ((bound(j) + bound(j + 1)) / 2.0);
            (map[at], map[at + 1]) = (value, -value);
            at += 2;
        }
    }
    // A zero is there from the start.
    map[255] = 1.0;
    map.sort_by(f32::total_cmp);
    map
}

/// The dense weight on the host.
fn dense(op: &'static str, weight: &Tensor) -> Result<([usize; 2], Vec<f32>)> {
    let &[n, k] = weight.dims() else {
        return Err(Error::shape(op, &[weight.shape()], "a weight [outputs, inputs]"));
    };
    if !weight.dtype().is_float() {
        return Err(Error::dtype(op, &[weight.dtype()], "a weight of floats"));
    }
    let values = weight.detach().try_to(Device::cpu())?.try_cast(DType::F32)?.to_vec::<f32>()?;
    if values.par_chunks(1 << 14).any(|c| c.iter().any(|v| !v.is_finite())) {
        return Err(Error::argument(op, "the weight holds NaN or infinite numbers, which no code stands for"));
    }
    Ok(([n, k], values))
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m })
}

/// Quantises a weight `[outputs, inputs]` to 8 bits: `code = round(W · 127 / scale)`, to even, with `scale[o] = max |W[o, ·]|`. The result lies where the
/// weight does. (bitsandbytes rounds the weight to f16 before: cast it where its very codes are wanted.)
///
/// ```
/// use fornax::{Device, Tensor, quant};
/// let w = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 0.0], [2, 2], Device::cpu())?;
/// let q = quant::int8(&w)?;
/// assert_eq!(q.codes().to_vec::<u8>()?, [64, 129, 127, 0]);
/// assert_eq!(q.scales().to_vec::<f32>()?, [2.0, 0.5]);
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// A weight that is no matrix of finite floats, or what reading it can give.
pub fn int8(weight: &Tensor) -> Result<Quantized> {
    let ([n, k], values) = dense("quant::int8", weight)?;
    let mut codes = vec![0u8; n * k];
    let mut scales = vec![0f32; n];
    if k > 0 {
        codes.par_chunks_mut(k).zip(values.par_chunks(k)).zip(&mut scales).for_each(|((codes, values), scale)| {
            *scale = largest(values);
            if *scale > 0.0 {
                let factor = 127.0 / *scale;
                codes.iter_mut().zip(values).for_each(|(c, v)| *c = (v * factor).round_ties_even() as i8 as u8);
            }
        });
    }
    let device = weight.device();
    let codes = Tensor::from_vec(codes, [n, k], Device::cpu())?.try_to(device)?;
    let scales = Tensor::from_vec(scales, n, Device::cpu())?.try_to(device)?;
    crate::eval(&[&codes, &scales])?;
    Quantized::int8(codes, scales)
}

/// Quantises a weight `[outputs, inputs]` to NF4: in blocks of `block_size` elements, row by row, each is scaled by its largest magnitude, and each number becomes the code of
/// the value that is nearest. `double` quantises the scales, too: less their mean, in blocks of 256, to [`dynamic_map`]. The result lies where the weight does.
///
/// Where `inputs` is no multiple of the block size, blocks go on from row to row, as in bitsandbytes; products with them take a slower path.
///
/// ```
/// use fornax::{Device, Tensor, quant};
/// fornax::manual_seed(0);
/// let w = Tensor::normal([64, 256], 0.0, 0.02, Device::cpu());
/// let q = quant::nf4(&w, 64, true)?;
/// let error = (q.dequantize()? - &w).square().sum(()).item::<f32>()? / w.square().sum(()).item::<f32>()?;
/// assert!((error.sqrt() - 0.092).abs() < 0.003);
/// assert!((q.bytes() - 256 * 4) * 8 < 64 * 256 * 42 / 10); // less the map, under 4.2 bits
/// # Ok::<(), fornax::Error>(())
/// ```
///
/// # Errors
/// A block size that is none of bitsandbytes', a weight that is no matrix of finite floats, or what reading it can give.
pub fn nf4(weight: &Tensor, block_size: usize, double: bool) -> Result<Quantized> {
    const OP: &str = "quant::nf4";
    if !block_size.is_power_of_two() || !(32..=4096).contains(&block_size) {
        return Err(Error::argument(OP, format!("the block size is {block_size}: it is a power of two from 32 to 4096")));
    }
    let ([n, k], values) = dense(OP, weight)?;
    let map = nf4_map();
    let bounds: [f32; 15] = std::array::from_fn(|i| (map[i] + map[i + 1]) / 2.0);
    let mut codes = vec![0u8; (n * k).div_ceil(2)];
    let mut absmax = vec![0f32; (n * k).div_ceil(block_size)];
    let blocks = codes.par_chunks_mut(block_size / 2).zip(values.par_chunks(block_size)).zip(&mut absmax);
    blocks.for_each(|((codes, values), absmax)| {
        let max = largest(values);
        let (short, floor) = (values.len() < block_size, max.max(TINY));
        // bitsandbytes divides in a last, short block, and multiplies elsewhere.
        *absmax = if short { floor } else { max };
        let inverse = 1.0 / floor;
        let code = |v: f32| {
            let s = if short { v / floor } else { v * inverse }.clamp(-1.0, 1.0);
            bounds.iter().map(|&b| (b < s) as u8).sum::<u8>()
        };
        for (c, pair) in codes.iter_mut().zip(values.chunks(2)) {
            // An odd number of elements is filled up with a zero.
            *c = code(pair[0]) << 4 | pair.get(1).map_or(code(0.0), |&v| code(v));
        }
    });
    let device = weight.device();
    let on = |t: Tensor| -> Result<Tensor> {
        let t = t.try_to(device)?;
        t.eval()?;
        Ok(t)
    };
    let (bytes, count) = (codes.len(), absmax.len());
    let codes = on(Tensor::from_vec(codes, [bytes, 1], Device::cpu())?)?;
    if !double {
        return Quantized::nf4(codes, on(Tensor::from_vec(absmax, count, Device::cpu())?)?, [n, k], block_size);
    }
    let offset = (absmax.iter().map(|&a| a as f64).sum::<f64>() / count.max(1) as f64) as f32;
    let map = dynamic_map();
    let mut small = vec![0u8; count];
    let mut outer = vec![0f32; count.div_ceil(OUTER)];
    small.par_chunks_mut(OUTER).zip(absmax.par_chunks(OUTER)).zip(&mut outer).for_each(|((codes, scales), outer)| {
        let shifted: Vec<f32> = scales.iter().map(|s| s - offset).collect();
        *outer = largest(&shifted);
        let floor = outer.max(TINY);
        codes.iter_mut().zip(&shifted).for_each(|(c, s)| *c = nearest(&map, s / floor));
    });
    let outers = outer.len();
    let double = DoubleQuant {
        map: on(Tensor::from_vec(map.to_vec(), 256, Device::cpu())?)?,
        absmax: on(Tensor::from_vec(outer, outers, Device::cpu())?)?,
        block_size: OUTER,
        offset,
    };
    Quantized::nf4_double(codes, on(Tensor::from_vec(small, count, Device::cpu())?)?, [n, k], block_size, double)
}

/// The code whose value is nearest; of two, the lower one.
fn nearest(map: &[f32; 256], v: f32) -> u8 {
    let at = map.partition_point(|&m| m <= v).saturating_sub(1);
    let above = at + 1 < 256 && (v - map[at + 1]).abs() < (v - map[at]).abs();
    (at + above as usize) as u8
}
