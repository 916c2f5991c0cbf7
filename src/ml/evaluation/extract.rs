//! Runs a feature network once over a set of images, and stores what the requested metrics need of
//! each image.
//!
//! Images are decoded ahead of the network. Rows are written in pieces, so a killed pass resumes
//! with the pieces that are not there, and ranks share them. The files take 8 KB per image for
//! Inception's pooled features and 20 KB with all outputs, and are removed when the stage succeeds.

use super::image_source::{Group, ImageSource};
use super::metric::Needs;
use super::rows::{self, Rows};
use crate::data::batches::batches;
use crate::data::prefetch::{MicroBatch, prefetching};
use crate::metrics::gaussian::Gaussian;
use crate::metrics::stats::Stats;
use crate::models::feature_network::{FeatureNetwork, Outputs};
use crate::observer::Observer;
use crate::pieces::{Missing, Pieces, Share};
use candle_core::{DType, Device, Result, Tensor, bail};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Images of a piece.
const PIECE: u64 = 256;
/// Rows per update of the mean and covariance. Fixed, because the rounding of the sums depends on
/// it.
const SUMMED: usize = 512;

/// Outputs to store for each image in addition to its pooled features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtraOutputs {
    pub spatial: bool,
    pub logits: bool,
}

impl ExtraOutputs {
    /// Those that metrics with these needs take.
    pub fn of(needs: Needs) -> Self {
        Self { spatial: needs.spatial, logits: needs.score }
    }
}

/// Where and how an extraction runs.
pub struct Pass<'a> {
    pub obs: &'a dyn Observer,
    /// The part of this rank.
    pub share: Share,
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
    /// [`make`](Self::make) has processed the images of this rank already.
    pub is_made: bool,
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
    /// Processes the images of this rank that an earlier pass called `name` has not processed, and
    /// returns the rows of all images, for which it waits. Returns `None` if the observer asks to
    /// stop.
    pub fn extract(&self, name: &str, pictures: &ImageSource, wanted: ExtraOutputs) -> Result<Option<Features>> {
        let outputs = self.outputs(pictures, wanted)?;
        self.with_pieces(name, pictures, &outputs, |pieces| {
            let is_made = self.is_made || self.fill(pieces, pictures, &outputs)?;
            if !is_made || !pieces.wait() {
                return Ok(None);
            }
            let paths: Vec<PathBuf> = (0..pieces.count()).map(|piece| pieces.path(piece)).collect();
            let mut rows = Rows::open(&paths, pieces.total, PIECE, &outputs.dims)?.into_iter();
            let Some(pool) = rows.next() else { bail!("a network without features") };
            let spatial = if outputs.wanted.spatial { rows.next() } else { None };
            Ok(Some(Features { pool, spatial, logits: rows.next() }))
        })
    }

    /// Only processes the images of this rank. Returns false if the observer asks to stop.
    pub fn make(&self, name: &str, pictures: &ImageSource, wanted: ExtraOutputs) -> Result<bool> {
        let outputs = self.outputs(pictures, wanted)?;
        self.with_pieces(name, pictures, &outputs, |pieces| self.fill(pieces, pictures, &outputs))
    }

    fn with_pieces<T>(
        &self,
        name: &str,
        pictures: &ImageSource,
        outputs: &RowLengths,
        work: impl FnOnce(&Pieces<'_>) -> Result<T>,
    ) -> Result<T> {
        let whole = |path: &Path, images: u64| {
            std::fs::metadata(path).is_ok_and(|file| file.len() == rows::bytes_of(images, &outputs.dims))
        };
        work(&Pieces {
            dir: self.dir.join(name),
            stem: "features",
            ending: ".f32",
            total: pictures.len(),
            size: PIECE,
            share: self.share,
            is_sound: &whole,
            obs: self.obs,
            before: self.before,
            of: self.total,
        })
    }

    /// Makes the missing pieces of this rank.
    fn fill(&self, pieces: &Pieces<'_>, pictures: &ImageSource, outputs: &RowLengths) -> Result<bool> {
        let missing = pieces.missing()?;
        let plan: Vec<(u64, Range<u64>)> = self.plan(pieces, &missing);
        let make = |(i, _): MicroBatch| pictures.groups(plan[i as usize].1.clone());
        let following = |(i, _): MicroBatch| (i + 1 < plan.len() as u64).then_some((i + 1, 0));
        prefetching(&make, &following, |batches| {
            let mut pending = Batch::default();
            for (i, (piece, range)) in plan.iter().enumerate() {
                if self.obs.should_stop() {
                    return Ok(false);
                }
                let groups = batches.take((i as u64, 0))?;
                pending.extend(self.look(outputs, pictures, range, groups)?);
                let whole = pieces.range(*piece);
                if range.end == whole.end {
                    let rows = std::mem::take(&mut pending);
                    missing.put(*piece, |path| rows::write(path, &rows.columns().map(|column| &column.rows[..])))?;
                } else {
                    missing.progress(range.end - whole.start);
                }
            }
            Ok(true)
        })
    }

    /// The batches of the missing pieces, each with its piece: none across two of them.
    fn plan(&self, pieces: &Pieces<'_>, missing: &Missing<'_>) -> Vec<(u64, Range<u64>)> {
        let cut = |piece: &u64| {
            let (piece, range) = (*piece, pieces.range(*piece));
            let batches = batches(range.end - range.start, self.batch);
            batches.map(move |b| (piece, range.start + b.start..range.start + b.end))
        };
        missing.numbers.iter().flat_map(cut).collect()
    }

    /// Runs a batch through the network.
    fn look(
        &self,
        outputs: &RowLengths,
        pictures: &ImageSource,
        range: &Range<u64>,
        groups: Vec<Group>,
    ) -> Result<Batch> {
        let mut rows = Batch::default();
        for group in &groups {
            self.check_size(pictures, range.start, group)?;
            let Outputs { pool, spatial, logits } = self.network.outputs(&group.images.to_device(self.device)?)?;
            rows.pool.put(&pool, &group.places)?;
            rows.spatial.put_some(outputs.wanted.spatial, spatial, &group.places)?;
            rows.logits.put_some(outputs.wanted.logits, logits, &group.places)?;
        }
        if let Some(place) = rows.not_finite() {
            let image = pictures.place(range.start + place as u64);
            bail!("{image}: the network outputs features that are not finite");
        }
        Ok(rows)
    }

    /// Refuses images of another size than those that the network was trained on, if it takes images
    /// at their own. The group is of a batch that starts with image `first`.
    fn check_size(&self, pictures: &ImageSource, first: u64, group: &Group) -> Result<()> {
        let (_, _, height, width) = group.images.dims4()?;
        match (self.network.size().filter(|trained| *trained != (height, width)), group.places.first()) {
            (Some((h, w)), Some(place)) => bail!(
                "{}: {height} x {width} pixels, but the network `{}`, which takes images at their own size, was \
                 trained on {h} x {w}",
                pictures.place(first + *place as u64),
                self.network.name()
            ),
            _ => Ok(()),
        }
    }

    /// The row lengths of the wanted outputs. Runs the network on the first image to learn them, and
    /// whether the network has these outputs.
    fn outputs(&self, pictures: &ImageSource, wanted: ExtraOutputs) -> Result<RowLengths> {
        let mut first = None;
        for group in pictures.groups(0..1)? {
            self.check_size(pictures, 0, &group)?;
            first = Some(self.network.outputs(&group.images.to_device(self.device)?)?);
        }
        let Some(first) = first else { bail!("the image set is empty") };
        let outputs = [
            (true, "pooled features", Some(&first.pool)),
            (wanted.spatial, "spatial features", first.spatial.as_ref()),
            (wanted.logits, "class scores", first.logits.as_ref()),
        ];
        let mut dims = vec![];
        for (_, what, rows) in outputs.into_iter().filter(|(wanted, ..)| *wanted) {
            let Some(rows) = rows else { bail!("the network `{}` has no output for {what}", self.network.name()) };
            dims.push(rows.dim(1)?);
        }
        Ok(RowLengths { wanted, dims })
    }
}

/// The outputs that a pass stores.
struct RowLengths {
    wanted: ExtraOutputs,
    /// Numbers of a row of each.
    dims: Vec<usize>,
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
