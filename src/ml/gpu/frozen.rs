//! A frozen network of feature maps, before it is on a machine and in the memory of one.

use super::feature_maps::{Builder, Parameter, Step};
use super::host;
use crate::kernels::with_slices;
use crate::nn::elsewhere::Elsewhere;
use candle_core::{DType, Device, Result, Tensor, bail};
use erw_gpu::kernels::planes::padded;
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Says all layers of a network.
type Layers<'a> = dyn Fn(&mut Builder) -> Result<()> + 'a;

/// A network before it is on a machine.
pub struct Plan<'a> {
    layers: Box<Layers<'a>>,
    batch: usize,
    ty: Type,
}

impl<'a> Plan<'a> {
    /// For batches of `batch` samples, with products of type `ty`. `layers` says the layers to the
    /// builder.
    pub fn new(batch: usize, ty: Type, layers: impl Fn(&mut Builder) -> Result<()> + 'a) -> Self {
        Self { layers: Box::new(layers), batch, ty }
    }

    fn build(&self, weights: Address, maps: Address) -> Result<Builder> {
        let mut builder = Builder::new(self.ty, self.batch, weights, maps);
        (self.layers)(&mut builder)?;
        Ok(builder)
    }

    /// Bytes of the weights, and of the maps.
    fn parts(&self) -> Result<[usize; 2]> {
        // Addresses that nobody uses.
        let somewhere = Address(256);
        let built = self.build(somewhere, somewhere)?;
        Ok([built.weights.bytes(), built.memory.bytes()])
    }

    /// Bytes of GPU memory that it takes.
    ///
    /// # Errors
    /// A network that the kernels do not cover; the message names why.
    pub fn memory(&self) -> Result<usize> {
        self.parts().map(|parts| parts.iter().sum())
    }

    /// Lays out memory and writes the weights.
    ///
    /// # Errors
    /// A network that is not covered; too little memory.
    pub fn on(&self, machine: Arc<dyn Machine>) -> Result<NetworkOnGpu> {
        let base = machine.allocate(self.memory()?)?;
        let mut network = self.at(machine, base)?;
        network.write_weights()?;
        network.parameters.clear();
        Ok(network)
    }

    /// In memory of [`memory`](Self::memory) bytes that others use, too: the weights are written
    /// before every run.
    ///
    /// # Errors
    /// A network that is not covered.
    pub fn at(&self, machine: Arc<dyn Machine>, base: Address) -> Result<NetworkOnGpu> {
        let [weights, _] = self.parts()?;
        let Builder { steps, parameters, input, outputs, .. } = self.build(base, base.offset(weights))?;
        let Some(input) = input else { bail!("a network without an input") };
        let (batch, programs) = (self.batch, BTreeMap::new());
        Ok(NetworkOnGpu { machine, batch, parameters, steps, input, outputs, programs })
    }
}

/// f32 on the CPU, padded with zeros in the first and last dimension.
fn in_kernel_order(tensor: &Tensor) -> Result<Tensor> {
    let mut tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let last = tensor.rank().saturating_sub(1);
    for i in [0, last] {
        let count = tensor.dim(i)?;
        tensor = tensor.pad_with_zeros(i, 0, padded(count) - count)?;
    }
    tensor.contiguous()
}

/// A network in the memory of a machine.
pub struct NetworkOnGpu {
    machine: Arc<dyn Machine>,
    batch: usize,
    /// What is written before a run.
    parameters: Vec<Parameter>,
    steps: Vec<Step>,
    input: (Address, [usize; 3]),
    outputs: Vec<(Address, [usize; 3])>,
    /// By the number of samples: the last batch may be smaller.
    programs: BTreeMap<usize, Program>,
}

impl NetworkOnGpu {
    /// For the network that has this part.
    pub fn elsewhere(self) -> Elsewhere {
        let network = Mutex::new(self);
        Elsewhere::new(move |x| network.lock().unwrap_or_else(PoisonError::into_inner).run(x))
    }

    /// The outputs f32 `[n, channels, height, width]`, on the CPU, for f32 `[n, channels, height,
    /// width]`: a batch at a time, any number of samples.
    ///
    /// # Errors
    /// Another size than that of the plan.
    pub fn run(&mut self, x: &Tensor) -> Result<Vec<Tensor>> {
        let [channels, height, width] = self.input.1;
        let samples = x.dims().first().copied().unwrap_or(0);
        if x.dims() != [samples, channels, height, width] || samples == 0 {
            bail!("a network on maps {:?}, where memory is for {:?}", x.dims(), self.input.1);
        }
        self.write_weights()?;
        let mut outputs: Vec<Vec<f32>> = vec![vec![]; self.outputs.len()];
        for start in (0..samples).step_by(self.batch) {
            let count = self.batch.min(samples - start);
            self.run_batch(&x.narrow(0, start, count)?, count, &mut outputs)?;
        }
        let tensor = |(numbers, (_, [channels, height, width])): (Vec<f32>, &(Address, [usize; 3]))| {
            Tensor::from_vec(numbers, (samples, *channels, *height, *width), &Device::Cpu)
        };
        outputs.into_iter().zip(&self.outputs).map(tensor).collect()
    }

    fn write_weights(&self) -> Result<()> {
        for Parameter { at, tensor, ty } in &self.parameters {
            let tensor = in_kernel_order(tensor)?;
            with_slices([&tensor], |[numbers]| self.machine.write(*at, &ty.encode(numbers)))??;
        }
        Ok(())
    }

    fn run_batch(&mut self, x: &Tensor, samples: usize, outputs: &mut [Vec<f32>]) -> Result<()> {
        if !self.programs.contains_key(&samples) {
            let mut program = Program::default();
            self.steps.iter().try_for_each(|step| step(samples, &mut program))?;
            self.programs.insert(samples, program);
        }
        host::write_tensor(&*self.machine, self.input.0, x)?;
        self.machine.run(&self.programs[&samples])?;
        for (all, (at, sizes)) in outputs.iter_mut().zip(&self.outputs) {
            let before = all.len();
            all.resize(before + samples * sizes.iter().product::<usize>(), 0.0);
            self.machine.read(*at, bytemuck::cast_slice_mut(&mut all[before..]))?;
        }
        Ok(())
    }
}
