//! The files of the archives of a set, a few of which are open at a time: a set may have more shards
//! than a process may have open files, which is often 1,024.

use candle_core::{Result, bail};
use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How many are open, beside those that are being read.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub struct OpenFiles {
    known: Vec<Known>,
    /// By number, the last one used at the end.
    open: Mutex<VecDeque<(usize, Arc<File>)>>,
}

/// A file as it was when it was opened first.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    stamp: Stamp,
}

/// Size, inode, and time of modification in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.len(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

impl OpenFiles {
    /// Adds a file; returns its number and its size in bytes.
    pub fn add(&mut self, path: &Path) -> Result<(usize, u64)> {
        let (file, metadata) = self.open(path)?;
        let (number, size) = (self.known.len(), metadata.len());
        self.known.push(Known { path: path.to_path_buf(), stamp: stamp(&metadata) });
        self.keep(number, Arc::new(file));
        Ok((number, size))
    }

    /// The file of a number. It is opened again if others were used since.
    ///
    /// # Errors
    /// When it has changed since it was added: what was listed is not there then.
    pub fn get(&self, number: usize) -> Result<Arc<File>> {
        if let Some(file) = self.used(number) {
            return Ok(file);
        }
        let known = &self.known[number];
        let (file, metadata) = self.open(&known.path)?;
        if stamp(&metadata) != known.stamp {
            bail!("{} was changed while it was read", known.path.display());
        }
        let file = Arc::new(file);
        self.keep(number, file.clone());
        Ok(file)
    }

    /// The file of a number if it is open, which is the last one used then.
    fn used(&self, number: usize) -> Option<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|(other, _)| *other == number)?;
        let found = open.remove(at)?;
        let file = found.1.clone();
        open.push_back(found);
        Some(file)
    }

    fn keep(&self, number: usize, file: Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have opened it, too.
        if open.iter().all(|(other, _)| *other != number) {
            open.push_back((number, file));
        }
        if open.len() > MOST {
            open.pop_front();
        }
    }

    /// Opens a file. Where this process may open no more, others make room.
    fn open(&self, path: &Path) -> Result<(File, Metadata)> {
        let open = || File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let is_full = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        let opened = match open() {
            Err(e) if is_full(&e) => {
                self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
                open()
            }
            other => other,
        };
        match opened {
            Ok(opened) => Ok(opened),
            Err(e) => bail!("cannot open {}: {e}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn more_files_are_read_than_are_open_and_changed_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = OpenFiles::default();
        let path = |i: usize| dir.path().join(i.to_string());
        for i in 0..=MOST {
            std::fs::write(path(i), [i as u8]).unwrap();
            assert_eq!(files.add(&path(i)).unwrap(), (i, 1));
        }
        for i in (0..=MOST).rev() {
            let mut byte = [0];
            files.get(i).unwrap().read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(byte, [i as u8]);
        }
        assert_eq!(files.open.lock().unwrap().len(), MOST);
        // The one that was used first is open no longer.
        std::fs::write(path(MOST), "longer").unwrap();
        assert!(files.get(MOST).unwrap_err().to_string().contains("was changed while it was read"));
    }
}
