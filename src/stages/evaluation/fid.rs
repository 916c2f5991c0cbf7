//! `fid`: compares samples with reference images by the features of a network: Fréchet distance,
//! sFID, Inception Score, precision and recall, KID and CMMD, from one pass over the images of each
//! side.
//!
//! With features of a network trained here the distances are good for comparing runs and are called
//! `fd` and `kd`. Only Inception's are comparable with published FID and KID.

use super::images::comparison::{Comparison, REFERENCE, SAMPLES};
use super::images::measure::{images, make_side, measure_side};
use super::images::metric_names;
use super::images::provenance::Extractor;
use super::images::warnings;
use crate::support::files::{create_dir, write_json};
use crate::support::observer::{AttemptObserver, share};
use crate::support::params::{Walk, device};
use candle_core::Device;
use erw_base::error::Result;
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::evaluation::extract::Pass;
use erw_ml::evaluation::metric::{Metric, Needs};
use erw_ml::evaluation::side_statistics::{SideStatistics, kept_references};
use erw_ml::evaluation::values::{Settings, values};
use erw_ml::models::feature_network::mode::Mode;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const KIND: StageKind = StageKind {
    name: "fid",
    manifest: include_str!("../../../stages/fid.toml"),
    check,
    facts: no_facts,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    metrics: Vec<String>,
    mode: Option<Mode>,
    k: usize,
    kid_subsets: usize,
    kid_subset_size: usize,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Walk>(operation)?;
    metric_names::parse(&parse::<Params>(params)?.metrics).map(drop)
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let metrics = metric_names::parse(&p.metrics)?;
    let device = device(attempt.device())?;
    let comparison = Comparison::open(attempt, p.mode, &metrics, attempt.operation::<Walk>()?.batch, &device)?;
    let settings = Settings {
        mode: comparison.seen.as_ref().and_then(|seen| seen.mode),
        inception: comparison.is_inception(),
        k: p.k,
        subsets: p.kid_subsets,
        subset_size: p.kid_subset_size,
    };
    comparison.check_counts(&metrics, &settings.bounds())?;
    let Some((samples, reference)) = measure(attempt, &comparison, &metrics, &device)? else { return Ok(()) };
    let values = values(&metrics, &settings, &samples, &reference)?;
    let mut warnings = warnings::of(&comparison, &metrics, &samples, &reference);
    warnings.extend(warnings::of_values(&metrics, &settings, &values, &samples, &reference));
    warnings.iter().for_each(|w| attempt.log(w));

    let report = report(&comparison, &samples, &reference, &values, &settings.told(&metrics, &reference), &warnings);
    let out = attempt.output("metrics");
    create_dir(&out)?;
    write_json(&out.join("metrics.json"), &report)?;
    values.iter().for_each(|(name, value)| attempt.result(name, *value));
    Ok(())
}

/// Measures both sides, one after the other. `None` for other ranks than the first, which have made
/// their part of the features.
fn measure(
    attempt: &Attempt,
    comparison: &Comparison,
    metrics: &[Metric],
    device: &Device,
) -> Result<Option<(SideStatistics, SideStatistics)>> {
    let batch = attempt.operation::<Walk>()?.batch;
    let (ours, theirs) = (Needs::of(metrics), Needs::of_reference(metrics));
    let (before, after) = (images(&comparison.samples, ours)?, images(&comparison.reference, theirs)?);
    let (obs, share, dir) = (&AttemptObserver(attempt), share(attempt), &attempt.checkpoint_dir());
    let pass = |before: u64, total: u64| {
        let is_made = share.ranks > 1;
        let of = |network| Pass { obs, share, dir, network, device, batch, total, before, is_made };
        comparison.network.as_deref().map(of)
    };
    let total = before + after;
    // All of them before the first rank sums any, so that none waits for another.
    if let (2.., Some(ours_pass), Some(theirs_pass)) = (share.ranks, pass(0, total), pass(before, total)) {
        make_side(&ours_pass, SAMPLES, &comparison.samples, ours)?;
        if theirs.any() {
            make_side(&theirs_pass, REFERENCE, &comparison.reference, theirs)?;
        }
    }
    if share.rank > 0 {
        return Ok(None);
    }
    let samples = measure_side(pass(0, total).as_ref(), SAMPLES, &comparison.samples, ours, None)?;
    // The Inception Score needs the samples alone.
    if !theirs.any() {
        let reference = SideStatistics { count: comparison.reference.count(), ..SideStatistics::default() };
        return Ok(Some((samples, reference)));
    }
    let most = kept_references(comparison.seen.as_ref().and_then(|seen| seen.mode), metrics);
    let reference = measure_side(pass(before, total).as_ref(), REFERENCE, &comparison.reference, theirs, most)?;
    Ok(Some((samples, reference)))
}

/// `metrics.json`.
fn report(
    comparison: &Comparison,
    samples: &SideStatistics,
    reference: &SideStatistics,
    values: &[(String, f64)],
    settings: &Value,
    warnings: &[String],
) -> Value {
    let first = values.first();
    let seen = comparison.seen.as_ref();
    let text = |of: fn(&Extractor) -> &String| seen.map(of);
    let kept = |side: &SideStatistics| side.vectors.as_ref().map(|v| v.dims()[0]);
    let mut report = json!({
        "metric": first.map(|(name, _)| name),
        "value": first.map(|(_, value)| value),
        "values": values.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
        "settings": settings,
        "network": text(|s| &s.network),
        "mode": seen.and_then(|s| s.mode),
        "preparation": text(|s| &s.preparation),
        "dim": comparison.dim,
        "weights": text(|s| &s.weights),
        "n_samples": samples.count,
        // Published statistics do not record it.
        "n_reference": reference.count,
        // Images whose feature vectors were compared one by one.
        "n_samples_features": kept(samples),
        "n_reference_features": kept(reference),
        "sampler": comparison.samples.sampler(),
        "samples": comparison.samples.digest(),
        "reference": comparison.reference.digest(),
        "warnings": warnings,
    });
    let sides = [(SAMPLES, &comparison.samples), (REFERENCE, &comparison.reference)].map(|(n, s)| (n, s.left_out()));
    let left_out: BTreeMap<&str, LeftOut> = sides.into_iter().filter(|(_, left_out)| !left_out.is_empty()).collect();
    if !left_out.is_empty() {
        report["left_out"] = json!(left_out);
    }
    report
}
