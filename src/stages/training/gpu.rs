//! How a SiT is trained on a GPU: by the kernels of `erw-gpu`, or by candle's operations where those
//! do not cover a setting. What is chosen is a line in the log.

use super::feature_source::{move_encoder, transformer_plans};
use crate::support::card;
pub use crate::support::card::Opened;
use crate::support::frozen_networks::not_covered;
use candle_core::Device;
use erw_base::error::Result;
use erw_ml::diffusion::alignment::Alignment;
use erw_ml::gpu::sit::{self, Recipe, SitPrograms};
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::precision::Precision;
use erw_ml::train::config::FitConfig;
use erw_ml::train::sit::features::Features;
use erw_runner::kind::attempt::Attempt;

/// What makes a training take less memory.
pub const LESS_MEMORY: &str = "set `operation.checkpointing = \"blocks\"`, or a larger `accumulate`";

/// What the GPU's programs need to know of a training. `micro_batch` is in samples.
pub fn recipe(
    config: &SiTConfig,
    precision: Precision,
    micro_batch: usize,
    cfg: &FitConfig,
    attempt: &Attempt,
    alignment: Alignment,
) -> Result<Recipe> {
    let keep = attempt.operation::<super::settings::LoopSettings>()?.keep();
    Ok(Recipe {
        micro_batches: cfg.accumulate.max(1),
        ranks: attempt.ranks(),
        keep,
        averages: cfg.ema_decays.len(),
        alignment,
        ..Recipe::new(config.clone(), micro_batch, erw_ml::gpu::product_type(precision))
    })
}

/// The GPU for this training; `None` if it runs on the CPU or by candle's operations. `uncovered`
/// names a setting that only those cover. Encoders that compute features while training move to the
/// GPU, too.
///
/// # Errors
/// No such GPU, or one with too little memory.
pub fn open(
    attempt: &Attempt,
    device: &Device,
    recipe: &Recipe,
    uncovered: Option<&str>,
    features: &mut Features,
) -> Result<Option<Training>> {
    if device.is_cpu() {
        return Ok(None);
    }
    let unfit = recipe.check().err().map(|e| e.to_string());
    if let Some(setting) = uncovered.map(|name| format!("`{name}`")).or(unfit) {
        attempt.log(&not_covered(&setting, "this training"));
        for i in 0..features.encoders() {
            move_encoder(attempt, features, i, device)?;
        }
        return Ok(None);
    }
    let mut memory = sit::memory(recipe)?;
    let (mut guest, mut transformers) = ("the training", vec![]);
    for (i, plan) in transformer_plans(attempt, features, recipe.batch)?.into_iter().enumerate() {
        match plan.memory() {
            Ok(more) => {
                (memory, guest) = (memory + more, "the training with its encoders");
                transformers.push((i, plan));
            }
            Err(e) => {
                attempt.log(&not_covered(&e, "an encoder"));
                move_encoder(attempt, features, i, device)?;
            }
        }
    }
    let opened = card::open_linked(attempt, guest, memory, recipe.ty, LESS_MEMORY)?;
    for (i, plan) in transformers {
        features.change_encoder(i, |encoder| Ok(encoder.computed_by(plan.on(opened.machine.clone())?)))?;
    }
    let programs = SitPrograms::on(&*opened.machine, recipe)?;
    Ok(Some(Training { opened, programs }))
}

/// Where the parameters and the network for initial values are: with a GPU of its own memory, on
/// the CPU.
pub fn home(device: &Device, gpu: Option<&Training>) -> Device {
    if gpu.is_some() { Device::Cpu } else { device.clone() }
}

/// The memory of a training, and the GPU on which it is.
pub struct Training {
    pub opened: Opened,
    pub programs: SitPrograms,
}

/// A training on a GPU.
pub struct OnGpu<'a> {
    pub training: &'a Training,
    pub model: &'a SiT,
}
