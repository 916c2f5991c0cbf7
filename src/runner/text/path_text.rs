//! File names as text in JSON and TOML lists. A name can have any bytes but `/` and 0: bytes that
//! are not UTF-8 are written `\xNN`, and `\` is written `\\`, so that different names have
//! different texts and each can be read back. Does not know what the lists are for.

use serde::{Serialize, Serializer};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub fn text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// The path with this text, if it is valid.
pub fn path(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend(plain.as_bytes());
        rest = match escaped.strip_prefix('\\') {
            Some(rest) => {
                bytes.push(b'\\');
                rest
            }
            None => {
                bytes.push(u8::from_str_radix(escaped.strip_prefix('x')?.get(..2)?, 16).ok()?);
                &escaped[3..]
            }
        };
    }
    bytes.extend(rest.as_bytes());
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    // Accepts only the form that is written, so that a name has one text.
    (self::text(&path) == text).then_some(path)
}

/// For `#[serde(serialize_with)]`.
pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&text(path))
}

/// The same for an optional path.
pub fn serialize_optional<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(text).serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_two_are_written_alike() {
        let names: [&[u8]; 9] = [
            b"a",
            b"a\xff",
            b"a\xfe",
            b"a\\xff",
            b"a\\",
            "a\u{fffd}".as_bytes(),
            "\u{fc}\n\"".as_bytes(),
            b"\xf0\x9f",
            b"",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let name = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
            assert_eq!(path(&text(&name)).as_ref(), Some(&name));
            assert!(seen.insert(text(&name)), "{name:?}");
        }
        assert_eq!(text(Path::new("plain/name")), "plain/name");
        for none in ["\\", "\\x", "\\xf", "\\q", "\\x41", "\\xFF", "\\x+f", "\\x\u{fc}\u{fc}"] {
            assert_eq!(path(none), None, "{none}");
        }
    }
}
