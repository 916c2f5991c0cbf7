//! Names for artifacts to keep: `v1/tags/NAME.json` holds the keys and artifacts that a name stands
//! for. Gc keeps them. Does not know what the artifacts are.

use super::store::Store;
use crate::files::digest::Digest;
use crate::files::disk::{list, write_atomic};
use crate::host::utc_now;
use crate::text::suggest;
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

const LONGEST: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Keys of records.
    pub keys: BTreeSet<Digest>,
    pub artifacts: BTreeSet<Digest>,
    /// What the user asked to tag.
    pub of: String,
    /// UTC.
    pub created: String,
}

impl Tag {
    pub fn new(of: &str) -> Self {
        Self { keys: BTreeSet::new(), artifacts: BTreeSet::new(), of: of.into(), created: utc_now() }
    }
}

/// Writes `tag` under a name, replacing an earlier tag of that name.
pub fn write(store: &Store, name: &str, tag: &Tag) -> Result<()> {
    let path = file(store, name)?;
    let written = serde_json::to_vec_pretty(tag).map_err(Into::into).and_then(|text| write_atomic(&path, &text));
    written.map_err(|e| Error::io("write", &path, e))
}

pub fn remove(store: &Store, name: &str) -> Result<()> {
    let path = file(store, name)?;
    std::fs::remove_file(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let names = all(store).unwrap_or_default().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
            let hint = suggest::hint(name, names.iter().map(String::as_str), "the tags are");
            Error::usage(format!("no tag `{name}`")).maybe_hint(hint)
        }
        _ => Error::io("remove", &path, e),
    })
}

/// Every tag, by name. An unreadable one is an error, because gc would remove what it keeps.
pub fn all(store: &Store) -> Result<Vec<(String, Tag)>> {
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let tag = parse(&path).ok_or_else(|| {
            Error::usage(format!("the tag `{name}` cannot be read"))
                .hint(format!("remove it with `erw cache untag {name}`, then tag again"))
        })?;
        Ok((name, tag))
    };
    files(store)?.into_iter().map(read).collect()
}

/// The names of the tags, without reading them.
pub fn names(store: &Store) -> Result<Vec<String>> {
    let name = |path: PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files(store)?.into_iter().map(name).collect())
}

/// Tag files that cannot be read.
pub fn damaged(store: &Store) -> Result<Vec<PathBuf>> {
    Ok(files(store)?.into_iter().filter(|path| parse(path).is_none()).collect())
}

fn parse(path: &PathBuf) -> Option<Tag> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn files(store: &Store) -> Result<Vec<PathBuf>> {
    let is_tag = |p: &PathBuf| p.extension().is_some_and(|e| e == "json");
    Ok(list(&store.v1("tags"))?.into_iter().filter(is_tag).collect())
}

fn file(store: &Store, name: &str) -> Result<PathBuf> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins_well || name.len() > LONGEST || !name.chars().all(good) {
        return Err(Error::usage(format!("`{name}` is not a valid tag name"))
            .hint("use letters, digits, `.`, `_` and `-`, starting with a letter or digit, at most 100 characters"));
    }
    Ok(store.v1("tags").join(format!("{name}.json")))
}
