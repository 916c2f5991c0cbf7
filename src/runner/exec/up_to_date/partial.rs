//! A stored answer that holds for most stages. The stages that it does not hold for, and all that
//! depend on them, are read from the pipeline file and run as in any run. Of the others only the
//! names and outputs of those that feed them are needed, and these are stored. So a change costs what
//! it is about, and a look at the files of all others.
//!
//! The part must be what the whole would be. Of what feeds a stage, a program is known by its
//! outputs; anything else is read too, with all that it needs, because the properties of artifacts
//! pass from stage to stage. What cannot be read in part, or is wrong, is read as a whole: only then
//! an error is one.

use super::stored::{Check, Ended, Head, Node, Parts, Stored};
use super::{Query, Sources, node};
use crate::cache::action_cache::{Output, Record};
use crate::cache::store::Store;
use crate::exec::scheduler::Settled;
use crate::files::digest::{Digest, Measured};
use crate::files::disk::{Durability, write_file};
use crate::kind::Registry;
use crate::pipeline::command;
use crate::pipeline::draft::KnownStage;
use crate::pipeline::graph::{Pipeline, Stage, StageId};
use crate::pipeline::layers::Overrides;
use crate::pipeline::sections::Sections;
use crate::small_map::SmallMap;
use erw_base::text;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What of a stored answer holds, and the part of the pipeline that has to be planned.
pub struct Partial {
    stored: Stored,
    checks: Vec<Check>,
    /// By number of a stage.
    roles: Vec<Role>,
    /// Digests of what the file says of each stage now.
    texts: Vec<Digest>,
    /// The file as it is named in the answer, its digest now, and its text without the stages that
    /// are not read.
    file: PathBuf,
    digest: Digest,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Cached, and not needed.
    Aside,
    /// Cached, and an input of one that is read.
    Feeds,
    Read,
}

/// A part of a pipeline.
pub struct Part {
    pub pipeline: Pipeline,
    /// The stages to be planned, in topological order.
    pub selected: Vec<StageId>,
    /// All others.
    pub settled: Settled,
}

impl Partial {
    /// `None` if the pipeline has to be read as a whole.
    pub(super) fn of(stored: Stored, checks: Vec<Check>, sources: &[bool], in_place: &[bool]) -> Option<Self> {
        stored.head.rest?;
        let [(file, real, _)] = &stored.head.files[..] else { return None };
        if file.canonicalize().ok()? != *real {
            return None;
        }
        let bytes = std::fs::read(file).ok()?;
        let whole = text::of_bytes(&bytes).ok()?;
        let sections = Sections::of(&whole)?;
        if Some(sections.rest()) != stored.head.rest {
            return None;
        }
        let nodes = stored.nodes()?;
        let numbers: HashMap<&str, usize> = nodes.iter().enumerate().map(|(i, node)| (node.name, i)).collect();
        // The same names, since the rest is the same.
        let stated: Vec<usize> = sections.names.iter().map(|name| numbers.get(name).copied()).collect::<Option<_>>()?;
        if stated.len() != nodes.len() {
            return None;
        }
        let mut texts: Vec<Digest> = nodes.iter().map(|node| node.text).collect();
        for (number, now) in stated.iter().zip(sections.digests()) {
            texts[*number] = now;
        }
        let holds = |i: usize| {
            let node = &nodes[i];
            texts[i] == node.text && in_place[i] && node.sources.iter().all(|s| sources.get(*s as usize) == Some(&true))
        };
        let roles = roles(&nodes, &holds)?;
        let only = sections.only(|stage| roles[stated[stage]] == Role::Read);
        let (file, digest) = (file.clone(), Digest::of_bytes(&bytes));
        drop(nodes);
        Some(Self { stored, checks, roles, texts, file, digest, text: only })
    }

    /// The part of the pipeline `path` that has to be planned; `None` if it cannot be read alone.
    /// `listed`: its other stages are to be reported one by one.
    pub fn read(&self, path: &Path, registry: Registry, overrides: &Overrides, listed: Option<&Store>) -> Option<Part> {
        let nodes = self.stored.nodes()?;
        let feeding = || (0..nodes.len()).filter(|i| self.roles[*i] == Role::Feeds);
        let outputs = |i: usize| nodes[i].outputs.iter().map(|(name, ty)| (name.to_string(), ty.to_string())).collect();
        let known = feeding().map(|i| KnownStage { name: nodes[i].name.into(), outputs: outputs(i) }).collect();
        let unread = (0..nodes.len()).filter(|i| self.roles[*i] != Role::Read);
        let others: BTreeSet<String> = unread.map(|i| nodes[i].kind.to_string()).collect();
        let text = self.text.clone();
        let pipeline = Pipeline::load_part(path, text, self.digest, known, &others, registry, overrides).ok()?;
        let is_read: HashMap<&str, usize> =
            (0..nodes.len()).filter(|i| self.roles[*i] != Role::Aside).map(|i| (nodes[i].name, i)).collect();
        let (mut selected, mut known) = (vec![], vec![]);
        for (id, stage) in pipeline.stages.iter().enumerate() {
            let number = *is_read.get(stage.name.as_str())?;
            match self.roles[number] {
                Role::Read => selected.push(StageId(id)),
                _ => known.push((StageId(id), record(&nodes[number], &self.checks[number].outputs))),
            }
        }
        let is_all = selected.len() + known.len() == is_read.len();
        let ends = listed.map_or_else(Vec::new, |store| {
            let ends = self.stored.ends().zip(&self.roles).filter(|(_, role)| **role != Role::Read);
            ends.filter_map(|(line, _)| Ended::of(line, store)).collect()
        });
        let settled = Settled { known, count: nodes.len() - selected.len(), ends };
        is_all.then_some(Part { pipeline, selected, settled })
    }

    /// Names and kinds of all stages, in the order of a run of all. `None` if the graph is another one
    /// than that of the part that was read.
    pub fn stages(&self, part: &Part) -> Option<Vec<(&str, &str)>> {
        let nodes = self.stored.nodes()?;
        let numbers = numbers(&nodes);
        let is_same = |id: &StageId| {
            let stage = part.pipeline.stage(*id);
            let number = *numbers.get(stage.name.as_str())?;
            (inputs(&part.pipeline, stage, &numbers)? == nodes[number as usize].inputs).then_some(())
        };
        part.selected.iter().try_for_each(is_same)?;
        self.stored.names()
    }

    /// Stores the answer with what is new: records of all stages that were read. Where the graph is
    /// another one, the next run plans all of it.
    pub fn keep(&self, store: &Store, query: Query, pipeline: &Pipeline, records: &[(StageId, Record)]) {
        let _ = match self.encode(pipeline, records) {
            Some(bytes) => write_file(&query.file(store), &bytes, Durability::Later),
            None => std::fs::remove_file(query.file(store)),
        };
    }

    fn encode(&self, pipeline: &Pipeline, records: &[(StageId, Record)]) -> Option<Vec<u8>> {
        let nodes = self.stored.nodes()?;
        let numbers = numbers(&nodes);
        let new: HashMap<u32, (StageId, &Record)> = records
            .iter()
            .map(|(id, record)| Some((*numbers.get(pipeline.stage(*id).name.as_str())?, (*id, record))))
            .collect::<Option<_>>()?;
        let old = &self.stored.head;
        let (mut sources, mut parts) = (Sources::default(), Parts::default());
        for (((i, old_node), check), end) in (0u32..).zip(nodes).zip(&self.checks).zip(self.stored.ends()) {
            if self.roles[i as usize] != Role::Read {
                let of = |s: &u32| Some(sources.number(old.sources.get(*s as usize)?.clone()));
                let used = old_node.sources.iter().map(of).collect::<Option<_>>()?;
                parts.add(check, Some(&Node { sources: used, ..old_node }), end);
                continue;
            }
            let (id, record) = new.get(&i)?;
            let stage = pipeline.stage(*id);
            let inputs = inputs(pipeline, stage, &numbers)?;
            if inputs != old_node.inputs {
                return None;
            }
            let node = node(stage, self.texts[i as usize], inputs, sources.of(stage, record)?);
            parts.add(&Check::of(record)?, Some(&node), &Ended::line(&stage.name, record)?);
        }
        parts.stored(Head {
            pipeline: pipeline.name.clone(),
            planned: old.planned,
            files: vec![(self.file.clone(), self.file.canonicalize().ok()?, self.digest)],
            sources: sources.all,
            rest: old.rest,
            ..Head::default()
        })
    }
}

/// The numbers of the stages by name.
fn numbers<'n>(nodes: &[Node<'n>]) -> HashMap<&'n str, u32> {
    nodes.iter().map(|node| node.name).zip(0..).collect()
}

/// The numbers of the stages that make the inputs of one, by slot.
fn inputs(pipeline: &Pipeline, stage: &Stage, numbers: &HashMap<&str, u32>) -> Option<Vec<u32>> {
    let maker = |from: StageId| numbers.get(pipeline.stage(from).name.as_str()).copied();
    stage.inputs.values().map(|edge| maker(edge.from)).collect()
}

/// What becomes of each stage; `None` if most of them have to be read.
fn roles(nodes: &[Node<'_>], holds: &dyn Fn(usize) -> bool) -> Option<Vec<Role>> {
    let mut roles = vec![Role::Aside; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        // Inputs come before.
        let depends = node.inputs.iter().any(|from| roles.get(*from as usize) == Some(&Role::Read));
        if depends || !holds(i) {
            roles[i] = Role::Read;
        }
    }
    for i in (0..nodes.len()).rev() {
        if roles[i] != Role::Read {
            continue;
        }
        for from in &nodes[i].inputs {
            let maker = roles.get_mut(*from as usize)?;
            if *maker != Role::Read {
                *maker = if nodes[*from as usize].kind == command::NAME { Role::Feeds } else { Role::Read };
            }
        }
    }
    let read = roles.iter().filter(|role| **role == Role::Read).count();
    (read <= nodes.len() / 2).then_some(roles)
}

/// What a stage needs of the record of another one that is known.
fn record(node: &Node<'_>, measured: &[Measured]) -> Record {
    let output = |((name, ty), measured): (&(&str, &str), &Measured)| {
        (name.to_string(), Output { ty: ty.to_string(), measured: *measured })
    };
    let outputs: SmallMap<Output> = node.outputs.iter().zip(measured).map(output).collect();
    Record { outputs, ..Record::default() }
}
