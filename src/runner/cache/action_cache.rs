//! The action cache: key to what the action made. A record is small and says "done"; it is written last, so
//! what it names was on disk before.
//!
//! On disk a record is `{"format":1,"check":"<digest of the record's text>","record":{…}}`. The check makes bit
//! rot in a record a miss rather than a wrong number in a table. Format 1 is read by this version only; another
//! format is treated as no record, never as damage, so two versions may share a cache.
//! This module does not know when a record counts as a hit (`plan`).

use super::key::{Key, lines};
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
use std::path::PathBuf;

/// Raised when [`Record`] changes shape.
const PREFIX: &str = "{\"format\":1,\"check\":\"";
const MIDDLE: &str = "\",\"record\":";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The text whose blake3 is the key.
    pub key_text: String,
    /// Who asked for it first; not part of its identity.
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    pub outputs: SmallMap<Output>,
    /// In the order the stage gave them; the first is the key metric.
    pub results: Vec<Measure>,
    pub shown: Vec<Shown>,
    /// Seconds of the attempt that finished it.
    pub seconds: f64,
    pub attempts: u32,
    /// The step that attempt continued from.
    pub resumed: Option<u64>,
    /// Most memory its process had in use at a time, in bytes; of a small one, what the runner had. Older records do not tell.
    #[serde(default)]
    pub peak: Option<u64>,
    /// UTC, `2026-01-31T12:00:00.000Z`.
    pub created: String,
    pub host: String,
    /// Version of this program.
    pub program: String,
    /// `cpu`, `cuda:0`, … and what the machine calls it.
    pub device: String,
    /// Of the machine, see `machine`; empty in records of versions that did not note it.
    #[serde(default)]
    pub class: String,
    /// What was known of its inputs: what it took is said of another stage only if that is given the like.
    #[serde(default, skip_serializing_if = "InputProperties::is_empty")]
    pub given: InputProperties,
    /// Other machines that made a part of it, see `machine`: those of attempts from whose checkpoints it went on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// Of the file that this was read from or written to, taken while it was open; nothing for one from elsewhere.
    #[serde(skip)]
    pub stamp: Option<Stamp>,
}

/// Size, time of change in seconds and nanoseconds, and inode: a record is replaced by rename and never written to, so
/// another one has another stamp.
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
    /// With its name, and where it lies.
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
    /// What the bytes depend on: the one machine that made it, [`host::SEVERAL`], or nothing if that was not noted.
    pub fn machine(&self) -> String {
        if self.earlier.is_empty() { host::of(&self.class, &self.device) } else { host::SEVERAL.into() }
    }
    /// Digests of the outside files that went into the key, by name.
    pub fn sources(&self) -> BTreeMap<String, Digest> {
        let sources = lines(&self.key_text).filter(|((section, _), _)| *section == "source");
        sources.filter_map(|((_, name), digest)| Some((name.to_string(), digest.parse().ok()?))).collect()
    }
    /// What is known of each output without its name.
    pub fn measured(&self) -> Vec<Measured> {
        self.outputs.values().map(|output| output.measured).collect()
    }
    /// Paths of the files worth showing.
    pub fn shown_paths(&self, store: &Store) -> Vec<PathBuf> {
        let path = |s: &Shown| Some(store.object(&self.outputs.get(&s.output)?.measured.digest).join(&s.file));
        self.shown.iter().filter_map(path).collect()
    }
}

/// What lies under a key.
#[derive(Debug)]
pub enum Lookup {
    Hit(Box<Record>),
    Miss,
    /// There is a file, and it is not what was written.
    Damaged,
}

pub fn lookup(store: &Store, key: &Key) -> Result<Lookup> {
    let path = store.action_file(key);
    let open = || {
        let mut file = File::open(&path)?;
        let (stamp, mut bytes) = (stamp(&file.metadata()?), Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((stamp, bytes))
    };
    let (stamp, bytes) = match open() {
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

/// What the bytes of a record say about this key.
pub fn read(bytes: &[u8], key: &Key) -> Lookup {
    match parse(bytes) {
        Parsed::Record(record) if record.key() == *key => Lookup::Hit(record),
        Parsed::Foreign => Lookup::Miss,
        _ => Lookup::Damaged,
    }
}

enum Parsed {
    Record(Box<Record>),
    /// Another format.
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

/// Writes a record. Everything it names must be in the store by now. Returns the stamp of its file.
pub fn write(store: &Store, record: &Record, keep: Durability) -> Result<Stamp> {
    let path = store.action_file(&record.key());
    let failed = |e: std::io::Error| Error::io("write", &path, e);
    let body = serde_json::to_string(record).map_err(|e| failed(e.into()))?;
    let check = Digest::of_bytes(body.as_bytes());
    let text = format!("{PREFIX}{check}{MIDDLE}{body}}}\n");
    write_noted(&path, text.as_bytes(), keep).map(|file| stamp(&file)).map_err(failed)
}

/// Every readable record, in the order of keys, and the files that are damaged.
pub fn all(store: &Store) -> Result<(Vec<Record>, Vec<PathBuf>)> {
    let paths = store.bucket("actions")?;
    let is_record = |p: &PathBuf| p.extension().is_some_and(|e| e == "json");
    let parsed: Vec<(PathBuf, Parsed)> = paths
        .into_par_iter()
        .filter(is_record)
        .map(|path| {
            let parsed = match std::fs::read(&path) {
                // Another user's: not ours to judge.
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Parsed::Foreign,
                read => read.map_or(Parsed::Damaged, |bytes| parse(&bytes)),
            };
            let named = |record: &Record| path.file_stem().is_some_and(|n| *n == *record.key().to_string());
            match parsed {
                Parsed::Record(record) if !named(&record) => (path, Parsed::Damaged),
                other => (path, other),
            }
        })
        .collect();
    let (mut records, mut damaged) = (Vec::new(), Vec::new());
    for (path, parsed) in parsed {
        match parsed {
            Parsed::Record(record) => records.push(*record),
            Parsed::Damaged => damaged.push(path),
            Parsed::Foreign => {}
        }
    }
    Ok((records, damaged))
}

/// Reads what a record names: a record agrees with another, and what is stored has rotted meanwhile.
///
/// # Errors
/// When it is not, or no longer, what was stored.
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
