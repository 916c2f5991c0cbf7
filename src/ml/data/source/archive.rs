//! A ZIP of images, mapped: entries are slices of the file, so any number of threads read it at once.
//!
//! An archive is never unpacked, so no name in it can reach another place; names that try are refused all the same,
//! because nobody writes them by accident. An entry may inflate to what it declares and not to a byte more. What is wrong
//! with an entry alone is told by whoever reads it, since nobody may want to.

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

#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Mmap,
    /// The folder in it that is the set; empty if all of it is.
    part: PathBuf,
    entries: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// Without that of the part.
    name: PathBuf,
    /// Where its bytes lie in the file, as stored.
    at: Range<usize>,
    deflated: bool,
    /// Bytes when inflated, and their checksum.
    size: u64,
    crc: u32,
    /// Why it cannot be read, if so.
    refused: Option<String>,
}

impl Archive {
    /// Lists the files of an archive; reads none of them.
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
        // The specification knows only `/`. Programs of Windows wrote `\` for long, and are known by their system, or where
        // another program passed it on, by the absence of the other.
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
                Err(why) => bail!("{place}: the name {why}"),
            };
            if !names.insert(name.clone()) {
                bail!("{shown}: two entries have the same name: {name}");
            }
            let refused = if entry.encrypted() {
                Some("is encrypted".to_string())
            } else if entry.is_symlink() {
                Some("is a link, and in an archive none is followed".into())
            } else {
                match entry.compression() {
                    CompressionMethod::Stored | CompressionMethod::Deflated => None,
                    other => Some(format!("is compressed by {other}; stored and deflated entries are read")),
                }
            };
            let start = entry.data_start().unwrap_or(u64::MAX);
            let end = start.saturating_add(entry.compressed_size());
            if end > map.len() as u64 {
                bail!("{place}: reaches beyond the end of the file; the archive is cut short");
            }
            let at = start as usize..end as usize;
            let deflated = entry.compression() == CompressionMethod::Deflated;
            let name = PathBuf::from(name);
            entries.push(Member { name, at, deflated, size: entry.size(), crc: entry.crc32(), refused });
        }
        drop(zip);
        Ok(Self { path: path.to_path_buf(), map, part: PathBuf::new(), entries })
    }

    /// Takes a folder in the archive for the set.
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
            bail!("{shown} holds no folder `{}`; at the top are {}", part.display(), super::classes::first(folders));
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

    /// Forgets the files whose names are not `wanted`.
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

    /// The bytes of a file, checked against their checksum. Errors do not say the name.
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let entry = &self.entries[index];
        if let Some(why) = &entry.refused {
            bail!("{why}");
        }
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

/// A name that stands twice in the directory of an archive, which begins here.
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
