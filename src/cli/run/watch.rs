//! `erw run --watch`: runs a pipeline, and again whenever one of its files or a file that its
//! stages read changes, until it is stopped. Errors are shown and do not end it: the next change
//! may fix them.

use super::execute::once;
use super::flags::Args;
use crate::common::signals::stop;
use erw_base::error::{Error, ErrorKind, Result};
use erw_report::diagnostic;
use erw_report::table::near;
use erw_runner::files::watched::Watched;
use erw_runner::kind::Registry;
use erw_runner::pipeline::graph::Pipeline;
use erw_runner::pipeline::targets::select;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A run starts after this much time without a change: editors and version control change several
/// files, or one file several times.
const QUIET: Duration = Duration::from_millis(200);

pub fn run(args: &Args, cache: &Path, registry: Registry) -> Result<()> {
    let stop = stop()?;
    let mut watched = vec![WatchedPath::file(args.pipeline.pipeline.clone())];
    loop {
        // Watched before the run reads them, so that no change falls between.
        match args.pipeline.load_for(&args.targets, registry, cache) {
            Ok(pipeline) => watched = files(&pipeline, &args.targets),
            // The error may be in a file that the pipeline extends and that is not watched yet.
            Err(e) => watched.extend(e.place.map(|place| WatchedPath::file(place.source.file.clone()))),
        }
        let watch = Watch::over(&watched, cache)?;
        match once(args, cache, registry) {
            Err(e) if matches!(e.kind, ErrorKind::Signal(_)) => return Err(e),
            Err(e) => diagnostic::print(&e),
            Ok(()) => {}
        }
        say("waiting for changes; press Ctrl-C to stop");
        let changed = loop {
            if let Some(signal) = stop.signal() {
                return Err(Error::new(ErrorKind::Signal(signal), "interrupted"));
            }
            if let Some(changed) = watch.next() {
                break changed;
            }
        };
        say(&format!("{} changed", near(&changed)));
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The pipeline's files, and the sources of the selected stages.
fn files(pipeline: &Pipeline, targets: &[String]) -> Vec<WatchedPath> {
    let selected = select(pipeline, targets).unwrap_or_default();
    let sources = selected.iter().flat_map(|id| pipeline.stage(*id).sources.values());
    let mut all: Vec<WatchedPath> =
        sources.map(|s| WatchedPath { path: s.path.clone(), watched: s.watched.clone() }).collect();
    all.extend(pipeline.files.iter().map(|(path, _)| WatchedPath::file(path.clone())));
    all
}

/// A file or folder, and which of its files count.
#[derive(Clone)]
struct WatchedPath {
    path: PathBuf,
    watched: Option<Watched>,
}

impl WatchedPath {
    fn file(path: PathBuf) -> Self {
        Self { path, watched: None }
    }

    fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.path) && self.watched.as_ref().is_none_or(|w| w.concerns(&self.path, path))
    }
}

/// A subscription to file changes.
struct Watch {
    told: Receiver<PathBuf>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    fn over(paths: &[WatchedPath], cache: &Path) -> Result<Self> {
        let failed = |e: notify::Error| Error::usage("cannot watch files").because(e);
        let whole = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_default();
        let wanted: Vec<WatchedPath> =
            paths.iter().map(|w| WatchedPath { path: whole(&w.path), watched: w.watched.clone() }).collect();
        // The run itself writes there.
        let cache = whole(cache);
        let (tell, told) = channel();
        let of_interest = wanted.clone();
        let hear = move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let counts = |path: &&PathBuf| !path.starts_with(&cache) && of_interest.iter().any(|w| w.holds(path));
            if let (false, Some(path)) = (matches!(event.kind, EventKind::Access(_)), event.paths.iter().find(counts)) {
                let _ = tell.send(path.clone());
            }
        };
        // notify starts a thread and does not report a failure to do so.
        erw_base::limits::probe(1).map_err(|e| Error::usage("cannot watch files").caused(e))?;
        let mut watcher = notify::recommended_watcher(hear).map_err(failed)?;
        let mut folders = BTreeSet::new();
        for path in wanted.iter().map(|w| &w.path).collect::<BTreeSet<_>>() {
            if path.is_dir() {
                watcher.watch(path, RecursiveMode::Recursive).map_err(failed)?;
            }
            // Many programs replace a file instead of writing to it, so its folder is watched.
            folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_path_buf));
        }
        for folder in
            folders.iter().filter(|folder| !wanted.iter().any(|w| w.path.is_dir() && folder.starts_with(&w.path)))
        {
            watcher.watch(folder, RecursiveMode::NonRecursive).map_err(failed)?;
        }
        Ok(Self { told, _watcher: watcher })
    }

    /// The first file that changed, once changes have ceased; `None` if nothing changed for a
    /// while.
    fn next(&self) -> Option<PathBuf> {
        let first = self.told.recv_timeout(QUIET).ok()?;
        while !matches!(self.told.recv_timeout(QUIET), Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected))
        {
        }
        Some(first)
    }
}
