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

/// The batch with another text in the place of one.
fn with(batch: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = batch.windows(from.len()).position(|part| part == from).unwrap();
    [&batch[..at], to, &batch[at + from.len()..]].concat()
}

#[test]
fn batches_of_other_programs_are_read_or_named() -> Result<()> {
    let images = [(10, 1), (20, 0)];
    let plain = pickled(&images);
    let int = |n: usize| [&[b'J'][..], &(n as u32).to_le_bytes()].concat();
    let stated = [int(2), int(3 * PLANE), b"\x86".to_vec()].concat();
    let tuple =
        |sides: &[usize]| [&b"("[..], &sides.iter().flat_map(|side| int(*side)).collect::<Vec<_>>(), b"t"].concat();
    let of = |bytes: Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("test_batch", bytes)]);
        let set = ImageListing::open(dir.path(), None, None)?;
        (0..set.len()).map(|i| Ok((set.load(i, &AS_IS)?.0.data, set.label(i)))).collect::<Result<Vec<_>>>()
    };
    let expected = of(plain.clone())?;
    assert_eq!((expected.len(), expected[0].1), (2, 1));
    assert_eq!(of(with(&plain, &stated, &tuple(&[2, 3, 32, 32])))?, expected);
    // Keys as bytes.
    let keys = with(&with(&plain, b"U\x06labels", b"C\x06labels"), b"U\x04data", b"C\x04data");
    assert_eq!(of(keys)?, expected);
    // Protocol 5: an array of a buffer.
    let pixels: Vec<u8> = images.iter().flat_map(|(n, _)| planes(*n)).collect();
    let buffer = [&[0x96][..], &(pixels.len() as u64).to_le_bytes(), &pixels].concat();
    let dtype = b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR".to_vec();
    let array = |order: &[u8]| {
        let call = b"cnumpy._core.numeric\n_frombuffer\n(".to_vec();
        [call, buffer.clone(), dtype.clone(), stated.clone(), b"U\x01".to_vec(), order.to_vec(), b"tR".to_vec()]
            .concat()
    };
    let batch = |order: &[u8]| {
        let labels = b"U\x06labels](K\x01K\0e".to_vec();
        [b"\x80\x05}(".to_vec(), labels, b"U\x04data".to_vec(), array(order), b"u.".to_vec()].concat()
    };
    assert_eq!(of(batch(b"C"))?, expected);
    // What would be read as other pixels.
    assert!(error(of(batch(b"F"))).contains("its `data` is stored in Fortran's order"));
    let flagged = with(
        &plain,
        &[&stated[..], b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR\x89"].concat(),
        &[&stated[..], b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR\x88"].concat(),
    );
    assert!(error(of(flagged)).contains("its `data` is stored in Fortran's order"));
    let said = error(of(with(&plain, &stated, &tuple(&[2, 32, 32, 3]))));
    assert!(said.contains("its `data` has the shape [2, 32, 32, 3]; it must have rows of 3072 bytes"), "{said}");
    assert!(
        error(of(b"\x80\x02](K\x01e.".to_vec())).contains("test_batch: not a CIFAR-10 batch: it holds no dictionary")
    );
    Ok(())
}

#[test]
fn batches_that_are_not_there_are_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let put = |i: u8| write(dir.path(), &[(&format!("data_batch_{i}.bin"), binary(&[(i, 0)]))]);
    (1..5).for_each(put);
    let said = ImageListing::open(dir.path(), None, None)?.warnings().join("\n");
    assert!(said.contains("holds 4 of the 5 batches of CIFAR-10; data_batch_5 is missing"), "{said}");
    put(5);
    assert_eq!(ImageListing::open(dir.path(), None, None)?.warnings(), [""; 0]);
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
