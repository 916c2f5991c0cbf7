//! Facts: properties of artifacts that are computed from parameters before a stage runs, because no
//! single parameter holds them. Examples are the sizes behind a published model name, the factor
//! that follows from a list of widths, and the requirements of a setting on an input. Manifests
//! refer to them as `kind.NAME`.
//!
//! Parameters are not validated here; their consistency is checked elsewhere. A fact that cannot be
//! computed is left out.

use super::sit_artifact::CUSTOM;
use erw_ml::models::sit::SiTConfig;
use erw_runner::files::digest::Digest;
use erw_runner::kind::field::Params;
use erw_runner::kind::property::Fact;
use serde_json::{Value, json};

/// The scaling of latents that are normalised by the statistics of each channel.
pub const BY_CHANNEL: &str = "by channel";

/// A string parameter; `None` if it is absent or not a string.
pub(crate) fn text<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.get(name)?.as_str()
}

/// A numeric parameter; 0 if it is absent or not a number.
fn number(params: &Params, name: &str) -> f64 {
    params.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Identifies the images of a set by the parameters that select them.
pub fn images(params: &Params) -> Vec<Fact> {
    let names = ["source", "part", "split", "holdout_every", "limit"];
    let values: Vec<Value> = names.iter().filter_map(|name| params.get(*name).cloned()).collect();
    let mut facts = vec![Fact::new("set", values, &["source", "part", "split", "holdout_every", "limit"])];
    if text(params, "split") != Some("all") {
        let names = ["source", "part", "holdout_every"];
        let values: Vec<Value> = names.iter().filter_map(|name| params.get(*name).cloned()).collect();
        facts.push(Fact::new("partition", values, &["source", "part", "split", "holdout_every"]));
    }
    facts
}

/// Downsampling factor of an autoencoder: 2^(levels - 1), one level per entry of
/// `block_out_channels`.
pub fn train_vae(params: &Params) -> Vec<Fact> {
    let levels = params.get("block_out_channels").and_then(Value::as_array).map_or(0, Vec::len);
    match levels {
        1..32 => vec![Fact::new("downsampling", 1u64 << (levels - 1), &["block_out_channels"])],
        _ => vec![],
    }
}

pub fn train(params: &Params) -> Vec<Fact> {
    let mut facts = phase(params);
    if text(params, "alignment") != Some("none") {
        facts.push(Fact::new("aligned", true, &["alignment"]));
    }
    let class_token = number(params, "class_token") > 0.0;
    facts.push(Fact::new("class_token", class_token, &["class_token"]));
    if class_token {
        facts.push(Fact::new("encoder_class_token", true, &["class_token"]));
    }
    if number(params, "attention") > 0.0 {
        let blocks = params.get("attention_encoder_blocks").and_then(Value::as_array).into_iter().flatten();
        let last = blocks.filter_map(Value::as_u64).max();
        facts.extend(last.map(|last| Fact::new("last_encoder_block", last, &["attention_encoder_blocks"])));
    }
    let snapshots = params.get("snapshots").and_then(Value::as_array).into_iter().flatten();
    let mut sets = averages(params);
    sets.extend(snapshots.filter_map(Value::as_u64).map(|step| json!(format!("ema@{step}"))));
    facts.push(Fact::new("sets", sets, &["ema_decay", "snapshots"]));
    facts
}

pub fn warmup(params: &Params) -> Vec<Fact> {
    let mut facts = phase(params);
    facts.push(Fact::new("aligned", true, &[]));
    facts.push(Fact::new("sets", averages(params), &["ema_decay"]));
    facts
}

/// Facts common to `warmup` and `train`.
fn phase(params: &Params) -> Vec<Fact> {
    let mut facts = network(params);
    facts.push(Fact::new("null_class", number(params, "class_dropout") > 0.0, &["class_dropout"]));
    // Only the `mlp` projector has a width.
    if text(params, "projector") == Some("mlp") {
        let dim = params.get("projector_dim").cloned();
        facts.extend(dim.map(|dim| Fact::new("projector_dim", dim, &["projector_dim"])));
    }
    if number(params, "flip") > 0.0 {
        facts.push(Fact::new("flip", true, &["flip"]));
    }
    facts
}

/// Sizes of a SiT: those of its published name, or the parameters of `model = "custom"`.
pub(crate) fn network(params: &Params) -> Vec<Fact> {
    let Some(model) = text(params, "model") else { return vec![] };
    let own: [(&str, &[&str]); 4] =
        [("width", &["hidden"]), ("blocks", &["blocks"]), ("heads", &["heads"]), ("patch_size", &["patch_size"])];
    if model == CUSTOM {
        let given = |(name, of): (&'static str, &'static [&'static str])| {
            Some(Fact::new(name, params.get(of[0]).filter(|v| !v.is_null())?.clone(), of))
        };
        return own.into_iter().filter_map(given).collect();
    }
    let Ok((width, blocks, heads, patch)) = SiTConfig::sizes(model) else { return vec![] };
    let sizes = [width, blocks, heads, patch];
    own.into_iter().zip(sizes).map(|((name, _), size)| Fact::new(name, size, &["model"])).collect()
}

/// Names of the weight sets that a training writes, except snapshots.
fn averages(params: &Params) -> Vec<Value> {
    let decays = params.get("ema_decay").and_then(Value::as_array).into_iter().flatten().skip(1);
    let further = decays.filter_map(Value::as_f64).map(|decay| json!(format!("ema-{decay}")));
    [json!("model"), json!("ema")].into_iter().chain(further).collect()
}

/// Facts of `sample`: guidance needs the null class, if no other network guides.
pub fn sample(params: &Params) -> Vec<Fact> {
    match number(params, "cfg_scale") > 1.0 && text(params, "guide_weights").is_none() {
        true => vec![Fact::new("null_class", true, &["cfg_scale"])],
        false => vec![],
    }
}

/// Facts of `features`: whether class tokens are stored beside the patches.
pub fn features(params: &Params) -> Vec<Fact> {
    let stored = params.get("class_token").and_then(Value::as_bool).unwrap_or(false);
    let mut facts = vec![Fact::new("class_token", stored, &["class_token"])];
    if stored {
        facts.push(Fact::new("encoder_class_token", true, &["class_token"]));
    }
    facts
}

/// Facts of kinds that read the hidden states of a SiT: without features they have no class token to
/// give it, and they may condition it on the null class.
pub fn look(params: &Params) -> Vec<Fact> {
    let mut facts = vec![Fact::new("gives_class_token", false, &[])];
    if text(params, "label") == Some("null") {
        facts.push(Fact::new("null_class", true, &["label"]));
    }
    facts
}

/// Facts of an encoder of so many blocks: their numbers, and whether there is a class token.
pub fn encoder_blocks(depth: u64, class_token: bool, of: &'static [&'static str]) -> [Fact; 2] {
    // More are no network, and a plan must not list them.
    const MOST: u64 = 1000;
    let numbers: Vec<u64> = (1..=depth.min(MOST)).collect();
    [Fact::new("block_numbers", numbers, of), Fact::new("class_token", class_token, of)]
}

/// Facts of `train-encoder`, whose networks have no class token.
pub fn train_encoder(params: &Params) -> Vec<Fact> {
    let text = serde_json::to_string(params).unwrap_or_default();
    let origin = format!("train-encoder {}", &Digest::of_bytes(text.as_bytes()).hex()[..8]);
    let depth = params.get("depth").and_then(Value::as_u64);
    let blocks = depth.map(|depth| encoder_blocks(depth, false, &["depth"]));
    std::iter::once(Fact::new("origin", origin, &["seed"])).chain(blocks.into_iter().flatten()).collect()
}
