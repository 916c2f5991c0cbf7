//! Where images come from: a folder tree, the prepared folder of EDM2 and REPA, a ZIP of either, or
//! a pair of IDX files. The contents show which. [`ImageListing`] presents all as images by index,
//! with labels.
//!
//! Listing reads only names and labels. Images are read one by one, from any number of threads:
//! nothing is locked and nothing is cached. The order depends only on names and contents.

mod archive;
pub mod belongs;
pub mod classes;
mod idx;
pub mod layout;
pub mod left_out;
mod names;
pub mod tree;

use super::decode::orientation::Orientation;
use super::decode::{MAX_BYTES, decode};
use super::rgb::Rgb;
use super::transform::Transform;
use crate::formats::describe;
use archive::Archive;
use belongs::{EXTENSIONS, hidden_part, is_image};
use candle_core::{Result, bail};
use classes::{LIST, Labelled, List};
use idx::Idx;
use layout::{Classes, Doubt, doubt};
use left_out::LeftOut;
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use tree::Tree;

/// A listed set of images.
#[derive(Debug)]
pub struct ImageListing {
    /// What was found, for messages.
    what: &'static str,
    /// Class names by label.
    classes: Vec<String>,
    /// Index in the storage, and label.
    images: Vec<(usize, i64)>,
    left_out: LeftOut,
    /// Remarks about the set, one sentence each.
    notes: Vec<String>,
    store: Storage,
}

#[derive(Debug)]
enum Storage {
    /// A folder and the file names in it.
    Folder(PathBuf, Vec<PathBuf>),
    Archive(Archive),
    Idx(Idx),
}

/// Which part of a set to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    All,
    Train,
    Holdout,
}

/// How an image is prepared.
#[derive(Debug, Clone, Copy)]
pub struct Preparation {
    pub orientation: Orientation,
    pub transform: Transform,
    /// Width and height of the result in pixels.
    pub size: usize,
}

impl ImageListing {
    /// Lists `root`. `part` selects one of the IDX pairs in a folder by the prefix of its names
    /// (`train`, `t10k`), or the folder in a ZIP. `labels` is the label file if `root` is an IDX
    /// image file. Whether folders are classes is detected.
    ///
    /// # Errors
    /// When it is not a set of images, or its labels would be lost. The innermost error is the hint
    /// then.
    pub fn open(root: &Path, part: Option<&str>, labels: Option<&Path>) -> Result<Self> {
        Self::open_as(root, part, labels, Classes::Auto)
    }

    /// Lists `root` for uses without classes: images at the top level and in folders together.
    pub fn pictures(root: &Path) -> Result<Self> {
        Self::open_as(root, None, None, Classes::One)
    }

    /// Lists `root`; `classes` says what its folders are.
    pub fn open_as(root: &Path, part: Option<&str>, labels: Option<&Path>, classes: Classes) -> Result<Self> {
        let source = match root.is_dir() {
            true => Self::folder(root, part, classes)?,
            false => Self::file(root, part, labels, classes)?,
        };
        let shown = root.display();
        match (&source.store, part, labels) {
            (Storage::Folder(..), Some(_), _) => {
                bail!("{shown} is {}, which has no `part`; name the subfolder instead", source.what)
            }
            (Storage::Idx(_), Some(_), _) if root.is_file() => bail!("{shown} is a single file, which has no `part`"),
            (Storage::Folder(..) | Storage::Archive(_), _, Some(_)) => {
                bail!("{shown} is {}, which contains its labels; `labels` is for an IDX file", source.what)
            }
            (Storage::Idx(_), _, Some(_)) if root.is_dir() => {
                bail!("{shown} is a folder, whose label files are found by name; omit `labels`")
            }
            _ => Ok(source),
        }
    }

    fn file(root: &Path, part: Option<&str>, labels: Option<&Path>, classes: Classes) -> Result<Self> {
        let shown = root.display();
        if idx::is_images(root) {
            let Some(labels) = labels else { bail!("{shown} is an IDX image file; give its label file as `labels`") };
            return Ok(Self::of_idx(Idx::open(root, labels)?, classes));
        }
        let mut archive = match File::open(root).map(starts_as_zip) {
            Ok(true) => Archive::open(root)?,
            Ok(false) => {
                let is = describe(root);
                bail!("{shown} is not a folder, a ZIP file or an IDX image file: it is {is}")
            }
            Err(e) => bail!("cannot open {shown}: {e}"),
        };
        if let Some(part) = part {
            archive = archive.enter(part)?;
        }
        let place = archive.place_of(LIST);
        let list = match archive.find(Path::new(LIST)).map(|i| archive.read(i)).transpose() {
            Ok(text) => text.map(|text| List::parse(&place, &text)).transpose()?,
            Err(e) => bail!("{place}: {e}"),
        };
        let (mut left_out, mut hidden) = (LeftOut::default(), HashSet::new());
        let mut lists = HashSet::new();
        archive.keep(|name| {
            let is_listed = list.as_ref().is_some_and(|list| list.names(name));
            match hidden_part(name) {
                Some(part) if !is_listed => {
                    if hidden.insert(part) {
                        left_out.hidden();
                    }
                    return false;
                }
                _ if is_listed || is_image(name) => return true,
                _ if name == Path::new(LIST) => {}
                _ => left_out.file(name),
            }
            if name.ends_with(LIST) {
                lists.insert(name.to_path_buf());
            }
            false
        });
        let what = if list.is_some() { "a ZIP with dataset.json" } else { "a ZIP of folders" };
        let set = FoundFiles { shown: archive.shown(), place, list, left_out, bare: vec![], archive: true, root };
        let (labelled, left_out, notes) = set.label(&archive.names(), classes, &|name| lists.contains(name))?;
        let store = Storage::Archive(archive);
        Ok(Self { what, classes: labelled.classes, images: labelled.files, left_out, notes, store })
    }

    fn folder(root: &Path, part: Option<&str>, classes: Classes) -> Result<Self> {
        let shown = root.display();
        let mut pairs = idx::pairs(root)?;
        if !pairs.is_empty() {
            let known = pairs.keys().cloned().collect::<Vec<_>>().join(", ");
            let (images, labels) = match part {
                Some(name) => match pairs.remove(name) {
                    Some(pair) => pair,
                    None => bail!("{shown} holds no IDX files of part `{name}`; its parts are {known}"),
                },
                None if pairs.len() > 1 => {
                    bail!("{shown} holds IDX files of several parts; choose one with `part`: {known}")
                }
                None => pairs.pop_first().map(|(_, pair)| pair).unwrap_or_default(),
            };
            return Ok(Self::of_idx(Idx::open(&images, &idx::labels_of(&images, &labels)?)?, classes));
        }
        let list = List::beside(root)?;
        let is_listed = |name: &Path| list.as_ref().is_some_and(|list| list.names(name));
        let Tree { files, left_out, bare } = tree::list(root, &is_image, &is_listed)?;
        let what = if list.is_some() { "a folder with dataset.json" } else { "a tree of folders" };
        let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let place = root.join(LIST).display().to_string();
        let set = FoundFiles { shown: shown.to_string(), place, list, left_out, bare, archive: false, root };
        let (labelled, left_out, notes) = set.label(&paths, classes, &|name| root.join(name).is_file())?;
        let store = Storage::Folder(root.to_path_buf(), files);
        Ok(Self { what, classes: labelled.classes, images: labelled.files, left_out, notes, store })
    }

    fn of_idx(idx: Idx, classes: Classes) -> Self {
        let labels = idx.labels();
        let count = labels.iter().max().map_or(0, |l| usize::from(*l) + 1);
        let images = labels.iter().enumerate().map(|(i, l)| (i, i64::from(*l))).collect();
        let mut labelled = Labelled { classes: (0..count).map(|c| c.to_string()).collect(), files: images };
        if classes == Classes::One {
            labelled.forget();
        }
        Self {
            what: "an IDX pair",
            classes: labelled.classes,
            images: labelled.files,
            left_out: LeftOut::default(),
            notes: vec![],
            store: Storage::Idx(idx),
        }
    }

    /// The part that `split` selects. Every `every`-th image of each class is held out.
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

    /// Keeps images by their number within their class, counted from 1.
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

    /// What lies in the set but is not part of it.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Remarks about the set, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub fn label(&self, index: usize) -> i64 {
        self.images[index].1
    }

    /// Name of a file, relative to the set; `None` in an IDX pair.
    pub fn name(&self, index: usize) -> Option<&Path> {
        match &self.store {
            Storage::Folder(_, names) => Some(&names[self.images[index].0]),
            Storage::Archive(archive) => Some(archive.name(self.images[index].0)),
            Storage::Idx(_) => None,
        }
    }

    /// The image as messages name it: a path, `archive.zip!path` or `file, image 7`.
    pub fn place(&self, index: usize) -> String {
        let at = self.images[index].0;
        match &self.store {
            Storage::Folder(root, names) => root.join(&names[at]).display().to_string(),
            Storage::Archive(archive) => archive.place(at),
            Storage::Idx(idx) => idx.place(at),
        }
    }

    /// Reads and prepares an image. Also returns the number of decoder warnings about damaged data.
    /// Errors name the image.
    pub fn load(&self, index: usize, how: &Preparation) -> Result<(Rgb, u32)> {
        let read = self.image(self.images[index].0, how.orientation);
        match read.and_then(|(image, warnings)| Ok((how.transform.apply(&image, how.size)?, warnings))) {
            Ok(ready) => Ok(ready),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    /// Reads an image at its original size. Errors name the image.
    pub fn original(&self, index: usize, orientation: Orientation) -> Result<Rgb> {
        match self.image(self.images[index].0, orientation) {
            Ok((image, _)) => Ok(image),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    fn image(&self, at: usize, orientation: Orientation) -> Result<(Rgb, u32)> {
        match &self.store {
            Storage::Folder(root, names) => decode(&read(&root.join(&names[at]))?, orientation),
            Storage::Archive(archive) => decode(&archive.read(at)?, orientation),
            Storage::Idx(idx) => Ok((idx.image(at), 0)),
        }
    }
}

/// `a tree of folders: 12 images of 3 classes; left out: 2 .txt`.
impl std::fmt::Display for ImageListing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} images of {} classes", self.what, self.len(), self.classes.len())?;
        if !self.left_out.is_empty() {
            write!(f, "; left out: {}", self.left_out)?;
        }
        Ok(())
    }
}

/// Files that were found and are not labelled yet.
struct FoundFiles<'a> {
    root: &'a Path,
    /// Names of the set and of its list in messages.
    shown: String,
    place: String,
    list: Option<List>,
    left_out: LeftOut,
    /// Top-level folders without images.
    bare: Vec<String>,
    archive: bool,
}

impl FoundFiles<'_> {
    /// Labels images by their list, or by their folders if there is none. `is_there` says whether
    /// another file exists in the set.
    fn label(
        mut self,
        names: &[&Path],
        classes: Classes,
        is_there: &dyn Fn(&Path) -> bool,
    ) -> Result<(Labelled, LeftOut, Vec<String>)> {
        let list = self.list.take();
        let Self { shown, place, left_out, .. } = &self;
        if names.is_empty() {
            bail!("{shown} holds no images ({}){}", EXTENSIONS.join(", "), left_out.explained());
        }
        let mut notes = vec![];
        let labelled = match (list, classes) {
            (Some(list), Classes::Auto) => classes::by_list(place, names, list)?,
            (Some(list), Classes::One) => {
                let mut labelled = classes::by_list(place, names, list)?;
                labelled.forget();
                labelled
            }
            (None, Classes::One) => {
                if let Some(doubt @ (Doubt::Parts { .. } | Doubt::Beside { .. })) = doubt(names) {
                    notes.push(format!("{shown}: {doubt}; all of them are taken"));
                }
                classes::all_as_one(names)
            }
            (None, Classes::Auto) => {
                self.check_lists(names, is_there)?;
                if let Some(doubt) = doubt(names) {
                    return Err(self.doubtful(&doubt));
                }
                classes::by_folder(shown, names)?
            }
            (_, Classes::Folders) => classes::by_folder(shown, names)?,
        };
        if classes != Classes::One && !self.bare.is_empty() {
            let folders = classes::first(self.bare.iter().map(|name| format!("`{name}`")));
            notes.push(format!("{shown}: {folders} hold no images, so they are not classes"));
        }
        Ok((labelled, self.left_out, notes))
    }

    /// Refuses the parent folder of a prepared set, whose labels would be ignored.
    fn check_lists(&self, names: &[&Path], is_there: &dyn Fn(&Path) -> bool) -> Result<()> {
        let mut common = names[0].parent().unwrap_or(Path::new(""));
        while !names.iter().all(|name| name.starts_with(common)) {
            common = common.parent().unwrap_or(Path::new(""));
        }
        let around = common.ancestors().chain([Path::new("images")]).filter(|folder| !folder.as_os_str().is_empty());
        match around.into_iter().find(|folder| is_there(&folder.join(LIST))) {
            Some(folder) => {
                let text = format!(
                    "{} holds a prepared set in its folder `{}`; name that folder",
                    self.shown,
                    folder.display()
                );
                Err(candle_core::Error::msg(self.named(folder)).context(text))
            }
            None => Ok(()),
        }
    }

    fn doubtful(&self, doubt: &Doubt) -> candle_core::Error {
        let help = match doubt {
            Doubt::Pieces { .. } => format!("the labels of a prepared set are in its {LIST}, which is missing"),
            Doubt::Backslashes { .. } => {
                "name the ZIP itself, or unpack it with a program that understands its paths".into()
            }
            _ => doubt.meant().map(|folder| self.named(folder)).unwrap_or_default(),
        };
        let more = "set `classes = \"one\"` to put all images in one class, or `classes = \"folders\"` to make each \
             top-level folder a class";
        candle_core::Error::msg(format!("{help}\n{more}")).context(format!("{}: {doubt}", self.shown))
    }

    /// How to name a folder of the set as the source.
    fn named(&self, folder: &Path) -> String {
        match self.archive {
            true => format!("set `part = \"{}\"` to use that folder of the archive", folder.display()),
            false => format!("set `source = \"{}\"` to use that folder", self.root.join(folder).display()),
        }
    }
}

/// A ZIP begins with an entry, or with its end record if it is empty.
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
        Ok(bytes) if bytes.len() as u64 > MAX_BYTES => bail!("larger than the limit of {MAX_BYTES} bytes"),
        Ok(bytes) => Ok(bytes),
        Err(e) => match std::fs::read_link(path) {
            Ok(to) if !path.exists() => bail!("a broken link to `{}`", to.display()),
            _ => bail!("cannot be read: {e}"),
        },
    }
}
