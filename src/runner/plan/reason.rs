//! Why a stage runs: the differences between its key text and that of an earlier action.
//!
//! Reasons are data; `Display` is their only rendering as text. This module does not decide whether
//! a stage runs.

use crate::cache::action_cache::Record;
use crate::cache::key::{ingredients, program};
use crate::files::digest::Digest;
use crate::pipeline::graph::{Origin, Stage};
use crate::small_map::SmallMap;
use crate::text::path_text;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// With more differences, a record of another stage is an unrelated action.
const RELATED: usize = 3;
/// Longer values are shortened for display.
const SHOWN: usize = 60;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Reason {
    NeverRan,
    /// Also for a command's program (`run`) and for declared outputs.
    ParamChanged {
        /// `params.steps`.
        name: String,
        old: String,
        new: String,
        /// `pipelines/sit-xl.toml:41`, `--set`, …
        place: Option<String>,
    },
    InputChanged {
        slot: String,
    },
    /// The slot was not connected.
    InputAdded {
        slot: String,
    },
    /// The slot is no longer connected.
    InputRemoved {
        slot: String,
    },
    SourceChanged {
        name: String,
        /// A file in it that was changed, added or removed.
        #[serde(serialize_with = "path_text::serialize_optional")]
        example: Option<PathBuf>,
    },
    SourceAdded {
        name: String,
    },
    SourceRemoved {
        name: String,
    },
    RevisionChanged {
        old: String,
        new: String,
    },
    /// The output is no longer in the store.
    OutputLost {
        output: String,
    },
    /// An output or the record is corrupt.
    Damaged {
        what: String,
    },
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => write!(f, "never ran"),
            Self::ParamChanged { name, old, new, place } => {
                let same = shared(old, new);
                write!(f, "{name} {} -> {}", clip(old, same), clip(new, same))?;
                place.iter().try_for_each(|p| write!(f, " ({p})"))
            }
            Self::InputChanged { slot } => write!(f, "input `{slot}` changed"),
            Self::InputAdded { slot } => write!(f, "input `{slot}` added"),
            Self::InputRemoved { slot } => write!(f, "input `{slot}` removed"),
            Self::SourceAdded { name } => write!(f, "source `{name}` added"),
            Self::SourceRemoved { name } => write!(f, "source `{name}` removed"),
            Self::SourceChanged { name, example } => {
                write!(f, "source `{name}` changed")?;
                example
                    .iter()
                    .filter(|e| !e.as_os_str().is_empty())
                    .try_for_each(|e| write!(f, " ({})", path_text::text(e)))
            }
            Self::RevisionChanged { old, new } => write!(f, "revision {old} -> {new}"),
            Self::OutputLost { output } => write!(f, "output `{output}` is no longer in the store"),
            Self::Damaged { what } => write!(f, "{what} is damaged"),
            Self::Forced => write!(f, "forced"),
        }
    }
}

/// Length of the common prefix, in characters.
fn shared(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
}

/// A long text, cut so that it starts shortly before character `from`, where it differs.
fn clip(text: &str, from: usize) -> String {
    let length = text.chars().count();
    if length <= SHOWN {
        return text.to_string();
    }
    let start = if from < SHOWN / 2 { 0 } else { (from - SHOWN / 4).min(length - SHOWN) };
    let shown: String = text.chars().skip(start).take(SHOWN).collect();
    format!("{}{shown}{}", if start > 0 { "…" } else { "" }, if start + SHOWN < length { "…" } else { "" })
}

/// The earlier action to compare with: the one of the same stage in the same pipeline with the
/// fewest differences, else one of the same kind if they are few. Of equally near ones, the latest.
pub fn nearest<'a>(
    history: impl Iterator<Item = &'a Record> + Clone,
    pipeline: &str,
    stage: &Stage,
    text: &str,
) -> Option<&'a Record> {
    let same_kind = || history.clone().filter(|r| r.kind == stage.kind.name && r.key_text != text);
    let distant = |r: &'a Record| (changed(&r.key_text, text).len(), r);
    let later = |(n, r): &(usize, &'a Record)| (*n, std::cmp::Reverse(r.created.as_str()));
    let own = same_kind().filter(|r| r.stage == stage.name && r.pipeline == pipeline).map(distant);
    own.min_by(|a, b| later(a).cmp(&later(b))).map(|(_, r)| r).or_else(|| {
        // Commands are related by their program, not by being commands.
        let related = |r: &&Record| !stage.is_command || program(&r.key_text) == program(text);
        let near = same_kind().filter(related).map(distant);
        let best = near.min_by(|a, b| later(a).cmp(&later(b)));
        best.filter(|(n, _)| *n <= RELATED).map(|(_, r)| r)
    })
}

/// Two texts without the lines that both begin and end with: a stage may have thousands of inputs.
fn different<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    let same = old.split_inclusive('\n').zip(new.split_inclusive('\n')).take_while(|(a, b)| a == b);
    let same: usize = same.map(|(line, _)| line.len()).sum();
    let (old, new) = (&old[same..], &new[same..]);
    let same = old.split_inclusive('\n').rev().zip(new.split_inclusive('\n').rev()).take_while(|(a, b)| a == b);
    let same: usize = same.map(|(line, _)| line.len()).sum();
    (&old[..old.len() - same], &new[..new.len() - same])
}

type IngredientDiff<'a> = ((&'a str, &'a str), Option<&'a str>, Option<&'a str>);

fn changed<'a>(old: &'a str, new: &'a str) -> Vec<IngredientDiff<'a>> {
    let (old, new) = different(old, new);
    let (old, new) = (ingredients(old), ingredients(new));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let pairs = names.into_iter().map(|n| (n, old.get(&n).copied(), new.get(&n).copied()));
    pairs.filter(|(_, old, new)| old != new).collect()
}

/// Every difference from `old` to `new`, revisions first, inputs last. `example` finds a changed
/// file, given the name of the source and its earlier digest.
pub fn compare(
    old: &str,
    new: &str,
    origins: &SmallMap<Origin>,
    example: &dyn Fn(&str, &Digest) -> Option<PathBuf>,
) -> Vec<Reason> {
    let mut reasons: Vec<(u8, Reason)> = Vec::new();
    let changes = changed(old, new);
    for &((section, name), old, new) in &changes {
        // The change of its name is reported already.
        if section == "published" && changes.iter().any(|((s, n), ..)| (*s, *n) == ("param", name)) {
            continue;
        }
        let text = |v: Option<&str>| v.unwrap_or("none").to_string();
        let param = |name: String| {
            let origin = origins.get(&name).or_else(|| origins.get(&format!("params.{name}")));
            let place = origin.map(|o| o.place.as_ref().map_or(o.layer.to_string(), ToString::to_string));
            Reason::ParamChanged { name, old: text(old), new: text(new), place }
        };
        reasons.push(match section {
            "revision" => (0, Reason::RevisionChanged { old: text(old), new: text(new) }),
            "param" => (1, param(format!("params.{name}"))),
            "published" => (1, param(format!("the published file of params.{name}"))),
            "command" => (1, param(name.to_string())),
            "output" => (1, param(format!("outputs.{name}"))),
            "source" => (2, source(name, old, new, example)),
            "input" => (3, input(name, old, new, origins)),
            other => (0, Reason::RevisionChanged { old: format!("{other} {}", text(old)), new: text(new) }),
        });
    }
    reasons.sort_by_key(|(order, _)| *order);
    reasons.into_iter().map(|(_, reason)| reason).collect()
}

fn source(
    name: &str,
    old: Option<&str>,
    new: Option<&str>,
    example: &dyn Fn(&str, &Digest) -> Option<PathBuf>,
) -> Reason {
    let text = name.to_string();
    match (old, new) {
        (None, _) => Reason::SourceAdded { name: text },
        (_, None) => Reason::SourceRemoved { name: text },
        (Some(old), _) => {
            let example = old.parse().ok().and_then(|old| example(name, &old));
            Reason::SourceChanged { name: text, example }
        }
    }
}

/// The text of a stage that waits lacks its inputs: one that is connected was not removed.
fn input(slot: &str, old: Option<&str>, new: Option<&str>, origins: &SmallMap<Origin>) -> Reason {
    let is_connected = || origins.get(&format!("inputs.{slot}")).is_some();
    let text = slot.to_string();
    match (old, new) {
        (None, _) => Reason::InputAdded { slot: text },
        (_, None) if !is_connected() => Reason::InputRemoved { slot: text },
        _ => Reason::InputChanged { slot: text },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use erw_base::error::{Place, Text};

    const OLD: &str =
        "erw key 1\nkind train\nrevision 1\nparam lr 0.1\nparam steps 300000\nsource data aa\ninput z bb\n";

    fn reasons(new: &str) -> Vec<String> {
        let place = Place::new(&Text::new("p.toml".as_ref(), "a\nb\n"), 2..3);
        let origin = |layer: &'static str, place| Origin { layer: layer.into(), place };
        let origins = [
            ("params.steps".to_string(), origin("stage params", Some(place))),
            ("params.lr".to_string(), origin("--set", None)),
        ];
        compare(OLD, new, &origins.into_iter().collect(), &|_, _| None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_difference_has_its_words() {
        assert_eq!(reasons(OLD), Vec::<String>::new());
        assert_eq!(reasons(&OLD.replace("300000", "400000")), ["params.steps 300000 -> 400000 (p.toml:2)"]);
        assert_eq!(reasons(&OLD.replace("lr 0.1", "lr 0.2")), ["params.lr 0.1 -> 0.2 (--set)"]);
        assert_eq!(reasons(&OLD.replace("revision 1", "revision 2")), ["revision 1 -> 2"]);
        assert_eq!(reasons(&OLD.replace("aa", "ab")), ["source `data` changed"]);
        assert_eq!(reasons(&OLD.replace("bb", "ab")), ["input `z` changed"]);
        assert_eq!(reasons(&format!("{OLD}input y cc\n")), ["input `y` added"]);
        assert_eq!(reasons(&OLD.replace("input z bb\n", "")), ["input `z` removed"]);
        assert_eq!(
            reasons(&OLD.replace("source data aa\n", "source data aa\nsource more bb\n")),
            ["source `more` added"]
        );
        assert_eq!(reasons(&OLD.replace("source data aa\n", "")), ["source `data` removed"]);
        assert_eq!(reasons(&OLD.replace("param lr 0.1\n", "")), ["params.lr 0.1 -> none (--set)"]);
    }

    #[test]
    fn an_input_that_is_not_known_yet_was_not_removed() {
        let origin = Origin { layer: "stage inputs".into(), place: None };
        let origins = [("inputs.z".to_string(), origin)].into_iter().collect();
        let told = compare(OLD, &OLD.replace("input z bb\n", ""), &origins, &|_, _| None);
        assert_eq!(told, [Reason::InputChanged { slot: "z".into() }]);
    }

    #[test]
    fn long_values_are_cut_around_what_differs() {
        let long = |tail: &str| format!("{}{tail}", "x".repeat(100));
        let (old, new) = (long("old"), long("new"));
        let reason = Reason::ParamChanged { name: "params.a".into(), old, new, place: None };
        let shown = |tail: &str| format!("…{}{tail}", "x".repeat(SHOWN - 3));
        assert_eq!(reason.to_string(), format!("params.a {} -> {}", shown("old"), shown("new")));
        assert_eq!(clip(&long(""), 0), "x".repeat(SHOWN) + "…");
    }

    #[test]
    fn several_differences_are_all_told_in_order() {
        let new = OLD.replace("bb", "cc").replace("revision 1", "revision 2").replace("0.1", "0.3");
        assert_eq!(reasons(&new), ["revision 1 -> 2", "params.lr 0.1 -> 0.3 (--set)", "input `z` changed"]);
    }
}
