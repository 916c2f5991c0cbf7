//! The confusion matrix of a classifier. Does not know where the images come from.

use crate::models::classifier::Classifier;
use candle_core::{Error, Result, Tensor};

/// Counts of each predicted label for each true label.
pub struct Confusion {
    /// `[label][prediction]`
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Self { counts: vec![vec![0; classes]; classes] }
    }

    /// Classifies u8 images `[n, 3, H, W]` and counts the predictions.
    pub fn add(&mut self, net: &Classifier, images: &Tensor, labels: &[i64]) -> Result<()> {
        let classes = self.counts.len();
        for (answer, label) in net.classify(images)?.into_iter().zip(labels) {
            let row = usize::try_from(*label).ok().and_then(|l| self.counts.get_mut(l)).ok_or_else(|| {
                Error::Msg(format!("an image has label {label}, but the classifier knows {classes} classes"))
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

    /// Share of correct predictions; NaN if there are none.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = self.counts.iter().enumerate().map(|(i, row)| row[i]).sum();
        right as f64 / self.total() as f64
    }

    /// Share of correct predictions per label; `None` for a label without images.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let share = |(i, row): (usize, &Vec<u64>)| match row.iter().sum::<u64>() {
            0 => None,
            n => Some(row[i] as f64 / n as f64),
        };
        self.counts.iter().enumerate().map(share).collect()
    }
}
