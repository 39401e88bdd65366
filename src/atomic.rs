//! A file that is there whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    /// There is a file of that name already.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else wrote to the file meanwhile.
    #[error("{} was changed by something else meanwhile: it is left as it is", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl AtomicError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } | Self::Io { .. } => None,
            Self::Changed { .. } => Some("run it again on the new contents".into()),
        }
    }
}

/// Has `write` fill a temporary file beside `path`, makes sure it is on the disk, and gives it that
/// name. On failure nothing is left behind; what a killed run left, the next one removes.
///
/// Without `force` an existing file is refused, before the work and again after it.
///
/// # Errors
/// [`AtomicError`], and whatever `write` returns.
pub fn write_atomically<T, E: From<AtomicError>>(
    path: &Path,
    force: bool,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |source| AtomicError::Io {
        path: path.to_path_buf(),
        source,
    };
    let refuse_existing = || match !force && path.symlink_metadata().is_ok() {
        true => Err(AtomicError::Exists {
            path: path.to_path_buf(),
        }),
        false => Ok(()),
    };
    refuse_existing()?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (file, temporary) = temporary_for(path, directory).map_err(failed)?.into_parts();
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let result = write(&mut out)?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)?;
    refuse_existing()?;
    temporary
        .persist(path)
        .map_err(|error| failed(error.error))?;
    // The name is on the disk once its directory is. Not every system can do this, and the file is
    // complete either way.
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
    Ok(result)
}

const RANDOM_LETTERS: usize = 6;

/// `.NAME.xxxxxx.part` in `directory`, locked while this process writes it. That tells it from the
/// temporaries of killed runs for the same file, which are removed first.
fn temporary_for(path: &Path, directory: &Path) -> io::Result<NamedTempFile<File>> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    let is_temporary = |other: &OsStr| {
        let random = other
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes());
        let random = random.and_then(|random| random.strip_suffix(b".part"));
        random.is_some_and(|random| random.len() == RANDOM_LETTERS)
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let unlocked = || File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if is_temporary(&entry.file_name()) && unlocked() {
            let _ = fs::remove_file(entry.path()); // only tidying: the name is not needed
        }
    }
    // Not the crate's own way to open it, which leaves the file to this user alone.
    let create = |path: &Path| {
        let file = File::options().write(true).create_new(true).open(path)?;
        let _ = file.try_lock(); // some file systems have no locks: nothing is removed there
        Ok(file)
    };
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        .rand_bytes(RANDOM_LETTERS)
        .make_in(directory, create)
}

/// Puts `new` in the place of an existing file that contains `old`, with the permissions that it
/// has. At every moment there is one or the other under that name, whole. A symbolic link stays
/// one: what it points to is replaced.
///
/// # Errors
/// [`AtomicError`]. The file is left as it is.
pub fn replace(path: &Path, old: &[u8], new: &[u8]) -> Result<(), AtomicError> {
    let failed = |source| AtomicError::Io {
        path: path.to_path_buf(),
        source,
    };
    let target = fs::canonicalize(path).map_err(failed)?;
    let permissions = fs::metadata(&target).map_err(failed)?.permissions();
    write_atomically(&target, true, |out| {
        out.write_all(new).map_err(failed)?;
        out.get_ref().set_permissions(permissions).map_err(failed)?;
        match fs::read(&target).map_err(failed)? == old {
            true => Ok(()),
            false => Err(AtomicError::Changed {
                path: path.to_path_buf(),
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, force: bool, text: &str) -> Result<(), AtomicError> {
        write_atomically(path, force, |out| {
            let source = match text {
                "fail" => Err(io::Error::other("no")),
                text => out.write_all(text.as_bytes()),
            };
            source.map_err(|source| AtomicError::Io {
                path: path.into(),
                source,
            })
        })
    }

    #[test]
    fn whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        assert!(write(&path, false, "fail").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        write(&path, false, "one").unwrap();
        assert!(matches!(
            write(&path, false, "two"),
            Err(AtomicError::Exists { .. })
        ));
        assert!(write(&path, true, "fail").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, true, "two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replaced_file_keeps_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.py");
        fs::write(&path, "old").unwrap();
        assert!(matches!(
            replace(&path, b"other", b"new"),
            Err(AtomicError::Changed { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&path, b"old", b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(replace(&directory.path().join("none"), b"", b"").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    /// A process id names the temporary of a killed run for ever where every run has the same one.
    #[test]
    fn what_a_killed_run_left_is_removed_and_a_running_one_is_not_disturbed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        let part = |name: &str| directory.path().join(name);
        let (dead, running) = (
            part(".model.gguf.aaaaaa.part"),
            part(".model.gguf.bbbbbb.part"),
        );
        let strangers = [part(".model.gguf.part"), part(".other.cccccc.part")];
        for file in strangers.iter().chain([&dead]) {
            fs::write(file, "half").unwrap();
        }
        let lock = File::create(&running).unwrap();
        lock.lock().unwrap();
        write(&path, false, "whole").unwrap();
        assert!(!dead.exists());
        assert!(running.exists() && strangers.iter().all(|file| file.exists()));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_file_has_the_permissions_of_any_other() {
        let directory = tempfile::tempdir().unwrap();
        let [atomic, plain] = ["atomic", "plain"].map(|name| directory.path().join(name));
        write(&atomic, false, "text").unwrap();
        fs::write(&plain, "text").unwrap();
        let permissions = |path| fs::metadata(path).unwrap().permissions();
        assert_eq!(permissions(&atomic), permissions(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_and_links_stay() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (
            directory.path().join("run.py"),
            directory.path().join("link"),
        );
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("run.py", &link).unwrap();
        replace(&link, b"old", b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o750
        );
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("run.py"));
    }
}
