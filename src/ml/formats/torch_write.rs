//! Writes a zip checkpoint that `torch.load(..., weights_only=True)` reads: state dicts of
//! contiguous tensors, for use in PyTorch.

use super::elements::contiguous;
use super::parsed::Parsed;
use crate::nn::params::Tensors;
use candle_core::{DType, Result, Tensor, bail};
use safetensors::View as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Alignment of storages as in PyTorch's files, so that they can be mapped.
const ALIGNMENT: u16 = 64;
/// Folder of all entries; any name works.
const FOLDER: &str = "archive";

/// Writes the sets as a dictionary of state dicts by name, or a single unnamed set as the state
/// dict itself. The file is written atomically.
///
/// # Errors
/// When a tensor has a type that PyTorch lacks, or the file cannot be written. The error names the
/// file.
pub fn save(path: &Path, sets: &[(&str, &Tensors)]) -> Result<()> {
    let tmp = path.with_extension("tmp");
    match pickle(sets).and_then(|pickle| write(&tmp, &pickle, sets)).and_then(|()| text(std::fs::rename(&tmp, path))) {
        Ok(()) => Ok(()),
        Err(e) => {
            // Remove the partial file: a full disk needs the space.
            let _ = std::fs::remove_file(&tmp);
            bail!("cannot write {}: {e}", path.display())
        }
    }
}

fn text<T, E: std::fmt::Display>(result: std::result::Result<T, E>) -> Parsed<T> {
    result.map_err(|e| e.to_string())
}

fn write(path: &Path, pickle: &[u8], sets: &[(&str, &Tensors)]) -> Parsed<()> {
    let mut zip = ZipWriter::new(BufWriter::new(text(File::create(path))?));
    let mut entry = |name: &str, bytes: &[u8]| -> Parsed<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(bytes.len() as u64 > u64::from(u32::MAX));
        text(zip.start_file(format!("{FOLDER}/{name}"), options))?;
        text(zip.write_all(bytes))
    };
    entry("data.pkl", pickle)?;
    entry("byteorder", b"little")?;
    for (key, tensor) in sets.iter().flat_map(|(_, tensors)| tensors.values()).enumerate() {
        entry(&format!("data/{key}"), &tensor.data())?;
    }
    entry("version", b"3\n")?;
    let file = text(text(zip.finish())?.into_inner())?;
    text(file.sync_all())
}

/// Protocol 2, as PyTorch writes it, without a memo.
fn pickle(sets: &[(&str, &Tensors)]) -> Parsed<Vec<u8>> {
    let mut out = Pickle(vec![0x80, 2]);
    let mut key = 0;
    if let [("", tensors)] = sets {
        out.state_dict(tensors, &mut key)?;
    } else {
        out.0.extend(b"}(");
        for (name, tensors) in sets {
            out.str(name);
            out.state_dict(tensors, &mut key)?;
        }
        out.0.push(b'u');
    }
    out.0.push(b'.');
    Ok(out.0)
}

struct Pickle(Vec<u8>);

impl Pickle {
    fn state_dict(&mut self, tensors: &Tensors, key: &mut usize) -> Parsed<()> {
        self.0.extend(b"ccollections\nOrderedDict\n)R(");
        for (name, tensor) in tensors {
            self.str(name);
            self.tensor(tensor, *key).map_err(|e| format!("tensor `{name}`: {e}"))?;
            *key += 1;
        }
        self.0.push(b'u');
        Ok(())
    }

    /// A call of `_rebuild_tensor_v2` with storage, offset, shape, strides, no gradient and no
    /// callbacks.
    fn tensor(&mut self, tensor: &Tensor, key: usize) -> Parsed<()> {
        let class = match tensor.dtype() {
            DType::U8 => "Byte",
            DType::I16 => "Short",
            DType::I32 => "Int",
            DType::I64 => "Long",
            DType::F16 => "Half",
            DType::BF16 => "BFloat16",
            DType::F32 => "Float",
            DType::F64 => "Double",
            other => return Err(format!("has type {other:?}, which PyTorch does not have")),
        };
        self.0.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.str("storage");
        self.0.extend(format!("ctorch\n{class}Storage\n").as_bytes());
        self.str(&key.to_string());
        self.str("cpu");
        self.int(tensor.elem_count());
        self.0.extend(b"tQK\0");
        self.sizes(tensor.dims());
        self.sizes(&contiguous(tensor.dims(), false));
        self.0.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        Ok(())
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.0.push(b'(');
        sizes.iter().for_each(|n| self.int(*n));
        self.0.push(b't');
    }

    /// As a signed eight-byte integer, which holds any size.
    fn int(&mut self, n: usize) {
        self.0.extend([0x8a, 8]);
        self.0.extend((n as u64).to_le_bytes());
    }

    fn str(&mut self, s: &str) {
        self.0.push(b'X');
        self.0.extend((s.len() as u32).to_le_bytes());
        self.0.extend(s.as_bytes());
    }
}
