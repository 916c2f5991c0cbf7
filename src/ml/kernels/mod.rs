//! Fused f32 loops for the CPU, each a candle custom operation with a hand-written backward pass.
//!
//! candle's elementwise operations take one pass over memory each, and several run on one thread. A
//! transformer step spends more time there than in its matrix products. Each file here replaces one
//! chain of them. The wrappers in [`crate::nn`] choose between these kernels and equivalent plain
//! candle operations, which also run on other devices and in other dtypes. Nothing here draws
//! random numbers or knows a model.
//!
//! Results do not depend on the number of threads: sums are split into pieces whose size follows
//! from the shape alone, and the pieces are added in order.

pub mod activation;
pub mod adamw;
pub mod attention;
pub mod autograd;
pub mod avg_pool;
pub mod block;
pub mod conv;
pub mod gated_residual;
pub mod group_norm;
pub mod linear;
pub mod loss;
pub mod matmul;
pub mod mlp;
pub mod norm;
pub mod qk_norm_rope;
pub mod rope;
pub mod rows;
pub mod scratch;
pub mod simd;
pub mod small_batch;
pub mod swiglu;
pub mod upsample;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, bail};
use std::cell::Cell;

/// Whether the fused loops support these tensors: all f32 in main memory.
pub fn suits(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// The values of a contiguous f32 storage.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else { bail!("fused kernels need f32 tensors") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("fused kernels need contiguous tensors") };
    Ok(&data[start..end])
}

/// Runs `f` on the values of contiguous f32 tensors in main memory, without copies.
pub fn with_slices<const N: usize, R>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (out, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(cpu) = &**storage else { bail!("fused kernels need tensors in main memory") };
        *out = slice(cpu, layout)?;
    }
    Ok(f(slices))
}

/// [`with_slices`] for any number of tensors.
pub fn with_all<R>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> Result<R>) -> Result<R> {
    let guards: Vec<_> = tensors.iter().map(|t| t.storage_and_layout()).collect();
    let slices: Vec<&[f32]> = guards
        .iter()
        .map(|(storage, layout)| {
            let Storage::Cpu(cpu) = &**storage else { bail!("fused kernels need tensors in main memory") };
            slice(cpu, layout)
        })
        .collect::<Result<_>>()?;
    f(&slices)
}

/// Runs `f` on the values of contiguous f32 tensors in main memory, which it may modify. Every
/// tensor that shares their storage sees the change.
pub fn with_all_mut<R>(tensors: &[&Tensor], f: impl FnOnce(Vec<&mut [f32]>) -> Result<R>) -> Result<R> {
    fn go<R>(rest: &[&Tensor], got: Vec<&mut [f32]>, f: Function<R>) -> Result<R> {
        let Some((first, rest)) = rest.split_first() else { return f(got) };
        with_mut(first, |numbers| {
            // A new list: these slices live no longer than the last.
            go(rest, got.into_iter().chain([numbers]).collect(), f)
        })
    }
    type Function<'f, R> = Box<dyn FnOnce(Vec<&mut [f32]>) -> Result<R> + 'f>;
    go(tensors, vec![], Box::new(f))
}

/// candle gives write access to a storage only to operations.
fn with_mut<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> Result<R>) -> Result<R> {
    struct Write<F, R>(Cell<Option<F>>, Cell<Option<R>>);
    impl<R, F: FnOnce(&mut [f32]) -> Result<R>> InplaceOp1 for Write<F, R> {
        fn name(&self) -> &'static str {
            "write"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let CpuStorage::F32(data) = storage else { bail!("fused kernels need f32 tensors") };
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("fused kernels need contiguous tensors")
            };
            if let Some(f) = self.0.take() {
                self.1.set(Some(f(&mut data[start..end])?));
            }
            Ok(())
        }
    }
    let write = Write(Cell::new(Some(f)), Cell::new(None));
    tensor.inplace_op1(&write)?;
    match write.1.take() {
        Some(result) => Ok(result),
        None => bail!("candle gave no write access to a tensor"),
    }
}

/// A tensor in main memory from computed values.
pub fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape: Shape = shape.into();
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// A gradient for `wanted`, computed only if something upstream of it is trained.
pub fn gradient_of(wanted: &Tensor, make: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    if wanted.track_op() { make().map(Some) } else { Ok(None) }
}
