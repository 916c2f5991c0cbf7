//! Lists the members of a tar by its headers: GNU's and pax's long names are understood, and what
//! is not a plain file is refused when it is read.
//!
//! A tar has no directory, and no checksum of its data. What can be checked is: every member must
//! end within the file, and the zeros that mark the end must be there, or the archive was cut off.

use super::member::{Member, Packing};
use crate::data::source::names::normal;
use candle_core::{Error, Result, bail};
use std::io::Cursor;
use std::ops::Range;
use std::path::PathBuf;
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

/// The files of the tar that lies at `at` in `file`; `shown` names it in messages.
pub fn list(file: &[u8], at: Range<usize>, shown: &str) -> Result<Vec<Member>> {
    let bytes = &file[at.clone()];
    let mut cursor = Cursor::new(bytes);
    let mut members: Vec<Member> = vec![];
    let mut archive = Archive::new(&mut cursor);
    let damaged = |e: std::io::Error, members: &[Member]| match members.last() {
        Some(last) => Error::msg(format!("{shown}: truncated or damaged after `{}`: {e}", last.name.display())),
        None => Error::msg(format!("{shown}: truncated or not a tar: {e}")),
    };
    for entry in archive.entries_with_seek().map_err(|e| damaged(e, &[]))? {
        let mut entry = entry.map_err(|e| damaged(e, &members))?;
        let kind = entry.header().entry_type();
        let raw = entry.path_bytes().into_owned();
        let place = format!("{shown}!{}", String::from_utf8_lossy(&raw));
        // Before 1988 a folder was a file whose name ends in a slash.
        if kind.is_dir() || kind.is_pax_global_extensions() || (kind.is_file() && raw.ends_with(b"/")) {
            continue;
        }
        let Ok(name) = str::from_utf8(&raw) else { bail!("{place}: its name is not UTF-8") };
        let name = match normal(name, false) {
            Ok(name) => PathBuf::from(name),
            Err(why) => bail!("{place}: its name {why}"),
        };
        let is_sparse = match entry.pax_extensions() {
            Ok(Some(mut all)) => all.any(|ext| ext.is_ok_and(|ext| ext.key_bytes().starts_with(b"GNU.sparse"))),
            Ok(None) => false,
            Err(e) => bail!("{place}: its pax header is damaged: {e}"),
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
                let start = entry.raw_file_position();
                let end = start.saturating_add(entry.size());
                if end > bytes.len() as u64 {
                    let (size, here) = (entry.size(), (bytes.len() as u64).saturating_sub(start));
                    bail!("{place}: has {here} of its {size} bytes; the archive is truncated");
                }
                at.start + start as usize..at.start + end as usize
            }
        };
        members.push(Member { name, volume: 0, at, packing: Packing::Plain, refused: refused.map(String::from) });
    }
    // A block of zeros was read, and at least another one follows it.
    let end = cursor.position() as usize;
    match bytes.get(end..) {
        None | Some([]) => Err(damaged(std::io::Error::other("its end mark is missing"), &members)),
        Some(rest) if rest.iter().any(|byte| *byte != 0) => {
            let hint = format!("`tar --ignore-zeros -xf {shown}` unpacks all of them into a folder");
            let text = format!("{shown}: more data follows its end mark, as if archives had been joined");
            Err(Error::msg(hint).context(text))
        }
        Some(_) => Ok(members),
    }
}
