//! `erw completions SHELL`: a completion script on standard output.

use super::common::print;
use erw_base::error::Result;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to generate the script for
    pub shell: clap_complete::Shell,
}

/// Prints the script; `command` is clap's definition of the command line.
pub fn run(args: &Args, command: &mut clap::Command) -> Result<()> {
    let mut script = vec![];
    let name = command.get_name().to_string();
    clap_complete::generate(args.shell, command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}
