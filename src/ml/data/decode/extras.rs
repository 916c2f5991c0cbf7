//! What an image file holds beside the pixels that are used, told from its headers: an orientation
//! (JPEG, PNG, WebP) and transparency (PNG, WebP, BMP). Files that end early or are damaged hold
//! nothing here; their decoder says so.

use super::contained;
use super::orientation::Turn;
use candle_core::{Error, Result};
use image::{ImageDecoder, ImageReader};
use std::io::Cursor;

/// The prefix of EXIF data in a segment.
const EXIF: &[u8] = b"Exif\0\0";

/// What is in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// An orientation by which the image is to be turned or mirrored.
    pub turned: bool,
    /// Transparency, which is dropped.
    pub alpha: bool,
}

impl Extras {
    /// Looks at the headers of a file.
    pub fn of(file: &[u8]) -> Self {
        match file {
            // Its decoder keeps the segments only if it is asked to, and then allocates for them.
            [0xff, 0xd8, ..] => Self { turned: jpeg(file).unwrap_or(false), alpha: false },
            _ => contained("not a readable image", || headers(file)).unwrap_or_default(),
        }
    }
}

/// Of a format that the image crate reads.
fn headers(file: &[u8]) -> Result<Extras> {
    let mut decoder = ImageReader::new(Cursor::new(file)).with_guessed_format()?.into_decoder().map_err(Error::wrap)?;
    let turned = decoder.orientation().is_ok_and(|turn| turn != Turn::NoTransforms);
    Ok(Extras { turned, alpha: decoder.color_type().has_alpha() })
}

fn turns(exif: &[u8]) -> bool {
    Turn::from_exif_chunk(exif).is_some_and(|turn| turn != Turn::NoTransforms)
}

/// Whether one of the segments before the pixels states an orientation.
fn jpeg(file: &[u8]) -> Option<bool> {
    let mut at = 2;
    loop {
        let marker = match file.get(at..at + 2)? {
            // Any number of these may come before a marker.
            [0xff, 0xff] => {
                at += 1;
                continue;
            }
            [0xff, marker] => *marker,
            _ => return None,
        };
        match marker {
            0xda | 0xd9 => return Some(false),
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
                let segment = file.get(at + 4..at + 2 + length)?;
                if marker == 0xe1 && segment.strip_prefix(EXIF).is_some_and(turns) {
                    return Some(true);
                }
                at += 2 + length;
            }
        }
    }
}
