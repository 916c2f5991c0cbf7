//! Help: every subcommand has an example that it takes, options stand under headings, `erw help`
//! leads to both subcommands and kinds, and one decision gives all of it colour.

use crate::docs::words;
use crate::support::space::Space;
use erw::cli;

/// Every subcommand that is shown, with its path.
fn subcommands() -> Vec<(String, clap::Command)> {
    fn look(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
        all.push((path.to_string(), command.clone()));
        for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            look(below, &format!("{path} {}", below.get_name()), all);
        }
    }
    let mut command = cli::command();
    command.build();
    let mut all = vec![];
    look(&command, "erw", &mut all);
    assert!(all.len() > 50, "{}", all.len());
    all
}

#[test]
fn every_subcommand_has_an_example_that_it_takes() {
    for (path, mut command) in subcommands() {
        for text in [command.render_help().to_string(), command.render_long_help().to_string()] {
            let examples =
                text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{path} has no example\n{text}")).1;
            let examples: Vec<&str> = examples.lines().take_while(|line| line.starts_with("  ")).collect();
            // One of its own, or of a subcommand of it.
            assert!(examples.iter().any(|line| line.trim().starts_with(&path)), "{path}: {examples:?}");
            for line in examples {
                assert!(line.chars().count() <= 100, "{path}: {line}");
                if let Err(e) = cli::command().try_get_matches_from(words(line.trim())) {
                    panic!("{path}: {line}\n{e}");
                }
            }
        }
    }
}

#[test]
fn options_stand_under_headings() {
    let run = subcommands().into_iter().find(|(path, _)| path == "erw run").unwrap().1;
    let heading = |id: &str| run.get_arguments().find(|arg| arg.get_id() == id).unwrap().get_help_heading();
    assert_eq!(heading("set"), Some("Values of the pipeline"));
    assert_eq!(heading("mem"), Some("Resources"));
    assert_eq!(heading("partition"), Some("Jobs of a cluster"));
    assert_eq!(heading("cache_dir"), Some("Global options"));
    // The same everywhere, and none is left over.
    for (path, command) in subcommands() {
        for id in ["cache_dir", "profile", "remote", "color"] {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
            assert_eq!(arg.get_help_heading(), Some("Global options"), "{path} {id}");
        }
    }
}

#[test]
fn help_leads_to_subcommands_and_kinds() {
    let space = Space::of(&[]);
    let said = |words: &[&str]| space.erw(words).expect(0).stdout;
    assert_eq!(said(&["help", "run"]), said(&["run", "--help"]));
    assert_eq!(said(&["help", "cache", "gc"]), said(&["cache", "gc", "--help"]));
    assert_eq!(said(&["help"]), said(&["--help"]));
    assert_eq!(said(&["help", "train"]), said(&["stages", "train"]));
    // A subcommand comes first.
    assert_eq!(said(&["help", "weights"]), said(&["weights", "--help"]));
    let unknown = |words: &[&str]| space.erw(words).expect(2).stderr;
    assert_eq!(
        unknown(&["help", "trian"]),
        "error: no subcommand and no kind is called `trian`\nhint: did you mean `train`?\n"
    );
    assert!(unknown(&["help", "cache", "xyzzy"]).contains("called `cache xyzzy`"));
}

#[test]
fn one_decision_gives_colour_to_all() {
    let space = Space::of(&[("p.toml", "[stages.a\n")]);
    let coloured = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command = space.command(words);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let out = command.envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
        assert!(!text.is_empty());
        text.contains('\x1b')
    };
    // An error of ours, one of the command line, and help.
    for words in [&["plan", "p.toml"][..], &["plan", "--nonsense"], &["plan", "--help"], &["help", "plan"]] {
        let with = |more: &[&str], variables: &[(&str, &str)]| coloured(&[words, more].concat(), variables);
        assert!(!with(&[], &[]), "{words:?}: no terminal");
        assert!(with(&[], &[("CLICOLOR_FORCE", "1")]), "{words:?}");
        assert!(!with(&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), "{words:?}");
        assert!(with(&[], &[("ERW_COLOUR", "always"), ("NO_COLOR", "1")]), "{words:?}");
        assert!(!with(&[], &[("ERW_COLOUR", "never"), ("CLICOLOR_FORCE", "1")]), "{words:?}");
        if words[0] == "plan" {
            assert!(with(&["--color", "always"], &[("NO_COLOR", "1")]), "{words:?}");
            assert!(with(&["--color=always"], &[("ERW_COLOUR", "never")]), "{words:?}");
            assert!(!with(&["--color=never"], &[("CLICOLOR_FORCE", "1"), ("ERW_COLOUR", "always")]), "{words:?}");
            assert!(!with(&["--color=auto"], &[("ERW_COLOUR", "always")]), "{words:?}");
        }
    }
    assert!(coloured(&["--color", "always", "help", "plan"], &[]));
    let said = space.erw(&["plan", "p.toml", "--color", "sometimes"]).expect(2).stderr;
    assert!(said.contains("'sometimes'") && said.contains("auto, always, never"), "{said}");
}

/// A hint begins with what to do or with a fact, never with a bare command; it is no sentence of
/// its own, and the renderer says that it is a hint.
#[test]
fn hints_are_of_one_voice() {
    let literal = |text: &str| -> String {
        let end = text.char_indices().scan(false, |escaped, (at, c)| {
            let ends = c == '"' && !*escaped;
            *escaped = c == '\\' && !*escaped;
            Some((at, ends))
        });
        let end = end.into_iter().find(|(_, ends)| *ends).map_or(text.len(), |(at, _)| at);
        text[..end].to_string()
    };
    let (mut bad, mut seen) = (vec![], 0);
    for entry in walkdir::WalkDir::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).sort_by_file_name() {
        let path = entry.unwrap().into_path();
        if path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for call in [".hint(", "hints.push(", "maybe_hint("] {
            for (at, _) in text.match_indices(call) {
                let rest = text[at + call.len()..].trim_start();
                let rest = rest.strip_prefix("format!(").unwrap_or(rest).trim_start();
                let Some(hint) = rest.strip_prefix('"').map(literal) else { continue };
                seen += 1;
                let first = hint.chars().next().unwrap_or_default();
                let labelled = ["hint", "help", "note", "try:", "please"].iter().any(|word| hint.starts_with(word));
                if first == '`' || first.is_uppercase() && !hint.starts_with("HF_") || hint.ends_with('.') || labelled {
                    bad.push(format!("{}: {hint}", path.display()));
                }
            }
        }
    }
    assert!(seen > 200, "only {seen} hints were found");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
