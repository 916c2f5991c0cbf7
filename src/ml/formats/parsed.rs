//! What reading a file of tensors gives, or the words of what is wrong with it.

use memmap2::Mmap;
use std::path::Path;

/// Inside this module errors are texts that say what is wrong; the file is named once, where they leave it.
pub(crate) type Parsed<T> = std::result::Result<T, String>;

/// A name, and a shape if it is known.
pub type Named = (String, Option<Vec<usize>>);

/// Maps a file into memory.
pub(crate) fn map(path: &Path) -> Parsed<Mmap> {
    if path.is_dir() {
        return Err("it is a folder; give the weights file in it".into());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    // Weights files are written once and then only read, which is what a mapping needs; of one that is cut short while
    // it is read, `mapped` says which.
    #[expect(unsafe_code, reason = "mapping a file that nothing writes to any more")]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|e| e.to_string())
}

/// The first names of a list that may be long.
pub(crate) fn listed(names: &[String]) -> String {
    const NAMED: usize = 12;
    if names.is_empty() {
        return "none".into();
    }
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{first} and {more} more") } else { first }
}
