//! Opens the two sides of a comparison and checks, before any image is read, that they are
//! comparable and support the requested metrics. An impossible metric is refused at once, not after
//! an hour. Computes no features.

use super::open_images::check_size;
use super::provenance::Extractor;
use super::side::{Side, Statistics};
use crate::support::frozen_networks::feature_network;
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::evaluation::metric::{Metric, Needs};
use erw_ml::metrics::bounds::Requirements;
use erw_ml::metrics::gaussian::{POOLED, SPATIAL};
use erw_ml::models::feature_network::FeatureNetwork;
use erw_ml::models::feature_network::mode::Mode;
use erw_runner::kind::attempt::Attempt;

/// Length of Inception's pooled features. Published statistics of this length are assumed to be
/// Inception's.
const INCEPTION_DIM: usize = 2048;

/// Prefix of the names of CLIP networks.
const CLIP: &str = "clip";

/// Input slots.
pub const SAMPLES: &str = "samples";
pub const REFERENCE: &str = "reference";
const NETWORK: &str = "network";

/// Two sides and the network behind their features.
pub struct Comparison {
    pub samples: Side,
    pub reference: Side,
    /// Whether both sides are of the same images.
    pub is_same: bool,
    /// `None` if input `network` is not connected. Then both sides must be statistics.
    pub network: Option<Box<dyn FeatureNetwork>>,
    /// The network and preparation of the features. `None` if both sides are published statistics,
    /// which do not record them.
    pub seen: Option<Extractor>,
    /// Length of pooled features.
    pub dim: usize,
}

impl Comparison {
    /// Opens both sides and the network, for batches of `batch` images.
    ///
    /// # Errors
    /// If the sides are not comparable, or do not support one of the metrics.
    pub fn open(
        attempt: &Attempt,
        mode: Option<Mode>,
        metrics: &[Metric],
        batch: usize,
        device: &Device,
    ) -> Result<Self> {
        let given = |slot: &str| Side::open(attempt.input(slot)?).map_err(|e| e.context(format!("input `{slot}`")));
        let (samples, reference) = (given(SAMPLES)?, given(REFERENCE)?);
        let is_same = attempt.input(SAMPLES)? == attempt.input(REFERENCE)? || samples.is_of_images_of(&reference);
        let dir = attempt.optional_input(NETWORK);
        let network = dir.map(|dir| feature_network(attempt, dir, mode, batch, device)).transpose()?;
        let seen = match (&network, dir) {
            (Some(network), Some(dir)) => Some(Extractor::by(&**network, dir)?),
            _ => [&samples, &reference].into_iter().find_map(|side| Some(side.note()?.seen.clone())),
        };
        let dim = match (&seen, &samples) {
            (Some(seen), _) => seen.dim,
            (None, Side::Stats(stats)) => stats.pool()?.dim(),
            (None, Side::Images { .. }) => 0,
        };
        let this = Self { samples, reference, is_same, network, seen, dim };
        this.check_network(mode)?;
        this.check_metrics(metrics)?;
        Ok(this)
    }

    fn sides(&self) -> [(&'static str, &Side); 2] {
        [(SAMPLES, &self.samples), (REFERENCE, &self.reference)]
    }

    /// Checks that both sides have features of one network, in mode `mode` if it is given.
    fn check_network(&self, mode: Option<Mode>) -> Result<()> {
        for (slot, given) in self.sides() {
            match given {
                Side::Images { .. } if self.network.is_none() => {
                    let text = format!("input `{slot}` contains images, but input `{NETWORK}` is not connected");
                    return Err(Error::stage(text).hint("the network is optional only if both inputs are statistics"));
                }
                Side::Images { pictures, .. } => {
                    let trained = self.network.as_ref().and_then(|network| network.size());
                    check_size(pictures, trained).map_err(|e| e.within(&format!("input `{slot}`")))?;
                }
                Side::Stats(stats) => self.check_statistics(slot, stats)?,
            }
        }
        match (mode, self.seen.as_ref().and_then(|seen| seen.mode)) {
            (Some(asked), is) if is != Some(asked) => {
                let is = is.map_or("none", Mode::name);
                let text = format!("`mode` is \"{}\", but the mode of the statistics is {is}", asked.name());
                Err(Error::stage(text).hint("leave `mode` out, or make the statistics again"))
            }
            _ => Ok(()),
        }
    }

    fn check_statistics(&self, slot: &str, stats: &Statistics) -> Result<()> {
        match (stats.note(), &self.seen) {
            (Some(note), Some(seen)) => {
                let ours = if self.network.is_some() { "input `network`" } else { "input `samples`" };
                seen.agrees(&note.seen, [ours, &format!("input `{slot}`")])
            }
            _ => {
                let theirs = stats.pool()?.dim();
                if theirs == self.dim {
                    return Ok(());
                }
                let text = format!("input `{slot}` has {theirs} features, but the other side has {}", self.dim);
                let text = match &self.seen {
                    Some(_) => format!("input `{slot}` has {theirs} features, but the network makes {}", self.dim),
                    None => text,
                };
                Err(Error::stage(text).hint("published statistics hold Inception's 2048 pooled features"))
            }
        }
    }

    /// Whether the features are Inception's. Published statistics are assumed to be if their length
    /// matches.
    pub fn is_inception(&self) -> bool {
        self.seen.as_ref().map_or(self.dim == INCEPTION_DIM, Extractor::is_inception)
    }

    fn network_name(&self) -> &str {
        self.seen.as_ref().map_or("unknown", |seen| &seen.network)
    }

    fn check_metrics(&self, metrics: &[Metric]) -> Result<()> {
        let inception = self.is_inception();
        for &metric in metrics {
            let name = metric.name();
            if metric.of_inception_only() && !inception {
                let text = format!("`metrics`: `{name}` needs Inception, but the network is `{}`", self.network_name());
                return Err(Error::stage(text).hint("connect an `inception` to input `network`"));
            }
            if metric == Metric::Cmmd && !self.network_name().starts_with(CLIP) {
                let text =
                    format!("`metrics`: `{name}` needs CLIP embeddings, but the network is `{}`", self.network_name());
                return Err(Error::stage(text).hint("connect the `encoder` of clip-vit-L-336 to input `network`"));
            }
            for (slot, given) in self.sides() {
                let one = [metric];
                let needs = if slot == SAMPLES { Needs::of(&one) } else { Needs::of_reference(&one) };
                if let Side::Stats(stats) = given {
                    self.check_held(name, slot, stats, needs)?;
                }
            }
        }
        Ok(())
    }

    /// Checks that both sides have enough images for every metric to be defined.
    pub fn check_counts(&self, metrics: &[Metric], bounds: &Requirements) -> Result<()> {
        for metric in metrics {
            let least = bounds.of(metric.name()).map_or(0, |b| b.least as u64);
            for (slot, given) in self.sides() {
                let one = [*metric];
                let needs = if slot == SAMPLES { Needs::of(&one) } else { Needs::of_reference(&one) };
                let Some(n) = given.available(needs)?.filter(|n| needs.any() && *n < least) else { continue };
                let text = format!(
                    "`metrics`: `{}` needs {least} images of each side, but input `{slot}` has {n}",
                    metric.name()
                );
                return Err(Error::stage(text).maybe_hint(match metric {
                    Metric::Kid => {
                        Some(format!("`kid_subset_size` is {least}; values with another size are not comparable"))
                    }
                    _ if needs.vectors => {
                        Some(format!("`k` is {}; values with another `k` are not comparable", bounds.k))
                    }
                    _ => None,
                }));
            }
        }
        Ok(())
    }

    /// Checks that the statistics contain what a metric needs.
    fn check_held(&self, metric: &str, slot: &str, stats: &Statistics, needs: Needs) -> Result<()> {
        let refused = |what: &str| Error::stage(format!("`metrics`: `{metric}` needs {what}"));
        if needs.spatial && !stats.has_spatial() {
            let [mu, sigma] = SPATIAL;
            let what = format!("`{mu}` and `{sigma}`, which input `{slot}` does not hold");
            return Err(refused(&what).hint("connect images, or statistics that were made with Inception"));
        }
        // Statistics that erw made lack a score only if there were too few images.
        if let Some(note) = stats.note().filter(|note| needs.score && note.inception_score.is_none()) {
            let what = format!("an image in every part, but the statistics of input `{slot}` have only {}", note.count);
            return Err(refused(&what).hint("torch-fidelity uses 10 parts, mode adm uses parts of 5,000 images"));
        }
        if needs.score && stats.note().is_none() {
            let what = format!("class scores of single images, but another tool made the statistics of input `{slot}`");
            return Err(refused(&what).hint("connect images, or statistics of a `stats` stage"));
        }
        if needs.vectors && !stats.has_features() {
            let [mu, sigma] = POOLED;
            if !stats.has_images() {
                let what = format!("features of single images, but input `{slot}` holds only `{mu}` and `{sigma}`");
                return Err(refused(&what).hint("connect images, or statistics that hold features or `arr_0`"));
            }
            if self.network.is_none() {
                let what = format!("features of the images in `{slot}`, but input `{NETWORK}` is not connected");
                return Err(refused(&what));
            }
        }
        Ok(())
    }
}
