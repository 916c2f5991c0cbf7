//! `erw export PIPELINE STAGE[.OUTPUT] DIR`: copies an artifact to a folder, or writes a trained SiT
//! as one for another program.

mod diffusers;
mod record;
mod stamp;

use super::common::pipeline_args::{PipelineArgs, stage_and_output};
use super::common::print;
use super::common::remote_args::{RemoteArgs, warn};
use diffusers::Handover;
use erw_base::error::{Error, Result};
use erw_report::text::{bytes, count};
use erw_runner::cache::Cache;
use erw_runner::cache::export::{ExportMode, Item, check_target, copy, publish};
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::{Pipeline, StageId};
use record::record;
use stamp::stamp;
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
    #[arg(long, conflicts_with = "form")]
    pub link: bool,
    /// Write a trained SiT for another program: `diffusers`, with autoencoder, samplers and a model
    /// card
    #[arg(long = "as", value_name = "FORM")]
    pub form: Option<Form>,
    /// With --as: the weights to write, `ema` (default), `model`, or another average or snapshot of
    /// the training, such as `ema-0.999` or `ema@1000`
    #[arg(long, value_name = "NAME", requires = "form")]
    pub weights: Option<String>,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// For which program an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Diffusers,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let dir = args.dir.as_deref().unwrap_or(Path::new(""));
    let pipeline = args.pipeline.load_for([&args.what], registry, cache)?;
    let (id, output) = stage_and_output(&pipeline, &args.what)?;
    let store = args.remote.cache(cache)?;
    check_target(&store, &pipeline.file, dir)?;
    // `--force` replaces folders; a file of this name is not what is meant.
    if std::fs::symlink_metadata(dir).is_ok() && !dir.is_dir() {
        let error = Error::usage(format!("`{}` is not a folder", dir.display()));
        return Err(error.hint("choose another folder; it is created if it does not exist"));
    }
    let done = match args.form {
        None => artifacts(args, &pipeline, &store, (id, output), dir),
        Some(Form::Diffusers) => {
            let weights = args.weights.as_deref();
            let handover = Handover::of(&pipeline, &store, (id, output.as_deref()), weights, &args.pipeline)?;
            publish(dir, args.force, |folder| diffusers::write(&handover, folder))
                .map(|()| format!("{}: {}\n", dir.display(), handover.summary()))
        }
    };
    warn(store.remote.as_ref());
    print(&done?)
}

/// Copies the artifacts of a stage, and says so.
fn artifacts(
    args: &Args,
    pipeline: &Pipeline,
    store: &Cache,
    (id, output): (StageId, Option<String>),
    dir: &Path,
) -> Result<String> {
    let record = record(pipeline, store, id)?;
    let chosen = record.outputs.iter().filter(|(name, _)| output.as_ref().is_none_or(|o| o == *name));
    let items: Vec<Item> = chosen.map(|(name, o)| Item { name: name.clone(), measured: o.measured }).collect();
    let how = if args.link { ExportMode::Link } else { ExportMode::Copy };
    publish(dir, args.force, |folder| {
        let places = copy(store, &items, folder, how)?;
        match how {
            ExportMode::Copy => {
                let mut made = items.iter().zip(places);
                made.try_for_each(|(item, place)| stamp(&place, &record.key(), &item.measured.digest))
            }
            ExportMode::Link => Ok(()),
        }
    })?;
    let (files, total) = items.iter().fold((0, 0), |(f, b), i| (f + i.measured.files, b + i.measured.bytes));
    let note = if args.link { ", as read-only links into the cache: copy a file before changing it" } else { "" };
    Ok(format!("{}: {}, {}{note}\n", dir.display(), count(files as usize, "file"), bytes(total)))
}
