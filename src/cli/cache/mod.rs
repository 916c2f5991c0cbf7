//! `erw cache`: what the cache folder holds, whether it is whole, what may go, and what others have.

mod gc;
mod list;
mod share;
mod tag;

use super::common::print;
use super::common::remote_args::RemoteArgs;
use super::show;
use crate::report::text::{bytes, count};
use erw_base::error::{Error, ErrorKind, Result};
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
    /// Say what an artifact was made of, as `erw show` does
    Show(show::Args),
    /// Say what takes the room, by kind and by pipeline
    Du,
    /// Read every artifact, record and tag; what is damaged is named and put into quarantine (exit code 4)
    Verify,
    /// Remove what no action record needs, and records by age, size or reach
    ///
    /// Artifacts that no record names go in any case. With `--keep-pipelines` or `--keep-locks` alone every record goes that
    /// they do not use; with an age or a size, what they use stays and others go only by those. What a tag names stays, and
    /// so do checkpoints of unfinished stages. The remote is left alone.
    Gc(gc::Args),
    /// Name what must stay; without arguments, list the names
    Tag(tag::Args),
    /// Take a name away
    Untag(tag::UntagArgs),
    /// Send records and what they name to the remote
    Push(share::PushArgs),
    /// Fetch what a pipeline uses from the remote
    Pull(share::PullArgs),
    /// Say where the results of a pipeline are: here, in the remote, in both
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
    let mut text = format!("{artifacts}, {} read and whole; {records}\n", bytes(verified.bytes));
    if !verified.incomplete.is_empty() {
        text.push_str(&format!("no longer in the store, so they run again: {}\n", verified.incomplete.join(", ")));
    }
    print(&text)?;
    if verified.damaged.is_empty() {
        return Ok(());
    }
    let found = count(verified.damaged.len(), "thing");
    let error = Error::new(ErrorKind::Damaged, format!("{found} in the cache is not what was written"));
    let error = verified.damaged.iter().fold(error, |e, d| e.because(d));
    Err(error.hint("moved to quarantine; `erw run` makes what it needs anew"))
}
