//! The registry of published files: names, addresses, sizes, hashes, licences. It is
//! `weights/registry.toml`, embedded; entries of a further file, named by ERW_REGISTRY or by
//! [`use_file`], take precedence. Does not know networks: `as` and `preset` are plain strings here.

use erw_base::error::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const SHIPPED: &str = include_str!("../../weights/registry.toml");
/// The variable that names a further registry.
pub const EXTRA: &str = "ERW_REGISTRY";

/// A published file, or one set of weights published in several files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryEntry {
    pub name: String,
    pub what: String,
    /// The artifact type of the resulting output.
    #[serde(rename = "as")]
    pub artifact: String,
    /// The architecture, for types that have several.
    pub preset: Option<String>,
    pub licence: String,
    /// Restrictions on use.
    pub restricted: Option<String>,
    pub note: Option<String>,
    /// How to get the file by hand.
    pub manual: Option<String>,
    /// Tried in order. The first identifies the file.
    #[serde(default, rename = "from")]
    pub locations: Vec<Location>,
}

/// The location of a file: a URL, or a path in a Hugging Face repository.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    pub url: Option<String>,
    pub hub: Option<String>,
    pub revision: Option<String>,
    pub file: Option<String>,
    /// Bytes, if known exactly.
    pub size: Option<u64>,
    /// Bytes, approximately.
    pub about: Option<u64>,
    /// Hexadecimal, lower case.
    pub sha256: Option<String>,
}

/// [`Location`] after validation, without optional fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address<'a> {
    Web(&'a str),
    Hub { repository: &'a str, revision: &'a str, file: &'a str },
}

impl Location {
    pub fn address(&self) -> Address<'_> {
        match (&self.hub, &self.revision, &self.file) {
            (Some(repository), Some(revision), Some(file)) => Address::Hub { repository, revision, file },
            _ => Address::Web(self.url.as_deref().unwrap_or_default()),
        }
    }

    /// The address in keys and pins; independent of mirrors.
    pub fn origin(&self) -> String {
        match self.address() {
            Address::Web(url) => url.to_string(),
            Address::Hub { repository, revision, file } => format!("hf://{repository}@{revision}/{file}"),
        }
    }

    /// The publisher to show: the host, or the repository.
    pub fn site(&self) -> String {
        match self.address() {
            Address::Web(url) => {
                let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
                rest.split('/').next().unwrap_or_default().to_string()
            }
            Address::Hub { repository, .. } => format!("{repository} on Hugging Face"),
        }
    }

    /// The last part of the address, without the query.
    pub fn file_name(&self) -> &str {
        let path = match self.address() {
            Address::Web(url) => url.split(['?', '#']).next().unwrap_or_default(),
            Address::Hub { file, .. } => file,
        };
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Bytes, exactly or approximately.
    pub fn bytes(&self) -> Option<u64> {
        self.size.or(self.about)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let hub = [&self.hub, &self.revision, &self.file].iter().filter(|part| part.is_some()).count();
        match (&self.url, hub) {
            (Some(url), 0) if url.starts_with("https://") || url.starts_with("http://") => {}
            (None, 3) => {}
            _ => return Err("an address is either `url`, or `hub` with `revision` and `file`"),
        }
        let name = self.file_name();
        if name.is_empty() || name.starts_with('.') {
            return Err("an address must end in a file name");
        }
        match &self.sha256 {
            Some(sum) if !is_sha256(sum) => Err("`sha256` must be 64 hexadecimal digits in lower case"),
            _ => Ok(()),
        }
    }
}

/// 64 hexadecimal digits in lower case.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl RegistryEntry {
    /// The identity of the published file in a stage's key, as JSON: its hash, or its address if no
    /// hash is known, and the resulting artifact. Excludes mirrors, sizes and notes.
    pub fn identity(&self) -> String {
        let first = self.locations.first();
        let file = match first.and_then(|l| l.sha256.as_deref()) {
            Some(sum) => format!("sha256:{sum}"),
            None => first.map(Location::origin).unwrap_or_default(),
        };
        serde_json::json!({"as": self.artifact, "file": file, "preset": self.preset}).to_string()
    }

    /// Bytes of the first location.
    pub fn bytes(&self) -> Option<u64> {
        self.locations.first().and_then(Location::bytes)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err("a name may contain only letters, digits, `-` and `_`");
        }
        if self.locations.is_empty() && self.manual.is_none() {
            return Err("it has neither an address (`from`) nor instructions (`manual`)");
        }
        self.locations.iter().try_for_each(Location::check)?;
        let same = |a: &Location, b: &Location| a.sha256.is_some() && a.sha256 == b.sha256;
        let twins = |a: &Location, b: &Location| a.file_name() == b.file_name() && !same(a, b);
        let all = &self.locations;
        match all.iter().enumerate().any(|(i, a)| all[..i].iter().any(|b| twins(a, b))) {
            true => Err("two different files have the same name"),
            false => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    entry: Vec<RegistryEntry>,
}

/// Parses a registry. Errors name the entry.
pub fn parse(text: &str) -> Result<Vec<RegistryEntry>> {
    let text: Text = toml::from_str(text).map_err(|e| Error::usage(e.to_string().trim_end()))?;
    for (i, entry) in text.entry.iter().enumerate() {
        let fail = |why: &str| Error::usage(format!("entry `{}`: {why}", entry.name));
        entry.check().map_err(fail)?;
        if text.entry[..i].iter().any(|e| e.name == entry.name) {
            return Err(fail("duplicate name"));
        }
    }
    Ok(text.entry)
}

/// A file set by [`use_file`], and where its path comes from.
static SET: OnceLock<(PathBuf, String)> = OnceLock::new();

/// Names a further registry for this process; `origin` says who names it. Has no effect after the
/// first call.
pub fn use_file(path: PathBuf, origin: String) {
    let _ = SET.set((path, origin));
}

/// The file that [`use_file`] named. Processes that this one starts do not know it.
pub fn used_file() -> Option<&'static Path> {
    SET.get().map(|(path, _)| path.as_path())
}

/// The further registry, and where its path comes from.
pub fn further() -> Option<(PathBuf, String)> {
    let of_environment = || std::env::var_os(EXTRA).filter(|p| !p.is_empty()).map(|p| (p.into(), EXTRA.into()));
    SET.get().cloned().or_else(of_environment)
}

/// All entries, those of the further registry first. Read once.
pub fn entries() -> Result<&'static [RegistryEntry]> {
    static ENTRIES: OnceLock<Result<Vec<RegistryEntry>>> = OnceLock::new();
    ENTRIES.get_or_init(load).as_deref().map_err(Clone::clone)
}

/// The entries embedded in the program.
pub fn shipped() -> Result<Vec<RegistryEntry>> {
    parse(SHIPPED).map_err(|e| Error::internal("the embedded registry of published files is invalid").because(e))
}

fn load() -> Result<Vec<RegistryEntry>> {
    let shipped = shipped()?;
    let Some((path, origin)) = further() else { return Ok(shipped) };
    let text = erw_base::text::read(&path)
        .map_err(|e| Error::io("read", &path, e).hint(format!("the path comes from {origin}")))?;
    let mut all = parse(&text)
        .map_err(|e| e.context(format!("`{}` (from {origin}) is not a registry of published files", path.display())))?;
    for entry in shipped {
        if !all.iter().any(|e| e.name == entry.name) {
            all.push(entry);
        }
    }
    Ok(all)
}

/// The entry with this name.
pub fn find(name: &str) -> Result<Option<&'static RegistryEntry>> {
    Ok(entries()?.iter().find(|e| e.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_registry_is_valid() {
        let all = parse(SHIPPED).unwrap();
        let find = |name: &str| all.iter().find(|e| e.name == name).unwrap();
        // Sizes and hashes known for certain, because several projects state them.
        assert_eq!(find("sd-vae-ft-mse").locations[0].size, Some(334_643_276));
        assert!(find("fid-inception").identity().contains("sha256:6726825d0af5f729"));
        assert!(find("sd-vae-ft-ema").identity().contains("hf://stabilityai/sd-vae-ft-ema@8937891f91ef"));
        for name in ["mocov3-vit-b", "jepa-vit-h", "mae-vit-l"] {
            assert!(find(name).licence == "CC-BY-NC-4.0" && find(name).restricted.is_some(), "{name}");
        }
        assert!(all.iter().all(|e| e.licence == "MIT" || e.licence == "Apache-2.0" || e.restricted.is_some()));
        assert_eq!(find("repa-sit-xl").locations[0].file_name(), "last.pt");
    }

    #[test]
    fn a_mirror_does_not_change_the_identity() {
        let text = |more: &str| {
            format!(
                "[[entry]]\nname = \"n\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"MIT\"\n\
                 [[entry.from]]\nurl = \"https://a.example/x.pth\"\n{more}"
            )
        };
        let id = |more: &str| parse(&text(more)).unwrap()[0].identity();
        let plain = id("");
        assert_eq!(plain, id("size = 3\n[[entry.from]]\nurl = \"https://b.example/y.pth\"\n"));
        assert_ne!(plain, id(&format!("sha256 = \"{}\"\n", "0".repeat(64))));
    }

    #[test]
    fn errors_of_a_registry_name_the_entry() {
        let entry =
            |more: &str| format!("[[entry]]\nname = \"n\"\nwhat = \"w\"\nas = \"vae\"\nlicence = \"MIT\"\n{more}");
        let said = |text: &str| parse(text).unwrap_err().message;
        assert!(said(&entry("")).contains("entry `n`: it has neither an address"));
        assert!(said(&entry("[[entry.from]]\nurl = \"ftp://x/y\"")).contains("either `url`"));
        assert!(said(&entry("[[entry.from]]\nurl = \"https://x/\"")).contains("file name"));
        assert!(said(&entry("[[entry.from]]\nurl = \"https://x/y\"\nsha256 = \"AB\"")).contains("64 hexadecimal"));
        assert!(said(&entry("colour = 1")).contains("colour"));
        assert!(
            said(&entry(
                "[[entry.from]]\nurl = \"https://x/y\"\n[[entry.from]]\nurl = \"https://z/y\"\nsha256 = \"ab\""
            ))
            .contains("64 hex")
        );
    }
}
