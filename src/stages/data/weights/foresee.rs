//! Whether a file can be of the network that a stage names, by what its headers say: names and
//! shapes. A plan asks this, so that a file of another architecture does not wait for the run. Reads
//! no tensors; what depends on values is checked when they are read.

use super::artifact::Artifact;
use super::choice::{Choice, choose};
use super::convert::{Network, Request, adopt, read_json};
use super::params::{Operation, Params};
use candle_core::{DType, Device, Tensor};
use erw_base::error::{Error, Result};
use erw_ml::formats::WeightsFile;
use erw_ml::models::sit::release::TABLES;
use erw_ml::nn::params::{LoadReport, Tensors};
use erw_runner::kind::field::{Params as Values, parse};

/// Names and shapes of a file.
type Shapes = Vec<(String, Vec<usize>)>;

/// Checks the local file of a stage with these values, if it names one that is there. Paths are
/// absolute.
///
/// # Errors
/// If its tensors cannot be those of the network.
pub fn check_file(params: &Values, operation: &Values) -> Result<()> {
    let operation: Operation = parse(operation)?;
    check(&parse(params)?).map_err(|e| operation.tell(e))
}

fn check(p: &Params) -> Result<()> {
    let Some(file) = p.source.as_deref().filter(|file| file.exists() && p.artifact != Artifact::Stats) else {
        return Ok(());
    };
    let request = Request {
        file,
        artifact: p.artifact,
        network: p.network()?,
        set: p.set.as_deref(),
        convention: p.convention,
        latents_stats: None,
        siblings: false,
    };
    let opened = WeightsFile::open(file)?;
    let Choice { taken, .. } = choose(&opened, file, p.artifact, request.set)?;
    for taken in taken {
        let Some(shapes) = taken.copy.shapes(&opened).filter(|shapes| are_plausible(shapes, file)) else { continue };
        let report = compare(&request, &opened, &shapes)?;
        if !is_fit(&report) {
            return Err(unfit(&request, &opened, &shapes, &report));
        }
    }
    Ok(())
}

/// Whether the file can hold so many numbers: one that lies must not fill the memory.
fn are_plausible(shapes: &Shapes, file: &std::path::Path) -> bool {
    let of_file = |path: std::path::PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
    let bytes = match std::fs::read_dir(file) {
        Ok(entries) => entries.flatten().map(|entry| of_file(entry.path())).sum(),
        Err(_) => of_file(file.to_path_buf()),
    };
    let count = |shape: &Vec<usize>| shape.iter().try_fold(1u64, |n, side| n.checked_mul(*side as u64));
    let total = shapes.iter().try_fold(0u64, |n, (_, shape)| n.checked_add(count(shape)?));
    total.is_some_and(|total| total <= bytes)
}

/// How tensors of these shapes fit, all of zeros that take no memory.
fn compare(request: &Request, opened: &WeightsFile, shapes: &Shapes) -> Result<LoadReport> {
    let zeros = |shape: &Vec<usize>| Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape.as_slice());
    let tensors = shapes.iter().map(|(name, shape)| Ok((name.clone(), zeros(shape)?)));
    let tensors = tensors.collect::<candle_core::Result<Tensors>>()?;
    let mut config = match &request.network {
        Network::Config(path) => Some(read_json(path)?),
        _ => None,
    };
    Ok(adopt(request, opened, tensors, &mut config)?.0.1)
}

/// Listings do not tell counters and masks from weights, so of what the network does not have only
/// what is called a weight counts, or a table of an option that is off.
fn is_fit(report: &LoadReport) -> bool {
    let is_weight =
        |name: &String| name.ends_with(".weight") || name.ends_with(".bias") || TABLES.contains(&name.as_str());
    report.missing.is_empty() && report.mismatched.is_empty() && !report.unexpected.iter().any(is_weight)
}

fn unfit(request: &Request, opened: &WeightsFile, shapes: &Shapes, report: &LoadReport) -> Error {
    const SHOWN: usize = 3;
    let text = format!("`{}` does not fit {}", request.file.display(), request.network.describe());
    let mut error = report.faults().into_iter().fold(Error::usage(text), Error::because);
    let first: Vec<String> = shapes.iter().take(SHOWN).map(|(name, shape)| format!("{name} {shape:?}")).collect();
    let (count, end) = (shapes.len(), if shapes.len() == 1 { "" } else { "s" });
    error = error.because(format!("the file has {count} tensor{end}, first {}", first.join(", ")));
    let others = request.artifact.presets().iter().filter(|name| request.network.preset() != Some(**name));
    let fitting = others.copied().find(|name| {
        let request = Request { network: Network::Preset((*name).to_string()), ..request.clone() };
        compare(&request, opened, shapes).is_ok_and(|report| is_fit(&report))
    });
    error.hint(match fitting {
        Some(name) => format!("the file fits `preset = \"{name}\"`"),
        None => "give another `source`, or the `preset` or `config` of its network".into(),
    })
}
