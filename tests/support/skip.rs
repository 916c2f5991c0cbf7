//! Tests that cannot run on this machine say so and are counted.

use super::deadline::Deadline;
use super::space::Said;
use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::process::Command;

/// Says on standard error, and in the file that `ERW_SKIPPED` names, that this test or a part of it
/// is skipped. The caller returns.
#[track_caller]
pub fn skip(why: &str) {
    let thread = std::thread::current();
    // With `--test-threads=1` libtest runs tests on the main thread, which has no name of a test.
    let name = thread.name().filter(|name| *name != "main");
    let name = name.map_or_else(|| Location::caller().to_string(), String::from);
    let line = format!("SKIPPED {name}: {why}\n");
    // libtest captures what macros print, but not what is written to the stream.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(path) = std::env::var_os("ERW_SKIPPED") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Runs itself once more, and skips there.
#[test]
fn a_skip_is_printed_and_counted() {
    const INNER: &str = "ERW_TEST_OF_SKIP";
    const NAME: &str = "support::skip::a_skip_is_printed_and_counted";
    if std::env::var_os(INNER).is_some() {
        return skip("a reason");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut own = Command::new(std::env::current_exe().unwrap());
    own.args(["--exact", NAME, "--test-threads=2"]).env(INNER, "1").env("ERW_SKIPPED", file.path());
    let said = Said::from(own.finish()).expect(0);
    let line = format!("SKIPPED {NAME}: a reason\n");
    assert!(said.stderr.contains(&line), "{}", said.stderr);
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), line);
}
