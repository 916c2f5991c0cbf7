//! One file of settings: reads it and checks every profile in it, chosen or not, so that a mistake
//! is told by whoever makes it and not by whoever first says `--profile`. Keeps the place of every
//! value, which figment does not know. Does not know other files.

use super::files::Level;
use super::keys::{self, FromProject, KEYS, KINDS, Key, RUNNER, STAGES, Wants};
use super::trust;
use crate::text::spanned::{self, Entry, Node, Toml};
use crate::text::suggest;
use erw_base::error::{Error, Place, Result};
use erw_base::text;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The setting whose values are stage kinds.
const LOCAL_KINDS: &str = "local_kinds";
/// The profile that always holds.
pub const DEFAULT: &str = "default";

/// A file of settings.
#[derive(Debug)]
pub struct SettingsFile {
    pub level: Level,
    pub path: PathBuf,
    /// `profile = "gpu"`: the profile to use where nothing stronger names one.
    pub chosen: Option<(String, Place)>,
    /// The profiles in the file, with their places.
    pub profiles: Vec<(String, Place)>,
    root: Node,
    values: Map<Profile, Dict>,
}

impl SettingsFile {
    /// The file, if it is there. `kinds` are the known stage kinds.
    pub fn read(path: &Path, level: Level, kinds: &[&str]) -> Result<Option<Self>> {
        let Some(text) = read(path)? else { return Ok(None) };
        let root = spanned::parse(path, text)?;
        let mut file = Self {
            level,
            path: path.to_path_buf(),
            chosen: None,
            profiles: vec![],
            root: root.clone(),
            values: Map::new(),
        };
        for entry in root.table("the settings")? {
            file.take(entry, kinds)?;
        }
        Ok(Some(file))
    }

    fn take(&mut self, entry: &Entry, kinds: &[&str]) -> Result<()> {
        let name = entry.key.as_str();
        let at = |error: Error| error.at(entry.key_place.clone());
        if name == "profile" && !matches!(entry.node.value, Toml::Table(_)) {
            let name = entry.node.string("`profile`")?;
            self.chosen = Some((name.to_string(), entry.node.place.clone()));
            return Ok(());
        }
        // A setting outside of a profile, also one that is a table.
        if keys::names().any(|known| known == name) {
            let hint = format!("put it below `[{DEFAULT}]`, or below a profile of your own");
            return Err(at(Error::usage(format!("`{name}` is in no profile")).hint(hint)));
        }
        let Toml::Table(entries) = &entry.node.value else {
            let known = keys::names().chain(["profile"]);
            let near = suggest::nearest(name, known).map(|near| format!("did you mean `{near}`?"));
            return Err(at(Error::usage(format!("unknown setting `{name}`")).maybe_hint(near)));
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            let hint = "a profile's name may contain only lower-case letters, digits, `-` and `_`";
            return Err(at(Error::usage(format!("bad name of a profile: `{name}`")).hint(hint)));
        }
        if Profile::Global.as_str() == name {
            let hint = format!("`[{DEFAULT}]` holds in every profile");
            return Err(at(Error::usage(format!("`{name}` cannot be a profile")).hint(hint)));
        }
        let values = self.profile(entries, kinds)?;
        self.profiles.push((name.to_string(), entry.key_place.clone()));
        self.values.insert(Profile::from(name), values);
        Ok(())
    }

    fn profile(&self, entries: &[Entry], kinds: &[&str]) -> Result<Dict> {
        let mut values = Dict::new();
        for entry in entries {
            let value = match entry.key.as_str() {
                KINDS => self.tables(entry, &|kind| check_kind(kind, kinds))?,
                // Which stages there are is a pipeline's to say, and there are many.
                STAGES => self.tables(entry, &|stage| match stage
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
                {
                    true => Ok(()),
                    false => Err(Error::usage(format!("no stage can be called `{stage}`"))
                        .hint("settings of `train` hold for the stages of all its trials")),
                })?,
                RUNNER => self.table(entry, RUNNER, "settings of a run as a job are", Key::is_of_jobs)?,
                name => match keys::find(name) {
                    Some(key) => {
                        let value = self.value(key, entry)?;
                        if key.name == LOCAL_KINDS {
                            for kind in value.as_array().into_iter().flatten().filter_map(|kind| kind.as_str()) {
                                check_kind(kind, kinds).map_err(|e| e.at(entry.node.place.clone()))?;
                            }
                        }
                        value
                    }
                    None => {
                        let hint = suggest::hint(name, keys::names(), "the settings are");
                        return Err(Error::usage(format!("unknown setting `{name}`"))
                            .at(entry.key_place.clone())
                            .maybe_hint(hint));
                    }
                },
            };
            values.insert(entry.key.clone(), value);
        }
        Ok(values)
    }

    /// `[PROFILE.kinds.NAME]` or `[PROFILE.stages.NAME]`.
    fn tables(&self, table: &Entry, check: &dyn Fn(&str) -> Result<()>) -> Result<Value> {
        let mut all = Dict::new();
        for entry in table.node.table(format_args!("`{}`", table.key))? {
            check(&entry.key).map_err(|e| e.at(entry.key_place.clone()))?;
            let name = format!("{}.{}", table.key, entry.key);
            all.insert(
                entry.key.clone(),
                self.table(entry, &name, "settings of kinds and stages are", |key| key.of_stages)?,
            );
        }
        Ok(Value::from(all))
    }

    /// A table of settings, of those that it may have; `are` introduces these in a hint.
    fn table(&self, table: &Entry, name: &str, are: &str, may: fn(&Key) -> bool) -> Result<Value> {
        let mut values = Dict::new();
        for setting in table.node.table(format_args!("`{name}`"))? {
            let known = keys::find(&setting.key);
            let Some(key) = known.filter(|key| may(key)) else {
                let message = match (known, name) {
                    (Some(_), RUNNER) => format!("`{}` is not a setting of a run as a job", setting.key),
                    (Some(_), _) => format!("`{}` is not a setting of single stages", setting.key),
                    (None, _) => format!("unknown setting `{}`", setting.key),
                };
                let names = KEYS.iter().filter(|key| may(key)).map(|key| key.name);
                let hint = suggest::hint(&setting.key, names, are);
                return Err(Error::usage(message).at(setting.key_place.clone()).maybe_hint(hint));
            };
            values.insert(setting.key.clone(), self.value(key, setting)?);
        }
        Ok(Value::from(values))
    }

    fn value(&self, key: &Key, entry: &Entry) -> Result<Value> {
        let value = key.of_node(&entry.node, self.path.parent().unwrap_or(Path::new("")))?;
        if key.from_project == FromProject::No && self.level == Level::Project {
            let hint = format!("state it in your own file of settings, or with {}", key.variable);
            return Err(Error::usage(format!("`{}` cannot be stated by a project", key.name))
                .at(entry.key_place.clone())
                .hint(hint));
        }
        let secret = key.wants == Wants::Address && value.as_str().is_some_and(trust::holds_secret);
        if secret && trust::is_read_by_others(&self.path) {
            // Without an excerpt, which would show it.
            let (line, _) = entry.key_place.line_col();
            return Err(Error::usage(format!("`{}` in line {line} holds a password or a token", key.name))
                .at(Place::of_file(&self.path))
                .because("other users can read the file")
                .hint(format!("run `chmod 600` on the file, or state it with {}", key.variable)));
        }
        Ok(value)
    }

    /// Where the file states a value of a profile.
    pub(super) fn place(&self, profile: &str, path: &[&str]) -> Option<Place> {
        let mut node = self.root.get(profile)?;
        for name in path {
            node = node.get(name)?;
        }
        Some(node.place.clone())
    }

    /// Takes a setting out of all profiles.
    pub(super) fn forget(&mut self, name: &str) {
        self.values.values_mut().for_each(|values| drop(values.remove(name)));
    }
}

/// Refuses a name of a stage kind that there is not.
pub(super) fn check_kind(kind: &str, kinds: &[&str]) -> Result<()> {
    if kinds.contains(&kind) {
        return Ok(());
    }
    let hint = suggest::hint(kind, kinds.iter().copied(), "the kinds are");
    Err(Error::usage(format!("unknown stage kind `{kind}`")).maybe_hint(hint))
}

/// `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    const DOING: &str = "read settings";
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return match path.symlink_metadata() {
                Ok(_) => Err(Error::io(DOING, path, e).hint("it is a link to a file that does not exist")),
                Err(_) => Ok(None),
            };
        }
        Err(e) => return Err(Error::io(DOING, path, e)),
    };
    // Reading a pipe would wait for ever.
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a folder" } else { "not a regular file" };
        return Err(Error::usage(format!("cannot read settings `{}`", path.display())).because(format!("it is {what}")));
    }
    text::read(path).map(Some).map_err(|e| Error::io(DOING, path, e))
}

impl Provider for SettingsFile {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.level.name(), Source::File(self.path.clone()))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(self.values.clone())
    }
}
