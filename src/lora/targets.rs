//! Which layers a config means.

use super::config::{AdapterConfig, LoraConfig, Targets};
use crate::nn::{Adaptable, Hook, Item, LayerKind, Module, Param, Slot, Tied, Walk, Weight};
use crate::{Error, Result};
use regex_lite::Regex;
use std::collections::{BTreeSet, HashSet};

/// A layer of a model.
#[derive(Clone)]
pub(super) struct Place {
    pub path: String,
    pub hook: Hook,
    pub kind: LayerKind,
    pub weight: Weight,
    pub bias: Option<Param>,
    /// The slot that it lies in, if it does.
    pub slot: Option<Slot>,
}

impl Place {
    fn of(path: &str, layer: &dyn Adaptable, slot: Option<Slot>) -> Place {
        Place { path: path.into(), hook: layer.hook().clone(), kind: layer.kind(), weight: layer.weight(), bias: layer.bias(), slot }
    }

    /// Without the hook and the slot: what stands around a layer must not hold the layer.
    pub fn detached(&self) -> Place {
        Place { hook: Hook::default(), slot: None, ..self.clone() }
    }
}

/// What a model is made of.
#[derive(Clone, Default)]
pub(super) struct Layout {
    pub places: Vec<Place>,
    /// Parameters with their paths; a shared one under each.
    pub params: Vec<(String, Param)>,
    /// Weights that are another module's, with their paths.
    pub ties: Vec<(String, Tied)>,
    /// Whether the model was in training mode, if it has modes.
    pub training: Option<bool>,
}

impl Layout {
    pub fn of(model: &dyn Module) -> Layout {
        let mut layout = Layout::default();
        let mut slot: Option<(String, Slot)> = None;
        model.walk(&mut Walk::new(&mut |path, item| match item {
            Item::Slot(s) => slot = Some((path.to_string(), s.clone())),
            Item::Layer(layer) => {
                let inside = slot.as_ref().filter(|(p, _)| p == path).map(|(_, s)| s.clone());
                layout.places.push(Place::of(path, layer, inside));
            }
            Item::Param(p) => layout.params.push((path.to_string(), p.clone())),
            Item::Tied(t) if t.own().is_none() => layout.ties.push((path.to_string(), t.clone())),
            Item::Mode(m) => layout.training = layout.training.or(Some(m.is_training())),
            _ => {}
        }));
        layout
    }

    /// Every module that has parameters, or a weight that is another's: each part of their paths.
    fn modules(&self) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        for path in self.params.iter().map(|(path, _)| path).chain(self.ties.iter().map(|(path, _)| path)) {
            let mut rest = path.as_str();
            while let Some((module, _)) = rest.rsplit_once('.') {
                all.insert(module);
                rest = module;
            }
        }
        all
    }

    /// Whether a module's path ends so.
    pub fn has(&self, end: &str) -> bool {
        self.modules().iter().any(|m| m.ends_with(end))
    }

    /// The parameters of the modules whose path ends with one of these, each once; for a weight that is another module's, a copy. Not every name must be one:
    /// PEFT writes all that a head may have.
    pub fn to_save(&self, ends: &[String]) -> Result<Vec<(String, Param)>> {
        let modules = self.modules();
        let named = |m: &&str| ends.iter().any(|e| !e.is_empty() && m.ends_with(e.as_str()));
        let matched: Vec<&str> = modules.iter().copied().filter(named).collect();
        if matched.is_empty() && !ends.is_empty() {
            let message =
                format!("modules_to_save names {}, and no module's path ends so; there are {}", ends.join(", "), list(self.ends()));
            return Err(Error::argument("adapter", message));
        }
        let mut seen = HashSet::new();
        let inside = |path: &str| matched.iter().any(|m| path.strip_prefix(m).is_some_and(|rest| rest.starts_with('.')));
        let tied = |path: &str| self.ties.iter().any(|(t, _)| t == path);
        let params = self.params.iter().filter(|(path, p)| inside(path) && !tied(path) && seen.insert(p.id())).cloned();
        let copies = self.ties.iter().filter(|(path, _)| inside(path)).map(|(path, t)| (path.clone(), Param::new(t.other().value())));
        Ok(params.chain(copies).collect())
    }

    /// The last names of all layers.
    fn ends(&self) -> Vec<String> {
        let ends: BTreeSet<&str> = self.places.iter().map(|p| p.path.rsplit('.').next().unwrap_or(&p.path)).collect();
        ends.into_iter().map(String::from).collect()
    }

    /// The layers that a config adapts.
    pub fn matched(&self, config: &AdapterConfig) -> Result<Vec<Place>> {
        let (targets, excluded) = config.targets();
        let Some(targets) = targets else {
            let message = format!("target_modules is not given: say which layers to adapt; there are {}", list(self.ends()));
            return Err(Error::argument("adapter", message));
        };
        let wanted = Matcher::new(targets)?;
        let refused = excluded.map(Matcher::new).transpose()?;
        let saved: Vec<Regex> =
            config.modules_to_save().iter().map(|m| regex(&format!(r"^(?:|.*\.){m}(?:$|\..*)"))).collect::<Result<_>>()?;
        let layers = match config {
            AdapterConfig::Lora(c) => Some(LayerNumbers::new(c)?),
            _ => None,
        };
        let classifies = config.about().task_type.as_deref() == Some("SEQ_CLS");
        let takes = |p: &Place| {
            let head =
                matches!(p.path.as_str(), "lm_head" | "embed_out") || classifies && matches!(p.path.as_str(), "score" | "classifier");
            let linear = matches!(p.kind, LayerKind::Linear { .. });
            !refused.as_ref().is_some_and(|m| m.matches(&p.path, linear, false))
                && !saved.iter().any(|r| r.is_match(&p.path))
                && wanted.matches(&p.path, linear, head)
                // A regular expression says for itself which layers it means.
                && (matches!(targets, Targets::Pattern(_)) || layers.as_ref().is_none_or(|l| l.has(&p.path)))
        };
        let found: Vec<Place> = self.places.iter().filter(|p| takes(p)).cloned().collect();
        if let Targets::Names(names) = targets {
            let modules = self.modules();
            for name in names {
                let is = |path: &str| ends_with(path, name);
                if !self.places.iter().any(|p| is(&p.path)) && modules.iter().any(|m| is(m)) {
                    let message = format!(
                        "target_modules names {name}, which is no layer that can be adapted: linear layers, embeddings and convolutions can; there are {}",
                        list(self.ends())
                    );
                    return Err(Error::argument("adapter", message));
                }
            }
        }
        if found.is_empty() {
            let message = format!("target_modules {} match no layer of this model; there are {}", said(targets), list(self.ends()));
            return Err(Error::argument("adapter", message));
        }
        Ok(found)
    }
}

/// Names in a message, not too many.
pub(super) fn list(names: Vec<String>) -> String {
    match names.len() {
        0 => "none".into(),
        n if n > 24 => format!("{} and {} more", names[..24].join(", "), n - 24),
        _ => names.join(", "),
    }
}

fn said(targets: &Targets) -> String {
    match targets {
        Targets::Names(names) => format!("[{}]", names.join(", ")),
        Targets::Pattern(p) => format!("{p:?}"),
        Targets::AllLinear => "\"all-linear\"".into(),
    }
}

/// Whether a path is this name, or ends with it after a dot.
fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A regular expression of a config. (The crate's expressions match in linear time, and large ones are refused: none of a file can hang.)
fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::argument("adapter", format!("{pattern:?} is no regular expression here: {e}")))
}

/// What [`Targets`] match.
pub(super) enum Matcher {
    Names(Vec<String>),
    Pattern(Regex),
    AllLinear,
}

impl Matcher {
    pub fn new(targets: &Targets) -> Result<Matcher> {
        Ok(match targets {
            Targets::Names(names) => Matcher::Names(names.clone()),
            Targets::Pattern(p) => Matcher::Pattern(regex(&format!("^(?:{p})$"))?),
            Targets::AllLinear => Matcher::AllLinear,
        })
    }

    pub fn matches(&self, path: &str, linear: bool, head: bool) -> bool {
        match self {
            Matcher::Names(names) => names.iter().any(|n| ends_with(path, n)),
            Matcher::Pattern(r) => r.is_match(path),
            Matcher::AllLinear => linear && !head,
        }
    }
}

/// `layers_to_transform` and `layers_pattern`.
struct LayerNumbers {
    numbers: Option<HashSet<usize>>,
    patterns: Vec<Regex>,
}

impl LayerNumbers {
    fn new(c: &LoraConfig) -> Result<LayerNumbers> {
        let numbers = c.layers_to_transform.as_ref().filter(|l| !l.is_empty()).map(|l| l.iter().copied().collect());
        if numbers.is_some() && matches!(c.target_modules, Some(Targets::Pattern(_))) {
            let message = "layers_to_transform counts for a list of names; a regular expression in target_modules says for itself which layers it means";
            return Err(Error::argument("adapter", message));
        }
        let patterns = match c.layers_pattern.is_empty() {
            // The first number of the path: that of an expert comes later.
            true => vec![regex(r"^.*?\.[^.]*\.(\d+)\.")?],
            false => c.layers_pattern.iter().map(|p| regex(&format!(r"^(?:|.*?\.)(?:{p})\.(?P<layer>\d+)\."))).collect::<Result<_>>()?,
        };
        Ok(LayerNumbers { numbers, patterns })
    }

    fn has(&self, path: &str) -> bool {
        let Some(numbers) = &self.numbers else { return true };
        let found = self.patterns.iter().find_map(|r| r.captures(path));
        let number = found.and_then(|c| c.name("layer").or(c.get(1)).and_then(|m| m.as_str().parse::<usize>().ok()));
        number.is_some_and(|n| numbers.contains(&n))
    }
}

/// What a pattern that matches the end of a path gives it, or the default.
pub(super) fn by_pattern<T: Copy>(patterns: &[(String, T)], path: &str, default: T) -> Result<T> {
    for (pattern, value) in patterns {
        if regex(&format!(r"^(?:.*\.)?(?:{pattern})$"))?.is_match(path) {
            return Ok(*value);
        }
    }
    Ok(default)
}
