//! Metrics of a training step by step, as a table and for TensorBoard, during a training and after
//! it.

use crate::support::deadline::Deadline;
use crate::support::experiment::{Running, is};
use crate::support::training::{command, space};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What a training measures at a step, and how fast it is.
const TITLES: [&str; 9] = [
    "loss",
    "alignment",
    "alignment_weight",
    "velocity",
    "grad_norm",
    "lr",
    "steps_per_s",
    "samples_per_s",
    "data_wait",
];

/// CRC-32C bit by bit, masked as TFRecord has it.
fn masked_crc(data: &[u8]) -> u32 {
    let crc = data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    });
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Step, tag and value of each scalar of an event file, every checksum checked.
fn scalars(file: &[u8]) -> Vec<(u64, String, f32)> {
    let (mut at, mut all) = (0, vec![]);
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    while at < file.len() {
        let size = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let data = &file[at + 12..at + 12 + size];
        assert_eq!(word(at + 8), masked_crc(&file[at..at + 8]), "length at {at}");
        assert_eq!(word(at + 12 + size), masked_crc(data), "data at {at}");
        at += 16 + size;
        if let Some((step, tag, value)) = scalar(data) {
            all.push((step, tag, value));
        } else {
            assert!(data.ends_with(b"\x1a\x0dbrain.Event:2"), "the head of the file");
        }
    }
    all
}

/// Steps below 128, tags and messages below 128 bytes: every length is one byte.
fn scalar(event: &[u8]) -> Option<(u64, String, f32)> {
    let [9, _, _, _, _, _, _, _, _, 16, step, 42, _, 10, _, 10, length, rest @ ..] = event else { return None };
    let (tag, value) = rest.split_at(*length as usize);
    assert_eq!((value.len(), value[0]), (5, 21));
    Some((
        u64::from(*step),
        String::from_utf8(tag.to_vec()).unwrap(),
        f32::from_le_bytes(value[1..].try_into().unwrap()),
    ))
}

/// The one event file below a folder tells every metric at each of so many steps, once and in
/// order.
pub fn every_step_once(dir: &Path, steps: u64) {
    let folders: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(folders.len(), 1, "{folders:?}");
    assert!(folders[0].file_name().unwrap().to_str().unwrap().starts_with("train-"));
    let mut by_tag: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (step, tag, _) in scalars(&std::fs::read(folders[0].join("events.out.tfevents.erw")).unwrap()) {
        by_tag.entry(tag).or_default().push(step);
    }
    for tag in TITLES {
        assert_eq!(by_tag[tag], (1..=steps).collect::<Vec<_>>(), "{tag}");
    }
    assert_eq!(by_tag.len(), TITLES.len());
}

#[test]
fn metrics_by_step_are_a_table() {
    let space = space("");
    let short = ["--set", "train.steps=6", "--set", "train.log_every=2"];
    let table = |more: &[&str], status: i32| {
        space.erw(&[&["metrics", "p.toml", "--steps"], &short[..], more].concat()).expect(status)
    };
    let said = table(&["train"], 2).stderr;
    assert_eq!(
        said,
        "error: stage `train` has no metrics by step\n\
         hint: trainings log them every `log_every` steps, separately for each set of values\n"
    );
    assert_eq!(table(&["--format", "csv"], 0).stdout, "stage,step\n");

    let done = command(&space, "cache", &[&short[..], &["--set", "train.tensorboard=curves"]].concat()).finish();
    assert!(done.status.success());
    let told = String::from_utf8(done.stdout).unwrap();
    let log = format!("to watch: tensorboard --logdir {}", space.path("curves").display());
    assert!(told.lines().any(|l| serde_json::from_str::<Value>(l).unwrap()["text"] == log.as_str()), "{told}");
    let csv = table(&["train", "--format", "csv"], 0).stdout;
    let rows: Vec<Vec<&str>> = csv.lines().map(|l| l.split(',').collect()).collect();
    let titles = [&["stage", "step"][..], &TITLES].concat();
    assert_eq!(rows[0], titles);
    assert_eq!(
        rows[1..].iter().map(|r| [r[0], r[1]]).collect::<Vec<_>>(),
        [["train", "2"], ["train", "4"], ["train", "6"]]
    );
    // In full, as the events told them.
    let metric = |step: u64, name: &str| {
        let mut events = told.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        let found = events.rfind(|e| is(e, "metric", "train") && e["step"] == step && e["name"] == name);
        found.unwrap()["value"].as_f64().unwrap().to_string()
    };
    for (row, step) in rows[1..].iter().zip([2, 4, 6]) {
        for (name, cell) in titles[2..].iter().zip(&row[2..]) {
            assert_eq!(metric(step, name), *cell, "{name} at {step}");
        }
        let wait: f64 = row[10].parse().unwrap();
        assert!((0.0..=1.0).contains(&wait), "{wait}");
    }
    // Every stage that measures, one after the other.
    let both = table(&["--format", "json"], 0).stdout;
    let both: Vec<Value> = serde_json::from_str(&both).unwrap();
    let stages: Vec<&str> = both.iter().map(|r| r["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, [&["warmup"; 5][..], &["train"; 3]].concat());
    assert!(both[0]["alignment_weight"].is_null() && both[5]["loss"].is_number());
    assert!(table(&["train"], 0).stdout.contains(" grad_norm "));
    // Without the files of the attempt, as in a cache that pulled it: what its artifact says of every
    // step.
    std::fs::remove_dir_all(space.path("cache/v1/logs")).unwrap();
    let csv = table(&["train", "--format", "csv"], 0).stdout;
    let titles: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    assert!(csv.lines().count() == 7 && TITLES[..6].iter().all(|title| titles.contains(title)), "{csv}");
    assert!(!csv.lines().nth(1).unwrap().contains(",,"), "each has a value: {csv}");
}

#[test]
fn metrics_are_readable_during_a_training() {
    let space = space("");
    let mut run = Running::start(command(&space, "cache", &[]));
    run.until(|e| is(e, "metric", "train") && e["step"] == 4);
    let csv = space.erw(&["metrics", "p.toml", "--steps", "train", "--format", "csv"]).expect(0).stdout;
    assert!(csv.lines().count() >= 4, "{csv}");
    assert!(run.end().success());
}
