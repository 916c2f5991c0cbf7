//! The map of the house: which room stands on which, read from the sources. Crates are walls that the compiler keeps; this
//! file keeps the rooms inside them, and that no two files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Each crate with its rooms, the top floor first. A room is a file or a folder right below its crate. It may import
/// rooms of its own floor (as long as no circle comes of it) and of those below, no room above.
const MAP: [(&str, &[&[&str]]); 8] = [
    (
        "cli",
        &[
            &["command", "stage_arguments", "setting_defaults", "reference"],
            &["report"],
            &["eval", "cache", "plot", "compare", "verify"],
            &["metrics", "sweep"],
            &[
                "config",
                "completions",
                "run",
                "weights",
                "explain",
                "export",
                "graph",
                "init",
                "jobs",
                "log",
                "logs",
                "show",
                "site",
                "stop",
                "why",
            ],
            &["help", "plan", "stages", "schema", "man", "worker", "version"],
            &["settings_schema", "sweep_schema"],
            &["common"],
        ],
    ),
    ("stages", &[&["planned_memory"], &["training", "sampling", "evaluation", "data"], &["support"]]),
    (
        "runner",
        &[
            &["repro", "journal"],
            &["exec"],
            &["plan"],
            &["cache"],
            &["load_pipeline", "outline"],
            &["sweep"],
            &["pipeline"],
            &["kind"],
            &["event", "settings"],
            &["files", "host", "small_map", "text"],
        ],
    ),
    (
        "ml",
        &[
            &["train", "evaluation"],
            &["gpu"],
            &["models", "metrics"],
            &["diffusion"],
            &["viz"],
            &["data"],
            &["formats"],
            &["nn"],
            &["kernels"],
            &["pieces"],
            &["rng", "one_or_many", "observer", "ranks"],
        ],
    ),
    ("emulator", &[&["matmul"], &["memory"], &["library"]]),
    ("gpu", &[&["card", "self_check"], &["kernels"], &["machine"], &["program", "driver_error"]]),
    ("fetch", &[&["library"], &["download", "hub", "pins"], &["http", "registry"]]),
    ("base", &[&["error", "process", "program"], &["braces", "limits", "svg", "text", "umask"]]),
];

/// Outside crates that a room is to know nothing of.
const STRANGERS: [(&str, &[&str]); 4] = [
    ("runner", &["candle_core", "candle_nn", "indicatif", "erw_ml"]),
    ("ml", &["indicatif", "erw_runner", "erw_fetch", "erw_base::error"]),
    ("fetch", &["candle_core", "indicatif"]),
    ("stages", &["indicatif"]),
];

#[test]
fn no_room_imports_one_above_it() {
    let house = House::read();
    let mut faults = vec![];
    for (wing, floors) in MAP {
        let floor = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));
        for room in house.rooms(wing) {
            if floor(&room).is_none() {
                faults.push(format!("{wing}/{room} is not on the map"));
            }
        }
        for (from, to) in house.imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
            let (Some(a), Some(b)) = (room_of(wing, from), room_of(wing, to)) else { continue };
            if floor(a).zip(floor(b)).is_some_and(|(a, b)| b < a) {
                faults.push(format!("{} imports {}", from.join("/"), to.join("/")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_files_and_no_rooms_import_each_other_in_a_circle() {
    let house = House::read();
    assert!(house.imports.len() > 300, "found the imports of {} files only", house.imports.len());
    let circles: Vec<String> = circles(&house.imports).iter().map(names).collect();
    assert!(circles.is_empty(), "files in circles:\n{}", circles.join("\n"));
    let mut rooms: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (from, all) in &house.imports {
        let room = |file: &[String]| file[..file.len().min(2)].to_vec();
        let others = all.iter().map(|to| room(to)).filter(|to| *to != room(from));
        rooms.entry(room(from)).or_default().extend(others);
    }
    let circles: Vec<String> = self::circles(&rooms).iter().map(names).collect();
    assert!(circles.is_empty(), "rooms in circles:\n{}", circles.join("\n"));
}

#[test]
fn wings_know_nothing_of_strangers() {
    for (wing, strangers) in STRANGERS {
        for (file, code) in sources(wing) {
            for stranger in strangers {
                assert!(!mentions(&code, stranger), "src/{} names {stranger}", file.display());
            }
        }
    }
}

/// What others see of it is a struct, so that it can be replaced.
#[test]
fn figment_is_used_in_one_room() {
    let mut uses = 0;
    for wing in ["base", "fetch", "gpu", "ml", "runner", "stages", "report", "cli"] {
        for (file, _) in sources(wing).into_iter().filter(|(_, code)| mentions(code, "figment")) {
            uses += 1;
            assert!(file.starts_with("runner/settings"), "src/{} names figment", file.display());
        }
    }
    assert!(uses > 0, "nothing uses figment");
}

/// `limits` gives an error where no thread is to be had; these panic.
#[test]
fn threads_are_started_in_one_place() {
    for wing in ["runner", "ml", "stages", "fetch", "report", "cli"] {
        for (file, code) in sources(wing) {
            for start in ["thread::spawn", "scope.spawn", "enable_steady_tick"] {
                assert!(!mentions(&code, start), "src/{} starts a thread by {start}", file.display());
            }
        }
    }
}

/// Whoever doubts a card's memory reads these.
#[test]
fn unsafe_code_of_the_gpu_is_in_two_files() {
    let unsafe_code =
        |code: &str| code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn");
    let files: BTreeSet<PathBuf> =
        sources("gpu").into_iter().filter(|(_, code)| unsafe_code(code)).map(|(file, _)| file).collect();
    assert_eq!(files, BTreeSet::from(["gpu/card/libraries.rs", "gpu/card/mod.rs"].map(PathBuf::from)));
}

#[test]
fn the_scanner_sees_imports() {
    let house = House::of(vec![
        (vec!["a".into()], "pub mod b; mod c; pub use c::D;".into()),
        (vec!["a".into(), "b".into()], "use super::D; fn f() { erw_e::g() }".into()),
        (vec!["a".into(), "c".into()], "use crate::{b::{X, Y as Z}, b}; struct D;".into()),
        (vec!["e".into()], "fn g() {}".into()),
    ]);
    let path = |text: &str| text.split('/').map(String::from).collect::<Vec<_>>();
    let of = |text: &str| house.imports.get(&path(text)).cloned().unwrap_or_default();
    assert_eq!(of("a/b"), BTreeSet::from([path("a/c"), path("e")]), "through what `a` hands on");
    assert_eq!(of("a/c"), BTreeSet::from([path("a/b")]));
    assert_eq!(circles(&house.imports).len(), 1);
}

/// Modules with what each imports; a module's path starts with its wing.
struct House {
    imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
}

impl House {
    fn read() -> Self {
        let wings = ["base", "fetch", "ml", "runner", "stages", "report", "cli"];
        let module = |file: &Path| {
            let parts = file.with_extension("");
            let parts = parts.components().map(|c| c.as_os_str().to_string_lossy().into_owned());
            parts.filter(|part| part != "mod" && part != "lib").collect::<Vec<_>>()
        };
        Self::of(wings.iter().flat_map(|wing| sources(wing)).map(|(file, code)| (module(&file), code)).collect())
    }

    fn of(files: Vec<(Vec<String>, String)>) -> Self {
        let modules: BTreeSet<Vec<String>> = files.iter().map(|(module, _)| module.clone()).collect();
        // What a module hands on under its own name.
        let mut handed: BTreeMap<(Vec<String>, String), Vec<String>> = BTreeMap::new();
        for (module, code) in &files {
            for (public, path, name) in uses(code).0 {
                if public && let Some(path) = absolute(&modules, module, &path) {
                    handed.insert((module.clone(), name), path);
                }
            }
        }
        let mut imports: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for (module, code) in &files {
            let (uses, rest) = uses(code);
            let own = uses.into_iter().filter(|(public, ..)| !public).map(|(_, path, _)| path);
            for path in own.chain(paths(&rest)) {
                let Some(path) = absolute(&modules, module, &path) else { continue };
                let target = owner(&modules, &handed, path);
                if target != *module {
                    imports.entry(module.clone()).or_default().insert(target);
                }
            }
        }
        Self { imports }
    }

    fn rooms(&self, wing: &str) -> BTreeSet<String> {
        let all = self.imports.iter().flat_map(|(from, to)| to.iter().chain([from]));
        all.filter_map(|file| room_of(wing, file).map(String::from)).collect()
    }
}

fn room_of<'a>(wing: &str, file: &'a [String]) -> Option<&'a str> {
    (file.first()? == wing).then(|| file.get(1).map(String::as_str)).flatten()
}

/// The module in which the last name of a path is defined.
fn owner(
    modules: &BTreeSet<Vec<String>>,
    handed: &BTreeMap<(Vec<String>, String), Vec<String>>,
    mut path: Vec<String>,
) -> Vec<String> {
    loop {
        let len = (1..=path.len()).rev().find(|n| modules.contains(&path[..*n])).unwrap_or(1);
        let Some(next) = path.get(len).and_then(|name| handed.get(&(path[..len].to_vec(), name.clone()))) else {
            return path[..len].to_vec();
        };
        path = next.clone();
    }
}

/// A path as written in a module, from the wing on; `None` for one that leads out of the house.
fn absolute(modules: &BTreeSet<Vec<String>>, module: &[String], path: &[String]) -> Option<Vec<String>> {
    let rest = |n: usize| path[n..].iter().cloned();
    let first = path.first()?;
    match first.as_str() {
        "crate" => Some(module[..1].iter().cloned().chain(rest(1)).collect()),
        "self" => Some(module.iter().cloned().chain(rest(1)).collect()),
        "super" => {
            let ups = path.iter().take_while(|p| *p == "super").count();
            (ups < module.len() + 1).then(|| module[..module.len() - ups].iter().cloned().chain(rest(ups)).collect())
        }
        name => {
            let child: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
            match name.strip_prefix("erw_") {
                Some(wing) => Some([wing.to_string()].into_iter().chain(rest(1)).collect()),
                None => modules.contains(&child).then(|| module.iter().cloned().chain(rest(0)).collect()),
            }
        }
    }
}

/// `use` statements (whether public, the path, the name it has here), and the code without them.
fn uses(code: &str) -> (Vec<(bool, Vec<String>, String)>, String) {
    let (mut all, mut rest) = (vec![], String::new());
    let (mut at, mut end) = (0, 0);
    for line in code.split_inclusive([';', '\n', '}']) {
        let stated = line.trim_start();
        let public = stated.starts_with("pub");
        let words = if public { stated.split_once(' ').map_or("", |(_, rest)| rest) } else { stated };
        if at >= end && words.starts_with("use ") {
            let start = at + (line.len() - words.len()) + "use ".len();
            end = code[start..].find(';').map_or(code.len(), |n| start + n + 1);
            let mut leaves = vec![];
            tree(code[start..end].trim_end_matches(';'), &[], &mut leaves);
            all.extend(leaves.into_iter().map(|(path, name)| (public, path, name)));
        }
        at += line.len();
        if at > end {
            rest.push_str(&code[end.max(at - line.len())..at]);
        }
    }
    (all, rest)
}

fn tree(text: &str, prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    let text = text.trim();
    let segments = |t: &str| t.split("::").map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect::<Vec<_>>();
    if let Some(open) = text.find('{') {
        let prefix = [prefix, &segments(&text[..open])].concat();
        let inner = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
        let (mut depth, mut start) = (0, 0);
        for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                if !inner[start..i].trim().is_empty() {
                    tree(&inner[start..i], &prefix, leaves);
                }
                start = i + 1;
            }
        }
        return;
    }
    let (path, alias) = text.split_once(" as ").map_or((text, None), |(p, a)| (p, Some(a.trim().to_string())));
    let mut path = [prefix, &segments(path)].concat();
    if path.last().is_some_and(|p| p == "self" || p == "*") {
        path.pop();
    }
    let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
    leaves.push((path, name));
}

/// Paths in the code that start at a crate, at a parent or at a child.
fn paths(code: &str) -> Vec<Vec<String>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut all = vec![];
    let mut rest = code;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        let chain = rest[start..].find(|c: char| !word(c) && c != ':').map_or(rest.len(), |n| start + n);
        let text = rest[start..chain].trim_end_matches(':');
        if text.contains("::") && !rest[..start].ends_with("::") {
            all.push(text.split("::").map(String::from).collect());
        }
        rest = &rest[chain.max(start + 1)..];
    }
    all
}

/// Sets of two and more that import each other: what is left when all that imports nothing left, and all that nothing left
/// imports, is taken away.
fn circles<T: Ord + Clone>(imports: &BTreeMap<T, BTreeSet<T>>) -> Vec<BTreeSet<T>> {
    let reach = |from: &T| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for to in imports.get(at).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&T, BTreeSet<T>> = imports.keys().map(|from| (from, reach(from))).collect();
    let circle = |from: &T| {
        let mutual = all[from].iter().filter(|to| all.get(to).is_some_and(|back| back.contains(from)));
        mutual.cloned().collect::<BTreeSet<T>>()
    };
    let found: BTreeSet<BTreeSet<T>> = imports.keys().map(circle).filter(|c| c.len() > 1).collect();
    found.into_iter().collect()
}

fn names(circle: &BTreeSet<Vec<String>>) -> String {
    circle.iter().map(|file| file.join("/")).collect::<Vec<_>>().join(", ")
}

/// The files of a wing, without comments, texts and tests.
fn sources(wing: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = walkdir::WalkDir::new(root.join(wing)).into_iter().map(|e| e.expect("a readable tree").into_path());
    let files: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "rs")).collect();
    assert!(!files.is_empty(), "nothing under src/{wing}");
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("a readable source");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = |line: &str| {
            let line = line.split("//").next().unwrap_or("");
            line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
        };
        let code = text.lines().map(code).collect::<Vec<_>>().join("\n");
        (file.strip_prefix(&root).expect("below the sources").to_path_buf(), code)
    };
    files.into_iter().map(read).collect()
}

/// Does this code use the crate or module `name` as a path?
fn mentions(code: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (code[..at].chars().next_back(), code[at + name.len()..].chars().next());
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}
