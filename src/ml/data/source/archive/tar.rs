//! Lists the members of a tar by its headers: GNU's and pax's long names are understood, and what
//! is not a plain file is refused when it is read.
//!
//! A tar has no directory, and no checksum of its data. What can be checked is: every member must
//! end within the file, and the zeros that mark the end must be there, or the archive was cut off.

use super::member::{Member, Packing};
use super::piece::Piece;
use crate::data::source::names::normal;
use candle_core::{Error, Result, bail};
use std::io;
use tar::{Archive, EntryType, Header};

/// Bytes of a header. Data is padded to whole blocks.
pub const BLOCK: usize = 512;

/// Whether a file that begins so is a tar: its first header has the sum that it states. Old tars
/// have no other mark.
pub fn begins(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<BLOCK>() else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    // The sum itself counts as eight spaces.
    let expected = sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..]);
    header[0] != 0 && Header::from_byte_slice(header).cksum().is_ok_and(|stated| stated == expected)
}

/// Finds the files of the tar that is this piece of a file, of the volume of this number. `shown`
/// names it in messages.
pub fn list(mut tar: Piece, volume: u32, shown: &str, mut found: impl FnMut(&str, Member)) -> Result<()> {
    let (start, size) = (tar.start(), tar.size());
    let mut archive = Archive::new(&mut tar);
    let mut last = String::new();
    let damaged = |e: io::Error, last: &str| {
        let how = if last.is_empty() { "or not a tar".into() } else { format!("or damaged after `{last}`") };
        Error::msg(format!("{shown}: truncated {how}: {e}"))
    };
    for entry in archive.entries_with_seek().map_err(|e| damaged(e, ""))? {
        let mut entry = entry.map_err(|e| damaged(e, &last))?;
        let kind = entry.header().entry_type();
        let raw = entry.path_bytes().into_owned();
        let place = || format!("{shown}!{}", String::from_utf8_lossy(&raw));
        // Before 1988 a folder was a file whose name ends in a slash.
        if kind.is_dir() || kind.is_pax_global_extensions() || (kind.is_file() && raw.ends_with(b"/")) {
            continue;
        }
        let Ok(name) = str::from_utf8(&raw) else { bail!("{}: its name is not UTF-8", place()) };
        last = match normal(name, false) {
            Ok(name) => name,
            Err(why) => bail!("{}: its name {why}", place()),
        };
        let is_sparse = match entry.pax_extensions() {
            Ok(Some(mut all)) => all.any(|ext| ext.is_ok_and(|ext| ext.key_bytes().starts_with(b"GNU.sparse"))),
            Ok(None) => false,
            Err(e) => bail!("{}: its pax header is damaged: {e}", place()),
        };
        let refused = match kind {
            _ if is_sparse || kind == EntryType::GNUSparse => Some("is a sparse file, which is not supported in a tar"),
            EntryType::Regular | EntryType::Continuous => None,
            EntryType::Symlink | EntryType::Link => Some("is a link, which is not followed in an archive"),
            _ => Some("is not a regular file"),
        };
        let at = match refused {
            Some(_) => 0..0,
            None => {
                let begin = entry.raw_file_position();
                let end = begin.saturating_add(entry.size());
                if end > size {
                    let (whole, here) = (entry.size(), size.saturating_sub(begin));
                    bail!("{}: has {here} of its {whole} bytes; the archive is truncated", place());
                }
                start + begin..start + end
            }
        };
        found(&last, Member { volume, at, packing: Packing::Plain, refused: refused.map(Box::from) });
    }
    // A block of zeros was read, and at least another one follows it.
    if tar.is_at_end() {
        return Err(damaged(io::Error::other("its end mark is missing"), &last));
    }
    match tar.is_zero() {
        Ok(true) => Ok(()),
        Ok(false) => {
            let hint = format!("`tar --ignore-zeros -xf {shown}` unpacks all of them into a folder");
            let text = format!("{shown}: more data follows its end mark, as if archives had been joined");
            Err(Error::msg(hint).context(text))
        }
        Err(e) => Err(damaged(e, &last)),
    }
}
