//! A whole adaLN-Zero transformer block as one operation.
//!
//! Between matrix products, each chain of elementwise steps is one pass over memory. Biases are
//! added by the pass that reads a product, not by the product.
//!
//! For the backward pass it saves the packed qkv, the outputs of attention, of its projection and
//! of the MLP, and the MLP's hidden rows before the activation: 10 D values per token besides the
//! input. Norms, residuals and the activation are recomputed. With `recompute` only the input is
//! kept and the forward pass is run again (Chen et al., "Training deep nets with sublinear memory
//! cost", 2016).

mod backward;
mod forward;
mod layout;

use super::attention::Sizes;
use super::linear::Affine;
use super::qk_norm_rope::{Norms, Qk, Tables};
use super::{slice, tensor, with_all, with_slices};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
pub use layout::Weights;
pub(crate) use layout::{GATE_ATTENTION, GATE_MLP, SHIFT_MLP};
use layout::{Numbers, Saved, Shapes};
use std::sync::{Mutex, PoisonError};

/// Inputs x `[B, N, D]` and the modulation `[B, 6 D]`: shift, scale and gate of attention, then
/// those of the MLP.
pub struct Block {
    weights: Weights,
    heads: usize,
    eps: f32,
    recompute: bool,
    saved: Mutex<Option<Saved>>,
}

impl Block {
    /// `eps` is that of the two LayerNorms.
    pub fn new(weights: Weights, heads: usize, eps: f32, recompute: bool) -> Self {
        Self { weights, heads, eps, recompute, saved: Mutex::default() }
    }

    fn shapes(&self, x: &[usize], modulation: &[usize]) -> Result<Shapes> {
        let &[batch, tokens, dim] = x else { bail!("a transformer block needs an input [B, N, D], got {x:?}") };
        let attention = Sizes::new((batch, tokens, 3 * dim), self.heads)?;
        if modulation != [batch, 6 * dim] {
            bail!("a transformer block of {x:?} needs a modulation [B, 6 D], got {modulation:?}");
        }
        let inner = self.weights.fc1.bias.elem_count();
        let fits =
            |layer: &Affine, out: usize, n_in: usize| layer.weight.dims() == [out, n_in] && layer.bias.dims() == [out];
        let w = &self.weights;
        if !(fits(&w.qkv, 3 * dim, dim)
            && fits(&w.proj, dim, dim)
            && fits(&w.fc1, inner, dim)
            && fits(&w.fc2, dim, inner))
        {
            bail!("the layers of a transformer block do not match the width {dim}");
        }
        let head = dim / self.heads;
        if w.rope.iter().flatten().any(|t| t.dims() != [tokens, head]) {
            bail!("rotary tables do not match {tokens} tokens with head dimension {head}");
        }
        if w.qk_norm.iter().flat_map(|(norms, _)| norms).any(|n| n.weight.dims() != [head] || n.bias.dims() != [head]) {
            bail!("QK-norm does not match the head dimension {head}");
        }
        Ok(Shapes { tokens, rows: batch * tokens, dim, inner, attention, eps: self.eps })
    }

    fn with_numbers<R>(&self, s: Shapes, f: impl FnOnce(Numbers) -> Result<R>) -> Result<R> {
        with_all(&self.weights.all(), |slices| {
            let layers = std::array::from_fn(|i| [slices[2 * i], slices[2 * i + 1]]);
            let mut rest = slices[8..].iter().copied();
            let mut next = || rest.next().unwrap_or_default();
            let norms = self.weights.qk_norm.as_ref().map(|(_, eps)| Norms {
                q: [next(), next()],
                k: [next(), next()],
                eps: *eps,
            });
            let rope = self.weights.rope.as_ref().map(|_| Tables { cos: next(), sin: next() });
            f(Numbers { layers, qk: Qk { dim: s.dim / self.heads, tokens: s.tokens, norms, rope } })
        })
    }
}

impl CustomOp2 for Block {
    fn name(&self) -> &'static str {
        "transformer-block"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        modulation: &CpuStorage,
        modulation_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = self.shapes(x_layout.dims(), modulation_layout.dims())?;
        let (x, modulation) = (slice(x, x_layout)?, slice(modulation, modulation_layout)?);
        let mut out = vec![0f32; x.len()];
        let saved = self.with_numbers(s, |n| Ok(forward::forward(x, modulation, n, s, Some(&mut out))))?;
        if self.weights.are_trained() && !self.recompute {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        modulation: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let s = self.shapes(x.dims(), modulation.dims())?;
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let grad = grad.contiguous()?;
        let (dx, dm) = with_slices([x, modulation, &grad], |[x, m, g]| {
            self.with_numbers(s, |n| {
                let saved = saved.unwrap_or_else(|| forward::forward(x, m, n, s, None));
                backward::backward(x, m, g, saved, n, s, &self.weights)
            })
        })??;
        Ok((Some(tensor(dx, x.shape())?), Some(tensor(dm, modulation.shape())?)))
    }
}
