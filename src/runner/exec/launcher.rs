//! How workers are started: the program and its arguments, before the path of the job file. Another
//! way to start them (`srun`, a container, another machine) is another [`Launcher`]; what happens
//! to the process then is `launch`'s.

use erw_base::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// How to start a worker; the path of the job file is appended.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub program: PathBuf,
    pub args: Vec<OsString>,
}

impl Launcher {
    /// This very program, as `erw worker JOB`.
    pub fn this_program() -> Result<Self> {
        let program = std::env::current_exe().map_err(|e| Error::usage("cannot find this program").because(e))?;
        Ok(Self { program, args: vec!["worker".into()] })
    }
}
