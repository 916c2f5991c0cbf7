//! `erw init`: what it writes runs, and nothing is replaced unasked.

use crate::support::space::Space;
use std::fs;
use std::path::Path;

#[test]
fn the_quick_start_is_the_shipped_one() {
    let space = Space::of(&[]);
    let said = space.erw(&["init", "digits", "quick"]).expect(0).stdout;
    assert_eq!(said, "wrote quick/digits.toml and 1797 images\nnext: cd ./quick && erw run digits.toml\n");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut files = 0;
    for entry in walkdir::WalkDir::new(space.path("quick")) {
        let path = entry.unwrap().into_path();
        if path.is_file() {
            let name = path.strip_prefix(space.path("quick")).unwrap();
            assert_eq!(fs::read(&path).unwrap(), fs::read(shipped.join(name)).unwrap(), "{}", name.display());
            files += 1;
        }
    }
    assert_eq!(files, 1797 + 3, "the pipeline, its data, where it is from and how it was made");
    space.erw(&["plan", "quick/digits.toml"]).expect(0);
}

#[test]
fn nothing_is_replaced_unasked() {
    let space = Space::of(&[("digits.toml", "digits")]);
    let said = space.erw(&["init", "digits"]).expect(2).stderr;
    assert!(said.contains("exists already") && said.contains("--force"), "{said}");
    assert_eq!(space.read("digits.toml"), "digits");
    assert!(!space.path("data").exists(), "a part of the quick start was written");
    // What lay in the folder of the images would be trained on.
    space.write("data/digits/0/more.png", "more");
    let said = space.erw(&["init", "digits", "--force"]).expect(0).stdout;
    assert!(said.contains("warning: data/digits holds 1 image that"), "{said}");
}
