//! NumPy files: single arrays (`.npy`) and archives of arrays (`.npz`, stored or deflated).
//! Supported are C and Fortran order, both byte orders, header versions 1 to 3, booleans, integers
//! and floats. Arrays of Python objects are refused, because they are pickles.

use super::archive::Archive;
use super::elements::{self, Element, View};
use super::parsed::Parsed;
use crate::nn::params::Tensors;
use candle_core::{Result, Tensor, bail};
use std::path::{Path, PathBuf};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Magic number, version, and a header of 64 KiB, six times what NumPy itself reads.
pub(super) const MOST_HEADER: usize = 12 + (64 << 10);
/// NumPy's name for an unnamed array.
const UNNAMED: &str = "arr_0";

/// Reads a `.npy` file: the array in its own shape, contiguous, on the CPU, in its own type or the
/// one that [holds it](super#types).
pub fn read_npy(path: &Path) -> Result<Tensor> {
    match super::parsed::map(path).and_then(|map| read(&map)) {
        Ok(tensor) => Ok(tensor),
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    }
}

/// The one array of a `.npy` file, as a set.
pub(super) fn tensors(bytes: &[u8]) -> Parsed<Tensors> {
    Ok(Tensors::from([(UNNAMED.to_string(), read(bytes)?)]))
}

fn read(bytes: &[u8]) -> Parsed<Tensor> {
    Header::parse(bytes)?.tensor(bytes)
}

/// An open `.npz` archive.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    archive: Archive,
}

impl Npz {
    /// Reads the central directory, but no array.
    pub fn open(path: &Path) -> Result<Self> {
        match super::parsed::map(path).and_then(Archive::open) {
            Ok(archive) => Ok(Self { path: path.to_path_buf(), archive }),
            Err(e) => bail!("cannot read {}: {e}", path.display()),
        }
    }

    /// Names of the arrays, without `.npy`, sorted.
    pub fn names(&self) -> Vec<String> {
        names(&self.archive)
    }

    /// Names of the entries that are not arrays.
    pub fn others(&self) -> Vec<&Path> {
        self.archive.names().filter(|name| !name.ends_with(".npy")).map(Path::new).collect()
    }

    /// One array, as [`read_npy`] returns it.
    pub fn read(&mut self, name: &str) -> Result<Tensor> {
        match read_entry(&self.archive, name) {
            Ok(tensor) => Ok(tensor),
            Err(e) => bail!("cannot read array `{name}` of {}: {e}", self.path.display()),
        }
    }
}

pub(super) fn names(archive: &Archive) -> Vec<String> {
    archive.names().filter_map(|name| Some(name.strip_suffix(".npy")?.to_string())).collect()
}

pub(super) fn read_entry(archive: &Archive, name: &str) -> Parsed<Tensor> {
    let entry = format!("{name}.npy");
    if !archive.contains(&entry) {
        return Err(format!("the archive holds {}", super::parsed::listed(&names(archive))));
    }
    // The header gives the size to which the rest may inflate.
    let header = Header::parse(&archive.prefix(&entry, MOST_HEADER)?)?;
    let most = header.data as u64 + header.size()? as u64;
    let bytes = archive.read(&entry, most)?;
    archive.check(&entry, &bytes)?;
    header.tensor(&bytes)
}

/// The header of an array.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub element: Element,
    big_endian: bool,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Offset of the numbers.
    pub data: usize,
    /// The type in NumPy's notation, such as `<f4`.
    pub descr: String,
}

impl Header {
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        let cut = || "a truncated NumPy array".to_string();
        let rest = bytes.strip_prefix(MAGIC).ok_or("not a NumPy array")?;
        let (length, start) = match rest.first() {
            Some(1) => (rest.get(2..4).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))), 10),
            Some(2 | 3) => (rest.get(2..6).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])), 12),
            Some(v) => return Err(format!("a NumPy array of version {v}; supported are versions 1 to 3")),
            None => return Err(cut()),
        };
        let data = start + length.ok_or_else(cut)? as usize;
        if data > MOST_HEADER {
            return Err(format!("a NumPy array whose header claims {data} bytes"));
        }
        let text = String::from_utf8_lossy(bytes.get(start..data).ok_or_else(cut)?).into_owned();
        let mut literal = Literal(&text);
        let (descr, fortran, shape) =
            literal.header().ok_or_else(|| format!("a NumPy array with an invalid header: {text}"))?;
        let (element, big_endian) = element(&descr)?;
        Ok(Self { element, big_endian, fortran, shape, data, descr })
    }

    fn view<'a>(&'a self, bytes: &'a [u8], strides: &'a [usize]) -> View<'a> {
        View { bytes, element: self.element, big_endian: self.big_endian, offset: 0, shape: &self.shape, strides }
    }

    pub fn size(&self) -> Parsed<usize> {
        self.view(&[], &[]).size()
    }

    fn tensor(&self, bytes: &[u8]) -> Parsed<Tensor> {
        let bytes = &bytes[self.data.min(bytes.len())..];
        let size = self.size()?;
        if bytes.len() < size {
            return Err(format!("truncated: shape {:?} takes {size} bytes, but there are {}", self.shape, bytes.len()));
        }
        self.view(bytes, &elements::contiguous(&self.shape, self.fortran)).tensor()
    }
}

/// Parses a type such as `<f4`: byte order, kind, bytes. Returns the type and whether it is
/// big-endian.
fn element(descr: &str) -> Parsed<(Element, bool)> {
    let (order, kind) = descr.split_at_checked(1).unwrap_or_default();
    let element = match kind {
        "b1" => Element::Bool,
        "u1" => Element::U8,
        "u2" => Element::U16,
        "u4" => Element::U32,
        "u8" => Element::U64,
        "i1" => Element::I8,
        "i2" => Element::I16,
        "i4" => Element::I32,
        "i8" => Element::I64,
        "f2" => Element::F16,
        "f4" => Element::F32,
        "f8" => Element::F64,
        _ if kind.starts_with('O') => return Err("an array of Python objects, which is not supported".into()),
        _ => return Err(format!("an array of NumPy type `{descr}`, which is not supported")),
    };
    match order {
        "<" | "|" | "=" => Ok((element, false)),
        ">" => Ok((element, true)),
        _ => Err(format!("an array of NumPy type `{descr}`, which is not supported")),
    }
}

/// A parser for the Python literals in a header:
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`. It does not recurse, so nesting
/// cannot exhaust the stack.
struct Literal<'a>(&'a str);

impl Literal<'_> {
    /// Type, order and shape.
    fn header(&mut self) -> Option<(String, bool, Vec<usize>)> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        self.eat('{').then_some(())?;
        while !self.eat('}') {
            let key = self.string()?;
            self.eat(':').then_some(())?;
            match key.as_str() {
                // The type of a record is a list of its fields.
                "descr" if self.peek() == Some('[') => return Some(("record".into(), false, vec![])),
                "descr" => descr = Some(self.string()?),
                "fortran_order" => fortran = Some(self.word()? == "True"),
                "shape" => shape = Some(self.tuple()?),
                _ => return None,
            }
            self.eat(',');
        }
        Some((descr?, fortran?, shape?))
    }

    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start();
        self.0.chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.0 = &self.0[c.len_utf8()..];
        }
        found
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek().filter(|c| ['\'', '"'].contains(c))?;
        let (text, rest) = self.0[1..].split_once(quote)?;
        self.0 = rest;
        Some(text.to_string())
    }

    fn word(&mut self) -> Option<&str> {
        self.peek()?;
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(word)
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        let mut items = Vec::new();
        self.eat('(').then_some(())?;
        while !self.eat(')') {
            // Python 2 wrote long integers as `3L`.
            items.push(self.word()?.trim_end_matches('L').parse().ok()?);
            self.eat(',');
        }
        Some(items)
    }
}
