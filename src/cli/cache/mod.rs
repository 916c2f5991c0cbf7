//! `erw cache`: lists, verifies and cleans the cache folder, and shares it through a remote.

mod gc;
mod list;
mod share;
mod tag;

use super::common::print;
use super::common::remote_args::RemoteArgs;
use super::show;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::text::{bytes, count};
use erw_runner::cache::inventory;
use erw_runner::cache::store::Store;
use erw_runner::kind::Registry;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List artifacts, largest first
    Ls(list::Args),
    /// Show what an artifact was made from, as `erw show` does
    Show(show::Args),
    /// Show disk usage by kind and by pipeline
    Du,
    /// Read every artifact, record and tag; report damage and move it to quarantine (exit code 4)
    Verify,
    /// Remove artifacts without a record, and records by age, size or use
    ///
    /// Artifacts without a record are always removed. `--keep-pipelines` and `--keep-locks` alone
    /// remove every record that they do not use. With `--older-than` or `--max-size`, what they use
    /// is kept and other records are removed by age or size only. Tagged results and the
    /// checkpoints of unfinished stages are kept. The remote is not changed.
    Gc(gc::Args),
    /// Name results that gc must keep; without arguments, list the names
    Tag(tag::Args),
    /// Remove a name
    Untag(tag::UntagArgs),
    /// Send records and their artifacts to the remote
    Push(share::PushArgs),
    /// Fetch what a pipeline uses from the remote
    Pull(share::PullArgs),
    /// Show where the results of a pipeline are: local, remote or both
    Status(share::StatusArgs),
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let open = || Store::open(cache);
    match &args.command {
        Command::Ls(args) => list::ls(args, &open()?),
        Command::Show(args) => show::run(args, cache, registry),
        Command::Du => list::du(&open()?),
        Command::Verify => verify(&open()?),
        Command::Gc(args) => gc::run(args, cache, registry),
        Command::Tag(args) => tag::tag(args, &open()?, registry),
        Command::Untag(args) => tag::untag(args, &Store::open_to_write(cache)?),
        Command::Push(push) => share::push(push, &args.remote, cache, registry),
        Command::Pull(pull) => share::pull(pull, &args.remote, cache, registry),
        Command::Status(status) => share::status(status, &args.remote, cache, registry),
    }
}

fn verify(store: &Store) -> Result<()> {
    let verified = inventory::verify(store)?;
    let (artifacts, records) = (count(verified.artifacts, "artifact"), count(verified.records, "record"));
    let mut text = format!("verified {artifacts} ({}) and {records}\n", bytes(verified.bytes));
    if !verified.incomplete.is_empty() {
        text.push_str(&format!("no longer in the store, will run again: {}\n", verified.incomplete.join(", ")));
    }
    print(&text)?;
    if verified.damaged.is_empty() {
        return Ok(());
    }
    let found = count(verified.damaged.len(), "damaged item");
    let error = Error::new(ErrorKind::Damaged, format!("the cache has {found}"));
    let error = verified.damaged.iter().fold(error, |e, d| e.because(d));
    Err(error.hint("moved to quarantine; `erw run` makes what it needs again"))
}
