//! Transfers from the store to a remote: blobs, then the tree that names them, then the record.
//! Objects already there with the right size are skipped, unless this process found them corrupt.

use super::client::Client;
use super::error::{self, RemoteError};
use super::objects::{blob_name, pack_name, record_name, tree_name};
use super::pack::{Pack, Part, is_small};
use super::tree::Tree;
use crate::cache::action_cache::{self, Lookup, Record};
use crate::cache::key::Key;
use crate::cache::store::{Presence, Store, damaged};
use crate::files::digest::{Measured, TreeEntry, join};
use erw_base::error::Error;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Files of one artifact sent at a time.
const FILES: usize = 4;
/// Larger files are sent in parts of at least this size.
const PIECE: u64 = 5 << 20;
/// Services accept ten thousand parts per file.
const PIECES: u64 = 9000;
/// Parts of one file in transfer at a time.
const WINDOW: usize = 4;

/// A record ready to be sent; only its files in the store are still needed.
pub struct Parcel {
    key: Key,
    record: Vec<u8>,
    artifacts: Vec<(PathBuf, Measured)>,
}

/// A pipeline and a stage of it.
pub type Named<'a> = (&'a str, &'a str);

/// Totals of what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files, lists and records.
    pub objects: u64,
    pub bytes: u64,
}

impl std::ops::Add for Sent {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes + other.bytes }
    }
}

impl Parcel {
    /// `None` if the record or something it names is not in the store.
    pub fn of(store: &Store, record: &Record) -> Option<Self> {
        let key = record.key();
        let bytes = std::fs::read(store.action_file(&key)).ok()?;
        let artifact = |m: &Measured| (store.look(m) == Presence::Whole).then(|| (store.object(&m.digest), *m));
        let artifacts = record.outputs.values().map(|o| artifact(&o.measured)).collect::<Option<Vec<_>>>()?;
        Some(Self { key, record: bytes, artifacts })
    }

    /// What of it belongs into a pack.
    fn part(&self) -> Result<Part, Error> {
        let mut part = vec![(record_name(&self.key), self.record.clone())];
        for (path, measured) in self.artifacts.iter().filter(|(_, measured)| is_small(measured)) {
            let tree = Tree::of(path, measured)?;
            for file in tree.entries.iter().filter(|entry| entry.kind.is_file()) {
                let path = join(path, &file.path);
                let contents = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
                part.push((blob_name(&file.digest), contents));
            }
            part.extend(tree.to_bytes().map(|list| (tree_name(&measured.digest), list)));
        }
        Ok(part)
    }
}

impl Client {
    pub(super) async fn send(&self, parcel: &Parcel, again: bool) -> Result<Sent, RemoteError> {
        let mut sent = Sent::default();
        for (path, measured) in &parcel.artifacts {
            sent = sent + self.artifact(path, measured, again).await?;
        }
        let name = record_name(&parcel.key);
        if again || self.wants_record(&name, &parcel.key).await? {
            sent = sent + self.put(&name, parcel.record.clone()).await?;
        }
        Ok(sent)
    }

    /// Adds what the remote has of a stage to the pack of the pipeline.
    pub(super) async fn pack(&self, (pipeline, stage): Named<'_>, parcel: &Parcel) -> Result<(), RemoteError> {
        self.open_pack(pipeline).await;
        let lacks = |pack: &Pack| !pack.holds(stage, &parcel.record);
        if self.packs().get(pipeline).is_some_and(lacks) {
            let part = parcel.part()?;
            self.packs().entry(pipeline.into()).or_default().put(stage, part);
        }
        Ok(())
    }

    /// Sends the packs that have changed.
    pub(super) async fn send_packs(&self) -> Result<(), RemoteError> {
        let bytes = |(pipeline, pack): (&String, &mut Pack)| {
            pack.has_changed = false;
            Ok((pack_name(pipeline), pack.to_bytes()?))
        };
        let changed: io::Result<Vec<(String, Vec<u8>)>> =
            self.packs().iter_mut().filter(|(_, pack)| pack.has_changed).map(bytes).collect();
        for (name, bytes) in changed.map_err(|e| Error::stage("cannot pack what was sent").caused(e))? {
            self.put(&name, bytes).await?;
        }
        Ok(())
    }

    /// A valid record stays, even if it names another result: others build upon it.
    async fn wants_record(&self, name: &str, key: &Key) -> Result<bool, RemoteError> {
        if self.notices().bad.contains(name) {
            return Ok(true);
        }
        let failed = |e| error::of(name, &e);
        let there = match self.client.get(&self.at(name)).await.map_err(failed) {
            Ok(there) => there.bytes().await.map_err(failed)?,
            Err(fault) => return self.absent(fault).map(|()| true),
        };
        Ok(matches!(action_cache::read(&there, key), Lookup::Damaged))
    }

    async fn artifact(&self, path: &Path, measured: &Measured, again: bool) -> Result<Sent, RemoteError> {
        let (root, expected) = (path.to_path_buf(), *measured);
        let read = tokio::task::spawn_blocking(move || Tree::of(&root, &expected));
        let tree = read.await.map_err(|_| RemoteError::Stopped)??;
        let send = |file: TreeEntry| async move { self.file_out(&join(path, &file.path), &file, again).await };
        let work: Vec<_> = tree.entries.iter().filter(|e| e.kind.is_file()).cloned().map(send).collect();
        let files = futures_util::stream::iter(work).buffer_unordered(FILES);
        let mut sent = files.try_fold(Sent::default(), |all, one| async move { Ok(all + one) }).await?;
        let name = tree_name(&measured.digest);
        let Some(bytes) = tree.to_bytes() else { return Ok(sent) };
        if again || !self.has(&name, bytes.len() as u64).await? {
            sent = sent + self.put(&name, bytes).await?;
        }
        Ok(sent)
    }

    async fn file_out(&self, path: &Path, file: &TreeEntry, again: bool) -> Result<Sent, RemoteError> {
        let name = blob_name(&file.digest);
        if !again && self.has(&name, file.bytes).await? {
            return Ok(Sent::default());
        }
        let _slot = self.slots.acquire().await;
        if file.bytes <= PIECE {
            let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            if blake3::hash(&bytes).to_hex().as_str() != file.digest.to_string() {
                return Err(damaged(&file.digest).into());
            }
            return self.put(&name, bytes).await;
        }
        self.pieces(&name, path, file).await
    }

    /// Whether the object exists with this size and is not known to be corrupt.
    async fn has(&self, name: &str, bytes: u64) -> Result<bool, RemoteError> {
        if self.notices().bad.contains(name) {
            return Ok(false);
        }
        match self.client.head(&self.at(name)).await.map_err(|e| error::of(name, &e)) {
            Ok(meta) => Ok(meta.size == bytes),
            Err(fault) => self.absent(fault).map(|()| false),
        }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<Sent, RemoteError> {
        let sent = Sent { objects: 1, bytes: bytes.len() as u64 };
        self.client.put(&self.at(name), PutPayload::from(bytes)).await.map_err(|e| error::of(name, &e))?;
        self.notices().bad.remove(name);
        Ok(sent)
    }

    /// Sends a large file in parts, which become visible only when all are there. Verifies the
    /// digest on the way.
    async fn pieces(&self, name: &str, path: &Path, file: &TreeEntry) -> Result<Sent, RemoteError> {
        let failed = |e| error::of(name, &e);
        let upload = self.client.put_multipart(&self.at(name)).await.map_err(failed)?;
        let piece = PIECE.max(file.bytes.div_ceil(PIECES));
        let mut upload = WriteMultipart::new_with_chunk_size(upload, piece as usize);
        let read = self.feed(&mut upload, path, file).await;
        if let Err(fault) = read {
            let _ = upload.abort().await;
            return Err(fault);
        }
        upload.finish().await.map_err(failed)?;
        self.notices().bad.remove(name);
        Ok(Sent { objects: 1, bytes: file.bytes })
    }

    async fn feed(&self, upload: &mut WriteMultipart, path: &Path, file: &TreeEntry) -> Result<(), RemoteError> {
        let local = |e| Error::io("read", path, e);
        let mut source = std::fs::File::open(path).map_err(local)?;
        let (mut buffer, mut hasher) = (vec![0; 1 << 20], blake3::Hasher::new());
        loop {
            let n = source.read(&mut buffer).map_err(local)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            upload.wait_for_capacity(WINDOW).await.map_err(|e| error::of(&blob_name(&file.digest), &e))?;
            upload.write(&buffer[..n]);
        }
        match hasher.finalize().to_hex().as_str() == file.digest.to_string() {
            true => Ok(()),
            false => Err(damaged(&file.digest).into()),
        }
    }
}
