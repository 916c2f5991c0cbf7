//! Launches of `boundary.cu`: the places between two branches of the residual stream.

use super::{arguments, blocks, column_sums, int};
use crate::program::{Access, Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Widths with a version of their own, 128 V; others take the version for any multiple of 4.
const WIDTHS: [usize; 5] = [128, 384, 768, 1024, 1152];

/// A block of the backward pass takes 2^5 rows at most.
const CHUNK_BITS: u32 = 5;

const F32: usize = Type::F32.size();

/// The residual stream f32 `[batch, tokens, width]` and the type of the branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub batch: usize,
    pub tokens: usize,
    /// A multiple of 4.
    pub width: usize,
    pub ty: Type,
}

/// A table `[batch, width]` of the branches' type, whose rows hold vectors for a sample side by
/// side. `width` and the places of vectors in a row are counted in numbers, multiples of 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub address: Address,
    pub width: usize,
}

/// Where the vectors of a norm are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modulation {
    pub table: Table,
    /// Places in a row.
    pub shift: usize,
    pub scale: usize,
    /// The weight of an RMSNorm, f32 `[width]`; `None` for a LayerNorm, which has none.
    pub weight: Option<Address>,
}

/// A branch that ends at the boundary: the stream gains gate y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Output of the branch `[batch, tokens, width]`.
    pub y: Address,
    /// Where the gate is; it may be the table of another block than that of the modulation.
    pub gates: Table,
    /// Place in a row.
    pub gate: usize,
}

/// Arguments of [`gate_norm_forward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GateNorm {
    /// The stream before the boundary, f32.
    pub x: Address,
    pub branch: Option<Branch>,
    pub modulation: Modulation,
    /// The stream behind it, f32; null if nobody needs it; may be `x`.
    pub x_out: Address,
    /// Normalised and modulated, `[batch, tokens, width]`.
    pub h: Address,
    /// f32 `[batch, tokens, 2]`: mean (with RMSNorm 0) and 1 / deviation of each row, for the backward
    /// pass.
    pub stats: Address,
    pub eps: f32,
}

/// Arguments of [`layer_norm_forward`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// f32 `[rows, width]`
    pub x: Address,
    /// y `[rows, width]` of the branch's type, and a LayerScale f32 `[width]`.
    pub branch: Option<(Address, Address)>,
    /// f32 `[width]`
    pub weight: Address,
    /// f32 `[width]`
    pub bias: Address,
    /// x + scale y, f32; null if nobody needs it; may be `x`.
    pub x_out: Address,
    /// `[rows, width]`
    pub h: Address,
    pub eps: f32,
}

/// The branch above a boundary in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchBackward {
    pub branch: Branch,
    /// Gradient of y, written. Must not overlap y or dh.
    pub dy: Address,
    /// The stream is that before the boundary, and gate y is added again. Else it is that behind.
    pub again: bool,
}

/// Arguments of [`norm_gate_backward`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormGate {
    /// Gradient of the stream behind the boundary, f32; that before the norm when the kernel is done.
    pub dx: Address,
    /// The stream has no gradient yet: dx is written without being read.
    pub begins: bool,
    /// Gradient of the normalised and modulated rows.
    pub dh: Address,
    /// The stream, f32.
    pub stream: Address,
    /// As [`gate_norm_forward`] wrote it.
    pub stats: Address,
    pub modulation: Modulation,
    pub branch: Option<BranchBackward>,
    /// f32, [`partial_len`] numbers.
    pub partial: Address,
}

/// Gradients of a branch's gate and of a bias that was added to y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateSums {
    pub branch: Branch,
    /// Gradient of the table of gates; the gate's place in it is written.
    pub dgates: Address,
    /// f32 `[batch, width]`, for [`sums_of_samples`].
    pub bias_of_sample: Address,
}

/// Arguments of [`partial_sums`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialSums {
    /// From [`norm_gate_backward`].
    pub partial: Address,
    pub modulation: Modulation,
    /// Gradient of the table of modulations; the places of shift and scale in it are written.
    pub dmodulation: Address,
    /// f32 `[batch, width]`, for [`sums_of_samples`]: of the weight of an RMSNorm. Not used for a
    /// LayerNorm.
    pub weight_of_sample: Address,
    pub gate: Option<GateSums>,
}

impl Shape {
    fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    fn check(&self) -> Result<()> {
        let Self { batch, tokens, width, .. } = *self;
        if batch == 0 || tokens == 0 || width == 0 || width % 4 != 0 {
            bail!("a residual stream of {batch} x {tokens} x {width}: widths are multiples of 4, nothing is empty");
        }
        int(self.rows()).map(drop)
    }

    /// Rows of a chunk of the backward pass: 32 if they divide the tokens, else the largest power
    /// of two that does.
    fn chunk(&self) -> usize {
        1 << self.tokens.trailing_zeros().min(CHUNK_BITS)
    }

    /// The address of a vector of the first sample.
    fn vector(&self, table: Table, place: usize) -> Result<Address> {
        if !table.width.is_multiple_of(4) || !place.is_multiple_of(4) || place + self.width > table.width {
            bail!("a vector of {} numbers at {place} in rows of {}: not aligned, or too long", self.width, table.width);
        }
        Ok(table.address.offset(place * self.ty.size()))
    }

    /// Such a vector of every sample, where `first` is that of the first.
    fn vectors(&self, access: Access, first: Address, table_width: usize) -> Region {
        let (row, pitch) = (self.width * self.ty.size(), table_width * self.ty.size());
        Region { access, ..Region::read(first, row).of_rows(self.batch, pitch) }
    }

    /// The weight of RMSNorm, where there is one.
    fn weight(&self, weight: Option<Address>) -> Region {
        Region::read(weight.unwrap_or(Address::NULL), self.width * F32)
    }

    /// Bytes of the stream, and of the output of a branch.
    fn stream_bytes(&self) -> usize {
        self.rows() * self.width * F32
    }

    fn branch_bytes(&self) -> usize {
        self.rows() * self.width * self.ty.size()
    }

    /// Bytes of two numbers for each row.
    fn stats_bytes(&self) -> usize {
        self.rows() * 2 * F32
    }

    fn kernel(&self, name: &str) -> String {
        kernel(name, self.width, self.ty)
    }
}

/// The name of the version for a width.
fn kernel(name: &str, width: usize, ty: Type) -> String {
    let version = if WIDTHS.contains(&width) { width.to_string() } else { "any".to_owned() };
    format!("{name}_{}_{version}", ty.name())
}

/// The address of y, the gate, and the width of the gate's table; null without a branch.
fn of_branch(shape: Shape, branch: Option<Branch>) -> Result<(Address, Address, usize)> {
    match branch {
        Some(b) => Ok((b.y, shape.vector(b.gates, b.gate)?, b.gates.width)),
        None => Ok((Address::NULL, Address::NULL, 0)),
    }
}

/// The kernel for the norm of a modulation.
fn version<'a>(m: &Modulation, layer: &'a str, rms: &'a str) -> &'a str {
    if m.weight.is_some() { rms } else { layer }
}

/// x_out = x + gate y; h = norm(x_out) (1 + scale) + shift, with the norm over the last axis.
pub fn gate_norm_forward(shape: Shape, a: &GateNorm) -> Result<Launch> {
    shape.check()?;
    let m = a.modulation;
    let (y, gate, gates) = of_branch(shape, a.branch)?;
    let vectors = [shape.vector(m.table, m.shift)?, shape.vector(m.table, m.scale)?];
    let addresses = [a.x, y, gate].into_iter().chain(vectors).chain(m.weight).chain([a.x_out, a.h, a.stats]);
    let sizes = [shape.rows(), shape.tokens, shape.width, gates, m.table.width];
    Ok(Launch {
        kernel: shape.kernel(version(&m, "gate_norm_forward", "gate_rms_norm_forward")),
        grid: [blocks(shape.rows(), 8)?, 1],
        threads: 256,
        shared: 0,
        arguments: arguments(addresses, &sizes, [a.eps.into()])?,
        regions: vec![
            Region::read(a.x, shape.stream_bytes()),
            Region::read(y, shape.branch_bytes()),
            shape.vectors(Access::Read, gate, gates),
            shape.vectors(Access::Read, vectors[0], m.table.width),
            shape.vectors(Access::Read, vectors[1], m.table.width),
            shape.weight(m.weight),
            Region::write(a.x_out, shape.stream_bytes()),
            Region::write(a.h, shape.branch_bytes()),
            Region::write(a.stats, shape.stats_bytes()),
        ],
        operations: 0,
    })
}

/// x_out = x + scale y; h = norm(x_out) weight + bias.
pub fn layer_norm_forward(rows: usize, width: usize, ty: Type, a: &LayerNorm) -> Result<Launch> {
    let shape = Shape { batch: 1, tokens: rows, width, ty };
    shape.check()?;
    let (y, scale) = a.branch.unwrap_or((Address::NULL, Address::NULL));
    Ok(Launch {
        kernel: kernel("layer_norm_forward", width, ty),
        grid: [blocks(rows, 8)?, 1],
        threads: 256,
        shared: 0,
        arguments: vec![
            a.x.into(),
            y.into(),
            scale.into(),
            a.weight.into(),
            a.bias.into(),
            a.x_out.into(),
            a.h.into(),
            int(rows)?.into(),
            int(width)?.into(),
            a.eps.into(),
        ],
        regions: vec![
            Region::read(a.x, shape.stream_bytes()),
            Region::read(y, shape.branch_bytes()),
            Region::read(scale, width * F32),
            Region::read(a.weight, width * F32),
            Region::read(a.bias, width * F32),
            Region::write(a.x_out, shape.stream_bytes()),
            Region::write(a.h, shape.branch_bytes()),
        ],
        operations: 0,
    })
}

/// Numbers of the partial sums f32 `[batch, chunks, 4, width]` of [`norm_gate_backward`].
pub fn partial_len(shape: Shape) -> usize {
    shape.rows() / shape.chunk() * 4 * shape.width
}

/// The backward pass of [`gate_norm_forward`]: dx gains the gradient through norm and modulation,
/// dy = gate dx; partial sums for the gradients of the vectors.
pub fn norm_gate_backward(shape: Shape, a: &NormGate) -> Result<Launch> {
    shape.check()?;
    let (m, chunk) = (a.modulation, shape.chunk());
    let (y, gate, gates) = of_branch(shape, a.branch.map(|b| b.branch))?;
    let (dy, again) = a.branch.map_or((Address::NULL, false), |b| (b.dy, b.again));
    let scale = shape.vector(m.table, m.scale)?;
    let dx = if a.begins { Region::write } else { Region::update };
    Ok(Launch {
        kernel: shape.kernel(version(&m, "norm_gate_backward", "rms_norm_gate_backward")),
        grid: [blocks(shape.rows(), chunk)?, 1],
        // Four columns a thread.
        threads: if WIDTHS.contains(&shape.width) { int(shape.width / 4)?.cast_unsigned() } else { 256 },
        shared: int(chunk * 16)?.cast_unsigned(),
        arguments: arguments(
            [a.dx, a.dh, a.stream, a.stats, scale].into_iter().chain(m.weight).chain([y, gate, dy, a.partial]),
            &[shape.tokens, chunk, shape.width, gates, m.table.width],
            [i32::from(again).into(), i32::from(a.begins).into()],
        )?,
        regions: vec![
            dx(a.dx, shape.stream_bytes()),
            Region::read(a.dh, shape.branch_bytes()),
            Region::read(a.stream, shape.stream_bytes()),
            Region::read(a.stats, shape.stats_bytes()),
            shape.vectors(Access::Read, scale, m.table.width),
            shape.weight(m.weight),
            Region::read(y, shape.branch_bytes()),
            shape.vectors(Access::Read, gate, gates),
            Region::write(dy, shape.branch_bytes()),
            Region::write(a.partial, partial_len(shape) * F32),
        ],
        operations: 0,
    })
}

/// Adds partial sums chunk by chunk: the gradients of shift, scale and gate, rounded to their type,
/// and of a bias and a weight for each sample.
pub fn partial_sums(shape: Shape, a: &PartialSums) -> Result<Launch> {
    shape.check()?;
    let m = a.modulation;
    let dtable = Table { address: a.dmodulation, ..m.table };
    let (_, gate, gates) = of_branch(shape, a.gate.map(|g| g.branch))?;
    let (dgate, bias) = match a.gate {
        Some(g) => {
            let dgates = Table { address: g.dgates, ..g.branch.gates };
            (shape.vector(dgates, g.branch.gate)?, g.bias_of_sample)
        }
        None => (Address::NULL, Address::NULL),
    };
    let (scale, written) =
        (shape.vector(m.table, m.scale)?, [shape.vector(dtable, m.shift)?, shape.vector(dtable, m.scale)?]);
    let of_weight = m.weight.map(|weight| [scale, weight]);
    let addresses = [a.partial, gate].into_iter().chain(of_weight.into_iter().flatten()).chain(written);
    let addresses = addresses.chain([dgate, bias]).chain(m.weight.map(|_| a.weight_of_sample));
    let sizes = [shape.tokens / shape.chunk(), shape.width, gates, m.table.width];
    // Without a gate two of a chunk's four sums are not read.
    let sums = if a.gate.is_some() { 4 } else { 2 } * shape.width * F32;
    let chunks = shape.rows() / shape.chunk();
    Ok(Launch {
        kernel: format!("{}_{}", version(&m, "partial_sums", "rms_partial_sums"), shape.ty.name()),
        grid: [int(shape.batch)?.cast_unsigned(), blocks(shape.width, 4 * 128)?],
        threads: 128,
        shared: 0,
        arguments: arguments(addresses, &sizes, [])?,
        regions: vec![
            Region::read(a.partial, sums).of_rows(chunks, 4 * shape.width * F32),
            shape.vectors(Access::Read, gate, gates),
            shape.vectors(Access::Read, m.weight.map_or(Address::NULL, |_| scale), m.table.width),
            shape.weight(m.weight),
            shape.vectors(Access::Write, written[0], m.table.width),
            shape.vectors(Access::Write, written[1], m.table.width),
            shape.vectors(Access::Write, dgate, gates),
            Region::write(bias, shape.batch * shape.width * F32),
            Region::write(m.weight.map_or(Address::NULL, |_| a.weight_of_sample), shape.batch * shape.width * F32),
        ],
        operations: 0,
    })
}

/// Adds the gradients of a bias or a weight, f32 `[batch, width]`, over samples in order, to `to` f32
/// `[width]`.
pub fn sums_of_samples(shape: Shape, of_sample: Address, to: Address) -> Result<Launch> {
    column_sums::column_sums_end(of_sample, to, shape.batch, shape.width)
}
