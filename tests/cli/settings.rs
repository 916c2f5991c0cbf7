//! Settings of the system, the user, the project, variables and flags: which one holds, that each
//! does something, what is said about bad ones, and that none of them is in a key.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use erw::runner::settings::keys::KEYS;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// `b` needs `a`; both note that they ran.
const PIPELINE: &str = r#"
name = "kept"
[stages.a]
kind = "command"
run = "echo a >> $TOP/ran; echo a > {outputs.o}"
outputs = { o = "text" }
params = { n = 1 }
[stages.b]
kind = "command"
run = "echo b >> $TOP/ran; cat {inputs.a} > {outputs.o}"
inputs = { a = "a" }
outputs = { o = "text" }
"#;

/// A machine: the files of the system and of the user, and a project, which is a repository.
struct Machine(Space);

impl Machine {
    const SYSTEM: &str = "etc/erw.toml";
    const USER: &str = "config/erw/config.toml";
    const PROJECT: &str = "project/erw.toml";

    fn new(files: &[(&str, &str)]) -> Self {
        let space = Space::of(files);
        if !space.path("project/p.toml").exists() {
            space.write("project/p.toml", PIPELINE);
        }
        fs::create_dir_all(space.path("project/.git")).unwrap();
        fs::create_dir_all(space.path("project/sub/deep")).unwrap();
        Self(space)
    }

    /// In this folder of the machine.
    fn command(&self, folder: &str, args: &[&str]) -> Command {
        let mut command = self.0.command(args);
        command.current_dir(self.0.path(folder)).env("TOP", self.0.path(""));
        command.env("HOME", self.0.path("home")).env("XDG_CONFIG_HOME", self.0.path("config"));
        command.env("ERW_SYSTEM_CONFIG", self.0.path(Self::SYSTEM));
        command
    }

    fn erw(&self, args: &[&str]) -> Said {
        self.erw_with(args, &[])
    }

    /// In the project, with these variables.
    fn erw_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = self.command("project", args);
        command.envs(variables.iter().copied());
        Said::from(command.finish())
    }

    /// Value and origin of a setting.
    fn get(&self, key: &str, more: &[&str], variables: &[(&str, &str)]) -> String {
        let args = [&["config", "get", key, "--show-origin"], more].concat();
        self.0.plain(self.erw_with(&args, variables).expect(0).stdout.trim_end())
    }
}

/// The events of a run with `--json`.
fn events(said: Said) -> Vec<Value> {
    said.expect(0).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(said: Said) -> Vec<(String, String)> {
    let ended = events(said).into_iter().filter(|e| e["event"] == "ended");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let keys: Vec<_> = ended.map(|e| (text(&e["stage"]), text(&e["key"]))).collect();
    assert!(!keys.is_empty());
    keys
}

#[test]
fn the_stronger_layer_holds() {
    let machine = Machine::new(&[]);
    let got = |more: &[&str], variables: &[(&str, &str)]| machine.get("remote", more, variables);
    assert_eq!(got(&[], &[]), "  built in");
    machine.0.write(Machine::SYSTEM, "[default]\nremote = \"s3://system\"\ntrust = [\"/\"]\n");
    assert_eq!(got(&[], &[]), "s3://system  etc/erw.toml:2");
    machine.0.write(Machine::USER, "# mine\n\n[default]\nremote = \"s3://user\"\n");
    assert_eq!(got(&[], &[]), "s3://user  config/erw/config.toml:4");
    machine.0.write(Machine::PROJECT, "[default]\nremote = \"s3://project\"\n");
    assert_eq!(got(&[], &[]), "s3://project  project/erw.toml:2");
    let variable = [("ERW_REMOTE", "s3://variable")];
    assert_eq!(got(&[], &variable), "s3://variable  ERW_REMOTE");
    assert_eq!(got(&["--remote", "s3://flag"], &variable), "s3://flag  --remote");
    // Empty: none, which is something to say.
    assert_eq!(got(&[], &[("ERW_REMOTE", "")]), "  ERW_REMOTE");
    // An empty variable of any other kind is none.
    assert_eq!(machine.get("jobs", &[], &[("ERW_JOBS", "")]), "  built in");
}

#[test]
fn the_projects_file_is_the_nearest_above_the_pipeline() {
    let machine = Machine::new(&[
        ("erw.toml", "[default]\njobs = 1\n"),
        (Machine::PROJECT, "[default]\njobs = 2\n"),
        ("project/sub/erw.toml", "[default]\njobs = 3\n"),
        ("project/sub/p.toml", PIPELINE),
    ]);
    let jobs = |folder: &str, more: &[&str]| {
        let args = [&["config", "get", "jobs"], more].concat();
        Said::from(machine.command(folder, &args).finish()).expect(0).stdout
    };
    assert_eq!(jobs("project", &[]), "2\n");
    assert_eq!(jobs("project/sub/deep", &[]), "3\n", "one file, and not what is above it");
    assert_eq!(jobs("project/sub/deep", &["../../p.toml"]), "2\n", "the pipeline's, not the current folder's");
    assert_eq!(jobs("project/sub/../..", &["project/sub/p.toml"]), "3\n");
    fs::remove_file(machine.0.path(Machine::PROJECT)).unwrap();
    assert_eq!(jobs("project", &[]), "", "a repository is a project of its own");
    // In a folder to which all may write lies what anybody put there.
    machine.0.write("open/erw.toml", "[default]\njobs = 4\n");
    fs::create_dir_all(machine.0.path("open/mine")).unwrap();
    assert_eq!(jobs("open/mine", &[]), "4\n");
    fs::set_permissions(machine.0.path("open"), Permissions::from_mode(0o1777)).unwrap();
    let said = Said::from(machine.command("open/mine", &["config", "get", "jobs"]).finish()).expect(0);
    assert_eq!(said.stdout, "");
    assert!(said.stderr.contains("is not read: everyone may write to its folder"), "{}", said.stderr);
}

#[test]
fn a_profile_is_stronger_than_what_holds_always() {
    let machine = Machine::new(&[
        (Machine::SYSTEM, "[default]\njobs = 1\nthreads = 1\n[gpu]\njobs = 10\nmem = \"1GiB\"\n"),
        (Machine::USER, "[gpu]\nmem = \"2GiB\"\n[cpu]\njobs = 20\n"),
        (Machine::PROJECT, "[default]\njobs = 2\n"),
    ]);
    let got = |key: &str, more: &[&str], variables: &[(&str, &str)]| machine.get(key, more, variables);
    assert_eq!(got("jobs", &[], &[]), "2  project/erw.toml:2");
    assert_eq!(got("jobs", &["--profile", "gpu"], &[]), "10  etc/erw.toml:5", "of whichever file");
    assert_eq!(got("mem", &["--profile", "gpu"], &[]), "2GiB  config/erw/config.toml:2");
    assert_eq!(got("threads", &["--profile", "gpu"], &[]), "1  etc/erw.toml:3");
    assert_eq!(got("jobs", &["--profile", "gpu"], &[("ERW_JOBS", "7")]), "7  ERW_JOBS");
    // Who names the profile.
    let profile = [("ERW_PROFILE", "cpu")];
    assert_eq!(got("jobs", &[], &profile), "20  config/erw/config.toml:4");
    assert_eq!(got("jobs", &["--profile", "gpu"], &profile), "10  etc/erw.toml:5");
    machine.0.write(Machine::PROJECT, "profile = \"gpu\"\n[default]\njobs = 2\n");
    assert_eq!(got("jobs", &[], &[]), "10  etc/erw.toml:5");
    assert_eq!(got("jobs", &[], &profile), "20  config/erw/config.toml:4");
    assert_eq!(got("jobs", &["--profile", "default"], &[]), "2  project/erw.toml:3");
}

/// The error as a person reads it; nothing was made.
fn refused(machine: &Machine, args: &[&str], variables: &[(&str, &str)]) -> String {
    let said = machine.erw_with(args, variables).expect(2);
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    assert!(!machine.0.path("project/cache").exists());
    machine.0.plain(&said.stderr)
}

#[test]
fn mistakes_in_files_are_explained() {
    let bad = [
        ("an unknown setting", "[default]\njobbs = 2\n"),
        ("a setting of a later version", "[gpu]\nwarp_speed = 9\n"),
        ("a hyphen", "[default]\ncache-dir = \"/x\"\n"),
        ("another type", "[default]\njobs = \"many\"\n"),
        ("too few", "[default]\njobs = 0\n"),
        ("too many", "[default]\nthreads = 4294967296\n"),
        ("a word that is none", "[default]\nremote_mode = \"reed\"\n"),
        ("a time without a unit", "[default]\ntimeout = \"12\"\n"),
        ("a number for a size", "[default]\nmem = 16\n"),
        ("no address", "[default]\nremote = \"bucket\"\n"),
        ("an unknown launcher", "[default]\nlauncher = \"slum\"\n"),
        ("a script of one text", "[default]\nsetup = \"module load cuda\"\n"),
        ("two lines", "[default]\npartition = \"a\\nb\"\n"),
        ("a home", "[default]\ncache_dir = \"~/cache\"\n"),
        ("resources that are settings", "[default]\nresources = { gpus = 1 }\n"),
        ("half a licence", "[default]\nresources = { licence = 0.5 }\n"),
        ("a setting in no profile", "jobs = 2\n"),
        ("a table in no profile", "[kinds.fid]\ntimeout = \"2h\"\n"),
        ("a name at the top", "partition = \"gpu\"\n"),
        ("a mistake in a profile that is not chosen", "[default]\njobs = 2\n[gpu]\nthreads = true\n"),
        ("a capital profile", "[GPU]\njobs = 2\n"),
        ("the word of figment", "[global]\njobs = 2\n"),
        ("an unknown kind", "[gpu.kinds.fidd]\ntimeout = \"2h\"\n"),
        ("a setting of a run for a kind", "[gpu.kinds.fid]\njobs = 2\n"),
        ("an unknown setting of a stage", "[default.stages.train]\ntimout = \"2h\"\n"),
        ("a stage that cannot be", "[default.stages.\"train@seed=1\"]\ntimeout = \"2h\"\n"),
        ("an unknown kind that is to run here", "[gpu]\nlocal_kinds = [\"weights\", \"trian\"]\n"),
        ("a setting of stages for a run as a job", "[gpu.runner]\nretries = 2\n"),
        ("an unknown setting of a run as a job", "[gpu.runner]\npartion = \"cpu\"\n"),
        ("a run as a job in no profile", "[runner]\npartition = \"cpu\"\n"),
        ("no TOML", "[default\njobs = 2\n"),
        ("a key twice", "[default]\njobs = 2\njobs = 3\n"),
        ("a profile that is a list", "profile = [\"gpu\"]\n"),
        ("a project that trusts itself", "[default]\ntrust = [\"/\"]\n"),
    ];
    let mut all = String::new();
    for (what, text) in bad {
        let machine = Machine::new(&[(Machine::PROJECT, text)]);
        let said = refused(&machine, &["run", "p.toml"], &[]);
        assert_eq!(refused(&machine, &["log"], &[]), said, "whatever the command");
        all.push_str(&format!("-- {what}\n{said}\n"));
    }
    insta::assert_snapshot!("bad_settings", all);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let machine = Machine::new(&[]);
    let say = |what: &str| format!("-- {what}\n{}\n", refused(&machine, &["run", "p.toml"], &[]));
    let mut all = String::new();
    let file = machine.0.path(Machine::PROJECT);
    fs::create_dir(&file).unwrap();
    all.push_str(&say("a folder"));
    fs::remove_dir(&file).unwrap();
    symlink("gone.toml", &file).unwrap();
    all.push_str(&say("a link to nothing"));
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    all.push_str(&say("a pipe, which nobody fills"));
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"[default]\njobs = \xff\n").unwrap();
    all.push_str(&say("other bytes"));
    insta::assert_snapshot!("unreadable_settings", all);
    // A folder in the place of a folder's parent is a file that is not there.
    fs::remove_file(&file).unwrap();
    machine.0.write("config", "");
    machine.erw(&["config", "list"]).expect(0);
    // As somebody else, where this can be tried.
    if file.parent().unwrap().metadata().unwrap().uid() != 0 {
        machine.0.write(Machine::PROJECT, "");
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        let said = refused(&machine, &["run", "p.toml"], &[]);
        assert!(said.contains("cannot read settings `project/erw.toml`\ncause: Permission denied"), "{said}");
    }
}

#[test]
fn mistakes_in_variables_are_explained() {
    let machine = Machine::new(&[]);
    let bad = [
        ("ERW_JOBS", "0"),
        ("ERW_THREADS", "four"),
        ("ERW_MEM", "16"),
        ("ERW_GPUS", "-1"),
        ("ERW_RESOURCES", "licence"),
        ("ERW_RESOURCES", "mem=3"),
        ("ERW_MAX_LOAD", "high"),
        ("ERW_RETRIES", "1.5"),
        ("ERW_TIMEOUT", "soon"),
        ("ERW_KEEP_GOING", "yes"),
        ("ERW_PLAIN", "2"),
        ("ERW_COLOUR", "blue"),
        ("ERW_LAUNCHER", "slum"),
        ("ERW_REMOTE", "bucket?token=secret"),
        ("ERW_REMOTE_MODE", "rw"),
        ("ERW_TRUST", "relative"),
        ("ERW_PROFILE", "gpu"),
    ];
    let mut all = String::new();
    for (name, value) in bad {
        let said = refused(&machine, &["run", "p.toml"], &[(name, value)]);
        assert!(said.contains(name) && !said.contains("secret"), "{said}");
        all.push_str(&format!("-- {name}\n{said}\n"));
    }
    insta::assert_snapshot!("bad_variables", all);
}

#[test]
fn a_profile_that_is_not_there_is_an_error() {
    let machine = Machine::new(&[(Machine::SYSTEM, "[default]\njobs = 1\n\n[gpu]\njobs = 2\n")]);
    let mut all = format!("-- a flag\n{}\n", refused(&machine, &["run", "p.toml", "--profile", "gpus"], &[]));
    all.push_str(&format!("-- a case\n{}\n", refused(&machine, &["--profile", "GPU", "log"], &[])));
    all.push_str(&format!("-- a variable\n{}\n", refused(&machine, &["log"], &[("ERW_PROFILE", "nothing-like-it")])));
    machine.0.write(Machine::PROJECT, "profile = \"gpuu\"\n");
    all.push_str(&format!("-- a file\n{}\n", refused(&machine, &["run", "p.toml"], &[])));
    insta::assert_snapshot!("unknown_profiles", all);
}

/// Has `a` and `b` run and been cached in this folder?
fn ran_in(machine: &Machine, cache: &str) -> bool {
    machine.0.path(cache).join("v1/actions").exists()
}

#[test]
fn the_projects_cache_is_found_from_every_folder() {
    let machine = Machine::new(&[(Machine::PROJECT, "[default]\ncache_dir = \"made/cache\"\n")]);
    let cached = |folder: &str, args: &[&str]| Said::from(machine.command(folder, args).finish()).expect(0);
    cached("project/sub", &["run", "../p.toml"]);
    assert!(ran_in(&machine, "project/made/cache"), "relative to the file");
    assert_eq!(machine.0.ran(), ["a", "b"]);
    cached("project", &["run", "p.toml"]);
    cached("project/sub/deep", &["plan", "../../p.toml", "--exit-code"]);
    cached("project/..", &["plan", "project/p.toml", "--exit-code"]);
    assert!(machine.0.ran().is_empty());
    for folder in ["project", "project/sub/deep"] {
        assert!(cached(folder, &["log"]).stdout.contains("kept"), "{folder}");
    }
    // What is typed or in a variable counts more, the latter as ever.
    let said = machine.erw_with(&["plan", "p.toml", "--exit-code"], &[("ERW_CACHE_DIR", "other")]);
    said.expect(5);
    machine.erw(&["plan", "p.toml", "--exit-code", "--cache-dir", "other"]).expect(5);
}

#[test]
fn the_default_cache_stands_beside_the_projects_file() {
    // As ever, there being no file: in the current folder, or the nearest above.
    let machine = Machine::new(&[]);
    Said::from(machine.command("project/sub", &["run", "../p.toml"]).finish()).expect(0);
    assert!(ran_in(&machine, "project/sub/cache"));
    // One that is there is found as before.
    machine.0.write(Machine::PROJECT, "");
    machine.0.ran();
    let said = Said::from(machine.command("project/sub/deep", &["run", "../../p.toml"]).finish()).expect(0);
    assert!(machine.0.ran().is_empty() && said.stderr.contains("note: using the cache"), "{}", said.stderr);
    // A new one is the project's.
    let machine = Machine::new(&[(Machine::PROJECT, "")]);
    let said = Said::from(machine.command("project/sub/deep", &["run", "../../p.toml"]).finish()).expect(0);
    assert!(ran_in(&machine, "project/cache") && said.stderr.contains("note: using the cache"), "{}", said.stderr);
    machine.0.ran();
    for folder in ["project", "project/sub"] {
        let file = machine.0.path("project/p.toml");
        Said::from(machine.command(folder, &["run", file.to_str().unwrap()]).finish()).expect(0);
        assert!(Said::from(machine.command(folder, &["log"]).finish()).expect(0).stdout.contains("kept"));
    }
    assert!(machine.0.ran().is_empty());
    let said = machine.erw(&["plan", "p.toml", "--exit-code"]).expect(0).stderr;
    assert!(!said.contains("note"), "nothing to tell: {said}");
}

/// A pipeline that requests things, and two that fail or take long.
const REQUESTS: &str = r#"
[stages.s]
kind = "command"
run = "echo s > {outputs.o}"
outputs = { o = "text" }
resources = { licence = 2, threads = 1 }
"#;
const SLOW: &str = r#"
[stages.slow]
kind = "command"
run = ["sleep", "60"]
outputs = { o = "text" }
"#;
const FAILS: &str = r#"
[stages.fails]
kind = "command"
run = "echo x >> $TOP/ran; exit 1"
outputs = { o = "text" }
backoff = "1ms"
[stages.other]
kind = "command"
run = "echo other >> $TOP/ran; echo o > {outputs.o}"
outputs = { o = "text" }
"#;

#[test]
fn settings_are_the_defaults_of_flags() {
    let machine = Machine::new(&[
        (Machine::USER, "[default]\njobs = 3\nthreads = 2\nmax_load = 1e9\nplain = true\n"),
        ("project/requests.toml", REQUESTS),
        ("project/slow.toml", SLOW),
        ("project/fails.toml", FAILS),
    ]);
    let started = |args: &[&str], variables: &[(&str, &str)]| {
        let args = [&["run", "p.toml", "--json"], args].concat();
        let event = events(machine.erw_with(&args, variables)).remove(0);
        (event["jobs"].as_u64().unwrap(), event["threads"].as_u64().unwrap())
    };
    // Run, then answered by the up-to-date check.
    assert_eq!([started(&[], &[]), started(&[], &[])], [(3, 2); 2]);
    assert_eq!(started(&[], &[("ERW_JOBS", "5")]), (5, 2));
    assert_eq!(started(&["--jobs", "1", "--threads", "1"], &[("ERW_JOBS", "5")]), (1, 1));
    // Resources: too few, enough; of none that is not requested here.
    let set = |text: &str| machine.0.write(Machine::USER, &format!("[default]\n{text}\n"));
    set("resources = { licence = 1, dongle = 1 }");
    let said = machine.erw(&["run", "requests.toml"]).expect(2).stderr;
    assert!(said.contains("stage `s` requests 2 of `licence`, this run has 1"), "{said}");
    machine.erw(&["run", "p.toml"]).expect(0);
    machine.erw_with(&["run", "requests.toml"], &[("ERW_RESOURCES", "licence=2")]).expect(0);
    machine.erw(&["run", "requests.toml", "--force", "s", "--resource", "licence=3"]).expect(0);
    let said = machine.erw(&["run", "requests.toml", "--resource", "dongle=3"]).expect(2).stderr;
    assert!(said.contains("no stage requests the resource `dongle`"), "a flag is meant: {said}");
    // Time.
    set("timeout = \"200ms\"");
    let timed_out = |args: &[&str], variables: &[(&str, &str)], limit: &str| {
        let said = machine.erw_with(&[&["run", "slow.toml"], args].concat(), variables).expect(1).stderr;
        assert!(said.contains(&format!("timeout of {limit} s")), "{said}");
    };
    timed_out(&[], &[], "0.2");
    timed_out(&[], &[("ERW_TIMEOUT", "300ms")], "0.3");
    timed_out(&["--timeout", "400ms"], &[("ERW_TIMEOUT", "300ms")], "0.4");
    // Retries, and what goes on after a failure. One job, so that the order is that of the file.
    let ran = |text: &str, args: &[&str]| {
        set(text);
        machine.erw(&[&["run", "fails.toml", "--force", "other", "-j1"], args].concat()).expect(1);
        let ran = machine.0.ran();
        (ran.iter().filter(|line| *line == "x").count(), ran.iter().any(|line| line == "other"))
    };
    assert_eq!(ran("retries = 2\nkeep_going = true", &[]), (3, true));
    assert_eq!(ran("retries = 2\nkeep_going = true", &["--retries", "1"]), (2, true));
    // Colour.
    let coloured = |text: &str, variables: &[(&str, &str)]| {
        set(text);
        machine.erw_with(&["plan", "gone.toml"], variables).expect(2).stderr.contains("\x1b[")
    };
    assert!(!coloured("", &[]) && coloured("colour = \"always\"", &[]));
    assert!(!coloured("colour = \"always\"", &[("NO_COLOR", "1")]), "a variable is stronger than a file");
    assert!(coloured("", &[("NO_COLOR", "1"), ("ERW_COLOUR", "always")]));
    // Memory and GPUs are limits of what may be requested.
    machine.0.write("project/gpu.toml", &SLOW.replace("outputs", "resources = { gpus = 1 }\noutputs"));
    set("gpus = 0\ntimeout = \"200ms\"");
    timed_out_on(&machine, "gpu.toml");
    set("mem = \"100MiB\"\nthreads = 2\njobs = 2");
    let stage = |name: &str| {
        let run = format!(
            "touch $TOP/on.{name}; sleep 0.5; ls $TOP | grep -c on[.] >> $TOP/ran; rm $TOP/on.{name}; echo > {{outputs.o}}"
        );
        format!(
            "[stages.{name}]\nkind = \"command\"\nrun = \"{run}\"\noutputs = {{ o = \"text\" }}\nresources = {{ threads = 1, mem = \"60MiB\" }}\n"
        )
    };
    machine.0.write("project/mem.toml", &[stage("a"), stage("b")].concat());
    machine.erw(&["run", "mem.toml"]).expect(0);
    assert_eq!(machine.0.ran(), ["1", "1"], "one after the other");
}

/// The stage runs without a GPU, and too long.
fn timed_out_on(machine: &Machine, file: &str) {
    let said = machine.erw(&["run", file]).expect(1).stderr;
    assert!(said.contains("timeout of 0.2 s"), "{said}");
}

#[test]
fn a_stage_is_stronger_than_its_kind_and_a_flag_than_both() {
    let stage = |name: &str, more: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nrun = \"echo {name} >> $TOP/ran; exit 1\"\noutputs = {{ o = \"text\" }}\nbackoff = \"1ms\"\n{more}\n"
        )
    };
    let pipeline = [stage("a", ""), stage("b", ""), stage("c", "retries = 3")].concat();
    let machine = Machine::new(&[
        ("project/many.toml", &pipeline),
        (Machine::SYSTEM, "[default.kinds.command]\nretries = 1\n[gpu.stages.b]\nretries = 2\n"),
    ]);
    let tries = |more: &[&str], variables: &[(&str, &str)]| {
        machine.erw_with(&[&["run", "many.toml", "-k"], more].concat(), variables).expect(1);
        let ran = machine.0.ran();
        ["a", "b", "c"].map(|name| ran.iter().filter(|line| *line == name).count())
    };
    assert_eq!(tries(&[], &[]), [2, 2, 4]);
    assert_eq!(tries(&["--profile", "gpu"], &[]), [2, 3, 4]);
    assert_eq!(tries(&["--profile", "gpu"], &[("ERW_RETRIES", "0")]), [1, 1, 4]);
    assert_eq!(tries(&["--profile", "gpu", "--retries", "0"], &[]), [1, 1, 4]);
    assert_eq!(machine.get("kinds.command.retries", &["--profile", "gpu"], &[]), "1  etc/erw.toml:2");
    assert_eq!(machine.get("stages.b.retries", &["--profile", "gpu"], &[]), "2  etc/erw.toml:4");
    // The stages of a trial have the settings of their stage.
    machine.0.write("project/swept.toml", &(stage("b", "params = { n = 1 }") + "[sweep]\n\"b.n\" = [1, 2]\n"));
    machine.erw(&["sweep", "swept.toml", "--profile", "gpu"]).expect(1);
    assert_eq!(machine.0.ran().len(), 6);
}

#[test]
fn a_remote_of_the_user_is_used_by_every_command_that_has_one() {
    let machine = Machine::new(&[]);
    let remote = machine.0.path("remote");
    let set = |more: &str| {
        machine.0.write(Machine::USER, &format!("[default]\nremote = \"file://{}\"\n{more}", remote.display()));
    };
    let sent = || remote.join("v1").exists() || fs::read_dir(&remote).is_ok_and(|mut all| all.next().is_some());
    set("remote_mode = \"read\"\n");
    fs::create_dir(&remote).unwrap();
    machine.erw(&["run", "p.toml"]).expect(0);
    let said = machine.erw(&["cache", "push"]).expect(2).stderr;
    assert!(said.contains("is read-only") && said.contains("remote_mode"), "{said}");
    assert!(!sent(), "nothing is uploaded");
    set("");
    machine.erw(&["cache", "push"]).expect(0);
    assert!(sent());
    machine.erw(&["cache", "status", "p.toml"]).expect(0);
    let elsewhere = |args: &[&str], cache: &str| machine.erw(&[args, &["--cache-dir", cache]].concat());
    assert!(elsewhere(&["plan", "p.toml"], "one").expect(0).stdout.contains("cached (remote)"));
    machine.0.ran();
    elsewhere(&["run", "p.toml"], "two").expect(0);
    elsewhere(&["cache", "pull", "p.toml"], "four").expect(0);
    assert!(machine.0.ran().is_empty(), "all of it was fetched");
    // Off for one run.
    for off in [&["--remote", ""][..], &["--remote="][..]] {
        assert!(!elsewhere(&[&["plan", "p.toml"], off].concat(), "five").expect(0).stdout.contains("remote"));
    }
    // A remote that cannot be is told with its place.
    machine.0.write(Machine::USER, "[default]\nremote = \"ftp://host\"\n");
    let commands: [&[&str]; 7] = [
        &["run", "p.toml", "--force", "a"],
        &["sweep", "p.toml", "--axis", "a.n=1,2"],
        &["plan", "p.toml"],
        &["export", "p.toml", "a", "out"],
        &["cache", "push"],
        &["cache", "pull", "p.toml"],
        &["cache", "status", "p.toml"],
    ];
    for args in commands {
        let said = machine.0.plain(&machine.erw(args).expect(2).stderr);
        let names = said.contains("`ftp://` is not supported") && said.contains("comes from config/erw/config.toml:2");
        assert!(names, "{args:?}: {said}");
    }
}

#[test]
fn a_projects_remote_and_registry_are_used_only_if_it_is_trusted() {
    let machine = Machine::new(&[]);
    let remote = machine.0.path("remote");
    fs::create_dir(&remote).unwrap();
    let project = format!("[default]\nregistry = \"more.toml\"\nremote = \"file://{}\"\n", remote.display());
    machine.0.write(Machine::PROJECT, &project);
    machine.0.write("project/more.toml", REGISTRY);
    let sent = || fs::read_dir(&remote).is_ok_and(|mut all| all.next().is_some());
    let said = machine.0.plain(&machine.erw(&["run", "p.toml"]).expect(0).stderr);
    insta::assert_snapshot!("untrusted", said.lines().take(4).collect::<Vec<_>>().join("\n"));
    let names_net = |said: Said| said.expect(0).stdout.contains("\"net\"");
    assert!(!sent() && !names_net(machine.erw(&["weights", "list", "--json"])));
    // A value that is stronger anyway is nothing to warn of.
    let said = machine.erw_with(&["config", "list"], &[("ERW_REMOTE", ""), ("ERW_REGISTRY", "/none.toml")]).expect(0);
    assert!(!said.stderr.contains("warning"), "{}", said.stderr);
    // What is weaker holds instead.
    machine.0.write(Machine::USER, "[default]\nremote = \"s3://mine\"\n");
    assert_eq!(machine.get("remote", &[], &[]), "s3://mine  config/erw/config.toml:2");
    // Trusted: by a variable, by the user. Not by a name that begins alike.
    let folder = machine.0.path("project");
    let folder = folder.to_str().unwrap();
    assert!(names_net(machine.erw_with(&["weights", "list", "--json"], &[("ERW_TRUST", folder)])));
    machine.0.write(Machine::USER, &format!("[default]\ntrust = [\"{}\"]\n", &folder[..folder.len() - 1]));
    assert!(!names_net(machine.erw(&["weights", "list", "--json"])));
    machine.0.write(Machine::USER, "[default]\ntrust = [\"../..\"]\n");
    assert!(names_net(machine.erw(&["weights", "list", "--json"])), "relative to the file");
    let said = machine.erw(&["run", "p.toml", "--force", "a", "--force", "b"]).expect(0);
    assert!(sent() && !said.stderr.contains("warning"), "{}", said.stderr);
}

/// A file that is to be had by hand only.
const REGISTRY: &str =
    "[[entry]]\nname = \"net\"\nwhat = \"a net\"\nas = \"vae\"\nlicence = \"MIT\"\nmanual = \"ask\"\n";

#[test]
fn a_password_is_refused_where_others_read_it_and_shown_nowhere() {
    let address = "https://me:hunter2@host/path?token=s3cret";
    let machine = Machine::new(&[(Machine::USER, &format!("[gpu]\nremote = \"{address}\"\n"))]);
    let hidden = |said: &Said| {
        let text = said.stdout.clone() + &said.stderr;
        assert!(!text.contains("hunter2") && !text.contains("s3cret"), "{text}");
        text
    };
    let file = machine.0.path(Machine::USER);
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let said = machine.erw(&["run", "p.toml"]).expect(2);
        let text = machine.0.plain(&hidden(&said));
        assert!(
            text.contains("`remote` in line 2 holds a password") && text.contains(" --> config/erw/config.toml"),
            "{text}"
        );
    }
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let list = machine.erw(&["config", "list", "--profile", "gpu"]).expect(0);
    assert!(hidden(&list).contains("remote = \"https://host/path\""));
    hidden(&machine.erw(&["config", "list", "--json", "--profile", "gpu"]).expect(0));
    hidden(&machine.erw(&["config", "get", "remote", "--profile", "gpu"]).expect(0));
}

#[test]
fn no_setting_is_in_a_key() {
    let machine = Machine::new(&[]);
    let run = |variables: &[(&str, &str)], more: &[&str]| {
        let args = [&["run", "p.toml", "--json"], more].concat();
        keys(machine.erw_with(&args, variables))
    };
    let plain = run(&[], &[]);
    let remote = format!("file://{}", machine.0.path("remote").display());
    let value = |name: &str| match name {
        "cache_dir" => "\"elsewhere\"".to_string(),
        "remote" => format!("\"{remote}\""),
        "remote_mode" => "\"read\"".into(),
        "registry" => "\"more.toml\"".into(),
        "trust" => "[\"/\"]".into(),
        "launcher" => "\"local\"".into(),
        "mem" => "\"1GiB\"".into(),
        "resources" => "{ licence = 2 }".into(),
        "timeout" | "poll" | "latency" | "grace" => "\"1h\"".into(),
        "partition" | "account" | "qos" | "time" | "constraint" | "reservation" => "\"x\"".into(),
        "sbatch" | "setup" => "[\"x\"]".into(),
        "local_kinds" => "[\"fid\"]".into(),
        "mpi" => "\"pmix\"".into(),
        "keep_going" | "plain" => "true".into(),
        "colour" => "\"never\"".into(),
        _ => "2".into(),
    };
    machine.0.write("config/erw/more.toml", REGISTRY);
    machine.0.write("project/more.toml", REGISTRY);
    for key in &KEYS {
        let text = value(key.name);
        let profiles = format!(
            "[default]\n{0} = {text}\n[gpu]\n{0} = {text}\n[gpu.kinds.command]\ntimeout = \"2h\"\n[gpu.stages.a]\nretries = 1\n\
             [gpu.runner]\npartition = \"x\"\n",
            key.name
        );
        machine.0.write(Machine::USER, &profiles);
        // Run anew, so that the key is made and not recalled.
        let anew = ["--force", "a", "--force", "b"];
        assert_eq!(run(&[], &anew), plain, "{}", key.name);
        assert_eq!(run(&[], &[&["--profile", "gpu"][..], &anew].concat()), plain, "{}", key.name);
        fs::remove_file(machine.0.path(Machine::USER)).unwrap();
        let text = match key.name {
            "trust" => "/".to_string(),
            "sbatch" | "setup" => "x".into(),
            "local_kinds" => "fid".into(),
            "resources" => "licence=2".into(),
            _ => text.trim_matches('"').to_string(),
        };
        assert_eq!(run(&[(key.variable, &text)], &anew), plain, "{}", key.variable);
    }
}

#[test]
fn the_up_to_date_check_holds_under_settings_and_asks_for_the_registry() {
    let machine = Machine::new(&[]);
    let memos = || fs::read_dir(machine.0.path("project/cache/v1/memos")).map_or(0, Iterator::count);
    let answered = |said: Said| said.expect(0).stdout.contains("all 2 stages are cached");
    machine.erw(&["run", "p.toml"]).expect(0);
    assert_eq!(memos(), 1);
    machine
        .0
        .write(Machine::USER, "[default]\njobs = 2\nresources = { licence = 1 }\n[default.stages.a]\nretries = 3\n");
    assert!(answered(machine.erw(&["run", "p.toml"])));
    assert_eq!(memos(), 1, "the same question");
    machine.0.write("config/erw/more.toml", REGISTRY);
    machine.0.write(Machine::USER, "[default]\nregistry = \"more.toml\"\n");
    assert!(answered(machine.erw(&["run", "p.toml"])));
    assert_eq!(memos(), 2, "another registry is another question");
    assert!(answered(machine.erw(&["run", "p.toml"])));
    machine.0.write("config/erw/more.toml", &REGISTRY.replace("a net", "a web"));
    assert!(answered(machine.erw(&["run", "p.toml"])));
    assert_eq!(memos(), 3);
}

#[test]
fn a_registry_of_the_settings_reaches_the_worker() {
    let machine = Machine::new(&[(
        "project/net.toml",
        "[stages.net]\nkind = \"weights\"\nparams = { as = \"vae\", name = \"net\" }\n",
    )]);
    machine.0.write("config/erw/more.toml", REGISTRY);
    let said = machine.erw(&["run", "net.toml"]).expect(2).stderr;
    assert!(!said.contains("hint: ask"), "{said}");
    machine.0.write(Machine::USER, "[default]\nregistry = \"more.toml\"\n");
    let said = machine.erw(&["run", "net.toml"]).expect(2).stderr;
    assert!(said.contains("hint: ask"), "{said}");
    // Nobody listens there; it is the worker that finds out.
    let address = "[[entry.from]]\nurl = \"http://127.0.0.1:9/net.safetensors\"\n";
    let listed = REGISTRY.replace("manual", "preset = \"sd-vae\"\nmanual") + address;
    machine.0.write("config/erw/more.toml", &listed);
    let said = machine.erw(&["run", "net.toml"]).expect(1).stderr;
    assert!(said.contains("127.0.0.1:9"), "{said}");
    machine.0.write(Machine::USER, "[default]\nregistry = \"gone.toml\"\n");
    let said = machine.0.plain(&machine.erw(&["weights", "list"]).expect(2).stderr);
    assert!(said.contains("hint: the path comes from config/erw/config.toml:2"), "{said}");
}

#[test]
fn config_shows_all_settings_their_places_and_files() {
    let machine = Machine::new(&[
        (Machine::SYSTEM, "[default]\nresources = { licence = 4 }\n\n[default.kinds.fid]\ntimeout = \"2h\"\n"),
        (Machine::PROJECT, "[default]\ncache_dir = \"cache\"\n[gpu]\nresources = { dongle = 1 }\n"),
    ]);
    let list = |args: &[&str]| {
        let said = machine.erw_with(&[&["config", "list", "--profile", "gpu"], args].concat(), &[("ERW_THREADS", "4")]);
        let text = said.expect(0).stdout.replace(machine.0.path("").to_str().unwrap(), "/");
        // The width of a column is that of a path of this machine.
        let row = |line: &str| {
            line.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>().join(" | ")
        };
        if args == ["--json"] { text } else { text.lines().map(|line| row(line) + "\n").collect() }
    };
    insta::assert_snapshot!("config_list", list(&["--show-origin"]));
    assert!(!list(&[]).contains("erw.toml"));
    let json: Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(json["profile"], "gpu");
    let setting = |key: &str| json["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    let timeout = setting("kinds.fid.timeout");
    assert_eq!((&timeout["value"], &timeout["origin"]["line"]), (&"2h".into(), &5.into()));
    assert_eq!(setting("threads")["origin"]["name"], "ERW_THREADS");
    assert_eq!(setting("jobs")["value"], Value::Null);
    for key in &KEYS {
        let shown = json["settings"].as_array().unwrap();
        assert!(shown.iter().any(|s| s["key"].as_str().unwrap().split('.').next() == Some(key.name)), "{}", key.name);
    }
    let get = |key: &str| machine.erw(&["config", "get", key]).expect(0).stdout;
    assert_eq!(get("resources"), "resources.licence = 4\n");
    assert_eq!([get("resources.licence"), get("jobs"), get("kinds.train")], ["4\n", "", ""]);
    let said = machine.erw(&["config", "get", "jobbs"]).expect(2).stderr;
    assert_eq!(said, "error: no setting `jobbs`\nhint: did you mean `jobs`?\n");
    // Also where a file is broken.
    machine.0.write(Machine::SYSTEM, "[");
    let path = machine.0.plain(&machine.erw(&["config", "path"]).expect(0).stdout);
    insta::assert_snapshot!("config_path", path);
}

#[test]
fn the_schema_has_every_setting() {
    let space = Space::of(&[]);
    let schema: Value = serde_json::from_str(&space.erw(&["schema", "--settings"]).expect(0).stdout).unwrap();
    let profile = &schema["$defs"]["profile"]["properties"];
    for key in &KEYS {
        assert!(profile[key.name]["description"].is_string(), "{}", key.name);
    }
    let of_kind = profile["kinds"]["properties"]["fid"]["properties"].as_object().unwrap();
    let of_stages: Vec<_> = KEYS.iter().filter(|key| key.of_stages).map(|key| key.name).collect();
    assert!(of_stages.contains(&"timeout") && of_stages.contains(&"partition"));
    assert_eq!(of_kind.keys().collect::<Vec<_>>(), of_stages);
}

#[test]
fn every_setting_is_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md")).unwrap();
    for key in &KEYS {
        let row = format!("| `{}` | `{}` |", key.name, key.variable);
        assert!(page.contains(&row), "docs/settings.md has no row {row}");
    }
}
