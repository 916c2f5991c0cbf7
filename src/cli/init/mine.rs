//! `erw init mine --images X`: looks at a set of images, tells what it found, and writes a pipeline
//! for it.

use super::files::{Target, check, ignore_cache, next, write, write_schema};
use super::images::{Images, SetArgs};
use super::pipeline::{NAME, Plan};
use super::sizes::{RESOLUTIONS, TRAINED};
use crate::common::print;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use erw_base::error::{Error, Result};
use erw_report::table::near;
use erw_runner::kind::Registry;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    set: SetArgs,
    /// Side of an image in pixels; default: near that of the images, but at most 64, which a CPU
    /// trains from nothing. Larger ones use a published autoencoder and encoder, and need a GPU
    #[arg(long, value_name = "PIXELS", value_parser = resolutions())]
    resolution: Option<usize>,
}

fn resolutions() -> impl TypedValueParser<Value = usize> {
    let names = RESOLUTIONS.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<usize>())
}

pub fn run(args: &Args, registry: Registry) -> Result<()> {
    let Args { target, resolution, .. } = args;
    let file = format!("{NAME}.toml");
    check(target, [file.as_str()].into_iter())?;
    let set = SetArgs {
        images: stated(target, &args.set.images)?,
        part: args.set.part.clone(),
        labels: args.set.labels.as_ref().map(|labels| stated(target, labels)).transpose()?,
        classes: args.set.classes.clone(),
    };
    let images = Images::look(&args.set)?;
    // `stated` has checked that it is text.
    let source = set.images.to_string_lossy();
    let plan = Plan::of(&set, &source, &images, *resolution);
    write_schema(target, registry)?;
    write(target, &file, plan.text().as_bytes())?;
    let ignored = ignore_cache(target)?;

    let mut text = images.report();
    let sizes = &plan.sizes;
    text += &format!(
        "\nwrote {}{}: {} x {} pixels, {} x {} latents, {} x {} tokens; {} steps of {} images\n",
        near(&target.path(&file)),
        if ignored { " and .gitignore" } else { "" },
        sizes.resolution,
        sizes.resolution,
        sizes.latent_side(),
        sizes.latent_side(),
        sizes.tokens(),
        sizes.tokens(),
        sizes.steps,
        sizes.batch,
    );
    if images.count < FEW {
        text += "note: a model that is trained on so few images repeats them\n";
    }
    text.extend(plan.why_unmeasured().map(|why| format!("note: samples are not measured: {why}\n")));
    if sizes.resolution > images.usual_side() {
        text += "note: half of the images or more are smaller than that and are enlarged\n";
    }
    if resolution.is_none() && images.usual_side() >= 2 * TRAINED {
        text += "note: `--resolution 256` is for a GPU: it uses a published autoencoder and encoder\n";
    }
    print(&(text + &next(target, &file)))
}

/// Below this, samples are copies.
const FEW: usize = 500;

/// A path as the pipeline states it: relative to its own folder, or absolute.
fn stated(target: &Target, path: &Path) -> Result<PathBuf> {
    let path = match target.is_here() {
        true => path.to_path_buf(),
        false => std::path::absolute(path).map_err(|e| Error::io("find", path, e))?,
    };
    match path.to_str() {
        Some(_) => Ok(path),
        None => {
            let text = format!("the path `{}` is not UTF-8, so a pipeline cannot state it", path.display());
            Err(Error::usage(text).hint("rename it, or make a symbolic link to it that has a plain name"))
        }
    }
}
