//! `erw export PIPELINE STAGE[.OUTPUT] DIR`: an artifact as a folder for others.

use super::common::{PipelineArgs, print};
use super::remote::{RemoteArgs, warn};
use super::why::one;
use crate::error::{Error, Result};
use crate::report::{bytes, count};
use crate::runner::actions::Record;
use crate::runner::export::{How, Item, export, spare};
use crate::runner::graph::{Pipeline, StageId};
use crate::runner::manifest::Registry;
use crate::runner::plan::{Verdict, verdict};
use crate::runner::select::named;
use crate::runner::store::Store;
use crate::runner::suggest;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// The stage, or one of its outputs: STAGE or STAGE.OUTPUT; may also stand behind the pipeline, as PIPELINE:STAGE
    #[arg(value_name = "STAGE[.OUTPUT]")]
    pub what: String,
    /// The folder to write
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Replace what is there
    #[arg(short, long)]
    pub force: bool,
    /// Make hard links to the files of the cache: no space is taken, and the files are read-only
    #[arg(long)]
    pub link: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let dir = args.dir.as_deref().unwrap_or(Path::new(""));
    let pipeline = args.pipeline.load_for([&args.what], registry, cache)?;
    let (id, output) = stage_and_output(&pipeline, &args.what)?;
    let store = args.remote.store(cache)?;
    let record = record(&pipeline, &store, id);
    warn(store.remote());
    let record = record?;
    let chosen = record.outputs.iter().filter(|(name, _)| output.as_ref().is_none_or(|o| o == *name));
    let items: Vec<Item> = chosen.map(|(name, o)| Item { name: name.clone(), measured: o.measured }).collect();
    let how = if args.link { How::Link } else { How::Copy };
    spare(&store, &pipeline.file, dir)?;
    export(&store, &items, dir, how, args.force)?;
    let (files, total) = items.iter().fold((0, 0), |(f, b), i| (f + i.measured.files, b + i.measured.bytes));
    let note = if args.link { ", as read-only links into the cache: copy a file before changing it" } else { "" };
    print(&format!("{}: {}, {}{note}\n", dir.display(), count(files as usize, "file"), bytes(total)))
}

/// The longest stage name that fits, then an output of it.
pub fn stage_and_output(pipeline: &Pipeline, what: &str) -> Result<(StageId, Option<String>)> {
    let is_stage = |name: &str| !named(pipeline, name).is_empty();
    let split = what.rsplit_once('.').filter(|(stage, _)| !is_stage(what) && is_stage(stage));
    let Some((stage, output)) = split else { return Ok((one(pipeline, what)?, None)) };
    let id = one(pipeline, stage)?;
    let stage = pipeline.stage(id);
    if !stage.outputs.contains_key(output) {
        let hint = suggest::hint(output, stage.outputs.keys().map(String::as_str), "the outputs are");
        return Err(Error::usage(format!("stage `{}` has no output `{output}`", stage.name)).maybe_hint(hint));
    }
    Ok((id, Some(output.into())))
}

/// The record of a stage that is up to date.
fn record(pipeline: &Pipeline, store: &Store, id: StageId) -> Result<Record> {
    let name = &pipeline.stage(id).name;
    let why = match verdict(pipeline, store, id)? {
        Verdict::Cached(record) => return Ok(*record),
        Verdict::Run(reasons) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        Verdict::Waiting(on) => {
            let names: Vec<String> = on.iter().map(|id| format!("`{}`", pipeline.stage(*id).name)).collect();
            format!("{} must run first", names.join(", "))
        }
        Verdict::Missing(missing) => {
            return Err(missing.first().map_or_else(|| Error::usage("a source is missing"), |m| m.error()));
        }
    };
    let file = pipeline.file.display();
    let error = Error::usage(format!("stage `{name}` is not up to date")).because(why);
    Err(error.hint(format!("`erw run {file} {name}` makes it")))
}
