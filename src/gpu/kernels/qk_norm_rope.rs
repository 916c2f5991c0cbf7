//! Launches of `qk_norm_rope.cu`: QK-norm and rotary embedding of queries and keys.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Rows that a block of the backward pass takes.
const BLOCK_ROWS: usize = 16;

/// Warps of a block. A warp takes a token.
const WARPS: usize = 4;

/// Packed queries, keys and values `[rows, 3, heads, dim]` with rows `[batch, tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    pub tokens: usize,
    pub heads: usize,
    /// Numbers of a head: even, at most 256.
    pub dim: usize,
    pub ty: Type,
}

/// Addresses for the four vectors f32 `[dim]` of the norms: parameters, or their gradients. Without
/// biases, which are null then, they are RMSNorms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norms {
    pub q_weight: Address,
    pub q_bias: Address,
    pub k_weight: Address,
    pub k_bias: Address,
}

/// Cosines and sines f32 `[tokens, dim]` of the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    pub cos: Address,
    pub sin: Address,
}

/// What happens to queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    pub norms: Option<Norms>,
    pub rope: Option<Tables>,
    /// Added to the variance; above 0.
    pub eps: f32,
}

impl Shape {
    fn check(&self, steps: &Steps) -> Result<()> {
        let Self { rows, tokens, heads, dim, .. } = *self;
        if rows == 0 || tokens == 0 || heads == 0 || rows % tokens != 0 {
            bail!("queries and keys of {rows} rows, {tokens} tokens and {heads} heads");
        }
        if dim == 0 || dim % 2 != 0 || dim > 256 {
            bail!("heads of {dim} numbers: even sizes up to 256 are known");
        }
        if steps.norms.is_none() && steps.rope.is_none() {
            bail!("neither a norm nor a rotary embedding of queries and keys");
        }
        if steps.norms.is_some() && (steps.eps.is_nan() || steps.eps <= 0.0) {
            bail!("a norm of queries and keys with eps {}", steps.eps);
        }
        int(rows)?;
        int(tokens * dim)?;
        int(3 * heads * dim).map(drop)
    }

    fn kernel(&self, steps: &Steps, pass: &str) -> String {
        let version = if self.fixed() { self.dim.to_string() } else { "any".to_owned() };
        let rms = steps.norms.is_some_and(|norms| norms.q_bias == Address::NULL);
        format!("{}_rope_{pass}_{}_{version}", if rms { "qk_rms_norm" } else { "qk_norm" }, self.ty.name())
    }

    fn fixed(&self) -> bool {
        [64, 72].contains(&self.dim)
    }

    /// Heads that a warp takes at a time.
    fn heads_at_once(&self) -> usize {
        if self.dim == 64 { 2 } else { 1 }
    }
}

/// Bytes of a number of norms, tables and sums.
const F32: usize = Type::F32.size();

impl Shape {
    /// Queries and keys, without values, where `qkv` is a region of all three.
    fn queries_and_keys(&self, qkv: Region) -> Region {
        let row = self.heads * self.dim * self.ty.size();
        Region { bytes: 2 * row, ..qkv.of_rows(self.rows, 3 * row) }
    }

    fn bytes(&self) -> usize {
        3 * self.rows * self.heads * self.dim * self.ty.size()
    }

    /// The vectors and tables, f32, that are read; null ones are not.
    fn tables(&self, vectors: &[Address], t: Tables) -> Vec<Region> {
        let vectors = vectors.iter().map(|v| Region::read(*v, self.dim * F32));
        let tables = [t.cos, t.sin].map(|table| Region::read(table, self.tokens * self.dim * F32));
        vectors.chain(tables).collect()
    }
}

fn norms(steps: &Steps) -> Norms {
    let none = Address::NULL;
    steps.norms.unwrap_or(Norms { q_weight: none, q_bias: none, k_weight: none, k_bias: none })
}

fn tables(steps: &Steps) -> Tables {
    steps.rope.unwrap_or(Tables { cos: Address::NULL, sin: Address::NULL })
}

/// Queries and keys of `qkv`, normalised and rotated, to `out`, and values unchanged. `out` may be
/// `qkv`.
pub fn forward(shape: Shape, steps: &Steps, qkv: Address, out: Address) -> Result<Launch> {
    shape.check(steps)?;
    let (n, t) = (norms(steps), tables(steps));
    let part = |region| if out == qkv { shape.queries_and_keys(region) } else { region };
    let mut regions = shape.tables(&[n.q_weight, n.q_bias, n.k_weight, n.k_bias], t);
    regions.extend([part(Region::read(qkv, shape.bytes())), part(Region::write(out, shape.bytes()))]);
    Ok(Launch {
        kernel: shape.kernel(steps, "forward"),
        grid: [blocks(shape.rows, WARPS)?, 1],
        threads: 32 * WARPS as u32,
        shared: 0,
        arguments: vec![
            qkv.into(),
            out.into(),
            n.q_weight.into(),
            n.q_bias.into(),
            n.k_weight.into(),
            n.k_bias.into(),
            t.cos.into(),
            t.sin.into(),
            int(shape.rows)?.into(),
            int(shape.tokens)?.into(),
            int(shape.heads)?.into(),
            int(shape.dim)?.into(),
            steps.eps.into(),
        ],
        regions,
        operations: 0,
    })
}

/// Blocks of the backward pass. Its partial sums are f32 `[blocks, 4, dim]`.
pub fn backward_blocks(shape: Shape) -> usize {
    shape.rows.div_ceil(BLOCK_ROWS)
}

/// In place on `dqkv`: the gradient of what [`forward`] wrote becomes that of its input `qkv`. The
/// part of the values stays. `qkv` and `partial` may be null where there are no norms.
pub fn backward(shape: Shape, steps: &Steps, dqkv: Address, qkv: Address, partial: Address) -> Result<Launch> {
    shape.check(steps)?;
    let (n, t) = (norms(steps), tables(steps));
    let sums = if steps.norms.is_some() { WARPS * shape.heads_at_once() * 4 * shape.dim * 4 } else { 0 };
    let mut regions = shape.tables(&[n.q_weight, n.k_weight], t);
    regions.push(shape.queries_and_keys(Region::update(dqkv, shape.bytes())));
    if steps.norms.is_some() {
        regions.push(shape.queries_and_keys(Region::read(qkv, shape.bytes())));
        regions.push(Region::write(partial, backward_blocks(shape) * 4 * shape.dim * F32));
    }
    Ok(Launch {
        kernel: shape.kernel(steps, "backward"),
        grid: [blocks(shape.rows, BLOCK_ROWS)?, 1],
        threads: 32 * WARPS as u32,
        shared: int(sums)?.cast_unsigned(),
        arguments: vec![
            dqkv.into(),
            qkv.into(),
            n.q_weight.into(),
            n.k_weight.into(),
            t.cos.into(),
            t.sin.into(),
            partial.into(),
            int(shape.rows)?.into(),
            int(BLOCK_ROWS)?.into(),
            int(shape.tokens)?.into(),
            int(shape.heads)?.into(),
            int(shape.dim)?.into(),
            steps.eps.into(),
        ],
        regions,
        operations: 0,
    })
}

/// Adds the partial sums of [`backward`] over blocks to the gradients of the norms, always in the
/// same order.
pub fn norm_sums(shape: Shape, partial: Address, gradients: Norms) -> Result<Launch> {
    let Norms { q_weight, q_bias, k_weight, k_bias } = gradients;
    let vectors = [q_weight, q_bias, k_weight, k_bias].map(|vector| Region::write(vector, shape.dim * F32));
    let sums = Region::read(partial, backward_blocks(shape) * 4 * shape.dim * F32);
    Ok(Launch {
        kernel: "qk_norm_sums".to_owned(),
        grid: [blocks(4 * shape.dim, 32)?, 1],
        threads: 256,
        shared: 256 * 4,
        arguments: vec![
            partial.into(),
            q_weight.into(),
            q_bias.into(),
            k_weight.into(),
            k_bias.into(),
            int(backward_blocks(shape))?.into(),
            int(shape.dim)?.into(),
        ],
        regions: vectors.into_iter().chain([sums]).collect(),
        operations: 0,
    })
}
