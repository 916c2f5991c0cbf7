//! Trains a small SiT with alignment, from the library alone:
//! `cargo run --release --example train_sit`. Latents and features are made up here, a pattern for each
//! class; real ones are packed arrays of the same tensors.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use candle_core::{DType, Device, Result, Tensor, bail};
use erw::ml::data::latents::Latents;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::diffusion::alignment::Alignment;
use erw::ml::diffusion::alignment_schedule::Schedule;
use erw::ml::diffusion::interpolant::{Path, TimeDistribution};
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::nn::params::ParamSet;
use erw::ml::observer::Silent;
use erw::ml::rng::{Purpose, normal_rows};
use erw::ml::train::config::FitConfig;
use erw::ml::train::outcome::Outcome;
use erw::ml::train::sit::batch::{BatchConfig, Examples};
use erw::ml::train::sit::features::Features;
use erw::ml::train::sit::flow::FlowMatching;
use erw::ml::train::{Callbacks, fit_batches};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let (dir, device) = (tempfile::tempdir()?, Device::Cpu);
    let labels: Vec<u64> = (0..64).map(|image| image % 4).collect();
    let pattern = |seed, shape: &[usize]| normal_rows(seed, Purpose::Noise, 0, &labels, shape, &device);
    let mean = pattern(1, &[4, 8, 8])?;
    let latents = [
        ("mean", mean.clone()),
        ("std", (mean.ones_like()? * 0.1)?),
        ("labels", Tensor::from_iter(labels.iter().map(|label| *label as i64), &device)?),
    ];
    write(&dir.path().join("latents"), &latents, &json!({"classes": ["a", "b", "c", "d"]}))?;
    write(&dir.path().join("features"), &[("tokens", pattern(2, &[16, 32])?)], &json!({}))?;

    let latents = Latents::open(&dir.path().join("latents"))?;
    let features = vec![("the features".into(), Packed::open(&dir.path().join("features"))?)];
    let features = Features::stored(&latents, features)?;
    let examples = Examples { latents, features, device: device.clone() };
    let config =
        SiTConfig { hidden: 64, depth: 2, heads: 4, ..SiTConfig::published("SiT-S/2", [4, 8], 4, vec![32], 1)? };
    let (params, vars) = ParamSet::init(0, DType::F32, &device);
    let model = SiT::new(&config, vars)?;
    let training = FlowMatching {
        examples: &examples,
        model: &model,
        batches: BatchConfig { seed: 0, batch: 16, accumulate: 1, flip: 0.0 },
        path: Path::Linear,
        time: TimeDistribution::Uniform,
        velocity_cosine: 0.0,
        schedule: Schedule::HalfLife { c0: 1.0, half_life: 100.0 },
        alignment: Alignment::COSINE,
        dispersion: None,
        self_alignment: None,
        latent_alignment: 0.0,
        attention: None,
        class_token: 0.0,
    };
    let (make, loss) = (|place| training.batch(place), |step, batch| training.loss(step, &batch));
    let cfg = FitConfig::new(200, 1e-3, dir.path());
    let Outcome::Done(trained) = fit_batches(&params, &cfg, &Silent, &mut Callbacks::default(), &make, &loss)? else {
        bail!("the training did not reach its end")
    };
    for point in trained.curve.iter().filter(|point| point.step == 1 || point.step % 40 == 0) {
        let [velocity, alignment] = ["velocity", "alignment"].map(|name| point.parts[name]);
        println!("step {:3}: loss {:6.3}, velocity {velocity:.3}, alignment {alignment:6.3}", point.step, point.loss);
    }
    Ok(())
}

/// A packed array of these tensors, a row per image.
fn write(dir: &std::path::Path, tensors: &[(&str, Tensor)], meta: &Value) -> Result<()> {
    let mut writer = PackedWriter::create(dir, "rows", 64)?;
    writer.push(&tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect())?;
    writer.finish(meta).map(drop)
}
