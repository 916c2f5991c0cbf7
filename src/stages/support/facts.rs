//! What parameters tell of artifacts before they are made, where it is no parameter by itself: the
//! sizes behind a published name, what a list of widths comes to, what a setting asks of an input.
//! Manifests call it `kind.NAME`.
//!
//! Parameters may be anything here, since whether they go together is checked elsewhere: what
//! cannot be told is left out.

use super::sit_artifact::CUSTOM;
use erw_ml::models::sit::SiTConfig;
use erw_runner::kind::field::Params;
use erw_runner::kind::property::Fact;
use serde_json::{Value, json};

pub(crate) fn text<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.get(name)?.as_str()
}

fn number(params: &Params, name: &str) -> f64 {
    params.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Which images a set is of.
pub fn images(params: &Params) -> Vec<Fact> {
    let names = ["source", "part", "split", "holdout_every", "limit"];
    let values: Vec<Value> = names.iter().filter_map(|name| params.get(*name).cloned()).collect();
    vec![Fact::new("set", values, &["source", "part", "split", "holdout_every", "limit"])]
}

/// Factor by which an autoencoder of such levels makes images smaller.
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

/// What both phases have.
fn phase(params: &Params) -> Vec<Fact> {
    let mut facts = network(params);
    facts.push(Fact::new("null_class", number(params, "class_dropout") > 0.0, &["class_dropout"]));
    // Only one of the projectors has a width.
    if text(params, "projector") == Some("mlp") {
        let dim = params.get("projector_dim").cloned();
        facts.extend(dim.map(|dim| Fact::new("projector_dim", dim, &["projector_dim"])));
    }
    if number(params, "flip") > 0.0 {
        facts.push(Fact::new("flip", true, &["flip"]));
    }
    facts
}

/// Sizes of a SiT: those of its name, or its own.
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

/// Names of the weights that a training leaves, but for snapshots.
fn averages(params: &Params) -> Vec<Value> {
    let decays = params.get("ema_decay").and_then(Value::as_array).into_iter().flatten().skip(1);
    let further = decays.filter_map(Value::as_f64).map(|decay| json!(format!("ema-{decay}")));
    [json!("model"), json!("ema")].into_iter().chain(further).collect()
}

/// Guidance needs the null class.
pub fn sample(params: &Params) -> Vec<Fact> {
    match number(params, "cfg_scale") > 1.0 {
        true => vec![Fact::new("null_class", true, &["cfg_scale"])],
        false => vec![],
    }
}

/// Of kinds that look into a SiT: whether they show it the null class.
pub fn look(params: &Params) -> Vec<Fact> {
    match text(params, "label") {
        Some("null") => vec![Fact::new("null_class", true, &["label"])],
        _ => vec![],
    }
}
