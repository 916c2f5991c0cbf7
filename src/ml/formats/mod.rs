//! Reads weights and arrays from common files: safetensors, PyTorch checkpoints, NumPy arrays.
//!
//! A file is mapped into memory. Opening it reads only its headers (or its pickle); tensors are
//! copied when a set of them is asked for. Nothing in a file is executed: a pickle is read as data,
//! and a function it would call is only a name in a message. Every size that a file declares is
//! checked against the bytes that exist before memory is allocated. A model in several files
//! (`shards.rs`) is read as one.
//!
//! It does not know networks: the `adopt` functions of the models interpret the names.
//!
//! # Types
//! Tensors keep their type where candle has it: u8, u32, i16, i32, i64, f16, bf16, f32, f64,
//! f8e4m3. Others are widened: bool to u8, i8 to i16, u16 to i32, and u64 to i64 if the values fit.

mod archive;
mod elements;
pub mod format;
mod npy;
mod npz_write;
pub mod parsed;
pub(crate) mod pickle;
mod pixels;
mod safetensors;
pub mod safetensors_metadata;
mod shards;
mod sniff;
pub mod tfevents;
mod torch;
pub mod torch_write;
mod unique;
mod values;

use crate::nn::params::Tensors;
use archive::Archive;
use candle_core::{Result, Tensor, bail};
use format::Format;
use memmap2::Mmap;
use parsed::{Named, Parsed, listed, map};
use safetensors::Safetensors;
use shards::{Files, Model};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use torch::Checkpoint;

pub use npy::{Npz, read_npy};
pub use npz_write::NpzFile;
pub use pixels::PixelArray;
pub use shards::is_part;
pub use sniff::{describe, format_of};

/// An open weights file. It holds a mapping, not tensors, so it is cheap to keep.
#[derive(Debug)]
pub struct WeightsFile {
    path: PathBuf,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    Safetensors(Safetensors),
    Torch(Checkpoint),
    Npz(Archive),
    Npy(Mmap),
    /// The files of one model, by name.
    Parts(Vec<(String, Contents)>),
}

/// The contents of a set.
#[derive(Debug)]
pub struct Listing {
    pub set: String,
    pub tensors: Vec<Named>,
}

/// The tensors of a set that could be read.
#[derive(Debug, Default)]
pub struct Readable {
    pub tensors: Tensors,
    /// Names of the others, with the reason why each cannot be read.
    pub unread: BTreeMap<String, String>,
}

impl WeightsFile {
    /// Detects the format from the contents and reads headers, but no tensors. A folder stands for
    /// the one model in it, which may be in several files.
    ///
    /// # Errors
    /// When the file cannot be opened, has an unsupported format, is truncated or damaged, or is
    /// only one file of a model in several. Files beside `path` are not read, because a caller may
    /// identify `path` by its own contents. The error names the file, and says what it seems to be.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, false)
    }

    /// Like [`Self::open`], but the index or one file of a model in several files stands for the
    /// whole model.
    pub fn open_with_siblings(path: &Path) -> Result<Self> {
        Self::open_as(path, true)
    }

    fn open_as(path: &Path, siblings: bool) -> Result<Self> {
        let contents = shards::find(path).and_then(|model| match model {
            Model::File(file) => map(&file).and_then(Contents::open).map_err(|e| match file == path {
                true => e,
                false => format!("`{}`: {e}", file.file_name().unwrap_or_default().display()),
            }),
            Model::Files(files) if !siblings && !path.is_dir() => Err(format!(
                "it is one of the {} files of a model; name their folder to read all of them",
                files.names.len()
            )),
            Model::Files(files) => Contents::open_parts(&files),
        });
        match contents {
            Ok(contents) => Ok(Self { path: path.to_path_buf(), contents }),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    pub fn format(&self) -> Format {
        match &self.contents {
            Contents::Parts(parts) => match parts.first() {
                Some((_, Contents::Torch(_))) => Format::TorchFiles(parts.len()),
                _ => Format::SafetensorsFiles(parts.len()),
            },
            Contents::Safetensors(_) => Format::Safetensors,
            Contents::Torch(file) if file.is_script() => Format::TorchScript,
            Contents::Torch(file) if file.is_legacy_file() => Format::TorchLegacy,
            Contents::Torch(_) => Format::TorchZip,
            Contents::Npz(_) => Format::Npz,
            Contents::Npy(_) => Format::Npy,
        }
    }

    /// The dictionaries that directly hold tensors, by dotted path (`model`, `ema`, `opt.state.0`;
    /// empty for the top level), with the number of tensors in each. A list is a dictionary with
    /// positions as names. A module, of TorchScript or pickled whole, has the names of its state
    /// dict. NumPy arrays in a pickle do not count.
    pub fn sets(&self) -> Vec<(String, usize)> {
        self.contents.sets()
    }

    /// All [sets](Self::sets) with the names and shapes of their tensors, in the order of the file
    /// if it has one. The shape is absent where headers do not give it.
    pub fn listing(&self) -> Vec<Listing> {
        self.contents.listing()
    }

    /// The tensors of one set, contiguous, on the CPU, in their own [types](self#types). Other
    /// values, such as a step count, are omitted.
    ///
    /// # Errors
    /// When there is no such set, or a tensor in it cannot be read. The error names file and
    /// tensor.
    pub fn tensors(&self, set: &str) -> Result<Tensors> {
        let Readable { tensors, unread } = self.readable(set, &|_| true)?;
        match unread.into_iter().next() {
            Some((name, why)) => bail!("cannot read {}: tensor `{name}`: {why}", self.path.display()),
            None => Ok(tensors),
        }
    }

    /// The wanted tensors of a set that can be read, and why the others cannot.
    ///
    /// # Errors
    /// When there is no such set, or the file is damaged.
    pub fn readable(&self, set: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Readable> {
        let read = match self.sets().iter().any(|(name, _)| name == set) {
            true => self.contents.tensors(set, wanted),
            false => Err(self.no_set(set)),
        };
        let sorted = read.and_then(|all| {
            let mut readable = Readable::default();
            let mut names = BTreeSet::new();
            for (name, tensor) in all {
                if !names.insert(name.clone()) {
                    return Err(format!("two tensors have the name `{name}`"));
                }
                match tensor {
                    Ok(tensor) => drop(readable.tensors.insert(name, tensor)),
                    Err(why) => drop(readable.unread.insert(name, why)),
                }
            }
            Ok(readable)
        });
        match sorted {
            Ok(readable) => Ok(readable),
            Err(e) => bail!("cannot read {}: {e}", self.path.display()),
        }
    }

    /// The set to read: the first of `preferred` that exists, or else the only set.
    ///
    /// # Errors
    /// When neither rule gives a set; the error lists the sets.
    pub fn only_set(&self, preferred: &[&str]) -> Result<String> {
        let sets = self.sets();
        if let Some(set) = preferred.iter().find(|p| sets.iter().any(|(name, _)| name == *p)) {
            return Ok(set.to_string());
        }
        match sets.as_slice() {
            [(only, _)] => Ok(only.clone()),
            [] => {
                bail!(
                    "{} is {}, but holds no dictionary of tensors{}",
                    self.path.display(),
                    self.format(),
                    self.beside()
                )
            }
            _ => {
                let sets = listed(&self.described_sets());
                bail!("{} holds several sets of tensors: {sets}; choose one with `set`", self.path.display())
            }
        }
    }

    /// Plain values beside the tensors of a PyTorch file, by dotted path, as JSON: numbers,
    /// strings, lists, dictionaries, and the attributes of objects such as an `argparse.Namespace`.
    /// `None` if the path does not exist, or if the value is too large to be useful.
    pub fn data(&self, path: &str) -> Option<serde_json::Value> {
        if let Contents::Torch(file) = &self.contents { file.data(path) } else { None }
    }

    /// What a PyTorch file holds instead of tensors, for messages.
    fn beside(&self) -> String {
        match &self.contents {
            Contents::Torch(file) if !file.foreign().is_empty() => {
                format!("; objects of {} are not created", listed(&file.foreign()))
            }
            _ => String::new(),
        }
    }

    /// Largest first, because an optimizer has a set for each parameter.
    fn described_sets(&self) -> Vec<String> {
        let mut sets = self.sets();
        sets.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let named = |set: &str| if set.is_empty() { "the top level".to_string() } else { format!("`{set}`") };
        sets.iter().map(|(set, n)| format!("{} ({n})", named(set))).collect()
    }

    fn no_set(&self, set: &str) -> String {
        let sets = listed(&self.described_sets());
        format!("it has no set `{set}` of tensors; it has {sets}{}", self.beside())
    }
}

impl Contents {
    fn open(map: Mmap) -> Parsed<Self> {
        let head = &map[..map.len().min(sniff::HEAD)];
        // First, because the length at the beginning of such a file may look like another format.
        if Safetensors::is(head) {
            Ok(Self::Safetensors(Safetensors::open(map)?))
        } else if head.starts_with(b"PK") {
            Self::open_zip(Archive::open(map)?)
        } else if head.starts_with(npy::MAGIC) {
            Ok(Self::Npy(map))
        } else if Checkpoint::is_legacy(head) {
            Ok(Self::Torch(Checkpoint::open_legacy(map)?))
        } else if head.starts_with(&[0x80]) {
            Err("it is a Python pickle that PyTorch did not write".into())
        } else {
            Err(format!("it is {}", sniff::foreign(head).unwrap_or("of an unknown format")))
        }
    }

    /// The files of one model, each with a dictionary of its own tensors at the top level.
    fn open_parts(files: &Files) -> Parsed<Self> {
        let mut parts: Vec<(String, Self)> = vec![];
        let mut places: BTreeMap<String, &String> = BTreeMap::new();
        for name in &files.names {
            let part = map(&files.dir.join(name)).and_then(Self::open).map_err(|e| format!("`{name}`: {e}"))?;
            if !matches!(part.sets().as_slice(), [(set, _)] if set.is_empty()) {
                return Err(format!("`{name}` is not part of a model: it is not a single dictionary of tensors"));
            }
            for (tensor, _) in part.listing().into_iter().flat_map(|set| set.tensors) {
                if let Some(first) = places.insert(tensor.clone(), name) {
                    return Err(format!("tensor `{tensor}` is both in `{first}` and in `{name}`"));
                }
            }
            parts.push((name.clone(), part));
        }
        for (tensor, file) in &files.places {
            if places.get(tensor).is_none_or(|found| *found != file) {
                let index = files.index.as_deref().unwrap_or_default();
                return Err(format!("`{index}` says that tensor `{tensor}` is in `{file}`, but it is not"));
            }
        }
        Ok(Self::Parts(parts))
    }

    fn sets(&self) -> Vec<(String, usize)> {
        match self {
            Self::Safetensors(file) => vec![(String::new(), file.len())],
            Self::Torch(file) => file.sets(),
            Self::Npz(archive) => vec![(String::new(), npy::names(archive).len())],
            Self::Npy(_) => vec![(String::new(), 1)],
            Self::Parts(parts) => {
                vec![(String::new(), parts.iter().flat_map(|(_, part)| part.sets()).map(|(_, n)| n).sum())]
            }
        }
    }

    fn listing(&self) -> Vec<Listing> {
        let whole = |tensors| vec![Listing { set: String::new(), tensors }];
        match self {
            Self::Safetensors(file) => {
                whole(file.shapes().map(|(name, shape)| (name.clone(), Some(shape.to_vec()))).collect())
            }
            Self::Torch(file) => {
                file.listing().into_iter().map(|(set, tensors)| Listing { set: set.into(), tensors }).collect()
            }
            Self::Npz(archive) => whole(npy::names(archive).into_iter().map(|name| (name, None)).collect()),
            Self::Npy(_) => whole(vec![]),
            Self::Parts(parts) => {
                whole(parts.iter().flat_map(|(_, part)| part.listing()).flat_map(|set| set.tensors).collect())
            }
        }
    }

    fn tensors(&self, set: &str, wanted: &dyn Fn(&str) -> bool) -> Parsed<Vec<(String, Parsed<Tensor>)>> {
        match self {
            Self::Safetensors(file) => {
                let names = file.shapes().map(|(name, _)| name.clone()).filter(|name| wanted(name));
                Ok(names.map(|name| (name.clone(), file.tensor(&name))).collect())
            }
            Self::Torch(file) => file.tensors(set, wanted),
            Self::Npz(archive) => {
                let names = npy::names(archive).into_iter().filter(|name| wanted(name));
                Ok(names.map(|name| (name.clone(), npy::read_entry(archive, &name))).collect())
            }
            Self::Npy(map) => Ok(npy::tensors(map)?.into_iter().map(|(name, tensor)| (name, Ok(tensor))).collect()),
            Self::Parts(parts) => {
                let mut all = vec![];
                for (name, part) in parts {
                    all.extend(part.tensors(set, wanted).map_err(|e| format!("`{name}`: {e}"))?);
                }
                Ok(all)
            }
        }
    }

    fn open_zip(archive: Archive) -> Parsed<Self> {
        if let Some(folder) = Checkpoint::folder(&archive) {
            Ok(Self::Torch(Checkpoint::open_zip(archive, folder)?))
        } else if npy::names(&archive).is_empty() {
            Err("it is a ZIP archive without a PyTorch pickle or NumPy arrays".into())
        } else {
            Ok(Self::Npz(archive))
        }
    }
}
