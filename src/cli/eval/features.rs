//! `erw eval cknna`, `cka` and `mutual-knn`: agreement of two representations in files.

use super::answer;
use super::execute::{OutputOptions, each_once, run_pipeline};
use super::pipeline::{METRICS, Stages, text};
use super::workspace::Workspace;
use crate::common::print;
use erw_base::error::{Error, Result};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Features have the shape [n, d] or [n, tokens, d]; tokens are averaged. Row i of
both files belongs to the same sample.
Formats: safetensors, npy, npz, PyTorch files; nothing in them is executed.")]
pub struct Args {
    /// File of features
    #[arg(value_hint = clap::ValueHint::FilePath)]
    a: PathBuf,
    /// File of other features of the same samples, in the same order
    #[arg(value_hint = clap::ValueHint::FilePath)]
    b: PathBuf,
    /// Tensor to read from files that hold several; once for both files, or once each for A and B.
    /// An npy has no names
    #[arg(long, value_name = "NAME")]
    key: Vec<String>,
    /// Further metrics to compute
    #[arg(long, value_delimiter = ',', value_name = "METRIC,…", value_parser = ["cknna", "cka", "mutual-knn"])]
    metrics: Vec<String>,
    /// Number of neighbours; REPA and ERW use 10
    #[arg(short, value_name = "K", default_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Clamp features to this quantile of their absolute values; 1 does not clamp
    #[arg(long, value_name = "Q", default_value = "0.95", value_parser = quantile)]
    clamp: f64,
    /// Use the biased estimator of HSIC
    #[arg(long)]
    biased: bool,
    #[command(flatten)]
    how: OutputOptions,
}

impl Args {
    pub(super) fn how(&mut self) -> &mut OutputOptions {
        &mut self.how
    }
}

fn quantile(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|q| (0.0..=1.0).contains(q)).ok_or_else(|| "expected a number from 0 to 1".into())
}

impl Args {
    /// The tensor names of both files. A single name applies to both, except to an npy, which has
    /// no names.
    fn keys(&self) -> Result<[Option<&str>; 2]> {
        match self.key.as_slice() {
            [] => Ok([None, None]),
            [both] => Ok([&self.a, &self.b].map(|path| (!is_npy(path)).then_some(both.as_str()))),
            [a, b] => Ok([Some(a), Some(b)]),
            _ => Err(Error::usage("`--key` is given more than twice")
                .hint("give it once for both files, or once each for A and B")),
        }
    }
}

pub fn run(metric: &str, args: &Args, place: Workspace<'_>) -> Result<()> {
    for path in [&args.a, &args.b] {
        exists(path)?;
    }
    let [key_a, key_b] = args.keys()?;
    let metrics = each_once(std::iter::once(metric).chain(args.metrics.iter().map(String::as_str)));
    let (a, b) = (text(&args.a)?, text(&args.b)?);
    let params = json!({
        "a": a, "b": b, "tensor_a": key_a, "tensor_b": key_b, "metrics": metrics,
        "k": args.k, "clamp": args.clamp, "estimator": if args.biased { "biased" } else { "unbiased" },
    });
    let mut stages = Stages::of([a, b]);
    stages.add(METRICS, json!({ "kind": "agreement", "params": params }));
    let ran = run_pipeline(stages.text()?, &[("a", a), ("b", b)], None, &args.how, place)?;
    print(&answer::of_features(&ran, [a, b], args.how.json)?)
}

/// Whether the file is an npy, whose array has no name.
fn is_npy(path: &Path) -> bool {
    const MAGIC: [u8; 6] = *b"\x93NUMPY";
    let mut start = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

fn exists(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let error = Error::usage(format!("nothing at `{}`", path.display()));
    Err(error.hint("give a file of features, or a folder of features that `erw export` wrote"))
}
