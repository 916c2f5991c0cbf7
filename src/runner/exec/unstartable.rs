//! Explains why a program could not be started: the kernel has one error number for many causes,
//! and reports a missing interpreter as if the program were missing. Inspects files; changes
//! nothing.

use super::spawn::Program;
use crate::text::suggest;
use erw_base::error::Error;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// The largest single argument or variable, and the limit of all together with the usual stack
/// size.
const LONGEST_WORD: usize = 128 << 10;

/// The error for a failed start.
pub fn error(program: &Program<'_>, refused: io::Error) -> Error {
    let name = program.words.first().map_or("", String::as_str);
    let error = Error::stage(format!("cannot start `{name}`"));
    match why(program, name, &refused) {
        Some((cause, hint)) => error.because(cause).maybe_hint(hint),
        None => error.caused(refused),
    }
}

type Why = (String, Option<String>);

/// The cause and a hint; `None` if the system's message is as good.
fn why(program: &Program<'_>, name: &str, refused: &io::Error) -> Option<Why> {
    if name.is_empty() {
        return Some(("the program name is empty".into(), None));
    }
    if let Some(nth) = program.words.iter().position(|word| word.contains('\0')) {
        let which = if nth == 0 { "its name".into() } else { format!("argument {nth}") };
        return Some((format!("{which} contains a NUL byte"), None));
    }
    if !program.folder.is_dir() {
        return Some((format!("its working folder `{}` does not exist", program.folder.display()), None));
    }
    match refused.raw_os_error()? {
        libc::E2BIG => Some(too_long(program)),
        libc::ENOENT | libc::EACCES | libc::ENOEXEC | libc::ENOTDIR | libc::EPERM | libc::ELOOP => {
            match find(program.folder, name) {
                Lookup::File(path) => of_file(&path, name, refused),
                Lookup::Nowhere => Some(nowhere(program.folder, name)),
            }
        }
        libc::ETXTBSY => {
            let hint = "close it in the program that is writing it".to_string();
            Some(("another program has it open for writing".into(), Some(hint)))
        }
        _ => None,
    }
}

enum Lookup {
    /// The file that was tried.
    File(PathBuf),
    Nowhere,
}

/// Looks a program up as the system does: a name with a `/` is a path, any other is searched in
/// PATH.
fn find(folder: &Path, name: &str) -> Lookup {
    if name.contains('/') {
        return Lookup::File(folder.join(name));
    }
    let candidates: Vec<PathBuf> = search_path().iter().map(|dir| folder.join(dir).join(name)).collect();
    let may_run = |path: &&PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let there =
        candidates.iter().find(may_run).or_else(|| candidates.iter().find(|path| path.symlink_metadata().is_ok()));
    there.map_or(Lookup::Nowhere, |path| Lookup::File(path.clone()))
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn nowhere(folder: &Path, name: &str) -> Why {
    let folders = search_path();
    if folders.is_empty() {
        return ("PATH is empty".into(), None);
    }
    let cause = "no folder in PATH contains a program of this name".to_string();
    if folder.join(name).is_file() {
        let hint = format!("write `./{name}` for the one beside the pipeline; that folder is not searched");
        return (cause, Some(hint));
    }
    if name.contains(char::is_whitespace) {
        let hint = "a list is a program and its arguments, one word each; write a shell command line as a string";
        return (cause, Some(hint.into()));
    }
    let entries = folders.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    let names: BTreeSet<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let near = suggest::nearest(name, names.iter().map(String::as_str));
    (cause, near.map(|near| format!("did you mean `{near}`?")))
}

fn of_file(path: &Path, name: &str, refused: &io::Error) -> Option<Why> {
    // As the user wrote it, unless that does not say where it is.
    let shown = if name.contains('/') { name.to_string() } else { path.display().to_string() };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(e) => return Some(out_of_reach(path, &shown, &e)),
    };
    if metadata.is_dir() {
        return Some((format!("`{shown}` is a folder"), None));
    }
    if !metadata.is_file() {
        return Some((format!("`{shown}` is neither a program nor a script"), None));
    }
    let head = head(path);
    if metadata.permissions().mode() & 0o111 == 0 {
        let hint = match interpreter(&head) {
            Some((interpreter, _)) => {
                format!("run `chmod +x {shown}`, or write `run = [\"{}\", \"{shown}\", …]`", last(&interpreter))
            }
            None => format!("run `chmod +x {shown}`, or put its interpreter in front of it"),
        };
        return Some((
            format!("`{shown}` is not executable: its mode is {:o}", metadata.permissions().mode() & 0o777),
            Some(hint),
        ));
    }
    if let Some((interpreter, _)) = interpreter(&head) {
        return of_interpreter(&shown, &interpreter);
    }
    match refused.raw_os_error()? {
        libc::ENOEXEC => Some(no_program(&shown, &head)),
        libc::ENOENT if head.starts_with(b"\x7fELF") => {
            let hint = format!("it was built for another system; `file {shown}` shows which");
            Some((format!("the loader of `{shown}` is missing"), Some(hint)))
        }
        libc::EACCES if is_noexec(path) => {
            let hint = "put its interpreter in front of it, or move it elsewhere".to_string();
            Some((format!("`{shown}` is on a file system mounted `noexec`"), Some(hint)))
        }
        libc::EACCES => Some((format!("this user may not execute `{shown}`"), None)),
        _ => None,
    }
}

/// The cause for a path that leads to no file.
fn out_of_reach(path: &Path, shown: &str, error: &io::Error) -> Why {
    match error.raw_os_error() {
        Some(libc::ENOENT) if path.symlink_metadata().is_ok() => (format!("`{shown}` is a broken link"), None),
        Some(libc::ENOENT) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let near = suggest::nearest(&name, names.iter().map(String::as_str));
            (format!("there is no file `{shown}`"), near.map(|near| format!("did you mean `{near}`?")))
        }
        _ => (format!("cannot access `{shown}`: {error}"), None),
    }
}

fn of_interpreter(script: &str, interpreter: &str) -> Option<Why> {
    if interpreter.ends_with('\r') {
        return Some(windows_lines(script, interpreter));
    }
    if interpreter.is_empty() {
        return Some((format!("the first line of `{script}` names no interpreter after `#!`"), None));
    }
    let path = Path::new(interpreter);
    match path.metadata() {
        Err(_) => {
            let cause = format!("the interpreter `{interpreter}` of `{script}` does not exist");
            let hint = format!("`#!/usr/bin/env {}` looks for it in PATH", last(interpreter));
            Some((cause, (last(interpreter) != "env").then_some(hint)))
        }
        Ok(m) if m.is_dir() || m.permissions().mode() & 0o111 == 0 => {
            Some((format!("the interpreter `{interpreter}` of `{script}` is not executable"), None))
        }
        Ok(_) => None,
    }
}

fn windows_lines(script: &str, interpreter: &str) -> Why {
    let cause = format!("`{script}` has Windows line endings, so its interpreter is `{}\\r`", interpreter.trim_end());
    (cause, Some(format!("run `sed -i 's/\\r$//' {script}`")))
}

/// The cause for a file that the system does not recognise as a program.
fn no_program(shown: &str, head: &[u8]) -> Why {
    if head.is_empty() {
        return (format!("`{shown}` is empty"), None);
    }
    if head.starts_with(b"\x7fELF") {
        return (
            format!("`{shown}` was built for another processor"),
            Some(format!("run `file {shown}` to see which")),
        );
    }
    if head.starts_with(b"MZ") {
        return (format!("`{shown}` is a Windows program"), None);
    }
    if head.contains(&0) {
        return (format!("`{shown}` is not a program this system can run"), None);
    }
    let marked = head.strip_prefix(b"\xef\xbb\xbf").is_some_and(|rest| rest.starts_with(b"#!"));
    let cause = match marked {
        true => format!("`{shown}` has a byte order mark before its `#!`"),
        false => format!("`{shown}` names no interpreter: its first line does not start with `#!`"),
    };
    (cause, Some(format!("start it with `#!/bin/sh`, or write `run = [\"sh\", \"{shown}\", …]`")))
}

/// The cause for arguments and variables beyond the system's limit.
fn too_long(program: &Program<'_>) -> Why {
    let size = |bytes: usize| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let arguments: usize = program.words.iter().map(|word| word.len() + 1).sum();
    let variables = program.whole_environment();
    let environment: usize = variables.iter().map(|v| v.len() + 1).sum();
    let cause = format!(
        "the arguments ({}) and the environment ({}) are too long for the system",
        size(arguments),
        size(environment)
    );
    let longest = variables.iter().max_by_key(|v| v.len());
    if let Some(longest) = longest.filter(|v| v.len() >= LONGEST_WORD || environment > arguments) {
        let name = String::from_utf8_lossy(longest.as_bytes().split(|b| *b == b'=').next().unwrap_or_default());
        return (cause, Some(format!("the largest variable is `{name}` ({})", size(longest.len()))));
    }
    let (nth, word) = program.words.iter().map(String::len).enumerate().max_by_key(|(_, word)| *word).unwrap_or((0, 0));
    let hint = match word >= LONGEST_WORD {
        true => format!("argument {nth} has {}, the limit is {}; pass it in a file", size(word), size(LONGEST_WORD)),
        false => "pass long lists in a file".to_string(),
    };
    (cause, Some(hint))
}

/// For a script that was started and exited as `env` does without the interpreter: it may have
/// Windows line endings.
pub fn found_no_interpreter(name: &str, folder: &Path, status: ExitStatus) -> Option<String> {
    if status.code() != Some(127) {
        return None;
    }
    let Lookup::File(path) = find(folder, name) else { return None };
    let (interpreter, argument) = interpreter(&head(&path))?;
    let (cause, hint) = match argument.ends_with('\r') && last(&interpreter) == "env" {
        true => windows_lines(name, &argument),
        false => return None,
    };
    Some(format!("{cause}: {}", hint.unwrap_or_default()))
}

/// The first bytes of a file.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = File::open(path).and_then(|file| file.take(512).read_to_end(&mut bytes));
    bytes
}

/// The `#!` line: the interpreter and the rest of the line.
fn interpreter(head: &[u8]) -> Option<(String, String)> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let line = line.trim_start_matches([' ', '\t']);
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some((interpreter.to_string(), argument.to_string()))
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_noexec(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
}
