//! Warnings that a reader of a number needs before comparing it with another.

use super::comparison::{Comparison, REFERENCE, SAMPLES};
use super::side::Side;
use erw_ml::data::source::left_out::LeftOut;
use erw_ml::evaluation::metric::{Metric, Needs};
use erw_ml::evaluation::side_statistics::{SideStatistics, references};
use erw_ml::evaluation::values::Settings;
use erw_ml::models::feature_network::mode::Mode;

/// Number of samples behind the values that papers report.
const USUAL: u64 = 50_000;
/// Number of images stored beside the statistics of the ADM suite, which are of over a million
/// images.
const BESIDE_ADM: u64 = 10_000;

/// All warnings about a comparison.
pub fn of(
    comparison: &Comparison,
    metrics: &[Metric],
    samples: &SideStatistics,
    reference: &SideStatistics,
) -> Vec<String> {
    let moments = metrics.iter().any(|m| matches!(m, Metric::Fid | Metric::Sfid));
    let fid = comparison.is_inception() && moments;
    let counts = [samples.count, reference.count].into_iter().flatten().min();
    let singular = if moments { counts.and_then(|n| singular(n, comparison.dim)) } else { None };
    let cautions = [&comparison.samples, &comparison.reference];
    let cautions = cautions.into_iter().filter_map(|side| side.note()?.caution.clone());
    let sides = [(SAMPLES, &comparison.samples), (REFERENCE, &comparison.reference)];
    let lacking = sides.into_iter().filter_map(|(name, side)| lacking(name, &side.left_out()));
    [
        sizes(comparison.samples.size(), comparison.reference.size()),
        singular,
        comparison.is_same.then(same).filter(|_| Needs::of_reference(metrics).any()),
        published(comparison, SAMPLES, &comparison.samples),
        published(comparison, REFERENCE, &comparison.reference),
        samples.count.filter(|n| fid && *n != USUAL).map(unusual),
        reference.count.filter(|n| fid && *n == BESIDE_ADM).map(|_| few_references()),
        partial("samples", samples, metrics, |_| None),
        partial("reference images", reference, metrics, |metric| match metric {
            Metric::Kid | Metric::Cmmd => None,
            _ => references(comparison.seen.as_ref().and_then(|seen| seen.mode)),
        }),
    ]
    .into_iter()
    .flatten()
    .chain(cautions)
    .chain(lacking)
    .collect()
}

/// Warns that files of a side were left out that may be images.
pub fn lacking(side: &str, left_out: &LeftOut) -> Option<String> {
    let images = left_out.images();
    (!images.is_empty()).then(|| format!("{side}: {images} not looked at, though they may be images"))
}

/// Warns about values that are unreliable or impossible.
pub fn of_values(
    metrics: &[Metric],
    settings: &Settings,
    values: &[(String, f64)],
    samples: &SideStatistics,
    reference: &SideStatistics,
) -> Vec<String> {
    let bounds = settings.bounds();
    let of = |metric: &Metric| {
        let one = [*metric];
        let counted = |side: &SideStatistics, needs: Needs| match needs.vectors {
            true => side.vectors.as_ref().map(|v| v.dims()[0] as u64),
            false if needs.any() => side.count,
            false => None,
        };
        let counts = [counted(samples, Needs::of(&one)), counted(reference, Needs::of_reference(&one))];
        let poor = counts.into_iter().flatten().min().and_then(|n| bounds.poor(metric.name(), n));
        let called = metric.called(settings.inception);
        let value = values.iter().find(|(name, _)| name == called);
        poor.into_iter().chain(value.and_then(|(_, value)| bounds.impossible(metric.name(), *value)))
    };
    metrics.iter().flat_map(of).collect()
}

/// Warns about images of different sizes: resizing to the size of the network smooths the larger
/// ones more.
fn sizes(samples: Option<(usize, usize)>, reference: Option<(usize, usize)>) -> Option<String> {
    let ((h, w), (rh, rw)) = samples.zip(reference).filter(|(a, b)| a != b)?;
    Some(format!(
        "samples have {h} x {w} pixels, reference images {rh} x {rw}: the network is shown both at one size, and \
         the distance tells of that too"
    ))
}

/// The warning that a set is compared with itself, which looks perfect.
fn same() -> String {
    "the samples and the reference are the same: how far a set is from itself says nothing about it".into()
}

/// Warns about a side that is statistics of another tool, which do not record network and mode. The
/// ADM suite's are recognised by their spatial features, which no other tool writes.
fn published(comparison: &Comparison, name: &str, side: &Side) -> Option<String> {
    let Side::Stats(stats) = side else { return None };
    if stats.note().is_some() {
        return None;
    }
    let (does, it_is) = if name == SAMPLES { ("samples do", "they are") } else { ("reference does", "it is") };
    let Some(seen) = comparison.seen.as_ref().filter(|seen| seen.is_inception()) else {
        let text = format!("the {does} not say of which network {it_is}; only the number of features was compared");
        return Some(text);
    };
    let mode = seen.mode?;
    let (tool, its) = (mode.name(), if name == SAMPLES { "their" } else { "its" });
    (mode != Mode::Adm || !stats.has_spatial()).then(|| {
        format!(
            "the {does} not say how {its} images were prepared: if {it_is} not of {tool}, the mode must name {its} tool"
        )
    })
}

/// Warns about too few images. The distance falls with the number of samples, so values are
/// comparable only at equal counts; with at most `dim` samples the covariance is also
/// rank-deficient.
fn singular(images: u64, dim: usize) -> Option<String> {
    (images <= dim as u64)
        .then(|| format!("{images} images for features of dimension {dim}: the covariance is singular, the bias large"))
}

/// `FID-10K`: the name of a distance by its number of samples.
pub fn fid_of(samples: u64) -> String {
    match samples % 1000 {
        0 => format!("FID-{}K", samples / 1000),
        _ => format!("FID-{samples}"),
    }
}

fn unusual(samples: u64) -> String {
    let name = fid_of(samples);
    format!("this is {name}: papers report {}, and it does not compare with that", fid_of(USUAL))
}

fn few_references() -> String {
    format!(
        "the reference is {BESIDE_ADM} images; papers compare with statistics of the whole training set, and the \
         images that lie beside these are for precision and recall only"
    )
}

/// Warns that features were kept of fewer images than a metric uses. `most` is the number of images
/// that the metric uses; `None` means all.
fn partial(
    side: &str,
    measured: &SideStatistics,
    metrics: &[Metric],
    most: impl Fn(Metric) -> Option<u64>,
) -> Option<String> {
    let (kept, count) = (measured.vectors.as_ref()?.dims()[0] as u64, measured.count?);
    let is_short = |m: &Metric| Needs::of(&[*m]).vectors && kept < most(*m).map_or(count, |most| most.min(count));
    let metrics: Vec<&str> = metrics.iter().filter(|m| is_short(m)).map(|m| m.name()).collect();
    let all = metrics.join(", ");
    (!metrics.is_empty()).then(|| format!("{all}: of the features of {kept} of the {count} {side}, all that were kept"))
}
