//! The folder of downloads, `<cache>/downloads/NAME/FILE`: what is in it, and how what is not comes there. Shared by
//! pipelines and `erw weights`; no artifacts: `erw cache gc` leaves it alone.

use super::Watch;
use super::download::{Fault, Order, Persistence, begun, download, sha256};
use super::http::Client;
use super::hub::Hub;
use super::pins::Pins;
use super::registry::{Address, Entry, Location};
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

pub struct Library {
    root: PathBuf,
    hub: Hub,
    client: Client,
    how: Persistence,
    pins: Pins,
}

/// A published file that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub path: PathBuf,
    pub sha256: String,
    /// Where it is published.
    pub origin: String,
}

/// What a look without reading finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    Here(PathBuf),
    /// In the cache of Hugging Face's programs.
    InHubCache(PathBuf),
    /// So many bytes of it.
    Part(u64),
    Absent,
}

/// What reading a file that is here says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Whole,
    /// There is no hash to hold it to.
    Unknown,
    Damaged {
        found: String,
        wanted: String,
    },
}

impl Library {
    /// The downloads in this folder, with the hub as the environment says.
    pub fn at(root: &Path) -> Self {
        Self::new(root, Hub::from_env(), Persistence::default())
    }

    pub fn new(root: &Path, hub: Hub, how: Persistence) -> Self {
        Self { root: root.into(), hub, client: Client::default(), how, pins: Pins::of(root) }
    }

    fn path(&self, entry: &Entry, location: &Location) -> PathBuf {
        self.root.join(&entry.name).join(location.file_name())
    }

    fn in_hub_cache(&self, location: &Location) -> Option<PathBuf> {
        match location.address() {
            Address::Hub { repository, revision, file } => self.hub.cached(repository, revision, file),
            Address::Web(_) => None,
        }
    }

    /// Is it here? Looks at names only.
    pub fn look(&self, entry: &Entry) -> Presence {
        let all = &entry.locations;
        let here = all.iter().map(|l| self.path(entry, l)).find(|p| p.is_file());
        let cached = || all.iter().find_map(|l| self.in_hub_cache(l)).map(Presence::InHubCache);
        let part = || all.iter().find_map(|l| begun(&self.path(entry, l))).map(Presence::Part);
        here.map(Presence::Here).or_else(cached).or_else(part).unwrap_or(Presence::Absent)
    }

    /// The file of an entry, verified: from this folder, from the cache of Hugging Face's programs, or fetched from the
    /// first address that gives it. `sha256` is what the caller holds it to, besides the registry.
    pub fn obtain(&self, entry: &Entry, sha256: Option<&str>, watch: &dyn Watch) -> Result<Copy> {
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
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Address(error)) => {
                    watch.log(&error.to_string());
                    faults.push(error);
                }
            }
        }
        Err(nowhere(entry, faults))
    }

    /// A copy that is here already, whole, and what the caller wants.
    fn here(&self, entry: &Entry, location: &Location, want: Option<&str>, watch: &dyn Watch) -> Result<Option<Copy>> {
        let (path, origin) = (self.path(entry, location), location.origin());
        if path.is_file() {
            let found = sha256(&path, watch)?;
            match self.wanted(location, None)? {
                Some(wanted) if wanted != found => {
                    watch.log(&format!("`{}` is damaged, so it is fetched again", path.display()));
                    std::fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                }
                _ if want.is_some_and(|want| want != found) => {}
                _ => return self.trusted(path, found, origin, location, want, watch).map(Some),
            }
        }
        let Some(path) = self.in_hub_cache(location) else { return Ok(None) };
        let found = sha256(&path, watch)?;
        let wanted = self.wanted(location, None)?;
        if wanted.as_deref().into_iter().chain(want).any(|wanted| wanted != found) {
            watch.log(&format!("`{}` is not the file that is asked for; leaving it alone", path.display()));
            return Ok(None);
        }
        self.trusted(path, found, origin, location, want, watch).map(Some)
    }

    fn fetch(
        &self,
        entry: &Entry,
        location: &Location,
        want: Option<&str>,
        watch: &dyn Watch,
    ) -> std::result::Result<Copy, Fault> {
        let (to, origin) = (self.path(entry, location), location.origin());
        let url = match location.address() {
            Address::Web(url) => url.to_string(),
            Address::Hub { repository, revision, file } => self.hub.url(repository, revision, file),
        };
        let wanted = self.wanted(location, want).map_err(Fault::Final)?;
        let order = Order {
            url: &url,
            token: self.hub.token_for(&url),
            origin: &origin,
            to: &to,
            size: location.size,
            sha256: wanted.as_deref(),
        };
        watch.log(&format!("fetching {url}"));
        let pinned = wanted.is_some() && want.is_none() && location.sha256.is_none();
        let found = download(&self.client, &order, self.how, watch).map_err(|fault| match fault {
            Fault::Final(e) if pinned && e.kind == ErrorKind::Stage => {
                let hint = format!(
                    "it was another file when it was first fetched; `{}` remembers",
                    self.pins.path().display()
                );
                Fault::Final(e.hint(hint))
            }
            fault => fault,
        })?;
        // Of another process, which waited for nobody's opinion.
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let error = Error::stage(format!("`{}` is not the file that was asked for", to.display()));
            return Err(Fault::Final(error.because(format!("its sha256 is {found}\nand should be  {wanted}"))));
        }
        self.trusted(to, found, origin, location, want, watch).map_err(Fault::Final)
    }

    /// What a file is held to: the caller's word, the registry's, or that of its first use.
    fn wanted(&self, location: &Location, want: Option<&str>) -> Result<Option<String>> {
        match want.or(location.sha256.as_deref()) {
            Some(sum) => Ok(Some(sum.to_string())),
            None => self.pins.get(&location.origin()),
        }
    }

    /// Remembers a file that nobody has a hash of, and says so.
    fn trusted(
        &self,
        path: PathBuf,
        sha256: String,
        origin: String,
        location: &Location,
        want: Option<&str>,
        watch: &dyn Watch,
    ) -> Result<Copy> {
        if want.is_none() && location.sha256.is_none() && self.pins.get(&origin)?.is_none() {
            self.pins.trust(&origin, &sha256)?;
            watch.log(&format!(
                "no hash of {origin} is known, so this file is trusted from now on; to hold others to it, write `sha256 = \"{sha256}\"` among the stage's params"
            ));
        }
        Ok(Copy { path, sha256, origin })
    }

    /// Reads the files of an entry that are here.
    pub fn verify(&self, entry: &Entry, watch: &dyn Watch) -> Result<Vec<(PathBuf, Check)>> {
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
        Ok(checks)
    }
}

fn unobtainable(entry: &Entry, sha256: Option<&str>) -> Error {
    let name = &entry.name;
    match sha256 {
        Some(sum) if !entry.locations.is_empty() => {
            Error::usage(format!("no published file of `{name}` has the sha256 {sum}"))
                .hint("take the line out to get the one that the registry knows, or give yours as `source`")
        }
        _ => Error::usage(format!("`{name}` cannot be fetched by a program")).maybe_hint(entry.manual.clone()),
    }
}

/// Every address with what it said.
fn nowhere(entry: &Entry, faults: Vec<Error>) -> Error {
    let mut hints: Vec<String> = vec![];
    let mut error = Error::stage(format!("`{}` could not be fetched", entry.name));
    for fault in faults {
        error = error.because(&fault);
        hints.extend(fault.hints);
    }
    hints.extend(entry.manual.clone());
    hints.push("a file that you have can be given as `source` of the stage, beside its `name`".into());
    let mut told = std::collections::BTreeSet::new();
    hints.into_iter().filter(|h| told.insert(h.clone())).fold(error, Error::hint)
}
