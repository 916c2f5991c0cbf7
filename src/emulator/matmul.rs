//! Matrix products of the emulated card: sums in f32, in order of k; results rounded once.

use crate::memory::Memory;
use candle_core::{Result, bail};
use erw_gpu::program::{Address, Epilogue, Form, Matmul, Type};
use half::{bf16, f16};

pub fn run(memory: &mut Memory, p: &Matmul) -> Result<()> {
    if p.m == 0 || p.n == 0 || p.k == 0 {
        bail!("a product of {} x {} x {}", p.m, p.n, p.k);
    }
    for i in 0..p.count {
        let at =
            |(address, _): (Address, usize), which: usize, ty: Type| address.offset(i * p.strides[which] * ty.size());
        let (a_rows, a_width, b_rows, b_width) = match p.form {
            Form::Nt => (p.m, p.k, p.n, p.k),
            Form::Nn => (p.m, p.k, p.k, p.n),
            Form::Tn => (p.k, p.m, p.k, p.n),
        };
        let a = matrix(memory, at(p.a, 0, p.input), a_rows, a_width, p.a.1, p.input)?;
        let b = matrix(memory, at(p.b, 1, p.input), b_rows, b_width, p.b.1, p.input)?;
        // As [m, k] and [k, n].
        let a = if p.form == Form::Tn { transposed(&a, a_rows, a_width) } else { a };
        let b = if p.form == Form::Nt { transposed(&b, b_rows, b_width) } else { b };
        let mut d = vec![0f32; p.m * p.n];
        for (a, d) in a.chunks(p.k).zip(d.chunks_mut(p.n)) {
            for (x, b) in a.iter().zip(b.chunks(p.n)) {
                for (d, y) in d.iter_mut().zip(b) {
                    *d += x * y;
                }
            }
        }
        if p.alpha != 1.0 {
            d.iter_mut().for_each(|d| *d *= p.alpha);
        }
        let to = at(p.d, 2, p.output);
        if p.accumulate {
            let old = matrix(memory, to, p.m, p.n, p.d.1, p.output)?;
            d.iter_mut().zip(old).for_each(|(d, old)| *d += old);
        }
        match p.epilogue {
            Epilogue::None => {}
            Epilogue::Bias(bias) => add_bias(memory, &mut d, p, bias)?,
            Epilogue::GeluKeep(bias, keep) => {
                add_bias(memory, &mut d, p, bias)?;
                store(memory, keep, &d, p.n, p.n, p.output)?;
                d.iter_mut().for_each(|d| *d = gelu(*d));
            }
            Epilogue::GeluBackward(kept) => {
                let kept = matrix(memory, kept, p.m, p.n, p.n, p.output)?;
                d.iter_mut().zip(kept).for_each(|(d, x)| *d *= gelu_slope(x));
            }
        }
        store(memory, to, &d, p.n, p.d.1, p.output)?;
    }
    Ok(())
}

fn add_bias(memory: &mut Memory, d: &mut [f32], p: &Matmul, bias: Address) -> Result<()> {
    let bias = matrix(memory, bias, 1, p.n, p.n, p.input)?;
    d.chunks_mut(p.n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(d, b)| *d += b));
    Ok(())
}

/// sqrt(2 / pi)
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (ROOT * (x + CUBIC * x * x * x)).tanh())
}

fn gelu_slope(x: f32) -> f32 {
    let t = (ROOT * (x + CUBIC * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * CUBIC * x * x)
}

fn transposed(x: &[f32], rows: usize, width: usize) -> Vec<f32> {
    (0..width).flat_map(|c| (0..rows).map(move |r| x[r * width + c])).collect()
}

/// The numbers of a matrix without gaps.
fn matrix(
    memory: &mut Memory,
    at: Address,
    rows: usize,
    width: usize,
    row_stride: usize,
    ty: Type,
) -> Result<Vec<f32>> {
    let bytes = memory.bytes(at, ((rows - 1) * row_stride + width) * ty.size())?;
    let rows = bytes.chunks(row_stride * ty.size()).map(|row| &row[..width * ty.size()]);
    Ok(rows.flat_map(|row| numbers(row, ty)).collect())
}

fn store(memory: &mut Memory, at: Address, x: &[f32], width: usize, row_stride: usize, ty: Type) -> Result<()> {
    let rows = x.len() / width;
    let bytes = memory.bytes(at, ((rows - 1) * row_stride + width) * ty.size())?;
    for (row, x) in bytes.chunks_mut(row_stride * ty.size()).zip(x.chunks(width)) {
        row[..width * ty.size()].copy_from_slice(&rounded(x, ty));
    }
    Ok(())
}

/// Bytes as numbers.
pub fn numbers(bytes: &[u8], ty: Type) -> Vec<f32> {
    match ty {
        Type::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(),
        Type::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f32()).collect(),
        Type::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f32()).collect(),
    }
}

/// Numbers as bytes, rounded to the nearest, ties to even.
pub fn rounded(x: &[f32], ty: Type) -> Vec<u8> {
    match ty {
        Type::F32 => x.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Type::Bf16 => x.iter().flat_map(|x| bf16::from_f32(*x).to_ne_bytes()).collect(),
        Type::F16 => x.iter().flat_map(|x| f16::from_f32(*x).to_ne_bytes()).collect(),
    }
}
