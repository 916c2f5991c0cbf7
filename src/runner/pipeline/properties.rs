//! Properties of artifacts that are known before anything runs, and whether stages agree about
//! them.
//!
//! Under `[properties]`, a manifest defines the properties of an output from parameters and inputs;
//! under `[agree]` and `[doubt]`, rules that must or should hold for the stage. Properties are
//! names and values; their meaning is up to the kinds. Values that depend on data are unknown here,
//! and so is everything derived from them: such a rule is skipped, and the kind checks it when it
//! runs.
//!
//! A known value remembers the parameters it depends on and the stages it passed through, so that
//! an error shows both of its places.

use super::graph::{Edge, Origin, Pipeline, Stage, StageId};
use crate::kind::expression::{Expression, Operation, Product, Relation, Term};
use crate::kind::field::element;
use crate::kind::manifest::Manifest;
use crate::kind::property::{Fact, InputProperties, Rule};
use erw_base::error::{Error, Place, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A known value and its origin.
#[derive(Debug, Clone)]
struct Known {
    value: Value,
    leaves: Vec<Leaf>,
}

/// A parameter that determines a value.
#[derive(Debug, Clone)]
struct Leaf {
    stage: StageId,
    param: String,
    /// The stages that passed the value on, in order.
    by: Vec<StageId>,
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        (self.stage, &self.param) == (other.stage, &other.param)
    }
}

/// The properties of a stage's outputs, by output and property.
type Outputs = BTreeMap<String, BTreeMap<String, Known>>;

/// Two sides of a rule that are known and violate it.
struct Violation<'a> {
    stage: &'a Stage,
    rule: &'a Rule,
    sides: [(String, Known); 2],
}

/// Refuses a pipeline in which a stage cannot work.
pub fn check(stages: &[Stage]) -> Result<()> {
    match faults(stages, |manifest| &manifest.agree).first() {
        Some(fault) => Err(fault.error(stages)),
        None => Ok(()),
    }
}

/// Warnings about these stages: rules that should hold but do not.
pub fn warnings(pipeline: &Pipeline, selected: &[StageId]) -> Vec<String> {
    let stages = &pipeline.stages;
    let is_selected = |fault: &Violation| selected.iter().any(|id| std::ptr::eq(pipeline.stage(*id), fault.stage));
    let faults = faults(stages, |manifest| &manifest.doubt);
    faults.iter().filter(|fault| is_selected(fault)).map(|fault| fault.warning(stages)).collect()
}

/// The known properties of all artifacts of a pipeline.
pub struct Properties(Vec<Outputs>);

impl Properties {
    pub fn of(pipeline: &Pipeline) -> Self {
        Self(known(&pipeline.stages))
    }

    /// The known properties of a stage's inputs.
    pub fn given(&self, stage: &Stage) -> InputProperties {
        let of = |edge: &Edge| -> BTreeMap<String, Value> {
            let all = self.0[edge.from.0].get(&edge.output).into_iter().flatten();
            all.map(|(name, known)| (name.clone(), known.value.clone())).collect()
        };
        let all = stage.inputs.iter().map(|(slot, edge)| (slot.clone(), of(edge)));
        all.filter(|(_, properties)| !properties.is_empty()).collect()
    }
}

/// Computes all properties; stages come after their inputs.
fn known(stages: &[Stage]) -> Vec<Outputs> {
    let mut all: Vec<Outputs> = Vec::with_capacity(stages.len());
    for (i, stage) in stages.iter().enumerate() {
        let properties = &stage.manifest.properties;
        let mut outputs = Outputs::new();
        if !properties.is_empty() {
            let eyes = View::of(StageId(i), stage, &all);
            for (output, name, expression) in properties {
                if let Some(known) = eyes.value(expression, None) {
                    outputs.entry(output.clone()).or_default().insert(name.clone(), known);
                }
            }
        }
        all.push(outputs);
    }
    all
}

fn faults<'a>(stages: &'a [Stage], rules: impl Fn(&'a Manifest) -> &'a Vec<Rule>) -> Vec<Violation<'a>> {
    if stages.iter().all(|stage| rules(&stage.manifest).is_empty()) {
        return vec![];
    }
    let known = known(stages);
    let mut faults = vec![];
    for (i, stage) in stages.iter().enumerate() {
        let rules = rules(&stage.manifest);
        if rules.is_empty() {
            continue;
        }
        let eyes = View::of(StageId(i), stage, &known);
        faults.extend(rules.iter().flat_map(|rule| eyes.faults(rule)));
    }
    faults
}

/// The view of one stage.
struct View<'a, 'k> {
    id: StageId,
    stage: &'a Stage,
    facts: Vec<Fact>,
    known: &'k [Outputs],
}

/// The element of a list slot that a rule is evaluated for.
type About<'a> = Option<(&'a str, usize)>;

impl<'a, 'k> View<'a, 'k> {
    fn of(id: StageId, stage: &'a Stage, known: &'k [Outputs]) -> Self {
        Self { id, stage, facts: (stage.kind.facts)(&stage.placed_params()), known }
    }

    fn faults(&self, rule: &'a Rule) -> Vec<Violation<'a>> {
        let several = |slot: &str| self.stage.manifest.inputs.iter().any(|s| s.many && s.name == slot);
        let slots = [&rule.left, &rule.right].into_iter().flat_map(Expression::terms).filter_map(|term| match term {
            Term::Input { slot, .. } if several(slot) => Some(slot.as_str()),
            _ => None,
        });
        // A rule with alternatives applies to whichever of two slots is connected.
        let mut abouts: Vec<About> = vec![];
        let mut slots: Vec<&str> = slots.collect();
        slots.dedup();
        for slot in slots {
            abouts.extend((0..self.stage.connected(slot).len()).map(|i| Some((slot, i))));
        }
        if abouts.is_empty() {
            abouts.push(None);
        }
        abouts.into_iter().filter_map(|about| self.fault(rule, about)).collect()
    }

    fn fault(&self, rule: &'a Rule, about: About) -> Option<Violation<'a>> {
        let (left, right) = (self.value(&rule.left, about)?, self.value(&rule.right, about)?);
        if holds(rule.relation, &left.value, &right.value) {
            return None;
        }
        let named = |expression: &Expression| self.named(expression, about);
        Some(Violation { stage: self.stage, rule, sides: [(named(&rule.left), left), (named(&rule.right), right)] })
    }

    /// The alternative that was used, with the name of the list element.
    fn named(&self, expression: &Expression, about: About) -> String {
        let product = expression.alternatives.iter().find(|p| self.product(p, about).is_some());
        let text = product.unwrap_or(&expression.alternatives[0]).to_string();
        match about {
            Some((slot, i)) if i > 0 => text.replace(&format!("{slot}."), &format!("{}.", element(slot, i))),
            _ => text,
        }
    }

    fn value(&self, expression: &Expression, about: About) -> Option<Known> {
        if let Some(term) = &expression.when {
            self.term(term, about)?;
        }
        expression.alternatives.iter().find_map(|product| self.product(product, about))
    }

    /// A division with a remainder is unknown; a rule of its own requires divisibility.
    fn product(&self, product: &Product, about: About) -> Option<Known> {
        let mut known = self.term(&product.first, about)?;
        for (operation, term) in &product.more {
            let factor = self.term(term, about)?;
            let (a, b) = (known.value.as_u64()?, factor.value.as_u64()?);
            let value = match operation {
                Operation::Times => a.checked_mul(b)?,
                Operation::Over if b > 0 && a % b == 0 => a / b,
                Operation::Over => return None,
            };
            known.value = value.into();
            known.join(factor.leaves);
        }
        Some(known)
    }

    fn term(&self, term: &Term, about: About) -> Option<Known> {
        let own = |value: Value, params: &[&str]| {
            let leaf = |param: &&str| Leaf { stage: self.id, param: param.to_string(), by: vec![] };
            (!value.is_null()).then(|| Known { value, leaves: params.iter().map(leaf).collect() })
        };
        match term {
            Term::Param(name) => own(self.stage.params.get(name)?.clone(), &[name]),
            Term::Fact(name) => {
                let fact = self.facts.iter().find(|f| f.name == name)?;
                own(fact.value.clone(), fact.of)
            }
            Term::Input { slot, property } => {
                let number = about.filter(|(about, _)| about == slot).map_or(0, |(_, i)| i);
                self.input(&element(slot, number), property)
            }
            Term::Inputs { slot, property } => {
                let connected = self.stage.connected(slot);
                let all: Vec<Known> =
                    connected.iter().map(|(name, _)| self.input(name, property)).collect::<Option<_>>()?;
                let mut list = Known { value: Value::Null, leaves: vec![] };
                let values: Vec<Value> = all.iter().map(|known| known.value.clone()).collect();
                all.into_iter().for_each(|known| list.join(known.leaves));
                list.value = values.into();
                (!connected.is_empty()).then_some(list)
            }
        }
    }

    fn input(&self, slot: &str, property: &str) -> Option<Known> {
        let edge = self.stage.inputs.get(slot)?;
        let mut known = self.known.get(edge.from.0)?.get(&edge.output)?.get(property)?.clone();
        for leaf in &mut known.leaves {
            if leaf.stage != edge.from && leaf.by.last() != Some(&edge.from) {
                leaf.by.push(edge.from);
            }
        }
        Some(known)
    }
}

impl Known {
    fn join(&mut self, leaves: Vec<Leaf>) {
        for leaf in leaves {
            if !self.leaves.contains(&leaf) {
                self.leaves.push(leaf);
            }
        }
    }
}

fn holds(relation: Relation, left: &Value, right: &Value) -> bool {
    match relation {
        Relation::Equal => same(left, right),
        Relation::Multiple => match (left.as_u64(), right.as_u64()) {
            (Some(a), Some(b)) => b > 0 && a % b == 0,
            _ => true,
        },
        Relation::Other => !same(left, right),
        Relation::OneOf => right.as_array().is_none_or(|all| all.iter().any(|one| same(left, one))),
    }
}

/// Lists are compared up to the shorter length.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64()),
    }
}

impl Violation<'_> {
    /// `features.grid` is 8, but `latents.side / patch_size` is 4.
    fn text(&self) -> String {
        let [(left, a), (right, b)] = &self.sides;
        let (a, b) = (shown(&a.value), shown(&b.value));
        match self.rule.relation {
            Relation::Equal => format!("`{left}` is {a}, but `{right}` is {b}"),
            Relation::Multiple => format!("`{left}` is {a}, which is not a multiple of `{right}`, {b}"),
            Relation::Other => format!("`{left}` and `{right}` are the same"),
            Relation::OneOf => format!("`{left}` is {a}, but `{right}` has only {b}"),
        }
    }

    /// For each side, the parameters that the other side does not depend on, or all if there are
    /// none.
    fn deciding(&self) -> [Vec<&Leaf>; 2] {
        let [(_, a), (_, b)] = &self.sides;
        let own = |these: &'_ Known, others: &Known| -> Vec<usize> {
            (0..these.leaves.len()).filter(|i| !others.leaves.contains(&these.leaves[*i])).collect()
        };
        let pick = |these: &'_ Known, chosen: Vec<usize>| match chosen.is_empty() {
            true => (0..these.leaves.len()).collect(),
            false => chosen,
        };
        let (left, right) = (pick(a, own(a, b)), pick(b, own(b, a)));
        [left.into_iter().map(|i| &a.leaves[i]).collect(), right.into_iter().map(|i| &b.leaves[i]).collect()]
    }

    fn error(&self, stages: &[Stage]) -> Error {
        let sides = self.deciding();
        let mut error = Error::usage(format!("stage `{}`: {}", self.stage.name, self.text()));
        for (leaves, (name, known)) in sides.iter().zip(&self.sides) {
            let from: Vec<String> = leaves.iter().map(|leaf| leaf.text(stages)).collect();
            let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join("; ")) };
            error = error.because(format!("`{name}` is {}{from}", shown(&known.value)));
        }
        let places = sides.iter().flatten().filter_map(|leaf| leaf.place(stages));
        let reason = Some(self.rule.doc.clone()).filter(|doc| !doc.is_empty());
        error.maybe_at(places.into_iter().next()).maybe_hint(reason)
    }

    fn warning(&self, stages: &[Stage]) -> String {
        let sides = self.deciding();
        let from: Vec<String> = sides.iter().flatten().map(|leaf| leaf.text(stages)).collect();
        let reason = if self.rule.doc.is_empty() { String::new() } else { format!(": {}", self.rule.doc) };
        if self.rule.relation == Relation::Other {
            // No value decides that two are the same.
            return format!("stage `{}`: {}{reason}", self.stage.name, self.text());
        }
        format!("stage `{}`: {}{reason} ({})", self.stage.name, self.text(), from.join("; "))
    }
}

impl Leaf {
    fn origin<'a>(&self, stages: &'a [Stage]) -> Option<&'a Origin> {
        stages[self.stage.0].origins.get(&format!("params.{}", self.param))
    }

    fn place(&self, stages: &[Stage]) -> Option<Place> {
        self.origin(stages)?.place.clone()
    }

    /// `resolution = 64` of `images` (p.toml:5), via `latents`.
    fn text(&self, stages: &[Stage]) -> String {
        let stage = &stages[self.stage.0];
        let value = stage.params.get(&self.param).map_or_else(String::new, shown);
        let stated = match self.origin(stages) {
            Some(Origin { place: Some(place), .. }) => place.to_string(),
            Some(Origin { layer, .. }) if layer == "manifest" => "its default".into(),
            Some(Origin { layer, .. }) => format!("set by `{layer}`"),
            None => "not set".into(),
        };
        let by: Vec<String> = self.by.iter().map(|id| format!("`{}`", stages[id.0].name)).collect();
        let by = if by.is_empty() { String::new() } else { format!(", via {}", by.join(", ")) };
        format!("`{} = {value}` of `{}` ({stated}){by}", self.param, stage.name)
    }
}

/// Formatted as in a pipeline.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(all) => format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
