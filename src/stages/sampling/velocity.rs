//! Where the velocity of a SiT is computed: on a GPU by erw's own kernels, or by candle's operations
//! on the CPU and where the kernels do not cover a network. What is chosen on a GPU is a line in the
//! log.

use crate::support::ema_files;
use crate::support::frozen_networks::machine;
use candle_core::{DType, Device, Tensor};
use erw_base::error::Result;
use erw_ml::gpu::product_type;
use erw_ml::gpu::velocity::{Evaluation, VelocityOnGpu};
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::params::Frozen;
use erw_ml::nn::precision::Precision;
use erw_runner::kind::attempt::Attempt;

/// A trained SiT.
pub enum Velocity {
    Candle(Box<SiT>, Device),
    Kernels(Box<VelocityOnGpu>),
}

impl Velocity {
    /// The weights `weights` of input `slot`, for batches of up to `points` points.
    ///
    /// # Errors
    /// Weights that are missing or of another network; a GPU that cannot be used, or with too little
    /// memory.
    pub fn open(
        attempt: &Attempt,
        config: &SiTConfig,
        (slot, weights): (&str, &str),
        precision: Precision,
        points: usize,
        device: &Device,
    ) -> Result<Self> {
        let evaluation = Evaluation { config: config.clone(), batch: points, ty: product_type(precision) };
        let machine = match device.is_cpu() {
            true => None,
            false => machine(attempt, &format!("network `{slot}`"), evaluation.memory(), evaluation.ty)?,
        };
        let home = if machine.is_some() { &Device::Cpu } else { device };
        let tensors = ema_files::load(attempt.input(slot)?, slot, weights, home)?;
        let sit = SiT::new(config, Frozen::new(tensors.clone()).builder(DType::F32, home))?;
        Ok(match machine {
            Some(machine) => Self::Kernels(Box::new(VelocityOnGpu::new(machine, &evaluation, &sit, &tensors)?)),
            None => Self::Candle(Box::new(sit.with_precision(precision)), device.clone()),
        })
    }

    /// The device of points and velocities.
    pub fn home(&self) -> Device {
        match self {
            Self::Candle(_, device) => device.clone(),
            Self::Kernels(_) => Device::Cpu,
        }
    }

    /// Velocities `[B, C, S, S]` at points `[B, C, S, S]`, times `[B]` and classes `[B]`, on the
    /// device of the points.
    pub fn at(&mut self, points: &Tensor, times: &Tensor, classes: &Tensor) -> candle_core::Result<Tensor> {
        let home = self.home();
        let [x, t, y] = [points.to_device(&home)?, times.to_device(&home)?, classes.to_device(&home)?];
        let velocity = match self {
            Self::Candle(sit, _) => sit.velocity(&x, &t, &y),
            Self::Kernels(kernels) => kernels.velocity(&x, &t, &y),
        };
        velocity?.to_device(points.device())
    }
}
