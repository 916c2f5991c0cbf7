//! SiT, the scalable interpolant transformer (arXiv 2401.08740), with REPA's projectors (arXiv
//! 2410.06940).
//!
//! Parameter names are those of the published REPA and ERW checkpoints, so weights load without
//! renaming:
//!
//! ```text
//! x_embedder.proj             patch convolution, weight [D, C, p, p]
//! t_embedder.mlp.{0,2}        timestep MLP on a 256-wide sinusoid
//! y_embedder.embedding_table  class table; with class dropout its last row is the null class
//! pos_embed                   fixed sin/cos table [1, N, D]: in files, not trained
//! feat_rope.freqs_{cos,sin}   with RoPE, tables [N, D / heads]: in files, not trained
//! blocks.I.{attn.{qkv,proj,q_norm,k_norm},mlp.{fc1,fc2},adaLN_modulation.1}   gated: mlp.{w12,w3}
//! projectors.K.{0,2,4}        a convolution: projectors.K.projection_layer
//! final_layer.{linear,adaLN_modulation.1}   absent in the warmup variant
//! blocks.I.{norm1,norm2}, final_layer.norm_final   only with RMSNorm: weights [D], as in LightningDiT
//! ```
//!
//! This file does not know paths, losses or sampling.

mod block;
mod config;
pub mod convention;
mod embed;
pub mod release;
mod tables;

use super::projector::Projector;
use crate::nn::params::Tensors;
use crate::nn::precision::Precision;
use crate::nn::{self, Linear};
use block::{AdaptiveNorm, Block, chunks};
use candle_core::{Device, Result, Tensor, bail};
use candle_nn::{Module, VarBuilder};
pub(crate) use config::NORM_EPS;
pub use config::{MlpKind, NAMES, NormKind, SiTConfig};
use config::{TABLE, ZERO};
use embed::{PatchEmbed, TimeEmbed};

pub use tables::{rotary_2d, sincos_2d, timestep_sinusoid};

pub(crate) use block::QK_NORM_EPS;
pub use block::SavedActivations;

struct FinalLayer {
    norm: AdaptiveNorm,
    linear: Linear,
    modulation: Linear,
}

impl FinalLayer {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let outputs = cfg.patch_size * cfg.patch_size * cfg.in_channels;
        Ok(Self {
            norm: AdaptiveNorm::new(cfg, vb.pp("norm_final"))?,
            linear: nn::linear_with(cfg.hidden, outputs, ZERO, ZERO, vb.pp("linear"))?,
            modulation: nn::linear_with(cfg.hidden, 2 * cfg.hidden, ZERO, ZERO, vb.pp("adaLN_modulation.1"))?,
        })
    }

    fn forward(&self, x: &Tensor, c: &Tensor) -> Result<Tensor> {
        let [shift, scale] = chunks(&self.modulation.forward(c)?)?;
        self.linear.forward(&self.norm.forward(x, &shift, &scale)?)
    }
}

/// The network.
pub struct SiT {
    config: SiTConfig,
    x_embedder: PatchEmbed,
    t_embedder: TimeEmbed,
    y_table: Tensor,
    pos_embed: Tensor,
    rope: Option<(Tensor, Tensor)>,
    blocks: Vec<Block>,
    projectors: Vec<Projector>,
    final_layer: Option<FinalLayer>,
    keep: SavedActivations,
    precision: Precision,
}

impl SiT {
    /// Fixed tables come from the builder if it has them (a published file); otherwise they are
    /// computed.
    pub fn new(config: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let (d, grid) = (config.hidden, config.grid());
        let stored = |name: &str, make: &dyn Fn() -> Result<Tensor>| {
            if !vb.contains_tensor(name) {
                return make()?.to_dtype(vb.dtype())?.to_device(vb.device());
            }
            let made = make()?;
            vb.get(made.shape(), name)
        };
        let rope = if config.rope {
            let table =
                |which: usize| move || Ok(<[Tensor; 2]>::from(rotary_2d(config.head_dim(), grid)?)[which].clone());
            Some((stored("feat_rope.freqs_cos", &table(0))?, stored("feat_rope.freqs_sin", &table(1))?))
        } else {
            None
        };
        let blocks = (0..config.blocks()).map(|i| Block::new(config, vb.pp("blocks").pp(i))).collect::<Result<_>>()?;
        let projector = |(k, z): (usize, &usize)| {
            Projector::new(config.projector, d, config.projector_dim, *z, vb.pp("projectors").pp(k))
        };
        Ok(Self {
            x_embedder: PatchEmbed::new(config, vb.pp("x_embedder.proj"))?,
            t_embedder: TimeEmbed::new(d, vb.pp("t_embedder"))?,
            y_table: vb.get_with_hints((config.table_rows(), d), "y_embedder.embedding_table.weight", TABLE)?,
            pos_embed: stored("pos_embed", &|| sincos_2d(d, grid)?.unsqueeze(0))?,
            rope,
            blocks,
            projectors: config.z_dims.iter().enumerate().map(projector).collect::<Result<_>>()?,
            final_layer: match config.warmup_depth {
                None => Some(FinalLayer::new(config, vb.pp("final_layer"))?),
                Some(_) => None,
            },
            config: config.clone(),
            keep: SavedActivations::Everything,
            precision: Precision::F32,
        })
    }

    /// Chooses what blocks save for the backward pass. The gradients are the same.
    pub fn keeping(self, keep: SavedActivations) -> Self {
        Self { keep, ..self }
    }

    /// The same network with matrix products in another type. Weights, tokens between blocks and
    /// all results keep the type of the weights.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    pub fn config(&self) -> &SiTConfig {
        &self.config
    }

    /// The fixed tables by their names in files.
    pub fn buffers(&self) -> Tensors {
        let mut all = Tensors::from([("pos_embed".to_string(), self.pos_embed.clone())]);
        if let Some((cos, sin)) = &self.rope {
            all.insert("feat_rope.freqs_cos".into(), cos.clone());
            all.insert("feat_rope.freqs_sin".into(), sin.clone());
        }
        all
    }

    /// Velocity `[B, C, H, W]` at x `[B, C, H, W]`, times t `[B]` and classes y `[B]` (u32),
    /// without the projectors.
    pub fn velocity(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (tokens, c) = self.run(x, t, y, self.blocks.len(), &mut |_, _| Ok(()))?;
        self.finish(&tokens, &c)
    }

    /// Velocity, and for each projector the projections `[B, N, Z]` of the tokens after its block.
    pub fn forward(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let out = self.forward_with(x, t, y, &Also { projections: true, hidden: None })?;
        Ok((out.velocity, out.projections))
    }

    /// Velocity and the other outputs that `also` requests.
    pub fn forward_with(&self, x: &Tensor, t: &Tensor, y: &Tensor, also: &Also) -> Result<Forward> {
        let mut outputs = vec![];
        let (tokens, c) = self.run(x, t, y, self.blocks.len(), &mut |_, tokens| {
            outputs.push(tokens.clone());
            Ok(())
        })?;
        let hidden = also.hidden.and_then(|block| outputs.get(block.checked_sub(1)?).cloned());
        let projections = if also.projections { self.project(&outputs)? } else { vec![] };
        Ok(Forward { velocity: self.finish(&tokens, &c)?, projections, hidden })
    }

    /// Only the projections; later blocks are not run.
    pub fn projections(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Vec<Tensor>> {
        let depth = (0..self.projectors.len()).map(|k| self.config.tap(k)).max().unwrap_or(0);
        let mut outputs = vec![];
        self.run(x, t, y, depth, &mut |_, tokens| {
            outputs.push(tokens.clone());
            Ok(())
        })?;
        self.project(&outputs)
    }

    /// Tokens `[B, N, D]` after every block, for measuring representations.
    pub fn block_outputs(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Vec<Tensor>> {
        let mut all = vec![];
        self.run(x, t, y, self.blocks.len(), &mut |_, tokens| {
            all.push(tokens.clone());
            Ok(())
        })?;
        Ok(all)
    }

    /// Runs the first `depth` blocks and calls `show` with each one's number, counted from 1, and
    /// output. Returns the last tokens and the condition after its activation.
    fn run(
        &self,
        x: &Tensor,
        t: &Tensor,
        y: &Tensor,
        depth: usize,
        visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Tensor)> {
        let lower = |t: &Tensor| self.precision.lower(t);
        let mut tokens = self.wide(&self.x_embedder.forward(&lower(x)?)?)?.broadcast_add(&self.pos_embed)?;
        let time = self.wide(&self.t_embedder.forward(t, self.precision)?)?;
        let condition = (time + self.y_table.index_select(y, 0)?)?;
        let c = lower(&nn::silu(&condition)?)?;
        for (i, block) in self.blocks.iter().take(depth).enumerate() {
            tokens = block.forward(&tokens, &c, self.rope.as_ref(), self.keep)?;
            visit(i + 1, &tokens)?;
        }
        Ok((tokens, c))
    }

    /// The output of each projector from the outputs of the blocks, in order.
    fn project(&self, outputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let project = |(k, projector): (usize, &Projector)| match outputs.get(self.config.tap(k).saturating_sub(1)) {
            Some(tokens) => self.wide(&projector.forward(&self.precision.lower(tokens)?)?),
            None => bail!("projector {k} is not connected to a block"),
        };
        self.projectors.iter().enumerate().map(project).collect()
    }

    /// Cast to the type of the weights.
    fn wide(&self, t: &Tensor) -> Result<Tensor> {
        t.to_dtype(self.pos_embed.dtype())
    }

    fn finish(&self, tokens: &Tensor, c: &Tensor) -> Result<Tensor> {
        match &self.final_layer {
            Some(layer) => {
                unpatchify(&self.wide(&layer.forward(tokens, c)?)?, self.config.grid(), self.config.patch_size)
            }
            None => bail!("the warmup variant of SiT has no velocity"),
        }
    }
}

/// What [`SiT::forward_with`] computes besides the velocity.
#[derive(Debug, Clone, Copy)]
pub struct Also {
    pub projections: bool,
    /// Block, counted from 1, whose output to return.
    pub hidden: Option<usize>,
}

/// The outputs of [`SiT::forward_with`].
pub struct Forward {
    /// `[B, C, H, W]`
    pub velocity: Tensor,
    /// `[B, N, Z]` per projector, if requested.
    pub projections: Vec<Tensor>,
    /// Tokens `[B, N, D]`, if requested.
    pub hidden: Option<Tensor>,
}

/// Tokens `[B, g g, p p C]` to `[B, C, g p, g p]`.
fn unpatchify(tokens: &Tensor, grid: usize, patch: usize) -> Result<Tensor> {
    let (b, _, width) = tokens.dims3()?;
    let channels = width / patch / patch;
    tokens.reshape(&[b, grid, grid, patch, patch, channels][..])?.permute([0, 5, 1, 3, 2, 4].as_slice())?.reshape((
        b,
        channels,
        grid * patch,
        grid * patch,
    ))
}

/// Class indices for the model, replaced by the null class where `drop` is true.
pub fn drop_labels(labels: &[u32], drop: &[bool], null: u32, device: &Device) -> Result<Tensor> {
    let y: Vec<u32> = labels.iter().zip(drop).map(|(y, d)| if *d { null } else { *y }).collect();
    Tensor::new(y, device)
}
