//! Lists the members of a ZIP by the directory at its end.

use super::member::{Member, Packing};
use super::piece::Piece;
use crate::data::decode::MAX_BYTES;
use crate::data::source::names::normal;
use candle_core::{Error, Result, bail};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use zip::{CompressionMethod, System, ZipArchive};

/// Whether a file that begins so is a ZIP: it begins with an entry, or with its end record if it is
/// empty.
pub fn begins(head: &[u8]) -> bool {
    head.starts_with(b"PK")
}

/// Finds the files of a ZIP of this size in bytes, which is volume 0; `shown` names it in messages.
pub fn list(file: &File, size: u64, shown: &str, mut found: impl FnMut(&str, Member)) -> Result<()> {
    let mut zip = match ZipArchive::new(Piece::new(file, 0..size)) {
        Ok(z) => z,
        Err(e) => bail!("{shown}: truncated or not a ZIP file ({e})"),
    };
    if zip.has_duplicate_names() {
        let start = zip.central_directory_start();
        let directory = Piece::new(file, start..size.min(start.saturating_add(MAX_BYTES))).whole();
        let name = directory.ok().and_then(|directory| listed_twice(&directory));
        bail!("{shown}: two entries have the same name{}", name.map(|n| format!(": {n}")).unwrap_or_default());
    }
    // The specification allows only `/`. Windows programs wrote `\` for a long time. They are
    // recognised by the system field, or, if another program copied the entry, by the absence
    // of `/`.
    let slashes = zip.file_names_raw().any(|name| name.contains(&b'/'));
    let mut first = size;
    for i in 0..zip.len() {
        let entry = match zip.by_index_raw(i) {
            Ok(e) => e,
            Err(e) => bail!("{shown}: entry {i} is damaged ({e})"),
        };
        first = first.min(entry.header_start());
        if entry.is_dir() {
            continue;
        }
        let name = match entry.name() {
            Ok(n) => n,
            Err(e) => bail!("{shown}: entry {i} has no readable name ({e})"),
        };
        let windows = matches!(entry.system(), System::Dos | System::WindowsNTFS | System::VFAT);
        let plain = match normal(&name, windows || !slashes) {
            Ok(plain) => plain,
            Err(why) => bail!("{shown}!{name}: its name {why}"),
        };
        let refused: Option<Box<str>> = if entry.encrypted() {
            Some("is encrypted".into())
        } else if entry.is_symlink() {
            Some("is a symbolic link, which is not followed in an archive".into())
        } else {
            match entry.compression() {
                CompressionMethod::Stored | CompressionMethod::Deflated => None,
                other => Some(format!("is compressed with {other}; supported are stored and deflated entries").into()),
            }
        };
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start.saturating_add(entry.compressed_size());
        if end > size {
            bail!("{shown}!{name}: extends beyond the end of the file; the archive is truncated");
        }
        let (whole, crc) = (entry.size(), entry.crc32());
        let packing = match entry.compression() {
            CompressionMethod::Deflated => Packing::Deflated { size: whole, crc },
            _ => Packing::Stored { size: whole, crc },
        };
        found(&plain, Member { volume: 0, at: start..end, packing, refused });
    }
    // What lies before the first entry is another ZIP, with the directory at its end.
    let before = Piece::new(file, 0..first);
    if holds_end(before).map_err(|e| Error::msg(format!("{shown}: cannot be read: {e}")))? {
        let text = format!("{shown}: another ZIP lies before its entries, as if archives had been joined");
        return Err(Error::msg("name one of the archives; or unpack all of them into one folder").context(text));
    }
    Ok(())
}

/// Whether a piece begins with an entry and holds the mark of a directory's end.
fn holds_end(mut piece: Piece) -> io::Result<bool> {
    const END: &[u8] = b"PK\x05\x06";
    let mut some = vec![0; 1 << 16];
    // What is kept of the bytes before, since the mark may lie across both.
    let mut kept = 0;
    let mut is_first = true;
    loop {
        let read = piece.read(&mut some[kept..])?;
        let all = kept + read;
        if read == 0 || (is_first && !some[..all].starts_with(b"PK\x03\x04")) {
            return Ok(false);
        }
        if some[..all].windows(END.len()).any(|word| word == END) {
            return Ok(true);
        }
        is_first = false;
        kept = all.min(END.len() - 1);
        some.copy_within(all - kept..all, 0);
    }
}

/// A name that occurs twice in a central directory.
fn listed_twice(directory: &[u8]) -> Option<String> {
    let (mut names, mut at) = (HashSet::new(), 0);
    while directory.get(at..)?.starts_with(b"PK\x01\x02") {
        let length =
            |i: usize| Some(usize::from(u16::from_le_bytes([*directory.get(at + i)?, *directory.get(at + i + 1)?])));
        let name = directory.get(at + 46..at + 46 + length(28)?)?;
        if !names.insert(name) {
            return Some(String::from_utf8_lossy(name).into_owned());
        }
        at += 46 + length(28)? + length(30)? + length(32)?;
    }
    None
}
