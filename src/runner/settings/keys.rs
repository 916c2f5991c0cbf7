//! The table of settings: names, variables, what a value must be, and who may state it. Files,
//! variables, `erw config`, the schema and the documents are made from it. A setting is in the
//! table only if something reads it.

use crate::text::path_text;
use crate::text::spanned::{Node, Toml};
use crate::text::suggest;
use crate::text::units::{bytes, duration};
use erw_base::error::{Error, Result};
use figment::value::{Dict, Value};
use std::path::Path;

/// A setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The environment variable that states it.
    pub variable: &'static str,
    pub wants: Wants,
    /// Also for a kind or a stage.
    pub of_stages: bool,
    pub from_project: FromProject,
    pub doc: &'static str,
}

/// Whether a project's file may state a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromProject {
    Yes,
    /// Used only if the user trusts the project.
    IfTrusted,
    No,
}

/// What a value must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// A path, relative to the file that contains it.
    Path,
    /// A list of them.
    Paths,
    /// The address of a remote; empty for none.
    Address,
    OneOf(&'static [&'static str]),
    /// A whole number of at least this.
    Count(u32),
    /// A number of at least 0.
    Load,
    Size,
    Time,
    Flag,
    /// Numbers by name.
    Units,
    /// Any text on one line.
    Text,
    /// A list of such texts; in a variable one a line.
    Texts,
}

const fn key(name: &'static str, variable: &'static str, wants: Wants, doc: &'static str) -> Key {
    Key { name, variable, wants, of_stages: false, from_project: FromProject::Yes, doc }
}

const fn of_stages(name: &'static str, variable: &'static str, wants: Wants, doc: &'static str) -> Key {
    Key { of_stages: true, ..key(name, variable, wants, doc) }
}

/// All settings.
pub const KEYS: [Key; 33] = [
    key("cache_dir", "ERW_CACHE_DIR", Wants::Path, "folder for artifacts, records and unfinished work"),
    Key {
        from_project: FromProject::IfTrusted,
        ..key("remote", "ERW_REMOTE", Wants::Address, "shared cache; empty for none")
    },
    key("remote_mode", "ERW_REMOTE_MODE", Wants::OneOf(&["read", "write"]), "`read` uploads nothing"),
    Key {
        from_project: FromProject::IfTrusted,
        ..key("registry", "ERW_REGISTRY", Wants::Path, "a further registry of published files")
    },
    Key {
        from_project: FromProject::No,
        ..key("trust", "ERW_TRUST", Wants::Paths, "folders whose projects may state `remote` and `registry`")
    },
    key("launcher", "ERW_LAUNCHER", Wants::OneOf(&["local", "slurm"]), "where stages run: here, or as jobs of Slurm"),
    key("jobs", "ERW_JOBS", Wants::Count(1), "maximum number of stages at a time"),
    key("threads", "ERW_THREADS", Wants::Count(1), "threads of all stages together"),
    key("mem", "ERW_MEM", Wants::Size, "memory of all stages together"),
    key("gpus", "ERW_GPUS", Wants::Count(0), "maximum number of GPUs"),
    key("resources", "ERW_RESOURCES", Wants::Units, "units of named resources that stages request"),
    key("max_load", "ERW_MAX_LOAD", Wants::Load, "start no further stage while the load average is above"),
    of_stages("retries", "ERW_RETRIES", Wants::Count(0), "further attempts of a failed stage"),
    of_stages("timeout", "ERW_TIMEOUT", Wants::Time, "an attempt that takes longer is stopped"),
    of_stages("partition", "ERW_PARTITION", Wants::Text, "partition of a job"),
    of_stages("account", "ERW_ACCOUNT", Wants::Text, "account of a job"),
    of_stages("qos", "ERW_QOS", Wants::Text, "quality of service of a job"),
    of_stages("time", "ERW_TIME", Wants::Text, "time limit of a job in Slurm's words, such as \"24:00:00\""),
    of_stages("constraint", "ERW_CONSTRAINT", Wants::Text, "features that a job's node must have"),
    of_stages("reservation", "ERW_RESERVATION", Wants::Text, "reservation of a job"),
    of_stages("sbatch", "ERW_SBATCH", Wants::Texts, "further options of `sbatch`, such as [\"--nice=100\"]"),
    of_stages("setup", "ERW_SETUP", Wants::Texts, "lines of a job's script before the worker starts"),
    of_stages("job_threads", "ERW_JOB_THREADS", Wants::Count(1), "threads of a job whose stage requests none"),
    of_stages("ranks", "ERW_RANKS", Wants::Count(1), "largest number of processes that share the work of a stage"),
    of_stages("gpus_per_node", "ERW_GPUS_PER_NODE", Wants::Count(1), "GPUs of a node that a job uses"),
    of_stages(
        "mpi",
        "ERW_MPI",
        Wants::OneOf(&["pmix", "pmi2", "mpirun"]),
        "what starts the ranks of a training on CPUs",
    ),
    key(
        "local_kinds",
        "ERW_LOCAL_KINDS",
        Wants::Texts,
        "kinds whose stages run beside `erw run` rather than as jobs; [\"weights\"]",
    ),
    key("poll", "ERW_POLL", Wants::Time, "longest time between two questions to Slurm"),
    key("latency", "ERW_LATENCY", Wants::Time, "how long a file of a node may take to be seen"),
    key("grace", "ERW_GRACE", Wants::Time, "time before a job's limit at which it is asked to save and stop"),
    key("keep_going", "ERW_KEEP_GOING", Wants::Flag, "after a failure, continue with independent stages"),
    key("plain", "ERW_PLAIN", Wants::Flag, "lines instead of progress bars"),
    key("colour", "ERW_COLOUR", Wants::OneOf(&["auto", "always", "never"]), "colour of help and error messages"),
];

/// The tables of a profile that hold settings of kinds, of stages, and of a run as a job.
pub const KINDS: &str = "kinds";
pub const STAGES: &str = "stages";
pub const RUNNER: &str = "runner";

/// The setting with this name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The names of all settings, and of the tables of a profile.
pub fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name).chain([KINDS, STAGES, RUNNER])
}

impl Wants {
    /// For messages: "it must be ...".
    pub fn describe(self) -> String {
        match self {
            Self::Path => "a path".into(),
            Self::Paths => "a list of paths".into(),
            Self::Address => "an address, such as s3://BUCKET/PREFIX".into(),
            Self::OneOf(words) => match words.split_last() {
                Some((last, [])) => format!("`{last}`"),
                Some((last, others)) => format!("{} or `{last}`", suggest::ticked(others.iter().copied())),
                None => String::new(),
            },
            Self::Count(least) => format!("a whole number of at least {least}"),
            Self::Load => "a number of at least 0".into(),
            Self::Size => "a size, such as \"16GiB\" or \"500MB\"".into(),
            Self::Time => "a time, such as \"2h\", \"30min\" or \"90s\"".into(),
            Self::Flag => "`true` or `false`".into(),
            Self::Units => "a table of whole numbers, such as { licence = 2 }".into(),
            Self::Text => "a text on one line".into(),
            Self::Texts => "a list of texts, each on one line".into(),
        }
    }

    /// How a variable states it.
    fn describe_text(self) -> String {
        match self {
            Self::Size | Self::Time => self.describe().replace('"', ""),
            Self::Units => "a list, such as licence=2,disk=1".into(),
            Self::Paths => "a list of absolute paths, separated by `:`".into(),
            Self::Texts => "texts, one a line".into(),
            _ => self.describe(),
        }
    }

    /// Whether a text is one of these values.
    fn admits(self, text: &str) -> bool {
        match self {
            Self::Path => !text.is_empty(),
            Self::Text | Self::Texts => !text.is_empty() && !text.contains(['\n', '\r', '\0']),
            Self::Address => text.is_empty() || text.contains("://"),
            Self::OneOf(words) => words.contains(&text),
            Self::Size => bytes(text).is_some_and(|n| n > 0),
            Self::Time => duration(text).is_some_and(|t| !t.is_zero()),
            _ => false,
        }
    }
}

impl Key {
    /// Whether it says how a job is submitted.
    pub fn is_of_jobs(&self) -> bool {
        self.of_stages && !matches!(self.name, "retries" | "timeout" | "ranks" | "gpus_per_node" | "mpi")
    }

    /// The flag that states it.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// The value in a file. Relative paths start in `folder`.
    pub(super) fn of_node(&self, node: &Node, folder: &Path) -> Result<Value> {
        let wrong = |node: &Node, what: &str, is_type: bool| {
            let wanted = self.wants.describe();
            let error = match is_type {
                false => node.mismatch(format_args!("`{what}`"), &wanted),
                true => Error::usage(format!("`{what}` must be {wanted}")).at(node.place.clone()),
            };
            let near = match (self.wants, &node.value) {
                (Wants::OneOf(words), Toml::String(text)) => suggest::nearest(text, words.iter().copied()),
                _ => None,
            };
            error.maybe_hint(near.map(|word| format!("did you mean `{word}`?")))
        };
        let path = |node: &Node, text: &str| match () {
            () if text.is_empty() => Err(wrong(node, self.name, true)),
            () if text.starts_with('~') || text.contains('$') => {
                Err(Error::usage(format!("`{}` holds a `~` or a `$`", self.name))
                    .at(node.place.clone())
                    .hint("these are not expanded in paths; paths are relative to the file that contains them"))
            }
            () => Ok(Value::from(path_text::text(&folder.join(text)))),
        };
        Ok(match (self.wants, &node.value) {
            (Wants::Path, Toml::String(text)) => path(node, text)?,
            (Wants::Paths, Toml::List(nodes)) => {
                let each = |node: &Node| match &node.value {
                    Toml::String(text) => path(node, text),
                    _ => Err(wrong(node, self.name, false)),
                };
                Value::from(nodes.iter().map(each).collect::<Result<Vec<Value>>>()?)
            }
            (Wants::Count(least), Toml::Int(n)) => match u32::try_from(*n) {
                Ok(n) if n >= least => Value::from(n),
                Err(_) if *n > 0 => {
                    return Err(wrong(node, self.name, true).hint(format!("the largest is {}", u32::MAX)));
                }
                _ => return Err(wrong(node, self.name, true)),
            },
            (Wants::Load, Toml::Float(load)) if *load >= 0.0 => Value::from(*load),
            (Wants::Load, Toml::Int(load)) if *load >= 0 => Value::from(*load as f64),
            (Wants::Load, Toml::Int(_) | Toml::Float(_)) => return Err(wrong(node, self.name, true)),
            (Wants::Flag, Toml::Bool(flag)) => Value::from(*flag),
            (Wants::Units, Toml::Table(entries)) => {
                let mut units = Dict::new();
                for entry in entries {
                    check_resource(&entry.key).map_err(|e| e.at(entry.key_place.clone()))?;
                    let n = match entry.node.value {
                        Toml::Int(n) => u64::try_from(n).ok(),
                        _ => None,
                    };
                    let what = format!("{}.{}", self.name, entry.key);
                    let wrong = || Error::usage(format!("`{what}` must be {}", Wants::Count(0).describe()));
                    units.insert(entry.key.clone(), n.ok_or_else(|| wrong().at(entry.node.place.clone()))?.into());
                }
                Value::from(units)
            }
            (Wants::Texts, Toml::List(nodes)) => {
                let each = |node: &Node| match &node.value {
                    Toml::String(text) if self.wants.admits(text) => Ok(Value::from(text.as_str())),
                    _ => Err(wrong(node, self.name, false)),
                };
                Value::from(nodes.iter().map(each).collect::<Result<Vec<Value>>>()?)
            }
            (Wants::Address | Wants::OneOf(_) | Wants::Size | Wants::Time | Wants::Text, Toml::String(text)) => {
                match self.wants.admits(text) {
                    true => Value::from(text.as_str()),
                    false => return Err(wrong(node, self.name, true)),
                }
            }
            _ => return Err(wrong(node, self.name, false)),
        })
    }

    /// The value in its variable.
    pub(super) fn of_text(&self, text: &str) -> Result<Value> {
        let number = |least: u32| text.trim().parse::<u32>().ok().filter(|n| *n >= least).map(Value::from);
        let value = match self.wants {
            Wants::Count(least) => number(least),
            Wants::Load => text.trim().parse::<f64>().ok().filter(|load| *load >= 0.0).map(Value::from),
            Wants::Flag => match text {
                "true" | "1" => Some(Value::from(true)),
                "false" | "0" => Some(Value::from(false)),
                _ => None,
            },
            Wants::Path => Some(Value::from(path_text::text(Path::new(text)))),
            Wants::Paths => {
                let paths: Vec<&Path> = text.split(':').filter(|path| !path.is_empty()).map(Path::new).collect();
                let absolute = paths.iter().all(|path| path.is_absolute());
                absolute.then(|| Value::from(paths.into_iter().map(path_text::text).collect::<Vec<String>>()))
            }
            Wants::Units => units(text)?,
            Wants::Texts => Some(Value::from(text.lines().map(String::from).collect::<Vec<String>>())),
            Wants::Address | Wants::OneOf(_) | Wants::Size | Wants::Time | Wants::Text => {
                self.wants.admits(text).then(|| Value::from(text))
            }
        };
        value.ok_or_else(|| {
            let shown = if self.wants == Wants::Address { String::new() } else { format!(" is `{text}`") };
            let message = match shown.is_empty() {
                // It may hold a password.
                true => format!("{} is not an address", self.variable),
                false => format!("{}{shown}", self.variable),
            };
            Error::usage(message).hint(format!("it must be {}", self.wants.describe_text()))
        })
    }
}

/// `licence=2,disk=1`.
fn units(text: &str) -> Result<Option<Value>> {
    let mut all = Dict::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, units)) = part.split_once('=') else { return Ok(None) };
        check_resource(name).map_err(|e| e.within("ERW_RESOURCES"))?;
        let (false, Ok(units)) = (name.is_empty(), units.parse::<u64>()) else { return Ok(None) };
        all.insert(name.to_string(), units.into());
    }
    Ok(Some(Value::from(all)))
}

/// Refuses resources that have a setting of their own.
fn check_resource(name: &str) -> Result<()> {
    match name {
        "threads" | "gpus" | "mem" | "ranks" => Err(Error::usage(format!("`{name}` is no named resource"))
            .hint(format!("it is a setting of its own: `{name}`"))),
        _ => Ok(()),
    }
}
