//! Builds the configuration of a SiT from parameters, with the options of the papers.

use crate::support::sit_artifact::CUSTOM;
use erw_base::error::{Error, Result};
use erw_ml::models::projector::ProjectorKind;
use erw_ml::models::sit::{MlpKind, NormKind, SiTConfig};
use serde::Deserialize;

/// The parameters of the network, flattened into those of both phases.
#[derive(Debug, Deserialize)]
pub struct Architecture {
    model: String,
    hidden: Option<usize>,
    blocks: Option<usize>,
    heads: Option<usize>,
    patch_size: Option<usize>,
    rope: bool,
    qk_norm: bool,
    mlp: MlpKind,
    norm: NormKind,
    class_dropout: f64,
    projector: ProjectorKind,
    projector_dim: usize,
}

/// The blocks whose outputs a phase projects, and the block that it ends with.
#[derive(Debug, Clone)]
pub struct Depths {
    /// For each encoder, the block (counted from 1) whose output is projected; a single one applies
    /// to all.
    pub encoder: Vec<usize>,
    /// Whether the first encoder's class token is generated too.
    pub class_token: bool,
    /// Block whose output is aligned with the average's, if that is asked for.
    pub self_alignment: Option<usize>,
    /// Block whose output predicts the clean latents, if that is asked for.
    pub latent_alignment: Option<usize>,
    /// Number of blocks of a warmup; `None` for the full network.
    pub warmup: Option<usize>,
}

impl Architecture {
    /// The published name, or `CUSTOM`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Hidden width, blocks, heads, patch size.
    pub fn sizes(&self) -> Result<(usize, usize, usize, usize)> {
        let own =
            [("hidden", self.hidden), ("blocks", self.blocks), ("heads", self.heads), ("patch_size", self.patch_size)];
        if self.model != CUSTOM {
            if let Some((name, _)) = own.iter().find(|(_, value)| value.is_some()) {
                return Err(Error::usage(format!("`{name}` is given, but `model = \"{}\"` defines it", self.model))
                    .hint("only `model = \"custom\"` takes sizes"));
            }
            return SiTConfig::sizes(&self.model).map_err(|e| Error::usage(e.to_string()));
        }
        let needed = |i: usize| {
            let (name, value) = own[i];
            value.ok_or_else(|| Error::usage(format!("`model = \"custom\"` needs `{name}`")))
        };
        Ok((needed(0)?, needed(1)?, needed(2)?, needed(3)?))
    }

    /// The configuration for latents `[channels, side, side]`, `num_classes` classes and encoders
    /// with features of dimensions `z_dims`.
    pub(crate) fn network(
        &self,
        depths: Depths,
        channels: usize,
        side: usize,
        num_classes: usize,
        z_dims: Vec<usize>,
    ) -> Result<SiTConfig> {
        let (hidden, depth, heads, patch_size) = self.sizes()?;
        let class_token = z_dims.first().copied().filter(|_| depths.class_token);
        let config = SiTConfig {
            input_size: side,
            in_channels: channels,
            patch_size,
            hidden,
            depth,
            heads,
            mlp_ratio: 4.0,
            mlp: self.mlp,
            norm: self.norm,
            num_classes,
            class_dropout: self.class_dropout,
            z_dims,
            projector: self.projector,
            projector_dim: self.projector_dim,
            encoder_depth: depths.encoder,
            rope: self.rope,
            qk_norm: self.qk_norm,
            class_token,
            self_alignment: depths.self_alignment,
            latent_alignment: depths.latent_alignment,
            warmup_depth: depths.warmup,
        };
        config.check().map_err(|e| Error::usage(e.to_string()))?;
        Ok(config)
    }

    /// Checks what does not depend on the inputs, with latents whose side is a multiple of the
    /// patch size.
    pub fn check(&self, depths: Depths) -> Result<()> {
        let patch = self.sizes()?.3.max(1);
        let encoders = vec![1; depths.encoder.len()];
        self.network(depths, 4, 8 * patch, 1, encoders).map(drop)
    }
}
