//! The machine class: whatever determines the order and the instructions of floating-point sums. On
//! machines of one class a stage produces the same bytes; across classes only kinds do that their
//! manifest declares exact everywhere.
//!
//! A GPU is part of it. An attempt resumes from the `checkpoints/` of earlier ones, so each attempt
//! notes its machine in the work folder, and a record names the machines of all attempts that
//! contributed. With several machines the bytes are not reproducible: they depend on the steps at
//! which the machine changed.
//!
//! Does not know stages.

use crate::files::disk::{self, Durability, write_file};
use nix::unistd::{Uid, User};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine of a result to which several contributed.
pub const SEVERAL: &str = "several machines";
/// The machine of a checkpoint from a version that did not record it.
const UNKNOWN: &str = "an unknown machine";
/// In a work folder: the machines of the attempts, one per line.
const MACHINES: &str = "machines.txt";

/// What the bytes depend on: the class, and the GPU if one was used. Empty if the class is not
/// recorded.
pub fn of(class: &str, device: &str) -> String {
    match device.starts_with("cuda") && !class.is_empty() {
        true => format!("{class} with {device}"),
        false => class.into(),
    }
}

/// Notes in the work folder that an attempt starts on `machine`. Returns the other machines whose
/// checkpoints it finds.
pub fn begin(work: &Path, machine: &str) -> io::Result<Vec<String>> {
    let file = work.join(MACHINES);
    let goes_on = disk::list(&work.join("checkpoints")).is_ok_and(|left| !left.is_empty());
    let mut all: Vec<String> = match (goes_on, std::fs::read_to_string(&file)) {
        (false, _) => vec![],
        (true, Ok(text)) => text.lines().map(String::from).collect(),
        (true, Err(_)) => vec![UNKNOWN.into()],
    };
    if !all.iter().any(|known| known == machine) {
        all.push(machine.into());
        write_file(&file, (all.join("\n") + "\n").as_bytes(), Durability::Later)?;
    }
    all.retain(|known| known != machine);
    Ok(all)
}

/// Notes in the work folder that another rank of the attempt is on `machine`.
pub fn join(work: &Path, machine: &str) -> io::Result<()> {
    let file = work.join(MACHINES);
    if std::fs::read_to_string(&file)?.lines().any(|known| known == machine) {
        return Ok(());
    }
    let mut all = std::fs::File::options().append(true).open(&file)?;
    all.write_all(format!("{machine}\n").as_bytes())
}

/// The machines that contributed to an attempt on `machine`, beside that one.
pub fn others(work: &Path, machine: &str) -> Vec<String> {
    let text = std::fs::read_to_string(work.join(MACHINES)).unwrap_or_default();
    text.lines().filter(|known| *known != machine).map(String::from).collect()
}

/// Instruction sets, cache sizes (kernels choose their block sizes by them), and the C library,
/// whose functions round differently.
pub fn class() -> &'static str {
    static CLASS: OnceLock<String> = OnceLock::new();
    CLASS.get_or_init(|| {
        let mut words = vec![std::env::consts::ARCH.to_string()];
        #[cfg(target_arch = "x86_64")]
        for (name, there) in [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ] {
            words.extend(there.then(|| name.to_string()));
        }
        for index in 0..4 {
            let size = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
            words.push(size.map_or("?".into(), |s| s.trim().to_string()));
        }
        let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        words.push(libc.map_or("?".into(), |o| String::from_utf8_lossy(&o.stdout).trim().replace(' ', "-")));
        words.join(" ")
    })
}

/// The current user: the name of the user id in the system's name service, or else what the
/// environment says.
pub fn user() -> String {
    let id = Uid::effective();
    let named = User::from_uid(id).ok().flatten().map(|user| user.name);
    named.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| id.to_string())
}

/// The name of this host. Read once, because every record has it.
pub fn host() -> String {
    static HOST: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname");
    HOST.get_or_init(|| read().map_or_else(|_| "unknown".into(), |h| h.trim().into())).clone()
}

/// The model of the processor, or of the first GPU, as the kernel reports it. Recorded, not in any
/// key.
pub fn model(gpu: bool) -> Option<String> {
    static MODELS: [OnceLock<Option<String>>; 2] = [OnceLock::new(), OnceLock::new()];
    MODELS[usize::from(gpu)].get_or_init(|| read_model(gpu)).clone()
}

pub(crate) fn read_model(gpu: bool) -> Option<String> {
    let field = |text: String, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?.split_once(':')?.1.trim().to_string();
        Some(line)
    };
    if !gpu {
        return field(std::fs::read_to_string("/proc/cpuinfo").ok()?, "model name");
    }
    let first = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.next()?.ok()?;
    field(std::fs::read_to_string(first.path().join("information")).ok()?, "Model")
}

/// The current time as `2026-01-31T12:00:00.000Z`; such strings sort by time.
pub fn utc_now() -> String {
    utc(SystemTime::now())
}

/// A time in UTC as text. humantime formats no time before 1970, where a clock that was never set
/// may stand.
pub fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_attempt_knows_the_machines_that_it_goes_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path();
        std::fs::create_dir(work.join("checkpoints")).unwrap();
        let none: [&str; 0] = [];
        assert_eq!(begin(work, "a").unwrap(), none);
        assert_eq!(begin(work, "b").unwrap(), none, "the first left nothing to go on from");
        std::fs::write(work.join("checkpoints/1"), "").unwrap();
        assert_eq!(begin(work, "a").unwrap(), ["b"]);
        assert_eq!(begin(work, "b").unwrap(), ["a"]);
        assert_eq!(begin(work, "b with cuda:0, X").unwrap(), ["b", "a"]);
        join(work, "c").unwrap();
        join(work, "c").unwrap();
        assert_eq!(others(work, "a"), ["b", "b with cuda:0, X", "c"]);
        std::fs::remove_file(work.join(MACHINES)).unwrap();
        assert_eq!(begin(work, "a").unwrap(), [UNKNOWN]);
    }

    #[test]
    fn a_gpu_counts_and_the_model_of_a_processor_does_not() {
        assert_eq!(of("c", "cpu, some processor"), "c");
        assert_eq!(of("c", "cuda:0, some GPU"), "c with cuda:0, some GPU");
        assert_eq!(of("", "cuda:0"), "");
    }

    #[test]
    fn times_have_one_form() {
        let at = |millis: u64| utc(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_007), "2000-02-28T23:59:59.007Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(UNIX_EPOCH - Duration::from_secs(1)), at(0));
    }
}
