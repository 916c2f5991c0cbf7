//! Merges the layers of values of a pipeline, and tracks where each value comes from.
//!
//! Weakest first: manifest defaults; then, for every file of the `extends` chain, root first, its
//! `[params]` and its stages; the trial of a sweep; the environment; the command line. Stages are
//! resolved one at a time, so that a large pipeline is not in memory once per layer. Does not know
//! types: `resolve` checks the result.

use super::command;
use super::file::{File, Spec, StageSpec, declares};
use super::graph::Origin;
use crate::kind::field::Field;
use crate::kind::value::{self, Value};
use crate::text::spanned::{Entry, Node, Toml};
use crate::text::suggest;
use erw_base::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Values from outside the files, as text.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `STAGE.NAME=VALUE`, `STAGE.inputs.SLOT=STAGE` or `=[STAGE,STAGE]`, or `NAME=VALUE` for a key
    /// of `[params]`.
    pub set: Vec<String>,
    /// Variables `ERW_SET__STAGE__NAME` with their values. Others are ignored.
    pub env: Vec<(String, String)>,
}

/// The target of a setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// A key of `[params]`.
    Shared(String),
    /// `part` is `params`, `operation` or `inputs`.
    Stage { stage: usize, part: &'static str, name: String },
}

/// One value from outside the files, or of a trial.
#[derive(Clone)]
pub(crate) struct Setting {
    pub target: Target,
    pub value: RawValue,
    pub origin: Origin,
    /// The base of a relative path.
    pub base: PathBuf,
}

/// A raw value: TOML, or text whose type the field decides.
#[derive(Clone)]
pub(crate) enum RawValue {
    Node(Node),
    Text(String),
}

impl RawValue {
    fn typed(&self, field: &Field) -> Value {
        match self {
            Self::Node(node) => value::from_node(node),
            Self::Text(text) => value::from_text(field, text),
        }
    }
    fn connection(&self) -> Value {
        match self {
            Self::Node(node) => value::from_node(node),
            Self::Text(text) if matches!(text.as_str(), "" | "false") => Value::Bool(false),
            Self::Text(text) => match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                Some(list) => list.split(',').map(bare).filter(|t| !t.is_empty()).collect(),
                None => text.as_str().into(),
            },
        }
    }
}

/// A word of a list, with or without the quotes that shells remove.
fn bare(word: &str) -> &str {
    word.trim().trim_matches(['"', '\''])
}

/// All values for the stages of a pipeline, in order of precedence.
pub(crate) struct Layers<'a> {
    spec: &'a Spec,
    /// The base of relative paths of each file.
    dirs: Vec<PathBuf>,
    /// Keys of `[params]` set from outside.
    shared: Vec<Setting>,
    trial: &'a [Setting],
    /// Values of stages set from outside.
    own: Vec<Setting>,
}

/// The effective values of a stage by part (`params`, `operation`, `inputs`, `resources`, `stage`)
/// and name.
pub(crate) type Values<'a> = BTreeMap<(&'static str, &'a str), Winner<'a>>;

/// A value and its origin.
pub(crate) struct Winner<'a> {
    pub value: Value,
    /// The base of a relative path.
    pub base: &'a Path,
    by: By<'a>,
}

enum By<'a> {
    Manifest,
    File { layer: &'static str, node: &'a Node },
    Setting(&'a Origin),
}

impl Winner<'_> {
    pub fn origin(&self) -> Origin {
        match self.by {
            By::Manifest => Origin { layer: "manifest".into(), place: None },
            By::File { layer, node } => Origin { layer: layer.into(), place: Some(node.place.clone()) },
            By::Setting(origin) => origin.clone(),
        }
    }

    /// The origin of a list element, which has its own place if it is from a file.
    pub fn element_origin(&self, index: usize) -> Origin {
        match self.by {
            By::File { layer, node: Node { value: Toml::List(nodes), .. } } if index < nodes.len() => {
                Origin { layer: layer.into(), place: Some(nodes[index].place.clone()) }
            }
            _ => self.origin(),
        }
    }
}

impl<'a> Layers<'a> {
    pub fn new(spec: &'a Spec, overrides: &Overrides, trial: &'a [Setting]) -> Result<Self> {
        let set = environment(spec, overrides)?.into_iter().chain(command_line(spec, overrides)?);
        let (shared, own) = set.partition(|s| matches!(s.target, Target::Shared(_)));
        let dirs = spec.files.iter().map(File::dir).collect();
        Ok(Self { spec, dirs, shared, trial, own })
    }

    /// The effective values of stage number `index`.
    pub fn values(&'a self, index: usize) -> Result<Values<'a>> {
        let stage = &self.spec.stages[index];
        let mut values = Values::new();
        // Default paths are relative to the pipeline.
        defaults(&mut values, stage, self.dirs.last().map_or(Path::new(""), PathBuf::as_path));
        for (i, (file, dir)) in self.spec.files.iter().zip(&self.dirs).enumerate() {
            shared_params(&mut values, stage, &file.params, dir);
            if i + 1 == self.spec.files.len() {
                // A key of [params] set from outside is still weaker than a stage's own value.
                settings(&mut values, stage, index, &self.shared);
            }
            if let Some(entry) = file.stage(&stage.name).filter(|_| stage.since <= i) {
                statement(&mut values, entry, dir)?;
            }
        }
        settings(&mut values, stage, index, self.trial);
        settings(&mut values, stage, index, &self.own);
        Ok(values)
    }
}

/// The effective values of a stage that is in no file: these settings over the defaults.
pub(crate) fn of_settings<'a>(stage: &'a StageSpec, given: &'a [Setting], base: &'a Path) -> Values<'a> {
    let mut values = Values::new();
    defaults(&mut values, stage, base);
    settings(&mut values, stage, 0, given);
    values
}

fn defaults<'a>(values: &mut Values<'a>, stage: &'a StageSpec, base: &'a Path) {
    for (part, fields) in [("params", &stage.manifest.params), ("operation", &stage.manifest.operation)] {
        for field in fields {
            if let Some(value) = field.default.as_ref().and_then(value::from_json) {
                values.insert((part, &field.name), Winner { value, base, by: By::Manifest });
            }
        }
    }
}

/// The field with this name, and the part of the stage that has it.
fn field<'a>(stage: &'a StageSpec, name: &str) -> Option<(&'static str, &'a Field)> {
    let find = |part, fields: &'a [Field]| Some((part, fields.iter().find(|f| f.name == name)?));
    find("params", &stage.manifest.params).or_else(|| find("operation", &stage.manifest.operation))
}

fn shared_params<'a>(values: &mut Values<'a>, stage: &'a StageSpec, params: &'a [Entry], base: &'a Path) {
    for entry in params.iter().filter(|e| declares(&stage.manifest, &e.key)) {
        if let Some((part, field)) = field(stage, &entry.key) {
            let by = By::File { layer: "pipeline [params]", node: &entry.node };
            values.insert((part, &field.name), Winner { value: value::from_node(&entry.node), base, by });
        }
    }
}

/// The values of a stage in a file.
fn statement<'a>(values: &mut Values<'a>, stage: &'a Entry, base: &'a Path) -> Result<()> {
    let mut put = |part, name, value, layer, node| {
        values.insert((part, name), Winner { value, base, by: By::File { layer, node } });
    };
    for part in stage.node.table("a stage")? {
        let (table, layer) = match part.key.as_str() {
            "params" => ("params", "stage params"),
            "operation" => ("operation", "stage operation"),
            "inputs" => ("inputs", "stage inputs"),
            "resources" => ("resources", "stage resources"),
            "run" => {
                put("params", command::RUN, command::template(&stage.key, &part.node)?, "stage", &part.node);
                continue;
            }
            "timeout" | "retries" | "backoff" | "watch" | "ignore" => {
                put("stage", &part.key, value::from_node(&part.node), "stage", &part.node);
                continue;
            }
            _ => continue,
        };
        for e in part.node.table(layer)? {
            put(table, &e.key, value::from_node(&e.node), layer, &e.node);
        }
    }
    Ok(())
}

/// The settings for stage number `index`; later ones take precedence.
fn settings<'a>(values: &mut Values<'a>, stage: &'a StageSpec, index: usize, settings: &'a [Setting]) {
    for setting in settings {
        let (part, name) = match &setting.target {
            Target::Stage { stage, part, name } if *stage == index => (*part, name),
            Target::Shared(name) if declares(&stage.manifest, name) => match field(stage, name) {
                Some((part, _)) => (part, name),
                None => continue,
            },
            _ => continue,
        };
        let value = match field(stage, name) {
            Some((_, field)) if part != "inputs" => setting.value.typed(field),
            _ => setting.value.connection(),
        };
        values.insert((part, name), Winner { value, base: &setting.base, by: By::Setting(&setting.origin) });
    }
}

fn environment(spec: &Spec, overrides: &Overrides) -> Result<Vec<Setting>> {
    let mut found = vec![];
    for (variable, text) in &overrides.env {
        let Some(rest) = variable.strip_prefix("ERW_SET__") else { continue };
        let mut parts: Vec<&str> = rest.split("__").collect();
        // Variable names cannot contain `-`: `train_vae` means the stage `train-vae` if there is no
        // other.
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
    let origin = Origin { layer: Cow::from(layer), place: None };
    Setting { target, value: RawValue::Text(text.to_string()), origin, base: PathBuf::new() }
}

/// What `train.steps`, `train.inputs.init` or `steps` refers to in this pipeline.
pub(crate) fn target(spec: &Spec, key: &str) -> Result<Target> {
    let Some((stage, rest)) = key.split_once('.') else { return shared_target(spec, key) };
    let names = || spec.stages.iter().map(|s| s.name.as_str());
    let index = spec.stage(stage).ok_or_else(|| {
        Error::usage(format!("no stage `{stage}`")).maybe_hint(suggest::hint(stage, names(), "the stages are"))
    })?;
    let manifest = &spec.stages[index].manifest;
    if let Some(slot) = rest.strip_prefix("inputs.") {
        let slots = || manifest.inputs.iter().map(|s| s.name.as_str());
        if !slots().any(|s| s == slot) {
            let hint = suggest::hint(slot, slots(), "its inputs are");
            return Err(Error::usage(format!("stage `{stage}` has no input `{slot}`")).maybe_hint(hint));
        }
        return Ok(Target::Stage { stage: index, part: "inputs", name: slot.to_string() });
    }
    match field(&spec.stages[index], rest) {
        Some((part, _)) if declares(manifest, rest) => Ok(Target::Stage { stage: index, part, name: rest.to_string() }),
        _ => {
            let fields = manifest.params.iter().chain(&manifest.operation).map(|f| f.name.as_str());
            let fields = fields.filter(|f| declares(manifest, f));
            let hint = suggest::hint(rest, fields, "its parameters are");
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
        false => error.hint(format!("write {}", suggest::ticked(having.iter().map(String::as_str)))),
        true => error.maybe_hint(suggest::hint(key, shared(), "the keys of [params] are")),
    })
}
