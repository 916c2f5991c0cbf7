//! Launches of `column_sums.cu`: the gradient of a bias.

use super::{blocks, int};
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// Rows that a block adds.
const CHUNK: usize = 128;

/// Threads of a block, and the floats of shared memory for each.
const THREADS: u32 = 256;

/// Chunks of so many rows.
pub fn chunks(rows: usize) -> usize {
    rows.div_ceil(CHUNK)
}

/// Sums of dy `[rows, width]` over each chunk of rows: `partial` f32 `[chunks, width]`. Widths that
/// are no multiple of 4 take a version that reads one number at a time.
pub fn column_sums(dy: Address, partial: Address, rows: usize, width: usize, ty: Type) -> Result<Launch> {
    if rows == 0 || width == 0 {
        bail!("sums over the rows of an empty matrix of {rows} x {width}");
    }
    let (columns, version) = if width.is_multiple_of(4) { (4, "") } else { (1, "_any") };
    Ok(Launch {
        kernel: format!("column_sums_{}{version}", ty.name()),
        grid: [blocks(rows, CHUNK)?, blocks(width, 32 * columns)?],
        threads: THREADS,
        shared: THREADS * 4 * columns as u32,
        arguments: vec![dy.into(), partial.into(), int(rows)?.into(), int(width)?.into(), int(CHUNK)?.into()],
        regions: vec![
            Region::read(dy, rows * width * ty.size()),
            Region::write(partial, chunks(rows) * width * Type::F32.size()),
        ],
        operations: 0,
    })
}

/// Adds `partial` f32 `[chunks, width]` over chunks to `db` f32 `[width]`, always in the same order.
pub fn column_sums_end(partial: Address, db: Address, chunks: usize, width: usize) -> Result<Launch> {
    if chunks == 0 || width == 0 {
        bail!("sums of {chunks} chunks of {width} numbers");
    }
    Ok(Launch {
        kernel: "column_sums_end".to_owned(),
        grid: [blocks(width, 32)?, 1],
        threads: THREADS,
        shared: THREADS * 4,
        arguments: vec![partial.into(), db.into(), int(chunks)?.into(), int(width)?.into()],
        regions: vec![
            Region::read(partial, chunks * width * Type::F32.size()),
            Region::write(db, width * Type::F32.size()),
        ],
        operations: 0,
    })
}
