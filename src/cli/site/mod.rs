//! `erw site check`: whether jobs of this site can use this cache, as one of them finds it.

pub mod probe;

use super::common::signals::stop;
use super::common::{columns, print};
use erw_base::error::{Error, Result};
use erw_runner::cache::store::Store;
use erw_runner::exec::launch::slurm::site_check::{Findings, RANKS, check};
use erw_runner::host::host;
use erw_runner::settings::Settings;
use std::io::Write;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Submit a job, and report what it finds: locks, files, clocks, ranks
    Check(CheckArgs),
    /// The job's side of `check`
    #[command(hide = true)]
    Probe(probe::Args),
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// GPUs that each of its two ranks requests
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpus: usize,
}

pub fn run(args: &Args, cache: &Path, settings: &Settings) -> Result<()> {
    let Command::Check(args) = &args.command else { return Ok(()) };
    let store = Store::open_to_write(cache)?;
    let stop = stop()?;
    let mut tell = |text: String| drop(writeln!(std::io::stderr().lock(), "{text}"));
    let found = check(&store, settings, args.gpus, &mut tell, &|| stop.signal().is_some())?;
    print(&table(&found))?;
    faults(&found).map_or(Ok(()), Err)
}

fn table(found: &Findings) -> String {
    let (here, node) = (host(), &found.node);
    let rows = [
        ("job", format!("{} ran on {}", found.job, node.host)),
        ("program", format!("erw {}", node.program)),
        (
            "locks",
            match node.lock_holds {
                true if node.host == here => format!("held, but seen from {here} only, where the job ran too"),
                true => format!("a lock of {here} holds on {}", node.host),
                false => format!("a lock of {here} does NOT hold on {}", node.host),
            },
        ),
        (
            "files",
            match found.seen {
                Some(seconds) => format!("seen by both within {seconds:.1} s"),
                None => "NOT seen in time".into(),
            },
        ),
        (
            "clocks",
            match (found.seen, found.clock) {
                (None, _) => "unknown".into(),
                (Some(_), off) if off > 0.0 => format!("differ by {off:.1} s at least"),
                (Some(seconds), _) => format!("agree within {seconds:.1} s"),
            },
        ),
        ("machine", node.class.clone()),
        ("GPUs", node.gpus.clone().unwrap_or_else(|| "none seen".into())),
        ("ranks", format!("`srun` started {} of {RANKS}", found.ranks)),
        ("requeue", if found.requeue { "allowed".into() } else { "NOT allowed".into() }),
        (
            "accounting",
            match &found.accounting {
                None => "there; it adds words to errors".into(),
                Some(why) => format!("none, and none is needed: {}", why.lines().next().unwrap_or_default()),
            },
        ),
    ];
    columns(&rows.map(|(what, said)| vec![what.into(), said]), "")
}

/// What a run would suffer from.
fn faults(found: &Findings) -> Option<Error> {
    let node = &found.node;
    let mut faults: Vec<(String, &str)> = vec![];
    if !node.lock_holds {
        let why = "use a file system whose locks reach across hosts: NFS without `nolock` and `local_lock`, Lustre with \
                   `-o flock`";
        faults
            .push((format!("locks of {} do not hold on {}: two runs could compute one stage", host(), node.host), why));
    }
    if node.program != env!("CARGO_PKG_VERSION") {
        let why = "install one version for all hosts";
        let message = format!("the node runs erw {}, this host erw {}", node.program, env!("CARGO_PKG_VERSION"));
        faults.push((message, why));
    }
    if found.seen.is_none() {
        let why = "raise `latency` above the time for which the file system caches names";
        faults.push(("files of one host were not seen by the other in time".into(), why));
    }
    if found.ranks < RANKS {
        faults.push((format!("`srun` started {} of {RANKS} ranks", found.ranks), "its words are in the job's log"));
    }
    if !found.requeue {
        let why = "a preempted job goes on only while a run attends it";
        faults.push(("jobs may not be requeued".into(), why));
    }
    let mut faults = faults.into_iter();
    let (first, hint) = faults.next()?;
    let error = Error::stage(first).hint(hint);
    Some(faults.fold(error, |error, (message, hint)| error.because(message).hint(hint)))
}
