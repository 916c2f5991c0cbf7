//! `kind = "command"`: any program as a stage. Its entries in the pipeline replace a manifest:
//! `inputs` and `outputs` declare names and types, `params` has free values, `run` is the program.
//! The template of `run` is the parameter `run`, and so part of the key; watched files are sources.
//!
//! `run = ["python3", "x.py", "{outputs.report}"]` is a program and its arguments, started
//! directly. `run = "sort < {inputs.a} > {outputs.b}"` goes to `sh -c`, so that pipes and quotes
//! work as in a shell. Does not know how programs are started.

use crate::kind::attempt::Attempt;
use crate::kind::field::{self, ANY, Cost, Exact, Field, FieldType, InputSlot, Output, Params};
use crate::kind::manifest::Manifest;
use crate::kind::value::Value;
use crate::kind::{Registry, StageKind, no_facts};
use crate::text::spanned::{Entry, Node, Toml};
use crate::text::suggest;
use erw_base::error::{Error, Result};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Component, Path};

pub const NAME: &str = "command";
/// The parameter that holds the template.
pub const RUN: &str = "run";
/// Keys that only the stage of a command has.
pub(crate) const KEYS: [&str; 6] = ["run", "outputs", "watch", "ignore", "exact", "tolerance"];

/// The kind of every command. The runner starts the program itself and never calls `run`.
pub const KIND: StageKind = StageKind { name: NAME, manifest: "", check, facts: no_facts, foresee: None, run };

/// The names of all kinds: those of the registry, and of a command.
pub fn kinds(registry: Registry) -> impl Iterator<Item = &'static str> {
    registry.iter().map(|kind| kind.name).chain([NAME])
}

fn check(_: &Params, _: &Params, _: &[&str]) -> Result<()> {
    Ok(())
}

fn run(_: &Attempt) -> Result<()> {
    Err(Error::internal("a command is started by the worker, not called"))
}

/// The manifest derived from the stage's entries in all files, parents first.
pub(crate) fn manifest(stage: &str, stated: &[&Entry]) -> Result<Manifest> {
    let merged = |part: &str| merged(stage, stated, part);
    // Every command has its own manifest, so it must stay small.
    let stated_outputs = merged("outputs")?;
    let mut outputs = Vec::with_capacity(stated_outputs.len());
    for entry in stated_outputs {
        let ty = entry.node.string(format_args!("stage `{stage}`: the type of output `{}`", entry.key))?;
        check_output(stage, entry)?;
        outputs.push(Output { name: entry.key.clone(), ty: ty.to_string(), doc: entry.doc.clone() });
    }
    let last = stated.last().expect("a stage is stated somewhere");
    if outputs.is_empty() {
        return Err(Error::usage(format!("stage `{stage}`: a command needs `outputs`"))
            .at(last.key_place.clone())
            .hint("write `outputs = { report = \"report\" }`, the names and types of its outputs"));
    }
    let inputs = merged("inputs")?.into_iter().map(|e| InputSlot {
        name: e.key.clone(),
        types: vec![ANY.into()],
        optional: false,
        many: false,
        doc: e.doc.clone(),
    });
    let inputs: Vec<InputSlot> = inputs.collect();
    let stated_params = merged("params")?;
    let mut params = Vec::with_capacity(1 + stated_params.len());
    params.push(run_field());
    for entry in stated_params {
        params.push(free_field(stage, entry)?);
    }
    let Some(run) = stated.iter().rev().find_map(|e| e.node.get(RUN)) else {
        return Err(Error::usage(format!("stage `{stage}`: a command needs `run`"))
            .at(last.key_place.clone())
            .hint("write `run = [\"program\", \"argument\", \"{outputs.NAME}\"]`"));
    };
    let stating = |key: &str| stated.iter().rev().find(|e| e.node.get(key).is_some());
    let manifest = Manifest {
        exact: stating("exact").map_or(Ok(Exact::Machine), |e| field::exact(&e.node))?,
        tolerance: stating("tolerance").map_or(Ok(0.0), |e| field::tolerance(&e.node))?,
        inputs,
        outputs,
        params,
        ..known()
    };
    check_template(stage, run, &manifest)?;
    Ok(manifest)
}

/// The manifest of a command of which nothing needs to be known.
pub(crate) fn known() -> Manifest {
    Manifest {
        kind: NAME.into(),
        summary: "run a program".into(),
        revision: 1,
        // What a program computes is unknown: the safe default, unless the user says otherwise.
        exact: Exact::Machine,
        tolerance: 0.0,
        results: vec![],
        ranks: None,
        inputs: vec![],
        outputs: vec![],
        params: vec![],
        operation: vec![],
        properties: vec![],
        agree: vec![],
        doubt: vec![],
    }
}

/// The entries of one table of the stage over all files; for each key, that of the last file
/// counts.
pub(crate) fn merged<'a>(stage: &str, stated: &[&'a Entry], part: &str) -> Result<Vec<&'a Entry>> {
    let mut all: Vec<&Entry> = vec![];
    // Indexed by name: a stage may have thousands of inputs.
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in stated {
        let Some(node) = entry.node.get(part) else { continue };
        for e in node.table(format_args!("stage `{stage}`: `{part}`"))? {
            let place = *places.entry(&e.key).or_insert(all.len());
            match all.get_mut(place) {
                Some(old) => *old = e,
                None => all.push(e),
            }
        }
    }
    Ok(all)
}

/// The artifact types that stages of any kind name as input or output.
pub(crate) fn types(registry: Registry) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::from([field::TYPE.to_string()]);
    for kind in registry.iter().filter(|kind| kind.name != NAME) {
        let manifest = Manifest::parse(kind.name, kind.manifest)?;
        all.extend(manifest.outputs.iter().filter(|o| o.param().is_none()).map(|o| o.ty.clone()));
        all.extend(manifest.inputs.iter().flat_map(|s| s.types.clone()).filter(|ty| ty != ANY));
    }
    Ok(all)
}

/// An output is a path below the folder of outputs. A name that leads elsewhere would move a
/// foreign folder into the store.
fn check_output(stage: &str, entry: &Entry) -> Result<()> {
    let mut parts = Path::new(&entry.key).components();
    let is_plain =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == entry.key.as_str());
    if is_plain && !entry.key.contains('\0') {
        return Ok(());
    }
    Err(Error::usage(format!("stage `{stage}`: `{}` cannot name an output", entry.key))
        .at(entry.key_place.clone())
        .hint("an output name is a file name, without `/`"))
}

fn run_field() -> Field {
    Field {
        name: RUN.into(),
        ty: FieldType::List(Box::new(FieldType::String)),
        default: None,
        optional: false,
        one_of: vec![],
        min: None,
        max: None,
        cost: Cost::Unknown,
        later: false,
        braces: false,
        missing: vec![],
        doc: "program and arguments, with placeholders".into(),
    }
}

fn free_field(stage: &str, entry: &Entry) -> Result<Field> {
    if entry.key == RUN {
        return Err(Error::usage(format!("stage `{stage}`: a parameter of a command cannot be called `{RUN}`"))
            .at(entry.key_place.clone())
            .hint("the key already uses `run` for the program itself"));
    }
    let ty = match (&entry.node.value, FieldType::of(&entry.node)) {
        (_, Some(ty)) => ty.with_any_number(),
        (Toml::List(nodes), None) if nodes.is_empty() => FieldType::List(Box::new(FieldType::String)),
        _ => {
            return Err(entry
                .node
                .mismatch(format_args!("stage `{stage}`: `{}`", entry.key), "a plain value or a list of one type"));
        }
    };
    Ok(Field { name: entry.key.clone(), ty, doc: entry.doc.clone(), ..run_field() })
}

/// `run` as a list of words.
pub(crate) fn template(stage: &str, node: &Node) -> Result<Value> {
    let words: Vec<&str> = match &node.value {
        Toml::String(text) => vec!["sh", "-c", text],
        Toml::List(words) => {
            let word = |n| Node::string(n, format_args!("stage `{stage}`: a word of `run`"));
            words.iter().map(word).collect::<Result<_>>()?
        }
        _ => {
            return Err(
                node.mismatch(format_args!("stage `{stage}`: `run`"), "a list of words, or a command line for `sh -c`")
            );
        }
    };
    if words.iter().all(|w| w.trim().is_empty()) {
        return Err(Error::usage(format!("stage `{stage}`: `run` is empty")).at(node.place.clone()));
    }
    Ok(words.into_iter().collect())
}

/// Checks that every `{inputs.X}`, `{outputs.X}` and `{params.X}` exists. Other braces are left to
/// the program.
fn check_template(stage: &str, run: &Node, manifest: &Manifest) -> Result<()> {
    template(stage, run)?;
    let names = |part: &str| -> Option<Vec<&str>> {
        Some(match part {
            "inputs" => manifest.inputs.iter().map(|s| s.name.as_str()).collect(),
            "outputs" => manifest.outputs.iter().map(|o| o.name.as_str()).collect(),
            "params" => manifest.params.iter().map(|p| p.name.as_str()).filter(|p| *p != RUN).collect(),
            _ => return None,
        })
    };
    let mut known: HashMap<&str, Option<HashSet<&str>>> = HashMap::new();
    let words: Vec<&Node> = match &run.value {
        Toml::List(words) => words.iter().collect(),
        _ => vec![run],
    };
    for word in words {
        let Toml::String(text) = &word.value else { continue };
        for hole in holes(text) {
            let Some((part, name)) = hole.split_once('.') else { continue };
            let known = known.entry(part).or_insert_with(|| names(part).map(HashSet::from_iter));
            if known.as_ref().is_some_and(|k| !k.contains(name)) {
                let hint = suggest::hint(name, names(part).unwrap_or_default(), &format!("its {part} are"))
                    .unwrap_or_else(|| format!("the stage declares no {part}"));
                return Err(Error::usage(format!("stage `{stage}`: `{{{hole}}}` is not one of its {part}"))
                    .at(word.place.clone())
                    .hint(hint));
            }
        }
    }
    Ok(())
}

/// The texts between braces.
fn holes(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(hole, _)| hole))
}

/// Printed by `erw stages command`: an example, since a command has no manifest.
pub const HELP: &str = r#"# Any program as a stage, with the same graph and cache. Its entries in the pipeline are its manifest:

[stages.report]
kind = "command"
run = ["python3", "report.py", "{inputs.metrics}", "{outputs.page}", "{params.title}"]
                                       # a program and its arguments; a string goes to `sh -c`
inputs = { metrics = "fid" }           # any names, artifacts of any type
outputs = { page = "report" }          # names and types; the program creates a file or folder at each path
params = { title = "First try" }       # free values; they and `run` are in the key
watch = ["report.py", "lib/**/*.py"]   # files, folders and patterns whose contents are in the key; see below
ignore = ["*.log", "/lib/old/"]        # files in them that do not count, as in a .gitignore beside the pipeline
exact = "everywhere"                   # same bytes on every machine; "machine" (default): on one machine class
tolerance = 0.01                       # how far results may differ between machine classes

# Placeholders in `run`: {inputs.SLOT}, {outputs.NAME}, {params.NAME}, {threads}, and {checkpoints}, a folder that is
# kept until the stage succeeds. The program runs in the folder of the pipeline, in its own session: it has no
# terminal and no standard input. Standard output and standard error are its log.
# It inherits your environment, which is not in the key, plus the following (`erw explain` shows them for each stage):
#   OMP_NUM_THREADS, RAYON_NUM_THREADS  its threads: `resources.threads`; without that, your own setting, or else all
#                                       threads of the run
#   CUDA_VISIBLE_DEVICES                its GPUs, if it requests any, as in `resources = { gpus = 1 }`. Otherwise it
#                                       sees the GPUs in your own CUDA_VISIBLE_DEVICES, or none if that is not set.
#                                       The run allocates the GPUs in yours: numbers, UUIDs or MIG instances, as CUDA
#                                       reads them; "" and -1 mean none. CUDA_DEVICE_ORDER is left as it is
#   ERW_ATTEMPT                         a mark that identifies leftover processes of the program, to end them
# Watched files count by name and contents, links followed; permissions and empty folders, which git would not keep,
# do not count. Excluded are folders with a CACHEDIR.TAG (such as caches of erw), __pycache__, *.pyc, notebook
# checkpoints, version control, files of editors and operating systems, and lock files of pipelines;
# `ignore = ["!*.pyc"]` includes one again.
# An output is a file, or a folder of files, empty folders and links. Kept are the bytes of files, their executable
# bits, and the text of links, which must be relative and stay inside. Inputs are read-only: copy before changing.
# Top-level numbers of an output of type `metrics` (a JSON file, or a folder with a metrics.json) are results of the
# stage; other contents are reported and are not an error. A parameter that is a number may be set to any number by
# every layer (`--set`, a sweep, a child).
"#;
