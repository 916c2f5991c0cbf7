//! Several runners at once on one cache, some of them killed.

use super::{SIDE_BY_SIDE, diamond, digests, undisturbed, wipe};
use crate::support::deadline::Deadline;
use crate::support::dice::Dice;
use crate::support::skip;
use crate::support::space::Said;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn four_runners_share_a_cache_and_two_of_them_are_killed() {
    let mut dice = Dice::new();
    let good = undisturbed();
    let space = diamond();
    for round in 0..12 {
        let mut runners = vec![];
        for _ in 0..4 {
            runners.push(space.start(&SIDE_BY_SIDE));
            dice.wait(Duration::from_millis(60));
        }
        for _ in 0..2 {
            let mut victim = runners.remove(dice.below(runners.len() as u64) as usize);
            let _ = victim.kill();
            victim.wait().unwrap();
            dice.wait(Duration::from_millis(100));
        }
        for runner in runners {
            let said = Said::from(runner.wait_with_output().unwrap());
            assert_eq!(said.status, 0, "round {round}\n{}", said.stderr);
        }
        assert_eq!(digests(&space), good, "round {round}");
        wipe(&space);
    }
}

#[test]
fn gc_and_runs_do_not_interfere() {
    let good = undisturbed();
    let space = diamond();
    for _ in 0..5 {
        let runner = space.start(&SIDE_BY_SIDE);
        for _ in 0..10 {
            let said = space.erw(&["cache", "gc"]);
            assert!(said.status == 0 || said.stderr.contains("a run is using the cache folder"), "{}", said.stderr);
        }
        let said = Said::from(runner.wait_with_output().unwrap());
        assert_eq!(said.status, 0, "{}", said.stderr);
        assert_eq!(digests(&space), good);
        wipe(&space);
    }
}

/// Runners that see themselves as the same process number on hosts of different names, as on two
/// machines with one file system between them: nothing may rest on process numbers, nor on seeing
/// the other's processes.
#[test]
fn runners_of_several_hosts_share_a_cache() {
    const HOST: [&str; 6] = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--kill-child"];
    let may = std::process::Command::new(HOST[0]).args(&HOST[1..]).arg("true").status();
    if !may.is_ok_and(|status| status.success()) {
        return skip("this user cannot make namespaces with `unshare`");
    }
    let mut dice = Dice::new();
    let good = undisturbed();
    let space = diamond();
    let start = |host: &str| {
        let erw = space.command(&[]);
        let mut command = std::process::Command::new(HOST[0]);
        command.args(&HOST[1..]).args(["sh", "-c", "hostname $0; exec \"$@\"", host]).arg(erw.get_program());
        command.args(["run", "p.toml", "--plain"]).args(SIDE_BY_SIDE).current_dir(space.path("."));
        command.env_remove("ERW_CACHE_DIR").env_remove("ERW_REMOTE");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).start()
    };
    for round in 0..6 {
        let mut runners = ["north", "east", "south"].map(|host| {
            dice.wait(Duration::from_millis(60));
            start(host)
        });
        runners[round % 3].kill().unwrap();
        for (i, runner) in runners.into_iter().enumerate() {
            let said = runner.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&said.stderr);
            assert!(i == round % 3 || said.status.success(), "round {round}\n{stderr}");
        }
        assert_eq!(digests(&space), good, "round {round}");
        wipe(&space);
    }
}
