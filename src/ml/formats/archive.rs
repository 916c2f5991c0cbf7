//! A ZIP archive mapped into memory: entries by name, stored ones as slices, deflated ones inflated up to a limit that
//! the reader sets from what it needs.
//!
//! Nothing is ever written under an entry's name, so a name like `../x` is a name that no reader asks for. Bombs are
//! bounded twice: a reader refuses an entry above its limit before a byte is inflated, and entries that overlap, by
//! which a small archive repeats the same bytes in thousands of them, are refused when the archive is opened.

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
    /// Place of the (perhaps deflated) bytes in the map.
    data: Range<usize>,
    /// Size once inflated, as the directory of the archive says.
    size: u64,
    crc: u32,
    deflated: bool,
    /// Why it cannot be read, if so.
    refused: Option<String>,
}

impl Archive {
    /// Reads the directory of the archive, and no entry.
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
                Some(format!("is compressed by {method}, which is not read here"))
            } else if method == CompressionMethod::Stored && packed != file.size() {
                Some(format!("is stored in {packed} bytes but should have {}", file.size()))
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

    /// Size of an entry once inflated, as the archive says; [`read`](Self::read) holds it to that.
    pub fn size(&self, name: &str) -> Parsed<u64> {
        Ok(self.entry(name)?.size)
    }

    /// Where an entry lies in the file; `None` if it is deflated.
    pub fn stored(&self, name: &str) -> Parsed<Option<Range<usize>>> {
        let entry = self.entry(name)?;
        Ok((!entry.deflated).then(|| entry.data.clone()))
    }

    /// Where the bytes of an entry lie in the file, as they are packed.
    pub fn packed(&self, name: &str) -> Parsed<Range<usize>> {
        Ok(self.entry(name)?.data.clone())
    }

    /// Bytes of the file.
    pub fn bytes(&self, at: Range<usize>) -> &[u8] {
        &self.map[at]
    }

    /// The first bytes of an entry, `most` or all it has.
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
            return Err(format!("entry `{name}` has {} bytes where at most {most} make sense", entry.size));
        }
        let data = &self.map[entry.data.clone()];
        if !entry.deflated {
            return Ok(Cow::Borrowed(data));
        }
        // One byte more than it should have shows that it has more.
        let bytes = inflate(data, entry.size.saturating_add(1))
            .map_err(|e| format!("entry `{name}` cannot be inflated: {e}"))?;
        if bytes.len() as u64 != entry.size {
            return Err(format!("entry `{name}` does not inflate to the {} bytes it should have", entry.size));
        }
        // What is stored is compared by `check`: PyTorch can be told to leave the checksums of its files out.
        compare(name, &bytes, entry.crc)?;
        Ok(Cow::Owned(bytes))
    }

    /// Compares the bytes of an entry with its checksum.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Parsed<()> {
        compare(name, bytes, self.entry(name)?.crc)
    }

    /// The same by the checksum of what was read.
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

/// Memory grows with what really comes out, not with what an archive promises.
fn inflate(data: &[u8], most: u64) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    DeflateDecoder::new(data).take(most).read_to_end(&mut out)?;
    Ok(out)
}
