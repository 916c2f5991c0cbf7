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
//! ap_head.linear{1,2}         the head of SRA (arXiv 2505.02831)
//! latent_head.{0,2,4,6,8}     the head of SRA 2 (arXiv 2601.17830)
//! cls_projectors2, wg_norm, final_layer.linear_cls   a class token beside the patches (REG, arXiv 2507.01467)
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

use super::projector::{LatentHead, Projector, SelfAlignmentHead};
use crate::nn::params::{Frozen, Tensors};
use crate::nn::precision::Precision;
use crate::nn::{self, LayerNorm, Linear};
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
    /// To the velocity of the class token.
    linear_cls: Option<Linear>,
    modulation: Linear,
}

impl FinalLayer {
    fn new(cfg: &SiTConfig, vb: VarBuilder) -> Result<Self> {
        let outputs = cfg.patch_outputs();
        Ok(Self {
            norm: AdaptiveNorm::new(cfg, vb.pp("norm_final"))?,
            linear: nn::linear_with(cfg.hidden, outputs, ZERO, ZERO, vb.pp("linear"))?,
            linear_cls: match cfg.class_token {
                Some(width) => Some(nn::linear_with(cfg.hidden, width, ZERO, ZERO, vb.pp("linear_cls"))?),
                None => None,
            },
            modulation: nn::linear_with(cfg.hidden, 2 * cfg.hidden, ZERO, ZERO, vb.pp("adaLN_modulation.1"))?,
        })
    }

    /// Patches `[B, N, p p C]`, and with a class token its velocity `[B, Z]`.
    fn forward(&self, x: &Tensor, c: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let [shift, scale] = chunks(&self.modulation.forward(c)?)?;
        let x = self.norm.forward(x, &shift, &scale)?;
        let Some(linear_cls) = &self.linear_cls else { return Ok((self.linear.forward(&x)?, None)) };
        let class = linear_cls.forward(&x.narrow(1, 0, 1)?.contiguous()?)?.squeeze(1)?;
        let patches = x.narrow(1, 1, x.dim(1)?.saturating_sub(1))?.contiguous()?;
        Ok((self.linear.forward(&patches)?, Some(class)))
    }
}

/// What makes the class token of an encoder a token of the network.
struct ClassTokenEmbed {
    linear: Linear,
    norm: LayerNorm,
}

impl ClassTokenEmbed {
    fn new(width: usize, cfg: &SiTConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            linear: nn::linear(width, cfg.hidden, vb.pp("cls_projectors2"))?,
            norm: LayerNorm::new(cfg.hidden, NORM_EPS, true, vb.pp("wg_norm"))?,
        })
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
    ap_head: Option<SelfAlignmentHead>,
    latent_head: Option<LatentHead>,
    class_embedder: Option<ClassTokenEmbed>,
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
            pos_embed: stored("pos_embed", &|| {
                let patches = sincos_2d(d, grid)?.unsqueeze(0)?;
                match config.class_token {
                    // The class token is at no place.
                    Some(_) => Tensor::cat(&[&patches.narrow(1, 0, 1)?.zeros_like()?, &patches], 1),
                    None => Ok(patches),
                }
            })?,
            class_embedder: config.class_token.map(|z| ClassTokenEmbed::new(z, config, &vb)).transpose()?,
            rope,
            blocks,
            projectors: config.z_dims.iter().enumerate().map(projector).collect::<Result<_>>()?,
            ap_head: config.self_alignment.map(|_| SelfAlignmentHead::new(d, vb.pp("ap_head"))).transpose()?,
            latent_head: match config.latent_alignment {
                Some(_) => Some(LatentHead::new(d, config.patch_outputs(), vb.pp("latent_head"))?),
                None => None,
            },
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

    /// A network like this one with other weights, given by name.
    pub fn with_weights(&self, weights: &Tensors) -> Result<Self> {
        let mut tensors = weights.clone();
        tensors.extend(self.buffers());
        let vb = Frozen::new(tensors).builder(self.pos_embed.dtype(), self.pos_embed.device());
        Ok(Self::new(&self.config, vb)?.with_precision(self.precision))
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

    /// Velocity in the shape of states x `[B, ..]` ([`SiTConfig::state_shape`]) at times t `[B]` and
    /// classes y `[B]` (u32), without the projectors.
    pub fn velocity(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (latents, class_token) = self.config.split(x)?;
        let point = (&latents, class_token.as_ref());
        let (tokens, c) = self.run(point, t, y, self.blocks.len(), &mut |_, _| Ok(()))?;
        match self.finish(&tokens, &c)? {
            (velocity, None) => Ok(velocity),
            (velocity, Some(class)) => Tensor::cat(&[velocity.flatten_from(1)?, class], 1),
        }
    }

    /// Velocity, and for each projector the projections `[B, N, Z]` of the tokens after its block.
    pub fn forward(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let out = self.forward_with(x, t, y, &Also { projections: true, ..Also::default() })?;
        Ok((out.velocity, out.projections))
    }

    /// Velocity and the other outputs that `also` requests.
    pub fn forward_with(&self, x: &Tensor, t: &Tensor, y: &Tensor, also: &Also) -> Result<Forward> {
        let mut states = vec![];
        let (tokens, c) = self.run((x, also.class_token), t, y, self.blocks.len(), &mut |_, tokens| {
            states.push(tokens.clone());
            Ok(())
        })?;
        let attention = also.attention.iter().map(|block| self.attention_scores(&states, &c, *block));
        let attention = attention.collect::<Result<_>>()?;
        let outputs = &states[1..];
        let hidden = also.hidden.and_then(|block| outputs.get(block.checked_sub(1)?).cloned());
        let projections = if also.projections { self.project(outputs)? } else { vec![] };
        let student = if also.student { Some(self.student(outputs)?) } else { None };
        let latents = if also.latents { Some(self.latents(outputs)?) } else { None };
        let (velocity, class_velocity) = self.finish(&tokens, &c)?;
        Ok(Forward { velocity, class_velocity, projections, hidden, student, latents, attention })
    }

    /// Only the projections; later blocks are not run.
    pub fn projections(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Vec<Tensor>> {
        let depth = (0..self.projectors.len()).map(|k| self.config.tap(k)).max().unwrap_or(0);
        let mut states = vec![];
        self.run((x, None), t, y, depth, &mut |_, tokens| {
            states.push(tokens.clone());
            Ok(())
        })?;
        self.project(&states[1..])
    }

    /// Tokens `[B, N, D]` after block `block`, counted from 1; later blocks are not run.
    pub fn block_output(&self, x: &Tensor, t: &Tensor, y: &Tensor, block: usize) -> Result<Tensor> {
        Ok(self.run((x, None), t, y, block, &mut |_, _| Ok(()))?.0)
    }

    /// Tokens of the patches `[B, N, D]` after every block, for measuring representations, of states x
    /// as in [`velocity`](Self::velocity). The token that is made of a class token is not among them.
    pub fn block_outputs(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Vec<Tensor>> {
        let (latents, class_token) = self.config.split(x)?;
        let first = usize::from(class_token.is_some());
        let mut all = vec![];
        self.run((&latents, class_token.as_ref()), t, y, self.blocks.len(), &mut |block, tokens| {
            if block > 0 {
                all.push(tokens.narrow(1, first, tokens.dim(1)? - first)?);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Runs the first `depth` blocks and calls `visit` with each one's number, counted from 1, and
    /// output, and before them with 0 and the embedded tokens.
    ///
    /// Returns the last tokens and the condition after its activation.
    fn run(
        &self,
        (x, class_token): (&Tensor, Option<&Tensor>),
        t: &Tensor,
        y: &Tensor,
        depth: usize,
        visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Tensor)> {
        let lower = |t: &Tensor| self.precision.lower(t);
        let mut tokens = self.wide(&self.x_embedder.forward(&lower(x)?)?)?;
        match (&self.class_embedder, class_token) {
            (None, None) => {}
            (Some(embedder), Some(class)) => {
                let class = embedder.norm.forward(&self.wide(&embedder.linear.forward(&lower(class)?)?)?)?;
                tokens = Tensor::cat(&[class.unsqueeze(1)?, tokens], 1)?;
            }
            (Some(_), None) => bail!("this network needs the class token of an encoder beside each latent"),
            (None, Some(_)) => bail!("this network takes no class token"),
        }
        tokens = tokens.broadcast_add(&self.pos_embed)?;
        let time = self.wide(&self.t_embedder.forward(t, self.precision)?)?;
        let condition = (time + self.y_table.index_select(y, 0)?)?;
        let c = lower(&nn::silu(&condition)?)?;
        visit(0, &tokens)?;
        for (i, block) in self.blocks.iter().take(depth).enumerate() {
            tokens = block.forward(&tokens, &c, self.rope.as_ref(), self.keep)?;
            visit(i + 1, &tokens)?;
        }
        Ok((tokens, c))
    }

    /// The attention scores of a block, counted from 1, from the tokens before all blocks and
    /// behind each.
    fn attention_scores(&self, states: &[Tensor], c: &Tensor, block: usize) -> Result<Tensor> {
        match block.checked_sub(1).and_then(|i| Some((states.get(i)?, self.blocks.get(i)?))) {
            Some((tokens, block)) => block.attention_scores(tokens, c, self.rope.as_ref()),
            None => bail!("block {block} is not one of the blocks 1 to {}", self.blocks.len()),
        }
    }

    /// What the head of SRA makes of the outputs of the blocks, in order.
    fn student(&self, outputs: &[Tensor]) -> Result<Tensor> {
        let block = self.config.self_alignment.and_then(|block| outputs.get(block.checked_sub(1)?));
        match (&self.ap_head, block) {
            (Some(head), Some(tokens)) => self.wide(&head.forward(&self.precision.lower(tokens)?)?),
            _ => bail!("the network has no head for self-alignment"),
        }
    }

    /// The clean latents as the head of SRA 2 makes them of the outputs of the blocks, in order.
    fn latents(&self, outputs: &[Tensor]) -> Result<Tensor> {
        let block = self.config.latent_alignment.and_then(|block| outputs.get(block.checked_sub(1)?));
        match (&self.latent_head, block) {
            (Some(head), Some(tokens)) => {
                let patches = self.wide(&head.forward(&self.precision.lower(tokens)?)?)?;
                unpatchify(&patches, self.config.grid(), self.config.patch_size)
            }
            _ => bail!("the network has no head for the alignment with latents"),
        }
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

    /// Velocities of latents and, if there are any, of class tokens.
    fn finish(&self, tokens: &Tensor, c: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        match &self.final_layer {
            Some(layer) => {
                let (patches, class) = layer.forward(tokens, c)?;
                let velocity = unpatchify(&self.wide(&patches)?, self.config.grid(), self.config.patch_size)?;
                Ok((velocity, class.map(|class| self.wide(&class)).transpose()?))
            }
            None => bail!("the warmup variant of SiT has no velocity"),
        }
    }
}

/// What [`SiT::forward_with`] computes besides the velocity.
#[derive(Debug, Clone, Copy, Default)]
pub struct Also<'a> {
    pub projections: bool,
    /// Block, counted from 1, whose output to return.
    pub hidden: Option<usize>,
    /// The output of the head of SRA.
    pub student: bool,
    /// The output of the head of SRA 2.
    pub latents: bool,
    /// Blocks, counted from 1, whose attention scores to return.
    pub attention: &'a [usize],
    /// Noised class tokens `[B, Z]`, for a network that has one.
    pub class_token: Option<&'a Tensor>,
}

/// The outputs of [`SiT::forward_with`].
pub struct Forward {
    /// `[B, C, H, W]`
    pub velocity: Tensor,
    /// Of the class tokens, `[B, Z]`.
    pub class_velocity: Option<Tensor>,
    /// `[B, N, Z]` per projector, if requested.
    pub projections: Vec<Tensor>,
    /// Tokens `[B, N, D]`, if requested.
    pub hidden: Option<Tensor>,
    /// What SRA's head makes of its block's tokens, `[B, N, D]`, if requested.
    pub student: Option<Tensor>,
    /// The clean latents as SRA 2's head predicts them, `[B, C, H, W]`, if requested.
    pub latents: Option<Tensor>,
    /// Scores f32 `[B, H, N, N]` of each requested block.
    pub attention: Vec<Tensor>,
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
