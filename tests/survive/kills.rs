//! The runner, its workers and the programs they run are killed, stopped or interrupted at any
//! moment.

use super::{SIDE_BY_SIDE, diamond, digests, lives, wipe};
use crate::support::dice::Dice;
use crate::support::space::Said;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const MOMENTS: usize = 50;

/// Starts run after run on one cache, lets `strike` do its worst to each at a random moment, and
/// holds whatever comes to its end against a calm run. Returns how many were struck.
fn storm(strike: impl Fn(u32, &mut Dice) -> bool, fine: impl Fn(&Said) -> bool) -> usize {
    let mut dice = Dice::new();
    let calm = diamond();
    let began = Instant::now();
    let good = digests(&calm);
    let span = began.elapsed();
    let space = diamond();
    let mut struck = 0;
    for moment in 0..MOMENTS {
        let child = space.start(&SIDE_BY_SIDE);
        dice.wait(span);
        struck += usize::from(strike(child.id(), &mut dice));
        let said = Said::from(child.wait_with_output().unwrap());
        assert!(said.status == 0 || fine(&said), "moment {moment}: exit code {}\n{}", said.status, said.stderr);
        if said.status == 0 {
            assert_eq!(digests(&space), good, "moment {moment}");
            wipe(&space);
        }
    }
    assert_eq!(digests(&space), good);
    let said = space.run(&SIDE_BY_SIDE).expect(0);
    assert!(said.stdout.contains("all 6 stages are cached"), "{}", said.stdout);
    struck
}

fn send(pid: u32, signal: Signal) -> bool {
    lives(pid) && kill(Pid::from_raw(pid as i32), signal).is_ok()
}

/// Everything that a process has started, and what that has started.
fn offspring(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|c| c.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<u32>>()).collect();
    children.iter().flat_map(|c| [vec![*c], offspring(*c)].concat()).collect()
}

#[test]
fn the_runner_is_killed() {
    let killed = |said: &Said| said.status == -(Signal::SIGKILL as i32);
    assert!(storm(|pid, _| send(pid, Signal::SIGKILL), killed) > 0);
}

#[test]
fn a_worker_or_a_program_is_killed() {
    let strike = |pid: u32, dice: &mut Dice| dice.pick(&offspring(pid)).is_some_and(|p| send(*p, Signal::SIGKILL));
    let failed = |said: &Said| said.status == 1 && said.stderr.contains("error: stage `");
    assert!(storm(strike, failed) > 0);
}

#[test]
fn a_stop_is_asked_for() {
    let strike = |pid: u32, dice: &mut Dice| {
        let signal = [Signal::SIGINT, Signal::SIGTERM][dice.below(2) as usize];
        let sent = send(pid, signal);
        // Some people press it twice.
        if dice.below(3) == 0 {
            dice.wait(Duration::from_millis(100));
            send(pid, signal);
        }
        sent
    };
    // Negative: before the program listened to signals, so before it had begun anything.
    let stopped = |said: &Said| matches!(said.status, 130 | 143 | -2 | -15);
    assert!(storm(strike, stopped) > 0);
}
