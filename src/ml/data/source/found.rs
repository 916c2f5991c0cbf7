//! Labels the files that were found in a folder or an archive, or refuses them: when they are no
//! images, or when their layout would lose the labels. Does not know how files are read.

use super::belongs::EXTENSIONS;
use super::classes::{self, LIST, Labelled, List};
use super::layout::{Classes, Doubt, doubt};
use super::left_out::LeftOut;
use super::table::Table;
use candle_core::{Result, bail};
use std::path::Path;

/// Files that were found and are not labelled yet.
pub struct FoundFiles<'a> {
    pub root: &'a Path,
    /// Names of the set and of its list in messages.
    pub shown: String,
    pub place: String,
    pub list: Option<List>,
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
    ) -> Result<(Labelled, LeftOut, Vec<String>)> {
        let (list, table) = (self.list.take(), self.table.take());
        let Self { shown, place, left_out, .. } = &self;
        if names.is_empty() {
            bail!("{shown} holds no images ({}){}", EXTENSIONS.join(", "), left_out.explained());
        }
        let mut notes = vec![];
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
            let mut labelled = table.label(shown, names)?;
            if classes == Classes::One {
                labelled.forget();
            }
            return Ok((labelled, self.left_out, notes));
        }
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
            Doubt::Shards { .. } => "a WebDataset has the label of `0001.jpg` in `0001.cls`, or as `label` in \
                 `0001.json`"
                .into(),
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
