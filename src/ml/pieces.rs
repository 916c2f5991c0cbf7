//! Work over a set in pieces: consecutive items of fixed number, each piece a file that appears
//! under its name when it is whole. An interrupted attempt loses the pieces that it has begun, and
//! several ranks share the pieces, each with its own. Rank 0 waits until all are there.
//!
//! The size of a piece depends on nothing that may change between attempts, neither the batch size
//! nor the number of ranks, so pieces of one attempt are those of the next. A piece holds what its
//! items are in any batch, so all pieces together are the same bytes whoever made them.
//!
//! Does not know what the items are.

use crate::observer::Observer;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often rank 0 looks for pieces of others.
const TICK: Duration = Duration::from_millis(200);

/// The part of a rank: every N-th piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub rank: usize,
    pub ranks: usize,
}

impl Share {
    /// All of it.
    pub const ALL: Self = Self { rank: 0, ranks: 1 };
}

/// The pieces of a set.
pub struct Pieces<'a> {
    /// The folder of their files.
    pub dir: PathBuf,
    /// Names of the files, before and after the number of the piece.
    pub stem: &'a str,
    pub ending: &'a str,
    /// Items, and items of a piece; the last one may have fewer.
    pub total: u64,
    pub size: u64,
    pub share: Share,
    /// Whether the file of a piece with so many items is whole. It is, unless a disk was damaged or
    /// something else has written there.
    pub is_sound: &'a dyn Fn(&Path, u64) -> bool,
    pub obs: &'a dyn Observer,
    /// For progress reports: items before these, and in all.
    pub before: u64,
    pub of: u64,
}

/// Pieces of a rank that are still to be made.
pub struct Missing<'p> {
    pieces: &'p Pieces<'p>,
    /// In order.
    pub numbers: Vec<u64>,
    /// Items that are done, as far as this rank knows.
    done: Cell<u64>,
}

impl Pieces<'_> {
    /// Number of pieces.
    pub fn count(&self) -> u64 {
        self.total.div_ceil(self.size)
    }

    /// The items of a piece.
    pub fn range(&self, piece: u64) -> Range<u64> {
        piece * self.size..((piece + 1) * self.size).min(self.total)
    }

    /// The file of a piece.
    pub fn path(&self, piece: u64) -> PathBuf {
        self.dir.join(format!("{}-{piece:05}{}", self.stem, self.ending))
    }

    fn is_there(&self, piece: u64) -> bool {
        let (path, range) = (self.path(piece), self.range(piece));
        path.exists() && (self.is_sound)(&path, range.end - range.start)
    }

    /// The pieces of this rank that an earlier attempt has not made.
    pub fn missing(&self) -> io::Result<Missing<'_>> {
        std::fs::create_dir_all(&self.dir)?;
        let is_own = |piece: &u64| piece % self.share.ranks as u64 == self.share.rank as u64;
        let (there, lacking): (Vec<u64>, Vec<u64>) = (0..self.count()).partition(|piece| self.is_there(*piece));
        let done = self.items(&there);
        // Those of others may be from this attempt.
        if there.iter().any(is_own) {
            self.obs.resumed(self.before + done);
        }
        let numbers: Vec<u64> = lacking.into_iter().filter(is_own).collect();
        self.remove_remains(&numbers)?;
        Ok(Missing { pieces: self, numbers, done: Cell::new(done) })
    }

    fn items(&self, pieces: &[u64]) -> u64 {
        pieces.iter().map(|piece| self.range(*piece)).map(|range| range.end - range.start).sum()
    }

    /// Removes what killed ranks left of these pieces.
    fn remove_remains(&self, pieces: &[u64]) -> io::Result<()> {
        let names: BTreeSet<PathBuf> = pieces.iter().map(|piece| self.path(*piece)).collect();
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            // Of one piece: its name with further endings.
            let mut of = path.clone();
            while !names.contains(&of) && of.extension().is_some() {
                of.set_extension("");
            }
            match names.contains(&of).then(|| std::fs::remove_file(&path)) {
                Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Where this process writes a piece until it is whole: a rank that was given up for lost may be
    /// writing the same piece.
    fn unfinished(&self, piece: u64) -> PathBuf {
        let mut path = self.path(piece).into_os_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        path.push(format!(".{}-{now}.part", std::process::id()));
        path.into()
    }

    /// Rank 0: waits until all pieces are there. Returns false if the observer asks to stop.
    pub fn wait(&self) -> bool {
        let mut lacking: Vec<u64> = (0..self.count()).collect();
        loop {
            // Listed, because a file system on the network remembers for a while that a file was not
            // there.
            let _ = std::fs::read_dir(&self.dir).map(Iterator::count);
            lacking.retain(|piece| !self.is_there(*piece));
            if lacking.is_empty() {
                return true;
            }
            if self.obs.should_stop() {
                return false;
            }
            self.obs.progress(self.before + self.total - self.items(&lacking), self.of);
            std::thread::sleep(TICK);
        }
    }
}

impl Missing<'_> {
    /// Writes a piece by calling `write` with the path of a new file.
    pub fn put<E: From<io::Error>>(&self, piece: u64, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        self.put_or(piece, write, E::from)
    }

    /// The same for errors of which `failed` makes one of a file that cannot be kept.
    pub fn put_or<E>(
        &self,
        piece: u64,
        write: impl FnOnce(&Path) -> Result<(), E>,
        failed: impl FnOnce(io::Error) -> E,
    ) -> Result<(), E> {
        let (pieces, part) = (self.pieces, self.pieces.unfinished(piece));
        let keep = || -> io::Result<()> {
            std::fs::File::open(&part)?.sync_all()?;
            std::fs::rename(&part, pieces.path(piece))
        };
        if let Err(e) = write(&part).and_then(|()| keep().map_err(failed)) {
            // A full disk needs the space.
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
        let range = pieces.range(piece);
        self.done.set(self.done.get() + range.end - range.start);
        pieces.obs.checkpointed(pieces.before + self.done.get());
        self.progress(0);
        Ok(())
    }

    /// Reports that so many items of pieces that are not whole yet are done.
    pub fn progress(&self, items: u64) {
        self.pieces.obs.progress(self.pieces.before + self.done.get() + items, self.pieces.of);
    }
}
