//! A ZIP archive mapped into memory: entries by name. Stored entries are slices; deflated ones are
//! inflated up to a limit that the reader sets from what it needs.
//!
//! Nothing is written under an entry's name, so a name like `../x` is harmless. There are two
//! protections against ZIP bombs: an entry above the reader's limit is refused before it is
//! inflated, and an archive with overlapping entries, which can repeat the same bytes thousands of
//! times, is refused when it is opened.

use super::parsed::Parsed;
use flate2::bufread::DeflateDecoder;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use zip::CompressionMethod;

#[derive(Debug)]
pub(super) struct Archive {
    map: Mmap,
    entries: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    /// Position of the (perhaps deflated) bytes in the map.
    data: Range<usize>,
    /// Uncompressed size, as the central directory states it.
    size: u64,
    crc: u32,
    deflated: bool,
    /// Why it cannot be read, if it cannot.
    refused: Option<String>,
}

impl Archive {
    /// Reads the central directory, but no entry.
    pub fn open(map: Mmap) -> Parsed<Self> {
        let damaged = |e: zip::result::ZipError| format!("a truncated or damaged ZIP archive ({e})");
        let mut zip = zip::ZipArchive::new(Cursor::new(&map[..])).map_err(damaged)?;
        let mut entries = BTreeMap::new();
        let mut total = 0u64;
        for i in 0..zip.len() {
            let file = zip.by_index_raw(i).map_err(damaged)?;
            let name = String::from_utf8_lossy(file.name_raw()).into_owned();
            let start = file.data_start().unwrap_or(u64::MAX);
            let packed = file.compressed_size();
            let end = start.checked_add(packed).filter(|end| *end <= map.len() as u64);
            let Some(end) = end else {
                return Err(format!("a truncated ZIP archive: entry `{name}` ends beyond the file"));
            };
            total += packed;
            if total > map.len() as u64 {
                return Err("a ZIP archive whose entries overlap".into());
            }
            let method = file.compression();
            let refused = if file.encrypted() {
                Some("is encrypted".to_string())
            } else if ![CompressionMethod::Stored, CompressionMethod::Deflated].contains(&method) {
                Some(format!("is compressed with {method}, which is not supported"))
            } else if method == CompressionMethod::Stored && packed != file.size() {
                Some(format!("is stored in {packed} bytes, but should have {}", file.size()))
            } else {
                None
            };
            let deflated = method == CompressionMethod::Deflated;
            let data = start as usize..end as usize;
            entries.insert(name, Member { data, size: file.size(), crc: file.crc32(), deflated, refused });
        }
        drop(zip);
        Ok(Self { map, entries })
    }

    /// Names of the entries, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn entry(&self, name: &str) -> Parsed<&Member> {
        let entry = self.entries.get(name).ok_or_else(|| format!("the archive has no entry `{name}`"))?;
        match &entry.refused {
            Some(why) => Err(format!("entry `{name}` {why}")),
            None => Ok(entry),
        }
    }

    /// Declared uncompressed size of an entry; [`read`](Self::read) enforces it.
    pub fn size(&self, name: &str) -> Parsed<u64> {
        Ok(self.entry(name)?.size)
    }

    /// Position of an entry in the file; `None` if it is deflated.
    pub fn stored(&self, name: &str) -> Parsed<Option<Range<usize>>> {
        let entry = self.entry(name)?;
        Ok((!entry.deflated).then(|| entry.data.clone()))
    }

    /// Position of an entry's stored bytes in the file.
    pub fn packed(&self, name: &str) -> Parsed<Range<usize>> {
        Ok(self.entry(name)?.data.clone())
    }

    /// Bytes of the file.
    pub fn bytes(&self, at: Range<usize>) -> &[u8] {
        &self.map[at]
    }

    /// The first `most` bytes of an entry, or all if it is shorter.
    pub fn prefix(&self, name: &str, most: usize) -> Parsed<Cow<'_, [u8]>> {
        let entry = self.entry(name)?;
        let data = &self.map[entry.data.clone()];
        if !entry.deflated {
            return Ok(Cow::Borrowed(&data[..data.len().min(most)]));
        }
        Ok(Cow::Owned(inflate(data, most as u64).map_err(|e| format!("entry `{name}` cannot be inflated: {e}"))?))
    }

    /// A whole entry of at most `most` bytes.
    pub fn read(&self, name: &str, most: u64) -> Parsed<Cow<'_, [u8]>> {
        let entry = self.entry(name)?;
        if entry.size > most {
            return Err(format!("entry `{name}` has {} bytes, more than the limit of {most}", entry.size));
        }
        let data = &self.map[entry.data.clone()];
        if !entry.deflated {
            return Ok(Cow::Borrowed(data));
        }
        // One extra byte reveals an entry that is larger than it declares.
        let bytes = inflate(data, entry.size.saturating_add(1))
            .map_err(|e| format!("entry `{name}` cannot be inflated: {e}"))?;
        if bytes.len() as u64 != entry.size {
            return Err(format!("entry `{name}` does not inflate to the {} bytes it should have", entry.size));
        }
        // Stored entries are compared by `check`, on request: PyTorch can omit the checksums of its
        // files.
        compare(name, &bytes, entry.crc)?;
        Ok(Cow::Owned(bytes))
    }

    /// Compares the bytes of an entry with its checksum.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Parsed<()> {
        compare(name, bytes, self.entry(name)?.crc)
    }

    /// The same, given the checksum of the bytes read.
    pub fn check_sum(&self, name: &str, sum: u32) -> Parsed<()> {
        equal(name, sum, self.entry(name)?.crc)
    }
}

fn compare(name: &str, bytes: &[u8], expected: u32) -> Parsed<()> {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    equal(name, crc.sum(), expected)
}

fn equal(name: &str, sum: u32, expected: u32) -> Parsed<()> {
    if sum == expected { Ok(()) } else { Err(format!("entry `{name}` is damaged: its checksum differs")) }
}

/// Memory grows with the actual output, not with the declared size.
fn inflate(data: &[u8], most: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    DeflateDecoder::new(data).take(most).read_to_end(&mut out)?;
    Ok(out)
}
