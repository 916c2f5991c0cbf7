//! Image sets in Parquet tables, as Hugging Face's `datasets` writes them: rows are images, labels
//! have the names of the metadata, and a table of another shape is refused.

use crate::support::grey_images::{AS_IS, error, greys, open, png, write};
use candle_core::Result;
use erw::ml::data::source::ImageListing;
use erw::ml::data::source::layout::Classes;
use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;

const SCHEMA: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";
const FEATURES: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
    "label": {"names": ["dog", "cat", "cow"], "_type": "ClassLabel"}}}}"#;

/// The image and the label of a row.
type Row = (Option<Vec<u8>>, Option<i64>);

/// A table of this schema. Columns of bytes hold `images`, others the labels; `None` is null. Each of
/// `groups` is a row group, of pages of one row.
fn table(schema: &str, features: Option<&str>, groups: &[&[Row]]) -> Vec<u8> {
    let note = features.map(|text| vec![KeyValue::new("huggingface".into(), text.to_string())]);
    let how = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_data_page_row_count_limit(1)
        .set_write_batch_size(1)
        .set_key_value_metadata(note);
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(vec![], schema, Arc::new(how.build())).unwrap();
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let labels = || rows.iter().filter_map(|(_, label)| *label);
            let levels = |full: i16, is_there: fn(&Row) -> bool| -> Vec<i16> {
                rows.iter().map(|row| if is_there(row) { full } else { 0 }).collect()
            };
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(writer) => {
                    let full = writer.get_descriptor().max_def_level();
                    let bytes: Vec<ByteArray> = rows.iter().filter_map(|(b, _)| b.clone().map(Into::into)).collect();
                    writer.write_batch(&bytes, Some(&levels(full, |row| row.0.is_some())), None).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(writer) => {
                    let values: Vec<i64> = labels().collect();
                    writer.write_batch(&values, Some(&levels(1, |row| row.1.is_some())), None).unwrap();
                }
                ColumnWriter::Int32ColumnWriter(writer) => {
                    let values: Vec<i32> = labels().map(|label| label as i32).collect();
                    writer.write_batch(&values, Some(&levels(1, |row| row.1.is_some())), None).unwrap();
                }
                ColumnWriter::DoubleColumnWriter(writer) => {
                    let values: Vec<f64> = labels().map(|label| label as f64).collect();
                    writer.write_batch(&values, Some(&levels(1, |row| row.1.is_some())), None).unwrap();
                }
                _ => panic!("no such column"),
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn row(grey: u8, label: i64) -> Row {
    (Some(png(grey)), Some(label))
}

#[test]
fn rows_are_images_with_the_labels_that_the_metadata_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let a = table(SCHEMA, Some(FEATURES), &[&[row(3, 1), row(1, 0), row(4, 1)], &[row(7, 0), row(5, 2)]]);
    let b = table(SCHEMA, Some(FEATURES), &[&[row(9, 2)]]);
    let one = write(&dir.path().join("any name"), &a);
    let source = open(&one)?;
    assert_eq!(source.classes(), ["dog", "cat", "cow"]);
    assert_eq!(greys(&source), [(3, 1), (1, 0), (4, 1), (7, 0), (5, 2)]);
    assert_eq!(source.to_string(), "a Parquet table: 5 images of 3 classes");
    assert!(source.place(4).ends_with("any name, row 4"), "{}", source.place(4));
    // The parts of a repository of the Hub.
    write(&dir.path().join("hub/data/train-00001-of-00002.parquet"), &b);
    write(&dir.path().join("hub/data/train-00000-of-00002.parquet"), &a);
    write(&dir.path().join("hub/data/test-00000-of-00001.parquet"), &b);
    let hub = write(&dir.path().join("hub/README.md"), b"x").parent().unwrap().to_path_buf();
    let said = error(open(&hub));
    assert!(said.contains("tables of several parts; choose one with `part`: data/test, data/train"), "{said}");
    let train = ImageListing::open(&hub, Some("data/train"), None)?;
    assert_eq!(greys(&train), [(3, 1), (1, 0), (4, 1), (7, 0), (5, 2), (9, 2)]);
    assert!(train.place(5).ends_with("train-00001-of-00002.parquet, row 0"));
    assert!(train.to_string().ends_with("6 images of 3 classes; left out: 1 .md"), "{train}");
    assert_eq!(greys(&ImageListing::open(&hub.join("data"), Some("test"), None)?), [(9, 2)]);
    assert!(error(ImageListing::open(&hub.join("data"), Some("val"), None)).contains("its parts are test, train"));
    assert!(error(ImageListing::open(&one, Some("train"), None)).contains("a single file, which has no `part`"));
    assert!(error(ImageListing::open(&one, None, Some(&one))).contains("which contains its labels"));
    // Without metadata, and without classes.
    let plain = open(&write(&dir.path().join("plain"), &table(SCHEMA, None, &[&[row(1, 0), row(2, 4)]])))?;
    assert_eq!((greys(&plain), plain.classes().len()), (vec![(1, 0), (2, 4)], 5));
    let int32 = SCHEMA.replace("int64 label", "int32 labels");
    assert_eq!(greys(&open(&write(&dir.path().join("int32"), &table(&int32, None, &[&[row(1, 3)]])))?), [(1, 3)]);
    let flat = "message schema { required binary img; }";
    let flat = open(&write(&dir.path().join("flat"), &table(flat, None, &[&[row(1, 0), row(2, 0)]])))?;
    assert_eq!((greys(&flat), flat.classes()), (vec![(1, 0), (2, 0)], &[String::new()][..]));
    let one = ImageListing::open_as(&dir.path().join("plain"), None, None, Classes::One)?;
    assert_eq!(greys(&one), [(1, 0), (2, 0)]);
    Ok(())
}

#[test]
fn tables_of_another_shape_are_refused_with_what_they_hold() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let of = |schema: &str, features: Option<&str>, rows: &[Row]| {
        error(open(&write(&dir.path().join("x.parquet"), &table(schema, features, &[rows]))))
    };
    let rows = [row(1, 0)];
    for (from, to, expected) in [
        ("int64 label", "double label", "its column `label` is DOUBLE, not whole numbers or texts"),
        ("optional int64 label", "optional group label { optional int64 x; }", "its column `label` is nested"),
        ("binary bytes", "int64 bytes", "its column `image` is INT64, not struct{bytes, path} of encoded images"),
        ("group image", "group photo", "no column of images; its columns are label, photo"),
        ("binary bytes", "binary data", "its column `image` is not struct{bytes, path}"),
    ] {
        let schema = SCHEMA.replace(from, to).replace("int64 x; };", "int64 x; }");
        let said = of(&schema, None, &rows);
        assert!(said.contains("x.parquet: ") && said.contains(expected), "{to}: {said}");
    }
    let two = SCHEMA.replace("int64 label", "int64 fine; optional int64 coarse");
    let features = FEATURES.replace(r#""label": {"#, r#""coarse": {"_type": "ClassLabel"}, "fine": {"#);
    let said = of(&two, Some(&features), &rows);
    assert!(said.contains("several columns hold labels: coarse, fine; rename the one"), "{said}");
    assert!(of(SCHEMA, Some("{"), &rows).contains("`huggingface` metadata is not JSON"));
    assert!(
        of(SCHEMA, Some(FEATURES), &[row(1, 0), row(1, 3)]).contains("x.parquet, row 1: label 3 is not from 0 to 2")
    );
    assert!(of(SCHEMA, Some(FEATURES), &[row(1, -1)]).contains("x.parquet, row 0: label -1 is not from 0 to 2"));
    assert!(of(SCHEMA, None, &[row(1, 0), (Some(png(1)), None)]).contains("x.parquet, row 1: it has no label"));
    assert!(of(SCHEMA, None, &[]).contains("holds no rows"));
    // A row that refers to a file is found when it is read.
    let root = write(&dir.path().join("x.parquet"), &table(SCHEMA, None, &[&[row(1, 0), (None, Some(0))]]));
    let said = error(open(&root)?.load(1, &AS_IS));
    assert!(said.contains("x.parquet, row 1: it holds no bytes"), "{said}");
    write(&dir.path().join("two/0.parquet"), &table(SCHEMA, Some(FEATURES), &[&rows]));
    write(&dir.path().join("two/1.parquet"), &table(SCHEMA, None, &[&rows]));
    assert!(error(open(&dir.path().join("two"))).contains("1.parquet have different classes"));
    Ok(())
}

#[test]
fn tables_that_names_promise_must_all_be_there_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let one = table(SCHEMA, Some(FEATURES), &[&[row(1, 0)]]);
    let set = |name: &str, files: &[&str]| {
        files.iter().for_each(|file| drop(write(&dir.path().join(name).join(format!("{file}.parquet")), &one)));
        dir.path().join(name)
    };
    let absent = set("absent", &["data/train-00000-of-00003", "data/train-00002-of-00003"]);
    let said = error(open(&absent));
    assert!(said.contains("absent: data/train-00001-of-00003.parquet is missing"), "{said}");
    assert_eq!(open(&absent.join("data/train-{00000,00002}-of-00003.parquet"))?.len(), 2);
    let twice = set("twice", &["train-00000-of-00001", "train-00000-of-00001-a09b74b3ef9c3b56"]);
    let said = error(open(&twice));
    assert!(said.contains("train-00000-of-00001.parquet are both number 0 of 1"), "{said}");
    assert!(said.contains("keep one of them"), "{said}");
    // Of a part that is not chosen, nothing is asked.
    let parts = set("parts", &["train-00000-of-00001", "test-00001-of-00002"]);
    assert_eq!(ImageListing::open(&parts, Some("train"), None)?.len(), 1);
    assert!(error(ImageListing::open(&parts, Some("test"), None)).contains("test-00000-of-00002.parquet is missing"));
    Ok(())
}

#[test]
fn the_column_of_labels_is_found_by_its_usual_names_and_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("x.parquet");
    let of = |schema: &str, features: Option<&str>| {
        open(&write(&path, &table(schema, features, &[&[row(1, 1), row(2, 0)]])))
    };
    for name in ["label", "labels", "class", "target", "category", "Label", "fine_label", "class_id"] {
        let set = of(&SCHEMA.replace("int64 label", &format!("int64 {name}")), None)?;
        assert_eq!(greys(&set), [(1, 1), (2, 0)], "{name}");
        assert_eq!(set.remarks(), [format!("labels: column `{name}`")]);
        assert_eq!(set.warnings(), [""; 0]);
    }
    // The usual one comes before the others, what cannot be one is none, and several are unclear.
    let with = |more: &str| SCHEMA.replace("optional int64 label;", more);
    let set = of(&with("optional int64 class; optional int64 label;"), None)?;
    assert_eq!(set.remarks(), ["labels: column `label`"]);
    let set = of(&with("optional double target; optional int64 class;"), None)?;
    assert_eq!(set.remarks(), ["labels: column `class`"]);
    let several = with("optional int64 class; optional int64 target;");
    let said = error(of(&several, None));
    assert!(said.contains("x.parquet: several columns may hold labels: class, target; rename the one"), "{said}");
    assert!(said.contains("set `classes = \"one\"`"), "{said}");
    assert_eq!(ImageListing::open_as(&path, None, None, Classes::One)?.classes(), [""]);
    let set = of(&SCHEMA.replace("int64 label", "int64 width"), None)?;
    assert_eq!(greys(&set), [(1, 0), (2, 0)]);
    let said = set.warnings().join("\n");
    let expected = "all images are of one class: none of the columns `image`, `width` is of labels; name the one";
    assert!(said.contains(expected), "{said}");
    Ok(())
}

#[test]
fn labels_in_names_of_folders_are_refused_or_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let bare = table("message schema { required binary img; }", None, &[&[row(1, 0)]]);
    let set = |name: &str, folders: [&str; 2]| {
        folders.iter().for_each(|folder| drop(write(&dir.path().join(format!("{name}/{folder}/0.parquet")), &bare)));
        dir.path().join(name)
    };
    let hive = set("hive", ["label=cat", "label=dog"]);
    let said = error(open(&hive));
    assert!(said.contains("the labels are in names of folders, as `label=cat`, which are not read"), "{said}");
    assert_eq!(ImageListing::open_as(&hive, None, None, Classes::One)?.len(), 2);
    let said = open(&set("plain", ["cat", "dog"]))?.warnings().join("\n");
    assert!(said.contains("its tables lie in `cat`, `dog`, but folders of tables are no classes"), "{said}");
    Ok(())
}

/// Whatever byte is changed and wherever it ends, the answer is images or an error.
#[test]
fn damaged_tables_are_errors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let whole = table(SCHEMA, Some(FEATURES), &[&[row(3, 1), row(1, 0)], &[row(7, 0)]]);
    let read = |bytes: &[u8]| -> Result<()> {
        let source = open(&write(&dir.path().join("x.parquet"), bytes))?;
        (0..source.len()).try_for_each(|i| source.load(i, &AS_IS).map(drop))
    };
    read(&whole)?;
    for keep in (4..whole.len()).step_by(7) {
        let said = error(read(&whole[..keep]));
        assert!(said.contains("x.parquet: truncated") || said.contains("x.parquet: not"), "{keep}: {said}");
    }
    for at in (4..whole.len()).step_by(5) {
        for value in [0, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Err(e) = read(&bytes) {
                assert!(e.to_string().contains("x.parquet"), "{at}: {e}");
            }
        }
    }
    Ok(())
}
