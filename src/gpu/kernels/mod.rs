//! Launches of the kernels. Each file builds the launches of the `.cu` file beside it: it chooses
//! the version by shape, the grid and the sizes, and tells what memory is touched. The kernels say
//! what they compute.

pub mod activation;
pub mod attention;
pub mod boundary;
pub mod class_token;
pub mod column_sums;
pub mod convolution;
pub mod embedding;
pub mod group_norm;
pub mod loss;
pub mod optimizer;
pub mod pairs;
pub mod planes;
pub mod pooling;
pub mod product;
pub mod qk_norm_rope;
pub mod scalars;
pub mod softmax;
pub mod unfold;

use crate::program::{Address, Argument, Launch, Region};
use candle_core::{Result, bail};

/// A size as an `int` of a kernel.
fn int(size: usize) -> Result<i32> {
    match i32::try_from(size) {
        Ok(size) => Ok(size),
        Err(_) => bail!("{size} is too large for a kernel"),
    }
}

/// Blocks that take `share` numbers each.
fn blocks(count: usize, share: usize) -> Result<u32> {
    Ok(int(count.div_ceil(share))?.cast_unsigned())
}

/// The arguments of a kernel: addresses, then sizes, then what is left.
fn arguments(
    addresses: impl IntoIterator<Item = Address>,
    sizes: &[usize],
    rest: impl IntoIterator<Item = Argument>,
) -> Result<Vec<Argument>> {
    let mut all: Vec<Argument> = addresses.into_iter().map(Into::into).collect();
    for size in sizes {
        all.push(int(*size)?.into());
    }
    all.extend(rest);
    Ok(all)
}

/// A pass over flat tensors with four numbers a thread. The last argument is their count.
fn flat(kernel: String, count: usize, mut arguments: Vec<Argument>, regions: Vec<Region>) -> Result<Launch> {
    if count == 0 || !count.is_multiple_of(4) {
        bail!("`{kernel}` takes a multiple of four numbers, not {count}");
    }
    arguments.push((count as i64).into());
    let grid = [blocks(count, 1024)?, 1];
    Ok(Launch { kernel, grid, threads: 256, shared: 0, arguments, regions, operations: 0 })
}

/// A pass over rows with four numbers a thread: a row of blocks for each.
fn of_rows(
    kernel: String,
    [rows, width]: [usize; 2],
    arguments: Vec<Argument>,
    regions: Vec<Region>,
) -> Result<Launch> {
    if rows == 0 || width == 0 || !width.is_multiple_of(4) {
        bail!("`{kernel}` takes rows of a multiple of four numbers, not {rows} rows of {width}");
    }
    let shares = width.div_ceil(1024).max(1);
    let threads = width.div_ceil(4 * shares).next_multiple_of(32).clamp(32, 256) as u32;
    let grid = [int(rows)?.cast_unsigned(), shares as u32];
    Ok(Launch { kernel, grid, threads, shared: 0, arguments, regions, operations: 0 })
}
