//! `erw report`: the page in a real browser, and what it says of pipelines that failed, never ran or
//! are at work.

use crate::support::browser::Browser;
use crate::support::deadline::Deadline;
use crate::support::disk::Disk;
use crate::support::space::Space;
use crate::support::{training, venv};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::{Child, Stdio};

/// Two measurements of a training, whose numbers make a curve, and four trials in two groups.
const MEASURED: &str = r#"
[stages.fd-10]
kind = "command"
run = '''echo '{"fd": '$(({params.gap} + 10))'}' > {outputs.m}; : {inputs.t}'''
inputs = { t = "train" }
outputs = { m = "metrics" }
params = { gap = 0 }
[stages.fd-20]
kind = "command"
run = '''echo '{"fd": '$(({params.gap} + 5))'}' > {outputs.m}; : {inputs.t}'''
inputs = { t = "train" }
outputs = { m = "metrics" }
params = { gap = 0 }
[sweep]
"train.seed" = [0, 1]
[[sweep.trials]]
name = "near"
"fd-10.gap" = 0
"fd-20.gap" = 0
"train.lr" = 1e-3
[[sweep.trials]]
name = "far"
"fd-10.gap" = 2
"fd-20.gap" = 2
"train.lr" = 2e-3
"#;

/// Short, with pictures.
const SHORT: [&str; 4] = ["--set", "train.steps=6", "--set", "train.samples_every=2"];

fn report(space: &Space, args: &[&str]) -> String {
    space.erw(&[&["report"], args].concat()).expect(0);
    space.read("report.html")
}

fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let found =
        browser.run(&format!("return Array.from(document.querySelectorAll({selector:?})).map((e) => e.textContent)"));
    found.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

/// Serious findings of axe.
fn findings(browser: &Browser) -> Vec<String> {
    let axe = std::fs::read_to_string(venv::file("axe_core_python/axe.min.js")).unwrap();
    browser.run(&axe);
    let found = browser.wait("const done = arguments[arguments.length - 1]; axe.run().then((r) => done(r.violations))");
    let is_serious = |v: &&Value| matches!(v["impact"].as_str(), Some("serious" | "critical"));
    let told = |v: &Value| format!("{}: {}", v["help"], v["nodes"][0]["html"]);
    found.as_array().unwrap().iter().filter(is_serious).map(told).collect()
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
}

#[test]
fn a_page_works_in_a_browser() {
    let space = training::space(MEASURED);
    let args = [&["sweep", "p.toml", "--plain", "--report", "report.html"], &SHORT[..]].concat();
    space.erw(&args).expect(0);
    let Some(browser) = Browser::start() else { return };
    browser.open(&space.path("report.html"));
    assert_eq!(texts(&browser, "h1"), ["exact"]);
    assert_eq!(texts(&browser, "#graph a title").len(), 6, "each stage, and each leads somewhere");

    // Trials: sorted by a number, filtered by text and by a condition.
    let trials = || texts(&browser, "#table-trials tbody tr:not([hidden]) th");
    assert_eq!(trials(), ["near", "far"]);
    let column = "#table-trials thead th:last-child button";
    browser.click(column);
    assert_eq!(trials(), ["near", "far"]);
    browser.click(column);
    assert_eq!(trials(), ["far", "near"]);
    let search = "#table-trials input";
    browser.keys(search, "fd-20.fd < 6");
    assert_eq!(trials(), ["near"]);
    browser.run("document.querySelector('#table-trials input').value = ''");
    browser.keys(search, "fd-20 < 6");
    assert_eq!(trials(), ["near"], "a stage stands for its first result, not for its setting");
    assert_eq!(texts(&browser, "#table-trials output"), ["1 of 2 rows"]);
    let copied = browser.wait(
        "const done = arguments[arguments.length - 1];
         navigator.clipboard.writeText = (text) => { done(text); return Promise.resolve(); };
         document.querySelector('#table-trials .copy').click()",
    );
    let copied = copied.as_str().unwrap();
    assert!(copied.starts_with("trial,") && copied.lines().count() == 2 && copied.contains("near,"), "{copied}");

    // Pictures: the last step first, all trials move together.
    let shown = || texts(&browser, "#pictures .gallery:first-of-type figure:not([hidden]) figcaption");
    assert_eq!(shown(), vec!["step 6"; 4]);
    browser.keys("#pictures input[type=range]", "\u{E012}");
    assert_eq!(shown(), vec!["step 4"; 4]);
    let sizes = browser.run("return Array.from(document.images).map((i) => i.naturalWidth)");
    assert!(sizes.as_array().unwrap().iter().all(|w| w.as_u64() > Some(0)), "{sizes}");

    // Curves: values under the pointer and by keys, and a logarithmic axis.
    let loss = "[aria-label=\"loss of train\"]";
    let told = || texts(&browser, &format!("{loss} .legend span")).join(" | ");
    let plain = told();
    assert!(plain.starts_with("last | near ") && plain.contains(" | far "), "{plain}");
    browser.run(&format!("document.querySelector('{loss}').focus()"));
    browser.keys(loss, "\u{E014}");
    assert!(told().starts_with("1 | near ") && told() != plain, "{}", told());
    browser.run("document.activeElement.blur()");
    assert_eq!(told(), plain);
    let lines = browser.run(&format!("return document.querySelectorAll('{loss} .linear polygon').length"));
    assert_eq!(lines, 2, "a band for each trial");

    // A stage of the picture leads to its part, which opens.
    browser.run("document.querySelector('#graph a').dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true }))");
    let target = browser.run("return location.hash");
    assert_eq!(
        browser.run(&format!("return document.getElementById('{}').open", &target.as_str().unwrap()[1..])),
        true
    );

    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(findings(&browser), Vec::<String>::new());

    // Dark, narrow, and without its script.
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.devtools("Emulation.setEmulatedMedia", dark);
    let narrow = json!({ "width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": true });
    browser.devtools("Emulation.setDeviceMetricsOverride", narrow);
    browser.open(&space.path("report.html"));
    let back = browser.run("return getComputedStyle(document.body).backgroundColor");
    assert_eq!(back, "rgb(13, 17, 23)");
    assert_eq!(browser.run("return document.documentElement.scrollWidth"), 360, "nothing is wider than the screen");
    assert_eq!(findings(&browser), Vec::<String>::new());
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // Without its script nothing is hidden but what only works with it.
    let page = space.read("report.html");
    let page = page.split("</style>").nth(1).unwrap().split("<script>").next().unwrap();
    let tools =
        page.matches("<div class=\"tools\" hidden>").count() + page.matches("<div class=\"slider\" hidden>").count();
    assert_eq!((page.matches(" hidden>").count(), tools), (3, 3), "two tables and a slider");
}

#[test]
fn hostile_names_are_inert_and_a_failure_is_told() {
    let space = Space::new(
        r#"
name = "</script><script>document.title='bad'</script>"
[stages."it"]
kind = "command"
run = '''printf '\033[31m<img src=x onerror="document.title=1">\001 "quoted" </script>\n' >&2; exit 3'''
outputs = { o = "t" }
params = { "</style>" = "\"><script>document.title='bad'</script>", line = "a\nb\u0007" }
[stages.next]
kind = "command"
run = "cat {inputs.i} > {outputs.o}"
inputs = { i = "it" }
outputs = { o = "t" }
"#,
    );
    let said = space.run(&["--report", "report.html"]).expect(1);
    assert!(said.stdout.contains("report.html: "), "{}", said.stdout);
    let page = space.read("report.html");
    assert!(page.contains("What failed") && page.contains("exited with status 3"), "{page}");
    assert!(page.contains("&lt;img src=x onerror=&quot;document.title=1&quot;&gt;"), "the end of its log");
    assert!(!page.contains('\u{1b}') && !page.contains('\u{1}') && !page.contains('\u{7}'));
    let Some(browser) = Browser::start() else { return };
    browser.open(&space.path("report.html"));
    let title = browser.run("return document.title");
    assert_eq!(title, "</script><script>document.title='bad'</script> · erw");
    assert_eq!(browser.run("return document.scripts.length"), 1);
    assert_eq!(browser.run("return document.images.length"), 0);
    assert_eq!(texts(&browser, "#graph title").len(), 2);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_page_that_is_watched_reloads_and_keeps_its_place() {
    let space = training::space(MEASURED);
    space.erw(&[&["sweep", "p.toml", "--plain"], &SHORT[..]].concat()).expect(0);
    let args = [&["report", "p.toml", "--sweep", "--watch"], &SHORT[..]].concat();
    let mut watching = space.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).start();
    space.until("the page", || space.path("report.html").exists());
    let Some(browser) = Browser::start() else {
        interrupt(&watching);
        watching.wait().unwrap();
        return;
    };
    browser.open(&space.path("report.html"));
    browser.click("#table-trials thead th:last-child button");
    browser.click("#table-trials thead th:last-child button");
    browser.run("document.getElementById('stage-latents').open = true; scrollTo(0, 700); window.before = true");
    space.until("a reload", || {
        browser.run("return window.before !== true && document.readyState === 'complete'") == true
    });
    let trials = texts(&browser, "#table-trials tbody th");
    assert_eq!(trials, ["far", "near"], "the table is still sorted");
    assert_eq!(browser.run("return document.getElementById('stage-latents').open"), true);
    assert_eq!(browser.run("return Math.round(scrollY)"), 700);
    interrupt(&watching);
    assert_eq!(watching.wait().unwrap().code(), Some(130));
    assert!(!space.read("report.html").contains("data-reload"), "nobody writes it any more");
}

#[test]
fn a_run_under_way_shows_what_is_there_so_far() {
    let space = training::space("");
    let more = ["--set", "train.steps=1000000", "--set", "train.samples_every=1"];
    let mut running = space.command(&[&["run", "p.toml", "--plain"], &more[..]].concat());
    let mut running = running.stdout(Stdio::null()).stderr(Stdio::null()).start();
    let key = || {
        let work = space.path("cache/v1/work");
        let mut steps = walkdir::WalkDir::new(work).into_iter().flatten();
        steps.any(|e| e.file_name() == "step-000000000003.png")
    };
    space.until("a picture", key);
    let page = report(&space, &[&["p.toml"], &more[..]].concat());
    interrupt(&running);
    running.wait().unwrap();
    assert!(page.contains("1 running") && page.contains("still running"), "{}", &page[..3000]);
    assert!(page.contains("aria-label=\"loss of train\"") && page.contains("Samples during train"));
    let page = report(&space, &[&["p.toml"], &more[..]].concat());
    assert!(page.contains("1 suspended"), "after it was stopped");
}

#[test]
fn nothing_that_ran_and_nothing_to_report_are_told() {
    let space = training::space(MEASURED);
    let page = report(&space, &["p.toml"]);
    assert!(page.contains("no stage has results in this cache yet") && page.contains("never ran"), "{page}");
    assert!(report(&space, &["p.toml", "--sweep"]).contains("4 trials"));
    let refused = |args: &[&str]| space.erw(&[&["report"], args].concat()).expect(2).stderr;
    insta::assert_snapshot!(
        "refused",
        [
            refused(&["p.toml", "-o", "report.pdf"]),
            refused(&["run:2025"]),
            refused(&["q.toml"]),
            refused(&["p.toml", "--max-size", "big"]),
        ]
        .join("\n")
    );
}

#[test]
fn a_full_disk_keeps_the_page_that_was_there() {
    let space = training::space("");
    let Some(disk) = Disk::mount(space.path("small"), "size=64k") else { return };
    space.write("small/report.html", "before");
    disk.fill();
    let said = space.erw(&["report", "p.toml", "-o", "small/report.html"]).expect(2).stderr;
    assert!(said.starts_with("error: cannot write `small/report.html`\ncause: No space left on device"), "{said}");
    assert_eq!(space.read("small/report.html"), "before");
    let names: Vec<_> = std::fs::read_dir(space.path("small")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn damage_and_size_are_told() {
    let space = training::space(MEASURED);
    let args = [&["run", "p.toml", "--plain"], &SHORT[..]].concat();
    space.erw(&args).expect(0);
    let whole = report(&space, &[&["p.toml"], &SHORT[..]].concat());
    assert_eq!(whole.matches("<img").count(), 3, "steps 2, 4 and 6");
    let small = report(&space, &[&["p.toml", "--max-size", "1kB"], &SHORT[..]].concat());
    assert!(small.contains("3 pictures are left out") && !small.contains("<img"));
    assert!(small.contains("more than <code>--max-size</code>"));
    let logs = space.path("cache/v1/logs");
    let pictures = walkdir::WalkDir::new(logs).into_iter().flatten();
    let picture = pictures.into_iter().find(|e| e.file_name() == "step-000000000004.png").unwrap();
    std::fs::write(picture.path(), "damaged").unwrap();
    let damaged = report(&space, &[&["p.toml"], &SHORT[..]].concat());
    assert_eq!(damaged.matches("<img").count(), 2);
    assert!(
        damaged.contains("<code>step-000000000004.png</code> (7 B) is no picture that a page can contain"),
        "{damaged}"
    );
    // A record that is damaged is no result.
    for record in space.bucket("actions") {
        std::fs::write(record, "damaged").unwrap();
    }
    assert!(report(&space, &[&["p.toml"], &SHORT[..]].concat()).contains("no stage has results in this cache yet"));
}

#[test]
fn a_report_of_a_run_is_refused_before_it_and_leaves_its_events_alone() {
    let space = Space::new("[stages.a]\nkind = \"command\"\nrun = \"echo a > {outputs.o}\"\noutputs = { o = \"t\" }\n");
    let said = space.run(&["--report", "report.pdf"]).expect(2).stderr;
    assert!(said.starts_with("error: `report.pdf` does not end in `.html`"), "{said}");
    assert!(!space.path("cache/v1/actions").exists(), "nothing has run");
    let said = space.erw(&["run", "p.toml", "--json", "--report", "report.html"]).expect(0).stdout;
    for line in said.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
    assert!(space.read("report.html").contains("1 cached"));
}

#[test]
fn two_pipelines_stand_beside_each_other() {
    let space = training::space(MEASURED);
    let b = space.read("p.toml").replace("lr = 1e-3, alignment_steps = 9", "lr = 3e-3, alignment_steps = 9");
    space.write("q.toml", &b);
    for file in ["p.toml", "q.toml"] {
        space.erw(&[&["run", file, "--plain"], &SHORT[..]].concat()).expect(0);
    }
    let page = report(&space, &[&["p.toml", "q.toml"], &SHORT[..]].concat());
    assert!(page.contains("params.lr") && page.contains("p.toml: train") && page.contains("q.toml: train"), "{page}");
    assert_eq!(page.matches("<img").count(), 6, "samples of both");
    let run = space.erw(&["log", "--json"]).expect(0).stdout;
    let run: Value = serde_json::from_str(&run).unwrap();
    let id = run[0]["id"].as_str().unwrap();
    let past = report(&space, &[&format!("run:{id}")]);
    assert!(past.contains("<title>exact · erw</title>") && past.contains("aria-label=\"loss of train\""));
    assert!(past.contains("#stage-train"), "connections are found by digests");
}

#[test]
fn an_anonymous_page_names_no_path_host_or_user() {
    let space = training::space("");
    let args = [&["run", "p.toml", "--plain"], &SHORT[..]].concat();
    space.erw(&args).expect(0);
    let host = erw::runner::host::host();
    let folder = space.path("").display().to_string();
    let folder = folder.trim_end_matches('/');
    let open = report(&space, &[&["p.toml"], &SHORT[..]].concat());
    assert!(open.contains(folder) && open.contains("vae-sd"), "else there is nothing to leave out");
    let page = report(&space, &[&["p.toml", "--anonymous"], &SHORT[..]].concat());
    let is_word = |text: &str, word: &str| {
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric());
        text.match_indices(word)
            .any(|(at, _)| !part(text[..at].chars().last()) && !part(text[at + word.len()..].chars().next()))
    };
    let words =
        page.split("base64,").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest)).collect::<String>();
    for secret in [folder, "vae-sd", "shards/", env!("CARGO_MANIFEST_DIR")] {
        assert!(!words.contains(secret), "{secret}");
    }
    assert!(!is_word(&words, &host), "{host}");
}
