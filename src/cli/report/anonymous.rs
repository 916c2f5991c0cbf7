//! `erw report --anonymous`: leaves paths, host and user out of every text of a page.

use erw_runner::host::{host, user};
use std::path::{Path, PathBuf};

/// What stands for something left out.
pub const LEFT_OUT: &str = "…";

/// Finds what is to be left out.
pub struct Anonymous {
    /// Files and folders whose names may contain white space, the longest first.
    folders: Vec<String>,
    /// Host and user, here and of past runs.
    words: Vec<String>,
}

impl Anonymous {
    /// `folders`, `paths` as they are written and `words` are left out beside the folders, host and
    /// user of this process.
    pub fn new(folders: &[&Path], paths: &[&str], words: impl IntoIterator<Item = String>) -> Self {
        let own = [std::env::current_dir().ok(), std::env::var_os("HOME").map(PathBuf::from)].into_iter().flatten();
        let all = own.chain(folders.iter().map(|f| f.to_path_buf())).chain(paths.iter().map(PathBuf::from));
        let whole = all.flat_map(|f| [f.canonicalize().unwrap_or_else(|_| f.clone()), f]);
        let folders = whole.filter(|f| f.is_absolute() && f.parent().is_some()).map(|f| f.display().to_string());
        let written =
            paths.iter().map(|path| path.trim_end_matches('/').to_string()).filter(|path| !path.starts_with('/'));
        Self {
            folders: longest_first(folders.chain(written)),
            words: longest_first(words.into_iter().chain([host(), user()])),
        }
    }

    /// The text without them.
    pub fn clean(&self, text: &mut String) {
        for folder in self.folders.iter().filter(|folder| text.contains(folder.as_str())).collect::<Vec<_>>() {
            // What follows within the folder is found below, behind its slash.
            *text = if folder.starts_with('/') {
                text.replace(folder.as_str(), LEFT_OUT)
            } else {
                without_relative(text, folder)
            };
        }
        *text = without_paths(text);
        for word in &self.words {
            *text = without_word(text, word, &|_, _| true);
        }
    }
}

/// So that no part of a longer one is left when a shorter one is gone.
fn longest_first(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = all.filter(|text| text.len() > 1).collect();
    all.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    all.dedup();
    all
}

/// Without a relative path; a plain word such as `data` is one only between quotes or before a slash.
fn without_relative(text: &str, path: &str) -> String {
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    let is_quoted = |c: Option<char>| c.is_some_and(|c| "`'\"".contains(c));
    let is_path = |before: Option<char>, after: Option<char>| {
        !is_plain || after == Some('/') || is_quoted(before) && is_quoted(after)
    };
    without_word(text, path, &is_path)
}

/// Without absolute paths, and without what follows a folder that was left out.
fn without_paths(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut before = ' ';
    while let Some(c) = rest.chars().next() {
        let follows = rest.chars().nth(1).is_some_and(|n| n.is_alphanumeric() || "._-~".contains(n));
        let is_root = !(before.is_alphanumeric() || "._-/".contains(before)) || out.ends_with("file://");
        let starts = c == '/' && follows && is_root;
        if starts || c == '~' && rest.chars().nth(1) == Some('/') {
            let end = end_of_path(&out, rest);
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

/// Where a path ends: at a quote if it began at one; within a folder that was left out, behind the
/// last slash before a colon or another path, as names may contain white space; else at white space.
fn end_of_path(out: &str, rest: &str) -> usize {
    let ends = |c: char| c.is_whitespace() || "\"'`<>|,;()[]{}".contains(c);
    let (folder, line) = (out.strip_suffix(LEFT_OUT), rest.split('\n').next().unwrap_or(rest));
    let quote = folder.unwrap_or(out).chars().last().filter(|c| "`'\"".contains(*c));
    if let Some(end) = quote.and_then(|quote| line.find(quote)) {
        return end;
    }
    let mut start = 0;
    if folder.is_some() {
        let stops =
            ["\"", "'", "`", "<", ">", "|", ",", ";", "(", ")", "[", "]", "{", "}", ": ", " /", " ~/", "=", LEFT_OUT];
        let whole = &line[..stops.iter().filter_map(|stop| line.find(stop)).min().unwrap_or(line.len())];
        start = whole.rfind('/').unwrap_or(0);
    }
    let end = rest[start..].find(ends).map_or(rest.len(), |at| start + at);
    rest[..end].trim_end_matches(':').len()
}

/// Without a word that is no part of a longer one, where the characters around it are as they should.
fn without_word(text: &str, word: &str, fits: &dyn Fn(Option<char>, Option<char>) -> bool) -> String {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    let mut last = None;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let around = (before.chars().last().or(last), after.chars().next());
        let is_whole = !is_part(around.0) && !is_part(around.1) && fits(around.0, around.1);
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
    fn paths_of_parameters_are_left_out_whole() {
        let paths = ["/tmp/x/patient John Doe", "own/John Doe", "scans", "/tmp/x"];
        let anonymous = Anonymous::new(&[], &paths, []);
        let cleaned = |text: &str| {
            let mut text = text.to_string();
            anonymous.clean(&mut text);
            text
        };
        assert_eq!(cleaned("/tmp/x/patient John Doe/a/scan.png: not readable"), "…: not readable");
        assert_eq!(cleaned("`/tmp/x/patient John Doe/a b/scan 1.png` is no image"), "`…` is no image");
        assert_eq!(cleaned("no /tmp/x/other folder/a.png and /tmp/x/b"), "no … and …");
        assert_eq!(cleaned("own/John Doe/a.png, `scans`, scans/a.png"), "…, `…`, …");
        assert_eq!(cleaned("4 scans of own/Jo"), "4 scans of own/Jo");
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
