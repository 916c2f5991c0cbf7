//! The resource limits of this process: processes and threads, open files, address space. Threads
//! are started here, so that a thread that cannot be started is an error that names the limit;
//! `std::thread::spawn` panics.
//!
//! Does not know what the threads and files are used for.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Helper threads of one kind take at most this fraction of the limit. The rest is for other
/// helpers and for child processes.
const SHARE: u64 = 16;

/// Starts a named thread.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work)
}

/// Starts a named thread that is joined at the end of its scope.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work)
}

/// Checks that this many threads can be started. Ask before a library starts its own threads:
/// libraries panic, or fail silently, when they get none.
pub fn probe(threads: usize) -> io::Result<()> {
    let (hold, held) = channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    let wait = |_| {
        let held = held.clone();
        spawn("probe", move || drop(held.lock().map(|held| held.recv())))
    };
    let started: io::Result<Vec<_>> = (0..threads).map(wait).collect();
    drop(hold);
    started?.into_iter().for_each(|thread| drop(thread.join()));
    Ok(())
}

/// The number of helper threads to start: `wanted`, or fewer where the process limit is low, but at
/// least one.
pub fn helpers(wanted: usize) -> usize {
    let allowed = [processes(), group()].into_iter().flatten().min().map_or(usize::MAX, |n| (n / SHARE) as usize);
    wanted.min(allowed).max(1)
}

/// The resource limit behind an error, in words.
pub fn hint(error: &io::Error) -> Option<String> {
    let count = |n: Option<u64>, of: &str| n.map(|n| format!("{n} {of}"));
    let space =
        || limit("Max address space").map(|n| format!("{} MiB of address space (RLIMIT_AS, `ulimit -v`)", n >> 20));
    let allowed: Vec<Option<String>> = match error.raw_os_error()? {
        libc::EMFILE => vec![count(limit("Max open files"), "open files per process (RLIMIT_NOFILE, `ulimit -n`)")],
        libc::ENFILE => vec![Some("the machine's open files (`fs.file-max`)".into())],
        libc::EAGAIN => vec![
            count(processes(), "processes and threads per user (RLIMIT_NPROC, `ulimit -u`)"),
            count(group(), "processes and threads in this control group (`pids.max`)"),
            space(),
        ],
        libc::ENOMEM => vec![space()],
        _ => return None,
    };
    let allowed: Vec<String> = allowed.into_iter().flatten().collect();
    (!allowed.is_empty()).then(|| format!("limits here: {}", allowed.join(", ")))
}

/// The resource limit behind the failure of another program, judged by the last lines of its log.
pub fn hint_of_words(words: &[String]) -> Option<String> {
    let said = |text: &str| words.iter().any(|line| line.contains(text));
    let code = if said("Resource temporarily unavailable") || said("annot fork") {
        libc::EAGAIN
    } else if said("Too many open files") {
        libc::EMFILE
    } else {
        return None;
    };
    hint(&io::Error::from_raw_os_error(code))
}

fn processes() -> Option<u64> {
    limit("Max processes")
}

/// A row of the limits table, `None` if it is not there. The table is read when the first thread
/// starts, because it cannot be read any more once no file can be opened.
fn limit(name: &str) -> Option<u64> {
    static TABLE: OnceLock<String> = OnceLock::new();
    let table = TABLE.get_or_init(|| std::fs::read_to_string("/proc/self/limits").unwrap_or_default());
    table.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// The tightest `pids.max` of this control group and its ancestors, cgroup v1 or v2.
fn group() -> Option<u64> {
    least_pids(Path::new("/sys/fs/cgroup"), &std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn least_pids(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((root.to_path_buf(), path)),
            _ if controllers.split(',').any(|c| c == "pids") => Some((root.join("pids"), path)),
            _ => None,
        }
    });
    let limit = |folder: &Path| std::fs::read_to_string(folder.join("pids.max")).ok()?.trim().parse::<u64>().ok();
    let least = |(root, path): (std::path::PathBuf, &str)| {
        let folder = root.join(path);
        folder.ancestors().take_while(|f| f.starts_with(&root)).filter_map(limit).min()
    };
    own.filter_map(least).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_processes_are_those_of_the_tightest_group() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(least_pids(root.path(), "0::/a/b\n"), None);
        write("a/b/pids.max", "max\n");
        write("a/pids.max", "64\n");
        assert_eq!(least_pids(root.path(), "0::/a/b\n"), Some(64));
        write("pids/c/pids.max", "32\n");
        assert_eq!(least_pids(root.path(), "3:cpu:/x\n4:pids:/c\n0::/a/b\n"), Some(32));
        assert_eq!(least_pids(root.path(), "nothing of the kind"), None);
    }

    #[test]
    fn a_refusal_for_a_limit_names_it() {
        let said = |code| hint(&io::Error::from_raw_os_error(code));
        assert!(said(libc::EMFILE).unwrap().contains("open files per process (RLIMIT_NOFILE, `ulimit -n`)"));
        assert_eq!(said(libc::ENOENT), None);
        let words = |line: &str| hint_of_words(&["first".into(), line.into()]);
        assert_eq!(words("OSError: [Errno 24] Too many open files: 'x'"), said(libc::EMFILE));
        assert_eq!(words("sh: 0: Cannot fork"), said(libc::EAGAIN));
        assert_eq!(words("fork me"), None);
        probe(3).unwrap();
    }
}
