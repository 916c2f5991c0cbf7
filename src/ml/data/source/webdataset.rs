//! Labels of a WebDataset: tars in which the files of one sample share a key, their name up to its
//! first dot. `0001.jpg` has its class in `0001.cls`, as a number in text, or as `label` in
//! `0001.json`, which `datasets` and timm's shards call so.
//!
//! It looks at labels only; which tars are one set is decided elsewhere.

use super::archive::Archive;
use super::belongs::{hidden_part, is_image};
use super::classes::hinted;
use super::label_list::{LabelList, MAX_CLASSES};
use super::name_list::NameList;
use candle_core::{Result, bail};
use serde_json::Value;
use std::path::Path;

/// Maximum size of a file with a label in bytes.
const MAX_TEXT: usize = 1 << 20;

/// The labels by image, and the extension of the files that hold them; `None` if there are none.
///
/// # Errors
/// When a label cannot be read, or a labelled sample has no image, or several, or several labels.
/// The innermost error is the hint.
pub fn labels(archive: &Archive) -> Result<Option<(LabelList, &'static str)>> {
    let hint = format!(
        "a sample is an image and its label, a whole number from 0 to {} in `KEY.cls`, or as `label` in `KEY.json`",
        MAX_CLASSES - 1
    );
    hinted(read_labels(archive), &hint)
}

fn read_labels(archive: &Archive) -> Result<Option<(LabelList, &'static str)>> {
    let belongs = |i: &usize| key(archive.name(*i)).is_some() && hidden_part(archive.name(*i)).is_none();
    // The files of a sample one after another, in the archive's order.
    let mut files: Vec<usize> = (0..archive.len()).filter(belongs).collect();
    files.sort_unstable_by(|i, j| (sample_of(archive, *i), *i).cmp(&(sample_of(archive, *j), *j)));
    for (extension, read) in [("cls", of_text as fn(&[u8]) -> Found), ("json", of_json)] {
        if let Some(list) = labels_in(archive, &files, extension, read)? {
            return Ok(Some((list, extension)));
        }
    }
    Ok(None)
}

/// The labels that files of this extension hold, of the one image of each sample; `None` if there
/// are none.
fn labels_in(
    archive: &Archive,
    files: &[usize],
    extension: &str,
    read: fn(&[u8]) -> Found,
) -> Result<Option<LabelList>> {
    let (mut images, mut labels) = (NameList::default(), vec![]);
    // What is wrong with the samples, if any of them has a label.
    let (mut labelled, mut wrong) = (0, None);
    for sample in files.chunk_by(|i, j| sample_of(archive, *i) == sample_of(archive, *j)) {
        let label = label_in(archive, sample, extension, read)?;
        labelled += usize::from(label.is_some());
        let mut pictures = sample.iter().copied().filter(|i| is_image(archive.name(*i)));
        match (pictures.next(), pictures.next(), label) {
            (Some(other), Some(i), _) => {
                let (place, other) = (archive.place(i), archive.place(other));
                wrong.get_or_insert_with(|| format!("{place}: its sample has another image, {other}"));
            }
            (None, _, Some((_, i))) => {
                wrong.get_or_insert_with(|| format!("{}: its sample has no image", archive.place(i)));
            }
            (Some(i), None, Some((label, _))) => {
                images.push(archive.name(i));
                labels.push(label);
            }
            (_, _, None) => {}
        }
    }
    match wrong {
        _ if labelled == 0 => Ok(None),
        Some(wrong) => bail!("{wrong}"),
        None => LabelList::of(images, labels).map(Some),
    }
}

/// The label of a sample, and the file that holds it.
fn label_in(
    archive: &Archive,
    sample: &[usize],
    extension: &str,
    read: fn(&[u8]) -> Found,
) -> Result<Option<(i64, usize)>> {
    let mut label: Option<(i64, usize)> = None;
    for &i in sample.iter().filter(|i| has_extension(archive.name(**i), extension)) {
        let text = match archive.read(i) {
            Ok(text) if text.len() > MAX_TEXT => {
                bail!("{}: {} bytes are too long for a label", archive.place(i), text.len())
            }
            Ok(text) => text,
            Err(e) => bail!("{}: {e}", archive.place(i)),
        };
        match read(&text) {
            Ok(None) => {}
            Ok(Some(found)) => {
                if let Some((_, other)) = label.replace((found, i)) {
                    bail!("{}: its sample has another label, {}", archive.place(i), archive.place(other));
                }
            }
            Err(why) => bail!("{}: {why}", archive.place(i)),
        }
    }
    Ok(label)
}

/// Whether a file has this extension after its key.
pub fn has_extension(name: &Path, extension: &str) -> bool {
    key(name).is_some_and(|(_, ext)| ext.eq_ignore_ascii_case(extension))
}

fn sample_of(archive: &Archive, index: usize) -> Option<&str> {
    key(archive.name(index)).map(|(key, _)| key)
}

/// The key of a file, with the folders around it, and the extension after it.
fn key(name: &Path) -> Option<(&str, &str)> {
    let text = name.to_str()?;
    let folders = text.rfind('/').map_or(0, |at| at + 1);
    let dot = folders + text[folders..].find('.')?;
    Some((&text[..dot], &text[dot + 1..]))
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
