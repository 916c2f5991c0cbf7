//! JPEG decoder: libjpeg-turbo (in mozjpeg), which Pillow uses too, with the same settings: the
//! accurate integer transform, smooth upsampling, block smoothing of incomplete progressive files.
//! So pixels are equal to the byte.
//!
//! A file counts as truncated when the decoder asks for bytes beyond its end. On damage within,
//! libjpeg warns and continues, as it does for Pillow; warnings are counted.

use super::limits::{of_cmyk, sides};
use super::orientation::Turn;
use super::orientation::{Orientation, turned};
use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
use mozjpeg::{ColorSpace, Decompress, Marker};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr};
use std::cell::Cell;
use std::ffi::c_int;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null;

/// The prefix of EXIF data in a segment.
const EXIF: &[u8] = b"Exif\0\0";

/// Decodes the image. Also returns the number of libjpeg's warnings.
pub fn decode(bytes: &[u8], orientation: Orientation) -> Result<(Rgb, u32)> {
    WARNINGS.set(0);
    match contained(bytes, orientation, Some(counting())) {
        Ok(image) => Ok((image, WARNINGS.get())),
        // Decode again with the default error manager, for its message.
        Err(_) => contained(bytes, orientation, None).map(|image| (image, 0)),
    }
}

fn contained(bytes: &[u8], orientation: Orientation, errors: Option<jpeg_error_mgr>) -> Result<Rgb> {
    let ended = Cell::new(false);
    // libjpeg reports fatal errors by unwinding, with its message.
    match catch_unwind(AssertUnwindSafe(|| read(Whole { bytes, ended: &ended }, orientation, errors))) {
        Err(_) if ended.get() => bail!("not a readable image: the file ends within the JPEG data"),
        Ok(read) => read,
        Err(payload) => {
            let words = payload.downcast_ref::<String>().map_or("no message", String::as_str);
            bail!("not a readable image: {}", words.trim_start_matches("libjpeg fatal error: "))
        }
    }
}

fn read(file: Whole, orientation: Orientation, errors: Option<jpeg_error_mgr>) -> Result<Rgb> {
    let ended = file.ended;
    let markers: &[Marker] = if orientation == Orientation::Apply { &[Marker::APP(1)] } else { &[] };
    let mut builder = Decompress::builder().with_markers(markers);
    if let Some(errors) = errors {
        builder = builder.with_err(errors);
    }
    let decoder = builder.from_reader(file)?;
    let (width, height) = sides(decoder.width() as u64, decoder.height() as u64)?;
    let turn = orientation_in(&decoder);
    let data = match decoder.components().len() {
        1 | 3 => pixels(decoder, ended, ColorSpace::JCS_RGB)?,
        4 => {
            let ink = pixels(decoder, ended, ColorSpace::JCS_CMYK)?;
            ink.as_chunks::<4>().0.iter().flat_map(|inverted| of_cmyk(inverted.map(|i| 255 - i))).collect()
        }
        n => bail!("a JPEG with {n} components; supported are 1, 3 and 4"),
    };
    turned(Rgb { height, width, data }, turn)
}

fn pixels(decoder: Decompress<Whole>, ended: &Cell<bool>, colours: ColorSpace) -> Result<Vec<u8>> {
    let mut started = decoder.to_colorspace(colours)?;
    let pixels = started.read_scanlines()?;
    // All pixels are there. Like Pillow, ignore a missing end marker.
    match catch_unwind(AssertUnwindSafe(|| started.finish())) {
        Err(payload) if !ended.get() => resume_unwind(payload),
        _ => Ok(pixels),
    }
}

/// The EXIF orientation, whose data may span several segments. Needs a decoder that saved its
/// segments.
fn orientation_in(decoder: &Decompress<Whole>) -> Turn {
    let exif: Vec<u8> = decoder.markers().filter_map(|m| m.data.strip_prefix(EXIF)).flatten().copied().collect();
    Turn::from_exif_chunk(&exif).unwrap_or(Turn::NoTransforms)
}

thread_local! {
    /// The number of warnings of the file that this thread reads.
    static WARNINGS: Cell<u32> = const { Cell::new(0) };
}

/// An error manager that counts warnings, which the library's own discards. It has no table of
/// messages.
fn counting() -> jpeg_error_mgr {
    extern "C-unwind" fn leave(_: &mut jpeg_common_struct) {
        resume_unwind(Box::new(()));
    }
    extern "C-unwind" fn count(_: &mut jpeg_common_struct, level: c_int) {
        // Levels of 0 and above are trace messages.
        if level < 0 {
            WARNINGS.set(WARNINGS.get() + 1);
        }
    }
    extern "C-unwind" fn forget(_: &mut jpeg_common_struct) {}
    jpeg_error_mgr {
        error_exit: Some(leave),
        emit_message: Some(count),
        output_message: None,
        format_message: None,
        reset_error_mgr: Some(forget),
        msg_code: 0,
        msg_parm: Default::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: null(),
        last_jpeg_message: 0,
        addon_message_table: null(),
        first_addon_message: 0,
        last_addon_message: 0,
    }
}

/// A file in memory, read in one piece. Records when more is asked for.
struct Whole<'a> {
    bytes: &'a [u8],
    ended: &'a Cell<bool>,
}

impl BufRead for Whole<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() {
            self.ended.set(true);
            // Not an unexpected end of file, which the library would hide by inserting an end
            // marker.
            return Err(io::Error::other("truncated"));
        }
        Ok(self.bytes)
    }

    fn consume(&mut self, n: usize) {
        self.bytes = self.bytes.get(n..).unwrap_or_default();
    }
}

impl Read for Whole<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(into)
    }
}
