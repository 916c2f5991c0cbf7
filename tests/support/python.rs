//! Python with torch, diffusers and other programs to which erw hands over, or with those that write
//! image sets, in the environments that `tests/tools/torch-venv.sh` and `data-venv.sh` make.

use super::deadline::Deadline;
use super::skip;
use super::space::{Said, Space};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment. `None`, and the test is skipped, where it was not made or has other versions; with
/// `ERW_TEST_TORCH=1` that is a failure.
#[track_caller]
pub fn python() -> Option<PathBuf> {
    environment("torch", "ERW_TEST_TORCH")
}

/// Python with datasets, webdataset and Pillow, which `tests/tools/data-venv.sh` makes; where it was
/// not made, the test is skipped, and with `ERW_TEST_DATA=1` fails.
#[track_caller]
pub fn data() -> Option<PathBuf> {
    environment("data", "ERW_TEST_DATA")
}

#[track_caller]
fn environment(name: &str, variable: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = std::env::var_os(format!("{variable}_VENV"));
    let venv = venv.map_or_else(|| root.join(format!("target/{name}-venv")), PathBuf::from);
    let wanted = std::fs::read(root.join(format!("tests/tools/{name}-requirements.txt"))).unwrap();
    if std::fs::read(venv.join("installed.txt")).is_ok_and(|installed| installed == wanted) {
        return Some(venv.join("bin/python"));
    }
    let why = format!("no Python environment `{name}`: tests/tools/{name}-venv.sh makes it");
    assert!(std::env::var_os(variable).is_none_or(|v| v != "1"), "{why}");
    skip(&why);
    None
}

/// Runs a program in this space, in which it finds `erw`, and finds nothing outside of this machine.
pub fn run(space: &Space, python: &Path, program: &Path, args: &[&str]) -> Said {
    let built = Path::new(env!("CARGO_BIN_EXE_erw")).parent().unwrap();
    let mut path = std::ffi::OsString::from(built);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // Everything that these programs write is in the space.
    let home = space.path("home");
    std::fs::create_dir_all(&home).unwrap();
    let mut command = Command::new(python);
    command.arg(program).args(args).current_dir(space.path("")).env("PATH", path).env("HOME", &home);
    for name in ["HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTHONDONTWRITEBYTECODE"] {
        command.env(name, "1");
    }
    for name in ["HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "PYTHONPATH", "PYTHONHOME"] {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    command.env("NO_PROXY", "localhost,127.0.0.1").env("no_proxy", "localhost,127.0.0.1");
    Said::from(command.finish())
}
