//! Reading pipelines: layers and their provenance, inheritance, edges, commands and sweeps, and
//! what the command line shows of them.

use crate::support::space::Space;
use crate::support::toys::{BASE, TOYS, names, overrides, stage};
use erw::cli::{explain, graph, schema, stages};
use erw::runner::kind::field::Exact;
use erw::runner::kind::manifest::Manifest;
use erw::runner::pipeline::graph::{Pipeline, StageId};
use erw::runner::pipeline::targets::select;
use erw::runner::sweep::SweepPlan;
use serde_json::json;
use std::collections::BTreeSet;

fn extended(text: &str) -> Space {
    Space::one(&format!("extends = \"base.toml\"\n{text}"))
}

/// Layer and, for files, `file:line` of a value.
fn origin(space: &Space, pipeline: &Pipeline, name: &str, value: &str) -> String {
    let origin = stage(pipeline, name).origins.get(value).unwrap();
    let place = origin.place.as_ref().map(|p| format!(" {}", space.plain(&p.to_string())));
    format!("{}{}", origin.layer, place.unwrap_or_default())
}

#[test]
fn toy_manifests_parse() {
    for kind in TOYS {
        Manifest::parse(kind.name, kind.manifest).unwrap();
    }
}

#[test]
fn each_layer_overrides_the_one_below() {
    let steps = |space: &Space, set: &[&str], env: &[(&str, &str)]| {
        let pipeline = space.load_with(set, env).unwrap();
        let train = stage(&pipeline, "train");
        (train.params.get("seed").unwrap().clone(), origin(space, &pipeline, "train", "params.seed"))
    };
    let text = |t: &str| t.to_string();
    let base = Space::of(&[("p.toml", &BASE.replace("[params]\nseed = 1\n", ""))]);
    assert_eq!(steps(&base, &[], &[]), (json!(0), text("manifest")));
    let parent = extended("");
    assert_eq!(steps(&parent, &[], &[]), (json!(1), text("pipeline [params] base.toml:3")));
    let shared = extended("[params]\nseed = 2\n");
    assert_eq!(steps(&shared, &[], &[]), (json!(2), text("pipeline [params] p.toml:3")));
    let own = extended("[params]\nseed = 2\n[stages.train.params]\nseed = 3\n");
    assert_eq!(steps(&own, &[], &[]), (json!(3), text("stage params p.toml:5")));
    let env = [("ERW_SET__train__seed", "5"), ("OTHER", "x")];
    assert_eq!(steps(&own, &[], &env), (json!(5), text("environment ERW_SET__train__seed")));
    assert_eq!(steps(&own, &["train.seed=6"], &env), (json!(6), text("--set train.seed")));
    // A key of [params] stays as weak as it is in the file.
    assert_eq!(steps(&own, &["seed=7"], &[]).0, json!(3));
    assert_eq!(steps(&shared, &["seed=7"], &[]), (json!(7), text("--set seed")));
    assert_eq!(steps(&shared, &["seed=7"], &[("ERW_SET__seed", "8")]).0, json!(7));
}

#[test]
fn params_of_a_child_override_stages_of_its_parent() {
    let space = Space::of(&[
        ("p.toml", "extends = \"q.toml\"\n[params]\nsteps = 9\n"),
        ("q.toml", "extends = \"base.toml\"\n[stages.train]\nparams = { steps = 8, lr = 1 }\n"),
        ("base.toml", BASE),
    ]);
    let pipeline = space.load().unwrap();
    assert_eq!(stage(&pipeline, "train").params.get("steps").unwrap(), &json!(9));
    assert_eq!(
        stage(&pipeline, "train").params.get("lr").unwrap(),
        &json!(1.0),
        "an integer becomes the float that the field wants"
    );
    assert_eq!(pipeline.name, "p", "the name is not inherited");
}

#[test]
fn operation_values_are_set_like_parameters() {
    let space = extended("[stages.train]\noperation.log_every = 5\n");
    let pipeline = space.load().unwrap();
    assert_eq!(stage(&pipeline, "train").operation.get("log_every").unwrap(), &json!(5));
    assert_eq!(origin(&space, &pipeline, "train", "operation.log_every"), "stage operation p.toml:3");
    let pipeline = space.load_with(&["train.log_every=6"], &[]).unwrap();
    assert_eq!(stage(&pipeline, "train").operation.get("log_every").unwrap(), &json!(6));
    assert!(!stage(&pipeline, "train").params.contains_key("log_every"));
}

#[test]
fn paths_are_relative_to_where_they_are_written() {
    let own = "extends = \"sub/base.toml\"\n";
    let source = |text: &str, set: &[&str]| {
        let space = Space::of(&[("p.toml", text), ("sub/base.toml", BASE)]);
        let pipeline = space.load_with(set, &[]).unwrap();
        let images = stage(&pipeline, "images");
        assert_eq!(images.sources.get("source").unwrap().missing, ["run tools/get-images.sh"]);
        (
            images.params.get("source").unwrap().clone(),
            space.plain(&images.sources.get("source").unwrap().path.display().to_string()),
        )
    };
    assert_eq!(source(own, &[]), (json!("data/train"), "sub/data/train".into()));
    let child = format!("{own}[stages.images.params]\nsource = \"mine\"\n");
    assert_eq!(source(&child, &[]), (json!("mine"), "mine".into()));
    assert_eq!(source(own, &["images.source=here"]), (json!("here"), "here".into()));
}

/// As for weights of one's own, where the parent names published ones.
#[test]
fn false_unsets_an_optional_parameter_of_the_parent() {
    let label = |text: &str, set: &[&str]| {
        let base = BASE.replace("100", "100, label = \"a\"");
        let space = Space::of(&[("p.toml", &format!("extends = \"base.toml\"\n{text}")), ("base.toml", &base)]);
        let pipeline = space.load_with(set, &[]).map_err(|e| space.plain(&e.to_string()))?;
        let train = stage(&pipeline, "train");
        Ok::<_, String>((
            train.params.get("label").unwrap().clone(),
            origin(&space, &pipeline, "train", "params.label"),
        ))
    };
    assert_eq!(label("", &[]).unwrap().0, json!("a"));
    let unset = "[stages.train.params]\nlabel = false\n";
    assert_eq!(label(unset, &[]).unwrap(), (json!(null), "stage params p.toml:3".to_string()));
    assert_eq!(label("", &["train.label=false"]).unwrap(), (json!(null), "--set train.label".to_string()));
    let said = label("[stages.train.params]\nlabel = true\n", &[]).unwrap_err();
    assert!(said.contains("`label` must be a string, not the boolean true"), "{said}");
    let said = label("[stages.train.params]\nlr = false\n", &[]).unwrap_err();
    assert!(said.contains("`lr` must be a number, not the boolean false"), "{said}");
}

#[test]
fn stages_are_removed_and_added_back() {
    let space = extended("[stages.train]\nremove = true\n[stages.pair]\nkind = \"pair\"\n");
    assert_eq!(names(&space.load().unwrap()), ["images", "codec", "pair"]);
    let back = "extends = \"q.toml\"\n[stages.train]\nkind = \"train\"\ninputs.latents = \"codec\"\nparams.steps = 1\n";
    let q = "extends = \"base.toml\"\n[stages.train]\nremove = true\n";
    let space = Space::of(&[("p.toml", back), ("q.toml", q), ("base.toml", &BASE.replace("100", "100, lr = 5.0"))]);
    let pipeline = space.load().unwrap();
    assert_eq!(
        stage(&pipeline, "train").params.get("lr").unwrap(),
        &json!(1e-4),
        "what was said before the removal is forgotten"
    );
}

#[test]
fn edges_resolve_to_outputs() {
    let space = extended(
        "[stages.late]\nkind = \"train\"\ninputs = { latents = \"pair.right\", init = \"train\" }\nparams = { steps = 1, makes = \"warmed\" }\n\
         [stages.pair]\nkind = \"pair\"\n",
    );
    let pipeline = space.load().unwrap();
    assert_eq!(names(&pipeline), ["images", "codec", "train", "pair", "late"], "what is taken comes first");
    let late = stage(&pipeline, "late");
    let edge = |slot: &str| {
        let e = late.inputs.get(slot).unwrap();
        format!("{}.{} {}", pipeline.stage(e.from).name, e.output, e.ty)
    };
    assert_eq!((edge("latents").as_str(), edge("init").as_str()), ("pair.right latents", "train.out sit"));
    assert_eq!(late.outputs.get("out").unwrap(), "warmed", "the type follows the parameter");
    let codec = stage(&pipeline, "train").inputs.get("latents").unwrap();
    assert_eq!(codec.output, "latents", "the only output of an accepted type");
    // `false` takes back an optional input, in a file or from outside.
    let open = space.load_with(&["late.inputs.init=false"], &[]).unwrap();
    assert!(!stage(&open, "late").inputs.contains_key("init"));
}

#[test]
fn a_slot_takes_a_list_from_any_layer() {
    let given = "[stages.pair]\nkind = \"pair\"\n[stages.join]\nkind = \"join\"\ninputs = { parts = [\"pair.right\", \"codec\"] }\n";
    let parts = |space: &Space, set: &[&str], env: &[(&str, &str)]| {
        let pipeline = space.load_with(set, env).unwrap();
        let name = |(_, e): (String, &erw::runner::pipeline::graph::Edge)| {
            format!("{}.{}", pipeline.stage(e.from).name, e.output)
        };
        stage(&pipeline, "join").connected("parts").into_iter().map(name).collect::<Vec<_>>()
    };
    let space = extended(given);
    assert_eq!(parts(&space, &[], &[]), ["pair.right", "codec.latents"]);
    insta::assert_snapshot!("explain_list", space.plain(&explain::text(&space.load().unwrap(), Some("join")).unwrap()));
    assert_eq!(parts(&space, &["join.inputs.parts=[codec, pair.left,pair.right]"], &[]).len(), 3);
    assert_eq!(parts(&space, &["join.inputs.parts=[\"pair.left\"]"], &[]), ["pair.left"]);
    assert_eq!(parts(&space, &["join.inputs.parts=codec"], &[]), ["codec.latents"]);
    assert!(parts(&space, &["join.inputs.parts=false"], &[]).is_empty());
    assert_eq!(parts(&space, &[], &[("ERW_SET__join__inputs__parts", "[codec,pair.left]")]).len(), 2);
    let axis = "[sweep]\n\"join.inputs.parts\" = [\"codec\", [\"codec\"], [\"codec\", \"pair.left\"]]\n";
    let swept = extended(&format!("{given}{axis}"));
    let plan = SweepPlan::load(&swept.path("p.toml"), TOYS, &Default::default()).unwrap();
    let joins: BTreeSet<StageId> = plan.trials.iter().map(|t| t.stages["join"]).collect();
    assert_eq!((plan.trials.len(), joins.len()), (3, 2), "a list of one is that one");
    // A child's list takes the place of its parent's, shorter or not.
    let child = "extends = \"q.toml\"\n[stages.join]\ninputs.parts = [\"codec\"]\n";
    let parent = format!("extends = \"base.toml\"\n{given}");
    let space = Space::of(&[("p.toml", child), ("q.toml", &parent), ("base.toml", BASE)]);
    assert_eq!(parts(&space, &[], &[]), ["codec.latents"]);
}

#[test]
fn resources_are_read() {
    let space = extended("[stages.train]\nresources = { threads = 2, mem = \"8GiB\", gpus = 1 }\n");
    let pipeline = space.load().unwrap();
    let r = &stage(&pipeline, "train").resources;
    assert_eq!((r.threads, r.mem, r.gpus), (Some(2), Some(8 << 30), 1));
    let r = &stage(&pipeline, "codec").resources;
    assert_eq!((r.threads, r.mem, r.gpus), (None, None, 0));
}

#[test]
fn commands_are_stages() {
    let space = Space::of(&[
        ("p.toml", "extends = \"sub/c.toml\"\n[stages.c]\nparams.title = \"b\"\n"),
        (
            "sub/c.toml",
            "extends = \"../base.toml\"\n[stages.c]\nkind = \"command\"\nrun = [\"x.py\", \"{inputs.net}\", \"{params.title}\"]\n\
             inputs = { net = \"train\" }\noutputs = { report = \"report\" }\nwatch = [\"x.py\"]\nparams = { title = \"a\", n = 1 }\n\
             [stages.sh]\nkind = \"command\"\nrun = \"cat {inputs.r}/* | sort ${X} > {outputs.o}/all\"\ninputs.r = \"c\"\noutputs.o = \"text\"\n",
        ),
        ("base.toml", BASE),
    ]);
    let pipeline = space.load_with(&["c.n=3"], &[]).unwrap();
    let c = stage(&pipeline, "c");
    assert_eq!(c.kind.name, "command");
    assert_eq!(c.program().unwrap(), ["x.py", "{inputs.net}", "{params.title}"]);
    assert_eq!(
        c.params.get("run").unwrap(),
        &json!(["x.py", "{inputs.net}", "{params.title}"]),
        "the template is in the key"
    );
    assert_eq!((c.params.get("title").unwrap().clone(), c.params.get("n").unwrap().clone()), (json!("b"), json!(3)));
    assert_eq!(space.plain(&c.sources.get("watch.0").unwrap().path.display().to_string()), "sub/x.py");
    assert_eq!(c.outputs.get("report").unwrap(), "report");
    assert_eq!(pipeline.stage(c.inputs.get("net").unwrap().from).name, "train");
    let sh = stage(&pipeline, "sh").program().unwrap();
    assert_eq!(sh, ["sh", "-c", "cat {inputs.r}/* | sort ${X} > {outputs.o}/all"]);
}

#[test]
fn targets_select_their_dependencies() {
    let space = extended("[stages.pair]\nkind = \"pair\"\n");
    let pipeline = space.load().unwrap();
    let chosen = |targets: &[&str]| {
        let targets: Vec<String> = targets.iter().map(|t| t.to_string()).collect();
        select(&pipeline, &targets).map(|ids| ids.iter().map(|id| pipeline.stage(*id).name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(chosen(&["codec"]).unwrap(), ["images", "codec"]);
    assert_eq!(chosen(&["pair", "images"]).unwrap(), ["images", "pair"]);
    assert_eq!(chosen(&[]).unwrap().len(), 4);
    insta::assert_snapshot!("unknown_target", space.message(&chosen(&["codce"]).unwrap_err()));
}

const SWEEP: &str = "extends = \"base.toml\"
[stages.warm]
kind = \"train\"
inputs.latents = \"codec\"
params = { steps = 5, makes = \"warmed\" }
[stages.train.inputs]
init = \"warm\"
[sweep]
\"train.seed\" = [0, 1]
\"codec.scale\" = [1.5, 2.0]
[[sweep.trials]]
name = \"erw\"
[[sweep.trials]]
name = \"sit\"
\"train.inputs.init\" = false
";

#[test]
fn trials_share_equal_stages() {
    let space = Space::one(SWEEP);
    let plan = SweepPlan::load(&space.path("p.toml"), TOYS, &Default::default()).unwrap();
    let trials: Vec<&str> = plan.trials.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(trials.len(), 8);
    assert_eq!(trials[..3], ["erw,seed=0,scale=1.5", "erw,seed=0,scale=2.0", "erw,seed=1,scale=1.5"]);
    let mut all = names(&plan.pipeline);
    let topological = plan.pipeline.stages.iter().enumerate().all(|(i, s)| s.inputs.values().all(|e| e.from.0 < i));
    assert!(topological);
    all.sort_unstable();
    let mut expected = vec!["images", "codec@scale=1.5", "codec@scale=2.0", "warm@scale=1.5", "warm@scale=2.0"];
    let trains: Vec<String> = trials.iter().map(|t| format!("train@{t}")).collect();
    expected.extend(trains.iter().map(String::as_str));
    expected.sort_unstable();
    assert_eq!(all, expected);
    let sit = plan.trials.iter().find(|t| t.name == "sit,seed=1,scale=2.0").unwrap();
    let train = plan.pipeline.stage(sit.stages["train"]);
    assert_eq!((train.name.as_str(), train.params.get("seed").unwrap()), ("train@sit,seed=1,scale=2.0", &json!(1)));
    assert!(!train.inputs.contains_key("init"));
    assert_eq!(plan.pipeline.stage(train.inputs.get("latents").unwrap().from).name, "codec@scale=2.0");
    assert_eq!(sit.settings[0], ("train.inputs.init".to_string(), json!(false)));
    let base: Vec<StageId> = select(&plan.pipeline, &["warm".into()]).unwrap();
    assert_eq!(base.len(), 5, "a base name stands for the stage in every trial");
}

#[test]
fn an_operation_axis_shares_its_stage() {
    let space = extended("[sweep]\n\"train.log_every\" = [1, 2]\ntrain.seed = [0, 1]\n");
    let plan = SweepPlan::load(&space.path("p.toml"), TOYS, &Default::default()).unwrap();
    assert_eq!(names(&plan.pipeline), ["images", "codec", "train@seed=0", "train@seed=1"]);
}

#[test]
fn set_values_apply_to_every_trial() {
    let space = extended("[sweep]\n\"train.seed\" = [0, 1]\n");
    let plan = SweepPlan::load(&space.path("p.toml"), TOYS, &overrides(&["train.lr=0.5"], &[])).unwrap();
    assert!(
        plan.trials.iter().all(|t| plan.pipeline.stage(t.stages["train"]).params.get("lr").unwrap() == &json!(0.5))
    );
    // Trials that were called `seed=0` and `seed=1` would both be of seed 9.
    let refused = SweepPlan::load(&space.path("p.toml"), TOYS, &overrides(&["train.seed=9"], &[])).err().unwrap();
    assert_eq!(refused.message, "`--set train.seed` sets a parameter that the sweep varies");
}

#[test]
fn a_thousand_stages_in_a_row_load() {
    let mut text = String::from(
        "[stages.s0]\nkind = \"train\"\ninputs.latents = \"p.left\"\nparams.steps = 1\n[stages.p]\nkind = \"pair\"\n",
    );
    for i in 1..1000 {
        text.push_str(&format!(
            "[stages.s{i}]\nkind = \"train\"\ninputs = {{ latents = \"p.left\", init = \"s{}\" }}\nparams.steps = 1\n",
            i - 1
        ));
    }
    assert_eq!(Space::one(&text).load().unwrap().stages.len(), 1001);
}

#[test]
fn explain_graph_stages_and_schema() {
    let space = Space::one(SWEEP);
    let pipeline = space.load_with(&["train.lr=1e-3"], &[("ERW_SET__train__path", "cosine")]).unwrap();
    // Columns are as wide as the names of this folder; two spaces serve.
    let explained = space.plain(&explain::text(&pipeline, Some("train")).unwrap());
    let narrow = |l: &str| l.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>().join("  ");
    insta::assert_snapshot!("explain", explained.lines().map(narrow).collect::<Vec<_>>().join("\n"));
    let all: Vec<StageId> = select(&pipeline, &[]).unwrap();
    insta::assert_snapshot!("graph_text", graph::text(&pipeline, &all, graph::Format::Text));
    insta::assert_snapshot!("graph_dot", graph::text(&pipeline, &all, graph::Format::Dot));
    insta::assert_snapshot!("graph_mermaid", graph::text(&pipeline, &all, graph::Format::Mermaid));
    insta::assert_snapshot!("stages", stages::text(None, TOYS).unwrap());
    assert_eq!(stages::text(Some("train"), TOYS).unwrap(), TOYS[2].manifest);
    let error = stages::text(Some("trian"), TOYS).unwrap_err();
    insta::assert_snapshot!("stages_unknown", space.message(&error));
    let error = explain::text(&pipeline, Some("trian")).unwrap_err();
    insta::assert_snapshot!("explain_unknown", space.message(&error));
    insta::assert_snapshot!("schema", serde_json::to_string_pretty(&schema::schema(TOYS).unwrap()).unwrap());
}

#[test]
fn a_command_can_declare_its_exactness() {
    let command = |more: &str| {
        Space::one(&format!("[stages.c]\nkind = \"command\"\nrun = [\"true\"]\noutputs = {{ o = \"t\" }}\n{more}\n"))
    };
    let pipeline = command("exact = \"everywhere\"\ntolerance = 0.5").load().unwrap();
    let manifest = &stage(&pipeline, "c").manifest;
    assert_eq!((manifest.exact, manifest.tolerance), (Exact::Everywhere, 0.5));
    let pipeline = command("").load().unwrap();
    assert_eq!(stage(&pipeline, "c").manifest.exact, Exact::Machine);
    for (more, message) in [
        ("exact = \"mostly\"", "`exact` must be `everywhere` or `machine`"),
        ("tolerance = 7.0", "`tolerance` must be a float from 0.0 to 1.0"),
    ] {
        let error = command(more).load().err().unwrap();
        assert!(error.message.contains(message) && error.place.is_some(), "{error}");
    }
    // Of kinds it is said by their manifests.
    let error = Space::one("extends = \"base.toml\"\n[stages.train]\nexact = \"machine\"\n").load().err().unwrap();
    assert!(error.hints[0].contains("only a stage of `kind = \"command\"` has `exact`"), "{error:?}");
}
