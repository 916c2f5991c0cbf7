//! The Inception-v3 of FID: the network that Heusel et al. (2017) took from TensorFlow's release of
//! 2015-12-05, with the parameter names of its port in pytorch-fid
//! (`pt_inception-2015-12-05-6726825d.pth`).
//!
//! It is not torchvision's network: average pooling ignores the padding, the last block has max
//! pooling where the paper has average pooling, there are 1008 classes, and the weights differ.
//! Images of any size are resized to 299 x 299 pixels by one of the conventions of [`Mode`].
//! Forward only. It does not know metrics.

pub(crate) mod blocks;
mod input;

pub use input::{SIDE, prepare};

use super::feature_network::mode::Mode;
use super::feature_network::{FeatureNetwork, Outputs};
use super::state_dict;
use crate::kernels::avg_pool::{Pool, pool3x3};
use crate::nn::Linear;
use crate::nn::elsewhere::Elsewhere;
use crate::nn::params::{self, Adopted, Frozen, Tensors};
use blocks::{Mixed, POINT, Unit, mixed_a, mixed_b, mixed_c, mixed_d, mixed_e, same, valid};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Length of `pool_3`.
pub const DIM: usize = 2048;
/// The 1000 classes of ImageNet, and 8 that were never used.
pub const CLASSES: usize = 1008;
/// Channels of `Mixed_6d.branch1x1` (`mixed_6/conv` in the graph) that sFID uses.
const SPATIAL_CHANNELS: usize = 7;
/// Images that a thread passes through the network at a time: their data stays in its cache, and
/// threads synchronise only once. On 2 cores an image takes 32 ms this way, and 37 ms with all
/// threads on all images of a batch.
const TOGETHER: usize = 4;

pub const WEIGHTS_FILE: &str = "inception.safetensors";

/// `config.json` of an `inception` artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InceptionConfig {
    /// Always [`Inception::ARCH`].
    pub arch: String,
    /// The default preparation of images; a measurement may choose another.
    #[serde(default)]
    pub mode: Mode,
}

/// The network.
pub struct Inception {
    mode: Mode,
    /// Two 3x3 units and a padded one, then a pool.
    pub(crate) stem: [Unit; 3],
    /// A 1x1 and a 3x3 unit, then a pool.
    pub(crate) neck: [Unit; 2],
    /// `Mixed_5b` to `Mixed_6a`.
    pub(crate) early: Vec<Mixed>,
    /// `Mixed_6b` to `Mixed_6e`.
    pub(crate) middle: Vec<Mixed>,
    /// The branch that sFID uses, on the input of `Mixed_6d`.
    pub(crate) spatial: Unit,
    /// `Mixed_7a` to `Mixed_7c`.
    pub(crate) late: Vec<Mixed>,
    /// Without the bias, which the Inception Score leaves out.
    pub(crate) scores: Linear,
    network: Option<Elsewhere>,
}

impl Inception {
    /// The `arch` in `config.json`.
    pub const ARCH: &'static str = "fid-inception";
    /// Position of `Mixed_6d`, whose input sFID reads, counted from `Mixed_6b`.
    pub(crate) const MIXED_6D: usize = 2;

    pub fn new(mode: Mode, vb: VarBuilder) -> Result<Self> {
        let unit = |from, to, kernel, name: &str| Unit::new(from, to, kernel, vb.pp(name));
        let mixed = |name: &str| vb.pp(format!("Mixed_{name}"));
        let weight = vb.get((CLASSES, DIM), "fc.weight")?;
        let bias = vb.get(CLASSES, "fc.bias")?;
        let spatial = Unit::new(768, 192, POINT, mixed("6d").pp("branch1x1"))?;
        Ok(Self {
            mode,
            stem: [
                unit(3, 32, valid(2), "Conv2d_1a_3x3")?,
                unit(32, 32, valid(1), "Conv2d_2a_3x3")?,
                unit(32, 64, same(3, 3), "Conv2d_2b_3x3")?,
            ],
            neck: [unit(64, 80, POINT, "Conv2d_3b_1x1")?, unit(80, 192, valid(1), "Conv2d_4a_3x3")?],
            early: vec![
                mixed_a(192, 32, mixed("5b"))?,
                mixed_a(256, 64, mixed("5c"))?,
                mixed_a(288, 64, mixed("5d"))?,
                mixed_b(288, mixed("6a"))?,
            ],
            middle: vec![
                mixed_c(768, 128, mixed("6b"))?,
                mixed_c(768, 160, mixed("6c"))?,
                mixed_c(768, 160, mixed("6d"))?,
                mixed_c(768, 192, mixed("6e"))?,
            ],
            spatial: spatial.first_channels(SPATIAL_CHANNELS)?,
            late: vec![
                mixed_d(768, mixed("7a"))?,
                mixed_e(1280, Pool::Average, mixed("7b"))?,
                // Apparently a mistake, but all published values depend on it.
                mixed_e(2048, Pool::Max, mixed("7c"))?,
            ],
            scores: Linear::new(weight, bias.zeros_like()?),
            network: None,
        })
    }

    /// With a network that is computed elsewhere: from prepared images to what sFID reads `[n, 7, 17,
    /// 17]`, pooled features `[n, 2048, 1, 1]` and logits `[n, 1008, 1, 1]`.
    pub fn computed_by(self, network: Elsewhere) -> Self {
        Self { network: Some(network), ..self }
    }

    /// Reads an `inception` artifact. `mode` overrides that of its configuration.
    pub fn load(dir: &Path, mode: Option<Mode>, device: &Device) -> Result<Self> {
        let (config, file) = (dir.join("config.json"), dir.join(WEIGHTS_FILE));
        let of_config = |e: &dyn std::fmt::Display| {
            candle_core::Error::Msg(format!("{} does not describe Inception: {e}", config.display()))
        };
        let text = erw_base::text::read(&config).map_err(|e| of_config(&e))?;
        let cfg: InceptionConfig = serde_json::from_str(&text).map_err(|e| of_config(&e))?;
        Self::from_tensors(mode.unwrap_or(cfg.mode), params::load(&file, device)?, device)
            .map_err(|e| candle_core::Error::Msg(format!("{}: {e}", file.display())))
    }

    /// From loaded tensors, which must be exactly those of this network, and finite.
    pub fn from_tensors(mode: Mode, tensors: Tensors, device: &Device) -> Result<Self> {
        for (name, tensor) in &tensors {
            let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
            if !sum.is_finite() {
                bail!("tensor {name} holds values that are not finite");
            }
        }
        let frozen = Frozen::new(tensors);
        let net = Self::new(mode, frozen.builder(DType::F32, device))?;
        let unused = frozen.unused();
        match unused.first() {
            None => Ok(net),
            Some(first) => bail!("{} tensors do not belong to Inception, such as {first}", unused.len()),
        }
    }

    /// All outputs for prepared images f32 `[n, 3, 299, 299]`.
    pub fn forward(&self, x: &Tensor) -> Result<Outputs> {
        // Height, width, channel: TensorFlow's order.
        let flat = |spatial: &Tensor| spatial.permute((0, 2, 3, 1))?.contiguous()?.flatten_from(1);
        if let Some(network) = &self.network {
            let [spatial, pool, logits] = network.all(x)?;
            let (pool, logits) = (pool.flatten_from(1)?, logits.flatten_from(1)?);
            return Ok(Outputs { pool, spatial: Some(flat(&spatial)?), logits: Some(logits) });
        }
        let run = |blocks: &[Mixed], x: Tensor| blocks.iter().try_fold(x, |x, b| b.forward(&x));
        let units = |units: &[Unit], x: &Tensor| units.iter().try_fold(x.clone(), |x, u| u.forward(&x));
        let x = pool3x3(&units(&self.stem, x)?, Pool::MaxHalving)?;
        let x = pool3x3(&units(&self.neck, &x)?, Pool::MaxHalving)?;
        let x = run(&self.middle[..Self::MIXED_6D], run(&self.early, x)?)?;
        let spatial = flat(&self.spatial.forward(&x)?)?;
        let x = run(&self.late, run(&self.middle[Self::MIXED_6D..], x)?)?;
        let pool = x.flatten_from(2)?.mean(D::Minus1)?;
        let logits = self.scores.forward(&pool)?;
        Ok(Outputs { pool, spatial: Some(spatial), logits: Some(logits) })
    }
}

impl FeatureNetwork for Inception {
    fn name(&self) -> &str {
        Self::ARCH
    }

    fn preparation(&self) -> &str {
        input::describe(self.mode)
    }

    fn mode(&self) -> Option<Mode> {
        Some(self.mode)
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn outputs(&self, images_u8: &Tensor) -> Result<Outputs> {
        let count = images_u8.dim(0)?;
        if count == 0 {
            bail!("cannot compute features of an empty batch");
        }
        let together = if images_u8.device().is_cpu() && self.network.is_none() { TOGETHER } else { count };
        let starts: Vec<usize> = (0..count).step_by(together).collect();
        let part = |start: &usize| {
            self.forward(&prepare(self.mode, &images_u8.narrow(0, *start, together.min(count - start))?)?)
        };
        // A part alone stays in this thread, which may hold a GPU.
        match starts[..] {
            [only] => part(&only),
            _ => joined(&starts.par_iter().map(part).collect::<Result<Vec<_>>>()?),
        }
    }
}

fn joined(parts: &[Outputs]) -> Result<Outputs> {
    let all = |field: fn(&Outputs) -> Option<&Tensor>| {
        let tensors: Vec<&Tensor> = parts.iter().filter_map(field).collect();
        if tensors.is_empty() { Ok(None) } else { Tensor::cat(&tensors, 0).map(Some) }
    };
    let Some(pool) = all(|o| Some(&o.pool))? else { bail!("no outputs to join") };
    Ok(Outputs { pool, spatial: all(|o| o.spatial.as_ref())?, logits: all(|o| o.logits.as_ref())? })
}

/// The first layer.
pub const LANDMARKS: &[&str] = &["Conv2d_1a_3x3.conv.weight"];

/// The tensors of a file in the layout of pytorch-fid, without counters of training batches and
/// torchvision's auxiliary classifier.
pub fn adopt(file: Tensors) -> Result<Adopted> {
    let inside = state_dict::network(file, LANDMARKS)?;
    let mut adopted = Adopted { dropped: inside.beside.into_keys().collect(), ..Adopted::default() };
    for (name, (theirs, tensor)) in inside.tensors {
        if name.ends_with(".num_batches_tracked") || name.starts_with("AuxLogits.") {
            adopted.dropped.push(theirs);
            continue;
        }
        adopted.tensors.insert(name.clone(), tensor.to_dtype(DType::F32)?.contiguous()?);
        if name != theirs {
            adopted.renamed.insert(name, theirs);
        }
    }
    Ok(adopted)
}
