//! What every released set has: a shape, labels, names of classes.

/// What is known of the latents before they are read.
#[derive(Debug)]
pub(crate) struct Index {
    /// One a latent, in order.
    pub(crate) labels: Vec<i64>,
    pub(crate) classes: Vec<String>,
    /// Of the mean: `[channels, height, width]`.
    pub(crate) shape: [usize; 3],
}

impl Index {
    pub(crate) fn len(&self) -> u64 {
        self.labels.len() as u64
    }
}

/// What is said of values that no posterior has.
pub(crate) fn flaw(mean: &[f32], std: &[f32]) -> Option<String> {
    if let Some(at) = mean.iter().position(|x| !x.is_finite()) {
        return Some(format!("the mean has the value {} (element {at})", mean[at]));
    }
    let at = std.iter().position(|s| !(s.is_finite() && *s >= 0.0))?;
    Some(format!("the deviation has the value {} (element {at})", std[at]))
}

/// Class names where labels are all that is known.
pub(crate) fn numbered(labels: &[i64]) -> Vec<String> {
    let classes = labels.iter().max().map_or(0, |l| l + 1);
    (0..classes).map(|c| c.to_string()).collect()
}
