//! Transfers from a remote into the store. Files arrive several at a time in `v1/pulls/<digest>`,
//! each under a temporary name until its digest is verified; the complete artifact enters the store
//! by rename. Files already present are not fetched again, so an interrupted pull resumes.

use super::client::Client;
use super::error::{self, RemoteError};
use super::objects::{RemoteRecord, blob_name, pack_name, record_name, tree_name};
use super::pack::{Pack, is_small};
use super::tree::{Tree, alone};
use crate::cache::action_cache::{self, Lookup};
use crate::cache::key::Key;
use crate::cache::store::{Presence, Store};
use crate::files::digest::{Digest, Kind, Measured, TreeEntry, join};
use crate::files::disk::{self, Durability, unique, write_file};
use erw_base::error::Error;
use futures_util::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;

/// Files of one artifact fetched at a time.
const FILES: usize = 8;
/// A larger list of files or record is invalid.
const SMALL: u64 = 256 << 20;

/// Fetches every output of a record, then the record. A failure is noted and returns `false`.
pub fn outputs(threads: &Handle, link: &Client, store: &Store, found: &RemoteRecord) -> bool {
    let key = found.record.key();
    let fetch = || -> Result<(), RemoteError> {
        for output in found.record.outputs.values() {
            artifact(threads, link, store, &output.measured)?;
        }
        let path = store.action_file(&key);
        let all_small = found.record.outputs.values().all(|output| is_small(&output.measured));
        let keep = if all_small { Durability::Later } else { Durability::Now };
        write_file(&path, &found.bytes, keep).map_err(|e| Error::io("write", &path, e).into())
    };
    let Err(fault) = fetch() else { return true };
    link.failed(&fault);
    if matches!(fault, RemoteError::Bad { .. } | RemoteError::Absent(_) | RemoteError::Denied(_)) {
        // The record names something that cannot be fetched: the run that recomputes the result
        // replaces it.
        link.notices().bad.insert(record_name(&key));
    }
    false
}

/// Fetches one artifact. Others that want it meanwhile, here or on other hosts, wait and then find
/// it.
fn artifact(threads: &Handle, link: &Client, store: &Store, wanted: &Measured) -> Result<(), RemoteError> {
    if store.look(wanted) == Presence::Whole {
        return Ok(());
    }
    if let Some(bytes) = link.packed_file(wanted) {
        return place_packed(store, wanted, &bytes);
    }
    let _lock = store.lock(&Key::from(wanted.digest))?;
    if store.look(wanted) == Presence::Whole {
        return Ok(());
    }
    let folder = store.v1("pulls").join(wanted.digest.to_string());
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let whole = folder.join("whole");
    let pulled = threads.block_on(link.unless_stopped(link.files(wanted, &folder, &whole)));
    pulled.unwrap_or(Err(RemoteError::Stopped))?;
    store.publish(&whole, wanted, durability(wanted))?;
    let _ = disk::remove(&folder);
    Ok(())
}

/// Stores an artifact that is one small file and is here already. There is nothing to wait for or to
/// resume, and for thousands of them a folder and a lock each are most of the work.
fn place_packed(store: &Store, wanted: &Measured, bytes: &[u8]) -> Result<(), RemoteError> {
    let folder = store.v1("pulls");
    let whole = folder.join(unique());
    let written = match std::fs::write(&whole, bytes) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&whole, bytes))
        }
        other => other,
    };
    written.map_err(|e| Error::io("write", &whole, e))?;
    let placed = store.publish(&whole, wanted, durability(wanted));
    // It is still there if another run was first.
    let _ = disk::remove(&whole);
    Ok(placed?)
}

/// What is small is fetched anew in less time than it is forced to disk.
fn durability(wanted: &Measured) -> Durability {
    if is_small(wanted) { Durability::Later } else { Durability::Now }
}

impl Client {
    /// Fetches the pack of a pipeline, unless it is here. One that cannot be had is empty.
    pub(super) async fn open_pack(&self, pipeline: &str) {
        let _alone = self.fetching.lock().await;
        if self.packs().contains_key(pipeline) || !self.answers() {
            return;
        }
        let name = pack_name(pipeline);
        let pack = match self.unless_stopped(self.small(&name)).await {
            Some(Ok(bytes)) => self.unpack(&name, &bytes),
            Some(Err(fault)) => {
                let _ = self.absent(fault).map_err(|fault| self.failed(&fault));
                Pack::default()
            }
            None => return,
        };
        self.packs().insert(pipeline.into(), pack);
    }

    fn unpack(&self, name: &str, bytes: &[u8]) -> Pack {
        let Ok((pack, records)) = Pack::read(bytes) else {
            self.is_bad(name, "it is corrupt");
            return Pack::anew();
        };
        let mut notices = self.notices();
        for found in records {
            notices.records.entry(found.record.key()).or_insert(Some(found));
        }
        pack
    }

    /// The bytes of an object, if it is packed.
    fn packed(&self, name: &str) -> Option<Vec<u8>> {
        self.packs().values().find_map(|pack| pack.object(name)).map(<[u8]>::to_vec)
    }

    /// The bytes of an artifact that is one file, if they are packed and right.
    fn packed_file(&self, wanted: &Measured) -> Option<Vec<u8>> {
        let bytes = self.packed(&blob_name(&wanted.digest)).filter(|_| wanted.files == 1)?;
        (Digest::of_bytes(&bytes) == wanted.digest && bytes.len() as u64 == wanted.bytes).then_some(bytes)
    }

    pub(super) async fn record(&self, key: &Key) -> Option<RemoteRecord> {
        let name = record_name(key);
        let bytes = match self.unless_stopped(self.small(&name)).await? {
            Ok(bytes) => bytes,
            Err(fault) => {
                let _ = self.absent(fault).map_err(|fault| self.failed(&fault));
                return None;
            }
        };
        match action_cache::read(&bytes, key) {
            Lookup::Hit(record) => Some(RemoteRecord { record: *record, bytes }),
            Lookup::Miss => None,
            Lookup::Damaged => {
                self.is_bad(&name, "it is corrupt");
                None
            }
        }
    }

    /// An object that fits into memory.
    async fn small(&self, name: &str) -> Result<Vec<u8>, RemoteError> {
        let failed = |e| error::of(name, &e);
        let answer = self.client.get(&self.at(name)).await.map_err(failed)?;
        if answer.meta.size > SMALL {
            return Err(RemoteError::Bad { name: name.into(), why: "it is too large".into() });
        }
        Ok(answer.bytes().await.map_err(failed)?.to_vec())
    }

    /// Puts the artifact at `whole`. `folder` is for unfinished files.
    async fn files(&self, wanted: &Measured, folder: &Path, whole: &Path) -> Result<(), RemoteError> {
        // A single file may be the artifact itself or alone in a folder; only the remote knows
        // which.
        if wanted.files == 1 && self.packed(&tree_name(&wanted.digest)).is_none() {
            match self.file(&alone(wanted), &[whole.to_path_buf()], folder).await {
                Err(fault) => self.absent(fault)?,
                Ok(()) => return Ok(()),
            }
        }
        let tree = self.tree(wanted).await?;
        // Equal files are fetched once.
        let mut places: BTreeMap<Digest, Vec<&TreeEntry>> = BTreeMap::new();
        for file in tree.entries.iter().filter(|e| e.kind.is_file()) {
            places.entry(file.digest).or_default().push(file);
        }
        // After an error no new transfer starts; running ones finish, so that they need not be
        // repeated.
        let broken = AtomicBool::new(false);
        let fetch = |files: Vec<&TreeEntry>| {
            let (first, broken) = (files[0].clone(), &broken);
            let paths: Vec<PathBuf> = files.iter().map(|f| join(whole, &f.path)).collect();
            async move {
                if broken.load(Ordering::SeqCst) {
                    return Err(RemoteError::Stopped);
                }
                let fetched = self.file(&first, &paths, folder).await;
                broken.fetch_or(fetched.is_err(), Ordering::SeqCst);
                fetched
            }
        };
        let work: Vec<_> = places.into_values().map(fetch).collect();
        let results: Vec<Result<(), RemoteError>> =
            futures_util::stream::iter(work).buffer_unordered(FILES).collect().await;
        // The first one to return has the reason.
        results.into_iter().collect::<Result<(), RemoteError>>()?;
        Ok(finish(&tree, whole).map_err(|e| Error::io("write", whole, e))?)
    }

    async fn tree(&self, wanted: &Measured) -> Result<Tree, RemoteError> {
        let name = tree_name(&wanted.digest);
        let bytes = match self.packed(&name) {
            Some(bytes) => bytes,
            None => self.small(&name).await?,
        };
        Tree::parse(&bytes, wanted).map_err(|why| RemoteError::Bad { name, why: why.into() })
    }

    /// Fetches one file, unless it is there, and copies it to all its paths.
    async fn file(&self, file: &TreeEntry, places: &[PathBuf], folder: &Path) -> Result<(), RemoteError> {
        let lacking: Vec<&PathBuf> = places.iter().filter(|p| !holds(p, &file.digest)).collect();
        if lacking.len() == places.len() {
            let _slot = self.slots.acquire().await;
            let temporary = folder.join(unique());
            let fetched = self.blob(file, &temporary).await.and_then(|()| Ok(place(&temporary, &places[0])?));
            if fetched.is_err() {
                let _ = disk::remove(&temporary);
            }
            fetched?;
        }
        let here = places.iter().find(|p| !lacking.contains(p)).unwrap_or(&places[0]);
        lacking.into_iter().filter(|p| *p != here).try_for_each(|path| copy(here, path, folder))
    }

    async fn blob(&self, file: &TreeEntry, to: &Path) -> Result<(), RemoteError> {
        let name = blob_name(&file.digest);
        let failed = |e| error::of(&name, &e);
        let local = |e| Error::io("write", to, e);
        let packed = self.packed(&name).filter(|bytes| Digest::of_bytes(bytes) == file.digest);
        if let Some(bytes) = packed {
            return Ok(std::fs::write(to, bytes).map_err(local)?);
        }
        let answer = self.client.get(&self.at(&name)).await.map_err(failed)?;
        let mut stream = answer.into_stream();
        let mut out = std::fs::File::create(to).map_err(local)?;
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        while let Some(chunk) = stream.try_next().await.map_err(failed)? {
            bytes += chunk.len() as u64;
            if bytes > file.bytes {
                break;
            }
            hasher.update(&chunk);
            out.write_all(&chunk).map_err(local)?;
        }
        let why = match bytes {
            n if n < file.bytes => format!("it has {n} of {} bytes", file.bytes),
            n if n > file.bytes => format!("it has more than {} bytes", file.bytes),
            _ if hasher.finalize().to_hex().as_str() == file.digest.to_string() => return Ok(()),
            _ => "its digest differs".into(),
        };
        Err(RemoteError::Bad { name, why })
    }
}

/// Adds folders and links, and sets the executable bits, which equal files that were fetched once
/// may differ in.
fn finish(tree: &Tree, whole: &Path) -> std::io::Result<()> {
    if tree.is_dir {
        std::fs::create_dir_all(whole)?;
    }
    for entry in &tree.entries {
        let path = join(whole, &entry.path);
        match &entry.kind {
            Kind::File => std::fs::set_permissions(&path, Permissions::from_mode(0o644))?,
            Kind::Program => std::fs::set_permissions(&path, Permissions::from_mode(0o755))?,
            Kind::Folder => std::fs::create_dir_all(&path)?,
            Kind::Link(to) => {
                // Exists already if the pull was interrupted before.
                disk::remove(&path)?;
                std::fs::create_dir_all(path.parent().unwrap_or(whole))?;
                std::os::unix::fs::symlink(to, &path)?;
            }
        }
    }
    Ok(())
}

fn holds(path: &Path, digest: &Digest) -> bool {
    path.is_file() && Digest::of_file(path).is_ok_and(|d| d == *digest)
}

fn copy(from: &Path, to: &Path, folder: &Path) -> Result<(), RemoteError> {
    let temporary = folder.join(unique());
    std::fs::copy(from, &temporary).map_err(|e| Error::io("copy", from, e))?;
    Ok(place(&temporary, to)?)
}

fn place(from: &Path, to: &Path) -> Result<(), Error> {
    let moved = std::fs::create_dir_all(to.parent().unwrap_or(to)).and_then(|()| std::fs::rename(from, to));
    moved.map_err(|e| Error::io("write", to, e))
}
