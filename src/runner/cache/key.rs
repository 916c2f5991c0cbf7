//! The key of an action: the blake3 hash of a text that lists everything a result depends on, one
//! ingredient per line. The text is kept in the action record, so "why does this run?" is answered
//! by comparing two texts (`reason`).
//!
//! | ingredient | in key? | why |
//! |---|---|---|
//! | format version, kind, manifest revision | yes | declared code changes; hashing the binary is too strict |
//! | params after defaults, canonical; seed; dtype | yes | they change results |
//! | a command's program and arguments, placeholders unfilled | yes | they are its code |
//! | names and types of outputs | yes | other outputs are another result |
//! | digest of the artifact in each slot | yes | equal bytes after a rerun change nothing |
//! | digest of each source file or folder | yes | its contents; its path and times do not matter |
//! | hash of each published file, else its address | yes | mirrors do not matter |
//! | operation values, resources, threads, device | no | they change cost, not results |
//! | names, paths, mtimes, host, time, environment | no | renaming or moving must reuse |
//! | device model, program version | no, recorded | code changes bump `revision` |
//!
//! Does not know where the values come from, nor what a stage computes.

use crate::files::digest::Digest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The identity of an action.
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

/// Escapes as JSON does. Most texts have nothing to escape.
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
        // Negative zero stays itself: it computes the same as zero almost everywhere, but not
        // everywhere.
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

/// The lines of a key text by (section, name). `kind`, `revision` and the format line have no name.
pub fn ingredients(text: &str) -> BTreeMap<(&str, &str), &str> {
    lines(text).collect()
}

/// The lines in order.
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

/// The program of a command; `None` for other kinds.
pub fn program(text: &str) -> Option<&str> {
    lines(text).find(|(name, _)| *name == ("command", "run")).map(|(_, run)| run)
}

fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

/// A quoted name ends at its first unescaped quote.
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
