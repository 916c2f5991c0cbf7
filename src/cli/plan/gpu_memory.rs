//! Whether what stages take of a GPU's memory is there, on a machine with GPUs. The driver's own
//! program says how much they have: opening a GPU for that would cost memory itself.
//!
//! Does not know how much is free: a plan may be for later. A stage checks that when it starts.

use super::line::Planned;
use erw_base::error::{Error, Result};
use erw_runner::exec::resources::Limits;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::settings::{LauncherName, Settings};
use std::io::{Read, Seek};
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
    let mut command = Command::new("nvidia-smi");
    command.args(["--query-gpu=memory.total", "--format=csv,noheader,nounits"]);
    // CUDA's numbers are not those of this program, which counts by the bus: then all are asked.
    let by_bus = std::env::var_os("CUDA_DEVICE_ORDER").is_some_and(|order| order == "PCI_BUS_ID");
    if by_bus || gpus.iter().all(|gpu| gpu.starts_with("GPU-")) {
        command.args(["-i", &gpus.join(",")]);
    }
    let mut said = tempfile::tempfile().ok()?;
    let to = said.try_clone().ok()?;
    let mut child = command.stdin(Stdio::null()).stdout(to).stderr(Stdio::null()).spawn().ok()?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait().ok()? {
            Some(status) => break status,
            None if began.elapsed() > LIMIT => {
                // Not waited for: a process that hangs in the driver does not die.
                let _ = child.kill();
                return None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut text = String::new();
    said.rewind().and_then(|()| said.read_to_string(&mut text)).ok()?;
    let mebibytes = text.lines().map(|line| line.trim().parse::<u64>().ok());
    let most = mebibytes.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
    status.success().then_some(most << 20)
}
