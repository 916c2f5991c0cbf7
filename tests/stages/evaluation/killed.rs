//! The program is killed during an extraction; the next run resumes and makes the same bytes.

use super::{SIDE, pixels};
use crate::support::deadline::Deadline;
use crate::support::experiment::{Running, digests, ended, events, is, some_digits};
use crate::support::space::{Said, Space};
use erw::ml::viz::picture::write_npz;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PIPELINE: &str = r#"
name = "killed"
[stages.images]
kind = "images"
params = { source = "data/digits", resolution = 8, transform = "resize-bicubic" }
[stages.net]
kind = "train-classifier"
inputs = { images = "images" }
params = { channels = [4, 6], features = 10, norm_num_groups = 2, steps = 2, batch = 8 }
[stages.stats]
kind = "stats"
inputs = { network = "net" }
params = { source = "b.npz" }
[stages.fid]
kind = "fid"
inputs = { samples = "images", reference = "stats", network = "net" }
params = { metrics = ["fid", "precision", "recall", "kid"], kid_subset_size = 50, kid_subsets = 3 }
"#;

#[test]
fn a_killed_extraction_ends_with_the_same_bytes() {
    let space = Space::new(PIPELINE);
    some_digits(&space.path("data/digits"));
    let count = 1500;
    write_npz(&space.path("b.npz"), &pixels("b", count, SIDE), SIDE, SIDE, &vec![0; count]).unwrap();
    let run = |cache: &str| space.command(&["run", "p.toml", "--json", "--cache-dir", cache]);
    let finish = |cache: &str| events(&Said::from(run(cache).finish()).expect(0));
    let calm = finish("calm");

    let mut running = Running::start(run("killed"));
    running.until(|e| is(e, "checkpoint", "stats"));
    kill(Pid::from_raw(running.pid()), Signal::SIGKILL).unwrap();
    assert!(!running.end().success());
    let after = finish("killed");
    let resumed = after.iter().find(|e| is(e, "resumed", "stats")).unwrap();
    assert!(resumed["step"].as_u64().is_some_and(|n| n >= 256 && n % 256 == 0), "{resumed}");
    assert_eq!(digests(&after), digests(&calm));
    // By the digests of what was compared, which the cache calls its artifacts by.
    let end = ended(&after).find(|e| e["stage"] == "fid").unwrap();
    let path = std::path::Path::new(end["outputs"][0]["path"].as_str().unwrap());
    let found = super::metrics(path);
    for (side, stage) in [("samples", "images"), ("reference", "stats")] {
        assert_eq!(found[side], digests(&after)[stage][0].as_str(), "{side}");
    }
}
