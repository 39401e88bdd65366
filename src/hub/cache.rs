//! The Hub's cache on disk, in the layout that Python's huggingface_hub shares:
//! `models--owner--name/{blobs/<etag>, refs/<revision>, snapshots/<commit>/<file>}`, where a
//! snapshot's files are links to blobs, and `.no_exist/<commit>/<file>` says that a file is absent.
//!
//! Downloads in progress stay apart, in `.incoming`, so that whatever the layout shows is verified.
//! Source: huggingface_hub, "Understand caching"; `_create_symlink` for systems without links.

use super::error::HubError;
use super::spec::RepoId;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One repository's part of the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    name: String,
    folder: PathBuf,
}

impl RepoCache {
    pub(super) fn new(root: &Path, repo: &RepoId) -> Self {
        let name = format!("models--{}", repo.as_str().replace('/', "--"));
        Self {
            root: root.to_owned(),
            folder: root.join(&name),
            name,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit a revision stands for: itself, or what an earlier run wrote down.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        make_parent(&path)?;
        fs::write(&path, commit).map_err(at(&path))
    }

    /// A file that is here; a link whose blob is gone does not count.
    pub(super) fn find(&self, commit: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file)).filter(|path| path.is_file())
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Names of the files of a snapshot that are here, those in folders left out.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let entries = fs::read_dir(self.snapshot(commit)).into_iter().flatten();
        let here = entries.flatten().filter(|entry| entry.path().is_file());
        here.filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    pub(super) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.folder
            .join(".no_exist")
            .join(commit)
            .join(file)
            .is_file()
    }

    /// Saves the next run a question; a cache that cannot be written to is asked again.
    pub(super) fn mark_absent(&self, commit: &str, file: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(file);
        let _ = make_parent(&path).map(|()| fs::write(&path, ""));
    }

    /// Keeps other processes, Python's included, from downloading the same blob: the lock is theirs.
    /// Calls `on_wait` if it has to wait.
    pub(super) fn lock(&self, etag: &str, on_wait: impl FnOnce()) -> Result<Arc<File>, HubError> {
        let path = self
            .root
            .join(".locks")
            .join(&self.name)
            .join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(at(&path))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                on_wait();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match locked {
            // Some network file systems have no locks; Python goes on without them too.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(at(&path)(error)),
            _ => Ok(Arc::new(file)),
        }
    }

    /// Where one blob is downloaded to. The name is short because Windows limits paths.
    pub(super) fn incoming(&self, etag: &str) -> Incoming {
        let dir = self
            .folder
            .join(".incoming")
            .join(etag.get(..16).unwrap_or(etag));
        let blobs = dir.join(&self.name).join("blobs");
        Incoming {
            part: blobs.join(format!("{etag}.part")),
            blob: blobs.join(etag),
            dir,
        }
    }

    /// A blob that is already here because another revision has the same file.
    pub(super) fn has_blob(&self, etag: &str, size_bytes: u64) -> bool {
        file_bytes(&self.folder.join("blobs").join(etag)) == Some(size_bytes)
    }

    /// Bytes of this blob that need no download.
    pub(super) fn present_bytes(&self, etag: &str, size_bytes: u64) -> u64 {
        let incoming = self.incoming(etag);
        let staged = file_bytes(&incoming.blob).or_else(|| file_bytes(&incoming.part));
        if self.has_blob(etag, size_bytes) {
            return size_bytes;
        }
        staged.filter(|bytes| *bytes <= size_bytes).unwrap_or(0)
    }

    /// Moves a verified blob into place (unless it is there) and links the snapshot's file to it.
    pub(super) fn install(
        &self,
        etag: &str,
        commit: &str,
        file: &str,
    ) -> Result<PathBuf, HubError> {
        let (incoming, blob) = (self.incoming(etag), self.folder.join("blobs").join(etag));
        let pointer = self.snapshot(commit).join(file);
        make_parent(&blob)?;
        make_parent(&pointer)?;
        if incoming.blob.exists() {
            fs::rename(&incoming.blob, &blob).map_err(at(&blob))?;
        }
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(&pointer)(error));
            }
            _ => {}
        }
        let to_folder = "../".repeat(file.split('/').count() + 1);
        if symlink(&format!("{to_folder}blobs/{etag}"), &pointer).is_err() {
            fs::rename(&blob, &pointer).map_err(at(&pointer))?;
        }
        incoming.discard()?;
        Ok(pointer)
    }

    /// # Errors
    /// `NotEnoughDisk` if the cache's disk has less than this to give.
    pub(super) fn check_free(&self, needed_bytes: u64) -> Result<(), HubError> {
        let existing = self
            .root
            .ancestors()
            .find(|dir| dir.is_dir())
            .unwrap_or(Path::new("."));
        match fs4::available_space(existing) {
            Ok(free_bytes) if free_bytes < needed_bytes => Err(HubError::NotEnoughDisk {
                needed_bytes,
                free_bytes,
                dir: self.root.clone(),
            }),
            // A file system that cannot tell will say so when it is full.
            _ => Ok(()),
        }
    }
}

/// The places of one download in progress; hf-hub decides their names below `dir`.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) dir: PathBuf,
    pub(super) part: PathBuf,
    pub(super) blob: PathBuf,
}

impl Incoming {
    pub(super) fn discard(&self) -> Result<(), HubError> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.dir)(error)),
            _ => {
                // Goes only once it is empty.
                let _ = self.dir.parent().map(fs::remove_dir);
                Ok(())
            }
        }
    }
}

/// A git commit, or the longer kind that git is moving to.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn file_bytes(path: &Path) -> Option<u64> {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|meta| meta.len())
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    move |source| HubError::Cache {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn make_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(at(parent)),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target.replace('/', "\\"), link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
