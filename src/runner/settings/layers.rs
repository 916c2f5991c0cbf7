//! The layers of settings, merged by figment, with the place that each value comes from. Chooses
//! the profile, and leaves out what an untrusted project says. Does not know what a file or a
//! variable may contain.

use super::file::{DEFAULT, SettingsFile, check_kind};
use super::files::{self, Candidate, Level};
use super::keys::{self, FromProject, KEYS, KINDS, RUNNER, STAGES};
use super::trust;
use super::values::Settings;
use super::variables::{self, Variables};
use crate::text::suggest;
use erw_base::error::{Error, Place, Result};
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variable that names the profile.
pub const PROFILE_VARIABLE: &str = "ERW_PROFILE";
const FLAGS: &str = "flags";

/// What decides which settings hold.
pub struct Request<'a> {
    /// The folder in which the search for the project's file begins, absolute.
    pub folder: Option<&'a Path>,
    /// `--profile`.
    pub profile: Option<&'a str>,
    /// Names of settings, with what their flags say; paths as `path_text` writes them. A value is
    /// checked where the flag is.
    pub flags: Vec<(&'static str, String)>,
    /// The stage kinds that files may name.
    pub kinds: &'a [&'a str],
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// The settings that hold, and where they come from.
#[derive(Debug)]
pub struct Resolved {
    pub settings: Settings,
    /// The name of the profile.
    pub profile: String,
    /// All settings in the order of the table; those of resources, kinds and stages one by one.
    pub entries: Vec<Entry>,
    /// The folder of the project's file, if there is one.
    pub project: Option<PathBuf>,
    /// What was left out, and why.
    pub warnings: Vec<Error>,
}

/// A setting with its value and origin.
#[derive(Debug)]
pub struct Entry {
    /// `jobs`, `resources.licence`, `kinds.fid.timeout`.
    pub key: String,
    /// `None`: not set.
    pub value: Option<serde_json::Value>,
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    File(Place),
    Variable(&'static str),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(place) => place.fmt(f),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

impl Resolved {
    /// Where the value of a setting comes from.
    pub fn origin(&self, name: &str) -> &Origin {
        self.entries.iter().find(|entry| entry.key == name).map_or(&Origin::BuiltIn, |entry| &entry.origin)
    }
}

/// The values that flags state. They hold in every profile.
struct Flags(Dict);

impl Provider for Flags {
    fn metadata(&self) -> Metadata {
        Metadata::from(FLAGS, Source::Custom(FLAGS.into()))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Global.collect(self.0.clone()))
    }
}

/// The settings that hold for this request.
///
/// # Errors
/// When a file or a variable has a mistake, or no file has the profile.
pub fn load(request: &Request<'_>) -> Result<Resolved> {
    let candidates = files::candidates(request.folder, request.variable);
    let mut warnings: Vec<Error> = candidates.iter().filter_map(ignored).collect();
    let read = candidates.iter().filter(|c| c.ignored.is_none());
    let read = read.map(|c| SettingsFile::read(&c.path, c.level, request.kinds));
    let files: Vec<SettingsFile> = read.filter_map(Result::transpose).collect::<Result<_>>()?;
    let variables = Variables::read(request.variable)?;
    let flags = request.flags.iter().map(|(name, text)| ((*name).to_string(), Value::from(text.as_str()))).collect();
    let mut layers = Layers { profile: profile(request, &files)?, files, variables, flags: Flags(flags) };
    warnings.extend(layers.distrust()?);
    let merged = layers.merged();
    let mut settings: Settings = merged.extract().map_err(misfit)?;
    settings.every_stage = merged.extract().map_err(misfit)?;
    settings.stated = Figment::from(&layers.variables).merge(&layers.flags).extract().map_err(misfit)?;
    // A file was checked when it was read.
    for kind in settings.local_kinds.iter().flatten() {
        check_kind(kind, request.kinds).map_err(|e| e.within("ERW_LOCAL_KINDS"))?;
    }
    let entries = layers.entries()?;
    let project = layers.files.iter().find(|file| file.level == Level::Project);
    let project = project.and_then(|file| Some(file.path.parent()?.to_path_buf()));
    Ok(Resolved { settings, profile: layers.profile, entries, project, warnings })
}

/// A setting that passed all checks and still does not fit its type.
fn misfit(error: figment::Error) -> Error {
    Error::usage("the settings cannot be read").because(error)
}

fn ignored(candidate: &Candidate) -> Option<Error> {
    let why = candidate.ignored.as_ref()?;
    let message = format!("`{}` is not read: {why}", candidate.path.display());
    Some(Error::usage(message).hint("run `chmod o-w` on the folder if the project is yours"))
}

/// The name of the profile, which must be in a file.
fn profile(request: &Request<'_>, files: &[SettingsFile]) -> Result<String> {
    let variable = (request.variable)(PROFILE_VARIABLE).filter(|name| !name.is_empty());
    let variable = variable.map(|name| name.to_string_lossy().into_owned());
    let chosen = files.iter().rev().find_map(|file| file.chosen.as_ref());
    let (name, within, place) = match (request.profile, &variable, chosen) {
        (Some(name), _, _) => (name, "`--profile`", None),
        (None, Some(name), _) => (name.as_str(), PROFILE_VARIABLE, None),
        (None, None, Some((name, place))) => (name.as_str(), "`profile`", Some(place)),
        (None, None, None) => return Ok(DEFAULT.into()),
    };
    let known = || files.iter().flat_map(|file| &file.profiles);
    if name == DEFAULT || known().any(|(profile, _)| profile == name) {
        return Ok(name.into());
    }
    let error = Error::usage(format!("{within}: no profile `{name}`")).maybe_at(place.cloned());
    let mut names: Vec<&str> = known().map(|(profile, _)| profile.as_str()).filter(|p| *p != DEFAULT).collect();
    names.sort_unstable();
    names.dedup();
    let near = suggest::nearest(name, names.iter().copied());
    let near = near.and_then(|near| known().rev().find(|(profile, _)| profile == near));
    Err(match near {
        Some((near, place)) => error.hint(format!("did you mean `{near}`? ({place})")),
        None if names.is_empty() => error.hint("no file of settings has a profile; `erw config path` lists the files"),
        None => error.hint(format!("the profiles are {}", suggest::ticked(names))),
    })
}

struct Layers {
    profile: String,
    files: Vec<SettingsFile>,
    variables: Variables,
    flags: Flags,
}

impl Layers {
    fn merged(&self) -> Figment {
        let built_in = [("launcher", "local"), ("colour", "auto")];
        let built_in: Map<&str, &str> = built_in.into_iter().collect();
        let mut merged = Figment::from(Serialized::defaults(built_in));
        for file in &self.files {
            merged = merged.merge(file);
        }
        merged = merged.merge(&self.variables).merge(&self.flags);
        merged.select(Profile::from(self.profile.as_str()))
    }

    /// Leaves out what an untrusted project says about settings that need trust, if it is what
    /// would hold.
    fn distrust(&mut self) -> Result<Vec<Error>> {
        let mut warnings = vec![];
        for key in KEYS.iter().filter(|key| key.from_project == FromProject::IfTrusted) {
            let merged = self.merged();
            let settings: Settings = merged.extract().map_err(misfit)?;
            let Ok(value) = merged.find_value(key.name) else { continue };
            let Origin::File(place) = self.origin(&merged, &value, &[key.name]) else { continue };
            let Some(file) = self.files.iter_mut().find(|f| f.level == Level::Project) else { continue };
            if place.source.file != file.path || trust::covers(&settings.trust, &file.path) {
                continue;
            }
            file.forget(key.name);
            let folder = file.path.parent().unwrap_or(Path::new("/")).display();
            let message = format!("`{}` of the project is not used: its folder is not trusted ({place})", key.name);
            let hint = format!("to use it, add `trust = [\"{folder}\"]` to your own settings, or set {}", key.variable);
            warnings.push(Error::usage(message).hint(hint));
        }
        Ok(warnings)
    }

    fn origin(&self, merged: &Figment, value: &Value, path: &[&str]) -> Origin {
        let key = path.first().and_then(|name| keys::find(name));
        let source = merged.get_metadata(value.tag()).and_then(|metadata| metadata.source.as_ref());
        match (source, key) {
            (Some(Source::File(of)), _) => {
                let file = self.files.iter().find(|file| file.path == *of);
                let by_default = value.tag().profile() == Some(Profile::Default);
                let profile = if by_default { DEFAULT } else { &self.profile };
                let place = file.and_then(|file| file.place(profile, path));
                Origin::File(place.unwrap_or_else(|| Place::of_file(of)))
            }
            (Some(Source::Custom(name)), Some(key)) if name == variables::NAME => Origin::Variable(key.variable),
            (Some(Source::Custom(name)), Some(key)) if name == FLAGS => Origin::Flag(key.flag()),
            _ => Origin::BuiltIn,
        }
    }

    /// Every setting with its value and origin.
    fn entries(&self) -> Result<Vec<Entry>> {
        let merged = self.merged();
        let mut entries = vec![];
        for name in keys::names() {
            match merged.find_value(name) {
                Ok(value) => self.entry(&merged, &value, &mut vec![name], &mut entries)?,
                Err(_) if [KINDS, STAGES, RUNNER].contains(&name) => {}
                Err(_) => entries.push(Entry { key: name.into(), value: None, origin: Origin::BuiltIn }),
            }
        }
        Ok(entries)
    }

    fn entry<'v>(
        &self,
        merged: &Figment,
        value: &'v Value,
        path: &mut Vec<&'v str>,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let Value::Dict(_, below) = value else {
            let json = serde_json::to_value(value);
            let json = json.map_err(|e| Error::internal("a setting cannot be written as JSON").because(e))?;
            entries.push(Entry { key: path.join("."), value: Some(json), origin: self.origin(merged, value, path) });
            return Ok(());
        };
        for (name, value) in below {
            path.push(name);
            self.entry(merged, value, path, entries)?;
            path.pop();
        }
        Ok(())
    }
}
