//! Decides whether the top-level folders of a set are classes, or something whose use as classes
//! would lose the labels. It looks at names only, and does not question what the user has stated.

use super::classes::first;
use candle_core::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// How the classes of images in folders are determined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Classes {
    /// By the top-level folders, unless they look like something else.
    #[default]
    Auto,
    /// By the top-level folders in any case.
    Folders,
    /// All images are of one class.
    One,
}

/// What the top-level folders seem to be instead of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// One folder that contains the class folders.
    Wrapped { around: PathBuf, classes: Vec<String> },
    /// Splits of a data set; the first is the training split.
    Parts { parts: Vec<PathBuf> },
    /// Folders that may be classes, each of which holds splits of its own.
    Inside { folders: Vec<String>, parts: Vec<String> },
    /// Images, beside folders with annotations or similar.
    Beside { images: PathBuf, others: Vec<String> },
    /// Folders of a thousand images each, named by number.
    Pieces { folders: Vec<String> },
    /// Archives of a numbered series, without labels.
    Shards { shards: Vec<String> },
    /// Windows paths that a program stored as file names.
    Backslashes { file: String },
}

impl Doubt {
    /// Whether they are splits whose names have further words, as `seg_train`.
    pub fn is_worded(&self) -> bool {
        let Self::Parts { parts } = self else { return false };
        let rest = |folder: &PathBuf| part(&folder.file_name()?.to_string_lossy()).map(|(_, rest)| rest);
        parts.iter().filter_map(rest).any(|rest| !rest.is_empty())
    }

    /// The folder that was probably meant.
    pub fn meant(&self) -> Option<&Path> {
        match self {
            Self::Wrapped { around, .. } => Some(around),
            Self::Parts { parts } => parts.first().map(PathBuf::as_path),
            Self::Beside { images, .. } => Some(images),
            Self::Inside { .. } | Self::Pieces { .. } | Self::Shards { .. } | Self::Backslashes { .. } => None,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrapped { around, classes } => {
                write!(f, "its folder `{}` contains what look like the classes, {}", around.display(), ticked(classes))
            }
            Self::Parts { parts } => {
                let parts: Vec<_> = parts.iter().map(|p| p.display().to_string()).collect();
                write!(f, "its folders {} look like parts of a data set, not like classes", ticked(&parts))
            }
            Self::Inside { folders, parts } => {
                let (folders, parts) = (ticked(folders), ticked(parts));
                write!(f, "its folders {folders} hold what look like parts of a data set, {parts}, not one class each")
            }
            Self::Beside { images, others } => {
                let images = images.display();
                write!(f, "its folders {} lie beside `{images}` and look like no classes", ticked(others))
            }
            Self::Pieces { folders } => {
                write!(f, "its folders {} look like chunks of a numbered set, not like classes", ticked(folders))
            }
            Self::Shards { shards } => {
                let shards = ticked(shards);
                write!(f, "its archives {shards} look like shards of one set, not like classes, and hold no labels")
            }
            Self::Backslashes { file } => {
                write!(f, "the file name `{file}` contains a backslash, which is a path separator on Windows")
            }
        }
    }
}

fn ticked(names: &[String]) -> String {
    first(names.iter().map(|name| format!("`{name}`")))
}

/// The reason not to use the top-level folders of these images as classes, if there is one.
pub fn doubt(images: &[&Path]) -> Option<Doubt> {
    let mut folder = PathBuf::new();
    let mut level = Level::of(images, &folder);
    if let Some(file) = level.direct.as_ref().filter(|name| name.contains('\\')) {
        return Some(Doubt::Backslashes { file: file.clone() });
    }
    while let (None, Some((only, 1))) = (&level.direct, level.folders.keys().next().map(|n| (n, level.folders.len()))) {
        folder.push(only);
        level = Level::of(images, &folder);
    }
    let names: Vec<String> = level.folders.keys().cloned().collect();
    if let Some(parts) = parts(&names) {
        return Some(Doubt::Parts { parts: parts.iter().map(|part| folder.join(part)).collect() });
    }
    if level.direct.is_some() || names.is_empty() {
        return None;
    }
    if let Some(parts) = level.parts_inside() {
        return Some(Doubt::Inside { folders: names, parts });
    }
    if let Some((images, others)) = beside(&names) {
        return Some(Doubt::Beside { images: folder.join(images), others });
    }
    let at_top = folder.as_os_str().is_empty();
    match is_in_pieces(images, &folder, &names) {
        true => return at_top.then_some(Doubt::Pieces { folders: names }),
        false if !at_top => return Some(Doubt::Wrapped { around: folder, classes: names }),
        false => {}
    }
    let around = PathBuf::from(level.around()?);
    let classes = Level::of(images, &around).folders.into_keys().collect();
    Some(Doubt::Wrapped { around, classes })
}

/// The reason not to take these archives, by their names without extension, as one set: they are of
/// several splits; or, if no label was found in them, as classes: they are numbered.
pub fn doubt_of_shards(names: &[&Path], labelled: bool) -> Option<Doubt> {
    if names.is_empty() {
        return None;
    }
    let all: Vec<Series> = names.iter().map(|name| series(name)).collect();
    let mut parts: Vec<(usize, &str)> = all.iter().filter_map(|s| Some((split_of(s.name)?, s.name))).collect();
    parts.sort_unstable();
    parts.dedup();
    if parts.first().map(|(kind, _)| kind) != parts.last().map(|(kind, _)| kind) {
        return Some(Doubt::Parts { parts: parts.into_iter().map(|(_, name)| name.into()).collect() });
    }
    let mut numbers: Vec<u64> = all.iter().map_while(|s| s.number.filter(|_| s.name == all[0].name)).collect();
    numbers.sort_unstable();
    let follow = || numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    // Digits alone are classes: those of MNIST.
    let width = names[0].as_os_str().len();
    let padded = width > 1 && names.iter().all(|name| name.as_os_str().len() == width);
    let numbered = names.len() > 1 && numbers.len() == names.len() && numbers[0] < 2 && padded && follow();
    let shown = || names.iter().map(|name| name.display().to_string()).collect();
    (numbered && !labelled).then(|| Doubt::Shards { shards: shown() })
}

/// The place of a file in a series, as its name states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series<'a> {
    /// `train` for `train-000012` and for `train-00012-of-00064`, `n` for `n01440764`.
    pub name: &'a str,
    pub number: Option<u64>,
    /// How many files the series has.
    pub count: Option<u64>,
    /// The name with what precedes the number.
    head: &'a str,
    digits: &'a str,
    /// `-of-00064`.
    tail: &'a str,
}

impl Series<'_> {
    /// The name of a file of this series.
    fn file(&self, number: u64) -> String {
        format!("{}{number:0width$}{}", self.head, self.tail, width = self.digits.len())
    }
}

/// The series of a file, by its name without extension.
pub fn series(name: &Path) -> Series<'_> {
    let whole = name.to_str().unwrap_or_default();
    // The Hub once added a hash of 16 digits.
    let is_hash = |end: &str| end.len() == 16 && end.bytes().all(|b| b.is_ascii_hexdigit());
    let whole = whole.rsplit_once('-').filter(|(_, end)| is_hash(end)).map_or(whole, |(name, _)| name);
    let numberless = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let counted = whole[..numberless(whole)].strip_suffix("-of-");
    let (rest, count) = counted.map_or((whole, None), |rest| (rest, whole[numberless(whole)..].parse().ok()));
    let (head, digits) = rest.split_at(numberless(rest));
    let name = head.trim_end_matches(['-', '_', '.', '/']);
    Series { name, number: digits.parse().ok(), count, head, digits, tail: &whole[rest.len()..] }
}

/// Checks that files whose names state how many there are, `train-00000-of-00003`, are all there,
/// and each of them once. `names` are without extension, which is `extension`; `root` holds them.
///
/// # Errors
/// When one is missing, or two have the same number. The innermost error is the hint.
pub fn check_series(root: &Path, names: &[&Path], extension: &str) -> Result<()> {
    let shown = root.display();
    let mut found: BTreeMap<&str, BTreeMap<u64, BTreeMap<u64, &Path>>> = BTreeMap::new();
    let refused = |hint: String, text: String| Err(Error::msg(hint).context(format!("{shown}: {text}")));
    let full = |name: &Path| format!("{}.{extension}", name.display());
    for name in names {
        let series = series(name);
        let (Some(number), Some(count)) = (series.number, series.count) else { continue };
        let of_count = found.entry(series.head).or_default().entry(count).or_default();
        if let Some(other) = of_count.insert(number, name) {
            let text = format!("{} and {} are both number {number} of {count}", full(other), full(name));
            return refused("keep one of them: their images would be taken twice".into(), text);
        }
    }
    for of_count in found.values() {
        if let (Some((few, a)), Some((many, b)), true) =
            (of_count.first_key_value(), of_count.last_key_value(), of_count.len() > 1)
        {
            let [a, b] = [a, b].map(|files| files.values().next().map_or_else(String::new, |name| full(name)));
            let text = format!("{a} is one of {few} files and {b} one of {many}, as if a set lay there twice");
            return refused("keep the files of one of them".into(), text);
        }
        for (count, files) in of_count {
            // A few programs count from 1.
            let start = u64::from(!files.contains_key(&0) && files.contains_key(count));
            if let Some((number, name)) =
                files.last_key_value().filter(|(number, _)| **number >= start.saturating_add(*count))
            {
                return refused(
                    "keep the files of one set".into(),
                    format!("{} is number {number} of {count}", full(name)),
                );
            }
            let Some((_, one)) = files.first_key_value() else { continue };
            let mut absent = (start..start.saturating_add(*count)).filter(|number| !files.contains_key(number));
            let few: Vec<String> = absent.by_ref().take(3).map(|number| series(one).file(number)).collect();
            if few.is_empty() {
                continue;
            }
            let more = (count - files.len() as u64).saturating_sub(few.len() as u64);
            let listed: Vec<String> = few.iter().map(|name| format!("{name}.{extension}")).collect();
            let listed = listed.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
            let there = root.join(full(one));
            return refused(
                format!(
                    "download what is missing; or name the files that are meant, as `{}` or by braces as in \
                     `NAME-{{00000..00007}}-of-00064.{extension}`",
                    there.display()
                ),
                format!("{listed} {} missing", if few.len() > 1 { "are" } else { "is" }),
            );
        }
    }
    Ok(())
}

/// 0, 1 or 2 for a series of the training, validation or test split, by its last word:
/// `imagenet1k-train`.
fn split_of(series: &str) -> Option<usize> {
    kind_of(&series.rsplit(|c: char| !c.is_alphabetic()).find(|word| !word.is_empty())?.to_lowercase())
}

/// Images that seem to be masks of others, which lie beside them and are named alike: how many, and
/// the first pair.
pub fn masks(images: &[&Path]) -> Option<(usize, PathBuf, PathBuf)> {
    const ENDS: [&str; 8] = ["mask", "masks", "seg", "segmentation", "segm", "gt", "groundtruth", "depth"];
    let key = |image: &Path, stem: &str| image.parent().map(|folder| folder.join(stem));
    let of = |image: &Path| {
        let stem = image.file_stem()?.to_str()?;
        let (base, end) = stem.rsplit_once(['_', '-', '.'])?;
        ENDS.contains(&end.to_lowercase().as_str()).then(|| key(image, base)).flatten()
    };
    let suspects: Vec<(&Path, PathBuf)> = images.iter().filter_map(|image| Some((*image, of(image)?))).collect();
    if suspects.is_empty() {
        return None;
    }
    let stems: HashSet<PathBuf> = images.iter().map(|image| image.with_extension("")).collect();
    let mut masks = suspects.into_iter().filter(|(_, base)| stems.contains(base));
    let (mask, base) = masks.next()?;
    Some((1 + masks.count(), mask.to_path_buf(), base))
}

/// The contents of one level of folders.
#[derive(Default)]
struct Level {
    /// An image directly in it.
    direct: Option<String>,
    folders: BTreeMap<String, Inside>,
}

/// The contents of one of its folders.
#[derive(Default)]
struct Inside {
    count: usize,
    direct: bool,
    folders: BTreeSet<String>,
}

impl Level {
    fn of(images: &[&Path], folder: &Path) -> Self {
        let mut this = Self::default();
        for image in images {
            let Ok(rest) = image.strip_prefix(folder) else { continue };
            let mut parts = rest.components().map(|part| part.as_os_str().to_string_lossy());
            match (parts.next(), parts.next(), parts.next()) {
                (Some(file), None, _) => {
                    this.direct.get_or_insert(file.into_owned());
                }
                (Some(name), Some(second), third) => {
                    let inside = match this.folders.get_mut(name.as_ref()) {
                        Some(inside) => inside,
                        None => this.folders.entry(name.into_owned()).or_default(),
                    };
                    inside.count += 1;
                    match third {
                        None => inside.direct = true,
                        Some(_) if !inside.folders.contains(second.as_ref()) => {
                            inside.folders.insert(second.into_owned());
                        }
                        Some(_) => {}
                    }
                }
                _ => {}
            }
        }
        this
    }

    /// The splits that its folders hold, if each of several holds a split and one holds two.
    fn parts_inside(&self) -> Option<Vec<String>> {
        let names = |inside: &Inside| inside.folders.iter().cloned().collect::<Vec<_>>();
        let is_split = |name: &String| part(name).is_some_and(|(_, rest)| rest.is_empty());
        let each = self.folders.values().all(|inside| !inside.direct && inside.folders.iter().any(is_split));
        if self.folders.len() < 2 || !each {
            return None;
        }
        self.folders
            .values()
            .find_map(|inside| parts(&names(inside)).map(|parts| parts.into_iter().map(String::from).collect()))
    }

    /// The one folder that holds folders and most of the images, if the others hold only a few.
    fn around(&self) -> Option<&str> {
        let is_around = |inside: &Inside| !inside.direct && inside.folders.len() > 1;
        let is_flat = |inside: &Inside| inside.direct && inside.folders.is_empty();
        let (name, inside) = self.folders.iter().find(|(_, inside)| is_around(inside))?;
        let others = || self.folders.iter().filter(|(other, _)| *other != name).map(|(_, inside)| inside);
        (others().all(is_flat) && others().map(|o| o.count).sum::<usize>() < inside.count).then_some(name.as_str())
    }
}

/// The names that denote splits, in the order training, validation, test. `None` unless there are
/// at least two: a single one may be a class, such as trains. Names with another word, as
/// `seg_train`, denote splits if another one has the same, `seg_test`; those of stations and tubes
/// do not.
fn parts(names: &[String]) -> Option<Vec<&str>> {
    let mut found: BTreeMap<String, Vec<(usize, &str)>> = BTreeMap::new();
    for name in names {
        if let Some((kind, rest)) = part(name) {
            found.entry(rest).or_default().push((kind, name.as_str()));
        }
    }
    let mut split = found.into_iter().find_map(|(rest, names)| {
        let kinds: BTreeSet<usize> = names.iter().map(|(kind, _)| *kind).collect();
        (kinds.len() > 1 && (rest.is_empty() || kinds.contains(&0))).then_some(names)
    })?;
    split.sort_unstable();
    Some(split.into_iter().map(|(_, name)| name).collect())
}

/// 0, 1 or 2 for training, validation or test, from names such as `train`, `Val2017` or
/// `test_images`, and the other words of the name.
fn part(name: &str) -> Option<(usize, String)> {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    let (kinds, others): (Vec<&str>, Vec<&str>) = words
        .filter(|word| !["set", "split", "data", "images", "image", "imgs", "img"].contains(word))
        .partition(|word| kind_of(word).is_some());
    match kinds.as_slice() {
        [word] => Some((kind_of(word)?, others.join(" "))),
        _ => None,
    }
}

/// 0, 1 or 2 for a word in lower case that means training, validation or test.
fn kind_of(word: &str) -> Option<usize> {
    const PARTS: [&[&str]; 3] = [
        &["train", "training", "trainset", "traina", "trainb"],
        &["val", "valid", "validation", "dev", "valset", "vala", "valb"],
        &["test", "testing", "testset", "testa", "testb", "eval", "evaluation", "holdout"],
    ];
    PARTS.iter().position(|words| words.contains(&word))
}

/// The folder of images, and the folders beside it that are not classes, if the names say so.
fn beside(names: &[String]) -> Option<(String, Vec<String>)> {
    const IMAGES: [&str; 6] = ["images", "image", "imgs", "img", "jpegimages", "pictures"];
    const OTHERS: [&str; 13] = [
        "annotations",
        "annotation",
        "labels",
        "masks",
        "mask",
        "segmentation",
        "segmentations",
        "segmentationclass",
        "segmentationobject",
        "depth",
        "thumbnails",
        "thumbs",
        "previews",
    ];
    let (images, others): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| IMAGES.contains(&name.to_lowercase().as_str()));
    let only = |name: &&String| OTHERS.contains(&name.to_lowercase().as_str());
    match images.as_slice() {
        [one] if !others.is_empty() && others.iter().all(only) => {
            Some(((*one).clone(), others.into_iter().cloned().collect()))
        }
        _ => None,
    }
}

/// Whether folders hold their images by the thousand: `00012/img00012345.png` (EDM2),
/// `12000/12345.png` (FFHQ).
fn is_in_pieces(images: &[&Path], folder: &Path, names: &[String]) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let fits = |image: &&Path| {
        let rest = image.strip_prefix(folder).ok()?;
        let piece: u64 = rest.components().next()?.as_os_str().to_str()?.parse().ok()?;
        let stem = rest.file_stem()?.to_str()?;
        let digits = stem.len() - stem.bytes().rev().take_while(u8::is_ascii_digit).count();
        let number: u64 = stem[digits..].parse().ok()?;
        Some(number / 1000 == piece || number / 1000 * 1000 == piece)
    };
    names.iter().all(|name| is_number(name)) && images.iter().all(|image| fits(image).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(images: &[&str]) -> Option<Doubt> {
        doubt(&images.iter().map(Path::new).collect::<Vec<_>>())
    }

    #[test]
    fn classes_are_not_doubted() {
        for images in [
            &["cat/0.png", "dog/0.png"][..],
            &["0.png", "1.png"],
            &["train/0.png", "bus/1.png"],
            &["test/0.png"],
            &["train/0.png"],
            &["faces/0.png", "faces/1.png"],
            &["a/b/c/0.png"],
            &["cat/deep/0.png", "cat/1.png", "dog/0.png"],
            &["cat/a/0.png", "cat/b/0.png", "dog/a/0.png", "dog/b/0.png"],
            &["images1024x1024/00000/00001.png", "images1024x1024/01000/01001.png"],
            &["train_station/0.png", "test_tube/0.png", "valley/0.png"],
            &["dev_board/0.png", "test_board/0.png"],
            &["cat/train/0.png", "cat/test/0.png", "dog/0.png", "dog/1.png"],
            &["cat/young/0.png", "cat/test/0.png", "dog/young/0.png"],
            &["labels/0.png", "masks/0.png"],
            &["0000045/001.png", "0000046/002.png"],
            &["0/0.png", "1/1000.png"],
            &["images/0.png"],
        ] {
            assert_eq!(of(images), None, "{images:?}");
        }
    }

    #[test]
    fn series_are_told_from_their_names() {
        for (name, expected) in [
            ("train-000012", ("train", Some(12))),
            ("train-00012-of-00064", ("train", Some(12))),
            ("imagenet1k-train-0007", ("imagenet1k-train", Some(7))),
            ("data/test-00000-of-00001-a09b74b3ef9c3b56", ("data/test", Some(0))),
            ("train/0003", ("train", Some(3))),
            ("n01440764", ("n", Some(1_440_764))),
            ("0", ("", Some(0))),
            ("cats", ("cats", None)),
            ("a-of-3", ("a", None)),
        ] {
            let series = series(Path::new(name));
            assert_eq!((series.name, series.number), expected, "{name}");
        }
        let counted = series(Path::new("data/test-00000-of-00012-a09b74b3ef9c3b56"));
        assert_eq!((counted.count, counted.file(7)), (Some(12), "data/test-00007-of-00012".into()));
        assert_eq!(series(Path::new("train-000012")).count, None);
        let doubt = |names: &[&str], labelled| {
            let names: Vec<&Path> = names.iter().map(Path::new).collect();
            doubt_of_shards(&names, labelled).map(|doubt| doubt.to_string())
        };
        let numbered = ["x-0", "x-1", "x-2"];
        assert!(doubt(&numbered, false).is_some_and(|text| text.contains("shards of one set")));
        assert_eq!(doubt(&numbered, true), None);
        for classes in [&["n01440764", "n01443537"][..], &["cat", "dog"], &["x-0"], &["a-0", "b-1"], &["0", "1"]] {
            assert_eq!(doubt(classes, false), None, "{classes:?}");
        }
        let splits = ["imagenet-train-0", "imagenet-train-1", "imagenet-validation-0"];
        let text = "its folders `imagenet-train`, `imagenet-validation` look like parts of a data set";
        assert!(doubt(&splits, true).is_some_and(|said| said.starts_with(text)));
    }

    #[test]
    fn what_loses_labels_is_doubted() {
        let meant =
            |images: &[&str]| of(images).map(|d| d.meant().map(|m| m.display().to_string()).unwrap_or_default());
        let cases: [(&[&str], &str); 21] = [
            (&["pets/cat/0.png", "pets/dog/0.png"], "pets"),
            (&["a/b/cat/0.png", "a/b/dog/0.png"], "a/b"),
            (&["train/cat/0.png", "train/dog/0.png"], "train"),
            (&["pets/cat/0.png", "pets/dog/0.png", "pets/dog/1.png", "docs/logo.png"], "pets"),
            (&["train/cat/0.png", "val/cat/0.png"], "train"),
            (&["test/0.png", "train/0.png"], "train"),
            (&["x/Val/cat/0.png", "x/Training/cat/0.png"], "x/Training"),
            (&["train2017/0.png", "val2017/0.png", "extra/0.png"], "train2017"),
            (&["testA/0.png", "trainA/0.png", "trainB/0.png"], "trainA"),
            (&["test_images/0.png", "validation-set/0.png"], "validation-set"),
            (&["seg_test/cat/0.png", "seg_train/cat/0.png"], "seg_train"),
            (&["my_test_set/0.png", "my_train_set/0.png"], "my_train_set"),
            (&["train_hq/0.png", "val_hq/0.png"], "train_hq"),
            (&["x/seg_test/cat/0.png", "x/seg_train/cat/0.png"], "x/seg_train"),
            (&["cat/test/0.png", "cat/train/0.png", "dog/train/0.png"], ""),
            (&["a/train/good/0.png", "a/test/cut/0.png", "a/ground_truth/cut/0.png", "b/test/good/0.png"], ""),
            (&["images/0.png", "masks/0.png"], "images"),
            (&["VOC/JPEGImages/0.jpg", "VOC/SegmentationClass/0.png"], "VOC/JPEGImages"),
            (&["00000/img00000001.png", "00001/img00001001.png"], ""),
            (&["00000/00000.png", "01000/01001.png"], ""),
            (&[r"cat\0.png", r"dog\0.png"], ""),
        ];
        for (images, expected) in cases {
            assert_eq!(meant(images).as_deref(), Some(expected), "{images:?}");
        }
    }

    #[test]
    fn masks_are_told_from_the_images_beside_them() {
        let of = |images: &[&str]| masks(&images.iter().map(Path::new).collect::<Vec<_>>());
        for images in [&["a/0.png", "a/0_mask.png", "a/1.png", "a/1_mask.png"][..], &["x.jpg", "x.seg.png"]] {
            assert_eq!(of(images).map(|(count, ..)| count), Some(images.len() / 2), "{images:?}");
        }
        for images in [&["a/0.png", "b/0_mask.png"][..], &["gas_mask.png", "gas.mask/0.png"], &["mask.png", "0.png"]] {
            assert_eq!(of(images), None, "{images:?}");
        }
    }
}
