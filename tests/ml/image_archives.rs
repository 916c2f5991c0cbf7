//! Image sets in tars, tars of tars and WebDatasets are listed and read as the folder they stand
//! for; damaged and hostile ones are named.

use crate::support::grey_images::{AS_IS, error, greys, open, png, write};
use candle_core::Result;
use erw::ml::data::source::ImageListing;
use erw::ml::data::source::layout::Classes;
use proptest::prelude::*;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

type Files<'a> = Vec<(&'a str, Vec<u8>)>;
type Members<'a> = &'a [(&'a str, Vec<u8>)];

fn header(size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header
}

fn tarred(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Builder::new(vec![]);
    for (name, bytes) in files {
        tar.append_data(&mut header(bytes.len()), name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A tar of one file, with a name that no writer would let through.
fn raw(name: &str, kind: EntryType, bytes: &[u8]) -> Vec<u8> {
    let mut header = header(bytes.len());
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_cksum();
    let mut tar = Builder::new(vec![]);
    tar.append(&header, bytes).unwrap();
    tar.into_inner().unwrap()
}

fn zipped(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn cats() -> Files<'static> {
    vec![("2.png", png(2)), ("1.png", png(1)), (".x.png", png(9)), ("notes.txt", b"miaow".to_vec())]
}

fn dogs() -> Files<'static> {
    vec![("3.png", png(3))]
}

#[test]
fn a_set_is_the_same_in_every_archive() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let within = |class: &str, files: Files| -> Vec<(String, Vec<u8>)> {
        files.into_iter().map(|(name, bytes)| (format!("{class}/{name}"), bytes)).collect()
    };
    let all = [within("dog", dogs()), within("cat", cats())].concat();
    let all: Files = all.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    for (name, bytes) in &all {
        write(&dir.path().join(format!("folder/{name}")), bytes);
    }
    let of_classes = [("dog.tar", tarred(&dogs())), ("cat.tar", tarred(&cats())), ("readme.md", b"pets".to_vec())];
    for (name, bytes) in &of_classes {
        write(&dir.path().join(format!("tars/{name}")), bytes);
    }
    let cases = [
        (dir.path().join("folder"), "a tree of folders", "cat/2.png", "1 .txt"),
        (write(&dir.path().join("set.zip"), &zipped(&all)), "a ZIP of folders", "set.zip!cat/2.png", "1 .txt"),
        // Told by its contents, not by its name.
        (write(&dir.path().join("set"), &tarred(&all)), "a tar of folders", "set!cat/2.png", "1 .txt"),
        (
            write(&dir.path().join("of.tar"), &tarred(&of_classes)),
            "a tar of tars",
            "of.tar!cat.tar!2.png",
            "1 .md, 1 .txt",
        ),
        (dir.path().join("tars"), "a folder of tars", "tars/cat.tar!2.png", "1 .md, 1 .txt"),
    ];
    for (root, what, place, left_out) in cases {
        let source = open(&root)?;
        assert_eq!(source.classes(), ["cat", "dog"], "{what}");
        assert_eq!(greys(&source), [(1, 0), (2, 0), (3, 1)], "{what}");
        assert_eq!(source.to_string(), format!("{what}: 3 images of 2 classes; left out: {left_out}, 1 hidden"));
        assert_eq!(source.name(1), Some(Path::new("cat/2.png")));
        assert!(source.place(1).ends_with(place), "{}", source.place(1));
        if what != "a tree of folders" {
            let part = ImageListing::open(&root, Some("cat"), None)?;
            assert_eq!(greys(&part), [(1, 0), (2, 0)], "{what}");
            assert!(part.place(1).ends_with(place), "{}", part.place(1));
            let said = error(ImageListing::open(&root, Some("cow"), None));
            assert!(said.contains("holds no folder `cow`; its top-level folders are cat, dog"), "{said}");
        }
    }
    // Tars deeper inside, in a part beside other images.
    let deep = [("train/cat.tar", tarred(&cats())), ("train/dog.tar", tarred(&dogs())), ("val/0.png", png(0))];
    let deep = ImageListing::open(&write(&dir.path().join("deep.tar"), &tarred(&deep)), Some("train"), None)?;
    assert_eq!(greys(&deep), [(1, 0), (2, 0), (3, 1)]);
    assert!(deep.place(2).ends_with("deep.tar!train/dog.tar!3.png"), "{}", deep.place(2));
    Ok(())
}

#[test]
fn long_names_and_folders_are_understood_and_a_prepared_set_has_its_labels() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let long = format!("cat/{}.png", "n".repeat(300));
    let mut pax = Builder::new(vec![]);
    let mut folder = header(0);
    folder.set_entry_type(EntryType::Directory);
    pax.append_data(&mut folder, "cat/", &[][..])?;
    pax.append_pax_extensions([("path", long.as_bytes()), ("mtime", b"1.5")])?;
    pax.append_data(&mut header(png(1).len()), "cut.png", png(1).as_slice())?;
    for (name, bytes) in [("gnu.tar", tarred(&[(&long, png(1))])), ("pax.tar", pax.into_inner()?)] {
        let source = open(&write(&dir.path().join(name), &bytes))?;
        assert_eq!(source.name(0), Some(Path::new(&long)), "{name}");
        assert_eq!(greys(&source), [(1, 0)]);
    }
    let list = br#"{"labels": [["00000/img0.png", 5], ["00000/img1.png", 0]]}"#.to_vec();
    let prepared = tarred(&[("00000/img1.png", png(1)), ("00000/img0.png", png(0)), ("dataset.json", list)]);
    assert_eq!(greys(&open(&write(&dir.path().join("edm.tar"), &prepared))?), [(0, 5), (1, 0)]);
    Ok(())
}

#[test]
fn damaged_and_hostile_tars_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let of = |bytes: &[u8]| error(open(&write(&dir.path().join("x.tar"), bytes)));
    let whole = tarred(&[("cat/0.png", png(0)), ("cat/1.png", png(1))]);
    assert_eq!(whole.len(), 6 * 512);
    for keep in 0..whole.len() - 512 {
        let said = of(&whole[..keep]);
        assert!(said.contains("x.tar"), "{keep}: {said}");
        if keep >= 512 {
            assert!(said.contains("truncated"), "{keep}: {said}");
        }
    }
    assert!(of(&whole[..512 + 20]).contains("x.tar!cat/0.png: has 20 of its"));
    assert!(of(&whole[..2 * 512]).contains("truncated or damaged after `cat/0.png`: its end mark is missing"));
    let said = of(&[whole.clone(), whole.clone()].concat());
    assert!(said.contains("more data follows its end mark") && said.contains("--ignore-zeros"), "{said}");
    let mut changed = whole.clone();
    changed[2 * 512 + 5] ^= 1;
    assert!(of(&changed).contains("damaged after `cat/0.png`: archive header checksum mismatch"));

    let file = EntryType::Regular;
    for name in ["../x.png", "/x.png", "a/../../x.png", "C:/x.png"] {
        let said = of(&raw(name, file, &png(0)));
        assert!(said.contains(&format!("x.tar!{name}: its name leads outside")), "{said}");
    }
    let inner = tarred(&[("a.tar", raw("../x.png", file, &png(0)))]);
    assert!(of(&inner).contains("x.tar!a.tar!../x.png: its name leads outside"));
    for second in ["cat/0.png", "cat/./0.png"] {
        let said = of(&[&whole[..2 * 512], &raw(second, file, &png(0))].concat());
        assert!(said.contains("x.tar: two entries have the same name: cat/0.png"), "{said}");
    }
    // A claim of eight gigabytes, and one of more than any disk has.
    for size in [8u64 << 30, u64::MAX >> 1] {
        let mut claims = raw("x.png", file, &png(0));
        let mut header = header(0);
        header.as_old_mut().name[..5].copy_from_slice(b"x.png");
        header.set_size(size);
        header.set_cksum();
        claims[..512].copy_from_slice(header.as_bytes());
        let said = of(&claims);
        assert!(said.contains("x.tar"), "{said}");
        assert!(said.contains(&format!("of its {size} bytes; the archive is truncated")), "{said}");
    }
    assert!(of(&tarred(&[("a.txt", vec![])])).contains("holds no images"));
    assert!(of(&tarred(&[("a.tar", whole[..550].to_vec())])).contains("x.tar!a.tar!cat/0.png: has 38 of its"));
    assert!(of(&tarred(&[("a.tar", b"text".to_vec())])).contains("x.tar!a.tar: truncated or not a tar"));
    let nested = tarred(&[("a.tar", tarred(&[("b.tar", whole.clone())]))]);
    assert!(of(&nested).contains("but 1 .tar"));
    Ok(())
}

/// A link or a device may be an image that is never asked for.
#[test]
fn members_that_are_no_files_are_refused_when_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (kind, expected) in [
        (EntryType::Symlink, "is a link"),
        (EntryType::Link, "is a link"),
        (EntryType::Fifo, "is not a regular file"),
        (EntryType::Block, "is not a regular file"),
    ] {
        let set = open(&write(&dir.path().join("x.tar"), &raw("cat/0.png", kind, &[])))?;
        let said = error(set.load(0, &AS_IS));
        assert!(said.contains("x.tar!cat/0.png: ") && said.contains(expected), "{said}");
    }
    Ok(())
}

/// Shards of a labelled set.
fn shards(dir: &TempDir, name: &str, shards: &[(&str, Members)]) -> PathBuf {
    shards.iter().for_each(|(shard, files)| drop(write(&dir.path().join(format!("{name}/{shard}")), &tarred(files))));
    dir.path().join(name)
}

#[test]
fn braces_name_the_shards_of_a_set() -> Result<()> {
    let dir = TempDir::new().unwrap();
    let shard = |i: u8| tarred(&[(&format!("{i}.png")[..], png(i)), (&format!("{i}.cls")[..], vec![b'0' + i % 2])]);
    for i in 0..12u8 {
        write(&dir.path().join(format!("all/train-{i:03}.tar")), &shard(i));
        write(&dir.path().join(format!("all/val-{i}.tar")), &shard(i));
    }
    let at = |text: &str| dir.path().join("all").join(text);
    let set = open(&at("train-{000..011}.tar"))?;
    assert_eq!(set.to_string(), "a WebDataset: 12 images of 2 classes");
    // The set that a folder of the same shards is.
    for i in 0..3u8 {
        write(&dir.path().join(format!("some/train-{i:03}.tar")), &shard(i));
    }
    let (some, folder) = (open(&at("train-{000..002}.tar"))?, open(&dir.path().join("some"))?);
    assert_eq!((some.to_string(), greys(&some)), (folder.to_string(), greys(&folder)));
    assert_eq!(some.name(0), folder.name(0));
    assert_eq!(open(&at("train-{001,00{7..9}}.tar"))?.len(), 4);
    // The order is that of names, however braces name them.
    assert_eq!(greys(&open(&at("val-{2..10..8}.tar"))?), greys(&open(&at("val-{10..2..8}.tar"))?));
    let text = error(open(&at("train-{010..013}.tar")));
    assert!(text.contains("no file ") && text.contains("all/train-012.tar"), "{text}");
    let text = error(open(&at("train-{0..200000}.tar")));
    assert!(text.contains("the path stands for more than 100000 names"), "{text}");
    write(&at("train-000.txt"), b"");
    let text = error(open(&at("train-000.{tar,txt}")));
    assert!(text.contains("stands for files that are not all tars or all Parquet tables"), "{text}");
    Ok(())
}

#[test]
fn shards_that_names_promise_must_all_be_there() -> Result<()> {
    let dir = TempDir::new().unwrap();
    let shard = |i: u8| tarred(&[(&format!("{i}.png")[..], png(i)), (&format!("{i}.cls")[..], vec![b'0' + i % 2])]);
    let set = |name: &str, shards: &[&str]| {
        let put = |(i, shard_name): (usize, &&str)| {
            drop(write(&dir.path().join(format!("{name}/{shard_name}.tar")), &shard(i as u8)));
        };
        shards.iter().enumerate().for_each(put);
        dir.path().join(name)
    };
    let absent = set("absent", &["train-00000-of-00003", "train-00002-of-00003"]);
    let said = error(open(&absent));
    assert!(said.contains("absent: train-00001-of-00003.tar is missing") && said.contains("download"), "{said}");
    // What is there can be named.
    assert_eq!(open(&absent.join("train-{00000,00002}-of-00003.tar"))?.len(), 2);
    assert_eq!(open(&absent.join("train-00002-of-00003.tar"))?.len(), 1);
    let from_one = set("from one", &["x-1-of-3", "x-2-of-3", "x-3-of-3"]);
    assert_eq!(open(&from_one)?.len(), 3);
    let more = set("more", &["x-0-of-2", "x-1-of-2", "x-2-of-2"]);
    assert!(error(open(&more)).contains("x-2-of-2.tar is number 2 of 2"));
    let mixed = set("mixed", &["x-0-of-2", "x-0-of-3", "x-1-of-2"]);
    let said = error(open(&mixed));
    assert!(said.contains("x-0-of-2.tar is one of 2 files and x-0-of-3.tar one of 3"), "{said}");
    // Of another part, nothing is asked.
    let parts = set("parts", &["train-0-of-2", "train-1-of-2", "val-0-of-2"]);
    assert_eq!(ImageListing::open(&parts, Some("train"), None)?.len(), 2);
    assert!(error(ImageListing::open(&parts, Some("val"), None)).contains("val-1-of-2.tar is missing"));
    // A name without end costs nothing.
    let endless = set("endless", &["x-0-of-18446744073709551615"]);
    assert!(
        error(open(&endless)).contains("x-3-of-18446744073709551615.tar and 18446744073709551611 more are missing")
    );
    let text = error(open(&from_one.join("x-{1,1,2}-of-3.tar")));
    assert!(text.contains("its braces name ") && text.contains("x-1-of-3.tar twice"), "{text}");
    Ok(())
}

#[test]
fn labels_that_take_the_place_of_folders_are_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let json = |label: i64| format!("{{\"label\": {label}}}").into_bytes();
    let files = [("cat/0.png", png(0)), ("cat/0.json", json(7)), ("dog/1.png", png(1)), ("dog/1.json", json(7))];
    let set = open(&write(&dir.path().join("x.tar"), &tarred(&files)))?;
    assert_eq!(greys(&set), [(0, 7), (1, 7)]);
    let said = set.warnings().join("\n");
    let expected = "labels are those of its .json files, and not its folders `cat`, `dog`; set `classes = \"folders\"`";
    assert!(said.contains(expected), "{said}");
    let folders = ImageListing::open_as(&dir.path().join("x.tar"), None, None, Classes::Folders)?;
    assert_eq!(folders.classes(), ["cat", "dog"]);
    // Shards are no classes.
    let root = shards(&dir, "shards", &[("s-0.tar", &[("0.png", png(0)), ("0.cls", b"1".to_vec())])]);
    assert_eq!(open(&root)?.warnings(), [""; 0]);
    // Names that are no sample's, but look so.
    let dotted = [("img.v0.png", png(0)), ("img.v0.cls", b"1".to_vec())];
    let said = open(&write(&dir.path().join("dotted.tar"), &tarred(&dotted)))?.warnings().join("\n");
    assert!(said.contains("1 .cls beside them may hold their classes") && said.contains("first dot"), "{said}");
    Ok(())
}

#[test]
fn a_webdataset_has_the_labels_of_its_samples() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cls = |label: i64| format!("{label}\n").into_bytes();
    let json = |label: i64| format!("{{\"label\": {label}, \"caption\": \"x\"}}").into_bytes();
    let as_text: [(&str, Members); 2] = [
        (
            "x-000000.tar",
            &[("0.cls", cls(2)), ("0.png", png(0)), ("0.json", json(7)), ("1.png", png(1)), ("1.cls", cls(0))],
        ),
        ("x-000001.tar", &[("0.PNG", png(2)), ("0.CLS", cls(1)), ("0.txt", b"a caption".to_vec())]),
    ];
    let as_json: [(&str, Members); 2] = [
        ("x-0-of-2.tar", &[("a.png", png(0)), ("a.json", json(2)), ("b.json", json(0)), ("b.png", png(1))]),
        ("x-1-of-2.tar", &[("c.png", png(2)), ("c.json", json(1))]),
    ];
    for (set, left_out) in [(shards(&dir, "text", &as_text), "1 .json, 1 .txt"), (shards(&dir, "json", &as_json), "")] {
        let source = open(&set)?;
        assert_eq!(greys(&source), [(0, 2), (1, 0), (2, 1)]);
        assert_eq!(source.classes(), ["0", "1", "2"]);
        let what = "a WebDataset: 3 images of 3 classes";
        let left_out = if left_out.is_empty() { String::new() } else { format!("; left out: {left_out}") };
        assert_eq!(source.to_string(), format!("{what}{left_out}"));
    }
    // A single shard.
    let one = open(&dir.path().join("text/x-000000.tar"))?;
    assert_eq!(greys(&one), [(0, 2), (1, 0)]);
    let all = ImageListing::open_as(&dir.path().join("text"), None, None, Classes::One)?;
    assert_eq!((greys(&all), all.classes().len()), (vec![(0, 0), (1, 0), (2, 0)], 1));
    // Two splits in one folder.
    let [a, b] = as_text.map(|(_, files)| files);
    let both = shards(&dir, "both", &[("in-train-00.tar", a), ("in-train-01.tar", b), ("in-val-00.tar", b)]);
    let said = error(open(&both));
    assert!(said.contains("its folders `in-train`, `in-val` look like parts of a data set"), "{said}");
    assert!(said.contains("set `part = \"in-train\"`"), "{said}");
    assert_eq!(greys(&ImageListing::open(&both, Some("in-train"), None)?), [(0, 2), (1, 0), (2, 1)]);
    assert_eq!(greys(&ImageListing::open(&both, Some("in-val"), None)?), [(2, 1)]);
    Ok(())
}

#[test]
fn samples_that_do_not_fit_their_labels_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let text = |text: &str| text.as_bytes().to_vec();
    let cases: [(Members, &str); 9] = [
        (&[("0.png", png(0)), ("0.cls", text("0")), ("1.png", png(1))], "has no label for 1 file: s-0/1.png"),
        (&[("0.cls", text("0")), ("1.png", png(1)), ("1.cls", text("0"))], "s-0.tar!0.cls: its sample has no image"),
        (
            &[("0.png", png(0)), ("0.cls", text("0")), ("0.CLS", text("1"))],
            "s-0.tar!0.CLS: its sample has another label",
        ),
        (&[("0.png", png(0)), ("0.cls", text("cat"))], "s-0.tar!0.cls: label `cat` is not a whole number"),
        (&[("0.png", png(0)), ("0.cls", text("-1"))], "label `-1` is not a whole number"),
        (&[("0.png", png(0)), ("0.cls", text("99999999999"))], "label `99999999999` is not a whole number"),
        (
            &[("0.png", png(0)), ("0.mask.png", png(1)), ("0.cls", text("1"))],
            "s-0.tar!0.mask.png: its sample has another image",
        ),
        (&[("0.png", png(0)), ("0.json", text("{\"label\": 0.5}"))], "s-0.tar!0.json: label `0.5` is not a whole"),
        (&[("0.png", png(0)), ("0.json", text("{"))], "s-0.tar!0.json: not JSON"),
    ];
    for (files, expected) in cases {
        let said = error(open(&shards(&dir, "bad", &[("s-0.tar", files)])));
        assert!(said.contains(expected), "{expected}: {said}");
    }
    // Shards without labels are neither classes nor one class unless the user says so.
    let bare: Members = &[("0.png", png(0)), ("0.json", text("{\"caption\": \"x\"}"))];
    let root = shards(&dir, "bare", &[("s-0.tar", bare), ("s-1.tar", bare)]);
    let said = error(open(&root));
    assert!(said.contains("`s-0`, `s-1` look like shards of one set, not like classes, and hold no labels"), "{said}");
    assert!(said.contains("`0001.cls`") && said.contains("classes = \"one\""), "{said}");
    assert_eq!(ImageListing::open_as(&root, None, None, Classes::Folders)?.classes(), ["s-0", "s-1"]);
    assert_eq!(ImageListing::open_as(&root, None, None, Classes::One)?.len(), 2);
    Ok(())
}

/// ImageNet's validation images lie in one folder or tar, their classes in a table beside it.
#[test]
fn a_table_beside_the_images_has_their_labels() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let images = [("val_1.JPEG", png(1)), ("val_0.JPEG", png(0)), ("sub/val_2.JPEG", png(2))];
    for (name, bytes) in &images {
        write(&dir.path().join(format!("val/{name}")), bytes);
    }
    let roots = [
        dir.path().join("val"),
        write(&dir.path().join("val.tar"), &tarred(&images)),
        write(&dir.path().join("val.zip"), &zipped(&images)),
    ];
    let boxes = "ImageId,PredictionString\nval_0,n2 1 2 3 4 n2 5 6 7 8 \nval_1,n1 1 2 3 4\nsub/val_2,n2 1 2 3 4\n";
    let named = [(2, 1), (0, 1), (1, 0)];
    let cases = [
        (boxes, &["n1", "n2"][..], named),
        ("file,label\nval_1.JPEG,n1\n\"sub/val_2.JPEG\",n2\nval_0.JPEG, n2\n", &["n1", "n2"], named),
        ("\u{feff}label,file\r\nn1,val_1\r\nn2,val_0\r\nn2,sub\\val_2\r\n", &["n1", "n2"], named),
        ("val_1.JPEG,n1\nval_0.JPEG,n2\n\nsub/val_2.JPEG,n2", &["n1", "n2"], named),
        ("a;b\nval_1;n1\nval_0;n2\nsub/val_2;n2\n", &["n1", "n2"], named),
        ("id\tsize\tclass\nval_1\t7\tn1\nval_0\t7\tn2\nsub/val_2\t7\tn2\n", &["n1", "n2"], named),
        ("x,y\nval_1,2\nval_0,0\nsub/val_2,10\n", &["0", "1", "2", "3", "4"], [(2, 10), (0, 0), (1, 2)]),
    ];
    for (text, classes, expected) in cases {
        let labels = write(&dir.path().join("labels.csv"), text.as_bytes());
        for root in &roots {
            let source = ImageListing::open(root, None, Some(&labels))?;
            assert!(source.classes().starts_with(&classes.iter().map(|c| c.to_string()).collect::<Vec<_>>()), "{text}");
            assert_eq!(greys(&source), expected, "{text}");
        }
    }
    let bad = [
        ("f,l\nval_0,a\nval_1,a\nsub/val_2,b\nval_3,a\n", "1 file of it are not in", "`val_3` (line 5)"),
        ("f,l\nval_0,a\nval_1,a\n", "labels.csv: has no label for 1 file of", "sub/val_2.JPEG"),
        ("f,l\nval_0,a\nval_1,a\nval_0,b\n", "labels.csv:4: `val_0` was labelled in line 2 already", ""),
        ("f,l\nval_0,a\nval_1\n", "labels.csv:3: a row of 1 cells in a table of 2", ""),
        ("f,l\nval_0,\n", "labels.csv:2: `` is not the class of `val_0`", ""),
        ("f,l\n../val_0,a\n", "labels.csv:2: `../val_0` leads outside", ""),
        ("f,l\nval_0,1\nval_1,1\nsub/val_2,999999\n", "labels.csv:4: label 999999 is not from 0", ""),
        ("ImageId,PredictionString\nval_0,n1 1 2 3 4 n2 1 2 3 4\n", "labels.csv:2: `n1 1 2 3 4 n2 1 2 3 4` is not", ""),
        ("ImageId,PredictionString\nval_0,n1 1 2 3\n", "labels.csv:2: `n1 1 2 3` is not the class", ""),
        ("a,b,c\nval_0,1,2\n", "which columns are the file and the label is unclear: a, b, c", "`file`"),
        ("val_0\n", "one column only", ""),
        ("", "labels.csv: empty", ""),
    ];
    for (text, expected, also) in bad {
        let labels = write(&dir.path().join("labels.csv"), text.as_bytes());
        for root in &roots {
            let said = error(ImageListing::open(root, None, Some(&labels)));
            assert!(said.contains(expected) && said.contains(also), "{text}: {said}");
        }
    }
    let labels = write(&dir.path().join("labels.csv"), boxes.as_bytes());
    let of = |classes| ImageListing::open_as(&roots[1], None, Some(&labels), classes);
    assert_eq!(greys(&of(Classes::One)?), [(2, 0), (0, 0), (1, 0)]);
    assert!(error(of(Classes::Folders)).contains("omit one"));
    let gzip = write(&dir.path().join("labels.gz"), b"\x1f\x8b\x08\xff\xfe");
    assert!(error(ImageListing::open(&roots[0], None, Some(&gzip))).contains("labels.gz: not a CSV file of labels"));
    write(&dir.path().join("val/dataset.json"), b"{\"labels\": null}");
    assert!(error(ImageListing::open(&roots[0], None, Some(&labels))).contains("dataset.json; omit `labels`"));
    Ok(())
}

#[test]
fn a_first_row_that_is_no_header_is_not_dropped() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for i in 0..3u8 {
        write(&dir.path().join(format!("val/{i}.png")), &png(i));
    }
    let of = |text: &str| {
        let labels = write(&dir.path().join("labels.csv"), text.as_bytes());
        ImageListing::open(&dir.path().join("val"), None, Some(&labels))
    };
    for text in ["9,cat\n0,cat\n1,dog\n2,cat\n", "9,1\n0,0\n1,1\n2,2\n", "9,7\n0,0\n1,1\n2,2\n"] {
        let said = error(of(text));
        assert!(said.contains("labels.csv:1: `9` is not in ") && said.contains("is no name of a column"), "{said}");
        assert!(said.contains("give as `labels` a CSV with a row for each image"), "{said}");
    }
    let said = of("a,b\n0,cat\n1,dog\n2,cat\n")?.warnings().join("\n");
    assert!(said.contains("the first row, `a` and `b`, is taken for the names of the columns"), "{said}");
    for text in ["file,b\n0,cat\n1,dog\n2,cat\n", "a,class\n0,1\n1,0\n2,1\n", "0,cat\n1,dog\n2,cat\n"] {
        assert_eq!(of(text)?.warnings(), [""; 0], "{text}");
    }
    Ok(())
}

#[test]
fn a_hundred_thousand_members_are_listed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut tar = Builder::new(vec![]);
    for i in 0..100_000 {
        tar.append_data(&mut header(5), format!("{}/{i:06}.jpg", i % 1000), &b"bytes"[..])?;
    }
    let source = open(&write(&dir.path().join("many.tar"), &tar.into_inner()?))?;
    assert_eq!((source.len(), source.classes().len()), (100_000, 1000));
    assert!(source.place(99_999).ends_with("many.tar!999/099999.jpg"));
    Ok(())
}

proptest! {
    #[test]
    fn random_tars_do_not_panic(
        which in 0..3usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let plain = tarred(&[("cat/0.png", png(0)), ("cat/1.png", png(1))]);
        let labelled = tarred(&[("0.png", png(0)), ("0.cls", b"3".to_vec())]);
        let mut bytes = [tarred(&[("a.tar", plain.clone())]), plain, labelled][which].clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().min(end.index(2 * bytes.len())));
        let dir = tempfile::tempdir().unwrap();
        if let Ok(source) = open(&write(&dir.path().join("x.tar"), &bytes)) {
            (0..source.len()).for_each(|i| drop(source.load(i, &AS_IS)));
        }
    }
}
