//! `erw man`: a page for each subcommand, that `man` shows without complaint.

use crate::support::deadline::Deadline;
use crate::support::skip;
use crate::support::space::{Said, Space};
use std::collections::BTreeSet;
use std::process::Command;

/// The names of the pages that there must be: of this command, and of those below it that help
/// lists.
fn names(command: &clap::Command, name: &str, all: &mut BTreeSet<String>) {
    all.insert(format!("{name}.1"));
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        names(sub, &format!("{name}-{}", sub.get_name()), all);
    }
}

fn pages(space: &Space) -> BTreeSet<String> {
    let pages = std::fs::read_dir(space.path("share/man1")).expect("pages");
    pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_subcommand_has_a_page_with_its_options() {
    let space = Space::of(&[]);
    space.erw(&["man", "share"]).expect(0);
    let mut expected = BTreeSet::new();
    names(&erw::cli::command(), "erw", &mut expected);
    assert_eq!(pages(&space), expected);
    assert!(expected.contains("erw-cache-gc.1") && !expected.contains("erw-worker.1"), "{expected:?}");
    let page = space.read("share/man1/erw-cache-gc.1");
    assert!(page.contains(r"\-\-max\-size") && page.contains(r"\-\-cache\-dir"), "{page}");

    // Writes over older pages, and says what is in the way.
    space.write("share/man1/erw.1", "old");
    space.erw(&["man", "share"]).expect(0);
    assert!(space.read("share/man1/erw.1").contains("SUBCOMMANDS"));
    space.write("file", "");
    let said = space.erw(&["man", "file"]).expect(2).stderr;
    assert!(said.contains("cannot make the folder `file/man1`"), "{said}");
}

#[test]
fn man_shows_the_pages() {
    let space = Space::of(&[]);
    space.erw(&["man", "share"]).expect(0);
    let show = |page: &str| {
        let mut man = Command::new("man");
        man.args(["--warnings", "--local-file", page]).current_dir(space.path("share/man1"));
        man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").env_remove("MAN_KEEP_FORMATTING");
        Said::from(man.finish()).expect(0)
    };
    if Command::new("man").arg("--version").output().is_err() {
        return skip("man is missing");
    }
    for page in pages(&space) {
        let said = show(&page);
        assert_eq!(said.stderr, "", "{page}");
        assert!(said.stdout.lines().next().is_some_and(|line| line.contains("Manual of erw")), "{page}");
        // What `--version` says about the build, in a second line, is not in there.
        let version = concat!("erw ", env!("CARGO_PKG_VERSION"));
        let last = said.stdout.trim_end().lines().last().unwrap_or_default();
        let name = page.replace(".1", "(1)");
        assert_eq!(last.split_whitespace().collect::<Vec<_>>().join(" "), format!("{version} {name}"));
    }
    let run = show("erw-run.1").stdout;
    assert!(run.contains("\nEXIT CODES\n"), "{run}");
    assert!(run.contains("\n         0    success\n"), "columns are kept: {run}");
    assert!(run.contains("erw(1)"), "{run}");
    let eval = show("erw-eval.1").stdout;
    let sections = ["\nEXAMPLES\n", "\nSAMPLES AND REFERENCE CAN BE\n"];
    assert!(sections.iter().all(|section| eval.contains(section)), "{eval}");
}
