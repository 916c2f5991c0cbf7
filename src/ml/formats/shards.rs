//! A model in several files, as Hugging Face writes large ones: `NAME-00001-of-00003.safetensors`
//! and so on, with `NAME.safetensors.index.json`, which maps tensors to files; the same with
//! PyTorch's `.bin`. A model is found by its folder, its index or one of its files. This file only
//! looks for files and reads the index.

use super::parsed::Parsed;
use super::unique::Unique;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Maximum size of an index; one of a million tensors is smaller.
const MOST_INDEX: u64 = 256 << 20;
/// Maximum number of files, so that a name cannot make us look for millions.
const MOST_FILES: usize = 100_000;
/// Extensions of weights files in a folder. The first group with a file is used, as in
/// transformers.
const KINDS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth", "ckpt", "npz"]];

/// What a path stands for.
#[derive(Debug)]
pub(super) enum Model {
    /// One file, which may be the path itself.
    File(PathBuf),
    Files(Files),
}

/// The files of one model, all of which exist.
#[derive(Debug)]
pub(super) struct Files {
    pub dir: PathBuf,
    /// Relative to the folder, sorted.
    pub names: Vec<String>,
    /// File of each tensor according to the index; empty without an index.
    pub places: BTreeMap<String, String>,
    /// Name of the index.
    pub index: Option<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: Unique<String>,
}

/// Looks at the folder, or at the file and its siblings.
pub(super) fn find(path: &Path) -> Parsed<Model> {
    if path.is_dir() {
        return in_folder(path);
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if let Some(index) = read_index(path)? {
        return of_index(dir, &name, index);
    }
    match Numbered::of(&name) {
        Some(one) if one.of > 1 => one.all(dir),
        _ => Ok(Model::File(path.to_path_buf())),
    }
}

/// Whether the name is that of the index, or of one of the files, of a model in several files.
pub fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    is_index(&name) || Numbered::of(&name).is_some_and(|one| one.of > 1)
}

/// A name of the form `NAME-00001-of-00003.EXTENSION`.
struct Numbered<'a> {
    stem: &'a str,
    number: &'a str,
    count: &'a str,
    of: usize,
    ending: &'a str,
}

impl<'a> Numbered<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (before, after) = name.rsplit_once("-of-")?;
        let (stem, number) = before.rsplit_once('-')?;
        let (count, ending) = after.split_once('.')?;
        let digits = |text: &str| text.len() >= 2 && text.bytes().all(|b| b.is_ascii_digit());
        let of = count.parse().ok().filter(|_| digits(number) && digits(count))?;
        Some(Self { stem, number, count, of, ending })
    }

    /// All files of the model, by its index if there is one.
    fn all(&self, dir: &Path) -> Parsed<Model> {
        let name = self.name(self.number);
        let index_name = format!("{}.{}.index.json", self.stem, self.ending);
        if let Some(index) = read_index(&dir.join(&index_name))? {
            if !index.weight_map.0.values().any(|file| *file == name) {
                return Err(format!("`{index_name}` beside it does not name `{name}`"));
            }
            return of_index(dir, &index_name, index);
        }
        if self.of > MOST_FILES || !(1..=self.of).contains(&self.number.parse().unwrap_or(0)) {
            return Err(format!("`{name}` claims to be number {} of {} files", self.number, self.count));
        }
        let width = self.number.len();
        let names = (1..=self.of).map(|i| self.name(&format!("{i:0width$}"))).collect();
        whole(dir, names, BTreeMap::new(), None)
    }

    fn name(&self, number: &str) -> String {
        format!("{}-{number}-of-{}.{}", self.stem, self.count, self.ending)
    }
}

/// Reads an index; `None` if the file is not one.
fn read_index(path: &Path) -> Parsed<Option<Index>> {
    use std::io::Read;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Ok(file) = std::fs::File::open(path) else { return Ok(None) };
    let mut first = [0u8; 1];
    let json = (&file).read(&mut first).is_ok_and(|n| n == 1) && first == *b"{";
    if !json || !file.metadata().is_ok_and(|m| m.is_file() && m.len() <= MOST_INDEX) {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    match serde_json::from_slice::<Index>(&text) {
        Ok(index) => Ok(Some(index)),
        Err(e) if is_index(&name) => Err(format!("`{name}` is not a valid index of a model in several files: {e}")),
        Err(_) => Ok(None),
    }
}

/// `model.safetensors.index.json`, `model.safetensors.index.fp16.json`
fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.contains(".index.")
}

fn of_index(dir: &Path, name: &str, index: Index) -> Parsed<Model> {
    let places = index.weight_map.0;
    for (tensor, file) in &places {
        let mut parts = Path::new(file).components();
        let plain = !file.is_empty() && parts.all(|c| matches!(c, Component::Normal(_))) && !file.contains('\\');
        if !plain {
            return Err(format!("`{name}` says that tensor `{tensor}` is in `{file}`, which is not a file beside it"));
        }
    }
    let names: BTreeSet<String> = places.values().cloned().collect();
    if names.is_empty() {
        return Err(format!("`{name}` is a JSON index without tensors"));
    }
    whole(dir, names.into_iter().collect(), places, Some(name.to_string()))
}

/// Checks that every file exists before anything is read.
fn whole(dir: &Path, names: Vec<String>, places: BTreeMap<String, String>, index: Option<String>) -> Parsed<Model> {
    let absent: Vec<String> = names.iter().filter(|n| !dir.join(n).is_file()).map(|n| format!("`{n}`")).collect();
    if absent.is_empty() {
        return Ok(Model::Files(Files { dir: dir.to_path_buf(), names, places, index }));
    }
    let (n, of, listed) = (absent.len(), names.len(), super::parsed::listed(&absent));
    Err(format!("{n} of the {of} files of the model {} missing: {listed}", if n == 1 { "is" } else { "are" }))
}

fn in_folder(dir: &Path) -> Parsed<Model> {
    let mut names = vec![];
    for entry in std::fs::read_dir(dir).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    KINDS
        .iter()
        .find_map(|endings| one_of(dir, &names, endings))
        .unwrap_or_else(|| Err("it is a folder without weights files".into()))
}

/// The one model among files with these extensions; `None` if there is none.
fn one_of(dir: &Path, names: &[String], endings: &[&str]) -> Option<Parsed<Model>> {
    let ends = |name: &str| name.rsplit_once('.').is_some_and(|(_, end)| endings.contains(&end));
    let indexes: Vec<&String> =
        names.iter().filter(|n| is_index(n) && n.split_once(".index.").is_some_and(|(of, _)| ends(of))).collect();
    let mut models: BTreeMap<String, &String> = BTreeMap::new();
    for name in names.iter().filter(|n| ends(n)) {
        match Numbered::of(name) {
            // Files listed in an index are found through the index.
            Some(_) if !indexes.is_empty() => {}
            Some(one) => {
                models.entry(format!("{}-*-of-{}.{}", one.stem, one.count, one.ending)).or_insert(name);
            }
            None => {
                models.insert(name.clone(), name);
            }
        }
    }
    models.extend(indexes.into_iter().map(|name| (name.clone(), name)));
    let listed: Vec<String> = models.keys().map(|n| format!("`{n}`")).collect();
    match models.into_values().collect::<Vec<_>>().as_slice() {
        [] => None,
        [only] => Some(find(&dir.join(only))),
        _ => Some(Err(format!("it is a folder with several models: {}; name one", super::parsed::listed(&listed)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_files_are_told_from_other_names() {
        let known = |name| Numbered::of(name).map(|n| (n.stem.to_string(), n.of, n.name("00009")));
        let all = known("model.fp16-00001-of-00012.safetensors");
        assert_eq!(all, Some(("model.fp16".into(), 12, "model.fp16-00009-of-00012.safetensors".into())));
        assert_eq!(known("pytorch_model-00001-of-00002.bin").map(|n| n.1), Some(2));
        for name in ["model.safetensors", "a-1-of-2", "a-x-of-00002.bin", "best-of-00003.pt", "-of-.bin"] {
            assert!(known(name).is_none(), "{name}");
        }
    }
}
