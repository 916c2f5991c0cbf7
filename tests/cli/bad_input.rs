//! What the built program says to bad input, with the real stage kinds: one message, a documented
//! exit code, and an undamaged cache. Messages are snapshots; after a change run with
//! `INSTA_UPDATE=always` and read the difference.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space, clean};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Pictures, a classifier of them, and its verdict on them.
const GOOD: &str = r#"name = "judge"

[stages.images]
kind = "images"
params = { source = "pictures", resolution = 8, transform = "resize-bicubic" }

[stages.classifier]
kind = "train-classifier"
inputs = { images = "images" }
params = { channels = [4, 8], features = 8, norm_num_groups = 4, steps = 2, batch = 4 }

[stages.accuracy]
kind = "accuracy"
inputs = { samples = "images", classifier = "classifier" }
"#;

/// A space with twelve pictures of two classes and the good pipeline, which has run.
fn good() -> Space {
    let space = Space::new(GOOD);
    for (class, name) in ["dark", "light"].into_iter().enumerate() {
        fs::create_dir_all(space.path("pictures").join(name)).unwrap();
        for i in 0..6 {
            let level = |x: u32, y: u32| (class as u32 * 120 + 7 * x + 5 * y + i) as u8;
            let picture = image::GrayImage::from_fn(10, 9, |x, y| image::Luma([level(x, y)]));
            picture.save(space.path(&format!("pictures/{name}/{i}.png"))).unwrap();
        }
    }
    space.run(&[]).expect(0);
    space
}

/// The error as a person reads it, without what differs from run to run. It comes last and is the
/// only one.
fn seen(space: &Space, said: &Said) -> String {
    let text = space.plain(&said.stderr);
    assert_eq!(text.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{text}");
    let text = &text[text.find("error: ").unwrap()..];
    let name = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut shown = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        shown.push_str(if name(&word) { "[key]" } else { &word });
        word.clear();
        shown.push(c);
    }
    shown.trim_end().to_string()
}

/// Every artifact is whole, and the good pipeline has nothing to do.
#[track_caller]
fn unharmed(space: &Space) {
    space.erw(&["cache", "verify"]).expect(0);
    space.write("p.toml", GOOD);
    let said = space.run(&[]).expect(0);
    assert!(said.stdout.contains("all 3 stages are cached"), "{}", said.stdout);
}

/// A pipeline that is refused before anything runs.
#[track_caller]
fn refused(space: &Space, name: &str, pipeline: &str) {
    space.write("p.toml", pipeline);
    let said = space.run(&[]).expect(2);
    assert!(said.stdout.is_empty(), "{}", said.stdout);
    insta::assert_snapshot!(name, seen(space, &said));
    assert_eq!(space.erw(&["plan", "p.toml"]).expect(2).stderr, said.stderr, "plan and run say the same");
}

#[test]
fn bad_pipelines_are_refused_before_anything_runs() {
    let space = good();
    refused(&space, "malformed_toml", &GOOD.replace("{ images = \"images\" }", "{ images = images }"));
    refused(&space, "unknown_key", &GOOD.replace("steps = 2", "stesp = 2"));
    refused(&space, "wrong_type", &GOOD.replace("steps = 2", "steps = \"two\""));
    refused(
        &space,
        "missing_input",
        &GOOD.replace(", classifier = \"classifier\" }", ", classifier = \"clasifier\" }"),
    );
    refused(&space, "ill_typed_edge", &GOOD.replace("classifier = \"classifier\" }", "classifier = \"images\" }"));
    refused(&space, "impossible_value", &GOOD.replace("norm_num_groups = 4", "norm_num_groups = 3"));
    let cycle = "
[stages.vae]
kind = \"train-vae\"
inputs = { images = \"images\" }

[stages.latents]
kind = \"latents\"
inputs = { images = \"images\", vae = \"vae\" }

[stages.first]
kind = \"train\"
inputs = { latents = \"latents\", init = \"second\" }
params = { model = \"SiT-S/2\", alignment = \"none\", steps = 1 }

[stages.second]
kind = \"train\"
inputs = { latents = \"latents\", init = \"first\" }
params = { model = \"SiT-S/2\", alignment = \"none\", steps = 1 }
";
    refused(&space, "cycle", &(GOOD.to_string() + cycle));
    unharmed(&space);
}

/// A plan says it, before anything runs.
#[test]
fn a_compressed_source() {
    let space = good();
    std::fs::write(space.path("pictures.tar.gz"), b"\x1f\x8b\x08\0").unwrap();
    refused(&space, "compressed_source", &GOOD.replace("\"pictures\"", "\"pictures.tar.gz\""));
    unharmed(&space);
}

#[test]
fn a_missing_source() {
    let space = good();
    space.write("p.toml", &GOOD.replace("\"pictures\"", "\"picturs\""));
    let said = space.run(&[]).expect(2);
    insta::assert_snapshot!("missing_source", seen(&space, &said));
    unharmed(&space);
}

#[test]
fn a_truncated_image() {
    let space = good();
    let file = space.path("pictures/light/3.png");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let said = space.run(&[]).expect(1);
    insta::assert_snapshot!("truncated_image", seen(&space, &said));
    assert_eq!(said.stderr.matches("accuracy: skipped").count(), 1, "{}", said.stderr);
    fs::write(&file, whole).unwrap();
    unharmed(&space);
}

#[test]
fn an_empty_folder() {
    let space = good();
    fs::create_dir(space.path("nothing")).unwrap();
    space.write("p.toml", &GOOD.replace("\"pictures\"", "\"nothing\""));
    let said = space.run(&[]).expect(1);
    insta::assert_snapshot!("empty_folder", seen(&space, &said));
    unharmed(&space);
}

#[test]
fn truncated_weights() {
    let space = good();
    let device = candle_core::Device::Cpu;
    let rows = rng::normal_rows(1, Purpose::Probe, 0, &[0, 1, 2], &[40], &device).unwrap();
    let file = space.path("released.safetensors");
    params::save(&Tensors::from([("encoder.conv_in.weight".into(), rows)]), &file).unwrap();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    let imported = "\n[stages.vae]\nkind = \"weights\"\nparams = { as = \"vae\", source = \"released.safetensors\", \
                    preset = \"sd-vae\" }\noperation = { url = \"https://example.org/vae\" }\n";
    space.write("p.toml", &(GOOD.to_string() + imported));
    let said = space.run(&[]).expect(2);
    insta::assert_snapshot!("truncated_weights", seen(&space, &said));
    // Whole, but of another network than the preset says.
    fs::write(&file, whole).unwrap();
    let said = space.run(&[]).expect(2);
    insta::assert_snapshot!("foreign_weights", seen(&space, &said));
    unharmed(&space);
}

/// The program as somebody whom permissions bind: root is let through every one of them.
struct Somebody {
    space: Space,
    /// A folder that everybody can reach.
    dir: tempfile::TempDir,
    uid: Option<u32>,
}

impl Somebody {
    const NOBODY: u32 = 65534;

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::metadata(dir.path()).unwrap().uid() == 0;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let somebody = Self { space: good(), dir, uid: root.then_some(Self::NOBODY) };
        // `cp` holds the copy open in its own process only: a program that is open for writing
        // cannot be started.
        for (from, to) in
            [(Path::new(env!("CARGO_BIN_EXE_erw")), "erw"), (&somebody.space.path("pictures"), "pictures")]
        {
            assert!(
                Command::new("cp").arg("-r").arg(from).arg(somebody.dir.path().join(to)).status().unwrap().success()
            );
        }
        fs::write(somebody.dir.path().join("p.toml"), GOOD).unwrap();
        fs::create_dir(somebody.cache()).unwrap();
        chown(somebody.cache(), somebody.uid, None).unwrap();
        somebody
    }

    fn cache(&self) -> std::path::PathBuf {
        self.dir.path().join("cache")
    }

    fn erw(&self, args: &[&str]) -> Said {
        let mut command = clean(&self.dir.path().join("erw"));
        command.args(args).current_dir(self.dir.path());
        if let Some(id) = self.uid {
            command.uid(id).gid(id);
        }
        Said::from(command.finish())
    }

    fn seen(&self, said: &Said) -> String {
        let text = said.stderr.replace(&format!("{}/", self.dir.path().display()), "");
        seen(&self.space, &Said { stderr: text, status: said.status, stdout: String::new() })
    }

    /// Gives every folder of the cache these permissions, files too but for their x.
    fn permit(&self, mode: u32) {
        for entry in walkdir::WalkDir::new(self.cache()).contents_first(true) {
            let entry = entry.unwrap();
            let mode = if entry.file_type().is_dir() { mode } else { mode & !0o111 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode)).unwrap();
        }
    }
}

#[test]
fn a_read_only_cache() {
    let somebody = Somebody::new();
    somebody.permit(0o555);
    let said = somebody.erw(&["run", "p.toml", "--plain"]).expect(2);
    insta::assert_snapshot!("read_only_new_cache", somebody.seen(&said));
    somebody.permit(0o755);
    somebody.erw(&["run", "p.toml", "--plain"]).expect(0);

    somebody.permit(0o555);
    // What needs no writing is answered.
    let said = somebody.erw(&["run", "p.toml", "--plain"]).expect(0);
    assert!(said.stdout.contains("all 3 stages are cached"), "{}", said.stdout);
    let said = somebody.erw(&["run", "p.toml", "--plain", "--force", "images"]);
    assert_ne!(said.status, 0);
    insta::assert_snapshot!("read_only_cache", somebody.seen(&said));
    somebody.permit(0o755);
    somebody.erw(&["cache", "verify"]).expect(0);
    let said = somebody.erw(&["run", "p.toml", "--plain"]).expect(0);
    assert!(said.stdout.contains("all 3 stages are cached"), "{}", said.stdout);
}

/// The store alone cannot be written to: found when a stage is done, which is then neither recorded
/// nor lost.
#[test]
fn a_read_only_store() {
    let somebody = Somebody::new();
    somebody.erw(&["cache", "verify"]).expect(0);
    let store = somebody.cache().join("v1/store");
    fs::set_permissions(&store, Permissions::from_mode(0o555)).unwrap();
    let said = somebody.erw(&["run", "p.toml", "--plain", "images"]).expect(1);
    insta::assert_snapshot!("read_only_store", somebody.seen(&said));
    fs::set_permissions(&store, Permissions::from_mode(0o755)).unwrap();
    somebody.erw(&["run", "p.toml", "--plain"]).expect(0);
    somebody.erw(&["cache", "verify"]).expect(0);
}
