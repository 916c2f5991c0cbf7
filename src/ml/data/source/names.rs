//! Normalises names in archives and lists to the form `a/b.png`. Programs also write `./a/b.png`,
//! `a//b.png` or, on Windows, `a\b.png`. Names that lead outside are refused; nobody writes them by
//! accident.

/// The normal form of a name. `backslashes` says whether `\` is a separator.
pub fn normal(name: &str, backslashes: bool) -> Result<String, &'static str> {
    let name = if backslashes { name.replace('\\', "/") } else { name.to_string() };
    if name.starts_with('/') {
        return Err("leads outside: it is absolute");
    }
    if matches!(name.as_bytes(), [drive, b':'] | [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic()) {
        return Err("leads outside: it names a drive");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err("leads outside: it contains `..`");
    }
    if parts.is_empty() { Err("is empty") } else { Ok(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn one_file_has_one_name() {
        for name in ["a/b.png", "./a/b.png", "a//b.png", "a/./b.png", "././a/.//b.png", "a/b.png/"] {
            assert_eq!(normal(name, false).as_deref(), Ok("a/b.png"), "{name}");
        }
        for name in [r"a\b.png", r".\a\b.png", r"a\\b.png", r"a/.\b.png"] {
            assert_eq!(normal(name, true).as_deref(), Ok("a/b.png"), "{name}");
        }
        assert_eq!(normal(r"a\b.png", false).as_deref(), Ok(r"a\b.png"));
        assert_eq!(normal("c:x..png", false).as_deref(), Ok("c:x..png"));
        for name in
            ["/a.png", "//server/share/a.png", "../a.png", "a/../b.png", "a/..", "C:/a.png", "c:", "", ".", "./"]
        {
            assert!(normal(name, false).is_err(), "{name}");
        }
        for name in [r"\a.png", r"\\server\a.png", r"..\a.png", r"a\..\b.png", r"C:\a.png"] {
            assert!(normal(name, true).is_err(), "{name}");
        }
    }
}
