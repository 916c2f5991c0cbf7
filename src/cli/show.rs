//! `erw show ARTIFACT`: what an artifact is, how it was made, and from what, back to the original
//! files.

use super::common::pipeline_args::{PipelineArgs, SetArgs, file_and_stage, stage_and_output};
use super::common::{json, print};
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_report::text::{bytes, count, duration, instant, number};
use erw_runner::cache::action_cache::{self, Record};
use erw_runner::cache::store::Store;
use erw_runner::exec::metrics_json;
use erw_runner::files::digest::Digest;
use erw_runner::journal::lineage::{Lineage, Maker, find, trace};
use erw_runner::kind::Registry;
use erw_runner::pipeline::command;
use erw_runner::plan::{Verdict, verdict};
use erw_runner::text::shell::quoted;
use std::path::Path;

/// Longer values are cut to this many characters.
const SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// First digits of a digest, a path in the store, a pipeline, or PIPELINE:STAGE[.OUTPUT]
    pub artifact: String,
    /// Stage, or one of its outputs, if ARTIFACT is a pipeline
    #[arg(value_name = "STAGE[.OUTPUT]")]
    pub stage: Option<String>,
    #[command(flatten)]
    pub set: SetArgs,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    print(&shown(&args.artifact, &args.set, args.json, &Store::open(cache)?, registry)?)
}

/// The description of an artifact, as text or JSON.
pub fn shown(artifact: &str, set: &SetArgs, as_json: bool, store: &Store, registry: Registry) -> Result<String> {
    let records = action_cache::all(store)?.0;
    if artifact.starts_with("run:") && !Path::new("run").exists() {
        let error = Error::usage(format!("`{artifact}` is a run, not an artifact"));
        let id = quoted(artifact.trim_start_matches("run:"));
        return Err(error.hint(format!("run `erw log {id}` to see its stages, or `erw report {}`", quoted(artifact))));
    }
    let traced = match file_and_stage(artifact) {
        Some((file, stage)) => of_stage(store, &records, &set.on(file), stage, registry)?,
        None => trace(store, &records, digest(store, &records, artifact)?, None),
    };
    if as_json { json(&traced) } else { Ok(text(&traced)) }
}

/// The digest that a prefix or a path names.
fn digest(store: &Store, records: &[Record], text: &str) -> Result<Digest> {
    if let Some(found) = text.split('/').find_map(|part| part.parse().ok()) {
        return Ok(found);
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let error = Error::usage(format!("`{text}` is not an artifact"));
        return Err(error.hint("give the first digits of a digest, a path in the store, or PIPELINE:STAGE[.OUTPUT]"));
    }
    find(store, records, &text.to_lowercase())
}

fn of_stage(store: &Store, records: &[Record], args: &PipelineArgs, name: &str, registry: Registry) -> Result<Lineage> {
    let (pipeline, file) =
        (args.load_for([&name.to_string()], registry, store.root())?, args.pipeline.to_string_lossy());
    let (id, output) = stage_and_output(&pipeline, name)?;
    let name = &pipeline.stage(id).name;
    let record = match verdict(&pipeline, store, id)? {
        Verdict::Cached(record) => record,
        _ => {
            let error = Error::usage(format!("stage `{name}` is stale, so it has no artifact"));
            let what = format!("{} {}", quoted(&file), quoted(name));
            return Err(error.hint(format!("run `erw run {what}` first; `erw why {what}` explains why")));
        }
    };
    let names = || record.outputs.keys().map(String::as_str);
    let output = match (output.as_deref(), record.outputs.len()) {
        (Some(output), _) => output,
        (None, 1) => names().next().unwrap_or_default(),
        (None, _) => {
            let error = Error::usage(format!("stage `{name}` has several outputs"));
            let hint = names()
                .map(|o| format!("`{}`", quoted(&format!("{file}:{name}.{o}"))))
                .collect::<Vec<_>>()
                .join(" or ");
            return Err(error.hint(format!("write {hint}")));
        }
    };
    let found = record.outputs.get(output).ok_or_else(|| Error::internal("a record lacks a declared output"))?;
    Ok(trace(store, records, found.measured.digest, Some(&record)))
}

/// The artifact in full, with its origins as a tree.
fn text(lineage: &Lineage) -> String {
    let kind = lineage.ty.as_deref().unwrap_or("artifact");
    let mut text = format!("{kind} {}\n", lineage.digest);
    if let (Some(n), Some(files)) = (lineage.bytes, lineage.files) {
        text.push_str(&format!("  {} in {}\n", bytes(n), count(files as usize, "file")));
    }
    let path = if lineage.present { near(&lineage.path) } else { "no longer in the store".into() };
    text.push_str(&format!("  {path}\n"));
    match &lineage.made_by {
        Some(maker) => {
            let fact = &maker.fact;
            let (stage, when, took) = (title(maker), instant(&fact.created), duration(fact.seconds));
            let peak = fact.peak.map_or_else(String::new, |peak| format!(", peak memory {}", bytes(peak)));
            text.push_str(&format!("  made by {stage} on {when} in {took}{peak}\n"));
            text.push_str(&format!("  on {}, {}, by erw {}\n", fact.host, fact.device, fact.program));
            if !fact.earlier.is_empty() {
                text.push_str(&format!(
                    "  started on another machine, so equal bytes are not promised: {}\n",
                    fact.earlier.join("; ")
                ));
            }
            for result in &maker.results {
                text.push_str(&format!("  {} {}\n", result.name, number(result.value)));
            }
            if lineage.present
                && maker.kind == command::NAME
                && lineage.ty.as_deref() == Some(erw_runner::kind::field::TYPE)
            {
                let told = metrics_json::of_output(&lineage.path).told(&maker.output);
                text.extend(told.map(|told| format!("  {told}\n")));
            }
            text.push('\n');
            tree(&mut text, maker, "");
        }
        None => text.push_str("  origin not recorded\n"),
    }
    text
}

fn title(maker: &Maker) -> String {
    format!("{}/{} (kind {}, revision {})", maker.fact.pipeline, maker.fact.stage, maker.kind, maker.revision)
}

/// Parameters, files and inputs, each input followed by its own.
fn tree(text: &mut String, maker: &Maker, indent: &str) {
    let (last, before) = match maker.inputs.split_last() {
        Some((last, before)) => (Some(last), before),
        None => (None, &[][..]),
    };
    let bar = if last.is_some() { "│ " } else { "  " };
    for (name, value) in &maker.params {
        text.push_str(&format!("{indent}{bar}{name} = {}\n", cut(value)));
    }
    for (name, digest) in &maker.sources {
        text.push_str(&format!("{indent}{bar}{name}: file or folder {}\n", digest.get(..12).unwrap_or(digest)));
    }
    for (branch, below, (slot, input)) in before.iter().map(|i| ("├─", "│ ", i)).chain(last.map(|i| ("└─", "  ", i)))
    {
        text.push_str(&format!("{indent}{branch} {slot}: {}\n", line(input)));
        if let Some(maker) = &input.made_by {
            tree(text, maker, &format!("{indent}{below} "));
        }
    }
}

/// An input on one line.
fn line(input: &Lineage) -> String {
    let head = format!("{} {}", input.ty.as_deref().unwrap_or("artifact"), input.digest.short());
    match &input.made_by {
        Some(maker) => format!("{head}, {}, {}", title(maker), instant(&maker.fact.created)),
        None if input.repeated => format!("{head}, see above"),
        None if input.cut => format!("{head}, continued in `erw show {}`", input.digest.short()),
        None => format!("{head}, origin not recorded"),
    }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((i, _)) => format!("{}…", &value[..i]),
        None => value.to_string(),
    }
}
