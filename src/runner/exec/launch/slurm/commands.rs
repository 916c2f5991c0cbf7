//! Runs Slurm's commands. Each has a time limit: `sbatch` hangs while the controller is away. They
//! are used rather than a library or a protocol, because their formats given by `-o` have been
//! stable for many versions. Does not know what is asked.

use erw_base::error::{Error, Result};
use erw_base::program;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// How long a command may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// How a command ended.
#[derive(Debug)]
pub enum Answer {
    Text(String),
    /// Refused, in its words.
    Refused(String),
    /// No answer in time, or none from the controller: it is unknown whether it was obeyed.
    Silence(String),
}

/// Words by which the commands say that the controller did not answer.
const UNREACHABLE: [&str; 6] = [
    "Unable to contact slurm controller",
    "Connection refused",
    "Socket timed out",
    "Communication connection failure",
    "Zero Bytes were transmitted or received",
    "slurm_receive_msg",
];

/// Runs a command of Slurm.
///
/// # Errors
/// When this machine has no such command.
pub fn run(name: &str, arguments: &[String], limit: Duration) -> Result<Answer> {
    let mut command = Command::new(name);
    command.args(arguments).process_group(0);
    // A run inside of a job must not hand its own job's options on.
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if (text.starts_with("SLURM_") || text.starts_with("SBATCH_")) && text != "SLURM_CONF" {
            command.env_remove(&variable);
        }
    }
    if name == "squeue" {
        // Times as seconds, without the time zone of this host.
        command.env("SLURM_TIME_FORMAT", "%s");
    }
    let answer = program::ask(&mut command, limit).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("this machine submits no jobs: there is no `{name}`"))
            .hint("log in to a host that submits jobs, or use `--launcher local`"),
        _ => Error::stage(format!("cannot run `{name}`")).caused(e),
    })?;
    let Some(program::Answer { status, output: said, complaint }) = answer else {
        return Ok(Answer::Silence(format!("`{name}` did not answer within {} s", limit.as_secs())));
    };
    if status.success() {
        return Ok(Answer::Text(said));
    }
    let complaint = if complaint.is_empty() { said } else { complaint };
    let is_silent = UNREACHABLE.iter().any(|words| complaint.contains(words));
    Ok(if is_silent { Answer::Silence(complaint) } else { Answer::Refused(complaint) })
}
