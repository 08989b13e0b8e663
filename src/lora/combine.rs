//! One adapter made of several.

use super::adapters::{Adapters, PerLayer, error};
use super::config::{AdapterConfig, LoraConfig, Targets};
use super::matrices::Matrices;
use super::part::{Part, Source};
use super::targets::Place;
use super::wrap::lock;
use crate::{Error, Options, Result, Tensor, no_grad};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How adapters are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combination {
    /// `A = Σ ±√|wᵢsᵢ| Aᵢ` and `B = Σ √|wᵢsᵢ| Bᵢ`: PEFT's `linear`, for adapters of one rank. (The product has cross terms: it is no sum of the changes.)
    Linear,
    /// The matrices side by side, `A = [wᵢsᵢAᵢ]` and `B = [Bᵢ]`: the sum of the changes `Σ wᵢ sᵢ BᵢAᵢ`, exactly; the ranks add up.
    #[default]
    Cat,
}

/// The matrices of the adapters at a layer, combined.
struct Combined<'a> {
    adapters: &'a Adapters,
    names: &'a [&'a str],
    weights: &'a [f64],
    how: Combination,
    layer: String,
}

impl PerLayer for Combined<'_> {
    fn at(&mut self, place: &Place) {
        self.layer = place.path.clone();
    }

    fn source(&mut self) -> &mut dyn Source {
        self
    }
}

impl Source for Combined<'_> {
    fn value(&mut self, name: &str, shape: &[usize], options: Options, _draw: &dyn Fn() -> Result<Tensor>) -> Result<Tensor> {
        let is_a = name.ends_with("_A") || name.contains("_A.");
        let parts: Vec<(Arc<Part>, f64)> = {
            let wraps = lock(&self.adapters.wraps);
            let Some(wrap) = wraps.get(&self.layer) else { return Tensor::try_zeros(shape, options) };
            self.names.iter().zip(self.weights).filter_map(|(n, w)| wrap.part(n).map(|p| (p, *w))).collect()
        };
        let matrices: Vec<(&Matrices, f64)> = parts
            .iter()
            .filter_map(|(p, w)| match &**p {
                Part::Lora(m) => Some((&**m, *w)),
                _ => None,
            })
            .collect();
        no_grad(|| {
            let scaled = |m: &Matrices, w: f64| -> Result<Tensor> {
                let (p, ws) = (if is_a { &m.a } else { &m.b }, w * m.scaling);
                let factor = match (self.how, is_a) {
                    (Combination::Cat, true) => ws,
                    (Combination::Cat, false) => 1.0,
                    (Combination::Linear, true) => ws.abs().sqrt() * if ws < 0.0 { -1.0 } else { 1.0 },
                    (Combination::Linear, false) => ws.abs().sqrt(),
                };
                p.value().try_mul(factor)
            };
            let all: Vec<Tensor> = matrices.iter().map(|(m, w)| scaled(m, *w)).collect::<Result<_>>()?;
            let joined = match self.how {
                Combination::Linear => all.iter().skip(1).try_fold(all[0].clone(), |sum, t| sum.try_add(t))?,
                Combination::Cat => {
                    let axis = usize::from(!is_a);
                    let mut list: Vec<Tensor> = all;
                    // A layer that not all adapters have is filled up.
                    let have: usize = list.iter().map(|t| t.dims()[axis]).sum();
                    if have < shape[axis] {
                        let mut rest = shape.to_vec();
                        rest[axis] -= have;
                        list.push(Tensor::try_zeros(&rest[..], options)?);
                    }
                    Tensor::try_cat(&list.iter().collect::<Vec<_>>(), axis as isize)?
                }
            };
            joined.eval()?;
            match joined.dims() == shape {
                true => Ok(joined),
                false => {
                    Err(Error::shape("add_weighted", &[joined.shape()], format!("{}: {shape:?}; the adapters' shapes differ", self.layer)))
                }
            }
        })
    }
}

impl Adapters {
    /// Makes one LoRA of several, with weights.
    ///
    /// ```
    /// use fornax::lora::{Adapters, Combination, LoraConfig};
    /// use fornax::nn::{Linear, Module, Sequential};
    /// use fornax::Device;
    /// let model = Sequential::new().add_named("up", Linear::new(4, 8, Device::cpu()));
    /// let config = LoraConfig { r: 2, target_modules: Some(["up"].into()), ..LoraConfig::default() };
    /// let lora = Adapters::new(&model, &config)?;
    /// lora.add("other", &config)?;
    /// lora.add_weighted(&["default", "other"], &[0.7, 0.3], "both", Combination::Cat)?;
    /// lora.set_active(&["both"])?;
    /// assert_eq!(lora.state_dict("both")?["base_model.model.up.lora_A.weight"].dims(), [4, 4]);
    /// # Ok::<(), fornax::Error>(())
    /// ```
    ///
    /// # Errors
    /// No adapter of a name; another number of weights; adapters that are no LoRA, or have DoRA, biases or saved modules, which have no sum; ranks that differ, for
    /// [`Combination::Linear`].
    pub fn add_weighted(&self, names: &[&str], weights: &[f64], new: &str, how: Combination) -> Result<()> {
        if names.is_empty() || names.len() != weights.len() || weights.iter().any(|w| !w.is_finite()) {
            return Err(error(format!(
                "{} adapters and {} weights: at least one adapter and a number for each is wanted",
                names.len(),
                weights.len()
            )));
        }
        let mut configs: Vec<LoraConfig> = Vec::new();
        for name in names {
            match self.config(name)? {
                AdapterConfig::Lora(c) if c.use_dora || c.lora_bias || self.with(name, |a| !a.swaps.is_empty())? => {
                    return Err(error(format!(
                        "{name} has DoRA's norms, biases, saved modules or a changed base, which cannot be added up"
                    )));
                }
                AdapterConfig::Lora(c) => configs.push(c),
                other => return Err(error(format!("{name} is of type {}: only LoRA can be combined", other.peft_type()))),
            }
        }
        let ranks: BTreeSet<usize> = configs.iter().flat_map(|c| c.rank_pattern.iter().map(|(_, r)| *r).chain([c.r])).collect();
        if ranks.len() > 1 && how == Combination::Linear {
            return Err(error(format!(
                "the ranks differ ({ranks:?}): adapters of one rank can be combined linearly, others with Combination::Cat"
            )));
        }
        // Every layer that one of them stands around, by its path.
        let mut paths = BTreeSet::new();
        let mut most: Vec<(String, usize)> = Vec::new();
        for name in names {
            paths.extend(self.with(name, |a| a.places.iter().map(|p| p.path.clone()).collect::<Vec<_>>())?);
        }
        for path in &paths {
            let mut sum = 0;
            for name in names {
                let wrap = lock(&self.wraps).get(path).cloned();
                if let Some(Part::Lora(m)) = wrap.and_then(|w| w.part(name)).as_deref() {
                    sum += m.r;
                }
            }
            most.push((path.clone(), sum));
        }
        let r = match how {
            Combination::Linear => configs[0].r,
            Combination::Cat => most.iter().map(|m| m.1).max().unwrap_or(1),
        };
        let config = LoraConfig {
            r,
            // The weights are in the matrices: a scale of 1.
            lora_alpha: r as f64,
            target_modules: Some(Targets::Names(paths.into_iter().collect())),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            ..configs[0].clone()
        };
        let mut source = Combined { adapters: self, names, weights, how, layer: String::new() };
        self.attach(new, config.into(), &mut source, true)
    }
}
