//! `erw worker JOB.json`: one attempt, in this process. See `runner::worker`.

use crate::error::Result;
use crate::runner::manifest::Registry;
use crate::runner::worker::serve;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job file
    pub job: PathBuf,
}

pub fn run(args: &Args, registry: Registry) -> Result<i32> {
    serve(&args.job, registry)
}
