//! Writes npz archives: one array after another, uncompressed so that they can be mapped and
//! indexed, and without timestamps so that equal arrays give equal bytes. It does not know what the
//! arrays mean.

use candle_core::{Result, bail};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// An archive being written.
#[derive(Debug)]
pub struct NpzFile {
    zip: ZipWriter<BufWriter<File>>,
    /// For messages.
    name: String,
    /// Bytes of the current array that are still missing.
    missing: usize,
}

impl NpzFile {
    /// Creates the file. An existing one is overwritten.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        match File::create(path) {
            Ok(file) => Ok(Self { zip: ZipWriter::new(BufWriter::new(file)), name, missing: 0 }),
            Err(e) => bail!("cannot write {name}: {e}"),
        }
    }

    /// Begins an array of elements of type `descr` (`|u1`, `<f8`, …), `bytes` each, in C order. The
    /// shape is needed first because it is in the header.
    pub fn begin(&mut self, array: &str, descr: &str, bytes: usize, shape: &[usize]) -> Result<()> {
        self.check_whole()?;
        self.zip.start_file(format!("{array}.npy"), entry_options()).map_err(candle_core::Error::wrap)?;
        self.zip.write_all(&npy_header(descr, shape))?;
        self.missing = shape.iter().product::<usize>() * bytes;
        Ok(())
    }

    /// Appends to the current array.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.missing.checked_sub(bytes.len()) {
            Some(rest) => self.missing = rest,
            None => bail!("{}: {} bytes more than the array's shape says", self.name, bytes.len() - self.missing),
        }
        Ok(self.zip.write_all(bytes)?)
    }

    /// Writes a whole f64 array.
    pub fn numbers(&mut self, array: &str, shape: &[usize], values: impl IntoIterator<Item = f64>) -> Result<()> {
        self.begin(array, "<f8", 8, shape)?;
        values.into_iter().try_for_each(|x| self.write(&x.to_le_bytes()))
    }

    /// Closes the archive and syncs it to disk.
    pub fn finish(self) -> Result<()> {
        self.check_whole()?;
        let mut file = self.zip.finish().map_err(candle_core::Error::wrap)?;
        file.flush()?;
        Ok(file.get_ref().sync_all()?)
    }

    fn check_whole(&self) -> Result<()> {
        match self.missing {
            0 => Ok(()),
            n => bail!("{}: {n} bytes of an array are missing", self.name),
        }
    }
}

fn entry_options() -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644)
        .large_file(true)
}

/// Header of an npy file, version 1.0, C order, padded to a multiple of 64 bytes.
fn npy_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let dims = if shape.len() == 1 { dims.trim_end() } else { dims.trim_end_matches(", ") };
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    while !(10 + dict.len() + 1).is_multiple_of(64) {
        dict.push(' ');
    }
    dict.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((dict.len() as u16).to_le_bytes());
    header.extend(dict.bytes());
    header
}
