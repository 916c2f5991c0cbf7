//! Every ingredient of a cache key, one test each, in both directions.

use crate::support::deadline::Deadline;
use crate::support::space::Space;
use erw::runner::cache::key::Key;
use erw::runner::files::digest::Digest;
use erw::runner::kind::{Registry, StageKind, no_facts};
use erw::runner::pipeline::graph::{Pipeline, Stage};
use erw::runner::pipeline::layers::Overrides;
use erw::runner::plan::action::action;
use std::collections::BTreeMap;

/// The toy's manifest at a revision.
macro_rules! toy {
    ($revision:literal) => {
        concat!(
            "revision = ",
            $revision,
            r#"
summary = "a toy"
[inputs]
x = "t?"       # any
many = "t*"    # in order
[outputs]
o = "{makes}"
[params]
seed = 0       # of noise
lr = 1e-4      # learning rate
makes = "t"    # type of the output
data = { type = "path", optional = true }  # outside file
newer = { type = "int", optional = true, later = true }  # added when there were results
[operation]
every = 10     # steps
"#
        )
    };
}

macro_rules! kind {
    ($name:literal, $manifest:expr) => {
        StageKind {
            name: $name,
            manifest: $manifest,
            check: |_, _, _| Ok(()),
            facts: no_facts,
            foresee: None,
            run: |_| Ok(()),
        }
    };
}

const KINDS: Registry = &[kind!("first", toy!(1)), kind!("twin", toy!(1))];
const REVISED_KINDS: Registry = &[kind!("first", toy!(2))];

const PLAIN: &str = "[stages.s]\nkind = \"first\"\n";

fn stage(pipeline: &str, kinds: Registry) -> Stage {
    let space = Space::new(pipeline);
    let mut pipeline = Pipeline::load(&space.path("p.toml"), kinds, &Overrides::default()).unwrap();
    pipeline.stages.pop().unwrap()
}

fn key_of(pipeline: &str) -> Key {
    action(&stage(pipeline, KINDS), &BTreeMap::new(), &BTreeMap::new()).key
}

fn with(text: &str) -> Key {
    key_of(&format!("{PLAIN}{text}\n"))
}

#[test]
fn kind_and_revision_count() {
    assert_ne!(key_of(PLAIN), key_of(&PLAIN.replace("first", "twin")));
    let revised = action(&stage(PLAIN, REVISED_KINDS), &BTreeMap::new(), &BTreeMap::new()).key;
    assert_ne!(key_of(PLAIN), revised);
    assert_eq!(key_of(PLAIN), key_of(PLAIN));
}

#[test]
fn params() {
    assert_ne!(key_of(PLAIN), with("params.seed = 1"));
    assert_ne!(key_of(PLAIN), with("params.lr = 2e-4"));
    // Where and how a value is stated does not matter.
    assert_eq!(key_of(PLAIN), with("params.seed = 0"));
    assert_eq!(key_of(PLAIN), with("params.lr = 0.0001"));
    assert_eq!(with("params.seed = 3"), key_of(&format!("[params]\nseed = 3\n{PLAIN}")));
    assert_eq!(with("params = { seed = 3, lr = 1.0 }"), with("params = { lr = 1.0, seed = 3 }"));
}

/// `the_key_text_has_one_line_per_ingredient` shows that it is absent while it is not set.
#[test]
fn a_later_parameter_counts_once_it_is_set() {
    assert_ne!(key_of(PLAIN), with("params.newer = 0"));
    assert_ne!(with("params.newer = 0"), with("params.newer = 1"));
}

#[test]
fn output_types_count() {
    assert_ne!(key_of(PLAIN), with("params.makes = \"u\""));
}

#[test]
fn inputs_count_by_contents_and_slot() {
    let stage = stage(PLAIN, KINDS);
    let key = |slot: &str, bytes: &[u8]| {
        action(&stage, &[(slot.to_string(), Digest::of_bytes(bytes))].into(), &BTreeMap::new()).key
    };
    assert_eq!(key("x", b"1"), key("x", b"1"));
    assert_ne!(key("x", b"1"), key("x", b"2"));
    assert_ne!(key("x", b"1"), key("y", b"1"));
    assert_ne!(key("x", b"1"), key_of(PLAIN));
}

#[test]
fn lists_of_inputs_count_by_contents_and_order() {
    // Twelve of them: `many.10` must not come before `many.2`.
    let sources = (0..12).map(|i| format!("[stages.a{i}]\nkind = \"first\"\nparams.seed = {i}\n")).collect::<String>();
    let made = |many: &str| {
        let stage = stage(&format!("{sources}{PLAIN}inputs = {{ many = {many} }}\n"), KINDS);
        let digest = |edge: &erw::runner::pipeline::graph::Edge| Digest::of_bytes(edge.from.0.to_string().as_bytes());
        let inputs = stage.inputs.iter().map(|(slot, edge)| (slot.clone(), digest(edge))).collect();
        let order: Vec<usize> = stage.connected("many").iter().map(|(_, edge)| edge.from.0).collect();
        (action(&stage, &inputs, &BTreeMap::new()).key, order)
    };
    let (one, _) = made("\"a1\"");
    assert_eq!(one, made("[\"a1\"]").0, "a list of one is that one");
    assert_ne!(one, made("\"a2\"").0);
    assert_ne!(one, made("[\"a1\", \"a2\"]").0);
    assert_ne!(made("[\"a1\", \"a2\"]").0, made("[\"a2\", \"a1\"]").0);
    assert_eq!(made("[]").0, key_of(PLAIN));
    assert_eq!(made("[]").0, made("false").0);
    let all: Vec<String> = (0..12).map(|i| format!("\"a{i}\"")).collect();
    assert_eq!(made(&format!("[{}]", all.join(", "))).1, (0..12).collect::<Vec<_>>());
}

#[test]
fn sources_count_by_contents_not_by_name() {
    let key = |path: &str, bytes: &[u8]| {
        let stage = stage(&format!("{PLAIN}params.data = \"{path}\"\n"), KINDS);
        assert!(stage.sources.contains_key("data"));
        action(&stage, &BTreeMap::new(), &[("data".to_string(), Digest::of_bytes(bytes))].into()).key
    };
    assert_eq!(key("a", b"1"), key("elsewhere/b", b"1"));
    assert_ne!(key("a", b"1"), key("a", b"2"));
    assert_ne!(key("a", b"1"), key_of(PLAIN));
}

#[test]
fn operation_and_resources_do_not_count() {
    assert_eq!(key_of(PLAIN), with("operation.every = 5"));
    assert_eq!(key_of(PLAIN), with("resources = { threads = 1, mem = \"1GiB\", gpus = 1 }"));
}

#[test]
fn names_and_paths_of_pipelines_and_stages_do_not_count() {
    assert_eq!(key_of(PLAIN), key_of(&PLAIN.replace("stages.s", "stages.other")));
    assert_eq!(key_of(PLAIN), key_of(&format!("name = \"renamed\"\n{PLAIN}")));
}

#[test]
fn program_and_outputs_of_a_command_count() {
    let command = |run: &str, outputs: &str| {
        key_of(&format!("[stages.s]\nkind = \"command\"\nrun = {run}\noutputs = {{ {outputs} }}\n"))
    };
    let base = command("[\"true\"]", "o = \"t\"");
    assert_eq!(base, command("[ \"true\" ]", "o = \"t\""));
    assert_ne!(base, command("[\"true\", \"\"]", "o = \"t\""));
    assert_ne!(base, command("[\"true\"]", "p = \"t\""));
    assert_ne!(base, command("[\"true\"]", "o = \"u\""));
}

#[test]
fn environment_and_command_line_do_not_count() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"echo x >> ran; echo > {outputs.o}\"\noutputs = { o = \"t\" }\n",
    );
    space.run(&[]).expect(0);
    let mut other = space.command(&["run", "p.toml", "--plain", "--jobs", "1", "--threads", "1", "--gpus", "0"]);
    assert!(other.env("SOMETHING", "else").finish().status.success());
    assert_eq!(space.ran(), ["x"]);
}

#[test]
fn the_key_text_has_one_line_per_ingredient() {
    let stage = stage(&format!("{PLAIN}params.seed = 7\n"), KINDS);
    let action = action(&stage, &BTreeMap::new(), &BTreeMap::new());
    let expected =
        "erw key 1\nkind first\nrevision 1\nparam lr 0.0001\nparam makes \"t\"\nparam seed 7\noutput o \"t\"\n";
    assert_eq!(action.text, expected);
    assert_eq!(action.key, Key::of(expected));
}
