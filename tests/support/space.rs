//! A folder of its own for a test, in which it writes pipelines and other files and runs the built
//! program.

use super::deadline::Deadline;
use super::skip;
use erw::runner::settings::files::SYSTEM_VARIABLE;
use erw::runner::settings::keys::KEYS;
use erw::runner::settings::layers::PROFILE_VARIABLE;
use nix::sys::signal::{SigHandler, Signal};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

pub struct Space {
    dir: tempfile::TempDir,
}

/// What a finished program said.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The program ended with this exit code.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

impl From<Output> for Said {
    fn from(out: Output) -> Self {
        Self {
            status: out.status.code().unwrap_or_else(|| -out.status.signal().unwrap()),
            stdout: String::from_utf8(out.stdout).unwrap(),
            stderr: String::from_utf8(out.stderr).unwrap(),
        }
    }
}

impl Space {
    /// With a pipeline `p.toml`.
    pub fn new(pipeline: &str) -> Self {
        Self::of(&[("p.toml", pipeline)])
    }
    pub fn of(files: &[(&str, &str)]) -> Self {
        reset_signals();
        let space = Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        files.iter().for_each(|(name, text)| space.write(name, text));
        space
    }
    /// Text without the names of this folder.
    pub fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.dir.path().display()), "")
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// Opens the folders of stored artifacts below this one, and it.
    pub fn open(&self, name: &str) {
        open(&self.path(name));
    }
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = clean(Path::new(env!("CARGO_BIN_EXE_erw")));
        command.args(args).current_dir(self.dir.path());
        command
    }
    pub fn erw(&self, args: &[&str]) -> Said {
        Said::from(self.command(args).finish())
    }
    pub fn run(&self, more: &[&str]) -> Said {
        self.erw(&[&["run", "p.toml", "--plain"], more].concat())
    }
    pub fn plan(&self, more: &[&str]) -> String {
        self.erw(&[&["plan", "p.toml"], more].concat()).expect(0).stdout
    }
    pub fn start(&self, more: &[&str]) -> Child {
        let args = [&["run", "p.toml", "--plain"], more].concat();
        self.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).start()
    }
    /// How often each script noted its name in `ran`, since the last look.
    pub fn ran(&self) -> Vec<String> {
        let lines = self.read("ran").lines().map(String::from).collect();
        self.write("ran", "");
        lines
    }
    /// Contents of each output, read through the store.
    pub fn outputs(&self) -> BTreeMap<String, String> {
        self.outputs_with(&[])
    }
    /// The same of a run with these arguments.
    pub fn outputs_with(&self, more: &[&str]) -> BTreeMap<String, String> {
        let said = self.erw(&[&["run", "p.toml", "--json"], more].concat()).expect(0);
        let events = said.stdout.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let ends = events.filter(|e| e["event"] == "ended");
        let output = |end: serde_json::Value| {
            let path = end["outputs"][0]["path"].as_str().unwrap().to_string();
            let text = std::fs::read_to_string(path).unwrap_or_else(|_| "a folder".into());
            (end["stage"].as_str().unwrap().to_string(), text)
        };
        ends.map(output).collect()
    }
    /// Files and folders directly below a two-level bucket.
    pub fn bucket(&self, name: &str) -> Vec<PathBuf> {
        let children = |p: &Path| -> Vec<PathBuf> {
            let mut all: Vec<_> = std::fs::read_dir(p).unwrap().map(|e| e.unwrap().path()).collect();
            all.sort();
            all
        };
        children(&self.path("cache/v1").join(name)).iter().flat_map(|p| children(p)).collect()
    }
    /// Waits until `done` holds; a test that would wait for ever fails instead.
    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        for _ in 0..6000 {
            if done() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("waited too long for {what}");
    }
}

/// Whoever starts the tests may ignore signals (`nohup`, `&` in a script, or Python, which ignores
/// SIGXFSZ), and a program that finds one ignored at its start goes on doing so: the tests are about
/// those that heed them.
fn reset_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGTSTP, Signal::SIGXFSZ] {
            #[expect(unsafe_code, reason = "what a signal does here before is of no concern, and no handler is set")]
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.unwrap();
        }
    });
}

/// The program as on a developer's machine, where backtraces are asked for, without settings of its
/// own.
pub fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for key in &KEYS {
        command.env_remove(key.variable);
    }
    command.env_remove(PROFILE_VARIABLE).env(SYSTEM_VARIABLE, "").env("XDG_CONFIG_HOME", "/nonexistent");
    command.env_remove("RUST_LIB_BACKTRACE").env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::null());
    command
}

/// Stored folders are closed, which an ordinary user cannot remove.
impl Drop for Space {
    fn drop(&mut self) {
        open(self.dir.path());
    }
}

/// Without recursion: some tests make folders as deep as a path may be long.
fn open(path: &Path) {
    let mut folders = vec![path.to_path_buf()];
    while let Some(path) = folders.pop() {
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755));
            folders.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
}

/// The program run by somebody whom permissions stop: whoever runs the tests, or nobody where that
/// is root. `None`, and the test is skipped, where root cannot become nobody.
#[track_caller]
pub fn unprivileged(space: &Space, args: &[&str]) -> Option<Command> {
    const NOBODY: u32 = 65534;
    let mut command = space.command(args);
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Some(command);
    }
    let _ = std::fs::set_permissions(space.path(""), std::fs::Permissions::from_mode(0o777));
    command.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent");
    let mut probe = Command::new(env!("CARGO_BIN_EXE_erw"));
    probe.arg("--version").uid(NOBODY).gid(NOBODY).current_dir(space.path("")).stdout(Stdio::null());
    let can = probe.status().is_ok_and(|status| status.success());
    if !can {
        skip("root cannot run the program as another user");
    }
    can.then_some(command)
}

/// Overwrites a stored, read-only file.
pub fn spoil(path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Names of what is directly in a folder, sorted.
pub fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Without digests, times, and what depends on the machine.
pub fn redact(text: &str) -> String {
    let host = erw::runner::host::host();
    let word = |word: &str| -> String {
        let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '/');
        let hex = core.len() >= 10 && core.bytes().all(|b| b.is_ascii_hexdigit());
        let date = core.len() >= 9 && core.starts_with("20") && core.ends_with(|c: char| c.is_ascii_digit());
        match core {
            _ if hex => word.replace(core, "#"),
            _ if core.ends_with('Z') && core.contains(':') => word.replace(core, "TIME"),
            _ if date && core.contains('-') => word.replace(core, "DATE"),
            _ if core == host && !host.is_empty() => word.replace(core, "HOST"),
            _ if core.parse::<f64>().is_ok() && core.contains('.') => word.replace(core, "0.0"),
            _ => word.to_string(),
        }
    };
    let line = |line: &str| match line.trim_start() {
        l if l.starts_with("with erw") => "  with erw VERSION on DEVICE".to_string(),
        l if l.starts_with("on ") && l.contains("by erw") => "  on HOST, DEVICE, by erw VERSION".to_string(),
        _ => line.split(' ').map(word).collect::<Vec<_>>().join(" "),
    };
    text.lines().map(|l| line(l) + "\n").collect()
}
