//! Reproducibility: [`lockfile`] compares results with a committed file, [`verify`] with a rerun;
//! [`compare`] describes how two results differ. [`changed_since`] finds the stages that changed
//! since a revision of [`git`].

pub mod changed_since;
pub mod compare;
pub mod git;
pub mod lockfile;
pub mod verify;
