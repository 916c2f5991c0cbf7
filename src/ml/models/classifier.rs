//! A small convolutional classifier, trained on the experiment's own images. Its accuracy on
//! samples says whether they show their class. Its pooled activations are the features of a Fréchet
//! distance for images on which Inception's features are meaningless (digits are not photographs).

use super::feature_network::{FeatureNetwork, Outputs, pixels_to_unit};
use crate::kernels::conv::{Conv2d, Padding};
use crate::kernels::group_norm::{Activation, GroupNorm};
use crate::nn::params::{self, Frozen};
use crate::nn::{Linear, linear};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use std::path::Path;

const EPS: f32 = 1e-5;

/// Sizes of a [`Classifier`], its `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Always [`Classifier::ARCH`]; distinguishes feature networks.
    pub arch: String,
    /// Widths of all stages but the last. The first keeps the image size; each further stage halves
    /// it.
    pub channels: Vec<usize>,
    /// Width of the last stage and length of the feature vector.
    pub features: usize,
    pub norm_num_groups: usize,
    /// Names by label.
    pub classes: Vec<String>,
    /// Size of the training images in pixels.
    pub height: usize,
    pub width: usize,
}

impl ClassifierConfig {
    /// Checks that the sizes can be built.
    pub fn check(&self) -> Result<()> {
        let g = self.norm_num_groups;
        if self.channels.is_empty() || self.features == 0 {
            bail!("a classifier needs at least one entry in `channels`, and `features` above 0");
        }
        if g == 0 || self.channels.iter().chain([&self.features]).any(|c| c % g != 0) {
            let (c, f) = (&self.channels, self.features);
            bail!("channels {c:?} and features = {f} do not divide into norm_num_groups = {g} groups");
        }
        Ok(())
    }
}

/// Convolution, group normalisation, SiLU.
struct ConvStage {
    conv: Conv2d,
    norm: GroupNorm,
}

impl Module for ConvStage {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.conv.forward(x)?)
    }
}

/// The network.
pub struct Classifier {
    config: ClassifierConfig,
    stages: Vec<ConvStage>,
    head: Linear,
}

impl Classifier {
    /// The `arch` in `config.json`.
    pub const ARCH: &'static str = "classifier";

    pub fn new(cfg: &ClassifierConfig, vb: VarBuilder) -> Result<Self> {
        cfg.check()?;
        let widths: Vec<usize> = [3].iter().chain(&cfg.channels).chain([&cfg.features]).copied().collect();
        let stage = |i: usize| -> Result<ConvStage> {
            let (vb, stride) = (vb.pp(format!("stages.{i}")), if i == 0 { 1 } else { 2 });
            let same = Padding::symmetric(1, 1);
            Ok(ConvStage {
                conv: Conv2d::new(widths[i], widths[i + 1], 3, stride, same, vb.pp("conv"))?,
                norm: GroupNorm::new(cfg.norm_num_groups, widths[i + 1], EPS, Activation::Silu, vb.pp("norm"))?,
            })
        };
        Ok(Self {
            config: cfg.clone(),
            stages: (0..widths.len() - 1).map(stage).collect::<Result<_>>()?,
            head: linear(cfg.features, cfg.classes.len(), vb.pp("head"))?,
        })
    }

    /// Reads a `classifier` artifact.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        let (config, file) = (dir.join("config.json"), dir.join("classifier.safetensors"));
        let within = |what: String| move |e: &dyn std::fmt::Display| candle_core::Error::Msg(format!("{what}: {e}"));
        let config_error = within(format!("{} does not describe a classifier", config.display()));
        let text = erw_base::text::read(&config).map_err(|e| config_error(&e))?;
        let cfg: ClassifierConfig = serde_json::from_str(&text).map_err(|e| config_error(&e))?;
        let frozen = Frozen::new(params::load(&file, device)?);
        let net =
            Self::new(&cfg, frozen.builder(DType::F32, device)).map_err(|e| within(file.display().to_string())(&e))?;
        match frozen.unused().first() {
            None => Ok(net),
            Some(name) => bail!("{}: tensor {name} does not belong to the classifier in config.json", file.display()),
        }
    }

    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// Refuses images of a size other than in training: the answers would be meaningless.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let (h, w) = (self.config.height, self.config.width);
        match (height, width) == (h, w) {
            true => Ok(()),
            false => bail!("images of {height} x {width} pixels, but the classifier was trained on {h} x {w}"),
        }
    }

    /// Images `[n, 3, H, W]` in [-1, 1] to pooled activations `[n, features]`.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.stages.iter().try_fold(x.clone(), |x, s| s.forward(&x))?;
        x.flatten_from(2)?.mean(D::Minus1)
    }

    /// Images `[n, 3, H, W]` in [-1, 1] to logits `[n, classes]`.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.head.forward(&self.features(x)?)
    }

    /// The most likely label of each u8 image `[n, 3, H, W]`.
    pub fn classify(&self, images_u8: &Tensor) -> Result<Vec<usize>> {
        let labels = self.logits(&pixels_to_unit(images_u8)?)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        Ok(labels.into_iter().map(|l| l as usize).collect())
    }
}

impl FeatureNetwork for Classifier {
    fn name(&self) -> &str {
        Self::ARCH
    }

    fn dim(&self) -> usize {
        self.config.features
    }

    fn preparation(&self) -> &str {
        "x / 127.5 - 1"
    }

    fn size(&self) -> Option<(usize, usize)> {
        Some((self.config.height, self.config.width))
    }

    fn outputs(&self, images_u8: &Tensor) -> Result<Outputs> {
        let pool = Self::features(self, &pixels_to_unit(images_u8)?)?;
        let logits = self.head.forward(&pool)?;
        Ok(Outputs { pool, spatial: None, logits: Some(logits) })
    }
}

/// Mean cross-entropy of `logits` `[n, classes]` with `labels` `[n]`, and the number of correct
/// predictions.
pub fn cross_entropy(logits: &Tensor, labels: &[i64]) -> Result<(Tensor, usize)> {
    let n = labels.len();
    let target = Tensor::from_slice(labels, n, logits.device())?;
    let loss = candle_nn::loss::cross_entropy(logits, &target)?;
    let answers = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
    let right = answers.iter().zip(labels).filter(|(a, l)| i64::from(**a) == **l).count();
    Ok((loss, right))
}
