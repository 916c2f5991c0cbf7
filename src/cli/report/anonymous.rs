//! `erw report --anonymous`: leaves paths, host and user out of every text of a page.

use erw_runner::host::{host, user};
use std::path::{Path, PathBuf};

/// What stands for something left out.
pub const LEFT_OUT: &str = "…";

/// Finds what is to be left out.
pub struct Anonymous {
    /// Folders whose names may contain white space, the longest first.
    folders: Vec<String>,
    /// Host and user, here and of past runs.
    words: Vec<String>,
}

impl Anonymous {
    /// `folders` and `words` are left out beside the folders, host and user of this process.
    pub fn new(folders: &[&Path], words: impl IntoIterator<Item = String>) -> Self {
        let own = [std::env::current_dir().ok(), std::env::var_os("HOME").map(PathBuf::from)].into_iter().flatten();
        let all = own.chain(folders.iter().map(|f| f.to_path_buf()));
        let whole = all.flat_map(|f| [f.canonicalize().unwrap_or_else(|_| f.clone()), f]);
        let mut folders: Vec<String> =
            whole.filter(|f| f.is_absolute() && f.parent().is_some()).map(|f| f.display().to_string()).collect();
        folders.sort_by_key(|f| std::cmp::Reverse(f.len()));
        folders.dedup();
        let mut words: Vec<String> = words.into_iter().chain([host(), user()]).filter(|w| w.len() > 1).collect();
        words.sort_by_key(|w| std::cmp::Reverse(w.len()));
        words.dedup();
        Self { folders, words }
    }

    /// The text without them.
    pub fn clean(&self, text: &mut String) {
        for folder in &self.folders {
            if text.contains(folder.as_str()) {
                // What follows within the folder is found below, behind its slash.
                *text = text.replace(folder.as_str(), LEFT_OUT);
            }
        }
        *text = without_paths(text);
        for word in &self.words {
            *text = without_word(text, word);
        }
    }
}

/// Without absolute paths, and without what follows a folder that was left out.
fn without_paths(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "\"'`<>|,;()[]{}".contains(c);
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let follows = rest.chars().nth(1).is_some_and(|n| n.is_alphanumeric() || "._-~".contains(n));
        let is_root = !(before.is_alphanumeric() || "._-/".contains(before)) || out.ends_with("file://");
        let starts = c == '/' && follows && is_root;
        if starts || c == '~' && rest.chars().nth(1) == Some('/') {
            let end = rest.find(ends).unwrap_or(rest.len());
            if before != '…' {
                out.push_str(LEFT_OUT);
            }
            rest = &rest[end..];
            before = ' ';
            continue;
        }
        out.push(c);
        before = c;
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Without a word that is no part of a longer one.
fn without_word(text: &str, word: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut last = None;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let is_whole = !is_part(before.chars().last().or(last)) && !is_part(after.chars().next());
        out.push_str(before);
        out.push_str(if is_whole { LEFT_OUT } else { word });
        last = word.chars().last();
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        let folders = vec!["/home/ann lee/erw".to_string()];
        let mut text = text.to_string();
        Anonymous { folders, words: vec!["node-7".into(), "ann".into()] }.clean(&mut text);
        text
    }

    #[test]
    fn paths_host_and_user_are_left_out_and_nothing_else() {
        assert_eq!(cleaned("/home/ann lee/erw/data/x.png is no image"), "… is no image");
        assert_eq!(cleaned("read `/data/set/a.zip`: line 3"), "read `…`: line 3");
        assert_eq!(cleaned("file:///data/x and ~/notes, source=/data/x"), "file://… and …, source=…");
        assert_eq!(cleaned("ann@node-7 ran it; annual, node-71"), "…@… ran it; annual, node-71");
        let plain = "SiT-XL/2 at 3 images/s, 3 / 4, https://example.org/a";
        assert_eq!(cleaned(plain), plain);
    }
}
