//! Work in pieces: who makes which, and what is made again.

use erw::ml::observer::Silent;
use erw::ml::pieces::{Pieces, Share};
use std::path::Path;

/// Ten items in pieces of three; a piece is a file of as many bytes.
fn pieces(dir: &Path, rank: usize, ranks: usize) -> Pieces<'_> {
    Pieces {
        dir: dir.into(),
        stem: "part",
        ending: ".x",
        total: 10,
        size: 3,
        share: Share { rank, ranks },
        is_sound: &|path, items| std::fs::metadata(path).is_ok_and(|file| file.len() == items),
        obs: &Silent,
        before: 0,
        of: 10,
    }
}

fn make(pieces: &Pieces<'_>, most: usize) -> Vec<u64> {
    let missing = pieces.missing().unwrap();
    for piece in missing.numbers.iter().take(most) {
        let items = pieces.range(*piece);
        let write = |path: &Path| std::fs::write(path, items.clone().map(|i| i as u8).collect::<Vec<u8>>());
        missing.put::<std::io::Error>(*piece, write).unwrap();
    }
    missing.numbers
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn ranks_share_the_pieces_and_any_number_goes_on_with_them() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(make(&pieces(dir.path(), 1, 2), 1), [1, 3]);
    assert_eq!(names(dir.path()), ["part-00001.x"]);
    assert_eq!(make(&pieces(dir.path(), 2, 3), 9), [2]);
    assert_eq!(make(&pieces(dir.path(), 0, 3), 9), [0, 3]);
    assert_eq!(make(&pieces(dir.path(), 1, 3), 9), [0; 0], "its only one is there");
    let whole = pieces(dir.path(), 0, 3);
    assert!(whole.wait());
    let bytes: Vec<u8> = (0..whole.count()).flat_map(|piece| std::fs::read(whole.path(piece)).unwrap()).collect();
    assert_eq!(bytes, (0..10).collect::<Vec<u8>>());
    assert_eq!(names(dir.path()).len(), 4);
}

#[test]
fn damaged_and_unfinished_pieces_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    make(&pieces(dir.path(), 0, 1), 9);
    std::fs::write(dir.path().join("part-00002.x"), b"sh").unwrap();
    std::fs::write(dir.path().join("part-00002.x.7-7.part"), "left by a kill").unwrap();
    std::fs::write(dir.path().join("another"), "of somebody else").unwrap();
    assert_eq!(make(&pieces(dir.path(), 1, 2), 9), [0; 0], "it belongs to the other rank");
    assert_eq!(make(&pieces(dir.path(), 0, 2), 9), [2]);
    assert_eq!(names(dir.path()), ["another", "part-00000.x", "part-00001.x", "part-00002.x", "part-00003.x"]);
    assert!(pieces(dir.path(), 0, 1).wait());
}

#[test]
fn a_piece_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pieces = pieces(dir.path(), 0, 1);
    let missing = pieces.missing().unwrap();
    let write = |path: &Path| std::fs::write(path, "half").and(Err(std::io::Error::other("full")));
    assert_eq!(missing.put::<std::io::Error>(0, write).unwrap_err().to_string(), "full");
    assert!(names(dir.path()).is_empty());
}
