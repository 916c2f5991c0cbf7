//! The velocity of a SiT on a GPU, for sampling. Weights and activations stay in the GPU's memory;
//! points go in and velocities come out, and the sampler's state stays with the host.
//!
//! That is cheap. A step of SiT-XL/2 for 256 images with guidance moves 512 points of 4 x 32 x 32
//! numbers, 8.4 MB, there and the velocities back: less than a millisecond over PCIe, while the
//! network's 124 TFLOP take some 200 ms of an H200.
//!
//! Does not know samplers, guidance or noise.

use super::arena::Arena;
use super::forward::{FixedTables, Forward, Inputs, Keep};
use super::host;
use super::layers::Weights;
use super::layout::{Layout, is_projector};
use crate::models::sit::{SiT, SiTConfig};
use crate::nn::params::{self, Tensors};
use candle_core::{DType, Device, Result, Tensor, bail};
use erw_gpu::kernels::activation::{self, Pass};
use erw_gpu::kernels::embedding;
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use std::collections::BTreeMap;
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
    space: Space,
    /// Rows of the class table.
    classes: usize,
    /// By the number of points. Batches are of few sizes: with and without guidance, and the last. Only
    /// with adaptive steps, where images end and are guided one by one, there may be one for each size.
    programs: BTreeMap<usize, Program>,
}

impl VelocityOnGpu {
    /// Lays out memory, and writes `weights` and the fixed tables of `model`.
    ///
    /// # Errors
    /// A network that is not covered; weights of another network; too little memory.
    pub fn new(machine: Arc<dyn Machine>, evaluation: &Evaluation, model: &SiT, weights: &Tensors) -> Result<Self> {
        let layout = evaluation.layout()?;
        let base = machine.allocate(evaluation.memory()?)?;
        let space = Space::new(evaluation, &layout, &mut Arena::at(base))?;
        host::write_frozen(&*machine, &space.weights, &layout, weights)?;
        host::write_tables(&*machine, &space.tables, &model.buffers())?;
        Ok(Self { machine, space, classes: evaluation.config.table_rows(), programs: BTreeMap::new() })
    }

    /// Velocities f32 on the CPU at points `[B, ..]` ([`SiTConfig::state_shape`]), times `[B]` and
    /// classes u32 `[B]`.
    ///
    /// # Errors
    /// Shapes that do not fit the network or the batch; a class that the network does not have.
    pub fn velocity(&mut self, points: &Tensor, times: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let Inputs { times: at_times, point, labels, class } = self.space.forward.inputs;
        let (image, batch) = (self.space.forward.image(), points.dims().first().copied().unwrap_or(0));
        let config = &self.space.forward.config;
        let dims = |count: usize| [&[count][..], &config.state_shape()].concat();
        if points.dims() != dims(batch) || batch == 0 || batch > image.samples {
            let most = dims(image.samples);
            bail!("the velocity of points {:?}, where memory is for {most:?}", points.dims());
        }
        if times.dims() != [batch] || classes.dims() != [batch] {
            bail!("{batch} points with times {:?} and classes {:?}", times.dims(), classes.dims());
        }
        let classes = classes.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        if let Some(bad) = classes.iter().find(|class| **class as usize >= self.classes) {
            bail!("class {bad} of a network with {} rows of classes", self.classes);
        }
        if !self.programs.contains_key(&batch) {
            self.programs.insert(batch, self.space.program(batch)?);
        }
        let (latents, class_tokens) = config.split(points)?;
        host::write_tensor(&*self.machine, point, &latents)?;
        if let Some(tokens) = &class_tokens {
            host::write_tensor(&*self.machine, class, tokens)?;
        }
        host::write_tensor(&*self.machine, at_times, times)?;
        self.machine.write(labels, bytemuck::cast_slice(&classes))?;
        self.machine.run(&self.programs[&batch])?;
        let velocity = self.read(self.space.velocity, latents.dims())?;
        match class_tokens {
            None => Ok(velocity),
            Some(tokens) => {
                let class = self.read(self.space.class_velocity, tokens.dims())?;
                Tensor::cat(&[velocity.flatten_from(1)?, class], 1)
            }
        }
    }

    fn read(&self, from: Address, dims: &[usize]) -> Result<Tensor> {
        let mut numbers = vec![0f32; dims.iter().product()];
        self.machine.read(from, bytemuck::cast_slice_mut(&mut numbers))?;
        Tensor::from_vec(numbers, dims, &Device::Cpu)
    }
}
