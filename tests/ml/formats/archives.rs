//! Archives and containers that are damaged, mislabelled or hostile, and files of other types.

use super::{file, open};
use crate::support::space::Space;
use erw::ml::formats::{Npz, WeightsFile, read_npy};
use std::io::Write;
use std::path::PathBuf;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// A file of these bytes, and why it cannot be opened.
fn refusal(space: &Space, bytes: &[u8]) -> String {
    let path = space.path("weights.bin");
    std::fs::write(&path, bytes).unwrap();
    let e = WeightsFile::open(&path).unwrap_err().to_string();
    assert!(e.contains("weights.bin"), "{e}");
    e
}

/// The entries of an archive, changed, in a new one.
fn rezipped(
    space: &Space,
    name: &str,
    method: CompressionMethod,
    change: impl Fn(&str, Vec<u8>) -> Vec<u8>,
) -> PathBuf {
    let mut old = zip::ZipArchive::new(std::fs::File::open(file(name)).unwrap()).unwrap();
    let path = space.path(&format!("changed-{name}"));
    let mut new = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for i in 0..old.len() {
        let mut entry = old.by_index(i).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        new.start_file(&name, SimpleFileOptions::default().compression_method(method)).unwrap();
        new.write_all(&change(&name, bytes)).unwrap();
    }
    new.finish().unwrap();
    path
}

#[test]
fn files_of_other_types_are_named_by_their_type() {
    let space = Space::of(&[]);
    let cases: [(&[u8], &str); 12] = [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"{\"metadata\": {}, \"weight_map\": {}}", "JSON"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "GGUF"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94.", "Python pickle that PyTorch did not write"),
        (b"PK\x03\x04 cut short", "truncated or damaged ZIP"),
        (b"not a format at all", "unknown format"),
        (b"\x93NUM", "unknown format"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated safetensors"),
    ];
    for (bytes, what) in cases {
        let e = refusal(&space, bytes);
        assert!(e.contains(what), "{e}");
    }
    std::fs::create_dir(space.path("none")).unwrap();
    let e = WeightsFile::open(&space.path("none")).unwrap_err().to_string();
    assert!(e.contains("a folder without weights files"), "{e}");
    let e = WeightsFile::open(&space.path("none.pt")).unwrap_err().to_string();
    assert!(e.contains("none.pt") && e.contains("No such file"), "{e}");
    let path = rezipped(&space, "run.pt", CompressionMethod::Stored, |_, b| b);
    assert!(WeightsFile::open(&path).is_ok());
    let path = space.path("pictures.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    zip.start_file("a.png", SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap();
    let e = WeightsFile::open(&path).unwrap_err().to_string();
    assert!(e.contains("without a PyTorch pickle or NumPy arrays"), "{e}");
}

#[test]
fn a_storage_of_wrong_length_is_named_with_its_tensor() {
    let space = Space::of(&[]);
    for (method, n) in [(CompressionMethod::Stored, 1), (CompressionMethod::Deflated, 200_000)] {
        let path = rezipped(
            &space,
            "big_endian.pt",
            method,
            |name, bytes| {
                if name.ends_with("data/0") { vec![0; n] } else { bytes }
            },
        );
        let e = WeightsFile::open(&path).unwrap().tensors("").unwrap_err().to_string();
        assert!(e.contains("changed-big_endian.pt") && e.contains("tensor `one`"), "{e}");
        assert!(e.contains(&format!("storage `0` has {n} bytes, but the pickle says 24")), "{e}");
    }
    let path = rezipped(&space, "big_endian.pt", CompressionMethod::Stored, |name, bytes| {
        if name.ends_with("byteorder") { b"middle".to_vec() } else { bytes }
    });
    let e = WeightsFile::open(&path).unwrap_err().to_string();
    assert!(e.contains("byte order is `middle`"), "{e}");
}

#[test]
fn a_truncated_file_is_refused_wherever_it_is_cut() {
    let space = Space::of(&[]);
    for name in ["run.pt", "run_legacy.pt", "arrays.npz", "fortran.npy", "types.twin.safetensors"] {
        let whole = std::fs::read(file(name)).unwrap();
        for keep in [0, 1, 8, whole.len() / 3, whole.len() / 2, whole.len() - 1] {
            let path = space.path("cut");
            std::fs::write(&path, &whole[..keep]).unwrap();
            let read = WeightsFile::open(&path)
                .and_then(|f| f.sets().iter().map(|(set, _)| f.tensors(set).map(drop)).collect::<Result<Vec<()>, _>>());
            let e = read.unwrap_err().to_string();
            assert!(e.contains("cut"), "{name}: {e}");
        }
    }
}

/// 100 MB of zeros in 100 kB, where the header says four bytes.
#[test]
fn an_array_does_not_inflate_beyond_its_header() {
    let space = Space::of(&[]);
    let path = space.path("bomb.npz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let deflated = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("a.npy", deflated).unwrap();
    let header = format!("{:<69}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }");
    zip.write_all(b"\x93NUMPY\x01\0\x46\0").unwrap();
    zip.write_all(header.as_bytes()).unwrap();
    zip.write_all(&vec![0; 100 << 20]).unwrap();
    zip.finish().unwrap();
    let e = Npz::open(&path).unwrap().read("a").unwrap_err().to_string();
    assert!(e.contains("bomb.npz") && e.contains("more than the limit of 84"), "{e}");
}

/// Both entries of the directory point to the same bytes.
#[test]
fn entries_that_overlap_are_refused() {
    let space = Space::of(&[]);
    let path = space.path("overlap.npz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for name in ["a.npy", "b.npy"] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
        zip.write_all(&[0; 1000]).unwrap();
    }
    zip.finish().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // Offset of the local header, 42 bytes into an entry of the directory, and no signature of the
    // second entry.
    let at: Vec<usize> = (0..bytes.len() - 4).filter(|i| &bytes[*i..*i + 4] == b"PK\x01\x02").collect();
    bytes.copy_within(at[0] + 42..at[0] + 46, at[1] + 42);
    for at in at {
        // A size that together is more than the file.
        bytes[at + 20..at + 24].copy_from_slice(&1100u32.to_le_bytes());
        bytes[at + 24..at + 28].copy_from_slice(&1100u32.to_le_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    let e = WeightsFile::open(&path).unwrap_err().to_string();
    assert!(e.contains("overlap.npz") && e.contains("entries overlap"), "{e}");
}

#[test]
fn a_damaged_array_fails_its_checksum() {
    let space = Space::of(&[]);
    let mut bytes = std::fs::read(file("arrays.npz")).unwrap();
    let at = bytes.windows(10).position(|w| w == b"(2, 3, 4),").unwrap() + 100;
    bytes[at] ^= 1;
    let path = space.path("flipped.npz");
    std::fs::write(&path, &bytes).unwrap();
    let e = WeightsFile::open(&path).unwrap().tensors("").unwrap_err().to_string();
    assert!(e.contains("flipped.npz") && e.contains("checksum"), "{e}");
}

#[test]
fn an_encrypted_entry_is_an_error() {
    let space = Space::of(&[]);
    let mut bytes = std::fs::read(file("arrays.npz")).unwrap();
    // The first bit of the flags, in the local header and in the directory.
    let signed = |sign: &'static [u8; 4]| move |w: &[u8]| w == sign;
    let directory = bytes.windows(4).position(signed(b"PK\x01\x02")).unwrap();
    bytes[6] |= 1;
    bytes[directory + 8] |= 1;
    let path = space.path("secret.npz");
    std::fs::write(&path, &bytes).unwrap();
    let e = WeightsFile::open(&path).and_then(|f| f.tensors("")).unwrap_err().to_string();
    assert!(e.contains("secret.npz") && e.contains("encrypted"), "{e}");
}

#[test]
fn headers_of_safetensors_are_checked_against_the_file() {
    let space = Space::of(&[]);
    let with = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        refusal(&space, &bytes)
    };
    let info = |shape: &str, from: u64, to: u64| {
        format!("{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
    };
    let one = |info: String| format!("{{\"weight\":{info}}}");
    let cases = [
        (one(info("[2]", 0, 8)), 4, "tensor `weight`: is at bytes 0 to 8 of 4; the file may be truncated"),
        (one(info("[3]", 0, 8)), 8, "has shape [3] of type F32, but 8 bytes"),
        (one(info("[4611686018427387904]", 0, 0)), 0, "but 0 bytes"),
        (one(info("[1]", u64::MAX - 3, u64::MAX)), 0, "is at bytes"),
        (format!("{{\"a\":{},\"b\":{}}}", info("[2]", 0, 8), info("[2]", 4, 12)), 12, "`a` and `b` overlap"),
        (format!("{{\"a\":{0},\"a\":{0}}}", info("[1]", 0, 4)), 4, "holds `a` twice"),
        (format!("{{\"a\":{}", "[".repeat(5000)), 0, "damaged safetensors"),
    ];
    for (header, data, what) in cases {
        let e = with(&header, data);
        assert!(e.contains(what), "{e}");
    }
    // A type that is not read is told to who wants the tensor.
    let header = one(info("[1]", 0, 8)).replace("F32", "C64");
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
    std::fs::write(space.path("c"), bytes).unwrap();
    let e = WeightsFile::open(&space.path("c")).and_then(|file| file.tensors("")).unwrap_err().to_string();
    assert!(e.contains("tensor `weight`: has type C64, which is not supported"), "{e}");
}

/// The length of the header comes first: 0x4b50 looks like a ZIP archive and 0x80 like a pickle.
#[test]
fn a_safetensors_file_is_recognised_by_any_header_length() {
    let space = Space::of(&[]);
    for length in [0x4b50, 0x80, 0x0280] {
        let header = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend(format!("{header:<length$}").as_bytes());
        bytes.push(7);
        std::fs::write(space.path("w"), bytes).unwrap();
        let tensors = WeightsFile::open(&space.path("w")).unwrap().tensors("").unwrap();
        assert_eq!(tensors["w"].to_vec1::<u8>().unwrap(), [7]);
    }
}

#[test]
fn headers_of_arrays_are_checked_against_the_file() {
    let space = Space::of(&[]);
    let path = space.path("array.npy");
    let refused = |header: &str, data: usize| {
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        std::fs::write(&path, bytes).unwrap();
        let e = read_npy(&path).unwrap_err().to_string();
        assert!(e.contains("array.npy"), "{e}");
        e
    };
    let header = |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
    let e = refused(&header("'<f4'", "(3,)"), 8);
    assert!(e.contains("takes 12 bytes, but there are 8"), "{e}");
    let e = refused(&header("'<f4'", "(4294967296, 4294967296, 8)"), 8);
    assert!(e.contains("more elements than can be addressed"), "{e}");
    let e = refused(&header("'<f4'", "(4294967296, 1024)"), 8);
    assert!(e.contains("but there are 8"), "{e}");
    let e = refused(&header("'<c8'", "(1,)"), 8);
    assert!(e.contains("`<c8`"), "{e}");
    let e = refused(&header("[('x', '<f4')]", "(1,)"), 8);
    assert!(e.contains("record"), "{e}");
    for odd in ["", "{", "{'shape': ((((((", "{'descr': '<f4'}", "{'shape': (-1,)}", "{'other': 1}"] {
        let e = refused(odd, 8);
        assert!(e.contains("invalid header"), "{e}");
    }
}

#[test]
fn names_with_dots_and_slashes_are_plain_names() {
    let space = Space::of(&[]);
    let path = space.path("slip.npz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    zip.start_file("../../outside.npy", SimpleFileOptions::default()).unwrap();
    zip.write_all(&std::fs::read(file("fortran.npy")).unwrap()).unwrap();
    zip.finish().unwrap();
    let tensors = WeightsFile::open(&path).unwrap().tensors("").unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["../../outside"]);
    assert!(!space.path("../../outside.npy").exists());
    drop(open("arrays.npz"));
}
