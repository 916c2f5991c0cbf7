//! The images of an evaluation, by index: a stored set of one size, or files of any size.
//!
//! Images keep their own size, because resizing them for the network is part of a metric's
//! definition. Files may differ in size: the files of a batch that share a size go through the
//! network together. This file knows neither networks nor metrics.

use crate::data::batches::spread;
use crate::data::decode::orientation::Orientation;
use crate::data::images::ImageSet;
use crate::data::rgb::Rgb;
use crate::data::source::ImageListing;
use crate::data::source::left_out::LeftOut;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A set of images, accessed by index.
pub struct ImageSource {
    store: Box<Storage>,
    /// Indices of the selected images; `None` selects all.
    chosen: Option<Vec<u64>>,
    left_out: LeftOut,
    notes: Vec<String>,
}

enum Storage {
    /// Mapped images of one size.
    Set(ImageSet),
    /// Files, decoded on demand.
    Files(ImageListing),
}

/// The images of a batch that share one size.
pub struct Group {
    /// Positions in the batch.
    pub places: Vec<usize>,
    /// u8 `[n, 3, H, W]` on the CPU.
    pub images: Tensor,
}

impl From<ImageSet> for ImageSource {
    fn from(set: ImageSet) -> Self {
        Self { store: Box::new(Storage::Set(set)), chosen: None, left_out: LeftOut::default(), notes: vec![] }
    }
}

impl From<ImageListing> for ImageSource {
    fn from(source: ImageListing) -> Self {
        let (left_out, notes) = (source.left_out().clone(), source.notes().to_vec());
        Self { store: Box::new(Storage::Files(source)), chosen: None, left_out, notes }
    }
}

impl ImageSource {
    /// Opens packed or generated images like [`ImageSet::open`], and reads what `meta.json` reports
    /// as left out.
    pub fn of_artifact(dir: &Path) -> Result<Self> {
        let left_out = std::fs::read(dir.join("meta.json")).ok().and_then(|text| left_out(&text)).unwrap_or_default();
        Ok(Self { left_out, ..Self::from(ImageSet::open(dir)?) })
    }

    /// Selects at most `limit` images, spread evenly over the set; `None` selects all.
    #[must_use]
    pub fn limited(mut self, limit: Option<u64>) -> Self {
        self.chosen = limit.filter(|limit| *limit < self.len()).map(|limit| spread(self.len(), limit));
        self
    }

    /// What lies in the set but is not part of it.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Remarks to read before comparing a value computed on this set, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn len(&self) -> u64 {
        match (&self.chosen, &*self.store) {
            (Some(chosen), _) => chosen.len() as u64,
            (None, Storage::Set(set)) => set.len(),
            (None, Storage::Files(source)) => source.len() as u64,
        }
    }

    /// Height and width of a stored set; `None` for files, which may differ.
    pub fn size(&self) -> Option<(usize, usize)> {
        match &*self.store {
            Storage::Set(set) => Some((set.height(), set.width())),
            Storage::Files(_) => None,
        }
    }

    /// Index in the whole set of an image of the selection.
    fn number(&self, index: u64) -> u64 {
        self.chosen.as_ref().and_then(|chosen| chosen.get(index as usize)).copied().unwrap_or(index)
    }

    /// The image as messages name it.
    pub fn place(&self, index: u64) -> String {
        let number = self.number(index);
        match &*self.store {
            Storage::Set(_) => format!("image {number}"),
            Storage::Files(source) => source.place(number as usize),
        }
    }

    /// Loads the images of `range`, grouped by size. Files are decoded on all threads.
    ///
    /// # Errors
    /// A file is not a readable image; the error names it.
    pub fn groups(&self, range: Range<u64>) -> Result<Vec<Group>> {
        let n = (range.end - range.start) as usize;
        let numbers: Vec<u64> = range.map(|i| self.number(i)).collect();
        let source = match &*self.store {
            Storage::Set(set) => {
                let images = set.batch(&numbers, &Device::Cpu)?;
                return Ok(vec![Group { places: (0..n).collect(), images }]);
            }
            Storage::Files(source) => source,
        };
        // As stored: none of the evaluation tools applies the orientation that a camera recorded.
        let read = |i: u64| source.original(i as usize, Orientation::Ignore);
        let images: Vec<Rgb> = numbers.into_par_iter().map(read).collect::<Result<_>>()?;
        let mut sizes: BTreeMap<(usize, usize), (Vec<usize>, Vec<u8>)> = BTreeMap::new();
        for (place, image) in images.into_iter().enumerate() {
            let (places, pixels) = sizes.entry((image.height, image.width)).or_default();
            places.push(place);
            pixels.extend(image.data);
        }
        let group = |((height, width), (places, pixels)): ((usize, usize), (Vec<usize>, Vec<u8>))| {
            let images = Tensor::from_vec(pixels, (places.len(), height, width, 3), &Device::Cpu)?;
            Ok(Group { places, images: images.permute((0, 3, 1, 2))?.contiguous()? })
        };
        sizes.into_iter().map(group).collect()
    }

    /// The pixels of an image as bytes `[H, W, 3]`, and (H, W).
    pub fn bytes(&self, index: u64) -> Result<(Vec<u8>, (usize, usize))> {
        let (mut bytes, mut size) = (vec![], (0, 0));
        for Group { images, .. } in self.groups(index..index + 1)? {
            let (_, _, height, width) = images.dims4()?;
            bytes = images.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?;
            size = (height, width);
        }
        Ok((bytes, size))
    }
}

/// What the `meta.json` of an image artifact reports as left out.
fn left_out(meta: &[u8]) -> Option<LeftOut> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(default)]
        left_out: LeftOut,
        #[serde(default)]
        skipped: u64,
    }
    let mut meta: Meta = serde_json::from_slice(meta).ok()?;
    meta.left_out.unreadable(meta.skipped);
    Some(meta.left_out)
}
