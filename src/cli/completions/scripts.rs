//! What shells run to ask. clap's own scripts serve elvish, fish and PowerShell. For bash and zsh
//! there are others: a name that goes on, such as `train.` or `train.steps=`, must not be followed
//! by a space; and bash breaks a word at `=`, `:` and `@`, which has to be undone before the line
//! is understood, and inserts what it is told without quoting it.

use clap_complete::engine;
use clap_complete::env::EnvCompleter;
use std::ffi::{OsStr, OsString};
use std::io::{Error, Write};
use std::path::Path;

/// The variable by which a script says that it asks, and for which shell.
pub const VARIABLE: &str = "ERW_COMPLETE";
/// The variable with the number of the word at the cursor.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";

/// The variable with the part of that word that bash replaces.
const TYPED: &str = "ERW_COMPLETE_TYPED";

/// The number of the word at the cursor, if the shell says it; otherwise it is the last.
pub fn index() -> Option<usize> {
    std::env::var(INDEX).ok()?.parse().ok()
}

/// Whether the shell that asks breaks words.
pub fn splits_words() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|shell| Path::new(&shell).file_stem() == Some(OsStr::new("bash")))
}

/// A script of ours.
pub struct Script {
    shell: &'static str,
    text: &'static str,
}

pub const BASH: Script = Script { shell: "bash", text: BASH_TEXT };
pub const ZSH: Script = Script { shell: "zsh", text: ZSH_TEXT };

const BASH_TEXT: &str = r#"_erw() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(VARIABLE=bash INDEX="$COMP_CWORD" TYPED="$2" PROGRAM -- "${COMP_WORDS[@]}" 2>/dev/null)
    if [[ "${COMPREPLY[0]-}" =~ [=/:.@]$ ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o nosort -F _erw erw 2>/dev/null || complete -F _erw erw
"#;

const ZSH_TEXT: &str = r##"#compdef erw
_erw() {
    local -a found going whole
    local line value
    found=("${(@f)$(VARIABLE=zsh _CLAP_IFS=$'\n' INDEX=$((CURRENT - 1)) PROGRAM -- "${words[@]}" 2>/dev/null)}")
    for line in $found; do
        value=${${line//\\:/$'\1'}%%:*}
        if [[ $value == *[/=.@$'\1'] ]]; then
            going+=("$line")
        else
            whole+=("$line")
        fi
    done
    [[ -n $going ]] && _describe -V 'values' going -S ''
    [[ -n $whole ]] && _describe -V 'values' whole
}
if [[ ${funcstack[1]} == _erw ]]; then
    _erw "$@"
else
    compdef _erw erw
fi
"##;

impl EnvCompleter for Script {
    fn name(&self) -> &'static str {
        self.shell
    }
    fn is(&self, name: &str) -> bool {
        name == self.shell
    }
    fn write_registration(
        &self,
        variable: &str,
        _: &str,
        _: &str,
        program: &str,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        out.write_all(filled(self.text, variable, program).as_bytes())
    }
    fn write_complete(
        &self,
        command: &mut clap::Command,
        words: Vec<OsString>,
        here: Option<&Path>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        if self.shell == ZSH.shell {
            return clap_complete::env::Zsh.write_complete(command, words, here, out);
        }
        let joined = joined(&words, index().unwrap_or_default(), &std::env::var(TYPED).unwrap_or_default());
        // As the shell would pass them.
        let passed = joined.words.into_iter().map(|word| match word.to_str() {
            Some(text) => bare(text).into(),
            None => word,
        });
        let (before, is_quoted) = (bare(&joined.before), ends_in_quotes(&joined.before));
        for candidate in engine::complete(command, passed.collect(), joined.at, here)? {
            let value = candidate.get_value().to_string_lossy();
            let rest = value.strip_prefix(before.as_str()).unwrap_or(&value);
            writeln!(out, "{}", if is_quoted { rest.into() } else { escaped(rest) })?;
        }
        Ok(())
    }
}

fn filled(script: &str, variable: &str, program: &str) -> String {
    let program = erw_runner::text::shell::quoted(program);
    script.replace("VARIABLE", variable).replace("INDEX", INDEX).replace("TYPED", TYPED).replace("PROGRAM", &program)
}

/// A word without quotes.
pub fn bare(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect()
}

/// A text that bash reads as one word.
fn escaped(text: &str) -> String {
    let is_special = |c: char| c.is_whitespace() || "'\"\\$`&;|<>()*?[]{}#!~".contains(c);
    text.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Whether a quote is open at the end of this.
fn ends_in_quotes(text: &str) -> bool {
    let mut quote = None;
    for c in text.chars().filter(|c| matches!(c, '\'' | '"')) {
        quote = match quote {
            None => Some(c),
            Some(open) if open == c => None,
            open => open,
        };
    }
    quote.is_some()
}

/// A line whose words are whole.
#[derive(Debug, PartialEq)]
pub struct Joined {
    pub words: Vec<OsString>,
    pub at: usize,
    /// What of the word at the cursor bash keeps: it replaces the rest.
    pub before: String,
}

/// Undoes what bash did to the words of a line. `typed` is what it will replace.
pub fn joined(words: &[OsString], at: usize, typed: &str) -> Joined {
    let is_break = |word: &OsStr| !word.is_empty() && word.to_string_lossy().chars().all(|c| "=:@".contains(c));
    let mut line = Joined { words: vec![], at: 0, before: String::new() };
    let mut goes_on = false;
    for (i, word) in words.iter().enumerate() {
        let breaks = is_break(word);
        match line.words.last_mut().filter(|_| i > 1 && (breaks || goes_on)) {
            Some(last) => last.push(word),
            None => line.words.push(word.clone()),
        }
        if i == at {
            line.at = line.words.len().saturating_sub(1);
            let whole = line.words.last().map_or("".into(), |word| word.to_string_lossy());
            line.before = whole.strip_suffix(typed).unwrap_or_default().into();
        }
        goes_on = breaks;
    }
    // The cursor is behind the last word.
    if at >= words.len() {
        line.at = line.words.len();
        line.words.push(OsString::new());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_bash_broke_are_whole_again() {
        let join = |words: &[&str], at, typed: &str| {
            let line = joined(&words.iter().map(OsString::from).collect::<Vec<_>>(), at, typed);
            let words: Vec<String> = line.words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
            (words.join(" "), line.at, line.before)
        };
        let case = |text: &str, at, before: &str| (text.to_string(), at, before.to_string());
        assert_eq!(join(&["erw", "run", "p.toml", "tr"], 3, "tr"), case("erw run p.toml tr", 3, ""));
        assert_eq!(join(&["erw", "run", "--set", "a.b", "=", "c"], 5, "c"), case("erw run --set a.b=c", 3, "a.b="));
        assert_eq!(join(&["erw", "run", "--set", "a.b", "="], 4, ""), case("erw run --set a.b=", 3, "a.b="));
        let flag = ["erw", "run", "--set", "=", "a.b", "=", "c", "x"];
        assert_eq!(join(&flag, 7, "x"), case("erw run --set=a.b=c x", 3, ""));
        assert_eq!(join(&flag, 6, "c"), case("erw run --set=a.b=c x", 2, "--set=a.b="));
        assert_eq!(join(&["erw", "logs", "p.toml", ":", "tr"], 4, "tr"), case("erw logs p.toml:tr", 2, "p.toml:"));
        let trial = ["erw", "logs", "p", "t", "@", "s", "=", "1"];
        assert_eq!(join(&trial, 7, "1"), case("erw logs p t@s=1", 3, "t@s="));
        // It replaces `@` with what follows.
        assert_eq!(join(trial.get(..6).unwrap(), 5, "@s"), case("erw logs p t@s", 3, "t"));
        assert_eq!(join(&["erw", "run"], 2, ""), case("erw run ", 2, ""));
    }

    #[test]
    fn what_bash_inserts_is_one_word() {
        assert_eq!(escaped("train@seed=1,mode=fast"), "train@seed=1,mode=fast");
        assert_eq!(escaped("q r's.toml"), r"q\ r\'s.toml");
        assert!(ends_in_quotes("\"q") && ends_in_quotes("a'\"") && !ends_in_quotes("\"q\"") && !ends_in_quotes("q"));
    }
}
