//! Files that have to be apart: nothing that is read is written over, and nothing written twice.

use std::path::{Path, PathBuf};

use crate::cli::usage::UsageError;

/// Checks it before there is any work; `-` is stdin in `read`, and stdout in `written`.
///
/// # Errors
/// Wrong usage, with the name of the file that would be lost.
pub fn check_apart(read: &[&Path], written: &[&Path]) -> Result<(), UsageError> {
    for (number, &file) in written.iter().enumerate() {
        let mut others = read.iter().chain(&written[..number]);
        if file != Path::new("-") && others.any(|other| is_same(file, other)) {
            let message = match read.iter().any(|other| is_same(file, other)) {
                true => format!("{} would be replaced by what is made of it", file.display()),
                false => format!("two results would be written to {}", file.display()),
            };
            return Err(UsageError::with_hint(message, "name another file"));
        }
    }
    Ok(())
}

/// Whether both name one file, however they are spelt; pipes and devices are none.
fn is_same(file: &Path, other: &Path) -> bool {
    match identity(file) {
        Some(found) => identity(other) == Some(found),
        None => !file.exists() && place(file).is_some_and(|found| place(other) == Some(found)),
    }
}

/// Where a file would be that is not there yet.
fn place(file: &Path) -> Option<PathBuf> {
    let folder = match file.parent()? {
        here if here.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    Some(folder.canonicalize().ok()?.join(file.file_name()?))
}

/// What a file is known by, without opening it: that would take what is in a pipe.
#[cfg(unix)]
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::fs::{File, Metadata, metadata};
    use std::io;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let about = match file == Path::new("-") {
        true => File::from(io::stdin().as_fd().try_clone_to_owned().ok()?).metadata(),
        false => metadata(file),
    };
    let about = about.ok().filter(Metadata::is_file)?;
    Some((about.dev(), about.ino()))
}

#[cfg(not(unix))]
fn identity(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok().filter(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_has_many_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        std::fs::write(&a, "x").expect("written");
        let also = folder.path().join(".").join("a");
        assert!(is_same(&a, &also) && is_same(&also, &a));
        assert!(!is_same(&a, &b) && !is_same(&b, &a));
        let b_too = folder.path().join(".").join("b");
        assert!(is_same(&b, &b_too), "though neither is there yet");
        assert!(check_apart(&[&a], &[&b]).is_ok());
        assert!(check_apart(&[&a], &[Path::new("-")]).is_ok());
        assert!(check_apart(&[&b, &a], &[&also]).is_err());
        assert!(check_apart(&[&a], &[&b, &b_too]).is_err());
        #[cfg(unix)]
        {
            let null = Path::new("/dev/null");
            assert!(check_apart(&[null], &[null, null]).is_ok());
            let link = folder.path().join("link");
            std::os::unix::fs::symlink("a", &link).expect("linked");
            assert!(check_apart(&[&link], &[&a]).is_err());
            let hard = folder.path().join("hard");
            std::fs::hard_link(&a, &hard).expect("linked");
            assert!(check_apart(&[&a], &[&hard]).is_err());
        }
    }
}
