//! Image sets of every layout are listed and read, every format as Pillow reads it; damaged and
//! hostile files are named.

use crate::support::grey_images::{error, open};
use candle_core::{Device, Result, Tensor};
use erw::ml::data::decode::decode;
use erw::ml::data::decode::extras::Extras;
use erw::ml::data::decode::orientation::Orientation;
use erw::ml::data::rgb::Rgb;
use erw::ml::data::source::label_list::LabelList;
use erw::ml::data::source::{ImageListing, Preparation, Split};
use erw::ml::data::transform::Transform;
use erw::ml::nn::params;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const AS_IS: Preparation = Preparation { orientation: Orientation::Ignore, transform: Transform::None, size: 4 };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

/// A picture of 4 x 4 in one colour, told apart by `n`.
fn picture(n: u8) -> Rgb {
    Rgb::filled(4, 4, [n, 255 - n, 7])
}

fn png(n: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    let image = image::RgbImage::from_raw(4, 4, picture(n).data).unwrap();
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Files of a set by name; images show the number that stands for them.
fn tree() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("dog/2.png", png(3)),
        ("cat/deep/1.png", png(1)),
        ("cat/0.png", png(0)),
        ("dog/notes.txt", b"woof".to_vec()),
        ("dog/.hidden.png", b"no".to_vec()),
    ]
}

/// REPA's layout: names in order, labels in a list.
fn prepared(labels: &serde_json::Value) -> Vec<(&'static str, Vec<u8>)> {
    let list = json!({ "labels": labels }).to_string().into_bytes();
    vec![
        ("00001/img00000002.png", png(2)),
        ("00000/img00000000.png", png(0)),
        ("00000/img00000001.png", png(1)),
        ("dataset.json", list),
    ]
}

fn list() -> serde_json::Value {
    json!([["00000/img00000000.png", 5], ["00000/img00000001.png", 0], ["00001\\img00000002.png", 5]])
}

fn folder(dir: &TempDir, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let root = dir.path().join("set");
    for (name, bytes) in files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), bytes).unwrap();
    }
    root
}

fn zipped(files: &[(&str, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in files {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn archive(dir: &TempDir, files: &[(&str, Vec<u8>)], method: CompressionMethod) -> PathBuf {
    let path = dir.path().join("set.zip");
    fs::write(&path, zipped(files, method)).unwrap();
    path
}

/// Number and label of every image, in order.
fn contents(source: &ImageListing) -> Vec<(u8, i64)> {
    let number = |i: usize| {
        let image = source.load(i, &AS_IS).unwrap().0;
        assert_eq!(image, picture(image.data[0]));
        image.data[0]
    };
    (0..source.len()).map(|i| (number(i), source.label(i))).collect()
}

#[test]
fn a_folder_and_a_zip_of_it_are_equal() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let other = tempfile::tempdir()?;
    let roots = [
        folder(&dir, &tree()),
        archive(&dir, &tree(), CompressionMethod::Stored),
        archive(&other, &tree(), CompressionMethod::Deflated),
    ];
    for root in &roots {
        let source = open(root)?;
        assert_eq!(source.classes(), ["cat", "dog"], "{}", root.display());
        assert_eq!(contents(&source), [(0, 0), (1, 0), (3, 1)]);
        assert!(source.to_string().ends_with("3 images of 2 classes; left out: 1 .txt, 1 hidden"), "{source}");
    }
    assert!(open(&roots[1])?.place(1).ends_with("set.zip!cat/deep/1.png"));
    Ok(())
}

#[test]
fn folders_are_listed_in_order_and_split_by_class() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let files: Vec<(String, Vec<u8>)> = [("b", 5u8), ("a", 10), ("a-b", 1)]
        .into_iter()
        .flat_map(|(class, n)| (0..n).map(move |i| (class, i)))
        .map(|(class, i)| (format!("{class}/{}{i}.png", if i % 2 == 0 { "deep/" } else { "" }), png(i)))
        .collect();
    let root = folder(&dir, &files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>());
    assert_eq!(open(&root)?.classes(), ["a", "a-b", "b"]);
    let (all, train, held) = (
        contents(&open(&root)?),
        contents(&open(&root)?.split(Split::Train, 5)),
        contents(&open(&root)?.split(Split::Holdout, 5)),
    );
    let by_path = [1, 3, 5, 7, 9, 0, 2, 4, 6, 8].map(|n| (n, 0)).into_iter().chain([(0, 1)]);
    assert_eq!(all, by_path.chain([1, 3, 0, 2, 4].map(|n| (n, 2))).collect::<Vec<_>>());
    assert_eq!(held, [(9, 0), (8, 0), (4, 2)]);
    let mut both = [train, held].concat();
    let mut want = all;
    both.sort_unstable();
    want.sort_unstable();
    assert_eq!(both, want);
    Ok(())
}

#[test]
fn sources_that_are_not_image_sets_are_errors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    assert!(error(open(root)).contains("holds no images"));
    fs::write(root.join("readme.md"), "x")?;
    assert!(error(open(root)).contains("but 1 .md"));
    assert!(error(open(&root.join("readme.md"))).contains("not a folder, a ZIP or tar file, a Parquet table or IDX"));
    assert!(error(open(&root.join("nowhere"))).contains("nowhere"));
    let both = folder(&dir, &[("cats/0.png", png(0)), ("0.png", png(1))]);
    assert!(error(open(&both)).contains("both directly and in folders"));
    Ok(())
}

#[test]
fn a_prepared_set_reads_labels_from_dataset_json() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let by_name = json!({"00000/img00000000.png": 5, "00000/img00000001.png": 0, "00001/img00000002.png": 5});
    for (labels, expected) in [
        (list(), [(0, 5), (1, 0), (2, 5)]),
        (by_name, [(0, 5), (1, 0), (2, 5)]),
        (json!(null), [(0, 0), (1, 0), (2, 0)]),
    ] {
        let files = prepared(&labels);
        for root in [folder(&dir, &files), archive(&dir, &files, CompressionMethod::Deflated)] {
            let source = open(&root)?;
            assert_eq!(contents(&source), expected, "{labels}");
            assert_eq!(source.classes().len(), if labels.is_null() { 1 } else { 6 });
        }
    }
    // The folder around it is not the set.
    let around = dir.path().join("around");
    fs::create_dir(&around)?;
    fs::rename(dir.path().join("set"), around.join("images"))?;
    assert!(error(open(&around)).contains("in its folder `images`"));
    Ok(())
}

#[test]
fn a_label_list_that_does_not_fit_its_files_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let label = |label: serde_json::Value| json!([["00000/img00000000.png", label]]);
    let mut absent = list();
    absent[0][0] = json!("00000/img00000009.png");
    let cases = [
        (absent, "lists missing files (1 file): 00000/img00000009.png"),
        (json!([["00000/img00000000.png", 5]]), "has no label for 2 files: 00000/img00000001.png, 00001/img"),
        (label(json!(-1)), "label -1 of `00000/img00000000.png`"),
        (label(json!(1.5)), "label 1.5 of"),
        (label(json!("x")), "label \"x\" of"),
        (label(json!([0.0, 1.0])), "label [0.0,1.0] of"),
        (label(json!(1u64 << 40)), "label 1099511627776 of"),
        (json!([["a.png", 1], ["a.png", 1]]), "`a.png` is listed twice"),
        (json!([["../a.png", 1]]), "`../a.png` leads out"),
        (json!([["/etc/a.png", 1]]), "`/etc/a.png` leads out"),
        (json!([["a.png"]]), "`[\"a.png\"]` is not a pair"),
        (json!(7), "no list `labels`"),
    ];
    for (labels, expected) in cases {
        for root in [folder(&dir, &prepared(&labels)), archive(&dir, &prepared(&labels), CompressionMethod::Stored)] {
            let text = error(open(&root));
            assert!(text.contains(expected) && text.contains("dataset.json"), "{text}");
        }
    }
    fs::write(dir.path().join("set/dataset.json"), "{\"labels\": [[\"a.png\", NaN]]}")?;
    assert!(error(open(&dir.path().join("set"))).contains("dataset.json: not JSON"));
    Ok(())
}

#[test]
fn damaged_and_hostile_archives_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("set.zip");
    let whole = zipped(&tree(), CompressionMethod::Stored);
    for keep in [0, 3, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep])?;
        assert!(error(open(&path)).contains("set.zip"), "{keep}");
    }
    for (name, expected) in [("../x.png", "leads out"), ("/x.png", "leads out"), ("a/../../x.png", "leads out")] {
        let text = error(open(&archive(&dir, &[(name, png(1))], CompressionMethod::Stored)));
        assert!(text.contains(expected) && text.contains("set.zip!"), "{name}: {text}");
    }
    assert!(error(open(&archive(&dir, &[("a.txt", vec![])], CompressionMethod::Stored))).contains("holds no images"));

    // Two entries of one name: the second name is written over.
    let mut twice = zipped(&[("cat/a.png", png(1)), ("cat/b.png", png(2))], CompressionMethod::Stored);
    let at: Vec<usize> = (0..twice.len() - 9).filter(|i| &twice[*i..*i + 9] == b"cat/b.png").collect();
    at.iter().for_each(|i| twice[*i + 4] = b'a');
    fs::write(&path, twice)?;
    assert!(error(open(&path)).contains("two entries have the same name"));

    // A changed byte of an image; a size that is a lie, in the directory at the end.
    let stored = zipped(&[("cat/a.png", png(1))], CompressionMethod::Stored);
    let start = stored.windows(4).position(|w| w == b"IDAT").unwrap();
    let directory = stored.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let damage = |at: usize, value: u8, of: &[u8]| {
        let mut bytes = of.to_vec();
        bytes[at] = value;
        fs::write(&path, bytes).unwrap();
        error(open(&path).and_then(|s| s.load(0, &AS_IS)))
    };
    let text = damage(start + 6, 0xaa, &stored);
    assert!(text.contains("set.zip!cat/a.png: does not match its checksum"), "{text}");
    let deflated = zipped(&[("cat/a.png", vec![0; 100_000])], CompressionMethod::Deflated);
    let entry = deflated.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let text = damage(entry + 26, 0, &deflated);
    assert!(text.contains("holds more bytes than the"), "{text}");
    let text = damage(entry + 27, 0xff, &deflated);
    assert!(text.contains("more than the") || text.contains("fewer bytes"), "{text}");
    let text = damage(directory + 10, 93, &stored);
    assert!(text.contains("cat/a.png") && text.contains("compressed"), "{text}");
    Ok(())
}

#[test]
fn joined_zips_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("set.zip");
    let of = |name: &str, n: u8| zipped(&[(name, png(n))], CompressionMethod::Stored);
    fs::write(&path, [of("cat/0.png", 0), of("dog/1.png", 1)].concat())?;
    let said = error(open(&path));
    assert!(said.contains("another ZIP lies before its entries, as if archives had been joined"), "{said}");
    assert!(said.contains("name one of the archives"), "{said}");
    fs::write(&path, of("cat/0.png", 0))?;
    assert_eq!(contents(&open(&path)?), [(0, 0)]);
    Ok(())
}

/// An IDX file of these sizes.
fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let sizes_be = sizes.iter().flat_map(|s| s.to_be_bytes());
    [0, 0, 8, sizes.len() as u8].into_iter().chain(sizes_be).chain(data.iter().copied()).collect()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// Three images of 2 x 3: 0..6, 6..12, 12..18, of classes 2, 0, 1.
fn three() -> [Vec<u8>; 2] {
    [idx(&[3, 2, 3], &(0..18).collect::<Vec<u8>>()), idx(&[3], &[2, 0, 1])]
}

#[test]
fn idx_pairs_are_found_by_name_and_padded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let [images, labels] = three();
    fs::write(root.join("train-images-idx3-ubyte"), &images)?;
    fs::write(root.join("train-labels-idx1-ubyte.gz"), gzipped(&labels))?;
    let how = Preparation { transform: Transform::Pad, ..AS_IS };
    let check = |source: ImageListing| -> Result<()> {
        assert_eq!(source.classes(), ["0", "1", "2"]);
        assert_eq!((0..3).map(|i| source.label(i)).collect::<Vec<_>>(), [2, 0, 1]);
        let image = source.load(1, &how)?.0;
        let grey: Vec<u8> = image
            .data
            .chunks(3)
            .map(|p| {
                assert!(p == [p[0]; 3]);
                p[0]
            })
            .collect();
        assert_eq!(grey, [0, 0, 0, 0, 6, 7, 8, 0, 9, 10, 11, 0, 0, 0, 0, 0]);
        Ok(())
    };
    check(open(root)?)?;
    check(ImageListing::open(root, Some("train"), None)?)?;
    // The file itself, its labels named because nothing else is looked at.
    let (file, its) = (root.join("train-images-idx3-ubyte"), root.join("train-labels-idx1-ubyte.gz"));
    check(ImageListing::open(&file, None, Some(&its))?)?;
    assert!(error(open(&file)).contains("give its label file"));
    assert!(
        error(ImageListing::open(root, Some("t10k"), None))
            .contains("no IDX files of part `t10k`; its parts are train")
    );
    assert!(error(ImageListing::open(&file, Some("train"), Some(&its))).contains("no `part`"));

    fs::write(root.join("t10k-images-idx3-ubyte.gz"), gzipped(&images))?;
    assert!(error(ImageListing::open(root, Some("t10k"), None)).contains("t10k-labels-idx1-ubyte[.gz] is missing"));
    fs::write(root.join("t10k-labels-idx1-ubyte"), &labels)?;
    assert!(error(open(root)).contains("choose one with `part`: t10k, train"));
    check(ImageListing::open(root, Some("t10k"), None)?)?;
    let tree = folder(&dir, &tree());
    assert!(error(ImageListing::open(&tree, Some("train"), None)).contains("which has no `part`"));
    assert!(error(ImageListing::open(&tree, None, Some(&its))).contains("not a CSV file of labels"));
    Ok(())
}

#[test]
fn images_beside_idx_files_are_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = folder(&dir, &tree());
    let [images, labels] = three();
    fs::write(root.join("train-images-idx3-ubyte"), &images)?;
    fs::write(root.join("train-labels-idx1-ubyte"), &labels)?;
    let set = open(&root)?;
    let said = set.warnings().join("\n");
    assert!(
        said.contains("its IDX files are the set, and 3 images beside them are not part of it: cat/0.png"),
        "{said}"
    );
    assert_eq!(set.len(), 3);
    Ok(())
}

#[test]
fn damaged_idx_files_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let [images, labels] = three();
    let huge = [idx(&[u32::MAX, u32::MAX, u32::MAX], &[1, 2]), labels.clone()];
    let cases: Vec<([Vec<u8>; 2], &str)> = vec![
        ([images[..20].to_vec(), labels.clone()], "truncated: it has 4 of the 18 bytes"),
        ([[&images[..], &[0]].concat(), labels.clone()], "19 bytes do not match"),
        ([images[..10].to_vec(), labels.clone()], "not an IDX file of images"),
        ([labels.clone(), labels.clone()], "not an IDX file of images"),
        ([images.clone(), images.clone()], "not an IDX file of labels"),
        ([images.clone(), idx(&[4], &[0; 4])], "holds 3 images"),
        ([idx(&[0, 2, 3], &[]), idx(&[0], &[])], "0 images of 2 x 3"),
        ([idx(&[3, 0, 3], &[]), labels.clone()], "3 images of 0 x 3"),
        (huge, "shape"),
        ([vec![], labels.clone()], "not an IDX file of images"),
    ];
    for (i, (files, expected)) in cases.into_iter().enumerate() {
        for gz in [false, true] {
            let root = dir.path().join(format!("{i}{gz}"));
            fs::create_dir(&root)?;
            let [images, labels] = if gz { files.clone().map(|f| gzipped(&f)) } else { files.clone() };
            fs::write(root.join("train-images-idx3-ubyte"), images)?;
            fs::write(root.join("train-labels-idx1-ubyte"), labels)?;
            let text = error(open(&root));
            assert!(text.contains(expected) && text.contains("-ubyte"), "{gz}: {text}");
        }
    }
    let root = dir.path().join("torn");
    fs::create_dir(&root)?;
    let gz = gzipped(&images);
    fs::write(root.join("train-images-idx3-ubyte.gz"), &gz[..gz.len() - 12])?;
    fs::write(root.join("train-labels-idx1-ubyte"), &labels)?;
    assert!(error(open(&root)).contains("train-images-idx3-ubyte.gz: truncated"));
    Ok(())
}

#[test]
fn a_part_and_the_first_of_each_class_can_be_taken() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let labels: Vec<u8> = (0..20).map(|i| i % 2).collect();
    fs::write(dir.path().join("images-idx3-ubyte"), idx(&[20, 1, 1], &(0..20).collect::<Vec<u8>>()))?;
    fs::write(dir.path().join("labels-idx1-ubyte"), idx(&[20], &labels))?;
    let taken = |split: Split, limit: usize| -> Result<Vec<u8>> {
        let source = open(dir.path())?.split(split, 5).limit(limit);
        let how = Preparation { size: 1, ..AS_IS };
        (0..source.len()).map(|i| Ok(source.load(i, &how)?.0.data[0])).collect()
    };
    assert_eq!(taken(Split::Holdout, 9)?, [8, 9, 18, 19]);
    assert_eq!(taken(Split::Train, 5)?, [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]);
    assert_eq!(taken(Split::All, 1)?, [0, 1]);
    Ok(())
}

/// How far an image is from what Pillow makes of it: `None` if sides differ, else the largest
/// difference.
fn off(image: &Rgb, pixels: &Tensor) -> Result<Option<u8>> {
    if [image.height, image.width, 3] != pixels.dims() {
        return Ok(None);
    }
    let expected: Vec<u8> = pixels.flatten_all()?.to_vec1()?;
    Ok(image.data.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max())
}

/// Files and what Pillow makes of them: tests/golden/images/make.py.
#[test]
fn every_format_is_read_as_pillow_reads_it() -> Result<()> {
    let golden = params::load(&fixtures().join("pillow.safetensors"), &Device::Cpu)?;
    for (name, pixels) in &golden {
        let (file, orientation) = match name.strip_prefix("upright/") {
            Some(file) => (file, Orientation::Apply),
            None => (name.as_str(), Orientation::Ignore),
        };
        let image = decode(&fs::read(fixtures().join(file))?, orientation)?.0;
        assert_eq!(off(&image, pixels)?, Some(0), "{name}");
    }
    assert_eq!(golden.len(), 39);
    Ok(())
}

#[test]
fn orientation_and_transparency_are_told_from_headers() -> Result<()> {
    let of = |name: &str| -> Result<(bool, bool)> {
        let Extras { turned, alpha } = Extras::of(&fs::read(fixtures().join(name))?);
        Ok((turned, alpha))
    };
    for name in ["turned-2.jpg", "turned-6.jpg", "turned-8.jpg", "turned-6.png", "turned-6.webp"] {
        assert_eq!(of(name)?, (true, false), "{name}");
    }
    for name in ["turned-1.jpg", "full.jpg", "progressive.jpg", "rgb16.png", "palette.png", "lossy.webp", "full.bmp"] {
        assert_eq!(of(name)?, (false, false), "{name}");
    }
    for name in ["alpha.png", "grey-alpha.png", "palette-clear.png"] {
        assert_eq!(of(name)?, (false, true), "{name}");
    }
    // Whatever is cut off, there is an answer.
    for name in ["turned-6.jpg", "turned-6.png", "turned-6.webp", "palette-clear.png", "lossless.webp"] {
        let whole = fs::read(fixtures().join(name))?;
        for end in 0..whole.len() {
            let _ = Extras::of(&whole[..end]);
        }
    }
    Ok(())
}

/// The files in `odd.safetensors` (tests/golden/images/odd.py) whose names begin with `prefix`,
/// which they lose.
fn odd_files(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let all = params::load(&fixtures().join("odd.safetensors"), &Device::Cpu).unwrap();
    let named = all.into_iter().filter_map(|(name, bytes)| Some((name.strip_prefix(prefix)?.to_string(), bytes)));
    let whole = named.filter(|(name, _)| !name.contains('/'));
    let mut files: Vec<_> = whole.map(|(name, bytes)| (name, bytes.to_vec1::<u8>().unwrap())).collect();
    files.sort();
    files
}

#[test]
fn unusual_files_are_read_as_pillow_reads_them() -> Result<()> {
    let golden = params::load(&fixtures().join("odd.safetensors"), &Device::Cpu)?;
    let (mut beyond, files) = (vec![], odd_files(""));
    for (name, bytes) in &files {
        let read = decode(bytes, Orientation::Ignore);
        match read.map(|(image, _)| off(&image, &golden[&format!("pixels/{name}")])) {
            Ok(Ok(Some(0))) => {}
            other => beyond.push(format!("{name}: {other:?}")),
        }
    }
    assert!(files.len() == 324 && beyond.is_empty(), "{} of {}:\n{}", beyond.len(), files.len(), beyond.join("\n"));
    Ok(())
}

/// Places of the directory's number of entries and of each entry's count, with their widths.
fn counts_of_tiff(file: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize, bytes: usize| {
        let digits = file[at..at + bytes].iter().rev();
        digits.fold(0usize, |n, byte| n << 8 | usize::from(*byte))
    };
    let is_big = number(2, 2) == 43;
    let (start, of_entries, size, of_count) = if is_big { (number(8, 8), 8, 20, 8) } else { (number(4, 4), 2, 12, 4) };
    let entries = (0..number(start, of_entries)).map(|n| (start + of_entries + n * size + 4, of_count));
    [(start, of_entries)].into_iter().chain(entries).collect()
}

/// Little-endian ones: every count in turn says that there is far more than the file holds.
#[test]
fn numbers_that_a_tiff_only_claims_cost_nothing() {
    let (done, read) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut tiffs = odd_files("");
        tiffs.retain(|(name, bytes)| name.ends_with(".tif") && bytes.starts_with(b"II"));
        for (_, bytes) in &tiffs {
            for (at, width) in counts_of_tiff(bytes) {
                for byte in [0x0f, 0x7f, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[at + width - 1] = byte;
                    let _ = decode(&bytes, Orientation::Ignore);
                }
            }
        }
        done.send(tiffs.len())
    });
    let read = read.recv_timeout(std::time::Duration::from_secs(60));
    assert!(read.is_ok_and(|files| files > 50), "a panic, or a file that is read for ever");
}

#[test]
fn unsupported_files_say_why() {
    let said: Vec<String> = odd_files("refused/")
        .into_iter()
        .map(|(name, bytes)| (name, error(decode(&bytes, Orientation::Apply))))
        // Errors bring their backtrace where one is asked for.
        .map(|(name, error)| format!("{name}: {}", error.lines().next().unwrap_or_default()))
        .collect();
    insta::assert_snapshot!(said.join("\n"));
}

/// What the fixtures do not show: the format is told from the contents, and deep grey is scaled,
/// which Pillow's `I;16` is not.
#[test]
fn formats_are_detected_by_contents_and_16_bit_grey_is_scaled() -> Result<()> {
    type Grey16 = image::ImageBuffer<image::Luma<u16>, Vec<u16>>;
    let dir = tempfile::tempdir()?;
    let root = folder(&dir, &[("png.jpg", png(5))]);
    assert_eq!(contents(&open(&root)?), [(5, 0)]);
    let mut deep = Cursor::new(vec![]);
    let grey = Grey16::from_pixel(2, 2, image::Luma([0x8080]));
    grey.write_to(&mut deep, image::ImageFormat::Png).map_err(candle_core::Error::wrap)?;
    assert_eq!(decode(deep.get_ref(), Orientation::Ignore)?.0, Rgb::filled(2, 2, [0x80; 3]));
    Ok(())
}

#[test]
fn images_cut_short_are_errors_at_any_length() -> Result<()> {
    let noise = |i: usize| (i * i * 31 % 251) as u8;
    let noisy = image::RgbImage::from_raw(64, 64, (0..64 * 64 * 3).map(noise).collect()).unwrap();
    let encoded = |format: image::ImageFormat| {
        let mut bytes = Cursor::new(vec![]);
        noisy.write_to(&mut bytes, format).unwrap();
        (format!("{format:?}"), bytes.into_inner())
    };
    let mut files: Vec<_> =
        [image::ImageFormat::Png, image::ImageFormat::WebP, image::ImageFormat::Bmp].map(encoded).into();
    let others = ["33x31-0-plain.jpg", "33x31-2-progressive.jpg", "plain.gif", "RGB-tiff_lzw.tif", "bytes-255.ppm"];
    files.extend(odd_files("").into_iter().filter(|(name, _)| others.contains(&name.as_str())));
    assert_eq!(files.len(), 8);
    for (name, bytes) in files {
        assert!(decode(&bytes, Orientation::Ignore).is_ok());
        for keep in [0, 1, 10, bytes.len() / 2, bytes.len() * 9 / 10] {
            let text = error(decode(&bytes[..keep], Orientation::Ignore));
            assert!(text.contains("not a readable image"), "{name} {keep}: {text}");
        }
    }
    Ok(())
}

#[test]
fn transforms_make_images_of_one_size() -> Result<()> {
    let image = Rgb::filled(8, 6, [9; 3]);
    assert!(error(Transform::None.apply(&image, 8)).contains("8 x 6 pixels"));
    // Smaller and larger.
    for (transform, sizes) in
        [(Transform::CenterCropDhariwal, [6, 32]), (Transform::ResizeBicubic, [5, 32]), (Transform::Pad, [8, 9])]
    {
        for size in sizes {
            let fit = transform.apply(&image, size)?;
            assert_eq!((fit.height, fit.width, fit.data.len()), (size, size, size * size * 3));
        }
    }
    Ok(())
}

#[test]
fn images_without_pixels_or_with_too_many_are_refused_by_their_headers() -> Result<()> {
    let sized = |mut bytes: Vec<u8>, at: usize, sides: &[u8]| {
        bytes[at..at + sides.len()].copy_from_slice(sides);
        bytes
    };
    let bmp = fs::read(fixtures().join("full.bmp"))?;
    let bmp_sides = |w: i32, h: i32| sized(bmp.clone(), 18, &[w.to_le_bytes(), h.to_le_bytes()].concat());
    // A PNG's header has a checksum.
    let png_sides = |w: u32, h: u32| {
        let mut bytes = sized(png(1), 16, &[w.to_be_bytes(), h.to_be_bytes()].concat());
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        bytes
    };
    let jpeg = fs::read(fixtures().join("full.jpg"))?;
    let sof = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    for bytes in [bmp_sides(0, 24), bmp_sides(40, 0), png_sides(0, 4), sized(jpeg.clone(), sof + 5, &[0; 4])] {
        error(decode(&bytes, Orientation::Ignore));
    }
    let many = [png_sides(100_000, 100_000), bmp_sides(100_000, 100_000), sized(jpeg, sof + 5, &[0xf0; 4])];
    for bytes in many {
        let text = error(decode(&bytes, Orientation::Apply));
        assert!(text.contains("more than") || text.contains("imit") || text.contains("too large"), "{text}");
    }
    let thin = Rgb::filled(1, 100_000, [0; 3]);
    assert!(error(Transform::CenterCropDhariwal.apply(&thin, 256)).contains("too elongated"));
    assert!(error(Transform::Pad.apply(&thin, 256)).contains("does not fit"));
    Ok(())
}

/// A valid file with some bytes written over, cut out or put in.
fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..4u8, prop::collection::vec(any::<u8>(), 1..5));
    (prop::sample::select(valid), prop::collection::vec(edit, 1..6)).prop_map(|(mut bytes, edits)| {
        for (place, how, new) in edits {
            let at = place.index(bytes.len().max(1)).min(bytes.len());
            let end = (at + new.len()).min(bytes.len());
            match how {
                0 => drop(bytes.splice(at..at, new)),
                1 => drop(bytes.drain(at..end)),
                2 => bytes.truncate(at.max(8)),
                _ => drop(bytes.splice(at..end, new)),
            }
        }
        bytes
    })
}

fn image_files() -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> = fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| ["jpg", "png", "webp", "bmp"].contains(&f.extension().unwrap().to_str().unwrap()));
    files.sort();
    let odd = odd_files("").into_iter().filter(|(_, bytes)| bytes.len() < 10_000).map(|(_, bytes)| bytes);
    files.iter().map(|f| fs::read(f).unwrap()).chain(odd).collect()
}

// Whatever the bytes are, the answer is an image or an error; `PROPTEST_CASES` asks for more of
// them.
proptest! {
    #[test]
    fn random_image_files_do_not_panic(bytes in mutated(image_files())) {
        if let Ok((image, _)) = decode(&bytes, Orientation::Apply) {
            prop_assert_eq!(image.data.len(), image.height * image.width * 3);
        }
    }

    #[test]
    fn random_archives_do_not_panic(bytes in mutated(vec![
        zipped(&tree(), CompressionMethod::Stored),
        zipped(&prepared(&list()), CompressionMethod::Deflated),
    ])) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.zip");
        fs::write(&path, bytes).unwrap();
        if let Ok(source) = open(&path) {
            (0..source.len()).for_each(|i| drop(source.load(i, &AS_IS)));
        }
    }

    #[test]
    fn random_idx_files_do_not_panic(
        images in mutated(vec![three()[0].clone(), gzipped(&three()[0])]),
        labels in mutated(vec![three()[1].clone(), gzipped(&three()[1])]),
        which in 0..3,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let [good_images, good_labels] = three();
        fs::write(dir.path().join("images-idx3-ubyte"), if which == 0 { good_images } else { images }).unwrap();
        fs::write(dir.path().join("labels-idx1-ubyte"), if which == 1 { good_labels } else { labels }).unwrap();
        if let Ok(source) = open(dir.path()) {
            (0..source.len()).for_each(|i| drop(source.load(i, &AS_IS)));
        }
    }

    #[test]
    fn random_label_lists_do_not_panic(text in mutated(vec![prepared(&list())[3].1.clone()])) {
        if let Ok(list) = LabelList::parse("", &text) {
            (0..list.len()).map(|at| list.get(at)).for_each(|(name, label)| assert!(label >= 0 && name != Path::new("")));
        }
    }
}
