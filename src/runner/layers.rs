//! The values of a pipeline, layer on layer, and who stated each.
//!
//! Weakest first: manifest defaults; then for every file of the `extends` chain, the root first, its
//! `[params]` and its stages; the trial of a sweep; the environment; the command line. figment merges them and
//! keeps, for every value, which layer it came from; each layer remembers the places of its own values.
//! Knows nothing of types: `resolve` checks the winners.

use super::command;
use super::graph::Origin;
use super::located::{Entry, Node, Toml};
use super::manifest::FieldType;
use super::spec::{Spec, StageSpec, declares};
use super::value;
use crate::error::{Error, Place, Result};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Values from outside the files, as text.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `STAGE.NAME=VALUE`, `STAGE.inputs.SLOT=STAGE` or `=[STAGE,STAGE]`, or `NAME=VALUE` for a key of `[params]`.
    pub set: Vec<String>,
    /// Variables `ERW_SET__STAGE__NAME` with their values. Others are passed over.
    pub env: Vec<(String, String)>,
}

/// What a setting sets.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// A key of `[params]`.
    Shared(String),
    /// `part` is `params`, `operation` or `inputs`.
    Stage { stage: usize, part: &'static str, name: String },
}

/// One value from outside a stage's own statement.
#[derive(Clone)]
pub(super) struct Setting {
    pub target: Target,
    pub value: Given,
    pub origin: Origin,
    /// Where a relative path starts.
    pub base: PathBuf,
}

/// A value as it was given: TOML, or text whose type the field decides.
#[derive(Clone)]
pub(super) enum Given {
    Node(Node),
    Text(String),
}

impl Given {
    fn typed(&self, ty: &FieldType) -> Value {
        match self {
            Self::Node(node) => value::from_node(node),
            Self::Text(text) => value::from_text(ty, text),
        }
    }
    fn connection(&self) -> Value {
        match self {
            Self::Node(node) => value::from_node(node),
            Self::Text(text) if matches!(text.as_str(), "" | "false") => Value::from(false),
            Self::Text(text) => match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                Some(list) => Value::from(list.split(',').map(bare).filter(|t| !t.is_empty()).collect::<Vec<_>>()),
                None => Value::from(text.as_str()),
            },
        }
    }
}

/// A word of a list, with or without the quotes that shells eat.
fn bare(word: &str) -> &str {
    word.trim().trim_matches(['"', '\''])
}

/// All layers, merged.
pub(super) struct Layers {
    figment: Figment,
    layers: Vec<Notes>,
}

/// What a layer knows besides its values.
struct Notes {
    label: &'static str,
    /// By `STAGE.part.name`, list elements by `STAGE.part.name.INDEX`.
    origins: HashMap<String, Origin>,
    bases: HashMap<String, PathBuf>,
    base: PathBuf,
}

struct Layer {
    index: usize,
    /// Taken by figment when it merges, which it does once: a copy of all values is the largest thing in a plan.
    stages: RefCell<HashMap<String, HashMap<&'static str, Dict>>>,
    notes: Notes,
}

impl Layer {
    fn new(label: &'static str, base: PathBuf) -> Self {
        let notes = Notes { label, origins: HashMap::new(), bases: HashMap::new(), base };
        Self { index: 0, stages: RefCell::default(), notes }
    }

    fn put(&mut self, stage: &str, part: &'static str, name: &str, value: Value, origin: Option<Origin>) {
        if let Some(origin) = origin {
            self.notes.origins.insert(path(stage, part, name), origin);
        }
        let parts = self.stages.get_mut().entry(stage.to_string()).or_default();
        parts.entry(part).or_default().insert(name.to_string(), value);
    }

    /// A value of a file with its place, and the places of list elements.
    fn put_node(&mut self, stage: &str, part: &'static str, name: &str, value: Value, node: &Node, layer: &str) {
        let origin = |place: &Place| Origin { layer: layer.to_string(), place: Some(place.clone()) };
        if let Toml::List(nodes) = &node.value {
            for (i, element) in nodes.iter().enumerate() {
                self.notes.origins.insert(format!("{}.{i}", path(stage, part, name)), origin(&element.place));
            }
        }
        self.put(stage, part, name, value, Some(origin(&node.place)));
    }
}

impl Provider for Layer {
    /// The name is the layer's index; [`Layers::notes`] reads it back.
    fn metadata(&self) -> Metadata {
        Metadata::named(self.index.to_string())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let value = |dict| Value::Dict(Tag::Default, dict);
        let stages = self.stages.take().into_iter().map(|(stage, parts)| {
            (stage, value(parts.into_iter().map(|(part, dict)| (part.to_string(), value(dict))).collect()))
        });
        Ok(Map::from([(Profile::Default, stages.collect())]))
    }
}

fn path(stage: &str, part: &str, name: &str) -> String {
    format!("{stage}.{part}.{name}")
}

impl Layers {
    /// Stacks everything that is said about the stages of `spec`.
    pub fn new(spec: &Spec, overrides: &Overrides, trial: &[Setting]) -> Result<Self> {
        let env = environment(spec, overrides)?;
        let set = command_line(spec, overrides)?;
        let (shared, env): (Vec<_>, Vec<_>) = env.into_iter().partition(|s| matches!(s.target, Target::Shared(_)));
        let (shared_set, set): (Vec<_>, Vec<_>) = set.into_iter().partition(|s| matches!(s.target, Target::Shared(_)));
        let mut all = Self { figment: Figment::new(), layers: vec![] };
        all.push(defaults(spec));
        for (i, file) in spec.files.iter().enumerate() {
            all.push(shared_params(spec, &file.params, file.dir()));
            if i + 1 == spec.files.len() {
                // A key of [params] set from outside stays what it is: weaker than a stage's own statement.
                all.push(settings(spec, &shared));
                all.push(settings(spec, &shared_set));
            }
            all.push(stage_values(spec, i)?);
        }
        for layer in [trial, &env, &set] {
            all.push(settings(spec, layer));
        }
        Ok(all)
    }

    fn push(&mut self, mut layer: Layer) {
        if layer.stages.get_mut().is_empty() {
            return;
        }
        layer.index = self.layers.len();
        let figment = std::mem::take(&mut self.figment);
        self.figment = figment.merge(&layer);
        self.layers.push(layer.notes);
    }

    /// All stages by name; below them `params`, `operation`, `inputs`, `resources`, `stage`.
    pub fn values(&self) -> Result<Dict> {
        match self.figment.find_value("") {
            Ok(Value::Dict(_, dict)) => Ok(dict),
            Ok(_) => Ok(Dict::new()),
            Err(e) => Err(Error::internal(format!("layers do not merge: {e}"))),
        }
    }

    fn notes(&self, value: &Value) -> Option<&Notes> {
        let index: usize = self.figment.get_metadata(value.tag())?.name.parse().ok()?;
        self.layers.get(index)
    }

    /// Who stated the winning `value` of this name.
    pub fn origin(&self, stage: &str, part: &str, name: &str, value: &Value) -> Origin {
        let Some(notes) = self.notes(value) else { return Origin { layer: "unknown".into(), place: None } };
        let default = || Origin { layer: notes.label.to_string(), place: None };
        notes.origins.get(&path(stage, part, name)).cloned().unwrap_or_else(default)
    }

    /// The directory from which a relative path in the winning `value` starts.
    pub fn base(&self, stage: &str, part: &str, name: &str, value: &Value) -> &Path {
        let Some(notes) = self.notes(value) else { return Path::new("") };
        notes.bases.get(&path(stage, part, name)).unwrap_or(&notes.base)
    }
}

fn defaults(spec: &Spec) -> Layer {
    // A default path starts where the pipeline is.
    let mut layer = Layer::new("manifest", spec.leaf().dir());
    for stage in &spec.stages {
        for (part, fields) in [("params", &stage.manifest.params), ("operation", &stage.manifest.operation)] {
            for field in fields {
                if let Some(value) = field.default.as_ref().and_then(value::from_json) {
                    layer.put(&stage.name, part, &field.name, value, None);
                }
            }
        }
    }
    layer
}

/// The part of a stage where this kind keeps the name.
fn part_of(stage: &StageSpec, name: &str) -> Option<(&'static str, FieldType)> {
    let field = stage.manifest.field(name)?;
    let part = if stage.manifest.params.iter().any(|p| p.name == name) { "params" } else { "operation" };
    Some((part, field.ty.clone()))
}

fn shared_params(spec: &Spec, params: &[Entry], base: PathBuf) -> Layer {
    let mut layer = Layer::new("pipeline [params]", base);
    for entry in params {
        for stage in spec.stages.iter().filter(|s| declares(&s.manifest, &entry.key)) {
            if let Some((part, _)) = part_of(stage, &entry.key) {
                let value = value::from_node(&entry.node);
                layer.put_node(&stage.name, part, &entry.key, value, &entry.node, "pipeline [params]");
            }
        }
    }
    layer
}

/// What file number `index` says about each stage.
fn stage_values(spec: &Spec, index: usize) -> Result<Layer> {
    let mut layer = Layer::new("stage", spec.files[index].dir());
    let by_name: HashMap<&str, &StageSpec> =
        spec.stages.iter().filter(|s| s.since <= index).map(|s| (s.name.as_str(), s)).collect();
    for entry in &spec.files[index].stages {
        let Some(stage) = by_name.get(entry.key.as_str()) else { continue };
        let name = &stage.name;
        for part in entry.node.table("a stage")? {
            let table: &'static str = match part.key.as_str() {
                "params" => "params",
                "operation" => "operation",
                "inputs" => "inputs",
                "resources" => "resources",
                "run" => {
                    let words = command::template(name, &part.node)?;
                    layer.put_node(name, "params", command::RUN, words, &part.node, "stage");
                    continue;
                }
                "timeout" | "retries" | "backoff" => {
                    let key = &part.key;
                    layer.put_node(name, "stage", key, value::from_node(&part.node), &part.node, "stage");
                    continue;
                }
                "watch" => {
                    part.node.list(&format!("stage `{name}`: `watch`"))?;
                    layer.put_node(name, "stage", "watch", value::from_node(&part.node), &part.node, "stage");
                    continue;
                }
                _ => continue,
            };
            let label = format!("stage {table}");
            for e in part.node.table(&format!("stage `{name}`: `{table}`"))? {
                layer.put_node(name, table, &e.key, value::from_node(&e.node), &e.node, &label);
            }
        }
    }
    Ok(layer)
}

fn settings(spec: &Spec, settings: &[Setting]) -> Layer {
    let mut layer = Layer::new("setting", PathBuf::new());
    for setting in settings {
        let reached: Vec<(&StageSpec, &'static str, &str)> = match &setting.target {
            Target::Stage { stage, part, name } => vec![(&spec.stages[*stage], part, name)],
            Target::Shared(name) => {
                let stages = spec.stages.iter().filter(|s| declares(&s.manifest, name));
                stages.filter_map(|s| part_of(s, name).map(|(part, _)| (s, part, name.as_str()))).collect()
            }
        };
        for (stage, part, name) in reached {
            let value = match part_of(stage, name) {
                Some((_, ty)) if part != "inputs" => setting.value.typed(&ty),
                _ => setting.value.connection(),
            };
            layer.notes.bases.insert(path(&stage.name, part, name), setting.base.clone());
            layer.put(&stage.name, part, name, value, Some(setting.origin.clone()));
        }
    }
    layer
}

fn environment(spec: &Spec, overrides: &Overrides) -> Result<Vec<Setting>> {
    let mut found = vec![];
    for (variable, text) in &overrides.env {
        let Some(rest) = variable.strip_prefix("ERW_SET__") else { continue };
        let mut parts: Vec<&str> = rest.split("__").collect();
        // Shells allow no `-` in names of variables: `train_vae` means the stage `train-vae` if there is no other.
        let dashed = spec.stages.iter().find(|s| s.name.replace('-', "_") == parts[0]);
        if let (None, Some(stage), true) = (spec.stage(parts[0]), dashed, parts.len() > 1) {
            parts[0] = &stage.name;
        }
        let target =
            target(spec, &parts.join(".")).map_err(|e| e.within(&format!("environment variable `{variable}`")))?;
        found.push(outside(target, text, format!("environment {variable}")));
    }
    Ok(found)
}

fn command_line(spec: &Spec, overrides: &Overrides) -> Result<Vec<Setting>> {
    let mut found = vec![];
    for text in &overrides.set {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Error::usage(format!("`--set {text}` has no value")).hint("write `--set STAGE.NAME=VALUE`"));
        };
        let key = key.trim();
        let target = target(spec, key).map_err(|e| e.within(&format!("`--set {text}`")))?;
        found.push(outside(target, value.trim(), format!("--set {key}")));
    }
    Ok(found)
}

fn outside(target: Target, text: &str, layer: String) -> Setting {
    let origin = Origin { layer, place: None };
    Setting { target, value: Given::Text(text.to_string()), origin, base: PathBuf::new() }
}

/// What `train.steps`, `train.inputs.init` or `steps` means in this pipeline.
pub(super) fn target(spec: &Spec, key: &str) -> Result<Target> {
    let Some((stage, rest)) = key.split_once('.') else { return shared_target(spec, key) };
    let names = || spec.stages.iter().map(|s| s.name.as_str());
    let index = spec.stage(stage).ok_or_else(|| {
        Error::usage(format!("no stage `{stage}`")).maybe_hint(super::suggest::hint(stage, names(), "the stages are"))
    })?;
    let manifest = &spec.stages[index].manifest;
    if let Some(slot) = rest.strip_prefix("inputs.") {
        let slots = || manifest.inputs.iter().map(|s| s.name.as_str());
        if !slots().any(|s| s == slot) {
            let hint = super::suggest::hint(slot, slots(), "its inputs are");
            return Err(Error::usage(format!("stage `{stage}` has no input `{slot}`")).maybe_hint(hint));
        }
        return Ok(Target::Stage { stage: index, part: "inputs", name: slot.to_string() });
    }
    match part_of(&spec.stages[index], rest) {
        Some((part, _)) if declares(manifest, rest) => Ok(Target::Stage { stage: index, part, name: rest.to_string() }),
        _ => {
            let fields = manifest.params.iter().chain(&manifest.operation).map(|f| f.name.as_str());
            let fields = fields.filter(|f| declares(manifest, f));
            let hint = super::suggest::hint(rest, fields, "its parameters are");
            Err(Error::usage(format!("stage `{stage}` has no parameter `{rest}`")).maybe_hint(hint))
        }
    }
}

fn shared_target(spec: &Spec, key: &str) -> Result<Target> {
    let shared = || spec.files.iter().flat_map(|f| &f.params).map(|e| e.key.as_str());
    if shared().any(|k| k == key) {
        return Ok(Target::Shared(key.to_string()));
    }
    let error = Error::usage(format!("`{key}` names no stage, and [params] has no key `{key}`"));
    let having: Vec<String> =
        spec.stages.iter().filter(|s| declares(&s.manifest, key)).map(|s| format!("{}.{key}", s.name)).collect();
    Err(match having.is_empty() {
        false => error.hint(format!("write {}", super::suggest::ticked(having.iter().map(String::as_str)))),
        true => error.maybe_hint(super::suggest::hint(key, shared(), "the keys of [params] are")),
    })
}
