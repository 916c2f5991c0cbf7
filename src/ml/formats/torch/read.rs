//! Reads a described tensor: finds the bytes of its storage and checks the description against
//! them.

use super::describe::Description;
use crate::formats::archive::Archive;
use crate::formats::elements::View;
use crate::formats::parsed::Parsed;
use candle_core::Tensor;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// The maximum size in bytes of the tensors of a set, beyond four times the size of their storages.
const SLACK: usize = 64 << 20;

/// Where the values of a checkpoint are.
#[derive(Debug)]
pub enum Storages {
    Zip { archive: Archive, folder: String, big_endian: bool },
    Legacy { map: Mmap, places: HashMap<String, Range<usize>> },
}

/// Reads the tensors of one set. Tensors that are shared in the file are shared in memory.
pub struct Reader<'a> {
    storages: &'a Storages,
    inflated: HashMap<String, Cow<'a, [u8]>>,
    /// Bytes of the storages, and of the tensors made from them.
    stored: usize,
    taken: usize,
    views: HashMap<Description, Tensor>,
}

impl<'a> Reader<'a> {
    pub fn new(storages: &'a Storages) -> Self {
        Self { storages, inflated: HashMap::new(), stored: 0, taken: 0, views: HashMap::new() }
    }

    pub fn read(&mut self, d: Description) -> Parsed<Tensor> {
        if let Some(tensor) = self.views.get(&d) {
            return Ok(tensor.clone());
        }
        if !self.inflated.contains_key(&d.storage) {
            let bytes = self.storages.bytes(&d)?;
            self.stored += bytes.len();
            self.inflated.insert(d.storage.clone(), bytes);
        }
        let bytes = &self.inflated[&d.storage];
        let big_endian = matches!(self.storages, Storages::Zip { big_endian: true, .. });
        let view =
            View { bytes, element: d.element, big_endian, offset: d.offset, shape: &d.shape, strides: &d.strides };
        // Overlapping or repeating views of a small file could fill any amount of memory.
        self.taken = self.taken.saturating_add(view.size()?);
        if self.taken > self.stored.saturating_mul(4).saturating_add(SLACK) {
            return Err(format!("shape {:?} repeats the {} bytes of its storage too often", d.shape, bytes.len()));
        }
        let tensor = view.tensor()?;
        self.views.insert(d, tensor.clone());
        Ok(tensor)
    }
}

impl Storages {
    /// The bytes of a whole storage.
    fn bytes(&self, d: &Description) -> Parsed<Cow<'_, [u8]>> {
        let expected = d.length * d.element.size();
        match self {
            Self::Zip { archive, folder, .. } => {
                let entry = format!("{folder}data/{}", d.storage);
                let size = archive.size(&entry)?;
                // The size of an untyped storage need not be a multiple of the element size.
                if size < expected as u64 || size - expected as u64 >= d.element.size() as u64 {
                    return Err(format!("storage `{}` has {size} bytes, but the pickle says {expected}", d.storage));
                }
                archive.read(&entry, size)
            }
            Self::Legacy { map, places } => {
                let place = places.get(&d.storage).ok_or_else(|| format!("storage `{}` is missing", d.storage))?;
                Ok(Cow::Borrowed(&map[place.clone()]))
            }
        }
    }
}
