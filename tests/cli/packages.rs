//! What the packages of a release need: no function that glibc 2.28 lacks, or the program could not be
//! built for it.

use crate::support::deadline::Deadline;
use crate::support::skip;
use std::process::Command;

/// Functions that newer versions of glibc moved or changed, and that 2.28 has as well.
const CHANGED: [&str; 17] = [
    "exp",
    "exp2",
    "log",
    "log2",
    "pow",
    "expf",
    "fmod",
    "dlsym",
    "dlopen",
    "dlclose",
    "dlerror",
    "fstat",
    "fstat64",
    "fstatat",
    "fstatat64",
    "lstat64",
    "stat64",
];

#[test]
fn the_program_needs_no_function_newer_than_glibc_2_28() {
    let Ok(out) = Command::new("objdump").arg("--version").output() else { return skip("objdump is missing") };
    assert!(out.status.success());
    let out = Command::new("objdump").args(["-T", env!("CARGO_BIN_EXE_erw")]).finish();
    let text = String::from_utf8(out.stdout).unwrap();
    let mut seen = 0;
    let mut newer = vec![];
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, kind, .., version, name] = words[..] else { continue };
        let version = version.trim_matches(['(', ')']);
        let Some(minor) = version.strip_prefix("GLIBC_2.").and_then(|v| v.split('.').next()?.parse::<u32>().ok())
        else {
            continue;
        };
        seen += 1;
        // What is weak may be missing. Threads have been in a library of their own.
        let is_known = kind == "w" || CHANGED.contains(&name) || name.starts_with("pthread_") || name.starts_with("__");
        if minor > 28 && !is_known {
            newer.push(format!("{name} ({version})"));
        }
    }
    assert!(seen > 50, "objdump says otherwise than expected:\n{text}");
    assert!(newer.is_empty(), "missing in glibc 2.28: {newer:?}; ask for them by `dlsym`");
}
