//! Labels the files that were found in a folder or an archive, or refuses them: when they are no
//! images, or when their layout would lose the labels. Does not know how files are read.

use super::belongs::EXTENSIONS;
use super::classes::{self, Labelled, hinted};
use super::label_list::{LIST, LabelList};
use super::layout::{Classes, Doubt, doubt, masks};
use super::left_out::LeftOut;
use super::said::Said;
use super::table::Table;
use candle_core::{Result, bail};
use std::path::Path;

/// What is said of a list of labels that does not fit.
const LISTED: &str = "the labels of a set must name every image of it and no others";

/// Files that were found and are not labelled yet.
pub struct FoundFiles<'a> {
    pub root: &'a Path,
    /// Names of the set and of its list in messages.
    pub shown: String,
    pub place: String,
    pub list: Option<LabelList>,
    /// Labels that lie beside the set.
    pub table: Option<Table>,
    pub left_out: LeftOut,
    /// Top-level folders without images.
    pub bare: Vec<String>,
    pub archive: bool,
    /// What speaks against taking its archives as one set.
    pub doubt: Option<Doubt>,
}

impl FoundFiles<'_> {
    /// Labels images by their list, or by their folders if there is none. `is_there` says whether
    /// another file exists in the set.
    pub fn label(
        mut self,
        names: &[&Path],
        classes: Classes,
        is_there: &dyn Fn(&Path) -> bool,
    ) -> Result<(Labelled, LeftOut, Said)> {
        let (list, table) = (self.list.take(), self.table.take());
        let Self { shown, place, left_out, .. } = &self;
        if names.is_empty() {
            bail!("{shown} holds no images ({}){}", EXTENSIONS.join(", "), left_out.explained());
        }
        let mut said = Said::default();
        if let Some(doubt) = self.doubt.as_ref().filter(|_| classes == Classes::Auto) {
            return Err(self.doubtful(doubt));
        }
        if let Some(table) = &table {
            if list.is_some() {
                bail!("{shown} has its labels in {place}; omit `labels`");
            }
            if classes == Classes::Folders {
                bail!("{shown}: classes are either its folders, as `classes` says, or those of `labels`; omit one");
            }
            let (mut labelled, guess) = table.label(shown, names)?;
            said.warnings.extend(guess);
            if classes == Classes::One {
                labelled.forget();
            }
            return Ok((labelled, self.left_out, said));
        }
        if let (None, Some((count, mask, of))) = (&list, masks(names)) {
            let (mask, of) = (mask.display(), of.display());
            said.warnings.push(format!(
                "{shown}: {count} images seem to be masks, such as `{mask}` of `{of}`, and are taken as images of \
                 the set; move them elsewhere if they are"
            ));
        }
        let listed = |list: &LabelList| hinted(classes::by_list(place, names, list), LISTED);
        let labelled = match (&list, classes) {
            (Some(list), Classes::Auto) => listed(list)?,
            (Some(list), Classes::One) => {
                let mut labelled = listed(list)?;
                labelled.forget();
                labelled
            }
            (None, Classes::One) => {
                if let Some(doubt @ (Doubt::Parts { .. } | Doubt::Beside { .. })) = doubt(names) {
                    // Notes of measurements that were made before stay as they are.
                    let kept = if doubt.is_worded() { &mut said.warnings } else { &mut said.notes };
                    kept.push(format!("{shown}: {doubt}; all of them are taken"));
                }
                classes::all_as_one(names)
            }
            (None, Classes::Auto) => {
                self.check_lists(names, is_there)?;
                if let Some(doubt) = doubt(names) {
                    return Err(self.doubtful(&doubt));
                }
                let labelled = classes::by_folder(shown, names)?;
                if labelled.classes.len() == 1 {
                    said.warnings.extend(self.unread_labels(names.len()));
                }
                labelled
            }
            (_, Classes::Folders) => classes::by_folder(shown, names)?,
        };
        if classes != Classes::One && !self.bare.is_empty() {
            let folders = classes::first(self.bare.iter().map(|name| format!("`{name}`")));
            said.notes.push(format!("{shown}: {folders} hold no images, so they are not classes"));
        }
        Ok((labelled, self.left_out, said))
    }

    /// What is said of files that may hold the labels of so many images, which are all of one
    /// class.
    fn unread_labels(&self, images: usize) -> Option<String> {
        let found = |(ext, least): (&'static str, u64)| Some((ext, self.left_out.of(ext))).filter(|(_, n)| *n >= least);
        let kinds = [("csv", 1), ("tsv", 1), ("jsonl", 1), ("cls", 1), ("json", images as u64)];
        let (ext, n) = kinds.into_iter().find_map(found)?;
        let how = match ext {
            "csv" | "tsv" => "`labels` names the file that has the class of each",
            "cls" | "json" if self.archive => {
                "labels are read from a tar in which the names of image and label are alike up to the first dot \
                 (`0001.cls`, or `label` in `0001.json`), or from a CSV that `labels` names"
            }
            _ => "labels are read from a CSV with the columns `file` and `label`, which `labels` names",
        };
        let shown = &self.shown;
        Some(format!("{shown}: all images are of one class, but {n} .{ext} beside them may hold their classes; {how}"))
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
            Doubt::Shards { .. } => "a WebDataset has the label of `0001.jpg` in `0001.cls`, or as `label` in \
                 `0001.json`"
                .into(),
            Doubt::Inside { .. } => {
                "put the parts above the classes, as in `train/cat` and `test/cat`, and name one of them".into()
            }
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
