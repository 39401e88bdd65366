//! The Hub's cache on disk, in the layout that Python's huggingface_hub shares:
//! `models--owner--name/{blobs/<etag>, refs/<revision>, snapshots/<commit>/<file>}`, where a
//! snapshot's files are links to blobs, and `.no_exist/<commit>/<file>` says that a file is absent.
//!
//! A blob under its own name is verified; until then it is called `<etag>.incomplete`, by older
//! versions of Python's library too (from 2.0 on it resumes nothing). hf-hub knows the names of the
//! folders.
//! Source: huggingface_hub, "Understand caching"; `_create_symlink` for systems without links.

use super::error::HubError;
use super::spec::{RepoId, is_commit};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{MAIN_SEPARATOR_STR, Path, PathBuf};

/// One repository's part of the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    id: String,
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(root: &Path, id: &RepoId) -> Self {
        let name = Repo::model(id.to_string()).folder_name();
        Self {
            root: root.to_owned(),
            id: id.to_string(),
            folder: root.join(&name),
            locks: root.join(".locks").join(name),
        }
    }

    fn at_revision(&self, revision: &str) -> CacheRepo {
        let (id, revision) = (self.id.clone(), revision.to_owned());
        Cache::new(self.root.clone()).repo(Repo::with_revision(id, RepoType::Model, revision))
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
        self.at_revision(revision)
            .create_ref(commit)
            .map_err(at(&path))
    }

    /// A file that is here; a link whose blob is gone does not count, nor does one that is empty.
    pub(super) fn find(&self, commit: &str, file: &str) -> Option<PathBuf> {
        let path = self.snapshot(commit).join(file);
        some_bytes(&path).map(|_| path)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.at_revision("main").pointer_path(commit)
    }

    /// Names of the files of a snapshot that are here.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        files_in(&self.snapshot(commit))
    }

    pub(super) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        self.no_exist(commit, file).is_file()
    }

    /// Saves the next run a question; a cache that cannot be written to is asked again.
    pub(super) fn mark_absent(&self, commit: &str, file: &str) {
        let path = self.no_exist(commit, file);
        let _ = make_parent(&path).map(|()| fs::write(&path, ""));
    }

    fn no_exist(&self, commit: &str, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit).join(file)
    }

    /// Keeps other processes, Python's included, from downloading the same blob: the lock is
    /// theirs. Calls `on_wait` if it has to wait.
    pub(super) fn lock(&self, etag: &str, on_wait: impl FnOnce()) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::options()
            .create(true)
            .read(true) // Windows locks no file that can be appended to alone
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
            _ => Ok(file),
        }
    }

    /// Keeps all downloads into this repository away while the locks are held.
    ///
    /// # Errors
    /// `Downloading` if there is one.
    pub(super) fn lock_all(&self) -> Result<Vec<File>, HubError> {
        let paths = below(&self.locks).into_iter();
        let files: Vec<File> = paths.filter_map(|path| File::open(path).ok()).collect();
        let is_taken = |file: &File| matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        match files.iter().any(is_taken) {
            true => Err(HubError::Downloading {
                model: self.id.clone(),
            }),
            false => Ok(files),
        }
    }

    fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a blob grows until it is verified.
    pub(super) fn part(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    /// A blob that is already here because another revision has the same file.
    pub(super) fn has_blob(&self, etag: &str, size_bytes: Option<u64>) -> bool {
        let found = file_bytes(&self.blob(etag));
        found.is_some_and(|found| size_bytes.is_none_or(|size| size == found))
    }

    /// Bytes of this blob that need no download.
    pub(super) fn present_bytes(&self, etag: &str, size_bytes: u64) -> u64 {
        if self.has_blob(etag, Some(size_bytes)) {
            return size_bytes;
        }
        let part = file_bytes(&self.part(etag));
        part.filter(|bytes| *bytes <= size_bytes).unwrap_or(0)
    }

    /// Gives a verified part its name as a blob, once it is on the disk: a blob is not verified
    /// again.
    pub(super) fn complete(&self, etag: &str) -> Result<(), HubError> {
        let blob = self.blob(etag);
        let part = File::options().append(true).open(self.part(etag));
        if part.is_err() && self.has_blob(etag, None) {
            return Ok(()); // where nothing locks, another process was faster
        }
        part.and_then(|part| part.sync_all()).map_err(at(&blob))?;
        fs::rename(self.part(etag), &blob).map_err(at(&blob))
    }

    /// Links the snapshot's file to its blob; where links cannot be made or are not followed, as on
    /// Windows and some network drives, the blob itself moves there.
    pub(super) fn install(
        &self,
        etag: &str,
        commit: &str,
        file: &str,
    ) -> Result<PathBuf, HubError> {
        let pointer = self.snapshot(commit).join(file);
        make_parent(&pointer)?;
        match fs::remove_file(&pointer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(&pointer)(error));
            }
            _ => {}
        }
        let to_folder = "../".repeat(file.split('/').count() + 1);
        let linked = symlink(&format!("{to_folder}blobs/{etag}"), &pointer);
        if linked.is_err() || !pointer.is_file() {
            fs::rename(self.blob(etag), &pointer).map_err(at(&pointer))?;
        }
        // What an earlier download of the same blob may have left.
        let _ = fs::remove_file(self.part(etag));
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

/// Everything below a folder that is no folder; links are not followed.
pub(super) fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.flat_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => below(&entry.path()),
        _ => vec![entry.path()],
    });
    paths.collect()
}

/// What a path below a folder is called there, with `/` between; `None` if that is no UTF-8.
pub(super) fn name_in(dir: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(dir).ok()?.to_str()?;
    Some(name.replace(MAIN_SEPARATOR_STR, "/"))
}

/// Names of the files below a folder; a link is one if it leads to a file.
pub(super) fn files_in(dir: &Path) -> Vec<String> {
    let files = below(dir).into_iter().filter(|path| path.is_file());
    files.filter_map(|path| name_in(dir, &path)).collect()
}

pub(super) fn file_bytes(path: &Path) -> Option<u64> {
    fs::metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|meta| meta.len())
}

/// The size of a file that is not empty.
pub(super) fn some_bytes(path: &Path) -> Option<u64> {
    file_bytes(path).filter(|&bytes| bytes > 0)
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
