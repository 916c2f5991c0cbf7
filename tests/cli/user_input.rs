//! Forms of user input: files with BOM and CRLF, untyped numbers, metrics files without numbers,
//! names of stages and trials, and the cache folder of a project.

use crate::support::deadline::Deadline;
use crate::support::space::redact;
use crate::support::space::{Said, Space};
use serde_json::Value;
use std::fs;

/// `a` gives what `m` holds, as a result.
const MEASURED: &str = r#"
name = "mine"
[stages.a]
kind = "command"
run = """
cat m > {outputs.m}
echo {params.n} '
two lines'
"""
outputs = { m = "metrics" }
params = { n = 1, text = 'x', list = [1, 2] }
watch = ["m"]
[stages.b]
kind = "command"
run = ["cp", "{inputs.m}", "{outputs.o}"]
inputs = { m = "a" }
outputs = { o = "text" }
"#;

fn measured(numbers: &str) -> Space {
    Space::of(&[("p.toml", MEASURED), ("m", numbers)])
}

fn crlf(text: &str) -> String {
    text.replace('\n', "\r\n")
}

/// Stage and key of each stage, cached or run.
fn keys(space: &Space, file: &str) -> Vec<(String, String, String)> {
    let said = space.erw(&["run", file, "--json"]).expect(0);
    let events = said.stdout.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    events.filter(|e| e["event"] == "ended").map(|e| (text(&e["stage"]), text(&e["key"]), text(&e["state"]))).collect()
}

#[test]
fn pipelines_with_bom_and_crlf_are_read() {
    let space = measured("{\"acc\": 1}");
    let first = keys(&space, "p.toml");
    assert_eq!(first.len(), 2);
    let same = |what: &str| {
        let now = keys(&space, "p.toml");
        assert!(
            now.iter().zip(&first).all(|(a, b)| (&a.0, &a.1, a.2.as_str()) == (&b.0, &b.1, "cached")),
            "{what}: {now:?}"
        );
    };
    space.write("p.toml", &crlf(MEASURED));
    same("CR LF, within texts of several lines too");
    space.write("p.toml", &format!("\u{feff}{MEASURED}"));
    same("a byte order mark");
    space.write("p.toml", &format!("\u{feff}{}", crlf(MEASURED)));
    same("both");
    space.write("parent.toml", &format!("\u{feff}{}", crlf(MEASURED)));
    space.write("p.toml", "\u{feff}extends = \"parent.toml\"\r\nname = \"mine\"\r\n");
    same("parents");
    // A lock that git has given other ends of lines.
    space.run(&["--lock"]).expect(0);
    space.write("p.lock", &format!("\u{feff}{}", crlf(&space.read("p.lock"))));
    space.run(&["--locked"]).expect(0);
}

#[test]
fn error_positions_with_bom_and_crlf_match_editors() {
    for head in ["", "\u{feff}"] {
        let space = Space::new(&format!("{head}{}", crlf("name = \"p\"\n[stages.a]\nkind = \"comand\"\n")));
        let said = space.plan_fails();
        assert!(said.contains("p.toml:3:8"), "{said}");
        let space = Space::new(&format!("{head}{}", crlf("name = \"p\"\n[stages.a]\nkind == 1\n")));
        let said = space.plan_fails();
        assert!(said.contains("p.toml:3:7"), "{said}");
    }
}

#[test]
fn registries_and_lists_with_bom_and_crlf_are_read() {
    let registry =
        "[[entry]]\nname = \"net\"\nwhat = \"\"\"two\nlines\"\"\"\nas = \"vae\"\nlicence = \"MIT\"\nmanual = \"ask\"\n";
    let space = Space::of(&[("registry.toml", registry)]);
    let list = || {
        let mut command = space.command(&["weights", "list", "--json"]);
        let said = Said::from(command.env("ERW_REGISTRY", space.path("registry.toml")).finish()).expect(0);
        serde_json::from_str::<Value>(&said.stdout).unwrap()[0].clone()
    };
    let plain = list();
    assert_eq!((&plain["name"], &plain["what"]), (&"net".into(), &"two\nlines".into()));
    space.write("registry.toml", &format!("\u{feff}{}", crlf(registry)));
    assert_eq!(list(), plain);
}

trait Fails {
    fn plan_fails(&self) -> String;
}

impl Fails for Space {
    fn plan_fails(&self) -> String {
        self.erw(&["plan", "p.toml"]).expect(2).stderr
    }
}

#[test]
fn other_encodings_are_named() {
    let space = Space::of(&[("q.toml", "extends = \"p.toml\"\n")]);
    let units = |mark: &str| format!("{mark}{MEASURED}").encode_utf16().collect::<Vec<_>>();
    let little: Vec<u8> = units("\u{feff}").iter().flat_map(|u| u.to_le_bytes()).collect();
    let big: Vec<u8> = units("").iter().flat_map(|u| u.to_be_bytes()).collect();
    for bytes in [little, big] {
        fs::write(space.path("p.toml"), bytes).unwrap();
        for file in ["p.toml", "q.toml"] {
            let said = space.erw(&["plan", file]).expect(2).stderr;
            assert!(
                said.contains("cannot read pipeline `p.toml`") && said.contains("UTF-16; save it as UTF-8"),
                "{said}"
            );
        }
    }
    fs::write(space.path("p.toml"), b"name = \"p\"\n# caf\xe9\n").unwrap();
    let said = space.plan_fails();
    assert!(said.contains("line 2 is not UTF-8: it contains the byte 0xE9"), "{said}");
}

#[test]
fn an_untyped_number_takes_fractions_from_every_layer() {
    let space = measured("{}");
    let n = |said: Said| {
        let line = said.expect(0).stdout.lines().find(|l| l.trim_start().starts_with("n ")).unwrap().to_string();
        line.split_whitespace().nth(2).unwrap().to_string()
    };
    let explain = |more: &[&str]| space.erw(&[&["explain", "p.toml", "a"], more].concat());
    assert_eq!(n(explain(&[])), "1");
    assert_eq!(n(explain(&["--set", "a.n=0.5"])), "0.5");
    assert_eq!(n(explain(&["--set", "a.n=2"])), "2", "a whole one stays whole");
    let mut command = space.command(&["explain", "p.toml", "a"]);
    assert_eq!(n(Said::from(command.env("ERW_SET__a__n", "0.25").finish())), "0.25");
    space.write("child.toml", "extends = \"p.toml\"\n[stages.a]\nparams = { n = 0.75 }\n");
    assert_eq!(n(space.erw(&["explain", "child.toml", "a"])), "0.75");
    space.write("swept.toml", "extends = \"p.toml\"\n[sweep]\n\"a.n\" = [1, 0.5]\n");
    assert_eq!(n(space.erw(&["explain", "swept.toml", "a@n=0.5"])), "0.5");
    space.write(
        "named.toml",
        "extends = \"p.toml\"\n[[sweep.trials]]\nname = \"half\"\n\"a.n\" = 0.5\n[[sweep.trials]]\nname = \"one\"\n",
    );
    assert_eq!(n(space.erw(&["explain", "named.toml", "a@half"])), "0.5");
    space.write("shared.toml", &MEASURED.replace("n = 1, ", "").replace("name = \"mine\"", "[params]\nn = 0.5"));
    let said = space.erw(&["explain", "shared.toml", "a"]).expect(2).stderr;
    assert!(said.contains('n'), "{said}");
    // A list is as free, and what is no number is told.
    space.erw(&["plan", "p.toml", "--set", "a.list=[0.5, 1]"]).expect(0);
    let said = space.erw(&["plan", "p.toml", "--set", "a.n=auto"]).expect(2).stderr;
    assert!(
        said.contains("`n` must be a number, not the string \"auto\"") && said.contains("the stage declares a number"),
        "{said}"
    );
    space.write("text.toml", "extends = \"p.toml\"\n[sweep]\n\"a.text\" = [0.5]\n");
    let said = space.erw(&["sweep", "text.toml", "--table"]).expect(2).stderr;
    assert!(said.contains("must be a string, not the float 0.5") && said.contains("write `\"0.5\"`"), "{said}");
}

#[test]
fn an_output_without_results_says_why() {
    let cases = [
        ("", "it is empty"),
        ("{\"acc\": 1,}", "it is not JSON: trailing comma at line 1 column 11"),
        ("{\"d\": {\"x\": 1}}", "`d` is an object: only top-level numbers are results"),
        ("[1, 2]", "it is a list, not an object of named numbers"),
        ("{\"a\": 1}\n{\"a\": 2}\n", "it has 2 JSON values, one per line, instead of one object"),
    ];
    for (text, why) in cases {
        let space = measured(text);
        let told = format!("output `m` gives no results: {why}");
        let said = space.run(&[]).expect(0);
        assert!(said.stderr.contains(&format!("a: {told}")), "{}", said.stderr);
        let said = space.erw(&["metrics", "p.toml"]).expect(0);
        assert!(said.stderr.contains(&format!("note: stage `a`: {told}")), "{}", said.stderr);
        assert!(space.erw(&["show", "p.toml:a"]).expect(0).stdout.contains(&told));
        assert!(
            space.erw(&["metrics", "p.toml", "--format", "json"]).expect(0).stdout.starts_with('['),
            "a table stays one"
        );
    }
    let space = measured("\u{feff}{\r\n\"acc\": 1, \"loss\": NaN, \"far\": 1e400, \"acc\": 2}");
    let said = space.run(&[]).expect(0).stderr;
    let what = "output `m` has entries that are not results: duplicate `acc`: the last one counts; `loss` is NaN, \
                which is not finite; `far` is 1e400, which is not finite";
    assert!(said.contains(what), "{said}");
    assert!(space.erw(&["metrics", "p.toml", "--format", "csv"]).expect(0).stdout.contains("a,acc,2,cached\n"));
}

#[test]
fn all_commands_name_a_stage_alike() {
    let space = measured("{\"acc\": 1}");
    space.erw(&["run", "p.toml:a", "--plain"]).expect(0);
    let same = |one: &[&str], other: &[&str]| {
        let (one, other) = (space.erw(one), space.erw(other));
        let told = |said: &Said| (said.status, redact(&said.stdout), redact(&said.stderr));
        assert_eq!(told(&one), told(&other));
        one.expect(0)
    };
    let plan = same(&["plan", "p.toml", "a"], &["plan", "p.toml:a"]);
    assert!(!plan.stdout.contains("\n b "), "{}", plan.stdout);
    same(&["plan", "p.toml", "b", "a"], &["plan", "p.toml:b", "p.toml:a"]);
    for command in ["why", "logs", "explain", "metrics", "graph", "show", "verify"] {
        let said = same(&[command, "p.toml", "a"], &[command, "p.toml:a"]);
        assert!(!said.stdout.is_empty(), "{command}");
    }
    same(&["explain", "p.toml", "p.toml:a"], &["explain", "p.toml", "a"]);
    same(&["cache", "show", "p.toml", "a"], &["cache", "show", "p.toml:a.m"]);
    space.erw(&["export", "p.toml", "a", "one"]).expect(0);
    space.erw(&["export", "p.toml:a.m", "two"]).expect(0);
    assert_eq!(fs::read_dir(space.path("one")).unwrap().count(), 1);
    assert!(space.path("two").exists());
    space.erw(&["cache", "tag", "first", "p.toml", "a"]).expect(0);
    space.erw(&["cache", "tag", "second", "p.toml:a"]).expect(0);
    let tags = space.erw(&["cache", "tag"]).expect(0).stdout;
    assert_eq!(tags.matches("p.toml:a").count(), 2, "{tags}");
    // What is not there or too much is told.
    for command in ["why", "logs"] {
        let said = space.erw(&[command, "p.toml"]).expect(2).stderr;
        assert!(said.contains(&format!("`erw {command} p.toml:STAGE`")), "{said}");
        let said = space.erw(&[command, "p.toml:a", "b"]).expect(2).stderr;
        assert!(said.contains("two stages are given, `a` and `b`"), "{said}");
        let said = space.erw(&[command, "p.toml:aa"]).expect(2).stderr;
        assert!(said.contains("no stage `aa` in `p.toml`"), "{said}");
    }
    assert!(space.erw(&["export", "p.toml", "a"]).expect(2).stderr.contains("a folder"));
    assert!(space.erw(&["plan", "pp.toml:a"]).expect(2).stderr.contains("did you mean `p.toml`?"));
    // A file whose name has a colon is a file.
    space.write("p.toml:a", &MEASURED.replace("stages.b", "stages.c"));
    assert!(space.erw(&["graph", "p.toml:a"]).expect(0).stdout.contains("c "));
}

#[test]
fn every_command_on_a_pipeline_takes_set() {
    let space = measured("{\"acc\": 1}");
    space.run(&["--set", "a.n=2"]).expect(0);
    let set = ["--set", "a.n=2"];
    for command in [
        &["show", "p.toml:a"][..],
        &["show", "p.toml", "b"],
        &["cache", "tag", "t", "p.toml"],
        &["verify", "p.toml", "a"],
    ] {
        space.erw(command).expect(2);
        space.erw(&[command, &set].concat()).expect(0);
    }
    space.erw(&["export", "p.toml:a", "out", "--set", "a.n=2"]).expect(0);
    assert!(space.erw(&["compare", "p.toml", "p.toml", "--set", "a.n=2", "--all"]).expect(0).stdout.contains("acc"));
    // What they are used with stays.
    let gc = |more: &[&str]| {
        space.erw(&[&["cache", "gc", "-n", "--keep-pipelines", "p.toml"], more].concat()).expect(0).stdout
    };
    space.erw(&["cache", "untag", "t"]).expect(0);
    assert!(gc(&[]).starts_with("would remove 1 record,"), "{}", gc(&[]));
    assert!(gc(&set).starts_with("would remove 0 records"), "{}", gc(&set));
}

#[test]
fn trials_of_command_line_axes_can_be_named() {
    let space = measured("{\"acc\": 1}");
    space.erw(&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain"]).expect(0);
    for command in ["logs", "why", "explain", "metrics", "show", "plan", "verify", "run"] {
        let said = space.erw(&[command, "p.toml", "a@n=2"]).expect(0);
        assert!(
            said.stderr.contains("note: found `a@n=2` with `--axis a.n=1,2`, taken from run "),
            "{command}: {}",
            said.stderr
        );
        let said = space.erw(&[command, "p.toml", "a@n=2", "--axis", "a.n=1,2"]).expect(0);
        assert!(!said.stderr.contains("note:"), "{}", said.stderr);
    }
    space.erw(&["export", "p.toml", "a@n=2.m", "out"]).expect(0);
    assert!(space.erw(&["compare", "p.toml@n=1", "p.toml@n=2"]).expect(0).stdout.contains("params.n"));
    assert!(space.erw(&["logs", "p.toml", "a@n=3"]).expect(2).stderr.contains("--axis"));
    // A base name is of several trials then.
    let said = space.erw(&["logs", "p.toml", "a", "--axis", "a.n=1,2"]).expect(2).stderr;
    assert!(said.contains("`a` is a stage of 2 trials") && said.contains("`a@n=1`, `a@n=2`"), "{said}");
}

#[test]
fn the_project_cache_is_found_from_subfolders() {
    let space = measured("{\"acc\": 1}");
    space.run(&[]).expect(0);
    let from = |folder: &str, args: &[&str]| {
        fs::create_dir_all(space.path(folder)).unwrap();
        let mut command = space.command(args);
        command.current_dir(space.path(folder)).env_remove("HOME");
        command
    };
    let said = Said::from(from("sub/deep", &["plan", "../../p.toml", "--exit-code"]).finish()).expect(0);
    assert!(
        said.stderr.contains("note: using the cache `")
            && said.stderr.contains("/cache`; `--cache-dir` selects another"),
        "{}",
        said.stderr
    );
    // As a variable says it relative, or empty.
    for value in ["cache", ""] {
        let mut command = from("sub", &["plan", "../p.toml", "--exit-code"]);
        Said::from(command.env("ERW_CACHE_DIR", value).finish()).expect(0);
    }
    // What is typed is what is meant, and a repository is a project of its own.
    Said::from(from("sub", &["plan", "../p.toml", "--exit-code", "--cache-dir", "cache"]).finish()).expect(5);
    fs::create_dir_all(space.path("inner/.git")).unwrap();
    Said::from(from("inner", &["plan", "../p.toml", "--exit-code"]).finish()).expect(5);
}

#[test]
fn a_deleted_current_folder_is_an_error() {
    let space = measured("{\"acc\": 1}");
    let (erw, file) = (env!("CARGO_BIN_EXE_erw"), space.path("p.toml"));
    let from_nowhere = |args: &str| {
        let line = format!("mkdir gone && cd gone && rmdir ../gone && exec {erw} {args}");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &line]).current_dir(space.path("")).env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
        Said::from(command.finish())
    };
    for args in
        [format!("plan {}", file.display()), format!("plan {} --cache-dir cache", file.display()), "plan p.toml".into()]
    {
        let said = from_nowhere(&args).expect(2).stderr;
        assert!(said.contains("the current folder no longer exists"), "{said}");
    }
    from_nowhere(&format!("plan {} --cache-dir {}", file.display(), space.path("cache").display())).expect(0);
}

#[test]
fn a_symlinked_pipeline_says_where_its_paths_start() {
    let space = measured("{\"acc\": 1}");
    fs::create_dir(space.path("other")).unwrap();
    space.write("other/m", "{\"acc\": 2}");
    std::os::unix::fs::symlink("../p.toml", space.path("other/p.toml")).unwrap();
    for command in ["run", "plan", "run"] {
        let said = space.erw(&[command, "other/p.toml"]).expect(0).stderr;
        assert!(
            said.contains("note: `other/p.toml` is a link to `") && said.contains("start in the folder of the link"),
            "{said}"
        );
    }
    assert!(space.erw(&["metrics", "other/p.toml"]).expect(0).stdout.contains('2'));
    // A link beside its pipeline, and a linked folder, change nothing.
    std::os::unix::fs::symlink("p.toml", space.path("q.toml")).unwrap();
    std::os::unix::fs::symlink("other", space.path("linked")).unwrap();
    assert!(!space.erw(&["plan", "q.toml"]).expect(0).stderr.contains("note:"));
}

#[test]
fn why_compares_with_another_pipeline_if_a_stage_never_ran() {
    let space = measured("{\"acc\": 1}");
    space.run(&[]).expect(0);
    space.write("q.toml", &MEASURED.replace("\"mine\"", "\"theirs\"").replace("n = 1", "n = 5"));
    let said = space.erw(&["why", "q.toml", "a"]).expect(0).stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["a would run", "  never ran in `theirs`", lines[2]], "{said}");
    assert!(lines[2].contains("params.n 1 -> 5") && lines[3].contains("compared with mine/a"), "{said}");
    // Of several of its own the nearest, not the last.
    space.run(&["--set", "a.n=7", "--set", "a.text=far"]).expect(0);
    let said = space.erw(&["why", "p.toml", "a", "--set", "a.n=3"]).expect(0).stdout;
    assert!(said.contains("params.n 1 -> 3") && !said.contains("text") && !said.contains("never ran"), "{said}");
}

/// `a` writes something else each time.
#[test]
fn compare_names_artifacts_that_differ_with_equal_parameters() {
    let random = MEASURED.replace("cat m >", "date +%s%N | sed 's/.*/{\"acc\": 1, \"t\": \"&\"}/' >");
    let space = Space::of(&[("p.toml", &random), ("m", "{}")]);
    space.run(&[]).expect(0);
    space.write("q.toml", "extends = \"p.toml\"\nname = \"q\"\n[stages.a]\nparams = { n = 2 }\n");
    space.erw(&["run", "q.toml", "--plain"]).expect(0);
    let said = space.erw(&["compare", "p.toml", "q.toml"]).expect(0).stdout;
    assert!(said.contains("params.n") && !said.contains("outputs.m"), "different parameters say enough: {said}");
    assert!(said.lines().any(|l| l.contains("b") && l.contains("outputs.o")), "{said}");
    space.erw(&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain"]).expect(0);
    let said = space.erw(&["compare", "p.toml@n=1", "p.toml@n=2"]).expect(0).stdout;
    assert!(said.contains("outputs.o"), "{said}");
    assert_eq!(space.erw(&["compare", "p.toml", "p.toml"]).expect(0).stdout, "no differences\n");
}

#[test]
fn a_wrong_sort_name_is_refused_before_a_run() {
    let quiet = MEASURED.replace("m = \"metrics\"", "m = \"text\"");
    let space = Space::of(&[("p.toml", &quiet), ("m", "{}")]);
    let sweep = |more: &[&str]| space.erw(&[&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain"], more].concat());
    for (args, hint) in [
        (["--sort", "stats"], "did you mean `status`?"),
        (["--sort", "-a.nn"], "did you mean `a.n`?"),
        (["--filter", "tril=x"], "did you mean `trial`?"),
        (["--filter", "loss<1"], "there are"),
    ] {
        let said = sweep(&args).expect(2).stderr;
        assert!(said.contains("no metric or setting") && said.contains(hint), "{said}");
        assert!(!space.path("cache/runs").read_dir().is_ok_and(|mut d| d.next().is_some()), "nothing ran");
    }
    sweep(&["--sort", "-a.n", "--filter", "status=ran"]).expect(0);
    // What a program gives is known when it has run; what nothing known is called is told before.
    let space = measured("{\"acc\": 1}");
    let said = space.erw(&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain", "--sort", "ac"]).expect(2).stderr;
    assert!(
        said.contains("warning: `--sort ac`: no metric or setting `ac` is known before the stages have run"),
        "{said}"
    );
    let said = space.erw(&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain", "--sort", "ac"]).expect(2).stderr;
    assert!(
        said.contains("did you mean `acc`?") && !said.contains("warning"),
        "all is cached, so all is known: {said}"
    );
    space.erw(&["sweep", "p.toml", "--axis", "a.n=1,2", "--plain", "--sort", "a.acc"]).expect(0);
}

#[test]
fn a_misspelt_type_is_suggested() {
    let space = Space::of(&[("p.toml", &MEASURED.replace("\"metrics\"", "\"metrcs\"")), ("m", "{}")]);
    let told = "p.toml:10: stage `a`: no kind knows the type `metrcs` of output `m`; did you mean `metrics`?";
    for args in [&["plan", "p.toml"][..], &["run", "p.toml", "--plain"], &["run", "p.toml", "--plain"]] {
        let said = space.erw(args).expect(0).stderr;
        assert!(said.contains(&format!("warning: {told}")), "{said}");
    }
    for fine in ["metrics", "text", "report", "folder", "sit", "pictures"] {
        let space = Space::of(&[("p.toml", &MEASURED.replace("\"metrics\"", &format!("\"{fine}\""))), ("m", "{}")]);
        assert!(!space.erw(&["plan", "p.toml"]).expect(0).stderr.contains("warning"), "{fine}");
    }
}

#[test]
fn huge_amounts_are_capped() {
    let space = measured("{\"acc\": 1}");
    let huge = "3000000000000000h";
    space.run(&["--timeout", huge, "--mem", "99999999999TiB", "--retries", "4294967295"]).expect(0);
    let patient = "retries = 1\nbackoff = \"9999999999999999999999w\"\ntimeout = \"3000000000000000h\"\nresources = { mem = \"99999999999TiB\" }\n";
    space.write("q.toml", &MEASURED.replace("[stages.b]", &format!("{patient}[stages.b]")).replace("n = 1", "n = 9"));
    space.erw(&["run", "q.toml", "--plain"]).expect(0);
    space.erw(&["cache", "gc", "-n", "--older-than", huge]).expect(0);
    space.erw(&["cache", "gc", "-n", "--max-size", "99999999999999999999999"]).expect(0);
    assert!(space.erw(&["run", "p.toml", "--timeout", "never"]).expect(2).stderr.contains("expected a time"));
}
