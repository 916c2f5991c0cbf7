//! The token of a SiT that is made of an encoder's class token (REG): from the noised class token to
//! the first token of the stream, and from the first token behind the last block to its velocity,
//! forward and backward. Patches are the tokens behind it.

use super::arena::Arena;
use super::block::Sizes;
use super::layers::{Gradients, Linear, Weights};
use super::layout::Layout;
use crate::models::sit::{NORM_EPS, SiTConfig};
use candle_core::Result;
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::kernels::class_token::{self, ClassNorm, ClassNormGradients, CopyRows};
use erw_gpu::kernels::column_sums;
use erw_gpu::kernels::embedding::Image;
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// Its layers, and where everything lies.
#[derive(Debug, Clone, Copy)]
pub struct ClassToken {
    width: usize,
    embed: Linear,
    /// Places of weight and bias.
    norm: [usize; 2],
    last: Linear,
    /// f32 `[B, Z]`: what the host writes.
    point: Address,
    /// The same in the type of the products.
    narrow: Address,
    /// The embedding `[B, D]` before its norm.
    embedded: Address,
    /// The final norm of the patches `[B, N, D]`, and of this token `[B, D]`.
    pub(super) patch_h: Address,
    class_h: Address,
    /// `[B, Z]`
    pub(super) velocity: Address,
}

/// Space for gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClassTokenGradients {
    /// Of the velocity, `[B, Z]`.
    pub(super) dvelocity: Address,
    /// Parts of samples in the gradients of the norm's weight and bias, f32 `[B, D]`.
    of_sample: [Address; 2],
}

impl ClassTokenGradients {
    pub(super) fn new(class: &ClassToken, s: &Sizes, arena: &mut Arena) -> Self {
        let (batch, d) = (s.stream.batch, s.stream.width);
        Self {
            dvelocity: arena.take(batch * class.width, s.ty()),
            of_sample: [arena.take(batch * d, Type::F32), arena.take(batch * d, Type::F32)],
        }
    }
}

impl ClassToken {
    /// `None` for a network without one. `point`: what the host writes; `patch_h`: space that is free
    /// behind the last block.
    pub(super) fn new(
        c: &SiTConfig,
        layout: &Layout,
        s: &Sizes,
        point: Address,
        patch_h: Option<Address>,
        arena: &mut Arena,
    ) -> Result<Option<Self>> {
        let Some(width) = c.class_token else { return Ok(None) };
        let (batch, d, ty) = (s.stream.batch, s.stream.width, s.ty());
        Ok(Some(Self {
            width,
            embed: Linear::find(layout, "cls_projectors2")?,
            norm: [layout.place("wg_norm.weight")?.first, layout.place("wg_norm.bias")?.first],
            last: Linear::find(layout, "final_layer.linear_cls")?,
            point,
            narrow: arena.take(batch * width, ty),
            embedded: arena.take(batch * d, ty),
            patch_h: patch_h.unwrap_or_else(|| arena.take(batch * c.tokens() * d, ty)),
            class_h: arena.take(batch * d, ty),
            velocity: arena.take(batch * width, ty),
        }))
    }

    /// Class tokens of so many samples as an image of one place, as losses take them.
    pub(super) fn image(&self, samples: usize) -> Image {
        Image { samples, channels: self.width, side: 1, patch: 1 }
    }

    fn norm(&self, s: &Sizes, weights: &Weights) -> ClassNorm {
        ClassNorm {
            ty: s.ty(),
            y: self.embedded,
            weight: weights.full(self.norm[0]),
            samples: s.stream.batch,
            tokens: s.stream.tokens,
            width: s.stream.width,
            eps: NORM_EPS as f32,
        }
    }

    /// From the point to the first token of the stream `x`, at the first of the positions.
    pub(super) fn begin(
        &self,
        program: &mut Program,
        s: &Sizes,
        weights: &Weights,
        positions: Address,
        x: Address,
    ) -> Result<()> {
        let batch = s.stream.batch;
        let narrow = Pass { ty: s.ty(), from: self.point, to: self.narrow, count: batch * self.width };
        program.launch(activation::narrow(&narrow)?);
        weights.forward(program, &self.embed, self.narrow, self.embedded, batch)?;
        program.launch(self.norm(s, weights).forward(weights.full(self.norm[1]), positions, x)?);
        Ok(())
    }

    /// From the gradient of the stream `dx` to those of the embedding's parameters.
    pub(super) fn begin_backward(
        &self,
        program: &mut Program,
        s: &Sizes,
        gradients: &Gradients,
        space: &ClassTokenGradients,
        dx: Address,
    ) -> Result<()> {
        let (batch, d) = (s.stream.batch, s.stream.width);
        // Nobody reads the final norm any more.
        let dy = self.class_h;
        let [weight_of_sample, bias_of_sample] = space.of_sample;
        let to = ClassNormGradients { dy, weight_of_sample, bias_of_sample };
        program.launch(self.norm(s, &gradients.weights).backward(dx, &to)?);
        for (place, of_sample) in self.norm.iter().zip(space.of_sample) {
            program.launch(column_sums::column_sums_end(of_sample, gradients.of(*place), batch, d)?);
        }
        gradients.parameters(program, &self.embed, dy, self.narrow, batch)
    }

    /// From the final norm `h` of all tokens to that of the patches and the velocity of the class
    /// token.
    pub(super) fn finish(&self, program: &mut Program, s: &Sizes, weights: &Weights, h: Address) -> Result<()> {
        let ([class, patches], ty) = (self.rows(s), s.ty());
        program.launch(class_token::copy_rows(&CopyRows { from: h, ..class })?);
        program.launch(class_token::copy_rows(&CopyRows { from: h.offset(s.stream.width * ty.size()), ..patches })?);
        weights.forward(program, &self.last, self.class_h, self.velocity, s.stream.batch)?;
        Ok(())
    }

    /// To the gradient `dh` of all tokens, from that of the patches, which is in the place of the
    /// patches, and that of the velocity.
    pub(super) fn finish_backward(
        &self,
        program: &mut Program,
        s: &Sizes,
        gradients: &Gradients,
        space: &ClassTokenGradients,
        dh: Address,
    ) -> Result<()> {
        let ([class, patches], batch) = (self.rows(s), s.stream.batch);
        gradients.parameters(program, &self.last, space.dvelocity, self.class_h, batch)?;
        gradients.input(program, &self.last, space.dvelocity, self.class_h, batch, Epilogue::None)?;
        let back = |rows: CopyRows, to| CopyRows {
            from: rows.to,
            to,
            from_step: rows.to_step,
            to_step: rows.from_step,
            ..rows
        };
        program.launch(class_token::copy_rows(&back(class, dh))?);
        program.launch(class_token::copy_rows(&back(patches, dh.offset(s.stream.width * s.ty().size())))?);
        Ok(())
    }

    /// The gradient of the stream `dx` of the patches alone, to `to`.
    pub(super) fn patches_of(&self, program: &mut Program, s: &Sizes, dx: Address, to: Address) -> Result<()> {
        let [_, patches] = self.rows(s);
        let from = dx.offset(s.stream.width * Type::F32.size());
        program.launch(class_token::copy_rows(&CopyRows { from, to, input: Type::F32, ..patches })?);
        Ok(())
    }

    /// The copies of the first token and of the others, which have their final norms as targets.
    fn rows(&self, s: &Sizes) -> [CopyRows; 2] {
        let (d, step) = (s.stream.width, s.stream.tokens * s.stream.width);
        let class = CopyRows {
            ty: s.ty(),
            from: Address::NULL,
            input: s.ty(),
            to: self.class_h,
            from_step: step,
            to_step: d,
            samples: s.stream.batch,
            count: d,
        };
        [class, CopyRows { to: self.patch_h, to_step: step - d, count: step - d, ..class }]
    }
}
