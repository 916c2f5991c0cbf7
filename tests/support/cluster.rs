//! A real Slurm of two nodes on this machine, see `tests/tools/slurm`. Each test starts its own.

use super::deadline::Deadline;
use super::skip;
use super::space::{Said, Space};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    /// `None`, and the test is skipped, where Slurm is not installed or does not start. With
    /// `ERW_TEST_SLURM=1` that is a failure.
    #[track_caller]
    pub fn start() -> Option<Self> {
        // The munge socket must have a short path.
        let cluster = Self { dir: tempfile::tempdir_in("/tmp").unwrap() };
        let why = match ["slurmctld", "slurmd", "munged"].iter().find(|name| !is_installed(name)) {
            Some(name) => format!("there is no `{name}`"),
            None => {
                let out = cluster.script("start", None);
                if out.status.success() {
                    return Some(cluster);
                }
                String::from_utf8_lossy(&out.stderr).into_owned()
            }
        };
        assert!(std::env::var_os("ERW_TEST_SLURM").is_none_or(|v| v != "1"), "no cluster could be started: {why}");
        skip(&format!("no cluster could be started: {why}"));
        None
    }

    fn script(&self, what: &str, node: Option<&str>) -> std::process::Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/slurm/cluster.sh");
        Command::new(script).arg(what).arg(self.dir.path()).args(node).stdin(Stdio::null()).finish()
    }

    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("slurm.conf")
    }

    /// A command of Slurm, and what it says.
    pub fn tell(&self, words: &[&str]) -> String {
        let out = Command::new(words[0]).args(&words[1..]).env("SLURM_CONF", self.conf()).finish();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The jobs of this cluster that have not ended: (id, state).
    pub fn jobs(&self) -> Vec<(String, String)> {
        let text = self.tell(&["squeue", "-h", "-o", "%i %T"]);
        let pair = |line: &str| line.split_once(' ').map(|(id, state)| (id.to_string(), state.to_string()));
        text.lines().filter_map(pair).collect()
    }

    /// Kills all processes of a node at once, as a power failure does.
    pub fn kill_node(&self, node: &str) {
        let out = self.script("kill", Some(node));
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Submits a job that takes both nodes for so long, and returns its id.
    pub fn occupy(&self, seconds: u32) -> String {
        let sleep = format!("sleep {seconds}");
        let both =
            ["sbatch", "--parsable", "-p", "main", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", &sleep];
        self.tell(&both).trim().to_string()
    }

    /// Slurm makes a requeued job wait for two minutes; here it is two seconds. Within the second in which
    /// it was killed its node would refuse it: "Job credential revoked".
    pub fn hurry(&self) {
        let mut queue = Command::new("squeue");
        queue
            .args(["-h", "-t", "PENDING", "-o", "%i %S"])
            .env("SLURM_CONF", self.conf())
            .env("SLURM_TIME_FORMAT", "%s");
        let text = String::from_utf8(queue.finish().stdout).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        for (id, start) in text.lines().filter_map(|line| line.split_once(' ')) {
            if start.trim().parse::<u64>().is_ok_and(|start| start > now + 5) {
                let mut update = Command::new("scontrol");
                update.args(["update", &format!("jobid={id}"), "StartTime=now+2"]).env("SLURM_CONF", self.conf());
                // It may have started meanwhile.
                let _ = update.stderr(Stdio::null()).status();
            }
        }
    }

    /// The process of a daemon: `ctld`, `slurmd.n1` or `slurmd.n2`.
    pub fn daemon(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.pid"))).unwrap().trim().to_string()
    }

    /// Starts the controller again, from what it had saved.
    pub fn restart_controller(&self) {
        let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("slurmctld");
        assert!(command.arg("-f").arg(self.conf()).env("PATH", path).stdin(Stdio::null()).finish().status.success());
    }

    /// `erw` in a space, for this cluster.
    pub fn command(&self, space: &Space, args: &[&str]) -> Command {
        let mut command = space.command(args);
        command.env("SLURM_CONF", self.conf()).env("ERW_LAUNCHER", "slurm");
        command.env("ERW_LATENCY", "3s").env("ERW_POLL", "2s").env("ERW_GRACE", "5s");
        command
    }

    pub fn run(&self, space: &Space, more: &[&str]) -> Said {
        let args = [&["run", "p.toml", "--plain"], more].concat();
        Said::from(self.command(space, &args).finish())
    }

    pub fn spawn(&self, space: &Space, more: &[&str]) -> Child {
        let args = [&["run", "p.toml", "--plain"], more].concat();
        self.command(space, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
    }
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| Path::new(folder).join(name).is_file())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.script("stop", None);
        // What a failed test cannot tell: whether Slurm itself started a job again.
        if std::thread::panicking() {
            for log in ["ctld.log", "slurmd.n1.log", "slurmd.n2.log"] {
                let text = std::fs::read_to_string(self.conf().with_file_name(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(60)..].join("\n");
                let _ = writeln!(std::io::stderr(), "the end of {log}:\n{end}");
            }
        }
    }
}
