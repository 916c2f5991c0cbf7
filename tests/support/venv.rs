//! Programs from PyPI that tests run, in the environment that `tests/tools/venv.sh` makes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A program of the environment, which is made where there is none.
pub fn program(name: &str) -> PathBuf {
    static MADE: OnceLock<bool> = OnceLock::new();
    let make = || Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/venv.sh")).status();
    let made = *MADE.get_or_init(|| make().is_ok_and(|status| status.success()));
    let own = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv"));
    let program = std::env::var_os("ERW_TEST_VENV").map_or_else(own, PathBuf::from).join("bin").join(name);
    assert!(
        made && program.exists(),
        "no `{}`: tests/tools/venv.sh installs it, and needs python3 with venv and pip",
        program.display()
    );
    program
}
