//! IDX, the format of MNIST and similar sets: a magic number, big-endian sizes, bytes. Images and
//! labels are two files, paired by their names; either may be gzipped.
//!
//! A plain file is mapped. A gzipped one is held in memory (47 MB for 60,000 images of 28 x 28).

use crate::data::rgb::Rgb;
use candle_core::{Result, bail};
use flate2::read::MultiGzDecoder;
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Magic numbers: unsigned bytes with axes (image, row, column), and with one axis (image).
const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The maximum inflated size of a gzipped file in bytes.
const MAX_INFLATED: u64 = 4 << 30;

/// A pair of files: grey images, and a label for each.
#[derive(Debug)]
pub struct Idx {
    path: PathBuf,
    images: Array<3>,
    labels: Array<1>,
}

impl Idx {
    /// Opens an image file and its label file.
    pub fn open(images: &Path, labels: &Path) -> Result<Self> {
        let this = Self {
            path: images.to_path_buf(),
            images: Array::open(images, IMAGES)?,
            labels: Array::open(labels, LABELS)?,
        };
        let ([n, height, width], [m]) = (this.images.shape, this.labels.shape);
        if n != m {
            bail!("{} holds {n} images, but {} holds {m} labels", images.display(), labels.display());
        }
        if n == 0 || height == 0 || width == 0 {
            bail!("{} holds {n} images of {height} x {width} pixels", images.display());
        }
        Ok(this)
    }

    /// A label per image.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// `file, image 7`, for messages.
    pub fn place(&self, index: usize) -> String {
        format!("{}, image {index}", self.path.display())
    }

    /// An image as RGB, grey repeated.
    pub fn image(&self, index: usize) -> Rgb {
        let [_, height, width] = self.images.shape;
        let grey = &self.images[index * height * width..][..height * width];
        Rgb { height, width, data: grey.iter().flat_map(|g| [*g; 3]).collect() }
    }
}

/// The image files in a folder and the names of their label files, by the prefix before `images`:
/// `train`, `t10k`. If a file is there plain and gzipped, the plain one is used.
pub fn pairs(folder: &Path) -> Result<BTreeMap<String, (PathBuf, String)>> {
    let mut pairs = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some((part, labels)) = path.file_name().and_then(|n| n.to_str()).and_then(names) else { continue };
        if path.extension().is_none_or(|e| e != "gz") || !pairs.contains_key(&part) {
            pairs.insert(part, (path, labels));
        }
    }
    Ok(pairs)
}

/// The label file of `images`, beside it under the name `labels`, gzipped or not.
pub fn labels_of(images: &Path, labels: &str) -> Result<PathBuf> {
    let found = [labels.to_string(), format!("{labels}.gz")].map(|name| images.with_file_name(name));
    match found.iter().find(|p| p.exists()) {
        Some(path) => Ok(path.clone()),
        None => bail!("{}: its label file {}[.gz] is missing", images.display(), found[0].display()),
    }
}

/// Maps `train-images-idx3-ubyte.gz` to `train` and `train-labels-idx1-ubyte`. Some copies have a
/// dot before `idx`.
fn names(name: &str) -> Option<(String, String)> {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let (part, rest) = plain.rsplit_once("images")?;
    let dash = ["-idx3-ubyte", ".idx3-ubyte"].contains(&rest).then(|| &rest[..1])?;
    Some((part.trim_end_matches(['-', '.', '_']).to_string(), format!("{part}labels{dash}idx1-ubyte")))
}

/// Whether a file begins like an IDX image file, plain or gzipped.
pub fn is_images(path: &Path) -> bool {
    let mut start = [0; 4];
    let Ok(mut file) = File::open(path) else { return false };
    if file.read_exact(&mut start).is_err() {
        return false;
    }
    if start[..2] == GZIP {
        let Ok(file) = File::open(path) else { return false };
        return MultiGzDecoder::new(file).read_exact(&mut start).is_ok() && start == IMAGES;
    }
    start == IMAGES
}

/// An array of bytes with `N` axes.
#[derive(Debug)]
struct Array<const N: usize> {
    bytes: Bytes,
    shape: [usize; N],
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Inflated(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Inflated(bytes) => bytes,
        }
    }
}

/// The data after the header.
impl<const N: usize> Deref for Array<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[4 + 4 * N..]
    }
}

impl<const N: usize> Array<N> {
    fn open(path: &Path, magic: [u8; 4]) -> Result<Self> {
        let shown = path.display();
        let mut bytes = Bytes::Mapped(super::tree::map(path)?);
        if bytes.starts_with(&GZIP) {
            let mut inflated = Vec::new();
            if let Err(e) = inflate::<N>(&bytes, magic, &mut inflated) {
                bail!("{shown}: truncated or damaged: {e}");
            }
            bytes = Bytes::Inflated(inflated);
        }
        let Some(shape) = shape::<N>(&bytes, magic) else {
            let kind = if N == 3 { "images" } else { "labels" };
            bail!(
                "{shown}: not an IDX file of {kind}: it begins with {:02x?}, not {magic:02x?}",
                &bytes[..bytes.len().min(4)]
            );
        };
        let data = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
        let here = bytes.len() - (4 + 4 * N);
        match data {
            Some(n) if n == here => Ok(Self { bytes, shape }),
            Some(n) if n > here => bail!("{shown}: truncated: it has {here} of the {n} bytes of shape {shape:?}"),
            _ => bail!("{shown}: {here} bytes do not match the shape {shape:?}"),
        }
    }
}

/// Inflates a gzipped array: its header, then the declared size plus one byte, which reveals excess
/// data.
fn inflate<const N: usize>(gzipped: &[u8], magic: [u8; 4], into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = MultiGzDecoder::new(gzipped);
    stream.by_ref().take((4 + 4 * N) as u64).read_to_end(into)?;
    let Some(shape) = shape::<N>(into, magic) else { return Ok(()) };
    let promised = shape.iter().fold(1u64, |n, s| n.saturating_mul(*s as u64));
    if promised > MAX_INFLATED {
        let text = format!("shape {shape:?} takes {promised} bytes, more than the limit of {MAX_INFLATED}");
        return Err(std::io::Error::other(text));
    }
    stream.take(promised + 1).read_to_end(into).map(drop)
}

/// The sizes in the header, if the magic number matches.
fn shape<const N: usize>(bytes: &[u8], magic: [u8; 4]) -> Option<[usize; N]> {
    let mut shape = [0; N];
    let sizes = bytes.strip_prefix(&magic)?.get(..4 * N)?;
    for (size, word) in shape.iter_mut().zip(sizes.chunks_exact(4)) {
        *size = word.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    }
    Some(shape)
}
