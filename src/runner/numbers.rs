//! The numbers that a program writes as JSON. Python writes `NaN` and `Infinity`, which are no JSON: a training that
//! diverged must not lose its results for it, least of all where a rule waits for just that. Does not know what they mean.

use super::event::Measure;
use serde_json::Value;
use std::path::Path;

/// Every number at the top of the object in a file, by name; not finite ones and `null` are `None`. `None` altogether
/// if the file is no such object.
pub fn of_file(path: &Path) -> Option<Vec<Measure>> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: Value = serde_json::from_str(&text).or_else(|_| serde_json::from_str(&without_nan(&text))).ok()?;
    let named = value.as_object()?.iter().filter(|(_, v)| v.is_number() || v.is_null());
    Some(named.map(|(name, v)| Measure { name: name.clone(), value: v.as_f64() }).collect())
}

/// With `null` in place of what is no number, outside of strings.
fn without_nan(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (taken, put) = match next {
            '"' => {
                let end = end_of_string(rest);
                (end, &rest[..end])
            }
            _ => match ["NaN", "-Infinity", "Infinity"].iter().find(|word| rest.starts_with(**word)) {
                Some(word) => (word.len(), "null"),
                None => (next.len_utf8(), &rest[..next.len_utf8()]),
            },
        };
        plain.push_str(put);
        rest = &rest[taken..];
    }
    plain
}

/// Where the string that `text` begins with is over.
fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Option<Vec<(String, Option<f64>)>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m");
        std::fs::write(&file, text).unwrap();
        Some(of_file(&file)?.into_iter().map(|m| (m.name, m.value)).collect())
    }

    #[test]
    fn what_python_writes_of_a_diverged_training_is_read() {
        let text = r#"{"loss": NaN, "a": -Infinity, "b": Infinity, "NaN \" NaN": 1, "note": "NaN", "none": null}"#;
        let none = |name: &str| (name.to_string(), None);
        assert_eq!(
            numbers(text).unwrap(),
            [none("loss"), none("a"), none("b"), ("NaN \" NaN".to_string(), Some(1.0)), none("none")]
        );
        assert_eq!([numbers("NaN"), numbers("[1]"), numbers("{\"a\": \"x"), numbers("")], [None, None, None, None]);
    }
}
