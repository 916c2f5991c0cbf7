//! Images in folders, ZIPs and npz files are one set, each at its own size.

use super::{CPU, SIDE, metrics, network, pixels, samples};
use crate::support::bench::Bench;
use candle_core::{DType, Tensor};
use erw::error::Error;
use erw::ml::data::rgb::write_png;
use erw::ml::formats::NpzFile;
use erw::ml::metrics::gaussian::{Gaussian, POOLED};
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::feature_network::open::open_feature_network;
use erw::ml::models::vit::{Vit, VitConfig};
use erw::ml::nn::params::{self, ParamSet};
use erw::ml::viz::picture::write_npz;
use erw::stages;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Statistics of the images at `source`, or why there are none.
fn stats(bench: &Bench, name: &str, source: &Path, more: Value) -> Result<PathBuf, Error> {
    stats_by(bench, &network(bench, "net", 1), name, source, more)
}

fn stats_by(bench: &Bench, net: &Path, name: &str, source: &Path, more: Value) -> Result<PathBuf, Error> {
    let given = super::with(json!({"source": source}), more);
    bench.run(name, &stages::evaluation::stats::KIND, &[("network", net)], given)
}

/// A small encoder, which is shown images of any size at its own.
fn encoder(bench: &Bench) -> PathBuf {
    let vit = VitConfig { layer_scale: true, ..VitConfig::new(SIDE, 4, 12, 1, 2) };
    let (weights, vb) = ParamSet::init(3, DType::F32, &CPU);
    Vit::new(&vit, vb).unwrap();
    let dir = bench.path("encoder");
    fs::create_dir_all(&dir).unwrap();
    params::save(&weights.tensors(), &dir.join("encoder.safetensors")).unwrap();
    let config = EncoderConfig::fixed(vit, [0.5; 3], [0.5; 3]);
    fs::write(dir.join("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    dir
}

/// Writes images as PNG files `00.png`, … into a folder.
fn folder(bench: &Bench, name: &str, bytes: &[u8], side: usize) -> PathBuf {
    let dir = bench.path(name);
    fs::create_dir_all(&dir).unwrap();
    for (i, image) in bytes.chunks_exact(side * side * 3).enumerate() {
        write_png(&dir.join(format!("{i:02}.png")), image, side, side).unwrap();
    }
    dir
}

#[test]
fn folder_zip_npz_and_artifact_of_the_same_images_are_equal() {
    let bench = Bench::new();
    let bytes = pixels("a", 12, SIDE);
    let flat = folder(&bench, "flat", &bytes, SIDE);
    let classes = bench.path("classes");
    let mut zip = zip::ZipWriter::new(fs::File::create(bench.path("a.zip")).unwrap());
    for i in 0..12 {
        let (name, file) = (format!("class{}/{i:02}.png", i / 6), fs::read(flat.join(format!("{i:02}.png"))).unwrap());
        zip.start_file(&name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&file).unwrap();
        fs::create_dir_all(classes.join(&name).parent().unwrap()).unwrap();
        fs::write(classes.join(&name), file).unwrap();
    }
    zip.finish().unwrap();
    write_npz(&bench.path("any.npz"), &bytes, SIDE, SIDE, &[0; 12]).unwrap();
    let artifact = samples(&bench, "a", 12);
    // Not an image of the set.
    fs::write(artifact.join("grid.png"), fs::read(flat.join("00.png")).unwrap()).unwrap();

    let made = |name: &str, source: &Path| {
        let out = stats(&bench, name, source, json!({"arr_0": 5})).unwrap();
        (fs::read(out.join("stats.npz")).unwrap(), fs::read(out.join("stats.json")).unwrap())
    };
    let first = made("of-flat", &flat);
    for (name, source) in [
        ("of-classes", classes.as_path()),
        ("of-zip", &bench.path("a.zip")),
        ("of-npz", &bench.path("any.npz")),
        ("of-artifact", &artifact),
    ] {
        assert!(made(name, source) == first, "{name}");
    }
}

#[test]
fn images_of_different_sizes_keep_their_size() {
    let bench = Bench::new();
    let mixed = bench.path("mixed");
    fs::create_dir_all(&mixed).unwrap();
    let dir = encoder(&bench);
    let net = open_feature_network(&dir, None, &CPU).unwrap();
    let mut rows = vec![];
    for (i, (height, width)) in [(8, 8), (6, 9), (8, 8), (6, 9), (12, 4)].into_iter().enumerate() {
        let bytes: Vec<u8> = pixels(&format!("image {i}"), 1, 12)[..height * width * 3].to_vec();
        write_png(&mixed.join(format!("{i}.png")), &bytes, height, width).unwrap();
        let image = Tensor::from_vec(bytes, (1, height, width, 3), &CPU).unwrap().permute((0, 3, 1, 2)).unwrap();
        rows.push(net.features(&image.contiguous().unwrap()).unwrap());
    }
    let mean = Tensor::cat(&rows, 0).unwrap().to_dtype(DType::F64).unwrap().mean(0).unwrap();
    let out = stats_by(&bench, &dir, "s", &mixed, json!({})).unwrap();
    let found = Gaussian::read(&out.join("stats.npz"), POOLED).unwrap();
    let mean = mean.to_vec1::<f64>().unwrap();
    // One product of several images rounds otherwise than several of one.
    assert!(found.mean().iter().zip(&mean).all(|(a, b)| (a - b).abs() < 1e-5), "{:?} {mean:?}", found.mean());

    let error = stats_by(&bench, &dir, "t", &mixed, json!({"arr_0": 5})).unwrap_err();
    assert_eq!(error.message, format!("{} has 6 x 9 pixels, others have 8 x 8", mixed.join("1.png").display()));
    assert_eq!(error.hints, ["set `arr_0 = 0` to store no images: an array holds images of one size"]);
}

/// It answers for any size, and means nothing by it: not the first image alone must fit.
#[test]
fn a_classifier_refuses_every_image_of_another_size_by_name() {
    let bench = Bench::new();
    let mixed = folder(&bench, "mixed", &pixels("a", 70, SIDE), SIDE);
    let odd = |name: &str| write_png(&mixed.join(name), &pixels("odd", 1, 12)[..6 * 9 * 3], 6, 9).unwrap();
    let refused = |name: &str| {
        let error = stats(&bench, &format!("without-{name}"), &mixed, json!({})).unwrap_err();
        let text =
            "6 x 9 pixels, but the network `classifier`, which takes images at their own size, was trained on 8 x 8";
        assert!(error.to_string().contains(&format!("{}: {text}", mixed.join(name).display())), "{error:?}");
    };
    odd("66.png");
    refused("66.png");
    odd("00.png");
    refused("00.png");
    // Of an array the size is known before.
    let large = bench.path("large.npz");
    write_npz(&large, &pixels("b", 3, 12), 12, 12, &[0; 3]).unwrap();
    let error = stats(&bench, "large", &large, json!({})).unwrap_err();
    let text = "images of 12 x 12 pixels, but the classifier was trained on 8 x 8";
    assert_eq!(error.message, format!("{}: {text}", large.display()));
}

/// Without `mu` they are neither statistics nor only images.
#[test]
fn images_beside_a_part_of_statistics_are_refused() {
    let bench = Bench::new();
    let path = bench.path("part.npz");
    let mut file = NpzFile::create(&path).unwrap();
    file.numbers("sigma", &[2, 2], [1.0, 0.0, 0.0, 1.0]).unwrap();
    file.begin("arr_0", "|u1", 1, &[3, SIDE, SIDE, 3]).unwrap();
    file.write(&pixels("a", 3, SIDE)).unwrap();
    file.finish().unwrap();
    let error = stats(&bench, "s", &path, json!({})).unwrap_err();
    assert_eq!(error.message, format!("{} holds statistics, but no `mu`", path.display()));
    assert_eq!(error.hints, ["images alone are in an npz without other parts of statistics"]);
}

/// Grey, 16 bits and alpha come to RGB as everywhere here.
#[test]
fn every_image_format_is_read() {
    let bench = Bench::new();
    let kinds = bench.path("kinds");
    fs::create_dir_all(&kinds).unwrap();
    for name in ["alpha.png", "grey-alpha.png", "rgb16.png", "grey.jpg", "palette.png", "lossy.webp"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images").join(name);
        fs::copy(from, kinds.join(name)).unwrap();
    }
    stats_by(&bench, &encoder(&bench), "s", &kinds, json!({})).unwrap();
    assert_eq!(bench.result("s", "images"), Some(6.0));
}

#[test]
fn a_source_without_images_is_an_error() {
    let bench = Bench::new();
    let empty = bench.path("empty");
    fs::create_dir_all(&empty).unwrap();
    let error = stats(&bench, "e", &empty, json!({})).unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "{} holds no images (png, jpg, jpeg, jpe, jfif, webp, bmp, tif, tiff, gif, ppm, pgm, pnm, pbm)",
            empty.display()
        )
    );
    assert_eq!(error.hints, ["give a folder of images, a ZIP of them, or an npz or npy with u8 [N, H, W, 3]"]);

    let broken = folder(&bench, "broken", &pixels("a", 3, SIDE), SIDE);
    let file = broken.join("01.png");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = stats(&bench, "b", &broken, json!({})).unwrap_err();
    let said = format!("{}: not a readable image, or truncated", file.display());
    assert!(error.message.starts_with(&said), "{error:?}");

    let npz = |name: &str, array: &str, shape: &[usize], value: f64| {
        let path = bench.path(name);
        let mut file = NpzFile::create(&path).unwrap();
        file.numbers(array, shape, vec![value; shape.iter().product()]).unwrap();
        file.finish().unwrap();
        let error = stats(&bench, "n", &path, json!({})).unwrap_err();
        let hint = "images are u8 [N, H, W, 3] in `arr_0`, as `numpy.savez(path, images)` writes them";
        assert_eq!(error.hints[0], hint);
        error.message.replace(&path.display().to_string(), "FILE")
    };
    assert_eq!(npz("none.npz", "images", &[1], 0.0), "FILE: array `images` is of type f8, not u1");
    let floats = npz("floats.npz", "arr_0", &[1, 2, 2, 3], f64::NAN);
    assert_eq!(floats, "FILE: array `arr_0` is of type f8, not u1");
    let chw = bench.path("chw.npz");
    let mut file = NpzFile::create(&chw).unwrap();
    file.begin("arr_0", "|u1", 1, &[2, 3, 4, 4]).unwrap();
    file.write(&[0; 96]).unwrap();
    file.finish().unwrap();
    let error = stats(&bench, "c", &chw, json!({})).unwrap_err();
    assert_eq!(error.message, format!("{}: array `arr_0` has shape [2, 3, 4, 4], not [N, H, W, 3]", chw.display()));
    let none = bench.path("no.npz");
    write_npz(&none, &[], SIDE, SIDE, &[]).unwrap();
    let error = stats(&bench, "o", &none, json!({})).unwrap_err();
    assert_eq!(error.message, format!("`{}` holds no images", none.display()));
}

/// The images beside published statistics are not the set that those are of.
#[test]
fn images_beside_statistics_of_a_larger_set_have_a_warning() {
    let bench = Bench::new();
    let first = stats(&bench, "first", &samples(&bench, "a", 12), json!({"arr_0": 6})).unwrap();
    let second = stats(&bench, "second", &first.join("stats.npz"), json!({})).unwrap();
    let other = samples(&bench, "b", 15);
    let net = network(&bench, "net", 1);
    let inputs = [("samples", other.as_path()), ("reference", &second), ("network", &net)];
    let warnings =
        metrics(&bench.run("fid", &stages::evaluation::fid::KIND, &inputs, json!({})).unwrap())["warnings"].clone();
    let said = "the images in `source` lie beside statistics (`mu`, `sigma`) of the whole set that they are taken from; \
                distances to these images alone are not FID to that set. A `weights` stage with `as = \"stats\"` takes the \
                statistics";
    let singular = "6 images for features of dimension 10: the covariance is singular, the bias large";
    assert_eq!(warnings, json!([singular, said]));
}
