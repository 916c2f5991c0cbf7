//! The programs of a training step: gradients of a micro-batch, their norm, and the update.

use super::micro_batch::MicroBatch;
use super::sit::SitPrograms;
use candle_core::{Result, bail};
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::kernels::optimizer::{self, AdamW, Average, NormEnd};
use erw_gpu::program::{Address, Launch, Program, Type};

impl SitPrograms {
    /// Losses of a micro-batch to the results, and its gradients to the flat buffer. Without
    /// `aligned` projectors are not run.
    pub fn gradients(&self, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let step = MicroBatch { all: self, aligned: aligned && !self.projectors.is_empty() };
        step.forward(&mut program)?;
        step.backward(&mut program)?;
        Ok(program)
    }

    /// The gradients to kept sum number `i`.
    pub fn keep(&self, i: usize, aligned: bool) -> Result<Program> {
        self.pass(self.state.gradients, self.kept(i)?, aligned, activation::narrow)
    }

    /// Kept sum number `i` added to the gradients.
    pub fn add_kept(&self, i: usize, aligned: bool) -> Result<Program> {
        self.pass(self.kept(i)?, self.state.gradients, aligned, activation::add)
    }

    fn kept(&self, i: usize) -> Result<Address> {
        let Some(kept) = self.state.kept_sums.get(i) else { bail!("there is no space for sum {i}") };
        Ok(*kept)
    }

    fn pass(
        &self,
        from: Address,
        to: Address,
        aligned: bool,
        launch: impl Fn(&Pass) -> Result<Launch>,
    ) -> Result<Program> {
        let mut program = Program::default();
        program.launch(launch(&Pass { ty: Type::F32, from, to, count: self.trained(aligned) })?);
        Ok(program)
    }

    /// The features of an encoder from f16, as they were stored, to f32.
    pub fn widen_features(&self, encoder: usize) -> Result<Program> {
        let (c, inputs, mut program) = (&self.recipe.config, &self.inputs, Program::default());
        let (Some(width), Some(to)) = (c.z_dims.get(encoder), inputs.features.get(encoder)) else {
            bail!("there is no encoder {encoder}")
        };
        let count = self.recipe.batch * c.all_tokens() * width;
        program.launch(activation::widen(&Pass { ty: Type::F16, from: inputs.narrow_features, to: *to, count })?);
        Ok(program)
    }

    /// The norm of the gradients to the results.
    pub fn norm(&self, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let count = self.trained(aligned);
        program.launch(optimizer::gradient_norm(self.state.gradients, self.ends.partial, count)?);
        program.launch(optimizer::gradient_norm_end(&NormEnd {
            partial: self.ends.partial,
            partial_count: optimizer::partial_count(count),
            scalars: self.inputs.scalars,
            results: self.inputs.results,
            losses: 0,
        })?);
        Ok(program)
    }

    /// The update of weights, moments and averages.
    pub fn update(&self, aligned: bool) -> Result<Program> {
        let mut program = Program::default();
        let (state, ty) = (&self.state, self.recipe.ty);
        let update = AdamW {
            weights: state.weights.full,
            gradients: state.gradients,
            moments: state.moments,
            copy: if ty == Type::F32 { Address::NULL } else { state.weights.operands },
            ty,
            decays: state.decays,
            scalars: self.inputs.scalars,
            results: self.inputs.results,
            count: self.trained(aligned),
        };
        let [first, further @ ..] = &state.averages[..] else { bail!("training needs at least one average") };
        program.launch(optimizer::adamw_average(&update, &Average { values: *first, index: 0 })?);
        for (i, values) in further.iter().enumerate() {
            program.launch(optimizer::average(&update, &Average { values: *values, index: i + 1 })?);
        }
        Ok(program)
    }

    /// Numbers that an update changes: projectors rest where nothing is aligned.
    pub fn trained(&self, aligned: bool) -> usize {
        if aligned { self.layout.count() } else { self.layout.network() }
    }
}
