//! The line that is being typed: which pipeline, cache folder and profile it names. It is not
//! parsed as a command line, since it is not complete. Does not know subcommands.

use super::scripts;
use crate::common::pipeline_args::{file_and_stage, values_of};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The words of a line.
#[derive(Debug, Clone, Default)]
pub struct Line {
    words: Vec<String>,
    /// The word at which the cursor is.
    at: usize,
}

impl Line {
    /// The line with which a script asks: what follows `--`.
    pub fn of(args: &[OsString]) -> Self {
        let start = args.iter().position(|arg| arg == "--").map_or(args.len(), |at| at + 1);
        let words: Vec<OsString> = args.get(start..).unwrap_or_default().to_vec();
        let at = scripts::index().unwrap_or(words.len().saturating_sub(1));
        let (words, at) = match scripts::splits_words() {
            true => {
                let joined = scripts::joined(&words, at, "");
                (joined.words, joined.at)
            }
            false => (words, at),
        };
        Self { words: words.iter().map(|word| plain(&word.to_string_lossy())).collect(), at }
    }

    /// The word at the cursor.
    pub fn current(&self) -> &str {
        self.words.get(self.at).map_or("", String::as_str)
    }

    /// The words other than the one at the cursor.
    pub fn others(&self) -> impl Iterator<Item = &str> + Clone {
        self.words.iter().enumerate().filter(|(i, _)| *i != self.at).map(|(_, word)| word.as_str())
    }

    /// The first pipeline on the line, written alone or with a stage.
    pub fn pipeline(&self) -> Option<PathBuf> {
        let file = |word: &str| {
            let parted = file_and_stage(word).map(|(file, _)| file);
            let found = [Some(word), parted].into_iter().flatten().find(|file| is_pipeline(Path::new(file)))?;
            Some(PathBuf::from(found))
        };
        self.others().skip(1).find_map(file)
    }

    /// The values of a flag.
    pub fn values(&self, flag: &str) -> Vec<String> {
        values_of(flag, self.others())
    }
}

/// Whether a file is there and may be a pipeline.
pub fn is_pipeline(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "toml") && file.is_file()
}

/// A word without quotes, and with the home for `~`; enough of a shell for names of files.
fn plain(word: &str) -> String {
    let bare = scripts::bare(word);
    match (bare.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(rest), Ok(home)) => format!("{home}/{rest}"),
        _ => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_pipeline_and_flags() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(&file, "").unwrap();
        let name = file.to_str().unwrap();
        let line = |words: &[&str], at| Line { words: words.iter().map(|w| w.to_string()).collect(), at };
        assert_eq!(line(&["erw", "run", name, "tr"], 3).pipeline(), Some(file.clone()));
        assert_eq!(line(&["erw", "run", "--set", "a", &format!("{name}:b")], 3).pipeline(), Some(file.clone()));
        assert_eq!(line(&["erw", "run", name], 2).pipeline(), None, "it is still being typed");
        let flags = line(&["erw", "--axis", "a=1", "run", "--axis=b=2", "--axis"], 5);
        assert_eq!(flags.values("--axis"), ["a=1", "b=2"]);
        assert_eq!(plain("'a b.toml'"), "a b.toml");
    }
}
