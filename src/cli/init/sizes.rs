//! Sizes of networks and trainings that fit a set of images. All are first guesses: small enough to
//! see samples soon, and written where they can be changed.

/// Sides of an image that there are sizes for, and how they are typed.
pub const RESOLUTIONS: [(&str, usize); 6] =
    [("16", 16), ("32", 32), ("64", 64), ("128", 128), ("256", 256), ("512", 512)];
/// The largest for which all networks are trained, on a CPU. Above it, published ones are fetched.
pub const TRAINED: usize = 64;

/// The sizes of one pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Side of an image in pixels.
    pub resolution: usize,
    /// Pixels that become one latent, along a side.
    pub downsampling: usize,
    /// Side of a patch of the SiT, in latents.
    pub patch_size: usize,
    /// Samples per step.
    pub batch: usize,
    pub warmup_steps: usize,
    pub steps: usize,
}

impl Sizes {
    /// For images whose short side is usually `side`, of which `count` are trained on.
    pub fn of(side: usize, count: usize, resolution: Option<usize>) -> Self {
        // The nearest in octaves: 28 pixels become 32, 400 become as many as are trained on a CPU.
        let distance = |r: &usize| ((*r as f64).log2() - (side.max(1) as f64).log2()).abs();
        let trained = RESOLUTIONS.into_iter().map(|(_, r)| r).filter(|r| *r <= TRAINED);
        let nearest = trained.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(TRAINED);
        let resolution = resolution.unwrap_or(nearest);
        let published = resolution > TRAINED;
        let downsampling = if published { 8 } else { 4 };
        // Each side has at least four tokens.
        let patch_size = if resolution / downsampling < 8 { 1 } else { 2 };
        let most = if published { 256 } else { 64 };
        let batch = if count < most { count.max(2).next_power_of_two() / 2 } else { most }.max(1);
        // How often each image is seen, between bounds.
        let (passes, [least, longest]) = if published { (200, [10_000, 200_000]) } else { (64, [1500, 6000]) };
        let steps = (passes * count / batch / 500 * 500).clamp(least, longest);
        Self { resolution, downsampling, patch_size, batch, warmup_steps: steps / 5, steps }
    }

    /// Whether autoencoder and encoder are fetched, not trained.
    pub fn published(&self) -> bool {
        self.resolution > TRAINED
    }

    /// Side of the latents of an image.
    pub fn latent_side(&self) -> usize {
        self.resolution / self.downsampling
    }

    /// Tokens along a side, of SiT and encoder.
    pub fn tokens(&self) -> usize {
        self.latent_side() / self.patch_size
    }

    /// Pixels of a token along a side.
    pub fn pixels_per_token(&self) -> usize {
        self.downsampling * self.patch_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_images_of_any_size_and_number() {
        for (side, resolution) in [(0, 16), (8, 16), (28, 32), (32, 32), (40, 32), (64, 64), (4000, 64)] {
            assert_eq!(Sizes::of(side, 1000, None).resolution, resolution, "{side}");
        }
        for (_, resolution) in RESOLUTIONS {
            for count in [1, 2, 3, 63, 64, 65, 1000, 1_281_167] {
                let s = Sizes::of(100, count, Some(resolution));
                assert_eq!(s.tokens() * s.pixels_per_token(), resolution, "{s:?}");
                assert!(s.tokens() >= 4 && s.batch >= 1 && s.batch <= count, "{count}: {s:?}");
                assert!(s.steps >= 1500 && s.warmup_steps >= 300, "{count}: {s:?}");
            }
        }
    }
}
