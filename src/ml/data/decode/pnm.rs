//! PBM, PGM and PPM, in text and in bytes. Samples are scaled from the largest value that the header states.

use super::limits::sides;
use crate::data::rgb::Rgb;
use candle_core::{Result, bail};

/// What a file may hold after its header.
#[derive(Clone, Copy, PartialEq)]
enum Samples {
    /// Black or white.
    Bits,
    Grey,
    Colours,
}

pub fn decode(bytes: &[u8]) -> Result<Rgb> {
    let (samples, text) = match bytes.get(1) {
        Some(b'1') => (Samples::Bits, true),
        Some(b'2') => (Samples::Grey, true),
        Some(b'3') => (Samples::Colours, true),
        Some(b'4') => (Samples::Bits, false),
        Some(b'5') => (Samples::Grey, false),
        Some(b'6') => (Samples::Colours, false),
        _ => bail!("PAM files are not read; PBM, PGM and PPM are"),
    };
    let mut rest = Rest { bytes, at: 2 };
    let (width, height) = sides(rest.number()?, rest.number()?)?;
    let most = if samples == Samples::Bits { 1 } else { rest.number()? };
    if !(1..=65535).contains(&most) {
        bail!("the largest sample is to be {most}; 1 to 65535 are allowed");
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

/// A sample of 0 to `most` in 0 to 255.
fn scaled(sample: u64, most: u64) -> u8 {
    (sample as f64 / most as f64 * 255.0).round_ties_even().min(255.0) as u8
}

/// What is still to be read.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    /// The next byte that is not in a comment, which reaches from `#` to the end of its line.
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

    /// A number and the white space that ends it.
    fn number(&mut self) -> Result<u64> {
        let mut digits = String::new();
        while let Some(byte) = self.next() {
            match byte {
                b'\t'..=b'\r' | b' ' if digits.is_empty() => {}
                b'\t'..=b'\r' | b' ' => break,
                b'0'..=b'9' if digits.len() < 10 => digits.push(char::from(byte)),
                other => bail!("not a readable image: byte {other} where a number is to be"),
            }
        }
        match digits.parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("not a readable image: cut short"),
        }
    }

    /// Samples in text.
    fn numbers(&mut self, count: usize, most: u64) -> Result<Vec<u8>> {
        let sample = |_| match self.number()? {
            sample if sample > most => bail!("not a readable image: a sample of {sample}, and {most} is the most"),
            sample => Ok(scaled(sample, most)),
        };
        (0..count).map(sample).collect()
    }

    /// Black (1) or white (0) in text, with or without space between them.
    fn digits(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut values = vec![];
        while values.len() < count {
            match self.next() {
                Some(b'0') => values.push(255),
                Some(b'1') => values.push(0),
                Some(b'\t'..=b'\r' | b' ') => {}
                Some(other) => bail!("not a readable image: byte {other} where 0 or 1 is to be"),
                None => bail!("not a readable image: cut short"),
            }
        }
        Ok(values)
    }

    fn take(&self, count: usize) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(bytes) => Ok(bytes),
            None => bail!("not a readable image: cut short"),
        }
    }

    /// Rows of bits, each from a byte of its own.
    fn bits(&self, width: usize, height: usize) -> Result<Vec<u8>> {
        let row = width.div_ceil(8);
        let bytes = self.take(row * height)?;
        let bit = |row: &[u8], x: usize| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 0 } else { 255 };
        Ok(bytes.chunks_exact(row).flat_map(|row| (0..width).map(move |x| bit(row, x))).collect())
    }

    /// Samples in a byte each, or in two where one does not hold the largest.
    fn words(&self, count: usize, most: u64) -> Result<Vec<u8>> {
        if most < 256 {
            return Ok(self.take(count)?.iter().map(|b| scaled(u64::from(*b), most)).collect());
        }
        let words = self.take(2 * count)?.as_chunks::<2>().0;
        Ok(words.iter().map(|w| scaled(u64::from(u16::from_be_bytes(*w)), most)).collect())
    }
}
