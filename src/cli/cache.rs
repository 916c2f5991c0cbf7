//! `erw cache`: what the cache folder holds, whether it is whole, and what may go.

use super::common::{columns, print};
use crate::error::{Error, ErrorKind, Result};
use crate::report::bytes;
use crate::report::table::near;
use crate::runner::digest::{Links, walk};
use crate::runner::gc::{self, Keep};
use crate::runner::graph::Pipeline;
use crate::runner::layers::Overrides;
use crate::runner::manifest::Registry;
use crate::runner::plan::{Judge, Verdict, plan};
use crate::runner::select::select;
use crate::runner::store::Store;
use crate::runner::sweep::SweepPlan;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List artifacts, largest first
    Ls,
    /// Read every artifact; what is damaged is named and put into quarantine (exit code 4)
    Verify,
    /// Remove what no action record needs
    Gc(GcArgs),
}

#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// Also remove every record that these pipelines, as they are now, do not use
    #[arg(long, value_name = "PIPELINE", num_args = 1..)]
    pub keep_pipelines: Vec<PathBuf>,
    /// Also remove checkpoints of unfinished stages
    #[arg(long)]
    pub checkpoints: bool,
    /// Say what would go, and remove nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    match &args.command {
        Command::Ls => list(&Store::open(cache)?),
        Command::Verify => verify(&Store::open(cache)?),
        Command::Gc(args) => collect(args, cache, registry),
    }
}

fn list(store: &Store) -> Result<()> {
    let artifacts = gc::artifacts(store)?;
    let total: u64 = artifacts.iter().map(|a| a.bytes).sum();
    let row = |a: &gc::Artifact| {
        let made_by = if a.made_by.is_empty() { "nothing recorded".into() } else { a.made_by.join(", ") };
        vec![a.digest.short(), a.ty.clone().unwrap_or_else(|| "-".into()), bytes(a.bytes), made_by]
    };
    let rows: Vec<Vec<String>> = artifacts.iter().map(row).collect();
    let sum = format!("{}, {}\n", count(rows.len(), "artifact"), bytes(total));
    print(&(columns(&rows, "") + &sum + &downloads(store)?))
}

/// Fetched files are no artifacts, but take room too.
fn downloads(store: &Store) -> Result<String> {
    let folder = store.downloads();
    if !folder.is_dir() {
        return Ok(String::new());
    }
    let total: u64 = walk(&folder, Links::Refuse)?.iter().map(|f| f.metadata.len()).sum();
    Ok(format!("published files in {}: {}; `erw weights list`\n", near(&folder), bytes(total)))
}

fn verify(store: &Store) -> Result<()> {
    let verified = gc::verify(store, |_| {})?;
    print(&format!("{}, {} read and whole\n", count(verified.artifacts, "artifact"), bytes(verified.bytes)))?;
    if verified.damaged.is_empty() {
        return Ok(());
    }
    let found = count(verified.damaged.len(), "thing");
    let error = Error::new(ErrorKind::Damaged, format!("{found} in the cache is not what was written"));
    let error = verified.damaged.iter().fold(error, |e, d| e.because(d));
    Err(error.hint("moved to quarantine; `erw run` makes what it needs anew"))
}

fn collect(args: &GcArgs, cache: &Path, registry: Registry) -> Result<()> {
    let store = Store::open_alone(cache)?;
    let keep = keep(args, &store, registry)?;
    let removed = gc::collect(&store, &keep, args.checkpoints, args.dry_run)?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut text = format!(
        "{verb} {}, {}, {}: {}\n",
        count(removed.records, "record"),
        count(removed.artifacts, "artifact"),
        count(removed.work_dirs, "work folder"),
        bytes(removed.bytes)
    );
    if !removed.resumable.is_empty() {
        let kept = count(removed.resumable.len(), "unfinished stage");
        text.push_str(&format!("kept checkpoints of {kept}; `--checkpoints` removes them too\n"));
    }
    print(&text)
}

fn keep(args: &GcArgs, store: &Store, registry: Registry) -> Result<Keep> {
    if args.keep_pipelines.is_empty() {
        return Ok(Keep::Everything);
    }
    let (mut keys, mut stages) = (BTreeSet::new(), BTreeSet::new());
    for file in &args.keep_pipelines {
        let overrides = Overrides::default();
        let mut pipelines = vec![Pipeline::load(file, registry, &overrides)?];
        // A pipeline without a [sweep] is the rule; a broken one was refused by `load`.
        pipelines.extend(SweepPlan::load(file, registry, &overrides).ok().map(|p| p.pipeline));
        for pipeline in &pipelines {
            let judge = Judge::new(pipeline, store, BTreeSet::new());
            for (id, verdict) in plan(&judge, &select(pipeline, &[])?)? {
                match verdict {
                    Verdict::Cached(record) => drop(keys.insert(record.key())),
                    Verdict::Waiting(_) | Verdict::Missing(_) => drop(stages.insert(pipeline.stage(id).name.clone())),
                    Verdict::Run(_) => {}
                }
            }
        }
    }
    Ok(Keep::Only { keys, stages })
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}
