//! The descriptions of adapters, with PEFT's names and defaults.

use crate::{Error, Result};

/// Which modules, by PEFT's rules.
///
/// ```
/// use fornax::lora::Targets;
/// assert_eq!(Targets::from(["q_proj", "v_proj"]), Targets::Names(vec!["q_proj".into(), "v_proj".into()]));
/// assert_eq!(Targets::from("all-linear"), Targets::AllLinear);
/// assert_eq!(Targets::from(r".*\.[qv]_proj"), Targets::Pattern(r".*\.[qv]_proj".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Each name is a path, or what a path ends with after a dot.
    Names(Vec<String>),
    /// A regular expression that a whole path must match.
    Pattern(String),
    /// Every linear layer but the output head (and, with the task type `SEQ_CLS`, the classifier).
    AllLinear,
}

impl<const N: usize> From<[&str; N]> for Targets {
    fn from(names: [&str; N]) -> Self {
        Targets::Names(names.iter().map(|n| n.to_string()).collect())
    }
}
impl From<Vec<String>> for Targets {
    fn from(names: Vec<String>) -> Self {
        Targets::Names(names)
    }
}
impl From<&str> for Targets {
    fn from(pattern: &str) -> Self {
        if pattern.eq_ignore_ascii_case("all-linear") { Targets::AllLinear } else { Targets::Pattern(pattern.into()) }
    }
}

/// Which biases a LoRA trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// All of the model.
    All,
    /// Those of the layers with an adapter.
    LoraOnly,
}

/// How the matrices of a LoRA start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// A uniform between `±1/√in` (Kaiming with a = √5), B zero: the adapter changes nothing at first. For embeddings A is zero and B normal.
    #[default]
    Default,
    /// Both random, so that the adapter changes the model from the start: for tests (`init_lora_weights = false`).
    Random,
    /// A normal with deviation 1/r, B zero.
    Gaussian,
    /// The largest singular values of the weight; the base keeps the rest (Meng et al., 2024). Needs the feature `linalg`.
    Pissa,
    /// The first columns of the weight's QR decomposition; the base keeps the rest (Büyükakyüz, 2024). Needs the feature `linalg`.
    Olora,
}

/// What every kind of adapter has in its `adapter_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// `CAUSAL_LM`, `SEQ_CLS`, `SEQ_2_SEQ_LM`, `TOKEN_CLS`, `QUESTION_ANS` or `FEATURE_EXTRACTION`. With a task of classes the head (`classifier`, `score`,
    /// `qa_outputs`) is among the saved modules.
    pub task_type: Option<String>,
    /// Where the base model comes from.
    pub base_model_name_or_path: Option<String>,
    /// Its version.
    pub revision: Option<String>,
}

/// Low-rank adaptation (Hu et al., 2021): `y = x Wᵀ + s (x Aᵀ) Bᵀ` with A `[r, in]`, B `[out, r]` and s = α/r. The fields are those of PEFT's `LoraConfig`.
///
/// ```
/// use fornax::lora::{LoraConfig, Targets};
/// let config = LoraConfig { r: 16, lora_alpha: 32.0, target_modules: Some(["q_proj", "v_proj"].into()), ..LoraConfig::default() };
/// assert_eq!(config.lora_dropout, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank.
    pub r: usize,
    /// α: the change is scaled by α/r, with rsLoRA by α/√r.
    pub lora_alpha: f64,
    /// The probability with which, in training, an input of A is dropped.
    pub lora_dropout: f64,
    /// The layers to adapt. Must be given.
    pub target_modules: Option<Targets>,
    /// Layers not to adapt.
    pub exclude_modules: Option<Targets>,
    /// The biases to train.
    pub bias: Bias,
    /// Whether the weights of the layers lie as `[in, out]`. Written to the file; a layer knows for itself how its weight lies.
    pub fan_in_fan_out: bool,
    /// Modules that are trained and saved whole, such as a new head: what a path ends with.
    pub modules_to_save: Vec<String>,
    /// The numbers of the layers to adapt; all if not given.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The name of the list of layers, a regular expression, where the first number of a path is not the layer's.
    pub layers_pattern: Vec<String>,
    /// Other ranks for some layers: regular expressions that a path ends with after a dot. The first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other α for some layers.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Scale by α/√r (Kalajdzievski, 2023).
    pub use_rslora: bool,
    /// Learn the rows' norms on their own (DoRA, Liu et al., 2024): `m (W + sBA)/‖W + sBA‖`, with the norm as a constant in the backward pass.
    pub use_dora: bool,
    /// B has a bias.
    pub lora_bias: bool,
    /// How A and B start.
    pub init_lora_weights: Init,
    /// The rest of the file.
    pub about: About,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: None,
            exclude_modules: None,
            bias: Bias::None,
            fan_in_fan_out: false,
            modules_to_save: Vec::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            init_lora_weights: Init::Default,
            about: About::default(),
        }
    }
}

/// (IA)³ (Liu et al., 2022): a learned vector scales what a layer gives, or, for `feedforward_modules`, what it takes.
///
/// ```
/// use fornax::lora::Ia3Config;
/// let config = Ia3Config {
///     target_modules: Some(["k_proj", "v_proj", "down_proj"].into()),
///     feedforward_modules: Some(["down_proj"].into()),
///     ..Ia3Config::default()
/// };
/// assert!(config.modules_to_save.is_empty());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ia3Config {
    /// The layers to scale. Must be given.
    pub target_modules: Option<Targets>,
    /// Layers not to scale.
    pub exclude_modules: Option<Targets>,
    /// Those of the layers whose input is scaled.
    pub feedforward_modules: Option<Targets>,
    /// Written to the file; a layer knows for itself how its weight lies.
    pub fan_in_fan_out: bool,
    /// Modules that are trained and saved whole.
    pub modules_to_save: Vec<String>,
    /// The rest of the file.
    pub about: About,
}

/// The function in the middle of a bottleneck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NonLinearity {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// The exact GELU.
    Gelu,
    /// `x σ(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// Bottleneck adapters (Houlsby et al., 2019; Pfeiffer et al., 2020): `y + s · up(f(down(y)))` behind a layer. Houlsby's stand behind the attention's and the
/// feed-forward's last layer of each block, Pfeiffer's behind the latter alone: `target_modules` says which.
///
/// ```
/// use fornax::lora::BottleneckConfig;
/// let houlsby = BottleneckConfig { target_modules: Some(["attention.output.dense", "output.dense"].into()), ..BottleneckConfig::default() };
/// assert_eq!(houlsby.bottleneck_size, 64);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BottleneckConfig {
    /// The width in the middle.
    pub bottleneck_size: usize,
    /// f.
    pub non_linearity: NonLinearity,
    /// The probability with which, in training, a number in the middle is dropped.
    pub adapter_dropout: f64,
    /// The scale s.
    pub scaling: f64,
    /// Work on the layer's input, beside the layer (He et al., 2021), and not on its output.
    pub use_parallel_adapter: bool,
    /// The layers to stand behind. Must be given.
    pub target_modules: Option<Targets>,
    /// Layers not to stand behind.
    pub exclude_modules: Option<Targets>,
    /// Modules that are trained and saved whole.
    pub modules_to_save: Vec<String>,
    /// The rest of the file.
    pub about: About,
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        BottleneckConfig {
            bottleneck_size: 64,
            non_linearity: NonLinearity::Relu,
            adapter_dropout: 0.0,
            scaling: 1.0,
            use_parallel_adapter: false,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: Vec::new(),
            about: About::default(),
        }
    }
}

/// Prompt tuning (Lester et al., 2021): learned vectors stand before the text's embeddings. See [`PromptTuning`](super::PromptTuning).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptTuningConfig {
    /// How many.
    pub num_virtual_tokens: usize,
    /// The rest of the file.
    pub about: About,
}

/// Prefix tuning (Li & Liang, 2021): learned keys and values stand before the text's in every layer. See [`PrefixTuning`](super::PrefixTuning).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrefixTuningConfig {
    /// How many.
    pub num_virtual_tokens: usize,
    /// The rest of the file.
    pub about: About,
}

/// An adapter of any kind that stands around layers.
#[derive(Clone, Debug, PartialEq)]
pub enum AdapterConfig {
    /// LoRA.
    Lora(LoraConfig),
    /// (IA)³.
    Ia3(Ia3Config),
    /// Bottleneck adapters.
    Bottleneck(BottleneckConfig),
}

impl From<LoraConfig> for AdapterConfig {
    fn from(c: LoraConfig) -> Self {
        AdapterConfig::Lora(c)
    }
}
impl From<&LoraConfig> for AdapterConfig {
    fn from(c: &LoraConfig) -> Self {
        AdapterConfig::Lora(c.clone())
    }
}
impl From<Ia3Config> for AdapterConfig {
    fn from(c: Ia3Config) -> Self {
        AdapterConfig::Ia3(c)
    }
}
impl From<BottleneckConfig> for AdapterConfig {
    fn from(c: BottleneckConfig) -> Self {
        AdapterConfig::Bottleneck(c)
    }
}

/// The largest rank, and the widest bottleneck: more is a mistake or an attack.
pub(super) const RANK: usize = 1 << 16;
/// The most virtual tokens.
pub(super) const VIRTUAL: usize = 1 << 20;

impl AdapterConfig {
    /// PEFT's name of the kind: `LORA`, `IA3`, or `BOTTLENECK`, which is no name of PEFT's.
    pub fn peft_type(&self) -> &'static str {
        match self {
            AdapterConfig::Lora(_) => "LORA",
            AdapterConfig::Ia3(_) => "IA3",
            AdapterConfig::Bottleneck(_) => "BOTTLENECK",
        }
    }

    pub(super) fn targets(&self) -> (Option<&Targets>, Option<&Targets>) {
        match self {
            AdapterConfig::Lora(c) => (c.target_modules.as_ref(), c.exclude_modules.as_ref()),
            AdapterConfig::Ia3(c) => (c.target_modules.as_ref(), c.exclude_modules.as_ref()),
            AdapterConfig::Bottleneck(c) => (c.target_modules.as_ref(), c.exclude_modules.as_ref()),
        }
    }

    pub(super) fn set_targets(&mut self, targets: Targets) {
        match self {
            AdapterConfig::Lora(c) => c.target_modules = Some(targets),
            AdapterConfig::Ia3(c) => c.target_modules = Some(targets),
            AdapterConfig::Bottleneck(c) => c.target_modules = Some(targets),
        }
    }

    pub(super) fn modules_to_save(&self) -> &[String] {
        match self {
            AdapterConfig::Lora(c) => &c.modules_to_save,
            AdapterConfig::Ia3(c) => &c.modules_to_save,
            AdapterConfig::Bottleneck(c) => &c.modules_to_save,
        }
    }

    /// Adds a module that is trained and saved whole.
    pub(super) fn save_module(&mut self, name: &str) {
        let list = match self {
            AdapterConfig::Lora(c) => &mut c.modules_to_save,
            AdapterConfig::Ia3(c) => &mut c.modules_to_save,
            AdapterConfig::Bottleneck(c) => &mut c.modules_to_save,
        };
        if !list.iter().any(|n| n == name) {
            list.push(name.into());
        }
    }

    /// What the kinds have in common.
    pub fn about(&self) -> &About {
        match self {
            AdapterConfig::Lora(c) => &c.about,
            AdapterConfig::Ia3(c) => &c.about,
            AdapterConfig::Bottleneck(c) => &c.about,
        }
    }

    /// Refuses numbers that cannot be, before anything is allocated.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::argument("adapter", what.to_string()));
        let chance = |p: f64| (0.0..1.0).contains(&p);
        match self {
            AdapterConfig::Lora(c) => {
                for (place, r) in [("r", c.r)].into_iter().chain(c.rank_pattern.iter().map(|(k, r)| (k.as_str(), *r))) {
                    if !(1..=RANK).contains(&r) {
                        return bad(&format!("{place} = {r}: a rank from 1 to {RANK} is wanted"));
                    }
                }
                for (place, a) in [("lora_alpha", c.lora_alpha)].into_iter().chain(c.alpha_pattern.iter().map(|(k, a)| (k.as_str(), *a))) {
                    if !a.is_finite() {
                        return bad(&format!("{place} = {a}: a number is wanted"));
                    }
                }
                if !chance(c.lora_dropout) {
                    return bad(&format!("lora_dropout = {}: a probability from 0 to below 1 is wanted", c.lora_dropout));
                }
                if c.use_dora && c.lora_bias {
                    return bad("lora_bias and use_dora: a norm of the weights has no place for a bias; use one of them");
                }
            }
            AdapterConfig::Ia3(_) => {}
            AdapterConfig::Bottleneck(c) => {
                if !(1..=RANK).contains(&c.bottleneck_size) {
                    return bad(&format!("bottleneck_size = {}: a size from 1 to {RANK} is wanted", c.bottleneck_size));
                }
                if !chance(c.adapter_dropout) {
                    return bad(&format!("adapter_dropout = {}: a probability from 0 to below 1 is wanted", c.adapter_dropout));
                }
                if !c.scaling.is_finite() {
                    return bad(&format!("scaling = {}: a number is wanted", c.scaling));
                }
            }
        }
        Ok(())
    }
}
