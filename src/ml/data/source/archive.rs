//! A ZIP of images, mapped: entries are slices of the file, so threads can read them concurrently.
//!
//! Archives are never unpacked, so no entry can write outside. Names that try are refused anyway,
//! because nobody writes them by accident. An entry may inflate to its declared size and not a byte
//! more. A fault in one entry is reported when that entry is read, because it may never be used.

use super::names::normal;
use crate::data::decode::MAX_BYTES;
use candle_core::{Result, bail};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, System, ZipArchive};

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Mmap,
    /// The folder in the archive that is the set; empty for the whole archive.
    part: PathBuf,
    entries: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Without the name of the part.
    name: PathBuf,
    /// Position of its stored bytes in the file.
    at: Range<usize>,
    deflated: bool,
    /// Uncompressed size in bytes, and checksum.
    size: u64,
    crc: u32,
    /// Why it cannot be read, if it cannot.
    refused: Option<String>,
}

impl Archive {
    /// Lists the files of an archive without reading them.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let map = super::tree::map(path)?;
        let mut zip = match ZipArchive::new(Cursor::new(&map[..])) {
            Ok(z) => z,
            Err(e) => bail!("{shown}: truncated or not a ZIP file ({e})"),
        };
        if zip.has_duplicate_names() {
            let name = listed_twice(&map, zip.central_directory_start() as usize);
            bail!("{shown}: two entries have the same name{}", name.map(|n| format!(": {n}")).unwrap_or_default());
        }
        // The specification allows only `/`. Windows programs wrote `\` for a long time. They are
        // recognised by the system field, or, if another program copied the entry, by the absence
        // of `/`.
        let slashes = zip.file_names_raw().any(|name| name.contains(&b'/'));
        let mut entries = Vec::with_capacity(zip.len());
        let mut names = HashSet::with_capacity(zip.len());
        for i in 0..zip.len() {
            let entry = match zip.by_index_raw(i) {
                Ok(e) if e.is_dir() => continue,
                Ok(e) => e,
                Err(e) => bail!("{shown}: entry {i} is damaged ({e})"),
            };
            let name = match entry.name() {
                Ok(n) => n,
                Err(e) => bail!("{shown}: entry {i} has no readable name ({e})"),
            };
            let place = format!("{shown}!{name}");
            let windows = matches!(entry.system(), System::Dos | System::WindowsNTFS | System::VFAT);
            let name = match normal(&name, windows || !slashes) {
                Ok(name) => name,
                Err(why) => bail!("{place}: its name {why}"),
            };
            if !names.insert(name.clone()) {
                bail!("{shown}: two entries have the same name: {name}");
            }
            let refused = if entry.encrypted() {
                Some("is encrypted".to_string())
            } else if entry.is_symlink() {
                Some("is a symbolic link, which is not followed in an archive".into())
            } else {
                match entry.compression() {
                    CompressionMethod::Stored | CompressionMethod::Deflated => None,
                    other => Some(format!("is compressed with {other}; supported are stored and deflated entries")),
                }
            };
            let start = entry.data_start().unwrap_or(u64::MAX);
            let end = start.saturating_add(entry.compressed_size());
            if end > map.len() as u64 {
                bail!("{place}: extends beyond the end of the file; the archive is truncated");
            }
            let at = start as usize..end as usize;
            let deflated = entry.compression() == CompressionMethod::Deflated;
            let name = PathBuf::from(name);
            entries.push(Member { name, at, deflated, size: entry.size(), crc: entry.crc32(), refused });
        }
        drop(zip);
        Ok(Self { path: path.to_path_buf(), map, part: PathBuf::new(), entries })
    }

    /// Restricts the set to a folder in the archive.
    pub fn enter(mut self, part: &str) -> Result<Self> {
        let shown = self.path.display();
        let part = match normal(part, false) {
            Ok(part) => PathBuf::from(part),
            Err(why) => bail!("{shown}: `part` {why}"),
        };
        let folders = self.entries.iter().filter_map(|e| Some(e.name.parent()?.components().next()?.as_os_str()));
        let mut folders: Vec<String> = folders.map(|name| name.to_string_lossy().into_owned()).collect();
        folders.sort();
        folders.dedup();
        self.entries.retain_mut(|e| match e.name.strip_prefix(&part) {
            Ok(rest) if !rest.as_os_str().is_empty() => {
                e.name = rest.to_path_buf();
                true
            }
            _ => false,
        });
        if self.entries.is_empty() {
            bail!(
                "{shown} holds no folder `{}`; its top-level folders are {}",
                part.display(),
                super::classes::first(folders)
            );
        }
        Ok(Self { part, ..self })
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

    /// Drops the files whose names are not `wanted`.
    pub fn keep(&mut self, mut wanted: impl FnMut(&Path) -> bool) {
        self.entries.retain(|e| wanted(&e.name));
    }

    /// `archive.zip`, or `archive.zip!part`, for messages.
    pub fn shown(&self) -> String {
        match self.part.as_os_str().is_empty() {
            true => self.path.display().to_string(),
            false => format!("{}!{}", self.path.display(), self.part.display()),
        }
    }

    /// `archive.zip!name` of a name in the part.
    pub fn place_of(&self, name: &str) -> String {
        format!("{}!{}", self.path.display(), self.part.join(name).display())
    }

    /// `archive.zip!name`, for messages.
    pub fn place(&self, index: usize) -> String {
        format!("{}!{}", self.path.display(), self.part.join(&self.entries[index].name).display())
    }

    /// The bytes of a file, checked against its checksum. Errors do not include the name.
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let entry = &self.entries[index];
        if let Some(why) = &entry.refused {
            bail!("{why}");
        }
        let stored = &self.map[entry.at.clone()];
        if entry.size > MAX_BYTES {
            bail!("inflates to {} bytes, more than the limit of {MAX_BYTES}", entry.size);
        }
        let bytes = if entry.deflated {
            let mut bytes = Vec::new();
            // One extra byte reveals an entry that is larger than it declares.
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

/// A name that occurs twice in the central directory at `at`.
fn listed_twice(map: &[u8], mut at: usize) -> Option<String> {
    let mut names = HashSet::new();
    while map.get(at..)?.starts_with(b"PK\x01\x02") {
        let length = |i: usize| Some(usize::from(u16::from_le_bytes([*map.get(at + i)?, *map.get(at + i + 1)?])));
        let name = map.get(at + 46..at + 46 + length(28)?)?;
        if !names.insert(name) {
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        at += 46 + length(28)? + length(30)? + length(32)?;
    }
    None
}
