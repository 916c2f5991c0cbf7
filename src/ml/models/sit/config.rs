//! Sizes and options of a SiT, as stored in `config.json` beside the weights.

use crate::models::projector::ProjectorKind;
use crate::one_or_many::OneOrMany;
use candle_core::{Result, Tensor, bail};
use candle_nn::Init;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The published names: four sizes with three patch sizes.
pub const NAMES: [&str; 12] = [
    "SiT-S/2", "SiT-S/4", "SiT-S/8", "SiT-B/2", "SiT-B/4", "SiT-B/8", "SiT-L/2", "SiT-L/4", "SiT-L/8", "SiT-XL/2",
    "SiT-XL/4", "SiT-XL/8",
];

/// The MLP of a block.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MlpKind {
    /// Two layers with a GELU in between (DiT, SiT).
    #[default]
    Gelu,
    /// A gated MLP with about as many parameters (LightningDiT, arXiv 2501.01423).
    SwiGlu,
}

/// The norm of tokens, and of queries and keys with QK-norm.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// LayerNorm, without weights where adaLN follows (DiT, SiT).
    #[default]
    Layer,
    /// RMSNorm with a weight (LightningDiT, arXiv 2501.01423).
    Rms,
}

/// Options that were added later are written only when they differ from the default. So older files
/// still read, and a network without the options is described in the same bytes.
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
    #[serde(default, skip_serializing_if = "is_default")]
    pub mlp: MlpKind,
    #[serde(default, skip_serializing_if = "is_default")]
    pub norm: NormKind,
    pub num_classes: usize,
    /// Probability of training on the null class instead; with 0 the class table has no null class.
    pub class_dropout: f64,
    /// Feature dimension of each aligned encoder.
    pub z_dims: Vec<usize>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub projector: ProjectorKind,
    /// Hidden width of the projectors.
    pub projector_dim: usize,
    /// Block, counted from 1, after which the projector of each encoder sits; a single value
    /// applies to all. In files a number or a list.
    #[serde(serialize_with = "write_depths", deserialize_with = "read_depths")]
    pub encoder_depth: Vec<usize>,
    pub rope: bool,
    pub qk_norm: bool,
    /// Width of the encoder's class token that is generated beside the latent (REG).
    #[serde(default, skip_serializing_if = "is_default")]
    pub class_token: Option<usize>,
    /// Block, counted from 1, behind which the head of SRA sits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub self_alignment: Option<usize>,
    /// Block, counted from 1, behind which the head of SRA 2 sits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub latent_alignment: Option<usize>,
    /// Keep this many blocks and no final layer: the network of the warmup.
    pub warmup_depth: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn write_depths<S: Serializer>(depths: &[usize], out: S) -> std::result::Result<S::Ok, S::Error> {
    match depths {
        [one] => one.serialize(out),
        many => many.serialize(out),
    }
}

fn read_depths<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<usize>, D::Error> {
    Ok(OneOrMany::deserialize(from)?.to_vec())
}

impl SiTConfig {
    /// The network of a published name, as SiT and REPA have it, for latents of these channels and
    /// this side, with a projector behind block `encoder_depth` for each feature dimension in
    /// `z_dims`.
    pub fn published(
        name: &str,
        [in_channels, input_size]: [usize; 2],
        num_classes: usize,
        z_dims: Vec<usize>,
        encoder_depth: usize,
    ) -> Result<Self> {
        let (hidden, depth, heads, patch_size) = Self::sizes(name)?;
        Ok(Self {
            input_size,
            in_channels,
            patch_size,
            hidden,
            depth,
            heads,
            mlp_ratio: 4.0,
            mlp: MlpKind::Gelu,
            norm: NormKind::Layer,
            num_classes,
            class_dropout: 0.1,
            z_dims,
            projector: ProjectorKind::Mlp,
            projector_dim: 2048,
            encoder_depth: vec![encoder_depth],
            rope: false,
            qk_norm: false,
            class_token: None,
            self_alignment: None,
            latent_alignment: None,
            warmup_depth: None,
        })
    }

    /// Hidden width, depth, heads and patch size of a published name such as `SiT-XL/2`.
    pub fn sizes(name: &str) -> Result<(usize, usize, usize, usize)> {
        let parts = name.strip_prefix("SiT-").and_then(|n| n.split_once('/'));
        let (hidden, depth, heads) = match parts.map(|(size, _)| size) {
            Some("S") => (384, 12, 6),
            Some("B") => (768, 12, 12),
            Some("L") => (1024, 24, 16),
            Some("XL") => (1152, 28, 16),
            _ => bail!("unknown model `{name}`; known: {}", NAMES.join(", ")),
        };
        match parts.map(|(_, patch)| patch) {
            Some("2") => Ok((hidden, depth, heads, 2)),
            Some("4") => Ok((hidden, depth, heads, 4)),
            Some("8") => Ok((hidden, depth, heads, 8)),
            _ => bail!("unknown model `{name}`; known: {}", NAMES.join(", ")),
        }
    }

    /// Checks the values. Errors name the value and say what it should be.
    pub fn check(&self) -> Result<()> {
        let Self { hidden, heads, patch_size, input_size, .. } = *self;
        if heads == 0 || hidden == 0 || hidden % heads != 0 {
            bail!("hidden {hidden} is not a multiple of heads {heads}");
        }
        if hidden % 4 != 0 {
            bail!("hidden {hidden} is not a multiple of 4, which the position table needs");
        }
        if patch_size == 0 || input_size == 0 || input_size % patch_size != 0 {
            bail!("the side of latents, {input_size}, is not a multiple of the patch size {patch_size}");
        }
        if self.rope && !self.head_dim().is_multiple_of(4) {
            bail!("RoPE in two dimensions needs a head dimension that is a multiple of 4, not {}", self.head_dim());
        }
        if self.depth == 0 || self.in_channels == 0 || self.num_classes == 0 || self.mlp_width() == 0 {
            bail!("depth, in_channels, num_classes and mlp_ratio must be above 0");
        }
        if self.warmup_depth == Some(0) {
            bail!("warmup_depth must be above 0");
        }
        if self.class_token.is_some() && self.rope {
            bail!("`rope` has no position for a class token: set `rope = false`");
        }
        if self.class_token.is_some() && self.projector == ProjectorKind::Conv3 {
            bail!("`projector = \"conv3\"` has no place for a class token on its grid");
        }
        if self.class_token.is_some() && self.warmup_depth.is_some() {
            bail!("a warmup has no class token");
        }
        for (name, block) in [("self_alignment", self.self_alignment), ("latent_alignment", self.latent_alignment)] {
            if let Some(bad) = block.filter(|d| !(1..=self.blocks()).contains(d)) {
                bail!("{name} {bad} is not one of the blocks 1 to {}", self.blocks());
            }
        }
        if self.z_dims.is_empty() {
            return Ok(());
        }
        if let Some(bad) = self.encoder_depth.iter().find(|d| !(1..=self.depth).contains(*d)) {
            bail!("encoder_depth {bad} is not one of the blocks 1 to {}", self.depth);
        }
        match (self.encoder_depth.len(), self.z_dims.len()) {
            (depths, encoders) if depths != 1 && depths != encoders => {
                bail!("encoder_depth has {depths} entries for {encoders} encoders")
            }
            _ => Ok(()),
        }
    }

    /// Patches per side.
    pub fn grid(&self) -> usize {
        self.input_size / self.patch_size
    }

    /// Numbers of a patch, and of its velocity.
    pub(super) fn patch_outputs(&self) -> usize {
        self.patch_size * self.patch_size * self.in_channels
    }

    /// Patches of a latent.
    pub fn tokens(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens of the blocks: patches, and in front of them that of the class token, if there is one.
    pub fn all_tokens(&self) -> usize {
        self.tokens() + usize::from(self.class_token.is_some())
    }

    /// Shape of what is generated: a latent `[C, S, S]`, or with a class token a row of the
    /// latent's numbers and those of the class token.
    pub fn state_shape(&self) -> Vec<usize> {
        let latent = [self.in_channels, self.input_size, self.input_size];
        match self.class_token {
            None => latent.to_vec(),
            Some(width) => vec![latent.iter().product::<usize>() + width],
        }
    }

    /// The latents `[B, C, S, S]` of states `[B, ..]`.
    pub fn latents_of(&self, states: &Tensor) -> Result<Tensor> {
        Ok(self.split(states)?.0)
    }

    /// The latents of states, and their class tokens `[B, Z]` if there are any.
    pub(crate) fn split(&self, states: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let Some(width) = self.class_token else { return Ok((states.clone(), None)) };
        let (b, all) = states.dims2()?;
        let latent = all.saturating_sub(width);
        let latents = states.narrow(1, 0, latent)?.reshape((b, self.in_channels, self.input_size, self.input_size))?;
        Ok((latents, Some(states.narrow(1, latent, width)?)))
    }

    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Hidden width of a block's MLP. Gated MLPs have 2/3 of it, truncated as in LightningDiT,
    /// because they have three matrices instead of two.
    pub fn mlp_width(&self) -> usize {
        let width = (self.hidden as f64 * self.mlp_ratio) as usize;
        match self.mlp {
            MlpKind::Gelu => width,
            MlpKind::SwiGlu => (2.0 / 3.0 * width as f64) as usize,
        }
    }

    /// Number of blocks that exist.
    pub fn blocks(&self) -> usize {
        self.warmup_depth.map_or(self.depth, |w| w.min(self.depth))
    }

    /// Block, counted from 1, whose output this encoder's projector gets.
    pub fn tap(&self, encoder: usize) -> usize {
        let depth = self.encoder_depth.get(encoder).or(self.encoder_depth.first());
        depth.map_or(self.blocks(), |d| (*d).min(self.blocks()))
    }

    /// Rows of the class table.
    pub fn table_rows(&self) -> usize {
        self.num_classes + usize::from(self.class_dropout > 0.0)
    }

    /// The index of the null class.
    pub fn null_class(&self) -> u32 {
        self.num_classes as u32
    }
}

pub(crate) const NORM_EPS: f64 = 1e-6;

pub(crate) const ZERO: Init = Init::Const(0.0);

pub(crate) const TABLE: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_from_before_the_switches_read_and_write_as_they_did() {
        let old = r#"{"input_size":4,"in_channels":4,"patch_size":2,"hidden":24,"depth":3,"heads":2,"mlp_ratio":4.0,"num_classes":5,"class_dropout":0.1,"z_dims":[10,12],"projector_dim":16,"encoder_depth":2,"rope":true,"qk_norm":true,"warmup_depth":null}"#;
        let config: SiTConfig = serde_json::from_str(old).unwrap();
        assert_eq!((config.mlp, config.norm, config.projector), Default::default());
        assert_eq!((config.tap(0), config.tap(1), config.mlp_width()), (2, 2, 96));
        assert_eq!(serde_json::to_string(&config).unwrap(), old);

        let mut new: serde_json::Value = serde_json::from_str(old).unwrap();
        new["encoder_depth"] = json!([3, 1]);
        new["mlp"] = json!("swiglu");
        new["norm"] = json!("rms");
        new["self_alignment"] = json!(1);
        new["latent_alignment"] = json!(2);
        new["projector"] = json!("conv3");
        let config: SiTConfig = serde_json::from_value(new.clone()).unwrap();
        config.check().unwrap();
        assert_eq!((config.tap(0), config.tap(1), config.mlp_width()), (3, 1, 64));
        assert_eq!(serde_json::to_value(&config).unwrap(), new);
        assert_eq!(SiTConfig { warmup_depth: Some(2), ..config.clone() }.tap(0), 2);

        let said = |depths: &[usize]| {
            let error = SiTConfig { encoder_depth: depths.to_vec(), ..config.clone() }.check().unwrap_err();
            // candle appends a backtrace if RUST_BACKTRACE is set.
            error.to_string().lines().next().unwrap_or_default().to_string()
        };
        assert_eq!(said(&[1, 4]), "encoder_depth 4 is not one of the blocks 1 to 3");
        assert_eq!(said(&[1, 2, 3]), "encoder_depth has 3 entries for 2 encoders");
        assert_eq!(said(&[]), "encoder_depth has 0 entries for 2 encoders");
    }

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
