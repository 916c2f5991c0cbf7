//! What the program knows of its own build and carries: the commit, for `erw --version`, and the
//! files of the quick start, for `erw init digits`.
//!
//! It runs again when the commit changes or what the program is made of, not at every build. A crate
//! outside a clone of the repository has no commit; nor has one that lies in another's repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository, from the folder of this crate.
const ROOT: &str = "../..";
/// What the program is made of. Changes elsewhere do not make a build dirty.
const SOURCES: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "src",
    "stages",
    "pipelines/digits.toml",
    CURVES,
    "pipelines/data/README.md",
    "pipelines/data/convert_digits.py",
    DIGITS,
];
/// The reference curves of the quick start.
const CURVES: &str = "pipelines/digits.curves.csv";
/// The images of the quick start. Beside them people keep images and weights of their own.
const DIGITS: &str = "pipelines/data/digits";

fn main() -> std::io::Result<()> {
    std::env::set_current_dir(ROOT)?;
    SOURCES.into_iter().for_each(|source| rerun_for(Path::new(source)));
    println!("cargo::rustc-env=ERW_BUILD_COMMIT={}", commit().unwrap_or_default());
    list_quick_start()
}

/// Cargo understands paths from the folder of this crate.
fn rerun_for(path: &Path) {
    println!("cargo::rerun-if-changed={}", Path::new(ROOT).join(path).display());
}

/// Writes an array of the quick start's data and curves: names below `pipelines`, and contents.
fn list_quick_start() -> std::io::Result<()> {
    let mut files = vec![];
    for class in std::fs::read_dir(DIGITS)? {
        let class = class?.path();
        if !class.is_dir() {
            continue;
        }
        for image in std::fs::read_dir(class)? {
            files.push(image?.path());
        }
    }
    // Not what a file manager leaves there.
    files.retain(|file| file.extension().is_some_and(|end| end == "png"));
    files.extend([CURVES, "pipelines/data/README.md", "pipelines/data/convert_digits.py"].map(PathBuf::from));
    files.sort();
    let root = std::env::current_dir()?;
    let line = |file: &PathBuf| {
        let name = file.strip_prefix("pipelines").unwrap_or(file);
        format!("    ({name:?}, include_bytes!({:?})),\n", root.join(file))
    };
    let lines: String = files.iter().map(line).collect();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("quick_start_data.rs"), format!("&[\n{lines}]\n"))
}

/// `2cd3408a91b2`, with `-dirty` if sources differ from it.
fn commit() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    watch();
    let changed = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// Asks cargo to run this again when HEAD, the branch that it names or its commit changes. A branch
/// is a file, or a line of `packed-refs` until it gets a file.
fn watch() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let Some(path) = git(&["rev-parse", "--git-path", name]) else { continue };
        let mut path = PathBuf::from(path);
        // A missing file would make every build run this. Its folder changes when it is made.
        while !path.exists() {
            if name == "packed-refs" || !path.pop() {
                break;
            }
        }
        if path.exists() {
            rerun_for(&path);
        }
    }
}

/// What git answers about the folder of this package, if it can. It writes nothing.
fn git(args: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // A hook that builds has these set for its own purposes.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    let out = git.arg("--no-optional-locks").args(args).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
}
