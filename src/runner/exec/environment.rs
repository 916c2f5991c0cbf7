//! The environment variables of a worker or program beyond those of this process.
//!
//! In order of precedence: what the stage requests, what the user has set, the stage's share of the
//! run. A default never overwrites a variable of the user. GPUs are allocated, not defaulted: a
//! stage that requests none sees those in the user's CUDA_VISIBLE_DEVICES, or none if that is not
//! set, because they are allocated to others. Does not know how shares are allocated (`resources`).

use crate::pipeline::graph::Resources;

/// Variables that set how many threads a program starts.
const THREADS: [&str; 2] = ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"];
/// The variable that selects visible GPUs by number, UUID or MIG instance.
pub const GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// Whether the stage itself requests threads or GPUs.
#[derive(Debug, Clone, Copy)]
pub struct Requested {
    pub threads: bool,
    pub gpus: bool,
}

impl Requested {
    pub fn by(resources: &Resources) -> Self {
        Self { threads: resources.threads.is_some(), gpus: resources.gpus > 0 }
    }
}

/// A variable with its value and the reason for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// `None`: left as the user has set it.
    pub value: Option<String>,
    pub why: &'static str,
}

/// The variables for a stage with these shares. `user`: whether the user's environment has a
/// variable.
pub fn settings(given: Requested, threads: usize, gpus: &[String], user: &dyn Fn(&str) -> bool) -> Vec<Variable> {
    let of_threads = |name| match (given.threads, user(name)) {
        (true, _) => Variable { name, value: Some(threads.to_string()), why: "`resources.threads`" },
        (false, true) => Variable { name, value: None, why: "set by you" },
        (false, false) => Variable { name, value: Some(threads.to_string()), why: "all threads of the run" },
    };
    let gpus = match (given.gpus, user(GPUS)) {
        (true, _) => Variable { name: GPUS, value: Some(gpus.join(",")), why: "allocated by `resources.gpus`" },
        (false, true) => Variable { name: GPUS, value: None, why: "set by you" },
        (false, false) => Variable {
            name: GPUS,
            value: Some(String::new()),
            why: "no GPU: the stage requests none with `resources = { gpus = 1 }`",
        },
    };
    THREADS.map(of_threads).into_iter().chain([gpus]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(threads: bool, gpus: bool, user: &[&str]) -> Vec<Option<String>> {
        let given = Requested { threads, gpus };
        let ids = if gpus { vec!["GPU-ab".to_string(), "1".to_string()] } else { vec![] };
        settings(given, 3, &ids, &|name| user.contains(&name)).into_iter().map(|s| s.value).collect()
    }

    #[test]
    fn what_a_stage_asks_for_ranks_before_what_the_user_has_set() {
        let text = |t: &str| Some(t.to_string());
        assert_eq!(told(false, false, &[]), [text("3"), text("3"), text("")]);
        assert_eq!(told(true, true, &[]), [text("3"), text("3"), text("GPU-ab,1")]);
        assert_eq!(told(false, false, &["OMP_NUM_THREADS", GPUS]), [None, text("3"), None]);
        assert_eq!(told(true, true, &["OMP_NUM_THREADS", GPUS]), [text("3"), text("3"), text("GPU-ab,1")]);
    }
}
