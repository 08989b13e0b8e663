//! Rotary position embeddings (Su et al., 2021), with the scalings of long contexts.

use super::Config;
use super::cache::Step;
use crate::{Device, Result, Tensor};
use std::f64::consts::TAU;
use std::sync::Mutex;

/// Pairs (i, i + D/2) of a head's numbers are turned by position · frequency(i).
#[derive(Debug)]
pub(super) struct Rope {
    frequencies: Vec<f64>,
    table: Mutex<Option<Table>>,
}

#[derive(Clone, Debug)]
struct Table {
    rows: usize,
    device: Device,
    cos: Tensor,
    sin: Tensor,
}

/// The angles of a pass: cosines and sines, `[1 or B, 1, T, D/2]`.
pub(super) struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// For heads of this width. The config has `rope_theta` and `rope_scaling`, or both in `rope_parameters`.
    pub fn new(config: &Config, width: usize, theta: f64) -> Result<Rope> {
        let named = config.object("rope_parameters")?;
        let scaling = match &named {
            Some(_) => named.clone(),
            None => config.object("rope_scaling")?,
        };
        let theta = config.number("rope_theta", theta)?;
        let (theta, part) = match &named {
            Some(p) => (p.number("rope_theta", theta)?, p.number("partial_rotary_factor", 1.0)?),
            None => (theta, config.number("partial_rotary_factor", 1.0)?),
        };
        if !(theta > 0.0) || part != 1.0 || !width.is_multiple_of(2) {
            let message = format!(
                "rope_theta {theta}, partial_rotary_factor {part}, heads of {width}: a positive theta, 1 and an even width are wanted"
            );
            return Err(config.error(message));
        }
        let mut frequencies: Vec<f64> = (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / width as f64)).collect();
        if let Some(s) = &scaling {
            let kind = s.text("rope_type", s.text("type", "default")?)?;
            match kind {
                "default" => {}
                "linear" => {
                    let factor = s.number("factor", f64::NAN)?;
                    if !(factor > 0.0) {
                        let found = s.get("factor").map_or("missing".into(), |v| format!("{v}"));
                        return Err(s.error(format!("factor is {found}: rope_type linear wants a number above 0")));
                    }
                    frequencies.iter_mut().for_each(|f| *f /= factor);
                }
                "llama3" => llama3(config, s, &mut frequencies)?,
                other => return Err(s.error(format!("rope_type is {other:?}: known are default, linear and llama3"))),
            }
        }
        Ok(Rope { frequencies, table: Mutex::new(None) })
    }

    /// The angles of the tokens of a pass. The table doubles as it is needed.
    pub fn angles(&self, step: &Step<'_>, like: &Tensor) -> Result<Angles> {
        let end = step.start + step.len;
        let known = self.table.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let table = match known.filter(|t| t.rows >= end && t.device == step.device) {
            Some(t) => t,
            None => {
                let made = self.build(end.next_power_of_two().max(128), step.device)?;
                *self.table.lock().unwrap_or_else(|e| e.into_inner()) = Some(made.clone());
                made
            }
        };
        let rows = |t: &Tensor| step.rows(t)?.try_unsqueeze(1)?.try_cast(like.dtype());
        Ok(Angles { cos: rows(&table.cos)?, sin: rows(&table.sin)? })
    }

    /// Computed on the host in f64: in f32 the angle of a far position has lost its last digits.
    fn build(&self, rows: usize, device: Device) -> Result<Table> {
        let half = self.frequencies.len();
        let of = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..rows).flat_map(|p| self.frequencies.iter().map(move |w| f(p as f64 * w) as f32)).collect();
            Tensor::from_vec(values, [rows, half], device)
        };
        Ok(Table { rows, device, cos: of(f64::cos)?, sin: of(f64::sin)? })
    }
}

impl Angles {
    /// Turns heads `[B, H, T, D]`.
    pub fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let parts = x.try_chunk(2, -1)?;
        let [a, b] = parts.as_slice() else { return Ok(x.clone()) };
        let first = a.try_mul(&self.cos)?.try_sub(b.try_mul(&self.sin)?)?;
        let second = b.try_mul(&self.cos)?.try_add(a.try_mul(&self.sin)?)?;
        Tensor::try_cat(&[&first, &second], -1)
    }
}

/// Llama 3.1's: long wavelengths are stretched, short ones stay, those between go over smoothly.
fn llama3(config: &Config, s: &Config, frequencies: &mut [f64]) -> Result<()> {
    let (factor, low, high) = (s.number("factor", 8.0)?, s.number("low_freq_factor", 1.0)?, s.number("high_freq_factor", 4.0)?);
    let context = s.number("original_max_position_embeddings", config.number("max_position_embeddings", 8192.0)?)?;
    if !(factor > 0.0 && low > 0.0 && high > low && context > 0.0) {
        let message =
            format!("factor {factor}, low_freq_factor {low}, high_freq_factor {high}: positive numbers are wanted, high above low");
        return Err(s.error(message));
    }
    for f in frequencies {
        let wavelength = TAU / *f;
        if wavelength > context / low {
            *f /= factor;
        } else if wavelength >= context / high {
            let smooth = (context / wavelength - low) / (high - low);
            *f = (1.0 - smooth) * *f / factor + smooth * *f;
        }
    }
    Ok(())
}
