//! What a site says of its cluster. Nothing in it can be in a key. Does not know stages.

use std::path::PathBuf;
use std::time::Duration;

/// How jobs are submitted and attended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlurmSettings {
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// Time limit of a job, in Slurm's words: `24:00:00`.
    pub time: Option<String>,
    pub constraint: Option<String>,
    pub reservation: Option<String>,
    /// Further options of `sbatch`, one each: `--nice=100`.
    pub extra: Vec<String>,
    /// Lines of the script before the worker starts: `module load cuda/13.0`.
    pub setup: Vec<String>,
    /// Threads of a stage that states none.
    pub threads: usize,
    /// Jobs at a time.
    pub max_jobs: usize,
    /// Longest time between two questions to the scheduler.
    pub poll: Duration,
    /// How long files of a node may take to be seen.
    pub latency: Duration,
    /// Time before a time limit at which a job is asked to save a checkpoint and stop.
    pub grace: Duration,
    /// The program on the nodes, if it is at another place there.
    pub program: Option<PathBuf>,
}

impl Default for SlurmSettings {
    fn default() -> Self {
        Self {
            partition: None,
            account: None,
            qos: None,
            time: None,
            constraint: None,
            reservation: None,
            extra: vec![],
            setup: vec![],
            threads: 1,
            max_jobs: 100,
            poll: Duration::from_secs(30),
            latency: Duration::from_secs(60),
            grace: Duration::from_secs(300),
            program: None,
        }
    }
}
