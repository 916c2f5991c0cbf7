//! Where images come from: a folder tree, the prepared folder of EDM2 and REPA, a ZIP or tar of
//! either, tars of one class each, the shards of a WebDataset, Parquet tables, a pair of IDX files,
//! or the batches of CIFAR-10. The contents show which. [`ImageListing`] presents all as images by
//! index, with labels.
//!
//! Listing reads only names and labels. Images are read one by one, from any number of threads:
//! no contents are cached. The order depends only on names and contents.

mod archive;
pub mod belongs;
mod cifar;
pub mod classes;
mod found;
mod idx;
pub mod label_list;
pub mod layout;
pub mod left_out;
mod name_list;
mod names;
mod said;
mod table;
mod tables;
pub mod tree;
mod webdataset;

use super::decode::extras::Extras;
use super::decode::orientation::Orientation;
use super::decode::{MAX_BYTES, decode};
use super::rgb::Rgb;
use super::transform::Transform;
use crate::formats::describe;
use archive::{Archive, Kind, is_tar, is_zip};
use belongs::{hidden_part, is_image};
use candle_core::{Error, Result, bail};
use cifar::Cifar;
use classes::{Labelled, first, hinted};
use erw_base::braces;
use found::FoundFiles;
use idx::Idx;
use label_list::{LIST, LabelList};
use layout::{Classes, check_series, doubt_of_shards, series};
use left_out::LeftOut;
use name_list::NameList;
use said::Said;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use table::Table;
use tables::{Labels, Tables, is_table};
use tree::Tree;

/// What can be read, as text that follows "must be".
pub const READABLE: &str = "a folder with one folder of images per class, a ZIP or tar of such a folder, a tar of one \
                            tar per class, WebDataset shards, Parquet tables (Hugging Face), a folder or archive with \
                            dataset.json (EDM2, REPA), or a folder of IDX files (MNIST) or CIFAR-10 batches";

/// What is said of a list of labels that cannot be used.
const LISTED: &str = "a list of labels has a pair of name and number for each image in `labels`, or null there";

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
    said: Said,
    store: Storage,
}

#[derive(Debug)]
enum Storage {
    /// A folder and the file names in it.
    Folder(PathBuf, NameList),
    Archive(Archive),
    Tables(Tables),
    Idx(Idx),
    Cifar(Cifar),
}

/// Whether there are archives or tables in a folder, as the shards of a set.
pub fn holds_sets(folder: &Path) -> bool {
    let is_set = |name: &Path| is_tar(name) || is_table(name) || is_zip(name);
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| is_set(&e.path()))))
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
    /// (`train`, `t10k`), the folder in an archive, or the shards of a split by the prefix of their
    /// names. `labels` is the label file if `root` is an IDX image file, or a CSV with the classes
    /// of files. Whether folders are classes is detected.
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
        let named = if root.exists() { None } else { braces::of_path(root) };
        let mut source = match named {
            Some(Ok((folder, names))) => Self::named(root, &folder, &names, (part, labels), classes)?,
            Some(Err(why)) => bail!("{}: the path {why}", root.display()),
            None if root.is_dir() => Self::folder(root, part, labels, classes)?,
            None => Self::file(root, part, labels, classes)?,
        };
        let shown = root.display();
        match (&source.store, part, labels) {
            (Storage::Folder(..), Some(_), _) => {
                bail!("{shown} is {}, which has no `part`; name the subfolder instead", source.what)
            }
            (Storage::Tables(_) | Storage::Idx(_), Some(_), _) if root.is_file() => {
                bail!("{shown} is a single file, which has no `part`")
            }
            (Storage::Tables(_), _, Some(_)) => {
                bail!("{shown} is {}, which contains its labels; `labels` is for other sets", source.what)
            }
            (Storage::Idx(_) | Storage::Cifar(_), _, Some(_)) if root.is_dir() => {
                bail!("{shown} is a folder, whose label files are found by name; omit `labels`")
            }
            _ => {
                let Self { said, left_out, .. } = &mut source;
                said.warnings.extend(left_out.suspects());
                Ok(source)
            }
        }
    }

    fn file(root: &Path, part: Option<&str>, labels: Option<&Path>, classes: Classes) -> Result<Self> {
        let shown = root.display();
        if idx::is_images(root) {
            let Some(labels) = labels else { bail!("{shown} is an IDX image file; give its label file as `labels`") };
            return Ok(Self::of_idx(Idx::open(root, labels)?, classes));
        }
        if tables::is(root) {
            return Self::tables(root, &[PathBuf::new()], LeftOut::default(), classes);
        }
        recognise(root)?;
        Self::archive(Archive::open(root)?, root, part, labels, LeftOut::default(), classes)
    }

    fn archive(
        mut archive: Archive,
        root: &Path,
        part: Option<&str>,
        labels: Option<&Path>,
        mut left_out: LeftOut,
        classes: Classes,
    ) -> Result<Self> {
        archive = open_inner(archive)?;
        if let Some(part) = part {
            archive = open_inner(archive.enter(part)?)?;
        }
        let place = archive.place_of(LIST);
        let prepared = match archive.find(Path::new(LIST)).map(|i| archive.read(i)).transpose() {
            Ok(text) => text.map(|text| hinted(LabelList::parse(&place, &text), LISTED)).transpose()?,
            Err(e) => bail!("{place}: {e}"),
        };
        let what = match (archive.kind(), prepared.is_some()) {
            (Kind::Zip, true) => "a ZIP with dataset.json",
            (Kind::Zip, false) => "a ZIP of folders",
            (_, true) => "a tar with dataset.json",
            (Kind::Tar, false) => "a tar of folders",
            (Kind::Tars, false) if root.is_dir() => "a folder of tars",
            (Kind::Tars, false) => "a tar of tars",
        };
        let table = labels.map(Table::open).transpose()?;
        let (list, place, what, described) = match prepared {
            None if archive.kind() != Kind::Zip && classes == Classes::Auto && table.is_none() => {
                match webdataset::labels(&archive)? {
                    Some((list, extension)) => (Some(list), archive.shown(), "a WebDataset", Some(extension)),
                    None => (None, place, what, None),
                }
            }
            prepared => (prepared, place, what, None),
        };
        let folders = if described.is_some() { archive.folders() } else { BTreeSet::new() };
        let holds_label = |name: &Path| described.is_some_and(|ext| webdataset::has_extension(name, ext));
        let doubt = doubt_of_shards(&archive.inner(), list.is_some() || table.is_some());
        let (mut hidden, mut lists) = (HashSet::new(), HashSet::new());
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
                _ if name == Path::new(LIST) || holds_label(name) => {}
                _ => left_out.file(name),
            }
            if name.ends_with(LIST) {
                lists.insert(name.to_path_buf());
            }
            false
        });
        let shown = archive.shown();
        let set = FoundFiles { shown, place, list, table, left_out, bare: vec![], archive: true, root, doubt };
        let (labelled, left_out, mut said) = set.label(&archive.names(), classes, &|name| lists.contains(name))?;
        if let (Some(extension), 2..) = (described, folders.len()) {
            let names = first(folders.iter().map(|name| format!("`{name}`")));
            let instead = match archive.kind() {
                Kind::Tar => "; set `classes = \"folders\"` if the folders are the classes",
                _ => "",
            };
            let text = format!("labels are those of its .{extension} files, and not its folders {names}{instead}");
            said.warnings.push(format!("{}: {text}", archive.shown()));
        }
        let store = Storage::Archive(archive);
        Ok(Self { what, classes: labelled.classes, images: labelled.files, left_out, said, store })
    }

    fn folder(root: &Path, part: Option<&str>, labels: Option<&Path>, classes: Classes) -> Result<Self> {
        let shown = root.display();
        if let Some((images, labels)) = of_part(root, "IDX files", idx::pairs(root)?, part)? {
            let mut set = Self::of_idx(Idx::open(&images, &idx::labels_of(&images, &labels)?)?, classes);
            set.said.warnings.extend(images_beside(root, "IDX files"));
            return Ok(set);
        }
        if let Some(batches) = of_part(root, "CIFAR batches", cifar::parts(root)?, part)? {
            let mut set = Self::of_cifar(Cifar::open(&batches)?, classes);
            set.said.warnings.extend(cifar::lacking(root, &batches));
            set.said.warnings.extend(images_beside(root, "CIFAR batches"));
            return Ok(set);
        }
        let list = hinted(LabelList::beside(root), LISTED)?;
        let is_listed = |name: &Path| list.as_ref().is_some_and(|list| list.names(name));
        let Tree { files, left_out, bare } = tree::list(root, &is_image, &is_listed)?;
        if files.is_empty() && list.is_none() {
            let tars = tree::list(root, &is_tar, &|_| false)?;
            if !tars.files.is_empty() {
                let files = tars.files.paths();
                let stems: Vec<PathBuf> = files.iter().map(|tar| tar.with_extension("")).collect();
                let is_chosen = |stem: &&Path| part.is_none_or(|part| series(stem).name == part);
                let chosen: Vec<&Path> = stems.iter().map(PathBuf::as_path).filter(is_chosen).collect();
                check_series(root, &chosen, "tar")?;
                let archive = Archive::open_tars(root, &files)?;
                return Self::archive(archive, root, part, labels, tars.left_out, classes);
            }
            let tables = tree::list(root, &is_table, &|_| false)?;
            if !tables.files.is_empty() {
                let files = tables::of_part(root, tables.files.paths(), part)?;
                let stems: Vec<PathBuf> = files.iter().map(|file| file.with_extension("")).collect();
                check_series(root, &stems.iter().map(PathBuf::as_path).collect::<Vec<_>>(), "parquet")?;
                return Self::tables(root, &files, tables.left_out, classes);
            }
        }
        let what = if list.is_some() { "a folder with dataset.json" } else { "a tree of folders" };
        let paths: Vec<&Path> = files.iter().collect();
        let place = root.join(LIST).display().to_string();
        let table = labels.map(Table::open).transpose()?;
        let set = FoundFiles {
            shown: shown.to_string(),
            place,
            list,
            table,
            left_out,
            bare,
            archive: false,
            root,
            doubt: None,
        };
        let (labelled, left_out, said) = set.label(&paths, classes, &|name| root.join(name).is_file())?;
        let store = Storage::Folder(root.to_path_buf(), files);
        Ok(Self { what, classes: labelled.classes, images: labelled.files, left_out, said, store })
    }

    /// The shards or tables that braces in `root` name, which lie in `folder`. They are the set
    /// that a folder of them alone would be.
    fn named(
        root: &Path,
        folder: &Path,
        names: &[PathBuf],
        (part, labels): (Option<&str>, Option<&Path>),
        classes: Classes,
    ) -> Result<Self> {
        let mut names = names.to_vec();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("{}: its braces name {} twice", root.display(), folder.join(&pair[0]).display());
        }
        if let Some(absent) = names.iter().map(|name| folder.join(name)).find(|path| !path.is_file()) {
            bail!("{}: no file {}", root.display(), absent.display());
        }
        if names.iter().all(|name| is_tar(name)) {
            let archive = Archive::open_tars(folder, &names)?;
            return Self::archive(archive, folder, part, labels, LeftOut::default(), classes);
        }
        if names.iter().all(|name| is_table(name)) {
            let names = tables::of_part(folder, names, part)?;
            return Self::tables(folder, &names, LeftOut::default(), classes);
        }
        bail!("{} stands for files that are not all tars or all Parquet tables", root.display())
    }

    fn tables(root: &Path, files: &[PathBuf], left_out: LeftOut, classes: Classes) -> Result<Self> {
        let tables = Tables::open(root, files)?;
        if tables.len() == 0 {
            bail!("{} holds no rows", root.display());
        }
        let mut said = Said::default();
        let labels = match classes {
            Classes::One => Labels { classes: vec![String::new()], labels: vec![0; tables.len()] },
            Classes::Auto | Classes::Folders => {
                const HINT: &str = "set `classes = \"one\"` to put all images in one class";
                match tables.label_column() {
                    Some(name) => said.remarks.push(format!("labels: column `{name}`")),
                    None => said.warnings.extend(hinted(tables.without_labels(root, files), HINT)?),
                }
                hinted(tables.labels(), HINT)?
            }
        };
        let images = labels.labels.into_iter().enumerate().collect();
        let store = Storage::Tables(tables);
        Ok(Self { what: "a Parquet table", classes: labels.classes, images, left_out, said, store })
    }

    fn of_cifar(cifar: Cifar, classes: Classes) -> Self {
        let images = cifar.labels().enumerate().map(|(i, label)| (i, i64::from(label))).collect();
        let mut labelled = Labelled { classes: cifar.classes().to_vec(), files: images };
        if classes == Classes::One {
            labelled.forget();
        }
        Self {
            what: "CIFAR-10 batches",
            classes: labelled.classes,
            images: labelled.files,
            left_out: LeftOut::default(),
            said: Said::default(),
            store: Storage::Cifar(cifar),
        }
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
            said: Said::default(),
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

    /// Remarks about the set that a measurement of it must state, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.said.notes
    }

    /// What may not be meant so, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.said.warnings
    }

    /// What was decided about the set, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.said.remarks
    }

    pub fn label(&self, index: usize) -> i64 {
        self.images[index].1
    }

    /// Name of a file, relative to the set; `None` in tables, IDX pairs and CIFAR batches.
    pub fn name(&self, index: usize) -> Option<&Path> {
        match &self.store {
            Storage::Folder(_, names) => Some(names.get(self.images[index].0)),
            Storage::Archive(archive) => Some(archive.name(self.images[index].0)),
            Storage::Tables(_) | Storage::Idx(_) | Storage::Cifar(_) => None,
        }
    }

    /// The image as messages name it: a path, `archive.zip!path` or `file, image 7`.
    pub fn place(&self, index: usize) -> String {
        let at = self.images[index].0;
        match &self.store {
            Storage::Folder(root, names) => root.join(names.get(at)).display().to_string(),
            Storage::Archive(archive) => archive.place(at),
            Storage::Tables(tables) => tables.place(at),
            Storage::Idx(idx) => idx.place(at),
            Storage::Cifar(cifar) => cifar.place(at),
        }
    }

    /// Reads and prepares an image. Also returns the number of decoder warnings about damaged data.
    /// Errors name the image.
    pub fn load(&self, index: usize, how: &Preparation) -> Result<(Rgb, u32)> {
        self.load_whole(index, how).map(|(image, warnings, _)| (image, warnings))
    }

    /// The same, with what else its file holds.
    pub fn load_whole(&self, index: usize, how: &Preparation) -> Result<(Rgb, u32, Extras)> {
        let read = self.image(self.images[index].0, how.orientation);
        match read.and_then(|(image, warnings, more)| Ok((how.transform.apply(&image, how.size)?, warnings, more))) {
            Ok(ready) => Ok(ready),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    /// Reads an image for its stored width and height, and what else its file holds. Errors name
    /// the image.
    pub fn look(&self, index: usize) -> Result<(usize, usize, Extras)> {
        match self.image(self.images[index].0, Orientation::Ignore) {
            Ok((image, _, more)) => Ok((image.width, image.height, more)),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    /// Reads an image at its original size. Errors name the image.
    pub fn original(&self, index: usize, orientation: Orientation) -> Result<Rgb> {
        match self.image(self.images[index].0, orientation) {
            Ok((image, ..)) => Ok(image),
            Err(e) => bail!("{}: {e}", self.place(index)),
        }
    }

    fn image(&self, at: usize, orientation: Orientation) -> Result<(Rgb, u32, Extras)> {
        let decoded = |file: &[u8]| {
            let (image, warnings) = decode(file, orientation)?;
            Ok((image, warnings, Extras::of(file)))
        };
        match &self.store {
            Storage::Folder(root, names) => decoded(&read(&root.join(names.get(at)))?),
            Storage::Archive(archive) => decoded(&archive.read(at)?),
            Storage::Tables(tables) => decoded(tables.read(at)?.data()),
            Storage::Idx(idx) => Ok((idx.image(at), 0, Extras::default())),
            Storage::Cifar(cifar) => Ok((cifar.image(at), 0, Extras::default())),
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

/// Checks by its first bytes that a file is of a kind that is read.
///
/// # Errors
/// When it is not. The innermost error is the hint, if there is one.
pub fn recognise(file: &Path) -> Result<()> {
    let shown = file.display();
    match Archive::is(file) {
        Ok(is) if is || tables::is(file) || idx::is_images(file) => return Ok(()),
        Ok(_) => {}
        Err(e) => bail!("cannot open {shown}: {e}"),
    }
    let is = describe(file);
    let text = format!("{shown} is not a folder, a ZIP or tar file, a Parquet table or IDX images: it is {is}");
    let unpacks = [
        ("a gzip", "gunzip --keep"),
        ("a Zstandard", "zstd -d"),
        ("an xz", "unxz --keep"),
        ("a bzip2", "bunzip2 --keep"),
    ];
    match unpacks.iter().find(|(kind, _)| is.starts_with(kind)) {
        Some((_, command)) => {
            let hint = format!("a compressed file cannot be read in place; `{command} {shown}` unpacks it");
            Err(Error::msg(hint).context(text))
        }
        None => Err(Error::msg(text)),
    }
}

/// The part of this name, or the only one; `None` of none. `what` says in messages what has parts.
fn of_part<T>(root: &Path, what: &str, mut parts: BTreeMap<String, T>, part: Option<&str>) -> Result<Option<T>> {
    let (shown, known) = (root.display(), parts.keys().cloned().collect::<Vec<_>>().join(", "));
    match part {
        _ if parts.is_empty() => Ok(None),
        Some(name) => match parts.remove(name) {
            None => bail!("{shown} holds no {what} of part `{name}`; its parts are {known}"),
            chosen => Ok(chosen),
        },
        None if parts.len() > 1 => bail!("{shown} holds {what} of several parts; choose one with `part`: {known}"),
        None => Ok(parts.into_values().next()),
    }
}

/// What is said of images in a folder whose files of another kind are the set.
fn images_beside(root: &Path, what: &str) -> Option<String> {
    let files = tree::list(root, &is_image, &|_| false).ok()?.files;
    let names = first(files.iter().map(|name| name.display()));
    let (shown, n) = (root.display(), files.len());
    (n > 0).then(|| format!("{shown}: its {what} are the set, and {n} images beside them are not part of it: {names}"))
}

/// Opens the tars in an archive that holds no images beside them.
fn open_inner(archive: Archive) -> Result<Archive> {
    let belongs = |name: &Path| hidden_part(name).is_none();
    match archive.kind() == Kind::Zip || archive.has(|name| is_image(name) && belongs(name)) {
        true => Ok(archive),
        false => archive.open_inner(belongs),
    }
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
