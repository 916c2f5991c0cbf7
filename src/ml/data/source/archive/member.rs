//! The files in an archive: their names, where their bytes lie, and how these are stored. Does not
//! read them.

use crate::data::source::name_list::NameList;
use std::ops::Range;
use std::path::Path;

/// A file in an archive.
#[derive(Debug)]
pub struct Member {
    /// The number of the archive in the set.
    pub volume: u32,
    /// Position of its stored bytes in the file.
    pub at: Range<u64>,
    pub packing: Packing,
    /// Why it cannot be read, if it cannot.
    pub refused: Option<Box<str>>,
}

impl Member {
    /// Its size in bytes, as it is declared; that of its stored bytes if they are more and not packed.
    pub fn size(&self) -> u64 {
        let stored = self.at.end.saturating_sub(self.at.start);
        match self.packing {
            Packing::Plain => stored,
            Packing::Stored { size, .. } => size.max(stored),
            Packing::Deflated { size, .. } => size,
        }
    }
}

/// How the bytes of a member are stored.
#[derive(Debug, Clone, Copy)]
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

/// Members and their names, in the order of their archives. Some 100 bytes each.
#[derive(Debug, Default)]
pub struct Members {
    pub names: NameList,
    pub list: Vec<Member>,
}

impl Members {
    /// Adds a member in a folder, which is empty for none.
    pub fn push(&mut self, folder: &Path, name: &str, member: Member) {
        self.names.push_in(folder, name);
        self.list.push(member);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Member)> {
        self.names.iter().zip(&self.list)
    }

    /// Keeps the members that are `wanted`.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Path, &Member) -> bool) {
        let list = &self.list;
        let mut kept = Vec::with_capacity(list.len());
        self.names.retain(|index, name| {
            kept.push(wanted(name, &list[index]));
            kept[index]
        });
        let mut kept = kept.into_iter();
        self.list.retain(|_| kept.next() == Some(true));
    }

    /// Gives back memory that was kept for more members.
    pub fn shrink(&mut self) {
        self.names.shrink();
        self.list.shrink_to_fit();
    }
}
