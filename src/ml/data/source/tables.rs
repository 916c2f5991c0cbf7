//! Parquet tables of images, as Hugging Face's `datasets` writes them: a column of encoded images,
//! `struct{bytes, path}`, and a column of labels, whose names stand in the table's metadata.
//!
//! A table is mapped. Of a row only the page that holds it is decoded, so threads can read rows
//! concurrently, and nothing is kept. Rows have no names; their order is that of the files.

use super::label_list::MAX_CLASSES;
use super::layout::{doubt_of_shards, series};
use super::table;
use crate::data::decode::{MAX_BYTES, contained};
use bytes::Bytes;
use candle_core::{Error, Result, bail};
use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a table begins and ends.
const MAGIC: &[u8] = b"PAR1";
/// The maximum number of rows of a table.
const MAX_ROWS: i64 = 1 << 28;
/// Rows of a column that are decoded at once.
const PORTION: usize = 1 << 16;
/// Columns that hold images and labels in tables whose metadata does not say.
const IMAGES: [&str; 2] = ["image", "img"];
const LABELS: [&str; 2] = ["label", "labels"];
/// CIFAR-100's, whose other labels are coarse.
const FINE: &str = "fine_label";

/// Open tables that are one set.
#[derive(Debug)]
pub struct Tables {
    tables: Vec<Table>,
    /// Number of the first row of each table in the set.
    starts: Vec<usize>,
    rows: usize,
}

#[derive(Debug)]
struct Table {
    path: PathBuf,
    bytes: Arc<Bytes>,
    metadata: ParquetMetaData,
    /// The columns of images and labels among the leaves of the schema.
    image: usize,
    /// Or why it cannot be chosen.
    label: LabelColumn,
    /// Class names, if the metadata has them.
    names: Option<Vec<String>>,
}

/// Classes of a set, and the label of each row.
pub struct Labels {
    pub classes: Vec<String>,
    pub labels: Vec<i64>,
}

/// Whether a file begins like a table.
pub fn is(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// Whether the name is that of a table.
pub fn is_table(name: &Path) -> bool {
    name.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("parquet"))
}

/// The tables of `part`, the name before their numbers: `train` for
/// `train-00000-of-00002.parquet`. Without a part, all of them.
///
/// # Errors
/// When there are none, or no part is chosen of several.
pub fn of_part(root: &Path, files: Vec<PathBuf>, part: Option<&str>) -> Result<Vec<PathBuf>> {
    let shown = root.display();
    let stems: Vec<PathBuf> = files.iter().map(|file| file.with_extension("")).collect();
    let known = || stems.iter().map(|stem| series(stem).name).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    let Some(part) = part else {
        let stems: Vec<&Path> = stems.iter().map(PathBuf::as_path).collect();
        if doubt_of_shards(&stems, true).is_some() {
            bail!("{shown} holds tables of several parts; choose one with `part`: {}", known().join(", "));
        }
        return Ok(files);
    };
    let chosen: Vec<PathBuf> =
        files.iter().zip(&stems).filter(|(_, stem)| series(stem).name == part).map(|(file, _)| file.clone()).collect();
    match chosen.is_empty() {
        true => bail!("{shown} holds no tables of part `{part}`; its parts are {}", known().join(", ")),
        false => Ok(chosen),
    }
}

impl Tables {
    /// Opens tables in this order; paths are relative to `root`, or `root` itself if empty.
    ///
    /// # Errors
    /// When one is no table, is truncated, or holds no images.
    pub fn open(root: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut this = Self { tables: vec![], starts: vec![], rows: 0 };
        for file in files {
            let path = if file.as_os_str().is_empty() { root.to_path_buf() } else { root.join(file) };
            let table = Table::open(&path).map_err(|e| Error::msg(format!("{}: {e}", path.display())))?;
            this.starts.push(this.rows);
            this.rows += table.metadata.file_metadata().num_rows() as usize;
            this.tables.push(table);
        }
        Ok(this)
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// The name of the column of labels; `None` if there is none, or it is unclear which it is.
    pub fn label_column(&self) -> Option<&str> {
        let table = self.tables.first()?;
        let column = (*table.label.as_ref().ok()?)?;
        let schema = table.metadata.file_metadata().schema_descr();
        schema.columns()[column].path().parts().first().map(String::as_str)
    }

    /// What is said of tables without a column of labels, `files` in the folder `root`.
    ///
    /// # Errors
    /// When the folders of the tables are named as the values of such a column, as Hive names them.
    pub fn without_labels(&self, root: &Path, files: &[PathBuf]) -> Result<Option<String>> {
        let Some(Ok(None)) = self.tables.first().map(|table| &table.label) else { return Ok(None) };
        let shown = root.display();
        let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        for part in folders.iter().flat_map(|folder| folder.components()) {
            let text = part.as_os_str().to_string_lossy();
            if text.split_once('=').is_some_and(|(column, _)| is_label(column)) {
                bail!(
                    "{shown}: the labels are in names of folders, as `{text}`, which are not read; they must be a column"
                );
            }
        }
        let columns: Vec<String> = self.tables[0].columns().into_iter().map(|name| format!("`{name}`")).collect();
        let named = "name the one that is meant `label`";
        Ok(match (columns.len(), folders.len()) {
            (_, 2..) => {
                let names = super::classes::first(folders.iter().map(|folder| format!("`{}`", folder.display())));
                Some(format!(
                    "{shown}: all images are of one class: its tables lie in {names}, but folders of tables are no \
                     classes, and none of the columns {} is of labels",
                    columns.join(", ")
                ))
            }
            (2.., _) => Some(format!(
                "{shown}: all images are of one class: none of the columns {} is of labels; {named}",
                columns.join(", ")
            )),
            _ => None,
        })
    }

    /// Reads the labels of all rows; without a column of labels there is one class.
    ///
    /// # Errors
    /// When a label is not one, or tables have different classes.
    pub fn labels(&self) -> Result<Labels> {
        let Some(first) = self.tables.first() else { return Ok(Labels { classes: vec![], labels: vec![] }) };
        let mut texts: Vec<Cell> = Vec::with_capacity(self.rows);
        for table in &self.tables {
            let column = table.label()?;
            if table.names != first.names || column.is_some() != first.label()?.is_some() {
                bail!("{} and {} have different classes", first.path.display(), table.path.display());
            }
            if let Some(column) = column {
                texts.extend(table.cells(column)?);
            }
        }
        if first.label()?.is_none() {
            return Ok(Labels { classes: vec![String::new()], labels: vec![0; self.rows] });
        }
        let most = first.names.as_ref().map_or(MAX_CLASSES, |names| names.len() as u64);
        let names: BTreeSet<&str> = texts.iter().filter_map(Cell::text).collect();
        let mut labels = Vec::with_capacity(self.rows);
        for (i, cell) in texts.iter().enumerate() {
            labels.push(match cell {
                Cell::Number(n) if (0..most as i64).contains(n) => *n,
                Cell::Number(n) => bail!("{}: label {n} is not from 0 to {}", self.place(i), most - 1),
                Cell::Null => bail!("{}: it has no label", self.place(i)),
                Cell::Text(text) => names.range(..text.as_str()).count() as i64,
            });
        }
        let numbers = || (0..=labels.iter().copied().max().unwrap_or(0)).map(|n| n.to_string()).collect();
        let classes = match &first.names {
            Some(names) => names.clone(),
            None if names.is_empty() => numbers(),
            None => names.into_iter().map(String::from).collect(),
        };
        Ok(Labels { classes, labels })
    }

    /// `file.parquet, row 7`, counted from 0, for messages.
    pub fn place(&self, index: usize) -> String {
        let (table, row) = self.find(index);
        format!("{}, row {row}", table.path.display())
    }

    /// The encoded image of a row. Errors do not name it.
    pub fn read(&self, index: usize) -> Result<ByteArray> {
        let (table, mut row) = self.find(index);
        for (i, group) in table.metadata.row_groups().iter().enumerate() {
            let rows = group.num_rows() as usize;
            if row < rows {
                return readable(|| table.value(i, row));
            }
            row -= rows;
        }
        bail!("there is no such row")
    }

    /// The table of a row, and its number there.
    fn find(&self, index: usize) -> (&Table, usize) {
        let at = self.starts.partition_point(|start| *start <= index) - 1;
        (&self.tables[at], index - self.starts[at])
    }
}

/// A label as stored.
enum Cell {
    Null,
    Number(i64),
    Text(String),
}

impl Cell {
    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::from_owner(super::tree::map(path)?);
        if !bytes.starts_with(MAGIC) {
            bail!("not a Parquet table");
        }
        if bytes.len() < 12 || !bytes.ends_with(MAGIC) {
            bail!("truncated: the index at the end of a Parquet table is missing");
        }
        let metadata = readable(|| ParquetMetaDataReader::new().parse_and_finish(&bytes).map_err(Error::wrap))?;
        let features = features(&metadata)?;
        let (image, label) = columns(&metadata, features.as_ref())?;
        let names = label.clone().ok().flatten().and_then(|column| {
            let column = metadata.file_metadata().schema_descr().column(column);
            let names = features.as_ref()?.get(&column.path().parts()[0])?.get("names")?.as_array()?;
            names.iter().map(|name| name.as_str().map(String::from)).collect::<Option<Vec<_>>>()
        });
        let names = names.filter(|names| !names.is_empty());
        let this = Self { path: path.to_path_buf(), bytes: Arc::new(bytes), metadata, image, label, names };
        this.check()?;
        Ok(this)
    }

    /// The column of labels.
    fn label(&self) -> Result<Option<usize>> {
        match &self.label {
            Ok(column) => Ok(*column),
            Err(why) => bail!("{}: {why}", self.path.display()),
        }
    }

    /// The names of its columns.
    fn columns(&self) -> BTreeSet<String> {
        let schema = self.metadata.file_metadata().schema_descr();
        schema.columns().iter().filter_map(|leaf| leaf.path().parts().first().cloned()).collect()
    }

    /// Checks the sizes that the index states, and that the columns can be decoded.
    fn check(&self) -> Result<()> {
        let mut rows = 0i64;
        for (i, group) in self.metadata.row_groups().iter().enumerate() {
            if group.num_rows() < 0 || group.num_columns() != self.metadata.file_metadata().schema_descr().num_columns()
            {
                bail!("damaged: row group {i} does not fit the schema");
            }
            rows = rows.saturating_add(group.num_rows());
            for column in [Some(self.image), self.label.clone().ok().flatten()].into_iter().flatten() {
                let chunk = group.column(column);
                let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
                let end =
                    start.checked_add(chunk.compressed_size()).filter(|_| start >= 0 && chunk.compressed_size() >= 0);
                if end.is_none_or(|end| end > self.bytes.len() as i64) {
                    bail!("truncated: `{}` of row group {i} ends beyond the file", chunk.column_path().string());
                }
                if !matches!(chunk.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
                    let codec = chunk.compression().to_string();
                    let codec = codec.split('(').next().unwrap_or_default();
                    bail!(
                        "`{}` is compressed with {codec}, only Snappy is read; {}",
                        chunk.column_path().string(),
                        self.conversion()
                    );
                }
            }
        }
        if rows > MAX_ROWS || rows != self.metadata.file_metadata().num_rows() {
            let stated = self.metadata.file_metadata().num_rows();
            bail!("damaged: it states {stated} rows, and {rows} in its groups; at most {MAX_ROWS} are read");
        }
        Ok(())
    }

    fn conversion(&self) -> String {
        let (path, stem) = (self.path.display(), self.path.file_stem().unwrap_or_default().display());
        format!(
            "`python3 -c \"import pyarrow.parquet as p; p.write_table(p.read_table('{path}'), \
             '{stem}.snappy.parquet', compression='snappy')\"` converts it"
        )
    }

    /// A reader of a column in a row group.
    fn reader<T: DataType>(&self, group: &RowGroupMetaData, column: usize) -> Result<ColumnReaderImpl<T>> {
        let rows = group.num_rows() as usize;
        let pages =
            SerializedPageReader::new(self.bytes.clone(), group.column(column), rows, None).map_err(Error::wrap)?;
        Ok(get_typed_column_reader(get_column_reader(group.column(column).column_descr_ptr(), Box::new(pages))))
    }

    /// The bytes in a row of a group.
    fn value(&self, group: usize, row: usize) -> Result<ByteArray> {
        let group = self.metadata.row_group(group);
        let mut reader = self.reader::<ByteArrayType>(group, self.image)?;
        let (mut levels, mut values) = (vec![], vec![]);
        let skipped = reader.skip_records(row).map_err(Error::wrap)?;
        let (rows, ..) = reader.read_records(1, Some(&mut levels), None, &mut values).map_err(Error::wrap)?;
        match values.pop() {
            _ if skipped != row || rows != 1 => bail!("the table ends before it"),
            Some(value) if value.len() as u64 > MAX_BYTES => bail!("larger than the limit of {MAX_BYTES} bytes"),
            Some(value) => Ok(value),
            None => bail!("it holds no bytes, perhaps only the path of a file"),
        }
    }

    /// All values of a column of labels.
    fn cells(&self, column: usize) -> Result<Vec<Cell>> {
        let read = readable(|| {
            let mut cells = vec![];
            for group in self.metadata.row_groups() {
                match group.column(column).column_type() {
                    Type::INT64 => self.portions::<Int64Type>(group, column, Cell::Number, &mut cells)?,
                    Type::INT32 => self.portions::<Int32Type>(group, column, |n| Cell::Number(n.into()), &mut cells)?,
                    _ => {
                        let text = |value: ByteArray| Cell::Text(String::from_utf8_lossy(value.data()).into_owned());
                        self.portions::<ByteArrayType>(group, column, text, &mut cells)?;
                    }
                }
            }
            Ok(cells)
        });
        match read {
            Ok(cells) if cells.len() as i64 == self.metadata.file_metadata().num_rows() => Ok(cells),
            Ok(cells) => bail!("{}: truncated after {} labels", self.path.display(), cells.len()),
            Err(e) => bail!("{}: its labels cannot be read: {e}", self.path.display()),
        }
    }

    fn portions<T: DataType>(
        &self,
        group: &RowGroupMetaData,
        column: usize,
        cell: impl Fn(T::T) -> Cell,
        into: &mut Vec<Cell>,
    ) -> Result<()> {
        let mut reader = self.reader::<T>(group, column)?;
        let full = group.column(column).column_descr().max_def_level();
        let mut left = group.num_rows() as usize;
        while left > 0 {
            let (mut levels, mut values) = (vec![], vec![]);
            let (rows, ..) =
                reader.read_records(left.min(PORTION), Some(&mut levels), None, &mut values).map_err(Error::wrap)?;
            if rows == 0 {
                return Ok(());
            }
            left -= rows;
            let mut values = values.into_iter();
            if full == 0 {
                into.extend(values.map(&cell));
            } else {
                let mut value = |level: &i16| if *level == full { values.next() } else { None };
                into.extend(levels.iter().map(|level| value(level).map_or(Cell::Null, &cell)));
            }
        }
        Ok(())
    }
}

/// The columns of `datasets`, by name, if it wrote the table: their types, and names of classes.
fn features(metadata: &ParquetMetaData) -> Result<Option<Value>> {
    let entries = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    let Some(text) = entries.filter(|e| e.key == "huggingface").find_map(|e| e.value.as_ref()) else { return Ok(None) };
    match serde_json::from_str::<Value>(text) {
        Ok(json) => Ok(json.pointer("/info/features").cloned()),
        Err(e) => bail!("its `huggingface` metadata is not JSON: {e}"),
    }
}

/// A column of labels, as the index of a leaf; or why none can be chosen.
type LabelColumn = std::result::Result<Option<usize>, String>;

/// The columns of images and of labels, as indices of leaves.
fn columns(metadata: &ParquetMetaData, features: Option<&Value>) -> Result<(usize, LabelColumn)> {
    let schema = metadata.file_metadata().schema_descr();
    let leaves = schema.columns();
    let names: BTreeSet<&str> = leaves.iter().map(|leaf| leaf.path().parts()[0].as_str()).collect();
    let listed = || names.iter().copied().collect::<Vec<_>>().join(", ");
    let of_type = |kind: &str| -> Vec<&str> {
        let all = features.and_then(Value::as_object).into_iter().flatten();
        all.filter(|(_, f)| f.get("_type").is_some_and(|t| t == kind)).map(|(name, _)| name.as_str()).collect()
    };
    let choose = |stated: Vec<&'_ str>, usual: &[&'static str], what: &str| -> Result<Option<String>> {
        let known = |name: &&&str| names.contains(**name) && (stated.is_empty() || stated.contains(*name));
        match (stated.as_slice(), usual.iter().find(known)) {
            ([one], _) => Ok(Some((*one).to_string())),
            (_, Some(name)) => Ok(Some((*name).to_string())),
            ([], None) => Ok(None),
            (several, None) => {
                let several = several.join(", ");
                bail!("several columns hold {what}: {several}; rename the one that is meant to `{}`", usual[0])
            }
        }
    };
    let leaf = |path: &[&str]| leaves.iter().position(|leaf| leaf.path().parts() == path);
    let kind = |at: usize| describe(&leaves[at]);
    let Some(name) = choose(of_type("Image"), &IMAGES, "images")? else {
        bail!("no column of images; its columns are {}; `image` must be struct{{bytes, path}}", listed());
    };
    let image = match leaf(&[&name, "bytes"]).or_else(|| leaf(&[&name])) {
        Some(at) if leaves[at].physical_type() == Type::BYTE_ARRAY && leaves[at].max_rep_level() == 0 => at,
        Some(at) => bail!("its column `{name}` is {}, not struct{{bytes, path}} of encoded images", kind(at)),
        None => bail!("its column `{name}` is not struct{{bytes, path}} of encoded images"),
    };
    let holds_labels = |at: usize| {
        matches!(leaves[at].physical_type(), Type::INT64 | Type::INT32 | Type::BYTE_ARRAY)
            && leaves[at].max_rep_level() == 0
    };
    let stated = choose(of_type("ClassLabel"), &LABELS, "labels").map_err(|e| plain(&e));
    let label = stated.and_then(|name| match name {
        Some(name) => match leaf(&[&name]) {
            Some(at) if holds_labels(at) => Ok(Some(at)),
            Some(at) => Err(format!("its column `{name}` is {}, not whole numbers or texts", kind(at))),
            None => Err(format!("its column `{name}` is nested, not whole numbers or texts")),
        },
        // Any other column of a usual name, if it can be one of labels and is the only one.
        None => {
            let usable =
                |name: &&&str| is_label(name) && leaf(&[**name]).is_some_and(|at| at != image && holds_labels(at));
            let found: Vec<&str> = names.iter().filter(usable).copied().collect();
            match found.as_slice() {
                [] => Ok(None),
                [one] => Ok(leaf(&[*one])),
                several => {
                    let several = several.join(", ");
                    Err(format!("several columns may hold labels: {several}; rename the one that is meant to `label`"))
                }
            }
        }
    });
    Ok((image, label))
}

/// Whether a column of this name holds labels, by the names that tables of text have, too.
fn is_label(name: &str) -> bool {
    let name = name.to_lowercase();
    name == FINE || table::LABELS.contains(&name.as_str())
}

/// The text of an error without its backtrace.
fn plain(e: &Error) -> String {
    if let Error::WithBacktrace { inner, .. } = e { inner.to_string() } else { e.to_string() }
}

/// `a list of INT64`, `DOUBLE`.
fn describe(leaf: &ColumnDescriptor) -> String {
    let kind = leaf.physical_type();
    if leaf.max_rep_level() > 0 { format!("a list of {kind}") } else { kind.to_string() }
}

/// Runs the reader of tables, and turns its panic into an error.
fn readable<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    contained("not a readable Parquet table", read)
}
