//! Checks that two sets give the same classes the same numbers. Class names are compared: labels
//! are numbers, and those of another set of folders are as good numbers.

use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;

/// A set in messages: `the samples have`.
pub struct Named<'a> {
    pub what: &'a str,
    pub classes: &'a [String],
}

/// Checks that both sets have the same classes. Sets without class names pass.
pub fn check_same(ours: &Named, theirs: &Named, hint: &str) -> Result<()> {
    check(ours, theirs, ours.classes == theirs.classes, hint)
}

/// Checks that the classes which both sets have are the same; one may have further ones. Sets
/// without class names pass.
pub fn check_common(ours: &Named, theirs: &Named, hint: &str) -> Result<()> {
    check(ours, theirs, ours.classes.iter().zip(theirs.classes).all(|(a, b)| a == b), hint)
}

/// Class names of packed latents.
pub fn classes_of(latents: &Packed) -> Vec<String> {
    serde_json::from_value(latents.meta()["classes"].clone()).unwrap_or_default()
}

fn check(ours: &Named, theirs: &Named, agree: bool, hint: &str) -> Result<()> {
    if agree || unnamed(ours.classes) || unnamed(theirs.classes) {
        return Ok(());
    }
    let text =
        format!("{} the classes {}, but {} {}", ours.what, listed(ours.classes), theirs.what, listed(theirs.classes));
    Err(Error::stage(text).hint(hint))
}

fn unnamed(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == i.to_string())
}

fn listed(names: &[String]) -> String {
    match names {
        // All images of a folder without classes.
        [only] if only.is_empty() => "of a set of one class".into(),
        [a, b, c, _, ..] => format!("{a}, {b}, {c}, … ({} classes)", names.len()),
        few => few.join(", "),
    }
}
