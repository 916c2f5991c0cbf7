//! Inputs from outside a pipeline. `slot = "KIND:PATH"` is short for a stage of that kind with
//! `source = PATH`, such as `init = "weights:0100000.pt"`; `slot = "FILE.toml:STAGE"` is a stage of
//! another pipeline, with everything it needs. Both become ordinary stages of the graph, named as
//! the input is written, so keys, cache, plans and lock files do not know the difference. Results
//! of the other pipeline are reused from the cache, since no key contains the name of a pipeline.
//!
//! The manifests decide which kinds can be written this way: those with a parameter `source` of
//! type path that need no other input.

use super::draft::{Draft, External, InputRef, SEPARATOR, stated_by};
use super::edges::{Edges, connect};
use super::file::{Spec, StageSpec};
use super::layers::{self, Overrides, RawValue, Setting, Target};
use super::stage::draft;
use crate::files::digest::Digest;
use crate::kind::field::{FieldType, InputSlot, element};
use crate::kind::manifest::Manifest;
use crate::kind::{Registry, StageKind};
use crate::text::suggest;
use erw_base::error::{Error, Place, Result};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SOURCE: &str = "source";

/// Pipeline files that were read, with digests of their contents.
type Read = Vec<(PathBuf, Digest)>;

/// Adds the stages for inputs from outside and connects the inputs to them. Returns the other
/// pipeline files that were read.
pub(crate) fn fetch(spec: &Spec, drafts: &mut Vec<Draft>) -> Result<Read> {
    let mut added = Added { spec, drafts: vec![], known: HashMap::new(), read: vec![] };
    for draft in drafts.iter_mut().filter(|d| d.input_refs.iter().any(|w| w.elsewhere.is_some())) {
        let (name, manifest) = (draft.stage.name.clone(), draft.stage.manifest.clone());
        for input_ref in draft.input_refs.iter_mut().filter(|w| w.elsewhere.as_ref().is_some_and(|e| e.from.is_none()))
        {
            let slot = &manifest.inputs[input_ref.slot];
            let wanted = ExternalRef { stage: &name, slot, input_ref };
            let from = added.find(&wanted)?;
            input_ref.elsewhere.iter_mut().for_each(|e| e.from = Some(from.clone()));
        }
    }
    drafts.append(&mut added.drafts);
    Ok(added.read)
}

/// An input from outside and the slot it is for.
struct ExternalRef<'a> {
    stage: &'a str,
    slot: &'a InputSlot,
    input_ref: &'a InputRef,
}

impl ExternalRef<'_> {
    fn error(&self, text: String) -> Error {
        let error = Error::usage(format!("stage `{}`: input `{}`: {text}", self.stage, self.slot.name));
        stated_by(error, &self.input_ref.origin)
    }

    /// A path in the input, relative to the file that contains it.
    fn path(&self, path: &str) -> PathBuf {
        self.input_ref.elsewhere.as_ref().map_or_else(|| path.into(), |e| e.base.join(path))
    }
}

struct Added<'a> {
    spec: &'a Spec,
    drafts: Vec<Draft>,
    /// The file behind each name, or prefix of a name, of added stages.
    known: HashMap<String, PathBuf>,
    read: Read,
}

impl Added<'_> {
    /// The stage to connect to, and the output if one is named.
    fn find(&mut self, wanted: &ExternalRef<'_>) -> Result<(String, Option<String>)> {
        let text = &wanted.input_ref.text;
        if let Some((file, of)) = text.split_once(".toml:") {
            let file = format!("{file}.toml");
            let (stage, output) = of.split_once('.').map_or((of, None), |(stage, output)| (stage, Some(output)));
            return Ok((self.pipeline(wanted, &file, stage)?, output.map(str::to_string)));
        }
        let (kind, path) = text.split_once(SEPARATOR).unwrap_or((text, ""));
        let known = sources(self.spec.registry)?;
        let Some((kind, manifest)) = known.iter().find(|(k, _)| k.name == kind) else {
            let error = wanted.error(format!("`{kind}` is neither a pipeline nor a kind that imports files"));
            let names = known.iter().map(|(k, _)| k.name);
            return Err(error
                .maybe_hint(suggest::nearest(kind, names.clone()).map(|n| format!("did you mean `{n}`?")))
                .hint(format!(
                    "write `FILE.toml:STAGE` for a stage of another pipeline, or `KIND:PATH` for a file; these kinds \
                     are {}",
                    suggest::ticked(names)
                )));
        };
        self.file(wanted, *kind, manifest, path)?;
        Ok((text.clone(), None))
    }

    /// Whether stages with this name were added already; they must be from the same file.
    fn seen(&mut self, wanted: &ExternalRef<'_>, name: &str, path: &Path) -> Result<bool> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        match self.known.get(name) {
            Some(before) if *before != path => {
                let text = format!("`{name}` is `{}` here and `{}` elsewhere", path.display(), before.display());
                Err(wanted
                    .error(text)
                    .hint("paths are relative to the file that contains them; write one of the two differently"))
            }
            Some(_) => Ok(true),
            None => {
                self.known.insert(name.to_string(), path);
                Ok(false)
            }
        }
    }

    /// Adds the stage that imports a file.
    fn file(&mut self, wanted: &ExternalRef<'_>, kind: StageKind, manifest: &Arc<Manifest>, path: &str) -> Result<()> {
        let name = &wanted.input_ref.text;
        if path.is_empty() {
            return Err(wanted.error(format!("`{name}` names no file")).hint(format!("write `{}:PATH`", kind.name)));
        }
        if self.seen(wanted, name, &wanted.path(path))? {
            return Ok(());
        }
        let origin = &wanted.input_ref.origin;
        let place = origin.place.clone().unwrap_or_else(|| Place::of_file(&self.spec.file));
        let spec = StageSpec { name: name.clone(), kind, manifest: manifest.clone(), place, since: 0 };
        let base = wanted.input_ref.elsewhere.as_ref().map_or(Path::new(""), |e| &e.base);
        let given = types(wanted, manifest)?.into_iter().chain([(SOURCE.to_string(), path.to_string())]);
        let setting = |(name, text): (String, String)| Setting {
            target: Target::Stage { stage: 0, part: "params", name },
            value: RawValue::Text(text),
            origin: origin.clone(),
            base: base.into(),
        };
        let settings: Vec<Setting> = given.map(setting).collect();
        let mut draft = draft(&spec, layers::of_settings(&spec, &settings, base))?;
        for (_, source) in draft.stage.sources.iter_mut() {
            let (stage, slot) = (wanted.stage, &wanted.slot.name);
            source.missing.push(format!(
                "it is input `{slot}` of stage `{stage}`; paths are relative to the file that contains them"
            ));
        }
        self.drafts.push(draft);
        Ok(())
    }

    /// Adds a stage of another pipeline and everything it needs. Returns its name here.
    fn pipeline(&mut self, wanted: &ExternalRef<'_>, file: &str, stage: &str) -> Result<String> {
        let path = wanted.path(file);
        self.seen(wanted, file, &path)?;
        let here = |name: &str| format!("{file}{SEPARATOR}{name}");
        if self.drafts.iter().any(|d| d.stage.name == here(stage)) {
            return Ok(here(stage));
        }
        let foreign = self.foreign(wanted, &path)?;
        let (drafts, read) = foreign.drafts(&Overrides::default(), &[])?;
        let edges = connect(&foreign.removed, &drafts)?;
        let Some(target) = drafts.iter().position(|d| d.stage.name == stage) else {
            let names = drafts.iter().map(|d| d.stage.name.as_str());
            let hint = suggest::hint(stage, names, "its stages are");
            return Err(wanted.error(format!("`{file}` has no stage `{stage}`")).maybe_hint(hint));
        };
        self.read.extend(read);
        let names: Vec<String> = drafts.iter().map(|d| here(&d.stage.name)).collect();
        let needed = needed(&edges, target);
        let there: HashSet<String> = self.drafts.iter().map(|d| d.stage.name.clone()).collect();
        for (i, draft) in drafts.into_iter().enumerate().filter(|(i, _)| needed.contains(i)) {
            if draft.stage.is_command && folder(&path) != folder(&self.spec.file) {
                let text = format!("`{}` runs a program in the folder of its pipeline", names[i]);
                return Err(wanted.error(text).hint("move the two pipelines into one folder"));
            }
            if !there.contains(&names[i]) {
                self.drafts.push(moved(draft, i, &edges, &names));
            }
        }
        Ok(here(stage))
    }

    /// Reads the other pipeline.
    fn foreign(&self, wanted: &ExternalRef<'_>, path: &Path) -> Result<Spec> {
        let identity = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let mut taking = self.spec.taking.clone();
        taking.push(identity(&self.spec.file));
        if taking.contains(&identity(path)) {
            return Err(wanted.error(format!("`{}` itself takes inputs from this pipeline", path.display())));
        }
        let mut foreign = Spec::read(path, self.spec.registry).map_err(|e| match e.place {
            Some(_) => e,
            None => stated_by(e, &wanted.input_ref.origin),
        })?;
        foreign.taking = taking;
        Ok(foreign)
    }
}

fn folder(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = file.parent().unwrap_or(Path::new("/"));
    folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf())
}

/// A stage of another pipeline with its name here.
fn moved(mut draft: Draft, index: usize, edges: &Edges, names: &[String]) -> Draft {
    let manifest = draft.stage.manifest.clone();
    for input_ref in &mut draft.input_refs {
        let slot = element(&manifest.inputs[input_ref.slot].name, input_ref.index);
        let from = edges[index].get(&slot).map(|(from, output, _)| (names[*from].clone(), Some(output.clone())));
        input_ref.elsewhere = Some(Box::new(External { base: PathBuf::new(), from }));
    }
    draft.stage.name.clone_from(&names[index]);
    draft
}

/// A stage and everything it needs.
fn needed(edges: &Edges, target: usize) -> HashSet<usize> {
    let (mut all, mut next) = (HashSet::from([target]), vec![target]);
    while let Some(stage) = next.pop() {
        next.extend(edges[stage].values().map(|(from, ..)| *from).filter(|from| all.insert(*from)));
    }
    all
}

/// The kinds that import a file or folder and need no other input.
fn sources(registry: Registry) -> Result<Vec<(StageKind, Arc<Manifest>)>> {
    let mut all = vec![];
    for kind in registry {
        let manifest = Manifest::parse(kind.name, kind.manifest)?;
        let has_source = manifest.params.iter().any(|f| f.name == SOURCE && f.ty == FieldType::Path);
        if has_source && manifest.inputs.iter().all(|slot| slot.optional) {
            all.push((*kind, Arc::new(manifest)));
        }
    }
    Ok(all)
}

/// The parameters that set the type of an output to one that the slot accepts.
fn types(wanted: &ExternalRef<'_>, manifest: &Manifest) -> Result<Vec<(String, String)>> {
    let mut given = vec![];
    for field in manifest.outputs.iter().filter_map(|o| manifest.field(o.param()?)) {
        let choices = field.one_of.iter().filter_map(|c| c.as_str());
        let fit: Vec<&str> = choices.filter(|c| wanted.slot.types.iter().any(|t| t == c)).collect();
        let [one] = fit[..] else {
            let text = format!("`{}` does not guarantee an output of type {}", manifest.kind, wanted.slot.wanted());
            return Err(wanted.error(text).hint(format!("write a stage of kind `{}`", manifest.kind)));
        };
        given.push((field.name.clone(), one.to_string()));
    }
    Ok(given)
}
