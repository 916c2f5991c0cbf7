//! The forward pass of a transformer block as commands. Norms, gates and residuals are at the
//! boundaries between branches ([`super::forward`] writes the boundary between two blocks).
//!
//! With a backward pass ([`super::block_backward`]) each block keeps, in numbers per token: the
//! stream at its entry (f32), both modulated norms, qkv before QK-norm, attention, both branch
//! outputs, the MLP's hidden rows before and after the activation. The stream between the branches
//! is computed again. Without one, all blocks use one space.

use super::arena::Arena;
use super::layers::{Linear, Weights};
use super::layout::Layout;
use crate::kernels::block::{GATE_ATTENTION, SHIFT_MLP};
use crate::models::sit::{MlpKind, NORM_EPS, NormKind, SiTConfig};
use candle_core::Result;
use erw_gpu::kernels::activation::{self, SwiGlu};
use erw_gpu::kernels::attention::Attention;
use erw_gpu::kernels::boundary::{self, Branch, GateNorm, Modulation, Shape, Table};
use erw_gpu::kernels::qk_norm_rope::{self, Norms, Steps, Tables};
use erw_gpu::program::{Address, Program, Type};

/// Sizes of a network's blocks for a batch.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Samples, tokens, width, and the type of products.
    pub stream: Shape,
    pub heads: usize,
    /// Width of the MLP between its layers.
    pub inner: usize,
    pub mlp: MlpKind,
}

impl Sizes {
    pub fn rows(&self) -> usize {
        self.stream.batch * self.stream.tokens
    }

    pub(super) fn head_dim(&self) -> usize {
        self.stream.width / self.heads
    }

    pub(super) fn ty(&self) -> Type {
        self.stream.ty
    }

    /// Outputs of the MLP's first layer.
    fn hidden(&self) -> usize {
        match self.mlp {
            MlpKind::Gelu => self.inner,
            MlpKind::SwiGlu => 2 * self.inner,
        }
    }

    pub(super) fn qk(&self) -> qk_norm_rope::Shape {
        let (rows, tokens) = (self.rows(), self.stream.tokens);
        qk_norm_rope::Shape { rows, tokens, heads: self.heads, dim: self.head_dim(), ty: self.ty() }
    }
}

/// Places of a block's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
    /// The MLP's layers.
    pub(super) first: Linear,
    pub(super) second: Linear,
    /// Weights of the RMSNorms before attention and before the MLP; a LayerNorm has none.
    pub(super) norms: Option<[usize; 2]>,
    pub(super) qk_norms: Option<QkNorms>,
}

/// Places of the parameters of the QK-norms, of q and of k.
#[derive(Debug, Clone, Copy)]
pub struct QkNorms {
    weights: [usize; 2],
    /// `None`: RMSNorms.
    biases: Option<[usize; 2]>,
}

impl QkNorms {
    /// The parameters, or their gradients.
    pub(super) fn addresses(self, at: impl Fn(usize) -> Address) -> Norms {
        let [q_bias, k_bias] = self.biases.map_or([Address::NULL; 2], |places| places.map(&at));
        let [q_weight, k_weight] = self.weights.map(&at);
        Norms { q_weight, q_bias, k_weight, k_bias }
    }
}

impl Parameters {
    pub fn find(layout: &Layout, config: &SiTConfig, block: usize) -> Result<Self> {
        let linear = |name: &str| Linear::find(layout, &format!("blocks.{block}.{name}"));
        let (first, second) = match config.mlp {
            MlpKind::Gelu => ("mlp.fc1", "mlp.fc2"),
            MlpKind::SwiGlu => ("mlp.w12", "mlp.w3"),
        };
        let two = |names: [&str; 2]| -> Result<[usize; 2]> {
            let place = |name: &str| layout.place(&format!("blocks.{block}.{name}")).map(|place| place.first);
            Ok([place(names[0])?, place(names[1])?])
        };
        let rms = config.norm == NormKind::Rms;
        let qk_norms = || -> Result<QkNorms> {
            let biases = if rms { None } else { Some(two(["attn.q_norm.bias", "attn.k_norm.bias"])?) };
            Ok(QkNorms { weights: two(["attn.q_norm.weight", "attn.k_norm.weight"])?, biases })
        };
        Ok(Self {
            qkv: linear("attn.qkv")?,
            proj: linear("attn.proj")?,
            first: linear(first)?,
            second: linear(second)?,
            norms: if rms { Some(two(["norm1.weight", "norm2.weight"])?) } else { None },
            qk_norms: if config.qk_norm { Some(qk_norms()?) } else { None },
        })
    }

    /// The bias of the block's last product, whose gradient the boundary behind it sums.
    pub fn last_bias(&self) -> usize {
        self.second.bias
    }
}

/// Where a block's results lie.
#[derive(Debug, Clone, Copy)]
pub struct Activations {
    /// The stream at the entry, f32 `[rows, D]`.
    pub x: Address,
    /// The stream between the branches, f32.
    pub between: Address,
    /// Normalised and modulated, before attention and before the MLP, with mean and 1 / deviation.
    pub h1: Address,
    pub stats1: Address,
    pub(super) h2: Address,
    stats2: Address,
    pub(super) qkv: Address,
    /// Queries, keys and values after QK-norm; `qkv` itself if that need not be kept.
    prepared: Address,
    pub(super) attended: Address,
    /// Null without a backward pass.
    log_sums: Address,
    /// Outputs of the two branches.
    y1: Address,
    pub y2: Address,
    /// The MLP's hidden rows before the activation; null for GELU without a backward pass.
    pub(super) hidden: Address,
    pub(super) active: Address,
}

/// Space that the blocks of a training share.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    between: Address,
    /// Null without QK-norm.
    prepared: Address,
}

impl Shared {
    pub fn new(s: &Sizes, qk_norm: bool, arena: &mut Arena) -> Self {
        let (rows, d) = (s.rows(), s.stream.width);
        let between = arena.take(rows * d, Type::F32);
        Self { between, prepared: if qk_norm { arena.take(3 * rows * d, s.ty()) } else { Address::NULL } }
    }
}

impl Activations {
    /// What a backward pass needs, but for the stream, which is at `x`.
    pub fn kept(s: &Sizes, x: Address, shared: &Shared, arena: &mut Arena) -> Self {
        let (rows, d, ty) = (s.rows(), s.stream.width, s.ty());
        let qkv = arena.take(3 * rows * d, ty);
        Self {
            x,
            between: shared.between,
            h1: arena.take(rows * d, ty),
            stats1: arena.take(2 * rows, Type::F32),
            h2: arena.take(rows * d, ty),
            stats2: arena.take(2 * rows, Type::F32),
            qkv,
            prepared: if shared.prepared == Address::NULL { qkv } else { shared.prepared },
            attended: arena.take(rows * d, ty),
            log_sums: arena.take(rows * s.heads, Type::F32),
            y1: arena.take(rows * d, ty),
            y2: arena.take(rows * d, ty),
            hidden: arena.take(rows * s.hidden(), ty),
            active: arena.take(rows * s.inner, ty),
        }
    }

    /// The least that a forward pass needs: one space for all blocks, in which a result takes the
    /// place of one that nobody reads any more. The stream changes in place.
    pub fn passing(s: &Sizes, arena: &mut Arena) -> Self {
        let (rows, d, ty) = (s.rows(), s.stream.width, s.ty());
        let x = arena.take(rows * d, Type::F32);
        let stats = arena.take(2 * rows, Type::F32);
        let (h, y) = (arena.take(rows * d, ty), arena.take(rows * d, ty));
        // The hidden rows of SwiGLU follow queries, keys and values.
        let gated = if s.mlp == MlpKind::SwiGlu { s.hidden() } else { 0 };
        let wide = arena.take(rows * gated.max(3 * d), ty);
        Self {
            x,
            between: x,
            h1: h,
            stats1: stats,
            h2: h,
            stats2: stats,
            qkv: wide,
            prepared: wide,
            attended: h,
            log_sums: Address::NULL,
            y1: y,
            y2: y,
            hidden: if gated > 0 { wide } else { Address::NULL },
            active: arena.take(rows * s.inner, ty),
        }
    }

    /// The same space with the stream elsewhere.
    pub fn with_stream(self, x: Address) -> Self {
        Self { x, ..self }
    }
}

/// Vectors of a block's modulation: shift, scale and gate of attention, then of the MLP.
pub const VECTORS: usize = 6;

/// A boundary between branches.
#[derive(Debug, Clone, Copy)]
pub struct Boundary {
    /// The branch above, if there is one.
    pub branch: Option<Branch>,
    pub modulation: Modulation,
    /// Place of the weight of an RMSNorm.
    pub weight: Option<usize>,
    /// The stream f32 before the branch above is added.
    pub x: Address,
    /// The stream behind it; null where nothing is written.
    pub x_out: Address,
    pub h: Address,
    pub stats: Address,
}

/// The commands of a network's blocks.
#[derive(Debug, Clone, Copy)]
pub struct Blocks {
    pub sizes: Sizes,
    pub weights: Weights,
    /// Of the norms of queries and keys.
    pub qk_eps: f64,
    /// Modulations `[B, width]` of all blocks.
    pub modulations: Table,
    /// Cosines and sines f32 `[tokens, head]`.
    pub rope: Option<Tables>,
}

impl Blocks {
    /// Shift and scale at place `vector` and the next, counted in vectors; of an RMSNorm with the place
    /// of its weight.
    pub fn modulation(&self, vector: usize, weight: Option<usize>) -> Modulation {
        let (d, weight) = (self.sizes.stream.width, weight.map(|place| self.weights.full(place)));
        Modulation { table: self.modulations, shift: vector * d, scale: (vector + 1) * d, weight }
    }

    /// A branch whose gate is at place `vector`.
    pub fn branch(&self, y: Address, vector: usize) -> Branch {
        Branch { y, gates: self.modulations, gate: vector * self.sizes.stream.width }
    }

    pub fn boundary(&self, program: &mut Program, b: &Boundary) -> Result<()> {
        let Boundary { x, branch, modulation, weight: _, x_out, h, stats } = *b;
        let launch = GateNorm { x, branch, modulation, x_out, h, stats, eps: NORM_EPS as f32 };
        program.launch(boundary::gate_norm_forward(self.sizes.stream, &launch)?);
        Ok(())
    }

    /// The boundary between attention and the MLP of block `i`.
    pub(super) fn middle(&self, i: usize, p: &Parameters, at: &Activations) -> Boundary {
        let weight = p.norms.map(|[_, second]| second);
        Boundary {
            branch: Some(self.branch(at.y1, VECTORS * i + GATE_ATTENTION)),
            modulation: self.modulation(VECTORS * i + SHIFT_MLP, weight),
            weight,
            x: at.x,
            x_out: at.between,
            h: at.h2,
            stats: at.stats2,
        }
    }

    /// Block `i` from its modulated norm `at.h1` to its output `at.y2`, which is not yet added to the
    /// stream `at.between`.
    pub fn forward(&self, program: &mut Program, i: usize, p: &Parameters, at: &Activations) -> Result<()> {
        let (rows, weights) = (self.sizes.rows(), &self.weights);
        weights.forward(program, &p.qkv, at.h1, at.qkv, rows)?;
        self.prepare(program, p, at)?;
        program.launch(self.attention(at).forward()?);
        weights.forward(program, &p.proj, at.attended, at.y1, rows)?;
        self.boundary(program, &self.middle(i, p, at))?;
        match self.sizes.mlp {
            MlpKind::Gelu => weights.forward_gelu(program, &p.first, at.h2, at.hidden, at.active, rows)?,
            MlpKind::SwiGlu => {
                weights.forward(program, &p.first, at.h2, at.hidden, rows)?;
                program.launch(activation::swiglu_forward(&self.swiglu(at), at.active)?);
            }
        }
        weights.forward(program, &p.second, at.active, at.y2, rows)?;
        Ok(())
    }

    /// QK-norm and rotary embedding, if there are any: from `at.qkv` to `at.prepared`.
    pub(super) fn prepare(&self, program: &mut Program, p: &Parameters, at: &Activations) -> Result<()> {
        if let Some(steps) = self.steps(p) {
            program.launch(qk_norm_rope::forward(self.sizes.qk(), &steps, at.qkv, at.prepared)?);
        }
        Ok(())
    }

    /// Whether the backward pass finds queries and keys as attention read them: rotated in place,
    /// not normalised elsewhere.
    pub(super) fn keeps_prepared(at: &Activations) -> bool {
        at.prepared == at.qkv
    }

    pub(super) fn steps(&self, p: &Parameters) -> Option<Steps> {
        let norms = p.qk_norms.map(|places| places.addresses(|first| self.weights.full(first)));
        (norms.is_some() || self.rope.is_some()).then_some(Steps { norms, rope: self.rope, eps: self.qk_eps as f32 })
    }

    pub(super) fn attention(&self, at: &Activations) -> Attention {
        let s = &self.sizes;
        Attention {
            qkv: at.prepared,
            out: at.attended,
            log_sums: at.log_sums,
            batch: s.stream.batch,
            tokens: s.stream.tokens,
            heads: s.heads,
            head_dim: s.head_dim(),
            ty: s.ty(),
        }
    }

    pub(super) fn swiglu(&self, at: &Activations) -> SwiGlu {
        SwiGlu { ty: self.sizes.ty(), x: at.hidden, rows: self.sizes.rows(), width: self.sizes.inner }
    }
}
