//! `sample`: generates and decodes images with a trained SiT. Finished images are kept as pieces in
//! the checkpoint directory.

use super::velocity::Velocity;
use crate::support::files::{create_dir, read_json, write_json};
use crate::support::frozen_networks::{Maps, decoder};
use crate::support::observer::{AttemptObserver, share};
use crate::support::params::device;
use crate::support::trained_on::{check_classes, check_scale, note_of, other_scale};
use crate::support::{ema_files, facts};
use candle_core::{DType, Device, Tensor, bail};
use erw_base::error::{Error, Result};
use erw_ml::data::rgb::write_png;
use erw_ml::diffusion::interpolant::Path as NoisePath;
use erw_ml::diffusion::sampler::{ATOL, Away, Labels, Method, RTOL, SamplerConfig, sample, start_noise, step_noise};
use erw_ml::models::sit::SiTConfig;
use erw_ml::models::vae::AutoencoderKl;
use erw_ml::nn::precision::Precision;
use erw_ml::pieces::{Missing, Pieces};
use erw_ml::viz::picture::{NpzWriter, contact_sheet, to_u8};
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Images of a piece: few, because they take long, and a killed attempt loses those of the pieces that
/// it has begun.
const PIECE: u64 = 4;

pub const KIND: StageKind = StageKind {
    name: "sample",
    manifest: include_str!("../../../stages/sample.toml"),
    check,
    facts: facts::sample,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    seed: u64,
    weights: String,
    sampler: Method,
    steps: usize,
    time_shift: Option<f64>,
    atol: Option<f64>,
    rtol: Option<f64>,
    cfg_scale: f64,
    guidance_low: f64,
    guidance_high: f64,
    guide_weights: Option<String>,
    path: Option<NoisePath>,
    count: u64,
    labels: Labels,
    precision: Precision,
    vae_precision: Option<Precision>,
}

impl Params {
    /// Whether two velocities are mixed for an image.
    fn is_guided(&self) -> bool {
        self.cfg_scale > 1.0
    }

    /// Points at which the network is evaluated at once for a batch of images: for guidance by the
    /// null class two of each.
    fn points(&self, batch: usize) -> usize {
        if self.is_guided() && self.guide_weights.is_none() { 2 * batch } else { batch }
    }

    fn sampler(&self, path: NoisePath) -> SamplerConfig {
        let adaptive = self.sampler == Method::OdeDopri5;
        SamplerConfig {
            method: self.sampler,
            steps: self.steps,
            shift: self.time_shift,
            atol: adaptive.then(|| self.atol.unwrap_or(ATOL)),
            rtol: adaptive.then(|| self.rtol.unwrap_or(RTOL)),
            cfg_scale: self.cfg_scale,
            guidance_low: self.guidance_low,
            guidance_high: self.guidance_high,
            path,
        }
    }

    /// Refuses settings that the sampler would not use.
    fn check_sampler(&self) -> Result<()> {
        let fixed = matches!(self.sampler, Method::OdeEuler | Method::OdeHeun);
        let stated = [
            ("time_shift", self.time_shift.is_some(), fixed, "`ode-euler` and `ode-heun`"),
            ("atol", self.atol.is_some(), self.sampler == Method::OdeDopri5, "`ode-dopri5`"),
            ("rtol", self.rtol.is_some(), self.sampler == Method::OdeDopri5, "`ode-dopri5`"),
        ];
        match stated.iter().find(|(_, is_set, is_used, _)| *is_set && !is_used) {
            Some((name, _, _, of)) => {
                let text = format!("`{name}` is a setting of {of}, not of the sampler that is chosen");
                Err(Error::usage(text).hint(format!("set another `sampler`, or leave `{name}` out")))
            }
            None => Ok(()),
        }
    }

    fn check_guide(&self, connected: bool) -> Result<()> {
        match (connected, &self.guide_weights) {
            (true, None) => Err(Error::usage("input `guide` needs `guide_weights`, which of its weights to use")
                .hint("for example `guide_weights = \"ema\"`")),
            (false, Some(_)) => Err(Error::usage("`guide_weights` is of input `guide`, which is not connected")
                .hint("connect a SiT as `inputs.guide`, or leave `guide_weights` out")),
            (true, Some(_)) if !self.is_guided() => {
                let text = format!("input `guide` is not used with `cfg_scale = {}`", self.cfg_scale);
                Err(Error::usage(text).hint("set `cfg_scale` above 1, or disconnect `guide`"))
            }
            (_, Some(weights)) => ema_files::check("guide_weights", weights),
            (false, None) => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    batch: u64,
}

fn check(params: &Values, operation: &Values, inputs: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    ema_files::check("weights", &p.weights)?;
    p.check_sampler()?;
    p.check_guide(inputs.contains(&"guide"))?;
    if p.guidance_low > p.guidance_high {
        let text = format!("`guidance_low` {} is above `guidance_high` {}", p.guidance_low, p.guidance_high);
        return Err(Error::usage(text));
    }
    Ok(())
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    let batch = op.batch.clamp(1, p.count.max(1));
    let mut generator = Generator::open(attempt, &p, batch as usize)?;
    let (height, width) = generator.picture_size();
    let image_bytes = height * width * 3;
    let pieces = Pieces {
        dir: attempt.checkpoint_dir().join("images"),
        stem: "images",
        ending: ".u8",
        total: p.count,
        size: PIECE,
        share: share(attempt),
        is_sound: &|path, images| std::fs::metadata(path).is_ok_and(|file| file.len() == images * image_bytes as u64),
        obs: &AttemptObserver(attempt),
        before: 0,
        of: p.count,
    };
    let missing = pieces.missing().map_err(|e| Error::io("prepare", &pieces.dir, e))?;
    generate(attempt, &p, &mut generator, &pieces, &missing, batch)?;
    if attempt.rank() > 0 {
        return Ok(());
    }
    if !pieces.wait() {
        return Err(Error::suspended());
    }
    let store = Images { pieces: &pieces, image_bytes };
    let out = attempt.output("samples");
    create_dir(&out)?;
    let labels: Vec<i64> = (0..p.count).map(|i| i64::from(generator.label(&p, i))).collect();
    store.write_pictures(&out, p.count, (height, width), &labels)?;
    store.write_grid(&out.join("grid.png"), (height, width), &labels)?;
    let mut meta = json!({
        "format": 1,
        "count": p.count,
        "height": height,
        "width": width,
        "classes": generator.classes,
        "sampler": generator.sampler,
        "weights": p.weights,
        "labels": p.labels,
        "seed": p.seed,
    });
    if let Some(weights) = &p.guide_weights {
        meta["guide_weights"] = json!(weights);
    }
    write_json(&out.join("meta.json"), &meta)?;
    attempt.result("images", p.count as f64);
    attempt.show("samples", "grid.png");
    Ok(())
}

/// Makes the missing images of this rank. A batch holds several pieces, or a piece several batches.
fn generate(
    attempt: &Attempt,
    p: &Params,
    generator: &mut Generator,
    pieces: &Pieces<'_>,
    missing: &Missing<'_>,
    batch: u64,
) -> Result<()> {
    for chunk in missing.numbers.chunks((batch / PIECE).max(1) as usize) {
        let ids: Vec<u64> = chunk.iter().flat_map(|piece| pieces.range(*piece)).collect();
        let (mut bytes, mut done) = (vec![], 0);
        for ids in ids.chunks(batch.max(1) as usize) {
            if attempt.should_stop() {
                return Err(Error::suspended());
            }
            // Asked between the steps too: a batch may take hours.
            let images = generator.images(p, ids, &|| attempt.should_stop());
            if images.is_err() && attempt.should_stop() {
                return Err(Error::suspended());
            }
            bytes.extend(images?);
            done += ids.len() as u64;
            missing.progress(done);
        }
        let image = bytes.len() / ids.len().max(1);
        let mut left = &bytes[..];
        for piece in chunk {
            let range = pieces.range(*piece);
            let (own, rest) = left.split_at((range.end - range.start) as usize * image);
            left = rest;
            missing
                .put(*piece, |path| std::fs::write(path, own))
                .map_err(|e| Error::stage("cannot store generated images").because(e))?;
        }
    }
    Ok(())
}

/// The networks and settings for sampling.
struct Generator {
    config: SiTConfig,
    velocity: Velocity,
    /// The network that guidance leads away from, if it is another.
    guide: Option<Velocity>,
    vae: AutoencoderKl,
    sampler: SamplerConfig,
    classes: Vec<String>,
    /// Of latents for the decoder.
    device: Device,
}

impl Generator {
    fn open(attempt: &Attempt, p: &Params, batch: usize) -> Result<Self> {
        let device = device(attempt.device())?;
        let dir = attempt.input("sit")?;
        let config: SiTConfig = read_json(&dir.join("config.json"))?;
        let velocity = Velocity::open(attempt, &config, ("sit", &p.weights), p.precision, p.points(batch), &device)?;
        let guide = p.guide_weights.as_deref().map(|weights| guide(attempt, &config, weights, p, batch, &device));
        let guide = guide.transpose()?;
        p.precision.caveat(&device).into_iter().for_each(|text| attempt.log(text));
        if p.is_guided() && guide.is_none() && config.class_dropout <= 0.0 {
            let text = "the model was trained without class dropout and has no null class to guide with";
            return Err(Error::stage(text).hint("set `cfg_scale = 1.0`, or train with `class_dropout` above 0"));
        }
        if config.warmup_depth.is_some() {
            return Err(Error::stage("`sit` is a warmup, whose blocks have no velocity")
                .hint("sample from a `train` that starts from it"));
        }
        let note = note_of(dir)?;
        let path = match (&note, p.path) {
            (Some(n), Some(path)) if n.path != path => {
                let text = format!("`path` is {path:?}, but the model was trained on {:?}", n.path);
                return Err(Error::stage(text).hint("omit `path`"));
            }
            (Some(n), _) => n.path,
            (None, path) => path.unwrap_or(NoisePath::Linear),
        };
        let precision = p.vae_precision.unwrap_or_default();
        let latents = Maps { batch, size: [config.input_size; 2], precision };
        let (vae, device) = decoder(attempt, attempt.input("vae")?, latents, &device)?;
        if let Some(note) = &note {
            check_scale(note, &vae.config().scale()?, "the decoder")?;
        }
        let names = note.map(|n| n.classes).filter(|c| c.len() == config.num_classes);
        let sampler = p.sampler(path);
        if vae.config().latent_channels != config.in_channels {
            let (a, b) = (vae.config().latent_channels, config.in_channels);
            return Err(Error::stage(format!("the autoencoder's latents have {a} channels, the model's have {b}")));
        }
        let classes = names.unwrap_or_else(|| (0..config.num_classes).map(|c| c.to_string()).collect());
        Ok(Self { config, velocity, guide, vae, sampler, classes, device })
    }

    fn picture_size(&self) -> (usize, usize) {
        let side = self.config.input_size * self.vae.config().downsampling();
        (side, side)
    }

    fn label(&self, p: &Params, sample: u64) -> u32 {
        p.labels.of(p.seed, sample, self.config.num_classes as u64)
    }

    /// Images of these samples as bytes `[n, H, W, 3]`. An error if `stop` says so meanwhile.
    fn images(&mut self, p: &Params, ids: &[u64], stop: &dyn Fn() -> bool) -> Result<Vec<u8>> {
        let (config, home) = (&self.config, self.velocity.home());
        let shape = config.state_shape();
        let labels: Vec<u32> = ids.iter().map(|i| self.label(p, *i)).collect();
        let classes = Tensor::new(labels, &home)?;
        let null = Tensor::full(config.null_class(), ids.len(), &home)?;
        let start = start_noise(p.seed, ids, &shape, &home)?;
        let mut noise = |step| step_noise(p.seed, step, ids, &shape, &home);
        let mut velocity = |x: &Tensor, t: &Tensor, y: &Tensor| match stop() {
            false => self.velocity.at(x, t, y),
            true => bail!("stopped"),
        };
        let mut weaker = self.guide.as_mut().map(|guide| |x: &Tensor, t: &Tensor, y: &Tensor| guide.at(x, t, y));
        let away = match &mut weaker {
            Some(weaker) => Away::Network(weaker),
            None => Away::Classes(&null),
        };
        let states = sample(&self.sampler, &start, &classes, away, &mut noise, &mut velocity)?;
        let latents = self.config.latents_of(&states)?;
        // As bytes, NaN would be an ordinary black image.
        let check = |what: &str, x: &Tensor| match x.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite() {
            true => Ok(()),
            false => {
                let (first, last) = (ids.first().unwrap_or(&0), ids.last().unwrap_or(&0));
                Err(Error::stage(format!("the {what}'s output is not finite for samples {first} to {last}"))
                    .hint("the training has diverged, or `cfg_scale` is too large"))
            }
        };
        check("model", &latents)?;
        let latents = self.vae.config().scale()?.to_autoencoder(&latents.to_device(&self.device)?)?;
        let images = self.vae.decode(&latents.to_dtype(DType::F32)?)?;
        check("decoder", &images)?;
        Ok(to_u8(&images)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    }
}

/// The weights `weights` of input `guide`, which must take the latents and classes of `sit`.
fn guide(
    attempt: &Attempt,
    sit: &SiTConfig,
    weights: &str,
    p: &Params,
    batch: usize,
    device: &Device,
) -> Result<Velocity> {
    let dir = attempt.input("guide")?;
    let config: SiTConfig = read_json(&dir.join("config.json"))?;
    let shape = |c: &SiTConfig| [c.in_channels, c.input_size, c.num_classes, c.class_token.unwrap_or(0)];
    if shape(&config) != shape(sit) {
        let told = |c| {
            let [channels, side, classes, token] = shape(c);
            let token = if token > 0 { format!(" with a class token of {token} values") } else { String::new() };
            format!("latents of {channels} x {side} x {side} and {classes} classes{token}")
        };
        let text = format!("the network of `guide` is for {}, that of `sit` for {}", told(&config), told(sit));
        return Err(Error::stage(text));
    }
    if let (Some(ours), Some(theirs)) = (note_of(attempt.input("sit")?)?, note_of(dir)?) {
        if let Some(differ) = theirs.scale().and_then(|scale| other_scale(&ours, &scale)) {
            return Err(Error::stage(format!("`guide` is for other latents than `sit`: {differ}"))
                .hint("train both on latents of one autoencoder"));
        }
        check_classes(&ours, &theirs.classes, "that of `guide` on")?;
    }
    Velocity::open(attempt, &config, ("guide", weights), p.precision, p.points(batch), device)
}

/// Finished images.
struct Images<'a> {
    pieces: &'a Pieces<'a>,
    image_bytes: usize,
}

impl Images<'_> {
    fn image(&self, index: u64) -> Result<Vec<u8>> {
        let path = self.pieces.path(index / PIECE);
        let mut bytes = vec![0; self.image_bytes];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, index % PIECE * self.image_bytes as u64))
            .map_err(|e| Error::io("read", &path, e))?;
        Ok(bytes)
    }

    /// `samples.npz` and `png/NNNNNN.png`.
    fn write_pictures(&self, out: &Path, count: u64, (height, width): (usize, usize), labels: &[i64]) -> Result<()> {
        create_dir(&out.join("png"))?;
        let mut npz = NpzWriter::create(&out.join("samples.npz"), count as usize, height, width)?;
        for i in 0..count {
            let image = self.image(i)?;
            npz.push(&image)?;
            write_png(&out.join(format!("png/{i:06}.png")), &image, height, width)?;
        }
        Ok(npz.finish(labels)?)
    }

    /// One row per class with its first samples, up to ten rows of ten. If a shown class has no
    /// image, the first images in order.
    fn write_grid(&self, path: &Path, (height, width): (usize, usize), labels: &[i64]) -> Result<()> {
        let classes = labels.iter().max().map_or(0, |m| m + 1).min(10);
        let of = |class: i64| (0..labels.len()).filter(move |i| labels[*i] == class);
        let columns = (0..classes).map(|c| of(c).count()).min().unwrap_or(0).min(10);
        let (chosen, columns): (Vec<usize>, usize) = if columns > 0 {
            ((0..classes).flat_map(|c| of(c).take(columns)).collect(), columns)
        } else {
            let side = (labels.len() as f64).sqrt().floor().min(10.0) as usize;
            ((0..side * side).collect(), side)
        };
        let mut pixels = vec![];
        for i in chosen {
            pixels.extend(self.image(i as u64)?);
        }
        let scale = (64 / height.max(1)).max(1);
        Ok(contact_sheet(&pixels, height, width, columns, scale).save(path)?)
    }
}
