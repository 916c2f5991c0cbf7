//! Assigns a class to each file of a set, by its top-level folder or by the `dataset.json` of EDM2
//! and REPA.

use super::names::normal;
use candle_core::{Error, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::path::Path;

/// The file with the labels of a prepared folder or archive.
pub const LIST: &str = "dataset.json";
/// The maximum number of classes. Known sets have up to 21,843; a label far above is a mistake.
pub const MAX_CLASSES: u64 = 1 << 17;

/// Files with labels, in the order of the set.
#[derive(Debug, PartialEq)]
pub struct Labelled {
    /// Names by label. A single empty name if there are no classes.
    pub classes: Vec<String>,
    /// Index in the given names, and label.
    pub files: Vec<(usize, i64)>,
}

impl Labelled {
    /// Puts all images in one class. The order stays.
    pub fn forget(&mut self) {
        self.classes = vec![String::new()];
        self.files.iter_mut().for_each(|(_, label)| *label = 0);
    }
}

/// The label list of a prepared set, as read.
#[derive(Debug)]
pub struct List(Option<BTreeMap<String, i64>>);

impl List {
    /// A list of labels by normal name.
    pub fn of(labels: BTreeMap<String, i64>) -> Self {
        Self(Some(labels))
    }

    /// Reads the list in a folder, if there is one.
    pub fn beside(root: &Path) -> Result<Option<Self>> {
        let path = root.join(LIST);
        if !path.is_file() {
            return Ok(None);
        }
        match std::fs::read(&path) {
            Ok(text) => Self::parse(&path.display().to_string(), &text).map(Some),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    /// Parses the list; `shown` is its path in messages.
    pub fn parse(shown: &str, text: &[u8]) -> Result<Self> {
        parse_list(text).map(Self).map_err(|e| candle_core::Error::msg(format!("{shown}: {e}")))
    }

    /// Whether it names this file, or a file in this folder.
    pub fn names(&self, name: &Path) -> bool {
        let (Some(labels), Some(name)) = (&self.0, name.to_str()) else { return false };
        let inside = format!("{name}/");
        let mut following = labels.range::<str, _>((Included(inside.as_str()), Unbounded));
        labels.contains_key(name) || following.next().is_some_and(|(next, _)| next.starts_with(&inside))
    }
}

/// The class is the top-level folder. Classes are sorted by name, files by class and then by path.
pub fn by_folder(shown: &str, names: &[&Path]) -> Result<Labelled> {
    let mut found = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        let class = folder(name).map_err(|e| candle_core::Error::msg(format!("{shown}: {e}")))?;
        found.push((class, *name, i));
    }
    // By class name, then by path: walking order would interleave `a/` and `a-b/`.
    found.sort();
    let mut classes: Vec<String> = found.iter().map(|(class, ..)| (*class).to_string()).collect();
    classes.dedup();
    if classes.len() > 1 && classes[0].is_empty() {
        let first = found[0].1.display();
        let text = format!("{shown} holds images both directly and in folders, so their classes are unclear: {first}");
        return Err(candle_core::Error::msg("set `classes = \"one\"` to put all images in one class").context(text));
    }
    let label = |class: &str| classes.partition_point(|c| c.as_str() < class) as i64;
    let files = found.iter().map(|(class, _, i)| (*i, label(class))).collect();
    Ok(Labelled { classes, files })
}

/// Puts all images in one class, in the order that classes by folder would give.
pub fn all_as_one(names: &[&Path]) -> Labelled {
    let folder = |name: &Path| name.parent().and_then(|p| p.components().next()).map(|c| c.as_os_str().to_owned());
    let mut found: Vec<_> = names.iter().enumerate().map(|(i, name)| (folder(name), *name, i)).collect();
    found.sort();
    Labelled { classes: vec![String::new()], files: found.into_iter().map(|(.., i)| (i, 0)).collect() }
}

/// The top-level folder of a path; empty for a file in none.
fn folder(name: &Path) -> Result<&str> {
    let mut parts = name.components();
    match (parts.next(), parts.next()) {
        (Some(folder), Some(_)) => match folder.as_os_str().to_str() {
            Some(text) => Ok(text),
            None => bail!("the folder name {:?} is not UTF-8, so it cannot be a class", folder.as_os_str()),
        },
        _ => Ok(""),
    }
}

/// Labels from a list, which must name every file and no others. Files are sorted by name. Without
/// labels in the list there is one class.
pub fn by_list(shown: &str, names: &[&Path], list: List) -> Result<Labelled> {
    let mut files: Vec<(usize, i64)> = (0..names.len()).map(|i| (i, 0)).collect();
    let text = |i: usize| names[i].to_string_lossy();
    files.sort_by(|a, b| text(a.0).cmp(&text(b.0)));
    let Some(mut list) = list.0 else { return Ok(Labelled { classes: vec![String::new()], files }) };
    let mut unlisted = vec![];
    for (i, label) in &mut files {
        match list.remove(text(*i).as_ref()) {
            Some(given) => *label = given,
            None => unlisted.push(text(*i).into_owned()),
        }
    }
    if !list.is_empty() {
        bail!("{shown}: lists missing files ({}): {}", files_of(list.len()), first(list.keys()));
    }
    if !unlisted.is_empty() {
        bail!("{shown}: has no label for {}: {}", files_of(unlisted.len()), first(&unlisted));
    }
    let classes = files.iter().map(|f| f.1 + 1).max().unwrap_or(0);
    Ok(Labelled { classes: (0..classes).map(|c| c.to_string()).collect(), files })
}

/// Labels by name in a `dataset.json`: `{"labels": [["00000/img00000000.png", 5], …]}`, or `labels`
/// as an object. `None` if `labels` is `null`, as for a set without classes.
pub fn parse_list(text: &[u8]) -> Result<Option<BTreeMap<String, i64>>> {
    let text = match erw_base::text::of_bytes(text) {
        Ok(text) => text,
        Err(e) => bail!("not JSON: {e}"),
    };
    let json: Value = match serde_json::from_str(&text) {
        Ok(v) => v,
        Err(e) => bail!("not JSON: {e}"),
    };
    let pairs: Vec<(&str, &Value)> = match json.get("labels") {
        Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) => list.iter().map(pair).collect::<Result<_>>()?,
        Some(Value::Object(map)) => map.iter().map(|(name, label)| (name.as_str(), label)).collect(),
        _ => bail!("no list `labels`"),
    };
    let mut labels = BTreeMap::new();
    for (name, label) in pairs {
        let Some(class) = label.as_u64().filter(|l| *l < MAX_CLASSES) else {
            bail!("label {label} of `{name}` is not a whole number from 0 to {}", MAX_CLASSES - 1)
        };
        // Windows writes its own separator.
        let name = match normal(name, true) {
            Ok(plain) => plain,
            Err(why) => bail!("the name `{name}` {why}"),
        };
        if labels.insert(name.clone(), class as i64).is_some() {
            bail!("`{name}` is listed twice");
        }
    }
    Ok(Some(labels))
}

fn pair(entry: &Value) -> Result<(&str, &Value)> {
    match entry.as_array().map(Vec::as_slice) {
        Some([Value::String(name), label]) => Ok((name, label)),
        _ => {
            let text: String = entry.to_string().chars().take(80).collect();
            bail!("`{text}` is not a pair of name and label")
        }
    }
}

/// Gives an error a hint, unless it has one.
pub fn hinted<T>(result: Result<T>, hint: &str) -> Result<T> {
    result.map_err(|e| {
        let e = if let Error::WithBacktrace { inner, .. } = e { *inner } else { e };
        match e {
            Error::Context { .. } => e,
            e => Error::msg(hint).context(e.to_string()),
        }
    })
}

/// What is wrong with classes of which none of these many images are; `None` if all have some.
pub fn empty(classes: &[String], images: &[u64]) -> Option<String> {
    let empty: Vec<usize> = (0..classes.len()).filter(|class| images.get(*class).is_none_or(|n| *n == 0)).collect();
    let names = first(empty.iter().map(|class| format!("`{}`", classes[*class])));
    let all = classes.len();
    match empty.as_slice() {
        [] => None,
        [0] if classes[0] == "0" => Some(format!("class `0` of {all} has no images: labels seem to count from 1")),
        [_] => Some(format!("class {names} of {all} has no images")),
        several => Some(format!("{} of {all} classes have no images: {names}", several.len())),
    }
}

/// `1 file`, `2 files`.
pub fn files_of(n: usize) -> String {
    format!("{n} file{}", if n == 1 { "" } else { "s" })
}

/// The first few names, for messages.
pub fn first<S: std::fmt::Display>(names: impl IntoIterator<Item = S>) -> String {
    let mut names = names.into_iter();
    let shown: Vec<String> = names.by_ref().take(3).map(|n| n.to_string()).collect();
    let more = names.count();
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_labels_are_read_whatever_system_wrote_them() {
        let plain = "{\n\"labels\": [[\"a/1.png\", 0],\n [\"a/2.png\", 3]]}\n";
        let labels = parse_list(plain.as_bytes()).unwrap();
        assert_eq!(labels.as_ref().map(BTreeMap::len), Some(2));
        for odd in [format!("\u{feff}{plain}"), plain.replace('\n', "\r\n"), plain.replace("a/", "a\\\\")] {
            assert_eq!(parse_list(odd.as_bytes()).unwrap(), labels, "{odd}");
        }
        let wide: Vec<u8> = plain.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(parse_list(&wide).unwrap_err().to_string().contains("UTF-16"));
    }
}
