//! `images`: imports images from a folder, archives, tables or IDX files into a packed array at one
//! size.
//! Images are decoded on all cores and written in their listed order.

use crate::support::facts;
use crate::support::params::of_set;
use candle_core::{Device, Tensor};
use erw_base::error::{Error, ErrorKind, Result};
use erw_ml::data::decode::orientation::Orientation;
use erw_ml::data::packed::PackedWriter;
use erw_ml::data::rgb::Rgb;
use erw_ml::data::source::classes::empty;
use erw_ml::data::source::layout::Classes;
use erw_ml::data::source::{ImageListing, Preparation, READABLE, Split, holds_sets, recognise};
use erw_ml::data::transform::Transform;
use erw_ml::nn::params::Tensors;
use erw_runner::kind::StageKind;
use erw_runner::kind::attempt::Attempt;
use erw_runner::kind::field::{Params as Values, parse};
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

pub const KIND: StageKind = StageKind {
    name: "images",
    manifest: include_str!("../../../stages/images.toml"),
    check,
    facts: facts::images,
    foresee: Some(foresee),
    run,
};

/// Bytes of pixels in a shard.
const SHARD_BYTES: usize = 256 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    source: PathBuf,
    part: Option<String>,
    labels: Option<PathBuf>,
    classes: Classes,
    resolution: usize,
    transform: Transform,
    orientation: Orientation,
    split: Split,
    holdout_every: usize,
    limit: Option<usize>,
    on_error: OnError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    origin: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum OnError {
    Fail,
    Skip,
}

fn check(params: &Values, operation: &Values, _: &[&str]) -> Result<()> {
    parse::<Operation>(operation)?;
    let p: Params = parse(params)?;
    // Only a look at the first bytes, as for a stage that is cached.
    match p.source.is_file() {
        true => recognise(&p.source).map_err(|e| {
            let error = of_set(e);
            let message = format!("`source` cannot be read: {}", error.message);
            Error { kind: ErrorKind::Usage, message, ..error }.hint(sources())
        }),
        false => Ok(()),
    }
}

/// Lists the images of archives, tables and labels, so that an archive that ends early or a label
/// without its image is told before they are read. A tree of images is left to the stage: to list a
/// million takes as long as to find them unchanged, and much more memory.
fn foresee(params: &Values, _: &Values) -> Result<()> {
    let p: Params = parse(params)?;
    if p.labels.is_none() && p.source.is_dir() && !holds_sets(&p.source) {
        return Ok(());
    }
    choose(open(&p)?, &p).map(drop)
}

/// What `source` can be, for hints.
fn sources() -> String {
    format!("`source` must be {READABLE}")
}

fn run(attempt: &Attempt) -> Result<()> {
    let (p, op): (Params, Operation) = (attempt.params()?, attempt.operation()?);
    if let Some(origin) = &op.origin {
        attempt.log(&format!("images of {}: {origin}", p.source.display()));
    }
    let source = open(&p)?;
    attempt.log(&format!("{} is {source}", p.source.display()));
    source.remarks().iter().for_each(|remark| attempt.log(remark));
    source.notes().iter().chain(source.warnings()).for_each(|note| attempt.log(&format!("warning: {note}")));
    let (source, size) = (choose(source, &p)?, p.resolution);
    let out = attempt.output("images");
    let mut writer = PackedWriter::create(&out, "images", (SHARD_BYTES / (size * size * 3)).max(1))?;
    let Read { skipped, damaged, turned, alpha, of_class } = pack(attempt, &source, &p, &mut writer)?;
    if skipped as usize == source.len() {
        let text = format!("none of the {} images in {} can be read", source.len(), p.source.display());
        return Err(Error::stage(text));
    }
    // Files that are not images do not enter the artifact. Otherwise a file that a file manager
    // leaves in the folder would invalidate everything made from the images.
    let mut left_out = source.left_out().images();
    let mut meta = json!({"height": size, "width": size, "classes": source.classes(), "skipped": skipped});
    if !left_out.is_empty() {
        meta["left_out"] = json!(left_out);
    }
    let count = writer.finish(&meta)?;
    attempt.result("images", count as f64);
    attempt.result("classes", source.classes().len() as f64);
    if damaged > 0 {
        attempt.result("damaged", damaged as f64);
    }
    if turned > 0 && p.orientation == Orientation::Ignore {
        let hint = "set `orientation = \"apply\"` to turn them upright";
        attempt.log(&format!("{turned} images state an orientation (EXIF), which is ignored; {hint}"));
    }
    if alpha > 0 {
        attempt.log(&format!("{alpha} images have transparency, which is dropped"));
    }
    if let Some(text) = empty(source.classes(), &of_class) {
        let why = match p.split {
            Split::Holdout => format!(", as is so where there are fewer than {} (`holdout_every`)", p.holdout_every),
            _ => String::new(),
        };
        attempt.log(&format!("warning: {text}{why}; samples of it would be asked for all the same"));
    }
    left_out.unreadable(skipped);
    if !left_out.is_empty() {
        attempt.log(&format!("warning: not in the set though they may be images: {left_out}"));
        attempt.result("left_out", left_out.count() as f64);
    }
    Ok(())
}

/// What was read.
#[derive(Default)]
struct Read {
    /// Files that could not be read.
    skipped: u64,
    /// Images that were read with decoder warnings.
    damaged: u64,
    /// Images that state an orientation.
    turned: u64,
    /// Images with transparency.
    alpha: u64,
    /// Images of each class.
    of_class: Vec<u64>,
}

/// Reads every image and writes them in order. Images are decoded in portions, on all cores.
fn pack(attempt: &Attempt, source: &ImageListing, p: &Params, writer: &mut PackedWriter) -> Result<Read> {
    let size = p.resolution;
    let how = Preparation { orientation: p.orientation, transform: p.transform, size };
    let of_class = vec![0; source.classes().len()];
    let (total, mut done, mut read) = (source.len(), 0, Read { of_class, ..Read::default() });
    let portion = 16 * rayon::current_num_threads();
    while done < total {
        if attempt.should_stop() {
            return Err(Error::suspended());
        }
        let ids = done..(done + portion).min(total);
        let images: Vec<_> = ids.clone().into_par_iter().map(|i| source.load_whole(i, &how)).collect();
        let (mut pixels, mut labels) = (Vec::with_capacity(ids.len() * size * size * 3), vec![]);
        for (i, image) in ids.clone().zip(images) {
            match image {
                Ok((Rgb { data, .. }, warnings, extras)) => {
                    if warnings > 0 {
                        let text = "the decoder reports damaged or unusual data; the image was read as Pillow reads it";
                        attempt.log(&format!("warning: {}: {text}", source.place(i)));
                        read.damaged += 1;
                    }
                    pixels.extend(data);
                    read.turned += u64::from(extras.turned);
                    read.alpha += u64::from(extras.alpha);
                    if let Some(n) = read.of_class.get_mut(source.label(i) as usize) {
                        *n += 1;
                    }
                    labels.push(source.label(i));
                }
                Err(e) if p.on_error == OnError::Skip => {
                    attempt.log(&format!("skipped {e}"));
                    read.skipped += 1;
                }
                Err(e) => return Err(Error::from(e).hint("set `on_error = \"skip\"` to skip unreadable images")),
            }
        }
        let n = labels.len();
        if n > 0 {
            let images = Tensor::from_vec(pixels, (n, size, size, 3), &Device::Cpu)?;
            let labels = Tensor::from_vec(labels, n, &Device::Cpu)?;
            writer.push(&Tensors::from([("images".into(), images), ("labels".into(), labels)]))?;
        }
        done = ids.end;
        attempt.progress(done as u64, total as u64);
    }
    Ok(read)
}

fn open(p: &Params) -> Result<ImageListing> {
    let source = ImageListing::open_as(&p.source, p.part.as_deref(), p.labels.as_deref(), p.classes);
    source.map_err(|e| {
        let error = of_set(e);
        if error.hints.is_empty() { error.hint(sources()) } else { error }
    })
}

/// The subset that the parameters select.
fn choose(source: ImageListing, p: &Params) -> Result<ImageListing> {
    let mut source = source.split(p.split, p.holdout_every);
    if source.is_empty() {
        let text =
            format!("no class in {} has {} images, so the held-out set is empty", p.source.display(), p.holdout_every);
        return Err(Error::stage(text).hint("lower `holdout_every`"));
    }
    if let Some(most) = p.limit {
        source = source.limit(most);
    }
    Ok(source)
}
