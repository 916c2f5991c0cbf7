//! Weights and arrays from the files that people have: safetensors, PyTorch checkpoints, NumPy arrays.
//!
//! A file is mapped into memory and only its headers (or its pickle) are read when it is opened; tensors are copied
//! when a set of them is asked for. Nothing in a file is ever run: a pickle is read as inert data, and what
//! it would have called is at most a name in a message. Every size that a file declares is held against the bytes that
//! are there before memory is taken for it. Knows no network: what the names mean is told by the `adopt` functions of
//! the models.
//!
//! # Types
//! Tensors keep their type where candle has it: u8, u32, i16, i32, i64, f16, bf16, f32, f64, f8e4m3. Others are
//! widened: bool to u8, i8 to i16, u16 to i32, and u64 to i64 if the values fit.

mod archive;
mod elements;
mod npy;
mod npz_write;
mod pickle;
mod safetensors;
mod sniff;
pub mod tfevents;
mod torch;
pub mod torch_write;
mod values;

pub use npy::{Npz, read_npy};
pub use npz_write::NpzFile;

use crate::ml::weights::Tensors;
use archive::Archive;
use candle_core::{Result, bail};
use memmap2::Mmap;
use safetensors::Safetensors;
use std::fmt;
use std::path::{Path, PathBuf};
use torch::Checkpoint;

/// Inside this module errors are texts that say what is wrong; the file is named once, where they leave it.
type Parsed<T> = std::result::Result<T, String>;

/// A format that is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Safetensors,
    TorchZip,
    TorchLegacy,
    TorchScript,
    Npz,
    Npy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "a safetensors file",
            Self::TorchZip => "a PyTorch checkpoint (zip)",
            Self::TorchLegacy => "a PyTorch checkpoint (before 1.6)",
            Self::TorchScript => "a TorchScript archive",
            Self::Npz => "an npz archive of NumPy",
            Self::Npy => "a NumPy array",
        })
    }
}

/// An opened file of weights. Cheap to keep: holds a mapping, no tensors.
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
}

impl WeightsFile {
    /// Tells the format from the contents and reads headers, no tensors. A file that is none of the formats is called
    /// what it is.
    ///
    /// # Errors
    /// When the file cannot be opened, is of another format, truncated or damaged. The error names the file.
    pub fn open(path: &Path) -> Result<Self> {
        match map(path).and_then(Contents::open) {
            Ok(contents) => Ok(Self { path: path.to_path_buf(), contents }),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    pub fn format(&self) -> Format {
        match &self.contents {
            Contents::Safetensors(_) => Format::Safetensors,
            Contents::Torch(file) if file.is_script() => Format::TorchScript,
            Contents::Torch(file) if file.is_legacy_file() => Format::TorchLegacy,
            Contents::Torch(_) => Format::TorchZip,
            Contents::Npz(_) => Format::Npz,
            Contents::Npy(_) => Format::Npy,
        }
    }

    /// The dictionaries that hold tensors directly, by dotted path (`model`, `ema`, `opt.state.0`; empty for the top
    /// level), with the number of tensors in each. A list is a dictionary by position; a module, of TorchScript or
    /// pickled whole, is one by the names of its state dict; arrays of NumPy in a pickle do not count.
    pub fn sets(&self) -> Vec<(String, usize)> {
        match &self.contents {
            Contents::Safetensors(file) => vec![(String::new(), file.len())],
            Contents::Torch(file) => file.sets(),
            Contents::Npz(archive) => vec![(String::new(), npy::names(archive).len())],
            Contents::Npy(_) => vec![(String::new(), 1)],
        }
    }

    /// The tensors of one set, contiguous, on the CPU, in their own [types](self#types). Other values beside them, such
    /// as a step count, are left out.
    ///
    /// # Errors
    /// When there is no such set, or a tensor in it cannot be read. The error names file and tensor.
    pub fn tensors(&self, set: &str) -> Result<Tensors> {
        let tensors = match &self.contents {
            _ if !self.sets().iter().any(|(name, _)| name == set) => Err(self.no_set(set)),
            Contents::Safetensors(file) => file.tensors(),
            Contents::Torch(file) => file.tensors(set),
            Contents::Npz(archive) => npy::names(archive)
                .into_iter()
                .map(|name| {
                    let tensor = npy::read_entry(archive, &name).map_err(|e| format!("array `{name}`: {e}"))?;
                    Ok((name, tensor))
                })
                .collect(),
            Contents::Npy(map) => npy::tensors(map),
        };
        match tensors {
            Ok(tensors) => Ok(tensors),
            Err(e) => bail!("cannot read {}: {e}", self.path.display()),
        }
    }

    /// Which set to read: the first of `preferred` that is there, or else the only one.
    ///
    /// # Errors
    /// When neither decides; the error lists the sets.
    pub fn only_set(&self, preferred: &[&str]) -> Result<String> {
        let sets = self.sets();
        if let Some(set) = preferred.iter().find(|p| sets.iter().any(|(name, _)| name == *p)) {
            return Ok(set.to_string());
        }
        match sets.as_slice() {
            [(only, _)] => Ok(only.clone()),
            [] => {
                bail!("{} is {} without a dictionary of tensors{}", self.path.display(), self.format(), self.beside())
            }
            _ => {
                let sets = listed(&self.described_sets());
                bail!("{} holds several sets of tensors: {sets}; say which with `set`", self.path.display())
            }
        }
    }

    /// Plain values that lie beside the tensors of a PyTorch file, by dotted path, as JSON: numbers, texts, lists,
    /// dictionaries, and the attributes of objects such as an `argparse.Namespace`. None if nothing is there, or if it
    /// is too large to be of use.
    pub fn data(&self, path: &str) -> Option<serde_json::Value> {
        if let Contents::Torch(file) = &self.contents { file.data(path) } else { None }
    }

    /// What a PyTorch file holds instead of tensors.
    fn beside(&self) -> String {
        match &self.contents {
            Contents::Torch(file) if !file.foreign().is_empty() => {
                format!("; what {} would make is never made here", listed(&file.foreign()))
            }
            _ => String::new(),
        }
    }

    /// Largest first, because an optimizer makes a set for each parameter.
    fn described_sets(&self) -> Vec<String> {
        let mut sets = self.sets();
        sets.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let named = |set: &str| if set.is_empty() { "the top level".to_string() } else { format!("`{set}`") };
        sets.iter().map(|(set, n)| format!("{} ({n})", named(set))).collect()
    }

    fn no_set(&self, set: &str) -> String {
        let sets = listed(&self.described_sets());
        format!("no set `{set}` of tensors is in it; it has {sets}{}", self.beside())
    }
}

impl Contents {
    fn open(map: Mmap) -> Parsed<Self> {
        let head = &map[..map.len().min(sniff::HEAD)];
        // First, because the length that such a file begins with may look like any of the others.
        if Safetensors::is(head) {
            Ok(Self::Safetensors(Safetensors::open(map)?))
        } else if head.starts_with(b"PK") {
            Self::open_zip(Archive::open(map)?)
        } else if head.starts_with(npy::MAGIC) {
            Ok(Self::Npy(map))
        } else if Checkpoint::is_legacy(head) {
            Ok(Self::Torch(Checkpoint::open_legacy(map)?))
        } else if head.starts_with(&[0x80]) {
            Err("it is a pickle of Python that PyTorch did not write".into())
        } else {
            Err(format!("it is {}", sniff::foreign(head).unwrap_or("of an unknown format")))
        }
    }

    fn open_zip(archive: Archive) -> Parsed<Self> {
        if let Some(folder) = Checkpoint::folder(&archive) {
            Ok(Self::Torch(Checkpoint::open_zip(archive, folder)?))
        } else if npy::names(&archive).is_empty() {
            Err("it is a ZIP archive with neither a pickle of PyTorch nor arrays of NumPy".into())
        } else {
            Ok(Self::Npz(archive))
        }
    }
}

/// Maps a file into memory.
fn map(path: &Path) -> Parsed<Mmap> {
    if path.is_dir() {
        return Err("it is a folder; give the weights file in it".into());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    // Weights files are written once and then only read, which is what a mapping needs; of one that is cut short while
    // it is read, `mapped` says which.
    #[expect(unsafe_code, reason = "mapping a file that nothing writes to any more")]
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|e| e.to_string())
}

/// The first names of a list that may be long.
fn listed(names: &[String]) -> String {
    const NAMED: usize = 12;
    if names.is_empty() {
        return "none".into();
    }
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{first} and {more} more") } else { first }
}
