//! Image sets that tarfile, webdataset and Hugging Face's `datasets` write make the same artifact as
//! the folder that they were made of.

use crate::support::bench::Bench;
use crate::support::deadline::Deadline;
use crate::support::python;
use crate::support::space::Said;
use erw::error::Result;
use erw::ml::data::source::ImageListing;
use erw::stages;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of an artifact by name.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = walkdir::WalkDir::new(dir).into_iter().map(|entry| entry.unwrap().into_path());
    let all = all.filter(|path| path.is_file()).map(|path| (path.strip_prefix(dir).unwrap().into(), fs::read(&path)));
    all.map(|(name, bytes)| (name, bytes.unwrap())).collect()
}

#[test]
fn a_set_makes_the_same_artifact_whoever_wrote_it() -> Result<()> {
    let Some(python) = python::data() else { return Ok(()) };
    let bench = Bench::new();
    let folder = bench.path("folder");
    for i in 0..11u8 {
        let image = image::RgbImage::from_fn(9, 8, |x, y| image::Rgb([i * 20, x as u8 * 28, y as u8 * 31]));
        fs::create_dir_all(folder.join((i % 3).to_string())).unwrap();
        image.save(folder.join(format!("{}/{i:02}.png", i % 3))).unwrap();
    }
    let out = bench.path("out");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/write_sets.py");
    let mut command = Command::new(&python);
    command.arg(script).args([&folder, &out]).env("HF_HUB_OFFLINE", "1").env("HOME", bench.path("home"));
    Said::from(command.finish()).expect(0);

    let images = |name: &str, source: &Path| {
        bench
            .run(name, &stages::data::images::KIND, &[], json!({"source": source, "resolution": 8}))
            .map(|dir| files(&dir))
    };
    let expected = images("folder", &folder)?;
    assert!(expected.len() > 1);
    for name in ["gnu.tar", "pax.tar", "ustar.tar", "classes.tar", "shards", "hub", "snappy.parquet"] {
        assert!(images(name, &out.join(name))? == expected, "{name}");
    }
    // What is not read can be made readable by what the error says.
    let said = ImageListing::open(&out.join("zstd.parquet"), None, None).unwrap_err().to_string();
    let code = said.split('"').nth(1).unwrap_or_else(|| panic!("{said}"));
    Said::from(Command::new(&python).args(["-c", code]).current_dir(&out).finish()).expect(0);
    assert!(images("converted", &out.join("zstd.snappy.parquet"))? == expected);
    Ok(())
}
