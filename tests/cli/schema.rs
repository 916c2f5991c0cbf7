//! The schemas of pipelines and of settings, by Taplo, which checks TOML in many editors: it takes
//! what erw takes, and its errors name the value or the key at fault.

use crate::support::space::Space;
use crate::support::taplo;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder that are pipelines.
fn pipelines(folder: &str) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(root().join(folder)).sort_by_file_name().into_iter();
    let all = all.map(|entry| entry.expect("a readable folder").into_path());
    all.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
}

/// A space with a schema in it.
fn with_schema(arguments: &[&str]) -> (Space, PathBuf) {
    let space = Space::of(&[]);
    let text = space.erw(&[&["schema"], arguments].concat()).expect(0).stdout;
    space.write("schema.json", &text);
    let schema = space.path("schema.json");
    (space, schema)
}

#[test]
fn shipped_pipelines_name_their_schema_and_fit_it() {
    let shipped = [pipelines("pipelines"), pipelines("examples")].concat();
    assert!(shipped.len() > 12, "{shipped:?}");
    for file in shipped {
        let first = std::fs::read_to_string(&file).unwrap().lines().next().unwrap_or_default().to_string();
        let name = first.strip_prefix("#:schema ").unwrap_or_else(|| panic!("{} names no schema", file.display()));
        assert!(file.parent().unwrap().join(name).is_file(), "{}: {name}", file.display());
        assert_eq!(taplo::errors(&file, None), [""; 0], "{}", file.display());
    }
}

#[test]
fn stages_of_all_kinds_fit() {
    let schema = root().join("pipelines/erw.schema.json");
    assert_eq!(taplo::errors(&root().join("tests/golden/every-kind.toml"), Some(&schema)), [""; 0]);
}

#[test]
fn a_new_pipeline_brings_its_schema() {
    for (arguments, file) in [(&["digits"][..], "digits.toml"), (&["mine", "--images", "data/digits"], "mine.toml")] {
        let space = Space::of(&[]);
        std::os::unix::fs::symlink(root().join("pipelines/data"), space.path("data")).unwrap();
        if file == "digits.toml" {
            std::fs::remove_file(space.path("data")).unwrap();
        }
        space.erw(&[&["init"], arguments].concat()).expect(0);
        assert_eq!(taplo::errors(&space.path(file), None), [""; 0], "{file}");
        // It is the schema that checks, and not its absence that passes.
        space.write(file, &(space.read(file) + "\n[stages.more]\nkind = \"trian\"\n"));
        assert_eq!(taplo::errors(&space.path(file), None).len(), 1, "{file}");
    }
}

/// What erw takes although it is unusual.
#[test]
fn unusual_pipelines_fit() {
    let (space, schema) = with_schema(&[]);
    let taken = [
        // From outside of the pipeline, and a list.
        "[stages.train]\nkind = \"train\"\ninputs = { latents = \"other.toml:latents\", init = \"weights:0100000.pt\", \
         features = [\"a\", \"b.features\"], validation = false }",
        // One or several; a whole number for a fraction.
        "[stages.train]\nkind = \"train\"\ninputs.latents = \"latents\"\nparams = { ema_decay = [0.9, 1], lr = 1 }",
        // What a parent states is not required, also if the kind is stated again.
        "extends = \"digits.toml\"\n[stages.train]\nkind = \"train\"\n[stages.fd]\nremove = true\n\
         [stages.sample]\nparams.anything = 3\nrun = \"of a program\"",
        // Free values of a program, also in [params].
        "[params]\nweight = 3\n[stages.c]\nkind = \"command\"\nrun = \"x\"\noutputs.o = \"text\"\nparams.weight = \"x\"",
        "[sweep]\ntrain.seed = [1]\n\"a.b, c.d\" = [1, \"x\"]\nrandom.train.lr = { uniform = [0, 1.5] }\n\
         random.\"a.b\" = { choice = [\"x\"] }\nrandom.budget = 3\n[[sweep.trials]]\nname = \"t\"\ntrain.steps = 3\n\
         [stages.c]\nkind = \"command\"\nrun = [\"x\"]\noutputs.o = \"text\"",
        "[stages.c]\nkind = \"command\"\nrun = \"x\"\noutputs.o = \"text\"\ntimeout = \" 1.5 h \"\nbackoff = \"500ms\"\n\
         resources = { mem = \"2 TiB\", threads = 1, licence = 0 }",
        "",
    ];
    for text in taken {
        space.write("p.toml", text);
        assert_eq!(taplo::errors(&space.path("p.toml"), Some(&schema)), [""; 0], "{text}");
    }
}

/// Each file has one fault. The message about it must contain the last word, and there may be no
/// other message.
#[track_caller]
fn assert_each_is_named(space: &Space, schema: &Path, faults: &[(&str, &str)]) -> String {
    let mut said = String::new();
    for (text, at_fault) in faults {
        space.write("p.toml", text);
        let errors = taplo::errors(&space.path("p.toml"), Some(schema));
        assert!(matches!(errors.as_slice(), [one] if one.contains(at_fault)), "{text}\n{errors:#?}");
        said += &format!("{}\n", errors.concat());
    }
    said
}

#[test]
fn errors_name_what_is_wrong_in_a_pipeline() {
    let (space, schema) = with_schema(&[]);
    let train = |more: &str| format!("[stages.train]\nkind = \"train\"\ninputs.latents = \"latents\"\n{more}\n");
    let command = |more: &str| format!("[stages.c]\nkind = \"command\"\nrun = \"x\"\noutputs.o = \"text\"\n{more}\n");
    let faults = [
        ("[stages.train]\nkind = \"trian\"".to_string(), "\"trian\""),
        ("[stages.train]\nkind = 3".into(), "3"),
        ("[stages.train]\nparams.steps = 3".into(), "\"kind\""),
        ("[stages.train]\nkind = \"train\"".into(), "\"inputs\""),
        ("[stages.train]\nkind = \"train\"\ninputs.features = \"f\"".into(), "\"latents\""),
        ("[stages.c]\nkind = \"command\"\nrun = \"x\"".into(), "\"outputs\""),
        ("[stage.train]\nkind = \"train\"".into(), "'stage'"),
        ("[stages.\"a b\"]\nkind = \"weights\"".into(), "a b"),
        (train("prams.steps = 3"), "'prams'"),
        (train("params.stpes = 3"), "'stpes'"),
        (train("operation.stpes = 3"), "'stpes'"),
        (train("inputs.inti = \"warmup\""), "'inti'"),
        (train("params.steps = \"many\""), "\"many\""),
        (train("params.steps = -1"), "-1"),
        (train("params.batch = 0"), "0 is"),
        (train("params.flip = 1.5"), "1.5"),
        (train("params.precision = \"f8\""), "\"f8\""),
        (train("params.ema_decay = 1.5"), "1.5"),
        (train("params.ema_decay = [0.5, 1.5]"), "1.5"),
        (train("params.ema_decay = \"slow\""), "\"slow\""),
        (train("params.snapshots = [1, \"x\"]"), "\"x\""),
        (train("inputs.init = 3"), "3"),
        (train("inputs.init = true"), "true"),
        (train("inputs.init = \"a b\""), "\"a b\""),
        (train("timeout = \"2 hours\""), "\"2 hours\""),
        (train("retries = -2"), "-2"),
        (train("resources.mem = \"8 gigabytes\""), "\"8 gigabytes\""),
        (train("resources.threads = 0"), "0 is"),
        (train("resources.gpus = \"all\""), "\"all\""),
        (train("run = \"x\""), "'run'"),
        (format!("[params]\nsede = 1\n{}", train("")), "'sede'"),
        (format!("[params]\nseed = \"x\"\n{}", train("")), "\"x\""),
        (command("operation.x = 3"), "'operation'"),
        (command("exact = \"mostly\""), "\"mostly\""),
        (command("tolerance = 7.0"), "7.0"),
        (command("watch = \"src\""), "\"src\""),
        ("extends = 3".into(), "3"),
        ("extends = \"digits.toml\"\n[stages.train]\nprams.steps = 3".into(), "'prams'"),
        ("extends = \"digits.toml\"\n[stages.train]\nremove = 1".into(), "1"),
        ("extends = \"digits.toml\"\n[sweep]\n\"train.seed\" = 3".into(), "3"),
        ("extends = \"digits.toml\"\n[sweep]\n\"train.seed\" = []".into(), "[]"),
        ("extends = \"digits.toml\"\n[sweep.random]\n\"train.lr\" = { unifrom = [0, 1] }".into(), "[0,1]"),
        ("extends = \"digits.toml\"\n[sweep.random]\nbudget = 0".into(), "0 is"),
        ("extends = \"digits.toml\"\n[[sweep.trials]]\n\"train.seed\" = 3".into(), "\"name\""),
    ];
    let faults: Vec<(&str, &str)> = faults.iter().map(|(text, at_fault)| (text.as_str(), *at_fault)).collect();
    // What erw refuses, too.
    for (text, _) in &faults {
        space.write("p.toml", text);
        std::fs::copy(root().join("pipelines/digits.toml"), space.path("digits.toml")).unwrap();
        let is_sweep = text.contains("[sweep");
        let said = space.erw(if is_sweep { &["sweep", "p.toml", "--dry-run"] } else { &["plan", "p.toml"] });
        assert_eq!(said.status, 2, "{text}\n{}", said.stdout);
    }
    insta::assert_snapshot!("schema_errors", assert_each_is_named(&space, &schema, &faults));
}

#[test]
fn errors_name_what_is_wrong_in_settings() {
    let (space, schema) = with_schema(&["--settings"]);
    let taken = "profile = \"night\"\n[default]\ncache_dir = \"/x\"\nmem = \"16GiB\"\nresources = { licence = 2 }\n\
                 [night]\njobs = 8\n[night.kinds.train]\ntimeout = \"12h\"\n[night.stages.warmup]\nretries = 2\n\
                 [night.runner]\npartition = \"long\"";
    space.write("erw.toml", taken);
    assert_eq!(taplo::errors(&space.path("erw.toml"), Some(&schema)), [""; 0]);
    let faults = [
        ("[default]\njbos = 8", "'jbos'"),
        ("[night]\njobs = \"many\"", "\"many\""),
        ("[night]\njobs = 0", "0 is"),
        ("[night]\nlauncher = \"slrum\"", "\"slrum\""),
        ("[night]\nmem = \"16 gigabytes\"", "\"16 gigabytes\""),
        ("[night]\nremote = \"bucket\"", "\"bucket\""),
        ("[night.kinds.trian]\nretries = 2", "'trian'"),
        ("[night.kinds.train]\ncache_dir = \"x\"", "'cache_dir'"),
        ("[night.stages.warmup]\nretries = -1", "-1"),
        ("[night.resources]\nlicence = \"two\"", "\"two\""),
        ("jobs = 8", "8"),
    ];
    insta::assert_snapshot!("settings_schema_errors", assert_each_is_named(&space, &schema, &faults));
}
