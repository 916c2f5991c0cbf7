//! The commands of a micro-batch, forward and backward: the network, projectors and losses. Where
//! everything lies is [`super::sit`]'s.

use super::block::Boundary;
use super::layers::Gradients;
use super::layout::CLASS_TABLE;
use super::projector::Projector;
use super::sit::SitPrograms;
use crate::diffusion::alignment::AlignmentLoss;
use crate::diffusion::loss::Dispersion;
use crate::models::sit::SavedActivations;
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass};
use erw_gpu::kernels::embedding::{self, ConditionBackward, LabelRows};
use erw_gpu::kernels::loss::{self, CosineLoss, LossEnd, VelocityCosine, VelocityLoss, ZScore};
use erw_gpu::kernels::pairs::{self, Dispersive, NtXent};
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::program::{Address, Epilogue, Form, Matmul, Program, Type};

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
        self.class_loss(program)?;
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

    /// The loss of the velocity of class tokens.
    fn class_loss(&self, program: &mut Program) -> Result<()> {
        let (all, partial) = (self.all, self.all.ends.partial);
        let (Some(class), Some(space)) = (&all.forward.class, &all.class) else { return Ok(()) };
        let image = class.image(all.recipe.batch);
        program.launch(loss::velocity_loss(&VelocityLoss {
            image,
            ty: all.recipe.ty,
            out: class.velocity,
            target: all.inputs.class_target,
            factor: all.inputs.scalars.at(Scalars::CLASS_VELOCITY_FACTOR),
            dout: space.dvelocity,
            partial,
            cosine: None,
        })?);
        program.launch(loss::loss_end(&LossEnd {
            partial,
            count: loss::velocity_partials(&image, false),
            result: all.inputs.results.at(Results::CLASS_VELOCITY),
            terms: image.count(),
            add: false,
        })?);
        Ok(())
    }

    pub(super) fn backward(&self, program: &mut Program) -> Result<()> {
        let (all, forward, scratch) = (self.all, &self.all.forward, &self.all.backward.scratch);
        let (rows, depth) = (forward.blocks.sizes.rows(), forward.parameters.len());
        // Whether the stream has a gradient already.
        let mut begun = false;
        if let Some(last) = &forward.layers.last {
            let (gradients, dout, patches) = (self.gradients(), all.ends.dout, forward.patch_rows());
            gradients.parameters(program, last, dout, forward.patch_h(), patches)?;
            // Beside a class token the gradient of the patches takes their place.
            let dh = forward.class.map_or(scratch.dh, |class| class.patch_h);
            gradients.input(program, last, dout, dh, patches, Epilogue::None)?;
            if let (Some(class), Some(space)) = (&forward.class, &all.class) {
                class.finish_backward(program, &forward.blocks.sizes, gradients, space, scratch.dh)?;
            }
        } else {
            // Nothing comes through the norm behind the last block.
            program
                .launch(embedding::fill_zero(scratch.dh, rows * all.recipe.config.hidden * all.recipe.ty.size() / 4)?);
        }
        let mut add = false;
        for i in (0..=depth).rev() {
            let boundary = forward.boundary(i);
            let tapped = |(_, p): &(usize, &Projector)| self.aligned && i > 0 && p.tap == i;
            let taps: Vec<_> = all.projectors.iter().enumerate().filter(tapped).collect();
            let dispersion = all.recipe.dispersion.filter(|d| i > 0 && d.block == i);
            if !begun && (!taps.is_empty() || dispersion.is_some()) {
                program.launch(embedding::fill_zero(scratch.dx, rows * all.recipe.config.hidden)?);
                begun = true;
            }
            for (k, projector) in taps {
                self.project(program, k, projector, boundary.x_out, add)?;
                add = true;
            }
            if let Some(dispersion) = dispersion {
                self.disperse(program, &dispersion, boundary.x_out)?;
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
    /// stream gains its part. Its mean loss is added to the result if `add`.
    fn project(&self, program: &mut Program, k: usize, p: &Projector, x: Address, add: bool) -> Result<()> {
        let (all, gradients, rows) = (self.all, self.gradients(), self.all.forward.blocks.sizes.rows());
        let Some(space) = &all.space else { bail!("a projector without space") };
        let (ty, c, inputs) = (all.recipe.ty, &all.recipe.config, &all.inputs);
        space.forward(program, &gradients.weights, p, x)?;
        let (features, width) = (inputs.features[k], c.z_dims[k]);
        let (samples, tokens, alignment) = (all.recipe.batch, c.all_tokens(), &all.recipe.alignment);
        if let Some(alpha) = alignment.spatial_norm() {
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
        // The gradient takes the place of the projections.
        let (projections, dprojections, partial) = (space.output, space.output, all.ends.partial);
        let factor = inputs.scalars.at(Scalars::ALIGNMENT_FACTOR);
        let count = match alignment.loss {
            AlignmentLoss::Cosine => {
                let features_type = Type::F32;
                program.launch(loss::cosine_loss(&CosineLoss {
                    ty,
                    projections,
                    features,
                    features_type,
                    factor,
                    dprojections,
                    partial,
                    rows,
                    width,
                })?);
                loss::cosine_partials(rows)
            }
            AlignmentLoss::NtXent => {
                let (images, temperature) = (samples, alignment.temperature);
                program.launch(pairs::nt_xent(&NtXent {
                    ty,
                    projections,
                    features,
                    factor,
                    dprojections,
                    partial,
                    images,
                    tokens,
                    width,
                    temperature,
                })?);
                pairs::nt_xent_partials(rows)
            }
        };
        program.launch(loss::loss_end(&LossEnd {
            partial,
            count,
            result: inputs.results.at(Results::ALIGNMENT),
            terms: rows * c.z_dims.len(),
            add,
        })?);
        space.backward(program, gradients, p, all.backward.scratch.dx)
    }

    /// The dispersive loss of the stream `x`, whose gradient gains its part.
    fn disperse(&self, program: &mut Program, dispersion: &Dispersion, x: Address) -> Result<()> {
        let (all, c, b) = (self.all, &self.all.recipe.config, self.all.recipe.batch);
        let Some(space) = &all.dispersion else { bail!("a dispersive loss without space") };
        let (scalars, results, partial) = (all.inputs.scalars, all.inputs.results, all.ends.partial);
        let passes = Dispersive { images: b, width: c.all_tokens() * c.hidden, temperature: dispersion.temperature };
        program.launch(passes.centre(x, space.centred)?);
        let addresses = [space.centred, space.centred, space.products];
        program.matmul(Matmul::new(Form::Nt, [b, b, passes.width], addresses, Type::F32));
        program.launch(passes.pairs(space.products, space.pairs, partial)?);
        let (factor, result) = (scalars.at(Scalars::DISPERSIVE_FACTOR), results.at(Results::DISPERSIVE));
        program.launch(passes.end(space.pairs, partial, factor, result)?);
        let addresses = [space.pairs, space.centred, space.gradient];
        program.matmul(Matmul::new(Form::Nn, [b, passes.width, b], addresses, Type::F32));
        let (from, to) = (space.gradient, all.backward.scratch.dx);
        program.launch(activation::add(&Pass { ty: Type::F32, from, to, count: b * passes.width })?);
        Ok(())
    }

    /// From the gradients of the stream and of the modulations to those of the embeddings.
    fn ends_backward(&self, program: &mut Program) -> Result<()> {
        let (all, forward, gradients) = (self.all, &self.all.forward, self.gradients());
        let (ends, layers, dends, ty) = (&forward.ends, &forward.layers, &all.ends, all.recipe.ty);
        let (b, rows, d) = (forward.batch(), forward.patch_rows(), all.recipe.config.hidden);
        let dmodulations = all.backward.dmodulations;
        gradients.parameters(program, &layers.modulation, dmodulations, ends.active, b)?;
        gradients.input(program, &layers.modulation, dmodulations, dends.dactive, b, Epilogue::None)?;
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
            classes: all.recipe.config.table_rows(),
            samples: b,
            width: d,
        })?);
        let ([first, second], [hidden, active, _], dhidden) = (&layers.time, ends.time, dends.dtime);
        gradients.parameters(program, second, dends.dcondition_half, active, b)?;
        gradients.input(program, second, dends.dcondition_half, dhidden, b, Epilogue::None)?;
        let slope = Backward { ty, dy: dhidden, x: hidden, dx: dhidden, count: b * d };
        program.launch(activation::backward(Activation::Silu, &slope)?);
        gradients.parameters(program, first, dhidden, ends.waves, b)?;
        let (dx, sizes) = (all.backward.scratch.dx, &forward.blocks.sizes);
        if let (Some(class), Some(space)) = (&forward.class, &all.class) {
            class.begin_backward(program, sizes, gradients, space, dx)?;
            class.patches_of(program, sizes, dx, ends.embedded)?;
        } else {
            program.launch(activation::narrow(&Pass { ty, from: dx, to: ends.embedded, count: rows * d })?);
        }
        gradients.parameters(program, &layers.patches, ends.embedded, ends.patches, rows)
    }
}
