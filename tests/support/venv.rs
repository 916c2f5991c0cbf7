//! Programs from PyPI that tests run, in the environment that `tests/tools/venv.sh` makes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A program of the environment, which is made where there is none.
pub fn program(name: &str) -> PathBuf {
    there(folder().join("bin").join(name))
}

/// A file of one of its packages.
pub fn file(name: &str) -> PathBuf {
    let versions = std::fs::read_dir(folder().join("lib")).into_iter().flatten();
    let packages = versions.map(|e| e.unwrap().path().join("site-packages")).find(|packages| packages.exists());
    there(packages.unwrap_or_default().join(name))
}

/// The environment, made where there is none.
fn folder() -> PathBuf {
    static MADE: OnceLock<bool> = OnceLock::new();
    let make = || Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/venv.sh")).status();
    let made = *MADE.get_or_init(|| make().is_ok_and(|status| status.success()));
    assert!(made, "tests/tools/venv.sh failed; it needs python3 with venv and pip");
    let own = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv"));
    std::env::var_os("ERW_TEST_VENV").map_or_else(own, PathBuf::from)
}

#[track_caller]
fn there(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "no `{}`, which tests/tools/venv.sh installs", path.display());
    path
}
