//! Archives of images, mapped: members are slices of files, so threads can read them concurrently.
//! A ZIP, a tar, a tar of tars, or a folder of tars; an inner tar stands for a folder of its name.
//!
//! Archives are never unpacked, so no member can write outside. Names that try are refused anyway,
//! because nobody writes them by accident. A member may inflate to its declared size and not a byte
//! more. A fault in one member is reported when that member is read, because it may never be used.

mod member;
mod tar;
mod zip;

use super::belongs::is_image;
use super::layout::series;
use super::names::normal;
use crate::data::decode::MAX_BYTES;
use candle_core::{Result, bail};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use member::{Member, Packing};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of a tar archive.
const TAR: &str = "tar";

/// Open archives that are one set.
#[derive(Debug)]
pub struct Archive {
    /// The archive, or the folder of archives.
    path: PathBuf,
    volumes: Vec<Volume>,
    kind: Kind,
    /// The folder in the set that is used; empty for the whole set.
    part: PathBuf,
    members: Vec<Member>,
}

/// What members are found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Zip,
    Tar,
    /// Tars, in a tar or in a folder.
    Tars,
}

/// An archive whose members are in the set.
#[derive(Debug)]
struct Volume {
    /// Its file; shared with the volumes in it.
    map: Arc<Mmap>,
    /// `outer.tar!inner.tar`, for messages.
    shown: String,
    /// The folder that it stands for, with the name of the part; empty if it is the set.
    folder: PathBuf,
}

impl Archive {
    /// Whether a file is an archive, by its first bytes.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn is(path: &Path) -> std::io::Result<bool> {
        let mut head = vec![];
        std::fs::File::open(path)?.take(tar::BLOCK as u64).read_to_end(&mut head)?;
        Ok(zip::begins(&head) || tar::begins(&head))
    }

    /// Lists the files of an archive without reading them.
    pub fn open(path: &Path) -> Result<Self> {
        let map = Arc::new(super::tree::map(path)?);
        let shown = path.display().to_string();
        let (kind, members) = match zip::begins(&map) {
            true => (Kind::Zip, zip::list(&map, &shown)?),
            false => (Kind::Tar, tar::list(&map, 0..map.len(), &shown)?),
        };
        let volumes = vec![Volume { map, shown, folder: PathBuf::new() }];
        let this = Self { path: path.to_path_buf(), volumes, kind, part: PathBuf::new(), members };
        this.check_names()?;
        Ok(this)
    }

    /// Lists the files of the tars in a folder, whose names are relative to it.
    pub fn open_tars(root: &Path, tars: &[PathBuf]) -> Result<Self> {
        let mut this =
            Self { path: root.to_path_buf(), volumes: vec![], kind: Kind::Tars, part: PathBuf::new(), members: vec![] };
        for tar in tars {
            let path = root.join(tar);
            let map = Arc::new(super::tree::map(&path)?);
            let whole = 0..map.len();
            let (shown, folder) = (path.display().to_string(), tar.with_extension(""));
            this.add_tar(Volume { map, shown, folder: folder.clone() }, whole, &folder)?;
        }
        this.check_names()?;
        Ok(this)
    }

    /// Replaces the tars in a tar, if `wanted`, by their members.
    pub fn open_inner(&mut self, wanted: impl Fn(&Path) -> bool) -> Result<()> {
        let is_inner = |m: &Member| is_tar(&m.name) && wanted(&m.name) && m.refused.is_none();
        let inner: Vec<Member> = self.members.extract_if(.., |m| is_inner(m)).collect();
        if inner.is_empty() {
            return Ok(());
        }
        self.kind = Kind::Tars;
        for tar in inner {
            let outer = &self.volumes[tar.volume];
            let shown = format!("{}!{}", outer.shown, self.part.join(&tar.name).display());
            let (map, name) = (outer.map.clone(), tar.name.with_extension(""));
            self.add_tar(Volume { map, shown, folder: self.part.join(&name) }, tar.at, &name)?;
        }
        self.check_names()
    }

    /// Adds the members of a tar at `at` in the file of `volume`, as files of the folder `name`.
    fn add_tar(&mut self, volume: Volume, at: Range<usize>, name: &Path) -> Result<()> {
        let number = self.volumes.len();
        let listed = tar::list(&volume.map, at, &volume.shown)?;
        let of_set = |m: Member| Member { name: name.join(m.name), volume: number, ..m };
        self.members.extend(listed.into_iter().map(of_set));
        self.volumes.push(volume);
        Ok(())
    }

    /// Refuses two members of one name.
    fn check_names(&self) -> Result<()> {
        let mut names = HashSet::with_capacity(self.members.len());
        match self.members.iter().find(|m| !names.insert(&m.name)) {
            Some(twice) => bail!(
                "{}: two entries have the same name: {}",
                self.volumes[twice.volume].shown,
                self.within(twice).display()
            ),
            None => Ok(()),
        }
    }

    /// Restricts the set to a folder in the archive, or to the tars of a name before their numbers:
    /// `train` for `train-00000.tar`.
    pub fn enter(mut self, part: &str) -> Result<Self> {
        let shown = self.path.display();
        let part = match normal(part, false) {
            Ok(part) => PathBuf::from(part),
            Err(why) => bail!("{shown}: `part` {why}"),
        };
        let series: Vec<String> = self.volumes.iter().map(|v| series(&v.folder).name.to_string()).collect();
        if self.kind == Kind::Tars && !self.members.iter().any(|m| m.name.starts_with(&part)) {
            let of_part = |m: &Member| Path::new(&series[m.volume]) == part;
            if self.members.iter().any(of_part) {
                self.members.retain(of_part);
                return Ok(self);
            }
        }
        let folders = self.members.iter().filter_map(|m| Some(m.name.parent()?.components().next()?.as_os_str()));
        let mut folders: Vec<String> = folders.map(|name| name.to_string_lossy().into_owned()).collect();
        folders.sort();
        folders.dedup();
        self.members.retain_mut(|m| match m.name.strip_prefix(&part) {
            Ok(rest) if !rest.as_os_str().is_empty() => {
                m.name = rest.to_path_buf();
                true
            }
            _ => false,
        });
        if self.members.is_empty() {
            bail!(
                "{shown} holds no folder `{}`; its top-level folders are {}",
                part.display(),
                super::classes::first(folders)
            );
        }
        Ok(Self { part, ..self })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The folders that inner tars stand for and that have members, in order.
    pub fn inner(&self) -> Vec<&Path> {
        let used: HashSet<usize> = self.members.iter().map(|m| m.volume).collect();
        let inner =
            self.volumes.iter().enumerate().filter(|(i, v)| used.contains(i) && !v.folder.as_os_str().is_empty());
        inner.map(|(_, v)| v.folder.as_path()).collect()
    }

    /// The top-level folders of images within their own archives.
    pub fn folders(&self) -> BTreeSet<String> {
        let folder = |m: &Member| {
            let volume = &self.volumes[m.volume].folder;
            let around = volume.strip_prefix(&self.part).unwrap_or(Path::new(""));
            let mut parts = m.name.strip_prefix(around).unwrap_or(&m.name).components();
            let first = parts.next()?;
            parts.next().map(|_| first.as_os_str().to_string_lossy().into_owned())
        };
        self.members.iter().filter(|m| is_image(&m.name)).filter_map(folder).collect()
    }

    /// Names of the files, in the archive's order.
    pub fn names(&self) -> Vec<&Path> {
        self.members.iter().map(|m| m.name.as_path()).collect()
    }

    pub fn name(&self, index: usize) -> &Path {
        &self.members[index].name
    }

    pub fn find(&self, name: &Path) -> Option<usize> {
        self.members.iter().position(|m| m.name == name)
    }

    /// Drops the files whose names are not `wanted`.
    pub fn keep(&mut self, mut wanted: impl FnMut(&Path) -> bool) {
        self.members.retain(|m| wanted(&m.name));
    }

    /// `archive.zip`, or `archive.zip!part`, for messages.
    pub fn shown(&self) -> String {
        match self.part.as_os_str().is_empty() {
            true => self.path.display().to_string(),
            false => format!("{}!{}", self.path.display(), self.part.display()),
        }
    }

    /// `archive.zip!name` of a name in the part.
    pub fn place_of(&self, name: &str) -> String {
        format!("{}!{}", self.path.display(), self.part.join(name).display())
    }

    /// `archive.zip!name`, for messages.
    pub fn place(&self, index: usize) -> String {
        let member = &self.members[index];
        format!("{}!{}", self.volumes[member.volume].shown, self.within(member).display())
    }

    /// The name of a member in its own archive.
    fn within(&self, member: &Member) -> PathBuf {
        let name = self.part.join(&member.name);
        name.strip_prefix(&self.volumes[member.volume].folder).map(Path::to_path_buf).unwrap_or(name)
    }

    /// The bytes of a file, checked against its checksum. Errors do not include the name.
    pub fn read(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        let member = &self.members[index];
        if let Some(why) = &member.refused {
            bail!("{why}");
        }
        let stored = &self.volumes[member.volume].map[member.at.clone()];
        let (size, crc) = match member.packing {
            Packing::Plain => (stored.len() as u64, None),
            Packing::Stored { size, crc } | Packing::Deflated { size, crc } => (size, Some(crc)),
        };
        if size > MAX_BYTES {
            bail!("has {size} bytes, more than the limit of {MAX_BYTES}");
        }
        let bytes = if matches!(member.packing, Packing::Deflated { .. }) {
            let mut bytes = Vec::new();
            // One extra byte reveals a member that is larger than it declares.
            if let Err(e) = DeflateDecoder::new(stored).take(size + 1).read_to_end(&mut bytes) {
                bail!("cannot be inflated: {e}");
            }
            Cow::Owned(bytes)
        } else {
            Cow::Borrowed(stored)
        };
        if bytes.len() as u64 != size {
            bail!(
                "holds {} bytes than the {size} it declares",
                if bytes.len() as u64 > size { "more" } else { "fewer" }
            );
        }
        if let Some(crc) = crc {
            let mut sum = Crc::new();
            sum.update(&bytes);
            if sum.sum() != crc {
                bail!("does not match its checksum");
            }
        }
        Ok(bytes)
    }
}

/// Whether the name is that of a ZIP.
pub fn is_zip(name: &Path) -> bool {
    name.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("zip"))
}

/// Whether the name is that of a tar.
pub fn is_tar(name: &Path) -> bool {
    name.extension().is_some_and(|ext| ext.eq_ignore_ascii_case(TAR))
}
