//! The images that an evaluation looks at, by index: stored ones of one size, or files of any.
//!
//! Images keep their own size, because bringing them to the network's is part of a metric's
//! definition. Files of different sizes are allowed: those of one batch that are equally large go
//! through the network together. Knows neither networks nor metrics.

use crate::data::batches::spread;
use crate::data::decode::orientation::Orientation;
use crate::data::images::ImageSet;
use crate::data::rgb::Rgb;
use crate::data::source::Source;
use crate::data::source::left_out::LeftOut;
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// A listed set of images, by index.
pub struct ImageSource {
    store: Box<Storage>,
    /// Those that are looked at, where not all are.
    chosen: Option<Vec<u64>>,
    left_out: LeftOut,
    notes: Vec<String>,
}

enum Storage {
    /// Equally large, mapped.
    Set(ImageSet),
    /// Decoded when their turn comes.
    Files(Source),
}

/// Images of a batch that have one size.
pub struct Group {
    /// Places in the batch.
    pub places: Vec<usize>,
    /// u8 `[n, 3, H, W]` on the CPU.
    pub images: Tensor,
}

impl From<ImageSet> for ImageSource {
    fn from(set: ImageSet) -> Self {
        Self { store: Box::new(Storage::Set(set)), chosen: None, left_out: LeftOut::default(), notes: vec![] }
    }
}

impl From<Source> for ImageSource {
    fn from(source: Source) -> Self {
        let (left_out, notes) = (source.left_out().clone(), source.notes().to_vec());
        Self { store: Box::new(Storage::Files(source)), chosen: None, left_out, notes }
    }
}

impl ImageSource {
    /// Packed or generated images, as [`ImageSet::open`] takes them, with what is said to lack.
    pub fn of_artifact(dir: &Path) -> Result<Self> {
        let left_out = std::fs::read(dir.join("meta.json")).ok().and_then(|text| left_out(&text)).unwrap_or_default();
        Ok(Self { left_out, ..Self::from(ImageSet::open(dir)?) })
    }

    /// At most `limit` of the images, spread evenly over the set.
    #[must_use]
    pub fn limited(mut self, limit: Option<u64>) -> Self {
        self.chosen = limit.filter(|limit| *limit < self.len()).map(|limit| spread(self.len(), limit));
        self
    }

    /// What lies in the set and is none of its images.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// What to know of the set before a number of it is compared, a sentence each.
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

    /// Height and width, where all images have the same.
    pub fn size(&self) -> Option<(usize, usize)> {
        match &*self.store {
            Storage::Set(set) => Some((set.height(), set.width())),
            Storage::Files(_) => None,
        }
    }

    /// Where an image stands in the whole set.
    fn number(&self, index: u64) -> u64 {
        self.chosen.as_ref().and_then(|chosen| chosen.get(index as usize)).copied().unwrap_or(index)
    }

    /// An image as messages name it.
    pub fn place(&self, index: u64) -> String {
        let number = self.number(index);
        match &*self.store {
            Storage::Set(_) => format!("image {number}"),
            Storage::Files(source) => source.place(number as usize),
        }
    }

    /// Images of these indices by size. Files are decoded on all threads.
    ///
    /// # Errors
    /// A file that is no readable image; the error names it.
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
        // As they are stored, like all the tools: none turns an image by what a camera noted.
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

    /// An image as bytes `[H, W, 3]`, with H and W.
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

/// What an artifact of images says that it lacks.
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
