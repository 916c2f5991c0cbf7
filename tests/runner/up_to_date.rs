//! The stored answer that all is up to date. Each thing it depends on is changed alone, and the run
//! must agree with a plan, which stores nothing.

use crate::support::deadline::Deadline;
use crate::support::space::Space;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

/// A parent, a stage of another pipeline, a watched file and one that a parameter names.
const FILES: [(&str, &str); 6] = [
    ("p.toml", "extends = \"base.toml\"\n"),
    (
        "base.toml",
        r#"
name = "kept"
[stages.s]
kind = "command"
run = "echo s >> ran; cat src {inputs.x} > {outputs.o}; echo {params.n} >> {outputs.o}"
inputs = { x = "other.toml:far" }
outputs = { o = "text" }
params = { n = 1 }
watch = ["src"]
[stages.set]
kind = "images"
params = { source = "set", resolution = 2, transform = "none" }
"#,
    ),
    ("other.toml", "[stages.far]\nkind = \"command\"\nrun = \"echo far > {outputs.o}\"\noutputs = { o = \"text\" }\n"),
    ("src", "one\n"),
    ("other", "two\n"),
    ("elsewhere/none", ""),
];

fn image(path: &Path, value: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(2, 2, image::Rgb([value; 3])).save(path).unwrap();
}

/// Has run, and was answered from memory.
fn kept() -> Space {
    let space = Space::of(&FILES);
    image(&space.path("set/a/x.png"), 10);
    image(&space.path("elsewhere/set/a/x.png"), 200);
    space.run(&[]).expect(0);
    assert_eq!(memos(&space), 1);
    assert!(agree(space.command(&["run", "p.toml"]), space.command(&["plan", "p.toml"])));
    space
}

#[test]
fn a_file_with_the_name_of_a_pattern_is_meant_instead() {
    for pattern in ["{a,b}.txt", "[ab].txt"] {
        let space = Space::new(&format!(
            "[stages.s]\nkind = \"command\"\nrun = \"cat *.txt > {{outputs.o}}\"\noutputs = {{ o = \"text\" }}\nwatch = [\"{pattern}\"]\n\
             [stages.t]\nkind = \"command\"\nrun = \"cp {{inputs.x}} {{outputs.o}}\"\ninputs = {{ x = \"s\" }}\noutputs = {{ o = \"text\" }}\n"
        ));
        space.write("a.txt", "1\n");
        space.write("b.txt", "2\n");
        let agree = || agree(space.command(&["run", "p.toml"]), space.command(&["plan", "p.toml"]));
        space.run(&[]).expect(0);
        assert!(agree());
        space.write(pattern, "3\n");
        assert!(!agree(), "{pattern}");
        assert!(agree());
    }
}

/// A run that warns is not answered from memory, which would not warn.
#[test]
fn warnings_come_in_every_run() {
    let space = Space::new(
        "[stages.im]\nkind = \"images\"\nparams = { source = \"set\", resolution = 8, transform = \"none\" }\n\
         [stages.ho]\nkind = \"images\"\nparams = { source = \"set\", resolution = 16, limit = 3 }\n\
         [stages.enc]\nkind = \"train-encoder\"\ninputs = { images = \"im\", holdout = \"ho\" }\n\
         params = { steps = 2, batch = 4, patch_size = 4, ema_decay = 0.1 }\n",
    );
    for class in ["a", "b"] {
        for i in 0..4u8 {
            let path = space.path(&format!("set/{class}/{i}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40; 3])).save(path).unwrap();
        }
    }
    for _ in 0..3 {
        let said = space.run(&[]).expect(0).stderr;
        assert_eq!(said.matches("warning: ").count(), 1, "{said}");
    }
}

fn memos(space: &Space) -> usize {
    std::fs::read_dir(space.path("cache/v1/memos")).map_or(0, Iterator::count)
}

/// Is all cached? The plan is asked first, for the run may do something about it.
#[track_caller]
fn agree(mut run: Command, mut plan: Command) -> bool {
    let text = |command: &mut Command| {
        let out = command.finish();
        (out.status.code(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
    };
    // A plan for people may be told from the same answer.
    let (code, planned) = text(plan.args(["--exit-code", "--format", "markdown"]));
    let (status, ran) = text(&mut run);
    if code == Some(2) {
        assert_eq!(status, code, "{planned}\n{ran}");
        return false;
    }
    assert_eq!(status, Some(0), "{ran}");
    let cached = code == Some(0);
    let says = ran.lines().any(|l| l.starts_with("all ") && l.ends_with(" stages are cached"));
    assert_eq!(says, cached, "a plan says:\n{planned}\na run:\n{ran}");
    cached
}

/// After a change: what the two say in the folder of the pipeline.
#[track_caller]
fn cached(space: &Space) -> bool {
    agree(space.command(&["run", "p.toml"]), space.command(&["plan", "p.toml"]))
}

#[test]
fn the_answer_depends_on_the_current_folder() {
    let space = kept();
    let file = space.path("p.toml");
    let cache = space.path("cache");
    let at = |folder: &str, what: &str| {
        let args = [what, file.to_str().unwrap(), "--set", "set.source=set", "--cache-dir", cache.to_str().unwrap()];
        let mut command = space.command(&args);
        command.current_dir(space.path(folder));
        command
    };
    let asked = |folder: &str| agree(at(folder, "run"), at(folder, "plan"));
    assert!(asked("."));
    assert!(!asked("elsewhere"));
    assert!(asked("elsewhere") && asked("."));
    // The same, said by the environment.
    let by = |folder: &str, what: &str| {
        let mut command = space.command(&[what, file.to_str().unwrap(), "--cache-dir", cache.to_str().unwrap()]);
        command.env("ERW_SET__set__source", "set").current_dir(space.path(folder));
        command
    };
    image(&space.path("elsewhere/set/a/x.png"), 201);
    assert!(agree(by(".", "run"), by(".", "plan")));
    assert!(!agree(by("elsewhere", "run"), by("elsewhere", "plan")));
}

#[test]
fn the_answer_depends_on_the_environment() {
    let space = kept();
    let with = |name: &str, value: &str| {
        let command = |what| {
            let mut command = space.command(&[what, "p.toml"]);
            command.env(name, value);
            command
        };
        agree(command("run"), command("plan"))
    };
    assert!(!with("ERW_SET__s__n", "2"));
    assert!(with("ERW_SET__s__n", "2"));
    assert!(!with("ERW_SET__s__n", "3"));
    // In no key, so in no answer.
    let path = format!("{}:/usr/bin:/bin", space.path("bin").display());
    space.write("bin/cat", "#!/bin/sh\necho another cat\n");
    Command::new("chmod").arg("+x").arg(space.path("bin/cat")).status().unwrap();
    assert!(with("PATH", &path) && with("HOME", "/") && with("TZ", "UTC"));
    // A registry that is named has a say in every key of a published file.
    space.write("more.toml", "");
    let registry = space.path("more.toml");
    let before = memos(&space);
    assert!(with("ERW_REGISTRY", registry.to_str().unwrap()));
    space.write("more.toml", "\n# changed\n");
    assert!(with("ERW_REGISTRY", registry.to_str().unwrap()));
    assert_eq!(memos(&space), before + 2, "two questions");
    space.write("more.toml", "broken");
    let _ = with("ERW_REGISTRY", registry.to_str().unwrap());
}

#[test]
fn the_answer_depends_on_the_files_of_the_pipeline() {
    let edit = |name: &str, from: &str, to: &str| {
        let space = kept();
        space.write(name, &space.read(name).replace(from, to));
        cached(&space)
    };
    assert!(!edit("base.toml", "n = 1", "n = 2"), "a parent");
    assert!(!edit("other.toml", "echo far", "echo farther"), "where an input comes from");
    assert!(!edit("p.toml", "extends", "[stages.s]\nparams.n = 4\n[x]\nextends"), "an error is one");
    let space = kept();
    std::fs::remove_file(space.path("base.toml")).unwrap();
    assert!(!cached(&space), "gone");
    space.write("base.toml", FILES[1].1);
    assert!(cached(&space), "and here again");
}

#[test]
fn the_answer_depends_on_links() {
    // To the pipeline, to its parent, to a watched file, each re-pointed.
    for name in ["p.toml", "base.toml", "src"] {
        let space = kept();
        let text = space.read(name);
        std::fs::rename(space.path(name), space.path("first")).unwrap();
        let other = match name {
            "src" => "two\n".to_string(),
            "base.toml" => text.replace("n = 1", "n = 2"),
            _ => text + "[stages.s]\nparams = { n = 3 }\n",
        };
        space.write("second", &other);
        symlink("first", space.path(name)).unwrap();
        assert!(cached(&space), "{name}");
        assert!(cached(&space), "{name}");
        std::fs::remove_file(space.path(name)).unwrap();
        symlink("second", space.path(name)).unwrap();
        assert!(!cached(&space), "{name}");
    }
    // A folder above all of them.
    let space = kept();
    for (folder, n) in [("v1", "1"), ("v2", "2")] {
        for (name, text) in FILES {
            space.write(&format!("{folder}/{name}"), &text.replace("n = 1", &format!("n = {n}")));
        }
        image(&space.path(folder).join("set/a/x.png"), 10);
    }
    let through = || {
        let cache = space.path("cache");
        let command = |what| space.command(&[what, "now/p.toml", "--cache-dir", cache.to_str().unwrap()]);
        agree(command("run"), command("plan"))
    };
    symlink("v1", space.path("now")).unwrap();
    assert!(through() && through());
    std::fs::remove_file(space.path("now")).unwrap();
    symlink("v2", space.path("now")).unwrap();
    assert!(!through());
}

#[test]
fn the_answer_depends_on_the_bytes_of_watched_files() {
    let space = kept();
    let file = space.path("src");
    let before = std::fs::metadata(&file).unwrap();
    // In place, and the time set back, as some programs do.
    let mut open = std::fs::File::options().write(true).open(&file).unwrap();
    std::io::Write::write_all(&mut open, b"ONE\n").unwrap();
    open.set_modified(before.modified().unwrap()).unwrap();
    drop(open);
    let after = std::fs::metadata(&file).unwrap();
    let look = |m: &std::fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ino());
    assert_eq!(look(&before), look(&after));
    assert!(!cached(&space));
    // A file that appears in a folder that is read.
    image(&space.path("set/a/y.png"), 30);
    assert!(!cached(&space));
    std::fs::remove_file(space.path("src")).unwrap();
    let said = space.run(&[]).expect(2);
    assert!(said.stderr.contains("`watch.0` is missing"), "{}", said.stderr);
}

#[test]
fn the_answer_depends_on_records_and_artifacts() {
    for bucket in ["actions", "store"] {
        let space = kept();
        for path in space.bucket(bucket) {
            std::fs::rename(&path, space.path("aside")).unwrap();
            assert!(!cached(&space), "{}", path.display());
            std::fs::remove_dir_all(space.path("aside"))
                .or_else(|_| std::fs::remove_file(space.path("aside")))
                .unwrap();
            assert!(cached(&space));
        }
    }
}

/// A record that another run replaced while this one went on: what this run read is not what is
/// there.
#[test]
fn records_replaced_during_a_run_void_the_answer() {
    let space = Space::new(
        r#"
[stages.s]
kind = "command"
run = "date +%s%N > {outputs.o}"
outputs = { o = "text" }
[stages.t]
kind = "command"
run = "touch going; while [ ! -e go ]; do sleep 0.01; done; cat {inputs.s} > {outputs.o}"
inputs = { s = "s" }
outputs = { o = "text" }
"#,
    );
    let both = |space: &Space| agree(space.command(&["run", "p.toml"]), space.command(&["plan", "p.toml"]));
    // The first stage made by the run itself, then found.
    for _ in 0..2 {
        let mut child = space.start(&[]);
        space.until("the second stage", || space.path("going").exists());
        space.run(&["s", "--force", "s"]).expect(0);
        space.write("go", "");
        assert!(child.wait().unwrap().success());
        // What `t` was made of is not what `s` made last.
        assert!(!both(&space));
        assert!(both(&space));
        std::fs::remove_file(space.path("go")).unwrap();
        std::fs::remove_file(space.path("going")).unwrap();
        // Makes `t` run again beside an `s` that is cached.
        space.run(&["s", "--force", "s"]).expect(0);
    }
}

#[test]
fn the_answer_depends_on_the_program() {
    let space = kept();
    let program = space.path("erw");
    std::fs::copy(env!("CARGO_BIN_EXE_erw"), &program).unwrap();
    let run = || {
        let mut command = crate::support::space::clean(&program);
        command.args(["run", "p.toml"]).current_dir(space.path("."));
        assert!(agree(command, space.command(&["plan", "p.toml"])));
        memos(&space)
    };
    let before = memos(&space);
    assert_eq!((run(), run()), (before + 1, before + 1), "another program asks another question");
    let other = space.path("new");
    std::fs::copy(&program, &other).unwrap();
    std::fs::rename(&other, &program).unwrap();
    assert_eq!(run(), before + 2);
}
