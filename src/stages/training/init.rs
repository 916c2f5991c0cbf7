//! Starts a phase from existing weights: those of the other phase, of another pipeline or of a
//! released file. Tensors that match by name and shape are loaded; the others are logged.

use crate::support::ema_files;
use crate::support::sit_artifact::TrainingNote;
use crate::support::trained_on::{check_classes, note_of, other_scale};
use candle_core::Device;
use erw_base::error::{Error, Result};
use erw_ml::models::sit::{SiT, SiTConfig};
use erw_ml::nn::params::ParamSet;
use erw_runner::kind::attempt::Attempt;
use serde_json::json;
use std::path::Path;

/// Loads the matching tensors of the `init` artifact into the parameters, from the weight set
/// `which`, and logs what was loaded and what was not. Returns the number of loaded tensors; `None`
/// without `init`.
///
/// # Errors
/// If no tensor matches, a shape differs, or the blocks were configured differently.
pub fn init_from(
    attempt: &Attempt,
    which: &str,
    params: &ParamSet,
    model: &SiT,
    ours: &TrainingNote,
) -> Result<Option<usize>> {
    let Some(dir) = attempt.optional_input("init") else { return Ok(None) };
    same_blocks(dir, model.config())?;
    doubts(dir, ours)?.iter().for_each(|doubt| attempt.log(&format!("warning: {doubt}")));
    let saved = ema_files::load(dir, "init", which, &Device::Cpu)?;
    let report = params.assign(&saved)?;
    if report.loaded.is_empty() {
        let text = format!("no tensor of `init` ({which}.safetensors) matches this model in name and shape");
        return Err(Error::stage(text).because(report));
    }
    if let Some(first) = report.mismatched.first() {
        let text = format!("`init` has another architecture: {} tensors differ in shape", report.mismatched.len());
        let hint = "give `warmup` and `train` the same network, latents of the same channels and classes, and \
                    features of the same encoders";
        return Err(Error::stage(text).because(first).hint(hint));
    }
    let unused: Vec<&String> = report.unexpected.iter().filter(|n| !model.buffers().contains_key(*n)).collect();
    for (from, names, fate) in [("from", &report.loaded, "loaded"), ("not in", &report.missing, "start fresh")] {
        if !names.is_empty() {
            attempt.log(&format!("{from} `init`: {} tensors {fate} ({})", names.len(), layers(names)));
        }
    }
    if !unused.is_empty() {
        attempt.log(&format!("in `init` but not in this model: {unused:?}"));
    }
    Ok(Some(report.loaded.len()))
}

/// What differs between the data of `init` and ours and is not an error, as where a network goes on
/// with another set.
fn doubts(dir: &Path, ours: &TrainingNote) -> Result<Vec<String>> {
    let Some(theirs) = note_of(dir)? else { return Ok(vec![]) };
    let scale = ours.scale().and_then(|scale| other_scale(&theirs, &scale));
    let scale = scale.map(|differ| format!("`init` is of other latents: {differ}"));
    let classes = check_classes(&theirs, &ours.classes, "here are").err();
    let classes =
        classes.map(|e| format!("`init` is of other classes, whose embeddings are taken by number: {}", e.message));
    Ok(scale.into_iter().chain(classes).collect())
}

/// Tensor names grouped by layer, on one line: `blocks.0-3, x_embedder`.
fn layers(names: &[String]) -> String {
    let mut groups: Vec<(&str, Vec<usize>)> = vec![];
    for name in names {
        let mut parts = name.split('.');
        let (first, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|n| n.parse::<usize>().ok()));
        let group = match groups.iter().position(|(g, _)| *g == first) {
            Some(at) => at,
            None => {
                groups.push((first, vec![]));
                groups.len() - 1
            }
        };
        groups[group].1.extend(number);
    }
    let text = groups.into_iter().map(|(name, mut numbers)| {
        numbers.sort_unstable();
        numbers.dedup();
        match (numbers.first(), numbers.last()) {
            (Some(a), Some(b)) if a == b => format!("{name}.{a}"),
            (Some(a), Some(b)) if b - a + 1 == numbers.len() => format!("{name}.{a}-{b}"),
            (Some(_), _) => format!("{name}.{numbers:?}"),
            _ => name.to_string(),
        }
    });
    text.collect::<Vec<_>>().join(", ")
}

/// Refuses weights of blocks that were configured differently, because the warmed-up blocks would
/// be of little use. Names and shapes of tensors do not reveal every difference: a rotary embedding
/// has no weights, and all heads share tensors, so neither its presence nor their number shows. The
/// tensors of another MLP or projector have other names; they would be skipped, and the network
/// would start with fresh ones instead.
fn same_blocks(dir: &Path, ours: &SiTConfig) -> Result<()> {
    // Weights from elsewhere may come without a configuration.
    let Ok(text) = std::fs::read_to_string(dir.join("config.json")) else { return Ok(()) };
    let Ok(theirs) = serde_json::from_str::<SiTConfig>(&text) else { return Ok(()) };
    let projects = |c: &SiTConfig| !c.z_dims.is_empty();
    let both_project = projects(&theirs) && projects(ours);
    let settings = |c: &SiTConfig| {
        let projector = both_project.then_some(("projector", json!(c.projector)));
        let sizes = [("hidden", c.hidden), ("heads", c.heads), ("patch_size", c.patch_size)];
        let sizes = sizes.into_iter().map(|(name, size)| (name, json!(size)));
        let all =
            [("rope", json!(c.rope)), ("qk_norm", json!(c.qk_norm)), ("mlp", json!(c.mlp)), ("norm", json!(c.norm))];
        sizes.chain(all).chain(projector)
    };
    match settings(&theirs).zip(settings(ours)).find(|(theirs, ours)| theirs != ours) {
        None => Ok(()),
        Some(((name, theirs), (_, ours))) => {
            Err(Error::stage(format!("`init` was trained with `{name} = {theirs}`, this stage has `{name} = {ours}`"))
                .hint(format!("give both stages the same `{name}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn layers_are_told_in_a_line() {
        let names = ["blocks.0.a", "blocks.10.a", "blocks.9.b", "blocks.9.a", "final.w", "projectors.0.2.bias"];
        let told = |from: usize| super::layers(&names[from..].iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(told(0), "blocks.[0, 9, 10], final, projectors.0");
        assert_eq!(told(1), "blocks.9-10, final, projectors.0");
    }
}
