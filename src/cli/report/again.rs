//! How to get a page's results again: the commit of the pipeline and a command. Runs nothing.

use super::subject::Subject;
use erw_report::page::content::Again;
use erw_runner::journal::read::Run;
use erw_runner::text::shell::quoted;
use std::path::Path;

/// The commands that make the same again. The keys of what is shown are those of the files as they
/// are now, or were in a past run, so it is the commit of these that counts; runs at other commits
/// may have made it.
pub fn again(subject: &Subject, command: String) -> Again {
    let mut again = Again::default();
    match (&subject.revision, &subject.commit) {
        (Some(revision), _) => again.commands.push(format!("git checkout {}", quoted(revision))),
        (None, Some(commit)) => {
            again.commands.push(format!("git checkout {}", commit.id));
            if commit.is_dirty {
                again.notes.push("The files were not those of this commit: some had changes.".into());
            }
        }
        (None, None) => {}
    }
    again.commands.push(command);
    if !subject.makers.is_empty() {
        again.notes.push("Stages whose keys are in a cache come from there; `erw verify` runs them anew.".into());
    }
    again
}

/// The command line of a run.
pub fn typed(run: &Run) -> String {
    let mut words = run.command.iter();
    let program = words.next().and_then(|program| Path::new(program).file_name());
    let program = program.map_or("erw".into(), |name| name.to_string_lossy().into_owned());
    std::iter::once(program).chain(words.map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
}
