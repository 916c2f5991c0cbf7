//! Edges: finds the output that `slot = "stage"` refers to, checks its type, and sorts the stages
//! topologically. Does not know where values come from.

use super::draft::{Draft, InputRef, stated_by};
use super::graph::{Edge, Stage, StageId};
use crate::kind::field::{InputSlot, element};
use crate::small_map::{SmallMap, small_map};
use crate::text::suggest;
use erw_base::error::{Error, Place, Result};
use std::collections::{BTreeMap, HashMap};

/// By stage, by slot: the index of the producing draft and its output.
pub(crate) type Edges = Vec<SmallMap<(usize, String, String)>>;

pub(crate) fn connect(removed: &HashMap<String, Place>, drafts: &[Draft]) -> Result<Edges> {
    let index: HashMap<&str, usize> = drafts.iter().enumerate().map(|(i, d)| (d.stage.name.as_str(), i)).collect();
    let mut edges: Edges = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let manifest = &draft.stage.manifest;
        let mut inputs = BTreeMap::new();
        for input_ref in &draft.input_refs {
            let slot = &manifest.inputs[input_ref.slot];
            let resolver = EdgeResolver { consumer: &draft.stage, slot, input_ref, drafts, removed };
            let found = resolver.find(&index)?;
            // The same artifact twice in a list is a mistake.
            if let Some(before) = (0..input_ref.index).find(|i| inputs.get(&element(&slot.name, *i)) == Some(&found)) {
                return Err(resolver.error(format!("`{}` is already element {}", input_ref.text, before + 1)));
            }
            inputs.insert(element(&slot.name, input_ref.index), found);
        }
        if let Some(open) = manifest.inputs.iter().find(|s| !s.optional && !inputs.contains_key(&s.name)) {
            let fits = fitting(drafts, open, &draft.stage.name);
            let error = Error::usage(format!("stage `{}`: input `{}` is not connected", draft.stage.name, open.name));
            let hint = match fits.first() {
                Some(fit) => format!("it takes {}; write `inputs.{} = \"{fit}\"`", open.wanted(), open.name),
                None => format!("it takes {}, which no other stage of this pipeline makes", open.wanted()),
            };
            // A parent may have connected it, and the child disconnected it.
            let taken = draft.stage.origins.get(&format!("inputs.{}", open.name)).and_then(|o| o.place.clone());
            return Err(error.at(taken.unwrap_or_else(|| draft.place.clone())).hint(hint));
        }
        edges.push(small_map(inputs));
    }
    Ok(edges)
}

/// The outputs that a slot accepts, in their shortest spelling.
fn fitting(drafts: &[Draft], slot: &InputSlot, except: &str) -> Vec<String> {
    let mut fits = vec![];
    for stage in drafts.iter().map(|d| &d.stage).filter(|s| s.name != except) {
        let names: Vec<&String> = stage.outputs.iter().filter(|(_, ty)| slot.accepts(ty)).map(|(n, _)| n).collect();
        match names.as_slice() {
            [_] => fits.push(stage.name.clone()),
            several => fits.extend(several.iter().map(|n| format!("{}.{n}", stage.name))),
        }
    }
    fits
}

/// Resolves one `slot = "stage.output"` to an edge.
struct EdgeResolver<'a> {
    consumer: &'a Stage,
    slot: &'a InputSlot,
    input_ref: &'a InputRef,
    drafts: &'a [Draft],
    removed: &'a HashMap<String, Place>,
}

impl EdgeResolver<'_> {
    /// Index of the producing stage, output, type.
    fn find(&self, index: &HashMap<&str, usize>) -> Result<(usize, String, String)> {
        let (stage, output) = self.input_ref.ends();
        let Some(&from) = index.get(stage) else {
            let names = self.drafts.iter().map(|d| d.stage.name.as_str());
            let hint = match self.removed.get(stage) {
                Some(place) => Some(format!("`{stage}` is removed in {place}")),
                // A slot and a parameter may share a name: `features = "online"`.
                None if self.is_value(stage) => Some(format!("write `params.{} = \"{stage}\"`", self.slot.name)),
                None => suggest::hint(stage, names, "the stages are"),
            };
            return Err(self.error(format!("no stage `{stage}`")).maybe_hint(hint));
        };
        let outputs = &self.drafts[from].stage.outputs;
        let (output, ty) = match output {
            Some(output) => outputs.iter().find(|(name, _)| *name == output).ok_or_else(|| {
                let hint = suggest::hint(output, outputs.keys().map(String::as_str), "its outputs are");
                self.error(format!("stage `{stage}` has no output `{output}`")).maybe_hint(hint)
            })?,
            None => self.only(stage, outputs)?,
        };
        if !self.slot.accepts(ty) {
            let text = format!("`{}` is of type {ty}, but the input takes {}", self.input_ref.text, self.slot.wanted());
            return Err(self.with_fitting(self.error(text)));
        }
        Ok((from, output.clone(), ty.clone()))
    }

    /// Whether the text is a value of the parameter with the slot's name.
    fn is_value(&self, text: &str) -> bool {
        let param = self.consumer.manifest.field(&self.slot.name);
        param.is_some_and(|p| p.one_of.iter().any(|choice| choice == text))
    }

    /// The stage's only output, or its only output of an accepted type.
    fn only<'o>(&self, stage: &str, outputs: &'o SmallMap<String>) -> Result<(&'o String, &'o String)> {
        let all: Vec<_> = outputs.iter().collect();
        if let [one] = all.as_slice() {
            return Ok(*one);
        }
        let fit: Vec<_> = all.iter().copied().filter(|(_, ty)| self.slot.accepts(ty)).collect();
        match fit.as_slice() {
            [one] => Ok(*one),
            [] if all.is_empty() => Err(self.error(format!("stage `{stage}` has no outputs"))),
            [] => {
                let made: Vec<String> = all.iter().map(|(n, ty)| format!("`{n}` ({ty})")).collect();
                let text =
                    format!("stage `{stage}` makes {}, but the input takes {}", made.join(", "), self.slot.wanted());
                Err(self.with_fitting(self.error(text)))
            }
            several => {
                let names: Vec<String> = several.iter().map(|(n, _)| format!("`{stage}.{n}`")).collect();
                let text = format!("stage `{stage}` makes {} matching outputs", several.len());
                Err(self.error(text).hint(format!("write one of {}", names.join(", "))))
            }
        }
    }

    fn with_fitting(&self, error: Error) -> Error {
        let fits = fitting(self.drafts, self.slot, &self.consumer.name);
        match fits.is_empty() {
            true => error.hint(format!("no other stage of this pipeline makes {}", self.slot.wanted())),
            false => error.hint(format!("these would fit: {}", suggest::ticked(fits.iter().map(String::as_str)))),
        }
    }

    fn error(&self, text: String) -> Error {
        let error = Error::usage(format!("stage `{}`: input `{}`: {text}", self.consumer.name, self.slot.name));
        stated_by(error, &self.input_ref.origin)
    }
}

/// Draft indices in topological order, otherwise as in the file. A depth-first search, whose stack
/// is the cycle when there is one: the user needs all of it.
pub(crate) fn order(drafts: &[Draft], edges: &Edges) -> Result<Vec<usize>> {
    const OPEN: u8 = 1;
    const DONE: u8 = 2;
    let mut state = vec![0u8; edges.len()];
    let mut order = Vec::with_capacity(edges.len());
    // Uses its own stack: a chain of many thousand stages must not exhaust the thread's.
    let needs: Vec<Vec<usize>> = edges.iter().map(|e| e.values().map(|(from, ..)| *from).collect()).collect();
    for root in 0..edges.len() {
        let mut stack: Vec<(usize, usize)> = vec![];
        if state[root] == 0 {
            state[root] = OPEN;
            stack.push((root, 0));
        }
        while let Some((stage, next)) = stack.last_mut() {
            let Some(&need) = needs[*stage].get(*next) else {
                state[*stage] = DONE;
                order.push(*stage);
                stack.pop();
                continue;
            };
            *next += 1;
            match state[need] {
                DONE => {}
                OPEN => {
                    let path: Vec<usize> = stack.iter().map(|(s, _)| *s).skip_while(|s| *s != need).collect();
                    return Err(cycle(drafts, edges, &path));
                }
                _ => {
                    state[need] = OPEN;
                    stack.push((need, 0));
                }
            }
        }
    }
    Ok(order)
}

/// `path`: each stage has an input from the next, the last from the first.
fn cycle(drafts: &[Draft], edges: &Edges, path: &[usize]) -> Error {
    // Shown in the direction of the data, from the stage that the file names first.
    let mut flow: Vec<usize> = path.iter().rev().copied().collect();
    let first = flow.iter().enumerate().min_by_key(|(_, s)| **s).map_or(0, |(i, _)| i);
    flow.rotate_left(first);
    let (from, to) = (flow[0], flow.get(1).copied().unwrap_or(flow[0]));
    flow.push(flow[0]);
    let names: Vec<&str> = flow.iter().map(|i| drafts[*i].stage.name.as_str()).collect();
    let slot = edges[to].iter().find(|(_, (f, ..))| *f == from).map(|(slot, _)| slot);
    let place = slot.and_then(|s| drafts[to].stage.origins.get(&format!("inputs.{s}"))).and_then(|o| o.place.clone());
    Error::usage(format!("the stages form a cycle: `{}`", names.join(" -> ")))
        .at(place.unwrap_or_else(|| drafts[to].place.clone()))
}

pub(crate) fn arrange(drafts: Vec<Draft>, edges: Edges, order: &[usize]) -> Vec<Stage> {
    let mut position = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        position[*old] = new;
    }
    let mut stages: Vec<(usize, Stage)> = drafts
        .into_iter()
        .zip(edges)
        .enumerate()
        .map(|(i, (draft, inputs))| {
            let edge = |(from, output, ty)| Edge { from: StageId(position[from]), output, ty };
            let inputs = inputs.into_iter().map(|(slot, found)| (slot, edge(found))).collect();
            (position[i], Stage { inputs, ..draft.stage })
        })
        .collect();
    stages.sort_by_key(|(position, _)| *position);
    stages.into_iter().map(|(_, stage)| stage).collect()
}
