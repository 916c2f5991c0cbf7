//! The network in training as validation and previews evaluate it, between the steps. Where erw's GPU
//! kernels train, they evaluate it too, in the type of the training's products and in the memory of
//! the step's results, which nobody needs then. Elsewhere candle's operations do, in f32.
//!
//! Does not know what is done with its values.

use super::gpu::Training;
use candle_core::{DType, Device, Result, bail};
use erw_gpu::program::Type;
use erw_ml::diffusion::sampler::Velocity;
use erw_ml::gpu::frozen::Plan;
use erw_ml::gpu::projections::{Projection, ProjectionsOnGpu};
use erw_ml::gpu::sit::Recipe;
use erw_ml::gpu::vae;
use erw_ml::gpu::velocity::{Evaluation, VelocityOnGpu};
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::params::{Frozen, Tensors};
use erw_ml::train::sit::preview;
use erw_ml::train::sit::validation::Projections;
use std::cell::RefCell;

/// Images of a preview that are decoded at a time: what is only looked at should not decide how much
/// memory a training takes.
const DECODED: usize = 4;

/// How many points are evaluated at a time, at most: a micro-batch for validation, and all samples of
/// a preview.
pub fn points(validates: bool, micro_batch: usize, shows: bool) -> usize {
    let of_validation = if validates { micro_batch } else { 0 };
    of_validation.max(if shows { preview::COUNT } else { 0 })
}

/// The decoder of previews on a GPU.
pub fn decoder<'a>(vae: &'a AutoencoderKl, config: &SiTConfig) -> Plan<'a> {
    vae::decoder(vae, [config.input_size; 2], DECODED, Type::F32)
}

/// Bytes of GPU memory that the network takes for so many points, or the decoder: they take turns. A
/// decoder that the kernels do not cover counts as nothing.
///
/// # Errors
/// A network that they do not cover.
pub fn memory(config: &SiTConfig, points: usize, vae: Option<&AutoencoderKl>, ty: Type) -> Result<usize> {
    let network = match config.warmup_depth {
        _ if points == 0 => 0,
        None => evaluation(config, points, ty).memory()?,
        Some(_) => projection(config, points, ty).memory()?,
    };
    Ok(network.max(vae.map_or(0, |vae| decoder(vae, config).memory().unwrap_or(0))))
}

/// The recipe with [`memory`] of what looks at its network between the steps, on a GPU. A recipe that the
/// kernels do not cover is left to candle.
///
/// # Errors
/// As [`memory`].
pub fn counted(recipe: Recipe, points: usize, vae: Option<&AutoencoderKl>, device: &Device) -> Result<Recipe> {
    if device.is_cpu() || recipe.check().is_err() {
        return Ok(recipe);
    }
    let between = memory(&recipe.config, points, vae, recipe.ty)?;
    Ok(Recipe { between, ..recipe })
}

fn evaluation(config: &SiTConfig, batch: usize, ty: Type) -> Evaluation {
    Evaluation { config: config.clone(), batch, ty }
}

fn projection(config: &SiTConfig, batch: usize, ty: Type) -> Projection {
    Projection { config: config.clone(), batch, ty }
}

/// The network with any weights of the training.
pub struct Watched<'a> {
    model: &'a SiT,
    by: By,
}

enum By {
    /// A network of its own on this device.
    Candle(Device),
    Velocity(RefCell<VelocityOnGpu>),
    Projections(RefCell<ProjectionsOnGpu>),
}

impl<'a> Watched<'a> {
    /// The network `model` for so many points at a time, on the GPU of the training if it is there, else
    /// on `device`.
    ///
    /// # Errors
    /// A network that the kernels do not cover.
    pub fn new(model: &'a SiT, points: usize, training: Option<&Training>, device: &Device) -> Result<Self> {
        let config = model.config();
        let by = match training {
            Some(Training { opened, programs }) if points > 0 => {
                let (machine, ty) = (opened.machine.clone(), programs.recipe().ty);
                let at = programs.between(memory(config, points, None, ty)?)?;
                match config.warmup_depth {
                    None => By::Velocity(VelocityOnGpu::at(machine, at, &evaluation(config, points, ty))?.into()),
                    Some(_) => {
                        By::Projections(ProjectionsOnGpu::at(machine, at, &projection(config, points, ty))?.into())
                    }
                }
            }
            _ => By::Candle(device.clone()),
        };
        Ok(Self { model, by })
    }

    /// Where its arguments and values are.
    pub fn home(&self) -> Device {
        match &self.by {
            By::Candle(device) => device.clone(),
            By::Velocity(_) | By::Projections(_) => Device::Cpu,
        }
    }

    /// What `look` makes of the velocity with these weights.
    ///
    /// # Errors
    /// Weights of another network; what `look` returns.
    pub fn velocity<T>(&self, weights: &Tensors, look: impl FnOnce(&mut Velocity<'_>) -> Result<T>) -> Result<T> {
        match &self.by {
            By::Velocity(kernels) => {
                let mut kernels = kernels.borrow_mut();
                kernels.write(self.model, weights)?;
                look(&mut |x, t, y| kernels.velocity(x, t, y))
            }
            By::Projections(_) => bail!("a warmup has no velocity"),
            By::Candle(device) => {
                let sit = self.apart(weights, device)?;
                look(&mut |x, t, y| sit.velocity(x, t, y))
            }
        }
    }

    /// What `look` makes of the projections with these weights.
    ///
    /// # Errors
    /// As [`velocity`](Self::velocity).
    pub fn projections<T>(&self, weights: &Tensors, look: impl FnOnce(&mut Projections<'_>) -> Result<T>) -> Result<T> {
        match &self.by {
            By::Projections(kernels) => {
                let mut kernels = kernels.borrow_mut();
                kernels.write(self.model, weights)?;
                look(&mut |x, t, y| kernels.projections(x, t, y))
            }
            By::Velocity(_) => bail!("projections are those of a warmup"),
            By::Candle(device) => {
                let sit = self.apart(weights, device)?;
                look(&mut |x, t, y| sit.projections(x, t, y))
            }
        }
    }

    /// A network with these weights, separate from the one in training.
    fn apart(&self, weights: &Tensors, device: &Device) -> Result<SiT> {
        SiT::new(self.model.config(), Frozen::new(weights.clone()).builder(DType::F32, device))
    }
}
