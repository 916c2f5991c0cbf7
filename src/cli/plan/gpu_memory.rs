//! Whether what stages take of a GPU's memory is there, on a machine with GPUs. The driver's own
//! program says how much they have: opening a GPU for that would cost memory itself.
//!
//! Does not know how much is free: a plan may be for later. A stage checks that when it starts.

use super::line::Planned;
use erw_base::error::{Error, Result};
use erw_base::program;
use erw_runner::exec::resources::Limits;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::settings::{LauncherName, Settings};
use std::process::Command;
use std::time::Duration;

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
    Err(Error::usage(text).maybe_at(place).hint(erw_stages::planned_memory::less_memory(line.kind)))
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
    let answer = program::ask(&mut command, LIMIT).ok()??;
    let mebibytes = answer.output.lines().map(|line| line.trim().parse::<u64>().ok());
    let most = mebibytes.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
    answer.status.success().then_some(most << 20)
}
