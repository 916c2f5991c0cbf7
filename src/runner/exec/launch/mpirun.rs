//! How ranks over MPI are started: by Open MPI's `mpirun`, on this machine or in the script of a job.

/// Starts processes that find each other by MPI.
pub(in crate::exec::launch) const MPIRUN: &str = "mpirun";

/// The arguments of Open MPI's `mpirun` for so many ranks.
///
/// - Ranks lead groups of their own, and `mpirun` hands on no open file: what ends them with the runner
///   is their mark. Standard input would not do, which `mpirun` closes when a rank has closed its
///   output, or MPI.
/// - It would bind each rank to one core.
pub(in crate::exec::launch) fn mpirun(ranks: usize) -> [String; 6] {
    let ranks = ranks.to_string();
    let words = ["-n", &ranks, "--bind-to", "none", "--oversubscribe", "--allow-run-as-root"];
    words.map(String::from)
}
