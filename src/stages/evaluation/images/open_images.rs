//! What images lie at a path: an artifact, or a folder, ZIP, npz or npy that any tool made.

use crate::support::params::of_set;
use erw_base::error::{Error, Result};
use erw_ml::data::images::ImageSet;
use erw_ml::data::source::Source;
use erw_ml::data::source::belongs::is_image;
use erw_ml::evaluation::image_source::ImageSource;
use erw_ml::formats::format::Format;
use erw_ml::formats::{Npz, PixelArray, format_of};
use erw_ml::metrics::gaussian::POOLED;
use std::path::Path;

/// What images can lie in.
const HINT: &str = "give a folder of images, a ZIP of them, or an npz or npy with u8 [N, H, W, 3]";

/// An artifact of type `images` or `samples`.
pub fn of_artifact(dir: &Path) -> Result<ImageSource> {
    not_empty(ImageSource::of_artifact(dir)?, dir)
}

/// The `arr_0` of an npz, u8 `[N, H, W, 3]`, or its only array.
pub fn of_npz(path: &Path) -> Result<ImageSource> {
    of_array(path, PixelArray::of_npz(path))
}

fn of_array(path: &Path, array: candle_core::Result<PixelArray>) -> Result<ImageSource> {
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
    not_empty(ImageSet::open_array(array).into(), path)
}

/// Whatever lies at `path`: a folder of images, in folders or directly; a ZIP of that; an npz or
/// npy; a folder that holds an artifact.
pub fn of_path(path: &Path) -> Result<ImageSource> {
    if path.join("samples.npz").is_file() || path.join("images-00000.safetensors").is_file() {
        return of_artifact(path);
    }
    if is_npz(path) {
        return of_npz(path);
    }
    match format_of(path) {
        Some(Format::Npy) => return of_array(path, PixelArray::of_npy(path)),
        None | Some(Format::Npz) => {}
        Some(format) => return Err(Error::stage(format!("{} is {format}, not images", path.display())).hint(HINT)),
    }
    let source = Source::pictures(path).map_err(|e| of_set(e).hint(HINT))?;
    not_empty(source.into(), path)
}

fn not_empty(images: ImageSource, path: &Path) -> Result<ImageSource> {
    match images.len() {
        0 => Err(Error::stage(format!("`{}` holds no images", path.display()))),
        _ => Ok(images),
    }
}

/// Refuses a set of images of another size than the network was trained on, if it knows one.
pub fn check_size(images: &ImageSource, trained: Option<(usize, usize)>) -> Result<()> {
    match images.size().zip(trained).filter(|(ours, trained)| ours != trained) {
        Some((ours, trained)) => Err(Error::stage(unlike(ours, trained)).hint("give both the same `resolution`")),
        None => Ok(()),
    }
}

/// Whether a file is an archive of arrays, and not of images with arrays beside them.
pub fn is_npz(path: &Path) -> bool {
    path.is_file()
        && Npz::open(path).is_ok_and(|npz| !npz.names().is_empty() && !npz.others().into_iter().any(is_image))
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
