//! `erw completions SHELL`: a completion script on standard output.

use super::common::print;
use erw_base::error::Result;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell to complete for
    pub shell: clap_complete::Shell,
}

/// `command` is the whole command line, as clap has it.
pub fn run(args: &Args, command: &mut clap::Command) -> Result<()> {
    let mut script = vec![];
    let name = command.get_name().to_string();
    clap_complete::generate(args.shell, command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}
