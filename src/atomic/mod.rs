//! A file that is there whole or not at all.

mod kept;
mod temporary;

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kept::Kept;
pub use temporary::{Abandoned, Folder, abandon};
use temporary::{Temporary, directory_of};

/// As a path.
const STDOUT: &str = "-";
/// For the lock of a file that is replaced.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum AtomicError {
    /// There is a file of that name already.
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    /// The system refuses.
    #[error("cannot write {}", path.display())]
    Io {
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else wrote to the file meanwhile.
    #[error("{} was changed by something else meanwhile: it is left as it is", path.display())]
    Changed { path: PathBuf },
    /// A new file would not be the same to those who know the old one by another name.
    #[error("{} has {links} hard links, which a new file in its place would not have", path.display())]
    Linked { path: PathBuf, links: u64 },
    /// A device or a pipe.
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    /// A new file would not have what the old one has.
    #[error("cannot keep the owner, the group and the attributes of {}: it is left as it is", path.display())]
    NotKept {
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl AtomicError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } | Self::Io { .. } | Self::NotAFile { .. } => None,
            Self::Changed { .. } => Some("run it again on the new contents".into()),
            Self::Linked { .. } => Some("print the result, and write it into the file".into()),
            Self::NotKept { .. } => {
                Some("run it as the owner of the file, who is in its group".into())
            }
        }
    }

    fn io(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Has `write` fill a temporary file beside `path`, makes sure it is on the disk, and gives it that
/// name. On failure nothing is left behind; what a killed run left, the next one removes.
///
/// Without `force` an existing file is refused, before the work and again after it; with it, the
/// new file has the owner, the permissions and the attributes of the old one. A symbolic link stays
/// one: what it points to is written. A device, a pipe or an open file, by a name such as
/// `/dev/stdout`, is written into as it is, and so is stdout as `-`.
///
/// # Errors
/// [`AtomicError`], and whatever `write` returns.
pub fn write_atomically<T, E: From<AtomicError>>(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let failed = AtomicError::io(path);
    if let Some(file) = open_stream(path).map_err(failed)? {
        let mut out = BufWriter::new(file);
        let result = write(&mut out)?;
        out.flush().map_err(failed)?;
        return Ok(result);
    }
    let mut file = NewFile::begin(path, force)?;
    let result = write(file.out())?;
    file.commit()?;
    Ok(result)
}

/// The same of bytes that are there.
///
/// # Errors
/// [`AtomicError`].
pub fn write(path: &Path, force: bool, bytes: &[u8]) -> Result<(), AtomicError> {
    write_atomically(path, force, |out| {
        out.write_all(bytes).map_err(AtomicError::io(path))
    })
}

/// Whether [`write_atomically`] could write this file, as far as that is known before the work.
///
/// # Errors
/// [`AtomicError`].
pub fn check(path: &Path, force: bool) -> Result<(), AtomicError> {
    // To open a pipe and close it again would tell its reader that it was all.
    match is_stream(path) {
        true => Ok(()),
        false => NewFile::begin(path, force).map(|_| ()),
    }
}

/// What [`write_atomically`] does, in steps: a file without its name, which [`Self::commit`] gives
/// it. Dropped before that, nothing is left of it.
pub(crate) struct NewFile {
    path: PathBuf,
    target: PathBuf, // where symbolic links lead
    temporary: Temporary,
    kept: Option<Kept>,
    force: bool,
}

impl NewFile {
    /// Makes the temporary file.
    ///
    /// # Errors
    /// [`AtomicError`], where there is such a file already and no `force`, or none can be made.
    pub fn begin(path: &Path, force: bool) -> Result<Self, AtomicError> {
        let failed = AtomicError::io(path);
        let target = follow(path).map_err(failed)?;
        let exists = target.symlink_metadata().is_ok();
        if exists && !force {
            return Err(AtomicError::Exists { path: path.into() });
        }
        if target.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let kept = exists.then(|| Kept::of(&target)).transpose();
        Ok(Self {
            kept: kept.map_err(failed)?,
            temporary: Temporary::beside(&target, exists).map_err(failed)?,
            path: path.into(),
            target,
            force,
        })
    }

    /// The name that it is to have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its contents go.
    pub fn out(&mut self) -> &mut BufWriter<File> {
        &mut self.temporary.out
    }

    /// Makes sure that it is on the disk, and gives it its name.
    ///
    /// # Errors
    /// [`AtomicError`].
    pub fn commit(mut self) -> Result<(), AtomicError> {
        self.temporary.finish(self.kept.as_ref(), &self.path)?;
        let named = self.temporary.persist(&self.target, self.force);
        named.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => AtomicError::Exists {
                path: self.path.clone(),
            },
            _ => AtomicError::io(&self.path)(error),
        })?;
        sync(directory_of(&self.target));
        Ok(())
    }
}

impl Temporary {
    /// Puts the last of it on the disk, with what it is to have.
    fn finish(&mut self, kept: Option<&Kept>, path: &Path) -> Result<(), AtomicError> {
        let failed = AtomicError::io(path);
        self.out.flush().map_err(failed)?;
        let file = self.out.get_ref();
        if let Some(kept) = kept {
            give(kept, file, path)?;
        }
        file.sync_all().map_err(failed)
    }
}

fn give(kept: &Kept, file: &File, path: &Path) -> Result<(), AtomicError> {
    kept.give(file).map_err(|source| AtomicError::NotKept {
        path: path.into(),
        source,
    })
}

/// The name of a file is on the disk once its directory is. Not every system can do this, and the
/// file is complete either way.
fn sync(directory: &Path) {
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

/// Opens a device, a pipe, or what this process has open, by a name such as `/dev/stdout`: it is
/// written into as it is. `None` if the path is that of a file, or of nothing yet.
///
/// # Errors
/// When it cannot be written to.
pub fn open_stream(path: &Path) -> io::Result<Option<File>> {
    if is_stdout(path) {
        return stdout().map(Some); // opened anew, a file would be written from its beginning
    }
    if !is_stream(path) {
        return Ok(None);
    }
    // What a shell has opened to append to is not written over.
    let mut options = File::options();
    options.write(true).append(descriptor(path).is_some());
    options.open(path).map(Some)
}

/// Whether a name is one of stdout: `-`, `/dev/stdout`.
pub fn is_stdout(path: &Path) -> bool {
    let ours = format!("/proc/{}/fd/1", std::process::id());
    let names = [PathBuf::from(ours), PathBuf::from("/dev/fd/1")];
    path == Path::new(STDOUT) || descriptor(path).is_some_and(|path| names.contains(&path))
}

#[cfg(unix)]
fn stdout() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

fn is_stream(path: &Path) -> bool {
    let other = |found: fs::Metadata| !found.is_file() && !found.is_dir();
    path == Path::new(STDOUT) || path.metadata().is_ok_and(other) || descriptor(path).is_some()
}

/// The first name of a file that a process has open: `/proc/7/fd/1` of `/dev/stdout`.
fn descriptor(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_path_buf();
    loop {
        let folder = directory_of(&path).canonicalize().unwrap_or_default();
        let is_process = folder.starts_with("/proc") && folder.ends_with("fd");
        if cfg!(unix) && (is_process || folder == Path::new("/dev/fd")) {
            path.metadata().ok()?;
            return Some(folder.join(path.file_name()?));
        }
        match path.read_link() {
            // As many links as it likes, but no circle: those have no metadata.
            Ok(to) if path.metadata().is_ok() => path = folder.join(to),
            _ => return None,
        }
    }
}

/// What a name stands for: its symbolic links followed, of which the last may point nowhere yet.
fn follow(path: &Path) -> io::Result<PathBuf> {
    const MOST_LINKS: usize = 40; // as Linux
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match path.read_link() {
            Ok(to) => path = directory_of(&path).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Puts `new` in the place of an existing file that contains `old`, with the owner, the permissions
/// and the attributes that it has. At every moment there is one or the other under that name,
/// whole. A symbolic link stays one: what it points to is replaced.
///
/// # Errors
/// [`AtomicError`]. The file is left as it is.
pub fn replace(path: &Path, old: &[u8], new: &[u8]) -> Result<(), AtomicError> {
    let failed = AtomicError::io(path);
    let target = path.canonicalize().map_err(failed)?;
    // Runs wait for one another here, so that each sees what the one before it wrote.
    let _locked = lock(&target, LONGEST_WAIT).map_err(failed)?;
    check_file(path)?;
    let NewFile {
        mut temporary,
        kept,
        ..
    } = NewFile::begin(path, true)?;
    temporary.out.write_all(new).map_err(failed)?;
    temporary.finish(kept.as_ref(), path)?;
    if !temporary.replace(&target, old).map_err(failed)? {
        return Err(AtomicError::Changed { path: path.into() });
    }
    sync(directory_of(&target));
    Ok(())
}

/// Whether [`replace`] could replace this file, as far as that is known before the work.
///
/// # Errors
/// [`AtomicError`].
pub fn check_replaceable(path: &Path) -> Result<(), AtomicError> {
    check_file(path)?;
    let NewFile {
        temporary, kept, ..
    } = NewFile::begin(path, true)?;
    kept.map_or(Ok(()), |kept| give(&kept, temporary.out.get_ref(), path))
}

/// What is no regular file, has more names or cannot be written to is not replaced.
fn check_file(path: &Path) -> Result<(), AtomicError> {
    let failed = AtomicError::io(path);
    let found = path.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(AtomicError::NotAFile { path: path.into() });
    }
    #[cfg(unix)]
    if let links @ 2.. = std::os::unix::fs::MetadataExt::nlink(&found) {
        let path = path.into();
        return Err(AtomicError::Linked { path, links });
    }
    let opened = File::options().write(true).open(path);
    opened.map(|_| ()).map_err(failed)
}

/// Locks the file that has this name once the lock is there: whoever had it before may have put
/// another in its place. Only runs of this program need it.
#[cfg(unix)]
fn lock(path: &Path, longest: Duration) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt;
    let end = Instant::now() + longest;
    loop {
        let file = File::open(path)?;
        wait_for(&file, end);
        let (locked, named) = (file.metadata()?, path.metadata()?);
        if (locked.dev(), locked.ino()) == (named.dev(), named.ino()) {
            return Ok(file);
        }
    }
}

/// Locks a file that stands for this one: on Windows what is locked cannot be read.
#[cfg(not(unix))]
fn lock(path: &Path, longest: Duration) -> io::Result<File> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new(); // of the same key in every process
    path.hash(&mut hasher);
    let name = format!("diffucoder-{:016x}.lock", hasher.finish());
    let file = File::create(std::env::temp_dir().join(name))?;
    wait_for(&file, Instant::now() + longest);
    Ok(file)
}

/// Locks a file. Some file systems have no locks, and another program's is not waited for without
/// end: then it is left without one.
fn wait_for(file: &File, end: Instant) {
    while let Err(TryLockError::WouldBlock) = file.try_lock()
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests;
