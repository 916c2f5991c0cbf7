//! `erw export PIPELINE STAGE[.OUTPUT] DIR`: copies an artifact to a folder.

use super::common::pipeline_args::{PipelineArgs, stage_and_output};
use super::common::print;
use super::common::remote_args::{RemoteArgs, warn};
use crate::report::text::{bytes, count};
use erw_base::error::{Error, Result};
use erw_runner::cache::action_cache::Record;
use erw_runner::cache::export::{ExportMode, Item, check_target, export};
use erw_runner::cache::store::Store;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use erw_runner::plan::{Verdict, verdict};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Stage, or one of its outputs; PIPELINE:STAGE[.OUTPUT] works too
    #[arg(value_name = "STAGE[.OUTPUT]")]
    pub what: String,
    /// Folder to write
    #[arg(value_hint = clap::ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Replace an existing folder
    #[arg(short, long)]
    pub force: bool,
    /// Hard-link the files of the cache instead of copying them; they are read-only and take no
    /// space
    #[arg(long)]
    pub link: bool,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let dir = args.dir.as_deref().unwrap_or(Path::new(""));
    let pipeline = args.pipeline.load_for([&args.what], registry, cache)?;
    let (id, output) = stage_and_output(&pipeline, &args.what)?;
    let store = args.remote.cache(cache)?;
    let record = record(&pipeline, &store, id);
    warn(store.remote.as_ref());
    let record = record?;
    let chosen = record.outputs.iter().filter(|(name, _)| output.as_ref().is_none_or(|o| o == *name));
    let items: Vec<Item> = chosen.map(|(name, o)| Item { name: name.clone(), measured: o.measured }).collect();
    let how = if args.link { ExportMode::Link } else { ExportMode::Copy };
    check_target(&store, &pipeline.file, dir)?;
    export(&store, &items, dir, how, args.force)?;
    let (files, total) = items.iter().fold((0, 0), |(f, b), i| (f + i.measured.files, b + i.measured.bytes));
    let note = if args.link { ", as read-only links into the cache: copy a file before changing it" } else { "" };
    print(&format!("{}: {}, {}{note}\n", dir.display(), count(files as usize, "file"), bytes(total)))
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
    Err(error.hint(format!("run `erw run {file} {name}` first")))
}
