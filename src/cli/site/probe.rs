//! `erw site probe FOLDER`: the job's side of `erw site check`. See `runner::exec::launch::slurm`.

use erw_base::error::Result;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the check
    pub folder: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    erw_runner::exec::launch::slurm::site_check::probe(&args.folder)
}
