//! Where frozen networks are computed: on a GPU by erw's own kernels, or by candle's operations on
//! the CPU and where the kernels do not cover a network. What is chosen on a GPU is a line in the log.
//!
//! Does not know what networks are for.

use super::card;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_gpu::machine::Machine;
use erw_gpu::program::Type;
use erw_ml::gpu::encoder::TransformerPlan;
use erw_ml::gpu::frozen::Plan;
use erw_ml::gpu::inception;
use erw_ml::gpu::product_type;
use erw_ml::gpu::vae;
use erw_ml::models::encoder::{Encoder, WEIGHTS_FILE};
use erw_ml::models::feature_network::FeatureNetwork;
use erw_ml::models::feature_network::mode::Mode;
use erw_ml::models::feature_network::open::{Opened, open_feature_network, open_kind};
use erw_ml::models::inception::SIDE;
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::elsewhere::Elsewhere;
use erw_ml::nn::params;
use erw_ml::nn::precision::Precision;
use erw_runner::kind::attempt::Attempt;
use std::path::Path;
use std::sync::Arc;

/// The most images that pass through an autoencoder at a time. Sixteen of 256 pixels fill a GPU; more
/// would only take more memory.
const AUTOENCODER_BATCH: usize = 16;
/// The most that pass through other networks, for the same reason.
const ENCODER_BATCH: usize = 256;

/// The parameter that asks for the precision of an autoencoder. Not `precision`, which pipelines set for
/// all of their stages at once.
pub const VAE_PRECISION: &str = "vae_precision";

/// What makes a frozen network take less memory.
pub const LESS_MEMORY: &str = "set a smaller `operation.batch`";

/// The GPU for `guest` (as in "the decoder") if the kernels cover it, with products of type `ty`.
/// `memory` is what it takes, or why they do not; then the log says so.
///
/// # Errors
/// As [`card::open`].
pub fn machine(
    attempt: &Attempt,
    guest: &str,
    memory: candle_core::Result<usize>,
    ty: Type,
) -> Result<Option<Arc<dyn Machine>>> {
    match memory {
        Ok(memory) => card::open(attempt, guest, memory, ty, LESS_MEMORY).map(Some),
        Err(e) => {
            attempt.log(&not_covered(&e, guest));
            Ok(None)
        }
    }
}

/// The line that says so.
pub fn not_covered(why: &dyn std::fmt::Display, guest: &str) -> String {
    format!(
        "{guest} runs by candle's operations, which take several times as long and more memory: erw's GPU kernels do \
         not cover {why}"
    )
}

/// Maps that go through an autoencoder: so many at a time, of this height and width, with products of
/// this precision.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    pub batch: usize,
    pub size: [usize; 2],
    pub precision: Precision,
}

impl Maps {
    /// The network `plan` in batches of these maps.
    fn through<'a>(
        self,
        vae: &'a AutoencoderKl,
        plan: fn(&'a AutoencoderKl, [usize; 2], usize, Type) -> Plan<'a>,
    ) -> Plan<'a> {
        plan(vae, self.size, self.batch.clamp(1, AUTOENCODER_BATCH), product_type(self.precision))
    }
}

/// What is wrong with an autoencoder in half precision on a CPU.
pub fn half_on_a_cpu() -> Error {
    Error::usage(format!("`{VAE_PRECISION}` asks for an autoencoder in half precision, which only a GPU computes"))
        .hint(format!("set `resources = {{ gpus = 1 }}`, or leave `{VAE_PRECISION}` out"))
}

/// The autoencoder in `dir`, to decode latents, and the device of latents.
///
/// # Errors
/// Not an autoencoder; a GPU that cannot be used, or with too little memory; half precision where erw's
/// own kernels do not run.
pub fn decoder(attempt: &Attempt, dir: &Path, latents: Maps, device: &Device) -> Result<(AutoencoderKl, Device)> {
    autoencoder(attempt, (dir, latents), device, "the decoder", decoder_plan, AutoencoderKl::decoded_by)
}

/// The autoencoder in `dir`, to encode images, and the device of images.
///
/// # Errors
/// As [`decoder`].
pub fn encoder(attempt: &Attempt, dir: &Path, images: Maps, device: &Device) -> Result<(AutoencoderKl, Device)> {
    autoencoder(attempt, (dir, images), device, "the encoder", encoder_plan, AutoencoderKl::encoded_by)
}

fn encoder_plan(vae: &AutoencoderKl, images: Maps) -> Plan<'_> {
    images.through(vae, vae::encoder)
}

/// What a decoder of such latents is on a GPU.
pub fn decoder_plan(vae: &AutoencoderKl, latents: Maps) -> Plan<'_> {
    latents.through(vae, vae::decoder)
}

fn autoencoder(
    attempt: &Attempt,
    (dir, maps): (&Path, Maps),
    device: &Device,
    guest: &str,
    plan: fn(&AutoencoderKl, Maps) -> Plan<'_>,
    computed_by: fn(AutoencoderKl, Elsewhere) -> AutoencoderKl,
) -> Result<(AutoencoderKl, Device)> {
    let vae = AutoencoderKl::load(dir, &Device::Cpu)?;
    let (is_half, ty) = (maps.precision != Precision::F32, product_type(maps.precision));
    if device.is_cpu() {
        return if is_half { Err(half_on_a_cpu()) } else { Ok((vae, Device::Cpu)) };
    }
    let part = {
        let plan = plan(&vae, maps);
        machine(attempt, guest, plan.memory(), ty)?.map(|machine| plan.on(machine)).transpose()?
    };
    if part.is_none() && is_half {
        let text = format!("`{VAE_PRECISION}` asks for half precision, which candle's operations do not have here");
        return Err(Error::usage(text).hint(format!("leave `{VAE_PRECISION}` out")));
    }
    Ok(match part {
        Some(part) => (computed_by(vae, part.elsewhere()), Device::Cpu),
        None => (AutoencoderKl::load(dir, device)?, device.clone()),
    })
}

/// The encoder of features in `dir`, for batches of `batch` images of side `side`. Images are prepared on
/// the device on which they are.
///
/// # Errors
/// Not an encoder, or one that does not take such images; a GPU that cannot be used, or with too
/// little memory.
pub fn feature_encoder(attempt: &Attempt, dir: &Path, side: usize, batch: usize, device: &Device) -> Result<Encoder> {
    if !device.is_cpu() {
        let encoder = Encoder::open(dir, &Device::Cpu)?;
        let plan = transformer_plan(&encoder, dir, side, batch.clamp(1, ENCODER_BATCH))?;
        if let Some(machine) = machine(attempt, "the encoder", plan.memory(), Type::F32)? {
            return Ok(encoder.computed_by(plan.on(machine)?));
        }
    }
    Ok(Encoder::open(dir, device)?)
}

/// What the transformer of the encoder in `dir` is on a GPU.
///
/// # Errors
/// An encoder that does not take such images.
pub fn transformer_plan(encoder: &Encoder, dir: &Path, side: usize, batch: usize) -> Result<TransformerPlan> {
    let tensors = params::load(&dir.join(WEIGHTS_FILE), &Device::Cpu)?;
    Ok(TransformerPlan::of_encoder(encoder, tensors, side, batch)?)
}

/// The feature network in `dir` for batches of `batch` images, with `mode` as
/// [`open_kind`] takes it. Images are prepared on the device on which they are.
///
/// # Errors
/// Not a feature network; a GPU that cannot be used, or with too little memory.
pub fn feature_network(
    attempt: &Attempt,
    dir: &Path,
    mode: Option<Mode>,
    batch: usize,
    device: &Device,
) -> Result<Box<dyn FeatureNetwork>> {
    let (guest, batch) = ("the network", batch.clamp(1, ENCODER_BATCH));
    match open_kind(dir, mode, &Device::Cpu)? {
        opened if device.is_cpu() => return Ok(opened.network()),
        Opened::Inception(network) => {
            let placed = {
                let plan = inception::plan(&network, SIDE, batch);
                machine(attempt, guest, plan.memory(), Type::F32)?.map(|machine| plan.on(machine)).transpose()?
            };
            if let Some(placed) = placed {
                return Ok(Box::new(network.computed_by(placed.elsewhere())));
            }
        }
        Opened::Embedder(network) => {
            let tensors = params::load(&dir.join(WEIGHTS_FILE), &Device::Cpu)?;
            let plan = TransformerPlan::of_embedder(&network, tensors, batch);
            if let Some(machine) = machine(attempt, guest, plan.memory(), Type::F32)? {
                return Ok(Box::new(network.computed_by(plan.on(machine)?)));
            }
        }
        Opened::Classifier(_) => attempt.log(&not_covered(&"a classifier", guest)),
    }
    Ok(open_feature_network(dir, mode, device)?)
}
