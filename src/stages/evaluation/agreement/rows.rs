//! Reads features of any tool as rows: a tensor of a safetensors, npy, npz or PyTorch file, or the
//! tokens of a `features` artifact. It does not know what is measured on them.

use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::data::packed::Packed;
use erw_ml::formats::WeightsFile;
use erw_ml::nn::params::Tensors;
use std::path::Path;

/// Rows of tokens that are averaged at a time.
const BLOCK: u64 = 256;

/// Features `[n, d]` in f32. Tokens `[n, t, d]` are averaged over t. `name` selects one of several
/// tensors.
///
/// # Errors
/// When the file cannot be read, has no such tensor, has several candidates and no `name`, or the
/// tensor is not floating-point with one row per sample.
pub fn read(path: &Path, name: Option<&str>) -> Result<Tensor> {
    if path.is_dir() { of_artifact(path, name) } else { of_file(path, name) }
}

fn of_artifact(dir: &Path, name: Option<&str>) -> Result<Tensor> {
    if !dir.join("meta.json").is_file() {
        let error = Error::stage(format!("{} is a folder but not an artifact of type `features`", dir.display()));
        return Err(error.hint("name a file in it"));
    }
    let packed = Packed::open(dir)?;
    let name = name.unwrap_or("tokens");
    let mut parts = vec![];
    for start in (0..packed.len()).step_by(BLOCK as usize) {
        let ids: Vec<u64> = (start..packed.len().min(start + BLOCK)).collect();
        let tensor = packed.rows(name, &ids, &Device::Cpu)?;
        parts.push(as_rows(dir, name, &tensor)?);
    }
    if parts.is_empty() {
        return Err(Error::stage(format!("{} holds no rows", dir.display())));
    }
    Ok(Tensor::cat(&parts, 0)?)
}

fn of_file(path: &Path, name: Option<&str>) -> Result<Tensor> {
    let file = WeightsFile::open(path)?;
    let mut all = Tensors::new();
    for (set, _) in file.sets() {
        let within = |name: String| if set.is_empty() { name } else { format!("{set}.{name}") };
        all.extend(file.tensors(&set)?.into_iter().map(|(name, tensor)| (within(name), tensor)));
    }
    let name = match name {
        Some(name) => name.to_string(),
        None => only(path, &all)?,
    };
    let tensor = all.remove(&name).ok_or_else(|| {
        Error::stage(format!("{} has no tensor `{name}`", path.display())).hint(format!("it has {}", listed(&all)))
    })?;
    drop(all);
    as_rows(path, &name, &tensor)
}

/// The tensor to use when none is named: the only one that has rows.
fn only(path: &Path, all: &Tensors) -> Result<String> {
    let fits: Vec<&String> = all.iter().filter(|(_, t)| all.len() == 1 || is_rows(t)).map(|(name, _)| name).collect();
    let problem = match fits.as_slice() {
        [only] => return Ok((*only).clone()),
        [] => "holds no features",
        _ => "holds several tensors of features",
    };
    let error = Error::stage(format!("{} {problem}", path.display()));
    Err(error.hint(format!("it has {}; say which with `--key NAME`", listed(all))))
}

fn is_rows(tensor: &Tensor) -> bool {
    matches!(tensor.rank(), 2 | 3) && tensor.dtype().is_float()
}

fn as_rows(path: &Path, name: &str, tensor: &Tensor) -> Result<Tensor> {
    if !is_rows(tensor) || tensor.elem_count() == 0 {
        let (path, ty, shape) = (path.display(), tensor.dtype().as_str(), tensor.dims());
        let error = Error::stage(format!("{path}: `{name}` is {ty} {shape:?}, not features"));
        return Err(
            error.hint("features are floating-point tensors [n, d], or [n, tokens, d], which are averaged over tokens")
        );
    }
    if tensor.rank() == 2 {
        return Ok(tensor.to_dtype(DType::F32)?);
    }
    let parts = (0..tensor.dim(0)?).step_by(BLOCK as usize).map(|start| {
        let block = tensor.narrow(0, start, (BLOCK as usize).min(tensor.dim(0)? - start))?;
        block.to_dtype(DType::F32)?.mean(1)
    });
    Ok(Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
}

fn listed(all: &Tensors) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = all.iter().take(SHOWN).map(|(name, t)| format!("`{name}` {:?}", t.dims())).collect();
    match all.len().saturating_sub(SHOWN) {
        0 if all.is_empty() => "no tensors".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
