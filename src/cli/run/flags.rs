//! Arguments of the commands that run stages.

use crate::common::job_args::JobArgs;
use crate::common::pipeline_args::PipelineArgs;
use crate::common::remote_args::RemoteArgs;
use erw_base::error::Result;
use erw_report::Style;
use erw_report::junit::Junit;
use erw_runner::cache::CacheRef;
use erw_runner::event::{Fan, Listener};
use erw_runner::exec::launch::Launcher;
use erw_runner::exec::launch::local::Local;
use erw_runner::exec::launch::slurm::Slurm;
use erw_runner::exec::resources::Limits;
use erw_runner::exec::worker_program::WorkerProgram;
use erw_runner::journal::Journal;
use erw_runner::journal::record_use::Uses;
use erw_runner::pipeline::graph::{Pipeline, RetryPolicy, StageId};
use erw_runner::settings::{LauncherName, Resolved, Settings, StageSettings};
use erw_runner::text::units::{bytes, duration};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Only these stages and their dependencies
    pub targets: Vec<String>,
    /// Run again whenever a file of the pipeline, or one that its stages read, changes
    #[arg(short, long, conflicts_with = "detach")]
    pub watch: bool,
    /// Write the lock file beside the pipeline: keys, outputs and results of all stages
    #[arg(long, conflicts_with_all = ["targets", "dry_run"])]
    pub lock: bool,
    /// Fail if any stage or output differs from the lock file
    #[arg(long, conflicts_with_all = ["lock", "dry_run"])]
    pub locked: bool,
    #[command(flatten)]
    pub flags: Flags,
}

/// Shared by `run` and `sweep`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Run this stage even if it is cached
    #[arg(long, value_name = "STAGE")]
    pub force: Vec<String>,
    /// After a failure, continue with the stages that do not depend on it
    #[arg(short, long)]
    pub keep_going: bool,
    /// Show what would run and why, without running it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Maximum number of stages at a time
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: Option<u32>,
    /// Threads of all stages together; a stage that requests no number takes all
    #[arg(short, long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Memory of all stages together, such as 16GiB; default: the memory of the machine
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub mem: Option<u64>,
    /// Maximum number of GPUs; 0 runs stages that request GPUs on the CPU
    #[arg(long)]
    pub gpus: Option<usize>,
    /// Only the GPU at this index, for commands that take a device.
    #[arg(skip)]
    pub gpu: Option<usize>,
    /// Units of a named resource that stages request in `resources`; default: stages that request
    /// it run one at a time
    #[arg(long, value_name = "NAME=N", value_parser = resource)]
    pub resource: Vec<(String, u64)>,
    /// Start no further stage while the load average of the machine is above LOAD
    #[arg(short = 'l', long, value_name = "LOAD", value_parser = load)]
    pub max_load: Option<f64>,
    /// Retry a failed stage up to N times, unless the stage sets `retries`
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub retries: Option<u32>,
    /// Stop a stage that takes longer, such as 2h or 30min, unless the stage sets `timeout`
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub job: JobArgs,
    /// Submit the run itself as a job too, and return
    #[arg(long, conflicts_with_all = ["dry_run", "runner_job"])]
    pub detach: bool,
    /// It is this job: what ends it is no wish to stop its stages.
    #[arg(long, hide = true, value_name = "NAME")]
    pub runner_job: Option<String>,
    /// Print events as JSON lines on standard output
    #[arg(long, conflicts_with = "plain")]
    pub json: bool,
    /// Print lines instead of progress bars
    #[arg(long)]
    pub plain: bool,
    /// Also write a JUnit XML report to this file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "dry_run")]
    pub junit: Option<PathBuf>,
    /// Also write an HTML report to this file at the end, also of a failed run
    #[arg(long, value_name = "FILE.html", value_hint = clap::ValueHint::FilePath, conflicts_with_all = ["dry_run", "detach"])]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// What the settings say of kinds, of stages and of named resources.
    #[arg(skip)]
    pub settings: Settings,
}

impl Flags {
    /// Fills in what the command line leaves open.
    pub fn complete(&mut self, site: &Resolved) {
        let settings = site.settings.clone();
        self.remote.complete(site);
        self.jobs = self.jobs.or(settings.jobs);
        self.threads = self.threads.or(settings.threads);
        self.mem = self.mem.or(settings.mem);
        self.gpus = self.gpus.or(settings.gpus);
        self.max_load = self.max_load.or(settings.max_load);
        self.keep_going |= settings.keep_going;
        self.plain |= settings.plain;
        let own = StageSettings { retries: self.retries, timeout: self.timeout, ..StageSettings::default() };
        self.settings = self.job.over(settings, own);
        let all = self.settings.stated.clone().or(self.settings.every_stage.clone());
        (self.timeout, self.retries) = (all.timeout, all.retries);
    }

    /// The retry policies of single stages by the settings.
    pub(crate) fn stage_retry(&self, pipeline: &Pipeline, selected: &[StageId]) -> BTreeMap<StageId, RetryPolicy> {
        if self.settings.kinds.is_empty() && self.settings.stages.is_empty() {
            return BTreeMap::new();
        }
        let policy = |id: &StageId| {
            let stage = pipeline.stage(*id);
            let StageSettings { retries, timeout, .. } = self.settings.of_stage(&stage.name, stage.kind.name);
            let policy = RetryPolicy { retries, timeout, backoff: None };
            (policy != RetryPolicy::default()).then_some((*id, policy))
        };
        selected.iter().filter_map(policy).collect()
    }

    /// The largest numbers of ranks by the settings.
    pub(crate) fn most_ranks(&self, pipeline: &Pipeline, selected: &[StageId]) -> BTreeMap<StageId, usize> {
        let most = |id: &StageId| {
            let stage = pipeline.stage(*id);
            stage.manifest.ranks?;
            Some((*id, self.settings.of_stage(&stage.name, stage.kind.name).ranks?))
        };
        selected.iter().filter_map(most).collect()
    }

    /// What starts the stages of a run. Adapts its limits: a cluster's scheduler has its own.
    pub(crate) fn launcher(&self, limits: &mut Limits) -> Result<Box<dyn Launcher>> {
        const JOBS: usize = 100;
        let worker = WorkerProgram::this()?;
        match self.settings.launcher {
            LauncherName::Local => Ok(Box::new(Local { worker })),
            LauncherName::Slurm => {
                limits.jobs = self.jobs.map_or(JOBS, |jobs| jobs as usize);
                limits.elsewhere = true;
                Ok(Box::new(Slurm::new(self.settings.clone(), worker)))
            }
        }
    }

    /// The limits of a run of these stages. The settings are for all pipelines, so they may name
    /// resources that no stage requests; flags may not.
    pub(crate) fn limits_for(&self, pipeline: &Pipeline, selected: &[StageId]) -> Limits {
        let mut limits = self.limits();
        for (name, units) in &self.settings.resources {
            if selected.iter().any(|id| pipeline.stage(*id).resources.named.contains_key(name)) {
                limits.named.entry(name.clone()).or_insert(*units);
            }
        }
        limits
    }

    fn style(&self) -> Style {
        match (self.json, self.plain) {
            (true, _) => Style::Json,
            (_, true) => Style::Plain,
            _ => Style::Auto,
        }
    }

    /// The listeners of a run of this pipeline: its display, its journal, the JUnit report if requested, and
    /// `others`.
    pub(crate) fn listener<'a>(
        &self,
        cache: CacheRef<'a>,
        file: &Path,
        others: Vec<Box<dyn Listener + 'a>>,
    ) -> Result<Fan<'a>> {
        let journal = Journal::start(cache.store, file);
        let mut all: Vec<Box<dyn Listener + 'a>> =
            vec![erw_report::listener(self.style()), Box::new(journal), Box::new(Uses::of(cache))];
        if let Some(file) = &self.junit {
            all.push(Box::new(Junit::new(file)?));
        }
        all.extend(others);
        Ok(Fan(all))
    }

    pub fn limits(&self) -> Limits {
        let mut limits = Limits::of_machine();
        if let Some(jobs) = self.jobs {
            limits.jobs = jobs as usize;
        }
        if let Some(threads) = self.threads {
            limits.threads = threads as usize;
        }
        limits.mem = self.mem.unwrap_or(limits.mem);
        limits.named = self.resource.iter().cloned().collect();
        limits.max_load = self.max_load;
        if let Some(gpus) = self.gpus {
            limits.gpus.truncate(gpus);
            limits.without_gpus = gpus == 0;
        }
        if let Some(only) = self.gpu {
            limits.gpus = limits.gpus.get(only).cloned().into_iter().collect();
        }
        limits
    }
}

/// `licence=2`.
pub(crate) fn resource(text: &str) -> Result<(String, u64), String> {
    match text.split_once('=') {
        Some((name @ ("threads" | "gpus" | "mem"), _)) => Err(format!("use `--{name}`")),
        Some(("ranks", _)) => Err("`ranks` of stages are a setting".into()),
        Some((name, units)) if !name.is_empty() && units.parse::<u64>().is_ok() => {
            Ok((name.to_string(), units.parse().unwrap_or_default()))
        }
        _ => Err("expected NAME=N, such as licence=2".into()),
    }
}

pub(crate) fn load(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|load: &f64| *load >= 0.0)
        .ok_or_else(|| "expected a number of at least 0, such as 7.5".into())
}

pub(crate) fn size(text: &str) -> Result<u64, String> {
    bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size, such as 16GiB or 500MB".into())
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    duration(text).filter(|d| !d.is_zero()).ok_or_else(|| "expected a time, such as 2h, 30min or 90s".into())
}
