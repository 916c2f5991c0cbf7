//! The commands of a micro-batch, forward and backward: the network, projectors and losses. Where
//! everything lies is [`super::sit`]'s.

use super::block::Boundary;
use super::layers::Gradients;
use super::layout::CLASS_TABLE;
use super::sit::{Projector, SitPrograms};
use crate::models::sit::SavedActivations;
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass};
use erw_gpu::kernels::embedding::{self, ConditionBackward, LabelRows};
use erw_gpu::kernels::loss::{self, CosineLoss, LossEnd, VelocityCosine, VelocityLoss, ZScore};
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// The commands of one micro-batch.
pub(super) struct MicroBatch<'a> {
    pub(super) all: &'a SitPrograms,
    pub(super) aligned: bool,
}

impl MicroBatch<'_> {
    fn gradients(&self) -> &Gradients {
        &self.all.backward.gradients
    }

    /// The network and the loss of its velocity.
    pub(super) fn forward(&self, program: &mut Program) -> Result<()> {
        let forward = &self.all.forward;
        forward.commands(program)?;
        if forward.layers.last.is_some() {
            self.velocity_loss(program)?;
        }
        Ok(())
    }

    fn velocity_loss(&self, program: &mut Program) -> Result<()> {
        let (all, image) = (self.all, self.all.forward.image());
        let (scalars, results) = (all.inputs.scalars, all.inputs.results);
        let cosine = all.recipe.velocity_cosine > 0.0;
        let count = loss::velocity_partials(&image, cosine);
        let cosine = cosine.then(|| VelocityCosine {
            factor: scalars.at(Scalars::VELOCITY_COSINE_FACTOR),
            partial: all.ends.partial.offset(count * 8),
        });
        program.launch(loss::velocity_loss(&VelocityLoss {
            image,
            ty: all.recipe.ty,
            out: all.forward.ends.out,
            target: all.inputs.target,
            factor: scalars.at(Scalars::VELOCITY_FACTOR),
            dout: all.ends.dout,
            partial: all.ends.partial,
            cosine,
        })?);
        let mean = |partial, slot, terms| {
            loss::loss_end(&LossEnd { partial, count, result: results.at(slot), terms, add: false })
        };
        program.launch(mean(all.ends.partial, Results::VELOCITY, image.count())?);
        if let Some(cosine) = cosine {
            program.launch(mean(cosine.partial, Results::VELOCITY_COSINE, image.places())?);
        }
        Ok(())
    }

    pub(super) fn backward(&self, program: &mut Program) -> Result<()> {
        let (all, forward, scratch) = (self.all, &self.all.forward, &self.all.backward.scratch);
        let (rows, depth) = (forward.blocks.sizes.rows(), forward.parameters.len());
        // Whether the stream has a gradient already.
        let mut begun = false;
        if let Some(last) = &forward.layers.last {
            self.gradients().parameters(program, last, all.ends.dout, forward.ends.final_h, rows)?;
            self.gradients().input(program, last, all.ends.dout, scratch.dh, rows, Epilogue::None);
        } else {
            // Nothing comes through the norm behind the last block.
            program
                .launch(embedding::fill_zero(scratch.dh, rows * all.recipe.config.hidden * all.recipe.ty.size() / 4)?);
        }
        let mut add = false;
        for i in (0..=depth).rev() {
            let boundary = forward.boundary(i);
            let taps = all.projectors.iter().enumerate().filter(|(_, p)| self.aligned && i > 0 && p.tap == i);
            for (k, projector) in taps {
                if !begun {
                    program.launch(embedding::fill_zero(scratch.dx, rows * all.recipe.config.hidden)?);
                }
                self.project(program, k, projector, boundary.x_out, add)?;
                (begun, add) = (true, true);
            }
            let above = i.checked_sub(1);
            if let Some(above) = above {
                self.recompute(program, above)?;
            }
            let bias = above.map(|above| forward.parameters[above].last_bias());
            all.backward.boundary(program, &boundary, bias, !begun, false)?;
            begun = true;
            if let Some(above) = above {
                let kept = &forward.activations[above];
                all.backward.block(program, above, &forward.parameters[above], kept)?;
            }
        }
        self.ends_backward(program)
    }

    /// With checkpointing, what block `i` kept was overwritten by blocks behind it: computes it
    /// again from the stream at its entry. What the last two blocks kept is still there.
    fn recompute(&self, program: &mut Program, i: usize) -> Result<()> {
        let (forward, blocks) = (&self.all.forward, &self.all.forward.blocks);
        if self.all.recipe.keep == SavedActivations::Everything || i + 2 >= forward.parameters.len() {
            return Ok(());
        }
        let (kept, boundary) = (&forward.activations[i], forward.boundary(i));
        blocks.boundary(program, &Boundary { branch: None, x: kept.x, x_out: Address::NULL, ..boundary })?;
        blocks.forward(program, i, &forward.parameters[i], kept)
    }

    /// Projector `k` on the stream `x` with its loss, forward and backward: the gradient of the
    /// stream gains its part. Its mean negative cosine is added to the result if `add`.
    fn project(&self, program: &mut Program, k: usize, p: &Projector, x: Address, add: bool) -> Result<()> {
        let (all, gradients, rows) = (self.all, self.gradients(), self.all.forward.blocks.sizes.rows());
        let weights = &gradients.weights;
        let Some(space) = &all.space else { bail!("a projector without space") };
        let (ty, c, inputs) = (all.recipe.ty, &all.recipe.config, &all.inputs);
        let silu =
            |from, to| activation::forward(Activation::Silu, &Pass { ty, from, to, count: rows * c.projector_dim });
        program.launch(activation::narrow(&Pass { ty, from: x, to: space.input, count: rows * c.hidden })?);
        weights.forward(program, &p.layers[0], space.input, space.layers[0], rows);
        program.launch(silu(space.layers[0], space.active[0])?);
        weights.forward(program, &p.layers[1], space.active[0], space.layers[1], rows);
        program.launch(silu(space.layers[1], space.active[1])?);
        weights.forward(program, &p.layers[2], space.active[1], space.output, rows);
        let (features, width) = (inputs.features[k], c.z_dims[k]);
        if let Some(alpha) = all.recipe.spatial_norm {
            let (samples, tokens) = (all.recipe.batch, c.tokens());
            let alpha = alpha as f32;
            program.launch(loss::z_score(&ZScore {
                ty: Type::F32,
                x: features,
                y: features,
                samples,
                tokens,
                width,
                alpha,
            })?);
        }
        let cosine = CosineLoss {
            ty,
            projections: space.output,
            features,
            features_type: Type::F32,
            factor: inputs.scalars.at(Scalars::ALIGNMENT_FACTOR),
            dprojections: space.output,
            partial: all.ends.partial,
            rows,
            width,
        };
        program.launch(loss::cosine_loss(&cosine)?);
        program.launch(loss::loss_end(&LossEnd {
            partial: all.ends.partial,
            count: cosine.partial_count(),
            result: inputs.results.at(Results::ALIGNMENT),
            terms: rows * c.z_dims.len(),
            add,
        })?);
        let [d0, d1] = space.gradients;
        let slope = |dy, x| {
            activation::backward(Activation::Silu, &Backward { ty, dy, x, dx: dy, count: rows * c.projector_dim })
        };
        gradients.parameters(program, &p.layers[2], space.output, space.active[1], rows)?;
        gradients.input(program, &p.layers[2], space.output, d1, rows, Epilogue::None);
        program.launch(slope(d1, space.layers[1])?);
        gradients.parameters(program, &p.layers[1], d1, space.active[0], rows)?;
        gradients.input(program, &p.layers[1], d1, d0, rows, Epilogue::None);
        program.launch(slope(d0, space.layers[0])?);
        gradients.parameters(program, &p.layers[0], d0, space.input, rows)?;
        gradients.input(program, &p.layers[0], d0, space.input, rows, Epilogue::None);
        let add = Pass { ty, from: space.input, to: all.backward.scratch.dx, count: rows * c.hidden };
        program.launch(activation::add(&add)?);
        Ok(())
    }

    /// From the gradients of the stream and of the modulations to those of the embeddings.
    fn ends_backward(&self, program: &mut Program) -> Result<()> {
        let (all, forward, gradients) = (self.all, &self.all.forward, self.gradients());
        let (ends, layers, dends, ty) = (&forward.ends, &forward.layers, &all.ends, all.recipe.ty);
        let (b, rows, d) = (forward.batch(), forward.blocks.sizes.rows(), all.recipe.config.hidden);
        let dmodulations = all.backward.dmodulations;
        gradients.parameters(program, &layers.modulation, dmodulations, ends.active, b)?;
        gradients.input(program, &layers.modulation, dmodulations, dends.dactive, b, Epilogue::None);
        program.launch(embedding::condition_backward(&ConditionBackward {
            ty,
            dactive: dends.dactive,
            input: ty,
            c: ends.condition,
            dc: dends.dcondition,
            dc_half: dends.dcondition_half,
            count: b * d,
        })?);
        let dtable = gradients.of(layers.classes);
        program.launch(embedding::fill_zero(dtable, all.layout.place(CLASS_TABLE)?.count())?);
        program.launch(embedding::label_rows_backward(&LabelRows {
            dc: dends.dcondition,
            labels: forward.inputs.labels,
            dtable,
            samples: b,
            width: d,
        })?);
        let ([first, second], [hidden, active, _], dhidden) = (&layers.time, ends.time, dends.dtime);
        gradients.parameters(program, second, dends.dcondition_half, active, b)?;
        gradients.input(program, second, dends.dcondition_half, dhidden, b, Epilogue::None);
        let slope = Backward { ty, dy: dhidden, x: hidden, dx: dhidden, count: b * d };
        program.launch(activation::backward(Activation::Silu, &slope)?);
        gradients.parameters(program, first, dhidden, ends.waves, b)?;
        let narrow = Pass { ty, from: all.backward.scratch.dx, to: ends.embedded, count: rows * d };
        program.launch(activation::narrow(&narrow)?);
        gradients.parameters(program, &layers.patches, ends.embedded, ends.patches, rows)
    }
}
