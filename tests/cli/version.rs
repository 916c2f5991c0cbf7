//! `erw --version`, and the build script that tells it the commit: what it says in a clone, in a
//! changed clone and outside of one, and when cargo runs it again.

use crate::support::skip;
use crate::support::space::{Said, Space};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn the_version_names_commit_and_features() {
    let space = Space::of(&[]);
    let said = space.erw(&["--version"]).expect(0).stdout;
    let lines: Vec<&str> = said.lines().collect();
    let [first, features] = lines[..] else { panic!("{said}") };
    let version = concat!("erw ", env!("CARGO_PKG_VERSION"));
    assert!(features.starts_with("features: "), "{said}");
    for (name, is_built) in
        [("cuda", cfg!(feature = "cuda")), ("mpi", cfg!(feature = "mpi")), ("nccl", cfg!(feature = "nccl"))]
    {
        let words: Vec<&str> = features.split([' ', ',']).collect();
        assert_eq!(words.contains(&name), is_built, "{name}: {said}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(".git").exists() {
        assert_eq!(first, version);
        return;
    }
    let commit = first.strip_prefix(version).and_then(|rest| rest.strip_prefix(" (")?.strip_suffix(')'));
    let commit = commit.unwrap_or_else(|| panic!("no commit: {first}"));
    let commit = commit.strip_suffix("-dirty").unwrap_or(commit);
    let known = Command::new("git").args(["cat-file", "-e", commit]).current_dir(root).status().unwrap();
    assert!(known.success(), "git knows no commit {commit}");
}

/// Runs git in a folder of its own, as nobody in particular.
fn git(space: &Space, args: &[&str]) {
    let all = [&["-c", "user.name=a", "-c", "user.email=a@b"], args].concat();
    let out = Command::new("git").args(all).current_dir(space.path("clone")).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// What the build script says in the clone `clone`: the commit, and the files that it watches.
fn build(space: &Space) -> (String, Vec<String>) {
    let mut script = Command::new(space.path("script"));
    let out = script.current_dir(space.path("clone/src/cli")).env("OUT_DIR", space.path("")).output().unwrap();
    let said = Said::from(out).expect(0).stdout;
    let values = |key: &str| said.lines().filter_map(|l| l.strip_prefix(key)).map(String::from).collect::<Vec<_>>();
    (values("cargo::rustc-env=ERW_BUILD_COMMIT=").concat(), values("cargo::rerun-if-changed="))
}

#[test]
fn the_build_script_knows_the_commit_and_when_it_changes() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/build.rs");
    let mut files = vec!["Cargo.lock", "Cargo.toml", "src/cli/build.rs", "stages/a.toml", "README.md"];
    files.extend(["pipelines/digits.toml", "pipelines/digits.curves.csv", "pipelines/data/digits/0/0.png"]);
    files.extend(["pipelines/data/README.md", "pipelines/data/convert_digits.py", "pipelines/data/imagenet/a.png"]);
    let space = Space::of(&[]);
    files.iter().for_each(|name| space.write(&format!("clone/{name}"), "a"));
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-o"]).arg(space.path("script")).arg(&source);
    match (rustc.output(), Command::new("git").arg("--version").output()) {
        (Ok(out), Ok(_)) => drop(Said::from(out).expect(0)),
        _ => return skip("rustc or git is missing"),
    }
    let (commit, watched) = build(&space);
    assert_eq!(commit, "", "a crate has no commit");
    assert!(!watched.is_empty(), "cargo would watch every file of the package");

    git(&space, &["init", "-q", "-b", "some/branch"]);
    git(&space, &["add", "."]);
    git(&space, &["commit", "-qm", "a"]);
    let (clean, watched) = build(&space);
    assert!(clean.len() == 12 && clean.bytes().all(|b| b.is_ascii_hexdigit()), "{clean}");
    assert!(watched.contains(&"../../.git/HEAD".into()), "{watched:?}");
    assert!(watched.contains(&"../../.git/refs/heads/some/branch".into()), "{watched:?}");

    // Only what the program is made of counts, new files too.
    space.write("clone/README.md", "b");
    assert_eq!(build(&space).0, clean);
    space.write("clone/src/new.rs", "b");
    assert_eq!(build(&space).0, format!("{clean}-dirty"));
    fs::remove_file(space.path("clone/src/new.rs")).unwrap();
    space.write("clone/stages/a.toml", "b");
    assert_eq!(build(&space).0, format!("{clean}-dirty"));

    // A packed branch has no file until the next commit. What is watched exists in any case: cargo
    // takes a missing file for a change.
    git(&space, &["pack-refs", "--all"]);
    let (_, watched) = build(&space);
    assert!(watched.contains(&"../../.git/packed-refs".into()), "{watched:?}");
    assert!(watched.iter().all(|name| space.path("clone/src/cli").join(name).exists()), "{watched:?}");
    git(&space, &["commit", "-qam", "b"]);
    let (next, watched) = build(&space);
    assert!(next != clean && !next.ends_with("-dirty"), "{next}");
    assert!(watched.contains(&"../../.git/refs/heads/some/branch".into()), "{watched:?}");

    // The data that the program carries.
    let list = space.read("quick_start_data.rs");
    let names: Vec<&str> = list.split('"').filter(|part| part.starts_with("d")).collect();
    assert_eq!(
        names,
        ["data/README.md", "data/convert_digits.py", "data/digits/0/0.png", "digits.curves.csv"],
        "and nobody's own data"
    );

    git(&space, &["checkout", "-q", "--detach"]);
    assert_eq!(build(&space).0, next);
}
