//! Batches per second that the feed of a training on a GPU makes, on a machine without one: rows of
//! packed latents and stored f16 features, the draw of latents, noise, times and points, and the
//! copies into the memory from which a card reads. The card itself is a machine that is done at
//! once, so this is the rate above which a training on a card would wait for its data.
//!
//!     cargo bench --bench feeding                   # all
//!     cargo bench --bench feeding -- aligned-256    # one
//!
//! Latents are 4 x 32 x 32, features 256 x 768, as of SiT-XL/2 or B/2 with DINOv2-B. `aligned-N`:
//! N samples with features. `flipped-N`: N samples without features, half of them mirrored (stored
//! features do not cover mirrored images). `online-N`: features by DINOv2-B from images of 256 pixels,
//! whose transformer takes no time, as it would run on the card; but images are prepared here, where
//! a training with a card prepares them there. The files are in the page cache.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[expect(dead_code, reason = "nothing here is rated in products")]
mod support;

use candle_core::{DType, Device, Result, Tensor, bail};
use erw::ml::data::images::ImageSet;
use erw::ml::data::latents::Latents;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::diffusion::alignment::Alignment;
use erw::ml::diffusion::alignment_schedule::Schedule;
use erw::ml::diffusion::interpolant::{Path, TimeDistribution};
use erw::ml::gpu::sit::{Recipe, SitPrograms};
use erw::ml::models::encoder::Encoder;
use erw::ml::models::encoder::config::EncoderConfig;
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::models::vit::Vit;
use erw::ml::nn::elsewhere::Elsewhere;
use erw::ml::nn::params::{ParamSet, Tensors, census};
use erw::ml::observer::Silent;
use erw::ml::ranks::Ranks;
use erw::ml::rng::{Purpose, normal_rows};
use erw::ml::train::config::FitConfig;
use erw::ml::train::engine::Engine;
use erw::ml::train::sit::batch::{BatchConfig, Examples};
use erw::ml::train::sit::features::Features;
use erw::ml::train::sit::flow::FlowMatching;
use erw::ml::train::sit::gpu::GpuEngine;
use erw::ml::train::with_batches;
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Program, Type};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const CASES: [&str; 6] = ["aligned-64", "aligned-256", "online-64", "online-256", "flipped-64", "flipped-256"];
const CPU: Device = Device::Cpu;
/// Rows of the files.
const ROWS: usize = 1024;
/// Batches that are measured, after two that are not.
const BATCHES: u64 = 10;

fn main() {
    support::table(&CASES, "samples/s", measure);
}

fn measure(case: &str) -> Result<Value> {
    let Some((kind, samples)) = case.split_once('-') else { bail!("no case {case}") };
    let (aligned, batch) = (kind != "flipped", samples.parse::<usize>().unwrap());
    let dir = tempfile::tempdir()?;
    let latents = latents(&dir.path().join("latents"))?;
    let features = match kind {
        "aligned" => Features::stored(&latents, vec![("features".into(), features(&dir.path().join("features"))?)])?,
        "online" => Features::online(&latents, "images", images(&dir.path().join("images"))?, vec![encoder()?])?,
        _ => Features::none(),
    };
    let examples = Examples { latents, features, device: CPU };
    // The feed does not depend on the network's depth and width.
    let z_dims = if aligned { vec![768] } else { vec![] };
    let config = SiTConfig { depth: 1, ..SiTConfig::published("SiT-S/2", [4, 32], 1000, z_dims, 1)? };
    let (params, vb) = ParamSet::init(0, DType::F32, &CPU);
    let model = SiT::new(&config, vb)?;
    let training = FlowMatching {
        examples: &examples,
        model: &model,
        batches: BatchConfig { seed: 0, batch, accumulate: 1, flip: if aligned { 0.0 } else { 0.5 } },
        path: Path::Linear,
        time: TimeDistribution::Uniform,
        velocity_cosine: 0.0,
        schedule: if aligned { Schedule::Constant { c0: 0.5 } } else { Schedule::None },
        alignment: Alignment::COSINE,
        dispersion: None,
        self_alignment: None,
        latent_alignment: 0.0,
        attention: None,
        class_token: 0.0,
    };
    let recipe = Recipe::new(config.clone(), batch, Type::Bf16);
    let cfg = FitConfig::new(2 + BATCHES, 1e-4, dir.path());
    let make = |place| training.batch(place);
    let seconds = with_batches(&cfg, &Silent, &make, |next| {
        let mut feeder = |step, micro| training.feed(step, next(step, micro)?);
        let machine = Idle::default();
        let programs = SitPrograms::on(&machine, &recipe)?;
        let mut engine = GpuEngine::new(&machine, &programs, &model, &params.tensors(), &cfg, None, &mut feeder)?;
        engine.start()?;
        let mut began = Instant::now();
        for step in 0..2 + BATCHES {
            if step == 2 {
                began = Instant::now();
            }
            engine.gradients(step, 0..1, 1.0, &Ranks::default())?;
        }
        Ok(began.elapsed().as_secs_f64() / BATCHES as f64)
    })?;
    Ok(json!({"seconds": seconds, "per_s": batch as f64 / seconds, "peak_mib": support::peak_mib()}))
}

/// Does nothing but take bytes, as a card's page-locked memory does.
#[derive(Default)]
struct Idle(Mutex<Vec<u8>>);

impl Machine for Idle {
    fn allocate(&self, _: usize) -> Result<Address> {
        Ok(Address(256))
    }

    fn write(&self, _: Address, bytes: &[u8]) -> Result<()> {
        let mut staging = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.chunks(32 << 20) {
            if staging.len() < part.len() {
                staging.resize(part.len(), 0);
            }
            staging[..part.len()].copy_from_slice(part);
        }
        Ok(())
    }

    fn read(&self, _: Address, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn run(&self, _: &Program) -> Result<()> {
        Ok(())
    }
}

fn normal(tag: u64, shape: &[usize]) -> Result<Tensor> {
    normal_rows(1, Purpose::Probe, tag, &(0..ROWS as u64).collect::<Vec<_>>(), shape, &CPU)
}

fn latents(dir: &std::path::Path) -> Result<Latents> {
    let mut writer = PackedWriter::create(dir, "latents", 256)?;
    let mean = normal(1, &[4, 32, 32])?;
    let std = (mean.abs()? * 0.1)?;
    writer.push(&Tensors::from([
        ("mean_flip".into(), mean.clone()),
        ("std_flip".into(), std.clone()),
        ("mean".into(), mean),
        ("std".into(), std),
        ("labels".into(), labels()?),
    ]))?;
    let classes: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    writer.finish(&json!({"scaling_factor": 0.18215, "shift_factor": 0.0, "classes": classes}))?;
    Latents::open(dir)
}

fn labels() -> Result<Tensor> {
    Tensor::from_vec((0..ROWS as i64).map(|i| i % 1000).collect::<Vec<_>>(), ROWS, &CPU)
}

fn images(dir: &std::path::Path) -> Result<ImageSet> {
    let mut writer = PackedWriter::create(dir, "images", 256)?;
    let pixels: Vec<u8> = (0..ROWS * 256 * 256 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let pixels = Tensor::from_vec(pixels, (ROWS, 256, 256, 3), &CPU)?;
    writer.push(&Tensors::from([("images".into(), pixels), ("labels".into(), labels()?)]))?;
    writer.finish(&json!({}))?;
    ImageSet::open(dir)
}

/// DINOv2-B without its blocks: its images are prepared, its tokens are zero.
fn encoder() -> Result<Encoder> {
    let mut config = EncoderConfig::named("dinov2-vit-b").unwrap();
    config.vit.depth = 1;
    let zeros = |(name, shape)| Ok((name, Tensor::zeros(shape, DType::F32, &CPU)?));
    let tensors = census(|vb| Vit::new(&config.vit, vb))?.1.into_iter().map(zeros).collect::<Result<Tensors>>()?;
    let idle = Elsewhere::new(|images| Ok(vec![Tensor::zeros((images.dim(0)?, 257, 768), DType::F32, &CPU)?]));
    Ok(Encoder::new(&config, tensors, &CPU)?.computed_by(idle))
}

fn features(dir: &std::path::Path) -> Result<Packed> {
    let mut writer = PackedWriter::create(dir, "features", 256)?;
    let tokens = normal(2, &[256, 768])?.to_dtype(DType::F16)?;
    writer.push(&Tensors::from([("tokens".into(), tokens)]))?;
    writer.finish(&json!({"dtype": "f16"}))?;
    Packed::open(dir)
}
