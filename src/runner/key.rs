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

use super::digest::Digest;
use super::graph::Stage;
use super::manifest::FieldType;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;

/// First line of every text. Raised when this file changes what it writes; voids every cache.
const FORMAT: &str = "erw key 1";

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

/// A stage with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub key: Key,
    pub text: String,
}

/// THE list of ingredients. `inputs` by slot, `sources` by parameter.
pub fn action(stage: &Stage, inputs: &BTreeMap<String, Digest>, sources: &BTreeMap<String, Digest>) -> Action {
    let mut text = format!("{FORMAT}\nkind {}\nrevision {}\n", stage.kind.name, stage.manifest.revision);
    if let Some(command) = &stage.command {
        text.push_str("command run [");
        for (i, word) in command.run.iter().enumerate() {
            text.push_str(if i > 0 { "," } else { "" });
            write_string(&mut text, word);
        }
        text.push_str("]\n");
    }
    for (name, value) in &stage.params {
        // A command's program is told above; some readers of pipelines also list it as a parameter.
        let told = stage.command.is_some() && name == "run";
        if !told && !is_path(stage, name) {
            line(&mut text, "param", name, |text| write_canonical(text, value));
        }
    }
    for (name, identity) in &stage.published {
        line(&mut text, "published", name, |text| text.push_str(identity));
    }
    for (name, digest) in sources {
        line(&mut text, "source", name, |text| text.push_str(&digest.hex()));
    }
    for (slot, digest) in inputs {
        line(&mut text, "input", slot, |text| text.push_str(&digest.hex()));
    }
    for (name, ty) in &stage.outputs {
        line(&mut text, "output", name, |text| write_string(text, ty));
    }
    Action { key: Key::of(&text), text }
}

/// The parameters alone, for a short digest in listings.
pub fn params_digest(stage: &Stage) -> Digest {
    let mut text = String::new();
    for (name, value) in &stage.params {
        line(&mut text, "param", name, |text| write_canonical(text, value));
    }
    Digest::of_bytes(text.as_bytes())
}

fn line(text: &mut String, section: &str, name: &str, value: impl FnOnce(&mut String)) {
    text.push_str(section);
    text.push(' ');
    write_bare(text, name);
    text.push(' ');
    value(text);
    text.push('\n');
}

/// A path parameter enters by the contents behind it.
fn is_path(stage: &Stage, param: &str) -> bool {
    let path = |ty: &FieldType| match ty {
        FieldType::List(inner) | FieldType::OneOrMany(inner) => **inner == FieldType::Path,
        other => *other == FieldType::Path,
    };
    stage.sources.contains_key(param) || stage.manifest.params.iter().any(|f| f.name == param && path(&f.ty))
}

/// A name as it is if it is a plain word, else quoted, so that no name can imitate another line.
fn write_bare(out: &mut String, name: &str) {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if plain { out.push_str(name) } else { write_string(out, name) }
}

/// As JSON does. Most texts have nothing to escape.
fn write_string(out: &mut String, text: &str) {
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

fn write_canonical(out: &mut String, value: &Value) {
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

    #[test]
    fn names_cannot_imitate_lines() {
        let bare = |name| {
            let mut text = String::new();
            write_bare(&mut text, name);
            text
        };
        assert_eq!(bare("a\nparam b"), r#""a\nparam b""#);
        let text = format!("erw key 1\nkind k\nparam {} 1\nparam lr 2\n", bare("a \"b\" c"));
        let got = ingredients(&text);
        assert_eq!(got[&("param", r#""a \"b\" c""#)], "1");
        assert_eq!(got[&("param", "lr")], "2");
        assert_eq!(got[&("kind", "")], "k");
    }
}
