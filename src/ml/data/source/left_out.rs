//! What lies in a set and is left out of it, counted by reason, so that it can be said: a number of 18 images of 24 is
//! another number.

use super::belongs::{extension, is_unread};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Files and folders of programs and systems. A folder counts once, whatever is in it.
const HIDDEN: &str = "hidden";
/// Links to nowhere that are no images by their names.
const BROKEN: &str = "broken links";
/// Links to a folder that they are in.
const CIRCULAR: &str = "circular links";
/// Pipes and sockets.
const SPECIAL: &str = "special files";
const BARE: &str = "without extension";
/// When there are endings of [`MOST`] kinds already: somebody numbers their files there.
const OTHER: &str = "others";
const MOST: usize = 40;
/// Images that cannot be decoded.
const UNREADABLE: &str = "unreadable";

/// What data sets come in, by endings or reason, and what is to be done.
const CONTAINERS: [(&[&str], &str); 9] = [
    (&[".tar", ".tgz"], "a tar archive, as WebDataset has them, is to be unpacked first"),
    (&[".parquet", ".arrow"], "a table, as data sets of Hugging Face have them, is to be saved as image files first"),
    (&[".tfrecord", ".tfrecords"], "records of TensorFlow are to be saved as image files first"),
    (&[".mdb"], "a database of LMDB is to be saved as image files first"),
    (&[".zip"], "a ZIP in a folder is not looked into: name it"),
    (&[".gz", ".xz", ".bz2", ".zst", ".7z", ".rar"], "what is compressed is to be unpacked first"),
    (&[".npz", ".npy"], "`erw eval` and `stats` take one file of arrays, `images` takes none"),
    (
        &[".beton", ".rec", ".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".pt", ".pth"],
        "they are to be saved as image files first",
    ),
    (&[BARE], "a file is told to be an image by what its name ends with"),
];

/// Counts by reason: what names end with (`.avif`), or a word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftOut(BTreeMap<String, u64>);

impl LeftOut {
    /// A file that is no image by its name.
    pub fn file(&mut self, name: &Path) {
        let reason = extension(name).map_or_else(|| BARE.into(), |ext| format!(".{ext}"));
        let is_known = self.0.len() < MOST || self.0.contains_key(&reason);
        self.add(if is_known { &reason } else { OTHER }, 1);
    }

    pub fn hidden(&mut self) {
        self.add(HIDDEN, 1);
    }

    pub fn broken_link(&mut self) {
        self.add(BROKEN, 1);
    }

    pub fn circular_link(&mut self) {
        self.add(CIRCULAR, 1);
    }

    pub fn special(&mut self) {
        self.add(SPECIAL, 1);
    }

    pub fn unreadable(&mut self, count: u64) {
        self.add(UNREADABLE, count);
    }

    fn add(&mut self, reason: &str, count: u64) {
        if count > 0 {
            *self.0.entry(reason.into()).or_default() += count;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// What is there instead of images, in words that follow "holds no images"; empty if nothing is there.
    pub fn explained(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let known = CONTAINERS.iter().filter(|(endings, _)| endings.iter().any(|ending| self.0.contains_key(*ending)));
        let hints: String = known.map(|(_, hint)| format!("; {hint}")).collect();
        format!(", but {self}{hints}")
    }

    /// What people would have taken for images: of formats that are not read, or damaged. The rest is no concern of the
    /// set, so what is made of it must not depend on how much there is.
    #[must_use]
    pub fn images(&self) -> Self {
        let is_meant = |reason: &str| reason == UNREADABLE || reason.strip_prefix('.').is_some_and(is_unread);
        Self(self.0.iter().filter(|(reason, _)| is_meant(reason)).map(|(reason, n)| (reason.clone(), *n)).collect())
    }
}

/// `6 .avif, 2 hidden`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (reason, n)) in self.0.iter().enumerate() {
            let one = *n == 1 && [BROKEN, CIRCULAR, SPECIAL].contains(&reason.as_str());
            let reason = if one { reason.trim_end_matches('s') } else { reason };
            write!(f, "{}{n} {reason}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
