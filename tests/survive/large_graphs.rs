//! Ten thousand stages in a row. No code may recurse along them; the program gets a small stack, so
//! that recursion overflows.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use std::fmt::Write;
use std::process::Command;

const LENGTH: usize = 10_000;
/// KiB; the usual 8 MiB hold ten thousand frames of many a function.
const STACK: &str = "1024";

fn chain(length: usize, first: &str) -> Space {
    let mut text = String::new();
    for i in 0..length {
        let input = if i > 0 { format!("inputs = {{ x = \"s{}\" }}\n", i - 1) } else { String::new() };
        let run = if i > 0 { "[\"cp\", \"{inputs.x}\", \"{outputs.o}\"]" } else { first };
        writeln!(text, "[stages.s{i}]\nkind = \"command\"\nrun = {run}\noutputs = {{ o = \"text\" }}\nparams = {{ n = {i} }}\n{input}").unwrap();
    }
    Space::new(&text)
}

fn with_small_stack(space: &Space, args: &[&str]) -> Said {
    let erw = space.command(args);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -S -s {STACK}; exec \"$@\""), "sh"]).arg(erw.get_program()).args(args);
    command.current_dir(space.path(".")).env_remove("ERW_CACHE_DIR").stdin(std::process::Stdio::null());
    Said::from(command.finish())
}

#[test]
fn a_chain_of_ten_thousand_stages_is_planned_shown_and_run_in_part() {
    let space = chain(LENGTH, "\"echo x > {outputs.o}\"");
    let last = format!("s{}", LENGTH - 1);
    let plan = with_small_stack(&space, &["plan", "p.toml"]).expect(0).stdout;
    assert!(plan.ends_with("10000 of 10000 stages would run\n"));
    let plan = with_small_stack(&space, &["plan", "p.toml", &last]).expect(0).stdout;
    assert!(plan.ends_with("10000 of 10000 stages would run\n"));
    with_small_stack(&space, &["graph", "p.toml"]).expect(0);
    with_small_stack(&space, &["explain", "p.toml", &last]).expect(0);
    let said = with_small_stack(&space, &["run", "p.toml", "s40", "--plain"]).expect(0);
    assert!(said.stdout.contains("s40"), "{}", said.stdout);
    let plan = with_small_stack(&space, &["plan", "p.toml"]).expect(0).stdout;
    assert!(plan.contains("9959 of 10000 stages would run"));
}

#[test]
fn the_first_of_many_fails_and_all_others_are_skipped() {
    let space = chain(LENGTH, "\"exit 1\"");
    let said = with_small_stack(&space, &["run", "p.toml", "--plain"]).expect(1);
    assert!(said.stderr.contains("s9999: skipped, needs `s9998`"));
    assert!(said.stderr.contains("error: stage `s0`: `sh` exited with status 1"));
}

#[test]
fn a_cycle_of_ten_thousand_stages_is_one_error() {
    let space = chain(LENGTH, "\"echo x > {outputs.o}\"");
    let text =
        space.read("p.toml").replacen("outputs = ", &format!("inputs = {{ x = \"s{}\" }}\noutputs = ", LENGTH - 1), 1);
    space.write("p.toml", &text);
    let said = with_small_stack(&space, &["plan", "p.toml"]).expect(2);
    assert!(said.stderr.starts_with("error: the stages form a cycle: `s0 -> s1 -> s2 -> "));
}

#[test]
fn deep_folders_and_values_are_read_or_refused() {
    let space = Space::new(
        "[stages.s]\nkind = \"command\"\nrun = \"ulimit -S -s 8192; cp -r data {outputs.o}\"\noutputs = { o = \"folder\" }\nwatch = [\"data\"]\n",
    );
    // As deep as a path may be long.
    space.write(&format!("data/{}f", "d/".repeat(1500)), "x");
    with_small_stack(&space, &["run", "p.toml", "--plain"]).expect(0);
    space.erw(&["cache", "verify"]).expect(0);
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    space.write("p.toml", &format!("[params]\nx = {deep}\n"));
    super::clear(&with_small_stack(&space, &["plan", "p.toml"]));
}
