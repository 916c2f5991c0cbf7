//! The documents say what the program does: generated pages are current, links lead somewhere,
//! complete pipelines plan, and every command line is one that the program takes.
//!
//! After a change of a help text or a manifest: `ERW_BLESS=1 cargo test --locked docs::`, then read
//! the difference.

use crate::support::space::Space;
use crate::support::taplo;
use erw::cli::{self, reference};
use erw::stages::KINDS;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const BLESS: &str = "ERW_BLESS=1 cargo test --locked docs::";
/// Pages of single folders.
const FOLDERS: [&str; 4] = ["benches/README.md", "cache/README.md", "examples/README.md", "pipelines/data/README.md"];
/// Columns of a line of prose.
const WIDTH: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The pages of the book.
fn pages() -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(root().join("docs")).sort_by_file_name();
    let all = all.into_iter().map(|e| e.expect("a readable folder").into_path());
    let pages: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    assert!(pages.len() > 20, "found {} pages", pages.len());
    pages
}

/// The pages of the book, and those at the top.
fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let others = top.into_iter().chain(FOLDERS);
    pages().into_iter().chain(others.map(|name| root().join(name))).collect()
}

/// Written by [`reference`].
fn is_generated(page: &Path) -> bool {
    page.ends_with("docs/kinds.md") || page.ends_with("docs/commands.md")
}

/// The part of a page outside of fenced blocks, by line; a line in a block is empty.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let line = |line| {
        let fence = str::starts_with(line, "```");
        fenced ^= fence;
        if fenced || fence { "" } else { line }
    };
    text.lines().map(line).collect()
}

/// The fenced blocks of this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let mut parts = text.split("```");
    parts.next();
    // Every second part is a block.
    let blocks = parts.step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter(|(tag, _)| *tag == language).map(|(_, body)| body).collect()
}

#[test]
fn generated_files_are_current() {
    let bless = std::env::var_os("ERW_BLESS").is_some_and(|v| v == "1");
    let kinds = reference::kinds(KINDS).expect("manifests");
    let schema = cli::schema::text(KINDS).expect("manifests");
    let commands = reference::commands(cli::command());
    for (name, current) in
        [("docs/kinds.md", kinds), ("docs/commands.md", commands), ("pipelines/erw.schema.json", schema)]
    {
        let page = root().join(name);
        if bless {
            fs::write(&page, &current).expect("a page");
        }
        assert!(read(&page) == current, "{name} is stale; write it anew with `{BLESS}`");
    }
}

/// Links of a page, as they are written. Those within code are none.
fn links(text: &str) -> Vec<String> {
    let outside = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("``");
    let lines = prose(text).into_iter().map(outside).collect::<Vec<_>>().join("\n");
    let ends = lines.match_indices("](").map(|(at, _)| &lines[at + 2..]);
    ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_string()).collect()
}

/// The anchors of the headings of a page, as GitHub and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|l| l.starts_with('#')).map(|l| l.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|h| h.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn links_lead_somewhere() {
    let docs = root().join("docs").canonicalize().expect("docs");
    let (mut broken, mut checked) = (vec![], 0);
    for document in documents() {
        let text = read(&document);
        for link in links(&text).iter().filter(|l| !l.contains("://")) {
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = document.parent().expect("a folder").join(path);
            let target = if path.is_empty() { document.clone() } else { target };
            let is_there = match target.canonicalize() {
                // In the book a link out of it leads nowhere.
                Ok(real) => real.starts_with(&docs) || !document.starts_with(root().join("docs")),
                Err(_) => false,
            };
            if !is_there || !(anchor.is_empty() || anchors(&read(&target)).contains(anchor)) {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    assert!(checked > 50, "only {checked} links were found");
}

#[test]
fn the_summary_names_every_page() {
    let summary = links(&read(&root().join("docs/SUMMARY.md")));
    let named: BTreeSet<PathBuf> = summary.iter().map(|link| root().join("docs").join(link)).collect();
    let pages: BTreeSet<PathBuf> = pages().into_iter().filter(|p| !p.ends_with("SUMMARY.md")).collect();
    assert_eq!(named, pages);
}

#[test]
fn the_readme_is_short_and_lines_are_not_long() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 120, "README.md has {lines} lines");
    let others = ["CHANGELOG.md", "benches/README.md"].map(|name| root().join(name));
    for document in documents().iter().filter(|d| !is_generated(d) && !others.contains(d)) {
        let text = read(document);
        // Tables and code cannot be wrapped, nor can addresses.
        let wraps = |l: &&str| !l.starts_with("    ") && !l.starts_with('|') && !l.contains("](");
        let long = prose(&text).into_iter().filter(wraps).filter(|l| l.chars().count() > WIDTH);
        let long: Vec<&str> = long.collect();
        assert!(long.is_empty(), "{}: over {WIDTH} columns:\n{}", document.display(), long.join("\n"));
    }
}

/// A block that begins with `# NAME.toml` is a complete pipeline; the others are parts of one.
/// Complete ones may extend each other and the shipped ones.
#[test]
fn pipelines_in_the_documents_plan() {
    let space = Space::new("");
    let shipped = root().join("pipelines");
    for entry in fs::read_dir(&shipped).expect("pipelines").map(|e| e.expect("an entry")) {
        std::os::unix::fs::symlink(entry.path(), space.path(&entry.file_name().to_string_lossy())).expect("a link");
    }
    let mut complete = vec![];
    for document in documents() {
        for block in blocks(&read(&document), "toml") {
            toml::from_str::<toml::Table>(block).unwrap_or_else(|e| panic!("{}: {e}\n{block}", document.display()));
            let first = block.lines().next().unwrap_or_default();
            let name = first.strip_prefix("# ").and_then(|l| l.split([':', ',']).next()).unwrap_or_default();
            if let Some(stem) = name.strip_suffix(".toml") {
                space.write(name, block);
                complete.push((document.clone(), stem.to_string()));
            }
        }
    }
    assert!(complete.len() >= 5, "found {complete:?}");
    let table = |text: &str| toml::from_str::<toml::Table>(text).expect("a pipeline");
    let tour = read(&root().join("examples/tour/tour.toml"));
    assert_eq!(table(&space.read("tour.toml")), table(&tour), "the tour of the book is not that of examples/tour");
    space.write("text.txt", "a few words\n");
    for (document, stem) in complete {
        let file = format!("{stem}.toml");
        let said = space.erw(&["plan", &file]);
        assert_eq!(said.status, 0, "{}: {file}\n{}", document.display(), said.stderr);
        assert_eq!(taplo::errors(&space.path(&file), Some(&shipped.join(cli::schema::FILE))), [""; 0], "{file}");
    }
}

/// Words of a command line as a shell reads them, up to a comment or the next command. Enough of a
/// shell for the documents.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, None) if matches!(c, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            ('#' | ';' | '|' | '>' | '&', None) if word.is_none() => break,
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn command_lines_in_the_documents_are_valid() {
    let mut taken = 0;
    for document in documents() {
        let text = read(&document);
        let shown = blocks(&text, "sh").into_iter().flat_map(str::lines);
        let typed = blocks(&text, "text").into_iter().flat_map(str::lines).filter_map(|l| l.strip_prefix("$ "));
        for line in shown.chain(typed).filter(|l| l.starts_with("erw ")) {
            if let Err(e) = cli::command().try_get_matches_from(words(line)) {
                let asked = matches!(e.kind(), clap::error::ErrorKind::DisplayHelp);
                assert!(asked, "{}: {line}\n{e}", document.display());
            }
            taken += 1;
        }
    }
    assert!(taken > 50, "found only {taken} command lines");
}

#[test]
fn words_are_split_as_by_a_shell() {
    assert_eq!(words("erw a 'b c' --d=\"e f\" # g"), ["erw", "a", "b c", "--d=e f"]);
    assert_eq!(words("erw a >b; erw c"), ["erw", "a"]);
}
