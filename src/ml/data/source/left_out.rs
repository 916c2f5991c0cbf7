//! Counts by reason what lies in a set of images but is not part of it, so that results can report
//! it: a value from 18 of 24 images is a different value.

use super::belongs::{EXTENSIONS, extension, is_unread};
use super::classes::first;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Files and folders of programs and systems. A folder counts once.
const HIDDEN: &str = "hidden";
/// Broken links whose names are not image names.
const BROKEN: &str = "broken links";
/// Links to a folder that contains them.
const CIRCULAR: &str = "circular links";
/// Pipes and sockets.
const SPECIAL: &str = "special files";
const BARE: &str = "without extension";
/// Further extensions, once [`MOST`] are listed: then the extensions are probably numbers.
const OTHER: &str = "others";
const MOST: usize = 40;
/// Images that cannot be decoded.
const UNREADABLE: &str = "unreadable";

/// Formats in which data sets are distributed, by extension or reason, with advice; archives and
/// tables of images come first.
const CONTAINERS: [(&[&str], &str); 10] = [
    (&[".tar"], "tars beside images, or in a tar in a tar, are not read: name the tar itself or unpack it"),
    (&[".parquet"], "tables beside images, or in an archive, are not read: name the table itself or unpack it"),
    (&[".arrow"], "Arrow tables are not read: `to_parquet` of Hugging Face's `Dataset` writes what is"),
    (&[".tfrecord", ".tfrecords"], "export TensorFlow records to image files or a WebDataset first"),
    (&[".mdb"], "export the LMDB database to image files or a WebDataset first"),
    (&[".zip"], "ZIP files inside a folder or an archive are not read: name the ZIP itself or unpack it"),
    (&[".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".rar"], "unpack compressed files first"),
    (&[".npz", ".npy"], "arrays are accepted by `erw eval` and `stats`, not by `images`"),
    (&[".beton", ".rec", ".h5", ".hdf5", ".mat", ".pkl", ".pickle", ".pt", ".pth"], "export them to image files first"),
    (&[BARE], "images are recognised by their file extensions"),
];
/// How many of them are archives and tables of images.
const ARCHIVES: usize = 7;

/// Counts by reason: a file extension (`.avif`) or a word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeftOut(BTreeMap<String, u64>);

impl LeftOut {
    /// Counts a file whose name is not an image name.
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

    /// What is there instead of images, as text that follows "holds no images"; empty if nothing is
    /// there.
    pub fn explained(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let known = CONTAINERS.iter().filter(|(endings, _)| endings.iter().any(|ending| self.0.contains_key(*ending)));
        let hints: String = known.map(|(_, hint)| format!("; {hint}")).collect();
        format!(", but {self}{hints}")
    }

    /// How many files have this extension, which is without a dot.
    pub fn of(&self, extension: &str) -> u64 {
        self.0.get(&format!(".{extension}")).copied().unwrap_or(0)
    }

    /// What may hold images of the set, though it is left out of it, as sentences: archives and
    /// tables, and files whose names are those of images with more behind them, as browsers save
    /// them.
    pub fn suspects(&self) -> Vec<String> {
        let mut said = vec![];
        for (endings, hint) in &CONTAINERS[..ARCHIVES] {
            let held: Vec<String> =
                endings.iter().filter_map(|ending| self.0.get(*ending).map(|n| format!("{n} {ending}"))).collect();
            if !held.is_empty() {
                said.push(format!("left out though they may hold images: {}; {hint}", held.join(", ")));
            }
        }
        let is_like = |reason: &str| {
            let Some(ext) = reason.strip_prefix('.') else { return false };
            let rest = |known: &&str| ext.strip_prefix(*known).and_then(|rest| rest.chars().next());
            EXTENSIONS.iter().filter_map(rest).any(|next| "_-?:!&@;".contains(next))
        };
        let like: Vec<String> =
            self.0.iter().filter(|(reason, _)| is_like(reason)).map(|(reason, n)| format!("{n} {reason}")).collect();
        if !like.is_empty() {
            let names = first(like);
            said.push(format!("left out though their names are like those of images: {names}; rename them"));
        }
        said
    }

    /// The entries that users would regard as images: unsupported formats and damaged files.
    /// Results must not depend on the other entries.
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
