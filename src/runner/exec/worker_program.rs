//! The program that runs as a worker: this very one. Workers, the watchdog, and the job scripts of
//! a cluster start it. Does not know what it will do.

use erw_base::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// How to start a worker; the path of the job file is appended.
#[derive(Debug, Clone)]
pub struct WorkerProgram {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl WorkerProgram {
    /// This very program, as `erw worker JOB`.
    pub fn this() -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::usage("cannot find this program").because(e))?;
        Ok(Self { program, args: vec!["worker".into()] })
    }
}
