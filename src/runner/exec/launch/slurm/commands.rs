//! Runs Slurm's commands. Each has a time limit: `sbatch` hangs while the controller is away. They
//! are used rather than a library or a protocol, because their formats given by `-o` have been
//! stable for many versions. Does not know what is asked.

use erw_base::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    let cannot = |e| Error::stage(format!("cannot run `{name}`")).caused(e);
    let (mut out, mut err) = (tempfile::tempfile().map_err(cannot)?, tempfile::tempfile().map_err(cannot)?);
    let (to_out, to_err) = (out.try_clone().map_err(cannot)?, err.try_clone().map_err(cannot)?);
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stdout(to_out).stderr(to_err).process_group(0);
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
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("this machine submits no jobs: there is no `{name}`"))
            .hint("log in to a host that submits jobs, or use `--launcher local`"),
        _ => cannot(e),
    })?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(cannot)? {
            break status;
        }
        if began.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Answer::Silence(format!("`{name}` did not answer within {} s", limit.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (said, complaint) = (text(&mut out), text(&mut err));
    if status.success() {
        return Ok(Answer::Text(said));
    }
    let complaint = if complaint.is_empty() { said } else { complaint };
    let is_silent = UNREACHABLE.iter().any(|words| complaint.contains(words));
    Ok(if is_silent { Answer::Silence(complaint) } else { Answer::Refused(complaint) })
}

fn text(file: &mut File) -> String {
    let mut bytes = vec![];
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_string()
}
