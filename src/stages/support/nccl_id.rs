//! The id by which the ranks of an attempt find each other over NCCL: the first one makes it and leaves
//! it in the work folder. NCCL itself knows hosts and ports.

use erw_base::error::{Error, Result};
use erw_gpu::card::nccl::{Id, new_id};
use erw_runner::files::disk::{self, Durability, write_file};
use erw_runner::kind::attempt::Attempt;
use std::time::{Duration, Instant};

/// How long the file of another host may take to be seen.
const LATENCY: Duration = Duration::from_secs(120);

/// The id of this start of the attempt, on all ranks.
///
/// # Errors
/// A rank that waits in vain.
pub fn shared(attempt: &Attempt) -> Result<Id> {
    let job = attempt.job();
    // A requeued job starts the same attempt again.
    let start = std::env::var("SLURM_RESTART_COUNT").unwrap_or_default();
    let file = job.work_dir.join(format!("attempt-{}.nccl{start}", job.attempt));
    if attempt.rank() == 0 {
        let id = new_id()?;
        write_file(&file, &id, Durability::Later).map_err(|e| Error::io("write", &file, e))?;
        return Ok(id);
    }
    let began = Instant::now();
    while began.elapsed() < LATENCY && !attempt.should_stop() {
        let read = if disk::is_seen(&file) { std::fs::read(&file).ok() } else { None };
        if let Some(id) = read.and_then(|bytes| Id::try_from(bytes).ok()) {
            return Ok(id);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    match attempt.should_stop() {
        true => Err(Error::suspended()),
        false => {
            Err(Error::stage("rank 0 has left no id for NCCL").because(format!("waited for `{}`", file.display())))
        }
    }
}
