//! Downloads of published files against a real server: complete or not at all, whatever the network
//! does.

use crate::support::deadline::Deadline;
use crate::support::http::{Content, Fault, Server, unconfigured};
use crate::support::space::{Said, Space};
use erw::error::{Error, ErrorKind};
use erw::fetch::FetchObserver;
use erw::fetch::download::Persistence;
use erw::fetch::hub::Hub;
use erw::fetch::library::{Check, Library, Presence};
use erw::fetch::registry;
use erw::fetch::registry::RegistryEntry;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const QUICK: Persistence = Persistence { attempts: 3, pause: Duration::from_millis(1) };

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 % 251) as u8).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// One file on a server, and a folder to fetch it to.
struct Lab {
    server: Server,
    dir: tempfile::TempDir,
}

/// Hears what is logged and stops the work at a number of bytes.
#[derive(Default)]
struct Ear {
    said: Mutex<Vec<String>>,
    stop_at: Option<u64>,
    done: AtomicU64,
}

impl Ear {
    fn text(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

impl FetchObserver for Ear {
    fn progress(&self, done: u64, _: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
    fn log(&self, text: &str) {
        self.said.lock().unwrap().push(text.into());
    }
    fn should_stop(&self) -> bool {
        self.stop_at.is_some_and(|at| self.done.load(Ordering::Relaxed) >= at)
    }
}

impl Lab {
    fn new() -> Self {
        Self { server: Server::start(), dir: tempfile::tempdir().unwrap() }
    }

    /// An entry `net` with these addresses.
    fn entry(&self, addresses: &[String]) -> RegistryEntry {
        let head = "[[entry]]\nname = \"net\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"MIT\"\n";
        let from: String = addresses.iter().map(|a| format!("[[entry.from]]\n{a}\n")).collect();
        registry::parse(&format!("{head}{from}")).unwrap().remove(0)
    }

    fn at(&self, path: &str, more: &str) -> RegistryEntry {
        self.entry(&[format!("url = \"{}\"\n{more}", self.server.url(path))])
    }

    fn library(&self) -> Library {
        Library::new(&self.path(""), Hub::new("http://unused.invalid", None, None), QUICK)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("downloads").join(name)
    }

    fn obtain(&self, entry: &RegistryEntry) -> Result<(Vec<u8>, String), Error> {
        let ear = Ear::default();
        let copy = self.library().obtain(entry, None, &ear)?;
        Ok((fs::read(copy.path).unwrap(), ear.text()))
    }

    /// Status and bytes of the body, of every request.
    fn traffic(&self) -> Vec<(u16, usize)> {
        self.server.log().iter().map(|a| (a.status, a.sent)).collect()
    }

    /// No half of anything is left.
    #[track_caller]
    fn assert_clean(&self) {
        let names = |p: &Path| fs::read_dir(p).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
        let left: Vec<PathBuf> =
            names(&self.path("net")).into_iter().filter(|p| p.to_string_lossy().contains(".part")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_file_is_fetched_once() {
    let lab = Lab::new();
    let data = bytes(100_000);
    lab.server.put("/dir/w.bin", &data);
    let entry = lab.at("/dir/w.bin?dl=1", &format!("size = 100000\nsha256 = \"{}\"", sum(&data)));
    lab.server.put("/dir/w.bin?dl=1", &data);
    assert_eq!(lab.library().look(&entry, None), Presence::Absent);
    assert_eq!(lab.obtain(&entry).unwrap().0, data);
    assert_eq!(lab.library().look(&entry, None), Presence::Here(lab.path("net/w.bin")));
    lab.obtain(&entry).unwrap();
    assert_eq!(lab.traffic(), [(200, 100_000)]);
    lab.assert_clean();
}

#[test]
fn a_cut_connection_resumes_where_it_broke() {
    let lab = Lab::new();
    let data = bytes(1_000_000);
    lab.server.put_with("/w", &data, &[Fault::CutAfter(300_000), Fault::CutAfter(200_000)]);
    let (got, said) = lab.obtain(&lab.at("/w", "")).unwrap();
    assert!(got == data);
    assert_eq!(lab.traffic(), [(200, 300_000), (206, 200_000), (206, 500_000)], "only the rest is sent again");
    let log = lab.server.log();
    assert_eq!(log[2].header("range"), Some("bytes=500000-"));
    assert_eq!(log[2].header("if-range"), Some("\"one\""));
    assert!(said.contains("received 300000 of 1000000 bytes") || said.contains("broke"), "{said}");
    lab.assert_clean();
}

#[test]
fn a_later_process_resumes_unless_the_file_changed() {
    let lab = Lab::new();
    let data = bytes(2_000_000);
    let entry = lab.at("/w", "");
    let stop = |lab: &Lab| {
        let ear = Ear { stop_at: Some(600_000), ..Ear::default() };
        assert_eq!(lab.library().obtain(&entry, None, &ear).unwrap_err().kind, ErrorKind::Suspended);
        match lab.library().look(&entry, None) {
            Presence::Part(n) => n as usize,
            other => panic!("{other:?}"),
        }
    };
    lab.server.put("/w", &data);
    let kept = stop(&lab);
    assert!((600_000..2_000_000).contains(&kept));
    let (got, said) = lab.obtain(&entry).unwrap();
    assert!(got == data && said.contains("resuming"), "{said}");
    assert_eq!(lab.traffic()[1], (206, 2_000_000 - kept));

    // Another file under the same address meanwhile.
    fs::remove_file(lab.path("net/w")).unwrap();
    fs::remove_file(lab.path("pins.json")).unwrap();
    stop(&lab);
    let other: Vec<u8> = data.iter().map(|b| b ^ 1).collect();
    let content = |bytes: &[u8], etag| Content { bytes: bytes.into(), etag, content_type: "x/y", faults: vec![] };
    lab.server.put_content("/w", content(&other, Some("\"two\"")));
    let (got, said) = lab.obtain(&entry).unwrap();
    assert!(got == other && said.contains("starting over"), "{said}");
    assert_eq!(lab.traffic().last(), Some(&(200, 2_000_000)));

    // Without a word of the server on which file it is, no rest is asked for.
    fs::remove_file(lab.path("net/w")).unwrap();
    lab.server.put_content("/w", content(&other, None));
    stop(&lab);
    assert!(lab.obtain(&entry).unwrap().0 == other);
    assert_eq!(lab.traffic().last(), Some(&(200, 2_000_000)));
}

#[test]
fn servers_without_ranges_and_shorter_files_start_over() {
    let lab = Lab::new();
    let data = bytes(500_000);
    lab.server.put_with("/w", &data, &[Fault::CutAfter(100_000), Fault::WholeOnly]);
    assert!(lab.obtain(&lab.at("/w", "")).unwrap().0 == data);
    assert_eq!(lab.traffic(), [(200, 100_000), (200, 500_000)]);

    // All bytes are here, the name is not: nothing is lacking.
    let part = lab.path("net/w");
    fs::rename(&part, lab.path("net/w.part")).unwrap();
    let note = format!(
        "{{\"origin\": \"{}\", \"etag\": \"\\\"one\\\"\", \"last_modified\": null, \"total\": 500000}}",
        lab.server.url("/w")
    );
    fs::write(lab.path("net/w.part.json"), &note).unwrap();
    assert!(lab.obtain(&lab.at("/w", "")).unwrap().0 == data);
    assert_eq!(lab.traffic().last(), Some(&(416, 0)));

    // More than there is.
    fs::remove_file(&part).unwrap();
    fs::remove_file(lab.path("pins.json")).unwrap();
    fs::write(lab.path("net/w.part"), bytes(600_000)).unwrap();
    fs::write(lab.path("net/w.part.json"), &note).unwrap();
    assert!(lab.obtain(&lab.at("/w", "")).unwrap().0 == data);
    assert_eq!(lab.traffic().last(), Some(&(200, 500_000)));
    lab.assert_clean();
}

#[test]
fn a_partial_file_of_another_url_is_not_resumed() {
    let lab = Lab::new();
    let data = bytes(10_000);
    lab.server.put("/w", &data);
    fs::create_dir_all(lab.path("net")).unwrap();
    for note in ["{\"origin\": \"https://elsewhere/w\", \"etag\": \"\\\"one\\\"\"}", "{", ""] {
        let _ = fs::remove_file(lab.path("net/w"));
        fs::write(lab.path("net/w.part"), b"something else").unwrap();
        fs::write(lab.path("net/w.part.json"), note).unwrap();
        assert!(lab.obtain(&lab.at("/w", "")).unwrap().0 == data);
    }
    assert!(lab.traffic().iter().all(|t| *t == (200, 10_000)));
}

#[test]
fn a_wrong_file_is_refused_with_both_hashes() {
    let lab = Lab::new();
    let data = bytes(10_000);
    lab.server.put("/w", &data);
    lab.server.put("/mirror", &data);
    let wrong = "0".repeat(64);
    let entry = lab.entry(&[
        format!("url = \"{}\"\nsha256 = \"{wrong}\"", lab.server.url("/w")),
        format!("url = \"{}\"", lab.server.url("/mirror")),
    ]);
    let error = lab.obtain(&entry).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("is not the expected file") && said.contains(&wrong) && said.contains(&sum(&data)), "{said}");
    assert!(!lab.path("net/w").exists());
    lab.assert_clean();
    assert_eq!(lab.traffic().len(), 1, "what is wrong is not looked for elsewhere");

    let error = lab.obtain(&lab.at("/w", "size = 9999")).unwrap_err();
    assert!(error.to_string().contains("has 10000 bytes; expected 9999"), "{error}");
    assert_eq!(lab.library().obtain(&entry, Some(&"1".repeat(64)), &()).unwrap_err().causes.len(), 1);
}

#[test]
fn refusals_of_a_server_are_reported() {
    let lab = Lab::new();
    let told = |path: &str| {
        let error = lab.obtain(&lab.at(path, "")).unwrap_err();
        (error.causes.join("\n"), error.hints.join("\n"))
    };
    let (why, hint) = told("/nothing");
    assert!(
        why.contains(&lab.server.url("/nothing")) && why.contains("404 Not Found") && hint.contains("withdrawn"),
        "{why}"
    );
    lab.server.put_with("/closed", b"x", &[Fault::Status(403)]);
    let (why, hint) = told("/closed");
    assert!(why.contains("403 Forbidden") && hint.contains("licence") && hint.contains("HF_TOKEN"), "{why} {hint}");
    let page =
        Content { bytes: b"<p>quota".to_vec(), etag: None, content_type: "text/html; charset=utf-8", faults: vec![] };
    lab.server.put_content("/page", page.clone());
    assert!(told("/page").0.contains("a web page instead of the file"));
    lab.server.put_content("/masked", Content { bytes: b"\n<!DOCTYPE HTML><p>".to_vec(), content_type: "x/y", ..page });
    assert!(told("/masked").0.contains("a web page instead of the file"));
    assert_eq!(lab.traffic().len(), 4, "none of it passes, so none is tried again");
    lab.assert_clean();
}

#[test]
fn temporary_failures_are_retried() {
    let lab = Lab::new();
    let data = bytes(1000);
    lab.server.put_with("/w", &data, &[Fault::Status(500), Fault::Later(429)]);
    assert!(lab.obtain(&lab.at("/w", "")).unwrap().0 == data);
    assert_eq!(lab.traffic(), [(500, 0), (429, 0), (200, 1000)]);

    lab.server.put_with("/down", &data, &[Fault::Status(503); 9]);
    let error = lab.obtain(&lab.at("/down", "")).unwrap_err();
    assert!(error.causes[0].contains("503 Service Unavailable"), "{error}");
    assert_eq!(lab.traffic().len(), 3 + QUICK.attempts as usize);

    // The connection ends early each time, and nothing more comes.
    lab.server.put_with(
        "/short",
        &data,
        &[Fault::CutAfter(400), Fault::CutAfter(0), Fault::CutAfter(0), Fault::CutAfter(0)],
    );
    let error = lab.obtain(&lab.at("/short", "")).unwrap_err();
    assert!(error.hints.iter().any(|h| h.contains("the first 400 bytes are kept")), "{error:?}");
    assert!(!lab.path("net/short").exists());
}

#[test]
fn the_next_address_is_tried() {
    let lab = Lab::new();
    let data = bytes(1000);
    lab.server.put("/mirror", &data);
    let gone = "url = \"http://127.0.0.1:9/gone\"".to_string();
    let entry = lab.entry(&[
        format!("url = \"{}\"", lab.server.url("/moved")),
        gone.clone(),
        format!("url = \"{}\"", lab.server.url("/mirror")),
    ]);
    let (got, said) = lab.obtain(&entry).unwrap();
    assert!(got == data && said.contains("404") && said.contains("127.0.0.1:9/gone cannot be reached"), "{said}");
    // It is here under whatever address.
    lab.obtain(&entry).unwrap();
    assert_eq!(lab.traffic().len(), 2);
    let error = lab.obtain(&lab.entry(&[gone, format!("url = \"{}\"", lab.server.url("/moved"))])).unwrap_err();
    assert!(error.message == "`net` could not be fetched" && error.causes.len() == 2, "{error:?}");
}

#[test]
fn a_file_without_a_hash_is_trusted_once() {
    let lab = Lab::new();
    let (data, other) = (bytes(1000), bytes(1001));
    lab.server.put("/w", &data);
    let entry = lab.at("/w", "");
    let (_, said) = lab.obtain(&entry).unwrap();
    assert!(said.contains(&format!("sha256 = \"{}\"", sum(&data))), "{said}");
    assert!(!lab.obtain(&entry).unwrap().1.contains("trusted"), "said once");
    assert_eq!(lab.library().verify(&entry, &()).unwrap(), [(lab.path("net/w"), Check::Whole)]);

    // Rot on this disk is mended; another file on the server is not taken.
    fs::write(lab.path("net/w"), &other).unwrap();
    assert!(matches!(lab.library().verify(&entry, &()).unwrap()[0].1, Check::Damaged { .. }));
    let (got, said) = lab.obtain(&entry).unwrap();
    assert!(got == data && said.contains("damaged"), "{said}");
    fs::remove_file(lab.path("net/w")).unwrap();
    lab.server.put("/w", &other);
    let error = lab.obtain(&entry).unwrap_err();
    assert!(error.causes[0].contains(&sum(&data)) && error.hints[0].contains("pins.json"), "{error:?}");
    // A pipeline that wants another file does not cost others theirs.
    lab.server.put("/w", &data);
    lab.obtain(&entry).unwrap();
    let error = lab.library().obtain(&entry, Some(&sum(&other)), &()).unwrap_err();
    assert!(error.message.contains("is not the expected file") && lab.path("net/w").exists(), "{error:?}");
    fs::remove_file(lab.path("net/w")).unwrap();
    lab.server.put("/w", &other);
    // A pipeline that names its hash is held to that, and nothing is pinned.
    assert_eq!(lab.library().obtain(&entry, Some(&sum(&other)), &()).unwrap().sha256, sum(&other));
}

/// A publisher replaced the file: whoever states the new hash gets the new file, and who relies on
/// the old one keeps it.
#[test]
fn another_hash_is_another_file() {
    let lab = Lab::new();
    let (old, new, third) = (bytes(1000), bytes(1001), bytes(1002));
    lab.server.put("/w", &old);
    let entry = lab.at("/w", "");
    lab.obtain(&entry).unwrap();
    lab.server.put("/w", &new);
    let held = |want: &[u8]| lab.library().obtain(&entry, Some(&sum(want)), &());
    assert!(matches!(lab.library().look(&entry, Some(&sum(&new))), Presence::Absent), "a plan says what is to come");
    let copy = held(&new).unwrap();
    assert_eq!(fs::read(&copy.path).unwrap(), new);
    assert_eq!(lab.library().look(&entry, Some(&sum(&new))), Presence::Here(copy.path.clone()));
    // All of them are here, so nobody asks again.
    let asked = lab.traffic().len();
    assert_eq!(held(&new).unwrap(), copy);
    assert_eq!(held(&old).unwrap().path, lab.path("net/w"));
    assert_eq!(lab.obtain(&entry).unwrap().0, old);
    assert_eq!(lab.traffic().len(), asked);
    let whole = lab.library().verify(&entry, &()).unwrap();
    assert_eq!(whole, [(lab.path("net/w"), Check::Whole), (copy.path.clone(), Check::Whole)]);
    // What lies aside is held to its hash too.
    fs::write(&copy.path, &third).unwrap();
    assert!(matches!(lab.library().verify(&entry, &()).unwrap()[1].1, Check::Damaged { .. }));
    assert_eq!(fs::read(held(&new).unwrap().path).unwrap(), new);
    // A hash that nothing has costs nobody anything.
    let error = held(&third).unwrap_err();
    assert!(error.causes[0].contains(&sum(&third)) && error.causes[0].contains(&sum(&new)), "{error:?}");
    assert_eq!((fs::read(lab.path("net/w")).unwrap(), fs::read(&copy.path).unwrap()), (old, new));
    lab.assert_clean();
}

#[test]
fn a_wrong_file_stays_until_the_right_one_is_there() {
    let lab = Lab::new();
    let (old, new) = (bytes(1000), bytes(1001));
    lab.server.put("/w", &old);
    lab.obtain(&lab.at("/w", &format!("sha256 = \"{}\"", sum(&old)))).unwrap();
    // The registry knows another hash now.
    let entry = lab.at("/w", &format!("sha256 = \"{}\"", sum(&new)));
    for fault in [Fault::Status(404), Fault::None] {
        lab.server.put_with("/w", &old, &[fault]);
        lab.obtain(&entry).unwrap_err();
        assert_eq!(fs::read(lab.path("net/w")).unwrap(), old);
    }
    lab.server.put("/w", &new);
    assert_eq!(lab.obtain(&entry).unwrap().0, new);
    assert_eq!(fs::read(lab.path("net/w")).unwrap(), new);
}

/// Two that fetch for the first time at once, each with caches of its own of what comes: one of
/// them is right.
#[test]
fn the_first_hash_wins_when_two_processes_race() {
    struct Rival(PathBuf, String, Mutex<bool>);
    impl FetchObserver for Rival {
        fn progress(&self, _: u64, _: u64) {
            let mut done = self.2.lock().unwrap();
            if !std::mem::replace(&mut *done, true) {
                erw::fetch::pins::Pins::of(&self.0).trust(&self.1, &sum(b"what the winner got")).unwrap();
            }
        }
    }
    let lab = Lab::new();
    lab.server.put("/w", &bytes(1000));
    let entry = lab.at("/w", "");
    let rival = Rival(lab.path(""), lab.server.url("/w"), Mutex::default());
    let error = lab.library().obtain(&entry, None, &rival).unwrap_err();
    assert!(error.message.contains("is not the expected file"), "{error:?}");
    assert!(
        error.causes[0].contains(&sum(b"what the winner got")) && error.hints[0].contains("pins.json"),
        "{error:?}"
    );
    lab.obtain(&entry).unwrap_err();
    lab.server.put("/w", b"what the winner got");
    assert_eq!(lab.obtain(&entry).unwrap().0, b"what the winner got");
}

#[test]
fn redirects_are_resolved() {
    let lab = Lab::new();
    let data = bytes(1000);
    for (n, to) in
        ["/f?from=http://elsewhere/x", "f?u=https://a//b", "../files/./g?a=b://c", "?v=http://2"].iter().enumerate()
    {
        lab.server.put_with(
            ["/f?from=http://elsewhere/x", "/dir/f?u=https://a//b", "/files/g?a=b://c", "/dir/3?v=http://2"][n],
            &data,
            &[],
        );
        lab.server.redirect(&format!("/dir/{n}"), to);
        assert!(lab.obtain(&lab.at(&format!("/dir/{n}"), "")).unwrap().0 == data, "{to}");
    }
    lab.server.redirect("/out", "ftp://127.0.0.1/f");
    let error = lab.obtain(&lab.at("/out", "")).unwrap_err();
    assert!(
        error.causes[0].contains("redirects to `ftp://127.0.0.1/f`, which is not an http or https URL"),
        "{error:?}"
    );
}

#[test]
fn only_the_hub_endpoint_gets_the_token() {
    let lab = Lab::new();
    let data = bytes(5000);
    let storage = Server::start();
    storage.put("/blob?signed=1", &data);
    lab.server.redirect("/timm/vit/resolve/main/model.safetensors", &storage.url("/blob?signed=1"));
    let entry = lab.entry(&["hub = \"timm/vit\"\nrevision = \"main\"\nfile = \"model.safetensors\"".into()]);
    let hub = |cache| Hub::new(&lab.server.url(""), Some("secret".into()), cache);
    let library = Library::new(&lab.path(""), hub(None), QUICK);
    let copy = library.obtain(&entry, None, &()).unwrap();
    assert_eq!(copy.origin, "hf://timm/vit@main/model.safetensors");
    assert_eq!(lab.server.log()[0].header("authorization"), Some("Bearer secret"));
    assert_eq!(storage.log()[0].header("authorization"), None);

    // A repository that moved on the same server is still behind the token.
    lab.server.redirect("/old/vit/resolve/main/model.bin", "/timm/vit/resolve/main/model.safetensors");
    let moved = lab.entry(&["hub = \"old/vit\"\nrevision = \"main\"\nfile = \"model.bin\"".into()]);
    library.obtain(&moved, None, &()).unwrap();
    assert!(lab.server.log().iter().all(|a| a.header("authorization") == Some("Bearer secret")));
    assert!(storage.log().iter().all(|a| a.header("authorization").is_none()));

    // What Hugging Face's programs fetched is taken as it lies there.
    let cache = lab.dir.path().join("hub");
    let file = cache.join("models--timm--vit/snapshots/0a/model.safetensors");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::create_dir_all(cache.join("models--timm--vit/refs")).unwrap();
    fs::write(cache.join("models--timm--vit/refs/main"), "0a").unwrap();
    fs::write(&file, &data).unwrap();
    fs::remove_file(copy.path).unwrap();
    let library = Library::new(&lab.path(""), hub(Some(cache)), QUICK);
    assert_eq!(library.look(&entry, None), Presence::InHubCache(file.clone()));
    assert_eq!(library.obtain(&entry, None, &()).unwrap().path, file);
    // Not if it is another file than the pinned one.
    fs::write(&file, b"other").unwrap();
    assert_eq!(library.obtain(&entry, None, &()).unwrap().path, lab.path("net/model.safetensors"));
    assert_eq!(fs::read(&file).unwrap(), b"other", "it is not ours to remove");
}

/// A limit on the size of files stands in for a full disk: writing fails in the same place.
#[test]
fn a_full_disk_is_reported_and_keeps_the_partial_file() {
    let server = Server::start();
    let data = bytes(3_000_000);
    server.put("/w.bin", &data);
    let space = space_with(&format!("url = \"{}\"", server.url("/w.bin")));
    let limited = format!("trap '' XFSZ; ulimit -f 1000; exec {} weights fetch net", env!("CARGO_BIN_EXE_erw"));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &limited]).current_dir(space.path("")).env("ERW_REGISTRY", space.path("registry.toml"));
    let said = Said::from(command.finish()).expect(2);
    assert!(said.stderr.contains("w.bin.part") && said.stderr.contains("free some space"), "{}", said.stderr);
    let kept = fs::metadata(space.path("cache/downloads/net/w.bin.part")).unwrap().len() as usize;
    assert!(kept > 0 && kept < data.len());
    Said::from(unconfigured(&space, &["weights", "fetch", "net"]).finish()).expect(0);
    assert!(fs::read(space.path("cache/downloads/net/w.bin")).unwrap() == data);
    assert_eq!(server.log().last().map(|a| (a.status, a.sent)), Some((206, data.len() - kept)));
}

#[test]
fn concurrent_fetches_download_once() {
    let lab = Lab::new();
    let data = bytes(300_000);
    lab.server.put_with("/w", &data, &[Fault::Slowly(5)]);
    let entry = lab.at("/w", "");
    let ears = std::thread::scope(|scope| {
        let one = || {
            let ear = Ear::default();
            lab.library().obtain(&entry, None, &ear).unwrap();
            ear.text()
        };
        let all: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(lab.traffic(), [(200, 300_000)]);
    assert!(ears.iter().any(|said| said.contains("another process")), "{ears:?}");
}

/// A space with a registry of one file `net`.
fn space_with(address: &str) -> Space {
    let entry = "[[entry]]\nname = \"net\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"MIT\"\n";
    Space::of(&[("registry.toml", &format!("{entry}[[entry.from]]\n{address}\n"))])
}

#[test]
fn a_killed_fetch_resumes() {
    let server = Server::start();
    let data = bytes(4_000_000);
    server.put_with("/w.bin", &data, &[Fault::Slowly(10)]);
    let space = space_with(&format!("url = \"{}\"\nsha256 = \"{}\"", server.url("/w.bin"), sum(&data)));
    let mut child =
        unconfigured(&space, &["weights", "fetch", "net"]).stderr(Stdio::null()).stdout(Stdio::null()).start();
    let part = space.path("cache/downloads/net/w.bin.part");
    space.until("a megabyte", || fs::metadata(&part).is_ok_and(|m| m.len() > 1_000_000));
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = fs::metadata(&part).unwrap().len() as usize;
    assert!(kept < data.len());
    let said = Said::from(unconfigured(&space, &["weights", "fetch", "net"]).finish()).expect(0);
    assert!(fs::read(space.path("cache/downloads/net/w.bin")).unwrap() == data);
    assert_eq!(server.log().last().map(|a| (a.status, a.sent)), Some((206, data.len() - kept)));
    assert!(said.stderr.contains("resuming"), "{}", said.stderr);
    Said::from(unconfigured(&space, &["weights", "verify", "net"]).finish()).expect(0);
}

#[test]
fn certificates_that_cannot_be_used_are_named() {
    let space = space_with("url = \"https://files.invalid/w.bin\"");
    space.write("empty.pem", "no certificate");
    for (file, expected) in [("empty.pem", "contains no certificates"), ("absent.pem", "cannot use SSL_CERT_FILE")] {
        let mut command = unconfigured(&space, &["weights", "fetch", "net"]);
        let said = Said::from(command.env("SSL_CERT_FILE", space.path(file)).finish());
        assert!(said.stderr.contains(expected) && said.stderr.contains(file), "{}", said.stderr);
        assert!(!space.path("cache/downloads/net/w.bin").exists());
    }
}

#[test]
fn proxies_and_endpoint_come_from_the_environment() {
    let server = Server::start();
    server.put("/org/net/resolve/v1/w.bin", b"some bytes");
    let space = space_with("hub = \"org/net\"\nrevision = \"v1\"\nfile = \"w.bin\"");
    let command = |settings: &[(&str, &str)]| {
        let _ = fs::remove_dir_all(space.path("cache/downloads"));
        let mut command = unconfigured(&space, &["weights", "fetch", "net"]);
        command.env("HF_TOKEN", "secret").envs(settings.iter().copied());
        Said::from(command.finish())
    };
    let fetch = |settings: &[(&str, &str)]| {
        command(settings).expect(0);
        assert_eq!(fs::read(space.path("cache/downloads/net/w.bin")).unwrap(), b"some bytes");
        let asked = server.log().pop().unwrap();
        assert_eq!(asked.header("authorization"), Some("Bearer secret"));
        asked.header("host").unwrap().to_string()
    };
    let (here, plain, gone) = (server.url(""), "http://hub.invalid", "http://127.0.0.1:9");
    assert!(here.ends_with(&fetch(&[("HF_ENDPOINT", &here)])));
    assert_eq!(fetch(&[("HF_ENDPOINT", plain), ("ALL_PROXY", &here)]), "hub.invalid");
    assert_eq!(fetch(&[("HF_ENDPOINT", plain), ("https_proxy", &here), ("HTTP_PROXY", gone)]), "hub.invalid");
    assert!(here.ends_with(&fetch(&[("HF_ENDPOINT", &here), ("ALL_PROXY", gone), ("NO_PROXY", "127.0.0.1")])));
    assert_eq!(server.log().len(), 4);
    // What is encrypted goes through a tunnel, at whose end this server understands nothing.
    let said = command(&[("HF_ENDPOINT", "https://hub.invalid"), ("ALL_PROXY", &here)]).expect(1).stderr;
    assert!(said.contains("the request went through the proxy in ALL_PROXY"), "{said}");
    let tunnels = server.tunnels();
    assert!(!tunnels.is_empty() && tunnels.iter().all(|t| t == "hub.invalid:443"), "{tunnels:?}");
    assert_eq!(server.log().len(), 4);
}
