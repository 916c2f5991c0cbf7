//! The result type of the readers, and helpers that they share.

use memmap2::Mmap;
use std::path::Path;

/// Errors inside this module are strings that describe the fault. The file is named once, where
/// they leave the module.
pub(crate) type Parsed<T> = std::result::Result<T, String>;

/// A tensor name, and its shape if known.
pub type Named = (String, Option<Vec<usize>>);

/// Maps a file into memory.
pub(crate) fn map(path: &Path) -> Parsed<Mmap> {
    if path.is_dir() {
        return Err("it is a folder; give the weights file in it".into());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    // A mapping needs a file that does not change: weights files are written once and then only
    // read. If one is truncated during reading, `mapped` reports which.
    #[expect(unsafe_code, reason = "mapping a file that nothing writes to any more")]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|e| e.to_string())
}

/// The first names of a list.
pub(crate) fn listed(names: &[String]) -> String {
    const NAMED: usize = 12;
    if names.is_empty() {
        return "none".into();
    }
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{first} and {more} more") } else { first }
}
