//! The safetensors shards of latents that the ERW authors' code
//! (`latents_shard00_of_08.safetensors`) and LightningDiT (`latents_rank00_shard000.safetensors`)
//! write: `latents` `[n, C, h, w]` and `labels` `[n]`. LightningDiT's also hold the latents of the
//! mirrored images, `latents_flip`; the ERW authors' code adds the tokens of its encoders,
//! `encoder_0_features` `[n, T, D]`.
//!
//! Latents are samples of the posterior, drawn once: their noise is fixed and the standard
//! deviation is lost. The ERW authors' code multiplies them by the autoencoder's scaling factor
//! before storing them; LightningDiT does not. Rows are in the shuffled order of the extraction,
//! without names, so only features of the same shards match them.

use super::index::{Index, numbered};
use crate::data::packed::RowFile;
use crate::data::source::label_list::MAX_CLASSES;
use candle_core::{DType, Result, Tensor, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Open shards.
#[derive(Debug)]
pub struct Shards {
    files: Vec<RowFile>,
    /// Index of the first row of each file, followed by the total number of rows.
    starts: Vec<u64>,
    pub(super) index: Index,
    pub(super) scaled: bool,
}

impl Shards {
    /// The shards in a folder in order, or `root` itself if it is a shard. All files that the names
    /// promise must be there.
    pub fn find(root: &Path) -> Result<Vec<PathBuf>> {
        if root.is_file() {
            return Ok(vec![root.to_path_buf()]);
        }
        let mut files = vec![];
        for entry in std::fs::read_dir(root)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with("latents_") && name.ends_with(".safetensors") {
                files.push(path);
            }
        }
        files.sort();
        check_complete(root, &files)?;
        Ok(files)
    }

    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let (mut files, mut starts, mut labels, mut shape) = (vec![], vec![0], vec![], None);
        for path in paths {
            let file = RowFile::open(path)?;
            let [c, h, w] = file.shape("latents")? else {
                bail!("{}: `latents` has rows of shape {:?}, not [C, h, w]", path.display(), file.shape("latents")?)
            };
            if *shape.get_or_insert([*c, *h, *w]) != [*c, *h, *w] {
                bail!(
                    "{}: latents have shape {:?}, but those of the previous shards {shape:?}",
                    path.display(),
                    [c, h, w]
                );
            }
            labels.extend(read_labels(&file)?);
            starts.push(starts[files.len()] + file.len());
            files.push(file);
        }
        let (Some(shape), Some(first)) = (shape, paths.first()) else { bail!("no shards of latents") };
        if labels.is_empty() {
            bail!("{}: it holds no latents", first.display());
        }
        let scaled = paths.iter().all(|p| shard_of(p).is_some());
        let index = Index { classes: numbered(&labels), labels, shape };
        Ok(Self { files, starts, index, scaled })
    }

    pub fn len(&self) -> u64 {
        self.index.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn labels(&self) -> &[i64] {
        &self.index.labels
    }

    /// Latents as means, with standard deviations of zero.
    pub fn rows(&self, rows: Range<u64>) -> Result<[Tensor; 2]> {
        self.samples("latents", rows)
    }

    /// The same for the mirrored images.
    pub fn mirrored(&self, rows: Range<u64>) -> Result<[Tensor; 2]> {
        self.samples("latents_flip", rows)
    }

    fn samples(&self, tensor: &str, rows: Range<u64>) -> Result<[Tensor; 2]> {
        let mean = self.read(tensor, rows)?;
        if mean.dims()[1..] != self.index.shape {
            bail!("`{tensor}` has rows of shape {:?}, but the latents have {:?}", &mean.dims()[1..], self.index.shape);
        }
        let std = mean.zeros_like()?;
        Ok([mean, std])
    }

    /// Tokens and dimension of the features of encoder `index`, which all shards must agree on.
    pub fn feature_shape(&self, index: usize) -> Result<(usize, usize)> {
        let name = feature_name(index);
        let mut shapes = BTreeSet::new();
        for file in &self.files {
            match file.shape(&name)? {
                [tokens, dim] if tokens * dim > 0 => shapes.insert((*tokens, *dim)),
                other => bail!("{}: `{name}` has rows of shape {other:?}, not [tokens, dim]", file.path().display()),
            };
        }
        match (shapes.pop_first(), shapes.is_empty()) {
            (Some(shape), true) => Ok(shape),
            _ => bail!("the shape of `{name}` differs between shards"),
        }
    }

    /// Features of encoder `index`, f32 `[n, T, D]`.
    pub fn features(&self, index: usize, rows: Range<u64>) -> Result<Tensor> {
        self.read(&feature_name(index), rows)
    }

    /// Rows across files as f32, all finite.
    fn read(&self, tensor: &str, rows: Range<u64>) -> Result<Tensor> {
        let mut parts = vec![];
        for (file, start) in self.files.iter().zip(&self.starts) {
            let (from, to) = (rows.start.max(*start), rows.end.min(start + file.len()));
            if from >= to {
                continue;
            }
            let part = file.rows(tensor, from - start..to - start)?.to_dtype(DType::F32)?;
            let values = part.flatten_all()?.to_vec1::<f32>()?;
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                let row = from - start + (at / (values.len() / part.dim(0)?)) as u64;
                bail!("{}: `{tensor}` has the value {} in row {row}", file.path().display(), values[at]);
            }
            parts.push(part);
        }
        Tensor::cat(&parts, 0)
    }
}

fn feature_name(index: usize) -> String {
    format!("encoder_{index}_features")
}

fn read_labels(file: &RowFile) -> Result<Vec<i64>> {
    let labels = file.rows("labels", 0..file.len())?;
    if labels.rank() != 1 {
        bail!("{}: `labels` has rows of shape {:?}, not single numbers", file.path().display(), file.shape("labels")?);
    }
    if labels.dtype().is_float() {
        let stated = labels.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        if let Some((row, label)) = stated.iter().enumerate().find(|(_, label)| label.fract() != 0.0) {
            let shown = file.path().display();
            bail!("{shown}: `labels` has the value {label} in row {row}, which is no whole number");
        }
    }
    let labels = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    match labels.iter().find(|l| !(0..MAX_CLASSES as i64).contains(*l)) {
        Some(label) => bail!("{}: invalid label {label}; labels are 0 to {}", file.path().display(), MAX_CLASSES - 1),
        None => Ok(labels),
    }
}

/// Number and count of `latents_shardNN_of_MM.safetensors`.
fn shard_of(path: &Path) -> Option<(u32, u32)> {
    let name = path.file_stem()?.to_str()?.strip_prefix("latents_shard")?;
    let (number, count) = name.split_once("_of_")?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// Number of the process and of its shard, of `latents_rankNN_shardNNN.safetensors`.
fn ranked(path: &Path) -> Option<(u32, u32)> {
    let (rank, shard) = path.file_stem()?.to_str()?.strip_prefix("latents_rank")?.split_once("_shard")?;
    Some((rank.parse().ok()?, shard.parse().ok()?))
}

/// Checks that no shard between those of LightningDiT is missing, nor those of a process. How many
/// there were, their names do not say.
fn check_gaps(root: &Path, files: &[PathBuf]) -> Result<()> {
    let mut there: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for (rank, shard) in files.iter().filter_map(|file| ranked(file)) {
        there.entry(rank).or_default().insert(shard);
    }
    for (expected, (rank, shards)) in (0..).zip(&there) {
        let absent = match *rank == expected {
            true => (0..).zip(shards).find(|(n, shard)| n != *shard).map(|(n, _)| (*rank, n)),
            false => Some((expected, 0)),
        };
        if let Some((rank, shard)) = absent {
            bail!("{}: latents_rank{rank:02}_shard{shard:03}.safetensors is missing", root.display());
        }
    }
    Ok(())
}

/// The names of the ERW authors' code state the number of shards: none may be missing or belong to
/// another extraction.
fn check_complete(root: &Path, files: &[PathBuf]) -> Result<()> {
    let numbered: Vec<(u32, u32)> = files.iter().filter_map(|f| shard_of(f)).collect();
    let Some(&(_, count)) = numbered.first() else { return check_gaps(root, files) };
    if numbered.len() != files.len() || numbered.iter().any(|n| n.1 != count) {
        bail!("{} holds shards of several extractions", root.display());
    }
    let there: BTreeSet<u32> = numbered.iter().map(|n| n.0).collect();
    match (0..count).find(|n| !there.contains(n)) {
        Some(n) => bail!("{}: latents_shard{n:02}_of_{count:02}.safetensors is missing", root.display()),
        None if there.len() != count as usize || numbered.len() != there.len() => {
            bail!("{} holds more shards than the {count} that their names state", root.display())
        }
        None => Ok(()),
    }
}
