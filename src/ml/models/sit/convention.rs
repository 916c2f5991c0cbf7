//! Time conventions of SiT models. REPA and ERW have data at t = 0 and noise at t = 1. The original
//! code of SiT runs the other way, with the same paths, names and shapes:
//!
//! ```text
//! repa   x(t) = (1 - t) data + t noise      v = noise - data
//! sit    x(t) = t data + (1 - t) noise      v = data - noise   so  v_repa(x, t) = -v_sit(x, 1 - t)
//! ```
//!
//! A network with SiT's convention is converted exactly. The last layer absorbs the minus sign. The
//! time enters as cosines and sines of t w, and by the addition theorems those of (1 - t) w are a
//! rotation of these,
//!
//! ```text
//! cos (1 - t) w = cos w cos tw + sin w sin tw
//! sin (1 - t) w = sin w cos tw - cos w sin tw
//! ```
//!
//! which the first layer of the time embedding absorbs. The same holds for SiT's GVP path, which is
//! REPA's cosine path reversed.
//!
//! The original code also outputs twice as many channels as a latent has (`learn_sigma`), as DiT
//! did, and uses the first half. DiT itself predicts noise at one of 1000 steps and is not a flow:
//! its weights are refused if the file shows what they are. Bare DiT weights cannot be
//! distinguished from SiT weights.

use crate::nn::params::Tensors;
use candle_core::{DType, Result, Tensor, bail};
use serde::Deserialize;
use serde_json::Value;

/// A time convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convention {
    /// The convention of REPA, ERW and this program.
    Repa,
    /// The convention of the original SiT.
    Sit,
}

impl Convention {
    pub const NAMES: [&str; 2] = ["repa", "sit"];

    /// The convention with this name.
    pub fn named(name: &str) -> Option<Self> {
        [("repa", Self::Repa), ("sit", Self::Sit)].into_iter().find(|(n, _)| *n == name).map(|(_, c)| c)
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Repa => "that of REPA, where t = 1 is noise",
            Self::Sit => "that of the original SiT, where t = 1 is data; converted to ours, where t = 1 is noise",
        }
    }
}

const TIME: &str = "t_embedder.mlp.0.weight";
const LAST: [&str; 2] = ["final_layer.linear.weight", "final_layer.linear.bias"];

/// Converts an adopted dictionary to our time convention and outputs. `args` are the arguments of
/// the run that wrote the file, if known; `asked` is the user's choice. Returns lines that describe
/// the result.
///
/// # Errors
/// When the weights do not belong to a flow, or the convention cannot be determined.
pub fn settle(tensors: &mut Tensors, args: Option<&Value>, asked: Option<Convention>) -> Result<Vec<String>> {
    let args = args.map(Args::of).unwrap_or_default();
    args.refuse()?;
    let doubled = outputs(tensors).is_some_and(|(has, needs)| has == 2 * needs);
    let projects = tensors.keys().any(|name| name.starts_with("projectors."));
    let shown = args.convention();
    let (convention, why) = match (asked, shown) {
        (Some(asked), Some((shown, why))) if asked != shown => (asked, format!("as you chose, although {why}")),
        (Some(asked), _) => (asked, "as you chose".to_string()),
        (None, Some((shown, why))) => (shown, why),
        (None, None) if doubled => bail!(
            "its last layer outputs twice the channels of a latent (learn_sigma), as in DiT and the original SiT: \
             a SiT can be converted (`convention = \"sit\"`, `--convention sit`); a DiT \
             predicts noise at one of 1000 steps, is not a flow and cannot be used"
        ),
        (None, None) if projects => (Convention::Repa, "the file has projectors, as REPA's code makes them".into()),
        (None, None) => (
            Convention::Repa,
            "assumed, because the file does not say; set `convention = \"sit\"` or `--convention sit` if the \
             original code of SiT trained it"
                .into(),
        ),
    };
    let mut remarks = vec![format!("time: {} ({why})", convention.describe())];
    if doubled {
        halve(tensors)?;
        remarks.push("outputs: only the first half of the channels, the velocity, is used".into());
    }
    if convention == Convention::Sit {
        turn(tensors)?;
    }
    if args.cosine() {
        remarks.push("path: cosine, as its arguments say; sample it with `path = \"cosine\"`".into());
    }
    Ok(remarks)
}

/// Rows of the last layer, and how many a latent needs.
fn outputs(tensors: &Tensors) -> Option<(usize, usize)> {
    let [_, channels, p, q] = tensors.get("x_embedder.proj.weight")?.dims() else { return None };
    Some((*tensors.get(LAST[0])?.dims().first()?, channels * p * q))
}

/// Keeps the first half of the output channels. Rows are those of a patch; channels vary fastest.
fn halve(tensors: &mut Tensors) -> Result<()> {
    let channels = tensors.get("x_embedder.proj.weight").map_or(0, |w| w.dims().get(1).copied().unwrap_or(0));
    for name in LAST {
        let Some(tensor) = tensors.get_mut(name) else { continue };
        let mut shape = tensor.dims().to_vec();
        let rows = shape.first().copied().unwrap_or(0);
        if channels == 0 || !rows.is_multiple_of(2 * channels) {
            bail!("{name} has {rows} rows, which is not a multiple of {} channels", 2 * channels);
        }
        let per_pixel: usize = shape[1..].iter().product();
        let split = tensor.reshape((rows / (2 * channels), 2 * channels, per_pixel))?;
        shape[0] = rows / 2;
        *tensor = split.narrow(1, 0, channels)?.contiguous()?.reshape(shape)?;
    }
    Ok(())
}

/// Reverses the time of a network and the sign of its velocity, in place. Reversing twice restores
/// the network.
pub fn turn(tensors: &mut Tensors) -> Result<()> {
    let Some(weight) = tensors.get_mut(TIME) else { bail!("the file has no `{TIME}`, so its time cannot be reversed") };
    let (rows, width) = weight.dims2()?;
    let half = width / 2;
    if width != 2 * half {
        bail!("{TIME} has {width} columns, which cannot be cosines and sines");
    }
    let (device, dtype) = (weight.device().clone(), weight.dtype());
    // The angles at t = 1 are the frequencies of the embedding.
    let one = super::timestep_sinusoid(&Tensor::ones(1, DType::F32, &device)?, width)?.to_dtype(DType::F64)?;
    let exact = weight.to_dtype(DType::F64)?;
    let (cos, sin) = (one.narrow(1, 0, half)?, one.narrow(1, half, half)?);
    let (of_cos, of_sin) = (exact.narrow(1, 0, half)?, exact.narrow(1, half, half)?);
    let cosines = (of_cos.broadcast_mul(&cos)? + of_sin.broadcast_mul(&sin)?)?;
    let sines = (of_cos.broadcast_mul(&sin)? - of_sin.broadcast_mul(&cos)?)?;
    *weight = Tensor::cat(&[cosines, sines], 1)?.to_dtype(dtype)?.reshape((rows, width))?.contiguous()?;
    for name in LAST {
        if let Some(tensor) = tensors.get_mut(name) {
            *tensor = tensor.neg()?;
        }
    }
    Ok(())
}

/// What the arguments of a run say about its time convention. The two codes have different names
/// for the same paths.
#[derive(Debug, Default)]
struct Args {
    model: Option<String>,
    path: Option<String>,
    prediction: Option<String>,
}

impl Args {
    fn of(args: &Value) -> Self {
        let find = |names: &[&str]| names.iter().find_map(|name| text(args, name, 0)).map(str::to_string);
        Self {
            model: find(&["model", "model_type", "arch"]),
            path: find(&["path_type", "path-type"]),
            prediction: find(&["prediction"]),
        }
    }

    fn refuse(&self) -> Result<()> {
        if let Some(model) = self.model.as_deref().filter(|m| m.starts_with("DiT-")) {
            bail!(
                "its arguments say that it is `{model}`: a DiT predicts noise at one of 1000 steps and is not a flow"
            );
        }
        if let Some(prediction) = self.prediction.as_deref().filter(|p| !["v", "velocity"].contains(p)) {
            bail!("its arguments say that it predicts `{prediction}`, but only velocity prediction is supported");
        }
        match self.path.as_deref().filter(|p| p.eq_ignore_ascii_case("vp")) {
            Some(path) => bail!("its arguments say that it was trained on the path `{path}`, which is not supported"),
            None => Ok(()),
        }
    }

    fn convention(&self) -> Option<(Convention, String)> {
        let path = self.path.as_deref()?;
        let convention = match path {
            "Linear" | "GVP" => Convention::Sit,
            "linear" | "cosine" => Convention::Repa,
            _ => return None,
        };
        Some((convention, format!("its arguments say path_type `{path}`")))
    }

    fn cosine(&self) -> bool {
        self.path.as_deref().is_some_and(|path| ["cosine", "GVP"].contains(&path))
    }
}

/// The string under a name, at any depth of a configuration.
fn text<'a>(value: &'a Value, name: &str, depth: usize) -> Option<&'a str> {
    const DEPTH: usize = 4;
    let Value::Object(map) = value else { return None };
    match map.get(name) {
        Some(Value::String(text)) => Some(text),
        _ if depth < DEPTH => map.values().find_map(|inner| text(inner, name, depth + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::projector::ProjectorKind;
    use crate::models::sit::{MlpKind, NormKind, SiT, SiTConfig};
    use crate::nn::params::{Frozen, census};
    use crate::rng::{Purpose, normal_rows};
    use candle_core::Device;
    use serde_json::json;

    const CPU: &Device = &Device::Cpu;

    fn config() -> SiTConfig {
        SiTConfig {
            input_size: 4,
            in_channels: 3,
            patch_size: 2,
            hidden: 24,
            depth: 2,
            heads: 2,
            mlp_ratio: 2.0,
            mlp: MlpKind::Gelu,
            norm: NormKind::Layer,
            num_classes: 5,
            class_dropout: 0.1,
            z_dims: vec![],
            projector: ProjectorKind::Mlp,
            projector_dim: 0,
            encoder_depth: vec![1],
            rope: false,
            qk_norm: false,
            class_token: None,
            self_alignment: None,
            latent_alignment: None,
            warmup_depth: None,
        }
    }

    /// A network without zero weights, unlike one at the start of training.
    fn random() -> Tensors {
        let (_, shapes) = census(|vb| SiT::new(&config(), vb)).unwrap();
        let values = |(i, (name, shape)): (usize, (String, candle_core::Shape))| {
            let drawn = normal_rows(3, Purpose::Noise, 0, &[i as u64], shape.dims(), CPU).unwrap();
            (name, (drawn.reshape(shape).unwrap() * 0.3).unwrap())
        };
        shapes.into_iter().enumerate().map(values).collect()
    }

    fn velocity(tensors: &Tensors, times: &[f32]) -> Vec<f32> {
        let sit = SiT::new(&config(), Frozen::new(tensors.clone()).builder(DType::F32, CPU)).unwrap();
        let ids: Vec<u64> = (0..times.len() as u64).collect();
        let x = normal_rows(5, Purpose::Posterior, 0, &ids, &[3, 4, 4], CPU).unwrap();
        let y = Tensor::new(vec![2u32; times.len()], CPU).unwrap();
        sit.velocity(&x, &Tensor::new(times, CPU).unwrap(), &y).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[track_caller]
    fn close(a: &[f32], b: impl Iterator<Item = f32>) {
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off < 2e-4, "{off}");
    }

    #[test]
    fn a_turned_network_goes_the_other_way_at_the_same_places() {
        let theirs = random();
        let mut ours = theirs.clone();
        turn(&mut ours).unwrap();
        let times = [0.0, 0.04, 0.3, 0.5, 0.97, 1.0];
        let turned = times.map(|t| 1.0 - t);
        let (got, want) = (velocity(&ours, &times), velocity(&theirs, &turned));
        assert!(want.iter().any(|v| v.abs() > 0.1) && want != velocity(&theirs, &times));
        close(&got, want.iter().map(|v| -v));
        turn(&mut ours).unwrap();
        close(&velocity(&ours, &times), velocity(&theirs, &times).into_iter());
    }

    /// With doubled output channels, as by SiT's `learn_sigma`, the first half of each pixel is the
    /// velocity.
    #[test]
    fn of_doubled_outputs_the_velocity_is_kept() {
        let single = random();
        let mut doubled = single.clone();
        for name in LAST {
            let mut shape = single[name].dims().to_vec();
            let columns: usize = shape[1..].iter().product();
            let pixels = single[name].reshape((4, 3, columns)).unwrap();
            shape[0] *= 2;
            let both = Tensor::cat(&[pixels.clone(), (pixels.ones_like().unwrap() * 9.0).unwrap()], 1).unwrap();
            doubled.insert(name.into(), both.reshape(shape).unwrap());
        }
        let mut kept = doubled.clone();
        let remarks = settle(&mut kept, None, Some(Convention::Repa)).unwrap();
        assert_eq!(remarks.len(), 2);
        for name in LAST {
            let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!((kept[name].dims(), values(&kept[name])), (single[name].dims(), values(&single[name])));
        }
        let error = settle(&mut doubled, None, None).unwrap_err().to_string();
        assert!(error.contains("learn_sigma") && error.contains("--convention sit"), "{error}");
    }

    #[test]
    fn what_the_file_shows_is_reported() {
        let said = |args: Value, asked| {
            let mut tensors = random();
            match settle(&mut tensors, Some(&args), asked) {
                Ok(remarks) => {
                    assert_eq!(
                        tensors[LAST[0]].to_vec2::<f32>().unwrap() == random()[LAST[0]].to_vec2::<f32>().unwrap(),
                        remarks[0].starts_with("time: that of REPA")
                    );
                    remarks.join("\n")
                }
                Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
            }
        };
        for (args, asked, words) in [
            (json!({"path_type": "Linear", "prediction": "velocity"}), None, "original SiT, where t = 1 is data"),
            (json!({"transport": {"path_type": "GVP"}}), None, "path: cosine"),
            (
                json!({"path_type": "linear", "prediction": "v"}),
                None,
                "that of REPA, where t = 1 is noise (its arguments",
            ),
            (json!({"lr": 1e-4}), None, "that of REPA, where t = 1 is noise (assumed"),
            (
                json!({}),
                Some(Convention::Sit),
                "original SiT, where t = 1 is data; converted to ours, where t = 1 is noise (as you chose)",
            ),
            (
                json!({"path_type": "linear"}),
                Some(Convention::Sit),
                "as you chose, although its arguments say path_type `linear`",
            ),
            (json!({"model": "DiT-XL/2"}), Some(Convention::Sit), "a DiT predicts noise"),
            (json!({"model": "SiT-XL/2", "prediction": "noise"}), None, "predicts `noise`"),
            (json!({"prediction": "x"}), None, "predicts `x`"),
            (json!({"path_type": "VP"}), None, "the path `VP`"),
        ] {
            let said = said(args.clone(), asked);
            assert!(said.contains(words), "{args}: {said}");
        }
    }
}
