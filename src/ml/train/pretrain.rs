//! Losses for training an encoder on images, for data sets that no published encoder suits.
//!
//! `SelfSupervised` is SimMIM (Xie et al. 2022): some patch embeddings are replaced by a learned
//! token, and one linear layer on the final tokens predicts the missing pixels, with the mean
//! absolute error over masked patches. It needs no second network, no negatives and no batch
//! statistics. `Supervised` is the cross-entropy of a linear head on the mean patch token. Only the
//! transformer is kept; mask token and heads are dropped.

use crate::models::vit::{Vit, VitConfig, patchify};
use crate::nn::params::{ParamSet, Tensors};
use crate::nn::{self, Linear};
use crate::rng::{self, Purpose};
use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::{Init, Module};
use serde::Deserialize;

/// The training objective of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    SelfSupervised,
    Supervised,
}

/// Prefix of parameters outside the transformer.
const HEAD: &str = "pretrain";

/// A transformer in training, and the head of its objective.
pub struct Learner {
    pub params: ParamSet,
    pub vit: Vit,
    head: Linear,
    mask_token: Option<Tensor>,
    /// Masked patches per image.
    masked: usize,
    seed: u64,
}

impl Learner {
    /// `classes` is used by the supervised objective, `mask_ratio` (share of patches, 0 to 1) by
    /// the other.
    pub fn new(
        config: &VitConfig,
        objective: Objective,
        classes: usize,
        mask_ratio: f64,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let (params, vb) = ParamSet::init(seed, DType::F32, device);
        let vit = Vit::new(config, vb.clone())?;
        let (vb, dim) = (vb.pp(HEAD), config.dim);
        let (head, mask_token, masked) = match objective {
            Objective::Supervised if classes < 2 => {
                bail!("a supervised encoder needs at least 2 classes, got {classes}")
            }
            Objective::Supervised => (nn::linear(dim, classes, vb.pp("classes"))?, None, 0),
            Objective::SelfSupervised => {
                let masked = (mask_ratio * config.tokens() as f64).round() as usize;
                if masked == 0 || masked >= config.tokens() {
                    bail!(
                        "mask ratio {mask_ratio} masks {masked} of {} patches; it must mask some, but not all",
                        config.tokens()
                    );
                }
                let pixels = nn::linear(dim, 3 * config.patch_size * config.patch_size, vb.pp("pixels"))?;
                let token = vb.get_with_hints((1, 1, dim), "mask_token", Init::Randn { mean: 0.0, stdev: 0.02 })?;
                (pixels, Some(token), masked)
            }
        };
        Ok(Self { params, vit, head, mask_token, masked, seed })
    }

    /// Loss of normalised images `[n, 3, S, S]` with labels i64 `[n]`. `samples` numbers the
    /// images, so that the masks of (step, sample) are the same in any batch.
    pub fn loss(&self, images: &Tensor, labels: &Tensor, step: u64, samples: &[u64]) -> Result<Tensor> {
        match &self.mask_token {
            None => {
                let mean = self.vit.tokens(images)?.mean(1)?;
                candle_nn::loss::cross_entropy(&self.head.forward(&mean)?, labels)
            }
            Some(token) => self.masked_loss(images, token, step, samples),
        }
    }

    fn masked_loss(&self, images: &Tensor, token: &Tensor, step: u64, samples: &[u64]) -> Result<Tensor> {
        let target = patchify(images, self.vit.config().patch_size)?;
        let tokens = self.vit.config().tokens();
        let masks: Vec<f32> = samples.iter().flat_map(|s| self.mask(step, *s, tokens)).collect();
        let mask = Tensor::from_vec(masks, (samples.len(), tokens, 1), images.device())?;
        let patches = self.vit.embed(images)?;
        let seen = patches.broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
        let hidden = token.broadcast_mul(&mask)?;
        let encoded = self.vit.patches_of(&self.vit.encode(&(seen + hidden)?)?)?;
        let error = (self.head.forward(&encoded)? - &target)?.abs()?.broadcast_mul(&mask)?;
        let count = samples.len() * self.masked * target.dim(D::Minus1)?;
        error.sum_all()? / count as f64
    }

    /// 1 for the masked patches of an image, the same number in each image.
    fn mask(&self, step: u64, sample: u64, tokens: usize) -> Vec<f32> {
        let mut stream = rng::stream(self.seed, Purpose::Augment, step, sample);
        let mut order: Vec<usize> = (0..tokens).collect();
        for i in 0..self.masked {
            order.swap(i, i + stream.below((tokens - i) as u64) as usize);
        }
        let mut mask = vec![0.0; tokens];
        order[..self.masked].iter().for_each(|i| mask[*i] = 1.0);
        mask
    }
}

/// Copies of the transformer's tensors from those of a learner.
pub fn transformer_only(tensors: &Tensors) -> Result<Tensors> {
    let own = tensors.iter().filter(|(name, _)| !name.starts_with(HEAD));
    own.map(|(name, t)| Ok((name.clone(), t.copy()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner(objective: Objective) -> Result<Learner> {
        let config = VitConfig { mlp_dim: 16, class_token: false, exact_gelu: false, ..VitConfig::new(8, 2, 8, 1, 2) };
        Learner::new(&config, objective, 3, 0.6, 1, &Device::Cpu)
    }

    #[test]
    fn masks_differ_by_step_and_sample_but_not_in_number() -> Result<()> {
        let l = learner(Objective::SelfSupervised)?;
        let sum = |m: &[f32]| m.iter().sum::<f32>();
        let a = l.mask(0, 0, 16);
        assert_eq!((sum(&a), a == l.mask(0, 0, 16)), (10.0, true));
        assert!(a != l.mask(1, 0, 16) && a != l.mask(0, 1, 16));
        Ok(())
    }

    /// Masked pixels must not be visible: the loss may depend on them only through the target.
    #[test]
    fn masked_pixels_do_not_reach_the_prediction() -> Result<()> {
        let l = learner(Objective::SelfSupervised)?;
        let flat = Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu)?;
        let mask = Tensor::from_vec(l.mask(5, 2, 16), (1, 16, 1), &Device::Cpu)?;
        let token = l.mask_token.as_ref().expect("a mask token");
        // Predictions for a black image, and for one whose masked patches are bright.
        let predict = |patches: Tensor| -> Result<Vec<f32>> {
            let seen = patches.broadcast_mul(&mask.affine(-1.0, 1.0)?)?;
            l.vit.encode(&(seen + token.broadcast_mul(&mask)?)?)?.flatten_all()?.to_vec1()
        };
        let bright = (l.vit.embed(&flat)? + (mask.broadcast_as((1, 16, 8))? * 9.0)?)?;
        assert_eq!(predict(l.vit.embed(&flat)?)?, predict(bright)?);
        Ok(())
    }

    #[test]
    fn every_parameter_of_either_objective_gets_a_gradient() -> Result<()> {
        for objective in [Objective::SelfSupervised, Objective::Supervised] {
            let l = learner(objective)?;
            let x = Tensor::arange(0f32, 384.0, &Device::Cpu)?.sin()?.reshape((2, 3, 8, 8))?;
            let loss = l.loss(&x, &Tensor::new(&[0i64, 2], &Device::Cpu)?, 0, &[0, 1])?;
            let grads = loss.backward()?;
            for (name, var) in l.params.vars() {
                assert!(grads.get(&var).is_some(), "{objective:?}: {name}");
            }
            let kept = transformer_only(&l.params.tensors())?;
            assert!(kept.len() + 2 <= l.params.len() && kept.contains_key("norm.weight"));
        }
        Ok(())
    }
}
