//! Text files from any system: a byte order mark is skipped and CR LF reads as LF, so positions
//! match those in an editor. Encodings other than UTF-8 are refused by name. Does not know what a
//! text means.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// Like [`std::fs::read_to_string`].
///
/// # Errors
/// When the file cannot be read or is not UTF-8; the message says which.
pub fn read(path: impl AsRef<Path>) -> Result<String> {
    of_bytes(&std::fs::read(path)?)
}

/// The text in these bytes.
///
/// # Errors
/// When they are not UTF-8.
pub fn of_bytes(bytes: &[u8]) -> Result<String> {
    let odd = |why: String| Err(Error::new(ErrorKind::InvalidData, why));
    if let Some(name) = wide(bytes) {
        return odd(format!("it is encoded as {name}; save it as UTF-8"));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n")),
        Err(e) => {
            let before = &bytes[..e.valid_up_to()];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            let byte = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
            odd(format!("line {line} is not UTF-8: it contains the byte 0x{byte:02X}; save it as UTF-8"))
        }
    }
}

/// The name of a two- or four-byte encoding, recognised by its byte order mark or by a zero in
/// every other byte of what must be ASCII.
fn wide(bytes: &[u8]) -> Option<&'static str> {
    let utf32 = bytes.starts_with(&[0xff, 0xfe, 0, 0]) || bytes.starts_with(&[0, 0, 0xfe, 0xff]);
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let bare = matches!(bytes, [a, b, ..] if (*a == 0) != (*b == 0));
    if utf32 { Some("UTF-32") } else { (utf16 || bare).then_some("UTF-16") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_ends_of_lines_say_nothing() {
        let read = |bytes: &[u8]| of_bytes(bytes).unwrap();
        for same in ["a\nb\n", "a\r\nb\r\n", "\u{feff}a\nb\n", "\u{feff}a\r\nb\n"] {
            assert_eq!(read(same.as_bytes()), "a\nb\n");
        }
        assert_eq!(read("a\rb \u{feff}".as_bytes()), "a\rb \u{feff}", "within a text they are of it");
        assert_eq!((read(b""), read("\u{feff}".as_bytes())), (String::new(), String::new()));
    }

    #[test]
    fn other_encodings_are_named() {
        let said = |bytes: &[u8]| of_bytes(bytes).unwrap_err().to_string();
        let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        let little = |text: &str| units(text).iter().flat_map(|u| u.to_le_bytes()).collect::<Vec<_>>();
        let big = |text: &str| units(text).iter().flat_map(|u| u.to_be_bytes()).collect::<Vec<_>>();
        for text in ["\u{feff}[stages.a]", "name = 1"] {
            for bytes in [little(text), big(text)] {
                assert_eq!(said(&bytes), "it is encoded as UTF-16; save it as UTF-8");
            }
        }
        assert!(said(&[0xff, 0xfe, 0, 0, b'a', 0, 0, 0]).contains("UTF-32"));
        assert_eq!(said(b"a\nb\nh\xe9"), "line 3 is not UTF-8: it contains the byte 0xE9; save it as UTF-8");
    }
}
