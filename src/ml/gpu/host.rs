//! Tensors of the host to a machine's memory.

use super::forward::{FixedTables, Forward, Inputs};
use super::layers::Weights;
use super::layout::Layout;
use crate::kernels::with_slices;
use crate::nn::params::Tensors;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor, bail};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Type};
use half::slice::HalfFloatSliceExt;

pub fn write(machine: &dyn Machine, to: Address, numbers: &[f32]) -> Result<()> {
    machine.write(to, bytemuck::cast_slice(numbers))
}

/// Writes a tensor of any type and device as f32.
pub fn write_tensor(machine: &dyn Machine, to: Address, tensor: &Tensor) -> Result<()> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    with_slices([&tensor], |[numbers]| write(machine, to, numbers))?
}

/// Writes an f16 tensor in main memory as it is.
///
/// # Errors
/// A tensor of another type or device, or with gaps.
pub fn write_half(machine: &dyn Machine, to: Address, tensor: &Tensor) -> Result<()> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F16(numbers)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        bail!("f16 features in main memory without gaps, not {:?}", tensor)
    };
    machine.write(to, bytemuck::cast_slice(numbers[start..end].reinterpret_cast()))
}

/// Reads f32 numbers as a tensor of this shape, on the CPU.
pub fn read_tensor(machine: &dyn Machine, from: Address, dims: &[usize]) -> Result<Tensor> {
    let mut numbers = vec![0f32; dims.iter().product()];
    machine.read(from, bytemuck::cast_slice_mut(&mut numbers))?;
    Tensor::from_vec(numbers, dims, &Device::Cpu)
}

/// Writes the inputs of a forward pass: points `[B, ..]`, times `[B]` and classes `[B]`. Returns B.
///
/// # Errors
/// Shapes that do not fit the network or its memory; a class that the network does not have.
pub fn write_inputs(
    machine: &dyn Machine,
    forward: &Forward,
    points: &Tensor,
    times: &Tensor,
    classes: &Tensor,
) -> Result<usize> {
    let Inputs { times: at_times, point, labels, class } = forward.inputs;
    let (config, batch) = (&forward.config, points.dims().first().copied().unwrap_or(0));
    let dims = |count: usize| [&[count][..], &config.state_shape()].concat();
    if points.dims() != dims(batch) || batch == 0 || batch > forward.batch() {
        bail!("a network at points {:?}, where memory is for {:?}", points.dims(), dims(forward.batch()));
    }
    if times.dims() != [batch] || classes.dims() != [batch] {
        bail!("{batch} points with times {:?} and classes {:?}", times.dims(), classes.dims());
    }
    let classes = classes.to_device(&Device::Cpu)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    if let Some(bad) = classes.iter().find(|class| **class as usize >= config.table_rows()) {
        bail!("class {bad} of a network with {} rows of classes", config.table_rows());
    }
    let (latents, class_tokens) = config.split(points)?;
    write_tensor(machine, point, &latents)?;
    if let Some(tokens) = &class_tokens {
        write_tensor(machine, class, tokens)?;
    }
    write_tensor(machine, at_times, times)?;
    machine.write(labels, bytemuck::cast_slice(&classes))?;
    Ok(batch)
}

/// Writes the tables of a SiT, by their names in files.
///
/// # Errors
/// A table that is missing.
pub fn write_tables(machine: &dyn Machine, to: &FixedTables, tables: &Tensors) -> Result<()> {
    let rope = to.rope.map(|t| [("feat_rope.freqs_cos", t.cos), ("feat_rope.freqs_sin", t.sin)]);
    for (name, to) in [("pos_embed", to.positions)].into_iter().chain(rope.into_iter().flatten()) {
        let Some(table) = tables.get(name) else { bail!("a SiT without {name}") };
        write_tensor(machine, to, table)?;
    }
    Ok(())
}

/// Writes weights that stay as they are, one parameter at a time, so that the host holds no second
/// copy of them.
///
/// # Errors
/// A parameter that is missing or has another shape.
pub fn write_frozen(machine: &dyn Machine, to: &Weights, layout: &Layout, tensors: &Tensors) -> Result<()> {
    for (name, place) in layout.places() {
        let Some(tensor) = tensors.get(name) else { bail!("there is no tensor {name}") };
        if tensor.dims() != place.dims {
            bail!("tensor {name} is {:?}, not {:?}", tensor.dims(), place.dims);
        }
        let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
        with_slices([&tensor], |[numbers]| -> Result<()> {
            if to.ty != Type::F32 && layout.read_in_f32().contains(&place.first) {
                write(machine, to.full(place.first), numbers)?;
            }
            match to.ty {
                Type::F32 => write(machine, to.operand(place.first), numbers),
                ty => machine.write(to.operand(place.first), &ty.encode(numbers)),
            }
        })??;
    }
    Ok(())
}
