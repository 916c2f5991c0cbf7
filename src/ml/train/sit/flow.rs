//! The loss of full training: the velocity between data and noise, plus a scheduled alignment with
//! features and, optionally, the velocity's direction and a dispersive loss.

use super::batch::{Batch, BatchConfig, Examples};
use super::gpu::Feed;
use crate::data::prefetch::MicroBatch;
use crate::diffusion::alignment::Alignment;
use crate::diffusion::alignment_schedule::Schedule;
use crate::diffusion::interpolant::{Path, TimeDistribution};
use crate::diffusion::loss;
use crate::models::sit::{Also, SiT};
use crate::rng::{self, Purpose};
use crate::train::config::StepLoss;
use candle_core::{Device, Result, Tensor};

/// Full training of a SiT.
pub struct FlowMatching<'a> {
    pub examples: &'a Examples,
    pub model: &'a SiT,
    pub batches: BatchConfig,
    pub path: Path,
    pub time: TimeDistribution,
    /// Weight of the cosine loss of the velocity; 0: none.
    pub velocity_cosine: f64,
    pub schedule: Schedule,
    pub alignment: Alignment,
    pub dispersion: Option<Dispersion>,
}

/// Settings of the dispersive loss.
#[derive(Debug, Clone, Copy)]
pub struct Dispersion {
    pub weight: f64,
    /// Block whose output is dispersed, counted from 1.
    pub block: usize,
    pub temperature: f64,
}

/// A noised micro-batch on the CPU.
pub struct Noised {
    batch: Batch,
    t: Tensor,
    point: Tensor,
    /// Velocity at `point`, which the network should predict.
    target: Tensor,
}

impl FlowMatching<'_> {
    /// Everything a step needs except the network and features computed online.
    pub fn batch(&self, place: MicroBatch) -> Result<Noised> {
        let (seed, step, cpu) = (self.batches.seed, place.0, &Device::Cpu);
        let aligned = self.schedule.at(step) != 0.0;
        let batch = self.examples.batch(&self.batches, self.model.config(), place, aligned)?;
        let x = &batch.latents;
        let noise = rng::normal_rows(seed, Purpose::Noise, step, &batch.slots, &x.dims()[1..], cpu)?;
        let t = self.time.draw(self.path, seed, step, &batch.slots);
        let (point, target) = self.path.point_and_velocity(x, &noise, &t)?;
        Ok(Noised { t: Tensor::new(t, cpu)?, point, target, batch })
    }

    /// A micro-batch for the engine on a GPU.
    pub fn feed(&self, step: u64, noised: Noised) -> Result<Feed> {
        let alignment_weight = self.schedule.at(step);
        let features =
            if alignment_weight == 0.0 { vec![] } else { self.examples.features_as_stored(&noised.batch)? };
        let Noised { batch, t, point, target } = noised;
        Ok(Feed { times: t, point, target: Some(target), classes: batch.classes, features, alignment_weight })
    }

    pub fn loss(&self, step: u64, noised: &Noised) -> Result<StepLoss> {
        let here = |t: &Tensor| t.to_device(&self.examples.device);
        let (t, point, target) = (here(&noised.t)?, here(&noised.point)?, here(&noised.target)?);
        let classes = here(&noised.batch.classes)?;
        let number = |t: &Tensor| t.to_scalar::<f32>().map(f64::from);
        let weight = self.schedule.at(step);
        // With weight 0, neither encoders nor projectors run. The weights and moments of the
        // projectors stay unchanged.
        let also = Also { projections: weight != 0.0, hidden: self.dispersion.map(|d| d.block) };
        let out = self.model.forward_with(&point, &t, &classes, &also)?;
        let velocity = loss::velocity(&out.velocity, &target)?;
        let mut parts = vec![("velocity", number(&velocity)?)];
        let (mut loss, mut aligned, mut related) = (velocity, 0.0, 0.0);
        if self.velocity_cosine > 0.0 {
            let cosine = loss::velocity_cosine(&out.velocity, &target)?;
            parts.push(("velocity_cosine", number(&cosine)?));
            loss = (loss + (cosine * self.velocity_cosine)?)?;
        }
        if weight != 0.0 {
            let losses = self.alignment.losses(self.examples.features(&noised.batch)?, &out.projections)?;
            aligned = number(&losses.alignment)?;
            related = losses.relation.as_ref().map_or(Ok(0.0), number)?;
            loss = (loss + (self.alignment.sum(losses)? * weight)?)?;
        }
        parts.extend([("alignment", aligned), ("alignment_weight", weight)]);
        if self.alignment.relation > 0.0 {
            parts.push(("relation", related));
        }
        if let Some((hidden, dispersion)) = out.hidden.as_ref().zip(self.dispersion) {
            let spread = loss::dispersive(hidden, dispersion.temperature)?;
            parts.push(("dispersive", number(&spread)?));
            loss = (loss + (spread * dispersion.weight)?)?;
        }
        Ok(StepLoss { loss, parts })
    }
}
