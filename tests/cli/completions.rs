//! Completion: what a shell is told on a line, and that bash, zsh and fish understand it.

use crate::support::skip;
use crate::support::space::{Said, Space};
use erw::cli;
use erw::cli::completions::completes;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Two programs, of which one is swept.
const TWO: &str = r#"
[params]
size = 3
[stages.words]
kind = "command"
run = "echo {params.size} > {outputs.list}; echo > {outputs.more}"
outputs = { list = "text", more = "text" }
params = { size = 1, mode = "fast" }
[stages.score-all]
kind = "command"
run = "echo '{\"s\": 1}' > {outputs.metrics}"
inputs = { words = "words.list" }
outputs = { metrics = "metrics" }
params = { weight = 2 }
[sweep]
"score-all.weight" = [1, 2]
"words.mode" = ["fast", "slow"]
"#;

/// What follows on a line whose last word is being typed, as fish asks for it.
fn said(space: &Space, words: &[&str]) -> Said {
    let mut command = space.command(&[]);
    command.env("ERW_COMPLETE", "fish").args(["--", "erw"]).args(words);
    Said::from(command.output().unwrap())
}

/// The candidates, without what they mean.
fn complete(space: &Space, words: &[&str]) -> Vec<String> {
    let said = said(space, words);
    assert_eq!(said.stderr, "", "{words:?}");
    said.stdout.lines().map(|line| line.split('\t').next().unwrap_or_default().to_string()).collect()
}

#[test]
fn names_of_the_pipeline_on_the_line_complete() {
    let space = Space::of(&[("two.toml", TWO), ("notes.txt", ""), ("sub/x.toml", "")]);
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", ""], &["two.toml", "sub/"]),
        (&["run", "two.toml", ""], &["words", "score-all"]),
        (&["run", "two.toml", "words", "sc"], &["score-all"]),
        (&["run", "two.toml", "score-all@weight=1"], &["score-all@weight=1,mode=fast", "score-all@weight=1,mode=slow"]),
        (&["why", "two.toml:w"], &["two.toml:words"]),
        (&["show", "two.toml:words."], &["two.toml:words.list", "two.toml:words.more"]),
        (&["export", "two.toml", "words.m"], &["words.more"]),
        (&["run", "two.toml", "--force", "w"], &["words"]),
        (&["run", "two.toml", "--force=w"], &["--force=words"]),
        // Options first.
        (&["run", "--force", "words", "two.toml", "s"], &["score-all"]),
        (&["run", "two.toml", "--set", ""], &["size=", "words.", "score-all."]),
        (&["run", "two.toml", "--set", "words.s"], &["words.size="]),
        (&["run", "two.toml", "--set", "score-all.i"], &["score-all.inputs.words="]),
        (&["run", "two.toml", "--set", "score-all.inputs.words="], &["score-all.inputs.words=words"]),
        (&["run", "two.toml", "--axis", "words."], &["words.size=", "words.mode="]),
        (&["sweep", "two.toml", "--trial", "weight=2"], &["weight=2,mode=fast", "weight=2,mode=slow"]),
        (
            &["sweep", "two.toml", "--axis", "words.size=1", "--trial", "weight=2,mode=s"],
            &["weight=2,mode=slow,size=1"],
        ),
        (&["sweep", "two.toml", "--over", ""], &["weight", "mode"]),
        (&["compare", "two.toml@weight=2"], &["two.toml@weight=2,mode=fast", "two.toml@weight=2,mode=slow"]),
        (&["compare", "two.toml", "r"], &["run:"]),
        (&["stages", "train-"], &["train-classifier", "train-encoder", "train-vae"]),
        (&["cache", "ls", "--kind", "comm"], &["command"]),
        (&["config", "get", "keep"], &["keep_going"]),
        (&["weights", "fetch", "sd-vae-ft-e"], &["sd-vae-ft-ema"]),
        (&["completions", "z"], &["zsh"]),
        (&["comp"], &["compare", "completions"]),
        (&["help", "comp"], &["compare", "completions"]),
        (&["help", "cache", "t"], &["tag"]),
        (&["help", "train-v"], &["train-vae"]),
        (&["run", "two.toml", "--dry"], &["--dry-run"]),
        (&["run", "--color", "a"], &["auto", "always"]),
    ];
    for (words, expected) in cases {
        assert_eq!(complete(&space, words), *expected, "{words:?}");
    }
}

#[test]
fn values_of_a_kind_complete() {
    let space = Space::of(&[]);
    std::os::unix::fs::symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines"), space.path("pipelines"))
        .unwrap();
    let set = |typed: &str| complete(&space, &["run", "pipelines/digits.toml", "--set", typed]);
    assert_eq!(set("train.precision=b"), ["train.precision=bf16"]);
    assert_eq!(set("train.ema"), ["train.ema_decay="]);
    assert_eq!(set("train.inputs.init="), ["train.inputs.init=warmup", "train.inputs.init=train"][..1]);
    assert_eq!(set("sample.sampler=sde"), ["sample.sampler=sde"]);
    let axis = complete(&space, &["sweep", "pipelines/digits.toml", "--axis", "train.precision=f32,b"]);
    assert_eq!(axis, ["train.precision=f32,bf16"]);
    let said = said(&space, &["run", "pipelines/ablation.toml", "fd-6"]);
    assert_eq!(said.stdout, "fd-600\tfid\n");
    let trials = complete(&space, &["run", "pipelines/ablation.toml", "train@rep"]);
    assert_eq!(trials, ["train@repa,seed=0", "train@repa,seed=1", "train@repa,seed=2"]);
}

#[test]
fn what_the_cache_and_the_settings_name_completes() {
    let space = Space::of(&[("two.toml", TWO)]);
    assert_eq!(complete(&space, &["log", "2"]), [""; 0]);
    assert!(!space.path("cache").exists(), "a cache was made");
    space.erw(&["run", "two.toml", "--plain"]).expect(0);
    space.erw(&["cache", "tag", "good", "two.toml"]).expect(0);
    assert_eq!(complete(&space, &["cache", "untag", ""]), ["good"]);
    let runs = complete(&space, &["log", "20"]);
    let listed = space.erw(&["log"]).expect(0).stdout;
    assert!(runs.len() == 1 && listed.contains(&runs[0]), "{runs:?}\n{listed}");
    assert_eq!(complete(&space, &["compare", "run:2"]), [format!("run:{}", runs[0])]);
    std::fs::rename(space.path("cache"), space.path("elsewhere")).unwrap();
    assert_eq!(complete(&space, &["log", "20"]), [""; 0]);
    assert_eq!(complete(&space, &["log", "--cache-dir", "elsewhere", "20"]), runs);
    let secret = "remote = \"s3://me:secret@host/x\"";
    space.write("erw.toml", &format!("[default]\ncache_dir = \"elsewhere\"\n[night]\njobs = 3\n[gpu]\n{secret}\n"));
    // erw refuses passwords that others can read.
    let close = |name| std::fs::set_permissions(space.path(name), PermissionsExt::from_mode(0o600)).unwrap();
    close("erw.toml");
    assert_eq!(complete(&space, &["log", "20"]), runs);
    assert_eq!(complete(&space, &["run", "two.toml", "--profile", ""]), ["gpu", "night"]);
    assert_eq!(complete(&space, &["run", "two.toml", "--remote", "s"]), [""; 0]);
    // Remotes of a project count only where it is trusted; those of the system always.
    space.write(
        "system.toml",
        &format!("[default]\nremote = \"file:///r\"\n[gpu]\n{secret}\n[night]\nremote = \"s3://b\"\n"),
    );
    close("system.toml");
    let mut asks = space.command(&[]);
    asks.env("ERW_COMPLETE", "fish").env("ERW_SYSTEM_CONFIG", space.path("system.toml"));
    asks.args(["--", "erw", "run", "--remote", ""]);
    assert_eq!(Said::from(asks.output().unwrap()).stdout, "file:///r\ns3://b\n");
}

#[test]
fn what_cannot_be_read_completes_nothing_and_says_nothing() {
    let space = Space::of(&[("broken.toml", "[stages.a\n"), ("unknown.toml", "[stages.a]\nkind = \"trian\"\n")]);
    space.write("erw.toml", "[default\n");
    let cases: &[&[&str]] = &[
        &["run", "broken.toml", "a"],
        &["run", "unknown.toml", "a"],
        &["run", "missing.toml", "a"],
        &["run", "broken.toml", "--set", "a"],
        &["sweep", "unknown.toml", "--trial", "a"],
        &["why", "broken.toml:a"],
        &["log", "2"],
        &["run", "--profile", "x"],
        &["nonsense", "x"],
    ];
    for words in cases {
        assert_eq!(complete(&space, words), [""; 0], "{words:?}");
    }
}

/// A new argument is given something to complete, or is named here as free.
#[test]
fn every_argument_completes_or_is_free() {
    const FREE: [&str; 25] = [
        "ACCOUNT",
        "CONDITION",
        "CONFIG",
        "DEVICE",
        "GPUS",
        "JOBS",
        "K",
        "LOAD",
        "METRIC",
        "N",
        "NAME",
        "NAME=N",
        "NUMBER",
        "PART",
        "PIXELS",
        "Q",
        "REVISION",
        "RULE",
        "SIZE",
        "TEXT",
        "THREADS",
        "TIME",
        "WHAT",
        "SET",
        "RANK",
    ];
    fn look(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        let takes = |arg: &&clap::Arg| arg.get_num_args().is_some_and(|n| n.takes_values()) && !arg.is_hide_set();
        for arg in command.get_arguments().filter(takes) {
            let name = arg.get_value_names().map_or(String::new(), |names| names[0].to_string());
            let known = completes(arg).is_some()
                || arg.get_value_hint() != clap::ValueHint::Unknown
                || !arg.get_possible_values().is_empty();
            if !known && !FREE.contains(&name.as_str()) {
                missing.push(format!("{path} {} <{name}>", arg.get_id()));
            }
        }
        for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            look(below, &format!("{path} {}", below.get_name()), missing);
        }
    }
    let mut command = cli::command();
    command.build();
    let mut missing = vec![];
    look(&command, "erw", &mut missing);
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The script for a shell, for the program that is tested.
fn script(space: &Space, shell: &str) -> String {
    space.erw(&["completions", shell]).expect(0).stdout
}

/// What a shell says when it runs this, or nothing where it is not installed.
fn shell(space: &Space, name: &str, text: &str) -> Option<String> {
    let mut command = Command::new(name);
    command.args(["-c", text]).current_dir(space.path("")).env("HOME", space.path("")).env("ERW_SYSTEM_CONFIG", "");
    match command.output() {
        Ok(out) => {
            assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{name}");
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        }
        Err(_) => {
            skip(&format!("{name} is not installed"));
            None
        }
    }
}

#[test]
fn bash_replaces_what_is_behind_its_breaks() {
    let space = Space::of(&[("two.toml", TWO)]);
    space.write("erw.bash", &script(&space, "bash"));
    // As bash fills these in: words are broken at `=`, `:` and `@`.
    let ask = |words: &str, at: usize, typed: &str| {
        let text = format!(
            "source erw.bash; COMP_WORDS=({words}); COMP_CWORD={at}; _erw erw '{typed}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        shell(&space, "bash", &text).map(|said| said.lines().map(String::from).collect::<Vec<_>>())
    };
    let Some(stages) = ask("erw run two.toml ''", 3, "") else { return };
    assert_eq!(stages, ["words", "score-all"]);
    assert_eq!(ask("erw run two.toml --set words.si", 4, "words.si").unwrap(), ["words.size="]);
    assert_eq!(ask("erw run two.toml --set score-all.inputs.words = ''", 6, "").unwrap(), ["words"]);
    assert_eq!(ask("erw run two.toml --set score-all.inputs.words =", 5, "").unwrap(), ["words"]);
    assert_eq!(ask("erw why two.toml : sc", 4, "sc").unwrap(), ["score-all"]);
    assert_eq!(ask("erw run two.toml score-all @ weight = 2,mode = f", 9, "f").unwrap(), ["fast"]);
    // A name after `@` it replaces with the `@`.
    let trials = ["@weight=1,mode=fast", "@weight=1,mode=slow", "@weight=2,mode=fast", "@weight=2,mode=slow"];
    assert_eq!(ask("erw run two.toml score-all @ we", 5, "@we").unwrap(), trials);
    assert_eq!(ask("erw run missing.toml x", 3, "x").unwrap(), [""]);
}

#[test]
fn bash_is_given_names_with_blanks_in_quotes() {
    let space = Space::of(&[("q r.toml", TWO), ("d x/s.toml", TWO), ("$y'.toml", TWO)]);
    space.write("erw.bash", &script(&space, "bash"));
    // `words` and `typed` are as on the line; what is inserted is read as bash reads a line.
    let ask = |words: &[&str], typed: &str| {
        let quoted = words.iter().map(|word| format!(" '{}'", word.replace('\'', r"'\''"))).collect::<String>();
        let text = format!(
            "source erw.bash; COMP_WORDS=(erw run{quoted}); COMP_CWORD={}; _erw erw '{typed}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"; eval \"printf '<%s>' ${{COMPREPLY[0]}}\"",
            words.len() + 1
        );
        shell(&space, "bash", &text)
    };
    let Some(file) = ask(&["q"], "q") else { return };
    assert_eq!(file, "q\\ r.toml\n<q r.toml>");
    assert_eq!(ask(&["$"], "$").unwrap(), "\\$y\\'.toml\n<$y'.toml>");
    assert_eq!(ask(&["d"], "d").unwrap(), "d\\ x/\n<d x/>");
    // What was inserted goes on.
    assert_eq!(ask(&["d\\ x/"], "d\\ x/").unwrap(), "d\\ x/s.toml\n<d x/s.toml>");
    assert_eq!(ask(&["q\\ r"], "q\\ r").unwrap(), "q\\ r.toml\n<q r.toml>");
    assert_eq!(ask(&["q\\ r.toml", "w"], "w").unwrap(), "words\n<words>");
    // Behind a quote, bash inserts it as it is.
    assert_eq!(ask(&["\"q"], "q").unwrap(), "q r.toml\n<q><r.toml>");
}

#[test]
fn zsh_adds_no_space_to_what_goes_on() {
    let space = Space::of(&[("two.toml", TWO)]);
    space.write("erw.zsh", &script(&space, "zsh"));
    // The two functions of zsh's completion that the script calls.
    let stubs = "compdef() { }; _describe() { print -r -- \"${@[4,-1]}: ${(Pj:, :)3}\" }";
    let ask = |words: &str| {
        let text = format!("{stubs}; source erw.zsh; words=({words}); CURRENT=$#words; _erw");
        shell(&space, "zsh", &text)
    };
    let Some(stages) = ask("erw run two.toml ''") else { return };
    assert_eq!(stages, ": words:command, score-all:command\n");
    assert_eq!(ask("erw run two.toml --set ''").unwrap(), "-S : size=, words.:command, score-all.:command\n");
    assert_eq!(ask("erw why two.toml:w").unwrap(), ": two.toml\\:words:command\n");
    assert_eq!(ask("erw compare two.toml r").unwrap(), "-S : run\\:\n");
}

#[test]
fn fish_completes() {
    let space = Space::of(&[("two.toml", TWO)]);
    space.write("erw.fish", &script(&space, "fish"));
    let ask = |line: &str| shell(&space, "fish", &format!("source erw.fish; complete -C '{line}'"));
    let Some(stages) = ask("erw run two.toml ") else { return };
    assert_eq!(stages, "words\tcommand\nscore-all\tcommand\n");
    assert_eq!(
        ask("erw run two.toml --set score-all.inputs.words=").unwrap(),
        "score-all.inputs.words=words\tcommand\n"
    );
    assert_eq!(ask("erw run missing.toml x").unwrap(), "");
}
