//! A cache shared by a team: results are shared, nothing wrong enters, and a broken remote is one
//! warning.

use crate::support::deadline::Deadline;
use crate::support::http::{self, Server};
use crate::support::s3::{Bucket, Moto, Proxy, refusing};
use crate::support::space::{Said, Space};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

const SECRET: &str = "do-not-tell-anyone";

/// A file, a folder with two equal files, and what needs both.
const TEAM: &str = r#"
name = "team"
[stages.file]
kind = "command"
run = "echo file >> ran; echo contents > {outputs.o}"
outputs = { o = "text" }
[stages.folder]
kind = "command"
run = "echo folder >> ran; mkdir -p {outputs.o}/sub; seq 20000 > {outputs.o}/one; seq 20000 > {outputs.o}/sub/two; seq 200000 > {outputs.o}/three"
outputs = { o = "folder" }
[stages.both]
kind = "command"
run = "echo both >> ran; cat {inputs.a} {inputs.b}/one > {outputs.o}"
inputs = { a = "file", b = "folder" }
outputs = { o = "text" }
"#;

/// Everybody has a folder and a cache of their own.
struct Person {
    space: Space,
    remote: String,
    endpoint: SocketAddr,
}

impl Person {
    fn at(remote: &str, endpoint: SocketAddr) -> Self {
        Self { space: Space::new(TEAM), remote: remote.into(), endpoint }
    }
    /// Of the team that shares this bucket.
    fn of(bucket: &Bucket) -> Self {
        Self::at(&format!("s3://{}/pre/fix", bucket.name), Moto::shared().address)
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut command = http::unconfigured(&self.space, args);
        command.env("ERW_REMOTE", &self.remote).env("AWS_ENDPOINT_URL", format!("http://{}", self.endpoint));
        command.env("AWS_ACCESS_KEY_ID", "me").env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "us-east-1");
        command
    }
    fn erw(&self, args: &[&str]) -> Said {
        Said::from(self.command(args).finish())
    }
    fn run(&self) -> Said {
        self.erw(&["run", "p.toml", "--plain", "--threads", "4"]).expect(0)
    }
    /// Runs, and says which stages did.
    fn ran(&self) -> Vec<String> {
        self.run();
        self.took()
    }
    fn took(&self) -> Vec<String> {
        let mut ran = self.space.ran();
        ran.sort();
        ran
    }
    fn artifacts(&self) -> Vec<String> {
        let name = |p: &std::path::PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        self.space.bucket("store").iter().map(name).collect()
    }
}

fn warnings(said: &Said) -> Vec<&str> {
    said.stderr.lines().filter(|l| l.starts_with("warning")).collect()
}

/// The name of the blob with these bytes.
fn blob(bytes: &[u8]) -> String {
    let digest = blake3::hash(bytes).to_hex();
    format!("v1/blobs/{}/{digest}", &digest[..2])
}

fn numbers(n: u32) -> String {
    (1..=n).map(|i| format!("{i}\n")).collect()
}

fn dead_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn packs(bucket: &Bucket) -> Vec<String> {
    bucket.keys().into_iter().filter(|key| key.contains("/v1/packs/")).collect()
}

/// Names and contents in a pack, without the folders.
fn unpacked(pack: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(pack));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_string();
        let mut contents = vec![];
        entry.read_to_end(&mut contents).unwrap();
        (path.split_once('/').unwrap().1.to_string(), contents)
    });
    entries.collect()
}

fn packed(objects: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
    for (name, contents) in objects {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, format!("some/{name}"), contents.as_slice()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

const ALL: [&str; 3] = ["both", "file", "folder"];

#[test]
fn results_are_shared_through_the_remote() {
    let bucket = Moto::shared().bucket("takes");
    let (ann, bob) = (Person::of(&bucket), Person::of(&bucket));
    assert_eq!(ann.ran(), ALL);
    // Equal files once: `contents`, both sequences, the text of `both`; a tree of the folder; three
    // records; a pack.
    let keys = bucket.keys();
    let count = |part: &str| keys.iter().filter(|k| k.starts_with(&format!("pre/fix/v1/{part}/"))).count();
    assert_eq!((count("blobs"), count("trees"), count("actions"), keys.len()), (4, 1, 3, 9), "{keys:?}");
    for record in ann.space.bucket("actions") {
        let name = record.strip_prefix(ann.space.path("cache")).unwrap().to_str().unwrap();
        assert_eq!(bucket.get(&format!("pre/fix/{name}")), std::fs::read(&record).unwrap());
    }

    let plan = bob.erw(&["plan", "p.toml"]).expect(0).stdout;
    assert_eq!(plan.matches("cached (remote)").count(), 3, "{plan}");
    assert!(bob.artifacts().is_empty(), "a plan fetches nothing");
    let said = bob.run();
    assert!(bob.took().is_empty(), "{}", said.stderr);
    assert!(warnings(&said).is_empty(), "{}", said.stderr);
    assert_eq!(bob.artifacts(), ann.artifacts());
    bob.erw(&["cache", "verify"]).expect(0);
    assert!(bob.erw(&["plan", "p.toml"]).expect(0).stdout.contains("all 3 stages are cached"));
    assert!(!bob.space.path("cache/v1/pulls").read_dir().unwrap().any(|_| true));
}

#[test]
fn large_files_are_uploaded_in_parts() {
    let bucket = Moto::shared().bucket("large");
    let people = [Person::of(&bucket), Person::of(&bucket)];
    for person in &people {
        person.space.write("p.toml", "[stages.s]\nkind = \"command\"\nrun = \"echo s >> ran; seq 2000000 > {outputs.o}\"\noutputs = { o = \"t\" }\n");
    }
    assert_eq!(people[0].ran(), ["s"]);
    assert!(people[1].ran().is_empty());
    assert_eq!(people[0].artifacts(), people[1].artifacts());
    assert_eq!(bucket.get(&format!("pre/fix/{}", blob(numbers(2_000_000).as_bytes()))).len(), 14_888_896);
}

#[test]
fn push_pull_and_status() {
    let bucket = Moto::shared().bucket("where");
    let (ann, bob) = (Person::of(&bucket), Person::of(&bucket));
    let alone = |person: &Person| person.command(&["run", "p.toml", "file"]).env_remove("ERW_REMOTE").finish();
    assert!(alone(&ann).status.success());
    let status = |person: &Person| person.erw(&["cache", "status", "p.toml"]).expect(0).stdout;
    assert_eq!(status(&ann), "file    local  9 B\nfolder  none\nboth    none\n9 B local, 0 B in the remote\n");
    assert_eq!(status(&bob), "file    none\nfolder  none\nboth    none\n0 B local, 0 B in the remote\n");
    let said = bob.erw(&["cache", "pull", "p.toml"]).expect(1);
    assert!(said.stderr.starts_with("error: 3 of 3 stages are not in the remote\n"), "{}", said.stderr);
    let said = ann.erw(&["cache", "push"]).expect(0).stdout;
    assert!(said.starts_with("s3://where/pre/fix: 1 record, sent 2 objects ("), "{said}");
    assert_eq!(ann.erw(&["cache", "push"]).expect(0).stdout, "s3://where/pre/fix: 1 record, nothing to send\n");
    assert!(ann.erw(&["cache", "push", "--again"]).expect(0).stdout.contains("sent 2 objects"));
    assert_eq!(status(&ann), "file    both  9 B\nfolder  none\nboth    none\n9 B local, 9 B in the remote\n");
    assert_eq!(status(&bob), "file    remote  9 B\nfolder  none\nboth    none\n0 B local, 9 B in the remote\n");
    assert_eq!(bob.erw(&["cache", "pull", "p.toml", "file"]).expect(0).stdout, "file  fetched 9 B\n");
    assert_eq!(bob.erw(&["cache", "pull", "p.toml", "file"]).expect(0).stdout, "file  local\n");
    // By stage, and by the digits of a digest.
    ann.run();
    assert!(
        ann.erw(&["cache", "push", "p.toml:both", "p.toml"]).expect(0).stdout.contains("4 records, nothing to send")
    );
    let digits = &ann.artifacts()[0][..10];
    assert!(ann.erw(&["cache", "push", digits]).expect(0).stdout.contains("1 record, nothing to send"));
    let said = Said::from(ann.command(&["cache", "push"]).env_remove("ERW_REMOTE").finish()).expect(2);
    assert_eq!(said.stderr, "error: no remote is given\nhint: use `--remote URL`, or set ERW_REMOTE\n");
}

#[test]
fn the_flag_goes_before_and_after_the_subcommand() {
    let bucket = Moto::shared().bucket("flag");
    let (ann, bob) = (Person::of(&bucket), Person::of(&bucket));
    let run =
        |person: &Person, args: &[&str]| Said::from(person.command(args).env_remove("ERW_REMOTE").finish()).expect(0);
    run(&ann, &["--remote", "s3://flag", "run", "p.toml"]);
    run(&bob, &["run", "p.toml", "--remote", "s3://flag"]);
    assert!(bob.took().is_empty());
    assert!(run(&bob, &["cache", "status", "p.toml", "--remote", "s3://flag"]).stdout.contains("both"));
}

#[test]
fn wrong_bytes_are_refused_and_replaced() {
    let bucket = Moto::shared().bucket("wrong");
    assert_eq!(Person::of(&bucket).ran(), ALL);
    let good = format!("pre/fix/{}", blob(numbers(200_000).as_bytes()));
    let tree = bucket.keys().into_iter().find(|k| k.contains("/trees/")).unwrap();
    let was = (bucket.get(&good), bucket.get(&tree));
    let garbage = vec![b'x'; was.0.len()];
    let cases: [(&str, &[u8], &str); 5] = [
        (&good, &garbage, "its digest differs"),
        (&good, &was.0[..1000], "it has 1000 of 1288895 bytes"),
        (&good, &[&was.0[..], b"more"].concat(), "it has more than 1288895 bytes"),
        (&good, &[], "it has 0 of 1288895 bytes"),
        (&tree, b"{\"format\":1,\"files\":[]}", "it is the list of another artifact"),
    ];
    for (key, bytes, why) in cases {
        bucket.put(key, bytes);
        let bob = Person::of(&bucket);
        let said = bob.run();
        assert_eq!(bob.took(), ["folder"], "{why}: only what cannot be had is computed");
        let name = key.strip_prefix("pre/fix/").unwrap();
        let wanted = format!("warning: ignoring `{name}` of the remote `s3://wrong/pre/fix`: {why}");
        assert_eq!(warnings(&said), [wanted]);
        assert_eq!((bucket.get(&good), bucket.get(&tree)), was, "{why}: the good one is sent in its place");
        bob.erw(&["cache", "verify"]).expect(0);
        assert!(Person::of(&bucket).ran().is_empty());
    }
}

#[test]
fn a_bad_record_is_refused_and_replaced() {
    let bucket = Moto::shared().bucket("record");
    assert_eq!(Person::of(&bucket).ran(), ALL);
    let records: Vec<String> = bucket.keys().into_iter().filter(|k| k.contains("/actions/")).collect();
    let good: Vec<Vec<u8>> = records.iter().map(|k| bucket.get(k)).collect();
    bucket.put(&records[0], &good[0][..good[0].len() / 2]);
    // Good, but of another key.
    bucket.put(&records[1], &good[2]);
    bucket.delete(&packs(&bucket)[0]);
    let bob = Person::of(&bucket);
    let said = bob.run();
    assert_eq!(warnings(&said).len(), 2, "{}", said.stderr);
    assert!(warnings(&said).iter().all(|w| w.ends_with(": it is corrupt")), "{}", said.stderr);
    assert_eq!(bob.took().len(), 2);
    assert!(Person::of(&bucket).ran().is_empty());
}

#[test]
fn missing_objects_are_computed_and_pushed() {
    let bucket = Moto::shared().bucket("gone");
    assert_eq!(Person::of(&bucket).ran(), ALL);
    let key = format!("pre/fix/{}", blob(numbers(200_000).as_bytes()));
    bucket.delete(&key);
    let bob = Person::of(&bucket);
    let said = bob.run();
    assert_eq!(bob.took(), ["folder"]);
    assert!(said.stderr.contains(": a record names it, but it does not exist"), "{}", said.stderr);
    assert!(bucket.keys().contains(&key));
}

/// Small artifacts, with links, modes and folders; and one that is not small.
const SMALL: &str = r#"
name = "small"
[stages.text]
kind = "command"
run = "echo text >> ran; echo contents > {outputs.o}"
outputs = { o = "text" }
[stages.tree]
kind = "command"
run = "echo tree >> ran; mkdir -p {outputs.o}/sub; echo a > {outputs.o}/a; ln -s ../a {outputs.o}/sub/b; chmod +x {outputs.o}/a"
outputs = { o = "folder" }
[stages.one]
kind = "command"
run = "echo one >> ran; mkdir -p {outputs.o}; echo inside > {outputs.o}/x"
outputs = { o = "folder" }
[stages.large]
kind = "command"
run = "echo large >> ran; cat {inputs.x} > /dev/null; seq 20000 > {outputs.o}"
inputs = { x = "text" }
outputs = { o = "text" }
"#;

fn person_with(bucket: &Bucket, pipeline: &str) -> Person {
    let person = Person::of(bucket);
    person.space.write("p.toml", pipeline);
    person
}

#[test]
fn what_is_small_comes_in_one_object() {
    let bucket = Moto::shared().bucket("packs");
    let ann = person_with(&bucket, SMALL);
    assert_eq!(ann.ran().len(), 4);
    let pack = packs(&bucket);
    assert_eq!(pack.len(), 1, "{:?}", bucket.keys());
    // Without anything else but what is large, all is there.
    let large = format!("pre/fix/{}", blob(numbers(20_000).as_bytes()));
    let alone: Vec<(String, Vec<u8>)> = bucket.keys().into_iter().map(|key| (key.clone(), bucket.get(&key))).collect();
    alone.iter().filter(|(key, _)| !pack.contains(key) && *key != large).for_each(|(key, _)| bucket.delete(key));
    let status = person_with(&bucket, SMALL).erw(&["cache", "status", "p.toml"]).expect(0).stdout;
    assert_eq!(status.matches("  remote  ").count(), 4, "{status}");
    let bob = person_with(&bucket, SMALL);
    assert!(warnings(&bob.run()).is_empty());
    assert!(bob.took().is_empty());
    assert_eq!(bob.artifacts(), ann.artifacts());
    bob.erw(&["cache", "verify"]).expect(0);
    // A changed stage takes the place of what it was.
    let objects = unpacked(&bucket.get(&pack[0]));
    bob.space.write("p.toml", &SMALL.replace("echo inside > {outputs.o}/x", "echo other > {outputs.o}/x"));
    assert_eq!(bob.ran(), ["one"]);
    let now = unpacked(&bucket.get(&pack[0]));
    assert_eq!(now.len(), objects.len());
    assert!(now.iter().any(|(_, contents)| contents == b"other\n"));
    let kept = objects.iter().filter(|object| now.contains(object)).count();
    assert!(kept + 3 >= objects.len(), "a record, a file and a list have changed");
}

#[test]
fn a_pack_is_not_believed_and_not_needed() {
    let bucket = Moto::shared().bucket("unpacked");
    let ann = person_with(&bucket, SMALL);
    assert_eq!(ann.ran().len(), 4);
    let [pack] = &packs(&bucket)[..] else { panic!("{:?}", bucket.keys()) };
    let good = bucket.get(pack);
    let objects = unpacked(&good);
    let changed = |change: &dyn Fn(&str, &mut Vec<u8>)| {
        let mut objects = objects.clone();
        objects.iter_mut().for_each(|(name, contents)| change(name, contents));
        packed(&objects)
    };
    let flipped = |part: &'static str| {
        changed(&move |name: &str, contents: &mut Vec<u8>| {
            if name.starts_with(part) {
                contents[0] ^= 1;
            }
        })
    };
    for (bytes, warns) in [
        (good[..good.len() / 2].to_vec(), true),
        (b"no pack".to_vec(), true),
        (vec![], true),
        (packed(&[]), false),
        (flipped("v1/actions/"), false),
        (flipped("v1/blobs/"), false),
        // Records without their artifacts, and the other way round.
        (packed(&objects.iter().filter(|(name, _)| name.contains("actions")).cloned().collect::<Vec<_>>()), false),
        (packed(&objects.iter().filter(|(name, _)| !name.contains("actions")).cloned().collect::<Vec<_>>()), false),
    ] {
        bucket.put(pack, &bytes);
        let bob = person_with(&bucket, SMALL);
        let said = bob.run();
        assert!(bob.took().is_empty(), "{}", said.stderr);
        assert_eq!(bob.artifacts(), ann.artifacts());
        bob.erw(&["cache", "verify"]).expect(0);
        let warned = warnings(&said);
        assert_eq!(warned.len(), usize::from(warns), "{warned:?}");
        assert!(warned.iter().all(|text| text.contains("/packs/") && text.ends_with(": it is corrupt")), "{warned:?}");
    }
    // Whoever fetches from a remote without a pack makes one, but not with the right to read alone.
    bucket.delete(pack);
    let reader = person_with(&bucket, SMALL);
    let said = Said::from(reader.command(&["run", "p.toml"]).env("ERW_REMOTE_MODE", "read").finish()).expect(0);
    assert!(warnings(&said).is_empty() && reader.took().is_empty());
    assert!(packs(&bucket).is_empty());
    assert!(person_with(&bucket, SMALL).ran().is_empty());
    assert_eq!(unpacked(&bucket.get(pack)), objects);
    // `push` makes one, too.
    bucket.delete(pack);
    ann.erw(&["cache", "push"]).expect(0);
    assert_eq!(unpacked(&bucket.get(pack)), objects);
}

#[test]
fn a_lost_artifact_is_pulled_from_the_remote() {
    let bucket = Moto::shared().bucket("lost");
    let ann = Person::of(&bucket);
    ann.ran();
    ann.space.open("cache/v1/store");
    std::fs::remove_dir_all(ann.space.path("cache/v1/store")).unwrap();
    assert!(ann.ran().is_empty());
    std::fs::remove_dir_all(ann.space.path("cache/v1/actions")).unwrap();
    assert!(ann.ran().is_empty());
}

#[test]
fn an_unreachable_remote_is_one_warning() {
    let cases = [(dead_port(), "Connection refused (os error 111)"), (refusing(503), "503 Service Unavailable")];
    for (endpoint, why) in cases {
        let ann = Person::at("s3://any/where", endpoint);
        let said = ann.run();
        assert_eq!(ann.took(), ALL);
        let all = warnings(&said);
        assert_eq!(all.len(), 1, "{}", said.stderr);
        assert!(
            all[0].starts_with("warning: cannot use the remote `s3://any/where`, continuing without it: "),
            "{}",
            all[0]
        );
        assert!(all[0].contains(why), "{}", all[0]);
        let said = ann.erw(&["plan", "p.toml", "--set", "file.inputs={}"]);
        assert_ne!(said.status, 70);
        // Who asks for the remote by name is told in an error.
        let said = ann.erw(&["cache", "push"]).expect(2);
        assert!(said.stderr.starts_with("error: cannot send to the remote `s3://any/where`\n"), "{}", said.stderr);
        let said = Person::at("s3://any/where", endpoint).erw(&["cache", "pull", "p.toml"]).expect(2);
        assert!(said.stderr.starts_with("error: cannot use the remote `s3://any/where`\ncause: "), "{}", said.stderr);
    }
}

#[test]
fn wrong_credentials_and_buckets_are_one_warning() {
    let moto = Moto::start();
    let no_bucket = Person::at("s3://nowhere", moto.address);
    let said = no_bucket.run();
    let wanted = "warning: cannot use the remote `s3://nowhere`, continuing without it: the bucket does not exist";
    assert_eq!(warnings(&said), [wanted]);
    moto.ask("PUT", "/theirs", &[]).unwrap();
    moto.ask("POST", "/moto-api/reset-auth", b"0").unwrap();
    let stranger = Person::at("s3://theirs", moto.address);
    let said = stranger.run();
    assert_eq!(stranger.took(), ALL);
    let wanted =
        "warning: cannot use the remote `s3://theirs`, continuing without it: access denied (InvalidAccessKeyId)";
    assert_eq!(warnings(&said), [wanted]);
}

#[test]
fn a_remote_lost_during_a_run_is_one_warning() {
    let bucket = Moto::shared().bucket("away");
    let proxy = Proxy::before(Moto::shared().address, usize::MAX);
    let ann = Person::at(&format!("s3://{}", bucket.name), proxy.address);
    // The second stage waits until the first is done and the remote is gone.
    let text =
        TEAM.replace("echo both >> ran;", "touch waits; while ! [ -e go ]; do sleep 0.02; done; echo both >> ran;");
    ann.space.write("p.toml", &(text + "[stages.after]\nkind = \"command\"\nrun = \"cp {inputs.x} {outputs.o}\"\ninputs = { x = \"both\" }\noutputs = { o = \"text\" }\n"));
    let mut run = ann.command(&["run", "p.toml", "--plain"]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).start();
    ann.space.until("the stage", || ann.space.path("waits").exists());
    proxy.cut_after(0);
    ann.space.write("go", "");
    let said = Said::from(run.wait_with_output().unwrap()).expect(0);
    assert_eq!(warnings(&said).len(), 1, "{}", said.stderr);
    assert_eq!(ann.took(), ALL);
}

#[test]
fn refused_objects_count_as_absent() {
    let ann = Person::at("s3://closed", refusing(403));
    let said = ann.run();
    assert_eq!(ann.took(), ALL);
    let [one] = warnings(&said)[..] else { panic!("{}", said.stderr) };
    assert!(one.starts_with("warning: the remote `s3://closed` denies access to `v1/"), "{one}");
    assert!(
        one.contains("; denied objects count as absent (S3 denies absent objects to accounts that may not list"),
        "{one}"
    );
}

#[test]
fn a_cut_pull_resumes() {
    let bucket = Moto::shared().bucket("cut");
    let ann = Person::of(&bucket);
    ann.ran();
    // Enough for the smaller file and not for the larger, however often it is tried.
    let proxy = Proxy::before(Moto::shared().address, 140_000);
    let bob = Person::at("s3://cut/pre/fix", proxy.address);
    std::fs::remove_file(bob.space.path("ran")).ok();
    bob.erw(&["cache", "pull", "p.toml", "folder"]);
    let part = bob.space.path("cache/v1/pulls");
    let here = || walkdir::WalkDir::new(&part).into_iter().flatten().filter(|e| e.file_type().is_file()).count();
    let before = here();
    proxy.cut_after(usize::MAX);
    proxy.passed();
    bob.erw(&["cache", "pull", "p.toml", "folder"]).expect(0);
    let (one, three) = (numbers(20_000).len(), numbers(200_000).len());
    assert!(before >= 2, "both copies of the smaller file are here");
    let passed = proxy.passed();
    assert!((three..three + one).contains(&passed), "{passed} bytes for what was lacking, {three}");
    assert!(bob.artifacts().iter().all(|a| ann.artifacts().contains(a)));
    bob.erw(&["cache", "verify"]).expect(0);
}

#[test]
fn two_runs_may_pull_the_same_at_once() {
    let bucket = Moto::shared().bucket("twice");
    let ann = Person::of(&bucket);
    ann.ran();
    let bob = Person::of(&bucket);
    let args = ["run", "p.toml", "--plain"];
    let mut runs: Vec<_> =
        (0..3).map(|_| bob.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).start()).collect();
    runs.iter_mut().for_each(|run| assert!(run.wait().unwrap().success()));
    assert!(bob.took().is_empty());
    assert_eq!(bob.artifacts(), ann.artifacts());
    bob.erw(&["cache", "verify"]).expect(0);
}

#[test]
fn a_folder_is_a_remote() {
    let shared = Space::of(&[]);
    let url = format!("file://{}", shared.path("team").display());
    let person = || Person::at(&url, dead_port());
    let ann = person();
    // Read only: nothing is sent, not even the folder is made.
    let said =
        Said::from(person().command(&["run", "p.toml", "file"]).env("ERW_REMOTE_MODE", "read").finish()).expect(0);
    let warning = format!("warning: cannot use the remote `{url}`, continuing without it: ");
    assert_eq!(said.stderr.matches(&warning).count(), 1, "{}", said.stderr);
    assert!(!shared.path("team").exists());
    assert_eq!(ann.ran(), ALL);
    let bob = person();
    assert!(bob.ran().is_empty());
    let read = |args: &[&str]| Said::from(bob.command(args).env("ERW_REMOTE_MODE", "read").finish());
    let files = || walkdir::WalkDir::new(shared.path("team")).into_iter().flatten().count();
    let before = files();
    read(&["run", "p.toml", "--force", "file"]).expect(0);
    assert_eq!(files(), before);
    let said = read(&["cache", "push"]).expect(2);
    assert!(said.stderr.starts_with(&format!("error: the remote `{url}` is read-only\n")), "{}", said.stderr);
}

#[test]
fn a_cache_is_not_its_own_remote() {
    let ann = Person::at("", dead_port());
    ann.run();
    let url = format!("file://{}", ann.space.path("cache").display());
    for args in [&["run", "p.toml"][..], &["plan", "p.toml"], &["cache", "push"]] {
        let said = ann.erw(&[args, &["--remote", &url]].concat()).expect(2);
        assert!(said.stderr.starts_with("error: the remote is the cache folder itself\n"), "{}", said.stderr);
    }
}

#[test]
fn a_stop_does_not_wait_for_the_remote() {
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let ann = Person::at("s3://any", silent.local_addr().unwrap());
    let mut run = ann.command(&["run", "p.toml", "--plain"]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).start();
    let (_asked, _) = silent.accept().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.id() as i32), nix::sys::signal::SIGINT).unwrap();
    let said = Said::from(run.wait_with_output().unwrap()).expect(130);
    assert!(warnings(&said).is_empty(), "it was given up, not waited for: {}", said.stderr);
    assert!(ann.took().is_empty());
}

#[test]
fn a_web_server_is_a_read_only_remote() {
    let shared = Space::of(&[]);
    let folder = shared.path("team");
    assert_eq!(Person::at(&format!("file://{}", folder.display()), dead_port()).ran(), ALL);
    let server = Server::start();
    serve(&server, &folder);
    let bob = Person::at(&server.url("/team"), dead_port());
    assert!(bob.ran().is_empty());
    let said = bob.erw(&["cache", "push"]).expect(2);
    assert!(said.stderr.contains(" is read-only\n"), "{}", said.stderr);
    let said = Said::from(bob.command(&["run", "p.toml"]).env("ERW_REMOTE_MODE", "write").finish()).expect(2);
    assert!(said.stderr.contains("cause: a web server is read-only\n"), "{}", said.stderr);
}

fn serve(server: &Server, folder: &Path) {
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten().filter(|e| e.file_type().is_file()) {
        let name = entry.path().strip_prefix(folder).unwrap().display().to_string();
        server.put(&format!("/team/{name}"), &std::fs::read(entry.path()).unwrap());
    }
}

#[test]
fn invalid_addresses_are_errors() {
    let ann = Person::at("", dead_port());
    for (address, why) in [
        ("team", "it is not a valid URL"),
        ("ftp://team/x", "`ftp://` is not supported"),
        ("file://team/x", "it is not an absolute path: file:///FOLDER"),
        ("s3:///x", "it names no bucket"),
    ] {
        let said = ann.erw(&["plan", "p.toml", "--remote", address]).expect(2);
        let wanted =
            format!("error: cannot use the remote `{address}`\ncause: {why}\nhint: remotes are file:///FOLDER, ");
        assert!(said.stderr.starts_with(&wanted), "{}", said.stderr);
    }
    let said = Said::from(ann.command(&["plan", "p.toml", "--remote", "s3://x"]).env("ERW_REMOTE_MODE", "rw").finish());
    assert_eq!(said.expect(2).stderr, "error: ERW_REMOTE_MODE is `rw`\nhint: it must be `read` or `write`\n");
}

#[test]
fn secrets_are_never_printed_or_stored() {
    let with_password = format!("http://me:{SECRET}@{}/team?token={SECRET}", dead_port());
    let ann = Person::at(&with_password, dead_port());
    let mut all = vec![ann.run(), ann.erw(&["cache", "pull", "p.toml"]), ann.erw(&["run", "--help"])];
    all.push(Person::at("s3://any", dead_port()).run());
    for said in &all {
        assert!(!said.stderr.contains(SECRET) && !said.stdout.contains(SECRET), "{}{}", said.stdout, said.stderr);
    }
    for entry in
        walkdir::WalkDir::new(ann.space.path("cache")).into_iter().flatten().filter(|e| e.file_type().is_file())
    {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(SECRET), "{}", entry.path().display());
    }
    let said = ann.erw(&["run", "p.toml", "--remote", &with_password]).expect(2);
    assert!(
        said.stderr.starts_with("error: the address of the remote holds a password or a token\n"),
        "{}",
        said.stderr
    );
    assert!(!said.stderr.contains(SECRET));
}
