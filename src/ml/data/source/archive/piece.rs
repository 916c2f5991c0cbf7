//! A piece of a file, read by position: several threads read one file at once, and what they read is
//! not counted as memory of this process, as mapped pages are.

use std::fs::File;
use std::io::{self, Error, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes that a short read takes at a time: a header, and often the next one.
const AHEAD: usize = 4096;

/// Reads and seeks within a piece, as if nothing were around it.
#[derive(Debug)]
pub struct Piece<'a> {
    file: &'a File,
    at: Range<u64>,
    position: u64,
    /// What was read ahead, and its position.
    ahead: Vec<u8>,
    ahead_at: u64,
}

impl<'a> Piece<'a> {
    /// The piece at `at`, which may end beyond the file.
    pub fn new(file: &'a File, at: Range<u64>) -> Self {
        Self { file, at, position: 0, ahead: vec![], ahead_at: 0 }
    }

    /// Its position in the file.
    pub fn start(&self) -> u64 {
        self.at.start
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.at.end.saturating_sub(self.at.start)
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// When the file ends before it does.
    pub fn whole(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size()).map_err(Error::other)?];
        self.file.read_exact_at(&mut bytes, self.at.start)?;
        Ok(bytes)
    }

    /// Whether all of it has been read.
    pub fn is_at_end(&self) -> bool {
        self.position >= self.size()
    }

    /// Whether all bytes from here to the end are zero.
    pub fn is_zero(&mut self) -> io::Result<bool> {
        let mut some = [0; AHEAD];
        loop {
            match self.read(&mut some)? {
                0 => return Ok(true),
                n if some[..n].iter().any(|byte| *byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }
}

impl Read for Piece<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size().saturating_sub(self.position);
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let start = self.at.start + self.position;
        let read = if most >= AHEAD {
            self.file.read_at(&mut into[..most], start)?
        } else {
            let is_ahead = (self.ahead_at..self.ahead_at + self.ahead.len() as u64).contains(&self.position);
            if !is_ahead {
                self.ahead.resize(AHEAD.min(usize::try_from(left).unwrap_or(AHEAD)), 0);
                let read = self.file.read_at(&mut self.ahead, start);
                self.ahead.truncate(*read.as_ref().unwrap_or(&0));
                self.ahead_at = self.position;
                read?;
            }
            let rest = &self.ahead[(self.position - self.ahead_at) as usize..];
            let most = most.min(rest.len());
            into[..most].copy_from_slice(&rest[..most]);
            most
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for Piece<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(to) => Some(to),
            SeekFrom::End(by) => self.size().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = to.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a position before the start"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_reads_as_its_bytes_do_wherever_one_seeks() {
        let all: Vec<u8> = (0..20_000_u32).map(|i| (i * i / 7) as u8).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &all).unwrap();
        let file = File::open(path.path()).unwrap();
        let part = &all[100..15_100];
        let mut piece = Piece::new(&file, 100..15_100);
        assert_eq!((piece.size(), piece.whole().unwrap().as_slice()), (15_000, part));
        let mut plain = io::Cursor::new(part);
        for (to, count) in [
            (SeekFrom::Start(0), 10),
            (SeekFrom::Current(0), 5000),
            (SeekFrom::Current(-3000), 17),
            (SeekFrom::Start(4090), 100),
            (SeekFrom::End(-5), 10),
            (SeekFrom::Start(20_000), 10),
            (SeekFrom::End(-9000), 9000),
        ] {
            assert_eq!(piece.seek(to).unwrap(), plain.seek(to).unwrap());
            let (mut a, mut b) = (vec![], vec![]);
            piece.by_ref().take(count).read_to_end(&mut a).unwrap();
            plain.by_ref().take(count).read_to_end(&mut b).unwrap();
            assert_eq!(a, b, "{to:?}");
        }
        assert!(piece.seek(SeekFrom::Current(-20_000)).is_err());
        piece.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(piece.read(&mut [0; 9000]).unwrap(), 0);
        assert!(Piece::new(&file, 19_000..21_000).whole().is_err(), "the file ends before it does");
    }
}
