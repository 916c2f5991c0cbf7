//! Packed arrays, resizing, and stored samples: exact to the byte, with clear errors about damage.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::data::images::{ImageSet, to_unit};
use erw::ml::data::packed::{Packed, PackedWriter, ShardFile};
use erw::ml::data::resize::{Filter, center_crop, resize};
use erw::ml::data::rgb::Rgb;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::viz::picture;
use serde_json::json;
use std::fs;
use std::path::Path;

const CPU: Device = Device::Cpu;

fn golden(name: &str) -> Tensors {
    params::load(&Path::new("tests/golden").join(name), &CPU).expect("golden file")
}

fn rgb(t: &Tensor) -> Rgb {
    let (height, width, _) = t.dims3().unwrap();
    Rgb { height, width, data: t.flatten_all().unwrap().to_vec1().unwrap() }
}

fn error<T>(r: Result<T>) -> String {
    r.err().expect("an error").to_string()
}

/// A small packed array in `dir`: 10 rows in shards of 4, `x` f32 [2] = (i, -i), `y` i64 = 100 i.
fn pack(dir: &Path) -> Result<()> {
    let mut w = PackedWriter::create(dir, "things", 4)?;
    for range in [0..3, 3..9, 9..10] {
        w.push(&rows(range)?)?;
    }
    assert_eq!(w.finish(&json!({"note": "hello"}))?, 10);
    Ok(())
}

fn rows(range: std::ops::Range<i64>) -> Result<Tensors> {
    let n = (range.end - range.start) as usize;
    let x: Vec<f32> = range.clone().flat_map(|i| [i as f32, -i as f32]).collect();
    let y: Vec<i64> = range.map(|i| i * 100).collect();
    Ok(Tensors::from([("x".into(), Tensor::from_vec(x, (n, 2), &CPU)?), ("y".into(), Tensor::from_vec(y, n, &CPU)?)]))
}

#[test]
fn packed_rows_come_back_by_global_index() -> Result<()> {
    let dir = tempfile::tempdir()?;
    pack(dir.path())?;
    let p = Packed::open(dir.path())?;
    assert_eq!((p.len(), p.shape("x")?, p.shape("y")?), (10, vec![2], vec![]));
    assert_eq!(p.meta()["note"], "hello");
    assert_eq!(p.rows("y", &[9, 0, 4, 3, 4], &CPU)?.to_vec1::<i64>()?, [900, 0, 400, 300, 400]);
    assert_eq!(p.rows("x", &[7, 8], &CPU)?.to_vec2::<f32>()?, [[7., -7.], [8., -8.]]);
    assert_eq!(p.rows("x", &[], &CPU)?.dims(), [0, 2]);
    assert!(error(p.rows("z", &[0], &CPU)).contains("no tensor `z` (has x, y)"));
    assert!(error(p.rows("x", &[10], &CPU)).contains("row 10 is out of range; it has 10 rows"));
    Ok(())
}

#[test]
fn damaged_packed_arrays_are_named() -> Result<()> {
    type Damage = fn(&Path) -> std::io::Result<()>;
    let shard = "things-00001.safetensors";
    let cases: [(Damage, &str); 8] = [
        (|d| fs::OpenOptions::new().write(true).open(d.join("things-00001.safetensors"))?.set_len(90), shard),
        (|d| fs::write(d.join("things-00001.safetensors"), b"GIF89a"), shard),
        (|d| fs::write(d.join("things-00001.safetensors"), b""), shard),
        (|d| fs::remove_file(d.join("things-00002.safetensors")), "`count` is 10, but the 2 shards"),
        (|d| fs::remove_file(d.join("meta.json")), "meta.json"),
        (|d| fs::write(d.join("meta.json"), "{"), "not JSON"),
        (|d| fs::write(d.join("meta.json"), "{\"format\": 2}"), "format 2"),
        (|d| fs::copy(d.join("things-00000.safetensors"), d.join("other-00000.safetensors")).map(|_| ()), "several"),
    ];
    for (damage, expected) in cases {
        let dir = tempfile::tempdir()?;
        pack(dir.path())?;
        damage(dir.path())?;
        let text = error(Packed::open(dir.path()));
        assert!(text.contains(expected), "{text}");
    }
    Ok(())
}

#[test]
fn shards_of_one_array_hold_the_same_tensors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("things-00000.safetensors");
    let mut shard = ShardFile::create(&path, 9, &rows(0..1)?)?;
    shard.push(&rows(0..4)?, 0, 4)?;
    let mut other = rows(4..5)?;
    other.remove(&other.keys().next().unwrap().clone());
    let text = error(shard.push(&other, 0, 1));
    assert!(text.contains("have other tensors"), "{text}");
    let narrow =
        Tensors::from([("x".into(), Tensor::zeros((1, 3), DType::F32, &CPU)?), ("y".into(), rows(0..1)?["y"].clone())]);
    assert!(error(shard.push(&narrow, 0, 1)).contains("have other tensors"));
    assert!(error(shard.push(&rows(4..10)?, 0, 6)).contains("6 rows for a shard that lacks 5"));
    drop(shard);
    assert_eq!(fs::read_dir(dir.path())?.count(), 0, "nothing is left of a shard that was not finished");
    Ok(())
}

/// Also of one that ends before its stated number of rows.
#[test]
fn a_shard_has_the_bytes_of_the_whole_tensors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (path, whole) = (dir.path().join("things-00000.safetensors"), dir.path().join("whole.safetensors"));
    for (stated, parts) in [(4, [0..1, 1..4]), (100, [0..1, 1..4]), (300_000, [0..1, 1..150_000])] {
        let mut shard = ShardFile::create(&path, stated, &rows(0..1)?)?;
        let end = parts[1].end;
        for part in parts {
            // From the middle of what is given, as at the border of two shards.
            let count = (part.end - part.start) as usize;
            shard.push(&rows(part.start - 2..part.end + 1)?, 2, count)?;
        }
        shard.finish()?;
        erw::ml::nn::params::save(&rows(0..end)?, &whole)?;
        assert!(fs::read(&whole)? == fs::read(&path)?, "{end} of {stated} rows");
        assert_eq!(fs::read_dir(dir.path())?.count(), 2);
    }
    Ok(())
}

#[test]
fn resizing_equals_pillow_byte_for_byte() {
    let g = golden("resize_pil.safetensors");
    let mut crops = 0;
    for (key, size) in g.keys().filter_map(|k| Some((k, k.strip_prefix("in/")?.split_once("_to_")?.1))) {
        let key = key.trim_start_matches("in/");
        let got = center_crop(&rgb(&g[&format!("in/{key}")]), size.parse().unwrap());
        assert_eq!(got, rgb(&g[&format!("out/{key}")]), "{key}");
        crops += 1;
    }
    assert_eq!(crops, 9);
    let source = rgb(&g["in/filters"]);
    for (name, filter) in [("box", Filter::Box), ("bicubic", Filter::Bicubic)] {
        for (h, w) in [(32, 32), (90, 40)] {
            let want = rgb(&g[&format!("out/filters_{name}_{h}x{w}")]);
            assert_eq!(resize(&source, h, w, filter), want, "{name} {h}x{w}");
        }
    }
}

/// A gradient, different for each `n`.
fn picture(n: u8, height: usize, width: usize) -> Rgb {
    let data = (0..height * width).flat_map(|i| [(i * 7 % 256) as u8, n, (i / width) as u8]).collect();
    Rgb { height, width, data }
}

#[test]
fn samples_are_read_back_and_have_equal_bytes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("samples.npz");
    let images: Vec<u8> = (0..5).flat_map(|n| picture(n, 3, 4).data).collect();
    picture::write_npz(&path, &images, 3, 4, &[7, -1, 0, 3, 2])?;
    let set = ImageSet::open(dir.path())?;
    assert_eq!((set.len(), set.height(), set.width(), set.labels()), (5, 3, 4, vec![7, -1, 0, 3, 2]));
    let batch = set.batch(&[4, 1], &CPU)?;
    assert_eq!(batch.dims(), [2, 3, 3, 4]);
    let back = batch.permute((0, 2, 3, 1))?.contiguous()?;
    assert_eq!(rgb(&back.get(0)?), picture(4, 3, 4));
    assert_eq!(rgb(&back.get(1)?), picture(1, 3, 4));
    let first = fs::read(&path)?;
    let mut w = picture::NpzWriter::create(&path, 5, 3, 4)?;
    images.chunks(2 * 3 * 4 * 3).try_for_each(|c| w.push(c))?;
    w.finish(&[7, -1, 0, 3, 2])?;
    assert_eq!(first, fs::read(&path)?);
    fs::write(&path, &first[..first.len() / 2])?;
    assert!(error(ImageSet::open(dir.path())).contains("samples.npz"));
    let short = picture::NpzWriter::create(&path, 6, 3, 4)?;
    assert!(error(short.finish(&[])).contains("samples.npz: 216 bytes of an array are missing"));
    Ok(())
}

#[test]
fn packed_images_open_as_a_set() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut w = PackedWriter::create(dir.path(), "images", 2)?;
    let images: Vec<u8> = (0..3).flat_map(|n| picture(n, 2, 2).data).collect();
    let rows = Tensors::from([
        ("images".into(), Tensor::from_vec(images, (3, 2, 2, 3), &CPU)?),
        ("labels".into(), Tensor::new(&[0i64, 1, 1], &CPU)?),
    ]);
    w.push(&rows)?;
    w.finish(&json!({"height": 2, "width": 2, "classes": ["cat", "dog"]}))?;
    let set = ImageSet::open(dir.path())?;
    assert_eq!((set.len(), set.classes(), set.labels()), (3, &["cat".to_string(), "dog".into()][..], vec![0, 1, 1]));
    let unit = to_unit(&set.batch(&[2], &CPU)?)?;
    assert_eq!(unit.dtype(), DType::F32);
    assert_eq!(unit.get(0)?.get(1)?.flatten_all()?.to_vec1::<f32>()?, [2.0 / 127.5 - 1.0; 4]);
    Ok(())
}

#[test]
fn every_byte_survives_conversion_to_floats_and_back() -> Result<()> {
    let all = Tensor::from_vec((0..=255u8).collect::<Vec<_>>(), (1, 1, 16, 16), &CPU)?;
    let back = picture::to_u8(&to_unit(&all)?)?.flatten_all()?.to_vec1::<u8>()?;
    assert_eq!(back, (0..=255u8).collect::<Vec<_>>());
    let wild = Tensor::new(&[-9f32, 9.0, 0.0], &CPU)?.reshape((1, 1, 1, 3))?;
    assert_eq!(picture::to_u8(&wild)?.flatten_all()?.to_vec1::<u8>()?, [0, 255, 128]);
    Ok(())
}

#[test]
fn contact_sheets_enlarge_by_whole_pixels() {
    let images = [[0u8; 12], [255; 12], [9; 12]].concat();
    let sheet = picture::contact_sheet(&images, 2, 2, 2, 3);
    assert_eq!((sheet.height, sheet.width), (2 * 8 + 2, 2 * 8 + 2));
    let at = |y: usize, x: usize| sheet.data[(y * sheet.width + x) * 3];
    assert_eq!((at(2, 2), at(7, 7), at(8, 8), at(2, 10), at(10, 2)), (0, 0, 255, 255, 9));
}
