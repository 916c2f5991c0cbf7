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
const MAX_TEXT: u64 = 1 << 20;

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
    for (extension, read) in [("cls", of_text as fn(&[u8]) -> Found), ("json", of_json)] {
        let labels = labels_in(archive, extension, read)?;
        if !labels.is_empty() {
            return Ok(Some((of_images(archive, &labels)?, extension)));
        }
    }
    Ok(None)
}

/// Whether a file is of a sample.
fn belongs(archive: &Archive, index: usize) -> bool {
    let name = archive.name(index);
    key(name).is_some() && hidden_part(name).is_none()
}

/// The labels in files of this extension, with the numbers of these files, in the archive's order,
/// in which they are read fastest.
fn labels_in(archive: &Archive, extension: &str, read: fn(&[u8]) -> Found) -> Result<Vec<(usize, i64)>> {
    let mut labels = vec![];
    for i in (0..archive.len()).filter(|i| has_extension(archive.name(*i), extension) && belongs(archive, *i)) {
        if archive.size(i) > MAX_TEXT {
            bail!("{}: {} bytes are too long for a label", archive.place(i), archive.size(i));
        }
        match archive.read(i).map(|text| read(&text)) {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(label))) => labels.push((i, label)),
            Ok(Err(why)) => bail!("{}: {why}", archive.place(i)),
            Err(e) => bail!("{}: {e}", archive.place(i)),
        }
    }
    Ok(labels)
}

/// Gives the label of each sample to its one image. What is wrong is told of the first file that has
/// it.
fn of_images(archive: &Archive, labels: &[(usize, i64)]) -> Result<LabelList> {
    // The files of a sample one after another, in the archive's order.
    let mut files: Vec<usize> = (0..archive.len()).filter(|i| belongs(archive, *i)).collect();
    files.sort_unstable_by(|i, j| (sample_of(archive, *i), *i).cmp(&(sample_of(archive, *j), *j)));
    let label_in = |i: &usize| labels.binary_search_by_key(i, |(file, _)| *file).ok().map(|at| labels[at]);
    let (mut images, mut of_images) = (NameList::default(), vec![]);
    let mut wrong: Option<(usize, Wrong)> = None;
    for sample in files.chunk_by(|i, j| sample_of(archive, *i) == sample_of(archive, *j)) {
        let mut labels = sample.iter().filter_map(label_in);
        let mut pictures = sample.iter().copied().filter(|i| is_image(archive.name(*i)));
        let (label, picture) = (labels.next(), pictures.next());
        let found = match (label, labels.next(), picture, pictures.next()) {
            (Some((other, _)), Some((i, _)), ..) => (i, Wrong::OtherLabel(other)),
            (_, _, Some(other), Some(i)) => (i, Wrong::OtherImage(other)),
            (Some((i, _)), _, None, _) => (i, Wrong::NoImage),
            (Some((_, label)), _, Some(i), _) => {
                images.push(archive.name(i));
                of_images.push(label);
                continue;
            }
            (None, ..) => continue,
        };
        if wrong.as_ref().is_none_or(|(first, _)| found.0 < *first) {
            wrong = Some(found);
        }
    }
    match wrong {
        None => LabelList::of(images, of_images),
        Some((i, Wrong::NoImage)) => bail!("{}: its sample has no image", archive.place(i)),
        Some((i, Wrong::OtherImage(other))) => {
            bail!("{}: its sample has another image, {}", archive.place(i), archive.place(other))
        }
        Some((i, Wrong::OtherLabel(other))) => {
            bail!("{}: its sample has another label, {}", archive.place(i), archive.place(other))
        }
    }
}

/// What may be wrong with the sample of a file.
enum Wrong {
    NoImage,
    OtherImage(usize),
    OtherLabel(usize),
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
