//! Labels of a WebDataset: tars in which the files of one sample share a key, their name up to its
//! first dot. `0001.jpg` has its class in `0001.cls`, as a number in text, or as `label` in
//! `0001.json`, which `datasets` and timm's shards call so.
//!
//! It looks at labels only; which tars are one set is decided elsewhere.

use super::archive::Archive;
use super::belongs::{hidden_part, is_image};
use super::classes::{List, MAX_CLASSES, hinted};
use candle_core::{Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Maximum size of a file with a label in bytes.
const MAX_TEXT: usize = 1 << 20;

/// The labels by image, and the extension of the files that hold them; `None` if there are none.
///
/// # Errors
/// When a label cannot be read, or a labelled sample has no image, or several, or several labels.
/// The innermost error is the hint.
pub fn labels(archive: &Archive) -> Result<Option<(List, &'static str)>> {
    let hint = format!(
        "a sample is an image and its label, a whole number from 0 to {} in `KEY.cls`, or as `label` in `KEY.json`",
        MAX_CLASSES - 1
    );
    hinted(read_labels(archive), &hint)
}

fn read_labels(archive: &Archive) -> Result<Option<(List, &'static str)>> {
    let names = archive.names();
    for (extension, read) in [("cls", of_text as fn(&[u8]) -> Found), ("json", of_json)] {
        let mut labels = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            let Some((key, ext)) = key(name) else { continue };
            if ext != extension || hidden_part(name).is_some() {
                continue;
            }
            let text = match archive.read(i) {
                Ok(text) if text.len() > MAX_TEXT => {
                    bail!("{}: {} bytes are too long for a label", archive.place(i), text.len())
                }
                Ok(text) => text,
                Err(e) => bail!("{}: {e}", archive.place(i)),
            };
            match read(&text) {
                Ok(Some(label)) => {
                    if let Some((_, other)) = labels.insert(key, (label, i)) {
                        bail!("{}: its sample has another label, {}", archive.place(i), archive.place(other));
                    }
                }
                Ok(None) => {}
                Err(why) => bail!("{}: {why}", archive.place(i)),
            }
        }
        if !labels.is_empty() {
            return Ok(Some((List::of(by_image(archive, &names, labels)?), extension)));
        }
    }
    Ok(None)
}

/// Whether a file has this extension after its key.
pub fn has_extension(name: &Path, extension: &str) -> bool {
    key(name).is_some_and(|(_, ext)| ext == extension)
}

/// Gives the label of each key to the one image of that key.
fn by_image(
    archive: &Archive,
    names: &[&Path],
    mut labels: HashMap<String, (i64, usize)>,
) -> Result<BTreeMap<String, i64>> {
    let (mut images, mut labelled) = (HashMap::new(), BTreeMap::new());
    for (i, name) in names.iter().enumerate().filter(|(_, name)| is_image(name) && hidden_part(name).is_none()) {
        let Some((key, _)) = key(name) else { continue };
        if let Some(other) = images.insert(key.clone(), i) {
            bail!("{}: its sample has another image, {}", archive.place(i), archive.place(other));
        }
        if let (Some((label, _)), Some(name)) = (labels.remove(&key), name.to_str()) {
            labelled.insert(name.to_string(), label);
        }
    }
    match labels.values().map(|(_, i)| *i).min() {
        Some(i) => bail!("{}: its sample has no image", archive.place(i)),
        None => Ok(labelled),
    }
}

/// The key of a file, with the folders around it, and the extension after it in lower case.
fn key(name: &Path) -> Option<(String, String)> {
    let (folder, file) = (name.parent()?.to_str()?, name.file_name()?.to_str()?);
    let (stem, extension) = file.split_once('.')?;
    Some((format!("{folder}/{stem}"), extension.to_lowercase()))
}

/// A label, if there is one; or what is wrong with it.
type Found = std::result::Result<Option<i64>, String>;

fn of_text(text: &[u8]) -> Found {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    match text.parse::<u64>() {
        Ok(label) if label < MAX_CLASSES => Ok(Some(label as i64)),
        _ => Err(unusable(&text.chars().take(40).collect::<String>())),
    }
}

/// The label in a sample's description, which may hold anything else, or none.
fn of_json(text: &[u8]) -> Found {
    let json: Value = serde_json::from_slice(text).map_err(|e| format!("not JSON: {e}"))?;
    match json.get("label") {
        None | Some(Value::Null) => Ok(None),
        Some(label) => match label.as_u64().filter(|label| *label < MAX_CLASSES) {
            Some(label) => Ok(Some(label as i64)),
            None => Err(unusable(&label.to_string().chars().take(40).collect::<String>())),
        },
    }
}

fn unusable(label: &str) -> String {
    format!("label `{label}` is not a whole number from 0 to {}", MAX_CLASSES - 1)
}
