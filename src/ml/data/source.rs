//! Folders of images: finding them, reading them, bringing them to one size.
//!
//! A class is a top-level folder; classes and files are taken in sorted order, so the result depends on names and
//! contents alone. Pixels are taken as Pillow's `convert("RGB")` gives them: grey is repeated, alpha is dropped (not
//! composited), orientation tags are not applied; 16-bit samples are scaled to 8. JPEG decoders may differ from each
//! other by one level.

use super::picture::Rgb;
use super::resize::{Filter, center_crop, resize};
use candle_core::{Result, bail};
use image::ImageFormat;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// A listed folder of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// Class names by label.
    pub classes: Vec<String>,
    /// Path and label, by class and then by path.
    pub files: Vec<(PathBuf, i64)>,
    /// Files that are not images by their names.
    pub ignored: usize,
}

/// Which part of a folder to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    All,
    Train,
    Holdout,
}

/// How an image comes to `size` x `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transform {
    /// [`center_crop`].
    CenterCropDhariwal,
    /// Bicubic to the size, whatever the aspect.
    ResizeBicubic,
    /// Must have the size already.
    None,
}

impl Listing {
    /// Lists `root`. Images may lie directly in it (then there is one class) or in class folders, not both.
    pub fn scan(root: &Path) -> Result<Self> {
        let shown = root.display();
        if root.is_file() {
            bail!("{shown} is a file; a folder of images is needed");
        }
        let (mut found, mut ignored) = (Vec::new(), 0);
        for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
            let entry = match entry {
                Ok(e) => e,
                Err(e) => bail!("cannot list {shown}: {e}"),
            };
            if entry.file_type().is_dir() {
                continue;
            }
            let ext = entry.path().extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
            let hidden = entry.file_name().to_str().is_some_and(|n| n.starts_with('.'));
            if hidden || !EXTENSIONS.contains(&ext.as_str()) {
                ignored += 1;
                continue;
            }
            let class = class_of(entry.path(), root)?;
            found.push((class, entry.into_path()));
        }
        if found.is_empty() {
            bail!("{shown} holds no images ({}; {ignored} other files)", EXTENSIONS.join(", "));
        }
        // Sorted by class name, then by whole path: walking order interleaves `a/`, `a-b/`.
        found.sort();
        let mut classes: Vec<String> = found.iter().map(|(c, _)| c.clone()).collect();
        classes.dedup();
        if classes.len() > 1 && classes[0].is_empty() {
            bail!("{shown} holds images both directly and in folders, so their classes are unclear: {}", {
                found[0].1.display()
            });
        }
        let label = |c: &String| classes.partition_point(|x| x < c) as i64;
        let files = found.iter().map(|(c, p)| (p.clone(), label(c))).collect();
        Ok(Self { classes, files, ignored })
    }

    /// The part of the listing that `split` names: every `every`-th image of each class is held out.
    pub fn split(mut self, split: Split, every: usize) -> Self {
        let mut seen = vec![0usize; self.classes.len()];
        self.files.retain(|(_, label)| {
            let n = &mut seen[*label as usize];
            *n += 1;
            let held_out = n.is_multiple_of(every.max(1));
            match split {
                Split::All => true,
                Split::Train => !held_out,
                Split::Holdout => held_out,
            }
        });
        self
    }
}

/// Name of the folder under `root` that holds `path`; empty for a file in `root` itself.
fn class_of(path: &Path, root: &Path) -> Result<String> {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let mut parts = inside.components();
    let first = parts.next();
    match (first, parts.next()) {
        (Some(folder), Some(_)) => match folder.as_os_str().to_str() {
            Some(name) => Ok(name.to_string()),
            None => bail!("{}: the folder's name is not UTF-8", path.display()),
        },
        _ => Ok(String::new()),
    }
}

/// Reads an image file as RGB. The format is told from the contents, not from the name.
pub fn read_rgb(path: &Path) -> Result<Rgb> {
    let bytes = match std::fs::read(path) {
        Ok(b) => b,
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    let decoded = image::guess_format(&bytes).and_then(|format| {
        if format == ImageFormat::Jpeg && !jpeg_has_end(&bytes) {
            let cause = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(image::ImageError::IoError(cause));
        }
        image::load_from_memory_with_format(&bytes, format)
    });
    match decoded {
        Ok(image) => {
            let rgb = image.into_rgb8();
            Ok(Rgb { height: rgb.height() as usize, width: rgb.width() as usize, data: rgb.into_raw() })
        }
        Err(e) => bail!("{}: not a readable image, or cut short: {e}", path.display()),
    }
}

/// Whether an end-of-image marker follows the first scan. The decoder fills what is missing of a truncated JPEG with
/// grey; a data set should not hold such images unnoticed. Thumbnails before the scan have end markers of their own.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == 0xda {
            return bytes[at..].windows(2).any(|w| w == [0xff, 0xd9]);
        }
        // A fill byte, or a segment with its length.
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

/// Reads `path` and brings it to `size` x `size`.
pub fn load(path: &Path, transform: Transform, size: usize) -> Result<Rgb> {
    let image = read_rgb(path)?;
    if image.height == 0 || image.width == 0 {
        bail!("{}: an image without pixels", path.display());
    }
    match transform {
        Transform::CenterCropDhariwal => Ok(center_crop(&image, size)),
        Transform::ResizeBicubic => Ok(resize(&image, size, size, Filter::Bicubic)),
        Transform::None if image.height == size && image.width == size => Ok(image),
        Transform::None => bail!(
            "{}: {} x {} pixels, and `transform = \"none\"` needs {size} x {size}",
            path.display(),
            image.height,
            image.width
        ),
    }
}
