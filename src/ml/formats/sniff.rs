//! Detects the format of a file from its first bytes, never from its name. Most files that cannot
//! be read are not damaged but of another format, and the message should say which.

use super::archive::Archive;
use super::format::Format;
use super::npy;
use super::safetensors::Safetensors;
use super::torch::Checkpoint;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How many bytes [`foreign`] needs.
pub(super) const HEAD: usize = 512;

/// Formats recognised by their first bytes.
const BEGINNINGS: [(&[u8], &str); 13] = [
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it first"),
    (b"\xfd7zXZ\0", "an xz file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
    (b"SQLite format 3", "an SQLite database"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"%PDF", "a PDF"),
];

/// Name of an unsupported format, from the first bytes of a file.
pub(super) fn foreign(head: &[u8]) -> Option<&'static str> {
    if head.is_empty() {
        return Some("empty");
    }
    if let Some((_, words)) = BEGINNINGS.iter().find(|(start, _)| head.starts_with(start)) {
        return Some(words);
    }
    match String::from_utf8_lossy(head).trim_start().as_bytes() {
        [b'<', ..] => Some("a web page, perhaps from a failed download"),
        [b'{' | b'[', ..] => {
            Some("JSON text, perhaps the index of a model in several files or the response to a failed download")
        }
        _ if head.get(257..262) == Some(b"ustar") => Some("a tar archive; unpack it first"),
        _ if is_picture(head) => Some("an image"),
        _ => None,
    }
}

fn is_picture(head: &[u8]) -> bool {
    const STARTS: [&[u8]; 6] = [b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM"];
    let is_pnm = matches!(head, [b'P', b'1'..=b'6', b' ' | b'\n' | b'\r' | b'\t', ..]);
    let is_in_box = matches!(head.get(4..12), Some(b"ftypavif" | b"ftypheic" | b"ftypmif1"));
    let is_webp = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP");
    STARTS.iter().any(|start| head.starts_with(start)) || is_pnm || is_in_box || is_webp
}

/// The supported format of a file, by its first bytes; for a ZIP by the names in it.
pub fn format_of(path: &Path) -> Option<Format> {
    let head = head(path).ok()?;
    if Safetensors::is(&head) {
        Some(Format::Safetensors)
    } else if head.starts_with(npy::MAGIC) {
        Some(Format::Npy)
    } else if Checkpoint::is_legacy(&head) {
        Some(Format::TorchLegacy)
    } else if head.starts_with(b"PK") {
        let zip = super::parsed::map(path).and_then(Archive::open).ok()?;
        match Checkpoint::folder(&zip) {
            Some(_) => Some(Format::TorchZip),
            None => (!npy::names(&zip).is_empty()).then_some(Format::Npz),
        }
    } else {
        None
    }
}

/// What a file is, as text that follows "it is", whether supported or not.
pub fn describe(path: &Path) -> String {
    let head = match head(path) {
        Ok(head) => head,
        Err(why) => return why,
    };
    match (format_of(path), foreign(&head)) {
        (Some(format), _) => format.to_string(),
        (None, Some(words)) => words.into(),
        _ if head.starts_with(b"PK") => "a ZIP archive".into(),
        _ if head.starts_with(&[0x80]) => "a Python pickle".into(),
        _ if is_text(&head) => "a text file".into(),
        _ => "of an unknown format".into(),
    }
}

fn head(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err("a folder".into()),
        // Reading a pipe would block.
        Ok(m) if !m.is_file() => return Err("not a regular file".into()),
        _ => {}
    }
    let mut head = vec![];
    match File::open(path).and_then(|file| file.take(HEAD as u64).read_to_end(&mut head)) {
        Ok(_) => Ok(head),
        Err(e) => Err(format!("not readable: {e}")),
    }
}

fn is_text(head: &[u8]) -> bool {
    String::from_utf8_lossy(head).trim_end_matches('\u{fffd}').chars().all(|c| !c.is_control() || c.is_whitespace())
}
