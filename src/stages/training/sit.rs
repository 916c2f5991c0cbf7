//! Shared by the two phases, `warmup` and `train`: the parameters that both manifests declare, and
//! the initial network. Does not know their losses.

use super::dataset::check_batch;
use super::feature_source::Mode;
use super::init::init_from;
use super::settings::{LoopSettings, Optimization};
use super::trainer::CONFIG_FILE;
use crate::support::ema_files;
use crate::support::files::write_json;
use crate::support::sit_artifact::TrainingNote;
use candle_core::{DType, Device};
use erw_base::error::Result;
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::params::ParamSet;
use erw_ml::nn::precision::Precision;
use erw_ml::train::config::FitConfig;
use erw_ml::train::sit::batch::BatchConfig;
use erw_runner::kind::attempt::Attempt;
use serde::Deserialize;

/// The parameters that both kinds share. Flattened into theirs, beside
/// [`Architecture`](super::architecture::Architecture) and others: serde cannot nest flattened
/// structs and still refuse unknown names.
#[derive(Debug, Deserialize)]
pub struct SitTraining {
    pub seed: u64,
    init_weights: String,
    pub features: Mode,
    pub flip: f64,
    pub batch: usize,
    pub accumulate: usize,
    pub precision: Precision,
}

/// The initial state of a training.
pub struct Start {
    pub params: ParamSet,
    pub model: SiT,
    /// Number of tensors loaded from `init`; `None` without `init`.
    pub loaded: Option<usize>,
}

impl SitTraining {
    pub fn check(&self) -> Result<()> {
        ema_files::check("init_weights", &self.init_weights)?;
        check_batch(self.batch, self.accumulate)
    }

    /// The settings of the training loop of this attempt.
    pub fn fit(&self, attempt: &Attempt, optimization: &Optimization) -> Result<FitConfig> {
        let config = optimization.fit(attempt, self.batch, self.accumulate)?;
        Ok(FitConfig { loss_scaling: self.precision.needs_loss_scaling(), ..config })
    }

    pub fn batches(&self) -> BatchConfig {
        BatchConfig { seed: self.seed, batch: self.batch, accumulate: self.accumulate, flip: self.flip }
    }

    /// Number of samples in a micro-batch.
    pub fn micro_batch(&self) -> usize {
        self.batch / self.accumulate.max(1)
    }

    /// Creates the network, loads the matching weights of `init`, and writes the configuration
    /// beside the checkpoints.
    pub fn start(&self, attempt: &Attempt, config: &SiTConfig, device: &Device, note: &TrainingNote) -> Result<Start> {
        let (params, vb) = ParamSet::init(self.seed, DType::F32, device);
        let keep = attempt.operation::<LoopSettings>()?.keep();
        let model = SiT::new(config, vb)?.with_precision(self.precision).keeping(keep);
        self.precision.caveat(device).into_iter().for_each(|text| attempt.log(text));
        let of = if config.blocks() < config.depth { format!(" of {}", config.depth) } else { String::new() };
        attempt.log(&format!("{} parameters in {}{of} blocks", params.count(), config.blocks()));
        let loaded = init_from(attempt, &self.init_weights, &params, &model, note)?;
        if attempt.rank() == 0 {
            write_json(&attempt.checkpoint_dir().join(CONFIG_FILE), config)?;
        }
        Ok(Start { params, model, loaded })
    }
}
