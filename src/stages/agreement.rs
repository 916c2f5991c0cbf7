//! `agreement`: how far two representations of the same samples agree about which of them are alike. What `cknna`
//! measures of a SiT, of features that lie in files: the same functions, and no network.

mod rows;

use super::support::{create_dir, parse, write_json};
use crate::error::{Error, Result};
use crate::ml::metrics::cknna::{Neighbours, cknna, clamp_outliers};
use crate::runner::attempt::Attempt;
use crate::runner::manifest::{Params as Values, StageKind};
use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

pub const KIND: StageKind =
    StageKind { name: "agreement", manifest: include_str!("../../stages/agreement.toml"), check, run };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    a: PathBuf,
    b: PathBuf,
    tensor_a: Option<String>,
    tensor_b: Option<String>,
    metrics: Vec<Metric>,
    k: usize,
    clamp: f64,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Metric {
    Cknna,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    match parse::<Params>(params)?.metrics.is_empty() {
        true => Err(Error::usage("`metrics` is empty")),
        false => Ok(()),
    }
}

fn run(attempt: &Attempt) -> Result<()> {
    let p: Params = attempt.params()?;
    let (a, b) = (rows::read(&p.a, p.tensor_a.as_deref())?, rows::read(&p.b, p.tensor_b.as_deref())?);
    let n = check_counts(&p, &a, &b)?;
    todo!()
}

fn check_counts(p: &Params, a: &Tensor, b: &Tensor) -> Result<usize> {
    let (n, m) = (a.dim(0)?, b.dim(0)?);
    if n != m {
        let (a, b) = (p.a.display(), p.b.display());
        let error = Error::stage(format!("{a} has {n} rows, {b} has {m}"));
        return Err(error.hint("row i of both must be of the same sample"));
    }
    if n <= p.k || n < 4 {
        let error = Error::stage(format!("{n} samples are too few for {} neighbours", p.k));
        return Err(error.hint("there must be more samples than neighbours, and four at least"));
    }
    Ok(n)
}
