//! Matrix products of the emulated card: sums in f32, in order of k; results rounded once.

use crate::memory::Memory;
use candle_core::{Result, bail};
use erw_gpu::program::{Address, Epilogue, Form, Matmul, Type};

pub fn run(memory: &mut Memory, p: &Matmul) -> Result<()> {
    if p.m == 0 || p.n == 0 || p.k == 0 {
        bail!("a product of {} x {} x {}", p.m, p.n, p.k);
    }
    let [[a_rows, a_columns], [b_rows, b_columns]] = p.stored();
    let a = read(memory, p.a, a_rows * a_columns, p.input)?;
    let b = read(memory, p.b, b_rows * b_columns, p.input)?;
    // As [m, k] and [k, n].
    let a = if p.form == Form::Tn { transposed(&a, a_rows, a_columns) } else { a };
    let b = if p.form == Form::Nt { transposed(&b, b_rows, b_columns) } else { b };
    let mut d = vec![0f32; p.m * p.n];
    for (a, d) in a.chunks(p.k).zip(d.chunks_mut(p.n)) {
        for (x, b) in a.iter().zip(b.chunks(p.n)) {
            for (d, y) in d.iter_mut().zip(b) {
                *d += x * y;
            }
        }
    }
    match p.epilogue {
        Epilogue::None => {}
        Epilogue::Bias(bias) => add_bias(memory, &mut d, p, bias)?,
        Epilogue::Gelu(bias) => {
            add_bias(memory, &mut d, p, bias)?;
            d.iter_mut().for_each(|d| *d = gelu(*d));
        }
        Epilogue::GeluKeep(bias, keep) => {
            add_bias(memory, &mut d, p, bias)?;
            write(memory, keep, &d, p.output)?;
            d.iter_mut().for_each(|d| *d = gelu(*d));
        }
        Epilogue::GeluBackward(kept) => {
            let kept = read(memory, kept, d.len(), p.output)?;
            d.iter_mut().zip(kept).for_each(|(d, x)| *d *= gelu_slope(x));
        }
    }
    write(memory, p.d, &d, p.output)
}

fn add_bias(memory: &mut Memory, d: &mut [f32], p: &Matmul, bias: Address) -> Result<()> {
    let bias = read(memory, bias, p.n, p.input)?;
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

fn read(memory: &mut Memory, at: Address, count: usize, ty: Type) -> Result<Vec<f32>> {
    Ok(ty.decode(memory.bytes(at, count * ty.size())?))
}

fn write(memory: &mut Memory, at: Address, x: &[f32], ty: Type) -> Result<()> {
    memory.bytes(at, x.len() * ty.size())?.copy_from_slice(&ty.encode(x));
    Ok(())
}
