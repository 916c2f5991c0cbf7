//! Labels in a table of text, beside the images: ImageNet's `LOC_val_solution.csv`
//! (`ImageId,PredictionString`) or any CSV with a column of files and a column of classes.
//!
//! The table must name every image of the set and no others. Whole numbers are labels as they
//! stand; other texts are class names, numbered in sorted order.

use super::belongs::is_image;
use super::classes::{Labelled, files_of, first, hinted};
use super::label_list::MAX_CLASSES;
use super::names::normal;
use candle_core::{Error, Result, bail};
use csv_core::{ReadRecordResult, ReaderBuilder};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Names of the two columns, in lower case, as published tables have them.
const IMAGES: [&str; 8] = ["imageid", "image_id", "image", "file", "file_name", "filename", "path", "id"];
pub const LABELS: [&str; 8] = [BOXES, "label", "labels", "class", "class_name", "class_id", "category", "target"];

/// ImageNet's column of boxes: for each box the class and four numbers.
const BOXES: &str = "predictionstring";

/// What is said of a table that does not fit.
const HINT: &str = "give as `labels` a CSV with a row for each image of the set: its file, and its class";

/// A table of labels.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    line: u64,
    cells: Vec<String>,
}

/// The columns that are used.
struct Columns {
    image: usize,
    label: usize,
    is_boxes: bool,
    /// Whether the first row is a header because of its place only.
    is_guess: bool,
}

impl Table {
    /// Reads the table.
    ///
    /// # Errors
    /// When it is not text, or its rows have different numbers of columns.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = match erw_base::text::read(path) {
            Ok(text) => text,
            Err(e) => return hinted(Err(Error::msg(format!("{shown}: not a CSV file of labels: {e}"))), HINT),
        };
        match rows(&text) {
            Ok(rows) => Ok(Self { path: path.to_path_buf(), rows }),
            Err(why) => hinted(Err(Error::msg(format!("{shown}:{why}"))), HINT),
        }
    }

    /// The labels of images, sorted by name, and a remark about the table if there is one. `shown`
    /// names their set in messages.
    ///
    /// # Errors
    /// When it does not fit the images. The innermost error is the hint.
    pub fn label(&self, shown: &str, names: &[&Path]) -> Result<(Labelled, Option<String>)> {
        hinted(self.labels(shown, names), HINT)
    }

    fn labels(&self, shown: &str, names: &[&Path]) -> Result<(Labelled, Option<String>)> {
        let path = self.path.display();
        let index = Index::of(names);
        let (columns, rows) = self.columns(&index)?;
        let guess = columns.is_guess.then(|| self.guessed(&columns, rows, shown)).transpose()?;
        let mut given: Vec<Option<(u64, String)>> = vec![None; names.len()];
        let mut absent = vec![];
        for Row { line, cells } in rows {
            let (name, label) = (cells[columns.image].trim(), cells[columns.label].trim());
            let class = match columns.is_boxes {
                true => class_of_boxes(label),
                false => Some(label).filter(|class| !class.is_empty()),
            };
            let Some(class) = class else { bail!("{path}:{line}: `{label}` is not the class of `{name}`") };
            match index.find(name) {
                Err(why) => bail!("{path}:{line}: `{name}` {why}"),
                Ok(None) => absent.push(format!("`{name}` (line {line})")),
                Ok(Some(i)) => {
                    if let Some((before, _)) = given[i].replace((*line, class.to_string())) {
                        bail!("{path}:{line}: `{name}` was labelled in line {before} already");
                    }
                }
            }
        }
        if !absent.is_empty() {
            bail!("{path}: {} of it are not in {shown}: {}", files_of(absent.len()), first(absent));
        }
        let unnamed = names.iter().zip(&given).filter(|(_, given)| given.is_none());
        let mut unnamed: Vec<String> = unnamed.map(|(name, _)| name.display().to_string()).collect();
        if !unnamed.is_empty() {
            unnamed.sort();
            bail!("{path}: has no label for {} of {shown}: {}", files_of(unnamed.len()), first(unnamed));
        }
        let given: Vec<(u64, String)> = given.into_iter().flatten().collect();
        let mut labelled = self.numbered(&given)?;
        labelled.files.sort_by_key(|(i, _)| names[*i]);
        Ok((labelled, guess))
    }

    /// A remark about a first row that is taken for a header.
    ///
    /// # Errors
    /// When it looks like any other row: its class is that of others.
    fn guessed(&self, columns: &Columns, rows: &[Row], shown: &str) -> Result<String> {
        let (path, head) = (self.path.display(), &self.rows[0].cells);
        let (name, class) = (head[columns.image].trim(), head[columns.label].trim());
        let is_number = |text: &str| text.parse::<u64>().is_ok();
        let classes = || rows.iter().map(|row| row.cells[columns.label].trim());
        if classes().any(|other| other == class) || (is_number(class) && classes().all(is_number)) {
            bail!("{path}:1: `{name}` is not in {shown}, and its class `{class}` is no name of a column");
        }
        Ok(format!("{path}: the first row, `{name}` and `{class}`, is taken for the names of the columns"))
    }

    /// The columns, and the rows below the header if there is one.
    fn columns(&self, index: &Index) -> Result<(Columns, &[Row])> {
        let path = self.path.display();
        let Some(Row { cells: head, .. }) = self.rows.first() else { bail!("{path}: empty") };
        if head.len() < 2 {
            bail!("{path}: one column only; labels need two, the file and its class");
        }
        let is_row = |cell: &str| is_image(Path::new(cell.trim())) || index.find(cell).is_ok_and(|i| i.is_some());
        if head.len() == 2 && is_row(&head[0]) {
            return Ok((Columns { image: 0, label: 1, is_boxes: false, is_guess: false }, &self.rows));
        }
        let column = |known: &[&str]| {
            let mut found = head.iter().enumerate().filter(|(_, name)| known.contains(&lower(name).as_str()));
            found.next().filter(|_| found.next().is_none()).map(|(i, _)| i)
        };
        let (image, label, is_guess) = match (column(&IMAGES), column(&LABELS)) {
            (Some(image), Some(label)) => (image, label, false),
            (image, label) if head.len() == 2 => (0, 1, image.or(label).is_none()),
            _ => {
                let text = format!("{path}: which columns are the file and the label is unclear: {}", head.join(", "));
                return Err(Error::msg("name one column `file` and one `label`, or keep these two only").context(text));
            }
        };
        Ok((Columns { image, label, is_boxes: lower(&head[label]) == BOXES, is_guess }, &self.rows[1..]))
    }

    /// Numbers the classes of all images, given with the lines that state them.
    fn numbered(&self, given: &[(u64, String)]) -> Result<Labelled> {
        let numbers: Option<Vec<u64>> = given.iter().map(|(_, class)| class.parse().ok()).collect();
        if let Some(numbers) = numbers {
            if let Some(i) = numbers.iter().position(|n| *n >= MAX_CLASSES) {
                let most = MAX_CLASSES - 1;
                bail!("{}:{}: label {} is not from 0 to {most}", self.path.display(), given[i].0, numbers[i]);
            }
            let count = numbers.iter().max().map_or(0, |n| n + 1);
            let files = numbers.into_iter().enumerate().map(|(i, n)| (i, n as i64)).collect();
            return Ok(Labelled { classes: (0..count).map(|n| n.to_string()).collect(), files });
        }
        let names: BTreeSet<&str> = given.iter().map(|(_, class)| class.as_str()).collect();
        if names.len() as u64 > MAX_CLASSES {
            bail!("{}: {} classes are more than the limit of {MAX_CLASSES}", self.path.display(), names.len());
        }
        let classes: Vec<String> = names.into_iter().map(String::from).collect();
        let label = |class: &str| classes.partition_point(|known| known.as_str() < class) as i64;
        let files = given.iter().enumerate().map(|(i, (_, class))| (i, label(class))).collect();
        Ok(Labelled { classes, files })
    }
}

/// Splits a text into rows of equally many cells. The delimiter is the one that its first line has.
/// The error follows the name of the file.
fn rows(text: &str) -> std::result::Result<Vec<Row>, String> {
    let start = text.lines().next().unwrap_or_default();
    let delimiter = [b',', b'\t', b';'].into_iter().find(|d| start.as_bytes().contains(d)).unwrap_or(b',');
    let mut reader = ReaderBuilder::new().delimiter(delimiter).build();
    // No row, unquoted, is longer than the text that it comes from; its cells are at most one more.
    let (mut cells, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 2]);
    let (mut input, mut all) = (text.as_bytes(), Vec::<Row>::new());
    let (mut line, mut filled, mut ended) = (1, 0, 0);
    loop {
        let (state, read, written, count) = reader.read_record(input, &mut cells[filled..], &mut ends[ended..]);
        input = &input[read..];
        filled += written;
        ended += count;
        match state {
            // Given no more, it ends the last row.
            ReadRecordResult::InputEmpty => continue,
            ReadRecordResult::End => return Ok(all),
            _ => {}
        }
        let starts = [0].into_iter().chain(ends[..ended].iter().copied());
        let cell = |(from, to): (usize, &usize)| String::from_utf8_lossy(&cells[from..*to]).into_owned();
        let row = Row { line, cells: starts.zip(&ends[..ended]).map(cell).collect() };
        let columns = all.first().map_or(ended, |first| first.cells.len());
        if ended != columns {
            return Err(format!("{line}: a row of {ended} cells in a table of {columns}"));
        }
        all.push(row);
        (line, filled, ended) = (reader.line(), 0, 0);
    }
}

fn lower(name: &str) -> String {
    name.trim().to_lowercase()
}

/// The class of `n01751748 111 108 230 366 n01751748 …`, if all boxes have the same.
fn class_of_boxes(text: &str) -> Option<&str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let class = words.first()?;
    let same = words.chunks(5).all(|word| word.len() == 5 && word[0] == *class);
    same.then_some(class)
}

/// Images by name, with and without extension.
struct Index(HashMap<String, Option<usize>>);

impl Index {
    fn of(names: &[&Path]) -> Self {
        let mut index = HashMap::with_capacity(2 * names.len());
        for (i, name) in names.iter().enumerate() {
            let bare = name.with_extension("").to_string_lossy().into_owned();
            // Two images may differ in their extensions only; then the name without is nobody's.
            index.entry(bare).and_modify(|one| *one = None).or_insert(Some(i));
        }
        for (i, name) in names.iter().enumerate() {
            index.insert(name.to_string_lossy().into_owned(), Some(i));
        }
        Self(index)
    }

    /// The image of a name, if there is one; or what is wrong with the name.
    fn find(&self, name: &str) -> std::result::Result<Option<usize>, &'static str> {
        match self.0.get(&normal(name.trim(), true)?) {
            Some(None) => Err("is the name of several images without their extensions"),
            Some(found) => Ok(*found),
            None => Ok(None),
        }
    }
}
