//! Why a program could not be started, in words: the kernel has one number for many causes, and names another file's absence
//! as if it were the program's. Looks at what is there; changes nothing.

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

/// The most bytes of one argument or variable, and of all together where the stack is as large as usual.
const LONGEST_WORD: usize = 128 << 10;

/// The error of a start that failed.
pub fn error(program: &Program<'_>, refused: io::Error) -> Error {
    let name = program.words.first().map_or("", String::as_str);
    let error = Error::stage(format!("cannot start `{name}`"));
    match why(program, name, &refused) {
        Some((cause, hint)) => error.because(cause).maybe_hint(hint),
        None => error.caused(refused),
    }
}

type Why = (String, Option<String>);

/// The cause and what helps; `None` where the system's own words are as good.
fn why(program: &Program<'_>, name: &str, refused: &io::Error) -> Option<Why> {
    if name.is_empty() {
        return Some(("the name of the program is empty".into(), None));
    }
    if let Some(nth) = program.words.iter().position(|word| word.contains('\0')) {
        let which = if nth == 0 { "its name".into() } else { format!("argument {nth}") };
        return Some((format!("{which} holds a zero byte, which no program can be given"), None));
    }
    if !program.folder.is_dir() {
        return Some((format!("the folder `{}`, where it is to run, is not there", program.folder.display()), None));
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
            let hint = "it runs once whoever writes it has closed it".to_string();
            Some(("somebody has it open to write to it".into(), Some(hint)))
        }
        _ => None,
    }
}

enum Lookup {
    /// The one that was tried.
    File(PathBuf),
    Nowhere,
}

/// As the system looks for it: a name with a `/` is a path, any other is looked for in PATH.
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
        return ("it is looked for in the folders of PATH, which is empty".into(), None);
    }
    let cause = "no folder of PATH has a program of this name".to_string();
    if folder.join(name).is_file() {
        let hint = format!("the one beside the pipeline is `./{name}`: the folder of the pipeline is not searched");
        return (cause, Some(hint));
    }
    if name.contains(char::is_whitespace) {
        let hint = "a list is a program and its arguments, each a word; a line for a shell is written without a list";
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
                format!("`chmod +x {shown}`, or write `run = [\"{}\", \"{shown}\", …]`", last(&interpreter))
            }
            None => format!("`chmod +x {shown}`, or name what is to run it in front of it"),
        };
        return Some((
            format!("`{shown}` may not be executed: its mode is {:o}", metadata.permissions().mode() & 0o777),
            Some(hint),
        ));
    }
    if let Some((interpreter, _)) = interpreter(&head) {
        return of_interpreter(&shown, &interpreter);
    }
    match refused.raw_os_error()? {
        libc::ENOEXEC => Some(no_program(&shown, &head)),
        libc::ENOENT if head.starts_with(b"\x7fELF") => {
            let hint = format!("it was built for another system; `file {shown}` says for which");
            Some((format!("`{shown}` needs a loader that is not here"), Some(hint)))
        }
        libc::EACCES if is_noexec(path) => {
            let hint = "name its interpreter in front of it, or keep it elsewhere".to_string();
            Some((format!("`{shown}` lies on a file system that is mounted `noexec`"), Some(hint)))
        }
        libc::EACCES => Some((format!("this user may not execute `{shown}`"), None)),
        _ => None,
    }
}

/// What a path says that leads to no file.
fn out_of_reach(path: &Path, shown: &str, error: &io::Error) -> Why {
    match error.raw_os_error() {
        Some(libc::ENOENT) if path.symlink_metadata().is_ok() => (format!("`{shown}` is a link to nowhere"), None),
        Some(libc::ENOENT) => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let near = suggest::nearest(&name, names.iter().map(String::as_str));
            (format!("there is no file `{shown}`"), near.map(|near| format!("did you mean `{near}`?")))
        }
        _ => (format!("`{shown}` cannot be reached: {error}"), None),
    }
}

fn of_interpreter(script: &str, interpreter: &str) -> Option<Why> {
    if interpreter.ends_with('\r') {
        return Some(windows_lines(script, interpreter));
    }
    if interpreter.is_empty() {
        return Some((format!("the first line of `{script}` names no interpreter behind `#!`"), None));
    }
    let path = Path::new(interpreter);
    match path.metadata() {
        Err(_) => {
            let cause = format!("`{script}` asks for the interpreter `{interpreter}`, which is not there");
            let hint = format!("`#!/usr/bin/env {}` looks for it in PATH", last(interpreter));
            Some((cause, (last(interpreter) != "env").then_some(hint)))
        }
        Ok(m) if m.is_dir() || m.permissions().mode() & 0o111 == 0 => {
            Some((format!("`{script}` asks for the interpreter `{interpreter}`, which may not be executed"), None))
        }
        Ok(_) => None,
    }
}

fn windows_lines(script: &str, interpreter: &str) -> Why {
    let cause = format!(
        "the lines of `{script}` end as on Windows, so it asks for the interpreter `{}\\r`",
        interpreter.trim_end()
    );
    (cause, Some(format!("`sed -i 's/\\r$//' {script}`")))
}

/// What the system takes for no program at all.
fn no_program(shown: &str, head: &[u8]) -> Why {
    if head.is_empty() {
        return (format!("`{shown}` is empty"), None);
    }
    if head.starts_with(b"\x7fELF") {
        return (format!("`{shown}` was built for another processor"), Some(format!("`file {shown}` says for which")));
    }
    if head.starts_with(b"MZ") {
        return (format!("`{shown}` is a program for Windows"), None);
    }
    if head.contains(&0) {
        return (format!("`{shown}` is no program that this system knows"), None);
    }
    let marked = head.strip_prefix(b"\xef\xbb\xbf").is_some_and(|rest| rest.starts_with(b"#!"));
    let cause = match marked {
        true => format!("a byte order mark stands before the `#!` of `{shown}`"),
        false => format!("`{shown}` does not say what runs it: its first line does not begin with `#!`"),
    };
    (cause, Some(format!("begin it with `#!/bin/sh`, or write `run = [\"sh\", \"{shown}\", …]`")))
}

/// What is more than the system hands to a program.
fn too_long(program: &Program<'_>) -> Why {
    let size = |bytes: usize| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let arguments: usize = program.words.iter().map(|word| word.len() + 1).sum();
    let variables = program.whole_environment();
    let environment: usize = variables.iter().map(|v| v.len() + 1).sum();
    let cause = format!(
        "arguments of {} and an environment of {} are too long for the system",
        size(arguments),
        size(environment)
    );
    let longest = variables.iter().max_by_key(|v| v.len());
    if let Some(longest) = longest.filter(|v| v.len() >= LONGEST_WORD || environment > arguments) {
        let name = String::from_utf8_lossy(longest.as_bytes().split(|b| *b == b'=').next().unwrap_or_default());
        return (cause, Some(format!("the largest variable is `{name}`, of {}", size(longest.len()))));
    }
    let (nth, word) = program.words.iter().map(String::len).enumerate().max_by_key(|(_, word)| *word).unwrap_or((0, 0));
    let hint = match word >= LONGEST_WORD {
        true => format!(
            "argument {nth} alone has {}, and {} is the most; hand it over in a file",
            size(word),
            size(LONGEST_WORD)
        ),
        false => "hand over long lists in a file".to_string(),
    };
    (cause, Some(hint))
}

/// Of a script that was started and ended as `env` ends without the interpreter: its lines may end as on Windows.
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

/// What stands behind `#!`: the interpreter, and what else is on its line.
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
