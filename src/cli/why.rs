//! `erw why PIPELINE STAGE`: why a stage is stale, or what changed since its previous record.

use super::common::pipeline_args::{PipelineArgs, one};
use super::common::print;
use erw_base::error::{Error, Result};
use erw_report::text::{duration, instant};
use erw_runner::cache::store::Store;
use erw_runner::journal::attempts::Attempts;
use erw_runner::journal::explain::{ExplainedChange, Fact, PlannedState, Upstream, Why, why};
use erw_runner::kind::Registry;
use erw_runner::plan::CacheChecker;
use erw_runner::plan::reason::Reason;
use erw_runner::text::path_text;
use std::collections::BTreeSet;
use std::path::Path;

/// Files of a source that are listed one by one.
const FILES: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub pipeline: PipelineArgs,
    /// Stage to explain
    pub stage: Option<String>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let pipeline = args.pipeline.load_for(&args.stage, registry, cache)?;
    let id = one(&pipeline, args.stage.as_deref().unwrap_or_default())?;
    let store = Store::open(cache)?;
    let checker = CacheChecker::new(&pipeline, &store, BTreeSet::new());
    let why = why(&checker, id)?;
    if args.json {
        let text = serde_json::to_string_pretty(&why).map_err(|e| Error::internal("no JSON").because(e))?;
        return print(&(text + "\n"));
    }
    let attempts = if has_new(&why) { Attempts::read(&store)? } else { Attempts::default() };
    let mut text = Text { attempts, text: String::new() };
    text.why(&why);
    print(&text.text)
}

/// Whether it, or what it depends on, has no record to compare with, and may have failed.
fn has_new(why: &Why) -> bool {
    is_new(why) || why.upstream.iter().any(has_new)
}

fn is_new(why: &Why) -> bool {
    matches!(why.changes.as_slice(), [ExplainedChange { reason: Reason::NeverRan, .. }])
}

/// Indented lines.
struct Text {
    attempts: Attempts,
    text: String,
}

impl Text {
    fn line(&mut self, depth: usize, text: impl AsRef<str>) {
        self.text.push_str(&format!("{}{}\n", "  ".repeat(depth), text.as_ref()));
    }

    fn why(&mut self, why: &Why) {
        match why.verdict {
            PlannedState::Cached => self.line(0, format!("{} is cached", why.stage)),
            PlannedState::Runs => self.line(0, format!("{} would run", why.stage)),
            PlannedState::Missing => self.line(0, format!("{} cannot run: a file is missing", why.stage)),
            PlannedState::Waits => {
                let on: Vec<String> = why.upstream.iter().map(|w| format!("`{}`", w.stage)).collect();
                self.line(0, format!("{} is stale because it depends on {}", why.stage, on.join(", ")));
            }
        }
        why.missing.iter().for_each(|m| self.line(1, format!("nothing at {m}")));
        if let (Some(pipeline), Some(_)) = (&why.new_in, &why.before) {
            self.line(1, format!("never ran in `{pipeline}`"));
        }
        if let Some(made) = &why.made {
            self.made(made);
            self.before(why);
            return;
        }
        // It has no record, and may have run nevertheless.
        let key = why.key.as_ref().filter(|_| is_new(why));
        if let Some(ended) = key.and_then(|key| self.attempts.ended(key)) {
            self.line(1, ended);
        } else if why.verdict == PlannedState::Waits && !why.changes.is_empty() {
            self.line(1, "its own changes:");
            why.changes.iter().for_each(|c| self.change(2, c));
        } else {
            why.changes.iter().for_each(|c| self.change(1, c));
        }
        if let Some(before) = &why.before {
            self.line(1, format!("compared with {}", brief(before)));
        }
        self.recorded(1, why);
        if let Some(left) = &why.left {
            self.line(1, left.to_string());
        }
        why.upstream.iter().for_each(|up| self.why(up));
    }

    fn made(&mut self, made: &Fact) {
        let attempts = if made.attempts > 1 { format!(" (attempt {})", made.attempts) } else { String::new() };
        let took = duration(made.seconds);
        self.line(1, format!("made by {} on {} in {took}{attempts}", brief(made), made.host));
        self.line(1, format!("with erw {} on {}", made.program, made.device));
        if !made.earlier.is_empty() {
            let earlier = made.earlier.join("; ");
            self.line(1, format!("started on another machine, so equal bytes are not promised: {earlier}"));
        }
    }

    /// How a cached stage differs from the record before it.
    fn before(&mut self, why: &Why) {
        match &why.before {
            None => self.line(1, "no comparable earlier record"),
            Some(before) => {
                self.line(1, format!("changes since {}:", brief(before)));
                why.changes.iter().for_each(|c| self.change(2, c));
                self.recorded(1, why);
            }
        }
    }

    fn recorded(&mut self, depth: usize, why: &Why) {
        for (name, old, new) in &why.recorded {
            self.line(depth, format!("{name} (recorded, not in the key): {old} -> {new}"));
        }
    }

    fn change(&mut self, depth: usize, change: &ExplainedChange) {
        self.line(depth, &change.text);
        for file in change.files.iter().take(FILES) {
            self.line(depth + 1, format!("{} {}", file.how, path_text::text(&file.path)));
        }
        if change.files.len() > FILES {
            self.line(depth + 1, format!("and {} more files", change.files.len() - FILES));
        }
        if let Some(upstream) = &change.upstream {
            self.upstream(depth + 1, upstream);
        }
    }

    fn upstream(&mut self, depth: usize, upstream: &Upstream) {
        let digest = |d: Option<erw_runner::files::digest::Digest>| d.map_or("nothing".into(), |d| d.short());
        let Upstream { stage, old, new, .. } = upstream;
        let when = upstream.created.as_ref().map_or(String::new(), |c| format!(", made {}", instant(c)));
        self.line(depth, format!("from `{stage}`: {} -> {}{when}", digest(*old), digest(*new)));
        if let Some(note) = upstream.note {
            self.line(depth + 1, note);
        }
        upstream.changes.iter().for_each(|c| self.change(depth + 1, c));
    }
}

/// `digits/train of 2026-01-31 12:00 (key 0123456789ab)`.
fn brief(fact: &Fact) -> String {
    format!("{}/{} of {} (key {})", fact.pipeline, fact.stage, instant(&fact.created), &fact.key[..12])
}
