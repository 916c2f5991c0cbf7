//! The loss of full training: the velocity between data and noise, plus a scheduled alignment with
//! features and, optionally, the velocity's direction, an alignment with itself or with the clean
//! latents, and a dispersive loss.

use super::batch::{Batch, BatchConfig, Examples};
use super::gpu::Feed;
use super::self_alignment::SelfAlignment;
use crate::data::prefetch::MicroBatch;
use crate::diffusion::alignment::Alignment;
use crate::diffusion::alignment_schedule::Schedule;
use crate::diffusion::interpolant::{Path, TimeDistribution};
use crate::diffusion::loss::{self, Dispersion};
use crate::models::encoder::Outputs;
use crate::models::sit::{Also, Forward, SiT};
use crate::rng::{self, Purpose};
use crate::train::config::StepLoss;
use candle_core::{Device, Result, Tensor, bail};

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
    pub self_alignment: Option<SelfAlignment>,
    /// Weight of the distance between the clean latents and what the head of SRA 2 (arXiv
    /// 2601.17830) makes of a block's tokens; 0: none.
    pub latent_alignment: f64,
    pub attention: Option<AttentionTransfer>,
    /// Weight of the velocity of class tokens, for a network that has one (REG, arXiv 2507.01467,
    /// eq. 7).
    pub class_token: f64,
}

/// Settings of the attention alignment of HASTE (arXiv 2505.16792).
#[derive(Debug, Clone)]
pub struct AttentionTransfer {
    /// Beside the alignment loss: the coefficient of the alignment is a factor of both.
    pub weight: f64,
    /// Blocks of the network, counted from 1.
    pub blocks: Vec<usize>,
    /// The block of the encoder for each of them.
    pub encoder_blocks: Vec<usize>,
}

/// A noised micro-batch on the CPU.
pub struct Noised {
    batch: Batch,
    t: Tensor,
    point: Tensor,
    /// Velocity at `point`, which the network should predict.
    target: Tensor,
    /// Times and points of the teacher of a self-alignment.
    teacher: Option<(Tensor, Tensor)>,
    /// Noise of the class tokens `[n, Z]`.
    class_noise: Option<Tensor>,
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
        let teacher = |alignment: &SelfAlignment| {
            let t = alignment.times(&t, seed, step, &batch.slots);
            let (point, _) = self.path.point_and_velocity(x, &noise, &t)?;
            Ok::<_, candle_core::Error>((Tensor::new(t, cpu)?, point))
        };
        let teacher = self.self_alignment.as_ref().map(teacher).transpose()?;
        let class_noise = |width| rng::normal_rows(seed, Purpose::ClassNoise, step, &batch.slots, &[width], cpu);
        let class_noise = self.model.config().class_token.map(class_noise).transpose()?;
        Ok(Noised { t: Tensor::new(t, cpu)?, point, target, teacher, class_noise, batch })
    }

    /// A micro-batch for the engine on a GPU.
    pub fn feed(&self, step: u64, noised: Noised) -> Result<Feed> {
        let alignment_weight = self.schedule.at(step);
        let mut seen = self.seen(&noised, alignment_weight, &Device::Cpu)?;
        let class_token = self.class(&noised, seen.as_mut())?.map(<[Tensor; 2]>::from);
        let features = match seen {
            _ if alignment_weight == 0.0 => vec![],
            Some(all) => all.into_iter().map(|o| o.tokens).collect(),
            None => self.examples.features_as_stored(&noised.batch)?,
        };
        let Noised { batch, t, point, target, .. } = noised;
        let (target, classes) = (Some(target), batch.classes);
        Ok(Feed { times: t, point, target, classes, class_token, features, alignment_weight })
    }

    pub fn loss(&self, step: u64, noised: &Noised) -> Result<StepLoss> {
        let here = |t: &Tensor| t.to_device(&self.examples.device);
        let (t, point, target) = (here(&noised.t)?, here(&noised.point)?, here(&noised.target)?);
        let classes = here(&noised.batch.classes)?;
        let weight = self.schedule.at(step);
        // With weight 0, neither encoders nor projectors run. The weights and moments of the
        // projectors stay unchanged.
        let mut seen = self.seen(noised, weight, &self.examples.device)?;
        let class = self.class(noised, seen.as_mut())?;
        let also = Also {
            class_token: class.as_ref().map(|(point, _)| point),
            projections: weight != 0.0,
            hidden: self.dispersion.map(|d| d.block),
            student: self.self_alignment.is_some(),
            latents: self.latent_alignment > 0.0,
            attention: self.attention.as_ref().filter(|_| weight != 0.0).map_or(&[][..], |a| &a.blocks[..]),
        };
        let out = self.model.forward_with(&point, &t, &classes, &also)?;
        let velocity = loss::velocity(&out.velocity, &target)?;
        let mut parts = vec![("velocity", number(&velocity)?)];
        let class = match (&class, &out.class_velocity) {
            (Some((_, target)), Some(predicted)) => Some(loss::velocity(predicted, target)?),
            _ => None,
        };
        let mut loss = velocity;
        if self.velocity_cosine > 0.0 {
            let cosine = loss::velocity_cosine(&out.velocity, &target)?;
            parts.push(("velocity_cosine", number(&cosine)?));
            loss = (loss + (cosine * self.velocity_cosine)?)?;
        }
        if let Some(class) = class {
            parts.push(("class_velocity", number(&class)?));
            loss = (loss + (class * self.class_token)?)?;
        }
        let (aligned, [alignment, relation, attention]) = match weight == 0.0 {
            true => (loss, [0.0; 3]),
            false => self.align(loss, noised, seen, &out, weight)?,
        };
        loss = aligned;
        parts.extend([("alignment", alignment), ("alignment_weight", weight)]);
        if self.alignment.relation > 0.0 {
            parts.push(("relation", relation));
        }
        if self.attention.is_some() {
            parts.push(("attention", attention));
        }
        if let (Some(alignment), Some((t, point)), Some(student)) =
            (&self.self_alignment, &noised.teacher, &out.student)
        {
            let distance = alignment.loss(student, &here(point)?, &here(t)?, &classes)?;
            parts.push(("self_alignment", number(&distance)?));
            loss = (loss + (distance * alignment.weight)?)?;
        }
        if let Some(predicted) = &out.latents {
            let distance = loss::smooth_l1(predicted, &here(&noised.batch.latents)?)?;
            parts.push(("latent_alignment", number(&distance)?));
            loss = (loss + (distance * self.latent_alignment)?)?;
        }
        if let Some((hidden, dispersion)) = out.hidden.as_ref().zip(self.dispersion) {
            let spread = loss::dispersive(hidden, dispersion.temperature)?;
            parts.push(("dispersive", number(&spread)?));
            loss = (loss + (spread * dispersion.weight)?)?;
        }
        Ok(StepLoss { loss, parts })
    }

    /// What the encoders make of the images, where more than their features is needed. Stored features
    /// are read to `device`.
    fn seen(&self, noised: &Noised, weight: f64, device: &Device) -> Result<Option<Vec<Outputs>>> {
        let blocks = self.attention.as_ref().map(|a| &a.encoder_blocks[..]);
        match (&noised.class_noise, blocks.filter(|_| weight != 0.0)) {
            (Some(_), _) => self.examples.encoder_outputs(&noised.batch, blocks.unwrap_or_default(), device).map(Some),
            (None, Some(blocks)) => self.examples.encoder_outputs(&noised.batch, blocks, device).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// `loss` with the losses of the alignment added, and these without weights: alignment,
    /// relation, attention.
    fn align(
        &self,
        loss: Tensor,
        noised: &Noised,
        seen: Option<Vec<Outputs>>,
        out: &Forward,
        weight: f64,
    ) -> Result<(Tensor, [f64; 3])> {
        let (features, attention) = match seen {
            None => (self.examples.features(&noised.batch)?, vec![]),
            Some(all) => {
                let (tokens, attention): (Vec<_>, Vec<_>) = all.into_iter().map(|o| (o.tokens, o.attention)).unzip();
                (tokens, attention.concat())
            }
        };
        let losses = self.alignment.losses(features, &out.projections)?;
        let aligned = number(&losses.alignment)?;
        let related = losses.relation.as_ref().map_or(Ok(0.0), number)?;
        let loss = (loss + (self.alignment.sum(losses)? * weight)?)?;
        let Some(a) = &self.attention else { return Ok((loss, [aligned, related, 0.0])) };
        let transfer = loss::attention_transfer(&attention, &out.attention)?;
        let attended = number(&transfer)?;
        Ok(((loss + (transfer * (weight * a.weight))?)?, [aligned, related, attended]))
    }

    /// The noised class token of an encoder `[B, Z]` and its velocity, for a network that has one. The
    /// class token also becomes the first of the tokens that projections are aligned with.
    fn class(&self, noised: &Noised, seen: Option<&mut Vec<Outputs>>) -> Result<Option<(Tensor, Tensor)>> {
        let Some((noise, seen)) = noised.class_noise.as_ref().zip(seen.and_then(|all| all.first_mut())) else {
            return Ok(None);
        };
        let Some(class) = &seen.class_token else { bail!("the encoder has no class token") };
        let (noise, t) = (noise.to_device(class.device())?, noised.t.to_vec1::<f32>()?);
        let noised = self.path.point_and_velocity(class, &noise, &t)?;
        seen.tokens = Tensor::cat(&[&class.unsqueeze(1)?, &seen.tokens], 1)?;
        Ok(Some(noised))
    }
}

/// The value of a loss.
pub(super) fn number(t: &Tensor) -> Result<f64> {
    t.to_scalar::<f32>().map(f64::from)
}
