//! Configuration of an autoencoder: the fields of diffusers' `config.json` that describe the
//! network.

use candle_core::{Result, Tensor, bail};
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
            mid_block_add_attention,
            use_quant_conv: true,
            use_post_quant_conv: true,
            act_fn: silu(),
            down_block_types: vec!["DownEncoderBlock2D".into(); levels],
            up_block_types: vec!["UpDecoderBlock2D".into(); levels],
        }
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
        let down = self.down_block_types.iter().find(|t| *t != "DownEncoderBlock2D");
        if let Some(t) = down.or(self.up_block_types.iter().find(|t| *t != "UpDecoderBlock2D")) {
            bail!("block type `{t}` is not supported, only `DownEncoderBlock2D` and `UpDecoderBlock2D`");
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor <= 0.0 {
            bail!("scaling_factor must be positive, not {}", self.scaling_factor);
        }
        Ok(())
    }

    /// Converts latents of a diffusion model to the decoder's input.
    pub fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        latents.affine(1.0 / self.scaling_factor, self.shift_factor.unwrap_or(0.0))
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
