//! Launches of `activation.cu`: activations, copies between types, and biases.

use super::{flat, int, of_rows};
use crate::program::{Address, Argument, Launch, Region, Type};
use candle_core::Result;

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
    /// May be `from` if both have one type.
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

/// A bias that is added to the rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Bias {
    pub ty: Type,
    /// `[rows, width]`
    pub x: Address,
    /// `[width]`
    pub bias: Address,
    pub rows: usize,
    /// A multiple of 4.
    pub width: usize,
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

fn pass(name: &str, p: &Pass, [from, to]: [Type; 2]) -> Result<Launch> {
    let regions = vec![Region::read(p.from, p.count * from.size()), Region::write(p.to, p.count * to.size())];
    flat(format!("{name}_{}", p.ty.name()), p.count, vec![p.from.into(), p.to.into()], regions)
}

/// `to` = f(`from`), both of the type.
pub fn forward(f: Activation, p: &Pass) -> Result<Launch> {
    pass(&format!("{}_forward", f.name()), p, [p.ty; 2])
}

/// dx = dy f'(x).
pub fn backward(f: Activation, b: &Backward) -> Result<Launch> {
    let kernel = format!("{}_backward_{}", f.name(), b.ty.name());
    let bytes = b.count * b.ty.size();
    let regions = vec![Region::read(b.dy, bytes), Region::read(b.x, bytes), Region::write(b.dx, bytes)];
    flat(kernel, b.count, vec![b.dy.into(), b.x.into(), b.dx.into()], regions)
}

/// `to` = GELU(`from`) in its exact form, both of the type.
pub fn gelu_erf(p: &Pass) -> Result<Launch> {
    pass("gelu_erf", p, [p.ty; 2])
}

/// `to` = x sigmoid(1.702 x) of `from`, both of the type.
pub fn quick_gelu(p: &Pass) -> Result<Launch> {
    pass("quick_gelu", p, [p.ty; 2])
}

/// `to` = silu(`from`), from f32 to the type.
pub fn silu_narrow(p: &Pass) -> Result<Launch> {
    pass("silu_narrow", p, [Type::F32, p.ty])
}

/// `to` = `from`, from f32 to the type.
pub fn narrow(p: &Pass) -> Result<Launch> {
    pass("narrow", p, [Type::F32, p.ty])
}

/// `to` = `from`, from the type to f32.
pub fn widen(p: &Pass) -> Result<Launch> {
    pass("widen", p, [p.ty, Type::F32])
}

/// `to` += `from`, from the type to f32.
pub fn add(p: &Pass) -> Result<Launch> {
    let regions = vec![Region::read(p.from, p.count * p.ty.size()), Region::update(p.to, p.count * Type::F32.size())];
    flat(format!("add_{}", p.ty.name()), p.count, vec![p.from.into(), p.to.into()], regions)
}

/// y `[rows, width]` = silu(gate) up.
pub fn swiglu_forward(s: &SwiGlu, y: Address) -> Result<Launch> {
    let bytes = s.rows * s.width * s.ty.size();
    swiglu("forward", s, &[s.x, y], vec![Region::read(s.x, 2 * bytes), Region::write(y, bytes)])
}

/// dx `[rows, 2 width]` from the gradient dy `[rows, width]`. dx may be x.
pub fn swiglu_backward(s: &SwiGlu, dy: Address, dx: Address) -> Result<Launch> {
    let bytes = s.rows * s.width * s.ty.size();
    let regions = vec![Region::read(dy, bytes), Region::read(s.x, 2 * bytes), Region::write(dx, 2 * bytes)];
    swiglu("backward", s, &[dy, s.x, dx], regions)
}

fn swiglu(name: &str, s: &SwiGlu, tensors: &[Address], regions: Vec<Region>) -> Result<Launch> {
    let mut arguments: Vec<Argument> = tensors.iter().map(|t| (*t).into()).collect();
    arguments.push(int(s.width)?.into());
    of_rows(format!("swiglu_{name}_{}", s.ty.name()), [s.rows, s.width], arguments, regions)
}

/// x += bias in every row.
pub fn add_bias(b: &Bias) -> Result<Launch> {
    let size = b.ty.size();
    let regions = vec![Region::update(b.x, b.rows * b.width * size), Region::read(b.bias, b.width * size)];
    let arguments = vec![b.x.into(), b.bias.into(), int(b.width)?.into()];
    of_rows(format!("add_bias_{}", b.ty.name()), [b.rows, b.width], arguments, regions)
}
