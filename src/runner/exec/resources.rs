//! The resources that a run may use: jobs, threads, memory, GPUs, and named ones. Allocates and
//! takes back; does not know which stage gets what.

use super::environment::GPUS;
use crate::pipeline::graph::Resources;
use crate::text::suggest;
use erw_base::error::{Error, Result};
use erw_base::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The limits of a run.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Concurrent stages.
    pub jobs: usize,
    pub threads: usize,
    /// Bytes.
    pub mem: u64,
    /// Ids as in `CUDA_VISIBLE_DEVICES`.
    pub gpus: Vec<String>,
    /// Stages that request GPUs run on the CPU.
    pub without_gpus: bool,
    /// Units by name. A name without a limit gets as many units as its most demanding stage
    /// requests: without a limit for licences, stages that need one take turns.
    pub named: BTreeMap<String, u64>,
    /// Threads, memory and GPUs are found elsewhere, by a cluster's scheduler: none of them is a
    /// limit.
    pub elsewhere: bool,
    /// While the load average is higher, nothing starts beside running stages.
    pub max_load: Option<f64>,
}

impl Limits {
    /// The whole machine.
    pub fn of_machine() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            jobs: limits::helpers(threads.max(4)),
            threads,
            mem: memory(),
            gpus: gpus(),
            without_gpus: false,
            named: BTreeMap::new(),
            elsewhere: false,
            max_load: None,
        }
    }

    /// Whether the load is so high that only an idle run may start something.
    pub fn is_overloaded(&self) -> bool {
        let load = || std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse::<f64>().ok();
        self.max_load.is_some_and(|max| load().is_some_and(|load| load >= max))
    }
}

/// Memory of the machine, the container or the batch job.
fn memory() -> u64 {
    let total =
        |text: String| text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let total = std::fs::read_to_string("/proc/meminfo").ok().and_then(total).map_or(u64::MAX, |kib: u64| kib * 1024);
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    total.min(allowed(Path::new("/sys/fs/cgroup"), &group))
}

/// The tightest `memory.max` of this control group (version 2) and its ancestors.
fn allowed(root: &Path, group: &str) -> u64 {
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).map_or(root.to_path_buf(), |own| root.join(own));
    let groups = own.ancestors().take_while(|folder| folder.starts_with(root));
    let limits =
        groups.filter_map(|folder| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok());
    limits.min().unwrap_or(u64::MAX)
}

fn gpus() -> Vec<String> {
    if let Ok(text) = std::env::var(GPUS) {
        return visible(&text);
    }
    let count = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.count());
    (0..count).map(|n| n.to_string()).collect()
}

/// Parsed as CUDA does: numbers, ordered by CUDA_DEVICE_ORDER, or UUIDs of GPUs or their MIG
/// instances. An invalid entry, such as `-1`, hides everything after it. Duplicates count once.
fn visible(text: &str) -> Vec<String> {
    let is_number = |id: &str| id.bytes().all(|b| b.is_ascii_digit());
    let names_one = |id: &&str| !id.is_empty() && (is_number(id) || id.starts_with("GPU-") || id.starts_with("MIG-"));
    let mut ids: Vec<String> = vec![];
    for id in text.split(',').map(str::trim).take_while(names_one) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.into());
        }
    }
    ids
}

#[derive(Debug)]
pub struct ResourcePool {
    limits: Limits,
    free: Limits,
}

impl ResourcePool {
    /// `asking` are the stages that may request resources, by name.
    ///
    /// # Errors
    /// When a stage requests more than the limit, or a limit names a resource that no stage
    /// requests.
    pub fn new<'s>(mut limits: Limits, asking: impl Iterator<Item = (&'s str, &'s Resources)> + Clone) -> Result<Self> {
        let known = |name: &String| asking.clone().any(|(_, need)| need.named.contains_key(name));
        if let Some(unknown) = limits.named.keys().find(|name| !known(name)) {
            let names: BTreeSet<&str> = asking.flat_map(|(_, need)| need.named.keys().map(String::as_str)).collect();
            let none = || "a stage requests it with `resources = { NAME = 1 }`".to_string();
            let hint = suggest::hint(unknown, names, "they request").unwrap_or_else(none);
            return Err(Error::usage(format!("no stage requests the resource `{unknown}`")).hint(hint));
        }
        let stated = limits.named.clone();
        for (stage, need) in asking {
            check(&limits, &stated, stage, need)?;
            for (name, &units) in need.named.iter().filter(|(name, _)| !stated.contains_key(*name)) {
                let most = limits.named.entry(name.clone()).or_default();
                *most = units.max(*most);
            }
        }
        Ok(Self { free: limits.clone(), limits })
    }

    /// Whether a stage with small requests could start.
    pub fn has_room(&self) -> bool {
        self.free.jobs > 0 && (self.free.threads > 0 || self.limits.elsewhere)
    }

    /// Allocates what a stage needs, if available. A request for more threads or memory than the
    /// limit means all of it.
    pub fn take(&mut self, need: &Resources) -> Option<Allocation> {
        let bounded = !self.limits.elsewhere;
        let ranks = need.ranks.unwrap_or(1);
        let threads = match bounded {
            true => need.threads.unwrap_or(usize::MAX).saturating_mul(ranks).clamp(1, self.limits.threads),
            false => need.threads.unwrap_or(1).max(1) * ranks,
        };
        let mem = need.mem.unwrap_or(0).saturating_mul(ranks as u64);
        let mem = if bounded { mem.min(self.limits.mem) } else { mem };
        let gpus = if self.limits.without_gpus { 0 } else { need.gpus };
        let free = &mut self.free;
        let enough = |(name, units): (&String, &u64)| free.named.get(name).is_some_and(|have| have >= units);
        let lacking = free.threads < threads || free.mem < mem || free.gpus.len() < gpus;
        if free.jobs == 0 || (bounded && lacking) || !need.named.iter().all(enough) {
            return None;
        }
        free.jobs -= 1;
        for (name, units) in &need.named {
            free.named.entry(name.clone()).and_modify(|have| *have -= units);
        }
        if !bounded {
            let gpus = (0..gpus).map(|n| n.to_string()).collect();
            return Some(Allocation { threads, mem, gpus, named: need.named.clone(), ranks });
        }
        free.threads -= threads;
        free.mem -= mem;
        let gpus = free.gpus.drain(..gpus).collect();
        Some(Allocation { threads, mem, gpus, named: need.named.clone(), ranks })
    }

    pub fn give_back(&mut self, allocation: Allocation) {
        self.free.jobs += 1;
        if !self.limits.elsewhere {
            self.free.threads += allocation.threads;
            self.free.mem += allocation.mem;
            self.free.gpus.extend(allocation.gpus);
            // In the order in which the user listed them.
            let place = |id: &String| self.limits.gpus.iter().position(|known| known == id);
            self.free.gpus.sort_by_key(place);
        }
        for (name, units) in allocation.named {
            self.free.named.entry(name).and_modify(|have| *have += units);
        }
    }
}

/// Fails if the stage could never run.
fn check(limits: &Limits, stated: &BTreeMap<String, u64>, stage: &str, need: &Resources) -> Result<()> {
    let have = limits.gpus.len();
    if !limits.without_gpus && !limits.elsewhere && need.gpus > have {
        let error = Error::usage(format!("stage `{stage}` requests {} GPU(s), this run has {have}", need.gpus));
        let user = std::env::var(GPUS).ok().map(|ids| format!("{GPUS}=\"{ids}\" is set in your environment"));
        return Err(error.maybe_hint(user).hint("pass `--gpus 0` to run GPU stages on the CPU"));
    }
    for (name, units) in &need.named {
        if let Some(have) = stated.get(name).filter(|have| *have < units) {
            return Err(Error::usage(format!("stage `{stage}` requests {units} of `{name}`, this run has {have}"))
                .hint(format!("raise the limit with `--resource {name}={units}`")));
        }
    }
    Ok(())
}

/// The resources allocated to an attempt: to all of its ranks together.
#[derive(Debug, Clone)]
pub struct Allocation {
    pub threads: usize,
    pub mem: u64,
    /// Ids of GPUs.
    pub gpus: Vec<String>,
    /// Units of named resources.
    pub named: BTreeMap<String, u64>,
    pub ranks: usize,
}

impl Allocation {
    /// Threads of one rank.
    pub fn threads_of_rank(&self) -> usize {
        (self.threads / self.ranks.max(1)).max(1)
    }
    /// Bytes of memory of one rank.
    pub fn mem_of_rank(&self) -> u64 {
        self.mem / self.ranks.max(1) as u64
    }
    /// `CUDA_VISIBLE_DEVICES` renumbers GPUs: the first visible one is always 0.
    pub fn device(&self) -> String {
        if self.gpus.is_empty() { "cpu".into() } else { "cuda:0".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(without_gpus: bool) -> Limits {
        let gpus = vec!["0".to_string(), "1".to_string()];
        Limits {
            jobs: 3,
            threads: 4,
            mem: 100,
            gpus,
            without_gpus,
            named: BTreeMap::new(),
            elsewhere: false,
            max_load: None,
        }
    }

    fn pool() -> ResourcePool {
        ResourcePool::new(limits(false), std::iter::empty()).unwrap()
    }

    fn need(threads: Option<usize>, mem: u64, gpus: usize) -> Resources {
        Resources { threads, mem: Some(mem), gpus, ..Resources::default() }
    }

    fn licences(units: u64) -> Resources {
        Resources { named: [("licence".to_string(), units)].into(), ..need(Some(1), 0, 0) }
    }

    #[test]
    fn a_stage_without_threads_takes_all_of_them() {
        let mut pool = pool();
        let all = pool.take(&Resources::default()).unwrap();
        assert_eq!(all.threads, 4);
        assert!(pool.take(&need(Some(1), 0, 0)).is_none());
        assert!(!pool.has_room());
        pool.give_back(all);
        assert_eq!(pool.take(&need(Some(99), 0, 0)).unwrap().threads, 4);
    }

    #[test]
    fn every_limit_holds_and_comes_back() {
        let mut pool = pool();
        let a = pool.take(&need(Some(1), 60, 1)).unwrap();
        assert!(pool.take(&need(Some(1), 60, 0)).is_none(), "memory");
        assert!(pool.take(&need(Some(1), 0, 2)).is_none(), "gpus");
        let b = pool.take(&need(Some(1), 40, 1)).unwrap();
        assert_ne!(a.gpus, b.gpus);
        let c = pool.take(&need(Some(1), 0, 0)).unwrap();
        assert!(pool.take(&need(Some(1), 0, 0)).is_none(), "jobs");
        for allocation in [a, b, c] {
            pool.give_back(allocation);
        }
        assert_eq!(pool.take(&need(Some(4), 1000, 2)).unwrap().gpus, ["0", "1"]);
    }

    #[test]
    fn every_rank_has_its_threads_and_memory() {
        let mut pool = pool();
        let ranks = |threads, ranks| Resources { ranks: Some(ranks), ..need(threads, 20, 0) };
        let two = pool.take(&ranks(Some(1), 2)).unwrap();
        assert_eq!((two.threads, two.threads_of_rank(), two.mem, two.mem_of_rank()), (2, 1, 40, 20));
        assert!(pool.take(&ranks(Some(1), 3)).is_none(), "threads");
        pool.give_back(two);
        let all = pool.take(&ranks(None, 2)).unwrap();
        assert_eq!((all.threads, all.threads_of_rank()), (4, 2), "threads are divided where none are stated");
        pool.give_back(all);
        assert_eq!(pool.take(&ranks(Some(1), 9)).unwrap().threads_of_rank(), 1, "never none");
    }

    #[test]
    fn too_many_gpus_are_refused_unless_none_are_wanted() {
        let asks = need(None, 0, 3);
        let asking = || std::iter::once(("s", &asks));
        assert!(ResourcePool::new(limits(false), asking()).is_err());
        assert!(ResourcePool::new(limits(true), asking()).unwrap().take(&asks).unwrap().gpus.is_empty());
    }

    #[test]
    fn named_resources_are_counted_and_without_a_limit_taken_in_turns() {
        let (one, two) = (licences(1), licences(2));
        let asking = || [("a", &one), ("b", &two)].into_iter();
        let mut pool = ResourcePool::new(limits(false), asking()).unwrap();
        let first = pool.take(&two).unwrap();
        assert!(pool.take(&one).is_none());
        pool.give_back(first);
        assert!(pool.take(&one).is_some() && pool.take(&one).is_some());
        let stated = |units| Limits { named: [("licence".to_string(), units)].into(), ..limits(false) };
        let refused = ResourcePool::new(stated(1), asking()).unwrap_err();
        assert!(refused.message.contains("stage `b` requests 2 of `licence`, this run has 1"), "{refused}");
        let mut pool = ResourcePool::new(stated(3), asking()).unwrap();
        assert!(pool.take(&two).is_some() && pool.take(&one).is_some() && pool.take(&one).is_none());
        let refused = ResourcePool::new(stated(1), std::iter::empty()).unwrap_err();
        assert!(refused.message.contains("no stage requests the resource `licence`"), "{refused}");
    }

    #[test]
    fn memory_is_what_the_tightest_group_allows() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("batch/job");
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(allowed(root.path(), "0::/batch/job\n"), u64::MAX);
        std::fs::write(folder.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("batch/memory.max"), "4096\n").unwrap();
        std::fs::write(root.path().join("memory.max"), "8192\n").unwrap();
        assert_eq!(allowed(root.path(), "1:cpu:/x\n0::/batch/job\n"), 4096);
        assert_eq!(allowed(root.path(), ""), 8192);
    }

    #[test]
    fn hidden_gpus_are_none() {
        for nothing in ["-1", "", "NoDevFiles", "none", ",1"] {
            assert_eq!(visible(nothing), Vec::<String>::new(), "{nothing}");
        }
        assert_eq!(visible("0,-1,1"), ["0"]);
        assert_eq!(visible(" 1, GPU-ab,MIG-cd,MIG-GPU-ef/1/0,1"), ["1", "GPU-ab", "MIG-cd", "MIG-GPU-ef/1/0"]);
    }

    #[test]
    fn gpus_come_back_in_the_order_in_which_they_were_named() {
        let gpus = ["10", "2", "GPU-ab"].map(String::from).to_vec();
        let mut pool = ResourcePool::new(Limits { gpus: gpus.clone(), ..limits(false) }, std::iter::empty()).unwrap();
        let (a, b) = (pool.take(&need(Some(1), 0, 2)).unwrap(), pool.take(&need(Some(1), 0, 1)).unwrap());
        assert_eq!((&a.gpus[..], &b.gpus[..]), (&gpus[..2], &gpus[2..]));
        pool.give_back(b);
        pool.give_back(a);
        assert_eq!(pool.take(&need(Some(1), 0, 3)).unwrap().gpus, gpus);
    }

    #[test]
    fn a_load_is_too_high_only_against_a_limit() {
        assert!(!limits(false).is_overloaded());
        assert!(Limits { max_load: Some(-1.0), ..limits(false) }.is_overloaded());
        assert!(!Limits { max_load: Some(1e9), ..limits(false) }.is_overloaded());
    }
}
