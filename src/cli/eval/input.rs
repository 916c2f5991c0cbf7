//! Recognises the inputs of `erw eval`: a folder, an archive, statistics, an artifact or a stage.
//! Reads names and headers only; the stage that reads the images finds out whether they are
//! readable.

use super::workspace::Workspace;
use crate::common::pipeline_args::{PipelineArgs, stage_and_output};
use erw_base::error::{Error, Result};
use erw_ml::formats::Npz;
use erw_ml::metrics::gaussian::{self, POOLED, SPATIAL, STATS_FILE};
use erw_runner::cache::action_cache;
use erw_runner::cache::store::Store;
use erw_runner::journal::lineage::find;
use erw_runner::plan::{Verdict, verdict};
use erw_stages::{count_images, is_npz};
use std::path::{Path, PathBuf};

/// Types of artifacts that hold images.
const IMAGES: [&str; 2] = ["images", "samples"];
pub const STATS: &str = "stats";
/// The name of the images in an npz, as in the ADM suite.
const ARRAY: &str = "arr_0";
/// A shorter text is taken for a misspelt path, not for a digest.
const LEAST_DIGITS: usize = 4;

/// An input of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub enum EvalInput {
    /// Images to read from this path.
    Images(PathBuf),
    /// Published statistics.
    Statistics(PathBuf, Holds),
    /// The output of a stage: its name as an input, its type, and its path.
    Stage(String, String, PathBuf),
}

/// The contents of published statistics beside mean and covariance of pooled features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holds {
    pub spatial: bool,
    pub images: bool,
}

impl EvalInput {
    /// Recognises an argument.
    ///
    /// # Errors
    /// If it is none of what the help of `erw eval` lists.
    pub fn of(text: &str, place: Workspace<'_>) -> Result<Self> {
        let path = Path::new(text);
        if path.is_dir() {
            return folder(path);
        }
        if path.exists() {
            return file(path);
        }
        if text.contains(".toml:") {
            return stage(text, &[&IMAGES[..], &[STATS]].concat(), place);
        }
        match artifact(text, place)? {
            Some(path) => Self::of(&path.display().to_string(), place),
            None => Err(nothing_at(text)),
        }
    }

    /// Whether these are statistics, published or from a stage.
    pub fn is_statistics(&self) -> bool {
        matches!(self, Self::Statistics(..)) || matches!(self, Self::Stage(_, ty, _) if ty == STATS)
    }
}

/// A side of a comparison.
pub struct Side<'a> {
    /// The name of the argument.
    pub place: &'static str,
    /// The value of the argument.
    pub said: &'a str,
    pub given: EvalInput,
    /// The number of images. Listing them takes a while, so it is done once.
    images: Result<u64>,
}

impl<'a> Side<'a> {
    pub fn new(place: &'static str, said: &'a str, given: EvalInput) -> Self {
        let (EvalInput::Images(path) | EvalInput::Statistics(path, _) | EvalInput::Stage(_, _, path)) = &given;
        let images = count_images(path);
        Self { place, said, given, images }
    }

    /// The number of images; `None` if there are none or they cannot be listed.
    pub fn images(&self) -> Option<u64> {
        self.images.as_ref().ok().copied()
    }

    /// Refuses a side from which no stage could read images, before a network is downloaded.
    pub fn check(&self) -> Result<()> {
        match (&self.given, &self.images) {
            (EvalInput::Images(_), Err(e)) => Err(e.clone()),
            _ => Ok(()),
        }
    }
}

/// The error about an argument that is not recognised.
pub fn nothing_at(text: &str) -> Error {
    Error::usage(format!("nothing at `{text}`"))
        .hint("give a folder, a ZIP, an npz or npy, digits of an artifact's digest, or FILE.toml:STAGE")
}

/// A folder of images, or an artifact.
fn folder(dir: &Path) -> Result<EvalInput> {
    // If it is a bad folder of images, the stage says why.
    let statistics = dir.join(STATS_FILE);
    if statistics.is_file() { npz(&statistics) } else { Ok(EvalInput::Images(dir.to_path_buf())) }
}

fn file(path: &Path) -> Result<EvalInput> {
    // If it is neither images nor statistics, the stage says what it is.
    if is_npz(path) { npz(path) } else { Ok(EvalInput::Images(path.to_path_buf())) }
}

fn npz(path: &Path) -> Result<EvalInput> {
    let names = Npz::open(path)?.names();
    let has = |name: &str| names.iter().any(|n| n == name);
    if POOLED.iter().all(|name| has(name)) {
        let holds = Holds { spatial: SPATIAL.iter().all(|name| has(name)), images: has(ARRAY) };
        return Ok(EvalInput::Statistics(path.to_path_buf(), holds));
    }
    if let Some(missing) = gaussian::lacking(&names) {
        let error = Error::usage(format!("`{}` holds statistics, but no `{missing}`", path.display()));
        return Err(error.hint(format!("its arrays are {}", ticked(&names))));
    }
    // An array of another name is taken only if it is the only one.
    if has(ARRAY) || names.len() == 1 {
        return Ok(EvalInput::Images(path.to_path_buf()));
    }
    let text = format!("`{}` holds neither images (`arr_0`) nor statistics (`mu` and `sigma`)", path.display());
    Err(Error::usage(text).hint(format!("its arrays are {}", ticked(&names))))
}

fn ticked(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `FILE.toml:STAGE[.OUTPUT]`, which must be cached: an evaluation trains nothing.
pub fn stage(text: &str, types: &[&str], place: Workspace<'_>) -> Result<EvalInput> {
    let (stem, what) = text.split_once(".toml:").unwrap_or((text, ""));
    let file = format!("{stem}.toml");
    let pipeline = PipelineArgs::of(&file).load(place.registry)?;
    let (id, output) = stage_and_output(&pipeline, what)?;
    let stage = pipeline.stage(id);
    let fits =
        |(name, ty): &(&String, &String)| types.contains(&ty.as_str()) && output.as_ref().is_none_or(|o| o == *name);
    let Some((name, ty)) = stage.outputs.iter().find(fits) else {
        let made: Vec<String> = stage.outputs.values().map(|ty| format!("`{ty}`")).collect();
        let error = Error::usage(format!("`{text}` is of type {}", made.join(" and ")));
        return Err(error.hint(format!("expected one of {}", types.join(", "))));
    };
    let store = Store::open(place.cache)?;
    match verdict(&pipeline, &store, id)? {
        Verdict::Cached(record) => {
            let made = record.outputs.iter().find(|(output, _)| *output == name).map(|(_, made)| made.measured.digest);
            made.map_or(Ok(()), |digest| store.check(&digest))?;
            let path = made.map(|digest| store.object(&digest)).unwrap_or_default();
            Ok(EvalInput::Stage(format!("{file}:{}.{name}", stage.name), ty.clone(), path))
        }
        _ => {
            let error = Error::usage(format!("stage `{}` of `{file}` is not up to date", stage.name));
            Err(error.hint(format!("run `erw run {file} {}` first", stage.name)))
        }
    }
}

/// The path of the artifact with these first digits; `None` if the text is not a digest.
fn artifact(text: &str, place: Workspace<'_>) -> Result<Option<PathBuf>> {
    if text.len() < LEAST_DIGITS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let store = Store::open(place.cache)?;
    let digest = find(&store, &action_cache::all(&store)?.0, &text.to_lowercase())?;
    let path = store.object(&digest);
    if path.exists() {
        store.check(&digest)?;
        Ok(Some(path))
    } else {
        Err(Error::usage(format!("artifact `{text}` is no longer in the store")))
    }
}
