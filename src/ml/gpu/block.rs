//! A transformer block as commands, forward and backward. Norms, gates and residuals are at the
//! boundaries between branches ([`super::sit`] writes the boundary between two blocks).
//!
//! Kept for the backward pass, in numbers per token: the stream at the block's entry (f32), both
//! modulated norms, qkv before QK-norm, attention, both branch outputs, the MLP's hidden rows before
//! and after the activation. The stream between the branches is computed again.

use super::arena::Arena;
use super::layers::{Layers, Linear};
use super::layout::Layout;
use crate::kernels::block::{GATE_ATTENTION, SHIFT_MLP};
use crate::models::sit::{MlpKind, NORM_EPS, QK_NORM_EPS, SiTConfig};
use candle_core::Result;
use erw_gpu::kernels::activation::{self, SwiGlu};
use erw_gpu::kernels::attention::Attention;
use erw_gpu::kernels::boundary::{self, Branch, BranchBackward, GateNorm, GateSums, Modulation, NormGate, PartialSums};
use erw_gpu::kernels::boundary::{Shape, Table};
use erw_gpu::kernels::qk_norm_rope::{self, Norms, Steps, Tables};
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// Sizes of a network's blocks for a micro-batch.
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

    fn head_dim(&self) -> usize {
        self.stream.width / self.heads
    }

    fn ty(&self) -> Type {
        self.stream.ty
    }

    /// Outputs of the MLP's first layer.
    fn hidden(&self) -> usize {
        match self.mlp {
            MlpKind::Gelu => self.inner,
            MlpKind::SwiGlu => 2 * self.inner,
        }
    }

    fn qk(&self) -> qk_norm_rope::Shape {
        let (rows, tokens) = (self.rows(), self.stream.tokens);
        qk_norm_rope::Shape { rows, tokens, heads: self.heads, dim: self.head_dim(), ty: self.ty() }
    }
}

/// Places of a block's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    qkv: Linear,
    proj: Linear,
    /// The MLP's layers.
    first: Linear,
    second: Linear,
    /// Of the QK-norms: weight and bias of q, then of k.
    norms: Option<[usize; 4]>,
}

impl Parameters {
    pub fn find(layout: &Layout, config: &SiTConfig, block: usize) -> Result<Self> {
        let linear = |name: &str| Linear::find(layout, &format!("blocks.{block}.{name}"));
        let (first, second) = match config.mlp {
            MlpKind::Gelu => ("mlp.fc1", "mlp.fc2"),
            MlpKind::SwiGlu => ("mlp.w12", "mlp.w3"),
        };
        let norm = |name: &str| layout.place(&format!("blocks.{block}.attn.{name}")).map(|place| place.first);
        let norms = || -> Result<[usize; 4]> {
            Ok([norm("q_norm.weight")?, norm("q_norm.bias")?, norm("k_norm.weight")?, norm("k_norm.bias")?])
        };
        Ok(Self {
            qkv: linear("attn.qkv")?,
            proj: linear("attn.proj")?,
            first: linear(first)?,
            second: linear(second)?,
            norms: if config.qk_norm { Some(norms()?) } else { None },
        })
    }

    /// The bias of the block's last product, whose gradient the boundary behind it sums.
    pub fn last_bias(&self) -> usize {
        self.second.bias
    }
}

/// What a block keeps for its backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// The stream at the entry, f32 `[rows, D]`.
    pub x: Address,
    /// Normalised and modulated, before attention and before the MLP, with mean and 1 / deviation.
    pub h1: Address,
    pub stats1: Address,
    h2: Address,
    stats2: Address,
    qkv: Address,
    attended: Address,
    log_sums: Address,
    /// Outputs of the two branches.
    y1: Address,
    pub y2: Address,
    hidden: Address,
    active: Address,
}

impl Kept {
    /// All but the stream, which is at `x`.
    pub fn new(s: &Sizes, x: Address, arena: &mut Arena) -> Self {
        let (rows, d, ty) = (s.rows(), s.stream.width, s.ty());
        Self {
            x,
            h1: arena.take(rows * d, ty),
            stats1: arena.take(2 * rows, Type::F32),
            h2: arena.take(rows * d, ty),
            stats2: arena.take(2 * rows, Type::F32),
            qkv: arena.take(3 * rows * d, ty),
            attended: arena.take(rows * d, ty),
            log_sums: arena.take(rows * s.heads, Type::F32),
            y1: arena.take(rows * d, ty),
            y2: arena.take(rows * d, ty),
            hidden: arena.take(rows * s.hidden(), ty),
            active: arena.take(rows * s.inner, ty),
        }
    }
}

impl Kept {
    /// The same space with the stream elsewhere.
    pub fn with_stream(self, x: Address) -> Self {
        Self { x, ..self }
    }
}

/// Space that blocks share.
#[derive(Debug, Clone, Copy)]
pub struct Scratch {
    /// The stream between a block's branches, f32.
    pub between: Address,
    /// Queries, keys and values after QK-norm; null without.
    prepared: Address,
    /// The gradient of the stream, f32.
    pub dx: Address,
    /// Gradients: of a modulated norm, of a branch's output, of attention.
    pub dh: Address,
    pub dy: Address,
    dattended: Address,
    delta: Address,
    dqkv: Address,
    dactive: Address,
    /// Those of the hidden rows; of `dactive` with GELU.
    dhidden: Address,
    /// Partial sums, f32: of boundaries and of QK-norms.
    pub partial: Address,
    qk_partial: Address,
    pub bias_of_sample: Address,
}

impl Scratch {
    pub fn new(s: &Sizes, qk_norm: bool, arena: &mut Arena) -> Self {
        let (rows, d, ty) = (s.rows(), s.stream.width, s.ty());
        let dactive = arena.take(rows * s.inner, ty);
        let some = |count: usize, ty, arena: &mut Arena| if count > 0 { arena.take(count, ty) } else { Address::NULL };
        let qk = usize::from(qk_norm);
        Self {
            between: arena.take(rows * d, Type::F32),
            prepared: some(qk * 3 * rows * d, ty, arena),
            dx: arena.take(rows * d, Type::F32),
            dh: arena.take(rows * d, ty),
            dy: arena.take(rows * d, ty),
            dattended: arena.take(rows * d, ty),
            delta: arena.take(rows * s.heads, Type::F32),
            dqkv: arena.take(3 * rows * d, ty),
            dactive,
            dhidden: match s.mlp {
                MlpKind::Gelu => dactive,
                MlpKind::SwiGlu => arena.take(2 * rows * s.inner, ty),
            },
            partial: arena.take(boundary::partial_len(s.stream), Type::F32),
            qk_partial: some(qk * qk_norm_rope::backward_blocks(s.qk()) * 4 * s.head_dim(), Type::F32, arena),
            bias_of_sample: arena.take(s.stream.batch * d, Type::F32),
        }
    }
}

/// Modulations `[B, width]` of all blocks, and their gradients.
#[derive(Debug, Clone, Copy)]
pub struct Modulations {
    pub table: Table,
    pub gradients: Address,
}

impl Modulations {
    /// Shift and scale at place `vector` and the next, counted in vectors.
    pub fn modulation(&self, s: &Sizes, vector: usize) -> Modulation {
        let d = s.stream.width;
        Modulation { table: self.table, shift: vector * d, scale: (vector + 1) * d }
    }

    pub fn branch(&self, s: &Sizes, y: Address, vector: usize) -> Branch {
        Branch { y, gates: self.table, gate: vector * s.stream.width }
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
    pub layers: Layers,
    pub scratch: Scratch,
    pub modulations: Modulations,
    /// Cosines and sines f32 `[tokens, head]`.
    pub rope: Option<Tables>,
}

impl Blocks {
    pub fn boundary(&self, program: &mut Program, b: &Boundary) -> Result<()> {
        let Boundary { x, branch, modulation, x_out, h, stats } = *b;
        let launch = GateNorm { x, branch, modulation, x_out, h, stats, eps: NORM_EPS as f32 };
        program.launch(boundary::gate_norm_forward(self.sizes.stream, &launch)?);
        Ok(())
    }

    /// The backward pass of a boundary: the gradient of the stream in place, that of the branch
    /// above to `scratch.dy`, those of its modulation, its gate, and the bias at `bias` that was
    /// added to its branch.
    pub fn boundary_backward(
        &self,
        program: &mut Program,
        b: &Boundary,
        bias: Option<usize>,
        begins: bool,
        again: bool,
    ) -> Result<()> {
        let (s, scratch) = (self.sizes.stream, &self.scratch);
        let stream = if again || b.branch.is_none() { b.x } else { b.x_out };
        program.launch(boundary::norm_gate_backward(
            s,
            &NormGate {
                dx: scratch.dx,
                begins,
                dh: scratch.dh,
                stream,
                stats: b.stats,
                modulation: b.modulation,
                branch: b.branch.map(|branch| BranchBackward { branch, dy: scratch.dy, again }),
                partial: scratch.partial,
            },
        )?);
        let gate = b.branch.map(|branch| GateSums {
            branch,
            dgates: self.modulations.gradients,
            bias_of_sample: scratch.bias_of_sample,
        });
        let sums = PartialSums {
            partial: scratch.partial,
            modulation: b.modulation,
            dmodulation: self.modulations.gradients,
            gate,
        };
        program.launch(boundary::partial_sums(s, &sums)?);
        if let Some(bias) = bias {
            let to = self.layers.flat.gradient(bias);
            program.launch(boundary::bias_of_samples(s, scratch.bias_of_sample, to, self.layers.accumulate)?);
        }
        Ok(())
    }

    /// The boundary between attention and the MLP of block `i`.
    fn middle(&self, i: usize, kept: &Kept) -> Boundary {
        let (s, m) = (&self.sizes, &self.modulations);
        Boundary {
            branch: Some(m.branch(s, kept.y1, VECTORS * i + GATE_ATTENTION)),
            modulation: m.modulation(s, VECTORS * i + SHIFT_MLP),
            x: kept.x,
            x_out: self.scratch.between,
            h: kept.h2,
            stats: kept.stats2,
        }
    }

    /// Block `i` from its modulated norm `kept.h1` to its output `kept.y2`, which is not yet added
    /// to the stream `scratch.between`.
    pub fn forward(&self, program: &mut Program, i: usize, p: &Parameters, kept: &Kept) -> Result<()> {
        let rows = self.sizes.rows();
        self.layers.forward(program, &p.qkv, kept.h1, kept.qkv, rows);
        let ready = self.prepare(program, p, kept, true)?;
        program.launch(self.attention(ready, kept).forward()?);
        self.layers.forward(program, &p.proj, kept.attended, kept.y1, rows);
        self.boundary(program, &self.middle(i, kept))?;
        match self.sizes.mlp {
            MlpKind::Gelu => self.layers.forward_gelu(program, &p.first, kept.h2, kept.hidden, kept.active, rows),
            MlpKind::SwiGlu => {
                self.layers.forward(program, &p.first, kept.h2, kept.hidden, rows);
                program.launch(activation::swiglu_forward(&self.swiglu(kept), kept.active)?);
            }
        }
        self.layers.forward(program, &p.second, kept.active, kept.y2, rows);
        Ok(())
    }

    /// The backward pass of [`Self::forward`], from `scratch.dy`, the gradient of `kept.y2`, to
    /// `scratch.dh`, that of `kept.h1`; the gradient of the stream changes in place.
    pub fn backward(&self, program: &mut Program, i: usize, p: &Parameters, kept: &Kept) -> Result<()> {
        let (rows, layers, scratch) = (self.sizes.rows(), &self.layers, &self.scratch);
        layers.backward_weight(program, &p.second, scratch.dy, kept.active, rows);
        match self.sizes.mlp {
            MlpKind::Gelu => {
                let slope = Epilogue::GeluBackward(kept.hidden);
                layers.backward_input(program, &p.second, scratch.dy, scratch.dhidden, rows, slope);
            }
            MlpKind::SwiGlu => {
                layers.backward_input(program, &p.second, scratch.dy, scratch.dactive, rows, Epilogue::None);
                let launch = activation::swiglu_backward(&self.swiglu(kept), scratch.dactive, scratch.dhidden)?;
                program.launch(launch);
            }
        }
        layers.backward_parameters(program, &p.first, scratch.dhidden, kept.h2, rows)?;
        layers.backward_input(program, &p.first, scratch.dhidden, scratch.dh, rows, Epilogue::None);
        self.boundary_backward(program, &self.middle(i, kept), Some(p.proj.bias), false, true)?;

        layers.backward_weight(program, &p.proj, scratch.dy, kept.attended, rows);
        layers.backward_input(program, &p.proj, scratch.dy, scratch.dattended, rows, Epilogue::None);
        let ready = self.prepare(program, p, kept, false)?;
        let launches = self.attention(ready, kept).backward(scratch.dattended, scratch.delta, scratch.dqkv)?;
        launches.into_iter().for_each(|launch| program.launch(launch));
        self.prepare_backward(program, p, kept)?;
        layers.backward_parameters(program, &p.qkv, scratch.dqkv, kept.h1, rows)?;
        layers.backward_input(program, &p.qkv, scratch.dqkv, scratch.dh, rows, Epilogue::None);
        Ok(())
    }

    fn steps(&self, p: &Parameters) -> Option<Steps> {
        let flat = &self.layers.flat;
        let norms = p.norms.map(|[a, b, c, d]| Norms {
            q_weight: flat.weight(a),
            q_bias: flat.weight(b),
            k_weight: flat.weight(c),
            k_bias: flat.weight(d),
        });
        (norms.is_some() || self.rope.is_some()).then_some(Steps { norms, rope: self.rope, eps: QK_NORM_EPS as f32 })
    }

    /// QK-norm and rotary embedding. Returns where the result is. With a norm, whose input must be
    /// kept, it is elsewhere and is computed again in the backward pass. A rotation alone is done
    /// in place, in the forward pass.
    fn prepare(&self, program: &mut Program, p: &Parameters, kept: &Kept, forward: bool) -> Result<Address> {
        let Some(steps) = self.steps(p) else { return Ok(kept.qkv) };
        let to = if steps.norms.is_some() { self.scratch.prepared } else { kept.qkv };
        if forward || to != kept.qkv {
            program.launch(qk_norm_rope::forward(self.sizes.qk(), &steps, kept.qkv, to)?);
        }
        Ok(to)
    }

    fn prepare_backward(&self, program: &mut Program, p: &Parameters, kept: &Kept) -> Result<()> {
        let Some(steps) = self.steps(p) else { return Ok(()) };
        let (shape, scratch) = (self.sizes.qk(), &self.scratch);
        program.launch(qk_norm_rope::backward(shape, &steps, scratch.dqkv, kept.qkv, scratch.qk_partial)?);
        if let Some([a, b, c, d]) = p.norms {
            let flat = &self.layers.flat;
            let gradients = Norms {
                q_weight: flat.gradient(a),
                q_bias: flat.gradient(b),
                k_weight: flat.gradient(c),
                k_bias: flat.gradient(d),
            };
            program.launch(qk_norm_rope::norm_sums(shape, scratch.qk_partial, gradients, self.layers.accumulate)?);
        }
        Ok(())
    }

    fn attention(&self, qkv: Address, kept: &Kept) -> Attention {
        let s = &self.sizes;
        Attention {
            qkv,
            out: kept.attended,
            log_sums: kept.log_sums,
            batch: s.stream.batch,
            tokens: s.stream.tokens,
            heads: s.heads,
            head_dim: s.head_dim(),
            ty: s.ty(),
        }
    }

    fn swiglu(&self, kept: &Kept) -> SwiGlu {
        SwiGlu { ty: self.sizes.ty(), x: kept.hidden, rows: self.sizes.rows(), width: self.sizes.inner }
    }
}
