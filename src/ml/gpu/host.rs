//! Tensors of the host to a machine's memory.

use super::forward::FixedTables;
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
