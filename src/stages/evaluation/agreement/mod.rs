//! `agreement`: measures how similar two representations of the same samples are. It applies the
//! measures of `cknna`, which compares the blocks of a SiT, to features stored in files. It runs no
//! network.

mod rows;

use crate::support::files::{create_dir, write_json};
use crate::support::params::check_list;
use erw_base::error::{Error, Result};
use erw_ml::metrics::alignment::{AlignmentMetric, Protocol, Representation};
use erw_ml::metrics::cknna::Estimator;
use erw_ml::metrics::unit_rows::{Clamp, Over};
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use erw_runner::kind::{StageKind, no_facts};
use serde::Deserialize;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

pub const KIND: StageKind = StageKind {
    name: "agreement",
    manifest: include_str!("../../../../stages/agreement.toml"),
    check,
    facts: no_facts,
    foresee: None,
    run,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    a: PathBuf,
    b: PathBuf,
    tensor_a: Option<String>,
    tensor_b: Option<String>,
    metrics: Vec<AlignmentMetric>,
    k: usize,
    clamp: f64,
    clamp_over: Over,
    estimator: Estimator,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let names: Vec<&str> = parse::<Params>(params)?.metrics.into_iter().map(AlignmentMetric::name).collect();
    check_list("metrics", &names, "`cknna`, `cka` and `mutual-knn`")
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let clamp = Clamp { quantile: p.clamp, over: p.clamp_over };
    let protocol = Protocol { measures: p.metrics.clone(), k: p.k, clamp, estimator: p.estimator };
    let a = Side::read(&p.a, p.tensor_a.as_deref(), &protocol)?;
    attempt.progress(1, 3);
    let b = Side::read(&p.b, p.tensor_b.as_deref(), &protocol)?;
    attempt.progress(2, 3);
    if a.count != b.count {
        let error = Error::stage(format!("{} has {} rows, {} has {}", p.a.display(), a.count, p.b.display(), b.count));
        return Err(error.hint("row i of both must be of the same sample"));
    }
    let mut values = Map::new();
    let constant = |(side, path): (&Side, &Path)| {
        let text =
            format!("all samples are the same in {}: whatever it is compared with, it agrees by 0", path.display());
        side.representation.is_constant().then_some(text)
    };
    let mut warnings: Vec<String> =
        [(&a, p.a.as_path()), (&b, p.b.as_path())].into_iter().filter_map(constant).collect();
    for measure in &p.metrics {
        let value = a.representation.score(&b.representation, *measure)?;
        values.insert(measure.name().into(), json!(value));
        attempt.result(measure.name(), value);
        let bounds = protocol.bounds(a.dim.max(b.dim));
        warnings.extend(bounds.poor(measure.name(), a.count as u64));
        warnings.extend(bounds.impossible(measure.name(), value));
    }
    warnings.iter().for_each(|text| attempt.log(text));
    let first = p.metrics.first().map(|m| m.name());
    let metrics = json!({
        "metric": first,
        "value": first.and_then(|name| values.get(name)),
        "values": values,
        "samples": a.count,
        "dim_a": a.dim,
        "dim_b": b.dim,
        "k": protocol.has_neighbours().then_some(p.k),
        "clamp": p.clamp,
        "clamp_over": p.clamp_over,
        "estimator": p.estimator,
        "warnings": warnings,
    });
    let out = attempt.output("metrics");
    create_dir(&out)?;
    write_json(&out.join("metrics.json"), &metrics)
}

/// One representation, prepared for the measures; the features themselves are dropped.
struct Side {
    count: usize,
    dim: usize,
    representation: Representation,
}

impl Side {
    fn read(path: &Path, tensor: Option<&str>, protocol: &Protocol) -> Result<Self> {
        let features = rows::read(path, tensor)?;
        let (count, dim) = features.dims2()?;
        // Checked for both files before any work, and reported in terms of samples.
        if protocol.has_neighbours() && count <= protocol.k {
            let (path, k) = (path.display(), protocol.k);
            let error = Error::stage(format!("{path} has {count} rows, too few for {k} neighbours per row"));
            return Err(error.hint("give more samples, or fewer neighbours"));
        }
        let representation = Representation::of(&features, protocol)
            .map_err(|e| Error::from(e).context(format!("{} cannot be compared", path.display())))?;
        Ok(Self { count, dim, representation })
    }
}
