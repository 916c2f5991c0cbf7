//! Who may use whom: `runner` knows nothing of machine learning, `ml` nothing of pipelines. Read from the sources.

use std::path::{Path, PathBuf};

/// Sources of a wing as (file, line number, line), comments left out.
fn lines(wing: &str) -> Vec<(PathBuf, usize, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = walkdir::WalkDir::new(root.join(wing))
        .into_iter()
        .map(|e| e.expect("readable source tree").into_path())
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect();
    files.push(root.join(format!("{wing}.rs")));
    let files = files.into_iter().filter(|p| p.exists());
    files
        .flat_map(|file| {
            let text = std::fs::read_to_string(&file).expect("readable source");
            let code = |l: &str| l.split("//").next().unwrap_or("").to_string();
            text.lines().enumerate().map(|(i, l)| (file.clone(), i + 1, code(l))).collect::<Vec<_>>()
        })
        .collect()
}

/// Does this line use the crate or module `name` as a path?
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn assert_free_of(wing: &str, banned: &[&str]) {
    let lines = lines(wing);
    assert!(lines.len() > 100, "found only {} lines under src/{wing}", lines.len());
    let found: Vec<String> = lines
        .iter()
        .filter(|(_, _, line)| banned.iter().any(|b| names(line, b)))
        .map(|(file, n, line)| format!("{}:{n}: {}", file.display(), line.trim()))
        .collect();
    assert!(found.is_empty(), "src/{wing} must not name {banned:?}:\n{}", found.join("\n"));
}

#[test]
fn the_runner_knows_nothing_of_machine_learning() {
    assert_free_of(
        "runner",
        &[
            "crate::ml",
            "crate::stages",
            "crate::report",
            "crate::cli",
            "candle_core",
            "candle_nn",
            "indicatif",
            "super::super::ml",
        ],
    );
}

#[test]
fn ml_knows_nothing_of_pipelines() {
    assert_free_of(
        "ml",
        &["crate::runner", "crate::stages", "crate::report", "crate::cli", "crate::error", "crate::fetch", "indicatif"],
    );
}

#[test]
fn reports_know_only_events() {
    assert_free_of("report", &["crate::ml", "crate::stages", "crate::cli", "candle_core"]);
}

#[test]
fn fetching_knows_only_files() {
    assert_free_of(
        "fetch",
        &["crate::runner", "crate::ml", "crate::stages", "crate::report", "crate::cli", "candle_core", "indicatif"],
    );
}

#[test]
fn stages_are_glue() {
    assert_free_of("stages", &["crate::report", "crate::cli", "indicatif"]);
}

/// `limits` gives an error where no thread is to be had; these panic.
#[test]
fn threads_are_started_in_one_place() {
    for wing in ["runner", "ml", "stages", "fetch", "report", "cli"] {
        assert_free_of(wing, &["thread::spawn", "scope.spawn", "enable_steady_tick"]);
    }
}

#[test]
fn the_check_itself_finds_a_path() {
    assert!(names("use crate::ml::rng;", "crate::ml") && names("candle_core::Tensor", "candle_core"));
    assert!(!names("use crate::mlx;", "crate::ml") && !names("my_candle_core", "candle_core"));
}
