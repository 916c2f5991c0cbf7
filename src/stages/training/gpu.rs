//! How a SiT is trained on a GPU: by the kernels of `erw-gpu`, or by candle's operations where those
//! do not cover a setting. What is chosen is a line in the log.

use crate::support::card::{self, Opened};
use candle_core::Device;
use erw_base::error::Result;
use erw_ml::gpu::sit::Recipe;
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::precision::Precision;
use erw_ml::train::config::FitConfig;
use erw_runner::kind::attempt::Attempt;

/// What the GPU's programs need to know of a training. `micro_batch` is in samples.
pub fn recipe(
    config: &SiTConfig,
    precision: Precision,
    micro_batch: usize,
    cfg: &FitConfig,
    attempt: &Attempt,
    spatial_norm: Option<f64>,
) -> Result<Recipe> {
    let keep = attempt.operation::<super::settings::LoopSettings>()?.keep();
    Ok(Recipe {
        config: config.clone(),
        batch: micro_batch,
        micro_batches: cfg.accumulate.max(1),
        ranks: attempt.ranks(),
        ty: erw_ml::gpu::product_type(precision),
        keep,
        averages: cfg.ema_decays.len(),
        spatial_norm,
    })
}

/// The GPU for this training; `None` if it runs on the CPU or by candle's operations. `uncovered`
/// names a setting that only those cover.
///
/// # Errors
/// No such GPU, or one with too little memory.
pub fn open(attempt: &Attempt, device: &Device, recipe: &Recipe, uncovered: Option<&str>) -> Result<Option<Opened>> {
    if device.is_cpu() {
        return Ok(None);
    }
    let unfit = recipe.check().err().map(|e| e.to_string());
    if let Some(setting) = uncovered.map(|name| format!("`{name}`")).or(unfit) {
        attempt.log(&format!(
            "{setting} is not covered by erw's GPU kernels: this training runs by candle's operations, which take \
             several times as long and more memory"
        ));
        return Ok(None);
    }
    let memory = erw_ml::train::sit::gpu::memory(recipe)?;
    let hint = "set `operation.checkpointing = \"blocks\"`, or a larger `accumulate`";
    card::open_linked(attempt, "the training", memory, recipe.ty, hint).map(Some)
}

/// Where the parameters and the network for initial values are: with a GPU of its own memory, on
/// the CPU.
pub fn home(device: &Device, gpu: Option<&Opened>) -> Device {
    if gpu.is_some() { Device::Cpu } else { device.clone() }
}

/// A training on a GPU.
pub struct OnGpu<'a> {
    pub gpu: &'a Opened,
    pub recipe: &'a Recipe,
    pub model: &'a SiT,
}
