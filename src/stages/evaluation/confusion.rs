//! Which class was taken for which, counted.

use candle_core::Tensor;
use erw_base::error::{Error, Result};
use erw_ml::models::classifier::Classifier;

/// How often each label was taken for each: the answers of a classifier.
pub struct Confusion {
    /// `[label][answer]`
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes] }
    }

    /// Classifies u8 images `[n, 3, H, W]` and books the answers.
    pub fn add(&mut self, net: &Classifier, images: &Tensor, labels: &[i64]) -> Result<()> {
        let classes = self.counts.len();
        for (answer, label) in net.classify(images)?.into_iter().zip(labels) {
            let row = usize::try_from(*label).ok().and_then(|l| self.counts.get_mut(l)).ok_or_else(|| {
                Error::stage(format!("an image has label {label}, but the classifier knows {classes} classes"))
            })?;
            row[answer] += 1;
        }
        Ok(())
    }

    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Share of right answers; NaN of nothing.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = self.counts.iter().enumerate().map(|(i, row)| row[i]).sum();
        right as f64 / self.total() as f64
    }

    /// Share of right answers by label; `None` where there was no image.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let share = |(i, row): (usize, &Vec<u64>)| match row.iter().sum::<u64>() {
            0 => None,
            n => Some(row[i] as f64 / n as f64),
        };
        self.counts.iter().enumerate().map(share).collect()
    }
}
