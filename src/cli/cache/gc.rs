//! `erw cache gc`: finds the records in use, applies the rules, and reports.

use crate::common::pipeline_args::SetArgs;
use crate::common::{columns, print};
use erw_base::error::Result;
use erw_report::text::{bytes, count, duration};
use erw_runner::cache::gc::{self, Collection, InUse, RemovalReason, Rules};
use erw_runner::cache::key::Key;
use erw_runner::cache::store::Store;
use erw_runner::exec::up_to_date;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::pipeline::layers::Overrides;
use erw_runner::pipeline::targets::select;
use erw_runner::plan::{CacheChecker, Verdict, plan};
use erw_runner::repro::lockfile::Lock;
use erw_runner::sweep::SweepPlan;
use erw_runner::text::units;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep what these pipelines use as they are now
    #[arg(long, value_name = "PIPELINE", num_args = 1..)]
    pub keep_pipelines: Vec<PathBuf>,
    #[command(flatten)]
    pub set: SetArgs,
    /// Keep what these lock files name
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub keep_locks: Vec<PathBuf>,
    /// Remove records that no run has used for this long: 30d, 12h, 2w
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub older_than: Option<Duration>,
    /// Remove the least recently used records until the remaining artifacts fit: 100GiB
    #[arg(long, value_name = "SIZE", value_parser = amount)]
    pub max_size: Option<u64>,
    /// Also remove checkpoints of unfinished stages
    #[arg(long)]
    pub checkpoints: bool,
    /// Show what would be removed, without removing it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// List every record
    #[arg(short, long)]
    pub verbose: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "expected a number with s, m, h, d or w, such as 30d".into())
}

fn amount(text: &str) -> Result<u64, String> {
    let number = text.trim().bytes().all(|b| b.is_ascii_digit()).then(|| units::bytes(&format!("{text}B"))).flatten();
    number
        .or_else(|| units::bytes(text))
        .ok_or_else(|| "expected a size, such as 100GiB or 500MB, or a number of bytes".into())
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let store = Store::open_alone(cache)?;
    let rules = Rules {
        keep: keep(args, &store, registry)?,
        older_than: args.older_than,
        max_size: args.max_size,
        checkpoints: args.checkpoints,
        used: up_to_date::uses(&store)?,
    };
    let sweep = gc::plan(&store, &rules)?;
    if !args.dry_run {
        gc::carry_out(&store, &sweep)?;
    }
    print(&text(args, &sweep))
}

fn text(args: &Args, sweep: &Collection) -> String {
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut text = format!(
        "{verb} {}, {}, {}: {}\n",
        count(sweep.records.len() + sweep.damaged.len(), "record"),
        count(sweep.artifacts.len(), "artifact"),
        count(sweep.work_dirs.len(), "work folder"),
        bytes(sweep.bytes)
    );
    text.push_str(&columns(&by_reason(args, sweep), "  "));
    if args.verbose {
        let row = |g: &gc::Gone| {
            let age = format!("last used {} ago", duration(g.age.as_secs_f64()));
            vec![g.key.short(), g.of.clone(), age, words(args, g.why)]
        };
        text.push_str(&columns(&sweep.records.iter().map(row).collect::<Vec<_>>(), ""));
    }
    if !sweep.resumable.is_empty() {
        let kept = count(sweep.resumable.len(), "unfinished stage");
        text.push_str(&format!("kept checkpoints of {kept}; `--checkpoints` removes them too\n"));
    }
    text
}

fn by_reason(args: &Args, sweep: &Collection) -> Vec<Vec<String>> {
    let mut sums: BTreeMap<RemovalReason, (usize, usize, u64)> = BTreeMap::new();
    sweep.records.iter().for_each(|g| sums.entry(g.why).or_default().0 += 1);
    if !sweep.damaged.is_empty() {
        sums.entry(RemovalReason::Damaged).or_default().0 = sweep.damaged.len();
    }
    for (_, bytes, why) in &sweep.artifacts {
        let sum = sums.entry(*why).or_default();
        (sum.1, sum.2) = (sum.1 + 1, sum.2 + bytes);
    }
    let row = |(why, (records, artifacts, n)): (RemovalReason, (usize, usize, u64))| {
        vec![words(args, why), count(records, "record"), count(artifacts, "artifact"), bytes(n)]
    };
    sums.into_iter().map(row).collect()
}

fn words(args: &Args, why: RemovalReason) -> String {
    match why {
        RemovalReason::Unused => "not in use".into(),
        RemovalReason::Old => {
            format!("not used for {}", args.older_than.map_or_else(String::new, |d| duration(d.as_secs_f64())))
        }
        RemovalReason::TooMuch => format!("over {}", args.max_size.map_or_else(String::new, bytes)),
        RemovalReason::Damaged => "damaged".into(),
        RemovalReason::Unnamed => "without a record".into(),
    }
}

fn keep(args: &Args, store: &Store, registry: Registry) -> Result<Option<InUse>> {
    if args.keep_pipelines.is_empty() && args.keep_locks.is_empty() {
        return Ok(None);
    }
    let mut keep = InUse::default();
    for file in &args.keep_pipelines {
        let overrides = Overrides::default();
        let mut pipelines = vec![Pipeline::load(file, registry, &overrides)?];
        let set = args.set.on(file);
        if !set.set.is_empty() {
            pipelines.push(set.load(registry)?);
        }
        // Most pipelines have no [sweep]; an invalid pipeline was refused by `load`.
        pipelines.extend(SweepPlan::load(file, registry, &overrides).ok().map(|p| p.pipeline));
        if !set.axis.is_empty() || !set.set.is_empty() {
            let given = set.sweep(registry);
            pipelines.extend(if set.axis.is_empty() { given.ok() } else { Some(given?) }.map(|p| p.pipeline));
        }
        pipelines.iter().try_for_each(|pipeline| used_by(pipeline, store, &mut keep))?;
    }
    for file in &args.keep_locks {
        keep.keys.extend(Lock::read(file)?.stages.into_values().map(|locked| Key::from(locked.key)));
    }
    Ok(Some(keep))
}

fn used_by(pipeline: &Pipeline, store: &Store, keep: &mut InUse) -> Result<()> {
    let checker = CacheChecker::new(pipeline, store, BTreeSet::new());
    for (id, verdict) in plan(&checker, &select(pipeline, &[])?)? {
        match verdict {
            Verdict::Cached(record) => drop(keep.keys.insert(record.key())),
            Verdict::Waiting(_) | Verdict::Missing(_) => drop(keep.stages.insert(pipeline.stage(id).name.clone())),
            Verdict::Run(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_amounts_are_read() {
        assert_eq!(time("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(time("1.5 h"), Ok(Duration::from_secs(5400)));
        assert!(["30", "d", "-1d", "1y", "1e300w"].iter().all(|t| time(t).is_err()));
        assert_eq!(time("3000000000000000w"), Ok(units::LONGEST));
        assert_eq!(amount("99999999999999999999999"), Ok(units::LARGEST));
        assert!(["", " ", "B"].iter().all(|t| amount(t).is_err()));
        assert_eq!([amount("12"), amount("1KiB"), amount("1.5 GB")], [Ok(12), Ok(1024), Ok(1_500_000_000)]);
        assert!(amount("much").is_err());
    }
}
