//! `erw init`: writes a pipeline to begin with, the quick start or one for a folder of images.

mod digits;
mod files;
mod images;
mod mine;
mod pipeline;
mod sizes;

use erw_base::error::Result;
use erw_runner::kind::Registry;
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
    /// Look at a set of images, and write a pipeline with sizes that fit them, mine.toml
    Mine(mine::Args),
}

pub fn run(args: &Args, registry: Registry) -> Result<()> {
    match &args.command {
        Command::Digits(target) => digits::run(target, registry),
        Command::Mine(args) => mine::run(args, registry),
    }
}
