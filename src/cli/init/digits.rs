//! `erw init digits`: writes the quick start, which the program carries: `pipelines/digits.toml`, its
//! reference curves and all of `pipelines/data`. The build script lists the files.

use super::files::{Target, check, next, write, write_schema};
use crate::common::print;
use erw_base::error::Result;
use erw_ml::data::source::ImageListing;
use erw_report::table::near;
use erw_report::text::count;
use erw_runner::kind::Registry;

const PIPELINE: (&str, &[u8]) = ("digits.toml", include_bytes!("../../../pipelines/digits.toml"));
/// Name below the pipeline's folder, and contents.
static DATA: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/quick_start_data.rs"));
/// The folder that the pipeline names as its source.
const IMAGES: &str = "data/digits";

pub fn run(target: &Target, registry: Registry) -> Result<()> {
    // The pipeline last: where there is one, its data is whole.
    let files: Vec<(&str, &[u8])> = DATA.iter().copied().chain([PIPELINE]).collect();
    check(target, files.iter().map(|(name, _)| *name))?;
    write_schema(target, registry)?;
    files.iter().try_for_each(|(name, contents)| write(target, name, contents))?;
    let images = target.path(IMAGES);
    let ours = DATA.iter().filter(|(name, _)| name.starts_with(IMAGES)).count();
    let mut text = format!("wrote {} and {}\n", near(&target.path(PIPELINE.0)), count(ours, "image"));
    // What was in that folder before is trained on, too.
    let found = ImageListing::pictures(&images).map_or(ours, |set| set.len());
    if found > ours {
        text += &format!("warning: {} holds {} that are not of it\n", near(&images), count(found - ours, "image"));
    }
    print(&(text + &next(target, PIPELINE.0)))
}
