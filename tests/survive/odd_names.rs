//! Names and values with every character that a file system and TOML allow.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const ODD: [&str; 8] = [
    "plain",
    "two words",
    "Grüße, 世界 🦀",
    "e\u{301} or \u{e9}",
    "quote\"s 'and' `more`",
    "line\nbreak\ttab\r",
    "$HOME $(x) ${y} * ? [a] {threads} {inputs.a} \\",
    "-rf --help",
];

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A pipeline that copies a watched source, a folder, to an output, whose names are given.
fn pipeline(source: &str, value: &str) -> String {
    format!(
        "[stages.s]\nkind = \"command\"\n\
         run = [\"sh\", \"-c\", 'cp -r -- \"$1\" \"$2\"; printf %s \"$3\" > \"$2/value\"', \"sh\", {0}, \"{{outputs.o}}\", \"{{params.v}}\"]\n\
         outputs = {{ o = \"folder\" }}\nparams = {{ v = {1} }}\nwatch = [{0}]\n\
         [stages.t]\nkind = \"command\"\nrun = [\"cp\", \"-r\", \"{{inputs.x}}\", \"{{outputs.o}}\"]\n\
         inputs = {{ x = \"s\" }}\noutputs = {{ o = \"folder\" }}\n",
        quoted(source),
        quoted(value),
    )
}

fn erw(space: &Space, args: &[&str]) -> Said {
    space.erw(args)
}

#[test]
fn odd_names_of_files_and_values_work() {
    for odd in ODD {
        let space = Space::of(&[]);
        // A word in the place of a file is not an option.
        let (file, cache) = (format!("./{odd}/{odd}.toml"), format!("./{odd} cache"));
        // Braces in a word of `run` are places to fill.
        let source = odd.replace(['{', '}'], "()");
        space.write(&file, &pipeline(&format!("./{source}"), odd));
        for inner in ODD {
            space.write(&format!("{odd}/{source}/{inner}/{inner}"), inner);
        }
        let common = ["--plain", "--cache-dir", &cache];
        erw(&space, &[&["run", &file][..], &common].concat()).expect(0);
        let plan = erw(&space, &["plan", &file, "--cache-dir", &cache]).expect(0).stdout;
        assert!(plan.contains("all 2 stages are cached"), "{odd:?}: {plan}");
        let said = erw(&space, &["run", &file, "--json", "--cache-dir", &cache]).expect(0);
        let last = said.stdout.lines().rfind(|l| l.contains("\"ended\"")).unwrap();
        let event: serde_json::Value = serde_json::from_str(last).unwrap();
        let artifact = PathBuf::from(event["outputs"][0]["path"].as_str().unwrap());
        for inner in ODD {
            assert_eq!(std::fs::read_to_string(artifact.join(inner).join(inner)).unwrap(), inner, "{odd:?}");
        }
        // The value came through as it is, and was not executed.
        assert_eq!(std::fs::read_to_string(artifact.join("value")).unwrap(), odd);
        erw(&space, &["cache", "verify", "--cache-dir", &cache]).expect(0);
        erw(&space, &["explain", &file, "s"]).expect(0);
        erw(&space, &["graph", &file]).expect(0);
    }
}

#[test]
fn a_changed_file_with_an_odd_name_is_named() {
    for odd in ODD {
        let space = Space::new(&pipeline("data", "v"));
        space.write(&format!("data/{odd}"), "1");
        space.run(&[]).expect(0);
        space.write(&format!("data/{odd}"), "2");
        let plan = space.plan(&[]);
        assert!(plan.contains("run: source `watch.0` changed ("), "{odd:?}: {plan}");
        space.run(&[]).expect(0);
    }
}

#[test]
fn names_that_are_not_utf_8_work() {
    let space = Space::new(&pipeline("data", "v"));
    space.write("data/a", "1");
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    std::fs::write(space.path("data").join(odd), "2").unwrap();
    space.run(&[]).expect(0);
    assert!(space.plan(&[]).contains("all 2 stages are cached"));
    std::fs::write(space.path("data").join(odd), "3").unwrap();
    assert!(space.plan(&[]).contains("run: source `watch.0` changed"));
    space.run(&[]).expect(0);
    space.erw(&["cache", "verify"]).expect(0);
}

#[test]
fn a_cache_whose_name_is_not_utf_8_works_or_is_refused() {
    let space = Space::new(&pipeline("data", "v"));
    space.write("data/a", "1");
    let erw = |args: &[&str]| {
        let mut command = space.command(args);
        command.arg("--cache-dir").arg(std::ffi::OsStr::from_bytes(b"c\xff"));
        Said::from(command.finish())
    };
    let said = erw(&["run", "p.toml", "--plain"]);
    if said.status != 0 {
        super::clear(&said);
    }
    // What ran is cached, what failed is not, and nothing is damaged.
    let plan = erw(&["plan", "p.toml"]).expect(0).stdout;
    assert_eq!(plan.contains("all 2 stages are cached"), said.status == 0, "{plan}");
    erw(&["cache", "verify"]).expect(0);
}

#[test]
fn names_of_outputs_are_file_names() {
    let named = |name: &str| {
        let name = quoted(name);
        let run =
            format!("[\"sh\", \"-c\", \"echo x > \\\"$1\\\"\", \"sh\", \"{{outputs.{}}}\"]", name.trim_matches('"'));
        Space::new(&format!("[stages.s]\nkind = \"command\"\nrun = {run}\noutputs = {{ {name} = \"text\" }}\n"))
    };
    for odd in ["two words", "Grüße, 世界 🦀", "line\nbreak", "-rf", "...", "a'b"] {
        let space = named(odd);
        space.run(&[]).expect(0);
        assert_eq!(space.outputs()["s"], "x\n", "{odd:?}");
    }
    for astray in ["", ".", "..", "/", "a/b", "../job.json", "../checkpoints", "a/", "/etc/hostname", "./a"] {
        let said = named(astray).run(&[]).expect(2);
        let error = format!("error: stage `s`: `{astray}` cannot name an output\n --> p.toml:4:13\n");
        assert!(said.stderr.starts_with(&error), "{}", said.stderr);
        assert!(said.stderr.ends_with("hint: an output name is a file name, without `/`\n"), "{}", said.stderr);
    }
}

#[test]
fn a_shell_line_with_an_odd_path_has_a_hint() {
    let line = "[stages.a]\nkind = \"command\"\nrun = \"echo x > {outputs.o} && [ -e {outputs.o} ]\"\noutputs = { o = \"t\" }\n";
    let space = Space::new(line);
    let said = space.run(&["--cache-dir", "a cache; $x"]).expect(1);
    assert!(said.stderr.contains("hint: the shell splits or expands `"), "{}", said.stderr);
    // A list has no such trouble.
    space.write(
        "p.toml",
        &line.replace(
            "run = \"echo x > {outputs.o} && [ -e {outputs.o} ]\"",
            "run = [\"cp\", \"p.toml\", \"{outputs.o}\"]",
        ),
    );
    space.run(&["--cache-dir", "a cache; $x"]).expect(0);
    space.write("p.toml", &line.replace("run = \"", "run = \"exit 1; "));
    assert!(!space.run(&[]).expect(1).stderr.contains("the shell splits"), "plain paths are not to blame");
}
