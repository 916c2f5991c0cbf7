//! The parsers of foreign files return an error that names the file, or a result, for any bytes.

use super::file;
use super::hostile_pickles::checkpoint;
use crate::support::space::Space;
use erw::ml::formats::WeightsFile;
use proptest::prelude::*;
use std::path::Path;

/// One change to a file. Places are fractions of its length, in 65536ths.
#[derive(Debug, Clone)]
enum Change {
    Flip(u16, u8),
    Set(u16, u8),
    Cut(u16),
    Copy { from: u16, to: u16, n: u8 },
    Insert(u16, Vec<u8>),
    Remove(u16, u8),
}

fn change() -> impl Strategy<Value = Change> {
    // Values at the edge are the ones that break arithmetic.
    let edge = prop_oneof![Just(0u8), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()];
    prop_oneof![
        4 => (any::<u16>(), any::<u8>()).prop_map(|(at, mask)| Change::Flip(at, mask)),
        4 => (any::<u16>(), edge).prop_map(|(at, to)| Change::Set(at, to)),
        1 => any::<u16>().prop_map(Change::Cut),
        2 => (any::<u16>(), any::<u16>(), any::<u8>()).prop_map(|(from, to, n)| Change::Copy { from, to, n }),
        2 => (any::<u16>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        1 => (any::<u16>(), any::<u8>()).prop_map(|(at, n)| Change::Remove(at, n)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let place = |at: u16| bytes.len() * usize::from(at) / 65536;
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Flip(at, mask) => {
                let at = place(*at);
                bytes[at] ^= mask;
            }
            Change::Set(at, to) => {
                let at = place(*at);
                bytes[at] = *to;
            }
            Change::Cut(at) => bytes.truncate(place(*at)),
            Change::Copy { from, to, n } => {
                let (from, to) = (place(*from), place(*to));
                let n = usize::from(*n).min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + n, to);
            }
            Change::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at, n) => {
                let at = place(*at);
                let end = (at + usize::from(*n)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

/// Opens and reads all there is. Both may fail, if the error says which file it was.
fn answers(path: &Path) -> Result<(), TestCaseError> {
    let named = |e: candle_core::Error| {
        let text = e.to_string();
        prop_assert!(text.contains("fuzzed"), "{text}");
        Ok(())
    };
    let file = match WeightsFile::open(path) {
        Ok(file) => file,
        Err(e) => return named(e),
    };
    for (set, n) in file.sets() {
        match file.tensors(&set) {
            Ok(tensors) => prop_assert!(tensors.len() <= n, "{set}"),
            Err(e) => named(e)?,
        }
    }
    drop(file.data(""));
    file.only_set(&["model"]).map_or_else(named, |_| Ok(()))
}

/// Few enough for every run of the suite; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { asked.cases } else { 300 };
    ProptestConfig { cases, failure_persistence: None, ..asked }
}

/// Files of one format, changed here and there.
fn survive(names: &'static [&'static str]) {
    let space = Space::of(&[]);
    let path = space.path("fuzzed");
    let seeds: Vec<Vec<u8>> = names.iter().map(|name| std::fs::read(file(name)).unwrap()).collect();
    let cases = (0..seeds.len(), prop::collection::vec(change(), 1..6));
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&cases, |(seed, changes)| {
        std::fs::write(&path, changed(seeds[seed].clone(), &changes)).unwrap();
        answers(&path)
    });
    result.unwrap();
}

#[test]
fn mutated_checkpoints_do_not_panic() {
    survive(&["run.pt", "types_deflated.pt", "traced.pt", "module.pt", "rare.pt"]);
}

#[test]
fn mutated_legacy_checkpoints_do_not_panic() {
    survive(&["run_legacy.pt", "types_legacy_p2.pt", "types_legacy_p5.pt"]);
}

#[test]
fn mutated_arrays_do_not_panic() {
    survive(&["arrays.npz", "arrays_compressed.npz", "fortran.npy", "version2.npy", "version3.npy"]);
}

#[test]
fn mutated_safetensors_do_not_panic() {
    survive(&["types.twin.safetensors"]);
}

/// In an archive that is whole, so that every change reaches the pickle.
#[test]
fn mutated_pickles_do_not_panic() {
    let space = Space::of(&[]);
    let path = space.path("fuzzed");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(file("run.pt")).unwrap()).unwrap();
    let mut pickle = Vec::new();
    std::io::Read::read_to_end(&mut zip.by_name("run/data.pkl").unwrap(), &mut pickle).unwrap();
    let cases = prop::collection::vec(change(), 1..6);
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&cases, |changes| {
        checkpoint(&path, &changed(pickle.clone(), &changes));
        answers(&path)
    });
    result.unwrap();
}

/// What brings arbitrary bytes to each of the parsers.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
    b"\x80\x02",
    // The four pickles before the list of storages.
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02N.\x80\x02",
    b"\x40\0\0\0\0\0\0\0{",
];

#[test]
fn random_bytes_do_not_panic() {
    let space = Space::of(&[]);
    let path = space.path("fuzzed");
    let cases = (prop::sample::select(&BEGINNINGS), prop::collection::vec(any::<u8>(), 0..300));
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&cases, |(magic, rest)| {
        std::fs::write(&path, [magic, &rest].concat()).unwrap();
        answers(&path)
    });
    result.unwrap();
}

/// Instructions rather than bytes: most of these pickles get far.
#[test]
fn random_pickle_instructions_do_not_panic() {
    let space = Space::of(&[]);
    let path = space.path("fuzzed");
    let mut ops = b"(.012NRabcdeghjlopqrstuiGIJKMQSUXBC)]}os\n\n\0\x01'".to_vec();
    ops.extend(b"\x80\x81\x85\x86\x87\x88\x8a\x8c\x8f\x90\x91\x92\x93\x94");
    let cases = prop::collection::vec(prop::sample::select(ops), 0..80);
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&cases, |ops| {
        checkpoint(&path, &[&ops[..], b"."].concat());
        answers(&path)
    });
    result.unwrap();
}
