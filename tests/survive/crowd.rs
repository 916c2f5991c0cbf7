//! Several runners at once on one cache, some of them killed.

use super::{Dice, SIDE_BY_SIDE, diamond, digests, undisturbed, wipe};
use crate::support::space::Said;
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
fn gc_and_runs_keep_out_of_each_others_way() {
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
