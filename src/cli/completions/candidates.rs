//! What an argument may be, and what it is completed to. Whatever cannot be read gives nothing. Does
//! not know which arguments there are.

use super::line::{Line, is_pipeline};
use crate::common::cache_dir;
use crate::config::project_folder;
use clap_complete::CompletionCandidate as Candidate;
use clap_complete::engine::{PathCompleter, ValueCompleter};
use erw_fetch::registry;
use erw_runner::cache::store::Store;
use erw_runner::cache::tags;
use erw_runner::journal::read;
use erw_runner::kind::Registry;
use erw_runner::kind::field::{Field, FieldType, InputSlot};
use erw_runner::kind::manifest::Manifest;
use erw_runner::kind::value::show;
use erw_runner::outline::Outline;
use erw_runner::pipeline::command;
use erw_runner::settings::file::SettingsFile;
use erw_runner::settings::files::candidates as setting_files;
use erw_runner::settings::trust::holds_secret;
use erw_runner::settings::{self, Request, Resolved, keys};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Runs that are offered, of those that begin as typed. More is no choice, and each is a file to
/// read.
const RUNS: usize = 50;

/// What an argument may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    /// A pipeline, or a stage of one as `PIPELINE:STAGE`.
    Pipeline,
    /// Any file, or likewise a stage.
    FileOrStage,
    /// A side of a comparison: a pipeline, one of its trials, or a run.
    Side,
    /// A stage of the pipeline on the line; after `@`, of a trial.
    Stage,
    /// Likewise, or an output of one.
    Output,
    /// A value of the pipeline.
    Setting,
    /// Values of a parameter.
    Axis,
    AxisName,
    Trial,
    Run,
    Tag,
    Kind,
    Profile,
    Remote,
    /// The name of a setting.
    Key,
    /// A subcommand or a kind.
    Topic,
    /// The name of a published file.
    Published,
    /// Likewise, or a file.
    PublishedOrFile,
}

/// The line, and the kinds that there are.
pub struct Asked {
    pub line: Line,
    pub registry: Registry,
    /// The whole command line.
    pub commands: clap::Command,
}

/// The candidates that begin with what is typed.
pub fn of(what: Completes, asked: &Asked, current: &OsStr) -> Vec<Candidate> {
    let Some(typed) = current.to_str() else { return vec![] };
    let found = match what {
        Completes::Pipeline => asked.pipelines(typed),
        Completes::FileOrStage => asked.files_or_stages(typed),
        Completes::Side => asked.sides(typed),
        Completes::Stage => asked.on_line(|outline| asked.stages(outline, typed)),
        Completes::Output => asked.on_line(|outline| asked.outputs(outline, typed)),
        Completes::Setting => asked.on_line(|outline| values(outline, typed, true)),
        Completes::Axis => asked.on_line(|outline| values(outline, typed, false)),
        Completes::AxisName => asked.on_line(|outline| bare(outline.axes(&asked.axes()).unwrap_or_default())),
        Completes::Trial => asked.on_line(|outline| bare(outline.trials(&asked.axes()).unwrap_or_default())),
        Completes::Run => asked.runs(typed),
        Completes::Tag => asked.store().map_or(vec![], |store| bare(tags::names(&store).unwrap_or_default())),
        Completes::Kind => asked.kinds(),
        Completes::Profile => bare(asked.profiles()),
        Completes::Remote => asked.remotes(),
        Completes::Key => keys::KEYS.iter().map(|key| with_help(key.name, key.doc)).collect(),
        Completes::Topic => asked.topics(),
        Completes::Published => published(),
        Completes::PublishedOrFile => published().into_iter().chain(PathCompleter::any().complete(current)).collect(),
    };
    found.into_iter().filter(|one| one.get_value().to_str().is_some_and(|text| text.starts_with(typed))).collect()
}

fn bare(names: Vec<String>) -> Vec<Candidate> {
    names.into_iter().map(Candidate::new).collect()
}

fn with_help(name: impl Into<String>, help: impl Into<String>) -> Candidate {
    let help: String = help.into();
    // Only the first line is shown, and a terminal is narrow.
    let short = help.lines().next().unwrap_or_default().split("; ").next().unwrap_or_default().to_string();
    Candidate::new(name.into()).help((!short.is_empty()).then(|| short.into()))
}

impl Asked {
    fn outline(&self, file: &Path) -> Option<Outline> {
        Outline::read(file, self.registry).ok()
    }

    /// What the pipeline on the line has.
    fn on_line(&self, of: impl Fn(&Outline) -> Vec<Candidate>) -> Vec<Candidate> {
        self.line.pipeline().and_then(|file| self.outline(&file)).map_or(vec![], |outline| of(&outline))
    }

    fn axes(&self) -> Vec<String> {
        self.line.values("--axis")
    }

    fn pipelines(&self, typed: &str) -> Vec<Candidate> {
        self.below(typed, PathCompleter::file().filter(is_pipeline))
    }

    fn files_or_stages(&self, typed: &str) -> Vec<Candidate> {
        self.below(typed, PathCompleter::any())
    }

    /// Files, or the stages of one after `:`.
    fn below(&self, typed: &str, files: PathCompleter) -> Vec<Candidate> {
        let parted = typed.rsplit_once(':').filter(|(file, _)| is_pipeline(Path::new(file)));
        let Some((file, stage)) = parted else { return files.complete(OsStr::new(typed)) };
        let Some(outline) = self.outline(Path::new(file)) else { return vec![] };
        prefixed(&format!("{file}:"), self.outputs(&outline, stage))
    }

    fn sides(&self, typed: &str) -> Vec<Candidate> {
        if let Some(id) = typed.strip_prefix("run:") {
            return prefixed("run:", self.runs(id));
        }
        let trials = |(file, _): (&str, &str)| {
            let outline = is_pipeline(Path::new(file)).then(|| self.outline(Path::new(file)))?;
            Some(prefixed(&format!("{file}@"), bare(outline?.trials(&self.axes()).unwrap_or_default())))
        };
        match typed.split_once('@').and_then(trials) {
            Some(trials) => trials,
            None => self.pipelines(typed).into_iter().chain([Candidate::new("run:")]).collect(),
        }
    }

    fn stages(&self, outline: &Outline, typed: &str) -> Vec<Candidate> {
        match typed.split_once('@') {
            Some((stage, _)) => prefixed(&format!("{stage}@"), bare(outline.trials(&self.axes()).unwrap_or_default())),
            None => outline.stages().map(|(name, manifest)| with_help(name, &manifest.kind)).collect(),
        }
    }

    /// Stages, or the outputs of one after a dot.
    fn outputs(&self, outline: &Outline, typed: &str) -> Vec<Candidate> {
        let Some((stage, _)) = typed.rsplit_once('.').filter(|(stage, _)| outline.manifest(stage).is_some()) else {
            return self.stages(outline, typed);
        };
        let outputs = outline.manifest(stage).map_or(&[][..], |manifest| &manifest.outputs);
        outputs.iter().map(|output| with_help(format!("{stage}.{}", output.name), &output.doc)).collect()
    }

    fn kinds(&self) -> Vec<Candidate> {
        let of_kind = |kind: &erw_runner::kind::StageKind| {
            let summary = Manifest::parse(kind.name, kind.manifest).map_or(String::new(), |m| m.summary);
            with_help(kind.name, summary)
        };
        let of_command = with_help(command::NAME, "run a program with declared inputs and outputs");
        self.registry.iter().map(of_kind).chain([of_command]).collect()
    }

    /// The subcommands that `erw help` is given, then those of the last one; or a kind.
    fn topics(&self) -> Vec<Candidate> {
        let given = self.line.others().skip(2).filter(|word| !word.starts_with('-'));
        let found = given.clone().try_fold(&self.commands, |command, name| command.find_subcommand(name));
        let below = found.map_or(vec![], |command| command.get_subcommands().filter(|c| !c.is_hide_set()).collect());
        let help = |command: &clap::Command| command.get_about().map_or(String::new(), ToString::to_string);
        let kinds = if given.count() == 0 { self.kinds() } else { vec![] };
        below.into_iter().map(|command| with_help(command.get_name(), help(command))).chain(kinds).collect()
    }

    /// The latest runs, as the line or a prefix of their ids tells them apart.
    fn runs(&self, typed: &str) -> Vec<Candidate> {
        let Some(store) = self.store() else { return vec![] };
        let folders = read::folders(&store).unwrap_or_default().into_iter();
        let is_meant = |folder: &PathBuf| folder.file_name().is_some_and(|id| id.to_string_lossy().starts_with(typed));
        let runs = folders.filter(is_meant).take(RUNS).map(|folder| read::read(&folder));
        runs.filter(|run| !run.pipeline.is_empty()).map(|run| with_help(run.id, run.pipeline)).collect()
    }

    fn variable(name: &str) -> Option<std::ffi::OsString> {
        std::env::var_os(name)
    }

    fn folder(&self) -> Option<PathBuf> {
        project_folder(self.line.pipeline().as_deref())
    }

    fn kind_names(&self) -> Vec<&'static str> {
        command::kinds(self.registry).collect()
    }

    fn settings(&self, profile: Option<&str>) -> Option<Resolved> {
        let (folder, kinds) = (self.folder(), self.kind_names());
        let request =
            Request { folder: folder.as_deref(), profile, flags: vec![], kinds: &kinds, variable: &Self::variable };
        settings::load(&request).ok()
    }

    /// The cache that the line means, if it is there.
    fn store(&self) -> Option<Store> {
        let typed = self.line.values("--cache-dir").pop().map(PathBuf::from);
        let dir = match typed {
            Some(dir) => dir,
            None => cache_dir::find(None, &self.settings(self.line.values("--profile").pop().as_deref())?).0,
        };
        Store::is_at(&dir).then(|| Store::open(&dir).ok())?
    }

    /// The profiles of all files of settings.
    fn profiles(&self) -> Vec<String> {
        let (folder, kinds) = (self.folder(), self.kind_names());
        let files = setting_files(folder.as_deref(), &Self::variable).into_iter().filter(|file| file.ignored.is_none());
        let read = files.filter_map(|file| SettingsFile::read(&file.path, file.level, &kinds).ok().flatten());
        let names: BTreeSet<String> = read.flat_map(|file| file.profiles).map(|(name, _)| name).collect();
        names.into_iter().filter(|name| name != settings::file::DEFAULT).collect()
    }

    /// The remotes that settings name, in any profile.
    fn remotes(&self) -> Vec<Candidate> {
        let profiles = self.profiles();
        let chosen = [None].into_iter().chain(profiles.iter().map(|name| Some(name.as_str())));
        let remotes = chosen.filter_map(|profile| self.settings(profile)?.settings.remote);
        let remotes: BTreeSet<String> = remotes.filter(|remote| !remote.is_empty() && !holds_secret(remote)).collect();
        bare(remotes.into_iter().collect())
    }
}

/// The candidates behind this text.
fn prefixed(text: &str, candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.into_iter().map(|one| one.add_prefix(text)).collect()
}

/// `--set`: a stage, then one of its names, then its value. An axis has the same, without inputs.
fn values(outline: &Outline, typed: &str, with_inputs: bool) -> Vec<Candidate> {
    if let Some((name, stated)) = typed.split_once('=') {
        // Of a list, the last one is being typed.
        let before = if with_inputs { "" } else { stated.rsplit_once(',').map_or("", |(before, _)| before) };
        let comma = if before.is_empty() { "" } else { "," };
        return prefixed(&format!("{name}={before}{comma}"), of_name(outline, name));
    }
    let Some((stage, _)) = typed.split_once('.') else {
        let shared = outline.shared().into_iter().map(|(key, manifest)| {
            let doc = manifest.and_then(|m| m.field(key)).map_or("", |field| &field.doc);
            with_help(format!("{key}="), doc)
        });
        let stages = outline.stages().map(|(name, manifest)| with_help(format!("{name}."), &manifest.kind));
        return shared.chain(stages).collect();
    };
    let Some(manifest) = outline.manifest(stage) else { return vec![] };
    let of_field = |field: &Field| with_help(format!("{stage}.{}=", field.name), about(field));
    let of_slot = |slot: &InputSlot| with_help(format!("{stage}.inputs.{}=", slot.name), &slot.doc);
    let fields = manifest.params.iter().chain(&manifest.operation);
    let fields = fields.filter(|field| !(manifest.kind == command::NAME && field.name == command::RUN)).map(of_field);
    let slots = manifest.inputs.iter().filter(|_| with_inputs).map(of_slot);
    fields.chain(slots).collect()
}

fn about(field: &Field) -> String {
    match &field.default {
        Some(default) => format!("{}: {}", show(default), field.doc),
        None => field.doc.clone(),
    }
}

/// The values that a name may have, where these are few.
fn of_name(outline: &Outline, name: &str) -> Vec<Candidate> {
    let Some((stage, rest)) = name.split_once('.') else {
        let shared = outline.shared();
        let manifest = shared.into_iter().find(|(key, _)| *key == name).and_then(|(_, manifest)| manifest);
        return manifest.and_then(|m| m.field(name)).map_or(vec![], of_field);
    };
    let Some(manifest) = outline.manifest(stage) else { return vec![] };
    match rest.strip_prefix("inputs.") {
        Some(slot) => {
            let slot = manifest.inputs.iter().find(|s| s.name == slot);
            // The type of some outputs is known only when the stage is resolved.
            let fits = |maker: &Manifest, slot: &InputSlot| {
                maker.outputs.iter().any(|output| output.param().is_some() || slot.accepts(&output.ty))
            };
            let makers = |slot: &InputSlot| {
                let others = outline.stages().filter(|(name, maker)| *name != stage && fits(maker, slot));
                others.map(|(name, maker)| with_help(name, &maker.kind)).collect()
            };
            slot.map_or(vec![], makers)
        }
        None => manifest.field(rest).map_or(vec![], of_field),
    }
}

fn of_field(field: &Field) -> Vec<Candidate> {
    let ty = match &field.ty {
        FieldType::List(of) | FieldType::OneOrMany(of) => of,
        ty => ty,
    };
    match ty {
        FieldType::Bool => vec![Candidate::new("true"), Candidate::new("false")],
        FieldType::Published => published(),
        _ => field.one_of.iter().map(|value| Candidate::new(show(value))).collect(),
    }
}

fn published() -> Vec<Candidate> {
    registry::entries().map_or(vec![], |all| all.iter().map(|e| Candidate::new(e.name.clone())).collect())
}
