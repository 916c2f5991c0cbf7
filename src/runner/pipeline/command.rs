//! `kind = "command"`: any program as a stage. Its statements in the pipeline take the place of a manifest:
//! `outputs` and `inputs` name what it makes and takes, `params` holds free values, `run` is the program.
//! The template of `run` is the parameter `run`, and so part of the key; watched files are sources.
//!
//! `run = ["python3", "x.py", "{outputs.report}"]` is a program and its arguments, started as they are.
//! `run = "sort < {inputs.a} > {outputs.b}"` goes to `sh -c`, so that pipes and quotes mean what a shell
//! says they mean; there is no second, almost equal, splitter to learn. Knows nothing of how programs are started.

use crate::kind::attempt::Attempt;
use crate::kind::field::{ANY, Cost, Exact, Field, FieldType, Output, Params, Slot};
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
/// Keys that only a command's stage has.
pub(crate) const KEYS: [&str; 6] = ["run", "outputs", "watch", "ignore", "exact", "tolerance"];

/// The kind of every command. The worker starts the program itself and never calls `run`.
pub const KIND: StageKind = StageKind { name: NAME, manifest: "", check, facts: no_facts, run };

fn check(_: &Params, _: &Params, _: &[&str]) -> Result<()> {
    Ok(())
}

fn run(_: &Attempt) -> Result<()> {
    Err(Error::internal("a command is started by the worker, not called"))
}

/// A manifest made of what the files say about the stage, parents first.
pub(crate) fn manifest(stage: &str, stated: &[&Entry]) -> Result<Manifest> {
    let merged = |part: &str| merged(stage, stated, part);
    // There is a manifest for every command, so none holds more than it needs.
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
            .hint("`outputs = { report = \"report\" }`: names and types of what the command writes"));
    }
    let inputs = merged("inputs")?.into_iter().map(|e| Slot {
        name: e.key.clone(),
        types: vec![ANY.into()],
        optional: false,
        many: false,
        doc: e.doc.clone(),
    });
    let inputs: Vec<Slot> = inputs.collect();
    let stated_params = merged("params")?;
    let mut params = Vec::with_capacity(1 + stated_params.len());
    params.push(run_field());
    for entry in stated_params {
        params.push(free_field(stage, entry)?);
    }
    let Some(run) = stated.iter().rev().find_map(|e| e.node.get(RUN)) else {
        return Err(Error::usage(format!("stage `{stage}`: a command needs `run`"))
            .at(last.key_place.clone())
            .hint("`run = [\"program\", \"argument\", \"{outputs.NAME}\"]`"));
    };
    let stating = |key: &str| stated.iter().rev().find(|e| e.node.get(key).is_some());
    let manifest = Manifest {
        kind: NAME.into(),
        summary: "run a program".into(),
        revision: 1,
        // Nobody knows what a program computes; the careful guess, unless the user knows more.
        exact: stating("exact").map_or(Ok(Exact::Machine), |e| crate::kind::field::exact(&e.node))?,
        tolerance: stating("tolerance").map_or(Ok(0.0), |e| crate::kind::field::tolerance(&e.node))?,
        results: vec![],
        inputs,
        outputs,
        params,
        operation: vec![],
        properties: vec![],
        agree: vec![],
        doubt: vec![],
    };
    check_template(stage, run, &manifest)?;
    Ok(manifest)
}

/// The entries of one table of the stage over all files; the last file that states a key has it.
pub(crate) fn merged<'a>(stage: &str, stated: &[&'a Entry], part: &str) -> Result<Vec<&'a Entry>> {
    let mut all: Vec<&Entry> = vec![];
    // By name: a stage may join thousands.
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

/// The types that stages of any kind make or take by name.
pub(crate) fn types(registry: Registry) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::from([crate::kind::field::TYPE.to_string()]);
    for kind in registry.iter().filter(|kind| kind.name != NAME) {
        let manifest = Manifest::parse(kind.name, kind.manifest)?;
        all.extend(manifest.outputs.iter().filter(|o| o.param().is_none()).map(|o| o.ty.clone()));
        all.extend(manifest.inputs.iter().flat_map(|s| s.types.clone()).filter(|ty| ty != ANY));
    }
    Ok(all)
}

/// An output lies under its name in the folder of outputs. A name that leads elsewhere would have a folder of somebody else
/// moved into the store.
fn check_output(stage: &str, entry: &Entry) -> Result<()> {
    let mut parts = Path::new(&entry.key).components();
    let is_plain =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == entry.key.as_str());
    if is_plain && !entry.key.contains('\0') {
        return Ok(());
    }
    Err(Error::usage(format!("stage `{stage}`: `{}` cannot name an output", entry.key))
        .at(entry.key_place.clone())
        .hint("an output is named as a file is, without `/`"))
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
        missing: vec![],
        doc: "program and arguments, before places are filled in".into(),
    }
}

fn free_field(stage: &str, entry: &Entry) -> Result<Field> {
    if entry.key == RUN {
        return Err(Error::usage(format!("stage `{stage}`: a parameter of a command cannot be called `{RUN}`"))
            .at(entry.key_place.clone())
            .hint("the program itself takes that name in the key"));
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

/// `run` as the list that is started.
pub(crate) fn template(stage: &str, node: &Node) -> Result<Value> {
    let words: Vec<&str> = match &node.value {
        Toml::String(text) => vec!["sh", "-c", text],
        Toml::List(words) => {
            let word = |n| Node::string(n, format_args!("stage `{stage}`: a word of `run`"));
            words.iter().map(word).collect::<Result<_>>()?
        }
        _ => {
            return Err(node.mismatch(format_args!("stage `{stage}`: `run`"), "a list of words, or a line for `sh -c`"));
        }
    };
    if words.iter().all(|w| w.trim().is_empty()) {
        return Err(Error::usage(format!("stage `{stage}`: `run` is empty")).at(node.place.clone()));
    }
    Ok(words.into_iter().collect())
}

/// Every `{inputs.X}`, `{outputs.X}` and `{params.X}` must be there. Other braces are left to the program.
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
                    .unwrap_or_else(|| format!("the stage states no {part}"));
                return Err(Error::usage(format!("stage `{stage}`: `{{{hole}}}` is none of its {part}"))
                    .at(word.place.clone())
                    .hint(hint));
            }
        }
    }
    Ok(())
}

/// What stands between braces.
fn holes(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(hole, _)| hole))
}

/// What `erw stages command` prints: a command has no manifest, so an example stands for it.
pub const HELP: &str = r#"# Any program as a stage, with the same graph and cache. Its statements in the pipeline are its manifest:

[stages.report]
kind = "command"
run = ["python3", "report.py", "{inputs.metrics}", "{outputs.page}", "{params.title}"]
                                       # a program and its arguments; a string goes to `sh -c`
inputs = { metrics = "fid" }           # any names, artifacts of any type
outputs = { page = "report" }          # names and types; the program makes a file or folder at each path
params = { title = "First try" }       # free values; they and `run` are in the key
watch = ["report.py", "lib/**/*.py"]   # files and folders whose contents are in the key, and patterns; see below
ignore = ["*.log", "/lib/old/"]        # what in them does not count, as in a .gitignore beside the pipeline
exact = "everywhere"                   # the same bytes on every machine; "machine", the rule, on one class of them
tolerance = 0.01                       # by which its results may differ between classes of machines

# Filled in inside `run`: {inputs.SLOT}, {outputs.NAME}, {params.NAME}, {threads}, and {checkpoints}, a folder that
# is kept until the stage succeeds. The program runs in the folder of the pipeline, in a session of its own: it has no
# terminal, and nothing to read on standard input. What it writes to standard output and error is its log.
# Its environment is yours, and none of it is in the key. Set in it, as `erw explain` tells for each stage:
#   OMP_NUM_THREADS, RAYON_NUM_THREADS  its share of threads: what `resources.threads` asks for; without that, what you have
#                                       set yourself, and else all threads of the run
#   CUDA_VISIBLE_DEVICES                its share of GPUs, if `resources = { gpus = 1 }` asks for some. One that asks for none
#                                       sees those that you have named yourself, and none where you have named none. Yours
#                                       are the GPUs that the run hands out: numbers, UUIDs or MIG instances, as CUDA reads
#                                       them; "" and -1 mean none. CUDA_DEVICE_ORDER is left as it is
#   ERW_ATTEMPT                         a mark by which what the program leaves running is found and ended
# Of what is watched count the names and contents of files, links followed: not who may read or execute them, and not empty
# folders, which git would not keep. Left out are folders with a CACHEDIR.TAG, such as caches of erw, __pycache__, *.pyc, notebooks'
# checkpoints, version control, files that editors and systems put beside one's own, and lock files of pipelines;
# `ignore = ["!*.pyc"]` takes one back.
# An output is a file, or a folder of files, empty folders and links. Kept are their bytes, which of the files may be executed, and the
# text of links, which must be relative and stay inside. Inputs and what is in them are read-only: copy one before changing it.
# Numbers at the top level of an output of type `metrics`, a JSON file or a folder with a metrics.json, are results of the stage;
# what gives none is no failure, and told. A value that is a number may be any number from every layer (`--set`, a sweep, a child).
"#;
