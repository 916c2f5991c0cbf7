//! Opens the images at a path: an artifact, or a folder, ZIP, npz or npy that any tool made.

use crate::support::params::of_set;
use erw_base::error::{Error, Result};
use erw_ml::data::images::ImageSet;
use erw_ml::data::source::ImageListing;
use erw_ml::data::source::belongs::is_image;
use erw_ml::evaluation::image_source::ImageSource;
use erw_ml::formats::format::Format;
use erw_ml::formats::{Npz, PixelArray, format_of};
use erw_ml::metrics::gaussian::{POOLED, lacking};
use std::path::Path;

/// The accepted containers of images.
const HINT: &str = "give a folder of images, a ZIP of them, or an npz or npy with u8 [N, H, W, 3]";

/// Opens an artifact of type `images` or `samples`.
pub fn of_artifact(dir: &Path) -> Result<ImageSource> {
    not_empty(ImageSource::of_artifact(dir)?, dir)
}

/// Opens the array `arr_0` of an npz, u8 `[N, H, W, 3]`, or its only array.
pub fn of_npz(path: &Path) -> Result<ImageSource> {
    of_array(path, PixelArray::of_npz(path))
}

fn of_array(path: &Path, array: candle_core::Result<PixelArray>) -> Result<ImageSource> {
    let array = array.map_err(|e| {
        let error = Error::from(e);
        let floats = error.message.contains("is of type f").then(|| {
            "convert values from 0 to 1 to u8 with `(x * 255).round().astype('uint8')`, values from -1 to 1 with \
             `((x + 1) * 127.5).round().clip(0, 255).astype('uint8')`"
                .to_string()
        });
        let hint = "images are u8 [N, H, W, 3] in `arr_0`, as `numpy.savez(path, images)` writes them";
        error.hint(hint).maybe_hint(floats)
    })?;
    not_empty(ImageSet::open_array(array).into(), path)
}

/// Opens the images at `path`: a folder of images, with or without subfolders; a ZIP of such a
/// folder; an npz or npy; the folder of an artifact.
///
/// # Errors
/// If there are no images, or the file is of another format.
pub fn of_path(path: &Path) -> Result<ImageSource> {
    if path.join("samples.npz").is_file() || path.join("images-00000.safetensors").is_file() {
        return of_artifact(path);
    }
    if is_npz(path) {
        if let Some(missing) = lacking(&Npz::open(path)?.names()) {
            let text = format!("{} holds statistics, but no `{missing}`", path.display());
            return Err(Error::stage(text).hint("images alone are in an npz without other parts of statistics"));
        }
        return of_npz(path);
    }
    match format_of(path) {
        Some(Format::Npy) => return of_array(path, PixelArray::of_npy(path)),
        None | Some(Format::Npz) => {}
        Some(format) => return Err(Error::stage(format!("{} is {format}, not images", path.display())).hint(HINT)),
    }
    let source = ImageListing::pictures(path).map_err(|e| of_set(e).hint(HINT))?;
    not_empty(source.into(), path)
}

fn not_empty(images: ImageSource, path: &Path) -> Result<ImageSource> {
    match images.len() {
        0 => Err(Error::stage(format!("`{}` holds no images", path.display()))),
        _ => Ok(images),
    }
}

/// Refuses images of one size that differs from `trained`, the (height, width) that the network was
/// trained on; `None` accepts every size.
pub fn check_size(images: &ImageSource, trained: Option<(usize, usize)>) -> Result<()> {
    match images.size().zip(trained).filter(|(ours, trained)| ours != trained) {
        Some(((height, width), (h, w))) => {
            let text = format!("images of {height} x {width} pixels, but the classifier was trained on {h} x {w}");
            Err(Error::stage(text).hint("it takes images at their own size: bring both to one"))
        }
        None => Ok(()),
    }
}

/// Whether a file is an archive of arrays that contains no image files.
pub fn is_npz(path: &Path) -> bool {
    path.is_file()
        && Npz::open(path).is_ok_and(|npz| !npz.names().is_empty() && !npz.others().into_iter().any(is_image))
}

/// The warning about images that are stored beside published statistics: they are only a part of
/// the set.
pub fn caution(path: &Path) -> Option<String> {
    let npz = Npz::open(path).ok().filter(|_| is_npz(path))?;
    npz.names().iter().any(|name| name == POOLED[0]).then(|| {
        "the images in `source` lie beside statistics (`mu`, `sigma`) of the whole set that they are taken from; \
         distances to these images alone are not FID to that set. A `weights` stage with `as = \"stats\"` takes the \
         statistics"
            .to_string()
    })
}
