//! The images that an evaluation looks at: an artifact, or a folder, ZIP, npz or npy that any tool made.
//!
//! Images keep their own size, because bringing them to the network's is part of a metric's definition. Files of
//! different sizes are allowed: those of one batch that are equally large go through the network together.
//! Knows neither networks nor metrics.

use crate::support::params::of_set;
use candle_core::{Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::batches::spread;
use erw_ml::data::decode::orientation::Orientation;
use erw_ml::data::images::ImageSet;
use erw_ml::data::rgb::Rgb;
use erw_ml::data::source::Source;
use erw_ml::data::source::belongs::is_image;
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::formats::format::Format;
use erw_ml::formats::{Npz, PixelArray, format_of};
use erw_ml::metrics::gaussian::POOLED;
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

/// What images can lie in.
const HINT: &str = "give a folder of images, a ZIP of them, or an npz or npy with u8 [N, H, W, 3]";

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

impl ImageSource {
    /// An artifact of type `images` or `samples`.
    pub fn of_artifact(dir: &Path) -> Result<Self> {
        let left_out = std::fs::read(dir.join("meta.json")).ok().and_then(|text| left_out(&text)).unwrap_or_default();
        Self { left_out, ..Self::from(ImageSet::open(dir)?) }.not_empty(dir)
    }

    /// The `arr_0` of an npz, u8 `[N, H, W, 3]`, or its only array.
    pub fn of_npz(path: &Path) -> Result<Self> {
        Self::of_array(path, PixelArray::of_npz(path))
    }

    fn of_array(path: &Path, array: candle_core::Result<PixelArray>) -> Result<Self> {
        let array = array.map_err(|e| {
            let error = Error::from(e);
            let floats = error.message.contains("is of type f").then(|| {
                "numbers from 0 to 1 are to be rounded to u8 by `(x * 255).round().astype('uint8')`, from -1 to 1 by \
                 `((x + 1) * 127.5).round().clip(0, 255).astype('uint8')`"
                    .to_string()
            });
            let hint = "images are u8 [N, H, W, 3] in `arr_0`, as `numpy.savez(path, images)` writes them";
            error.hint(hint).maybe_hint(floats)
        })?;
        Self::from(ImageSet::open_array(array)).not_empty(path)
    }

    /// Whatever lies at `path`: a folder of images, in folders or directly; a ZIP of that; an npz or npy; a folder that holds
    /// an artifact.
    pub fn of_path(path: &Path) -> Result<Self> {
        if path.join("samples.npz").is_file() || path.join("images-00000.safetensors").is_file() {
            return Self::of_artifact(path);
        }
        if is_npz(path) {
            return Self::of_npz(path);
        }
        match format_of(path) {
            Some(Format::Npy) => return Self::of_array(path, PixelArray::of_npy(path)),
            None | Some(Format::Npz) => {}
            Some(format) => return Err(Error::stage(format!("{} is {format}, not images", path.display())).hint(HINT)),
        }
        let source = Source::pictures(path).map_err(|e| of_set(e).hint(HINT))?;
        let (left_out, notes) = (source.left_out().clone(), source.notes().to_vec());
        Self { store: Box::new(Storage::Files(source)), chosen: None, left_out, notes }.not_empty(path)
    }

    fn not_empty(self, path: &Path) -> Result<Self> {
        match self.len() {
            0 => Err(Error::stage(format!("`{}` holds no images", path.display()))),
            _ => Ok(self),
        }
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

    /// Refuses a set of images of another size than the network was trained on, if it knows one.
    pub fn check_size(&self, trained: Option<(usize, usize)>) -> Result<()> {
        match self.size().zip(trained).filter(|(ours, trained)| ours != trained) {
            Some((ours, trained)) => Err(Error::stage(unlike(ours, trained)).hint("give both the same `resolution`")),
            None => Ok(()),
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
    pub fn groups(&self, range: Range<u64>) -> candle_core::Result<Vec<Group>> {
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
        let images: Vec<Rgb> = numbers.into_par_iter().map(read).collect::<candle_core::Result<_>>()?;
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
    pub fn bytes(&self, index: u64) -> candle_core::Result<(Vec<u8>, (usize, usize))> {
        let (mut bytes, mut size) = (vec![], (0, 0));
        for Group { images, .. } in self.groups(index..index + 1)? {
            let (_, _, height, width) = images.dims4()?;
            bytes = images.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()?;
            size = (height, width);
        }
        Ok((bytes, size))
    }
}

/// Whether a file is an archive of arrays, and not of images with arrays beside them.
pub fn is_npz(path: &Path) -> bool {
    path.is_file()
        && Npz::open(path).is_ok_and(|npz| !npz.names().is_empty() && !npz.others().into_iter().any(is_image))
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

/// Of images of another size than a network was trained on.
pub fn unlike((height, width): (usize, usize), (h, w): (usize, usize)) -> String {
    format!("images of {height} x {width} pixels, but the classifier was trained on {h} x {w}")
}

/// What to say of images that lie beside published statistics: they are a few of many.
pub fn caution(path: &Path) -> Option<String> {
    let npz = Npz::open(path).ok().filter(|_| is_npz(path))?;
    npz.names().iter().any(|name| name == POOLED[0]).then(|| {
        "the images in `source` lie beside statistics (`mu`, `sigma`) of the whole set that they are taken from; distances \
         to these images alone are not FID to that set. A `weights` stage with `as = \"stats\"` takes the statistics"
            .to_string()
    })
}
