//! `adapter_config.json`, read with suspicion and written as PEFT does.

use super::config::{About, AdapterConfig, Bias, BottleneckConfig, Ia3Config, Init, LoraConfig, NonLinearity, RANK, Targets};
use crate::transformers::Config;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The file.
pub(super) const CONFIG: &str = "adapter_config.json";
/// The types that are known.
const KNOWN: [&str; 5] = ["LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "BOTTLENECK"];
/// The version of PEFT whose format this is.
const VERSION: &str = "0.21.2";

/// The `peft_type` of a file.
pub(super) fn peft_type(c: &Config) -> Result<&str> {
    let found = match c.get("peft_type") {
        Some(Value::String(s)) => s.as_str(),
        _ => return Err(c.error(format!("`peft_type` is missing: it names the kind of adapter, one of {}", KNOWN.join(", ")))),
    };
    match KNOWN.contains(&found) {
        true => Ok(found),
        false => Err(c.error(format!("peft_type {found:?} is not known; known are {}", KNOWN.join(", ")))),
    }
}

/// A list of texts; empty where the key is missing.
fn texts(c: &Config, key: &str) -> Result<Vec<String>> {
    let wrong = |v: &Value| c.error(format!("{key} is {v}: a list of texts is wanted"));
    match c.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(s)) => Ok(vec![s.clone()]),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_str().map(String::from).ok_or_else(|| wrong(v))).collect(),
        Some(v) => Err(wrong(v)),
    }
}

/// A list of names, or a regular expression.
fn targets(c: &Config, key: &str) -> Result<Option<Targets>> {
    Ok(match c.get(key) {
        None => None,
        Some(Value::String(s)) => Some(Targets::from(s.as_str())),
        Some(_) => Some(Targets::Names(texts(c, key)?)).filter(|t| *t != Targets::Names(Vec::new())),
    })
}

/// An object of numbers.
fn numbers(c: &Config, key: &str) -> Result<Vec<(String, f64)>> {
    let wrong = |v: &Value| c.error(format!("{key} is {v}: an object of patterns and numbers is wanted"));
    match c.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Object(map)) => {
            map.iter().map(|(k, v)| v.as_f64().filter(|n| n.is_finite()).map(|n| (k.clone(), n)).ok_or_else(|| wrong(v))).collect()
        }
        Some(v) => Err(wrong(v)),
    }
}

/// A size, held against the largest.
fn size(c: &Config, key: &str, n: f64) -> Result<usize> {
    match n.fract() == 0.0 && (1.0..=RANK as f64).contains(&n) {
        true => Ok(n as usize),
        false => Err(c.error(format!("{key} is {n}: a whole number from 1 to {RANK} is wanted"))),
    }
}

pub(super) fn about(c: &Config) -> Result<About> {
    let text = |key: &str| c.get(key).map(|_| c.text(key, "").map(String::from)).transpose();
    Ok(About { task_type: text("task_type")?, base_model_name_or_path: text("base_model_name_or_path")?, revision: text("revision")? })
}

/// Refuses what changes the computation and is not known here.
fn refuse(c: &Config, keys: &[&str]) -> Result<()> {
    for key in keys {
        let set = match c.get(key) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(a)) => !a.is_empty(),
            Some(Value::Object(o)) => !o.is_empty(),
            Some(_) => true,
        };
        if set {
            return Err(c.error(format!("{key} is set, which changes what the adapter computes and is not known here")));
        }
    }
    Ok(())
}

fn init(c: &Config) -> Result<Init> {
    match c.get("init_lora_weights") {
        None | Some(Value::Bool(true)) => Ok(Init::Default),
        Some(Value::Bool(false)) => Ok(Init::Random),
        Some(Value::String(s)) => match s.to_lowercase().as_str() {
            "gaussian" => Ok(Init::Gaussian),
            "olora" => Ok(Init::Olora),
            "pissa" => Ok(Init::Pissa),
            // These only say how A and B started.
            "eva" | "orthogonal" => Ok(Init::Default),
            s if s.starts_with("pissa_niter_") => Ok(Init::Pissa),
            _ => Err(c.error(format!("init_lora_weights is {s:?}: known are true, false, gaussian, pissa and olora"))),
        },
        Some(v) => Err(c.error(format!("init_lora_weights is {v}: known are true, false, gaussian, pissa and olora"))),
    }
}

fn lora(c: &Config) -> Result<LoraConfig> {
    refuse(
        c,
        &[
            "alora_invocation_tokens",
            "arrow_config",
            "ensure_weight_tying",
            "kasa_config",
            "layer_replication",
            "monteclora_config",
            "target_parameters",
            "trainable_token_indices",
            "use_bdlora",
            "use_qalora",
            "velora_config",
        ],
    )?;
    let layers = match c.get("layers_to_transform") {
        None => None,
        Some(v) => {
            let number = |v: &Value| {
                v.as_u64().map(|n| n as usize).ok_or_else(|| c.error(format!("layers_to_transform has {v}: layers' numbers are wanted")))
            };
            Some(match v {
                Value::Array(list) => list.iter().map(number).collect::<Result<_>>()?,
                one => vec![number(one)?],
            })
        }
    };
    let ranks = numbers(c, "rank_pattern")?.into_iter().map(|(k, n)| size(c, "rank_pattern", n).map(|n| (k, n))).collect::<Result<_>>()?;
    Ok(LoraConfig {
        r: c.size("r", 8, RANK)?,
        lora_alpha: c.number("lora_alpha", 8.0)?,
        lora_dropout: c.probability("lora_dropout", 0.0)?,
        target_modules: targets(c, "target_modules")?,
        exclude_modules: targets(c, "exclude_modules")?,
        bias: match c.text("bias", "none")? {
            "none" => Bias::None,
            "all" => Bias::All,
            "lora_only" => Bias::LoraOnly,
            other => return Err(c.error(format!("bias is {other:?}: known are none, all and lora_only"))),
        },
        fan_in_fan_out: c.flag("fan_in_fan_out", false)?,
        modules_to_save: texts(c, "modules_to_save")?,
        layers_to_transform: layers,
        layers_pattern: texts(c, "layers_pattern")?,
        rank_pattern: ranks,
        alpha_pattern: numbers(c, "alpha_pattern")?,
        use_rslora: c.flag("use_rslora", false)?,
        use_dora: c.flag("use_dora", false)?,
        lora_bias: c.flag("lora_bias", false)?,
        init_lora_weights: init(c)?,
        about: about(c)?,
    })
}

fn bottleneck(c: &Config) -> Result<BottleneckConfig> {
    Ok(BottleneckConfig {
        bottleneck_size: c.size("bottleneck_size", 64, RANK)?,
        non_linearity: match c.text("non_linearity", "relu")? {
            "relu" => NonLinearity::Relu,
            "gelu" => NonLinearity::Gelu,
            "silu" | "swish" => NonLinearity::Silu,
            "tanh" => NonLinearity::Tanh,
            other => return Err(c.error(format!("non_linearity is {other:?}: known are relu, gelu, silu and tanh"))),
        },
        adapter_dropout: c.probability("adapter_dropout", 0.0)?,
        scaling: c.number("scaling", 1.0)?,
        use_parallel_adapter: c.flag("use_parallel_adapter", false)?,
        target_modules: targets(c, "target_modules")?,
        exclude_modules: targets(c, "exclude_modules")?,
        modules_to_save: texts(c, "modules_to_save")?,
        about: about(c)?,
    })
}

/// The config of an adapter that stands around layers.
pub(super) fn read(c: &Config) -> Result<AdapterConfig> {
    Ok(match peft_type(c)? {
        "LORA" => AdapterConfig::Lora(lora(c)?),
        "IA3" => AdapterConfig::Ia3(Ia3Config {
            target_modules: targets(c, "target_modules")?,
            exclude_modules: targets(c, "exclude_modules")?,
            feedforward_modules: targets(c, "feedforward_modules")?,
            fan_in_fan_out: c.flag("fan_in_fan_out", false)?,
            modules_to_save: texts(c, "modules_to_save")?,
            about: about(c)?,
        }),
        "BOTTLENECK" => AdapterConfig::Bottleneck(bottleneck(c)?),
        "PROMPT_TUNING" => return Err(c.error("this is prompt tuning, which stands before the text: load it with PromptTuning::load")),
        _ => return Err(c.error("this is prefix tuning, which stands before the text: load it with PrefixTuning::load")),
    })
}

/// A number as Python would have it: whole ones without a point.
fn number(n: f64) -> Value {
    if n.fract() == 0.0 && n.abs() < 1e15 { json!(n as i64) } else { json!(n) }
}

fn targets_json(t: &Option<Targets>) -> Value {
    match t {
        None => Value::Null,
        Some(Targets::Names(names)) => json!(names),
        Some(Targets::Pattern(p)) => json!(p),
        Some(Targets::AllLinear) => json!("all-linear"),
    }
}

fn list_json(names: &[String]) -> Value {
    if names.is_empty() { Value::Null } else { json!(names) }
}

/// The keys that every file has.
pub(super) fn common(about: &About, peft_type: &str) -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(about.base_model_name_or_path)),
        ("inference_mode", json!(true)),
        ("peft_type", json!(peft_type)),
        ("peft_version", json!(VERSION)),
        ("revision", json!(about.revision)),
        ("task_type", json!(about.task_type)),
    ])
}

/// The file of an adapter.
pub(super) fn file(config: &AdapterConfig) -> BTreeMap<&'static str, Value> {
    let mut all = common(config.about(), config.peft_type());
    let (targets, excluded) = config.targets();
    all.insert("target_modules", targets_json(&targets.cloned()));
    all.insert("exclude_modules", targets_json(&excluded.cloned()));
    all.insert("modules_to_save", list_json(config.modules_to_save()));
    match config {
        AdapterConfig::Lora(c) => all.extend([
            ("r", json!(c.r)),
            ("lora_alpha", number(c.lora_alpha)),
            ("lora_dropout", json!(c.lora_dropout)),
            (
                "bias",
                json!(match c.bias {
                    Bias::None => "none",
                    Bias::All => "all",
                    Bias::LoraOnly => "lora_only",
                }),
            ),
            ("fan_in_fan_out", json!(c.fan_in_fan_out)),
            ("layers_to_transform", json!(c.layers_to_transform)),
            ("layers_pattern", list_json(&c.layers_pattern)),
            ("rank_pattern", c.rank_pattern.iter().map(|(k, r)| (k.clone(), json!(r))).collect::<serde_json::Map<_, _>>().into()),
            ("alpha_pattern", c.alpha_pattern.iter().map(|(k, a)| (k.clone(), number(*a))).collect::<serde_json::Map<_, _>>().into()),
            ("use_rslora", json!(c.use_rslora)),
            ("use_dora", json!(c.use_dora)),
            ("lora_bias", json!(c.lora_bias)),
            (
                "init_lora_weights",
                match c.init_lora_weights {
                    Init::Default => json!(true),
                    Init::Random => json!(false),
                    Init::Gaussian => json!("gaussian"),
                    Init::Pissa => json!("pissa"),
                    Init::Olora => json!("olora"),
                },
            ),
        ]),
        AdapterConfig::Ia3(c) => all.extend([
            (
                "feedforward_modules",
                match &c.feedforward_modules {
                    None => json!([]),
                    t => targets_json(t),
                },
            ),
            ("fan_in_fan_out", json!(c.fan_in_fan_out)),
            ("init_ia3_weights", json!(true)),
        ]),
        AdapterConfig::Bottleneck(c) => all.extend([
            ("bottleneck_size", json!(c.bottleneck_size)),
            (
                "non_linearity",
                json!(match c.non_linearity {
                    NonLinearity::Relu => "relu",
                    NonLinearity::Gelu => "gelu",
                    NonLinearity::Silu => "silu",
                    NonLinearity::Tanh => "tanh",
                }),
            ),
            ("adapter_dropout", json!(c.adapter_dropout)),
            ("scaling", number(c.scaling)),
            ("use_parallel_adapter", json!(c.use_parallel_adapter)),
        ]),
    }
    all
}

/// Writes a config beside the old one, which it then replaces.
pub(super) fn write(folder: &Path, values: &BTreeMap<&'static str, Value>) -> Result<()> {
    let path = folder.join(CONFIG);
    let text = serde_json::to_string_pretty(values).map_err(|e| Error::format(&path, e.to_string()))?;
    let beside = folder.join(format!("{CONFIG}.{}.tmp", std::process::id()));
    std::fs::write(&beside, text).map_err(|e| Error::io(&path, e))?;
    std::fs::rename(&beside, &path).map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        Error::io(&path, e)
    })
}
