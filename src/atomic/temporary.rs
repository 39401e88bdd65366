//! The file that is written before it gets its name, and what becomes of it however a run ends.
//!
//! It is called `.NAME.xxxxxx.diffucoder` and is locked while its process lives. That tells it from
//! what a killed run left, which the next one for the same file removes. A run that a signal ends
//! removes its own: see [`abandon`].

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempPath;

const RANDOM_LETTERS: usize = 6;
/// What no other program calls its files.
const SUFFIX: &str = ".diffucoder";
/// Behind the name of what must not be tidied away: a text that something else wrote meanwhile.
const KEPT_SUFFIX: &str = ".orig";
/// Bytes of NAME, so that the whole is no longer than file systems take.
const MOST_BYTES_OF_NAME: usize = 200;
/// Before a name is asked for again: in all nearly twice as long.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Those of this process. Whoever makes, names or removes one holds the lock.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, no file that is being written gets its name and no new one is begun.
#[must_use]
pub struct Abandoned(#[expect(dead_code, reason = "held")] MutexGuard<'static, Vec<PathBuf>>);

/// Removes every file that this process is writing and every [`Folder`], for a process that is
/// about to end.
pub fn abandon() -> Abandoned {
    let mut temporaries = temporaries();
    for path in temporaries.drain(..) {
        // The process ends, and there is nobody to tell.
        let _ = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
    }
    Abandoned(temporaries)
}

/// An empty folder among the system's temporary ones, which is removed with what is in it.
pub struct Folder(PathBuf);

impl Folder {
    /// One for this user alone.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> io::Result<Self> {
        let mut temporaries = temporaries();
        let path = tempfile::tempdir()?.keep();
        temporaries.push(path.clone());
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let mut temporaries = temporaries();
        forget(&mut temporaries, &self.0);
        let _ = fs::remove_dir_all(&self.0); // as far as it goes: nothing depends on it
    }
}

/// A file without its name.
pub(super) struct Temporary {
    pub out: BufWriter<File>,
    path: Option<TempPath>,
}

impl Temporary {
    /// Beside `target`, and for this user alone where it `is_private`.
    pub fn beside(target: &Path, is_private: bool) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        // Of a name that is too long this one is shorter.
        if let Err(error) = target.symlink_metadata()
            && error.kind() == io::ErrorKind::InvalidFilename
        {
            return Err(error);
        }
        let mut prefix = OsString::from(".");
        match name.to_str() {
            Some(name) => {
                let mut end = name.len().min(MOST_BYTES_OF_NAME);
                while !name.is_char_boundary(end) {
                    end -= 1;
                }
                prefix.push(&name[..end]);
            }
            None => prefix.push(name),
        }
        prefix.push(".");
        let directory = directory_of(target);
        remove_dead(directory, &prefix);
        let mut temporaries = temporaries();
        let (file, path) = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(SUFFIX)
            .rand_bytes(RANDOM_LETTERS)
            .make_in(directory, |path| create(path, is_private))?
            .into_parts();
        temporaries.push(path.to_path_buf());
        Ok(Self {
            out: BufWriter::with_capacity(1 << 20, file),
            path: Some(path),
        })
    }

    /// Gives it the name `target`: in the place of a file of that name, or else only where there is
    /// none.
    pub fn persist(mut self, target: &Path, replace: bool) -> io::Result<()> {
        let mut temporaries = temporaries();
        let Some(path) = self.path.take() else {
            return Ok(());
        };
        forget(&mut temporaries, &path);
        if replace {
            return put(path, target);
        }
        match path.persist_noclobber(target) {
            // A file system that cannot do this in one step.
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                put(error.path, target)
            }
            done => Ok(done?),
        }
    }

    /// Gives it the name `target`, if the file of that name contains `old`; says whether it did.
    ///
    /// The two change names in one step, and only then is the old one looked at. So there is no
    /// moment between the look and the change in which another program could write a newer one.
    pub fn replace(mut self, target: &Path, old: &[u8]) -> io::Result<bool> {
        let mut temporaries = temporaries();
        let Some(path) = self.path.take() else {
            return Ok(false);
        };
        forget(&mut temporaries, &path);
        if fs::read(target)? != old {
            return Ok(false);
        }
        if swap(&path, target).is_err() {
            return put(path, target).map(|()| true);
        }
        settle(path, target, old)
    }
}

/// Gives a file the name `target`. Windows denies that while another program has either open, as
/// those that look for viruses have every new file for a moment.
fn put(mut path: TempPath, target: &Path) -> io::Result<()> {
    const DENIED: [Option<i32>; 2] = [Some(5), Some(32)]; // ACCESS_DENIED, SHARING_VIOLATION
    let mut pause = Duration::from_millis(10);
    loop {
        match path.persist(target) {
            Err(denied)
                if cfg!(windows)
                    && pause < LONGEST_PAUSE
                    && DENIED.contains(&denied.error.raw_os_error()) =>
            {
                path = denied.path;
            }
            done => return Ok(done?),
        }
        thread::sleep(pause);
        pause *= 2;
    }
}

/// What had the name `target` until now is at `path`: if that is not `old`, it gets its name back.
/// Where it cannot, it is kept under another one.
fn settle(path: TempPath, target: &Path, old: &[u8]) -> io::Result<bool> {
    let found = fs::read(&path);
    if found.as_ref().is_ok_and(|found| found == old) {
        return Ok(true);
    }
    let Err(error) = swap(&path, target) else {
        return found.map(|_| false);
    };
    let mut name = path.as_os_str().to_owned();
    name.push(KEPT_SUFFIX);
    let kept = match path.persist_noclobber(&name) {
        Ok(()) => PathBuf::from(name),
        Err(error) => error.path.keep()?,
    };
    let kept = kept.display();
    Err(io::Error::other(format!(
        "{error}; what it held meanwhile is in {kept}"
    )))
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Held until the file is gone: a process that ends in between would leave it.
        let mut temporaries = temporaries();
        if let Some(path) = self.path.take() {
            forget(&mut temporaries, &path);
        }
    }
}

fn forget(temporaries: &mut Vec<PathBuf>, path: &Path) {
    temporaries.retain(|other| other != path);
}

/// Where a file is.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the file and locks it. Between the two, another run can take it for a dead one and remove
/// it: then another name is wanted, which is what this error means to `tempfile`.
fn create(path: &Path, is_private: bool) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if is_private {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = is_private;
    let file = options.open(path)?;
    let _ = file.lock(); // some file systems have no locks: nothing is removed there
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        _ => Ok(file),
    }
}

/// Removes what killed runs have left of a file.
fn remove_dead(directory: &Path, prefix: &OsStr) {
    let is_temporary = |name: &OsStr| {
        let random = name.as_encoded_bytes();
        let random = random.strip_prefix(prefix.as_encoded_bytes());
        let random = random.and_then(|random| random.strip_suffix(SUFFIX.as_bytes()));
        random.is_some_and(|random| random.len() == RANDOM_LETTERS)
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_temporary(&entry.file_name()) {
            continue;
        }
        // The lock is held until the name is gone: see `create`.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path()); // only tidying: the name is not needed
        }
    }
}

/// Lets two files change names.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn swap(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_would_remove_is_what_is_being_written() {
        let directory = tempfile::tempdir().unwrap();
        let listed = || {
            let all = temporaries();
            let mut here = all.iter().filter(|path| path.starts_with(&directory));
            (here.next().cloned(), here.count())
        };
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let begun = [&one, &other].map(|path| Temporary::beside(path, false).unwrap());
        assert_eq!(listed().1, 1, "one of them, and as many more");
        let [first, second] = begun;
        let name = second.path.as_ref().map(|path| path.to_path_buf());
        drop(first);
        assert_eq!(listed(), (name, 0));
        second.persist(&other, false).unwrap();
        assert_eq!(listed(), (None, 0));
    }

    /// A text of somebody else's that cannot get its name back is not lost.
    #[test]
    fn what_has_no_name_any_more_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("part.py");
        let path = Temporary::beside(&target, false).unwrap().path.take();
        let path = path.unwrap();
        fs::write(&path, "newer").unwrap();
        let error = settle(path, &target, b"old").unwrap_err().to_string();
        Temporary::beside(&target, false).unwrap(); // removes what is dead
        let kept = error.split(" is in ").last().unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), "newer");
    }

    /// Opened so that nobody else may, for a while.
    #[test]
    #[cfg(windows)]
    fn a_file_that_is_open_elsewhere_is_waited_for() {
        use std::os::windows::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("part.py");
        fs::write(&target, "old").unwrap();
        let opened = File::options().read(true).share_mode(0).open(&target);
        let new = Temporary::beside(&target, false).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                drop(opened);
            });
            new.persist(&target, true).unwrap();
        });
        assert_eq!(fs::read(&target).unwrap(), b"");
    }
}
