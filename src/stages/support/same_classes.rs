//! Checks that two sets give the same classes the same numbers. Class names are compared: labels
//! are numbers, and those of another set of folders are as good numbers.

use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;

/// A set in messages: `the samples have`.
pub struct Named<'a> {
    pub what: &'a str,
    pub classes: &'a [String],
}

/// Checks that both sets have the same classes. Numbers in place of names pass if there are as many.
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
    let (a, b) = (ours.classes, theirs.classes);
    let one_is_unnamed = unnamed(a) != unnamed(b) && !(numbers(a) && numbers(b)) && a.len() == b.len();
    if agree || one_is_unnamed || a.is_empty() || b.is_empty() {
        return Ok(());
    }
    let text =
        format!("{} the classes {}, but {} {}", ours.what, listed(ours.classes), theirs.what, listed(theirs.classes));
    Err(Error::stage(text).hint(hint))
}

/// Whether classes are called by their numbers.
fn unnamed(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == i.to_string())
}

/// Whether the names are numbers, as those of the folders of MNIST.
fn numbers(names: &[String]) -> bool {
    names.iter().all(|name| name.parse::<u64>().is_ok())
}

fn listed(names: &[String]) -> String {
    match names {
        // All images of a folder without classes.
        [only] if only.is_empty() => "of a set of one class".into(),
        [a, b, c, _, ..] => format!("{a}, {b}, {c}, … ({} classes)", names.len()),
        few => few.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_names_only_if_there_are_as_many() {
        let same = |ours: &[&str], theirs: &[&str]| {
            let [ours, theirs] = [ours, theirs].map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            let [ours, theirs] = [&ours, &theirs].map(|classes| Named { what: "these have", classes });
            check_same(&ours, &theirs, "").is_ok()
        };
        assert!(same(&["cat", "dog"], &["cat", "dog"]) && same(&["0", "1"], &["cat", "dog"]));
        assert!(same(&[], &["cat", "dog"]), "nothing is known");
        assert!(!same(&["0", "1", "2"], &["cat", "dog"]));
        // Folders of digits, of which one set has the upper half.
        assert!(!same(&["5", "6"], &["0", "1"]) && !same(&["5", "6"], &["0", "1", "2"]));
        assert!(!same(&[""], &["0", "1"]), "a set without classes");
    }
}
