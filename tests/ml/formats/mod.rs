//! Files of other libraries, read without Python: checkpoints of all versions of PyTorch,
//! TorchScript, NumPy and safetensors. The real libraries wrote the files in `golden/formats`
//! (`make.py` there), each with a copy as safetensors.

mod archives;
mod fuzz;
mod hostile_pickles;

use candle_core::{DType, Device, Tensor};
use erw::ml::formats;
use erw::ml::formats::format::Format;
use erw::ml::formats::{Npz, WeightsFile};
use erw::ml::nn::params;
use erw::ml::nn::params::Tensors;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub(super) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/formats").join(name)
}

pub(super) fn open(name: &str) -> WeightsFile {
    WeightsFile::open(&file(name)).unwrap()
}

fn twin(name: &str) -> Tensors {
    params::load(&file(&format!("{name}.twin.safetensors")), &Device::Cpu).unwrap()
}

/// The tensors of a twin under `set/`, without that prefix.
fn part(twin: &Tensors, set: &str) -> Tensors {
    let prefix = format!("{set}/");
    twin.iter().filter_map(|(k, t)| Some((k.strip_prefix(&prefix)?.to_string(), t.clone()))).collect()
}

/// Type, shape and every bit.
pub(super) fn assert_equal(got: &Tensors, want: &Tensors) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, want) in want {
        let got = &got[name];
        assert_eq!((got.dtype(), got.dims()), (want.dtype(), want.dims()), "{name}");
        assert!(got.is_contiguous(), "{name}");
        assert!(bits(got) == bits(want), "{name}: {got} instead of {want}");
    }
}

fn bits(t: &Tensor) -> Vec<u64> {
    let t = t.flatten_all().unwrap();
    match t.dtype() {
        DType::F64 => t.to_vec1::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::I64 => t.to_vec1::<i64>().unwrap().iter().map(|x| x.cast_unsigned()).collect(),
        // Every value of the others is a value of f32 of its own, but for integers of 32 bits.
        DType::U32 | DType::I32 => bits(&t.to_dtype(DType::I64).unwrap()),
        _ => t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits().into()).collect(),
    }
}

#[test]
fn a_training_checkpoint_equals_its_safetensors_copy() {
    let golden = crate::support::golden::dir();
    let checkpoint = WeightsFile::open(&golden.join("checkpoint.pt")).unwrap();
    assert_eq!(checkpoint.format(), Format::TorchZip);
    let twin = params::load(&golden.join("checkpoint_twin.safetensors"), &Device::Cpu).unwrap();
    for set in ["model", "ema"] {
        assert_equal(&checkpoint.tensors(set).unwrap(), &part(&twin, set));
    }
    // The optimizer numbers its parameters, the twin names them.
    let manifest = std::fs::read(golden.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let order = manifest["files"]["checkpoint.pt"]["opt_param_order"].as_array().unwrap();
    for (i, name) in order.iter().enumerate() {
        let moments = checkpoint.tensors(&format!("opt.state.{i}")).unwrap();
        assert_equal(&moments, &part(&twin, &format!("opt/{}", name.as_str().unwrap())));
    }
    assert_eq!(checkpoint.sets().len(), 2 + order.len());
    let args = checkpoint.data("args").unwrap();
    assert_eq!((&args["model"], &args["use_rope"]), (&"SiT-B/2".into(), &true.into()));
    assert_eq!(args["learning_rate"], 1e-3);
    assert_eq!(checkpoint.data("steps"), Some(2.into()));
}

#[test]
fn all_types_and_views_are_read_in_all_protocols_and_layouts() {
    let twin = twin("types");
    for name in ["types_p2.pt", "types_p4.pt", "types_p5.pt", "types_deflated.pt"] {
        let file = open(name);
        assert_eq!((file.format(), file.sets()), (Format::TorchZip, vec![(String::new(), twin.len())]));
        assert_equal(&file.tensors("").unwrap(), &twin);
    }
    for name in ["types_legacy_p2.pt", "types_legacy_p4.pt", "types_legacy_p5.pt"] {
        let file = open(name);
        assert_eq!(file.format(), Format::TorchLegacy);
        assert_equal(&file.tensors("").unwrap(), &twin);
    }
    assert_equal(&open("rare.pt").tensors("").unwrap(), &self::twin("rare"));
}

/// candle's own reader finds tensors only under the first of the two names.
#[test]
fn a_dictionary_under_two_names_is_read_under_both() {
    let twin = twin("run");
    for name in ["run.pt", "run_legacy.pt"] {
        let file = open(name);
        assert_equal(&file.tensors("model").unwrap(), &part(&twin, "model"));
        assert_equal(&file.tensors("ema").unwrap(), &part(&twin, "model"));
        assert_equal(&file.tensors("half").unwrap(), &part(&twin, "half"));
        assert_equal(&file.tensors("optimizer.state.0").unwrap(), &part(&twin, "optimizer.state.0"));
        let sets = file.sets();
        let counts: Vec<_> = sets.iter().map(|(set, n)| (set.as_str(), *n)).collect();
        assert_eq!(counts, [("model", 7), ("ema", 7), ("half", 6), ("optimizer.state.0", 2)]);
    }
}

#[test]
fn plain_values_beside_tensors_are_read() {
    for name in ["run.pt", "run_legacy.pt"] {
        let file = open(name);
        let args = serde_json::json!({
            "model": "SiT-B/2", "resolution": 256, "betas": [0.9, 0.999], "resume": null, "qk_norm": false,
        });
        assert_eq!(file.data("args"), Some(args));
        assert_eq!(file.data("args.model"), None);
        assert_eq!(file.data("epoch"), Some(5.into()));
        // Two's complement of fewer than eight bytes.
        assert_eq!(file.data("huge"), Some((-(1i64 << 40)).into()));
        assert_eq!(file.data("larger"), Some("an integer of 9 bytes".into()));
        assert_eq!(file.data("best"), Some(0.25.into()));
        assert_eq!(file.data("seen"), Some((-3).into()));
        assert_eq!(file.data("size"), Some(serde_json::json!({"torch.Size": [[1, 2]]})));
        assert_eq!(file.data("optimizer.param_groups.0.lr"), Some(1e-3.into()));
        assert_eq!(file.data("optimizer.state.1"), None);
    }
}

#[test]
fn a_set_of_tensors_is_chosen_by_preference_or_if_it_is_the_only_one() {
    let run = open("run.pt");
    assert_eq!(run.only_set(&["ema", "model"]).unwrap(), "ema");
    assert_eq!(run.only_set(&["state_dict", "model"]).unwrap(), "model");
    let e = run.only_set(&["state_dict"]).unwrap_err().to_string();
    assert!(e.contains("run.pt") && e.contains("`model` (7), `ema` (7), `half` (6)"), "{e}");
    assert!(e.contains("choose one with `set`"), "{e}");
    assert_eq!(open("types_p2.pt").only_set(&["ema"]).unwrap(), "");
    let e = run.tensors("emma").unwrap_err().to_string();
    assert!(e.contains("run.pt") && e.contains("`emma`") && e.contains("`ema` (7)"), "{e}");
}

#[test]
fn torchscript_and_pickled_modules_are_read_by_state_dict_names() {
    for name in ["script.pt", "traced.pt"] {
        let file = open(name);
        assert_eq!(file.format(), Format::TorchScript);
        let tensors = file.tensors(&file.only_set(&[]).unwrap()).unwrap();
        assert_equal(&tensors, &twin("script"));
        assert_eq!(tensors["visual.transformer.resblocks.1.attn.in_proj_weight"].dtype(), DType::F16);
    }
    let file = open("module.pt");
    assert_equal(&file.tensors("").unwrap(), &twin("module"));
}

#[test]
fn a_file_of_one_tensor_is_read() {
    let file = open("bare.pt");
    let tensors = file.tensors(&file.only_set(&["model"]).unwrap()).unwrap();
    assert_equal(&tensors, &[("tensor".into(), twin("types")["transposed"].clone())].into());
}

/// Its storage holds -7, and that it is to be negated is a note beside the strides.
#[test]
fn a_negated_view_is_refused() {
    let e = open("negated.pt").tensors("").unwrap_err().to_string();
    assert!(e.contains("negated.pt") && e.contains("tensor `seven`") && e.contains("negated"), "{e}");
}

#[test]
fn big_endian_files_are_read() {
    assert_equal(&open("big_endian.pt").tensors("").unwrap(), &twin("big_endian"));
}

#[test]
fn numpy_arrays_of_any_order_and_type_are_read() {
    let twin = twin("arrays");
    for name in ["arrays.npz", "arrays_compressed.npz"] {
        let file = open(name);
        assert_eq!((file.format(), file.sets()), (Format::Npz, vec![(String::new(), twin.len())]));
        assert_equal(&file.tensors("").unwrap(), &twin);
        let mut npz = Npz::open(&self::file(name)).unwrap();
        assert_eq!(npz.names(), twin.keys().cloned().collect::<Vec<_>>());
        assert_eq!(bits(&npz.read("big_fortran").unwrap()), bits(&twin["big_fortran"]));
        let e = npz.read("arr_0").unwrap_err().to_string();
        assert!(e.contains(name) && e.contains("`arr_0`") && e.contains("big_fortran"), "{e}");
    }
    for (name, array) in [("fortran", "big_fortran"), ("version2", "f4"), ("version3", "f4")] {
        let path = file(&format!("{name}.npy"));
        let got = formats::read_npy(&path).unwrap();
        assert_equal(&[("a".into(), got)].into(), &[("a".into(), twin[array].clone())].into());
        let file = WeightsFile::open(&path).unwrap();
        assert_eq!(file.format(), Format::Npy);
        assert_eq!(bits(&file.tensors("").unwrap()["arr_0"]), bits(&twin[array]));
    }
    let e = formats::read_npy(&file("objects.npy")).unwrap_err().to_string();
    assert!(e.contains("objects.npy") && e.contains("Python objects"), "{e}");
}

#[test]
fn safetensors_read_as_with_the_reference_implementation() {
    let open = WeightsFile::open(&file("types.twin.safetensors")).unwrap();
    assert_eq!((open.format(), open.sets()), (Format::Safetensors, vec![(String::new(), 20)]));
    assert_equal(&open.tensors("").unwrap(), &twin("types"));
}

/// `torch.load(..., weights_only=True)` of PyTorch 2.15 read such a file to equal tensors; here our
/// own reader stands in.
#[test]
fn files_written_for_pytorch_read_back() {
    let space = crate::support::space::Space::of(&[]);
    let types = open("types_p2.pt").tensors("").unwrap();
    let ema = open("run.pt").tensors("model").unwrap();
    let path = space.path("release.pt");
    formats::torch_write::save(&path, &[("model", &types), ("ema", &ema)]).unwrap();
    let file = WeightsFile::open(&path).unwrap();
    assert_eq!(file.format(), Format::TorchZip);
    assert_equal(&file.tensors("model").unwrap(), &types);
    assert_equal(&file.tensors("ema").unwrap(), &ema);
    formats::torch_write::save(&path, &[("", &ema)]).unwrap();
    assert_equal(&WeightsFile::open(&path).unwrap().tensors("").unwrap(), &ema);
    let left: Vec<_> = std::fs::read_dir(space.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["release.pt"]);
    let e = formats::torch_write::save(&space.path("none/w.pt"), &[("", &ema)]).unwrap_err().to_string();
    assert!(e.contains("none/w.pt"), "{e}");
}

/// Far more bytes than could be read: half a terabyte that takes no room on the disk.
#[test]
fn opening_reads_headers_only_and_a_set_only_its_tensors() {
    let space = crate::support::space::Space::of(&[]);
    let path = space.path("large");
    let large = 1u64 << 39;
    let header = format!(r#"{{"w":{{"dtype":"U8","shape":[{large}],"data_offsets":[0,{large}]}}}}"#);
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let length = std::fs::metadata(&path).unwrap().len() + large;
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
    assert_eq!(WeightsFile::open(&path).unwrap().sets(), [(String::new(), 1)]);

    let tensor = |key: &str, n: u64| {
        let storage = format!("(S'storage'\nctorch\nByteStorage\nS'{key}'\nS'cpu'\nL{n}L\nNtQ");
        format!("ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n(L{n}L\nt(I1\ntI00\nNtR")
    };
    let (first, second) = (tensor("1", large), tensor("2", 3));
    let pickles = format!("M\u{e9}\u{3}.N.(dS'large'\n(dS'w'\n{first}ssS'small'\n(dS'w'\n{second}ss.(lS'1'\naS'2'\na.");
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    bytes.extend(pickles.chars().map(|c| u32::from(c) as u8));
    bytes.extend(large.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(bytes.len() as u64 + large)).unwrap();
    file.write_all(&[3, 0, 0, 0, 0, 0, 0, 0, 7, 8, 9]).unwrap();
    let file = WeightsFile::open(&path).unwrap();
    assert_eq!(file.sets(), [("large".to_string(), 1), ("small".to_string(), 1)]);
    assert_eq!(file.tensors("small").unwrap()["w"].to_vec1::<u8>().unwrap(), [7, 8, 9]);
}

/// A stored tensor is copied once: the tensor is not the file's memory, and a shared one is not
/// copied twice.
#[test]
fn aliases_share_their_memory() {
    let tensors = open("types_p2.pt").tensors("").unwrap();
    assert_eq!(tensors["f32"].id(), tensors["alias"].id());
    assert_ne!(tensors["f32"].id(), tensors["transposed"].id());
}
