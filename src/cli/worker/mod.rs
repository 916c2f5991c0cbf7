//! `erw worker JOB.json`: one attempt in this process. See `runner::exec::worker`.

pub mod mapped_files;

use erw_base::error::Result;
use erw_runner::exec::worker::serve;
use erw_runner::kind::Registry;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Job file
    pub job: PathBuf,
}

pub fn run(args: &Args, registry: Registry) -> Result<i32> {
    serve(&args.job, registry)
}
