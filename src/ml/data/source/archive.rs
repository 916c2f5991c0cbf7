//! A ZIP of images, mapped: entries are slices of the file, so any number of threads read it at once.
//!
//! An archive is never unpacked, so no name in it can reach another place; names that try are refused all the same,
//! because nobody writes them by accident. An entry may inflate to what it declares and not to a byte more.

use crate::ml::data::decode::MAX_BYTES;
use candle_core::{Result, bail};
use flate2::{Crc, read::DeflateDecoder};
use memmap2::Mmap;
use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Mmap,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: PathBuf,
    /// Where its bytes lie in the file, as stored.
    at: Range<usize>,
    deflated: bool,
    /// Bytes when inflated, and their checksum.
    size: u64,
    crc: u32,
}

impl Archive {
    /// Lists the files of an archive; reads none of them.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let map = super::map(path)?;
        let mut zip = match ZipArchive::new(Cursor::new(&map[..])) {
            Ok(z) => z,
            Err(e) => bail!("{shown}: truncated or not a ZIP file ({e})"),
        };
        if zip.has_duplicate_names() {
            bail!("{shown}: two entries have the same name");
        }
        let mut entries = Vec::with_capacity(zip.len());
        for i in 0..zip.len() {
            let entry = match zip.by_index_raw(i) {
                Ok(e) if e.is_file() => e,
                Ok(_) => continue,
                Err(e) => bail!("{shown}: entry {i} is damaged ({e})"),
            };
            let name = match entry.name() {
                Ok(n) => PathBuf::from(n.as_ref()),
                Err(e) => bail!("{shown}: entry {i} has no readable name ({e})"),
            };
            let place = format!("{shown}!{}", name.display());
            if !is_inside(&name) {
                bail!("{place}: the name leads out of the archive");
            }
            if entry.encrypted() {
                bail!("{place}: is encrypted");
            }
            let deflated = match entry.compression() {
                CompressionMethod::Stored => false,
                CompressionMethod::Deflated => true,
                other => bail!("{place}: is compressed by {other}; stored and deflated entries are read"),
            };
            let start = entry.data_start().unwrap_or(u64::MAX);
            let end = start.saturating_add(entry.compressed_size());
            if end > map.len() as u64 {
                bail!("{place}: reaches beyond the end of the file; the archive is cut short");
            }
            let at = start as usize..end as usize;
            entries.push(Entry { name, at, deflated, size: entry.size(), crc: entry.crc32() });
        }
        drop(zip);
        Ok(Self { path: path.to_path_buf(), map, entries })
    }

    /// Names of the files, in the archive's order.
    pub fn names(&self) -> Vec<&Path> {
        self.entries.iter().map(|e| e.name.as_path()).collect()
    }

    pub fn name(&self, index: usize) -> &Path {
        &self.entries[index].name
    }

    pub fn find(&self, name: &Path) -> Option<usize> {
        self.entries.iter().position(|e| e.name == name)
    }

    /// Forgets the files whose names are not `wanted`. Returns how many.
    pub fn keep(&mut self, wanted: impl Fn(&Path) -> bool) -> usize {
        let before = self.entries.len();
        self.entries.retain(|e| wanted(&e.name));
        before - self.entries.len()
    }

    /// `archive.zip!name`, for messages.
    pub fn place(&self, index: usize) -> String {
        format!("{}!{}", self.path.display(), self.entries[index].name.display())
    }

    /// The bytes of a file, checked against their checksum. Errors do not say the name.
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let entry = &self.entries[index];
        let stored = &self.map[entry.at.clone()];
        if entry.size > MAX_BYTES {
            bail!("inflates to {} bytes, more than the {MAX_BYTES} that are read", entry.size);
        }
        let bytes = if entry.deflated {
            let mut bytes = Vec::new();
            // One byte more than declared tells a liar.
            if let Err(e) = DeflateDecoder::new(stored).take(entry.size + 1).read_to_end(&mut bytes) {
                bail!("cannot be inflated: {e}");
            }
            Cow::Owned(bytes)
        } else {
            Cow::Borrowed(stored)
        };
        if bytes.len() as u64 != entry.size {
            bail!(
                "holds {} bytes than the {} it declares",
                if bytes.len() as u64 > entry.size { "more" } else { "fewer" },
                entry.size
            );
        }
        let mut crc = Crc::new();
        crc.update(&bytes);
        if crc.sum() != entry.crc {
            bail!("does not match its checksum");
        }
        Ok(bytes)
    }
}

/// Only plain components: not absolute, no `..`.
pub fn is_inside(name: &Path) -> bool {
    name.components().all(|c| matches!(c, Component::Normal(_))) && name.components().next().is_some()
}
