//! Images in a NumPy array, by index: u8 `[N, H, W, 3]`, or an unambiguous equivalent: channels
//! first, grey, Fortran order, deflated.
//!
//! A stored array is mapped. A deflated one is inflated image by image as it is read, and again
//! from the beginning when an earlier image is asked for. Reading in order inflates the file once
//! and holds one image. Other number types are refused, because how to round them is unknown.

use super::archive::Archive;
use super::elements::{Element, contiguous};
use super::npy::{self, Header, MOST_HEADER};
use super::parsed::{Parsed, listed};
use candle_core::{Result, bail};
use flate2::read::DeflateDecoder;
use memmap2::Mmap;
use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// NumPy's name for an unnamed array.
const ARRAY: &str = "arr_0";

/// An open array of images of one size.
#[derive(Debug)]
pub struct PixelArray {
    count: u64,
    height: usize,
    width: usize,
    /// Channels in the file: 1 for grey.
    channels: usize,
    /// Distance from one image, row, column and channel to the next, in bytes.
    strides: [usize; 4],
    store: Storage,
}

#[derive(Debug)]
enum Storage {
    Npy(Mmap, Range<usize>),
    Npz(Archive, Range<usize>),
    Deflated(Mutex<Inflating>),
}

impl PixelArray {
    /// The array `arr_0` of an archive, or its only array.
    pub fn of_npz(path: &Path) -> Result<Self> {
        match super::parsed::map(path).and_then(Archive::open).and_then(Self::in_archive) {
            Ok(this) => Ok(this),
            Err(e) => bail!("{}: {e}", path.display()),
        }
    }

    /// The array of a `.npy` file.
    pub fn of_npy(path: &Path) -> Result<Self> {
        let open = |map: Mmap| {
            let header = Header::parse(&map).map_err(|e| format!("is {e}"))?;
            let data = header.data..map.len();
            Self::new(&header, |size| match data.len() < size {
                true => Err(format!("is truncated: it has {} of its {size} bytes", data.len())),
                false => Ok(Storage::Npy(map, data)),
            })
        };
        match super::parsed::map(path).and_then(open) {
            Ok(this) => Ok(this),
            Err(e) => bail!("{} {e}", path.display()),
        }
    }

    fn in_archive(archive: Archive) -> Parsed<Self> {
        let names = npy::names(&archive);
        let name = match names.as_slice() {
            _ if names.iter().any(|name| name == ARRAY) => ARRAY.to_string(),
            [only] => only.clone(),
            _ => return Err(format!("it has no array `{ARRAY}`, but {}", listed(&names))),
        };
        let entry = format!("{name}.npy");
        let open = || {
            let unread = |e| format!("cannot be read: {e}");
            let parse = |head: Cow<'_, [u8]>| Header::parse(&head).map_err(|e| format!("is {e}"));
            let header = archive.prefix(&entry, MOST_HEADER).map_err(unread).and_then(parse)?;
            let (whole, stored) = (archive.size(&entry)?, archive.stored(&entry)?);
            Self::new(&header, |size| match stored {
                _ if header.data as u64 + size as u64 > whole => {
                    Err(format!("has shape {:?}, which is larger than its entry", header.shape))
                }
                Some(at) => Ok(Storage::Npz(archive, at.start + header.data..at.end)),
                None if header.fortran => {
                    Err("is compressed and in Fortran order; save `numpy.ascontiguousarray` of it instead".into())
                }
                None => Ok(Storage::Deflated(Mutex::new(Inflating::new(archive, &entry, header.data as u64)?))),
            })
        };
        open().map_err(|e| format!("array `{name}` {e}"))
    }

    fn new(header: &Header, store: impl FnOnce(usize) -> Parsed<Storage>) -> Parsed<Self> {
        if header.element != Element::U8 {
            return Err(format!("is of type {}, not u1", header.descr.trim_start_matches(['<', '>', '|', '='])));
        }
        let size = header.size()?;
        let Axes { places: [n, h, w], channel, channels } = Axes::of(&header.shape)?;
        let along = contiguous(&header.shape, header.fortran);
        let strides = [along[n], along[h], along[w], channel.map_or(0, |c| along[c])];
        let (count, height, width) = (header.shape[n], header.shape[h], header.shape[w]);
        Ok(Self { count: count as u64, height, width, channels, strides, store: store(size)? })
    }

    pub fn len(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Appends image `index` as RGB, `[H, W, 3]`.
    pub fn append(&self, index: u64, to: &mut Vec<u8>) -> Result<()> {
        if index >= self.count {
            bail!("image {index} is out of range; there are {}", self.count);
        }
        let start = index as usize * self.strides[0];
        match &self.store {
            Storage::Npy(map, data) => self.gather(&map[data.start + start..data.end], to),
            Storage::Npz(archive, data) => self.gather(archive.bytes(data.start + start..data.end), to),
            Storage::Deflated(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                let size = self.height * self.width * self.channels;
                match stream.read(start as u64, size, index + 1 == self.count) {
                    Ok(image) => self.gather(image, to),
                    Err(e) => bail!("image {index}: {e}"),
                }
            }
        }
        Ok(())
    }

    /// Appends the pixels of an image, whose bytes begin here, as RGB.
    fn gather(&self, bytes: &[u8], to: &mut Vec<u8>) {
        let [_, row, column, channel] = self.strides;
        if (self.channels, channel, column, row) == (3, 1, 3, 3 * self.width) {
            return to.extend_from_slice(&bytes[..self.height * row]);
        }
        let channel = if self.channels == 1 { 0 } else { channel };
        for (y, x) in (0..self.height).flat_map(|y| (0..self.width).map(move |x| (y, x))) {
            let at = y * row + x * column;
            to.extend([bytes[at], bytes[at + channel], bytes[at + 2 * channel]]);
        }
    }
}

/// The meaning of the axes of an array.
#[derive(Debug, PartialEq)]
struct Axes {
    /// Axes of images, rows and columns.
    places: [usize; 3],
    /// Axis of channels, if there is one.
    channel: Option<usize>,
    channels: usize,
}

impl Axes {
    /// A size of 1, 3 or 4 at either end may be channels. If both axes qualify, the shape is
    /// refused.
    fn of(shape: &[usize]) -> Parsed<Self> {
        let is_channels = |n: usize| [1, 3, 4].contains(&n);
        let unfit = |why: &str| Err(format!("has shape {shape:?}, not [N, H, W, 3]{why}"));
        let axes = |places: [usize; 3], channel: Option<usize>| {
            let channels = channel.map_or(1, |c| shape[c]);
            Ok(Self { places, channel, channels })
        };
        if let Some(0) = shape.iter().skip(1).min() {
            return unfit(": it has no pixels");
        }
        match *shape {
            [_, _, _, 3] => axes([0, 1, 2], Some(3)),
            [_, 3 | 1, _, w] if !is_channels(w) => axes([0, 2, 3], Some(1)),
            [_, h, _, 1] if !is_channels(h) => axes([0, 1, 2], Some(3)),
            [_, h, _, 4] if !is_channels(h) => {
                unfit(": the meaning of a fourth channel is unknown; `images[..., :3]` drops it")
            }
            [_, _, 3] => unfit(": it could be one image or several in grey; for one image, save `images[None]`"),
            [n, h, w] if ![n, h, w].into_iter().any(is_channels) => axes([0, 1, 2], None),
            _ => unfit(""),
        }
    }
}

/// A deflated entry of an archive, read from its beginning.
struct Inflating {
    archive: Arc<Archive>,
    entry: String,
    /// Bytes before the first image.
    header: u64,
    stream: DeflateDecoder<Slice>,
    /// Position in the stream, and checksum so far.
    at: u64,
    crc: flate2::Crc,
    buffer: Vec<u8>,
}

impl Inflating {
    fn new(archive: Archive, entry: &str, header: u64) -> Parsed<Self> {
        let archive = Arc::new(archive);
        let stream = DeflateDecoder::new(Slice { at: archive.packed(entry)?, archive: archive.clone() });
        Ok(Self { archive, entry: entry.into(), header, stream, at: 0, crc: flate2::Crc::new(), buffer: vec![] })
    }

    /// Bytes of the array from `start`. `last` says that they end it.
    fn read(&mut self, start: u64, size: usize, last: bool) -> Parsed<&[u8]> {
        let start = self.header + start;
        if start < self.at {
            let packed = self.archive.packed(&self.entry)?;
            self.stream = DeflateDecoder::new(Slice { at: packed, archive: self.archive.clone() });
            (self.at, self.crc) = (0, flate2::Crc::new());
        }
        while self.at < start {
            self.fill((start - self.at).min(1 << 16) as usize)?;
        }
        self.fill(size)?;
        if last {
            let mut more = [0];
            match self.stream.read(&mut more) {
                Ok(0) => {}
                _ => return Err(format!("entry `{}` inflates to more than it should have", self.entry)),
            }
            self.archive.check_sum(&self.entry, self.crc.sum())?;
        }
        Ok(&self.buffer)
    }

    /// Reads the next bytes into the buffer.
    fn fill(&mut self, size: usize) -> Parsed<()> {
        self.buffer.clear();
        let read = self.stream.by_ref().take(size as u64).read_to_end(&mut self.buffer);
        read.map_err(|e| format!("entry `{}` cannot be inflated: {e}", self.entry))?;
        if self.buffer.len() < size {
            return Err(format!("entry `{}` inflates to less than it should have", self.entry));
        }
        self.at += size as u64;
        self.crc.update(&self.buffer);
        Ok(())
    }
}

impl std::fmt::Debug for Inflating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` at byte {}", self.entry, self.at)
    }
}

/// Sequentially read bytes of a mapped file.
struct Slice {
    archive: Arc<Archive>,
    at: Range<usize>,
}

impl Read for Slice {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.at.len().min(into.len());
        into[..n].copy_from_slice(self.archive.bytes(self.at.start..self.at.start + n));
        self.at.start += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::Axes;

    #[test]
    fn axes_are_told_apart_or_not_taken() {
        let of = |shape: &[usize]| Axes::of(shape).ok().map(|a| (a.places, a.channel, a.channels));
        assert_eq!(of(&[5, 8, 9, 3]), Some(([0, 1, 2], Some(3), 3)));
        assert_eq!(of(&[5, 3, 8, 9]), Some(([0, 2, 3], Some(1), 3)));
        assert_eq!(of(&[5, 3, 9, 3]), Some(([0, 1, 2], Some(3), 3)));
        assert_eq!(of(&[5, 8, 9, 1]), Some(([0, 1, 2], Some(3), 1)));
        assert_eq!(of(&[5, 1, 8, 9]), Some(([0, 2, 3], Some(1), 1)));
        assert_eq!(of(&[5, 8, 9]), Some(([0, 1, 2], None, 1)));
        assert_eq!(of(&[0, 8, 9, 3]), Some(([0, 1, 2], Some(3), 3)));
        let unclear: [&[usize]; 12] = [
            &[8, 9, 3],
            &[3, 8, 9],
            &[5, 8, 9, 4],
            &[5, 3, 9, 4],
            &[5, 3, 9, 1],
            &[5, 8, 9, 2],
            &[5, 4, 8, 9],
            &[5, 192],
            &[5],
            &[],
            &[5, 0, 9, 3],
            &[5, 8, 9, 3, 1],
        ];
        for shape in unclear {
            assert_eq!(of(shape), None, "{shape:?}");
        }
    }
}
