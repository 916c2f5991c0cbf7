//! Pipeline files: reads a file and the parents it extends, and checks everything that does not
//! need values: unknown keys, unknown kinds, added and removed stages. `layers` merges the values,
//! `resolve` checks them. Does not know edges, keys or running.

use super::command::{self, NAME, merged, types};
use crate::files::digest::Digest;
use crate::kind::manifest::Manifest;
use crate::kind::{Registry, StageKind};
use crate::text::spanned::{self, Entry, Node, Toml, flatten};
use crate::text::suggest;
use erw_base::error::{Error, Place, Result, Text};
use erw_base::text;
use rayon::prelude::*;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A pipeline as written: the file and its parents, with all names checked.
pub struct Spec {
    pub name: String,
    /// As the user named it.
    pub file: PathBuf,
    /// The root of the `extends` chain first, the named file last.
    pub(crate) files: Vec<File>,
    /// In the order of their first definition, parents first.
    pub(crate) stages: Vec<StageSpec>,
    /// Removed inherited stages, with the place of the removal.
    pub(crate) removed: HashMap<String, Place>,
    pub(crate) registry: Registry,
    pub(crate) warnings: Vec<String>,
    /// Pipelines that take inputs from this one, outermost first.
    pub(crate) taking: Vec<PathBuf>,
}

/// A stage before its values are resolved.
pub(crate) struct StageSpec {
    pub name: String,
    pub kind: StageKind,
    pub manifest: Arc<Manifest>,
    /// The place of the stage's name in the last file that has it.
    pub place: Place,
    /// Earlier files do not count, because the stage was removed there.
    pub since: usize,
}

/// One pipeline file.
pub(crate) struct File {
    pub path: PathBuf,
    /// Digest of its text.
    pub digest: Digest,
    pub name: Option<String>,
    pub extends: Option<(String, Place)>,
    pub params: Vec<Entry>,
    pub stages: Vec<Entry>,
    /// Index in `stages` by name.
    pub index: HashMap<String, usize>,
    /// `"train.seed" = [0, 1]`, dotted names flattened.
    pub axes: Vec<Entry>,
    pub trials: Option<Vec<Node>>,
    /// `[sweep.random]`.
    pub random: Option<Node>,
    /// Pruning rules, as text.
    pub stop: Option<Vec<Node>>,
}

impl Spec {
    /// Reads `path` and its parents. Only pipeline files are read.
    pub fn read(path: &Path, registry: Registry) -> Result<Self> {
        Self::of_file(path, &Source::read(path, None)?, registry)
    }

    /// Likewise, where `path` itself has been read.
    pub(crate) fn of_file(path: &Path, source: &Source, registry: Registry) -> Result<Self> {
        Self::of(chain(path, File::parse(path, source)?)?, path, registry)
    }

    /// A pipeline from `text` instead of a file, without parents; errors call it `name`. Relative
    /// paths start at the current folder.
    pub(crate) fn of_text(name: &str, text: String, registry: Registry) -> Result<Self> {
        let path = Path::new(name);
        let digest = Digest::of_bytes(text.as_bytes());
        Self::of(vec![File::parse(path, &Source { text: Text::new(path, text), digest })?], path, registry)
    }

    /// What is left in `text` of a file without parents. `digest`: of the whole file; `others`: the
    /// kinds of what is left out.
    pub(crate) fn of_part(
        path: &Path,
        text: String,
        digest: Digest,
        others: &BTreeSet<String>,
        registry: Registry,
    ) -> Result<Self> {
        let file = File::parse(path, &Source { text: Text::new(path, text), digest })?;
        Self::with(vec![file], path, others, registry)?.warned()
    }

    fn of(files: Vec<File>, path: &Path, registry: Registry) -> Result<Self> {
        Self::with(files, path, &BTreeSet::new(), registry)?.warned()
    }

    /// Without warnings.
    pub(crate) fn with(files: Vec<File>, path: &Path, others: &BTreeSet<String>, registry: Registry) -> Result<Self> {
        let mut spec = Self {
            name: String::new(),
            file: path.to_path_buf(),
            files,
            stages: vec![],
            removed: HashMap::new(),
            registry,
            warnings: vec![],
            taking: vec![],
        };
        let leaf = spec.leaf();
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        spec.name = leaf.name.clone().unwrap_or_else(stem);
        let alive = alive(&spec.files)?;
        spec.removed = alive.removed;
        spec.stages = stages(&spec.files, &alive.stages, registry)?;
        let check = |stage: &StageSpec| stage.statements(&spec.files).try_for_each(|entry| check_stage(stage, entry));
        first_error(spec.stages.par_iter().with_min_len(AT_A_TIME).map(check))?;
        spec.check_shared(others, registry)?;
        Ok(spec)
    }

    fn warned(mut self) -> Result<Self> {
        self.warnings = warnings(&self)?;
        Ok(self)
    }

    /// The file that the user named.
    pub(crate) fn leaf(&self) -> &File {
        self.files.last().expect("a chain has at least the named file")
    }

    /// Frees the contents of all stages, which is most of the memory.
    pub(crate) fn forget_statements(&mut self) {
        for file in &mut self.files {
            (file.stages, file.params, file.index) = (vec![], vec![], HashMap::new());
        }
    }

    /// Its files, with the digests of what was read.
    pub(crate) fn digests(&self) -> Vec<(PathBuf, Digest)> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        self.files.iter().map(|file| (absolute(&file.path), file.digest)).collect()
    }

    pub(crate) fn stage(&self, name: &str) -> Option<usize> {
        self.stages.iter().position(|s| s.name == name)
    }

    /// Every key of every `[params]` must be declared by some stage, even if a child removed that
    /// stage. `others`: kinds of further stages.
    fn check_shared(&self, others: &BTreeSet<String>, registry: Registry) -> Result<()> {
        let stated = self.files.iter().flat_map(|f| &f.stages);
        let kinds = stated.filter_map(|e| e.node.get("kind")).filter_map(|n| n.string("kind").ok());
        let kinds = kinds.chain(others.iter().map(String::as_str));
        let mut used: Vec<StageKind> = kinds.filter_map(|k| registry.iter().find(|r| r.name == k).copied()).collect();
        used.sort_by_key(|k| k.name);
        used.dedup_by_key(|k| k.name);
        let mut manifests: Vec<Arc<Manifest>> = self.stages.iter().map(|s| s.manifest.clone()).collect();
        for kind in used {
            if !manifests.iter().any(|m| m.kind == kind.name) {
                manifests.push(Arc::new(Manifest::parse(kind.name, kind.manifest)?));
            }
        }
        for entry in self.files.iter().flat_map(|f| &f.params) {
            if manifests.iter().any(|m| declares(m, &entry.key)) {
                continue;
            }
            let mut names: Vec<&str> =
                manifests.iter().flat_map(|m| m.params.iter().chain(&m.operation)).map(|f| f.name.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let hint = suggest::nearest(&entry.key, names).map(|n| format!("did you mean `{n}`?"));
            return Err(Error::usage(format!("no stage declares a parameter `{}`", entry.key))
                .at(entry.key_place.clone())
                .hint(hint.unwrap_or_else(|| "[params] holds values for all stages whose kind declares them".into())));
        }
        Ok(())
    }
}

/// Whether `[params]` applies to stages of this kind. Values of a command are its own.
pub(crate) fn declares(manifest: &Manifest, name: &str) -> bool {
    manifest.field(name).is_some() && !(manifest.kind == command::NAME && name == command::RUN)
}

impl StageSpec {
    /// The entries of this stage in all files, parents first.
    pub(crate) fn statements<'a>(&self, files: &'a [File]) -> impl Iterator<Item = &'a Entry> {
        statements(files, &self.name, self.since)
    }
}

fn statements<'a>(files: &'a [File], name: &str, since: usize) -> impl Iterator<Item = &'a Entry> {
    files[since..].iter().filter_map(move |f| f.stage(name))
}

/// A file and its parents, the root first.
fn chain(path: &Path, file: File) -> Result<Vec<File>> {
    let mut files = vec![file];
    let mut seen = vec![identity(path)];
    while let Some((parent, place)) = files.last().and_then(|f| f.extends.clone()) {
        let path = files.last().map(File::dir).unwrap_or_default().join(&parent);
        if let Some(from) = seen.iter().position(|s| *s == identity(&path)) {
            let names = files[from..].iter().map(|f| f.path.display().to_string());
            let cycle: Vec<String> = names.chain([files[from].path.display().to_string()]).collect();
            return Err(Error::usage(format!("pipelines extend each other: `{}`", cycle.join(" -> "))).at(place));
        }
        seen.push(identity(&path));
        files.push(File::parse(&path, &Source::read(&path, Some(place))?)?);
    }
    files.reverse();
    Ok(files)
}

/// A pipeline with a name similar to a missing one, beside it or in `pipelines`.
fn near(path: &Path) -> Option<PathBuf> {
    if path.exists() {
        return None;
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem()?.to_str()?;
    [dir.to_path_buf(), dir.join("pipelines")].iter().find_map(|dir| {
        let listed = std::fs::read_dir(if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).ok()?;
        let files = listed.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut stems: Vec<String> = files.filter_map(|f| f.strip_suffix(".toml").map(str::to_string)).collect();
        stems.sort();
        let found = suggest::nearest(stem, stems.iter().map(String::as_str))?;
        Some(dir.join(format!("{found}.toml")))
    })
}

/// The same name for a file, however it is written.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// The text of a pipeline file.
pub(crate) struct Source {
    pub text: Arc<Text>,
    /// Of the bytes on disk, because it is compared with the file later.
    pub digest: Digest,
}

impl Source {
    /// `place` is where a child names the file.
    pub fn read(path: &Path, place: Option<Place>) -> Result<Self> {
        let read = || {
            let bytes = std::fs::read(path)?;
            Ok((Digest::of_bytes(&bytes), text::of_bytes(&bytes)?))
        };
        let (digest, text) = read().map_err(|e| {
            let near = near(path).map(|p| format!("did you mean `{}`?", p.display()));
            let gone = path.is_relative() && std::env::current_dir().is_err();
            let gone = gone.then(|| "the current folder no longer exists".to_string());
            let rule = place.is_some().then(|| "`extends` is relative to the file that contains it".to_string());
            Error::io("read pipeline", path, e).maybe_at(place).maybe_hint(gone.or(near).or(rule))
        })?;
        Ok(Self { text: Text::new(path, text), digest })
    }
}

impl File {
    fn parse(path: &Path, source: &Source) -> Result<Self> {
        Self::of(path, source.digest, spanned::parse_text(&source.text)?.into_table("a pipeline")?)
    }

    /// A file that says this.
    pub fn of(path: &Path, digest: Digest, entries: Vec<Entry>) -> Result<Self> {
        let mut file = Self {
            path: path.to_path_buf(),
            digest,
            name: None,
            extends: None,
            params: vec![],
            stages: vec![],
            index: HashMap::new(),
            axes: vec![],
            trials: None,
            random: None,
            stop: None,
        };
        for entry in entries {
            file.take(entry)?;
        }
        Ok(file)
    }

    fn take(&mut self, entry: Entry) -> Result<()> {
        const KEYS: [&str; 5] = ["name", "extends", "params", "stages", "sweep"];
        let node = entry.node;
        match entry.key.as_str() {
            "name" => self.name = Some(node.string("`name`")?.to_string()),
            "extends" => self.extends = Some((node.string("`extends`")?.to_string(), node.place.clone())),
            "params" => self.params = node.into_table("`params`")?,
            "stages" => {
                self.stages = node.into_table("`stages`")?;
                self.index = self.stages.iter().enumerate().map(|(i, e)| (e.key.clone(), i)).collect();
            }
            "sweep" => self.take_sweep(node.table("`sweep`")?)?,
            key => {
                let error = Error::usage(format!("unknown key `{key}`")).at(entry.key_place.clone());
                return Err(error.maybe_hint(suggest::hint(key, KEYS, "a pipeline has")));
            }
        }
        Ok(())
    }

    fn take_sweep(&mut self, entries: &[Entry]) -> Result<()> {
        let mut axes = vec![];
        for entry in entries {
            let nodes = |what: &str| entry.node.list(what).map(<[Node]>::to_vec).map(Some);
            match entry.key.as_str() {
                "trials" => self.trials = nodes("`sweep.trials`")?,
                "random" => self.random = Some(entry.node.clone()),
                "stop" => self.stop = nodes("`sweep.stop`")?,
                _ => axes.push(entry.clone()),
            }
        }
        self.axes = flatten(&axes);
        Ok(())
    }

    /// The entry of the stage with this name.
    pub fn stage(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|at| &self.stages[*at])
    }

    /// The base of relative paths in this file.
    pub fn dir(&self) -> PathBuf {
        self.path.parent().map(Path::to_path_buf).unwrap_or_default()
    }
}

/// The stages that remain after the last file.
fn stages(files: &[File], alive: &[(String, usize)], registry: Registry) -> Result<Vec<StageSpec>> {
    if alive.is_empty() {
        let place = files.last().map(|f| Place::of_file(&f.path));
        return Err(Error::usage("the pipeline has no stages")
            .maybe_at(place)
            .hint("a stage is `[stages.NAME]` with a `kind`"));
    }
    let manifests: Mutex<HashMap<&'static str, Arc<Manifest>>> = Mutex::default();
    // Stages that follow each other are often alike, and a manifest is larger than what is said of them.
    let stage = |before: &mut Option<Arc<Manifest>>, (name, since): &(String, usize)| {
        let stated: Vec<&Entry> = statements(files, name, *since).collect();
        let last = stated.last().expect("a remaining stage is defined somewhere");
        let kind = kind_of(name, &stated, alive, registry)?;
        let manifest = if kind.name == command::NAME {
            let own = command::manifest(name, &stated)?;
            match before {
                Some(before) if **before == own => before.clone(),
                _ => before.insert(Arc::new(own)).clone(),
            }
        } else {
            match manifests.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.name) {
                Occupied(known) => known.get().clone(),
                Vacant(new) => new.insert(Arc::new(Manifest::parse(kind.name, kind.manifest)?)).clone(),
            }
        };
        Ok(StageSpec { name: name.clone(), kind, manifest, place: last.key_place.clone(), since: *since })
    };
    first_error(alive.par_iter().with_min_len(AT_A_TIME).map_init(|| None, stage))
}

/// Stages that one thread takes at a time: for fewer, no other need be woken.
pub(crate) const AT_A_TIME: usize = 128;

/// The values in order. Of several errors the one that comes first, as if one stage were looked at
/// after the other.
pub(crate) fn first_error<T: Send>(found: impl IndexedParallelIterator<Item = Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    found.collect_into_vec(&mut all);
    all.into_iter().collect()
}

/// The remaining stages of all files.
struct Alive {
    /// Names in order of first definition, with the first file whose entries count.
    stages: Vec<(String, usize)>,
    removed: HashMap<String, Place>,
}

fn alive(files: &[File]) -> Result<Alive> {
    let mut alive: Vec<(String, usize)> = vec![];
    let mut known: HashSet<String> = HashSet::new();
    let mut removed = HashMap::new();
    for (index, file) in files.iter().enumerate() {
        for entry in &file.stages {
            check_name(entry)?;
            entry.node.table(format_args!("stage `{}`", entry.key))?;
            if removes(entry)? {
                if !known.remove(&entry.key) {
                    let names = alive.iter().map(|(n, _)| n.as_str());
                    let error = Error::usage(format!("no parent has a stage `{}` to remove", entry.key));
                    return Err(error.at(entry.key_place.clone()).maybe_hint(suggest::hint(
                        &entry.key,
                        names,
                        "the inherited stages are",
                    )));
                }
                alive.retain(|(n, _)| *n != entry.key);
                removed.insert(entry.key.clone(), entry.key_place.clone());
            } else if known.insert(entry.key.clone()) {
                alive.push((entry.key.clone(), index));
                removed.remove(&entry.key);
            }
        }
    }
    Ok(Alive { stages: alive, removed })
}

fn check_name(entry: &Entry) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !entry.key.is_empty() && entry.key.chars().all(fine) {
        return Ok(());
    }
    Err(Error::usage(format!("`{}` cannot name a stage", entry.key))
        .at(entry.key_place.clone())
        .hint("stage names are made of letters, digits, `-` and `_`"))
}

/// `remove = true`, which must be the only key.
fn removes(entry: &Entry) -> Result<bool> {
    let Some(node) = entry.node.get("remove") else { return Ok(false) };
    let Toml::Bool(remove) = node.value else {
        return Err(node.mismatch(format_args!("stage `{}`: `remove`", entry.key), "true or false"));
    };
    let others = entry.node.table("a stage")?.iter().find(|e| e.key != "remove");
    match others {
        Some(other) if remove => Err(Error::usage(format!("stage `{}` is both removed and defined", entry.key))
            .at(other.key_place.clone())
            .hint("write `remove = true` on its own, or give the new stage another name")),
        _ => Ok(remove),
    }
}

fn kind_of(name: &str, stated: &[&Entry], alive: &[(String, usize)], registry: Registry) -> Result<StageKind> {
    let last = stated.last().expect("a remaining stage is defined somewhere");
    let Some(node) = stated.iter().rev().find_map(|e| e.node.get("kind")) else {
        let others = alive.iter().map(|(n, _)| n.as_str()).filter(|n| *n != name);
        let near = suggest::nearest(name, others).map(|n| format!("did you mean the stage `{n}`?"));
        return Err(Error::usage(format!("stage `{name}` has no kind"))
            .at(last.key_place.clone())
            .hint(near.unwrap_or_else(|| "write `kind = \"...\"`; `erw stages` lists the kinds".into())));
    };
    let kind = node.string(format_args!("stage `{name}`: `kind`"))?;
    if kind == command::NAME {
        return Ok(command::KIND);
    }
    registry.iter().find(|k| k.name == kind).copied().ok_or_else(|| {
        Error::usage(format!("stage `{name}`: unknown kind `{kind}`")).at(node.place.clone()).maybe_hint(suggest::hint(
            kind,
            command::kinds(registry),
            "the kinds are",
        ))
    })
}

/// Checks the names in one entry of a stage.
fn check_stage(stage: &StageSpec, entry: &Entry) -> Result<()> {
    const COMMON: [&str; 9] =
        ["kind", "inputs", "params", "operation", "resources", "timeout", "retries", "backoff", "remove"];
    let is_command = stage.kind.name == command::NAME;
    let name = &stage.name;
    for part in entry.node.table(format_args!("stage `{name}`"))? {
        let key = part.key.as_str();
        let what = format_args!("stage `{name}`: `{key}`");
        match key {
            "inputs" => check_inputs(stage, part.node.table(what)?)?,
            "params" | "operation" => part.node.table(what)?.iter().try_for_each(|e| check_field(stage, key, e))?,
            "resources" => part.node.table(what)?.iter().try_for_each(|e| check_resource(name, e))?,
            "kind" | "remove" | "timeout" | "retries" | "backoff" => {}
            "watch" | "ignore" if is_command => drop(part.node.list(what)?),
            _ if is_command && command::KEYS.contains(&key) => {}
            _ => {
                let error = Error::usage(format!("stage `{name}`: unknown key `{key}`")).at(part.key_place.clone());
                if command::KEYS.contains(&key) {
                    return Err(error.hint(format!("only a stage of `kind = \"{}\"` has `{key}`", command::NAME)));
                }
                if stage.manifest.field(key).is_some() {
                    let table =
                        if stage.manifest.params.iter().any(|f| f.name == key) { "params" } else { "operation" };
                    return Err(error.hint(format!("write `{table}.{key} = ...`: `{key}` belongs in `{table}`")));
                }
                let known = COMMON.iter().chain(command::KEYS.iter().filter(|_| is_command)).copied();
                return Err(error.maybe_hint(suggest::hint(key, known, "a stage has")));
            }
        }
    }
    Ok(())
}

fn check_inputs(stage: &StageSpec, inputs: &[Entry]) -> Result<()> {
    let slots = || stage.manifest.inputs.iter().map(|s| s.name.as_str());
    let known: HashSet<&str> = slots().collect();
    for input in inputs {
        if !known.contains(input.key.as_str()) {
            let error = Error::usage(format!("stage `{}`: unknown input `{}`", stage.name, input.key));
            let none = || format!("kind `{}` takes no inputs", stage.kind.name);
            let hint = suggest::hint(&input.key, slots(), "its inputs are").unwrap_or_else(none);
            return Err(error.at(input.key_place.clone()).hint(hint));
        }
    }
    Ok(())
}

fn check_field(stage: &StageSpec, part: &str, entry: &Entry) -> Result<()> {
    let (here, there, other) = match part {
        "params" => (&stage.manifest.params, &stage.manifest.operation, "operation"),
        _ => (&stage.manifest.operation, &stage.manifest.params, "params"),
    };
    if here.iter().any(|f| f.name == entry.key) {
        return Ok(());
    }
    let noun = if part == "params" { "parameter" } else { "operation value" };
    let error = Error::usage(format!("stage `{}`: unknown {noun} `{}`", stage.name, entry.key));
    let hint = if there.iter().any(|f| f.name == entry.key) {
        Some(format!("kind `{}` has `{}` in `{other}`", stage.kind.name, entry.key))
    } else {
        let otherwise = format!("the {noun}s of kind `{}` are", stage.kind.name);
        suggest::hint(&entry.key, here.iter().map(|f| f.name.as_str()), &otherwise)
            .or_else(|| Some(format!("kind `{}` has no {noun}s", stage.kind.name)))
    };
    Err(error.at(entry.key_place.clone()).maybe_hint(hint))
}

/// Resources with a built-in meaning; any other name is a countable resource of the run.
pub(crate) const RESOURCES: [&str; 4] = ["threads", "mem", "gpus", "ranks"];

fn check_resource(stage: &str, entry: &Entry) -> Result<()> {
    if RESOURCES.contains(&entry.key.as_str()) {
        return Ok(());
    }
    let meant = suggest::nearest(&entry.key, RESOURCES);
    let Some(near) = meant else { return check_resource_name(stage, entry) };
    let error = Error::usage(format!("stage `{stage}`: unknown resource `{}`", entry.key)).at(entry.key_place.clone());
    Err(error.hint(format!("did you mean `{near}`?")))
}

/// A name that fits into `--resource NAME=N`.
fn check_resource_name(stage: &str, entry: &Entry) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !entry.key.is_empty() && entry.key.chars().all(fine) {
        return Ok(());
    }
    Err(Error::usage(format!("stage `{stage}`: `{}` cannot name a resource", entry.key))
        .at(entry.key_place.clone())
        .hint("names of resources are made of letters, digits, `-` and `_`"))
}

/// Warns about output types that are unknown but similar to known ones: a program with an output of
/// type `metrcs` would have no results, for no visible reason.
pub(crate) fn warnings(spec: &Spec) -> Result<Vec<String>> {
    let mut spelt = Spelling::new(spec.registry);
    let mut warnings = vec![];
    for stage in spec.stages.iter().filter(|s| s.kind.name == NAME) {
        let stated: Vec<&Entry> = stage.statements(&spec.files).collect();
        for entry in merged(&stage.name, &stated, "outputs")? {
            let Toml::String(ty) = &entry.node.value else { continue };
            if let Some(name) = spelt.meant(ty)? {
                let (stage, output) = (&stage.name, &entry.key);
                let text = format!("stage `{stage}`: no kind knows the type `{ty}` of output `{output}`");
                warnings.push(format!("{}: {text}; did you mean `{name}`?", entry.node.place));
            }
        }
    }
    Ok(warnings)
}

/// Which types of outputs may be misspelt. Thousands of commands share a few.
pub(crate) struct Spelling {
    registry: Registry,
    known: Option<BTreeSet<String>>,
    meant: HashMap<String, Option<String>>,
}

impl Spelling {
    pub fn new(registry: Registry) -> Self {
        Self { registry, known: None, meant: HashMap::new() }
    }

    /// The type that was meant, if no kind knows this one.
    pub fn meant(&mut self, ty: &str) -> Result<Option<&str>> {
        if !self.meant.contains_key(ty) {
            let known = match &mut self.known {
                Some(known) => known,
                none => none.insert(types(self.registry)?),
            };
            let near = |name: &&String| strsim::damerau_levenshtein(ty, name) <= if ty.len() < 6 { 1 } else { 2 };
            let nearest = if known.contains(ty) { None } else { known.iter().find(near).cloned() };
            self.meant.insert(ty.into(), nearest);
        }
        Ok(self.meant.get(ty).and_then(Option::as_deref))
    }
}
