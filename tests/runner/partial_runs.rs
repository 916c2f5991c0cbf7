//! A change of a large pipeline of which only a part is read: the same as if all of it were. Two
//! folders get the same changes; in one of them the stored answer is removed before every run, so that
//! it reads everything.

use crate::support::space::{Said, Space};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Cached stages of larger pipelines are counted.
const STAGES: usize = 210;

struct Both {
    /// Has a stored answer.
    part: Space,
    whole: Space,
}

/// Programs with a watched file and a parameter each, in chains of three; the first reads the images of
/// a kind; the last all of them.
fn pipeline() -> String {
    let mut text = String::from("name = \"large\"\n\n[params]\nresolution = 2\n\n");
    text += "[stages.set]\nkind = \"images\"\nparams = { source = \"set\", transform = \"none\" }\n\n";
    for i in 0..STAGES {
        let (reads, input) = match i {
            0 => ("ls {inputs.x} | wc -l", "inputs = { x = \"set\" }\n".to_string()),
            _ if i % 3 == 0 => ("true", String::new()),
            _ => ("cat {inputs.x}", format!("inputs = {{ x = \"s{}\" }}\n", i - 1)),
        };
        text += &format!(
            "# Stage {i}.\n[stages.s{i}]\nkind = \"command\"\n\
             run = \"\"\"\necho s{i} >> ran\n{reads} > {{outputs.o}}\ncat f{i} >> {{outputs.o}}\necho {{params.p}} >> {{outputs.o}}\"\"\"\n\
             {input}outputs = {{ o = \"text\" }}\nwatch = [\"f{i}\"]\n\n[stages.s{i}.params]\np = {i}\n\n"
        );
    }
    let inputs: String = (0..STAGES).map(|i| format!("x{i} = \"s{i}\"\n")).collect();
    let words: String = (0..STAGES).map(|i| format!(" {{inputs.x{i}}}")).collect();
    text + &format!(
        "[stages.all]\nkind = \"command\"\nrun = \"echo all >> ran; cat{words} > {{outputs.o}}\"\noutputs = {{ o = \"text\" }}\n\n\
         [stages.all.inputs]\n{inputs}"
    )
}

/// Has run the pipeline.
fn large() -> Space {
    let space = Space::new(&pipeline());
    (0..STAGES).for_each(|i| space.write(&format!("f{i}"), &format!("file {i}\n")));
    std::fs::create_dir_all(space.path("set/a")).unwrap();
    image::RgbImage::from_pixel(2, 2, image::Rgb([9; 3])).save(space.path("set/a/x.png")).unwrap();
    space.run(&[]).expect(0);
    space.ran();
    space
}

impl Both {
    fn new() -> Self {
        Self { part: large(), whole: large() }
    }

    fn each(&self, change: impl Fn(&Space)) {
        [&self.part, &self.whole].into_iter().for_each(change);
    }

    fn replace(&self, old: &str, new: &str) {
        self.each(|space| {
            let text = space.read("p.toml");
            assert!(text.contains(old), "{old}");
            space.write("p.toml", &text.replacen(old, new, 1));
        });
    }

    /// Runs both. Returns the stages that were not looked at, if a part was read, and those that ran.
    #[track_caller]
    fn run(&self) -> (Option<u64>, Vec<String>, i32) {
        self.plan();
        let _ = std::fs::remove_dir_all(self.whole.path("cache/v1/memos"));
        let run = |space: &Space| space.erw(&["run", "p.toml", "--json"]);
        let (part, whole) = (run(&self.part), run(&self.whole));
        assert_eq!(part.status, whole.status, "{}\n{}", part.stderr, whole.stderr);
        let ran = |space: &Space| {
            let mut ran = space.ran();
            ran.sort();
            ran
        };
        let stages = ran(&self.part);
        assert_eq!(stages, ran(&self.whole));
        assert_eq!(started(&self.part, &part), started(&self.whole, &whole));
        assert_eq!(ended(&part), ended(&whole));
        let errors = |space: &Space, said: &Said| space.plain(&said.stderr);
        assert_eq!(errors(&self.part, &part), errors(&self.whole, &whole));
        assert_eq!(self.stored(&self.part), self.stored(&self.whole));
        assert_eq!(settled(&whole), None);
        self.plan();
        (settled(&part), stages, part.status)
    }

    /// A plan is told from a stored answer, too.
    #[track_caller]
    fn plan(&self) {
        let _ = std::fs::remove_dir_all(self.whole.path("cache/v1/memos"));
        let plan = |space: &Space| {
            let said = space.erw(&["plan", "p.toml", "--exit-code"]);
            (said.status, timeless(&space.plain(&said.stdout)), space.plain(&said.stderr))
        };
        assert_eq!(plan(&self.part), plan(&self.whole));
    }

    /// Names of the artifacts, and of the records with the properties of their inputs.
    fn stored(&self, space: &Space) -> BTreeMap<String, String> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
        let given = |path: &Path| {
            let record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            format!("{} {}", record["record"]["stage"], record["record"]["given"])
        };
        let records = space.bucket("actions").into_iter().map(|path| (name(&path), given(&path)));
        records.chain(space.bucket("store").iter().map(|path| (name(path), String::new()))).collect()
    }

    /// A run of what should be part of it, and then of nothing.
    #[track_caller]
    fn runs(&self, stages: &[&str]) {
        let (settled, ran, status) = self.run();
        assert_eq!((ran, status), (stages.iter().map(ToString::to_string).collect(), 0));
        assert!(settled.is_some_and(|n| n > STAGES as u64 / 2), "{settled:?}");
        self.is_done();
    }

    /// The next run finds the stored answer.
    #[track_caller]
    fn is_done(&self) {
        let said = self.part.run(&[]).expect(0);
        assert_eq!(said.stdout, format!("all {} stages are cached\n", STAGES + 2));
        assert_eq!(said.stderr, "", "the answer was stored");
    }
}

#[test]
fn a_plan_with_nothing_to_do_reads_no_record() {
    let space = large();
    // Damaged, with size, time and inode as they were: only who reads it sees that.
    let record = &space.bucket("actions")[0];
    let (bytes, metadata) = (std::fs::read(record).unwrap(), std::fs::metadata(record).unwrap());
    std::fs::set_permissions(record, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut file = std::fs::File::options().write(true).open(record).unwrap();
    file.write_all(&vec![b' '; bytes.len()]).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    let all = format!("all {} stages are cached\n", STAGES + 2);
    let plan = |more: &[&str]| space.erw(&[&["plan", "p.toml"], more].concat()).expect(0).stdout;
    assert!(plan(&[]).ends_with(&all));
    assert!(!plan(&["--format", "markdown"]).ends_with(&all), "the others read all");
    // What a plan refuses, it refuses all the same.
    for more in [["--remote", "bogus://x"], ["--force", "s1x"]] {
        space.erw(&[&["plan", "p.toml"], &more[..]].concat()).expect(2);
    }
    // It is told of what has changed.
    space.write("f7", "other\n");
    let told = plan(&[]);
    assert!(told.contains("would run") && !told.contains("damaged"), "{told}");
    assert!(plan(&["--format", "markdown"]).contains("damaged"), "the others read all");
}

/// A plan without its estimates.
fn timeless(plan: &str) -> String {
    let line = |line: &str| {
        let line = line.split("; estimated time").next().unwrap();
        let words = line.split_whitespace().scan(false, |is_unit, word| {
            let is_time = word.starts_with('~') || *is_unit;
            *is_unit = word.starts_with('~');
            Some(if is_time { "" } else { word })
        });
        words.collect::<Vec<_>>().join(" ")
    };
    plan.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn events(said: &Said) -> Vec<serde_json::Value> {
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many stages a run did not look at: it tells of their end, and not of how it came to that.
fn settled(said: &Said) -> Option<u64> {
    let events = events(said);
    let names = |what: &str| -> BTreeSet<String> {
        events.iter().filter(|e| e["event"] == what).map(|e| e["stage"].to_string()).collect()
    };
    let settled = names("ended").difference(&names("state")).count() as u64;
    (settled > 0).then_some(settled)
}

/// The final state of each stage, in order of names.
fn ended(said: &Said) -> BTreeMap<String, String> {
    let events = events(said).into_iter().filter(|e| e["event"] == "ended");
    events.map(|e| (e["stage"].to_string(), format!("{} {} {}", e["state"], e["key"], e["error"]["message"]))).collect()
}

/// What ran and why, in order of names.
fn started(space: &Space, said: &Said) -> BTreeMap<String, String> {
    let started = events(said).into_iter().filter(|e| e["event"] == "started");
    started.map(|e| (e["stage"].to_string(), space.plain(&format!("{} {}", e["key"], e["reasons"])))).collect()
}

#[test]
fn a_change_runs_what_depends_on_it() {
    let both = Both::new();
    both.is_done();
    both.replace("\np = 100\n", "\np = 7100\n");
    both.runs(&["all", "s100", "s101"]);
    // The same again: what was known before is found, and its dependents.
    both.replace("\np = 7100\n", "\np = 100\n");
    both.runs(&[]);
    // A watched file; a record; an artifact.
    both.each(|space| space.write("f30", "another file 30\n"));
    both.runs(&["all", "s30", "s31", "s32"]);
    // Of a stage that reads the artifact of a kind, whose properties its record has.
    both.replace("\np = 0\n", "\np = 70\n");
    both.runs(&["all", "s0", "s1", "s2"]);
    // Words that change nothing.
    both.replace("# Stage 50.\n", "# The fiftieth stage.\n");
    both.runs(&[]);
    both.replace("watch = [\"f60\"]\n", "watch = [\"f60\"]\nresources = { threads = 1 }\n");
    both.runs(&[]);
    // Several at once.
    both.replace("\np = 20\n", "\np = 720\n");
    both.replace("\np = 200\n", "\np = 7200\n");
    both.each(|space| space.write("f110", "another file 110\n"));
    both.runs(&["all", "s110", "s20", "s200"]);
}

#[test]
fn what_is_lost_is_made_again() {
    let both = Both::new();
    for (bucket, stages) in [("actions", &["s77"][..]), ("store", &["s77"])] {
        both.each(|space| {
            let lost = space
                .bucket("actions")
                .into_iter()
                .find(|path| std::fs::read_to_string(path).unwrap().contains("\"stage\":\"s77\""));
            let record = lost.unwrap();
            let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
            let digest = text["record"]["outputs"]["o"]["measured"]["digest"].as_str().unwrap().to_string();
            let artifact = space.bucket("store").into_iter().find(|path| path.ends_with(&digest)).unwrap();
            std::fs::remove_file(if bucket == "actions" { record } else { artifact }).unwrap();
        });
        both.runs(stages);
    }
}

#[test]
fn what_cannot_be_read_in_part_is_read_whole() {
    let both = Both::new();
    let goes = |old: &str, new: &str, back: bool| {
        both.replace(old, new);
        let (settled, _, status) = both.run();
        assert_eq!(settled, None, "{new}");
        if back {
            assert_ne!(status, 0, "{new}");
            both.replace(new, old);
        } else {
            assert_eq!(status, 0, "{new}");
            both.is_done();
        }
    };
    goes("name = \"large\"", "name = \"larger\"", false);
    goes("resolution = 2", "resolution = 2 # pixels", false);
    // Errors are those of the whole.
    goes("\np = 90\n", "\np = \n", true);
    goes("\np = 90\n", "\np = 90\np = 91\n", true);
    goes("inputs = { x = \"s90\" }", "inputs = { x = \"s9O\" }", true);
    goes("inputs = { x = \"s90\" }", "inputs = { y = \"s90\" }", true);
    goes("inputs = { x = \"s90\" }", "inputs = { x = \"s92\" }", true);
    goes("[stages.s90]\nkind = \"command\"", "[stages.s90]\nkind = \"comand\"", true);
    goes("watch = [\"f90\"]", "watch = [\"f90\"]\nwhatever = 1", true);
    goes("echo s90 >> ran\n", "echo s90 >> ran\"\"\"\n", true);
    goes("transform = \"none\"", "transform = \"some\"", true);
    let new = "[stages.new]\nkind = \"command\"\nrun = \"echo new > {outputs.o}\"\noutputs = { o = \"text\" }\n";
    both.replace("# Stage 9.\n", new);
    assert_eq!(both.run(), (None, vec![], 0));
    both.replace(new, "");
    assert_eq!(both.run(), (None, vec![], 0));
    both.is_done();
}

/// Another graph is run in part, and the order of its stages is found by the next run.
#[test]
fn an_edge_that_moves_is_followed() {
    let both = Both::new();
    both.replace("inputs = { x = \"s100\" }", "inputs = { x = \"s150\" }");
    let (settled, ran, status) = both.run();
    assert_eq!((ran, status), (vec!["all".to_string(), "s101".to_string()], 0));
    assert!(settled.is_some());
    both.part.run(&[]).expect(0);
    both.is_done();
    both.replace("\np = 150\n", "\np = 7150\n");
    both.runs(&["all", "s101", "s150", "s151", "s152"]);
}

/// What is damaged on disk and not looked at: found when a program is about to read it.
#[test]
fn a_damaged_input_is_made_again() {
    let both = Both::new();
    both.each(|space| {
        let lost = space
            .bucket("store")
            .into_iter()
            .find(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("file 77\n")));
        let path = lost.unwrap();
        let old = std::fs::metadata(&path).unwrap().modified().unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace("file 77", "file 78");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
    });
    both.replace("\np = 208\n", "\np = 7208\n");
    let said = both.part.run(&[]).expect(0);
    assert!(said.stderr.contains("is damaged"), "{}", said.stderr);
    both.whole.run(&[]).expect(0);
    assert_eq!(both.stored(&both.part), both.stored(&both.whole));
    both.is_done();
    // The part that found it is no failed run.
    let log = both.part.erw(&["log"]).expect(0).stdout;
    assert!(!log.contains("failed"), "{log}");
}
