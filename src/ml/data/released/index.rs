//! What every published latent set has: a shape, labels, class names.

/// What is known about the latents before they are read.
#[derive(Debug)]
pub(crate) struct Index {
    /// One label per latent, in order.
    pub(crate) labels: Vec<i64>,
    pub(crate) classes: Vec<String>,
    /// Shape of the mean: `[channels, height, width]`.
    pub(crate) shape: [usize; 3],
}

impl Index {
    pub(crate) fn len(&self) -> u64 {
        self.labels.len() as u64
    }
}

/// Describes a value that no posterior can have, if there is one.
pub(crate) fn flaw(mean: &[f32], std: &[f32]) -> Option<String> {
    if let Some(at) = mean.iter().position(|x| !x.is_finite()) {
        return Some(format!("the mean is {} at element {at}", mean[at]));
    }
    let at = std.iter().position(|s| !(s.is_finite() && *s >= 0.0))?;
    Some(format!("the standard deviation is {} at element {at}", std[at]))
}

/// Class names for labels without names: the numbers.
pub(crate) fn numbered(labels: &[i64]) -> Vec<String> {
    let classes = labels.iter().max().map_or(0, |l| l + 1);
    (0..classes).map(|c| c.to_string()).collect()
}
