//! Every message about a bad pipeline, as the user sees it. Messages are snapshots; after a change
//! run with `INSTA_UPDATE=always` and read the difference.

use crate::support::space::Space;
use crate::support::toys::TOYS;
use erw::error::ErrorKind;
use erw::runner::sweep::SweepPlan;

/// Checks the message of `p.toml`, which may extend `base.toml`.
fn bad(name: &str, text: &str) {
    bad_with(name, text, &[], &[]);
}

fn bad_with(name: &str, text: &str, set: &[&str], env: &[(&str, &str)]) {
    let space = Space::one(text);
    let Err(error) = space.load_with(set, env) else { panic!("{name}: the pipeline loads") };
    assert_eq!(error.kind, ErrorKind::Usage, "{name}: {error}");
    insta::assert_snapshot!(name, space.message(&error));
}

/// `base.toml` with lines added to a stage.
fn extended(name: &str, text: &str) {
    bad(name, &format!("extends = \"base.toml\"\n{text}"));
}

#[test]
fn malformed_files() {
    bad("malformed_value", "name = \"p\"\n[stages.a]\nkind = = 1\n");
    bad("malformed_string", "name = \"p\n");
    bad("duplicate_key", "name = \"p\"\nname = \"q\"\n");
    bad("duplicate_stage", "[stages.a]\nkind = \"pair\"\n[stages.a]\nkind = \"pair\"\n");
    bad("empty", "");
    bad("non_table", "stages = 3\n");
    bad("date", "extends = \"base.toml\"\n[stages.train.params]\nsteps = 2026-01-01\n");
}

#[test]
fn missing_file() {
    let space = Space::of(&[("pipelines/pp.toml", "")]);
    insta::assert_snapshot!("missing_file_near", space.message(&space.load().err().unwrap()));
    let space = Space::of(&[]);
    insta::assert_snapshot!("missing_file", space.message(&space.load().err().unwrap()));
}

#[test]
fn unknown_names() {
    extended("unknown_key", "stage = 1\n");
    extended("unknown_stage_key", "[stages.train]\nparam = {}\n");
    extended("unknown_stage_key_is_parameter", "[stages.train]\nsteps = 3\n");
    extended("unknown_stage_key_of_command", "[stages.train]\nrun = [\"true\"]\n");
    extended("unknown_parameter", "[stages.train.params]\nstesp = 3\n");
    extended("unknown_parameter_listed", "[stages.codec.params]\nwhatever = 3\n");
    extended("unknown_parameter_is_operation", "[stages.train]\nparams = { log_every = 3 }\n");
    extended("unknown_operation", "[stages.train]\noperation = { log_evry = 3 }\n");
    extended("unknown_operation_none", "[stages.codec]\noperation = { log_every = 3 }\n");
    extended("unknown_input", "[stages.train.inputs]\nlatent = \"codec\"\n");
    extended("unknown_input_none", "[stages.images.inputs]\nlatents = \"codec\"\n");
    extended("unknown_resource", "[stages.train]\nresources = { gpu = 1 }\n");
    extended("unknown_shared", "[params]\nsede = 3\n");
    extended("unknown_shared_far", "[params]\nfrobnicate = 3\n");
    bad("unknown_kind", "[stages.a]\nkind = \"trian\"\n");
    bad("no_kind", "[stages.a]\nparams = {}\n");
    extended("no_kind_near", "[stages.trian]\nparams = { steps = 1 }\n");
    bad("stage_name", "[stages.\"a.b\"]\nkind = \"pair\"\n");
}

#[test]
fn values() {
    extended("wrong_type", "[stages.train]\nparams = { steps = \"many\" }\n");
    extended("wrong_type_float", "[stages.train]\nparams = { steps = 1e3 }\n");
    extended("wrong_type_shared", "[params]\nlr = \"fast\"\n");
    extended("wrong_type_element", "[stages.train]\nparams = { blocks = [0, 1, \"2\"] }\n");
    extended("wrong_type_table", "[stages.train]\nparams = 3\n");
    extended("not_finite", "[stages.train.params]\nlr = nan\n");
    extended("too_small", "[stages.train.params]\nsteps = 0\n");
    extended("too_large", "[stages.images.params]\nresolution = 1024\n");
    extended("not_one_of", "[stages.train.params]\npath = \"linaer\"\n");
    extended("check", "[stages.train.params]\nsteps = 14\n");
    extended("resources_threads", "[stages.train]\nresources = { threads = 0 }\n");
    extended("resources_mem", "[stages.train]\nresources = { mem = \"8 gigs\" }\n");
    bad("required", "[stages.a]\nkind = \"pair\"\n[stages.t]\nkind = \"train\"\ninputs = { latents = \"a.left\" }\n");
}

#[test]
fn edges() {
    extended("open_input", "[stages.train2]\nkind = \"train\"\nparams = { steps = 1 }\n");
    bad("open_input_nothing_fits", "[stages.t]\nkind = \"train\"\nparams = { steps = 1 }\n");
    extended("input_not_text", "[stages.train]\ninputs = { latents = 3 }\n");
    extended("input_taken_back", "[stages.train]\ninputs = { latents = false }\n");
    extended("unknown_stage", "[stages.train]\ninputs = { latents = \"codecs\" }\n");
    extended("unknown_output", "[stages.train]\ninputs = { latents = \"codec.latent\" }\n");
    extended("ill_typed", "[stages.train]\ninputs = { latents = \"images\" }\n");
    extended("ill_typed_output", "[stages.train]\ninputs = { latents = \"codec.vae\" }\n");
    extended("ill_typed_several", "[stages.train]\ninputs = { init = \"codec\" }\n");
    extended("ambiguous", "[stages.pair]\nkind = \"pair\"\n[stages.train]\ninputs = { latents = \"pair\" }\n");
    let train = |name: &str, init: &str| {
        format!(
            "[stages.{name}]\nkind = \"train\"\nparams.steps = 1\ninputs = {{ latents = \"codec\", init = \"{init}\" }}\n"
        )
    };
    extended("cycle", &[train("a", "c"), train("b", "a"), train("c", "b")].concat());
    extended("cycle_of_one", &train("a", "a"));
}

#[test]
fn lists_of_edges() {
    let join = |name: &str, inputs: &str| {
        extended(
            name,
            &format!("[stages.pair]\nkind = \"pair\"\n[stages.join]\nkind = \"join\"\ninputs = {{ {inputs} }}\n"),
        );
    };
    join("list_ill_typed", "parts = [\"pair.left\", \"codec.vae\"]");
    join("list_unknown_stage", "parts = [\"pair.left\", \"pari.right\"]");
    join("list_ambiguous", "parts = [\"codec\", \"pair\"]");
    join("list_twice", "parts = [\"pair.left\", \"codec.latents\", \"codec\"]");
    join("list_not_text", "parts = [\"pair.left\", 3]");
    join("list_of_lists", "parts = [[\"pair.left\"]]");
    join("list_table", "parts = { a = \"pair.left\" }");
    join("list_where_one_fits", "base = [\"codec\"]");
    join("list_cycle", "parts = [\"pair.left\", \"join\"]");
    let base = "extends = \"base.toml\"\n[stages.join]\nkind = \"join\"\n";
    bad_with("list_set", base, &["join.inputs.parts=[codec, images]"], &[]);
    bad_with("list_env", base, &[], &[("ERW_SET__join__inputs__parts", "[codec, codic]")]);
}

#[test]
fn inheritance() {
    bad("extends_missing", "extends = \"bse.toml\"\n");
    bad("extends_itself", "extends = \"p.toml\"\n");
    let space =
        Space::of(&[("p.toml", "extends = \"sub/q.toml\"\n"), ("sub/q.toml", "# q\nextends = \"../p.toml\"\n")]);
    insta::assert_snapshot!("extends_cycle", space.message(&space.load().err().unwrap()));
    let wrong = BASE_WITH_FAULT;
    let space = Space::of(&[("p.toml", "extends = \"parent.toml\"\n"), ("parent.toml", wrong)]);
    insta::assert_snapshot!("fault_in_parent", space.message(&space.load().err().unwrap()));
    extended("remove_unknown", "[stages.trian]\nremove = true\n");
    extended("remove_and_describe", "[stages.train]\nremove = true\nkind = \"train\"\n");
    extended("remove_leaves_hole", "[stages.codec]\nremove = true\n");
}

const BASE_WITH_FAULT: &str = "[stages.pair]\nkind = \"pair\"\n[stages.train]\nkind = \"train\"\nparams.setps = 1\n";

#[test]
fn commands() {
    let command = |name: &str, rest: &str| extended(name, &format!("[stages.c]\nkind = \"command\"\n{rest}"));
    command("command_no_run", "outputs = { a = \"report\" }\n");
    command("command_no_outputs", "run = [\"true\"]\n");
    command("command_bad_run", "run = 3\noutputs = { a = \"report\" }\n");
    command("command_bad_word", "run = [\"echo\", 3]\noutputs = { a = \"report\" }\n");
    command("command_empty_run", "run = []\noutputs = { a = \"report\" }\n");
    command("command_unknown_hole", "run = [\"sh\", \"{outputs.b}\"]\noutputs = { bb = \"report\" }\n");
    command("command_unknown_input", "run = \"cat {inputs.x} > {outputs.a}\"\noutputs = { a = \"report\" }\n");
    command("command_bad_param", "run = [\"true\"]\noutputs = { a = \"report\" }\nparams = { x = { y = 1 } }\n");
    command("command_param_run", "run = [\"true\"]\noutputs = { a = \"report\" }\nparams = { run = 1 }\n");
    command("command_watch", "run = [\"true\"]\noutputs = { a = \"report\" }\nwatch = [\"a.py\", 3]\n");
}

#[test]
fn overrides() {
    let base = "extends = \"base.toml\"\n";
    let set = |name: &str, text: &str| bad_with(name, base, &[text], &[]);
    set("set_no_value", "train.steps");
    set("set_unknown_stage", "trian.steps=3");
    set("set_unknown_parameter", "train.setps=3");
    set("set_unknown_input", "train.inputs.latens=codec");
    set("set_unknown_shared", "steps=3");
    set("set_unknown_everywhere", "sede=3");
    set("set_wrong_type", "train.steps=many");
    set("set_bad_edge", "train.inputs.latents=images");
    bad_with("env_unknown_parameter", base, &[], &[("ERW_SET__train__setps", "3")]);
    bad_with("env_wrong_type", base, &[], &[("ERW_SET__train__steps", "many")]);
}

#[test]
fn sweeps() {
    let sweep = |name: &str, text: &str| extended(name, &format!("[sweep]\n{text}"));
    sweep("axis_unknown_stage", "\"trian.seed\" = [0, 1]\n");
    sweep("axis_unknown_parameter", "\"train.sede\" = [0, 1]\n");
    sweep("axis_no_list", "\"train.seed\" = 3\n");
    sweep("axis_empty", "\"train.seed\" = []\n");
    sweep("axis_twice", "\"train.seed\" = [1, 2, 1]\n");
    sweep("trial_no_name", "[[sweep.trials]]\n\"train.seed\" = 1\n");
    sweep("trial_name", "[[sweep.trials]]\nname = \"a=1\"\n");
    sweep("trial_sets_axis", "\"train.seed\" = [0, 1]\n[[sweep.trials]]\nname = \"a\"\n\"train.seed\" = 1\n");
    sweep("trial_twice", "[[sweep.trials]]\nname = \"a\"\n[[sweep.trials]]\nname = \"a\"\n");
    sweep("trial_unknown", "[[sweep.trials]]\nname = \"a\"\n\"train.sede\" = 1\n");
    for (name, text) in [("sweep_none", ""), ("sweep_bad_value", "[sweep]\n\"train.steps\" = [1, 2, -3]\n")] {
        let space = Space::one(&format!("extends = \"base.toml\"\n{text}"));
        let Err(error) = SweepPlan::load(&space.path("p.toml"), TOYS, &Default::default()) else { panic!("{name}") };
        insta::assert_snapshot!(name, space.message(&error));
    }
}
