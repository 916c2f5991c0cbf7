//! What there is to know of a set of images before a pipeline is written for it: classes, sizes,
//! what cannot be read, what is left out. Does not know what the pipeline will be.

use crate::common::columns;
use erw_base::error::{Error, Result};
use erw_ml::data::batches::spread;
use erw_ml::data::source::classes::{empty, first};
use erw_ml::data::source::layout::Classes;
use erw_ml::data::source::{ImageListing, READABLE};
use erw_report::text::count;
use rayon::prelude::*;
use std::path::PathBuf;

/// Which images; the parameters of the kind `images`.
#[derive(Debug, clap::Args)]
pub struct SetArgs {
    /// The images: a folder with one folder of images per class, a folder of images, a ZIP or tar
    /// of such a folder, WebDataset shards, Parquet tables, IDX files or CIFAR-10 batches
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub images: PathBuf,
    /// Folder in an archive, or prefix of shards, tables or IDX files, to read
    #[arg(long, value_name = "NAME")]
    pub part: Option<String>,
    /// File of labels: of one IDX file, or a CSV with the class of each file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub labels: Option<PathBuf>,
    /// Where classes come from; see the kind `images`
    #[arg(long, default_value = "auto", value_parser = ["auto", "folders", "one"])]
    pub classes: String,
}

impl SetArgs {
    pub fn classes(&self) -> Classes {
        match self.classes.as_str() {
            "folders" => Classes::Folders,
            "one" => Classes::One,
            _ => Classes::Auto,
        }
    }
}

/// Images that are opened: enough to know the usual size, and seconds even for photographs.
const LOOKED_AT: u64 = 1000;

/// A set that was looked at.
#[derive(Debug)]
pub struct Images {
    /// What it is and what is left out, for people.
    what: String,
    notes: Vec<String>,
    /// Name and number of images of each class.
    classes: Vec<(String, usize)>,
    pub count: usize,
    /// Images that were opened, readable or not.
    looked_at: usize,
    /// Width and height of those that can be read.
    sizes: Vec<(usize, usize)>,
    /// Images that were opened and state an orientation, or have transparency.
    turned: usize,
    alpha: usize,
    /// Why the others cannot.
    unreadable: Vec<String>,
}

impl Images {
    /// # Errors
    /// If it is no set of images, or none of its images can be read.
    pub fn look(set: &SetArgs) -> Result<Self> {
        let listing = ImageListing::open_as(&set.images, set.part.as_deref(), set.labels.as_deref(), set.classes());
        let listing = listing.map_err(unusable)?;
        let mut classes: Vec<(String, usize)> = listing.classes().iter().map(|name| (name.clone(), 0)).collect();
        for i in 0..listing.len() {
            if let Some((_, n)) = classes.get_mut(listing.label(i) as usize) {
                *n += 1;
            }
        }
        let chosen = spread(listing.len() as u64, LOOKED_AT);
        let open = |i: &u64| listing.look(*i as usize);
        let opened: Vec<_> = chosen.par_iter().map(open).collect();
        let (mut sizes, mut unreadable, mut turned, mut alpha) = (vec![], vec![], 0, 0);
        for image in opened {
            match image {
                Ok((width, height, extras)) => {
                    sizes.push((width, height));
                    turned += usize::from(extras.turned);
                    alpha += usize::from(extras.alpha);
                }
                Err(e) => unreadable.push(Error::from(e).message),
            }
        }
        if sizes.is_empty() {
            let (seen, of) = (count(chosen.len(), "image"), set.images.display());
            return Err(
                Error::usage(format!("cannot read any image of `{of}`, of {seen} tried")).because(first(unreadable))
            );
        }
        Ok(Self {
            what: listing.to_string(),
            notes: listing.remarks().iter().chain(listing.notes()).chain(listing.warnings()).cloned().collect(),
            turned,
            alpha,
            classes,
            count: listing.len(),
            looked_at: chosen.len(),
            sizes,
            unreadable,
        })
    }

    /// The short side in pixels that half of the images reach.
    pub fn usual_side(&self) -> usize {
        let mut sides: Vec<usize> = self.sizes.iter().map(|(w, h)| *w.min(h)).collect();
        sides.sort_unstable();
        sides.get(sides.len() / 2).copied().unwrap_or(0)
    }

    /// Number of classes that have images.
    pub fn classes(&self) -> usize {
        self.classes.iter().filter(|(_, n)| *n > 0).count()
    }

    /// How many images are held out if every `every`-th of a class is.
    pub fn held_out(&self, every: usize) -> usize {
        self.classes.iter().map(|(_, n)| n / every).sum()
    }

    pub fn has_unreadable(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// `40 x 30 pixels`, or `from 40 x 30 to 640 x 480 pixels, …`.
    pub fn sizes(&self) -> String {
        let area = |size: &&(usize, usize)| (size.0 * size.1, size.0);
        let (Some(least), Some(most)) = (self.sizes.iter().min_by_key(area), self.sizes.iter().max_by_key(area)) else {
            return String::new();
        };
        let (a, b) = (format!("{} x {}", least.0, least.1), format!("{} x {}", most.0, most.1));
        match self.sizes.iter().all(|size| size == least) {
            true => format!("all {a} pixels"),
            false => format!("from {a} to {b} pixels; the short side of half of them is {} or more", self.usual_side()),
        }
    }

    /// What was found, for people. Names come from folders and may hold anything.
    pub fn report(&self) -> String {
        let row = |name: &str, text: String| vec![name.to_string(), text];
        let mut rows = vec![row("images", self.what.clone()), row("classes", self.class_list())];
        rows.push(row("sizes", self.sizes()));
        let elongated = self.sizes.iter().filter(|(w, h)| w != h).count();
        if elongated > 0 {
            rows.push(row("", format!("{} not square: the longer side is cropped", of(elongated, self.sizes.len()))));
        }
        if self.looked_at < self.count {
            rows.push(row("", format!("measured on {} of them, spread evenly", self.looked_at)));
        }
        if self.has_unreadable() {
            let share = of(self.unreadable.len(), self.looked_at);
            rows.push(row("unreadable", format!("{share}: {}", first(&self.unreadable))));
        }
        let opened = self.sizes.len();
        if self.turned > 0 {
            let text = format!(
                "{} state one (EXIF), which is ignored; `orientation` of the stage can apply it",
                of(self.turned, opened)
            );
            rows.push(row("orientation", text));
        }
        if self.alpha > 0 {
            rows.push(row("transparency", format!("{} have some, which is dropped", of(self.alpha, opened))));
        }
        let of_class: Vec<u64> = self.classes.iter().map(|(_, n)| *n as u64).collect();
        let names: Vec<String> = self.classes.iter().map(|(name, _)| name.clone()).collect();
        rows.extend(empty(&names, &of_class).map(|text| row("note", text)));
        rows.extend(self.notes.iter().map(|note| row("note", note.clone())));
        for cell in rows.iter_mut().flatten() {
            *cell = cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        }
        columns(&rows, "")
    }

    fn class_list(&self) -> String {
        if self.classes.len() < 2 {
            return "one; the model is not told any, and guidance has no use".into();
        }
        let all = || self.classes.iter().map(|(_, n)| *n);
        let range = match (all().min().unwrap_or(0), all().max().unwrap_or(0)) {
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        let names = first(self.classes.iter().map(|(name, n)| format!("{name} ({n})")));
        format!("{}, of {range} images: {names}", self.classes.len())
    }
}

/// `1 of 7`.
fn of(n: usize, all: usize) -> String {
    format!("{n} of {all}")
}

/// An error about a set that cannot be used. Its causes are hints, which speak of parameters.
fn unusable(e: candle_core::Error) -> Error {
    let mut error = Error::from(e);
    let mut hints: Vec<String> = std::mem::take(&mut error.causes);
    if hints.iter().any(|hint| hint.contains(" = ")) {
        hints.push("here they are flags: `--images` is `source`; `--part`, `--classes` and `--labels`".into());
    } else if hints.is_empty() {
        hints.push(format!("give `--images` a folder of images, or {READABLE}"));
    }
    error.hints.extend(hints.iter().flat_map(|text| text.lines()).map(String::from));
    Error { kind: erw_base::error::ErrorKind::Usage, ..error }
}
