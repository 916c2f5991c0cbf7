//! Text tables: the summary of a run, and plain rows with a header.

use super::text::{duration, number, one_line};
use comfy_table::{LineStyle, Table, presets};
use erw_runner::event::{LISTED, StageEnd, StageState};
use std::path::Path;

/// The summary of a run, stage by stage, and its pictures. `more`: stages that are cached and not among
/// these.
pub fn summary(ends: &[StageEnd], more: usize) -> String {
    let mut table = plain_table();
    table.set_header(["stage", "status", "time", "result", "artifact"]);
    let all = ends.len() + more;
    let is_long = all > LISTED;
    let shown = |end: &&StageEnd| !is_long || end.state != StageState::Cached;
    for end in ends.iter().filter(shown) {
        let result = end.results.first().map_or_else(String::new, |r| format!("{} {}", r.name, number(r.value)));
        let time = match end.state {
            _ if end.seconds <= 0.0 => String::new(),
            // The time that it took when it ran.
            StageState::Cached => format!("({})", duration(end.seconds)),
            _ => duration(end.seconds),
        };
        table.add_row([one_line(&end.stage), status(end), time, result, artifacts(end)]);
    }
    let mut text = match ends.iter().any(|end| shown(&end)) {
        true => format!("{}\n", trimmed(&table)),
        false => String::new(),
    };
    let cached = more + ends.iter().filter(|e| e.state == StageState::Cached).count();
    if is_long && cached > 0 && cached < all {
        text.push_str(&format!("{cached} more of {all} stages are cached\n"));
    }
    for picture in ends.iter().flat_map(|e| &e.shown) {
        text.push_str(&format!("picture: {}\n", near(picture)));
    }
    if cached == all {
        text.push_str(&all_cached(cached));
    }
    text
}

/// The last line of a run that found nothing to do.
pub fn all_cached(stages: usize) -> String {
    if stages == 1 { "the stage is cached\n".into() } else { format!("all {stages} stages are cached\n") }
}

fn status(end: &StageEnd) -> String {
    match (end.state, end.resumed) {
        (StageState::Done, Some(step)) => format!("resumed at {step}"),
        (StageState::Done, None) => "ran".into(),
        (StageState::Cached, _) => "cached".into(),
        (StageState::Failed, _) => "failed".into(),
        (StageState::Skipped, _) => "skipped".into(),
        (StageState::Suspended, _) => match end.left.as_ref().and_then(|left| left.checkpoint) {
            Some(reached) => format!("suspended at {}", reached.step),
            None => "suspended".into(),
        },
        _ => "not run".into(),
    }
}

/// The path of the only output, or each output with its path.
fn artifacts(end: &StageEnd) -> String {
    match end.outputs.as_slice() {
        [only] => abbreviated(&only.path),
        several => {
            several.iter().map(|o| format!("{} {}", o.name, abbreviated(&o.path))).collect::<Vec<_>>().join("\n")
        }
    }
}

/// A path whose last part, a digest, is shortened to a pattern that a shell expands: 64 digits
/// would fill the terminal.
fn abbreviated(path: &Path) -> String {
    const DIGITS: usize = 10;
    let near = near(path);
    match near.rsplit_once('/') {
        Some((folder, name)) if name.len() > DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit()) => {
            format!("{folder}/{}*", &name[..DIGITS])
        }
        _ => near,
    }
}

/// A path relative to the current folder, if it is inside.
pub fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

/// A table with a header, as text.
pub fn grid(header: &[String], rows: &[Vec<String>]) -> String {
    let mut table = plain_table();
    table.set_header(header);
    table.add_rows(rows);
    format!("{}\n", trimmed(&table))
}

pub(super) fn plain_table() -> Table {
    let mut table = Table::new();
    // Lines around the header and the whole, none between rows.
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table
}

pub(super) fn trimmed(table: &Table) -> String {
    table.lines().map(|l| l.trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_artifact_is_a_pattern_for_a_shell() {
        let long = format!("/cache/v1/store/ab/{}", "ab12".repeat(16));
        assert_eq!(abbreviated(Path::new(&long)), "/cache/v1/store/ab/ab12ab12ab*");
        assert_eq!(abbreviated(Path::new("/cache/some-long-file-name")), "/cache/some-long-file-name");
    }
}
