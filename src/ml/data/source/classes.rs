//! Assigns a class to each file of a set, by its top-level folder or by the `dataset.json` of EDM2
//! and REPA.

use super::label_list::LabelList;
use candle_core::{Error, Result, bail};
use std::ffi::OsStr;
use std::path::Path;

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

/// The class is the top-level folder. Classes are sorted by name, files by class and then by path.
pub fn by_folder(shown: &str, names: &[&Path]) -> Result<Labelled> {
    let (mut files, mut classes) = (all_as_one(names).files, Vec::<String>::new());
    for (i, label) in &mut files {
        let class = folder(names[*i]).map_err(|e| candle_core::Error::msg(format!("{shown}: {e}")))?;
        if classes.last().is_none_or(|last| last != class) {
            classes.push(class.to_string());
        }
        *label = classes.len() as i64 - 1;
    }
    if classes.len() > 1 && classes[0].is_empty() {
        let first = names[files[0].0].display();
        let text = format!("{shown} holds images both directly and in folders, so their classes are unclear: {first}");
        return Err(candle_core::Error::msg("set `classes = \"one\"` to put all images in one class").context(text));
    }
    Ok(Labelled { classes, files })
}

/// Puts all images in one class, in the order that classes by folder would give.
pub fn all_as_one(names: &[&Path]) -> Labelled {
    let mut files: Vec<(usize, i64)> = (0..names.len()).map(|i| (i, 0)).collect();
    // By class and then by path: walking order would interleave `a/` and `a-b/`.
    let place = |i: usize| (top(names[i]), names[i]);
    files.sort_unstable_by(|(i, _), (j, _)| place(*i).cmp(&place(*j)));
    Labelled { classes: vec![String::new()], files }
}

/// The top-level folder of a path; `None` for a file in none.
pub fn top(name: &Path) -> Option<&OsStr> {
    let mut parts = name.components();
    let first = parts.next()?;
    parts.next().map(|_| first.as_os_str())
}

/// The same as a class, which is empty for a file in no folder.
fn folder(name: &Path) -> Result<&str> {
    let Some(folder) = top(name) else { return Ok("") };
    match folder.to_str() {
        Some(text) => Ok(text),
        None => bail!("the folder name {folder:?} is not UTF-8, so it cannot be a class"),
    }
}

/// Labels from a list, which must name every file and no others. Files are sorted by name. Without
/// labels in the list there is one class.
pub fn by_list(shown: &str, names: &[&Path], list: &LabelList) -> Result<Labelled> {
    let mut files: Vec<(usize, i64)> = (0..names.len()).map(|i| (i, 0)).collect();
    let text = |i: usize| names[i].to_string_lossy();
    files.sort_by(|a, b| text(a.0).cmp(&text(b.0)));
    if !list.has_classes() {
        return Ok(Labelled { classes: vec![String::new()], files });
    }
    let (mut is_there, mut unlisted) = (vec![false; list.len()], vec![]);
    for (i, label) in &mut files {
        match list.find(Path::new(text(*i).as_ref())) {
            Some(at) => (*label, is_there[at]) = (list.get(at).1, true),
            None => unlisted.push(text(*i).into_owned()),
        }
    }
    let absent = || (0..list.len()).filter(|at| !is_there[*at]).map(|at| list.get(at).0.display());
    if absent().next().is_some() {
        bail!("{shown}: lists missing files ({}): {}", files_of(absent().count()), first(absent()));
    }
    if !unlisted.is_empty() {
        bail!("{shown}: has no label for {}: {}", files_of(unlisted.len()), first(&unlisted));
    }
    let classes = files.iter().map(|f| f.1 + 1).max().unwrap_or(0);
    Ok(Labelled { classes: (0..classes).map(|c| c.to_string()).collect(), files })
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
