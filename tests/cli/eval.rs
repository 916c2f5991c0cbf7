//! `erw eval`: the same numbers for every form of input, cached the second time, resumed after a
//! kill; features of other tools; and errors that name arguments of the command line.

use crate::support::deadline::Deadline;
use crate::support::space::{Said, Space};
use candle_core::{DType, Device, Tensor};
use erw::ml::formats::NpzFile;
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use erw::ml::rng;
use erw::ml::rng::Purpose;
use erw::ml::viz::picture::write_npz;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

const CPU: Device = Device::Cpu;
/// Pixels of a side, of the classifier's images and all others.
const SIZE: usize = 8;

/// A small network of images.
const PIPELINE: &str = r#"
[stages.images]
kind = "images"
params = { source = "pictures", resolution = 8, transform = "none" }

[stages.classifier]
kind = "train-classifier"
inputs = { images = "images" }
params = { channels = [4, 8], features = 8, norm_num_groups = 4, steps = 2, batch = 4 }
"#;
const NETWORK: [&str; 2] = ["--network", "p.toml:classifier"];

/// Pixels of `count` images that `seed` tells apart.
fn pixels(seed: u64, count: usize) -> Vec<u8> {
    let ids: Vec<u64> = (0..count as u64).collect();
    let rows = rng::normal_rows(seed, Purpose::Probe, 0, &ids, &[SIZE * SIZE * 3], &CPU).unwrap();
    let values = rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().map(|x| (x * 40.0 + 100.0 + 30.0 * seed as f32) as u8).collect()
}

/// PNG files of images in a folder.
fn write_folder(dir: &Path, pixels: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    for (i, image) in pixels.chunks(SIZE * SIZE * 3).enumerate() {
        let image = image::RgbImage::from_raw(SIZE as u32, SIZE as u32, image.to_vec()).unwrap();
        image.save(dir.join(format!("{i:04}.png"))).unwrap();
    }
}

fn write_zip(folder: &Path, to: &Path) {
    let mut zip = zip::ZipWriter::new(fs::File::create(to).unwrap());
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files {
        zip.start_file_from_path(file.file_name().unwrap(), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&fs::read(&file).unwrap()).unwrap();
    }
    zip.finish().unwrap();
}

/// An npz of arrays in their own types.
fn write_arrays(path: &Path, arrays: &[(&str, &Tensor)]) {
    let mut npz = NpzFile::create(path).unwrap();
    for (name, array) in arrays {
        let flat = array.flatten_all().unwrap();
        let (descr, bytes): (&str, Vec<u8>) = match array.dtype() {
            DType::U8 => ("|u1", flat.to_vec1::<u8>().unwrap()),
            DType::F32 => ("<f4", flat.to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect()),
            _ => ("<f8", flat.to_vec1::<f64>().unwrap().iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        npz.begin(name, descr, array.dtype().size_in_bytes(), array.dims()).unwrap();
        npz.write(&bytes).unwrap();
    }
    npz.finish().unwrap();
}

/// A classifier that was trained by `p.toml`, and folders `gen` and `ref` of 24 and 30 images.
fn space() -> Space {
    let space = Space::new(PIPELINE);
    for (class, name) in ["dark", "light"].into_iter().enumerate() {
        write_folder(&space.path("pictures").join(name), &pixels(class as u64, 6));
    }
    space.run(&[]).expect(0);
    write_folder(&space.path("gen"), &pixels(2, 24));
    write_folder(&space.path("ref"), &pixels(3, 30));
    space
}

fn eval(space: &Space, args: &[&str]) -> Said {
    space.erw(&[&["eval"], args, &["--plain"]].concat())
}

/// By the network of [`space`].
fn by_classifier(space: &Space, args: &[&str]) -> Said {
    eval(space, &[args, &NETWORK].concat())
}

fn object(said: Said) -> Value {
    serde_json::from_str(&said.expect(0).stdout).unwrap()
}

/// What is told of a failure, without the place of its log.
fn error(space: &Space, said: &Said) -> String {
    let text = space.plain(&said.stderr);
    let text = &text[text.find("error: ").unwrap_or_else(|| panic!("{text}"))..];
    text.lines().filter(|l| !l.starts_with("hint: its log is")).collect::<Vec<_>>().join("\n")
}

#[test]
fn folder_zip_and_npz_give_the_same_digits() {
    let space = space();
    let value = |samples: &str| {
        let all = object(by_classifier(&space, &["all", samples, "ref", "--json", "--kid-subset-size", "10"]));
        all["metrics"].clone()
    };
    let folder = value("gen");
    let names: Vec<&String> = folder.as_object().unwrap().keys().collect();
    assert_eq!(names, ["fd", "precision", "recall", "kd", "kd_std"]);
    assert!(folder["fd"].as_f64().unwrap() > 0.0, "{folder}");
    write_zip(&space.path("gen"), &space.path("gen.zip"));
    write_npz(&space.path("gen.npz"), &pixels(2, 24), SIZE, SIZE, &[0; 24]).unwrap();
    assert_eq!(value("gen.zip"), folder);
    assert_eq!(value("gen.npz"), folder);
}

#[test]
fn results_and_features_are_cached() {
    let space = space();
    let first = by_classifier(&space, &["fid", "gen", "ref"]).expect(0);
    assert_eq!(
        first.stdout.lines().skip(5).collect::<Vec<_>>(),
        ["samples    gen: 24 images", "reference  ref: 30 images", "network    classifier: x / 127.5 - 1"]
    );
    let second = by_classifier(&space, &["fid", "gen", "ref"]).expect(0);
    assert_eq!(second.stdout, first.stdout.clone() + "cached: nothing was computed\n");
    // Another metric looks at no image again.
    let other = by_classifier(&space, &["pr", "gen", "ref"]).expect(0);
    // Whichever comes first.
    for side in ["samples: cached\n", "reference: cached\n"] {
        assert!(other.stderr.contains(side), "{}", other.stderr);
    }
    assert!(!other.stdout.contains("cached"), "{}", other.stdout);
    // A change of a file is seen.
    write_folder(&space.path("ref"), &pixels(4, 30));
    let changed = by_classifier(&space, &["fid", "gen", "ref"]).expect(0);
    assert!(changed.stderr.contains("samples: cached\n") && !changed.stdout.contains("cached"), "{}", changed.stderr);
    assert_ne!(changed.stdout, first.stdout);
}

#[test]
fn a_killed_evaluation_resumes() {
    let space = space();
    write_npz(&space.path("many.npz"), &pixels(5, 6000), SIZE, SIZE, &[0; 6000]).unwrap();
    let args = ["eval", "fid", "many.npz", "ref", "--json", "--plain", "--network", "p.toml:classifier"];
    let undisturbed = object(space.erw(&[&args[..], &["--cache-dir", "cache"]].concat()));
    // A cache of its own, in which the network is there.
    space.erw(&["run", "p.toml", "--cache-dir", "other"]).expect(0);
    let mut child = space.command(&[&args[..], &["--cache-dir", "other"]].concat()).stderr(Stdio::piped()).start();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|l| l.as_ref().unwrap().starts_with("samples: checkpoint")).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let again = space.erw(&[&args[..], &["--cache-dir", "other"]].concat());
    assert!(again.stderr.contains("samples: resumes from step "), "{}", again.stderr);
    let again = object(again);
    assert_eq!((&again["metrics"], &again["samples"]), (&undisturbed["metrics"], &undisturbed["samples"]));
}

#[test]
fn the_json_names_both_sides_and_the_log_finds_the_run() {
    let space = space();
    let all = object(by_classifier(&space, &["fid", "gen", "p.toml:images", "--limit", "10", "--json"]));
    let keys: Vec<&String> = all.as_object().unwrap().keys().collect();
    let told = ["metrics", "samples", "reference", "network", "preparation", "mode", "warnings", "cached", "detail"];
    assert_eq!(keys, told);
    assert_eq!(all["samples"], serde_json::json!({ "given": "gen", "images": 10, "sampler": null }));
    assert_eq!(all["reference"], serde_json::json!({ "given": "p.toml:images", "images": 10 }));
    assert_eq!((&all["network"], &all["mode"], &all["cached"]), (&"classifier".into(), &Value::Null, &false.into()));
    // The run is found by the names of what it was about.
    let log = space.erw(&["log"]).expect(0).stdout;
    assert!(log.contains("eval gen p.toml:images"), "{log}");
}

#[test]
fn statistics_are_written_and_compared_with() {
    let space = space();
    let said = by_classifier(&space, &["stats", "ref", "-o", "ref-stats.npz"]).expect(0);
    assert_eq!(said.stdout, "images   ref: 30 images\nnetwork  classifier: x / 127.5 - 1\nwritten  ref-stats.npz\n");
    // Others may write to it, the store's files may not be written to.
    assert!(!fs::metadata(space.path("ref-stats.npz")).unwrap().permissions().readonly());
    let value = |reference: &str| object(by_classifier(&space, &["fid", "gen", reference, "--json"]));
    let (images, statistics) = (value("ref"), value("ref-stats.npz"));
    assert_eq!(images["metrics"], statistics["metrics"]);
    assert_eq!((&images["reference"]["images"], &statistics["reference"]["images"]), (&30.into(), &30.into()));
    // A bundle leaves out what they cannot give; what is asked for by name is refused.
    let all = object(by_classifier(&space, &["all", "gen", "ref-stats.npz", "--json"]));
    assert_eq!(all["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["fd"]);
    let told: Vec<&str> = all["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let no = |metric: &str| format!("no {metric}: `ref-stats.npz` holds no images (`arr_0`), which `{metric}` needs");
    assert_eq!(told[told.len() - 3..], ["precision", "recall", "kid"].map(no));
    let said = by_classifier(&space, &["pr", "gen", "ref-stats.npz"]).expect(2);
    let text = "error: `ref-stats.npz` holds no images (`arr_0`), which `precision` needs";
    assert_eq!(error(&space, &said), text);
    let said = by_classifier(&space, &["fid", "ref-stats.npz", "ref"]).expect(2);
    let text = "error: `ref-stats.npz` holds published statistics, not samples\nhint: the order is SAMPLES REFERENCE";
    assert_eq!(error(&space, &said), text);
}

#[test]
fn statistics_with_images_give_all_metrics() {
    let space = space();
    by_classifier(&space, &["stats", "ref", "-o", "ref-stats.npz", "--arr-0", "30"]).expect(0);
    let value = |reference: &str| {
        let all = object(by_classifier(&space, &["all", "gen", reference, "--json", "--kid-subset-size", "10"]));
        all["metrics"].clone()
    };
    assert_eq!(value("ref-stats.npz"), value("ref"));
}

/// KID's subsets have 1,000 images; no number is better than one that compares with none.
#[test]
fn kid_of_few_images_is_computed_only_on_request() {
    let space = space();
    for given in ["gen", "p.toml:images"] {
        let all = object(by_classifier(&space, &["all", given, "ref", "--limit", "10", "--json"]));
        assert_eq!(all["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["fd", "precision", "recall"]);
        let last = all["warnings"].as_array().unwrap().last().unwrap();
        assert_eq!(last, &format!("no kid: `{given}` has 10 images, but a subset of `kid` needs 1000"));
    }
    let said = by_classifier(&space, &["kid", "gen", "ref"]).expect(2);
    let text = "error: `gen` has 24 images, but a subset of `kid` needs 1000\n\
                hint: `--kid-subset-size` sets another size; its values are not comparable";
    assert_eq!(error(&space, &said), text);
}

#[test]
fn other_arrays_in_an_npz_are_ignored() {
    let space = space();
    let images = Tensor::from_vec(pixels(2, 24), (24, SIZE, SIZE, 3), &CPU).unwrap();
    let scores = Tensor::zeros((24, 10), DType::F32, &CPU).unwrap();
    write_arrays(&space.path("scores.npz"), &[("arr_0", &images), ("arr_1", &scores)]);
    let value = |samples: &str| object(by_classifier(&space, &["fid", samples, "ref", "--json"]))["metrics"].clone();
    assert_eq!(value("scores.npz"), value("gen"));
}

/// A number that cannot be had costs no pass over the images.
#[test]
fn too_few_images_are_an_error_before_anything_is_computed() {
    let space = space();
    let npz = |name: &str, count: usize| {
        write_npz(&space.path(name), &pixels(2, count), SIZE, SIZE, &vec![0; count]).unwrap();
    };
    npz("three.npz", 3);
    let all = object(by_classifier(&space, &["all", "three.npz", "ref", "--json"]));
    assert_eq!(all["metrics"].as_object().unwrap().keys().collect::<Vec<_>>(), ["fd"]);
    let told: Vec<&str> = all["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let no = |metric: &str| format!("no {metric}: `three.npz` has 3 images, but `{metric}` with 3 neighbours needs 4");
    assert_eq!(told[1..3], ["precision", "recall"].map(no));
    let said = by_classifier(&space, &["pr", "gen", "ref", "-k", "24"]).expect(2);
    let text = "error: `gen` has 24 images, but `precision` with 24 neighbours needs 25\n\
                hint: `-k` sets another number of neighbours; its values are not comparable";
    assert_eq!(error(&space, &said), text);
    // Images beside statistics are few, too, and `--limit` is not about them.
    npz("many.npz", 1000);
    by_classifier(&space, &["stats", "ref", "-o", "ref-stats.npz", "--arr-0", "30"]).expect(0);
    let said = by_classifier(&space, &["kid", "many.npz", "ref-stats.npz"]).expect(2);
    assert!(error(&space, &said).starts_with("error: `ref-stats.npz` has 30 images, but a subset of `kid` needs 1000"));
    let args = ["kid", "gen", "ref-stats.npz", "--limit", "20", "--kid-subset-size", "20"];
    by_classifier(&space, &args).expect(0);
}

fn warnings(all: &Value) -> Vec<&str> {
    all["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_set_compared_with_itself_has_a_warning() {
    let space = space();
    let same = "the samples and the reference are the same: how far a set is from itself says nothing about it";
    write_npz(&space.path("a.npz"), &pixels(2, 24), SIZE, SIZE, &[0; 24]).unwrap();
    for given in ["gen", "a.npz", "p.toml:images"] {
        let all = object(by_classifier(&space, &["fd", given, given, "--json"]));
        assert!(warnings(&all).contains(&same), "{given}: {all}");
    }
    let all = object(by_classifier(&space, &["fd", "gen", "ref", "--json"]));
    assert!(!warnings(&all).contains(&same), "{all}");
}

/// Which of the images they are of cannot be chosen any more.
#[test]
fn a_limit_that_statistics_do_not_obey_is_told() {
    let space = space();
    by_classifier(&space, &["stats", "ref", "-o", "ref-stats.npz"]).expect(0);
    let all = object(by_classifier(&space, &["fd", "gen", "ref-stats.npz", "--limit", "10", "--json"]));
    assert_eq!((&all["samples"]["images"], &all["reference"]["images"]), (&10.into(), &30.into()));
    let told = "`--limit` is about images: the statistics `ref-stats.npz` are of all";
    assert!(warnings(&all).contains(&told), "{all}");
    let all = object(by_classifier(&space, &["fd", "gen", "ref-stats.npz", "--json"]));
    assert!(!warnings(&all).contains(&told), "{all}");
}

#[test]
fn statistics_without_a_mean_are_neither_statistics_nor_images() {
    let space = space();
    let sigma = Tensor::eye(8, DType::F64, &CPU).unwrap();
    let mu = Tensor::zeros(8, DType::F64, &CPU).unwrap();
    let images = Tensor::from_vec(pixels(2, 24), (24, SIZE, SIZE, 3), &CPU).unwrap();
    write_arrays(&space.path("sigma.npz"), &[("sigma", &sigma)]);
    write_arrays(&space.path("part.npz"), &[("sigma", &sigma), ("mu_s", &mu), ("sigma_s", &sigma), ("arr_0", &images)]);
    for (file, arrays) in [("sigma.npz", "`sigma`"), ("part.npz", "`arr_0`, `mu_s`, `sigma`, `sigma_s`")] {
        let said = by_classifier(&space, &["fd", "gen", file]).expect(2);
        let text = format!("error: `{file}` holds statistics, but no `mu`\nhint: its arrays are {arrays}");
        assert_eq!(error(&space, &said), text);
    }
}

/// Their number is what memory and time grow with.
#[test]
fn absurd_numbers_of_subsets_are_refused_at_once() {
    let space = space();
    for (name, value, range) in
        [("--kid-subsets", "4294967295", "1..=100000"), ("--kid-subset-size", "4294967295", "2..=1000000")]
    {
        let said = by_classifier(&space, &["kid", "gen", "ref", name, value]).expect(2).stderr;
        assert!(said.contains(&format!("{value} is not in {range}")), "{said}");
    }
    let fd = "\n[stages.fd]\nkind = \"fid\"\ninputs = { samples = \"images\", reference = \"images\", network = \
              \"classifier\" }\n";
    space.write("q.toml", &format!("{PIPELINE}{fd}"));
    for (name, value) in [("kid_subsets", "1000000000000"), ("kid_subset_size", "1000000000000")] {
        let said = space.erw(&["plan", "q.toml", "--set", &format!("fd.{name}={value}")]).expect(2).stderr;
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
}

/// A classifier takes images at their own size.
#[test]
fn an_image_of_another_size_is_named() {
    let space = space();
    let odd = image::RgbImage::new(6, 9);
    odd.save(space.path("gen/0020.png")).unwrap();
    let said = by_classifier(&space, &["fd", "gen", "ref"]).expect(1);
    let text = "0020.png: 9 x 6 pixels, but the network `classifier`, which takes images at their own size, was trained \
                on 8 x 8";
    assert!(error(&space, &said).contains(text), "{}", said.stderr);
}

/// FID of a set with itself is 0, and looks like a triumph.
#[test]
fn one_set_alone_gives_no_fid() {
    let space = space();
    let said = by_classifier(&space, &["is", "gen", "--metrics", "fid"]).expect(2);
    let text = "error: `fid` needs a reference, but `erw eval is` takes none\n\
                hint: run `erw eval fid SAMPLES REFERENCE --metrics is` to compute both";
    assert_eq!(error(&space, &said), text);
}

/// Statistics of another network, or of another mode, have the same shapes.
#[test]
fn statistics_of_another_network_are_refused() {
    let space = space();
    space.write("q.toml", &PIPELINE.replace("steps = 2", "steps = 3"));
    space.erw(&["run", "q.toml"]).expect(0);
    by_classifier(&space, &["stats", "ref", "-o", "ref-stats.npz"]).expect(0);
    let statistics = "[stages.statistics]\nkind = \"stats\"\n\
                      inputs = { images = \"images\", network = \"classifier\" }\n";
    space.write("p.toml", &format!("{PIPELINE}\n{statistics}"));
    space.erw(&["run", "p.toml"]).expect(0);
    space.erw(&["export", "p.toml", "statistics", "exported"]).expect(0);
    for given in ["ref-stats.npz", "exported"] {
        by_classifier(&space, &["fid", "gen", given]).expect(0);
        let said = eval(&space, &["fid", "gen", given, "--network", "q.toml:classifier"]).expect(1);
        let text =
            format!("error: `{given}` and the images have features of different networks, which cannot be compared");
        assert!(error(&space, &said).starts_with(&text), "{}", said.stderr);
        let said = eval(&space, &["fid", "gen", given]).expect(2);
        let text = format!(
            "error: `{given}` has features of the network `classifier`, but the images would be measured with another\n\
             hint: give this network with `--network`"
        );
        assert_eq!(error(&space, &said), text);
    }
    // Of Inception, the mode is what tells.
    let note = |mode: &str| {
        let note = serde_json::json!({ "network": "fid-inception", "mode": mode, "preparation": "", "weights": "" });
        space.write("exported/stats.json", &note.to_string());
    };
    note("pytorch-fid");
    let said = eval(&space, &["fid", "gen", "exported"]).expect(2);
    let text = "error: `exported` was made in mode pytorch-fid, but the images would be prepared for adm\n\
                hint: use `--mode pytorch-fid`";
    assert_eq!(error(&space, &said), text);
    // Those of others say nothing, and that is said.
    let mu = Tensor::zeros(8, DType::F64, &CPU).unwrap();
    let sigma = Tensor::eye(8, DType::F64, &CPU).unwrap();
    write_arrays(&space.path("others.npz"), &[("mu", &mu), ("sigma", &sigma)]);
    let all = object(by_classifier(&space, &["fid", "gen", "others.npz", "--json"]));
    let text = "the reference does not say of which network it is; only the number of features was compared";
    assert!(all["warnings"].as_array().unwrap().contains(&text.into()), "{}", all["warnings"]);
}

#[test]
fn unwritable_outputs_and_wrong_networks_are_refused_first() {
    let space = space();
    let refused = |args: &[&str], text: &str| {
        let said = by_classifier(&space, args).expect(2);
        assert_eq!(error(&space, &said), text);
    };
    refused(&["stats", "gen", "-o", "no/out.npz"], "error: no folder `no` for `-o no/out.npz`");
    refused(&["stats", "gen", "-o", "ref"], "error: `ref` is a folder\nhint: give a file for `-o`");
    let text = "error: `cmmd` needs CLIP embeddings, but the network is not CLIP\n\
                hint: give a CLIP network with `--network`, or leave it out";
    refused(&["cmmd", "gen", "ref"], text);
}

/// The network, 96 MB, is not there and cannot be fetched.
#[test]
fn images_are_looked_for_before_a_network_is_fetched() {
    let space = space();
    fs::create_dir(space.path("empty")).unwrap();
    for args in
        [&["all", "empty", "ref"][..], &["fid", "gen", "empty"], &["is", "empty"], &["stats", "empty", "-o", "o"]]
    {
        let said = eval(&space, args).expect(1);
        assert!(error(&space, &said).contains("empty holds no images"), "{}", said.stderr);
        assert!(!said.stderr.contains("fetched"), "{}", said.stderr);
    }
}

#[test]
fn artifacts_are_read_by_digest_and_from_exports() {
    let space = space();
    let shown: Value = serde_json::from_str(&space.erw(&["show", "p.toml:images", "--json"]).expect(0).stdout).unwrap();
    space.erw(&["export", "p.toml", "images", "exported"]).expect(0);
    let digits = &shown["digest"].as_str().unwrap()[..10];
    let value =
        |reference: &str| object(by_classifier(&space, &["fid", "gen", reference, "--json"]))["metrics"].clone();
    let named = value("p.toml:images");
    assert_eq!(value("exported"), named);
    assert_eq!(value(digits), named);
    let said = by_classifier(&space, &["fid", "gen", "0000"]).expect(2);
    assert_eq!(error(&space, &said), "error: no artifact `0000` in the cache\nhint: run `erw cache ls` to list them");
}

#[test]
fn errors_name_arguments_of_the_command_line() {
    let space = space();
    let refused = |args: &[&str], status: i32, text: &str| {
        let said = by_classifier(&space, args).expect(status);
        assert_eq!(error(&space, &said), text);
        assert_eq!(said.stdout, "");
    };
    fs::create_dir(space.path("empty")).unwrap();
    refused(
        &["fid", "empty", "ref"],
        1,
        "error: samples: empty holds no images (png, jpg, jpeg, jpe, jfif, webp, bmp, tif, tiff, gif, ppm, pgm, pnm, pbm)\n\
         hint: give a folder of images, a ZIP of them, or an npz or npy with u8 [N, H, W, 3]",
    );
    let floats = Tensor::zeros((3, SIZE, SIZE, 3), DType::F32, &CPU).unwrap();
    write_arrays(&space.path("floats.npz"), &[("arr_0", &floats)]);
    refused(
        &["fid", "gen", "floats.npz"],
        1,
        "error: reference: floats.npz: array `arr_0` is of type f4, not u1\n\
         hint: images are u8 [N, H, W, 3] in `arr_0`, as `numpy.savez(path, images)` writes them\n\
         hint: convert values from 0 to 1 to u8 with `(x * 255).round().astype('uint8')`, values from -1 to 1 with \
         `((x + 1) * 127.5).round().clip(0, 255).astype('uint8')`",
    );
    let planes = Tensor::zeros((4, 4, SIZE, SIZE), DType::U8, &CPU).unwrap();
    write_arrays(&space.path("other.npz"), &[("images", &planes), ("labels", &planes)]);
    refused(
        &["fid", "other.npz", "ref"],
        2,
        "error: `other.npz` holds neither images (`arr_0`) nor statistics (`mu` and `sigma`)\n\
         hint: its arrays are `images`, `labels`",
    );
    refused(
        &["fid", "nothing", "ref"],
        2,
        "error: nothing at `nothing`\n\
         hint: give a folder, a ZIP, an npz or npy, digits of an artifact's digest, or FILE.toml:STAGE",
    );
    let statistics = |name: &str, dim: usize| {
        let mu = Tensor::zeros(dim, DType::F64, &CPU).unwrap();
        let sigma = Tensor::eye(dim, DType::F64, &CPU).unwrap();
        write_arrays(&space.path(name), &[("mu", &mu), ("sigma", &sigma)]);
    };
    statistics("five.npz", 5);
    let said = by_classifier(&space, &["fid", "gen", "five.npz"]).expect(1);
    assert!(error(&space, &said).contains("has 5 features"), "{}", said.stderr);
    refused(
        &["is", "gen"],
        2,
        "error: `is` needs Inception, but the network is of type `classifier`\n\
         hint: give an Inception network with `--network`, or leave it out",
    );
    refused(
        &["fid", "gen", "ref", "--device", "tpu"],
        2,
        "error: unknown device `tpu`\nhint: devices are `cpu`, `cuda` and `cuda:N`",
    );
    let said = eval(&space, &["fid", "gen", "ref", "--network", "dinov2-vit"]).expect(2);
    let text = "error: `--network dinov2-vit`: neither a file nor the name of a published network";
    assert!(error(&space, &said).starts_with(text), "{}", said.stderr);
    space.write("p.toml", &PIPELINE.replace("steps = 2", "steps = 3"));
    refused(
        &["fid", "gen", "ref"],
        2,
        "error: stage `classifier` of `p.toml` is not up to date\nhint: run `erw run p.toml classifier` first",
    );
}

#[test]
fn inception_is_read_from_a_weights_file() {
    let space = Space::of(&[]);
    params::save(crate::ml::inception::recipe(), &space.path("random.safetensors")).unwrap();
    write_folder(&space.path("gen"), &pixels(2, 2));
    let args =
        ["stats", "gen", "--network", "random.safetensors", "--mode", "torch-fidelity", "-o", "out.npz", "--json"];
    let all = object(eval(&space, &args));
    assert_eq!((&all["mode"], &all["images"]["images"]), (&"torch-fidelity".into(), &2.into()));
    let arrays = erw::ml::formats::WeightsFile::open(&space.path("out.npz")).unwrap().tensors("").unwrap();
    let shapes: Vec<(&str, &[usize])> = arrays.iter().map(|(name, t)| (name.as_str(), t.dims())).collect();
    let expected: [(&str, &[usize]); 4] =
        [("mu", &[2048]), ("mu_s", &[2023]), ("sigma", &[2048, 2048]), ("sigma_s", &[2023, 2023])];
    assert_eq!(shapes, expected);
}

/// Features of 60 samples in every format, the last ones under names.
fn features(space: &Space) -> (Tensor, Tensor) {
    let ids: Vec<u64> = (0..60).collect();
    let rows = |seed, dim: usize| rng::normal_rows(seed, Purpose::Probe, 0, &ids, &[dim], &CPU).unwrap();
    let a = rows(1, 6);
    let b = (a.matmul(&rows(2, 6).narrow(0, 0, 6).unwrap()).unwrap() + rows(3, 6)).unwrap();
    params::save(&Tensors::from([("x".into(), a.clone())]), &space.path("a.safetensors")).unwrap();
    write_arrays(&space.path("ab.npz"), &[("a", &a), ("b", &b)]);
    let tokens = Tensor::stack(&[(&b - 1.0).unwrap(), (&b + 1.0).unwrap()], 1).unwrap();
    params::save(&Tensors::from([("b".into(), tokens)]), &space.path("tokens.safetensors")).unwrap();
    (a, b)
}

#[test]
fn representations_are_read_from_every_file_type() {
    let space = Space::of(&[]);
    let (a, b) = features(&space);
    let said = eval(&space, &["cknna", "a.safetensors", "ab.npz", "--key", "x", "--key", "b"]).expect(0);
    let facts = "a         a.safetensors: 60 samples of dimension 6\n\
                 b         ab.npz: 60 samples of dimension 6\n\
                 settings  10 neighbours, features clamped at quantile 0.95, unbiased estimator\n";
    assert!(said.stdout.contains(facts), "{}", said.stdout);
    let args = ["cknna", "a.safetensors", "tokens.safetensors", "--metrics", "cka,mutual-knn", "--json"];
    let all = object(eval(&space, &args));
    use erw::ml::metrics::alignment::{AlignmentMetric, Protocol, alignment};
    use erw::ml::metrics::cknna::Estimator;
    use erw::ml::metrics::unit_rows::{Clamp, Over};
    let clamp = Clamp { quantile: 0.95, over: Over::Set };
    let protocol = Protocol { measures: AlignmentMetric::ALL.to_vec(), k: 10, clamp, estimator: Estimator::Unbiased };
    let expected = alignment(&a, &b, &protocol).unwrap();
    for (measure, expected) in AlignmentMetric::ALL.iter().zip(expected) {
        // The mean of two tokens rounds.
        let off = (all["metrics"][measure.name()].as_f64().unwrap() - expected).abs();
        assert!(off < 1e-4, "{}: {off:e}", measure.name());
    }
    assert_eq!(object(eval(&space, &args))["cached"], true);
    // The array in an npy has no name, so one name is the other file's.
    fs::write(space.path("a.npy"), npy(&a)).unwrap();
    let value = |args: &[&str]| object(eval(&space, &[args, &["--json"]].concat()))["metrics"].clone();
    let named = value(&["cka", "a.safetensors", "ab.npz", "--key", "x", "--key", "b"]);
    assert_eq!(value(&["cka", "a.npy", "ab.npz", "--key", "b"]), named);
}

/// The bytes of an npy of `[n, d]` f32.
fn npy(rows: &Tensor) -> Vec<u8> {
    let (n, d) = rows.dims2().unwrap();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
    let mut bytes = [&b"\x93NUMPY\x01\x00"[..], &118u16.to_le_bytes(), format!("{header:<117}\n").as_bytes()].concat();
    bytes.extend(rows.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// By the definition of the unbiased estimate, which divides by n - 3 and whose norms are estimates
/// too.
#[test]
fn unreliable_numbers_have_a_warning() {
    let space = Space::of(&[]);
    let ids: Vec<u64> = (0..14).collect();
    let rows = |seed| rng::normal_rows(seed, Purpose::Probe, 0, &ids, &[8], &CPU).unwrap();
    let near = |seed| ((rows(1) + (rows(seed) * 0.7).unwrap()).unwrap() + 1.0).unwrap();
    let save = |name: &str, rows: Tensor| params::save(&[("x".to_string(), rows)].into(), &space.path(name)).unwrap();
    save("a.safetensors", (rows(1) + 1.0).unwrap());
    save("same.safetensors", Tensor::ones((14, 8), DType::F32, &CPU).unwrap());
    let poor = "cknna of 14 samples, fewer than 100: with 10 neighbours unrelated representations score far above 0, and the \
                unbiased estimate may exceed 1";
    let mut beyond = 0;
    for seed in 2..12 {
        save("b.safetensors", near(seed));
        let all = object(eval(&space, &["cknna", "a.safetensors", "b.safetensors", "--json"]));
        let value = all["metrics"]["cknna"].as_f64().unwrap();
        let told: Vec<&str> = all["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(told[0], poor);
        assert_eq!(all["detail"]["warnings"], all["warnings"], "the artifact has them");
        assert_eq!(told.len(), 1 + usize::from(value > 1.0), "{value}: {told:?}");
        beyond += usize::from(value > 1.0);
    }
    assert!(beyond > 0, "the case is there");
    let said =
        eval(&space, &["cka", "a.safetensors", "same.safetensors", "--metrics", "mutual-knn", "--biased"]).expect(0);
    let words = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for warning in [
        "all samples are the same in same.safetensors: whatever it is compared with, it agrees by 0",
        "cka of 14 samples, fewer than 100: of 8 features and no more samples the biased estimate is near 1 for any two",
        "mutual-knn of 14 samples, fewer than 100: unrelated representations share 10 of n neighbours by chance",
    ] {
        let warning = warning.replace("same.safetensors", "");
        let parts: Vec<&str> = warning.split(": whatever").collect();
        assert!(words.contains(parts[0].trim_end()), "{warning}: {}", said.stdout);
    }
}

#[test]
fn an_exported_classifier_is_recognised() {
    let space = space();
    space.erw(&["run", "p.toml"]).expect(0);
    space.erw(&["export", "p.toml", "classifier", "net"]).expect(0);
    let by = |network: &str, reference: &str| {
        object(eval(&space, &["fid", "gen", reference, "--network", network, "--json"]))
    };
    assert_eq!(by("net", "ref")["metrics"], by("p.toml:classifier", "ref")["metrics"]);
    eval(&space, &["stats", "ref", "--network", "net", "-o", "ref-stats.npz"]).expect(0);
    eval(&space, &["stats", "gen", "--network", "net", "-o", "gen-stats.npz"]).expect(0);
    let read_back = by("net", "ref-stats.npz");
    assert_eq!((&read_back["metrics"], &read_back["network"]), (&by("net", "ref")["metrics"], &"classifier".into()));
    assert!(!read_back["warnings"].to_string().contains("does not say"), "{}", read_back["warnings"]);
    // In a pipeline too, where no network is connected.
    space.write("q.toml", "[stages.fd]\nkind = \"fid\"\ninputs = { samples = \"weights:gen-stats.npz\", reference = \"weights:ref-stats.npz\" }\n");
    space.erw(&["run", "q.toml"]).expect(0);
    space.erw(&["export", "q.toml", "fd", "out"]).expect(0);
    let told: Value = serde_json::from_str(&space.read("out/metrics.json")).unwrap();
    assert_eq!(
        (&told["network"], &told["n_samples"], &told["n_reference"]),
        (&"classifier".into(), &24.into(), &30.into())
    );
    assert_eq!(told["values"]["fd"], read_back["metrics"]["fd"]);
}

#[test]
fn an_unavailable_network_is_one_error() {
    let space = space();
    let mut command = space.command(&["eval", "fid", "gen", "ref", "--plain"]);
    let said = Said::from(command.env("ALL_PROXY", "http://127.0.0.1:9").finish()).expect(1);
    assert!(said.stderr.contains("`--network fid-inception=FILE`"), "{}", said.stderr);
    assert_eq!(said.stderr.matches("error: ").count(), 1, "{}", said.stderr);
    assert!(said.stderr.matches("fetching ").count() <= 2 && !said.stderr.contains("  | "), "{}", said.stderr);
    assert!(said.stderr.matches("trying again").count() <= 2, "{}", said.stderr);
}

#[test]
fn features_that_cannot_be_compared_are_refused() {
    let space = Space::of(&[]);
    features(&space);
    let refused = |args: &[&str], status: i32, text: &str| {
        let said = eval(&space, args).expect(status);
        assert_eq!(error(&space, &said), text);
    };
    refused(
        &["cknna", "a.safetensors", "ab.npz"],
        1,
        "error: ab.npz holds several tensors of features\n\
         hint: it has `a` [60, 6], `b` [60, 6]; say which with `--key NAME`",
    );
    refused(
        &["cka", "a.safetensors", "ab.npz", "--key", "x", "--key", "c"],
        1,
        "error: ab.npz has no tensor `c`\nhint: it has `a` [60, 6], `b` [60, 6]",
    );
    let part = |name: &str, rows: usize| {
        let x = rng::normal_rows(1, Purpose::Probe, 0, &(0..rows as u64).collect::<Vec<_>>(), &[6], &CPU).unwrap();
        params::save(&Tensors::from([("x".into(), x)]), &space.path(name)).unwrap();
    };
    part("fewer.safetensors", 20);
    part("few.safetensors", 7);
    refused(
        &["cknna", "a.safetensors", "fewer.safetensors"],
        1,
        "error: a.safetensors has 60 rows, fewer.safetensors has 20\n\
         hint: row i of both must be of the same sample",
    );
    refused(
        &["cknna", "few.safetensors", "few.safetensors"],
        1,
        "error: few.safetensors has 7 rows, too few for 10 neighbours per row\n\
         hint: give more samples, or fewer neighbours",
    );
    let bytes = Tensor::zeros((20, 3), DType::U8, &CPU).unwrap();
    params::save(&Tensors::from([("x".into(), bytes)]), &space.path("bytes.safetensors")).unwrap();
    refused(
        &["cka", "bytes.safetensors", "a.safetensors"],
        1,
        "error: bytes.safetensors: `x` is u8 [20, 3], not features\n\
         hint: features are floating-point tensors [n, d], or [n, tokens, d], which are averaged over tokens",
    );
    refused(
        &["cka", "nothing.npy", "a.safetensors"],
        2,
        "error: nothing at `nothing.npy`\nhint: give a file of features, or a folder of features that `erw export` wrote",
    );
}

#[test]
fn help_and_completions_list_the_metrics() {
    let space = Space::of(&[]);
    let help = space.erw(&["eval", "--help"]).expect(0).stdout;
    for text in ["erw eval all samples/", "Keys of --json", "cknna", "mutual-knn"] {
        assert!(help.contains(text), "{text}\n{help}");
    }
    let asked = |words: &[&str]| {
        let mut command = space.command(&[]);
        let out = command.env("ERW_COMPLETE", "fish").args(["--", "erw", "eval"]).args(words).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(asked(&["fid", "--mode", "t"]).starts_with("torch-fidelity"));
    assert!(asked(&["kid", "--kid-subset-"]).contains("--kid-subset-size"));
}

/// A number of 18 images is another number than that of 24.
#[test]
fn files_left_out_of_a_side_are_counted() {
    let space = space();
    let samples = space.path("gen");
    for i in (0..24).step_by(4) {
        fs::rename(samples.join(format!("{i:04}.png")), samples.join(format!("{i:04}.avif"))).unwrap();
    }
    fs::create_dir_all(samples.join(".ipynb_checkpoints")).unwrap();
    fs::copy(samples.join("0001.png"), samples.join(".ipynb_checkpoints/0001-checkpoint.png")).unwrap();
    space.write("gen/captions.txt", "x");
    let said = by_classifier(&space, &["fid", "gen", "ref"]).expect(0).stdout;
    let sides = "samples    gen: 18 images\n\
                 left out   gen: 6 .avif, 1 .txt, 1 hidden\n\
                 reference  ref: 30 images\n";
    assert!(said.contains(sides), "{said}");
    let warning = "samples: 6 .avif not looked at, though they may be images";
    assert!(said.contains(&format!("warning    {warning}\n")), "{said}");
    let all = object(by_classifier(&space, &["fid", "gen", "ref", "--json"]));
    let counts = serde_json::json!({".avif": 6, ".txt": 1, "hidden": 1});
    assert_eq!((&all["samples"]["left_out"], &all["detail"]["left_out"]["samples"]), (&counts, &counts));
    assert!(all["warnings"].as_array().unwrap().contains(&warning.into()), "{all}");
    assert_eq!(all["reference"], serde_json::json!({ "given": "ref", "images": 30 }));
    // Statistics say what they are not of.
    let args = ["stats", "gen", "-o", "s.npz", "--json"];
    assert_eq!(object(by_classifier(&space, &args))["images"]["left_out"], counts);
    let said = by_classifier(&space, &args[..4]).expect(0).stdout;
    assert!(said.contains("\nleft out  gen: 6 .avif, 1 .txt, 1 hidden\n"), "{said}");
}

/// A metric has no classes, so it has no layouts either.
#[test]
fn folders_do_not_change_a_metric() {
    let space = space();
    let value = |samples: &str| object(by_classifier(&space, &["fid", samples, "ref", "--json"]))["metrics"].clone();
    let flat = value("gen");
    // One folder around them, and images directly in it besides.
    for (i, entry) in fs::read_dir(space.path("gen")).unwrap().enumerate() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_str().unwrap().to_string();
        let to = if i % 2 == 0 { format!("mixed/{name}") } else { format!("mixed/grid/deep/{name}") };
        for to in [to, format!("around/all/{}/{name}", i % 3)] {
            let to = space.path(&to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
    }
    for samples in ["mixed", "around"] {
        let all = object(by_classifier(&space, &["fid", samples, "ref", "--json"]));
        assert_eq!(all["samples"]["images"], 24);
        // The order of images is another, and with it the rounding of sums.
        let (a, b) = (flat["fd"].as_f64().unwrap(), all["metrics"]["fd"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-6 * a, "{samples}: {a} {b}");
    }
}

/// The bytes of an npy.
fn array(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}");
    [&b"\x93NUMPY\x01\x00"[..], &118u16.to_le_bytes(), format!("{header:<117}\n").as_bytes(), data].concat()
}

/// An npz as `numpy.savez_compressed` writes it.
fn compressed(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), deflated).unwrap();
        zip.write_all(array).unwrap();
    }
    zip.finish().unwrap();
}

/// Bytes of images `[n, SIZE, SIZE, 3]` with their axes in another order.
fn reordered(images: &[u8], n: usize, at: impl Fn([usize; 4]) -> usize) -> Vec<u8> {
    let mut to = vec![0; images.len()];
    let places = (0..n).flat_map(|i| (0..SIZE * SIZE * 3).map(move |k| [i, k / 3 / SIZE, k / 3 % SIZE, k % 3]));
    places.zip(images).for_each(|(place, byte)| to[at(place)] = *byte);
    to
}

#[test]
fn unambiguous_numpy_arrays_are_read_as_images() {
    let space = space();
    let (n, images) = (24, pixels(2, 24));
    let shape = [n, SIZE, SIZE, 3];
    let planes = reordered(&images, n, |[i, y, x, c]| ((i * 3 + c) * SIZE + y) * SIZE + x);
    let fortran = reordered(&images, n, |[i, y, x, c]| i + n * (y + SIZE * (x + SIZE * c)));
    let plain = array("|u1", false, &shape, &images);
    let write = |name: &str, bytes: &[u8]| fs::write(space.path(name), bytes).unwrap();
    write("plain.npy", &plain);
    write("planes.npy", &array("|u1", false, &[n, 3, SIZE, SIZE], &planes));
    write("fortran.npy", &array("|u1", true, &shape, &fortran));
    compressed(
        &space.path("compressed.npz"),
        &[("arr_0", plain.clone()), ("arr_1", array("<U1", false, &[1], &[0; 4]))],
    );
    compressed(&space.path("named.npz"), &[("samples", plain.clone())]);
    compressed(&space.path("planes.npz"), &[("arr_0", array("|u1", false, &[n, 3, SIZE, SIZE], &planes))]);
    let value = |samples: &str| object(by_classifier(&space, &["fid", samples, "ref", "--json"]))["metrics"].clone();
    let folder = value("gen");
    for name in ["plain.npy", "planes.npy", "fortran.npy", "compressed.npz", "named.npz", "planes.npz"] {
        assert_eq!(value(name), folder, "{name}");
    }
    // Some of them, from somewhere.
    let some = |samples: &str| object(by_classifier(&space, &["fid", samples, "ref", "--json", "--limit", "7"]));
    assert_eq!(some("compressed.npz")["metrics"], some("gen")["metrics"]);
    // Grey is repeated, as it is of files.
    let grey: Vec<u8> = images.chunks(3).map(|p| p[0]).collect();
    let repeated: Vec<u8> = grey.iter().flat_map(|g| [*g; 3]).collect();
    write_folder(&space.path("grey"), &repeated);
    write("grey.npy", &array("|u1", false, &shape[..3], &grey));
    compressed(&space.path("grey.npz"), &[("arr_0", array("|u1", false, &[n, SIZE, SIZE, 1], &grey))]);
    let folder = value("grey");
    assert_eq!((value("grey.npy"), value("grey.npz")), (folder.clone(), folder));
    // A flipped bit is found, wherever the images go on from.
    let mut bytes = fs::read(space.path("compressed.npz")).unwrap();
    bytes[1000] ^= 4;
    write("flipped.npz", &bytes);
    let said = by_classifier(&space, &["fid", "flipped.npz", "ref"]).expect(1);
    assert!(error(&space, &said).contains("entry `arr_0.npy`"), "{}", said.stderr);
}

#[test]
fn files_of_other_types_are_named_by_type() {
    let space = space();
    let refused = |name: &str, bytes: &[u8], expected: &str| {
        fs::write(space.path(name), bytes).unwrap();
        let said = by_classifier(&space, &["fid", name, "ref"]);
        let text = error(&space, &said);
        assert!(said.status != 0 && text.contains(expected) && text.contains(name), "{name}: {text}");
        assert!(!text.contains("truncated") && text.contains("hint: "), "{name}: {text}");
    };
    let mut tar = vec![b'x'; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let picture = fs::read(space.path("gen/0000.png")).unwrap();
    let files: [(&str, &[u8], &str); 8] = [
        ("a.tar", &tar, "it is a tar archive; unpack it first"),
        ("a.tar.gz", b"\x1f\x8b\x08\0", "it is a gzip file; unpack it first"),
        ("a.png", &picture, "it is an image"),
        ("a.csv", b"a,b\n1,2\n", "it is a text file"),
        ("a.pkl", b"\x80\x04K\x01.", "it is a Python pickle"),
        ("a.json", b"{}", "it is JSON text"),
        ("empty.zip", b"", "it is empty"),
        ("a.bin", b"\0\x01\x02\x03", "it is of an unknown format"),
    ];
    for (name, bytes, expected) in files {
        refused(name, bytes, expected);
    }
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(vec![]));
    zip.start_file("model/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
    let torch = zip.finish().unwrap().into_inner();
    refused("a.pt", &torch, "a.pt is a PyTorch checkpoint (zip), not images");
    params::save(&Tensors::from([("x".into(), Tensor::zeros(3, DType::F32, &CPU).unwrap())]), &space.path("w"))
        .unwrap();
    refused("a.safetensors", &fs::read(space.path("w")).unwrap(), "a.safetensors is a safetensors file, not images");

    let zeros = [0; 4096];
    let arrays: [(&str, &str, &[usize], &str); 8] = [
        ("f4.npy", "<f4", &[4, 8, 8, 3], "f4.npy is of type f4, not u1"),
        ("i8.npy", "<i8", &[1, 8, 8, 3], "i8.npy is of type i8, not u1"),
        ("bool.npy", "|b1", &[4, 8, 8, 3], "bool.npy is of type b1, not u1"),
        ("object.npy", "|O", &[], "object.npy is an array of Python objects, which is not supported"),
        ("one.npy", "|u1", &[8, 8, 3], "has shape [8, 8, 3], not [N, H, W, 3]: it could be one image"),
        ("rgba.npy", "|u1", &[2, 8, 8, 4], "drops it"),
        ("rows.npy", "|u1", &[4, 192], "rows.npy has shape [4, 192], not [N, H, W, 3]"),
        ("flat.npy", "|u1", &[4, 0, 8, 3], "it has no pixels"),
    ];
    for (name, descr, shape, expected) in arrays {
        refused(name, &array(descr, false, shape, &zeros), expected);
    }
    let short = array("|u1", false, &[4, 8, 8, 3], &zeros[..100]);
    fs::write(space.path("short.npy"), short).unwrap();
    let said = by_classifier(&space, &["fid", "short.npy", "ref"]).expect(1);
    assert!(error(&space, &said).contains("short.npy is truncated: it has 100 of its 768 bytes"), "{}", said.stderr);
    let images = array("|u1", false, &[1, 8, 8, 3], &zeros[..192]);
    let labels = array("<i8", false, &[1], &zeros[..8]);
    compressed(&space.path("cifar.npz"), &[("x_train", images), ("y_train", labels)]);
    let said = by_classifier(&space, &["fid", "cifar.npz", "ref"]).expect(2);
    assert!(error(&space, &said).ends_with("hint: its arrays are `x_train`, `y_train`"), "{}", said.stderr);
}
