//! `erw cache push`, `pull` and `status`: between this cache and the remote. These commands are
//! about the remote, so its failure is an error here.

use super::tag;
use crate::common::pipeline_args::{PipelineArgs, SetArgs};
use crate::common::remote_args::{RemoteArgs, warn};
use crate::common::{columns, print};
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::text::{bytes, count};
use erw_runner::cache::CacheRef;
use erw_runner::cache::action_cache::{self, Record};
use erw_runner::cache::remote::Mode;
use erw_runner::cache::store::{Presence, Store};
use erw_runner::kind::Registry;
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use std::collections::BTreeSet;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Pipelines, stages as PIPELINE:STAGE, or first digits of digests; default: all records
    #[arg(value_name = "PIPELINE[:STAGE]|DIGEST")]
    pub targets: Vec<String>,
    #[command(flatten)]
    pub set: SetArgs,
    /// Send even what the remote already has
    #[arg(long)]
    pub again: bool,
}

#[derive(Debug, clap::Args)]
pub struct PullArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies
    pub targets: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies
    pub targets: Vec<String>,
}

pub fn push(args: &PushArgs, remote: &RemoteArgs, cache: &Path, registry: Registry) -> Result<()> {
    let store = Store::open(cache)?;
    let remote = remote.required(cache)?;
    if remote.mode() == Mode::Read {
        let error = Error::usage(format!("the remote `{}` is read-only", remote.name()));
        return Err(error.hint("unset `remote_mode` (ERW_REMOTE_MODE), and use an address other than http(s)"));
    }
    let mut records = vec![];
    for target in &args.targets {
        records.extend(tag::records(target, &args.set, &store, registry)?);
    }
    if args.targets.is_empty() {
        let whole = |r: &Record| r.outputs.values().all(|o| store.look(&o.measured) == Presence::Whole);
        records = action_cache::all(&store)?.0.into_iter().filter(whole).collect();
    }
    let sent = remote.push(&store, &records, args.again)?;
    warn(Some(&remote));
    let (n, total) = (count(records.len(), "record"), bytes(sent.bytes));
    print(&match sent.objects {
        0 => format!("{}: {n}, nothing to send\n", remote.name()),
        objects => format!("{}: {n}, sent {} ({total})\n", remote.name(), count(objects as usize, "object")),
    })
}

pub fn pull(args: &PullArgs, remote: &RemoteArgs, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.targets, registry, cache)?;
    let selected = select(&pipeline, &args.targets)?;
    let here = Store::open_to_write(cache)?;
    // What was here before, to distinguish it from what is fetched.
    let before: BTreeSet<String> = action_cache::all(&here)?.0.iter().map(|r| r.key().to_string()).collect();
    let remote = remote.required(cache)?;
    let checker = CacheChecker::new(&pipeline, CacheRef { store: &here, remote: Some(&remote) }, BTreeSet::new());
    let verdicts = plan(&checker, &selected);
    remote.check()?;
    warn(Some(&remote));
    here.sync()?;
    let verdicts = verdicts?;
    let mut rows = vec![];
    let mut lacking = 0;
    for (id, verdict) in &verdicts {
        let says = match verdict {
            Verdict::Cached(record) if before.contains(&record.key().to_string()) => "local".into(),
            Verdict::Cached(record) => format!("fetched {}", bytes(size(record))),
            _ => {
                lacking += 1;
                "not in the remote".into()
            }
        };
        rows.push(vec![pipeline.stage(*id).name.clone(), says]);
    }
    print(&columns(&rows, ""))?;
    match lacking {
        0 => Ok(()),
        n => {
            let all = count(verdicts.len(), "stage");
            let verb = if n == 1 { "is" } else { "are" };
            Err(Error::new(ErrorKind::Stage, format!("{n} of {all} {verb} not in the remote"))
                .hint("run `erw run` to compute them"))
        }
    }
}

pub fn status(args: &StatusArgs, remote: &RemoteArgs, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.targets, registry, cache)?;
    let selected = select(&pipeline, &args.targets)?;
    let (store, remote) = (Store::open(cache)?, remote.required(cache)?.records_only());
    let checker = CacheChecker::new(&pipeline, CacheRef { store: &store, remote: Some(&remote) }, BTreeSet::new());
    let verdicts = plan(&checker, &selected)?;
    let mut rows = vec![];
    let (mut here_bytes, mut there_bytes) = (0, 0);
    for (id, verdict) in &verdicts {
        let name = pipeline.stage(*id).name.clone();
        let Verdict::Cached(record) = verdict else {
            rows.push(vec![name, "none".into()]);
            continue;
        };
        let here = !checker.is_remote_only(verdict);
        let there = remote.record(&pipeline.name, &record.key()).is_some();
        let n = size(record);
        here_bytes += if here { n } else { 0 };
        there_bytes += if there { n } else { 0 };
        let place = match (here, there) {
            (true, true) => "both",
            (true, false) => "local",
            _ => "remote",
        };
        rows.push(vec![name, place.into(), bytes(n)]);
    }
    remote.check()?;
    warn(Some(&remote));
    print(&format!("{}{} local, {} in the remote\n", columns(&rows, ""), bytes(here_bytes), bytes(there_bytes)))
}

fn size(record: &Record) -> u64 {
    record.outputs.values().map(|o| o.measured.bytes).sum()
}
