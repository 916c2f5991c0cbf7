//! Which files belong to an image set and what its folders mean: files of other programs are
//! ignored, a layout that would lose labels is refused with a suggestion, and files left out are
//! counted.

use crate::support::bench::Bench;
use crate::support::grey_images::{AS_IS, greys, open, png, write};
use crate::support::space::Space;
use candle_core::Result;
use erw::error::Error;
use erw::ml::data::packed::Packed;
use erw::ml::data::source::ImageListing;
use erw::ml::data::source::layout::Classes;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

/// A folder of images, told apart by their places in the list. What is no image by its name holds
/// text.
fn folder(root: &Path, names: &[&str]) -> PathBuf {
    for (i, name) in names.iter().enumerate() {
        write(&root.join(name), &contents(name, i));
    }
    root.into()
}

fn contents(name: &str, i: usize) -> Vec<u8> {
    if name.to_lowercase().ends_with(".png") { png(i as u8) } else { b"text".to_vec() }
}

/// The same as an archive, with names that no writer would let through.
fn archive(path: &Path, names: &[&str]) -> PathBuf {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stand_in = |i: usize, name: &str| format!("{:~>width$}", format!("<{i}>"), width = name.len());
    for (i, name) in names.iter().enumerate() {
        zip.start_file(stand_in(i, name), SimpleFileOptions::default()).unwrap();
        zip.write_all(&contents(name, i)).unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    for (i, name) in names.iter().enumerate() {
        let from = stand_in(i, name);
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + from.len()].copy_from_slice(name.as_bytes());
            }
        }
    }
    write(path, &bytes);
    path.into()
}

/// Files, the folder that is the set, and greys and labels of its images.
type Meant<'a> = (&'a [&'a str], &'a str, Vec<(u8, i64)>);

fn error<T>(r: Result<T>) -> Error {
    Error::from(r.err().expect("an error"))
}

/// Files of a notebook, of desktops, of servers, of version control; images among them.
const LEFT_BEHIND: [&str; 18] = [
    ".ipynb_checkpoints/0-checkpoint.png",
    "cat/.ipynb_checkpoints/0-checkpoint.png",
    ".Trash-1000/files/old.png",
    ".thumbnails/normal/x.png",
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.png",
    "cat/@eaDir/1.png",
    "__MACOSX/cat/0.png",
    "__MACOSX/cat/._0.png",
    "lost+found/a.png",
    "$RECYCLE.BIN/b.png",
    "System Volume Information/c.png",
    ".git/d.png",
    ".svn/e.png",
    ".AppleDouble/f.png",
    "dog/._3.png",
    "dog/Thumbs.db",
    "DESKTOP.INI",
    ".DS_Store",
];

#[test]
fn files_of_other_programs_are_neither_classes_nor_images() {
    let dir = tempfile::tempdir().unwrap();
    let names = [&["cat/0.png", "cat/1.png", "dog/0.png"][..], &LEFT_BEHIND, &["cat/notes.txt"]].concat();
    for root in [folder(&dir.path().join("set"), &names), archive(&dir.path().join("set.zip"), &names)] {
        let source = open(&root).unwrap();
        assert_eq!(source.classes(), ["cat", "dog"], "{}", root.display());
        assert_eq!(greys(&source), [(0, 0), (1, 0), (2, 1)], "{}", root.display());
        // A folder counts once.
        let said = source.to_string();
        assert!(said.ends_with("3 images of 2 classes; left out: 1 .txt, 17 hidden"), "{said}");
        assert_eq!(ImageListing::pictures(&root).unwrap().len(), 3);
    }
}

#[test]
fn a_hidden_folder_is_read_when_named() {
    let dir = tempfile::tempdir().unwrap();
    let hidden = folder(&dir.path().join(".cache/@eaDir"), &["cat/0.png", "dog/1.png"]);
    assert_eq!(greys(&open(&hidden).unwrap()), [(0, 0), (1, 1)]);
    let zip =
        archive(&dir.path().join("x.zip"), &[".data/cat/0.png", ".data/dog/1.png", ".data/.x/2.png", "a/b/3.png"]);
    let part = ImageListing::open(&zip, Some(".data"), None).unwrap();
    assert_eq!((greys(&part), part.classes().len()), (vec![(0, 0), (1, 1)], 2));
    assert!(part.place(1).ends_with("x.zip!.data/dog/1.png"));
    let said = error(ImageListing::open(&zip, Some("b"), None)).message;
    assert!(said.ends_with("x.zip holds no folder `b`; its top-level folders are .data, a"), "{said}");
}

/// Somebody wrote each of its names down.
#[test]
fn files_in_a_list_are_read_whatever_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let names =
        [".hidden/._0.png", "Thumbs.db/1.png", "plain.png", "no_extension", ".hidden/other.png", "dataset.json"];
    let labels = json!([[".hidden/._0.png", 2], ["Thumbs.db\\1.png", 0], ["./plain.png", 1], ["no_extension", 1]]);
    let root = folder(&dir.path().join("set"), &names[..5]);
    write(&root.join("no_extension"), &png(3));
    write(&root.join("dataset.json"), json!({ "labels": labels }).to_string().as_bytes());
    let source = open(&root).unwrap();
    assert_eq!(greys(&source), [(0, 2), (1, 0), (3, 1), (2, 1)]);
    assert!(source.to_string().ends_with("left out: 1 hidden"), "{source}");
}

#[test]
fn names_in_archives_are_normalised_first() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let of = |names: &[&str]| archive(&at("x.zip"), names);
    let pets = [(0, 0), (1, 0), (2, 1)];
    for names in [
        ["cat/0.png", "cat/1.png", "dog/2.png"],
        ["./cat/0.png", "./cat/1.png", "./dog/2.png"],
        [r"cat\0.png", r"cat\1.png", r"dog\2.png"],
        [r".\cat\0.png", r".\cat\1.png", r".\dog\2.png"],
        ["cat//0.png", "cat/./1.png", "././dog/2.png"],
    ] {
        let source = open(&of(&names)).unwrap();
        assert_eq!(
            (greys(&source), source.classes()),
            (pets.to_vec(), &["cat".to_string(), "dog".into()][..]),
            "{names:?}"
        );
    }
    // Made by a system that has both separators; elsewhere a backslash is a letter.
    let mixed = of(&[r"cat\0.png", "cat/1.png", r"dog\2.png"]);
    let mut bytes = fs::read(&mixed).unwrap();
    for at in 0..bytes.len() - 4 {
        if bytes[at..].starts_with(b"PK\x01\x02") {
            bytes[at + 5] = 0;
        }
    }
    fs::write(&mixed, bytes).unwrap();
    assert_eq!(greys(&open(&mixed).unwrap()), pets);
    let letters = open(&of(&[r"cat/a\0.png", r"cat/b\0.png", r"dog\s/2.png"])).unwrap();
    assert_eq!(letters.classes(), ["cat", r"dog\s"]);

    for (names, expected) in [
        (["a/0.png", "../x.png"], "x.zip!../x.png: its name leads outside"),
        ([r"a\0.png", r"..\x.png"], r"x.zip!..\x.png: its name leads outside"),
        (["a/0.png", "a/b/../x.png"], "leads outside"),
        (["a/0.png", "/etc/x.png"], "leads outside"),
        ([r"a\0.png", r"\\server\x.png"], "leads outside"),
        ([r"a\0.png", r"C:\x.png"], r"x.zip!C:\x.png: its name leads outside"),
        (["a/0.png", "C:/x.png"], "leads outside"),
        (["a/0.png", "a//0.png"], "two entries have the same name: a/0.png"),
        (["a/0.png", "./a/0.png"], "two entries have the same name: a/0.png"),
        ([r"a\0.png", r".\a\0.png"], "two entries have the same name: a/0.png"),
        (["a/0.png", "a/0.png"], "two entries have the same name: a/0.png"),
    ] {
        let said = error(open(&of(&names))).message;
        assert!(said.contains(expected) && said.contains("x.zip"), "{names:?}: {said}");
    }
}

#[test]
fn a_layout_that_loses_labels_is_refused_with_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let meant: [Meant; 8] = [
        (&["pets/cat/0.png", "pets/dog/1.png"], "pets", vec![(0, 0), (1, 1)]),
        (&["x/pets/cat/0.png", "x/pets/dog/1.png", "x/readme.txt"], "x/pets", vec![(0, 0), (1, 1)]),
        (&["train/cat/0.png", "train/dog/1.png"], "train", vec![(0, 0), (1, 1)]),
        (
            &["pets/cat/0.png", "pets/dog/1.png", "__MACOSX/pets/cat/0.png", "pets/.DS_Store"],
            "pets",
            vec![(0, 0), (1, 1)],
        ),
        (&["pets/cat/0.png", "pets/dog/1.png", "about/logo.png"], "pets", vec![(0, 0), (1, 1)]),
        (&["train/cat/0.png", "train/dog/1.png", "val/cat/2.png"], "train", vec![(0, 0), (1, 1)]),
        (&["test/0.png", "training/1.png"], "training", vec![(1, 0)]),
        (&["images/a.png", "masks/a.png"], "images", vec![(0, 0)]),
    ];
    for (i, (names, folder_meant, labels)) in meant.into_iter().enumerate() {
        let root = folder(&dir.path().join(i.to_string()), names);
        let zip = archive(&dir.path().join(format!("{i}.zip")), names);
        let (of_root, of_zip) = (error(open(&root)), error(open(&zip)));
        let wanted = format!("set `source = \"{}\"` to use", root.join(folder_meant).display());
        assert!(of_root.causes[0].starts_with(&wanted), "{of_root:?}");
        assert!(of_zip.causes[0].starts_with(&format!("set `part = \"{folder_meant}\"` to use")), "{of_zip:?}");
        // What was said can be done.
        assert_eq!(greys(&open(&root.join(folder_meant)).unwrap()), labels, "{names:?}");
        assert_eq!(greys(&ImageListing::open(&zip, Some(folder_meant), None).unwrap()), labels, "{names:?}");
        // Whoever says what the folders are is not asked again.
        let classes = |classes| ImageListing::open_as(&root, None, None, classes).unwrap().classes().to_vec();
        assert_eq!(classes(Classes::One), [""]);
        assert!(classes(Classes::Folders).iter().any(|class| folder_meant.starts_with(class)));
        // A metric has no classes.
        assert_eq!(ImageListing::pictures(&zip).unwrap().len(), ImageListing::pictures(&root).unwrap().len());
    }
    let said = error(open(&folder(&dir.path().join("n"), &["00000/img00000001.png", "00001/img00001000.png"])));
    assert!(said.message.contains("look like chunks of a numbered set") && said.causes[0].contains("dataset.json"));
    let said = error(open(&folder(&dir.path().join("w"), &[r"cat\0.png", r"dog\1.png"])));
    assert!(said.message.contains(r"the file name `cat\0.png` contains a backslash"), "{said:?}");
    let notes = ImageListing::pictures(&dir.path().join("5")).unwrap().notes().join("");
    assert!(notes.ends_with("look like parts of a data set, not like classes; all of them are taken"), "{notes}");
}

#[test]
fn splits_are_refused_whatever_else_is_in_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let splits: [(&[&str], &str); 3] = [
        (&["seg_train/cat/0.png", "seg_train/dog/1.png", "seg_test/cat/2.png"], "seg_train"),
        (&["my_test_set/0.png", "my_train_set/1.png"], "my_train_set"),
        (&["train_hq/0.png", "val_hq/1.png"], "train_hq"),
    ];
    for (names, meant) in splits {
        let root = folder(&dir.path().join(meant), names);
        let said = error(open(&root));
        assert!(said.message.contains("look like parts of a data set, not like classes"), "{said:?}");
        let wanted = format!("set `source = \"{}\"` to use", root.join(meant).display());
        assert!(said.causes[0].starts_with(&wanted), "{said:?}");
    }
    // Splits within classes, and beside masks as MVTec has them.
    for (i, names) in [
        &["cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"][..],
        &["nut/train/good/0.png", "nut/test/cut/1.png", "nut/ground_truth/cut/2.png", "pill/train/good/3.png"],
    ]
    .into_iter()
    .enumerate()
    {
        let root = folder(&dir.path().join(i.to_string()), names);
        let said = error(open(&root));
        assert!(said.message.contains("hold what look like parts of a data set, `train`, `test`"), "{said:?}");
        assert!(said.causes[0].contains("put the parts above the classes"), "{said:?}");
        assert_eq!(ImageListing::open_as(&root, None, None, Classes::Folders).unwrap().classes().len(), 2);
    }
    let stations = open(&folder(&dir.path().join("s"), &["train_station/0.png", "test_tube/1.png"])).unwrap();
    assert_eq!(stations.classes(), ["test_tube", "train_station"]);
}

#[test]
fn masks_beside_their_images_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a/0.png", "a/0_mask.png", "a/1.png", "a/1_mask.png", "b/2.png"];
    let set = open(&folder(&dir.path().join("set"), &names)).unwrap();
    let said = set.warnings().join("\n");
    assert!(said.contains("2 images seem to be masks, such as `a/0_mask.png` of `a/0`"), "{said}");
    let plain = open(&folder(&dir.path().join("plain"), &["a/0.png", "gas_mask/1.png", "b/gas_mask.png"])).unwrap();
    assert_eq!(plain.warnings(), [""; 0]);
}

#[test]
fn files_that_may_hold_the_labels_of_one_class_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["0.png", "1.png", "metadata.csv"], "1 .csv beside them may hold their classes; `labels` names the file"),
        (&["train/0.png", "train/metadata.jsonl"], "1 .jsonl beside them"),
        (&["0.png", "0.cls", "1.png", "1.cls"], "2 .cls beside them"),
        (&["0.png", "0.json", "1.png", "1.json"], "2 .json beside them"),
        (&["img.v0.png", "img.v0.cls"], "1 .cls beside them"),
    ];
    for (i, (names, expected)) in cases.into_iter().enumerate() {
        let root = folder(&dir.path().join(i.to_string()), names);
        let zip = archive(&dir.path().join(format!("{i}.zip")), names);
        for root in [root, zip] {
            let said = open(&root).unwrap().warnings().join("\n");
            assert!(said.contains("all images are of one class") && said.contains(expected), "{names:?}: {said}");
            assert!(said.contains("`labels` names"), "{names:?}: {said}");
            let one = ImageListing::open_as(&root, None, None, Classes::One).unwrap();
            assert_eq!(one.warnings(), [""; 0], "whoever says so is not told");
        }
    }
    // Notes of another kind, and labels that are there.
    for names in [&["0.png", "1.png", "info.json"][..], &["cat/0.png", "dog/1.png", "list.csv"], &["0.png", "0.txt"]] {
        let set = open(&folder(&dir.path().join(names.join("+").replace('/', "-")), names)).unwrap();
        assert_eq!(set.warnings(), [""; 0], "{names:?}");
    }
}

#[test]
fn what_may_hold_images_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["cat/0.png", "dog/1.png", "more.tar.gz", "old.zip", "cat/a.jpg_large", "dog/b.jpg?x=1", "dog/c.png~"];
    let set = open(&folder(&dir.path().join("set"), &names)).unwrap();
    let said = set.warnings().join("\n");
    assert!(said.contains("left out though they may hold images: 1 .zip; ZIP files inside a folder"), "{said}");
    assert!(said.contains("left out though they may hold images: 1 .gz; unpack compressed files first"), "{said}");
    assert!(said.contains("names are like those of images: 1 .jpg?x=1, 1 .jpg_large; rename them"), "{said}");
    let zip = archive(&dir.path().join("x.zip"), &["cat/0.png", "dog/1.png", "dog/inner.zip"]);
    let said = open(&zip).unwrap().warnings().join("\n");
    assert!(said.contains("may hold images: 1 .zip"), "{said}");
    let plain = open(&folder(&dir.path().join("plain"), &["cat/0.png", "dog/1.png", "readme.md", "x.npy"])).unwrap();
    assert_eq!(plain.warnings(), [""; 0]);
}

#[test]
fn a_prepared_set_one_folder_down_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for around in ["images", "prepared256"] {
        let root = dir.path().join(format!("of-{around}"));
        let names = ["00000/img00000000.png", "00000/img00000001.png"].map(|name| format!("{around}/{name}"));
        folder(&root, &[&names[0], &names[1], "vae-sd/00000/x.npy"]);
        write(&root.join(around).join("dataset.json"), br#"{"labels": null}"#);
        let said = error(open(&root));
        assert!(
            said.message.ends_with(&format!("holds a prepared set in its folder `{around}`; name that folder")),
            "{said:?}"
        );
    }
    let zip = archive(&dir.path().join("x.zip"), &["p/0.png", "p/1.png", "p/dataset.json"]);
    let said = error(open(&zip));
    assert!(said.causes[0].starts_with("set `part = \"p\"` to use"), "{said:?}");
}

#[test]
fn images_directly_and_in_folders_are_one_set_for_a_metric() {
    let dir = tempfile::tempdir().unwrap();
    let root = folder(&dir.path().join("set"), &["b/0.png", "c.png", "a/1.png", "b/x/2.png"]);
    let said = error(open(&root));
    assert!(said.message.contains("both directly and in folders") && said.causes[0].contains("classes = \"one\""));
    let all = ImageListing::pictures(&root).unwrap();
    assert_eq!(greys(&all).iter().map(|(grey, _)| *grey).collect::<Vec<_>>(), [1, 2, 0, 3]);
    let one = ImageListing::open_as(&root, None, None, Classes::One).unwrap();
    assert_eq!((one.len(), one.classes()), (4, &[String::new()][..]));
}

#[test]
fn links_are_followed_and_broken_ones_counted() {
    let dir = tempfile::tempdir().unwrap();
    let real = folder(&dir.path().join("real"), &["cat/0.png", "dog/1.png"]);
    let root = dir.path().join("set");
    fs::create_dir(&root).unwrap();
    symlink(real.join("cat"), root.join("cat")).unwrap();
    symlink("../real/dog", root.join("dog")).unwrap();
    symlink("/nowhere/notes.txt", root.join("notes.txt")).unwrap();
    symlink("itself", root.join("itself")).unwrap();
    let source = open(&root).unwrap();
    assert_eq!(greys(&source), [(0, 0), (1, 1)]);
    assert!(source.to_string().ends_with("left out: 2 broken links"), "{source}");
    // One that is an image is an image that cannot be read.
    symlink("/nowhere/2.png", root.join("dog/2.png")).unwrap();
    let source = open(&root).unwrap();
    assert_eq!(source.len(), 3);
    let said = error(source.load(2, &AS_IS)).message;
    assert!(said.contains("dog/2.png: a broken link to `/nowhere/2.png`"), "{said}");
    symlink("..", real.join("cat/up")).unwrap();
    let source = open(&real).unwrap();
    assert!(source.to_string().ends_with("left out: 1 circular link"), "{source}");
}

#[test]
fn a_folder_without_images_says_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let instead = |names: &[&str]| {
        let root = folder(&dir.path().join(names[0].replace('/', "-")), names);
        let said = error(open(&root)).message;
        said.split_once("pbm)").unwrap().1.to_string()
    };
    assert_eq!(instead(&["a/0.avif", "a/1.avif", "b.txt", ".x"]), ", but 2 .avif, 1 .txt, 1 hidden");
    let said = instead(&["data-00000-of-00001.arrow"]);
    assert!(said.contains("`to_parquet` of Hugging Face's `Dataset` writes what is"), "{said}");
    let said = instead(&["a/00000000", "a/00000001"]);
    assert_eq!(said, ", but 2 without extension; images are recognised by their file extensions");
    let picture = png(0);
    let files: [(&str, &[u8], &str); 5] = [
        ("a.tar.gz", b"\x1f\x8b\x08", "it is a gzip file; unpack it first"),
        ("a.png", &picture, "it is an image"),
        ("a.csv", b"a,b\n1,2\n", "it is a text file"),
        ("a.pkl", b"\x80\x04K\x01.", "it is a Python pickle"),
        ("a.bin", &[0, 1, 2, 0xff], "it is of an unknown format"),
    ];
    for (name, bytes, expected) in files {
        write(&dir.path().join(name), bytes);
        let path = dir.path().join(name);
        let said = error(open(&path));
        let message = said.message;
        assert!(
            message.contains("is not a folder, a ZIP or tar file, a Parquet") && message.ends_with(expected),
            "{message}"
        );
        let command = format!("`gunzip --keep {}` unpacks it", path.display());
        assert_eq!(said.causes.iter().any(|hint| hint.ends_with(&command)), name.ends_with(".gz"), "{name}");
    }
}

#[test]
fn the_artifact_records_images_left_out_and_no_other_files() {
    let bench = Bench::new();
    let run = |name: &str, names: &[&str]| {
        let source = folder(&bench.path(name), names);
        let given = json!({"source": source, "resolution": 2, "transform": "none", "on_error": "skip"});
        let out = bench.run(&format!("{name}-out"), &stages::data::images::KIND, &[], given).unwrap();
        (fs::read_to_string(out.join("meta.json")).unwrap(), bench.result(&format!("{name}-out"), "left_out"))
    };
    let plain = run("plain", &["cat/0.png", "dog/1.png"]);
    // What a file manager does to a folder must not void what was made of it.
    assert_eq!(run("junk", &["cat/0.png", "dog/1.png", ".DS_Store", "dog/1.txt", ".git/2.png"]), plain);
    assert_eq!(plain.1, None);
    let source = bench.path("some/cat/broken.png");
    write(&source, b"broken");
    let (meta, left_out) = run("some", &["cat/0.png", "dog/1.png", "dog/2.avif", "dog/3.heic", "dog/4.avif"]);
    let meta: Value = serde_json::from_str(&meta).unwrap();
    assert_eq!((&meta["left_out"], &meta["skipped"]), (&json!({".avif": 2, ".heic": 1}), &json!(1)));
    assert_eq!(left_out, Some(4.0));
}

#[test]
fn the_images_stage_suggests_a_folder_that_it_then_takes() {
    let bench = Bench::new();
    let source = folder(&bench.path("wrapped"), &["pets/cat/0.png", "pets/dog/1.png"]);
    fs::create_dir(source.join("pets/bird")).unwrap();
    let run = |name: &str, source: &Path, more: Value| {
        let mut given = json!({"source": source, "resolution": 2, "transform": "none"});
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run(name, &stages::data::images::KIND, &[], given)
    };
    let said = run("auto", &source, json!({})).unwrap_err();
    let text = "its folder `pets` contains what look like the classes, `cat`, `dog`";
    assert_eq!(said.message, format!("{}: {text}", source.display()));
    assert_eq!(said.hints[0], format!("set `source = \"{}\"` to use that folder", source.join("pets").display()));
    assert!(said.hints[1].starts_with("set `classes = \"one\"` to put all images in one class"), "{said:?}");
    let classes = |out: PathBuf| Packed::open(&out).unwrap().meta()["classes"].clone();
    assert_eq!(classes(run("meant", &source.join("pets"), json!({})).unwrap()), json!(["cat", "dog"]));
    assert!(bench.said("meant").contains("`bird` hold no images, so they are not classes"), "{}", bench.said("meant"));
    assert_eq!(classes(run("folders", &source, json!({"classes": "folders"})).unwrap()), json!(["pets"]));
    assert_eq!(classes(run("one", &source, json!({"classes": "one"})).unwrap()), json!([""]));
}

/// The runner reads a source before a stage does.
#[test]
fn a_broken_link_stops_only_runs_that_need_it() {
    let space = Space::of(&[]);
    folder(&space.path("set"), &["cat/0.png", "dog/1.png"]);
    symlink("/nowhere/notes.txt", space.path("set/notes.txt")).unwrap();
    let pipeline = |more: &str| {
        let params = format!("source = \"set\", resolution = 2, transform = \"none\"{more}");
        space.write("p.toml", &format!("[stages.images]\nkind = \"images\"\nparams = {{ {params} }}\n"));
    };
    pipeline("");
    let said = space.erw(&["run", "p.toml", "--plain"]).expect(0);
    assert!(said.stderr.contains("left out: 1 broken link"), "{}", said.stderr);
    symlink("/nowhere/2.png", space.path("set/dog/2.png")).unwrap();
    let said = space.erw(&["run", "p.toml", "--plain"]).expect(1);
    assert!(said.stderr.contains("dog/2.png: a broken link to `/nowhere/2.png`"), "{}", said.stderr);
    pipeline(", on_error = \"skip\"");
    let said = space.erw(&["run", "p.toml", "--plain"]).expect(0);
    assert!(said.stderr.contains("not in the set though they may be images: 1 unreadable"), "{}", said.stderr);
    // Where it leads is what it is.
    assert!(space.plan(&[]).contains("cached"), "{}", space.plan(&[]));
    fs::remove_file(space.path("set/dog/2.png")).unwrap();
    symlink("/elsewhere/2.png", space.path("set/dog/2.png")).unwrap();
    assert!(!space.plan(&[]).contains("cached"), "{}", space.plan(&[]));
}
