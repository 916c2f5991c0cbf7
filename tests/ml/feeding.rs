//! What a training reads ahead of its steps, while the device is busy with the step before.

use crate::support::space::Space;
use candle_core::{DType, Device, Tensor};
use erw::ml::data::latents::Latents;
use erw::ml::data::packed::{Packed, PackedWriter};
use erw::ml::diffusion::alignment::Alignment;
use erw::ml::diffusion::alignment_schedule::Schedule;
use erw::ml::diffusion::interpolant::{Path, TimeDistribution};
use erw::ml::models::sit::{SiT, SiTConfig};
use erw::ml::nn::params::{ParamSet, Tensors};
use erw::ml::rng::{self, Purpose};
use erw::ml::train::sit::batch::{BatchConfig, Examples};
use erw::ml::train::sit::features::Features;
use erw::ml::train::sit::flow::FlowMatching;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path as File;

const CPU: Device = Device::Cpu;
const ROWS: u64 = 6;

fn normal(tag: u64, shape: &[usize]) -> Tensor {
    rng::normal_rows(1, Purpose::Probe, tag, &(0..ROWS).collect::<Vec<_>>(), shape, &CPU).unwrap()
}

fn packed(dir: &File, stem: &str, rows: Tensors, meta: &serde_json::Value) {
    let mut writer = PackedWriter::create(dir, stem, 64).unwrap();
    writer.push(&rows).unwrap();
    writer.finish(meta).unwrap();
}

/// Overwrites all rows of the one shard in a folder; its header stays.
fn blank(dir: &File) {
    let shard = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let shard = shard.into_iter().find(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let bytes = std::fs::read(&shard).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut file = OpenOptions::new().write(true).open(&shard).unwrap();
    file.seek(SeekFrom::Start(header as u64)).unwrap();
    file.write_all(&vec![0; bytes.len() - header]).unwrap();
}

/// Of a network with a class token, too. What is on the disk when the step comes does not matter any
/// more.
#[test]
fn stored_features_and_class_tokens_are_read_ahead() {
    for class_token in [None, Some(8)] {
        let space = Space::new("");
        let std = (normal(3, &[4, 8, 8]).abs().unwrap() * 0.1).unwrap();
        let labels = Tensor::from_iter((0..ROWS as i64).map(|i| i % 2), &CPU).unwrap();
        let rows = [("mean".into(), normal(2, &[4, 8, 8])), ("std".into(), std), ("labels".into(), labels)];
        let meta = json!({"scaling_factor": 1.0, "shift_factor": 0.0, "classes": ["zero", "one"]});
        packed(&space.path("latents"), "latents", rows.into(), &meta);
        let half = |t: Tensor| t.to_dtype(DType::F16).unwrap();
        let rows = [("tokens".into(), half(normal(4, &[16, 8]))), ("class_token".into(), half(normal(5, &[8])))];
        packed(&space.path("features"), "features", rows.into(), &json!({"dtype": "f16"}));
        let latents = Latents::open(&space.path("latents")).unwrap();
        let sets = vec![("features".into(), Packed::open(&space.path("features")).unwrap())];
        let features = Features::stored(&latents, sets).unwrap();
        let examples = Examples { latents, features, device: CPU };
        let published = SiTConfig::published("SiT-S/2", [4, 8], 2, vec![8], 1).unwrap();
        let config = SiTConfig { depth: 1, class_token, ..published };
        let (_params, vb) = ParamSet::init(0, DType::F32, &CPU);
        let model = SiT::new(&config, vb).unwrap();
        let training = FlowMatching {
            examples: &examples,
            model: &model,
            batches: BatchConfig { seed: 0, batch: 4, accumulate: 1, flip: 0.0 },
            path: Path::Linear,
            time: TimeDistribution::Uniform,
            velocity_cosine: 0.0,
            schedule: Schedule::Constant { c0: 0.5 },
            alignment: Alignment::COSINE,
            dispersion: None,
            self_alignment: None,
            latent_alignment: 0.0,
            attention: None,
            class_token: 0.03,
        };
        let batch = || training.batch((3, 0)).unwrap();
        let (early, late) = (batch(), batch());
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        let fed = |noised| {
            let feed = training.feed(3, noised).unwrap();
            let class = feed.class_token.iter().flatten().map(numbers).collect::<Vec<_>>();
            (feed.features.iter().map(numbers).collect::<Vec<_>>(), class)
        };
        let loss = |noised| training.loss(3, &noised).unwrap().loss.to_scalar::<f32>().unwrap().to_bits();
        let ((features, class), of_loss) = (fed(early), loss(batch()));
        assert_eq!(class.len(), if class_token.is_some() { 2 } else { 0 });
        assert!(features[0].len() > 4 * 16 * 8 - 1 && features[0].iter().any(|x| *x != 0.0));
        let again = batch();
        blank(&space.path("features"));
        assert!(fed(late) == (features.clone(), class), "{class_token:?}");
        assert_eq!(loss(again), of_loss, "{class_token:?}");
        // The rows are gone indeed.
        assert!(fed(batch()).0 != features);
    }
}
