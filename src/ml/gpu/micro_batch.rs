//! The commands of a micro-batch, forward and backward: embeddings, blocks, projectors and losses.
//! Where everything lies is [`super::sit`]'s.

use super::block::{Blocks, Boundary, VECTORS};
use super::layers::{Layers, Linear};
use super::sit::{Projector, SitPrograms};
use crate::kernels::block::GATE_MLP;
use crate::models::sit::SavedActivations;
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Activation, Backward, Pass};
use erw_gpu::kernels::embedding::{self, AddPositions, ConditionBackward, ConditionForward, LabelRows};
use erw_gpu::kernels::loss::{self, CosineLoss, LossEnd, VelocityLoss, ZScore};
use erw_gpu::kernels::scalars::{Results, Scalars};
use erw_gpu::program::{Address, Epilogue, Program, Type};

/// The commands of one micro-batch.
pub(super) struct MicroBatch<'a> {
    pub(super) all: &'a SitPrograms,
    pub(super) aligned: bool,
    pub(super) first: bool,
    pub(super) blocks: Blocks,
}

impl MicroBatch<'_> {
    fn layers(&self) -> &Layers {
        &self.blocks.layers
    }

    fn find(&self, name: &str) -> Result<Linear> {
        Linear::find(&self.all.layout, name)
    }

    /// The product that makes all modulations: the adaLN layers lie side by side.
    fn modulation(&self) -> Result<Linear> {
        let first = self.find("blocks.0.adaLN_modulation.1")?;
        Ok(Linear { outputs: self.all.modulations.table.width, ..first })
    }

    /// The boundary in front of block `i`; behind the last block that of the final layer.
    fn boundary(&self, i: usize) -> Boundary {
        let (all, s) = (self.all, &self.all.sizes);
        let m = &all.modulations;
        let branch = i.checked_sub(1).map(|above| m.branch(s, all.kept[above].y2, VECTORS * above + GATE_MLP));
        let (x, x_out) = match i {
            0 => (all.kept[0].x, Address::NULL),
            i => (all.scratch.between, all.kept.get(i).map_or(all.last, |kept| kept.x)),
        };
        let (h, stats, vector) = match all.kept.get(i) {
            Some(kept) => (kept.h1, kept.stats1, VECTORS * i),
            None if self.has_final() => (all.ends.final_h, all.ends.final_stats, VECTORS * i),
            // Without a final layer only the stream is wanted. The norm goes nowhere.
            None => (all.ends.final_h, all.ends.final_stats, VECTORS * (i - 1)),
        };
        Boundary { branch, modulation: m.modulation(s, vector), x, x_out, h, stats }
    }

    fn has_final(&self) -> bool {
        self.all.recipe.config.warmup_depth.is_none()
    }

    pub(super) fn forward(&self, program: &mut Program) -> Result<()> {
        let (all, b) = (self.all, self.all.recipe.batch);
        let (c, ends, inputs, ty) = (&all.recipe.config, &all.ends, &all.inputs, all.recipe.ty);
        let (rows, d) = (all.sizes.rows(), c.hidden);
        program.launch(embedding::patch_gather(&all.recipe.image(), ty, inputs.point, ends.patches)?);
        self.layers().forward(program, &self.find("x_embedder.proj")?, ends.patches, ends.embedded, rows);
        program.launch(embedding::add_positions(&AddPositions {
            ty,
            y: ends.embedded,
            positions: all.state.positions,
            x: all.kept[0].x,
            samples: b,
            tokens: c.tokens(),
            width: d,
        })?);
        program.launch(embedding::time_sinusoid(ty, inputs.times, ends.waves, b)?);
        let [hidden, active, out] = ends.time;
        self.layers().forward(program, &self.find("t_embedder.mlp.0")?, ends.waves, hidden, b);
        program.launch(activation::forward(Activation::Silu, &Pass { ty, from: hidden, to: active, count: b * d })?);
        self.layers().forward(program, &self.find("t_embedder.mlp.2")?, active, out, b);
        let table = all.layout.place("y_embedder.embedding_table.weight")?.first;
        program.launch(embedding::condition_forward(&ConditionForward {
            ty,
            time: out,
            table: all.state.flat.weight(table),
            labels: inputs.labels,
            c: ends.condition,
            active: ends.active,
            samples: b,
            width: d,
        })?);
        let modulation = self.modulation()?;
        self.layers().forward(program, &modulation, ends.active, all.modulations.table.address, b);
        for (i, (parameters, kept)) in all.blocks.iter().zip(&all.kept).enumerate() {
            self.blocks.boundary(program, &self.boundary(i))?;
            self.blocks.forward(program, i, parameters, kept)?;
        }
        self.blocks.boundary(program, &self.boundary(all.blocks.len()))?;
        if self.has_final() {
            self.layers().forward(program, &self.find("final_layer.linear")?, ends.final_h, ends.out, rows);
            let velocity = VelocityLoss {
                image: all.recipe.image(),
                ty,
                out: ends.out,
                target: inputs.target,
                factor: inputs.scalars.at(Scalars::VELOCITY_FACTOR),
                dout: ends.dout,
                partial: ends.partial,
            };
            program.launch(loss::velocity_loss(&velocity)?);
            program.launch(loss::loss_end(&LossEnd {
                partial: ends.partial,
                count: velocity.partial_count(),
                result: inputs.results.at(Results::VELOCITY),
                terms: all.recipe.image().count() * all.recipe.micro_batches,
                add: !self.first,
            })?);
        }
        Ok(())
    }

    pub(super) fn backward(&self, program: &mut Program) -> Result<()> {
        let (all, scratch) = (self.all, &self.all.scratch);
        let (rows, depth) = (all.sizes.rows(), all.blocks.len());
        // Whether the stream has a gradient already.
        let mut begun = false;
        if self.has_final() {
            let linear = self.find("final_layer.linear")?;
            self.layers().backward_parameters(program, &linear, all.ends.dout, all.ends.final_h, rows)?;
            self.layers().backward_input(program, &linear, all.ends.dout, scratch.dh, rows, Epilogue::None);
        } else {
            // Nothing comes through the norm behind the last block.
            program
                .launch(embedding::fill_zero(scratch.dh, rows * all.recipe.config.hidden * all.recipe.ty.size() / 4)?);
        }
        let mut add = !self.first;
        for i in (0..=depth).rev() {
            let boundary = self.boundary(i);
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
            let bias = above.map(|above| all.blocks[above].last_bias());
            self.blocks.boundary_backward(program, &boundary, bias, !begun, false)?;
            begun = true;
            if let Some(above) = above {
                self.blocks.backward(program, above, &all.blocks[above], &all.kept[above])?;
            }
        }
        self.ends_backward(program)
    }

    /// With checkpointing, what block `i` kept was overwritten by blocks behind it: computes it
    /// again from the stream at its entry. What the last two blocks kept is still there.
    fn recompute(&self, program: &mut Program, i: usize) -> Result<()> {
        let all = self.all;
        if all.recipe.keep == SavedActivations::Everything || i + 2 >= all.blocks.len() {
            return Ok(());
        }
        let boundary = self.boundary(i);
        let entry = Boundary { branch: None, x: all.kept[i].x, x_out: Address::NULL, ..boundary };
        self.blocks.boundary(program, &entry)?;
        self.blocks.forward(program, i, &all.blocks[i], &all.kept[i])
    }

    /// Projector `k` on the stream `x` with its loss, forward and backward: the gradient of the
    /// stream gains its part. Its mean negative cosine is added to the result if `add`.
    fn project(&self, program: &mut Program, k: usize, p: &Projector, x: Address, add: bool) -> Result<()> {
        let (all, layers, rows) = (self.all, self.layers(), self.all.sizes.rows());
        let Some(space) = &all.space else { bail!("a projector without space") };
        let (ty, c, inputs) = (all.recipe.ty, &all.recipe.config, &all.inputs);
        let silu =
            |from, to| activation::forward(Activation::Silu, &Pass { ty, from, to, count: rows * c.projector_dim });
        program.launch(activation::narrow(&Pass { ty, from: x, to: space.input, count: rows * c.hidden })?);
        layers.forward(program, &p.layers[0], space.input, space.layers[0], rows);
        program.launch(silu(space.layers[0], space.active[0])?);
        layers.forward(program, &p.layers[1], space.active[0], space.layers[1], rows);
        program.launch(silu(space.layers[1], space.active[1])?);
        layers.forward(program, &p.layers[2], space.active[1], space.output, rows);
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
            terms: rows * c.z_dims.len() * all.recipe.micro_batches,
            add,
        })?);
        let [d0, d1] = space.gradients;
        let slope = |dy, x| {
            activation::backward(Activation::Silu, &Backward { ty, dy, x, dx: dy, count: rows * c.projector_dim })
        };
        layers.backward_parameters(program, &p.layers[2], space.output, space.active[1], rows)?;
        layers.backward_input(program, &p.layers[2], space.output, d1, rows, Epilogue::None);
        program.launch(slope(d1, space.layers[1])?);
        layers.backward_parameters(program, &p.layers[1], d1, space.active[0], rows)?;
        layers.backward_input(program, &p.layers[1], d1, d0, rows, Epilogue::None);
        program.launch(slope(d0, space.layers[0])?);
        layers.backward_parameters(program, &p.layers[0], d0, space.input, rows)?;
        layers.backward_input(program, &p.layers[0], d0, space.input, rows, Epilogue::None);
        let add = Pass { ty, from: space.input, to: all.scratch.dx, count: rows * c.hidden };
        program.launch(activation::add(&add)?);
        Ok(())
    }

    /// From the gradients of the stream and of the modulations to those of the embeddings.
    fn ends_backward(&self, program: &mut Program) -> Result<()> {
        let (all, b, layers) = (self.all, self.all.recipe.batch, self.layers());
        let (c, ends, ty) = (&all.recipe.config, &all.ends, all.recipe.ty);
        let (rows, d) = (all.sizes.rows(), c.hidden);
        let (modulation, gradients) = (self.modulation()?, all.modulations.gradients);
        layers.backward_parameters(program, &modulation, gradients, ends.active, b)?;
        layers.backward_input(program, &modulation, gradients, ends.dactive, b, Epilogue::None);
        program.launch(embedding::condition_backward(&ConditionBackward {
            ty,
            dactive: ends.dactive,
            input: ty,
            c: ends.condition,
            dc: ends.dcondition,
            dc_half: ends.dcondition_half,
            count: b * d,
        })?);
        let table = all.layout.place("y_embedder.embedding_table.weight")?;
        let dtable = all.state.flat.gradient(table.first);
        if self.first {
            program.launch(embedding::fill_zero(dtable, table.count())?);
        }
        program.launch(embedding::label_rows_backward(&LabelRows {
            dc: ends.dcondition,
            labels: all.inputs.labels,
            dtable,
            samples: b,
            width: d,
        })?);
        let (first, second) = (self.find("t_embedder.mlp.0")?, self.find("t_embedder.mlp.2")?);
        let ([hidden, active, _], dhidden) = (ends.time, ends.dtime);
        layers.backward_parameters(program, &second, ends.dcondition_half, active, b)?;
        layers.backward_input(program, &second, ends.dcondition_half, dhidden, b, Epilogue::None);
        let slope = Backward { ty, dy: dhidden, x: hidden, dx: dhidden, count: b * d };
        program.launch(activation::backward(Activation::Silu, &slope)?);
        layers.backward_parameters(program, &first, dhidden, ends.waves, b)?;
        let narrow = Pass { ty, from: all.scratch.dx, to: ends.embedded, count: rows * d };
        program.launch(activation::narrow(&narrow)?);
        layers.backward_parameters(program, &self.find("x_embedder.proj")?, ends.embedded, ends.patches, rows)
    }
}
