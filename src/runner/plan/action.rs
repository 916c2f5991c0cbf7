//! THE list of the ingredients of a key: the format, kind and revision, command, parameters,
//! published files by identity, sources and inputs by digest, outputs with their types. Only what
//! is written into [`Action::text`] here affects a key. Does not know where the values come from.

use crate::cache::key::{Key, write_canonical, write_string};
use crate::files::digest::Digest;
use crate::kind::field::FieldType;
use crate::pipeline::graph::Stage;
use std::collections::BTreeMap;

/// The first line of every text. Increment when this file changes what it writes; that invalidates
/// every cache.
pub(crate) const FORMAT: &str = "erw key 1";

/// A stage with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub key: Key,
    pub text: String,
}

/// THE list of ingredients. `inputs` by slot, `sources` by parameter.
pub fn action(stage: &Stage, inputs: &BTreeMap<String, Digest>, sources: &BTreeMap<String, Digest>) -> Action {
    let mut text = format!("{FORMAT}\nkind {}\nrevision {}\n", stage.kind.name, stage.manifest.revision);
    if let Some(program) = stage.program() {
        text.push_str("command run [");
        for (i, word) in program.iter().enumerate() {
            text.push_str(if i > 0 { "," } else { "" });
            write_string(&mut text, word);
        }
        text.push_str("]\n");
    }
    for (name, value) in &stage.params {
        // A command's program is written above; some readers of pipelines also list it as a
        // parameter.
        let is_written = stage.is_command && name == "run";
        let is_absent = value.is_null() && stage.manifest.params.iter().any(|f| f.later && f.name == *name);
        if !is_written && !is_absent && !is_path(stage, name) {
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

/// A digest of the parameters alone, for listings.
pub fn params_digest(stage: &Stage) -> Digest {
    let mut text = String::new();
    for (name, value) in &stage.params {
        line(&mut text, "param", name, |text| write_canonical(text, value));
    }
    Digest::of_bytes(text.as_bytes())
}

pub(crate) fn line(text: &mut String, section: &str, name: &str, value: impl FnOnce(&mut String)) {
    text.push_str(section);
    text.push(' ');
    write_bare(text, name);
    text.push(' ');
    value(text);
    text.push('\n');
}

/// A path parameter enters the key by the contents of its files.
pub fn is_path(stage: &Stage, param: &str) -> bool {
    let path = |ty: &FieldType| match ty {
        FieldType::List(inner) | FieldType::OneOrMany(inner) => **inner == FieldType::Path,
        other => *other == FieldType::Path,
    };
    stage.sources.contains_key(param) || stage.manifest.params.iter().any(|f| f.name == param && path(&f.ty))
}

/// Writes a plain word as it is and quotes any other name, so that no name can look like another
/// line.
pub(crate) fn write_bare(out: &mut String, name: &str) {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if plain { out.push_str(name) } else { write_string(out, name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::ingredients;

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
