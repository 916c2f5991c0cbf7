//! Where images come from: a folder tree, the prepared folder of EDM2 and REPA, a ZIP of either, or an IDX pair. Which
//! of them it is shows in the contents; behind [`Source`] they are the same: images by index, with labels.
//!
//! Listing reads names and labels only. Images are read one by one, by as many threads as like to: nothing is shared
//! that needs a lock, and nothing is kept. The order depends on names and contents alone.

mod archive;
pub mod classes;
mod idx;

use super::decode::{MAX_BYTES, Orientation, decode};
use super::picture::Rgb;
use super::transform::Transform;
use archive::Archive;
use candle_core::{Result, bail};
use classes::{LIST, Labelled};
use idx::Idx;
use memmap2::Mmap;
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// A listed set of images.
#[derive(Debug)]
pub struct Source {
    /// What was found, for people.
    what: &'static str,
    /// Class names by label.
    classes: Vec<String>,
    /// Place in the store and label.
    images: Vec<(usize, i64)>,
    /// Files that are no images by their names.
    ignored: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// A folder and the names in it.
    Folder(PathBuf, Vec<PathBuf>),
    Archive(Archive),
    Idx(Idx),
}

/// Which part of a set to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    All,
    Train,
    Holdout,
}

/// What an image goes through on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Preparation {
    pub orientation: Orientation,
    pub transform: Transform,
    /// Pixels on both sides.
    pub size: usize,
}

impl Source {
    /// Lists `root`. `part` chooses among the IDX pairs of a folder, by what their names begin with (`train`, `t10k`);
    /// `labels` is the file of labels when `root` is an IDX file of images itself.
    pub fn open(root: &Path, part: Option<&str>, labels: Option<&Path>) -> Result<Self> {
        let source = if !root.is_dir() { Self::file(root, labels)? } else { Self::folder(root, part)? };
        let shown = root.display();
        match (&source.store, part, labels) {
            (Store::Folder(..) | Store::Archive(_), Some(_), _) => {
                bail!("{shown} is {}, which has no `part`", source.what)
            }
            (Store::Idx(_), Some(_), _) if root.is_file() => bail!("{shown} is a file, which has no `part`"),
            (Store::Folder(..) | Store::Archive(_), _, Some(_)) => {
                bail!("{shown} is {}, whose labels are in itself; `labels` is for an IDX file", source.what)
            }
            (Store::Idx(_), _, Some(_)) if root.is_dir() => {
                bail!("{shown} is a folder, whose labels are found by name")
            }
            _ => Ok(source),
        }
    }

    fn file(root: &Path, labels: Option<&Path>) -> Result<Self> {
        let shown = root.display();
        if idx::is_images(root) {
            let Some(labels) = labels else { bail!("{shown} is an IDX file of images without labels") };
            return Ok(Self::of_idx(Idx::open(root, labels)?));
        }
        let mut archive = match File::open(root).map(starts_as_zip) {
            Ok(true) => Archive::open(root)?,
            Ok(false) => bail!("{shown} is neither a folder nor a ZIP file nor an IDX file of images"),
            Err(e) => bail!("cannot open {shown}: {e}"),
        };
        let list = match archive.find(Path::new(LIST)).map(|i| archive.read(i)).transpose() {
            Ok(text) => text.map(std::borrow::Cow::into_owned),
            Err(e) => bail!("{shown}!{LIST}: {e}"),
        };
        let ignored = archive.keep(is_image);
        let what = if list.is_some() { "a ZIP with dataset.json" } else { "a ZIP of folders" };
        let labelled = label(&format!("{shown}!{LIST}"), &shown.to_string(), &archive.names(), list, ignored)?;
        Ok(Self::of_files(what, labelled, ignored, Store::Archive(archive)))
    }

    fn folder(root: &Path, part: Option<&str>) -> Result<Self> {
        let shown = root.display();
        let mut pairs = idx::pairs(root)?;
        if !pairs.is_empty() {
            let known = pairs.keys().cloned().collect::<Vec<_>>().join(", ");
            let (images, labels) = match part {
                Some(name) => match pairs.remove(name) {
                    Some(pair) => pair,
                    None => bail!("{shown} holds no IDX files of the part `{name}`; parts: {known}"),
                },
                None if pairs.len() > 1 => {
                    bail!("{shown} holds IDX files of several parts; say which with `part`: {known}")
                }
                None => pairs.pop_first().map(|(_, pair)| pair).unwrap_or_default(),
            };
            return Ok(Self::of_idx(Idx::open(&images, &idx::labels_of(&images, &labels)?)?));
        }
        let (mut names, mut ignored) = (vec![], 0);
        for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
            match entry {
                Ok(e) if e.file_type().is_dir() => {}
                // What is neither, a pipe perhaps, would keep its reader waiting.
                Ok(e) if e.file_type().is_file() && is_image(e.path()) => {
                    names.push(e.path().strip_prefix(root).unwrap_or(e.path()).to_path_buf());
                }
                Ok(_) => ignored += 1,
                Err(e) => bail!("cannot list {shown}: {e}"),
            }
        }
        let file = root.join(LIST);
        let list = if file.is_file() { Some(std::fs::read(&file)?) } else { None };
        if list.is_none() && root.join("images").join(LIST).is_file() {
            bail!("{shown} holds a prepared set in its folder `images`; name that");
        }
        let what = if list.is_some() { "a folder with dataset.json" } else { "a tree of folders" };
        let paths: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        let labelled = label(&file.display().to_string(), &shown.to_string(), &paths, list, ignored)?;
        Ok(Self::of_files(what, labelled, ignored, Store::Folder(root.to_path_buf(), names)))
    }

    fn of_idx(idx: Idx) -> Self {
        let labels = idx.labels();
        let classes = labels.iter().max().map_or(0, |l| usize::from(*l) + 1);
        Self {
            what: "an IDX pair",
            classes: (0..classes).map(|c| c.to_string()).collect(),
            images: labels.iter().enumerate().map(|(i, l)| (i, i64::from(*l))).collect(),
            ignored: 0,
            store: Store::Idx(idx),
        }
    }

    fn of_files(what: &'static str, labelled: Labelled, ignored: usize, store: Store) -> Self {
        Self { what, classes: labelled.classes, images: labelled.files, ignored, store }
    }

    /// The part that `split` names: every `every`-th image of each class is held out.
    pub fn split(self, split: Split, every: usize) -> Self {
        self.keep(|nth| match split {
            Split::All => true,
            Split::Train => !nth.is_multiple_of(every.max(1)),
            Split::Holdout => nth.is_multiple_of(every.max(1)),
        })
    }

    /// The first `most` images of each class.
    pub fn limit(self, most: usize) -> Self {
        self.keep(|nth| nth <= most)
    }

    /// Keeps an image by its number in its class, from 1.
    fn keep(mut self, wanted: impl Fn(usize) -> bool) -> Self {
        let mut seen = vec![0usize; self.classes.len()];
        self.images.retain(|(_, label)| {
            let n = &mut seen[*label as usize];
            *n += 1;
            wanted(*n)
        });
        self
    }

    pub fn len(&self) -> usize {
        self.images.len()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Class names by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    pub fn label(&self, index: usize) -> i64 {
        self.images[index].1
    }

    /// Name of a file in the set, without the set's own; `None` in an IDX pair.
    pub fn name(&self, index: usize) -> Option<&Path> {
        match &self.store {
            Store::Folder(_, names) => Some(&names[self.images[index].0]),
            Store::Archive(archive) => Some(archive.name(self.images[index].0)),
            Store::Idx(_) => None,
        }
    }

    /// The image as messages name it: a path, `archive.zip!path` or `file, image 7`.
    pub fn place(&self, index: usize) -> String {
        let at = self.images[index].0;
        match &self.store {
            Store::Folder(root, names) => root.join(&names[at]).display().to_string(),
            Store::Archive(archive) => archive.place(at),
            Store::Idx(idx) => idx.place(at),
        }
    }

    /// Reads an image and prepares it. Errors name it.
    pub fn load(&self, index: usize, how: &Preparation) -> Result<Rgb> {
        let ready = self.image(self.images[index].0, how.orientation).and_then(|i| how.transform.apply(&i, how.size));
        match ready {
            Ok(image) => Ok(image),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    /// Reads an image at its own size. Errors name it.
    pub fn original(&self, index: usize, orientation: Orientation) -> Result<Rgb> {
        match self.image(self.images[index].0, orientation) {
            Ok(image) => Ok(image),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    fn image(&self, at: usize, orientation: Orientation) -> Result<Rgb> {
        match &self.store {
            Store::Folder(root, names) => decode(&read(&root.join(&names[at]))?, orientation),
            Store::Archive(archive) => decode(&archive.read(at)?, orientation),
            Store::Idx(idx) => Ok(idx.image(at)),
        }
    }
}

/// `a tree of folders: 12 images of 3 classes, 2 other files`.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} images of {} classes", self.what, self.len(), self.classes.len())?;
        if self.ignored > 0 {
            write!(f, ", {} no images by their names", classes::files_of(self.ignored))?;
        }
        Ok(())
    }
}

fn is_image(name: &Path) -> bool {
    let ext = name.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let hidden = name.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with('.'));
    !hidden && EXTENSIONS.contains(&ext.as_str())
}

/// Labels images by their list, or by their folders where there is none.
fn label(listed: &str, shown: &str, names: &[&Path], list: Option<Vec<u8>>, ignored: usize) -> Result<Labelled> {
    if names.is_empty() {
        bail!("{shown} holds no images ({}; {ignored} other files)", EXTENSIONS.join(", "));
    }
    match list {
        Some(text) => classes::by_list(listed, names, &text),
        None => classes::by_folder(shown, names),
    }
}

/// An archive begins with an entry, or with its end when it is empty.
fn starts_as_zip(mut file: File) -> bool {
    let mut start = [0; 2];
    file.read_exact(&mut start).is_ok() && start == *b"PK"
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let mut bytes = vec![];
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_BYTES => bail!("more than the {MAX_BYTES} bytes that are read"),
        Ok(bytes) => Ok(bytes),
        Err(e) => bail!("cannot be read: {e}"),
    }
}

/// Maps a file of the user's. One who cuts it short while it is read ends this process; `mapped` says of which file.
fn map(path: &Path) -> Result<Mmap> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) => bail!("cannot open {}: {e}", path.display()),
    };
    #[expect(unsafe_code, reason = "mapping a file that is read once and whose contents are only ever taken as bytes")]
    match unsafe { Mmap::map(&file) } {
        Ok(m) => Ok(m),
        Err(e) => bail!("cannot map {}: {e}", path.display()),
    }
}
