//! Where an encoder computes patch and class tokens: on a GPU by erw's own kernels, or by candle's
//! operations on the CPU and where the kernels do not cover a transformer. What is chosen on a GPU is
//! a line in the log.

use crate::support::card;
use candle_core::{Device, Tensor};
use erw_base::error::Result;
use erw_gpu::program::Type;
use erw_ml::gpu::encoder::{EncoderOnGpu, EncoderPlan};
use erw_ml::models::encoder::{CONFIG_FILE, Encoder, WEIGHTS_FILE, read_config};
use erw_ml::nn::params;
use erw_runner::kind::attempt::Attempt;
use std::path::Path;

/// A frozen encoder.
pub enum PatchTokens {
    Candle(Box<Encoder>),
    Kernels(Box<EncoderOnGpu>),
}

impl PatchTokens {
    /// The encoder in `dir` for batches of up to `batch` images of side `side`.
    ///
    /// # Errors
    /// Not an encoder, or one that does not take such images; a GPU that cannot be used, or with too
    /// little memory.
    pub fn open(attempt: &Attempt, dir: &Path, side: usize, batch: usize, device: &Device) -> Result<Self> {
        if !device.is_cpu() {
            let config = read_config(&dir.join(CONFIG_FILE))?;
            let tensors = params::load(&dir.join(WEIGHTS_FILE), &Device::Cpu)?;
            let plan = EncoderPlan::new(&config, tensors, side, batch)?;
            match plan.vit.check() {
                Ok(()) => {
                    let (memory, hint) = (plan.vit.memory()?, "set a smaller `operation.batch`");
                    let machine = card::open(attempt, "the encoder", memory, Type::F32, hint)?;
                    return Ok(Self::Kernels(Box::new(plan.on(machine)?)));
                }
                Err(e) => attempt
                    .log(&format!("{e} is not covered by erw's GPU kernels: the encoder runs by candle's operations")),
            }
        }
        Ok(Self::Candle(Box::new(Encoder::open(dir, device)?)))
    }

    /// Patch tokens f32 `[n, T, D]`, and the class token `[n, D]` of an encoder that has one, of u8
    /// images `[n, 3, H, W]` on the device.
    pub fn of(&mut self, images: &Tensor) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Candle(encoder) => encoder.outputs(images, &[]).map(|o| (o.tokens, o.class_token)),
            Self::Kernels(encoder) => encoder.tokens(images),
        }
    }
}
