//! What an artifact consists of: files with their bytes and executable bit, empty folders, and
//! links that stay inside. Equal in the store, a remote, an export and a second run, in whatever
//! order it is made.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space, unprivileged};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A stage for each kind of entry, and stages that rely on it.
const KINDS: &str = r#"
name = "kinds"
[stages.tool]
kind = "command"
run = "echo tool >> ran; printf '#!/bin/sh\\necho hi\\n' > {outputs.o}; chmod 750 {outputs.o}"
outputs = { o = "program" }
[stages.tools]
kind = "command"
run = "echo tools >> ran; mkdir {outputs.o}; printf '#!/bin/sh\\necho hi\\n' | tee {outputs.o}/a > {outputs.o}/b; chmod +x {outputs.o}/a"
outputs = { o = "folder" }
[stages.empty]
kind = "command"
run = "echo empty >> ran; mkdir -p {outputs.o}/full {outputs.o}/e1 {outputs.o}/e2/deeper; echo x > {outputs.o}/full/f"
outputs = { o = "folder" }
[stages.hollow]
kind = "command"
run = "echo hollow >> ran; mkdir {outputs.o}"
outputs = { o = "folder" }
[stages.links]
kind = "command"
run = "echo links >> ran; mkdir -p {outputs.o}/d; cd {outputs.o}; echo 2 > step-2; ln -s step-2 latest; ln -s ../step-2 d/up; ln -s d folder; ln -s gone dangling"
outputs = { o = "folder" }
[stages.use]
kind = "command"
run = "echo use >> ran; [ -d {inputs.e}/e1 ] && [ -d {inputs.e}/e2/deeper ] && [ -d {inputs.h} ] && [ ! -x {inputs.s}/b ] && [ -L {inputs.l}/dangling ] && { {inputs.t}; {inputs.s}/a; cat {inputs.l}/latest {inputs.l}/folder/up; } > {outputs.o}"
inputs = { t = "tool", s = "tools", e = "empty", h = "hollow", l = "links" }
outputs = { o = "text" }
"#;

/// What lies below a folder: mode of files, text of links, and names of folders.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter().map(|e| e.unwrap());
    let what = |e: walkdir::DirEntry| {
        let name = e.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let kind = e.file_type();
        let what = match kind.is_symlink() {
            true => format!("-> {}", std::fs::read_link(e.path()).unwrap().display()),
            false if kind.is_dir() => "folder".into(),
            false if e.metadata().unwrap().permissions().mode() & 0o100 != 0 => "program".into(),
            false => "file".into(),
        };
        (name, what)
    };
    entries.map(what).collect()
}

/// Outputs by stage, from the log of a run in JSON.
fn digests(space: &Space, args: &[&str]) -> BTreeMap<String, String> {
    let said = space.erw(&[&["run", "p.toml", "--json"], args].concat()).expect(0);
    let events = said.stdout.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let ended = events.filter(|e| e["event"] == "ended");
    ended.map(|e| (e["stage"].as_str().unwrap().into(), e["outputs"][0]["digest"].as_str().unwrap().into())).collect()
}

fn wipe(space: &Space) {
    space.open("cache");
    std::fs::remove_dir_all(space.path("cache")).unwrap();
}

#[test]
fn every_type_of_entry_survives_store_remote_and_export() {
    let space = Space::new(KINDS);
    std::fs::create_dir(space.path("remote")).unwrap();
    let remote = format!("file://{}", space.path("remote").display());
    let first = digests(&space, &["--remote", &remote]);
    assert_eq!(space.outputs()["use"], "hi\nhi\n2\n2\n");
    let export = |to: &str, how: &[&str]| {
        for stage in ["tool", "tools", "empty", "hollow", "links"] {
            space.erw(&[&["export", "p.toml", stage, &format!("{to}/{stage}")], how].concat()).expect(0);
        }
        listing(&space.path(to))
    };
    let exported = export("here", &[]);
    let is = |name: &str, what: &str| assert_eq!(exported.get(name).map(String::as_str), Some(what), "{name}");
    is("tool/o", "program");
    is("tools/a", "program");
    is("tools/b", "file");
    is("empty/e1", "folder");
    is("empty/e2/deeper", "folder");
    is("hollow", "folder");
    is("links/latest", "-> step-2");
    is("links/d/up", "-> ../step-2");
    is("links/folder", "-> d");
    is("links/dangling", "-> gone");
    assert_eq!(export("linked", &["--link"]), exported);
    space.erw(&["cache", "verify"]).expect(0);
    space.erw(&["verify", "p.toml"]).expect(0);
    space.ran();

    // Elsewhere all of it comes from the remote, and is used.
    wipe(&space);
    let second = digests(&space, &["--remote", &remote, "--force", "use"]);
    assert_eq!(space.ran(), ["use"]);
    assert_eq!(first, second);
    assert_eq!(export("there", &[]), exported);
    space.erw(&["cache", "verify"]).expect(0);
    // Files are sealed, and may be executed by whoever runs stages.
    for entry in walkdir::WalkDir::new(space.path("cache/v1/store")).min_depth(2).into_iter().map(|e| e.unwrap()) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        assert!(entry.file_type().is_symlink() || [0o444, 0o555].contains(&mode), "{:?} {mode:o}", entry.path());
    }
    // And made anew it is the same again.
    wipe(&space);
    assert_eq!(digests(&space, &[]), first);
}

#[test]
fn loss_of_any_part_of_an_artifact_is_detected() {
    type Lose = fn(&Path);
    let lose: [(&str, Lose); 5] = [
        ("tool", |o| std::fs::set_permissions(o, std::fs::Permissions::from_mode(0o444)).unwrap()),
        ("tools", |o| std::fs::set_permissions(o.join("a"), std::fs::Permissions::from_mode(0o444)).unwrap()),
        ("empty", |o| std::fs::remove_dir(o.join("e1")).unwrap()),
        ("links", |o| std::fs::remove_file(o.join("dangling")).unwrap()),
        ("links", |o| {
            std::fs::remove_file(o.join("latest")).unwrap();
            std::os::unix::fs::symlink("step-1", o.join("latest")).unwrap();
        }),
    ];
    for (stage, lose) in lose {
        let space = Space::new(KINDS);
        let digest = digests(&space, &[])[stage].clone();
        space.ran();
        let object = space.path("cache/v1/store").join(&digest[..2]).join(&digest);
        space.open(object.strip_prefix(space.path("")).unwrap().to_str().unwrap());
        lose(&object);
        // Used again, it is read, found out and made anew.
        space.run(&["--force", "use"]).expect(0);
        let ran = space.ran();
        assert!(ran.contains(&stage.to_string()) && ran.contains(&"use".to_string()), "{stage}: {ran:?}");
        assert_eq!(space.outputs()["use"], "hi\nhi\n2\n2\n");
        space.erw(&["cache", "verify"]).expect(0);
    }
}

#[test]
fn the_executable_bit_is_part_of_the_digest() {
    for order in [["plain", "tool"], ["tool", "plain"]] {
        let stage = |name: &str, more: &str| {
            format!(
                "[stages.{name}]\nkind = \"command\"\nrun = \"printf '#!/bin/sh\\\\necho hi\\\\n' > {{outputs.o}}{more}\"\noutputs = {{ o = \"t\" }}\n"
            )
        };
        let space = Space::new(
            &(stage("plain", "")
                + &stage("tool", "; chmod +x {outputs.o}")
                + "[stages.use]\nkind = \"command\"\nrun = \"{inputs.t} > {outputs.o}; [ ! -x {inputs.p} ]\"\ninputs = { t = \"tool\", p = \"plain\" }\noutputs = { o = \"t\" }\n"),
        );
        order.iter().for_each(|stage| drop(space.run(&[stage]).expect(0)));
        space.run(&[]).expect(0);
        assert_eq!(space.outputs()["use"], "hi\n");
    }
}

#[test]
fn other_permissions_are_not_part_of_the_digest() {
    let stage = |mode: &str| {
        Space::new(&format!(
            "[stages.s]\nkind = \"command\"\nrun = \"mkdir {{outputs.o}}; echo x > {{outputs.o}}/f; chmod {mode} {{outputs.o}}/f; chmod 700 {{outputs.o}}\"\noutputs = {{ o = \"t\" }}\n"
        ))
    };
    let of = |mode: &str| digests(&stage(mode), &[])["s"].clone();
    assert_eq!(of("644"), of("600"));
    assert_eq!(of("666"), of("2640"));
    assert_eq!(of("755"), of("4711"));
    assert_ne!(of("644"), of("755"));
}

#[test]
fn links_that_lead_out_are_refused() {
    for (run, named) in [
        ("ln -s /etc/hostname {outputs.o}", "is a symbolic link"),
        ("echo 1 > {outputs.o}x; ln -s ox {outputs.o}", "is a symbolic link"),
        (
            "mkdir {outputs.o}; ln -s /etc/hostname {outputs.o}/host",
            "output `o`: the link `host` leads to `/etc/hostname`, outside the output",
        ),
        (
            "mkdir -p {outputs.o}/d; ln -s ../../x {outputs.o}/d/l",
            "output `o`: the link `d/l` leads to `../../x`, outside the output",
        ),
        (
            "mkdir -p {outputs.o}; ln -s . {outputs.o}/d; ln -s d/../x {outputs.o}/l",
            "output `o`: the link `l` leads to `d/../x`",
        ),
        (
            "mkdir {outputs.o}; touch {outputs.o}/f; ln -s $(dirname {outputs.o})/o/f {outputs.o}/l",
            "output `o`: the link `l` leads to `/",
        ),
        ("mkdir {outputs.o}; mkfifo {outputs.o}/pipe", "pipe` is neither a file nor a folder"),
    ] {
        let space = Space::new(&format!(
            "[stages.s]\nkind = \"command\"\nrun = \"{run}; [ -e ok ] && rm -rf {{outputs.o}} && echo 1 > {{outputs.o}}; true\"\noutputs = {{ o = \"t\" }}\n"
        ));
        let said = space.run(&[]).expect(1);
        assert!(said.stderr.contains(named), "{run}: {}", said.stderr);
        assert!(space.bucket("actions").is_empty() && space.bucket("store").is_empty());
        // The next attempt is not in the way of the last.
        space.write("ok", "");
        space.run(&[]).expect(0);
    }
}

#[test]
fn names_that_are_not_utf_8_stay_distinct() {
    const TWO: &str = "[stages.s]\nkind = \"command\"\nrun = \"mkdir {outputs.o}; cp odd/* {outputs.o}\"\noutputs = { o = \"t\" }\nwatch = [\"odd\"]\n";
    let space = Space::new(TWO);
    std::fs::create_dir_all(space.path("odd")).unwrap();
    let name = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let names = [name(b"\xff"), name(b"\xfe"), name(b"\\xff"), name("\u{fffd}".as_bytes())];
    for (i, name) in names.iter().enumerate() {
        std::fs::write(space.path("odd").join(name), i.to_string()).unwrap();
    }
    std::fs::create_dir(space.path("remote")).unwrap();
    let remote = format!("file://{}", space.path("remote").display());
    let first = digests(&space, &["--remote", &remote]);
    space.run(&["--lock"]).expect(0);
    let lock = space.read("p.lock");
    for text in [r#""\\xff" = "#, r#""\\xfe" = "#, r#""\\\\xff" = "#] {
        assert!(lock.contains(text) || lock.contains(&text.replace('"', "'").replace("\\\\", "\\")), "{lock}");
    }
    space.run(&["--locked"]).expect(0);
    wipe(&space);
    let said = space.run(&["--remote", &remote]).expect(0);
    assert!(!said.stderr.contains("warning") && said.stderr.contains("s: cached"), "{}", said.stderr);
    assert_eq!(digests(&space, &[]), first);
    let object = space.bucket("store").remove(0);
    for (i, name) in names.iter().enumerate() {
        assert_eq!(std::fs::read_to_string(object.join(name)).unwrap(), i.to_string());
    }
    // Two changed files have two names, in words and in JSON.
    space.run(&["--force", "s"]).expect(0);
    std::fs::write(space.path("odd").join(&names[0]), "other").unwrap();
    std::fs::write(space.path("odd").join(&names[1]), "other").unwrap();
    let why = space.erw(&["why", "p.toml", "s"]).expect(0).stdout;
    assert!(why.contains("changed \\xff") && why.contains("changed \\xfe"), "{why}");
    let json = space.erw(&["why", "p.toml", "s", "--json"]).expect(0).stdout;
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok() && json.contains(r"\\xfe"), "{json}");
}

/// Made by an earlier version: the digest passes by what is not plain, and what lies in the store
/// does not.
#[test]
fn artifacts_of_an_earlier_version_are_still_used() {
    let plain = KINDS.replace("chmod 750", "true").replace("; chmod +x {outputs.o}/a", "");
    let space = Space::new(plain.split("[stages.empty]").next().unwrap());
    let old = digests(&space, &[]);
    for (stage, file) in [("tool", ""), ("tools", "a")] {
        let object = space.path("cache/v1/store").join(&old[stage][..2]).join(&old[stage]);
        let file = if file.is_empty() { object.clone() } else { object.join(file) };
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o555)).unwrap();
        if object.is_dir() {
            std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::create_dir(object.join("empty")).unwrap();
        }
    }
    space.ran();
    space.erw(&["cache", "verify"]).expect(0);
    space.write("p.toml", &(space.read("p.toml") + "[stages.use]\nkind = \"command\"\nrun = \"{inputs.t} > {outputs.o}; {inputs.s}/a >> {outputs.o}\"\ninputs = { t = \"tool\", s = \"tools\" }\noutputs = { o = \"text\" }\n"));
    space.run(&[]).expect(0);
    assert!(space.ran().is_empty());
    assert_eq!(space.outputs()["use"], "hi\nhi\n");
    space.erw(&["export", "p.toml", "tools", "out"]).expect(0);
    std::fs::create_dir(space.path("remote")).unwrap();
    space.erw(&["cache", "push", "--remote", &format!("file://{}", space.path("remote").display())]).expect(0);
}

#[test]
fn a_hard_linked_output_leaves_the_other_name_unchanged() {
    for run in ["ln data.bin {outputs.o}", "mkdir {outputs.o}; ln data.bin {outputs.o}/a; ln data.bin {outputs.o}/b"] {
        let space = Space::new(&format!(
            "[stages.imp]\nkind = \"command\"\nrun = \"{run}\"\noutputs = {{ o = \"f\" }}\nwatch = [\"data.bin\"]\n\
             [stages.use]\nkind = \"command\"\nrun = \"cat $(find {{inputs.i}} -type f | sort | head -n 1) > {{outputs.o}}\"\ninputs = {{ i = \"imp\" }}\noutputs = {{ o = \"f\" }}\n"
        ));
        space.write("data.bin", "AAAA");
        std::fs::set_permissions(space.path("data.bin"), std::fs::Permissions::from_mode(0o664)).unwrap();
        space.run(&[]).expect(0);
        let mine = || std::fs::metadata(space.path("data.bin")).unwrap();
        assert_eq!((mine().permissions().mode() & 0o7777, mine().nlink()), (0o664, 1), "{run}");
        for file in walkdir::WalkDir::new(space.path("cache/v1/store")).into_iter().map(|e| e.unwrap()) {
            assert!(!file.file_type().is_file() || file.metadata().unwrap().nlink() == 1);
        }
        std::fs::write(space.path("data.bin"), "BBBB").unwrap();
        space.erw(&["cache", "verify"]).expect(0);
        space.write("data.bin", "AAAA");
        assert_eq!(space.outputs()["use"], "AAAA");
    }
}

/// Runs as a user whom permissions stop; nothing where this test is not allowed to become one.
fn as_user(space: &Space, args: &[&str]) -> Option<Said> {
    unprivileged(space, args).map(|mut command| Said::from(command.finish()))
}

#[test]
fn outputs_without_permissions_are_stored_exported_and_removed() {
    for (make, read) in [
        ("mkdir -p {outputs.o}/m; echo x > {outputs.o}/m/f; chmod 555 {outputs.o}/m", "m/f"),
        ("mkdir -p {outputs.o}; echo x > {outputs.o}/f; chmod 555 {outputs.o}", "f"),
        (
            "mkdir -p {outputs.o}/m/n; echo x > {outputs.o}/m/n/f; chmod 000 {outputs.o}/m/n {outputs.o}/m {outputs.o}",
            "m/n/f",
        ),
        ("mkdir {outputs.o}; echo x > {outputs.o}/f; chmod 000 {outputs.o}/f", "f"),
        ("echo x > {outputs.o}; chmod 000 {outputs.o}", ""),
        ("mkdir -p {outputs.o}/e; echo x > {outputs.o}/f; chmod 100 {outputs.o}/e", "f"),
    ] {
        let space = Space::new(&format!(
            "[stages.s]\nkind = \"command\"\nrun = \"{make}; [ -e ok ]\"\noutputs = {{ o = \"t\" }}\n\
             [stages.t]\nkind = \"command\"\nrun = \"cat {{inputs.x}}/{read} > {{outputs.o}}\"\ninputs = {{ x = \"s\" }}\noutputs = {{ o = \"t\" }}\n"
        ).replace("}/ >", "} >"));
        let Some(said) = as_user(&space, &["run", "p.toml", "--plain"]) else { return };
        said.expect(1);
        let run = |args: &[&str]| as_user(&space, args).unwrap();
        // What the failed attempt left is in nobody's way.
        run(&["run", "p.toml", "--plain"]).expect(1);
        space.write("ok", "");
        run(&["run", "p.toml", "--plain"]).expect(0);
        run(&["cache", "verify"]).expect(0);
        run(&["verify", "p.toml"]).expect(0);
        run(&["export", "p.toml", "s", "out"]).expect(0);
        run(&["export", "p.toml", "s", "out", "--force"]).expect(0);
        // Damage is set aside, and everything can be removed.
        let damaged =
            space.bucket("store").into_iter().find(|p| p.is_dir()).unwrap_or(space.bucket("store")[0].clone());
        let name = damaged.strip_prefix(space.path("")).unwrap().to_str().unwrap().to_string();
        space.open(&name);
        let file = if damaged.is_dir() { damaged.join(read) } else { damaged };
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, "y\n").unwrap();
        run(&["cache", "verify"]).expect(4);
        run(&["run", "p.toml", "--plain"]).expect(0);
        run(&["cache", "gc", "--max-size", "0"]).expect(0);
        assert!(space.bucket("store").is_empty(), "{make}");
        assert_eq!(space.path("cache/v1/quarantine").read_dir().unwrap().count(), 0);
    }
}
