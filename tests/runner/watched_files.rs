//! Which files of a watched folder count: those that people write, not those of tools. One rule for
//! runs, plans, lock files, `--since` and `run --watch`.

use crate::support::deadline::Deadline;
use crate::support::skip;
use crate::support::space::{Said, Space};
use std::os::unix::fs::symlink;
use std::process::Command;

/// Counts how often it ran.
fn watching(watch: &str) -> Space {
    let space = Space::new(&pipeline(watch));
    space.write("src/model.py", "X = 1\n");
    space.write("src/sub/util.py", "Y = 2\n");
    space
}

fn pipeline(watch: &str) -> String {
    format!(
        "[stages.s]\nkind = \"command\"\nrun = \"cat src/model.py > {{outputs.o}}; ! [ -e act ] || sh act\"\noutputs = {{ o = \"t\" }}\n{watch}\n"
    )
}

fn cached(space: &Space) -> bool {
    !space.plan(&[]).contains("run:")
}

const DROPPED: [&str; 16] = [
    "src/__pycache__/model.cpython-312.pyc",
    "src/sub/util.pyc",
    "src/.ipynb_checkpoints/model-checkpoint.py",
    "src/#model.py#",
    "src/model.py~",
    "src/.model.py.swp",
    "src/.model.py.swx",
    "src/.model.py.kate-swp",
    "src/model.py___jb_tmp___",
    "src/.DS_Store",
    "src/.git/HEAD",
    "src/sub/.hg/dirstate",
    "src/.svn/entries",
    "src/.jj/repo",
    "src/.nfs0000000012ab",
    "src/.~lock.notes.odt#",
];

#[test]
fn tool_files_are_ignored_and_written_files_are_not() {
    for watch in ["watch = [\"src\"]", "watch = [\"src/**\"]", "watch = [\".\"]", "watch = [\"*\"]"] {
        let space = watching(watch);
        space.run(&[]).expect(0);
        assert!(cached(&space), "{watch}");
        for name in DROPPED {
            space.write(name, "dropped");
            assert!(cached(&space), "{watch}: {name}");
        }
        // The lock of Emacs is a link to nowhere, and vi tries whether it may write.
        symlink("me@host.1234", space.path("src/.#model.py")).unwrap();
        space.write("src/4913", "");
        space.write("src/more/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
        space.write("src/more/anything", "x");
        assert!(cached(&space), "{watch}");
        space.run(&["--lock"]).expect(0);
        assert!(cached(&space), "{watch}");
        space.run(&["--locked"]).expect(0);
        for name in ["src/.env", "src/new.py", "src/sub/data.bin", "src/.gitignore", "src/other.lock"] {
            space.write(name, "1");
            assert!(!cached(&space), "{watch}: {name}");
            space.run(&[]).expect(0);
            assert!(cached(&space), "{watch}: {name}");
        }
    }
}

#[test]
fn a_stage_may_write_tool_files_while_it_runs() {
    let space = watching("watch = [\"src\"]");
    space.write("act", "mkdir -p src/__pycache__; date +%N > src/__pycache__/a.pyc; touch src/model.py");
    space.run(&[]).expect(0);
    assert!(cached(&space));
}

#[test]
fn patterns_in_ignore_are_those_of_gitignore() {
    let space = watching("watch = [\"src\"]\nignore = [\"*.log\", \"/src/gen/\", \"!keep.log\", \"!*.pyc\"]");
    space.run(&[]).expect(0);
    for (name, out) in [
        ("src/a.log", true),
        ("src/sub/b.log", true),
        ("src/gen/x", true),
        ("src/sub/gen/x", false),
        ("src/keep.log", false),
        ("src/a.pyc", false),
    ] {
        space.write(name, "1");
        assert_eq!(cached(&space), out, "{name}");
        space.run(&[]).expect(0);
    }
    // What is left out is no part of the key: another pattern for nothing voids nothing.
    space.write("p.toml", &space.read("p.toml").replace("\"*.log\"", "\"*.log\", \"*.none\""));
    assert!(cached(&space));
    space.write("p.toml", &space.read("p.toml").replace("\"*.log\", ", ""));
    assert!(!cached(&space));
    space.write("p.toml", &space.read("p.toml").replace("\"/src/gen/\"", "\"[z-a]\""));
    let said = space.run(&[]).expect(2);
    assert!(
        said.stderr.contains("`ignore` has an invalid pattern") && said.stderr.contains("p.toml:6:"),
        "{}",
        said.stderr
    );
    space.write("q.toml", "[stages.s]\nkind = \"images\"\nignore = [\"x\"]\n");
    assert!(
        space.erw(&["plan", "q.toml"]).expect(2).stderr.contains("only a stage of `kind = \"command\"` has `ignore`")
    );
}

#[test]
fn patterns_in_watch_equal_the_files_they_match() {
    for (pattern, matching, others) in [
        ("*.py", "new.py", "new.txt"),
        ("./*.py", "new.py", "src/new.py"),
        ("src/**/*.py", "src/a/b/new.py", "src/a/new.txt"),
        ("src/*/", "src/sub/anything", "src/new"),
        ("src/{model,extra}.py", "src/extra.py", "src/third.py"),
        ("src/m[a-o]*", "src/mine", "src/mummy"),
        ("src/?odel.*", "src/Model.txt", "src/remodel.py"),
    ] {
        let space = watching(&format!("watch = [\"{pattern}\"]"));
        space.write("here.py", "1");
        space.run(&[]).expect(0);
        space.write(others, "1");
        assert!(cached(&space), "{pattern}: {others}");
        space.write(matching, "1");
        assert!(!cached(&space), "{pattern}: {matching}");
        space.run(&[]).expect(0);
        assert!(cached(&space));
        std::fs::remove_file(space.path(matching)).unwrap();
        assert!(cached(&space), "{pattern}: as it was");
    }
}

#[test]
fn a_pattern_without_matches_is_missing_and_existing_names_are_literal() {
    let space = watching("watch = [\"src/*.cu\"]");
    let said = space.run(&[]).expect(2);
    assert!(
        said.stderr.contains("`watch.0` is missing: no file or folder at `") && said.stderr.contains("src/*.cu`"),
        "{}",
        said.stderr
    );
    space.write("src/*.cu", "kernel");
    space.run(&[]).expect(0);
    space.write("src/other.cu", "1");
    assert!(cached(&space));
    space.write("p.toml", &pipeline("watch = [\"*/../x\"]"));
    let said = space.run(&[]).expect(2);
    assert!(
        said.stderr.contains("has `.` or `..` after a wildcard") && said.stderr.contains("p.toml:5"),
        "{}",
        said.stderr
    );
    for text in ["~/x", "$HOME/x"] {
        space.write("p.toml", &pipeline(&format!("watch = [\"{text}\"]")));
        let said = space.run(&[]).expect(2);
        assert!(said.stderr.contains("hint: `~` and `$` are not expanded"), "{}", said.stderr);
    }
}

#[test]
fn pipes_and_broken_links_are_errors_or_ignored() {
    let space = watching("watch = [\"src\"]");
    space.run(&[]).expect(0);
    type Make = fn(&Space);
    let made: [(&str, Make, &str); 4] = [
        (
            "pipe",
            |s| drop(Command::new("mkfifo").arg(s.path("src/pipe")).status()),
            "src/pipe` is neither a file nor a folder",
        ),
        ("gone", |s| symlink("nowhere", s.path("src/gone")).unwrap(), "src/gone` is a broken link to `nowhere`"),
        ("loop", |s| symlink(".", s.path("src/loop")).unwrap(), "src/loop` is a link back to `"),
        ("self", |s| symlink("self", s.path("src/self")).unwrap(), "src/self`"),
    ];
    for (name, make, told) in made {
        make(&space);
        for (args, status) in [(&["plan", "p.toml"][..], 2), (&["run", "p.toml", "--plain"], 1)] {
            let said = space.erw(args).expect(status);
            assert!(said.stderr.contains(told) && said.stderr.contains("p.toml:5"), "{}", said.stderr);
            assert!(said.stderr.contains("`ignore = ["), "{}", said.stderr);
        }
        space.write("p.toml", &pipeline(&format!("watch = [\"src\"]\nignore = [\"{name}\"]")));
        assert!(cached(&space), "{name}");
        space.write("p.toml", &pipeline("watch = [\"src\"]"));
        std::fs::remove_file(space.path("src").join(name)).unwrap();
    }
    for path in ["/dev/null", "/proc/uptime", "/proc/kmsg"] {
        if !std::path::Path::new(path).exists() {
            continue;
        }
        space.write("p.toml", &pipeline(&format!("watch = [\"{path}\"]")));
        let said = space.run(&[]).expect(1);
        assert!(said.stderr.contains("p.toml:5") && said.stderr.contains(path), "{}", said.stderr);
    }
}

/// Neither: git keeps no empty folders, and file systems of data know no permissions.
#[test]
fn empty_folders_and_permissions_do_not_count() {
    let space = watching("watch = [\"src\"]");
    space.run(&[]).expect(0);
    std::fs::create_dir(space.path("src/newdir")).unwrap();
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(space.path("src/model.py"), mode(0o755)).unwrap();
    assert!(cached(&space));
}

#[test]
fn files_changed_during_a_stage_are_named_and_checkpoints_kept() {
    for (watch, act, named) in [
        ("src", "echo more >> src/model.py", "`src/model.py`"),
        ("src", "echo more > src/new.py; rm src/sub/util.py", "`src/new.py`, `src/sub/util.py`"),
        ("src/model.py", "echo more >> src/model.py", "`src/model.py`"),
        (
            "src/*.py",
            "echo 1 > src/a.py; echo 1 > src/b.py; echo 1 > src/c.py; echo 1 > src/d.py; echo 1 > src/e",
            "`src/a.py`, `src/b.py`, `src/c.py` and 1 more",
        ),
    ] {
        let space = watching(&format!("watch = [\"{watch}\"]"));
        space.write("act", act);
        let said = space.run(&[]).expect(1);
        let error = format!("source `watch.0` changed while the stage was running: {named}\n");
        assert!(said.stderr.contains(&error) && said.stderr.contains("p.toml:5"), "{}", said.stderr);
        let kept =
            said.stderr.split("its outputs are kept in `").nth(1).expect(&said.stderr).split('`').next().unwrap();
        assert_eq!(std::fs::read_to_string(std::path::Path::new(kept).join("o")).unwrap(), "X = 1\n");
        // Neither gc nor another attempt under another key takes it away; gc does if it is told to.
        space.write("act", "");
        space.run(&[]).expect(0);
        space.erw(&["cache", "gc"]).expect(0);
        assert!(std::path::Path::new(kept).exists());
        space.erw(&["cache", "gc", "--checkpoints"]).expect(0);
        assert!(!std::path::Path::new(kept).exists());
    }
}

#[test]
fn plan_since_ignores_files_that_watch_ignores() {
    let space = watching("watch = [\"src\"]\nignore = [\"*.log\"]");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args).current_dir(space.path(""));
        assert!(git.output().unwrap().status.success(), "{args:?}");
    };
    space.write("src/a.log", "1");
    space.write("src/old.pyc", "1");
    space.write(".gitignore", "cache\n");
    git(&["init", "-q"]);
    git(&["add", "-Af", "."]);
    git(&["commit", "-qm", "one"]);
    let since = || space.erw(&["plan", "p.toml", "--since", "HEAD"]).expect(0).stdout;
    let before = since();
    space.write("src/a.log", "2");
    space.write("src/old.pyc", "2");
    assert_eq!(since(), before);
    space.write("src/model.py", "X = 2\n");
    assert!(since().contains("(model.py)"), "{}", since());
}

#[test]
fn run_watch_ignores_tool_files() {
    let space = watching("watch = [\"src\", \"lib/*.py\"]\nignore = [\"*.log\"]");
    space.write("lib/a.py", "1");
    space.write("act", "echo s >> ran");
    let child = space.command(&["run", "p.toml", "--plain", "--watch"]);
    let mut child = { child }
        .stderr(std::fs::File::create(space.path("said")).unwrap())
        .stdout(std::process::Stdio::null())
        .start();
    let told = || space.read("said").matches("waiting for changes").count();
    space.until("the first run", || told() == 1);
    for name in ["src/__pycache__/a.pyc", "src/a.log", "src/.model.py.swp", "lib/a.txt"] {
        space.write(name, "1");
    }
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert_eq!(told(), 1, "{}", space.read("said"));
    space.write("lib/b.py", "1");
    space.until("the second run", || told() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = space.read("said");
    assert!(said.contains("lib/b.py changed"), "{said}");
}

/// The caches of a program that imports code from an input are no change of the input.
#[test]
fn python_may_import_from_an_input_and_from_watched_folders() {
    let python = |args: &[&str]| Command::new("python3").args(args).output().is_ok_and(|out| out.status.success());
    if !python(&["-c", ""]) {
        return skip("no `python3` on this machine");
    }
    let space = Space::new(
        "[stages.code]\nkind = \"command\"\nrun = \"echo code >> ran; mkdir {outputs.o}; echo 'X = 1' > {outputs.o}/gen.py\"\noutputs = { o = \"code\" }\n\
         [stages.use]\nkind = \"command\"\nrun = [\"python3\", \"src/use.py\", \"{inputs.code}\", \"{outputs.o}\"]\ninputs = { code = \"code\" }\noutputs = { o = \"f\" }\nwatch = [\"src\"]\n",
    );
    space.write("src/mine.py", "Y = 2\n");
    space.write("src/use.py", "import sys\nsys.path.insert(0, sys.argv[1])\nimport gen, mine\nopen(sys.argv[2], 'w').write(f'{gen.X} {mine.Y}')\n");
    let run = |args: &[&str]| {
        let mut command = space.command(&[&["run", "p.toml", "--plain"], args].concat());
        command.env_remove("PYTHONDONTWRITEBYTECODE").env_remove("PYTHONPYCACHEPREFIX");
        Said::from(command.finish()).expect(0)
    };
    run(&[]);
    run(&["--force", "use"]);
    assert!(space.path("src/__pycache__").exists());
    assert_eq!(space.ran(), ["code"]);
    assert!(run(&[]).stdout.contains("all 2 stages are cached"));
    space.erw(&["cache", "verify"]).expect(0);
}
