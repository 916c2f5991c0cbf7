//! Launches of `softmax.cu`.

use super::int;
use crate::program::{Address, Launch, Region, Type};
use candle_core::{Result, bail};

/// `y = softmax(scale x)` over the rows of x f32 `[rows, width]`. `width` is a multiple of 4; y, of type
/// `ty`, may be x if that is f32.
///
/// # Errors
/// A width that is no multiple of 4, or no rows.
pub fn softmax(x: Address, y: Address, [rows, width]: [usize; 2], scale: f64, ty: Type) -> Result<Launch> {
    if rows == 0 || width == 0 || !width.is_multiple_of(4) {
        bail!("a softmax over {rows} rows of {width}, which takes widths by 4");
    }
    let scale_log2 = (scale * std::f64::consts::LOG2_E) as f32;
    Ok(Launch {
        kernel: format!("softmax_{}", ty.name()),
        grid: [int(rows)?.cast_unsigned(), 1],
        threads: 256,
        shared: 0,
        arguments: vec![x.into(), y.into(), int(width)?.into(), scale_log2.into()],
        regions: vec![Region::read(x, rows * width * Type::F32.size()), Region::write(y, rows * width * ty.size())],
        operations: 0,
    })
}
