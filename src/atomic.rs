//! A file that is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

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
/// name. On failure nothing is left behind.
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
    let (file, temporary) = Temporary::beside(path).map_err(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let result = write(&mut out)?;
    out.flush().map_err(failed)?;
    out.get_ref().sync_all().map_err(failed)?;
    drop(out); // Windows renames closed files only
    refuse_existing()?;
    temporary.rename(path).map_err(failed)?;
    Ok(result)
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

/// Removes the file unless it was renamed.
struct Temporary {
    path: Option<PathBuf>,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<(File, Self)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let path = path.with_file_name(hidden);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok((file, Self { path: Some(path) }))
    }

    fn rename(mut self, to: &Path) -> io::Result<()> {
        if let Some(from) = &self.path {
            fs::rename(from, to)?;
        }
        self.path = None;
        // The name is on the disk once its directory is. Not every system can do this, and the
        // file is complete either way.
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Ok(directory) = File::open(directory.unwrap_or(Path::new("."))) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
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
