//! Whether what stages take of a GPU's memory is there, on a machine with GPUs. The driver's own
//! program says how much they have: opening a GPU for that would cost memory itself.
//!
//! Does not know how much is free: a plan may be for later. A stage checks that when it starts.

use super::line::Planned;
use erw_base::error::{Error, Result};
use erw_runner::exec::resources::Limits;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::settings::{LauncherName, Settings};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the driver may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Checks that each stale stage fits on the largest GPU that a run here may use.
///
/// # Errors
/// One that does not.
pub fn check(planned: &Planned, pipeline: &Pipeline, settings: &Settings) -> Result<()> {
    let asking = || planned.stages.iter().filter(|line| line.stale).filter_map(|line| Some((line, line.gpu_memory?)));
    if settings.launcher != LauncherName::Local || settings.gpus == Some(0) || asking().next().is_none() {
        return Ok(());
    }
    let gpus = Limits::of_machine().gpus;
    let Some(largest) = (if gpus.is_empty() { None } else { largest(&gpus) }) else { return Ok(()) };
    let Some((line, needs)) = asking().find(|(_, needs)| *needs > largest) else { return Ok(()) };
    let gigabytes = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let (stage, needs, has) = (&line.stage, gigabytes(needs), gigabytes(largest));
    let stage = pipeline.by_name().get(stage.as_str()).map(|id| pipeline.stage(*id));
    let place = stage.and_then(|stage| {
        ["params.batch", "operation.batch"].iter().find_map(|name| stage.origins.get(*name)?.place.clone())
    });
    let text = format!("stage `{}` needs {needs} of a GPU's memory, but the largest here has {has}", line.stage);
    Err(Error::usage(text).maybe_at(place).hint(match line.kind {
        "train" | "warmup" => "set `operation.checkpointing = \"blocks\"`, or a larger `accumulate`",
        _ => "set a smaller `operation.batch`",
    }))
}

/// Bytes of the largest of these GPUs; `None` if the driver does not say.
fn largest(gpus: &[String]) -> Option<u64> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", &gpus.join(",")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if began.elapsed() > LIMIT => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut said = String::new();
    child.stdout.take()?.read_to_string(&mut said).ok()?;
    let mebibytes = said.lines().map(|line| line.trim().parse::<u64>().ok());
    let most = mebibytes.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
    status.success().then_some(most << 20)
}
