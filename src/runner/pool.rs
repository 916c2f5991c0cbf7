//! The share of the machine that a run may use: jobs, threads, memory, GPUs. Grants and takes back; it does not
//! know to whom.

use super::graph::Resources;
use super::perform::Grant;
use crate::error::{Error, Result};

/// What a run may use in all.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Stages at a time.
    pub jobs: usize,
    pub threads: usize,
    /// Bytes.
    pub mem: u64,
    /// Ids as `CUDA_VISIBLE_DEVICES` takes them.
    pub gpus: Vec<String>,
    /// Stages that ask for GPUs run on the CPU.
    pub without_gpus: bool,
}

impl Limits {
    /// The whole machine, as the kernel tells it.
    pub fn of_machine() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { jobs: threads.max(4), threads, mem: memory(), gpus: gpus(), without_gpus: false }
    }
}

fn memory() -> u64 {
    let total =
        |text: String| text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    std::fs::read_to_string("/proc/meminfo").ok().and_then(total).map_or(u64::MAX, |kib: u64| kib * 1024)
}

fn gpus() -> Vec<String> {
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        return visible.split(',').map(str::trim).filter(|id| !id.is_empty()).map(String::from).collect();
    }
    let count = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.count());
    (0..count).map(|n| n.to_string()).collect()
}

#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    free: Limits,
}

impl Pool {
    pub fn new(limits: Limits) -> Self {
        Self { free: limits.clone(), limits }
    }

    /// Fails if no state of the pool could ever satisfy the stage.
    pub fn check(&self, stage: &str, need: &Resources) -> Result<()> {
        let have = self.limits.gpus.len();
        if self.limits.without_gpus || need.gpus <= have {
            return Ok(());
        }
        Err(Error::usage(format!("stage `{stage}` asks for {} GPU(s), this run has {have}", need.gpus))
            .hint("`--gpus 0` runs such stages on the CPU"))
    }

    /// Takes a share if there is one. More threads or memory than there are at all is asking for all of them.
    pub fn take(&mut self, need: &Resources) -> Option<Grant> {
        let threads = need.threads.unwrap_or(usize::MAX).clamp(1, self.limits.threads);
        let mem = need.mem.unwrap_or(0).min(self.limits.mem);
        let gpus = if self.limits.without_gpus { 0 } else { need.gpus };
        let free = &mut self.free;
        if free.jobs == 0 || free.threads < threads || free.mem < mem || free.gpus.len() < gpus {
            return None;
        }
        free.jobs -= 1;
        free.threads -= threads;
        free.mem -= mem;
        let gpus = free.gpus.drain(..gpus).collect();
        Some(Grant { threads, mem, gpus })
    }

    pub fn give_back(&mut self, grant: Grant) {
        self.free.jobs += 1;
        self.free.threads += grant.threads;
        self.free.mem += grant.mem;
        self.free.gpus.extend(grant.gpus);
        self.free.gpus.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(without_gpus: bool) -> Pool {
        let gpus = vec!["0".to_string(), "1".to_string()];
        Pool::new(Limits { jobs: 3, threads: 4, mem: 100, gpus, without_gpus })
    }

    fn need(threads: Option<usize>, mem: u64, gpus: usize) -> Resources {
        Resources { threads, mem: Some(mem), gpus }
    }

    #[test]
    fn a_stage_without_threads_takes_all_of_them() {
        let mut pool = pool(false);
        let all = pool.take(&Resources::default()).unwrap();
        assert_eq!(all.threads, 4);
        assert!(pool.take(&need(Some(1), 0, 0)).is_none());
        pool.give_back(all);
        assert_eq!(pool.take(&need(Some(99), 0, 0)).unwrap().threads, 4);
    }

    #[test]
    fn every_limit_holds_and_comes_back() {
        let mut pool = pool(false);
        let a = pool.take(&need(Some(1), 60, 1)).unwrap();
        assert!(pool.take(&need(Some(1), 60, 0)).is_none(), "memory");
        assert!(pool.take(&need(Some(1), 0, 2)).is_none(), "gpus");
        let b = pool.take(&need(Some(1), 40, 1)).unwrap();
        assert_ne!(a.gpus, b.gpus);
        let c = pool.take(&need(Some(1), 0, 0)).unwrap();
        assert!(pool.take(&need(Some(1), 0, 0)).is_none(), "jobs");
        for grant in [a, b, c] {
            pool.give_back(grant);
        }
        assert_eq!(pool.take(&need(Some(4), 1000, 2)).unwrap().gpus, ["0", "1"]);
    }

    #[test]
    fn too_many_gpus_are_refused_unless_none_are_wanted() {
        assert!(pool(false).check("s", &need(None, 0, 3)).is_err());
        assert!(pool(true).check("s", &need(None, 0, 3)).is_ok());
        assert!(pool(true).take(&need(None, 0, 3)).unwrap().gpus.is_empty());
    }
}
