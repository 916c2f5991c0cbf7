//! Archives of images: members are pieces of files, so threads can read them concurrently. A ZIP, a
//! tar, a tar of tars, or a folder of tars; an inner tar stands for a folder of its name.
//!
//! Archives are never unpacked, so no member can write outside. Names that try are refused anyway,
//! because nobody writes them by accident. A member may inflate to its declared size and not a byte
//! more. A fault in one member is reported when that member is read, because it may never be used.

mod member;
mod open_files;
mod piece;
mod tar;
mod zip;

use super::belongs::is_image;
use super::classes::{first, top};
use super::layout::series;
use super::names::normal;
use crate::data::decode::MAX_BYTES;
use candle_core::{Result, bail};
use flate2::Crc;
use flate2::read::DeflateDecoder;
use member::{Member, Members, Packing};
use open_files::OpenFiles;
use piece::Piece;
use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The extension of a tar archive.
const TAR: &str = "tar";

/// Listed archives that are one set.
#[derive(Debug)]
pub struct Archive {
    /// The archive, or the folder of archives.
    path: PathBuf,
    files: OpenFiles,
    volumes: Vec<Volume>,
    kind: Kind,
    /// The folder in the set that is used; empty for the whole set.
    part: PathBuf,
    /// With the name of the part.
    members: Members,
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
    /// Number of the file that it lies in.
    file: usize,
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
        let head = head(&File::open(path)?)?;
        Ok(zip::begins(&head) || tar::begins(&head))
    }

    /// Lists the files of an archive without reading them.
    pub fn open(path: &Path) -> Result<Self> {
        let mut this = Self::empty(path, Kind::Tar);
        let (number, size) = this.files.add(path)?;
        let file = this.files.get(number)?;
        let shown = path.display().to_string();
        let found = |name: &str, member: Member| this.members.push(Path::new(""), name, member);
        match head(&file) {
            Ok(head) if zip::begins(&head) => {
                zip::list(&file, size, &shown, found)?;
                this.kind = Kind::Zip;
            }
            Ok(_) => tar::list(Piece::new(&file, 0..size), 0, &shown, found)?,
            Err(e) => bail!("cannot read {shown}: {e}"),
        }
        this.volumes = vec![Volume { file: number, shown, folder: PathBuf::new() }];
        this.listed()
    }

    /// Lists the files of the tars in a folder, whose names are relative to it.
    pub fn open_tars(root: &Path, tars: &[PathBuf]) -> Result<Self> {
        let mut this = Self::empty(root, Kind::Tars);
        for tar in tars {
            let path = root.join(tar);
            let (file, size) = this.files.add(&path)?;
            this.add_tar(Volume { file, shown: path.display().to_string(), folder: tar.with_extension("") }, 0..size)?;
        }
        this.listed()
    }

    fn empty(path: &Path, kind: Kind) -> Self {
        Self {
            path: path.to_path_buf(),
            files: OpenFiles::default(),
            volumes: vec![],
            kind,
            part: PathBuf::new(),
            members: Members::default(),
        }
    }

    /// Replaces the tars in a tar, if `wanted`, by their members.
    pub fn open_inner(mut self, wanted: impl Fn(&Path) -> bool) -> Result<Self> {
        let part = &self.part;
        let is_inner =
            |name: &Path, member: &Member| is_tar(name) && wanted(in_part(part, name)) && member.refused.is_none();
        let mut inner: Vec<(PathBuf, usize, Range<u64>)> = vec![];
        for (name, member) in self.members.iter().filter(|(name, member)| is_inner(name, member)) {
            inner.push((name.to_path_buf(), member.volume as usize, member.at.clone()));
        }
        if inner.is_empty() {
            return Ok(self);
        }
        self.members.retain(|name, member| !is_inner(name, member));
        self.kind = Kind::Tars;
        for (name, outer, at) in inner {
            let outer = &self.volumes[outer];
            let shown = format!("{}!{}", outer.shown, name.display());
            self.add_tar(Volume { file: outer.file, shown, folder: name.with_extension("") }, at)?;
        }
        self.listed()
    }

    /// Adds the members of a tar at `at` in the file of `volume`.
    fn add_tar(&mut self, volume: Volume, at: Range<u64>) -> Result<()> {
        let Ok(number) = u32::try_from(self.volumes.len()) else { bail!("more tars than can be numbered") };
        let file = self.files.get(volume.file)?;
        let found = |name: &str, member: Member| self.members.push(&volume.folder, name, member);
        tar::list(Piece::new(&file, at), number, &volume.shown, found)?;
        self.volumes.push(volume);
        Ok(())
    }

    /// Refuses two members of one name.
    fn listed(mut self) -> Result<Self> {
        self.members.shrink();
        let mut names = HashSet::with_capacity(self.members.list.len());
        // Compared as bytes: they are normal.
        if let Some((name, twice)) = self.members.iter().find(|(name, _)| !names.insert(name.as_os_str())) {
            let shown = &self.volume(twice).shown;
            bail!("{shown}: two entries have the same name: {}", self.within(name, twice).display());
        }
        drop(names);
        Ok(self)
    }

    /// Restricts the set to a folder in the archive, or to the tars of a name before their numbers:
    /// `train` for `train-00000.tar`.
    pub fn enter(mut self, part: &str) -> Result<Self> {
        let shown = self.path.display();
        let part = match normal(part, false) {
            Ok(part) => PathBuf::from(part),
            Err(why) => bail!("{shown}: `part` {why}"),
        };
        let is_inside = |name: &Path| name.starts_with(&part);
        let series: Vec<String> = self.volumes.iter().map(|v| series(&v.folder).name.to_string()).collect();
        if self.kind == Kind::Tars && !self.members.names.iter().any(is_inside) {
            let of_part = |m: &Member| Path::new(&series[m.volume as usize]) == part;
            if self.members.list.iter().any(of_part) {
                self.members.retain(|_, member| of_part(member));
                return Ok(self);
            }
        }
        let is_below = |name: &Path| is_inside(name) && name != part;
        if !self.members.names.iter().any(is_below) {
            let folders: BTreeSet<&OsStr> = self.members.names.iter().filter_map(top).collect();
            let folders = first(folders.iter().map(|name| name.display()));
            bail!("{shown} holds no folder `{}`; its top-level folders are {folders}", part.display());
        }
        self.members.retain(|name, _| is_below(name));
        Ok(Self { part, ..self })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The folders that inner tars stand for and that have members, in order.
    pub fn inner(&self) -> Vec<&Path> {
        let used: HashSet<u32> = self.members.list.iter().map(|m| m.volume).collect();
        let folders = (0..).zip(&self.volumes).filter(|(i, v)| used.contains(i) && !v.folder.as_os_str().is_empty());
        folders.map(|(_, v)| v.folder.as_path()).collect()
    }

    /// The top-level folders of images within their own archives.
    pub fn folders(&self) -> BTreeSet<String> {
        let images = self.members.iter().filter(|(name, _)| is_image(name));
        let folders: BTreeSet<&OsStr> = images.filter_map(|(name, member)| top(self.below(name, member))).collect();
        folders.into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    /// The name of a member below its own archive and the part.
    fn below<'a>(&self, name: &'a Path, member: &Member) -> &'a Path {
        let folder = &self.volume(member).folder;
        let around = if self.part.starts_with(folder) { &self.part } else { folder };
        name.strip_prefix(around).unwrap_or(name)
    }

    /// Whether a file has such a name in the part.
    pub fn has(&self, mut such: impl FnMut(&Path) -> bool) -> bool {
        self.members.names.iter().any(|name| such(self.in_part(name)))
    }

    /// The size of a file in bytes, as it is declared.
    pub fn size(&self, index: usize) -> u64 {
        self.members.list[index].size()
    }

    /// Names of the files in the part, in the archive's order.
    pub fn names(&self) -> Vec<&Path> {
        self.members.names.iter().map(|name| self.in_part(name)).collect()
    }

    pub fn len(&self) -> usize {
        self.members.list.len()
    }

    pub fn name(&self, index: usize) -> &Path {
        self.in_part(self.members.names.get(index))
    }

    fn in_part<'a>(&self, name: &'a Path) -> &'a Path {
        in_part(&self.part, name)
    }

    pub fn find(&self, name: &Path) -> Option<usize> {
        self.members.names.iter().position(|other| self.in_part(other) == name)
    }

    /// Drops the files whose names in the part are not `wanted`.
    pub fn keep(&mut self, mut wanted: impl FnMut(&Path) -> bool) {
        let part = &self.part;
        self.members.retain(|name, _| wanted(in_part(part, name)));
        self.members.shrink();
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
        let (name, member) = (self.members.names.get(index), &self.members.list[index]);
        format!("{}!{}", self.volume(member).shown, self.within(name, member).display())
    }

    /// The name of a member in its own archive.
    fn within<'a>(&self, name: &'a Path, member: &Member) -> &'a Path {
        name.strip_prefix(&self.volume(member).folder).unwrap_or(name)
    }

    fn volume(&self, member: &Member) -> &Volume {
        &self.volumes[member.volume as usize]
    }

    /// The bytes of a file, checked against its checksum. Errors do not include the name.
    pub fn read(&self, index: usize) -> Result<Vec<u8>> {
        let member = &self.members.list[index];
        if let Some(why) = &member.refused {
            bail!("{why}");
        }
        let file = self.files.get(self.volume(member).file)?;
        let stored = Piece::new(&file, member.at.clone());
        if member.size() > MAX_BYTES {
            bail!("has {} bytes, more than the limit of {MAX_BYTES}", member.size());
        }
        let (size, crc) = match member.packing {
            Packing::Plain => (stored.size(), None),
            Packing::Stored { size, crc } | Packing::Deflated { size, crc } => (size, Some(crc)),
        };
        let bytes = match member.packing {
            Packing::Plain | Packing::Stored { .. } => match stored.whole() {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => bail!("was cut short while it was read"),
                Err(e) => bail!("cannot be read: {e}"),
            },
            Packing::Deflated { .. } => {
                let mut bytes = Vec::new();
                // One extra byte reveals a member that is larger than it declares.
                if let Err(e) = DeflateDecoder::new(stored).take(size + 1).read_to_end(&mut bytes) {
                    bail!("cannot be inflated: {e}");
                }
                bytes
            }
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

/// The name of a member of a set in the part that is used.
fn in_part<'a>(part: &Path, name: &'a Path) -> &'a Path {
    name.strip_prefix(part).unwrap_or(name)
}

/// What a file begins with, as far as it shows what it is.
fn head(file: &File) -> std::io::Result<Vec<u8>> {
    let mut head = vec![];
    file.take(tar::BLOCK as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether the name is that of a ZIP.
pub fn is_zip(name: &Path) -> bool {
    name.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("zip"))
}

/// Whether the name is that of a tar.
pub fn is_tar(name: &Path) -> bool {
    name.extension().is_some_and(|ext| ext.eq_ignore_ascii_case(TAR))
}
