//! The values of all settings as a struct: what the rest of the program sees. Does not know where they
//! come from.

use super::read;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The values of all settings. `None`: the caller's own default.
///
/// Names were checked when files and variables were read, so those of stages are passed over here.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Absolute if a file states it; as written if a variable does.
    #[serde(deserialize_with = "read::path")]
    pub cache_dir: Option<PathBuf>,
    /// Empty: none.
    pub remote: Option<String>,
    pub remote_mode: Option<RemoteMode>,
    /// A further registry of published files.
    #[serde(deserialize_with = "read::path")]
    pub registry: Option<PathBuf>,
    /// Folders whose projects may name a remote and a registry.
    #[serde(deserialize_with = "read::paths")]
    pub trust: Vec<PathBuf>,
    pub launcher: LauncherName,
    pub jobs: Option<u32>,
    pub threads: Option<u32>,
    /// Bytes.
    #[serde(deserialize_with = "read::size")]
    pub mem: Option<u64>,
    pub gpus: Option<usize>,
    /// Units of named resources.
    pub resources: BTreeMap<String, u64>,
    pub max_load: Option<f64>,
    /// The longest time between two questions to a cluster's scheduler.
    #[serde(deserialize_with = "read::time")]
    pub poll: Option<Duration>,
    /// How long a file of a node may take to be seen.
    #[serde(deserialize_with = "read::time")]
    pub latency: Option<Duration>,
    /// Time before its limit at which a job is asked to stop.
    #[serde(deserialize_with = "read::time")]
    pub grace: Option<Duration>,
    pub keep_going: bool,
    pub plain: bool,
    pub colour: Colour,
    /// Of all stages.
    #[serde(skip)]
    pub every_stage: StageSettings,
    /// Those of them that a variable or a flag states, which is stronger than what a file says of
    /// kinds and stages.
    #[serde(skip)]
    pub stated: StageSettings,
    /// Kinds whose stages run where the runner is; `None`: as the launcher has it.
    pub local_kinds: Option<Vec<String>>,
    /// Of a run that is a job itself.
    pub runner: StageSettings,
    /// By stage kind.
    pub kinds: BTreeMap<String, StageSettings>,
    /// By name of stage.
    pub stages: BTreeMap<String, StageSettings>,
}

/// Settings of a kind, a stage, or all stages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StageSettings {
    pub retries: Option<u32>,
    #[serde(deserialize_with = "read::time")]
    pub timeout: Option<Duration>,
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// In Slurm's words.
    pub time: Option<String>,
    pub constraint: Option<String>,
    pub reservation: Option<String>,
    /// Further options of `sbatch`.
    pub sbatch: Option<Vec<String>>,
    /// Lines of a job's script before its worker.
    pub setup: Option<Vec<String>>,
    pub job_threads: Option<usize>,
    /// The largest number of ranks of a stage that states none.
    pub ranks: Option<usize>,
    pub gpus_per_node: Option<usize>,
    /// How ranks are started that find each other by MPI.
    pub mpi: Option<MpiStart>,
}

impl StageSettings {
    /// These, and those of `weaker` where these state none.
    #[must_use]
    pub fn or(self, weaker: Self) -> Self {
        Self {
            retries: self.retries.or(weaker.retries),
            timeout: self.timeout.or(weaker.timeout),
            partition: self.partition.or(weaker.partition),
            account: self.account.or(weaker.account),
            qos: self.qos.or(weaker.qos),
            time: self.time.or(weaker.time),
            constraint: self.constraint.or(weaker.constraint),
            reservation: self.reservation.or(weaker.reservation),
            sbatch: self.sbatch.or(weaker.sbatch),
            setup: self.setup.or(weaker.setup),
            job_threads: self.job_threads.or(weaker.job_threads),
            ranks: self.ranks.or(weaker.ranks),
            gpus_per_node: self.gpus_per_node.or(weaker.gpus_per_node),
            mpi: self.mpi.or(weaker.mpi),
        }
    }
}

/// What starts the ranks of a job that find each other by MPI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MpiStart {
    /// `srun --mpi=pmix`.
    #[default]
    Pmix,
    /// `srun --mpi=pmi2`.
    Pmi2,
    /// `mpirun` in the job's script.
    Mpirun,
}

/// What the remote is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteMode {
    Read,
    Write,
}

/// How stages are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LauncherName {
    /// Processes of this machine.
    #[default]
    Local,
    /// Jobs of Slurm.
    Slurm,
}

/// When messages are coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colour {
    /// On a terminal, unless variables such as `NO_COLOR` say otherwise.
    #[default]
    Auto,
    Always,
    Never,
}

impl Settings {
    /// What holds for a run that is a job itself: what files say of it, before what holds for all
    /// stages.
    pub fn runner(&self) -> StageSettings {
        self.runner.clone().or(self.stated.clone()).or(self.every_stage.clone())
    }

    /// What holds for a stage of this kind: variables and flags before the stage, the stage before
    /// the kind, the kind before all stages. The stage of a trial, `train@seed=1`, has the settings
    /// of `train`.
    pub fn of_stage(&self, name: &str, kind: &str) -> StageSettings {
        let base = name.split('@').next().unwrap_or(name);
        let of = |table: &BTreeMap<String, StageSettings>, name| table.get(name).cloned().unwrap_or_default();
        let single = of(&self.stages, base).or(of(&self.kinds, kind));
        self.stated.clone().or(single).or(self.every_stage.clone())
    }
}
