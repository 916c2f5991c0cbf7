//! Taplo, which checks TOML files by a JSON Schema in many editors.

use super::venv;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// What Taplo says is wrong with a file; empty if nothing is. Without `schema`, by the one that the
/// file names.
pub fn errors(file: &Path, schema: Option<&Path>) -> Vec<String> {
    let mut taplo = Command::new(venv::program("taplo"));
    taplo.args(["check", "--no-auto-config", "--colors", "never"]);
    if let Some(schema) = schema {
        let schema = schema.canonicalize().expect("a schema");
        taplo.arg("--schema").arg(format!("file://{}", schema.display()));
    }
    // Its messages about schemas are read below.
    let said = taplo.arg(file).env("RUST_LOG", "warn").output().expect("taplo runs");
    let stderr = String::from_utf8_lossy(&said.stderr);
    // It repeats an error for every line of its table.
    let mut seen = BTreeSet::new();
    let errors = stderr.lines().filter_map(|line| line.strip_prefix("error: ")).map(str::to_string);
    let errors: Vec<String> = errors.filter(|error| seen.insert(error.clone())).collect();
    assert_eq!(said.status.success(), errors.is_empty(), "{}: {stderr}", file.display());
    let unread = stderr.lines().find(|line| line.contains("WARN"));
    assert_eq!(unread, None, "{}: {stderr}", file.display());
    errors
}
