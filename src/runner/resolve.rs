//! From a [`Spec`] to a [`Pipeline`]: every value checked against its manifest, every edge against the types
//! on both ends, the stages in topological order. Nothing runs, and no file but the pipelines is read.

use super::command;
use super::graph::{Command, Edge, Origin, Pipeline, Resources, Source, Stage, StageId};
use super::layers::{Layers, Overrides, Setting};
use super::manifest::{Field, FieldType, Params, Registry, Slot};
use super::spec::{Spec, StageSpec};
use super::{suggest, value};
use crate::error::{Error, Place, Result};
use figment::value::{Dict, Value};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

impl Pipeline {
    /// Reads, resolves and checks a pipeline file. A `[sweep]` is checked too, but not expanded.
    pub fn load(path: &Path, registry: Registry, overrides: &Overrides) -> Result<Self> {
        let spec = Spec::read(path, registry)?;
        super::sweep::axes(&spec)?;
        spec.resolve(overrides, &[])
    }

    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[id.0]
    }
}

/// A stage before its edges are drawn.
struct Draft {
    stage: Stage,
    /// What each slot's statement says.
    wires: Vec<Wire>,
}

/// `slot = "stage.output"` as stated.
struct Wire {
    slot: usize,
    text: String,
    origin: Origin,
}

impl Spec {
    /// Puts values and edges in place and checks them. `trial` are the settings of one trial of a sweep.
    pub(super) fn resolve(&self, overrides: &Overrides, trial: &[Setting]) -> Result<Pipeline> {
        let layers = Layers::new(self, overrides, trial)?;
        let mut values = layers.values()?;
        let mut drafts = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let dict = values.remove(&stage.name).and_then(Value::into_dict).unwrap_or_default();
            drafts.push(Resolver { spec: stage, dict, layers: &layers, origins: BTreeMap::new() }.draft()?);
        }
        let edges = connect(self, &drafts)?;
        let order = order(self, &drafts, &edges)?;
        let stages = arrange(drafts, edges, &order);
        for (stage, &from) in stages.iter().zip(&order) {
            check_kind(&self.stages[from], stage)?;
        }
        Ok(Pipeline { name: self.name.clone(), file: self.file.clone(), stages })
    }
}

/// Resolves one stage's values.
struct Resolver<'a> {
    spec: &'a StageSpec,
    dict: Dict,
    layers: &'a Layers,
    origins: BTreeMap<String, Origin>,
}

impl Resolver<'_> {
    fn draft(mut self) -> Result<Draft> {
        let manifest = self.spec.manifest.clone();
        let mut sources = BTreeMap::new();
        let params = self.fields("params", &manifest.params, &mut sources)?;
        let operation = self.fields("operation", &manifest.operation, &mut BTreeMap::new())?;
        self.watch(&mut sources)?;
        let resources = self.resources()?;
        let wires = self.wires()?;
        let outputs = manifest.outputs.iter().map(|o| {
            let ty = o.param().and_then(|p| params.get(p)).and_then(Json::as_str).unwrap_or(&o.ty);
            (o.name.clone(), ty.to_string())
        });
        let outputs = outputs.collect();
        let command = (self.spec.kind.name == command::NAME).then(|| Command { run: words(&params) });
        let stage = Stage {
            name: self.spec.name.clone(),
            kind: self.spec.kind,
            manifest,
            inputs: BTreeMap::new(),
            outputs,
            params,
            operation,
            sources,
            resources,
            origins: self.origins,
            command,
        };
        Ok(Draft { stage, wires })
    }

    fn get(&self, part: &str, name: &str) -> Option<&Value> {
        self.dict.get(part)?.as_dict()?.get(name)
    }

    fn origin(&self, part: &str, name: &str, value: &Value) -> Origin {
        self.layers.origin(&self.spec.name, part, name, value)
    }

    /// An error about a value that was stated: at its place, or with the name of who stated it.
    fn at(&self, error: Error, part: &str, name: &str, value: &Value) -> Error {
        let origin = self.origin(part, name, value);
        stated_by(error.within(&format!("stage `{}`", self.spec.name)), &origin)
    }

    fn fields(&mut self, part: &str, fields: &[Field], sources: &mut BTreeMap<String, Source>) -> Result<Params> {
        let mut params = Params::new();
        for field in fields {
            let json = match self.get(part, &field.name) {
                Some(value) => self.field(part, field, value)?,
                None if field.optional => Json::Null,
                None => return Err(self.required(part, field)),
            };
            let origin = match self.get(part, &field.name) {
                Some(value) => {
                    self.paths(part, field, value, &json, sources);
                    self.origin(part, &field.name, value)
                }
                None => Origin { layer: "manifest".into(), place: None },
            };
            self.origins.insert(format!("{part}.{}", field.name), origin);
            params.insert(field.name.clone(), json);
        }
        Ok(params)
    }

    fn field(&self, part: &str, field: &Field, value: &Value) -> Result<Json> {
        value::check(field, value).map_err(|mismatch| {
            let name = match mismatch.index {
                Some(i) => format!("{}.{i}", field.name),
                None => field.name.clone(),
            };
            let mut origin = self.origin(part, &name, value);
            if origin.place.is_none() {
                origin = self.origin(part, &field.name, value);
            }
            let error = mismatch.error(origin.place);
            self.at(error, part, &field.name, value)
        })
    }

    fn required(&self, part: &str, field: &Field) -> Error {
        let about = if field.doc.is_empty() { String::new() } else { format!(" ({})", field.doc) };
        let noun = if part == "params" { "parameter" } else { "operation value" };
        Error::usage(format!("stage `{}`: {noun} `{}` is not given", self.spec.name, field.name))
            .at(self.spec.place.clone())
            .hint(format!("it has no default; write `{part}.{} = ...`{about}", field.name))
    }

    /// Outside files behind a parameter of type `path`, or a list of them.
    fn paths(&self, part: &str, field: &Field, value: &Value, json: &Json, sources: &mut BTreeMap<String, Source>) {
        let base = self.layers.base(&self.spec.name, part, &field.name, value);
        let source = |text: &str| Source { path: base.join(text), missing: field.missing.clone() };
        match (&field.ty, json) {
            (FieldType::Path, Json::String(text)) => {
                sources.insert(field.name.clone(), source(text));
            }
            (FieldType::List(of), Json::Array(list)) if **of == FieldType::Path => {
                for (i, text) in list.iter().filter_map(Json::as_str).enumerate() {
                    sources.insert(format!("{}.{i}", field.name), source(text));
                }
            }
            _ => {}
        }
    }

    fn watch(&self, sources: &mut BTreeMap<String, Source>) -> Result<()> {
        let Some(value @ Value::Array(_, values)) = self.get("stage", "watch") else { return Ok(()) };
        for (i, v) in values.iter().enumerate() {
            let Some(text) = v.as_str() else {
                let error = Error::usage("`watch` must be a list of files and folders");
                return Err(self.at(error, "stage", &format!("watch.{i}"), value));
            };
            let base = self.layers.base(&self.spec.name, "stage", "watch", value);
            sources.insert(format!("watch.{i}"), Source { path: base.join(text), missing: None });
        }
        Ok(())
    }

    fn resources(&self) -> Result<Resources> {
        let count = |name: &str, min: i128| -> Result<Option<usize>> {
            let Some(value) = self.get("resources", name) else { return Ok(None) };
            let found = value.to_i128().filter(|n| *n >= min && value.as_str().is_none());
            let fail = || Error::usage(format!("`{name}` must be a whole number from {min} on"));
            let count = found.and_then(|n| usize::try_from(n).ok());
            count.map(Some).ok_or_else(|| self.at(fail(), "resources", name, value))
        };
        let mem = match self.get("resources", "mem") {
            Some(value) => Some(bytes(value).ok_or_else(|| {
                let error = Error::usage("`mem` must be an amount of memory").hint("write `mem = \"8GiB\"`, or bytes");
                self.at(error, "resources", "mem", value)
            })?),
            None => None,
        };
        Ok(Resources { threads: count("threads", 1)?, mem, gpus: count("gpus", 0)?.unwrap_or(0) })
    }

    fn wires(&mut self) -> Result<Vec<Wire>> {
        let mut wires = vec![];
        for (index, slot) in self.spec.manifest.inputs.iter().enumerate() {
            let Some(value) = self.get("inputs", &slot.name) else { continue };
            let origin = self.origin("inputs", &slot.name, value);
            match value {
                Value::String(_, text) => wires.push(Wire { slot: index, text: text.clone(), origin: origin.clone() }),
                // Takes back what a parent connected.
                Value::Bool(_, false) => {}
                _ => {
                    let error = Error::usage(format!("input `{}` must name a stage", slot.name));
                    let hint = "write `\"stage\"` or `\"stage.output\"`; `false` leaves an optional input open";
                    return Err(self.at(error.hint(hint), "inputs", &slot.name, value));
                }
            }
            self.origins.insert(format!("inputs.{}", slot.name), origin);
        }
        Ok(wires)
    }
}

/// Adds the place of a faulty value, or who set it.
fn stated_by(mut error: Error, origin: &Origin) -> Error {
    if let Some(place) = &origin.place {
        return error.at(place.clone());
    }
    let who = match origin.layer.strip_prefix("environment ") {
        Some(variable) => format!("the environment variable `{variable}`"),
        None => format!("`{}`", origin.layer),
    };
    error.hints.insert(0, format!("it was set by {who}"));
    error
}

/// The template of a command, from its parameter.
fn words(params: &Params) -> Vec<String> {
    let words = params.get(command::RUN).and_then(Json::as_array);
    words.into_iter().flatten().filter_map(Json::as_str).map(str::to_string).collect()
}

/// `8GiB`, `1.5 GB`, or a number of bytes.
fn bytes(value: &Value) -> Option<u64> {
    let Some(text) = value.as_str() else { return value.to_i128().and_then(|n| u64::try_from(n).ok()) };
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(split);
    let scale: f64 = match unit.trim() {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * scale;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// By stage, by slot: the producing stage's index in the spec and its output.
type Edges = Vec<BTreeMap<String, (usize, String, String)>>;

fn connect(spec: &Spec, drafts: &[Draft]) -> Result<Edges> {
    let index: HashMap<&str, usize> = drafts.iter().enumerate().map(|(i, d)| (d.stage.name.as_str(), i)).collect();
    let mut edges: Edges = Vec::with_capacity(drafts.len());
    for (i, draft) in drafts.iter().enumerate() {
        let manifest = &draft.stage.manifest;
        let mut inputs = BTreeMap::new();
        for wire in &draft.wires {
            let slot = &manifest.inputs[wire.slot];
            let found = Joint { consumer: &draft.stage, slot, wire, drafts, removed: &spec.removed }.find(&index)?;
            inputs.insert(slot.name.clone(), found);
        }
        if let Some(open) = manifest.inputs.iter().find(|s| !s.optional && !inputs.contains_key(&s.name)) {
            let fits = fitting(drafts, open, &draft.stage.name);
            let error = Error::usage(format!("stage `{}`: input `{}` is not connected", draft.stage.name, open.name));
            let hint = match fits.first() {
                Some(fit) => format!("it takes {}; write `inputs.{} = \"{fit}\"`", open.wanted(), open.name),
                None => format!("it takes {}, which no other stage of this pipeline makes", open.wanted()),
            };
            // It may have been connected by a parent, and taken back.
            let taken = draft.stage.origins.get(&format!("inputs.{}", open.name)).and_then(|o| o.place.clone());
            return Err(error.at(taken.unwrap_or_else(|| spec.stages[i].place.clone())).hint(hint));
        }
        edges.push(inputs);
    }
    Ok(edges)
}

/// The outputs that a slot could take, shortest spelling.
fn fitting(drafts: &[Draft], slot: &Slot, except: &str) -> Vec<String> {
    let mut fits = vec![];
    for stage in drafts.iter().map(|d| &d.stage).filter(|s| s.name != except) {
        let names: Vec<&String> = stage.outputs.iter().filter(|(_, ty)| slot.accepts(ty)).map(|(n, _)| n).collect();
        match names.as_slice() {
            [_] => fits.push(stage.name.clone()),
            several => fits.extend(several.iter().map(|n| format!("{}.{n}", stage.name))),
        }
    }
    fits
}

/// One statement `slot = "stage.output"` on its way to an edge.
struct Joint<'a> {
    consumer: &'a Stage,
    slot: &'a Slot,
    wire: &'a Wire,
    drafts: &'a [Draft],
    removed: &'a HashMap<String, Place>,
}

impl Joint<'_> {
    /// Index of the producing stage, output, type.
    fn find(&self, index: &HashMap<&str, usize>) -> Result<(usize, String, String)> {
        let (stage, output) = match self.wire.text.split_once('.') {
            Some((stage, output)) => (stage, Some(output)),
            None => (self.wire.text.as_str(), None),
        };
        let Some(&from) = index.get(stage) else {
            let names = self.drafts.iter().map(|d| d.stage.name.as_str());
            let hint = match self.removed.get(stage) {
                Some(place) => Some(format!("`{stage}` is removed in {place}")),
                None => suggest::hint(stage, names, "the stages are"),
            };
            return Err(self.error(format!("no stage `{stage}`")).maybe_hint(hint));
        };
        let outputs = &self.drafts[from].stage.outputs;
        let (output, ty) = match output {
            Some(output) => outputs.get_key_value(output).ok_or_else(|| {
                let hint = suggest::hint(output, outputs.keys().map(String::as_str), "its outputs are");
                self.error(format!("stage `{stage}` has no output `{output}`")).maybe_hint(hint)
            })?,
            None => self.only(stage, outputs)?,
        };
        if !self.slot.accepts(ty) {
            let text = format!("`{}` is of type {ty}, but the input takes {}", self.wire.text, self.slot.wanted());
            return Err(self.what_fits(self.error(text)));
        }
        Ok((from, output.clone(), ty.clone()))
    }

    /// The stage's only output, or its only output of an accepted type.
    fn only<'o>(&self, stage: &str, outputs: &'o BTreeMap<String, String>) -> Result<(&'o String, &'o String)> {
        let all: Vec<_> = outputs.iter().collect();
        if let [one] = all.as_slice() {
            return Ok(*one);
        }
        let fit: Vec<_> = all.iter().copied().filter(|(_, ty)| self.slot.accepts(ty)).collect();
        match fit.as_slice() {
            [one] => Ok(*one),
            [] if all.is_empty() => Err(self.error(format!("stage `{stage}` has no outputs"))),
            [] => {
                let made: Vec<String> = all.iter().map(|(n, ty)| format!("`{n}` ({ty})")).collect();
                let text =
                    format!("stage `{stage}` makes {}, but the input takes {}", made.join(", "), self.slot.wanted());
                Err(self.what_fits(self.error(text)))
            }
            several => {
                let names: Vec<String> = several.iter().map(|(n, _)| format!("`{stage}.{n}`")).collect();
                let text = format!("stage `{stage}` makes {} outputs that fit", several.len());
                Err(self.error(text).hint(format!("write one of {}", names.join(", "))))
            }
        }
    }

    fn what_fits(&self, error: Error) -> Error {
        let fits = fitting(self.drafts, self.slot, &self.consumer.name);
        match fits.is_empty() {
            true => error.hint(format!("no other stage of this pipeline makes {}", self.slot.wanted())),
            false => error.hint(format!("these would fit: {}", suggest::ticked(fits.iter().map(String::as_str)))),
        }
    }

    fn error(&self, text: String) -> Error {
        let error = Error::usage(format!("stage `{}`: input `{}`: {text}", self.consumer.name, self.slot.name));
        stated_by(error, &self.wire.origin)
    }
}

/// Indices into the spec such that what a stage takes comes before it; otherwise as stated. A depth-first walk
/// of our own, because petgraph's `toposort` names one stage of a cycle and a user needs the whole cycle.
fn order(spec: &Spec, drafts: &[Draft], edges: &Edges) -> Result<Vec<usize>> {
    const OPEN: u8 = 1;
    const DONE: u8 = 2;
    let mut state = vec![0u8; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    // Its own stack: a chain of many thousand stages must not exhaust the thread's.
    let needs: Vec<Vec<usize>> = edges.iter().map(|e| e.values().map(|(from, ..)| *from).collect()).collect();
    for root in 0..edges.len() {
        let mut stack: Vec<(usize, usize)> = vec![];
        if state[root] == 0 {
            state[root] = OPEN;
            stack.push((root, 0));
        }
        while let Some((stage, next)) = stack.last_mut() {
            let Some(&need) = needs[*stage].get(*next) else {
                state[*stage] = DONE;
                order.push(*stage);
                stack.pop();
                continue;
            };
            *next += 1;
            match state[need] {
                DONE => {}
                OPEN => {
                    let path: Vec<usize> = stack.iter().map(|(s, _)| *s).skip_while(|s| *s != need).collect();
                    return Err(cycle(spec, drafts, edges, &path));
                }
                _ => {
                    state[need] = OPEN;
                    stack.push((need, 0));
                }
            }
        }
    }
    Ok(order)
}

/// `path`: each stage takes something from the next, the last from the first.
fn cycle(spec: &Spec, drafts: &[Draft], edges: &Edges, path: &[usize]) -> Error {
    // Shown in the direction of the data, from the stage stated first.
    let mut flow: Vec<usize> = path.iter().rev().copied().collect();
    let first = flow.iter().enumerate().min_by_key(|(_, s)| **s).map_or(0, |(i, _)| i);
    flow.rotate_left(first);
    let (from, to) = (flow[0], flow.get(1).copied().unwrap_or(flow[0]));
    flow.push(flow[0]);
    let names: Vec<&str> = flow.iter().map(|i| spec.stages[*i].name.as_str()).collect();
    let slot = edges[to].iter().find(|(_, (f, ..))| *f == from).map(|(slot, _)| slot);
    let place = slot.and_then(|s| drafts[to].stage.origins.get(&format!("inputs.{s}"))).and_then(|o| o.place.clone());
    Error::usage(format!("the stages form a cycle: `{}`", names.join(" -> ")))
        .at(place.unwrap_or_else(|| spec.stages[to].place.clone()))
}

fn arrange(drafts: Vec<Draft>, edges: Edges, order: &[usize]) -> Vec<Stage> {
    let mut position = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        position[*old] = new;
    }
    let mut stages: Vec<(usize, Stage)> = drafts
        .into_iter()
        .zip(edges)
        .enumerate()
        .map(|(i, (draft, inputs))| {
            let edge = |(from, output, ty)| Edge { from: StageId(position[from]), output, ty };
            let inputs = inputs.into_iter().map(|(slot, found)| (slot, edge(found))).collect();
            (position[i], Stage { inputs, ..draft.stage })
        })
        .collect();
    stages.sort_by_key(|(position, _)| *position);
    stages.into_iter().map(|(_, stage)| stage).collect()
}

/// The kind's own check. Its error is placed at the parameter it names, or at the stage.
fn check_kind(spec: &StageSpec, stage: &Stage) -> Result<()> {
    (stage.kind.check)(&stage.params, &stage.operation).map_err(|e| {
        let named = e.message.split('`').skip(1).step_by(2);
        let parts = named.flat_map(|n| [format!("params.{n}"), format!("operation.{n}")]);
        let place = parts.filter_map(|p| stage.origins.get(&p)).find_map(|o| o.place.clone());
        e.at(place.unwrap_or_else(|| spec.place.clone())).within(&format!("stage `{}`", stage.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit() {
        let read = |text: &str| bytes(&Value::from(text));
        assert_eq!(read("8GiB"), Some(8 << 30));
        assert_eq!(read("1.5 kB"), Some(1500));
        assert_eq!(bytes(&Value::from(4096)), Some(4096));
        assert_eq!([read("8"), read("GiB"), read("8 gigs"), read("-1GB")], [None; 4]);
    }
}
