//! Packed arrays: rows of named tensors in numbered safetensors shards, with a `meta.json` beside
//! them.
//!
//! An artifact is a few large files instead of one file per sample. Shards are mapped into memory:
//! opening reads one header per shard, and reading a row is one copy. Rows are addressed by their
//! global index. This module does not know what the tensors mean.

mod row_file;
mod shard_file;
mod writer;

pub use row_file::RowFile;
pub use shard_file::ShardFile;
pub use writer::{PackedWriter, write_meta};

use candle_core::{DType, Device, Result, Tensor, bail};
use half::f16;
use memmap2::Mmap;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Version of the layout, stored in `meta.json` as `format`.
pub const FORMAT: u64 = 1;
const META: &str = "meta.json";

/// An open packed array. It holds mappings, not data, so it is cheap to keep.
#[derive(Debug)]
pub struct Packed {
    dir: PathBuf,
    meta: Value,
    shards: Vec<Shard>,
    /// Global index of the first row of each shard, followed by the total number of rows.
    starts: Vec<u64>,
    fields: BTreeMap<String, Field>,
}

/// Type and shape of one row of a tensor.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    dtype: DType,
    shape: Vec<usize>,
}

impl Field {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()
    }
}

#[derive(Debug)]
struct Shard {
    map: Mmap,
    /// Byte offset of each tensor in `map`.
    offsets: BTreeMap<String, usize>,
    rows: u64,
}

impl Shard {
    /// Consecutive rows of a tensor within the shard.
    fn rows(&self, tensor: &str, field: &Field, rows: Range<u64>) -> &[u8] {
        let (start, size) = (self.offsets[tensor], field.bytes());
        &self.map[start + rows.start as usize * size..start + rows.end as usize * size]
    }
}

impl Packed {
    /// Opens the artifact in `dir`. Checks each shard's header against its file length, the other
    /// shards and `meta.json`.
    pub fn open(dir: &Path) -> Result<Self> {
        let meta = read_meta(dir)?;
        let stem = find_stem(dir)?;
        let (mut shards, mut starts, mut fields) = (Vec::new(), vec![0], BTreeMap::new());
        loop {
            let path = dir.join(shard_name(&stem, shards.len()));
            if !path.exists() {
                break;
            }
            let (shard, shard_fields) = open_shard(&path)?;
            if shards.is_empty() {
                fields = shard_fields;
            } else if fields != shard_fields {
                bail!("{}: its tensors differ from those of the previous shards", path.display());
            }
            starts.push(starts[shards.len()] + shard.rows);
            shards.push(shard);
        }
        let this = Self { dir: dir.to_path_buf(), meta, shards, starts, fields };
        match this.meta.get("count").and_then(Value::as_u64) {
            Some(n) if n == this.len() => Ok(this),
            Some(n) => bail!(
                "{}: `count` is {n}, but the {} shards `{stem}-*.safetensors` hold {} rows",
                dir.join(META).display(),
                this.shards.len(),
                this.len()
            ),
            None => bail!("{}: `count` is missing or not a number", dir.join(META).display()),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.starts[self.shards.len()]
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `meta.json`, a JSON object.
    pub fn meta(&self) -> &Value {
        &self.meta
    }

    /// Names of the tensors, sorted.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// Shape of one row of `tensor`, without the leading sample axis.
    pub fn shape(&self, tensor: &str) -> Result<Vec<usize>> {
        Ok(self.field(tensor)?.shape.clone())
    }

    pub fn dtype(&self, tensor: &str) -> Result<DType> {
        Ok(self.field(tensor)?.dtype)
    }

    fn field(&self, tensor: &str) -> Result<&Field> {
        match self.fields.get(tensor) {
            Some(f) => Ok(f),
            None => {
                let have: Vec<_> = self.tensors().collect();
                bail!("{}: no tensor `{tensor}` (has {})", self.dir.display(), have.join(", "))
            }
        }
    }

    /// Rows of `tensor` in the order of `indices`, `[indices.len(), ..shape]`, in the stored dtype.
    pub fn rows(&self, tensor: &str, indices: &[u64], device: &Device) -> Result<Tensor> {
        let field = self.field(tensor)?;
        let rows = indices.iter().map(|i| self.row(tensor, field, *i)).collect::<Result<Vec<_>>>()?;
        let mut shape = vec![indices.len()];
        shape.extend(&field.shape);
        match field.dtype {
            // What trainings read a lot of, without a second copy.
            DType::F32 => Tensor::from_vec(gathered(&rows, f32::from_le_bytes), shape, device),
            DType::F16 => Tensor::from_vec(gathered(&rows, f16::from_le_bytes), shape, device),
            dtype => Tensor::from_raw_buffer(&rows.concat(), dtype, &shape, device),
        }
    }

    /// All rows of `tensor`; for small tensors such as labels.
    pub fn all(&self, tensor: &str, device: &Device) -> Result<Tensor> {
        self.rows(tensor, &(0..self.len()).collect::<Vec<_>>(), device)
    }

    fn row(&self, tensor: &str, field: &Field, index: u64) -> Result<&[u8]> {
        if index >= self.len() {
            bail!("{}: row {index} is out of range; it has {} rows", self.dir.display(), self.len());
        }
        let s = self.starts.partition_point(|start| *start <= index) - 1;
        let at = index - self.starts[s];
        Ok(self.shards[s].rows(tensor, field, at..at + 1))
    }
}

/// The numbers of rows of equal length, one after the other.
fn gathered<T, const N: usize>(rows: &[&[u8]], number: impl Fn([u8; N]) -> T + Sync) -> Vec<T>
where
    T: Copy + Default + Send,
{
    let width = rows.first().map_or(0, |row| row.len() / N);
    let mut all = vec![T::default(); width * rows.len()];
    all.par_chunks_mut(width.max(1)).zip(rows).for_each(|(to, row)| {
        to.iter_mut().zip(row.as_chunks().0).for_each(|(to, bytes)| *to = number(*bytes));
    });
    all
}

fn shard_name(stem: &str, index: usize) -> String {
    format!("{stem}-{index:05}.safetensors")
}

fn read_meta(dir: &Path) -> Result<Value> {
    let path = dir.join(META);
    let text = match erw_base::text::read(&path) {
        Ok(t) => t,
        Err(e) => bail!("cannot read {}: {e}", path.display()),
    };
    let meta: Value = match serde_json::from_str(&text) {
        Ok(v) => v,
        Err(e) => bail!("{}: not JSON: {e}", path.display()),
    };
    match meta.get("format").and_then(Value::as_u64) {
        Some(FORMAT) => Ok(meta),
        Some(f) => bail!("{}: format {f} is not supported; this program reads format {FORMAT}", path.display()),
        None => bail!("{}: not a packed array: `format` is missing or not a number", path.display()),
    }
}

fn find_stem(dir: &Path) -> Result<String> {
    let first = shard_name("", 0);
    let mut stems = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        stems.extend(name.to_str().and_then(|n| n.strip_suffix(&first)).map(str::to_string));
    }
    match stems.as_slice() {
        [stem] => Ok(stem.clone()),
        [] => bail!("{}: no shard `*{first}`", dir.display()),
        _ => bail!("{}: holds shards of several arrays: {}", dir.display(), stems.join(", ")),
    }
}

/// Maps a shard and reads its header. safetensors checks the header against the file length.
fn open_shard(path: &Path) -> Result<(Shard, BTreeMap<String, Field>)> {
    let file = match fs::File::open(path) {
        Ok(f) => f,
        Err(e) => bail!("cannot open {}: {e}", path.display()),
    };
    // A mapping needs a file that does not change: artifacts are renamed into place once and never
    // modified.
    #[expect(unsafe_code, reason = "mapping a file that nothing writes to any more")]
    let map = match unsafe { Mmap::map(&file) } {
        Ok(m) => m,
        Err(e) => bail!("cannot map {}: {e}", path.display()),
    };
    let (header, metadata) = match safetensors::SafeTensors::read_metadata(&map) {
        Ok(x) => x,
        Err(e) => bail!("{}: truncated or not a safetensors file ({e})", path.display()),
    };
    let (mut offsets, mut fields, mut rows) = (BTreeMap::new(), BTreeMap::new(), None);
    for (name, info) in metadata.tensors() {
        let Some((&n, shape)) = info.shape.split_first() else {
            bail!("{}: tensor `{name}` has no sample axis", path.display())
        };
        if *rows.get_or_insert(n) != n {
            bail!("{}: tensor `{name}` has {n} rows, but others have {}", path.display(), rows.unwrap_or(0));
        }
        // The header follows eight bytes with its length.
        offsets.insert(name.clone(), 8 + header + info.data_offsets.0);
        fields.insert(name, Field { dtype: DType::try_from(info.dtype)?, shape: shape.to_vec() });
    }
    let rows = rows.unwrap_or(0) as u64;
    Ok((Shard { map, offsets, rows }, fields))
}
