//! The pictures of a report: samples over steps, and what stages show, several sides beside each
//! other. Thins them to a size: first steps between the first and the last, then sides, then the
//! largest pictures.

use super::subject::Subject;
use crate::logs;
use erw_report::page::address;
use erw_report::page::content::{Gallery, Picture, Series};
use erw_report::text::{bytes, count};
use erw_runner::cache::store::Store;
use erw_runner::files::disk::list;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Sides beside each other; more would not be looked at.
const BESIDE: usize = 24;

/// Pictures of one kind, not read yet.
struct Wanted {
    title: String,
    series: Vec<(String, Vec<File>)>,
}

/// The pictures of one side; `None`: of a stage that several share.
type OfSide = (Option<usize>, Vec<File>);

struct File {
    step: Option<u64>,
    path: PathBuf,
    size: u64,
}

impl File {
    fn of(path: PathBuf, step: Option<u64>) -> Self {
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        Self { step, path, size }
    }

    /// In a page, as base64.
    fn cost(&self) -> u64 {
        self.size.div_ceil(3) * 4 + 200
    }
}

/// The pictures, in `room` bytes of the page, and what is left out.
pub fn galleries(subject: &Subject, store: &Store, room: u64) -> (Vec<Gallery>, Vec<String>) {
    let mut notes = vec![];
    let mut all = wanted(subject, store);
    for wanted in all.iter_mut().filter(|wanted| wanted.series.len() > BESIDE) {
        notes.push(format!("`{}` shows the first {BESIDE} of {} trials", wanted.title, wanted.series.len()));
        wanted.series.truncate(BESIDE);
    }
    let left_out = thin(&mut all, room);
    if left_out > 0 {
        notes.push(format!(
            "{} {} left out, so that the page is not larger; `--max-size` allows more",
            count(left_out, "picture"),
            if left_out == 1 { "is" } else { "are" }
        ));
    }
    let mut gallery = |wanted: Wanted| {
        let mut series = vec![];
        for (label, files) in wanted.series {
            let read = |file: File| match picture(&file.path) {
                Ok(address) => Some(Picture { step: file.step, address }),
                Err(why) => {
                    notes.push(format!("`{}`: {why}", wanted.title));
                    None
                }
            };
            let pictures: Vec<Picture> = files.into_iter().filter_map(read).collect();
            if !pictures.is_empty() {
                series.push(Series { label, pictures });
            }
        }
        (!series.is_empty()).then_some(Gallery { title: wanted.title, series })
    };
    let galleries = all.into_iter().filter_map(&mut gallery).collect();
    (galleries, notes)
}

/// A file that stages show, of one name but for a number at its end.
struct Shown {
    name: String,
    file: String,
    is_numbered: bool,
    /// The number, the stage and the path.
    found: Vec<(Option<u64>, usize, PathBuf)>,
}

/// Samples of trainings first, then what stages show.
fn wanted(subject: &Subject, store: &Store) -> Vec<Wanted> {
    let mut previews: Vec<Wanted> = vec![];
    let mut shown: Vec<Shown> = vec![];
    for base in subject.bases() {
        let mut series = vec![];
        for stage in subject.of_base(base) {
            let facts = &subject.facts[stage];
            let dir = facts.logged.as_ref().and_then(|key| logs::pictures(store, key));
            let files = dir.and_then(|dir| list(&dir).ok()).unwrap_or_default();
            let mut files: Vec<File> =
                files.into_iter().map(|path| (step(&path), path)).map(|(step, path)| File::of(path, step)).collect();
            files.sort_by_key(|file| file.step);
            if !files.is_empty() {
                series.push((subject.label_of(stage).to_string(), files));
            }
            for path in facts.record.iter().flat_map(|record| record.shown_paths(store)) {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let (name, number) = numbered(base);
                let is_same =
                    |known: &Shown| known.name == name && known.file == file && known.is_numbered == number.is_some();
                let at = shown.iter().position(is_same);
                let at = at.unwrap_or_else(|| {
                    shown.push(Shown { name: name.into(), file, is_numbered: number.is_some(), found: vec![] });
                    shown.len() - 1
                });
                shown[at].found.push((number, stage, path));
            }
        }
        if !series.is_empty() {
            previews.push(Wanted { title: format!("Samples during {base}"), series });
        }
    }
    previews.extend(shown.into_iter().map(|Shown { name, file, found, .. }| {
        let numbers: BTreeSet<Option<u64>> = found.iter().map(|(number, ..)| *number).collect();
        // A number of its own is a part of the name.
        let title = match numbers.first() {
            Some(Some(only)) if numbers.len() == 1 => format!("{name}-{only}: {file}"),
            _ => format!("{name}: {file}"),
        };
        let mut series: Vec<OfSide> = vec![];
        for (number, stage, path) in found {
            let (side, picture) = (subject.side_of(stage), File::of(path, number.filter(|_| numbers.len() > 1)));
            match series.iter_mut().find(|(known, _)| *known == side) {
                Some((_, files)) => files.push(picture),
                None => series.push((side, vec![picture])),
            }
        }
        series.iter_mut().for_each(|(_, files)| files.sort_by_key(|file| file.step));
        let label = |side: Option<usize>| side.map_or_else(String::new, |side| subject.sides[side].label.clone());
        Wanted { title, series: series.into_iter().map(|(side, files)| (label(side), files)).collect() }
    }));
    previews
}

/// `sample-300` as `sample` and 300. `sample-0300` is another name: both have the number 300.
fn numbered(base: &str) -> (&str, Option<u64>) {
    let found = base.rsplit_once('-').and_then(|(name, text)| Some((name, text, text.parse::<u64>().ok()?)));
    match found {
        Some((name, text, number)) if number.to_string() == text => (name, Some(number)),
        _ => (base, None),
    }
}

/// The number at the end of a file's name.
fn step(path: &Path) -> Option<u64> {
    let stem = path.file_stem()?.to_str()?;
    stem.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Leaves out pictures until the rest costs at most `room`; returns how many.
fn thin(all: &mut Vec<Wanted>, room: u64) -> usize {
    let total = |all: &[Wanted]| all.iter().flat_map(|w| &w.series).map(|(_, files)| files.len()).sum::<usize>();
    let cost = |wanted: &Wanted| wanted.series.iter().flat_map(|(_, files)| files).map(File::cost).sum::<u64>();
    let before = total(all);
    while all.iter().map(cost).sum::<u64>() > room {
        let steps = |wanted: &Wanted| wanted.series.iter().map(|(_, files)| files.len()).max().unwrap_or(0);
        let Some(most) = all.iter_mut().max_by_key(|w| (steps(w) > 2, w.series.len() > 1, cost(w))) else { break };
        if steps(most) > 2 {
            for (_, files) in &mut most.series {
                let last = files.len().saturating_sub(1);
                let mut at = 0..;
                files.retain(|_| at.next().is_some_and(|i: usize| i == last || i.is_multiple_of(2) && i + 1 != last));
            }
        } else if most.series.len() > 1 {
            most.series.pop();
        } else if let Some(at) = (0..all.len()).max_by_key(|i| cost(&all[*i])) {
            all.remove(at);
        }
    }
    before - total(all)
}

/// A file as an address; an error in words if a page cannot contain it.
fn picture(path: &Path) -> Result<String, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = std::fs::read(path).map_err(|e| format!("`{name}` cannot be read: {e}"))?;
    let start = &file[..file.len().min(1024)];
    let is_svg = || {
        std::str::from_utf8(start).map_or_else(|e| e.valid_up_to() > 0, |_| true)
            && String::from_utf8_lossy(start).contains("<svg")
    };
    let mime = match start {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        _ if is_svg() => "image/svg+xml",
        _ => return Err(format!("`{name}` ({}) is no picture that a page can contain", bytes(file.len() as u64))),
    };
    Ok(address(mime, &file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(sizes: &[&[u64]]) -> Wanted {
        let file = |(i, size): (usize, &u64)| File { step: Some(i as u64), path: PathBuf::new(), size: *size };
        let series = |sizes: &&[u64]| (String::new(), sizes.iter().enumerate().map(file).collect());
        Wanted { title: "samples".into(), series: sizes.iter().map(series).collect() }
    }

    #[test]
    fn steps_between_go_first_then_sides_then_the_largest() {
        let steps = |all: &[Wanted]| -> Vec<Vec<u64>> {
            all.iter().flat_map(|w| &w.series).map(|(_, f)| f.iter().filter_map(|f| f.step).collect()).collect()
        };
        let mut all = vec![wanted(&[&[3000; 9], &[3000; 9]])];
        assert_eq!(thin(&mut all, 18 * 4200), 0);
        assert_eq!(thin(&mut all, 11 * 4200), 8);
        assert_eq!(steps(&all), [[0, 2, 4, 6, 8], [0, 2, 4, 6, 8]]);
        assert_eq!(thin(&mut all, 4 * 4200), 6);
        assert_eq!(steps(&all), [[0, 8], [0, 8]]);
        assert_eq!(thin(&mut all, 2 * 4200), 2);
        assert_eq!(steps(&all), [[0, 8]]);
        assert_eq!(thin(&mut all, 100), 2);
        assert!(all.is_empty());
    }

    #[test]
    fn numbers_in_names_are_steps() {
        assert_eq!(numbered("sample-300"), ("sample", Some(300)));
        assert_eq!(numbered("sample-sde"), ("sample-sde", None));
        assert_eq!(numbered("sample-007"), ("sample-007", None));
        assert_eq!(step(Path::new("x/step-000000000250.png")), Some(250));
        assert_eq!(step(Path::new("x/samples.png")), None);
    }
}
