//! The backward pass of a transformer block as commands, from what [`super::block`] kept.

use super::arena::Arena;
use super::block::{Activations, Blocks, Boundary, Parameters, Sizes};
use super::layers::Gradients;
use crate::models::sit::MlpKind;
use candle_core::Result;
use erw_gpu::kernels::activation;
use erw_gpu::kernels::boundary::{self, BranchBackward, GateSums, NormGate, PartialSums};
use erw_gpu::kernels::qk_norm_rope;
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// Space that the backward passes of blocks share.
#[derive(Debug, Clone, Copy)]
pub struct Scratch {
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
    /// Parts of samples in the gradients of a bias and of the weight of an RMSNorm, f32.
    pub bias_of_sample: Address,
    weight_of_sample: Address,
}

impl Scratch {
    pub fn new(s: &Sizes, qk_norm: bool, rms: bool, arena: &mut Arena) -> Self {
        let (rows, d, ty) = (s.rows(), s.stream.width, s.ty());
        let dactive = arena.take(rows * s.inner, ty);
        let some = |count: usize, ty, arena: &mut Arena| if count > 0 { arena.take(count, ty) } else { Address::NULL };
        let (qk, rms) = (usize::from(qk_norm), usize::from(rms));
        Self {
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
            weight_of_sample: some(rms * s.stream.batch * d, Type::F32, arena),
        }
    }
}

/// The commands of the blocks' backward passes.
#[derive(Debug, Clone, Copy)]
pub struct BlocksBackward {
    pub blocks: Blocks,
    pub gradients: Gradients,
    pub scratch: Scratch,
    /// Gradients of the modulations.
    pub dmodulations: Address,
}

impl BlocksBackward {
    /// The backward pass of a boundary: the gradient of the stream in place, that of the branch
    /// above to `scratch.dy`, those of its modulation, its weight, its gate, and the bias at `bias`
    /// that was added to its branch.
    pub fn boundary(
        &self,
        program: &mut Program,
        b: &Boundary,
        bias: Option<usize>,
        begins: bool,
        again: bool,
    ) -> Result<()> {
        let (s, scratch) = (self.blocks.sizes.stream, &self.scratch);
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
            dgates: self.dmodulations,
            bias_of_sample: scratch.bias_of_sample,
        });
        let sums = PartialSums {
            partial: scratch.partial,
            modulation: b.modulation,
            dmodulation: self.dmodulations,
            weight_of_sample: scratch.weight_of_sample,
            gate,
        };
        program.launch(boundary::partial_sums(s, &sums)?);
        for (place, of_sample) in [(bias, scratch.bias_of_sample), (b.weight, scratch.weight_of_sample)] {
            if let Some(place) = place {
                program.launch(boundary::sums_of_samples(s, of_sample, self.gradients.of(place))?);
            }
        }
        Ok(())
    }

    /// The backward pass of [`Blocks::forward`], from `scratch.dy`, the gradient of `kept.y2`, to
    /// `scratch.dh`, that of `kept.h1`; the gradient of the stream changes in place.
    pub fn block(&self, program: &mut Program, i: usize, p: &Parameters, kept: &Activations) -> Result<()> {
        let (blocks, gradients, scratch) = (&self.blocks, &self.gradients, &self.scratch);
        let rows = blocks.sizes.rows();
        gradients.weight(program, &p.second, scratch.dy, kept.active, rows);
        match blocks.sizes.mlp {
            MlpKind::Gelu => {
                let slope = Epilogue::GeluBackward(kept.hidden);
                gradients.input(program, &p.second, scratch.dy, scratch.dhidden, rows, slope)?;
            }
            MlpKind::SwiGlu => {
                gradients.input(program, &p.second, scratch.dy, scratch.dactive, rows, Epilogue::None)?;
                let launch = activation::swiglu_backward(&blocks.swiglu(kept), scratch.dactive, scratch.dhidden)?;
                program.launch(launch);
            }
        }
        gradients.parameters(program, &p.first, scratch.dhidden, kept.h2, rows)?;
        gradients.input(program, &p.first, scratch.dhidden, scratch.dh, rows, Epilogue::None)?;
        self.boundary(program, &self.blocks.middle(i, p, kept), Some(p.proj.bias), false, true)?;

        gradients.weight(program, &p.proj, scratch.dy, kept.attended, rows);
        gradients.input(program, &p.proj, scratch.dy, scratch.dattended, rows, Epilogue::None)?;
        if !Blocks::keeps_prepared(kept) {
            blocks.prepare(program, p, kept)?;
        }
        let launches = blocks.attention(kept).backward(scratch.dattended, scratch.delta, scratch.dqkv)?;
        launches.into_iter().for_each(|launch| program.launch(launch));
        self.prepare_backward(program, p, kept)?;
        gradients.parameters(program, &p.qkv, scratch.dqkv, kept.h1, rows)?;
        gradients.input(program, &p.qkv, scratch.dqkv, scratch.dh, rows, Epilogue::None)?;
        Ok(())
    }

    fn prepare_backward(&self, program: &mut Program, p: &Parameters, kept: &Activations) -> Result<()> {
        let Some(steps) = self.blocks.steps(p) else { return Ok(()) };
        let (shape, scratch) = (self.blocks.sizes.qk(), &self.scratch);
        program.launch(qk_norm_rope::backward(shape, &steps, scratch.dqkv, kept.qkv, scratch.qk_partial)?);
        if let Some(places) = p.qk_norms {
            let sums = places.addresses(|first| self.gradients.of(first));
            program.launch(qk_norm_rope::norm_sums(shape, scratch.qk_partial, sums)?);
        }
        Ok(())
    }
}
