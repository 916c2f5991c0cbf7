//! The velocity of a SiT on a GPU, for sampling, and for validation and previews of a training.
//! Weights and activations stay in the GPU's memory; points go in and velocities come out, and the
//! sampler's state stays with the host.
//!
//! That is cheap. A step of SiT-XL/2 for 256 images with guidance moves 512 points of 4 x 32 x 32
//! numbers, 8.4 MB, there and the velocities back: less than a millisecond over PCIe, while the
//! network's 124 TFLOP take some 200 ms of an H200.
//!
//! Does not know samplers, guidance or noise.

use super::arena::Arena;
use super::forward::{FixedTables, Forward, Keep};
use super::host;
use super::layers::Weights;
use super::layout::{Layout, is_projector};
use crate::models::sit::{SiT, SiTConfig};
use crate::nn::params::{self, Tensors};
use candle_core::{Result, Tensor, bail};
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::kernels::embedding;
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// The network that is evaluated, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    pub config: SiTConfig,
    /// Points of the largest batch; with guidance two for each image.
    pub batch: usize,
    /// Of the products.
    pub ty: Type,
}

impl Evaluation {
    /// # Errors
    /// A network that the GPU's programs do not cover; the message names why.
    pub fn check(&self) -> Result<()> {
        if self.config.warmup_depth.is_some() {
            bail!("a network of the warmup, which has no velocity");
        }
        super::forward::check(&self.config)
    }

    /// Bytes of GPU memory that it takes.
    ///
    /// # Errors
    /// A network that is not covered.
    pub fn memory(&self) -> Result<usize> {
        let mut arena = Arena::measure();
        Space::new(self, &self.layout()?, &mut arena)?;
        Ok(arena.bytes())
    }

    /// The weights that a velocity needs: all but those of projectors.
    fn layout(&self) -> Result<Layout> {
        let (_, mut shapes) = params::census(|vb| SiT::new(&self.config, vb))?;
        shapes.retain(|name, _| !is_projector(name));
        Layout::new(&self.config, &shapes)
    }
}

/// Where everything lies.
struct Space {
    weights: Weights,
    tables: FixedTables,
    forward: Forward,
    /// f32 `[B, C, S, S]`
    velocity: Address,
    /// Of class tokens, f32 `[B, Z]`; null without them.
    class_velocity: Address,
}

impl Space {
    fn new(evaluation: &Evaluation, layout: &Layout, arena: &mut Arena) -> Result<Self> {
        evaluation.check()?;
        let Evaluation { config, batch, ty } = evaluation;
        let weights = Weights::frozen(layout, *ty, arena);
        let tables = FixedTables::new(config, arena);
        let forward = Forward::new(config, layout, weights, tables, *batch, Keep::Nothing, arena)?;
        let velocity = arena.take(forward.image().count(), Type::F32);
        let class_velocity = config.class_token.map_or(Address::NULL, |width| arena.take(batch * width, Type::F32));
        Ok(Self { weights, tables, forward, velocity, class_velocity })
    }

    /// From the inputs to the velocity, for so many points.
    fn program(&self, batch: usize) -> Result<Program> {
        let (forward, mut program) = (self.forward.of(batch), Program::default());
        forward.commands(&mut program)?;
        let ty = self.weights.ty;
        program.launch(embedding::unpatchify(&forward.image(), ty, forward.ends.out, self.velocity)?);
        if let Some(class) = &forward.class {
            let (from, count) = (class.velocity, class.image(batch).count());
            program.launch(activation::widen(&Pass { ty, from, to: self.class_velocity, count })?);
        }
        Ok(program)
    }
}

/// A SiT in the memory of a machine.
pub struct VelocityOnGpu {
    machine: Arc<dyn Machine>,
    layout: Layout,
    space: Space,
    /// By the number of points. Batches are of few sizes: with and without guidance, and the last. Only
    /// with adaptive steps, where images end and are guided one by one, there may be one for each size.
    programs: BTreeMap<usize, Program>,
}

impl VelocityOnGpu {
    /// Takes memory, and writes `weights` and the fixed tables of `model`.
    ///
    /// # Errors
    /// A network that is not covered; weights of another network; too little memory.
    pub fn new(machine: Arc<dyn Machine>, evaluation: &Evaluation, model: &SiT, weights: &Tensors) -> Result<Self> {
        let base = machine.allocate(evaluation.memory()?)?;
        let made = Self::at(machine, base, evaluation)?;
        made.write(model, weights)?;
        Ok(made)
    }

    /// In memory that is there already, of [`Evaluation::memory`] bytes; not yet with weights.
    ///
    /// # Errors
    /// A network that is not covered.
    pub fn at(machine: Arc<dyn Machine>, base: Address, evaluation: &Evaluation) -> Result<Self> {
        let layout = evaluation.layout()?;
        let space = Space::new(evaluation, &layout, &mut Arena::at(base))?;
        Ok(Self { machine, layout, space, programs: BTreeMap::new() })
    }

    /// Writes `weights` and the fixed tables of `model`.
    ///
    /// # Errors
    /// Weights of another network.
    pub fn write(&self, model: &SiT, weights: &Tensors) -> Result<()> {
        host::write_frozen(&*self.machine, &self.space.weights, &self.layout, weights)?;
        host::write_tables(&*self.machine, &self.space.tables, &model.buffers())
    }

    /// Velocities f32 on the CPU at points `[B, ..]` ([`SiTConfig::state_shape`]), times `[B]` and
    /// classes u32 `[B]`.
    ///
    /// # Errors
    /// Shapes that do not fit the network or the batch; a class that the network does not have.
    pub fn velocity(&mut self, points: &Tensor, times: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let (machine, space) = (&*self.machine, &self.space);
        let batch = host::write_inputs(machine, &space.forward, points, times, classes)?;
        machine.run(match self.programs.entry(batch) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(space.program(batch)?),
        })?;
        let c = &space.forward.config;
        let dims = [batch, c.in_channels, c.input_size, c.input_size];
        let velocity = host::read_tensor(machine, space.velocity, &dims)?;
        match c.class_token {
            None => Ok(velocity),
            Some(width) => {
                let class = host::read_tensor(machine, space.class_velocity, &[batch, width])?;
                Tensor::cat(&[velocity.flatten_from(1)?, class], 1)
            }
        }
    }
}
