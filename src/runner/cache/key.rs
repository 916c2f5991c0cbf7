//! The key of an action: blake3 of a text that lists everything a result depends on, one ingredient a line.
//! The text is kept in the action record, so "why does this run?" is the difference of two texts (`reason`).
//!
//! | ingredient | in key? | why |
//! |---|---|---|
//! | key format version, kind, manifest revision | yes | code changes are declared; hashing the binary would void weeks of work |
//! | params after defaults, canonical; seed; dtype | yes | they change results |
//! | a command's program and arguments, placeholders unfilled | yes | they are its code |
//! | names and types of outputs | yes | another set of outputs is another result |
//! | digest of the artifact in each slot | yes | contents, not upstream keys: an upstream rerun with equal bytes stops there |
//! | digest of each outside file or folder | yes | contents, not its name or its times |
//! | hash of each published file, or its address where none is known | yes | mirrors and the folder it is fetched to are not |
//! | operation values, resources, threads, device | no | they change cost |
//! | names of pipeline and stage, paths, mtimes, host, time, environment | no | renaming or moving must reuse |
//! | device model, program version | no, recorded | `revision` is the lever |
//!
//! It does not know where the values come from, nor what a stage computes.

use crate::files::digest::Digest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// What identifies an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Digest);

impl From<Digest> for Key {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Key> for Digest {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Key {
    /// The key of a text of ingredients.
    pub fn of(text: &str) -> Self {
        Self(Digest::of_bytes(text.as_bytes()))
    }
    pub fn short(&self) -> String {
        self.0.short()
    }
}

/// As JSON does. Most texts have nothing to escape.
pub(crate) fn write_string(out: &mut String, text: &str) {
    if text.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\') {
        out.push_str(&Value::from(text).to_string());
    } else {
        out.extend(["\"", text, "\""]);
    }
}

/// JSON without spaces, objects sorted by name. Ints stay ints (`1`), floats stay floats (`1.0`).
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(&mut out, value);
    out
}

pub(crate) fn write_canonical(out: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_canonical(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            let sorted: BTreeMap<_, _> = map.iter().collect();
            for (i, (name, item)) in sorted.into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_string(out, name);
                out.push(':');
                write_canonical(out, item);
            }
            out.push('}');
        }
        Value::String(text) => write_string(out, text),
        // A negative zero computes the same as zero almost everywhere, yet not quite: it stays what it is.
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

/// The lines of a text by (section, name); `kind`, `revision` and the format line have no name.
pub fn ingredients(text: &str) -> BTreeMap<(&str, &str), &str> {
    lines(text).collect()
}

/// The lines in their order.
pub fn lines(text: &str) -> impl Iterator<Item = ((&str, &str), &str)> {
    let named = |l| match split(l) {
        (section @ ("param" | "published" | "source" | "input" | "output" | "command"), rest) => {
            let (name, value) = split_name(rest);
            ((section, name), value)
        }
        (section, value) => ((section, ""), value),
    };
    text.lines().map(named)
}

fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// The end of a quoted name is its first quote that is not escaped.
fn split_name(rest: &str) -> (&str, &str) {
    if !rest.starts_with('"') {
        return split(rest);
    }
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|&(_, c)| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end
    });
    let end = end.map_or(rest.len(), |(i, _)| i + 1);
    (&rest[..end], rest[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_text_keeps_types_and_forgets_order() {
        assert_eq!(canonical(&json!({"b": 1, "a": [1.0, "x y", null, true]})), r#"{"a":[1.0,"x y",null,true],"b":1}"#);
        assert_ne!(canonical(&json!(1)), canonical(&json!(1.0)));
        assert_ne!(canonical(&json!("1")), canonical(&json!(1)));
        assert_eq!(canonical(&json!(1e-4)), canonical(&json!(0.0001)));
    }
}
