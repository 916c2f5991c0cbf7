//! Launches of `activation.cu`: activations, and copies between types.

use super::{flat, int, row_shares};
use crate::program::{Address, Launch, Type};
use candle_core::{Result, bail};

/// An activation function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// The tanh form.
    Gelu,
}

impl Activation {
    fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::Gelu => "gelu",
        }
    }
}

/// A pass from one tensor to another of the same shape.
#[derive(Debug, Clone, Copy)]
pub struct Pass {
    /// The half type of the pass, or f32.
    pub ty: Type,
    pub from: Address,
    pub to: Address,
    /// Numbers, a multiple of 4.
    pub count: usize,
}

/// The backward pass of an [`Activation`].
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    pub ty: Type,
    /// Gradient of the output.
    pub dy: Address,
    /// The input of the forward pass.
    pub x: Address,
    /// Gradient of the input. May be `dy` or `x`.
    pub dx: Address,
    /// Numbers, a multiple of 4.
    pub count: usize,
}

/// SwiGLU on rows `[gate | up]`.
#[derive(Debug, Clone, Copy)]
pub struct SwiGlu {
    pub ty: Type,
    /// `[rows, 2 width]`, gate before up.
    pub x: Address,
    pub rows: usize,
    /// Of the output, a multiple of 4.
    pub width: usize,
}

fn pass(name: &str, p: &Pass) -> Result<Launch> {
    flat(format!("{name}_{}", p.ty.name()), p.count, vec![p.from.into(), p.to.into()])
}

/// `to` = f(`from`), both of the type.
pub fn forward(f: Activation, p: &Pass) -> Result<Launch> {
    pass(&format!("{}_forward", f.name()), p)
}

/// dx = dy f'(x).
pub fn backward(f: Activation, b: &Backward) -> Result<Launch> {
    let kernel = format!("{}_backward_{}", f.name(), b.ty.name());
    flat(kernel, b.count, vec![b.dy.into(), b.x.into(), b.dx.into()])
}

/// `to` = GELU(`from`) in its exact form, both of the type.
pub fn gelu_erf(p: &Pass) -> Result<Launch> {
    pass("gelu_erf", p)
}

/// `to` = x sigmoid(1.702 x) of `from`, both of the type.
pub fn quick_gelu(p: &Pass) -> Result<Launch> {
    pass("quick_gelu", p)
}

/// `to` = silu(`from`), from f32 to the type.
pub fn silu_narrow(p: &Pass) -> Result<Launch> {
    pass("silu_narrow", p)
}

/// `to` = `from`, from f32 to the type.
pub fn narrow(p: &Pass) -> Result<Launch> {
    pass("narrow", p)
}

/// `to` = `from`, from the type to f32.
pub fn widen(p: &Pass) -> Result<Launch> {
    pass("widen", p)
}

/// `to` += `from`, from the type to f32.
pub fn add(p: &Pass) -> Result<Launch> {
    pass("add", p)
}

/// y `[rows, width]` = silu(gate) up.
pub fn swiglu_forward(s: &SwiGlu, y: Address) -> Result<Launch> {
    swiglu("forward", s, &[s.x, y])
}

/// dx `[rows, 2 width]` from the gradient dy `[rows, width]`. dx may be x.
pub fn swiglu_backward(s: &SwiGlu, dy: Address, dx: Address) -> Result<Launch> {
    swiglu("backward", s, &[dy, s.x, dx])
}

fn swiglu(name: &str, s: &SwiGlu, tensors: &[Address]) -> Result<Launch> {
    if s.rows == 0 || s.width == 0 || !s.width.is_multiple_of(4) {
        bail!("SwiGLU takes rows with a multiple of four outputs, not {} rows of {}", s.rows, s.width);
    }
    let (shares, threads) = row_shares(s.width);
    let mut arguments: Vec<_> = tensors.iter().map(|t| (*t).into()).collect();
    arguments.push(int(s.width)?.into());
    Ok(Launch {
        kernel: format!("swiglu_{name}_{}", s.ty.name()),
        grid: [int(s.rows)?.cast_unsigned(), shares],
        threads,
        shared: 0,
        arguments,
    })
}
