//! The action cache: maps a key to the record of the action that ran under it. A record is small
//! and marks completion; it is written last, so everything it names was on disk before.
//!
//! On disk a record is `{"format":1,"check":"<digest of the record's text>","record":{…}}`. The
//! check turns bit rot in a record into a miss instead of a wrong number in a table. A record of
//! another format counts as missing, not as damaged, so two versions can share a cache. This module
//! does not know when a record counts as a hit (`plan`).

use super::key::{self, Key, lines};
use super::store::Store;
use crate::event::{Measure, StoredOutput};
use crate::files::digest::{Digest, Measured};
use crate::files::disk::{Durability, write_noted};
use crate::host;
use crate::kind::property::InputProperties;
use crate::small_map::SmallMap;
use erw_base::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Increment when [`Record`] changes shape.
const PREFIX: &str = "{\"format\":1,\"check\":\"";
const MIDDLE: &str = "\",\"record\":";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The text whose blake3 hash is the key.
    pub key_text: String,
    /// The pipeline and stage that ran first; not part of the identity.
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    pub outputs: SmallMap<Output>,
    /// In the order the stage reported them; the first is the key metric.
    pub results: Vec<Measure>,
    pub shown: Vec<Shown>,
    /// Seconds of the attempt that completed.
    pub seconds: f64,
    pub attempts: u32,
    /// The step at which that attempt resumed.
    pub resumed: Option<u64>,
    /// Peak memory of its process in bytes; for a small stage, that of the runner. Missing in older
    /// records.
    #[serde(default)]
    pub peak: Option<u64>,
    /// UTC, `2026-01-31T12:00:00.000Z`.
    pub created: String,
    pub host: String,
    /// Version of erw.
    pub program: String,
    /// `cpu`, `cuda:0`, … and the name of the device.
    pub device: String,
    /// Machine class, see `machine`; empty in records of versions that did not store it.
    #[serde(default)]
    pub class: String,
    /// Properties of its inputs. Resource use is compared only with stages whose inputs have
    /// similar properties.
    #[serde(default, skip_serializing_if = "InputProperties::is_empty")]
    pub given: InputProperties,
    /// Other machine classes that contributed to it, see `machine`: those of attempts whose
    /// checkpoints it resumed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// Stamp of the file this record was read from or written to, taken while it was open; none for
    /// a record from elsewhere.
    #[serde(skip)]
    pub stamp: Option<Stamp>,
}

/// Size, mtime in seconds and nanoseconds, and inode. A record is replaced by rename and never
/// rewritten in place, so a different record has a different stamp.
pub type Stamp = [i64; 4];

fn stamp(file: &Metadata) -> Stamp {
    [file.len() as i64, file.mtime(), file.mtime_nsec(), file.ino() as i64]
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    #[serde(rename = "type")]
    pub ty: String,
    pub measured: Measured,
}

impl Output {
    /// The output with its name and path.
    pub fn stored(&self, store: &Store, name: &str) -> StoredOutput {
        let Measured { digest, bytes, .. } = self.measured;
        StoredOutput { name: name.into(), digest: digest.to_string(), bytes, path: store.object(&digest) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub output: String,
    /// Relative to the output.
    pub file: String,
}

impl Record {
    pub fn key(&self) -> Key {
        Key::of(&self.key_text)
    }
    /// The machine class that the bytes depend on: a single one, [`host::SEVERAL`], or empty if it
    /// was not recorded.
    pub fn machine(&self) -> String {
        if self.earlier.is_empty() { host::of(&self.class, &self.device) } else { host::SEVERAL.into() }
    }
    /// Digests of the source files that went into the key, by name.
    pub fn sources(&self) -> BTreeMap<String, Digest> {
        let sources = lines(&self.key_text).filter(|((section, _), _)| *section == "source");
        sources.filter_map(|((_, name), digest)| Some((name.to_string(), digest.parse().ok()?))).collect()
    }
    /// The program of a command, as in the key; `None` for other kinds.
    pub fn program(&self) -> Option<&str> {
        key::program(&self.key_text)
    }
    /// Size and digest of each output, without names.
    pub fn measured(&self) -> Vec<Measured> {
        self.outputs.values().map(|output| output.measured).collect()
    }
    /// Paths of the files to show.
    pub fn shown_paths(&self, store: &Store) -> Vec<PathBuf> {
        let path = |s: &Shown| Some(store.object(&self.outputs.get(&s.output)?.measured.digest).join(&s.file));
        self.shown.iter().filter_map(path).collect()
    }
}

/// The result of looking up a key.
#[derive(Debug)]
pub enum Lookup {
    Hit(Box<Record>),
    Miss,
    /// The file exists but is corrupt.
    Damaged,
}

pub fn lookup(store: &Store, key: &Key) -> Result<Lookup> {
    let path = store.action_file(key);
    let (stamp, bytes) = match contents(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Lookup::Miss),
        other => other.map_err(|e| Error::io("read", &path, e))?,
    };
    Ok(match read(&bytes, key) {
        Lookup::Hit(mut record) => {
            record.stamp = Some(stamp);
            Lookup::Hit(record)
        }
        other => other,
    })
}

/// The bytes of a file, with its stamp from while it was open.
fn contents(path: &Path) -> std::io::Result<(Stamp, Vec<u8>)> {
    let file = File::open(path)?;
    let looks = file.metadata()?;
    // One more than there is, to see the end at once; by `take`, which does not ask for the size
    // again.
    let mut bytes = Vec::with_capacity(looks.len() as usize + 1);
    file.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok((stamp(&looks), bytes))
}

/// Parses the bytes of a record for this key.
pub fn read(bytes: &[u8], key: &Key) -> Lookup {
    match parse(bytes) {
        Parsed::Record(record) if record.key() == *key => Lookup::Hit(record),
        Parsed::Foreign => Lookup::Miss,
        _ => Lookup::Damaged,
    }
}

enum Parsed {
    Record(Box<Record>),
    /// A different format.
    Foreign,
    Damaged,
}

fn parse(bytes: &[u8]) -> Parsed {
    let Ok(text) = std::str::from_utf8(bytes) else { return Parsed::Damaged };
    let Some(rest) = text.strip_prefix(PREFIX) else {
        return if is_foreign(text) { Parsed::Foreign } else { Parsed::Damaged };
    };
    let parts = rest.split_once(MIDDLE).and_then(|(check, body)| Some((check, body.strip_suffix("}\n")?)));
    let Some((check, body)) = parts else { return Parsed::Damaged };
    if Digest::of_bytes(body.as_bytes()).to_string() != check {
        return Parsed::Damaged;
    }
    serde_json::from_str(body).map_or(Parsed::Damaged, |record| Parsed::Record(Box::new(record)))
}

fn is_foreign(text: &str) -> bool {
    let value = serde_json::from_str::<serde_json::Value>(text).ok();
    value.and_then(|v| v.get("format")?.as_u64()).is_some_and(|format| format != 1)
}

/// Writes a record and returns the stamp of its file. Everything the record names must be in the
/// store already.
pub fn write(store: &Store, record: &Record, keep: Durability) -> Result<Stamp> {
    let path = store.action_file(&record.key());
    let failed = |e: std::io::Error| Error::io("write", &path, e);
    let body = serde_json::to_string(record).map_err(|e| failed(e.into()))?;
    let check = Digest::of_bytes(body.as_bytes());
    let text = format!("{PREFIX}{check}{MIDDLE}{body}}}\n");
    write_noted(&path, text.as_bytes(), keep).map(|file| stamp(&file)).map_err(failed)
}

/// A file in a folder of records.
pub(crate) enum Listed {
    Record(Box<Record>, Stamp),
    /// Of another format, or of another user and not readable.
    Foreign,
    Damaged,
}

pub(crate) fn listed(path: &Path) -> Listed {
    let (stamp, bytes) = match contents(path) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Listed::Foreign,
        Err(_) => return Listed::Damaged,
        Ok(read) => read,
    };
    let named = |record: &Record| path.file_stem().is_some_and(|n| *n == *record.key().to_string());
    match parse(&bytes) {
        Parsed::Record(record) if named(&record) => Listed::Record(record, stamp),
        Parsed::Foreign => Listed::Foreign,
        Parsed::Record(_) | Parsed::Damaged => Listed::Damaged,
    }
}

/// The stamp of the file of a record, which is not opened.
pub(crate) fn stamp_of(path: &Path) -> Option<Stamp> {
    std::fs::symlink_metadata(path).ok().map(|file| stamp(&file))
}

/// Every readable record in key order, and the damaged files. Reads all of them: see `index` for
/// what is asked of many.
pub fn all(store: &Store) -> Result<(Vec<Record>, Vec<PathBuf>)> {
    let paths = store.bucket("actions")?;
    let is_record = |p: &PathBuf| p.extension().is_some_and(|e| e == "json");
    let read: Vec<(PathBuf, Listed)> = paths
        .into_par_iter()
        .filter(is_record)
        .map(|path| {
            let listed = listed(&path);
            (path, listed)
        })
        .collect();
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    for (path, listed) in read {
        match listed {
            Listed::Record(record, _) => records.push(*record),
            Listed::Damaged => damaged.push(path),
            Listed::Foreign => {}
        }
    }
    Ok((records, damaged))
}

/// Reads every output a record names, because a stored artifact may have rotted since the record
/// was written.
///
/// # Errors
/// When an output is missing or differs from its digest.
pub fn check_whole(store: &Store, record: &Record) -> Result<()> {
    for (name, output) in record.outputs.iter() {
        let what = || format!("output `{name}` of stage `{}`", record.stage);
        store.check(&output.measured.digest).map_err(|e| e.within(&what()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let measured = Measured { digest: Digest::of_bytes(b"out"), bytes: 3, files: 1 };
        Record {
            key_text: "erw key 1\nkind k\n".into(),
            pipeline: "p".into(),
            stage: "s".into(),
            kind: "k".into(),
            outputs: [("o".to_string(), Output { ty: "t".into(), measured })].into_iter().collect(),
            results: vec![
                Measure { name: "fid".into(), value: Some(0.1 + 0.2) },
                Measure { name: "n".into(), value: None },
            ],
            shown: vec![Shown { output: "o".into(), file: "grid.png".into() }],
            seconds: 1.5,
            attempts: 2,
            resumed: Some(3),
            peak: Some(1 << 20),
            created: "2026-01-31T12:00:00.000Z".into(),
            host: "h".into(),
            program: "0".into(),
            device: "cpu".into(),
            class: "c".into(),
            given: InputProperties::new(),
            earlier: vec![],
            stamp: None,
        }
    }

    #[test]
    fn a_record_comes_back_and_every_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = record();
        write(&store, &record, Durability::Later).unwrap();
        let key = record.key();
        assert!(matches!(lookup(&store, &key).unwrap(), Lookup::Hit(r) if r.outputs == record.outputs));
        let path = store.action_file(&key);
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(!matches!(lookup(&store, &key).unwrap(), Lookup::Hit(_)), "byte {i}");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(matches!(lookup(&store, &key).unwrap(), Lookup::Damaged));
        assert_eq!(all(&store).unwrap().1, [path]);
    }

    #[test]
    fn another_format_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = record().key();
        write_noted(&store.action_file(&key), br#"{"format":2,"check":"","record":{}}"#, Durability::Later).unwrap();
        assert!(matches!(lookup(&store, &key).unwrap(), Lookup::Miss));
    }
}
