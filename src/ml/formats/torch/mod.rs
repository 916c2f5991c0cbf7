//! PyTorch checkpoints: what the pickle says about tensors, and where their values are.
//!
//! Three layouts share the pickle. A zip checkpoint (since 1.6) keeps each storage in an entry
//! `data/KEY`. A legacy file is a sequence of pickles followed by the storages. A TorchScript
//! archive is a zip whose pickle holds an object for each module instead of a state dict. A tensor
//! is a call of `torch._utils._rebuild_tensor_v2` with a storage, an offset, a shape and strides;
//! it is interpreted (`describe.rs`), and no call is ever made.

mod describe;
mod read;
mod search;

use super::archive::Archive;
use super::elements::Element;
use super::parsed::{Named, Parsed};
use super::pickle::Pickle;
use super::pickle::node::Node;
use super::values;
use candle_core::Tensor;
use describe::{describe, key_text, storage_id, unknown_call, unread_storage};
use memmap2::Mmap;
use read::{Reader, Storages};
use search::{Contents, TensorDict};
use std::collections::HashMap;

/// The maximum size of the pickle in a checkpoint, without tensor values.
const MOST_PICKLE: u64 = 256 << 20;
/// First value in a legacy file.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// An open checkpoint: its pickle and the positions of its storages.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pickle: Pickle,
    storages: Storages,
    found: Contents,
    script: bool,
}

impl Checkpoint {
    /// The folder of the pickle, if the archive is a checkpoint.
    pub fn folder(archive: &Archive) -> Option<String> {
        let folders = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
        // The outermost one, if there are several.
        folders.filter(|f| f.is_empty() || f.ends_with('/')).min_by_key(|f| f.len()).map(str::to_string)
    }

    pub fn open_zip(archive: Archive, folder: String) -> Parsed<Self> {
        let pickle = Pickle::parse(&archive.read(&format!("{folder}data.pkl"), MOST_PICKLE)?)?;
        let order = format!("{folder}byteorder");
        let big_endian = if archive.contains(&order) {
            match &archive.read(&order, 64)?[..] {
                b"little" => false,
                b"big" => true,
                other => return Err(format!("its byte order is `{}`", String::from_utf8_lossy(other))),
            }
        } else {
            false
        };
        let script = archive.contains(&format!("{folder}constants.pkl"));
        Self::new(pickle, Storages::Zip { archive, folder, big_endian }, script)
    }

    /// Whether a file that begins with `head` looks like a legacy checkpoint, whose first pickle is
    /// a magic number.
    pub fn is_legacy(head: &[u8]) -> bool {
        let number = match Pickle::parse(head) {
            Ok(first) => first.node(first.root).clone(),
            Err(_) => return false,
        };
        matches!(number, Node::Big(bytes) if bytes[..] == MAGIC)
    }

    /// Reads magic number, protocol version, system information, checkpoint, storage keys,
    /// storages.
    pub fn open_legacy(map: Mmap) -> Parsed<Self> {
        let mut at = 0usize;
        let mut next = || -> Parsed<Pickle> {
            let most = map.len().min(at.saturating_add(MOST_PICKLE as usize));
            let pickle = Pickle::parse(&map[at..most])?;
            at += pickle.length;
            Ok(pickle)
        };
        next()?;
        let version = next()?;
        if version.int(version.root) != Some(1001) {
            return Err("a legacy PyTorch file with a version other than 1001".into());
        }
        let (_system, pickle, keys) = (next()?, next()?, next()?);
        // Storages follow in the order of their keys, each after its number of elements. Only the
        // pickle knows the element size.
        let mut known = HashMap::new();
        for id in pickle.persistent() {
            let sized = match storage_id(&pickle, id) {
                Ok(s) => Some((s.key, s.element.map_or(1, Element::size))),
                Err(_) => unread_storage(&pickle, id),
            };
            if let Some((key, size)) = sized
                && *known.entry(key.clone()).or_insert(size) != size
            {
                return Err(format!("storage `{key}` has two types"));
            }
        }
        let mut places = HashMap::new();
        for key in keys.items(keys.root).ok_or("its list of storages is not a list")? {
            let key = key_text(&keys, *key).ok_or("its list of storages has a key that is not a string")?;
            let size = known.get(&key).ok_or_else(|| format!("storage `{key}` has an unsupported type"))?;
            let truncated = || format!("truncated: storage `{key}` extends beyond the end of the file");
            let count = map.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(truncated)?;
            let start = at + 8;
            let end = usize::try_from(u64::from_le_bytes(*count))
                .ok()
                .and_then(|n| n.checked_mul(*size)?.checked_add(start))
                .filter(|end| *end <= map.len())
                .ok_or_else(truncated)?;
            places.insert(key, start..end);
            at = end;
        }
        Self::new(pickle, Storages::Legacy { map, places }, false)
    }

    fn new(pickle: Pickle, storages: Storages, script: bool) -> Parsed<Self> {
        let found = search::search(&pickle)?;
        Ok(Self { pickle, storages, found, script })
    }

    pub fn is_script(&self) -> bool {
        self.script
    }

    pub fn is_legacy_file(&self) -> bool {
        matches!(self.storages, Storages::Legacy { .. })
    }

    pub fn sets(&self) -> Vec<(String, usize)> {
        self.found.sets.iter().map(|TensorDict { path, count, .. }| (path.clone(), *count)).collect()
    }

    /// Names of the objects in the file, for a file without a dictionary of tensors.
    pub fn foreign(&self) -> Vec<String> {
        self.found.foreign.iter().map(|name| format!("`{name}`")).collect()
    }

    /// Plain values at a path; see [`values::json`].
    pub fn data(&self, path: &str) -> Option<serde_json::Value> {
        values::json(&self.pickle, values::find(&self.pickle, path)?)
    }

    /// The sets with names and shapes of their tensors, in the order of the file. A shape is absent
    /// if it cannot be determined.
    pub fn listing(&self) -> Vec<(&str, Vec<Named>)> {
        let shape = |id| describe(&self.pickle, id)?.ok().map(|d| d.shape);
        let tensors = |set: &TensorDict| set.values.iter().map(|(name, id)| (name.clone(), shape(*id))).collect();
        self.found.sets.iter().map(|set| (&*set.path, tensors(set))).collect()
    }

    /// The wanted tensors of a set, each with its values or the reason why it cannot be read.
    pub fn tensors(&self, set: &str, wanted: &dyn Fn(&str) -> bool) -> Parsed<Vec<(String, Parsed<Tensor>)>> {
        let mut found = self.found.sets.iter().filter(|s| s.path == set);
        let (Some(set), None) = (found.next(), found.next()) else {
            return Err(format!("two dictionaries are called `{set}`"));
        };
        let mut reader = Reader::new(&self.storages);
        let mut tensors = vec![];
        for (name, id) in set.values.iter().filter(|(name, _)| wanted(name)) {
            let tensor = match describe(&self.pickle, *id) {
                Some(Ok(description)) => {
                    // A valid description whose data cannot be read means a damaged file.
                    Ok(reader.read(description).map_err(|e| format!("tensor `{name}`: {e}"))?)
                }
                Some(Err(e)) => Err(e),
                None => match unknown_call(&self.pickle, *id) {
                    Some(call) => Err(format!("is the result of `{call}`, which is never called")),
                    None => continue,
                },
            };
            tensors.push((name.clone(), tensor));
        }
        Ok(tensors)
    }
}
