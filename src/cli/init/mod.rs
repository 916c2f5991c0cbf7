//! `erw init`: writes a pipeline to begin with.

mod digits;
mod files;

use erw_base::error::Result;
use files::Target;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the quick start, digits.toml, with its 1,797 images of handwritten digits
    Digits(Target),
}

pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Digits(target) => digits::run(target),
    }
}
