//! The downloads folder, `<cache>/downloads/NAME/FILE`: its contents, and how missing files get
//! there. Pipelines and `erw weights` share it. Downloads are not artifacts: `erw cache gc` leaves
//! them alone.
//!
//! A caller may require a hash of its own. If the usual path already holds a file with another hash
//! that other callers use, the required one goes to `NAME/SHA256/FILE`. A file that contradicts the
//! registry or its pinned hash is replaced only once the right one has arrived.

use crate::FetchObserver;
use crate::download::{DownloadError, DownloadRequest, Persistence, begun, download, sha256};
use crate::http::Client;
use crate::hub::Hub;
use crate::pins::Pins;
use crate::registry::{Address, Location, RegistryEntry, is_sha256};
use erw_base::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// In every error about a file that the network did not give.
pub const NOT_FETCHED: &str = "could not be fetched";

pub struct Library {
    root: PathBuf,
    hub: Hub,
    client: Client,
    how: Persistence,
    pins: Pins,
}

/// The local copy of a published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalCopy {
    pub path: PathBuf,
    pub sha256: String,
    /// Its published address.
    pub origin: String,
}

/// Result of a quick check that reads no contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Here(PathBuf),
    /// In the cache of Hugging Face's tools.
    InHubCache(PathBuf),
    /// Partly downloaded: this many bytes.
    Part(u64),
    Absent,
}

/// Result of reading and hashing a local file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Whole,
    /// No hash is known to compare with.
    Unknown,
    Damaged {
        found: String,
        wanted: String,
    },
}

impl Library {
    /// The downloads in this folder; the hub is configured from the environment.
    pub fn at(root: &Path) -> Self {
        Self::new(root, Hub::from_env(), Persistence::default())
    }

    pub fn new(root: &Path, hub: Hub, how: Persistence) -> Self {
        Self { root: root.into(), hub, client: Client::default(), how, pins: Pins::of(root) }
    }

    fn path(&self, entry: &RegistryEntry, location: &Location) -> PathBuf {
        self.root.join(&entry.name).join(location.file_name())
    }

    /// The path for a file with this hash if the usual path is taken.
    fn aside(&self, entry: &RegistryEntry, location: &Location, sha256: &str) -> PathBuf {
        self.root.join(&entry.name).join(sha256).join(location.file_name())
    }

    fn in_hub_cache(&self, location: &Location) -> Option<PathBuf> {
        match location.address() {
            Address::Hub { repository, revision, file } => self.hub.cached(repository, revision, file),
            Address::Web(_) => None,
        }
    }

    /// Whether the file is here. Looks only at names and pins; a file pinned to a hash other than
    /// `sha256` counts as missing.
    pub fn look(&self, entry: &RegistryEntry, sha256: Option<&str>) -> Presence {
        let all = &entry.locations;
        let another = |l: &Location| {
            let known = self.wanted(l, None).ok().flatten();
            sha256.zip(known).is_some_and(|(want, known)| want != known)
        };
        let plain = || all.iter().filter(|l| !another(l)).map(|l| self.path(entry, l));
        let aside = || sha256.into_iter().flat_map(|sum| all.iter().map(move |l| self.aside(entry, l, sum)));
        let here = plain().chain(aside()).find(|p| p.is_file());
        let cached = || all.iter().find_map(|l| self.in_hub_cache(l)).map(Presence::InHubCache);
        let part = || all.iter().find_map(|l| begun(&self.path(entry, l))).map(Presence::Part);
        here.map(Presence::Here).or_else(cached).or_else(part).unwrap_or(Presence::Absent)
    }

    /// The verified file of an entry: from this folder, from the cache of Hugging Face's tools, or
    /// downloaded from the first address that works. `sha256` is the hash that the caller requires,
    /// in addition to the registry's.
    pub fn obtain(&self, entry: &RegistryEntry, sha256: Option<&str>, watch: &dyn FetchObserver) -> Result<LocalCopy> {
        let fits = |l: &&Location| sha256.is_none_or(|want| l.sha256.as_deref().is_none_or(|known| known == want));
        let locations: Vec<&Location> = entry.locations.iter().filter(fits).collect();
        if locations.is_empty() {
            return Err(unobtainable(entry, sha256));
        }
        for location in &locations {
            if let Some(copy) = self.here(entry, location, sha256, watch)? {
                return Ok(copy);
            }
        }
        let mut faults = vec![];
        for location in locations {
            match self.fetch(entry, location, sha256, watch) {
                Ok(copy) => return Ok(copy),
                Err(DownloadError::Final(error)) => return Err(error),
                Err(DownloadError::Address(error)) => {
                    watch.log(&error.to_string());
                    faults.push(error);
                }
            }
        }
        Err(nowhere(entry, faults))
    }

    /// A complete local copy with the right hash, if there is one.
    fn here(
        &self,
        entry: &RegistryEntry,
        location: &Location,
        want: Option<&str>,
        watch: &dyn FetchObserver,
    ) -> Result<Option<LocalCopy>> {
        let (path, origin) = (self.path(entry, location), location.origin());
        let aside = want.map(|want| self.aside(entry, location, want));
        for path in [Some(path), aside].into_iter().flatten().filter(|path| path.is_file()) {
            let found = sha256(&path, watch)?;
            match self.wanted(location, want)? {
                Some(wanted) if wanted == found => return Ok(Some(LocalCopy { path, sha256: found, origin })),
                Some(_) if want.is_some() && location.sha256.is_none() => {
                    watch.log(&format!("`{}` has a different sha256 than requested", path.display()));
                }
                Some(_) => watch.log(&format!("`{}` is damaged; fetching it again", path.display())),
                None => return self.trusted(path, found, origin, location, want, watch).map(Some),
            }
        }
        let Some(path) = self.in_hub_cache(location) else { return Ok(None) };
        let found = sha256(&path, watch)?;
        if self.wanted(location, want)?.is_some_and(|wanted| wanted != found) {
            watch.log(&format!("`{}` has a different sha256 than expected; ignoring it", path.display()));
            return Ok(None);
        }
        self.trusted(path, found, origin, location, want, watch).map(Some)
    }

    fn fetch(
        &self,
        entry: &RegistryEntry,
        location: &Location,
        want: Option<&str>,
        watch: &dyn FetchObserver,
    ) -> std::result::Result<LocalCopy, DownloadError> {
        let origin = location.origin();
        let url = match location.address() {
            Address::Web(url) => url.to_string(),
            Address::Hub { repository, revision, file } => self.hub.url(repository, revision, file),
        };
        let wanted = self.wanted(location, want).map_err(DownloadError::Final)?;
        let pinned = wanted.is_some() && want.is_none() && location.sha256.is_none();
        watch.log(&format!("fetching {url}"));
        let order = |to: &Path, replace: bool| {
            let (token, size, sha256) = (self.hub.token_for(&url), location.size, wanted.as_deref());
            let order = DownloadRequest { url: &url, token, origin: &origin, to, size, sha256, replace };
            download(&self.client, &order, self.how, watch).map_err(|fault| match fault {
                DownloadError::Final(e) if pinned && e.kind == ErrorKind::Stage => {
                    DownloadError::Final(e.hint(self.pinned_hint()))
                }
                fault => fault,
            })
        };
        let mut to = self.path(entry, location);
        // A file that only this caller requires must not replace one that others use.
        let aside = want.filter(|_| location.sha256.is_none()).map(|want| self.aside(entry, location, want));
        let mut found = order(&to, aside.is_none())?;
        if let Some(aside) = aside.filter(|_| wanted.as_ref().is_some_and(|wanted| *wanted != found)) {
            to = aside;
            found = order(&to, true)?;
        }
        self.trusted(to, found, origin.clone(), location, want, watch).map_err(DownloadError::Final)
    }

    fn pinned_hint(&self) -> String {
        format!(
            "the file has changed since it was first fetched; `{}` has its sha256 from then",
            self.pins.path().display()
        )
    }

    /// The expected hash: the caller's, the registry's, or the pinned one.
    fn wanted(&self, location: &Location, want: Option<&str>) -> Result<Option<String>> {
        match want.or(location.sha256.as_deref()) {
            Some(sum) => Ok(Some(sum.to_string())),
            None => self.pins.get(&location.origin()),
        }
    }

    /// Pins the hash of a file that nobody has a hash of, and logs it. A pin that another process
    /// made meanwhile wins.
    fn trusted(
        &self,
        path: PathBuf,
        sha256: String,
        origin: String,
        location: &Location,
        want: Option<&str>,
        watch: &dyn FetchObserver,
    ) -> Result<LocalCopy> {
        if want.is_some() || location.sha256.is_some() {
            return Ok(LocalCopy { path, sha256, origin });
        }
        let (known, pinned) = match self.pins.get(&origin)? {
            Some(pinned) => (true, pinned),
            None => (false, self.pins.trust(&origin, &sha256)?),
        };
        if pinned != sha256 {
            let error = Error::stage(format!("`{}` is not the expected file", path.display()));
            let error = error.because(format!("sha256   {sha256}\nexpected {pinned}"));
            return Err(error.hint(self.pinned_hint()));
        }
        if !known {
            watch.log(&format!(
                "no hash of {origin} is known, so this file is trusted from now on; to require it elsewhere, add `sha256 = \"{sha256}\"` to the stage's params"
            ));
        }
        Ok(LocalCopy { path, sha256, origin })
    }

    /// Files stored under a hash of their own, with that hash.
    fn all_aside(&self, entry: &RegistryEntry) -> Vec<(PathBuf, String)> {
        let folders = std::fs::read_dir(self.root.join(&entry.name)).into_iter().flatten().flatten();
        let sums = folders.filter_map(|e| e.file_name().into_string().ok()).filter(|name| is_sha256(name));
        let mut all: Vec<(PathBuf, String)> = sums
            .flat_map(|sum| entry.locations.iter().map(move |l| (self.aside(entry, l, &sum), sum.clone())))
            .collect();
        all.retain(|(path, _)| path.is_file());
        all.sort();
        all.dedup();
        all
    }

    /// Reads and hashes the local files of an entry.
    pub fn verify(&self, entry: &RegistryEntry, watch: &dyn FetchObserver) -> Result<Vec<(PathBuf, Check)>> {
        let mut checks = vec![];
        for location in &entry.locations {
            let path = self.path(entry, location);
            if !path.is_file() {
                continue;
            }
            let found = sha256(&path, watch)?;
            let check = match self.wanted(location, None)? {
                Some(wanted) if wanted != found => Check::Damaged { found, wanted },
                Some(_) => Check::Whole,
                None => Check::Unknown,
            };
            checks.push((path, check));
        }
        for (path, wanted) in self.all_aside(entry) {
            let found = sha256(&path, watch)?;
            let check = if found == wanted { Check::Whole } else { Check::Damaged { found, wanted } };
            checks.push((path, check));
        }
        Ok(checks)
    }
}

fn unobtainable(entry: &RegistryEntry, sha256: Option<&str>) -> Error {
    let name = &entry.name;
    match sha256 {
        Some(sum) if !entry.locations.is_empty() => {
            Error::usage(format!("no published file of `{name}` has the sha256 {sum}"))
                .hint("remove `sha256` to get the file in the registry, or give your own file as `source`")
        }
        _ => Error::usage(format!("`{name}` cannot be fetched automatically")).maybe_hint(entry.manual.clone()),
    }
}

/// An error that lists every address with its failure.
fn nowhere(entry: &RegistryEntry, faults: Vec<Error>) -> Error {
    let mut hints: Vec<String> = vec![];
    let mut error = Error::stage(format!("`{}` {NOT_FETCHED}", entry.name));
    for fault in faults {
        error = error.because(&fault);
        hints.extend(fault.hints);
    }
    hints.extend(entry.manual.clone());
    hints.push("if you have the file, give it as `source` of the stage, beside `name`".into());
    let mut told = std::collections::BTreeSet::new();
    hints.into_iter().filter(|h| told.insert(h.clone())).fold(error, Error::hint)
}
