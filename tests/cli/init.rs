//! `erw init`: what it writes runs, what it finds in a set of images is told, and nothing is
//! replaced unasked.

use crate::support::space::Space;
use image::{Rgb, RgbImage};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Writes `count` pictures of this size into a folder, each of its own colour.
fn pictures(folder: &Path, count: u32, (width, height): (u32, u32)) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let pixel = |x: u32, y: u32| Rgb([(40 * i + x) as u8, (30 * i + y) as u8, (x * y) as u8]);
        RgbImage::from_fn(width, height, pixel).save(folder.join(format!("{i:03}.png"))).unwrap();
    }
}

/// Two classes, one of portraits and one of squares.
fn photos(space: &Space) {
    pictures(&space.path("photos/cats"), 7, (32, 44));
    pictures(&space.path("photos/dogs"), 6, (36, 36));
}

/// A few steps of the smallest networks.
const FEW: [&str; 14] = [
    "--set",
    "vae.steps=2",
    "--set",
    "encoder.steps=2",
    "--set",
    "warmup.steps=2",
    "--set",
    "train.steps=3",
    "--set",
    "sample.steps=2",
    "--set",
    "sample.count=6",
    "--threads",
    "2",
];

#[test]
fn two_commands_lead_from_images_to_a_grid() {
    let space = Space::of(&[]);
    photos(&space);
    let said = space.erw(&["init", "mine", "--images", "photos"]).expect(0);
    insta::assert_snapshot!("init_mine", said.stdout);
    insta::assert_snapshot!("mine", space.read("mine.toml"));
    assert_eq!(said.stdout.lines().last(), Some("next: erw run mine.toml"));
    let run = space.erw(&[&["run", "mine.toml", "--plain"], &FEW[..]].concat()).expect(0);
    let grid = run.stdout.lines().find_map(|l| l.strip_prefix("picture: ")).expect("a picture");
    let grid = image::open(space.path(grid)).unwrap();
    assert!(grid.width() >= 32 && grid.height() >= 32);
    assert_eq!(space.read(".gitignore"), "/cache/\n");
}

#[test]
fn one_class_runs_too_and_one_that_cannot_be_read_is_left_out() {
    let space = Space::of(&[]);
    pictures(&space.path("flat"), 7, (8, 8));
    space.write("flat/004.png", "not a picture");
    space.write("flat/notes.avif", "");
    let said = space.erw(&["init", "mine", "--images", "flat"]).expect(0).stdout;
    insta::assert_snapshot!("init_mine_one_class", said);
    let text = space.read("mine.toml");
    assert!(text.contains("self-supervised") && !text.contains("cfg_scale"), "{text}");
    space.erw(&[&["run", "mine.toml", "--plain"], &FEW[..]].concat()).expect(0);
}

#[test]
fn sizes_of_all_resolutions_fit_together() {
    let space = Space::of(&[]);
    photos(&space);
    for resolution in ["16", "32", "64", "128", "256", "512"] {
        space.erw(&["init", "mine", "--images", "photos", "--force", "--resolution", resolution]).expect(0);
        let said = space.erw(&["plan", "mine.toml"]).expect(0);
        assert!(!said.stderr.contains("warning"), "{resolution}: {}", said.stderr);
    }
    space.erw(&["init", "mine", "--images", "photos", "--force", "--resolution", "100"]).expect(2);
}

#[test]
fn enough_images_are_measured_on_those_held_out() {
    let space = Space::of(&[]);
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/data/digits");
    let said = space.erw(&["init", "mine", "--images", digits.to_str().unwrap(), "there"]).expect(0);
    assert!(said.stdout.contains("10, of 174 to 183 images"), "{}", said.stdout);
    assert!(said.stdout.ends_with("next: cd ./there && erw run mine.toml\n"), "{}", said.stdout);
    let text = space.read("there/mine.toml");
    insta::assert_snapshot!("mine_measured", text.replace(digits.to_str().unwrap(), "DIGITS"));
    let plan = space.erw(&["plan", "there/mine.toml"]).expect(0);
    assert!(plan.stdout.contains("fd-floor") && !plan.stderr.contains("warning"), "{}{}", plan.stdout, plan.stderr);
}

#[test]
fn names_are_quoted_in_the_pipeline_and_for_the_shell() {
    let space = Space::of(&[]);
    for name in ["it's \"a\" \\ {b} [c] # $HOME", "'''\"\"\"", "two\nlines = 1", "del\u{7f}\u{1b}[31m", "日本 ", "-x"]
    {
        let (images, there) = (format!("./{name}/images"), format!("./{name}/there"));
        pictures(&space.path(&images).join("a\u{1b}b"), 2, (16, 16));
        fs::create_dir_all(space.path(&there)).unwrap();
        let said = space.erw(&["init", "mine", "--images", &images, &there]).expect(0).stdout;
        assert!(!said.replace(name, "").contains('\u{1b}'), "{said:?}");
        let file = space.read(&format!("{there}/mine.toml"));
        let pipeline: toml::Table = toml::from_str(&file).unwrap_or_else(|e| panic!("{name}: {e}\n{file}"));
        let source = Path::new(pipeline["params"]["source"].as_str().unwrap());
        assert_eq!(source.canonicalize().unwrap(), space.path(&images).canonicalize().unwrap());
        space.erw(&["plan", &format!("{there}/mine.toml")]).expect(0);
        // What it says to do next leads a shell to the pipeline.
        let (_, next) = said.split_once("next: ").unwrap();
        let next = next.trim_end().strip_suffix("erw run mine.toml").unwrap();
        let shell =
            Command::new("sh").args(["-c", &format!("{next}cat mine.toml")]).current_dir(space.path("")).output();
        assert_eq!(String::from_utf8(shell.unwrap().stdout).unwrap(), file, "{next}");
    }
}

#[test]
fn sets_that_cannot_be_used_are_refused_with_a_way_out() {
    let space = Space::of(&[]);
    fs::create_dir(space.path("empty")).unwrap();
    space.write("text/a.txt", "");
    space.write("damaged/a.png", "not a picture");
    pictures(&space.path("both"), 1, (8, 8));
    pictures(&space.path("both/more"), 2, (8, 8));
    pictures(&space.path("parts/train/a"), 2, (8, 8));
    pictures(&space.path("parts/val/a"), 2, (8, 8));
    let mut said = String::new();
    for name in ["empty", "text", "damaged", "both", "parts", "missing"] {
        said += &space.plain(&space.erw(&["init", "mine", "--images", name]).expect(2).stderr);
        assert!(!space.path("mine.toml").exists() && !space.path(".gitignore").exists());
    }
    insta::assert_snapshot!("init_mine_refused", said);
    space.erw(&["init", "mine", "--images", "both", "--classes", "one"]).expect(0);
    let text = space.read("mine.toml");
    assert!(text.contains("classes = \"one\""), "{text}");
    space.erw(&["plan", "mine.toml"]).expect(0);
}

#[test]
fn nothing_is_replaced_unasked() {
    let space = Space::of(&[("mine.toml", "mine"), (".gitignore", "/target\n*.png"), ("digits.toml", "digits")]);
    photos(&space);
    for args in [&["init", "mine", "--images", "photos"][..], &["init", "digits"]] {
        let said = space.erw(args).expect(2).stderr;
        assert!(said.contains("exists already") && said.contains("--force"), "{said}");
    }
    assert_eq!((space.read("mine.toml").as_str(), space.read("digits.toml").as_str()), ("mine", "digits"));
    assert!(!space.path("data").exists(), "a part of the quick start was written");
    for _ in 0..2 {
        space.erw(&["init", "mine", "--images", "photos", "--force"]).expect(0);
        assert_eq!(space.read(".gitignore"), "/target\n*.png\n/cache/\n");
    }
    assert!(space.read("mine.toml").contains("kind = \"train\""));
    // What lay in the folder of the images would be trained on.
    space.write("data/digits/0/more.png", "more");
    let said = space.erw(&["init", "digits", "--force"]).expect(0).stdout;
    assert!(said.contains("warning: data/digits holds 1 image that"), "{said}");
}

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
    assert_eq!(files, 1797 + 5, "the pipeline, its schema and curves, its data, where it is from and how it was made");
    space.erw(&["plan", "quick/digits.toml"]).expect(0);
}
