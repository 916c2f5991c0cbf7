//! Names of the files of a set, one after another in one piece of memory: a million of 30 bytes
//! take 38 MB so, and twice that as paths of their own.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Default)]
pub struct NameList {
    bytes: Vec<u8>,
    /// The end of each name.
    ends: Vec<usize>,
}

impl NameList {
    pub fn push(&mut self, name: &Path) {
        self.bytes.extend_from_slice(name.as_os_str().as_bytes());
        self.ends.push(self.bytes.len());
    }

    /// Adds a name in a folder, which is empty for none.
    pub fn push_in(&mut self, folder: &Path, name: &str) {
        self.bytes.extend_from_slice(folder.as_os_str().as_bytes());
        if !folder.as_os_str().is_empty() {
            self.bytes.push(b'/');
        }
        self.push(Path::new(name));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> &Path {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        path(&self.bytes[start..self.ends[index]])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Each as a path of its own, for a few.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.iter().map(Path::to_path_buf).collect()
    }

    /// Keeps the names that are `wanted`, in their order.
    pub fn retain(&mut self, mut wanted: impl FnMut(usize, &Path) -> bool) {
        let (mut start, mut filled, mut kept) = (0, 0, 0);
        for index in 0..self.len() {
            let name = start..self.ends[index];
            start = name.end;
            if wanted(index, path(&self.bytes[name.clone()])) {
                self.bytes.copy_within(name.clone(), filled);
                filled += name.len();
                self.ends[kept] = filled;
                kept += 1;
            }
        }
        self.bytes.truncate(filled);
        self.ends.truncate(kept);
    }

    /// Gives back memory that was kept for more names.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_whole_and_in_order() {
        let mut list = NameList::default();
        for name in ["", "a", "bb", "", "ccc", "d/ä.png"] {
            list.push(Path::new(name));
        }
        list.push_in(Path::new("f/g"), "h");
        list.push_in(Path::new(""), "i");
        list.retain(|index, name| index != 1 && name != Path::new("ccc"));
        let expected = ["", "bb", "", "d/ä.png", "f/g/h", "i"];
        assert_eq!(list.iter().collect::<Vec<_>>(), expected.map(Path::new));
        list.retain(|_, _| false);
        assert!(list.is_empty());
    }
}
