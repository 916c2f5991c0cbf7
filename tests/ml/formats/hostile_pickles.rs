//! Handmade pickles: none runs code, hangs, overflows the stack or allocates more than its file
//! accounts for; the functions that they would call are named.

use super::open;
use crate::support::space::Space;
use erw::ml::formats::WeightsFile;
use std::io::Write;
use std::path::Path;
use zip::write::SimpleFileOptions;

/// A checkpoint of this pickle and one storage of four f32: 0, 1, 2, 3.
pub fn checkpoint(path: &Path, pickle: &[u8]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", le_bytes(&[0.0, 1.0, 2.0, 3.0]).as_slice())] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn opened(space: &Space, pickle: &[u8]) -> Result<WeightsFile, String> {
    let path = space.path("evil.pt");
    checkpoint(&path, pickle);
    let named = |e: candle_core::Error| {
        assert!(e.to_string().contains("evil.pt"), "{e}");
        e.to_string()
    };
    WeightsFile::open(&path).map_err(named)
}

/// Why the tensors at the top level cannot be read.
fn refusal(space: &Space, pickle: &[u8]) -> String {
    match opened(space, pickle) {
        Err(e) => e,
        Ok(file) => {
            let e = file.tensors("").unwrap_err().to_string();
            assert!(e.contains("evil.pt"), "{e}");
            e
        }
    }
}

fn list(sizes: &[i64]) -> String {
    sizes.iter().map(|n| format!("I{n}\n")).collect()
}

/// A tensor of the one storage, in protocol 0 but for the persistent id.
fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> String {
    let storage = "(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ";
    let (shape, strides) = (list(shape), list(strides));
    format!("ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n({shape}t({strides}tI00\nNtR")
}

fn good() -> String {
    tensor(0, &[2, 2], &[2, 1])
}

#[test]
fn a_handmade_checkpoint_is_read() {
    let space = Space::of(&[]);
    let pickle = format!("(dS'weight'\n{}sS'turned'\n{}s.", good(), tensor(0, &[2, 2], &[1, 2]));
    let tensors = opened(&space, pickle.as_bytes()).unwrap().tensors("").unwrap();
    assert_eq!(tensors["weight"].to_vec2::<f32>().unwrap(), [[0.0, 1.0], [2.0, 3.0]]);
    assert_eq!(tensors["turned"].to_vec2::<f32>().unwrap(), [[0.0, 2.0], [1.0, 3.0]]);
}

#[test]
fn a_call_instead_of_a_tensor_is_named_and_not_executed() {
    let space = Space::of(&[]);
    let touched = space.path("touched");
    let command = format!("(S'touch {}'\ntR", touched.display());
    let beside = good();
    for (call, name) in [
        (format!("cos\nsystem\n{command}"), "os.system"),
        (format!("cposix\nsystem\n{command}"), "posix.system"),
        (format!("cbuiltins\neval\n{command}"), "builtins.eval"),
        // As protocol 4 names it.
        (format!("S'os'\nS'system'\n\u{93}{command}"), "os.system"),
        // The result of a call is called.
        (format!("cbuiltins\ngetattr\n(S'os'\nS'system'\ntR{command}"), "the result of another call"),
        // Other rebuilders of PyTorch are as unknown as any function.
        (format!("ctorch._utils\n_rebuild_qtensor\n{command}"), "torch._utils._rebuild_qtensor"),
        (format!("ctorch._utils\n_rebuild_parameter\n(cos\nsystem\n{command}tR"), "torch._utils._rebuild_parameter"),
    ] {
        let pickle = format!("(dS'good'\n{beside}sS'bad'\n{call}s.");
        let pickle: Vec<u8> = pickle.chars().map(|c| u32::from(c) as u8).collect();
        let e = refusal(&space, &pickle);
        assert!(e.contains("tensor `bad`") && e.contains(&format!("`{name}`")) && e.contains("never called"), "{e}");
    }
    // As the whole file, and hidden in the state of a known object.
    for pickle in
        [format!("cos\nsystem\n{command}."), format!("ccollections\nOrderedDict\n(tRcos\nsystem\n{command}b.")]
    {
        let file = opened(&space, pickle.as_bytes()).unwrap();
        let e = file.only_set(&["model"]).unwrap_err().to_string();
        assert!(e.contains("holds no dictionary of tensors"), "{e}");
        assert_eq!(e.contains("`os.system`"), pickle.starts_with("cos"), "{e}");
    }
    assert!(!touched.exists());
}

/// As the attributes of an object, and as the items of a kind of dictionary.
#[test]
fn dictionaries_inside_unknown_objects_are_ignored() {
    let space = Space::of(&[]);
    for given in [format!("(dS'w'\n{}sb", good()), format!("(S'w'\n{}u", good()), format!("{}a", good())] {
        let pickle = format!("(dS'model'\ncmy.code\nNet\n)\u{81}{given}s.");
        let pickle: Vec<u8> = pickle.chars().map(|c| u32::from(c) as u8).collect();
        let file = opened(&space, &pickle).unwrap();
        assert!(file.sets().is_empty());
        let e = file.tensors("model").unwrap_err().to_string();
        assert!(e.contains("`my.code.Net`"), "{e}");
    }
}

#[test]
fn cyclic_objects_do_not_hang() {
    let space = Space::of(&[]);
    for pickle in [
        "]q\0h\0a.".to_string(),
        "]q\0h\0ah\0ah\0a.".to_string(),
        format!("}}q\0S'self'\nh\0sS'weight'\n{}s.", good()),
        // A list in itself by way of a tuple, and a module in itself.
        "]q\0h\0\u{85}a.".to_string(),
        "c__torch__\nM\n)\u{81}q\0(dS'inner'\nh\0sb.".to_string(),
        "ctorch._utils\n_rebuild_parameter\n]q\0h\0aR.".to_string(),
    ] {
        let pickle: Vec<u8> = pickle.chars().map(|c| u32::from(c) as u8).collect();
        let file = opened(&space, &pickle).unwrap();
        assert!(file.data("").is_none_or(|data| !data.is_array()));
        for (set, n) in file.sets() {
            assert_eq!(file.tensors(&set).unwrap().len(), n);
        }
    }
}

/// Each dictionary holds the one before ten times.
#[test]
fn exponentially_nested_dictionaries_are_refused() {
    let space = Space::of(&[]);
    let mut pickle = format!("(dS'w'\n{}sq\0", good());
    for level in 0..40u8 {
        pickle.push_str("0}");
        for key in 0..10 {
            pickle.push_str(&format!("S'{key}'\ng{level}\ns"));
        }
        pickle.push_str(&format!("p{}\n", level + 1));
    }
    pickle.push('.');
    let e = opened(&space, pickle.as_bytes()).unwrap_err();
    assert!(e.contains("nested in too many ways to search"), "{e}");
}

#[test]
fn deep_nesting_costs_no_stack() {
    let space = Space::of(&[]);
    let deep = 300_000;
    for pickle in [
        [b"]".repeat(deep), b"a".repeat(deep - 1), b".".to_vec()].concat(),
        [b"(".repeat(deep), b"t".repeat(deep), b".".to_vec()].concat(),
        [b"N".to_vec(), b"\x85".repeat(deep), b".".to_vec()].concat(),
    ] {
        if let Ok(file) = opened(&space, &pickle) {
            assert!(file.sets().is_empty());
            assert_eq!(file.data(""), None);
        }
    }
}

#[test]
fn false_lengths_allocate_no_memory() {
    let space = Space::of(&[]);
    let huge = (1u64 << 62).to_le_bytes();
    for op in [0x8d, 0x8e, 0x96] {
        let e = refusal(&space, &[&[op][..], &huge, b"x."].concat());
        assert!(e.contains("its pickle cannot be read: it is truncated"), "{e}");
    }
    for op in [b'T', b'X', b'B', 0x8b] {
        let e = refusal(&space, &[&[op][..], &[0xff; 4], b"x."].concat());
        assert!(e.contains("it is truncated"), "{e}");
    }
}

#[test]
fn an_invalid_pickle_is_refused_with_the_reason() {
    let space = Space::of(&[]);
    let cases: [(&[u8], &str); 16] = [
        (b"", "truncated"),
        (b"N", "truncated"),
        (b".", "pops from an empty stack"),
        (b"t.", "a mark that was never set"),
        (b"(0t.", "a mark that was never set"),
        (b"N(a.", "pops from an empty stack"),
        (b"NNa.", "appends to something other than a list"),
        (b"NNNs.", "stores items into something other than a dictionary"),
        (b"}(Nu.", "a key without a value"),
        (b"h\x05.", "reads a memo that was never stored"),
        (b"\x80\x09.", "protocol 9"),
        (b"\x82\x01.", "extension registry"),
        (b"\x97.", "out-of-band buffers"),
        (b"Ix\n.", "an invalid integer"),
        (b"NN\x93.", "a class name that is not a string"),
        (b"\xff.", "instruction 0xff"),
    ];
    for (pickle, why) in cases {
        let e = refusal(&space, pickle);
        assert!(e.contains(why), "{e}");
    }
    let e = refusal(&space, &[b"N".to_vec(), b"N0".repeat(4_500_000), b".".to_vec()].concat());
    assert!(e.contains("more than 8000000 instructions"), "{e}");
    let name = "x".repeat(2000);
    let e = refusal(&space, format!("c{name}\n{name}\n.").as_bytes());
    assert!(e.contains("a class name of"), "{e}");
}

#[test]
fn a_tensor_larger_than_its_storage_is_named() {
    let space = Space::of(&[]);
    let in_dict = |tensor: &str| refusal(&space, format!("(dS'weight'\n{tensor}s.").as_bytes());
    let big = 1i64 << 40;
    for (tensor, why) in [
        (tensor(1, &[2, 2], &[2, 1]), "and offset 1 extends beyond its 4 elements"),
        (tensor(0, &[2, 2], &[3, 1]), "extends beyond its 4 elements"),
        (tensor(0, &[5], &[1]), "extends beyond its 4 elements"),
        (tensor(i64::MAX, &[2], &[2]), "extends beyond"),
        (tensor(0, &[2, 2], &[i64::MAX, 1]), "extends beyond"),
        (tensor(0, &[2], &[1, 1]), "1 axes but 2 strides"),
        (tensor(-1, &[1], &[1]), "unexpected arguments"),
        (tensor(0, &[-1], &[1]), "unexpected arguments"),
        (tensor(0, &[2, 2], &[-2, 1]), "unexpected arguments"),
        // A terabyte of the same element.
        (tensor(0, &[big], &[0]), "repeats the 16 bytes of its storage too often"),
        (tensor(0, &[big, big], &[0, 0]), "more elements than can be addressed"),
        (tensor(0, &[1; 70], &[1; 70]), "70 axes"),
        (good().replace("I4\n", "I5\n"), "storage `0` has 16 bytes, but the pickle says 20"),
        (good().replace("S'0'", "S'1'"), "no entry `a/data/1`"),
        (good().replace("S'0'", "S'../data.pkl'"), "no entry `a/data/../data.pkl`"),
        (good().replace("FloatStorage", "QInt8Storage"), "`torch.QInt8Storage`, which is not supported"),
        (good().replace("ctorch\nFloatStorage", "cos\nsystem"), "`os.system`, which is not a storage"),
        (good().replace("S'storage'", "S'elsewhere'"), "its storage is invalid"),
        (good().replace("tQ", "tQQ"), "its storage is invalid"),
    ] {
        let e = in_dict(&tensor);
        assert!(e.contains("tensor `weight`") && e.contains(why), "{e}");
    }
    // Within the limit for one view, but not all together: 64 MB each.
    let many: String = (0..8i64).map(|i| format!("S'{i}'\n{}s", tensor(0, &[16_000_000 + i], &[0]))).collect();
    let e = refusal(&space, format!("(d{many}.").as_bytes());
    assert!(e.contains("too often"), "{e}");
}

#[test]
fn two_tensors_of_one_name_are_an_error() {
    let space = Space::of(&[]);
    let e = refusal(&space, format!("(dS'1'\n{}sI1\n{}s.", good(), good()).as_bytes());
    assert!(e.contains("two tensors have the name `1`"), "{e}");
    drop(open("run.pt"));
}
