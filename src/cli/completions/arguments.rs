//! Which argument completes to what, by the names that arguments have in the help: so that the
//! same name means the same everywhere, and no subcommand needs to know of completion.

use super::candidates::{self, Asked, Completes};
use super::line::Line;
use clap::{Arg, Command};
use clap_complete::ArgValueCompleter;
use erw_runner::kind::Registry;
use std::ffi::OsStr;
use std::sync::Arc;

/// What an argument completes to, if the shell alone does not know it.
pub fn completes(arg: &Arg) -> Option<Completes> {
    use Completes::*;
    let name = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    let is_plain = arg.get_value_hint() == clap::ValueHint::Unknown;
    Some(match (name, arg.get_id().as_str()) {
        ("PIPELINE" | "PIPELINE[:STAGE]|DIGEST" | "ARTIFACT", _) => Pipeline,
        ("DIR|CHECKPOINT|PIPELINE" | "SAMPLES" | "REFERENCE" | "IMAGES", _) => FileOrStage,
        ("A" | "B", _) if is_plain => Side,
        ("STAGE" | "STAGES" | "TARGETS", _) => Stage,
        ("STAGE[.OUTPUT]", _) => Output,
        ("NAME=VALUE" | "ema|model|NAME=VALUE", _) => Setting,
        ("NAME=VALUES" | "NAME=LO..HI", _) => Axis,
        ("AXIS", _) => AxisName,
        ("TRIAL", _) => Trial,
        ("RUN", _) => Run,
        ("TAG", _) => Tag,
        ("KIND", _) => Kind,
        ("PROFILE", _) => Profile,
        ("URL", _) => Remote,
        ("KEY", _) => Key,
        ("TOPIC", _) => Topic,
        ("NAMES", _) => Published,
        ("NAME|FILE", _) => PublishedOrFile,
        _ => return None,
    })
}

/// The command line with what completes each of its arguments.
pub fn with_completers(command: Command, line: &Line, registry: Registry) -> Command {
    // Who has typed no dash wants no flag, if there is something else.
    let hides_flags = !line.current().starts_with('-');
    // Every argument has its own handle on it.
    let asked = Arc::new(Asked { line: line.clone(), registry, commands: command.clone() });
    extended(command, &asked, hides_flags)
}

fn extended(command: Command, asked: &Arc<Asked>, hides_flags: bool) -> Command {
    let of_argument = |arg: Arg| {
        let arg = if hides_flags && !arg.is_positional() { arg.hide(true) } else { arg };
        let Some(what) = completes(&arg) else { return arg };
        let asked = Arc::clone(asked);
        arg.add(ArgValueCompleter::new(move |current: &OsStr| candidates::of(what, &asked, current)))
    };
    // clap adds this one later.
    let command = command.disable_help_flag(hides_flags);
    command.mut_args(of_argument).mut_subcommands(|below| extended(below, asked, hides_flags))
}
