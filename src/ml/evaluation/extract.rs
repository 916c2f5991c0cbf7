//! Runs a feature network once over a set of images, and stores what the requested metrics need of
//! each image.
//!
//! Images are decoded ahead of the network. Rows are written in blocks, so a killed pass resumes
//! after the last complete block. Batches never cross a block boundary, so the resumed pass also
//! sees the same batches. The files take 8 KB per image for Inception's pooled features and 20 KB
//! with all outputs, and are removed when the stage succeeds.

use super::image_source::{Group, ImageSource};
use super::rows::{Growing, Rows};
use crate::data::batches::batches;
use crate::data::prefetch::{MicroBatch, prefetching};
use crate::metrics::gaussian::Gaussian;
use crate::metrics::stats::Stats;
use crate::models::feature_network::{FeatureNetwork, Outputs};
use crate::observer::Observer;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::ops::Range;
use std::path::Path;

/// Images between two checkpoints.
const BLOCK: usize = 256;
/// Rows per update of the mean and covariance. Fixed, because the rounding of the sums depends on
/// it.
const SUMMED: usize = 512;

/// Outputs to store for each image in addition to its pooled features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtraOutputs {
    pub spatial: bool,
    pub logits: bool,
}

/// Where and how an extraction runs.
pub struct Pass<'a> {
    pub obs: &'a dyn Observer,
    /// Folder for the rows until all images are processed.
    pub dir: &'a Path,
    pub network: &'a dyn FeatureNetwork,
    pub device: &'a Device,
    /// Images per batch.
    pub batch: usize,
    /// Images in all passes, for progress reports.
    pub total: u64,
    /// Images in the passes before this one.
    pub before: u64,
}

/// Rows of all images, in image order.
#[derive(Debug)]
pub struct Features {
    pub pool: Rows,
    pub spatial: Option<Rows>,
    pub logits: Option<Rows>,
}

/// Mean and covariance of `rows`. Returns `None` if the observer asks to stop.
///
/// # Errors
/// Fewer than 2 rows.
pub fn moments(rows: &Rows, obs: &dyn Observer) -> Result<Option<Gaussian>> {
    let mut stats: Option<Stats> = None;
    for range in batches(rows.len(), SUMMED) {
        if obs.should_stop() {
            return Ok(None);
        }
        let part = rows.range(range)?;
        stats.get_or_insert(Stats::new(part.dim(1)?)).push(&part)?;
    }
    match stats {
        Some(stats) if stats.count() >= 2 => stats.gaussian().map(Some),
        _ => bail!("the covariance of one image is undefined; statistics need at least 2 images"),
    }
}

impl Pass<'_> {
    /// Processes the images that an earlier pass called `name` has not processed, and returns the
    /// rows of all images. Returns `None` if the observer asks to stop.
    pub fn extract(&self, name: &str, pictures: &ImageSource, wanted: ExtraOutputs) -> Result<Option<Features>> {
        let mut files = self.open(name, pictures, wanted)?;
        let done = files.begin()?;
        if done > 0 {
            self.obs.resumed(self.before + done);
        }
        let plan: Vec<Range<u64>> = self.plan(done, pictures.len());
        let make = |(i, _): MicroBatch| pictures.groups(plan[i as usize].clone());
        let following = |(i, _): MicroBatch| (i + 1 < plan.len() as u64).then_some((i + 1, 0));
        let is_whole = prefetching(&make, &following, |batches| {
            for (i, range) in plan.iter().enumerate() {
                if self.obs.should_stop() {
                    return Ok(false);
                }
                let groups = batches.take((i as u64, 0))?;
                self.look(&mut files, pictures, range, groups)?;
            }
            Ok(true)
        })?;
        is_whole.then(|| files.finish()).transpose()
    }

    /// The batches from image `done` on, none across a block boundary.
    fn plan(&self, done: u64, total: u64) -> Vec<Range<u64>> {
        let blocks = batches(total, BLOCK).filter(|block| block.start >= done);
        let cut = |block: Range<u64>| {
            batches(block.end - block.start, self.batch).map(move |b| block.start + b.start..block.start + b.end)
        };
        blocks.flat_map(cut).collect()
    }

    /// Runs a batch through the network. At the end of a block, writes the pending rows to disk.
    fn look(&self, files: &mut Files, pictures: &ImageSource, range: &Range<u64>, groups: Vec<Group>) -> Result<()> {
        let mut rows = Batch::default();
        for group in &groups {
            let Outputs { pool, spatial, logits } = self.network.outputs(&group.images.to_device(self.device)?)?;
            rows.pool.put(&pool, &group.places)?;
            rows.spatial.put_some(files.spatial.is_some(), spatial, &group.places)?;
            rows.logits.put_some(files.logits.is_some(), logits, &group.places)?;
        }
        if let Some(place) = rows.not_finite() {
            let image = pictures.place(range.start + place as u64);
            bail!("{image}: the network outputs features that are not finite");
        }
        files.pending.extend(rows);
        if range.end == pictures.len() || range.end.is_multiple_of(BLOCK as u64) {
            files.flush()?;
            self.obs.checkpointed(self.before + range.end);
        }
        self.obs.progress(self.before + range.end, self.total);
        Ok(())
    }

    /// Opens the files of a pass. Runs the network on the first image to learn the row lengths and
    /// which outputs the network has.
    fn open(&self, name: &str, pictures: &ImageSource, wanted: ExtraOutputs) -> Result<Files> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        let mut first = None;
        for Group { images, .. } in pictures.groups(0..1)? {
            first = Some(self.network.outputs(&images.to_device(self.device)?)?);
        }
        let Some(first) = first else { bail!("the image set is empty") };
        let file = |what: &str, rows: Option<&Tensor>| match rows {
            Some(rows) => Growing::open(dir.join(format!("{what}.f32")), rows.dim(1)?),
            None => bail!("the network `{}` has no output for {what}", self.network.name()),
        };
        let optional = |wanted: bool, what: &str, rows: &Option<Tensor>| match wanted {
            true => file(what, rows.as_ref()).map(Some),
            false => Ok(None),
        };
        Ok(Files {
            pool: file("pooled features", Some(&first.pool))?,
            spatial: optional(wanted.spatial, "spatial features", &first.spatial)?,
            logits: optional(wanted.logits, "class scores", &first.logits)?,
            pending: Batch::default(),
        })
    }
}

/// Rows of one or more batches.
#[derive(Default)]
struct Batch {
    pool: Column,
    spatial: Column,
    logits: Column,
}

impl Batch {
    fn columns(&self) -> [&Column; 3] {
        [&self.pool, &self.spatial, &self.logits]
    }

    fn extend(&mut self, other: Self) {
        self.pool.extend(other.pool);
        self.spatial.extend(other.spatial);
        self.logits.extend(other.logits);
    }

    /// Index of the first row with a value that is not finite.
    fn not_finite(&self) -> Option<usize> {
        self.columns().into_iter().flat_map(|c| c.rows.iter().position(|row| row.iter().any(|x| !x.is_finite()))).min()
    }
}

#[derive(Default)]
struct Column {
    rows: Vec<Vec<f32>>,
}

impl Column {
    fn put(&mut self, rows: &Tensor, places: &[usize]) -> Result<()> {
        for (row, place) in rows.to_dtype(DType::F32)?.to_vec2::<f32>()?.into_iter().zip(places) {
            if self.rows.len() <= *place {
                self.rows.resize(place + 1, vec![]);
            }
            self.rows[*place] = row;
        }
        Ok(())
    }

    fn put_some(&mut self, wanted: bool, rows: Option<Tensor>, places: &[usize]) -> Result<()> {
        match rows {
            Some(rows) if wanted => self.put(&rows, places),
            _ => Ok(()),
        }
    }

    fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }
}

/// The files of a pass, and the rows that are not written yet.
struct Files {
    pool: Growing,
    spatial: Option<Growing>,
    logits: Option<Growing>,
    pending: Batch,
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Growing> {
        [Some(&self.pool), self.spatial.as_ref(), self.logits.as_ref()].into_iter().flatten()
    }

    /// Truncates the files to the complete blocks that all of them hold, and returns the number of
    /// images in those blocks. A short last block is computed again.
    fn begin(&self) -> Result<u64> {
        let mut done = u64::MAX;
        for file in self.all() {
            done = done.min(file.len()?);
        }
        done -= done % BLOCK as u64;
        self.all().try_for_each(|file| file.cut(done))?;
        Ok(done)
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.pending);
        self.pool.append(&rows.pool.rows.concat())?;
        for (file, column) in [(&mut self.spatial, rows.spatial), (&mut self.logits, rows.logits)] {
            if let Some(file) = file {
                file.append(&column.rows.concat())?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Features> {
        Ok(Features {
            pool: self.pool.finish()?,
            spatial: self.spatial.map(Growing::finish).transpose()?,
            logits: self.logits.map(Growing::finish).transpose()?,
        })
    }
}
