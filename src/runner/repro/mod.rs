//! Whether results are still what they were: [`lockfile`] holds them against a committed file, [`verify`] against another
//! attempt, [`compare`] says how two differ. [`changed_since`] tells what changed since a revision of [`git`].

pub mod changed_since;
pub mod compare;
pub mod git;
pub mod lockfile;
pub mod verify;
