//! `cknna`: measures how well each block of a SiT, at several timesteps, agrees with an encoder's
//! features of the same images. The protocol is REPA's: tokens averaged over patches, no projector,
//! null class, 10 neighbours.

use super::block_features::{Look, Observer, Shown, check_timesteps, each_timestep, mean_features};
use super::block_scores::{Scores, by_block, report};
use crate::support::facts;
use crate::support::params::{Walk, check_list};
use crate::support::same_images::check_pairs;
use erw_base::error::{Error, Result};
use erw_ml::data::batches::spread;
use erw_ml::data::packed::Packed;
use erw_ml::data::pairing::stated_labels;
use erw_ml::metrics::alignment::{AlignmentMetric, Protocol, Representation};
use erw_ml::metrics::cknna::Estimator;
use erw_ml::metrics::unit_rows::{Clamp, Over};
use erw_ml::train::sit::features::TOKENS;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use serde::Deserialize;
use serde_json::json;

pub const KIND: StageKind = StageKind {
    name: "cknna",
    manifest: include_str!("../../../stages/cknna.toml"),
    check,
    facts: facts::look,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(flatten)]
    look: Look,
    timesteps: Vec<f64>,
    metrics: Vec<AlignmentMetric>,
    k: usize,
    estimator: Estimator,
    clamp: f64,
    clamp_over: Over,
    images: u64,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    let p: Params = parse(params)?;
    check_timesteps(&p.timesteps)?;
    let names: Vec<&str> = p.metrics.iter().map(|m| m.name()).collect();
    check_list("metrics", &names, "`cknna`, `cka` and `mutual-knn`")
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let batch = attempt.operation::<Walk>()?.batch.max(1);
    let observer = Observer::open(attempt, p.look, batch)?;
    let latents = Packed::open(attempt.input("latents")?)?;
    observer.check(&latents, "latents")?;
    let features = Packed::open(attempt.input("features")?)?;
    check_pairs(&latents, "features", features.len(), stated_labels(&features))?;
    let ids = spread(latents.len(), p.images);
    let protocol = protocol(&p, ids.len())?;
    let target = Representation::of(&mean_features(&features, "features", &ids, batch)?, &protocol)?;

    let shown = Shown { latents: &latents, ids: &ids, set: 0, features: Some(&features) };
    // [timestep][measure][block]
    let columns = each_timestep(attempt, p.timesteps.len(), ids.len(), |i, seen| {
        let mut scores = vec![vec![]; p.metrics.len()];
        for block in observer.means(&shown, p.timesteps[i], seen)? {
            let block = Representation::of(&block, &protocol)?;
            for (scores, measure) in scores.iter_mut().zip(&p.metrics) {
                scores.push(block.score(&target, *measure)?);
            }
        }
        Ok(scores)
    })?;
    let Some(columns) = columns else { return Ok(()) };
    let of_measure = |(m, measure): (usize, &AlignmentMetric)| {
        let columns: Vec<Vec<f64>> = columns.iter().map(|column| column[m].clone()).collect();
        Scores { measure: measure.name(), title: title(*measure), values: by_block(&columns) }
    };
    let scores: Vec<Scores> = p.metrics.iter().enumerate().map(of_measure).collect();
    let mut warnings = vec![];
    let bounds = protocol.bounds(features.shape(TOKENS)?.last().copied().unwrap_or(0));
    for scores in &scores {
        warnings.extend(bounds.poor(scores.measure, ids.len() as u64));
        warnings.extend(scores.impossible(&bounds));
    }
    if target.is_constant() {
        warnings.push("all images are the same in `features`: every block agrees with them by 0".into());
    }
    warnings.iter().for_each(|text| attempt.log(text));
    let about = json!({
        "warnings": warnings,
        "k": p.k,
        "estimator": p.estimator,
        "clamp": p.clamp,
        "clamp_over": p.clamp_over,
        "label": p.look.label,
        "images": ids.len(),
    });
    report(attempt, &p.timesteps, &scores, about)
}

/// The settings of the measures, checked against the number of images before any is processed.
fn protocol(p: &Params, images: usize) -> Result<Protocol> {
    let clamp = Clamp { quantile: p.clamp, over: p.clamp_over };
    let protocol = Protocol { measures: p.metrics.clone(), k: p.k, clamp, estimator: p.estimator };
    if protocol.has_neighbours() && images <= p.k {
        let text = format!("{images} images are too few for {} neighbours each", p.k);
        return Err(Error::stage(text).hint(format!("set `k` below {images}, or use more images")));
    }
    Ok(protocol)
}

fn title(measure: AlignmentMetric) -> &'static str {
    match measure {
        AlignmentMetric::Cknna => "CKNNA",
        AlignmentMetric::Cka => "CKA",
        AlignmentMetric::MutualKnn => "mutual kNN",
    }
}
