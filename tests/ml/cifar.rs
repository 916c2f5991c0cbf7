//! CIFAR-10 in its binary and its Python version is one set; damaged batches are named.

use crate::support::grey_images::error;
use candle_core::Result;
use erw::ml::data::decode::orientation::Orientation;
use erw::ml::data::source::layout::Classes;
use erw::ml::data::source::{ImageListing, Preparation};
use erw::ml::data::transform::Transform;
use std::fs;
use std::path::Path;

const PLANE: usize = 32 * 32;
const AS_IS: Preparation = Preparation { orientation: Orientation::Ignore, transform: Transform::None, size: 32 };

/// An image told by `n`: its planes are of one value each, but for the second pixel.
fn planes(n: u8) -> Vec<u8> {
    let mut planes = [vec![n; PLANE], vec![n + 1; PLANE], vec![n + 2; PLANE]].concat();
    planes[1] = 200;
    planes
}

/// A batch of images and labels in the binary version.
fn binary(images: &[(u8, u8)]) -> Vec<u8> {
    images.iter().flat_map(|(n, label)| [vec![*label], planes(*n)].concat()).collect()
}

/// The same as Python 2 pickled it: protocol 2, texts of bytes, an array that is reconstructed.
fn pickled(images: &[(u8, u8)]) -> Vec<u8> {
    let pixels: Vec<u8> = images.iter().flat_map(|(n, _)| planes(*n)).collect();
    let short = |text: &str| [&[b'U', text.len() as u8][..], text.as_bytes()].concat();
    let long = |bytes: &[u8]| [&[b'T'][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let int = |n: usize| [&[b'J'][..], &(n as u32).to_le_bytes()].concat();
    let labels: Vec<u8> = images.iter().flat_map(|(_, label)| [b'K', *label]).collect();
    let reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85";
    let dtype = [b"cnumpy\ndtype\n(".to_vec(), short("u1"), b"K\0K\x01tR".to_vec()].concat();
    let state =
        [b"(K\x01".to_vec(), int(images.len()), int(3 * PLANE), b"\x86".to_vec(), dtype, b"\x89".to_vec()].concat();
    let array = [reconstruct.to_vec(), short("b"), b"tR".to_vec(), state, long(&pixels), b"tb".to_vec()].concat();
    let list = [b"](".to_vec(), labels, b"e".to_vec()].concat();
    let entries = [short("batch_label"), short("a batch"), short("labels"), list, short("data"), array].concat();
    [b"\x80\x02}(".to_vec(), entries, b"u.".to_vec()].concat()
}

fn names(names: &[&str]) -> Vec<u8> {
    let texts: Vec<u8> = names.iter().flat_map(|n| [&[b'U', n.len() as u8][..], n.as_bytes()].concat()).collect();
    [&b"\x80\x02}U\x0blabel_names]("[..], &texts, b"es."].concat()
}

fn write(root: &Path, files: &[(&str, Vec<u8>)]) {
    fs::create_dir_all(root).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(root.join(name), bytes).unwrap());
}

#[test]
fn both_versions_are_one_set() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (one, two, test) = (&[(10, 1), (20, 0)][..], &[(30, 2)][..], &[(40, 1)][..]);
    let (bin, py) = (dir.path().join("bin"), dir.path().join("py"));
    let of = |form: fn(&[(u8, u8)]) -> Vec<u8>| [form(two), form(one), form(test)];
    let [a, b, c] = of(binary);
    let texts = b"airplane\nautomobile\nbird\n\n".to_vec();
    write(
        &bin,
        &[("data_batch_2.bin", a), ("data_batch_1.bin", b), ("test_batch.bin", c), ("batches.meta.txt", texts)],
    );
    let [a, b, c] = of(pickled);
    let texts = names(&["airplane", "automobile", "bird"]);
    write(&py, &[("data_batch_2", a), ("data_batch_1", b), ("test_batch", c), ("batches.meta", texts)]);
    for (root, end) in [(&bin, ".bin"), (&py, "")] {
        let said = error(ImageListing::open(root, None, None));
        assert!(said.contains("CIFAR batches of several parts; choose one with `part`: test, train"), "{said}");
        assert!(error(ImageListing::open(root, Some("val"), None)).contains("its parts are test, train"));
        let train = ImageListing::open(root, Some("train"), None)?;
        assert_eq!(train.classes(), ["airplane", "automobile", "bird"]);
        assert_eq!(train.to_string(), "CIFAR-10 batches: 3 images of 3 classes");
        let numbers: Vec<(Vec<u8>, i64)> =
            (0..3).map(|i| Ok((train.load(i, &AS_IS)?.0.data[..6].to_vec(), train.label(i)))).collect::<Result<_>>()?;
        let pixels = |n: u8| vec![n, n + 1, n + 2, 200, n + 1, n + 2];
        assert_eq!(numbers, [(pixels(10), 1), (pixels(20), 0), (pixels(30), 2)]);
        assert!(train.place(2).ends_with(&format!("data_batch_2{end}, image 0")), "{}", train.place(2));
        let test = ImageListing::open_as(root, Some("test"), None, Classes::One)?;
        assert_eq!((test.len(), test.label(0), test.classes()), (1, 0, &[String::new()][..]));
    }
    Ok(())
}

#[test]
fn damaged_batches_are_named() -> Result<()> {
    let whole = pickled(&[(1, 0), (2, 1)]);
    let at = |what: &[u8]| whole.windows(what.len()).position(|w| w == what).unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        bytes
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("test_batch.bin", binary(&[(1, 0)])[..3000].to_vec(), "test_batch.bin: truncated or not a CIFAR-10 batch"),
        ("test_batch.bin", vec![], "test_batch.bin: truncated or not a CIFAR-10 batch: 0 bytes"),
        (
            "test_batch",
            whole[..whole.len() - 400].to_vec(),
            "test_batch: not a CIFAR-10 batch: its pickle cannot be read",
        ),
        ("test_batch", changed(at(b"labels"), b'L'), "test_batch: not a CIFAR-10 batch: it has no `labels`"),
        ("test_batch", changed(at(b"u1") + 1, b'2'), "its `data` is no NumPy array of bytes"),
        ("test_batch", b"text".to_vec(), "test_batch: not a CIFAR-10 batch"),
        ("data_batch_2.bin", binary(&[(1, 0)]), "data_batch_1 is missing"),
    ];
    for (name, bytes, expected) in cases {
        let dir = tempfile::tempdir()?;
        write(dir.path(), &[(name, bytes)]);
        let said = error(ImageListing::open(dir.path(), None, None));
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let dir = tempfile::tempdir()?;
    write(dir.path(), &[("test_batch", pickled(&[(1, 3)])), ("batches.meta", names(&["a", "b"]))]);
    assert!(error(ImageListing::open(dir.path(), None, None)).contains("test_batch: label 3 has no name"));
    write(dir.path(), &[("batches.meta", names(&["a"])[..9].to_vec())]);
    assert!(error(ImageListing::open(dir.path(), None, None)).contains("batches.meta: its pickle cannot be read"));
    Ok(())
}

/// Whatever byte is changed, the answer is images or an error.
#[test]
fn changed_pickles_do_not_panic() {
    let whole = pickled(&[(1, 0)]);
    let pixels = whole.len() - 3 * PLANE - 2;
    let dir = tempfile::tempdir().unwrap();
    for at in (0..pixels).chain(whole.len() - 2..whole.len()) {
        for value in [0, b'.', b'K', 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            write(dir.path(), &[("test_batch", bytes)]);
            if let Ok(source) = ImageListing::open(dir.path(), None, None) {
                (0..source.len()).for_each(|i| drop(source.load(i, &AS_IS)));
            }
        }
    }
}
