//! Sizes and switches of a SiT, as stored in `config.json` beside the weights.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

/// The published names: four sizes in three patch sizes.
pub const NAMES: [&str; 12] = [
    "SiT-S/2", "SiT-S/4", "SiT-S/8", "SiT-B/2", "SiT-B/4", "SiT-B/8", "SiT-L/2", "SiT-L/4", "SiT-L/8", "SiT-XL/2",
    "SiT-XL/4", "SiT-XL/8",
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiTConfig {
    /// Side of the square latents.
    pub input_size: usize,
    pub in_channels: usize,
    pub patch_size: usize,
    pub hidden: usize,
    pub depth: usize,
    pub heads: usize,
    pub mlp_ratio: f64,
    pub num_classes: usize,
    /// Probability of training on the null class instead; 0 leaves the null class out of the table.
    pub class_dropout: f64,
    /// Feature dimension of each encoder aligned to.
    pub z_dims: Vec<usize>,
    /// Hidden width of the projectors.
    pub projector_dim: usize,
    /// Block, from 1, behind which the projectors sit.
    pub encoder_depth: usize,
    pub rope: bool,
    pub qk_norm: bool,
    /// Keep this many blocks and no final layer: the network of the warmup.
    pub warmup_depth: Option<usize>,
}

impl SiTConfig {
    /// Hidden width, depth, heads and patch size of a published name such as `SiT-XL/2`.
    pub fn sizes(name: &str) -> Result<(usize, usize, usize, usize)> {
        let parts = name.strip_prefix("SiT-").and_then(|n| n.split_once('/'));
        let (hidden, depth, heads) = match parts.map(|(size, _)| size) {
            Some("S") => (384, 12, 6),
            Some("B") => (768, 12, 12),
            Some("L") => (1024, 24, 16),
            Some("XL") => (1152, 28, 16),
            _ => bail!("unknown model {name}; there are {}", NAMES.join(", ")),
        };
        match parts.map(|(_, patch)| patch) {
            Some("2") => Ok((hidden, depth, heads, 2)),
            Some("4") => Ok((hidden, depth, heads, 4)),
            Some("8") => Ok((hidden, depth, heads, 8)),
            _ => bail!("unknown model {name}; there are {}", NAMES.join(", ")),
        }
    }

    /// Errors name the value and say what it should be.
    pub fn check(&self) -> Result<()> {
        let Self { hidden, heads, patch_size, input_size, .. } = *self;
        if heads == 0 || hidden == 0 || hidden % heads != 0 {
            bail!("hidden {hidden} is not a multiple of heads {heads}");
        }
        if hidden % 4 != 0 {
            bail!("hidden {hidden} is not a multiple of 4, which the position table needs");
        }
        if patch_size == 0 || input_size == 0 || input_size % patch_size != 0 {
            bail!("latents of side {input_size} do not divide into patches of {patch_size}");
        }
        if self.rope && self.head_dim() % 4 != 0 {
            bail!("RoPE in two dimensions needs a head dimension that is a multiple of 4, not {}", self.head_dim());
        }
        if self.depth == 0 || self.in_channels == 0 || self.num_classes == 0 || self.mlp_width() == 0 {
            bail!("depth, in_channels, num_classes and mlp_ratio must be above 0");
        }
        if self.warmup_depth == Some(0) {
            bail!("warmup depth must be above 0");
        }
        if !self.z_dims.is_empty() && !(1..=self.depth).contains(&self.encoder_depth) {
            bail!("encoder_depth {} is not one of the blocks 1 to {}", self.encoder_depth, self.depth);
        }
        Ok(())
    }

    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.input_size / self.patch_size
    }

    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    pub fn mlp_width(&self) -> usize {
        (self.hidden as f64 * self.mlp_ratio) as usize
    }

    /// Blocks that exist.
    pub fn blocks(&self) -> usize {
        self.warmup_depth.map_or(self.depth, |w| w.min(self.depth))
    }

    /// Block, from 1, whose output is projected.
    pub fn tap(&self) -> usize {
        self.encoder_depth.min(self.blocks())
    }

    /// Rows of the class table.
    pub fn table_rows(&self) -> usize {
        self.num_classes + usize::from(self.class_dropout > 0.0)
    }

    /// The index that stands for "no class".
    pub fn null_class(&self) -> u32 {
        self.num_classes as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_name_has_its_sizes() {
        for name in NAMES {
            SiTConfig::sizes(name).unwrap();
        }
        assert_eq!(SiTConfig::sizes("SiT-XL/2").unwrap(), (1152, 28, 16, 2));
        assert_eq!(SiTConfig::sizes("SiT-S/8").unwrap(), (384, 12, 6, 8));
        for bad in ["SiT-M/2", "SiT-XL/3", "SiT-XL", "xl/2"] {
            assert!(SiTConfig::sizes(bad).unwrap_err().to_string().contains(bad));
        }
    }
}
