//! TIFF decoder: the first page, rotated upright as Pillow does. Supported are 1-, 2-, 4-, 8- and
//! 16-bit samples of grey, RGB, palettes and CMYK; strips or tiles; chunky or planar layout;
//! uncompressed, LZW, deflate and PackBits.
//!
//! The library undoes compression and predictors; this file interprets the samples. The tag is
//! patched to grey first: the library passes grey through unchanged, but refuses palettes and
//! converts CMYK in its own way.

use super::limits::{MAX_MEMORY, of_cmyk, scaled, sides};
use super::orientation::Turn;
use super::orientation::turned;
use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
use std::io::Cursor;
use tiff::TiffError;
use tiff::decoder::{BufferLayoutPreference, Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

/// Values of the tag `PhotometricInterpretation`.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const RGB: u16 = 2;
const PALETTE: u16 = 3;
const CMYK: u16 = 5;
/// Value of the tag `ExtraSamples`: premultiplied alpha.
const ASSOCIATED: u16 = 1;

/// Decodes the first page.
pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    let mut plain = bytes.to_vec();
    let meaning = set_grey(&mut plain)?;
    let mut limits = Limits::unlimited();
    limits.decoding_buffer_size = MAX_MEMORY as usize;
    let mut decoder = Decoder::new(Cursor::new(plain)).map_err(unreadable)?.with_limits(limits);
    let (width, height) = decoder.dimensions().map_err(unreadable)?;
    let (width, height) = sides(width.into(), height.into())?;
    let mut numbers =
        |tag| decoder.find_tag_unsigned_vec::<u16>(tag).map(Option::unwrap_or_default).map_err(unreadable);
    let bits = numbers(Tag::BitsPerSample)?.first().copied().unwrap_or(1);
    let count = numbers(Tag::SamplesPerPixel)?.first().copied().unwrap_or(1);
    let extra = numbers(Tag::ExtraSamples)?;
    let map = numbers(Tag::ColorMap)?;
    let turn = numbers(Tag::Orientation)?.first().and_then(|turn| Turn::from_exif(u8::try_from(*turn).ok()?));
    if numbers(Tag::FillOrder)?.first().is_some_and(|order| *order != 1) {
        bail!("a TIFF with reversed bit order (FillOrder), which is not supported");
    }
    let premultiplied = extra.first() == Some(&ASSOCIATED);
    let colour = match (meaning, bits, count) {
        (WHITE_IS_ZERO | BLACK_IS_ZERO, 1 | 2 | 4 | 8 | 16, 1) | (BLACK_IS_ZERO, 8, 2) if !premultiplied => {
            Colour::Grey
        }
        (RGB, 8 | 16, 4..) if premultiplied => Colour::Premultiplied,
        (RGB, 8 | 16, 3..) => Colour::Rgb,
        (PALETTE, 1 | 2 | 4 | 8, 1 | 2) if map.len() == 3 << bits => Colour::Palette(map),
        (CMYK, 8 | 16, 4..) => Colour::Cmyk,
        _ => bail!(
            "a TIFF of {count} x {bits} bits per pixel with photometric interpretation {meaning}, which is not \
             supported; grey, RGB, palettes and CMYK are"
        ),
    };
    let mut samples = DecodingResult::U8(vec![]);
    let layout = decoder.read_image_to_buffer(&mut samples).map_err(unreadable)?;
    if !matches!(samples, DecodingResult::U8(_) | DecodingResult::U16(_)) {
        bail!("a TIFF of signed or floating-point samples, which are not supported");
    }
    let pixels = Pixels::new(samples, &layout, bits.into(), count.into())?;
    let invert = if meaning == WHITE_IS_ZERO { 255 } else { 0 };
    let mut data = Vec::with_capacity(width * height * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        data.extend(colour.rgb(|sample| pixels.at(y, x, sample), bits).map(|light| light ^ invert));
    }
    turned(Rgb { height, width, data }, turn.unwrap_or(Turn::NoTransforms))
}

/// How samples are interpreted.
enum Colour {
    Grey,
    Rgb,
    Premultiplied,
    /// All reds, then all greens, then all blues, 16 bits each.
    Palette(Vec<u16>),
    Cmyk,
}

impl Colour {
    fn rgb(&self, sample: impl Fn(usize) -> u16, bits: u16) -> [u8; 3] {
        let byte = |nth| if bits == 16 { (sample(nth) >> 8) as u8 } else { sample(nth) as u8 };
        match self {
            Self::Grey if bits == 16 => [scaled(sample(0)); 3],
            Self::Grey => [(sample(0) * 255 / ((1 << bits) - 1)) as u8; 3],
            Self::Rgb => [byte(0), byte(1), byte(2)],
            Self::Premultiplied => [byte(0), byte(1), byte(2)].map(|light| match u16::from(byte(3)) {
                0 => 0,
                alpha => (u16::from(light) * 255 / alpha).min(255) as u8,
            }),
            Self::Palette(map) => [0, 1, 2].map(|c| (map[(c << bits) + usize::from(sample(0))] >> 8) as u8),
            Self::Cmyk => of_cmyk([byte(0), byte(1), byte(2), byte(3)]),
        }
    }
}

/// Decoded samples, addressed by row, column and sample number.
struct Pixels {
    samples: DecodingResult,
    bits: usize,
    /// Samples per pixel that are stored together: all, or one in a planar layout.
    together: usize,
    /// Bytes per row.
    row: usize,
    plane: usize,
}

impl Pixels {
    fn new(samples: DecodingResult, layout: &BufferLayoutPreference, bits: usize, count: usize) -> Result<Self> {
        let (Some(row), Some(plane)) = (layout.row_stride, layout.plane_stride) else { bail!("a TIFF without rows") };
        let together = if layout.planes > 1 { 1 } else { count };
        Ok(Self { samples, bits, together, row: row.get(), plane: plane.get() })
    }

    fn at(&self, y: usize, x: usize, sample: usize) -> u16 {
        let (plane, nth) = if self.together == 1 { (sample, x) } else { (0, x * self.together + sample) };
        let start = plane * self.plane + y * self.row;
        match &self.samples {
            DecodingResult::U16(words) => words[start / 2 + nth],
            DecodingResult::U8(bytes) if self.bits == 8 => bytes[start + nth].into(),
            DecodingResult::U8(bytes) => {
                let bit = nth * self.bits;
                u16::from(bytes[start + bit / 8]) >> (8 - self.bits - bit % 8) & ((1 << self.bits) - 1)
            }
            _ => 0,
        }
    }
}

/// Sets the photometric interpretation in the file to grey. Returns the original value.
fn set_grey(file: &mut [u8]) -> Result<u16> {
    match interpretation(file) {
        Some((at, meaning)) => {
            let little = file[0] == b'I';
            let grey = if little { BLACK_IS_ZERO.to_le_bytes() } else { BLACK_IS_ZERO.to_be_bytes() };
            file[at..at + 2].copy_from_slice(&grey);
            Ok(meaning)
        }
        None => bail!("not a readable image: a TIFF without a photometric interpretation, or truncated"),
    }
}

/// Position and value of the photometric interpretation in the first directory. BigTIFF has wider
/// fields.
fn interpretation(file: &[u8]) -> Option<(usize, u16)> {
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let digits = file.get(at..at.checked_add(bytes)?)?;
        let join = |n, byte: &u8| n << 8 | u64::from(*byte);
        Some(if file[0] == b'I' { digits.iter().rev().fold(0, join) } else { digits.iter().fold(0, join) })
    };
    let big = number(2, 2)? == 43;
    let start = usize::try_from(if big { number(8, 8) } else { number(4, 4) }?).ok()?;
    let (entries, first, size, value) =
        if big { (number(start, 8)?, 8, 20, 12) } else { (number(start, 2)?, 2, 12, 8) };
    let first = start.checked_add(first)?;
    let places = (0..usize::try_from(entries).ok()?).map_while(|n| first.checked_add(n.checked_mul(size)?));
    // Ends with the file, not with the number of entries, which may be anything.
    let mut tags = places.map_while(|at| Some((at, number(at, 2)?)));
    let (at, _) = tags.find(|(_, tag)| *tag == u64::from(Tag::PhotometricInterpretation.to_u16()))?;
    // Two bytes, or the lower half of four.
    let value = match number(at + 2, 2)? {
        3 => at + value,
        4 if file[0] == b'I' => at + value,
        4 => at + value + 2,
        _ => return None,
    };
    Some((value, u16::try_from(number(value, 2)?).ok()?))
}

fn unreadable(e: TiffError) -> candle_core::Error {
    candle_core::Error::msg(format!("not a readable image, or truncated: {e}"))
}
