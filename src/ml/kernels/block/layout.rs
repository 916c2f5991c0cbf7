//! Shared by both passes of a block: its weights, the sizes of a call, what the forward pass saves,
//! and the positions of the six vectors in a modulation.

use crate::kernels::attention::Sizes;
use crate::kernels::linear::Affine;
use crate::kernels::qk_norm_rope::Qk;
use crate::kernels::scratch::Scratch;
use crate::kernels::suits;
use candle_core::Tensor;

/// Weights of a block of width D. `fc1` may have any number of outputs; `fc2` takes them.
#[derive(Debug, Clone)]
pub struct Weights {
    pub qkv: Affine,
    pub proj: Affine,
    pub fc1: Affine,
    pub fc2: Affine,
    /// LayerNorms of queries and keys, with scale as `weight` and shift as `bias`, and their eps.
    pub qk_norm: Option<([Affine; 2], f32)>,
    /// Cosines and sines `[N, D / heads]`.
    pub rope: Option<[Tensor; 2]>,
}

impl Weights {
    pub(super) fn layers(&self) -> [&Affine; 4] {
        [&self.qkv, &self.proj, &self.fc1, &self.fc2]
    }

    pub(super) fn all(&self) -> Vec<&Tensor> {
        let norms = self.qk_norm.iter().flat_map(|(norms, _)| norms);
        let affine = self.layers().into_iter().chain(norms).flat_map(|l| [&l.weight, &l.bias]);
        affine.chain(self.rope.iter().flatten()).collect()
    }

    /// Whether the fused block supports these weights and inputs: all f32, in main memory,
    /// contiguous.
    pub fn suits(&self, inputs: &[&Tensor]) -> bool {
        let all = self.all();
        suits(inputs) && suits(&all) && all.iter().all(|t| t.is_contiguous())
    }

    /// Whether a backward pass may follow.
    pub(super) fn are_trained(&self) -> bool {
        self.all().iter().any(|t| t.is_variable())
    }
}

/// [`Weights`] as slices.
#[derive(Clone, Copy)]
pub(super) struct Numbers<'a> {
    /// Weight and bias of qkv, proj, fc1 and fc2.
    pub(super) layers: [[&'a [f32]; 2]; 4],
    pub(super) qk: Qk<'a>,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
pub(super) struct Shapes {
    pub(super) tokens: usize,
    /// Samples times tokens.
    pub(super) rows: usize,
    pub(super) dim: usize,
    /// Width of the MLP's hidden layer.
    pub(super) inner: usize,
    pub(super) attention: Sizes,
    pub(super) eps: f32,
}

/// What the backward pass needs besides the input.
pub(super) struct Saved {
    /// Before QK-norm; without QK-norm, after the rotary embedding.
    pub(super) qkv: Scratch,
    /// Output of attention, and the log-sums of its rows.
    pub(super) mixed: Scratch,
    pub(super) log_sums: Scratch,
    /// Output of `proj` without its bias.
    pub(super) attended: Scratch,
    /// Output of `fc1` without its bias.
    pub(super) hidden: Scratch,
    /// Output of `fc2` without its bias.
    pub(super) output: Scratch,
}

/// One of the six vectors of a sample's modulation.
pub(super) fn part(modulation: &[f32], sample: usize, dim: usize, which: usize) -> &[f32] {
    &modulation[(6 * sample + which) * dim..][..dim]
}

pub(super) const SHIFT_ATTENTION: usize = 0;
pub(super) const SCALE_ATTENTION: usize = 1;
pub(crate) const GATE_ATTENTION: usize = 2;
pub(crate) const SHIFT_MLP: usize = 3;
pub(super) const SCALE_MLP: usize = 4;
pub(crate) const GATE_MLP: usize = 5;
