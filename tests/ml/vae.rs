//! The autoencoder equals diffusers' `AutoencoderKL`, reads its files of all versions, and learns.

use candle_core::{DType, Device, Result, Tensor};
use erw::ml::models::vae::{AutoencoderKl, Posterior, Reconstruction, VaeConfig, VaeLoss, posterior_noise};
use erw::ml::nn::params;
use erw::ml::nn::params::{Frozen, ParamSet, Tensors};
use erw::ml::observer::{Observer, Silent};
use erw::ml::ranks::Ranks;
use erw::ml::rng::{Purpose, normal_rows};
use erw::ml::train::adamw::{AdamWConfig, Decay};
use erw::ml::train::config::{FitConfig, StepLoss};
use erw::ml::train::lr::LrSchedule;
use erw::ml::train::outcome::{Outcome, Trained};
use erw::ml::train::{Callbacks, CheckpointRetention, batch_indices, fit};
use std::path::Path;

use crate::support::golden::Golden;

/// The golden network: four levels, two layers per block.
fn golden_config() -> VaeConfig {
    VaeConfig::rgb(&[8, 16, 24, 24], 2, 4, 4, true)
}

#[test]
fn encoder_and_decoder_equal_diffusers() -> Result<()> {
    let all = Golden::open("vae");
    let frozen = Frozen::new(all.group("w"));
    let vae = AutoencoderKl::new(&golden_config(), frozen.builder(DType::F32, &Device::Cpu))?;
    assert_eq!(frozen.unused(), Vec::<String>::new());
    let posterior = vae.encode(&all.get("in/image"))?;
    all.assert_close("mean", &posterior.mean, &all.get("out/mean"), "out");
    all.assert_close("std", &posterior.std, &all.get("out/std"), "out");
    let sample = (posterior.sample(&all.get("in/eps"))? * 0.18215)?;
    all.assert_close("scaled sample", &sample, &all.get("out/scaled_sample"), "out");
    all.assert_close("decoded", &vae.decode(&all.get("in/latent"))?, &all.get("out/decoded"), "out");
    let wide = Posterior::from_moments(&all.get("in/wide_moments"))?;
    let (got, want) =
        (wide.std.flatten_all()?.to_vec1::<f32>()?, all.get("out/wide_std").flatten_all()?.to_vec1::<f32>()?);
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 1e-5 * want, "clamped std {got} {want}");
    }
    Ok(())
}

/// As in VA-VAE.
#[test]
fn levels_with_attention_equal_diffusers() -> Result<()> {
    let all = params::load(Path::new("tests/golden/autoencoders/attention.safetensors"), &Device::Cpu)?;
    let weights = all.iter().filter_map(|(k, v)| Some((k.strip_prefix("w/")?.to_string(), v.clone()))).collect();
    let mut config = VaeConfig::rgb(&[8, 16], 2, 6, 4, true);
    config.down_block_types[1] = "AttnDownEncoderBlock2D".into();
    config.up_block_types[0] = "AttnUpDecoderBlock2D".into();
    let frozen = Frozen::new(weights);
    let vae = AutoencoderKl::new(&config, frozen.builder(DType::F32, &Device::Cpu))?;
    assert_eq!(frozen.unused(), Vec::<String>::new());
    let posterior = vae.encode(&all["in/image"])?;
    let decoded = vae.decode(&all["in/latent"])?;
    for (name, ours) in [("mean", &posterior.mean), ("std", &posterior.std), ("decoded", &decoded)] {
        let theirs = &all[&format!("out/{name}")];
        let most = |t: &Tensor| -> Result<f32> { t.abs()?.flatten_all()?.max(0)?.to_scalar() };
        let off = most(&(ours - theirs)?)? / most(theirs)?.max(1.0);
        assert!(off < 2e-5, "{name}: {off}");
    }
    Ok(())
}

/// Names and shapes of the attention as diffusers wrote them before 0.15, in a folder as it is
/// downloaded.
#[test]
fn older_diffusers_files_are_read() -> Result<()> {
    let all = Golden::open("vae");
    let dir = tempfile::tempdir()?;
    let old = |k: &str| {
        k.replace(".to_q.", ".query.")
            .replace(".to_k.", ".key.")
            .replace(".to_v.", ".value.")
            .replace(".to_out.0.", ".proj_attn.")
    };
    let mut tensors: Tensors = all.group("w").into_iter().map(|(k, v)| (old(&k), v)).collect();
    let query = tensors["encoder.mid_block.attentions.0.query.weight"].reshape((24, 24, 1, 1))?;
    tensors.insert("encoder.mid_block.attentions.0.query.weight".into(), query);
    let file = dir.path().join("diffusion_pytorch_model.safetensors");
    params::save(&tensors, &file)?;
    let config = r#"{"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [8, 16, 24, 24],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 4, "out_channels": 3,
        "sample_size": 32}"#;
    std::fs::write(dir.path().join("config.json"), config)?;
    let vae = AutoencoderKl::load(dir.path(), &Device::Cpu)?;
    assert_eq!(vae.config().scaling_factor, 0.18215);
    all.assert_close("mean", &vae.encode(&all.get("in/image"))?.mean, &all.get("out/mean"), "out");

    let refused = |config: String, expected: &str| -> Result<()> {
        std::fs::write(dir.path().join("config.json"), config)?;
        let error = AutoencoderKl::load(dir.path(), &Device::Cpu).err().expect("an error").to_string();
        assert!(error.contains(expected), "{error}");
        Ok(())
    };
    refused(config.replace("\"layers_per_block\": 2", "\"layers_per_block\": 1"), "do not belong to the network")?;
    refused(config.replace("\"layers_per_block\": 2", "\"layers_per_block\": 3"), "is not in the file")?;
    refused(config.replace("\"silu\"", "\"gelu\""), "act_fn `gelu`")?;
    refused(config.replacen("DownEncoderBlock2D", "AttnDownEncoderBlock2D", 1), "down_blocks.0.attentions.0")?;
    refused(config.replacen("DownEncoderBlock2D", "CrossAttnDownBlock2D", 1), "CrossAttnDownBlock2D")?;
    refused(config.replacen("\"DownEncoderBlock2D\", ", "", 1), "for 4 levels")?;
    refused(config.replacen('{', "{\"latents_mean\": [0, 0, 0, 0], ", 1), "go together")?;
    refused(config.replacen('{', "{\"latents_mean\": [0], \"latents_std\": [1], ", 1), "4 channels")?;
    refused(config.replace("\"norm_num_groups\": 4", "\"norm_num_groups\": 5"), "norm_num_groups = 5")?;
    Ok(())
}

#[test]
fn images_that_do_not_divide_are_refused() -> Result<()> {
    let (_, vb) = ParamSet::init(0, DType::F32, &Device::Cpu);
    let vae = AutoencoderKl::new(&VaeConfig::rgb(&[4, 4, 4], 1, 2, 2, false), vb)?;
    let error = vae.encode(&Tensor::zeros((1, 3, 6, 8), DType::F32, &Device::Cpu)?).unwrap_err().to_string();
    assert!(error.contains("6x8") && error.contains("downsampling of 4"), "{error}");
    Ok(())
}

#[test]
fn kl_divergence_equals_its_integral() -> Result<()> {
    let moments = Tensor::new(&[[[[0.3f32]], [[-1.0]], [[0.5]], [[-2.0]]]], &Device::Cpu)?;
    let kl = Posterior::from_moments(&moments)?.kl()?.to_vec1::<f32>()?[0];
    // By the trapezium rule over p log(p / q), one latent at a time.
    let integral = |mean: f64, logvar: f64| -> f64 {
        let log_normal =
            |x: f64, m: f64, lv: f64| -0.5 * ((x - m).powi(2) / lv.exp() + lv + std::f64::consts::TAU.ln());
        let h = 1e-3;
        (-12_000..12_000)
            .map(|i| {
                let x = f64::from(i) * h;
                let p = log_normal(x, mean, logvar);
                p.exp() * (p - log_normal(x, 0.0, 0.0)) * h
            })
            .sum()
    };
    let want = integral(0.3, 0.5) + integral(-1.0, -2.0);
    assert!((f64::from(kl) - want).abs() < 1e-4, "{kl} {want}");
    Ok(())
}

/// Smooth coloured blobs, f32 `[n, 3, 16, 16]` in [-1, 1].
fn blobs(n: u64) -> Result<Tensor> {
    let samples: Vec<u64> = (0..n).collect();
    let coarse = normal_rows(3, Purpose::Probe, 0, &samples, &[3, 2, 2], &Device::Cpu)?;
    coarse.tanh()?.upsample_bilinear2d(16, 16, false)
}

struct StopAt(u64, std::cell::Cell<u64>);

impl Observer for StopAt {
    fn progress(&self, done: u64, _: u64) {
        self.1.set(done);
    }
    fn metric(&self, _: u64, _: &str, _: f64) {}
    fn checkpointed(&self, _: u64) {}
    fn resumed(&self, _: u64) {}
    fn log(&self, _: &str) {}
    fn should_stop(&self) -> bool {
        self.1.get() >= self.0
    }
}

fn train(dir: &Path, obs: &dyn Observer) -> Result<Outcome> {
    let (params, vb) = ParamSet::init(1, DType::F32, &Device::Cpu);
    let vae = AutoencoderKl::new(&VaeConfig::rgb(&[8, 16], 1, 4, 4, true), vb)?;
    let images = blobs(24)?;
    let optimizer = AdamWConfig { lr: 3e-3, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, decay: Decay::All };
    let cfg = FitConfig {
        steps: 30,
        optimizer,
        max_grad_norm: 1.0,
        ema_decays: vec![0.9],
        lr: LrSchedule::default(),
        accumulate: 1,
        ranks: Ranks::default(),
        checkpoint_every: 0,
        log_every: 10,
        checkpoint_dir: dir.to_path_buf(),
        keep: CheckpointRetention::default(),
        samples: 8,
        loss_scaling: false,
    };
    fit(&params, &cfg, obs, &mut Callbacks::default(), &mut |step, micro| {
        let samples = batch_indices(7, step, micro, 1, 8, 24);
        let index = Tensor::from_vec(samples.iter().map(|s| *s as u32).collect::<Vec<_>>(), 8, &Device::Cpu)?;
        let noise = posterior_noise(7, step, &samples, &[4, 8, 8], &Device::Cpu)?;
        let loss = VaeLoss::of(&vae, &images.index_select(&index, 0)?, &noise, Reconstruction::L2, 1e-4)?;
        let part = f64::from(loss.reconstruction.to_scalar::<f32>()?);
        Ok(StepLoss { loss: loss.total, parts: vec![("reconstruction", part)] })
    })
}

fn done(fit: Outcome) -> Trained {
    match fit {
        Outcome::Done(trained) => trained,
        Outcome::Stopped | Outcome::Followed => panic!("training stopped early"),
        Outcome::Diverged(d) => panic!("{}", d.what),
    }
}

fn bits(tensors: &Tensors) -> Result<Vec<u32>> {
    let mut all = vec![];
    for t in tensors.values() {
        all.extend(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits));
    }
    Ok(all)
}

/// `fit` itself checks that a gradient reaches every parameter.
#[test]
fn training_learns_and_resumes_bit_for_bit() -> Result<()> {
    let (whole, halves) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let straight = done(train(whole.path(), &Silent)?);
    let (first, last) = (&straight.curve[0], &straight.curve[straight.curve.len() - 1]);
    assert!(last.loss < 0.6 * first.loss, "loss {} -> {}", first.loss, last.loss);
    assert!(matches!(train(halves.path(), &StopAt(13, Default::default()))?, Outcome::Stopped));
    let resumed = done(train(halves.path(), &Silent)?);
    assert_eq!(bits(&straight.model)?, bits(&resumed.model)?);
    assert_eq!(bits(&straight.ema)?, bits(&resumed.ema)?);
    Ok(())
}
