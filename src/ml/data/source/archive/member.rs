//! A file in an archive: where its bytes lie, and how they are stored. Does not read them.

use std::ops::Range;
use std::path::PathBuf;

/// A file in an archive.
#[derive(Debug)]
pub struct Member {
    /// In the set, without the name of the part.
    pub name: PathBuf,
    pub volume: usize,
    /// Position of its stored bytes in the file.
    pub at: Range<usize>,
    pub packing: Packing,
    /// Why it cannot be read, if it cannot.
    pub refused: Option<String>,
}

/// How the bytes of a member are stored.
#[derive(Debug)]
pub enum Packing {
    /// As they are, without a checksum.
    Plain,
    /// As they are, with a CRC-32.
    Stored {
        size: u64,
        crc: u32,
    },
    Deflated {
        size: u64,
        crc: u32,
    },
}
