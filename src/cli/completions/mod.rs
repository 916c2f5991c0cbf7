//! `erw completions SHELL`: a script that has a shell ask this program what may follow. The program
//! then knows the pipeline on the line, and so its stages, parameters and trials. What cannot be
//! read completes nothing and says nothing: nobody asked for an error.

mod arguments;
mod candidates;
mod line;
mod scripts;

use super::common::print;
use clap_complete::CompleteEnv;
use clap_complete::env::Shells;
use erw_base::error::{Error, Result};
use erw_runner::kind::Registry;
use line::Line;
use scripts::VARIABLE;
use std::path::Path;

pub use arguments::completes;
pub use candidates::Completes;

const PROGRAM: &str = "erw";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Shell to generate the script for
    #[arg(value_parser = SHELLS.0.iter().map(|shell| shell.name()).collect::<Vec<_>>())]
    pub shell: String,
}

const SHELLS: Shells<'static> = Shells(&[
    &scripts::BASH,
    &clap_complete::env::Elvish,
    &clap_complete::env::Fish,
    &clap_complete::env::Powershell,
    &scripts::ZSH,
]);

/// Prints the script.
pub fn run(args: &Args) -> Result<()> {
    let Some(shell) = SHELLS.completer(&args.shell) else { return Err(Error::internal("no such shell")) };
    let mut script = vec![];
    shell
        .write_registration(VARIABLE, PROGRAM, PROGRAM, &program(), &mut script)
        .map_err(|e| Error::internal("cannot write the script").because(e))?;
    print(&String::from_utf8_lossy(&script))
}

/// What the script calls: this program as it was called, from any folder.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| PROGRAM.into());
    let is_path = Path::new(&called).components().count() > 1;
    let called = if is_path { std::path::absolute(&called).ok() } else { Some(called.clone().into()) };
    called.map_or_else(|| PROGRAM.into(), |path| path.to_string_lossy().into_owned())
}

/// Answers if a script asks. Says whether one did.
pub fn answer(command: fn() -> clap::Command, registry: Registry) -> bool {
    if std::env::var_os(VARIABLE).is_none_or(|shell| shell.is_empty()) {
        return false;
    }
    let args: Vec<_> = std::env::args_os().collect();
    let line = Line::of(&args);
    let here = std::env::current_dir().ok();
    let command = || arguments::with_completers(command(), &line, registry);
    let answered = CompleteEnv::with_factory(command).var(VARIABLE).shells(SHELLS).try_complete(args, here.as_deref());
    // An error would stand in the middle of the user's line.
    answered.unwrap_or(true)
}
