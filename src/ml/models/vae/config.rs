//! Configuration of an autoencoder: the fields of diffusers' `config.json` that describe the
//! network.

use crate::data::latent_scale::{Channels, LatentScale};
use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Configuration of an [`AutoencoderKl`](super::AutoencoderKl). Field names and defaults are those
/// of diffusers, so a downloaded `config.json` can be read unchanged; fields that do not describe
/// the network are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    /// One level per entry; each level but the last halves height and width.
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after encoding and divided by it before decoding. Older files
    /// of Stable Diffusion do not state it; theirs is 0.18215.
    #[serde(default = "sd_scaling_factor")]
    pub scaling_factor: f64,
    /// Subtracted before scaling; absent means 0.
    #[serde(default)]
    pub shift_factor: Option<f64>,
    /// Mean and standard deviation of each channel of latents, which are then (x - mean) / std times
    /// the scaling factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_mean: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents_std: Option<Vec<f64>>,
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    #[serde(default = "silu")]
    pub act_fn: String,
    #[serde(default)]
    pub down_block_types: Vec<String>,
    #[serde(default)]
    pub up_block_types: Vec<String>,
}

/// Types of levels, without and with attention.
const DOWN: [&str; 2] = ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"];
const UP: [&str; 2] = ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"];

fn sd_scaling_factor() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

fn silu() -> String {
    "silu".into()
}

impl VaeConfig {
    /// The usual network for RGB images, with a scaling factor of 1.
    pub fn rgb(
        block_out_channels: &[usize],
        layers_per_block: usize,
        latent_channels: usize,
        norm_num_groups: usize,
        mid_block_add_attention: bool,
    ) -> Self {
        let levels = block_out_channels.len();
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels,
            block_out_channels: block_out_channels.to_vec(),
            layers_per_block,
            norm_num_groups,
            scaling_factor: 1.0,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            mid_block_add_attention,
            use_quant_conv: true,
            use_post_quant_conv: true,
            act_fn: silu(),
            down_block_types: vec![DOWN[0].into(); levels],
            up_block_types: vec![UP[0].into(); levels],
        }
    }

    /// The autoencoder of LightningDiT, VA-VAE f16d32: latents of 16 x 16 x 32 for 256 pixels, and
    /// attention at 16 x 16. Its latents are normalised by channel, which is still to be stated.
    pub fn va_vae() -> Self {
        let mut config = Self::rgb(&[128, 128, 256, 256, 512], 2, 32, 32, true);
        config.down_block_types[4] = DOWN[1].into();
        config.up_block_types[0] = UP[1].into();
        config
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = erw_base::text::read(path)
            .map_err(|e| candle_core::Error::Msg(format!("cannot read {}: {e}", path.display())))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|e| candle_core::Error::Msg(format!("{} does not describe a VAE: {e}", path.display())))?;
        match config.check() {
            Ok(()) => Ok(config),
            Err(e) => bail!("{}: {e}", path.display()),
        }
    }

    /// Refuses options that this implementation does not support.
    pub fn check(&self) -> Result<()> {
        if self.block_out_channels.is_empty() || self.latent_channels == 0 {
            bail!("a VAE needs at least one level and one latent channel");
        }
        if self.norm_num_groups == 0 || self.block_out_channels.iter().any(|c| c % self.norm_num_groups != 0) {
            let (c, g) = (&self.block_out_channels, self.norm_num_groups);
            bail!("block_out_channels {c:?} do not divide into norm_num_groups = {g} groups");
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            bail!("act_fn `{}` is not supported, only `silu`", self.act_fn);
        }
        let levels = self.block_out_channels.len();
        for (types, known) in [(&self.down_block_types, &DOWN), (&self.up_block_types, &UP)] {
            if let Some(t) = types.iter().find(|t| !known.contains(&t.as_str())) {
                bail!("block type `{t}` is not supported, only `{}` and `{}`", known[0], known[1]);
            }
            if !types.is_empty() && types.len() != levels {
                bail!("{} block types {types:?} for {levels} levels", types.len());
            }
        }
        self.scale()?.check(self.latent_channels)
    }

    /// How a diffusion model sees the latents.
    ///
    /// # Errors
    /// A mean without a deviation, or the reverse.
    pub fn scale(&self) -> Result<LatentScale> {
        let channels = match (&self.latents_mean, &self.latents_std) {
            (None, None) => None,
            (Some(mean), Some(std)) => Some(Channels { mean: mean.clone(), std: std.clone() }),
            _ => bail!("latents_mean and latents_std go together"),
        };
        Ok(LatentScale { factor: self.scaling_factor, shift: self.shift_factor.unwrap_or(0.0), channels })
    }

    /// Whether each resnet of this level of the encoder is followed by attention, counted as
    /// `down_block_types` is.
    pub(super) fn attends_down(&self, level: usize) -> bool {
        self.down_block_types.get(level).is_some_and(|t| t == DOWN[1])
    }

    /// The same for the decoder, counted as `up_block_types` is.
    pub(super) fn attends_up(&self, level: usize) -> bool {
        self.up_block_types.get(level).is_some_and(|t| t == UP[1])
    }

    /// Pixels per latent along one axis.
    pub fn downsampling(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Channels of the innermost level.
    pub(super) fn deepest(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }
}
