//! PBM, PGM and PPM decoder, text and binary. Samples are scaled by the maximum value in the
//! header.

use super::limits::sides;
use crate::data::rgb::Rgb;
use candle_core::{Result, bail};

/// The kind of samples after the header.
#[derive(Clone, Copy, PartialEq)]
enum Samples {
    /// Black or white.
    Bits,
    Grey,
    Colours,
}

/// Decodes the image.
pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    let (samples, text) = match bytes.get(1) {
        Some(b'1') => (Samples::Bits, true),
        Some(b'2') => (Samples::Grey, true),
        Some(b'3') => (Samples::Colours, true),
        Some(b'4') => (Samples::Bits, false),
        Some(b'5') => (Samples::Grey, false),
        Some(b'6') => (Samples::Colours, false),
        _ => bail!("PAM files are not supported; PBM, PGM and PPM are"),
    };
    let mut rest = Rest { bytes, at: 2 };
    let (width, height) = sides(rest.number()?, rest.number()?)?;
    let most = if samples == Samples::Bits { 1 } else { rest.number()? };
    if !(1..=65535).contains(&most) {
        bail!("the header states a maximum value of {most}; allowed are 1 to 65535");
    }
    let count = width * height * if samples == Samples::Colours { 3 } else { 1 };
    let values = match (samples, text) {
        (Samples::Bits, true) => rest.digits(count)?,
        (Samples::Bits, false) => rest.bits(width, height)?,
        (_, true) => rest.numbers(count, most)?,
        (_, false) => rest.words(count, most)?,
    };
    let data = if samples == Samples::Colours { values } else { values.into_iter().flat_map(|v| [v; 3]).collect() };
    Ok(Rgb { height, width, data })
}

/// Scales a sample from 0..=`most` to 0..=255.
fn scaled(sample: u64, most: u64) -> u8 {
    (sample as f64 / most as f64 * 255.0).round_ties_even().min(255.0) as u8
}

/// The bytes that are still unread.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    /// The next byte outside comments. A comment extends from `#` to the end of its line.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            if byte != b'#' {
                return Some(byte);
            }
            let line = self.bytes[self.at..].iter().position(|b| b"\r\n".contains(b));
            self.at = line.map_or(self.bytes.len(), |n| self.at + n + 1);
        }
    }

    /// Reads a number and the white space after it.
    fn number(&mut self) -> Result<u64> {
        let mut digits = String::new();
        while let Some(byte) = self.next() {
            match byte {
                b'\t'..=b'\r' | b' ' if digits.is_empty() => {}
                b'\t'..=b'\r' | b' ' => break,
                b'0'..=b'9' if digits.len() < 10 => digits.push(char::from(byte)),
                other => bail!("not a readable image: byte {other} instead of a digit"),
            }
        }
        match digits.parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("not a readable image: truncated"),
        }
    }

    /// Samples as text.
    fn numbers(&mut self, count: usize, most: u64) -> Result<Vec<u8>> {
        let sample = |_| match self.number()? {
            sample if sample > most => bail!("not a readable image: sample {sample} is above the maximum {most}"),
            sample => Ok(scaled(sample, most)),
        };
        (0..count).map(sample).collect()
    }

    /// Samples as text: 1 (black) or 0 (white), with or without space between them.
    fn digits(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut values = vec![];
        while values.len() < count {
            match self.next() {
                Some(b'0') => values.push(255),
                Some(b'1') => values.push(0),
                Some(b'\t'..=b'\r' | b' ') => {}
                Some(other) => bail!("not a readable image: byte {other} instead of 0 or 1"),
                None => bail!("not a readable image: truncated"),
            }
        }
        Ok(values)
    }

    fn take(&self, count: usize) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(bytes) => Ok(bytes),
            None => bail!("not a readable image: truncated"),
        }
    }

    /// Rows of bits; each row starts at a new byte.
    fn bits(&self, width: usize, height: usize) -> Result<Vec<u8>> {
        let row = width.div_ceil(8);
        let bytes = self.take(row * height)?;
        let bit = |row: &[u8], x: usize| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 0 } else { 255 };
        Ok(bytes.chunks_exact(row).flat_map(|row| (0..width).map(move |x| bit(row, x))).collect())
    }

    /// Samples of one byte each, or of two if the maximum needs two.
    fn words(&self, count: usize, most: u64) -> Result<Vec<u8>> {
        if most < 256 {
            return Ok(self.take(count)?.iter().map(|b| scaled(u64::from(*b), most)).collect());
        }
        let words = self.take(2 * count)?.as_chunks::<2>().0;
        Ok(words.iter().map(|w| scaled(u64::from(u16::from_be_bytes(*w)), most)).collect())
    }
}
