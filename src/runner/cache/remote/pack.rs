//! What a pipeline needs of a remote, in one object: the records of its stages, and the artifacts
//! that are smaller than a request is worth. For 10,000 small stages, one request replaces 20,000.
//!
//! A pack is a gzipped tar. It has a folder for each stage, with objects under their own names, the
//! record before its artifacts. It only saves requests: what it holds is checked as if it had come
//! alone, what it lacks is asked for, and a remote without packs works. It has the last record of
//! each stage, so it does not grow with the history. Of two runs that write one at once, the last
//! wins, and the next run of the other adds again what is lacking. Does not know who asks, or when
//! one is written.

use super::objects::RemoteRecord;
use crate::cache::action_cache::{self, Lookup};
use crate::files::digest::{Digest, Measured};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

/// Artifacts of more bytes or files are not packed.
const SMALL: u64 = 16 << 10;
const FEW: u64 = 16;
/// Of what would unpack to more, the rest is left out.
const MOST: u64 = 256 << 20;
/// What an object takes in a tar beside its bytes, at most.
const HEAD: u64 = 1024;

/// Objects by name: the record of a stage, and its small artifacts.
pub type Part = Vec<(String, Vec<u8>)>;

#[derive(Default)]
pub struct Pack {
    objects: HashMap<String, Vec<u8>>,
    /// Names of the objects by folder, the record first.
    stages: BTreeMap<String, Vec<String>>,
    /// Differs from that of the remote.
    pub has_changed: bool,
}

impl Pack {
    /// Nothing, to be sent in the place of what cannot be read.
    pub fn anew() -> Self {
        Self { has_changed: true, ..Self::default() }
    }

    /// The pack in `bytes`, and its records.
    pub fn read(bytes: &[u8]) -> io::Result<(Self, Vec<RemoteRecord>)> {
        let (mut pack, mut records) = (Self::default(), vec![]);
        let mut is_valid = false;
        for entry in tar::Archive::new(GzDecoder::new(bytes).take(MOST)).entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((folder, name)) = path.split_once('/') else { continue };
            let mut contents = Vec::with_capacity(usize::try_from(entry.size().min(SMALL)).unwrap_or(0));
            entry.read_to_end(&mut contents)?;
            if let Some(key) = name.strip_prefix("v1/actions/") {
                let key: Option<Digest> = Path::new(key).file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                // A record of another version, or a bad one, is not there; nor are its artifacts.
                let found = key.map(|key| action_cache::read(&contents, &key.into()));
                is_valid = matches!(found, Some(Lookup::Hit(_)));
                if let Some(Lookup::Hit(record)) = found {
                    records.push(RemoteRecord { record: *record, bytes: contents.clone() });
                }
            }
            if is_valid {
                pack.stages.entry(folder.into()).or_default().push(name.into());
                pack.objects.insert(name.into(), contents);
            }
        }
        Ok((pack, records))
    }

    pub fn object(&self, name: &str) -> Option<&[u8]> {
        self.objects.get(name).map(Vec::as_slice)
    }

    /// Whether it has this record of a stage.
    pub fn holds(&self, stage: &str, record: &[u8]) -> bool {
        let first = self.stages.get(&folder(stage)).and_then(|names| self.object(names.first()?));
        first == Some(record)
    }

    /// Puts the objects of a stage in the place of those it had.
    pub fn put(&mut self, stage: &str, part: Part) {
        self.stages.insert(folder(stage), part.iter().map(|(name, _)| name.clone()).collect());
        self.objects.extend(part);
        self.has_changed = true;
    }

    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(vec![], Compression::default()));
        let mut left = MOST - HEAD;
        for (folder, name) in
            self.stages.iter().flat_map(|(folder, names)| names.iter().map(move |name| (folder, name)))
        {
            // Equal files of several stages are in the folder of each, which another may leave.
            let Some(contents) = self.objects.get(name) else { continue };
            match left.checked_sub(HEAD + contents.len() as u64) {
                Some(more) => left = more,
                None => break,
            }
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, format!("{folder}/{name}"), contents.as_slice())?;
        }
        archive.into_inner()?.finish()
    }
}

/// Whether an artifact is packed.
pub fn is_small(artifact: &Measured) -> bool {
    artifact.bytes <= SMALL && artifact.files <= FEW
}

/// A stage of a sweep is called by its parameters, which may be long.
fn folder(stage: &str) -> String {
    Digest::of_bytes(stage.as_bytes()).hex()[..16].to_string()
}
