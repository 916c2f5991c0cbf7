//! Ranks: processes that share the work of one attempt. How a kind shares it, which numbers of
//! ranks can, and how a rank learns its own number.
//!
//! The number of ranks is a resource and in no key: it changes no result. So the work is divided
//! into units that do not depend on it, which are micro-batches or pieces. Does not know how ranks
//! are started.

use super::field::Params;
use erw_base::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The parameter with the number of micro-batches of a step.
const ACCUMULATE: &str = "accumulate";

/// The variable with the number of a rank that the runner started.
pub const RANK: &str = "ERW_RANK";

/// Whether ranks on CPUs can exchange gradients: over MPI.
pub const HAS_MPI: bool = cfg!(feature = "mpi");

/// Whether ranks on GPUs can exchange gradients: over NCCL.
pub const HAS_NCCL: bool = cfg!(feature = "nccl");

/// What ranks of a kind share (`ranks` in its manifest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The micro-batches of a step. Their gradients are summed by one fixed tree, so each rank needs
    /// a part of it.
    MicroBatches,
    /// Pieces of the data, of which each rank makes some. The first one joins them.
    Pieces,
}

impl Sharing {
    pub const WORDS: [&str; 2] = ["micro-batches", "pieces"];

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "micro-batches" => Some(Self::MicroBatches),
            "pieces" => Some(Self::Pieces),
            _ => None,
        }
    }

    /// The word in the manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::MicroBatches => Self::WORDS[0],
            Self::Pieces => Self::WORDS[1],
        }
    }

    /// Whether so many ranks can share the work of a stage with these parameters.
    pub fn allows(self, params: &Params, ranks: usize) -> bool {
        match self {
            Self::MicroBatches => divides(micro_batches(params), ranks),
            Self::Pieces => ranks > 0,
        }
    }

    /// The largest number of ranks up to `most` that can.
    pub fn largest(self, params: &Params, most: usize) -> usize {
        (1..=most).rev().find(|ranks| self.allows(params, *ranks)).unwrap_or(1)
    }

    /// Refuses a number of ranks that cannot.
    pub(crate) fn check(self, params: &Params, ranks: usize) -> Result<()> {
        if self.allows(params, ranks) {
            return Ok(());
        }
        let batches = micro_batches(params);
        let possible: Vec<String> = (1..=batches).filter(|n| divides(batches, *n)).map(|n| n.to_string()).collect();
        let possible = match possible.split_last() {
            Some((last, [])) => format!("{last} rank"),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        };
        let each = batches / ranks;
        Err(match batches.is_multiple_of(ranks) {
            true => {
                Error::usage(format!("{ranks} ranks would have {each} micro-batches each, which is no power of two"))
                    .hint(format!("{possible} ranks can share {batches}"))
            }
            false => Error::usage(format!("{ranks} ranks cannot share {}", plural(batches, "micro-batch", "es")))
                .hint(format!("{possible} can, or `{ACCUMULATE} = {ranks}`, which is another training")),
        })
    }
}

fn plural(n: usize, word: &str, ending: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { ending })
}

fn micro_batches(params: &Params) -> usize {
    params.get(ACCUMULATE).and_then(serde_json::Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
}

/// Whether each of the ranks gets a node of the tree of sums.
fn divides(batches: usize, ranks: usize) -> bool {
    ranks == 1 || (ranks > 0 && batches.is_multiple_of(ranks) && (batches / ranks).is_power_of_two())
}

/// Who numbers the ranks of a job. Stated by the launcher, and never guessed from variables that
/// happen to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numbering {
    /// The runner, which has started them.
    #[default]
    Spawned,
    /// `srun`.
    Slurm,
    /// `mpirun`. Stated by the executor, too, of ranks that exchange gradients over MPI.
    Mpi,
}

impl Numbering {
    /// The number of this process among so many ranks.
    ///
    /// # Errors
    /// When it has none, or belongs to another number of ranks.
    pub fn rank(self, ranks: usize) -> Result<usize> {
        self.rank_in(ranks, &|name| std::env::var(name).ok())
    }

    fn rank_in(self, ranks: usize, variable: &dyn Fn(&str) -> Option<String>) -> Result<usize> {
        if ranks <= 1 {
            return Ok(0);
        }
        let (names, size): (&[&str], _) = match self {
            Self::Spawned => (&[RANK], None),
            Self::Slurm => (&["SLURM_PROCID"], Some("SLURM_NTASKS")),
            Self::Mpi => (&["OMPI_COMM_WORLD_RANK", "PMIX_RANK"], Some("OMPI_COMM_WORLD_SIZE")),
        };
        let number = |name: &str| variable(name).and_then(|text| text.trim().parse::<usize>().ok());
        let all = names.join(" nor ");
        let neither = if names.len() > 1 { "neither " } else { "" };
        let rank = names.iter().find_map(|name| number(name)).ok_or_else(|| {
            let not = if names.len() > 1 { "" } else { "not " };
            Error::usage(format!("this worker is one of {ranks} ranks, but has no number"))
                .because(format!("{neither}{all} is {not}set to one"))
                .hint("workers are started by `erw run`")
        })?;
        let told = size.and_then(|name| Some((name, number(name)?)));
        match told.filter(|(_, told)| *told != ranks) {
            Some((name, told)) => {
                Err(Error::usage(format!("this worker is one of {ranks} ranks, but {told} were started"))
                    .because(format!("{name} is {told}")))
            }
            None if rank >= ranks => {
                Err(Error::usage(format!("this worker is one of {ranks} ranks, but has the number {rank}")))
            }
            None => Ok(rank),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_get_nodes_of_the_tree_of_sums() {
        let possible = |a: usize| (1..=2 * a).filter(|n| divides(a, *n)).collect::<Vec<_>>();
        assert_eq!(possible(1), [1]);
        assert_eq!(possible(7), [1, 7]);
        assert_eq!(possible(8), [1, 2, 4, 8]);
        assert_eq!(possible(12), [1, 3, 6, 12]);
        let params: Params = [(ACCUMULATE.to_string(), 12.into())].into_iter().collect();
        assert_eq!(Sharing::MicroBatches.largest(&params, 8), 6);
        assert_eq!(Sharing::Pieces.largest(&params, 8), 8);
    }

    #[test]
    fn a_rank_is_numbered_by_who_started_it_and_nobody_else() {
        let env = |all: &'static [(&str, &str)]| {
            move |name: &str| all.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        };
        let slurm = env(&[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4"), (RANK, "3")]);
        assert_eq!(Numbering::Slurm.rank_in(4, &slurm).unwrap(), 1);
        assert_eq!(Numbering::Spawned.rank_in(4, &slurm).unwrap(), 3);
        assert_eq!(Numbering::Slurm.rank_in(1, &env(&[])).unwrap(), 0, "alone");
        let said = |numbering: Numbering, ranks, env: &dyn Fn(&str) -> Option<String>| {
            let error = numbering.rank_in(ranks, env).unwrap_err();
            [vec![error.message], error.causes].concat().join(": ")
        };
        let none = "this worker is one of 4 ranks, but has no number";
        assert_eq!(
            said(Numbering::Mpi, 4, &slurm),
            format!("{none}: neither OMPI_COMM_WORLD_RANK nor PMIX_RANK is set to one")
        );
        assert_eq!(said(Numbering::Spawned, 4, &env(&[(RANK, "x")])), format!("{none}: {RANK} is not set to one"));
        let other = said(Numbering::Slurm, 2, &slurm);
        assert_eq!(other, "this worker is one of 2 ranks, but 4 were started: SLURM_NTASKS is 4");
        let beyond = said(Numbering::Spawned, 2, &slurm);
        assert_eq!(beyond, "this worker is one of 2 ranks, but has the number 3");
    }
}
