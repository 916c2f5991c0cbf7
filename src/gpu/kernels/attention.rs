//! Launches of `attention.cu` and `attention_f32.cu`.

use crate::program::{Address, Argument, Launch, Region, Type};
use candle_core::{Result, bail};

/// Rows and columns of a tile, as in `attention.cu`.
const TILE: usize = 64;
/// Threads of a block of `attention.cu`, and of `attention_f32.cu`.
const THREADS: u32 = 128;
const THREADS_F32: u32 = 256;
/// Rows of a block of the plain kernels, which give a warp to each.
const PLAIN_ROWS: usize = 4;
/// The largest head of the plain kernels.
const MAX_HEAD_DIM: usize = 256;
/// The longest second edge of a grid.
const MAX_GRID_Y: usize = 65_535;

/// Log-sums and deltas of the queries of a tile, in shared memory.
const SUMS: usize = 2 * TILE * 4;

/// How it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    TensorCores,
    TilesF32,
    Plain,
}

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Delta,
    KeysBackward,
    QueriesBackward,
}

impl Pass {
    /// The name in those of kernels.
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Delta => "delta",
            Self::KeysBackward => "dkdv",
            Self::QueriesBackward => "dq",
        }
    }
}

/// Attention of every token to every token of its sample, for `heads` heads:
/// `softmax(q k^T / sqrt(head_dim)) v`.
///
/// Heads of 64 or 72 numbers are computed by tiles, of half types on tensor cores; other heads, of up
/// to 256 numbers, take plain kernels, which are slow. All take any number of tokens. Tiles ask for
/// addresses that are multiples of 16, and for up to 96 KiB of shared memory; more than 48 KiB a
/// card gives only where it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// `[batch, tokens, 3, heads, head_dim]` in `ty`: queries, keys and values as their product
    /// writes them.
    pub qkv: Address,
    /// `[batch, tokens, heads, head_dim]` in `ty`: written by the forward pass, read by the
    /// backward pass.
    pub out: Address,
    /// `[batch, heads, tokens]` in f32: log2 of the sums of 2^(score log2 e), which the backward
    /// pass needs. The forward pass takes null.
    pub log_sums: Address,
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    pub heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Of everything but sums.
    pub ty: Type,
}

impl Attention {
    /// Writes `out` and, unless null, `log_sums`.
    ///
    /// # Errors
    /// Shapes or addresses that the kernels do not take.
    pub fn forward(&self) -> Result<Launch> {
        self.check(&[("qkv", self.qkv), ("out", self.out)])?;
        let pointers = [self.qkv, self.out, self.log_sums];
        let regions = vec![
            Region::read(self.qkv, 3 * self.bytes()),
            Region::write(self.out, self.bytes()),
            Region::write(self.log_sums, self.sum_bytes()),
        ];
        let operations = self.operations(1, 1);
        Ok(Launch { regions, operations, ..self.launch(Pass::Forward, &pointers, &[self.scale_log2()]) })
    }

    /// Three launches, in this order: the sums `delta`, then the gradients of keys and values, then
    /// that of queries.
    ///
    /// - `dout`: `[batch, tokens, heads, head_dim]` in the type, the gradient of `out`.
    /// - `delta`: `[batch, heads, tokens]` in f32, space for the sums of `out dout` over a head.
    /// - `dqkv`: like `qkv`; all of it is written. It may not be `qkv` itself.
    ///
    /// # Errors
    /// Shapes or addresses that the kernels do not take; null `log_sums`.
    pub fn backward(&self, dout: Address, delta: Address, dqkv: Address) -> Result<[Launch; 3]> {
        self.check(&[("qkv", self.qkv), ("out", self.out), ("dout", dout), ("dqkv", dqkv)])?;
        if self.log_sums == Address::NULL || delta == Address::NULL {
            bail!("the backward pass of attention needs `log_sums` and `delta`");
        }
        if self.qkv == dqkv {
            bail!("the backward pass of attention cannot overwrite qkv with its gradient");
        }
        let pointers = [self.qkv, dout, self.log_sums, delta, dqkv];
        let scales = [self.scale_log2(), self.scale() as f32];
        let read = [
            Region::read(self.qkv, 3 * self.bytes()),
            Region::read(dout, self.bytes()),
            Region::read(self.log_sums, self.sum_bytes()),
            Region::read(delta, self.sum_bytes()),
        ];
        // Of the gradients of queries, keys and values side by side: so many of a token, from one on.
        let written = |first: usize, count: usize| {
            let one = self.heads * self.head_dim * self.ty.size();
            Region::write(dqkv.offset(first * one), count * one).of_rows(self.batch * self.tokens, 3 * one)
        };
        let launch = |pass, written, operations| {
            let regions = read.into_iter().chain([written]).collect();
            Launch { regions, operations, ..self.launch(pass, &pointers, &scales) }
        };
        Ok([
            self.delta(dout, delta),
            launch(Pass::KeysBackward, written(1, 2), self.operations(2, 2)),
            launch(Pass::QueriesBackward, written(0, 1), self.operations(2, 1)),
        ])
    }

    /// Bytes of `out`, and of a sum for each of its rows.
    fn bytes(&self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim * self.ty.size()
    }

    fn sum_bytes(&self) -> usize {
        self.batch * self.tokens * self.heads * Type::F32.size()
    }

    /// Operations of tensor cores for products over the numbers of a head, padded to a multiple of
    /// 16, and over tokens, each of whole tiles.
    fn operations(&self, over_head: usize, over_tokens: usize) -> u64 {
        if self.version() != Version::TensorCores {
            return 0;
        }
        let tokens = self.tokens.next_multiple_of(TILE);
        let width = over_head * self.head_dim.next_multiple_of(16) + over_tokens * self.head_dim;
        2 * (self.batch * self.heads * tokens * tokens * width) as u64
    }

    fn delta(&self, dout: Address, delta: Address) -> Launch {
        let pointers = [self.out, dout, delta];
        let (bytes, sums) = (self.bytes(), self.sum_bytes());
        let regions = vec![Region::read(self.out, bytes), Region::read(dout, bytes), Region::write(delta, sums)];
        let launch = match self.version() {
            // 8 lanes a row, a line of blocks a sample.
            Version::TensorCores => {
                let blocks = (self.tokens * self.heads).div_ceil(THREADS as usize / 8);
                let launch = self.launch(Pass::Delta, &pointers, &[]);
                Launch { grid: [blocks as u32, self.batch as u32], ..launch }
            }
            Version::TilesF32 | Version::Plain => self.plain(Pass::Delta, &pointers, &[]),
        };
        Launch { regions, ..launch }
    }

    /// A kernel of this family with its pointers, shapes and scales. What it touches is to be added.
    fn launch(&self, pass: Pass, pointers: &[Address], scales: &[f32]) -> Launch {
        let (d, ty, which) = (self.head_dim, self.ty.name(), pass.name());
        let (threads, shared) = match self.version() {
            Version::Plain => return self.plain(pass, pointers, scales),
            // Rows padded to a multiple of 16 numbers, and 8 more against conflicts of banks. With
            // the five tiles of the backward pass lie the sums of 64 queries.
            Version::TensorCores => {
                let tile = TILE * (d.next_multiple_of(16) + 8) * self.ty.size();
                let (tiles, sums) = match pass {
                    Pass::Delta => (0, 0),
                    Pass::Forward => (3, 0),
                    Pass::KeysBackward => (5, SUMS),
                    Pass::QueriesBackward => (5, 0),
                };
                (THREADS, tiles * tile + sums)
            }
            // Tiles of this padding, and one of 64 columns for what threads share.
            Version::TilesF32 => {
                let tile = |columns: usize| TILE * (columns + 4) * Type::F32.size();
                let (tiles, sums) = match pass {
                    Pass::Delta | Pass::Forward => (3, 0),
                    Pass::KeysBackward => (4, SUMS),
                    Pass::QueriesBackward => (4, 0),
                };
                (THREADS_F32, tiles * tile(d) + tile(TILE) + sums)
            }
        };
        Launch {
            kernel: format!("attention_{which}_{ty}_{d}"),
            grid: [self.tokens.div_ceil(TILE) as u32, (self.batch * self.heads) as u32],
            threads,
            shared: shared as u32,
            arguments: self.arguments(pointers, &[self.tokens, self.heads], scales),
            regions: vec![],
            operations: 0,
        }
    }

    fn plain(&self, pass: Pass, pointers: &[Address], scales: &[f32]) -> Launch {
        Launch {
            kernel: format!("attention_plain_{}_{}", pass.name(), self.ty.name()),
            grid: [self.tokens.div_ceil(PLAIN_ROWS) as u32, (self.batch * self.heads) as u32],
            threads: THREADS,
            shared: 0,
            arguments: self.arguments(pointers, &[self.tokens, self.heads, self.head_dim], scales),
            regions: vec![],
            operations: 0,
        }
    }

    fn arguments(&self, pointers: &[Address], sizes: &[usize], scales: &[f32]) -> Vec<Argument> {
        let sizes = sizes.iter().map(|n| Argument::Int(*n as i32));
        let scales = scales.iter().map(|s| Argument::Float(*s));
        pointers.iter().map(|p| Argument::from(*p)).chain(sizes).chain(scales).collect()
    }

    fn version(&self) -> Version {
        match (self.ty, self.head_dim) {
            (Type::F32, 64 | 72) => Version::TilesF32,
            (_, 64 | 72) => Version::TensorCores,
            _ => Version::Plain,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Scores are taken in units of log2, since 2^x is an instruction.
    fn scale_log2(&self) -> f32 {
        (self.scale() * std::f64::consts::LOG2_E) as f32
    }

    fn check(&self, tensors: &[(&str, Address)]) -> Result<()> {
        let Self { batch, tokens, heads, head_dim, .. } = *self;
        if batch == 0 || tokens == 0 || heads == 0 || head_dim == 0 {
            bail!("attention of {batch} samples, {tokens} tokens, {heads} heads of {head_dim} numbers");
        }
        if head_dim > MAX_HEAD_DIM {
            bail!("attention takes heads of up to {MAX_HEAD_DIM} numbers, not {head_dim}");
        }
        if batch.checked_mul(heads).is_none_or(|blocks| blocks > MAX_GRID_Y) {
            bail!("attention takes up to {MAX_GRID_Y} heads of all samples, not {batch} times {heads}");
        }
        // Numbers within a tile of rows, and rows of a sample, are counted in 32 bits.
        let most = i32::MAX as usize - TILE;
        let row = 3 * TILE * heads * head_dim;
        if row > most || tokens.checked_mul(heads).is_none_or(|rows| rows > most) {
            bail!("attention of {tokens} tokens with {heads} heads of {head_dim} numbers is too large");
        }
        for (name, address) in tensors {
            if *address == Address::NULL {
                bail!("attention needs `{name}`");
            }
            if self.version() != Version::Plain && address.0 % 16 != 0 {
                bail!("attention needs `{name}` at a multiple of 16 bytes");
            }
        }
        Ok(())
    }
}
