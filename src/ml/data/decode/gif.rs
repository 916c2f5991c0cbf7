//! GIF decoder: the first frame, placed on the GIF's screen. As in Pillow, uncovered screen pixels
//! get the transparent colour, or the first palette colour if there is none.

use super::limits::{MAX_MEMORY, sides};
use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use std::num::NonZeroU64;

/// Decodes the first frame.
pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.allow_unknown_blocks(true);
    options.set_memory_limit(NonZeroU64::new(MAX_MEMORY).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let mut decoder = options.read_info(bytes).map_err(unreadable)?;
    let screen = [decoder.width(), decoder.height()].map(u64::from);
    let Some(frame) = decoder.next_frame_info().map_err(unreadable)? else { bail!("a GIF without an image") };
    let [left, top] = [frame.left, frame.top].map(usize::from);
    let [across, down] = [frame.width, frame.height].map(usize::from);
    let (width, height) = sides(screen[0].max((left + across) as u64), screen[1].max((top + down) as u64))?;
    let bare = frame.transparent.unwrap_or(0);
    let local = frame.palette.clone();
    let mut indices = vec![0; across * down];
    if !indices.is_empty() {
        decoder.read_into_buffer(&mut indices).map_err(unreadable)?;
    }
    let palettes = [local.as_deref(), decoder.global_palette()].map(|p| p.map(|p| p.as_chunks::<3>().0));
    // Pillow ignores a palette of consecutive greys, and uses the screen's palette for such a
    // frame.
    let palette = palettes.into_iter().flatten().find(|palette| !counts_up(palette));
    let colour = |index: u8| match palette {
        Some(palette) => palette.get(usize::from(index)).copied().unwrap_or_default(),
        None => [index; 3],
    };
    let mut image = Rgb::filled(height, width, colour(bare));
    let pixels: Vec<u8> = indices.into_iter().flat_map(colour).collect();
    image.paste(&pixels, down, across, 1, top, left);
    Ok(image)
}

/// Whether every palette index maps to the grey of the same value.
fn counts_up(palette: &[[u8; 3]]) -> bool {
    (0..=u8::MAX).zip(palette).all(|(index, colour)| *colour == [index; 3])
}

fn unreadable(e: DecodingError) -> candle_core::Error {
    candle_core::Error::msg(format!("not a readable image, or truncated: {e}"))
}
