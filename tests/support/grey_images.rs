//! Sets of images, most of them of one grey each, by which they are told, in whatever a set is stored.

use candle_core::Result;
use erw::ml::data::decode::orientation::Orientation;
use erw::ml::data::source::{ImageListing, Preparation};
use erw::ml::data::transform::Transform;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// Images as they are.
pub const AS_IS: Preparation = Preparation { orientation: Orientation::Ignore, transform: Transform::None, size: 2 };

/// An image of 2 x 2 pixels of this grey.
pub fn png(grey: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    image::RgbImage::from_pixel(2, 2, image::Rgb([grey; 3])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes a file and the folders around it.
pub fn write(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    path.into()
}

/// The whole set.
pub fn open(root: &Path) -> Result<ImageListing> {
    ImageListing::open(root, None, None)
}

/// Grey and label of every image, in order.
pub fn greys(source: &ImageListing) -> Vec<(u8, i64)> {
    (0..source.len()).map(|i| (source.load(i, &AS_IS).unwrap().0.data[0], source.label(i))).collect()
}

/// The text of the error.
pub fn error<T>(r: Result<T>) -> String {
    r.err().expect("an error").to_string()
}
