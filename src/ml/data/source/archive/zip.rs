//! Lists the members of a ZIP by the directory at its end.

use super::member::{Member, Packing};
use crate::data::source::names::normal;
use candle_core::{Error, Result, bail};
use std::collections::HashSet;
use std::io::Cursor;
use std::path::PathBuf;
use zip::{CompressionMethod, System, ZipArchive};

/// Whether a file that begins so is a ZIP: it begins with an entry, or with its end record if it is
/// empty.
pub fn begins(head: &[u8]) -> bool {
    head.starts_with(b"PK")
}

/// The files of a ZIP; `shown` names it in messages.
pub fn list(map: &[u8], shown: &str) -> Result<Vec<Member>> {
    let mut zip = match ZipArchive::new(Cursor::new(map)) {
        Ok(z) => z,
        Err(e) => bail!("{shown}: truncated or not a ZIP file ({e})"),
    };
    if zip.has_duplicate_names() {
        let name = listed_twice(map, zip.central_directory_start() as usize);
        bail!("{shown}: two entries have the same name{}", name.map(|n| format!(": {n}")).unwrap_or_default());
    }
    // The specification allows only `/`. Windows programs wrote `\` for a long time. They are
    // recognised by the system field, or, if another program copied the entry, by the absence
    // of `/`.
    let slashes = zip.file_names_raw().any(|name| name.contains(&b'/'));
    let (mut entries, mut first) = (Vec::with_capacity(zip.len()), map.len());
    for i in 0..zip.len() {
        let entry = match zip.by_index_raw(i) {
            Ok(e) => e,
            Err(e) => bail!("{shown}: entry {i} is damaged ({e})"),
        };
        first = first.min(usize::try_from(entry.header_start()).unwrap_or(usize::MAX));
        if entry.is_dir() {
            continue;
        }
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
        let (size, crc) = (entry.size(), entry.crc32());
        let packing = match entry.compression() {
            CompressionMethod::Deflated => Packing::Deflated { size, crc },
            _ => Packing::Stored { size, crc },
        };
        entries.push(Member { name: PathBuf::from(name), volume: 0, at, packing, refused });
    }
    // What lies before the first entry is another ZIP, with the directory at its end.
    if map.starts_with(b"PK\x03\x04") && map[..first].windows(4).any(|word| word == b"PK\x05\x06") {
        let text = format!("{shown}: another ZIP lies before its entries, as if archives had been joined");
        return Err(Error::msg("name one of the archives; or unpack all of them into one folder").context(text));
    }
    Ok(entries)
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
