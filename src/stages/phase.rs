//! What the two phases, `warmup` and `train`, have in common: the parameters that both manifests name, and the network that
//! they start from. Losses are theirs.

use super::averages;
use super::examples::{Draw, check_batch};
use super::feature_source::Mode;
use super::hand_over::take_over;
use super::support::write_json;
use super::trainer::{CONFIG_FILE, Cadence, Optimization};
use crate::error::Result;
use crate::ml::models::sit::{SiT, SiTConfig};
use crate::ml::precision::Precision;
use crate::ml::train::FitConfig;
use crate::ml::weights::ParamSet;
use crate::runner::attempt::Attempt;
use candle_core::{DType, Device};
use serde::Deserialize;

/// Flattened into the parameters of both kinds, beside [`Architecture`](super::examples::Architecture) and others that are
/// flattened too: serde cannot nest these and refuse unknown names.
#[derive(Debug, Deserialize)]
pub struct Phase {
    pub seed: u64,
    init_weights: String,
    pub features: Mode,
    pub flip: f64,
    pub batch: usize,
    pub accumulate: usize,
    precision: Precision,
}

/// A network to be trained.
pub struct Start {
    pub params: ParamSet,
    pub model: SiT,
    /// Tensors taken over from `init`; `None` without.
    pub loaded: Option<usize>,
}

impl Phase {
    pub fn check(&self) -> Result<()> {
        averages::check("init_weights", &self.init_weights)?;
        check_batch(self.batch, self.accumulate)
    }

    /// The loop of this attempt.
    pub fn fit(&self, attempt: &Attempt, optimization: &Optimization) -> Result<FitConfig> {
        let config = optimization.fit(attempt, self.batch, self.accumulate)?;
        Ok(FitConfig { loss_scaling: self.precision.needs_loss_scaling(), ..config })
    }

    pub fn draw(&self) -> Draw {
        Draw { seed: self.seed, batch: self.batch, accumulate: self.accumulate, flip: self.flip }
    }

    /// Samples in a micro-batch.
    pub fn micro_batch(&self) -> usize {
        self.batch / self.accumulate.max(1)
    }

    /// Makes the network, with what `init` has of it, and leaves its configuration beside the checkpoints.
    pub fn start(&self, attempt: &Attempt, config: &SiTConfig, device: &Device) -> Result<Start> {
        let (params, vb) = ParamSet::init(self.seed, DType::F32, device);
        let keep = attempt.operation::<Cadence>()?.keep();
        let model = SiT::new(config, vb)?.with_precision(self.precision).keeping(keep);
        self.precision.caveat(device).into_iter().for_each(|text| attempt.log(text));
        let of = if config.blocks() < config.depth { format!(" of {}", config.depth) } else { String::new() };
        attempt.log(&format!("{} parameters in {}{of} blocks", params.count(), config.blocks()));
        let loaded = take_over(attempt, &self.init_weights, &params, &model)?;
        write_json(&attempt.checkpoint_dir().join(CONFIG_FILE), config)?;
        Ok(Start { params, model, loaded })
    }
}
