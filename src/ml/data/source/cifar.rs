//! CIFAR-10 as it is published: batches of 32 x 32 images, planes of red, green and blue. The
//! binary version has a label before each image and is mapped. The Python version is pickled and is
//! held in memory (31 MB for a batch of 10,000); a pickle is read as data.

use crate::data::rgb::Rgb;
use crate::formats::parsed::Parsed;
use crate::formats::pickle::Pickle;
use crate::formats::pickle::node::{Id, Node};
use candle_core::{Result, bail};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
/// Bytes of a plane, of an image, and of an image with its label.
const PLANE: usize = SIDE * SIDE;
const IMAGE: usize = 3 * PLANE;
const RECORD: usize = 1 + IMAGE;
/// Batches of the training images, as published.
const BATCHES: usize = 5;

/// Batches that are one set.
#[derive(Debug)]
pub struct Cifar {
    batches: Vec<Batch>,
    classes: Vec<String>,
}

#[derive(Debug)]
struct Batch {
    path: PathBuf,
    labels: Vec<u8>,
    pixels: Pixels,
}

#[derive(Debug)]
enum Pixels {
    /// Records of a label and an image.
    Mapped(Mmap),
    /// Images.
    Held(Vec<u8>),
}

/// The batches in a folder by part, `train` or `test`, in the order of their numbers.
///
/// # Errors
/// When the folder cannot be read, or a batch between others is missing.
pub fn parts(folder: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let mut numbered: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut parts = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = name.strip_suffix(".bin").unwrap_or(name);
        // If a batch is there in both versions, the binary one is used.
        let is_better = |old: Option<&PathBuf>| old.is_none_or(|_| path.extension().is_some());
        if let Some(number) = name.strip_prefix("data_batch_").and_then(|number| number.parse().ok()) {
            if is_better(numbered.get(&number)) {
                numbered.insert(number, path);
            }
        } else if name == "test_batch" && is_better(parts.get("test").and_then(|paths: &Vec<PathBuf>| paths.first())) {
            parts.insert("test".to_string(), vec![path]);
        }
    }
    if let Some(absent) = (1..numbered.keys().max().copied().unwrap_or(0)).find(|n| !numbered.contains_key(n)) {
        bail!("{}: data_batch_{absent} is missing", folder.display());
    }
    if !numbered.is_empty() {
        parts.insert("train".into(), numbered.into_values().collect());
    }
    Ok(parts)
}

/// What is said of these batches of a folder if there are fewer than published.
pub fn lacking(folder: &Path, batches: &[PathBuf]) -> Option<String> {
    let is_numbered = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("_batch_"));
    let (shown, n) = (folder.display(), batches.len());
    let text = || format!("{shown}: holds {n} of the {BATCHES} batches of CIFAR-10; data_batch_{} is missing", n + 1);
    (n < BATCHES && batches.iter().all(is_numbered)).then(text)
}

impl Cifar {
    /// Opens batches, with the names of classes that lie beside them.
    ///
    /// # Errors
    /// When a batch is truncated or is none, or a label has no name.
    pub fn open(batches: &[PathBuf]) -> Result<Self> {
        let batches: Vec<Batch> = batches.iter().map(|path| Batch::open(path)).collect::<Result<_>>()?;
        let most = batches.iter().flat_map(|batch| &batch.labels).max().map_or(0, |label| usize::from(*label) + 1);
        let classes = match batches.first().map(|batch| names(&batch.path)).transpose()?.flatten() {
            Some(names) if names.len() < most => {
                bail!("{}: label {} has no name", batches[0].path.display(), most - 1)
            }
            Some(names) => names,
            None => (0..most).map(|label| label.to_string()).collect(),
        };
        Ok(Self { batches, classes })
    }

    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// A label per image.
    pub fn labels(&self) -> impl Iterator<Item = u8> {
        self.batches.iter().flat_map(|batch| batch.labels.iter().copied())
    }

    /// `data_batch_1.bin, image 7`, for messages.
    pub fn place(&self, index: usize) -> String {
        let (batch, at) = self.find(index);
        format!("{}, image {at}", batch.path.display())
    }

    pub fn image(&self, index: usize) -> Rgb {
        let (batch, at) = self.find(index);
        let planes = match &batch.pixels {
            Pixels::Mapped(map) => &map[at * RECORD + 1..][..IMAGE],
            Pixels::Held(images) => &images[at * IMAGE..][..IMAGE],
        };
        let data = (0..PLANE).flat_map(|i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]]).collect();
        Rgb { height: SIDE, width: SIDE, data }
    }

    /// The batch of an image, and its number there.
    fn find(&self, mut index: usize) -> (&Batch, usize) {
        let (last, before) = self.batches.split_last().expect("an image is of a batch");
        for batch in before {
            match index.checked_sub(batch.labels.len()) {
                Some(rest) => index = rest,
                None => return (batch, index),
            }
        }
        (last, index)
    }
}

impl Batch {
    fn open(path: &Path) -> Result<Self> {
        let map = super::tree::map(path)?;
        let path = path.to_path_buf();
        if path.extension().is_some() {
            if map.is_empty() || map.len() % RECORD != 0 {
                let shown = path.display();
                bail!("{shown}: truncated or not a CIFAR-10 batch: {} bytes are not images of {RECORD}", map.len());
            }
            let labels = map.chunks_exact(RECORD).map(|record| record[0]).collect();
            return Ok(Self { path, labels, pixels: Pixels::Mapped(map) });
        }
        match pickled(&map) {
            Ok((labels, images)) => Ok(Self { path, labels, pixels: Pixels::Held(images) }),
            Err(why) => bail!("{}: not a CIFAR-10 batch: {why}", path.display()),
        }
    }
}

/// Labels and images of a pickled batch.
fn pickled(bytes: &[u8]) -> Parsed<(Vec<u8>, Vec<u8>)> {
    let pickle = Pickle::parse(bytes)?;
    let entry = |name: &str| {
        let absent = || match pickle.node(pickle.root) {
            Node::Dict(_) => format!("it has no `{name}`"),
            _ => "it holds no dictionary".to_string(),
        };
        pickle.get(pickle.root, name).or_else(|| by_bytes(&pickle, name)).ok_or_else(absent)
    };
    let labels = pickle.items(entry("labels")?).ok_or("its `labels` are no list")?;
    let label = |id: &Id| pickle.int(*id).and_then(|n| u8::try_from(n).ok());
    let labels: Vec<u8> = labels.iter().map(label).collect::<Option<_>>().ok_or("a label is not from 0 to 255")?;
    let images = array(&pickle, entry("data")?).map_err(|why| format!("its `data` {why}"))?;
    if labels.is_empty() || images.len() != labels.len() * IMAGE {
        return Err(format!("it has {} labels and {} bytes of images", labels.len(), images.len()));
    }
    Ok((labels, images))
}

/// The value for a key that is stored as bytes: Python 3 writes those that it read from Python 2
/// so.
fn by_bytes(pickle: &Pickle, key: &str) -> Option<Id> {
    let Node::Dict(pairs) = pickle.node(pickle.root) else { return None };
    let is_key = |id: Id| matches!(pickle.node(id), Node::Bytes(_) | Node::Object(_)) && is_text(pickle, id, key);
    pairs.iter().rev().find(|(k, _)| is_key(*k)).map(|(_, value)| *value)
}

/// Whether bytes are this text.
fn is_text(pickle: &Pickle, id: Id, text: &str) -> bool {
    raw(pickle, id).is_some_and(|bytes| bytes == text.as_bytes())
}

/// The bytes of an array of u8 with a row per image. It is restored from (version, shape, type,
/// order, bytes), or made of (bytes, type, shape, order) as protocol 5 has it.
fn array(pickle: &Pickle, id: Id) -> Parsed<Vec<u8>> {
    let none = "is no NumPy array of bytes";
    let object = pickle.object(id).ok_or(none)?;
    let callable = pickle.global(object.callable).ok_or(none)?;
    let items = |id: Option<Id>| id.and_then(|id| pickle.items(id)).ok_or(none);
    let (shape, dtype, bytes, is_rows) = if callable.ends_with("multiarray._reconstruct") {
        let [_, shape, dtype, fortran, bytes] = items(object.state)? else { return Err(none.into()) };
        (*shape, *dtype, *bytes, matches!(pickle.node(*fortran), Node::Bool(false) | Node::Int(0)))
    } else if callable.ends_with("numeric._frombuffer") {
        let [bytes, dtype, shape, order] = items(Some(object.args))? else { return Err(none.into()) };
        (*shape, *dtype, *bytes, pickle.str(*order) == Some("C"))
    } else {
        return Err(none.into());
    };
    let dtype = items(pickle.object(dtype).map(|object| object.args))?;
    if !dtype.first().is_some_and(|name| pickle.str(*name) == Some("u1") || is_text(pickle, *name, "u1")) {
        return Err(none.into());
    }
    let shape: Vec<i64> = items(Some(shape))?.iter().map(|n| pickle.int(*n)).collect::<Option<_>>().ok_or(none)?;
    match shape.as_slice() {
        [_, 3072] | [_, 3, 32, 32] => {}
        _ => {
            let planes = "rows of 3072 bytes, the planes of red, green and blue, or [n, 3, 32, 32]";
            return Err(format!("has the shape {shape:?}; it must have {planes}"));
        }
    }
    if !is_rows {
        return Err("is stored in Fortran's order; write it with `numpy.ascontiguousarray`".into());
    }
    raw(pickle, bytes).ok_or_else(|| none.into())
}

/// Bytes, also as Python 2 wrote them, as text of one byte a character, and Python 3 for it.
fn raw(pickle: &Pickle, id: Id) -> Option<Vec<u8>> {
    match pickle.node(id) {
        Node::Bytes(bytes) => Some(bytes.to_vec()),
        Node::Str(text) => text.chars().map(|c| u8::try_from(c).ok()).collect(),
        // A bytearray is made of bytes.
        Node::Object(object)
            if matches!(
                pickle.global(object.callable),
                Some("_codecs.encode" | "builtins.bytearray" | "__builtin__.bytearray")
            ) =>
        {
            raw(pickle, *pickle.items(object.args)?.first()?)
        }
        _ => None,
    }
}

/// The names of the classes beside a batch, if they are there.
fn names(batch: &Path) -> Result<Option<Vec<String>>> {
    let text = batch.with_file_name("batches.meta.txt");
    if text.is_file() {
        return match erw_base::text::read(&text) {
            Ok(text) => {
                Ok(Some(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()))
            }
            Err(e) => bail!("cannot read {}: {e}", text.display()),
        };
    }
    let meta = batch.with_file_name("batches.meta");
    if !meta.is_file() {
        return Ok(None);
    }
    let named = Pickle::parse(&super::tree::map(&meta)?).and_then(|pickle| {
        let names = pickle.get(pickle.root, "label_names").or_else(|| by_bytes(&pickle, "label_names"));
        let text = |id: &Id| pickle.str(*id).map(String::from).or_else(|| String::from_utf8(raw(&pickle, *id)?).ok());
        let names = names.and_then(|id| pickle.items(id)).and_then(|ids| ids.iter().map(text).collect());
        names.ok_or_else(|| "it has no list of texts `label_names`".to_string())
    });
    match named {
        Ok(names) => Ok(Some(names)),
        Err(why) => bail!("{}: {why}", meta.display()),
    }
}
