//! The projections of a SiT's warmup on a GPU, for its validation: from latents to what is compared
//! with features, forward only.
//!
//! Does not know features or losses: the host computes these, as on a CPU.

use super::arena::Arena;
use super::forward::{self, FixedTables, Forward, Keep};
use super::host;
use super::layers::Weights;
use super::layout::Layout;
use super::projector::{Projector, ProjectorSpace};
use crate::models::sit::{SiT, SiTConfig};
use crate::nn::params::{self, Tensors};
use candle_core::{Result, Tensor, bail};
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

/// The network that is evaluated, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    pub config: SiTConfig,
    /// Samples of the largest batch.
    pub batch: usize,
    /// Of the products.
    pub ty: Type,
}

impl Projection {
    /// Bytes of GPU memory that it takes.
    ///
    /// # Errors
    /// A network that is not covered; the message names why.
    pub fn memory(&self) -> Result<usize> {
        let mut arena = Arena::measure();
        Space::new(self, &self.layout()?, &mut arena)?;
        Ok(arena.bytes())
    }

    fn layout(&self) -> Result<Layout> {
        let (_, shapes) = params::census(|vb| SiT::new(&self.config, vb))?;
        Layout::new(&self.config, &shapes)
    }
}

/// Where everything lies.
struct Space {
    weights: Weights,
    tables: FixedTables,
    forward: Forward,
    projectors: Vec<Projector>,
    projector: ProjectorSpace,
    /// f32 `[B, N, Z]` of each projector.
    projections: Vec<Address>,
}

impl Space {
    fn new(of: &Projection, layout: &Layout, arena: &mut Arena) -> Result<Self> {
        let Projection { config: c, batch, ty } = of;
        forward::check(c)?;
        if (0..c.z_dims.len()).any(|k| c.warmup_depth != Some(c.tap(k))) {
            bail!("projections of other blocks than the last of a warmup");
        }
        let weights = Weights::frozen(layout, *ty, arena);
        let tables = FixedTables::new(c, arena);
        let forward = Forward::new(c, layout, weights, tables, *batch, Keep::Nothing, arena)?;
        let Some(projector) = ProjectorSpace::new(c, *batch, *ty, arena) else { bail!("a warmup without encoders") };
        let rows = batch * c.all_tokens();
        Ok(Self {
            projectors: (0..c.z_dims.len()).map(|k| Projector::find(c, layout, k)).collect::<Result<_>>()?,
            projections: c.z_dims.iter().map(|width| arena.take(rows * width, Type::F32)).collect(),
            weights,
            tables,
            forward,
            projector,
        })
    }

    /// From the inputs to the projections, for so many samples.
    fn program(&self, batch: usize) -> Result<Program> {
        let (forward, mut program, ty) = (self.forward.of(batch), Program::default(), self.weights.ty);
        forward.commands(&mut program)?;
        let (c, tokens) = (&forward.config, forward.config.all_tokens());
        let space = self.projector.of(batch, tokens);
        for ((projector, width), to) in self.projectors.iter().zip(&c.z_dims).zip(&self.projections) {
            space.forward(&mut program, &self.weights, projector, forward.last)?;
            let count = batch * tokens * width;
            program.launch(activation::widen(&Pass { ty, from: space.output, to: *to, count })?);
        }
        Ok(program)
    }
}

/// The network in the memory of a machine.
pub struct ProjectionsOnGpu {
    machine: Arc<dyn Machine>,
    layout: Layout,
    space: Space,
    /// By the number of samples: the last batch may be smaller.
    programs: BTreeMap<usize, Program>,
}

impl ProjectionsOnGpu {
    /// In memory that is there already, of [`Projection::memory`] bytes; not yet with weights.
    ///
    /// # Errors
    /// A network that is not covered.
    pub fn at(machine: Arc<dyn Machine>, base: Address, of: &Projection) -> Result<Self> {
        let layout = of.layout()?;
        let space = Space::new(of, &layout, &mut Arena::at(base))?;
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

    /// Projections f32 `[B, N, Z]` on the CPU, of each projector, for latents `[B, C, S, S]` at times
    /// `[B]` and classes u32 `[B]`.
    ///
    /// # Errors
    /// Shapes that do not fit the network or the batch; a class that the network does not have.
    pub fn projections(&mut self, latents: &Tensor, times: &Tensor, classes: &Tensor) -> Result<Vec<Tensor>> {
        let (machine, space) = (&*self.machine, &self.space);
        let batch = host::write_inputs(machine, &space.forward, latents, times, classes)?;
        machine.run(match self.programs.entry(batch) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(space.program(batch)?),
        })?;
        let c = &space.forward.config;
        let read = |(at, width): (&Address, &usize)| host::read_tensor(machine, *at, &[batch, c.all_tokens(), *width]);
        space.projections.iter().zip(&c.z_dims).map(read).collect()
    }
}
