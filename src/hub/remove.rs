//! Takes a model out of the cache: a whole repository, or one GGUF file of it.

use super::cache::{RepoCache, at, below, file_bytes, name_in};
use super::cached::{describe, folder_bytes};
use super::error::HubError;
use super::gguf::Candidate;
use super::options::HubOptions;
use super::spec::HubModel;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes what is downloaded of a model, and says how many bytes that freed.
///
/// Of a model that is one GGUF file, or several parts, the rest of its repository stays, and so
/// does a blob that another file of the cache is a link to.
///
/// # Errors
/// `NotDownloaded`, `Downloading` while somebody fetches it, or `Cache`.
pub fn remove(model: &HubModel, options: &HubOptions) -> Result<u64, HubError> {
    let cache = RepoCache::new(&options.cache_dir, &model.id);
    let not_downloaded = || HubError::NotDownloaded {
        model: model.to_string(),
        cache: options.cache_dir.clone(),
    };
    let folder = cache.folder();
    match folder.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_downloaded()),
        Err(error) => return Err(at(folder)(error)),
        Ok(about) if about.is_symlink() => {
            let error = io::Error::other("it is a link: remove what it points to");
            return Err(at(folder)(error));
        }
        Ok(_) => {}
    }
    let _locks = cache.lock_all()?;
    let Some(wanted) = &model.gguf else {
        return remove_all(folder);
    };
    let found = describe(&options.cache_dir, model.id.clone());
    let first = found.as_ref().and_then(|found| found.gguf(wanted));
    let first = &first.ok_or_else(not_downloaded)?.name;

    let (mut gone, mut kept) = (Vec::new(), BTreeSet::new()); // files and blobs
    let snapshots = cache.snapshot("");
    for file in below(&snapshots) {
        let inside = name_in(&snapshots, &file);
        let name = inside.as_ref().and_then(|inside| inside.split_once('/')); // behind the commit
        match name.is_some_and(|(_, name)| Candidate::of(name).file == *first) {
            true => gone.push(file),
            false => drop(kept.insert(blob_of(&file))),
        }
    }
    if kept.is_empty() {
        return remove_all(folder);
    }
    let blobs: BTreeSet<PathBuf> = gone.iter().map(|file| blob_of(file)).collect();
    let ours = blobs.difference(&kept);
    // A link that leads out of this repository is removed, but not what it leads to.
    let root = fs::canonicalize(folder).map_err(at(folder))?;
    let mut freed = 0;
    for blob in ours.filter(|blob| blob.starts_with(&root)) {
        freed += file_bytes(blob).unwrap_or(0);
        fs::remove_file(blob).map_err(at(blob))?;
    }
    for link in gone.iter().filter(|file| file.symlink_metadata().is_ok()) {
        fs::remove_file(link).map_err(at(link))?;
    }
    Ok(freed)
}

fn remove_all(folder: &Path) -> Result<u64, HubError> {
    let freed = folder_bytes(folder);
    fs::remove_dir_all(folder).map_err(at(folder))?;
    Ok(freed)
}

/// What a file of a snapshot is a link to, or itself.
fn blob_of(file: &Path) -> PathBuf {
    fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf())
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::hub::ModelSpec;
    use std::os::unix::fs::symlink;

    const REPO: &str = "models--o--r";

    /// A cache with a repository of blobs, each a file of snapshots: (commit, name, blob).
    fn cache(files: &[(char, &str, &str)]) -> (tempfile::TempDir, HubOptions) {
        let root = tempfile::tempdir().unwrap();
        let repo = root.path().join(REPO);
        fs::create_dir_all(repo.join("blobs")).unwrap();
        for (commit, name, blob) in files {
            fs::write(repo.join("blobs").join(blob), blob).unwrap();
            let file = repo
                .join("snapshots")
                .join(commit.to_string().repeat(40))
                .join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            symlink(repo.join("blobs").join(blob), file).unwrap();
        }
        let mut options = HubOptions::from_env();
        options.cache_dir = root.path().to_path_buf();
        (root, options)
    }

    fn remove(name: &str, options: &HubOptions) -> Result<u64, HubError> {
        match ModelSpec::parse(name).unwrap() {
            ModelSpec::Hub(model) => super::remove(&model, options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_goes_and_the_blobs_of_others_stay() {
        let (root, options) = cache(&[
            ('a', "m-q4_0.gguf", "four"),
            ('a', "m-q8_0.gguf", "eight"),
            ('b', "m-q4_0.gguf", "four"),
            ('b', "copy-q8_0-of-that.txt", "eight"),
        ]);
        let blobs = root.path().join(REPO).join("blobs");
        assert_eq!(remove("o/r:q4_0", &options).unwrap(), 4);
        assert!(!blobs.join("four").exists() && blobs.join("eight").exists());
        assert_eq!(
            remove("o/r:q8_0", &options).unwrap(),
            0,
            "it is a copy's too"
        );
        assert!(blobs.join("eight").exists());
        let gone = remove("o/r:q4_0", &options).unwrap_err();
        assert!(matches!(gone, HubError::NotDownloaded { .. }), "{gone}");
        assert_eq!(remove("o/r", &options).unwrap(), 5);
        assert!(!root.path().join(REPO).exists());
    }

    #[test]
    fn files_of_every_commit_are_listed_and_go() {
        let (_root, options) =
            cache(&[('a', "m-q4_0.gguf", "four"), ('b', "m-q8_0.gguf", "eight")]);
        let found = crate::hub::cached(&options).unwrap();
        let names = found[0].ggufs.iter().map(|file| &*file.name);
        assert_eq!(
            names.collect::<BTreeSet<_>>(),
            BTreeSet::from(["m-q4_0.gguf", "m-q8_0.gguf"])
        );
        assert_eq!(remove("o/r:q4_0", &options).unwrap(), 4);
        assert_eq!(remove("o/r:q8_0", &options).unwrap(), 5);
    }

    #[test]
    fn all_parts_go_together() {
        let (root, options) = cache(&[
            ('a', "Q8_0/m-q8_0-00001-of-00002.gguf", "one"),
            ('a', "Q8_0/m-q8_0-00002-of-00002.gguf", "two"),
            ('b', "Q8_0/m-q8_0-00002-of-00002.gguf", "older"),
            ('a', "Q8_0/m-q8_0-00002-of-00003.gguf", "other's"),
            ('a', "Q8_0/more-q8_0-00002-of-00002.gguf", "another's"),
        ]);
        let blobs = root.path().join(REPO).join("blobs");
        assert_eq!(remove("o/r:q8_0", &options).unwrap(), 3 + 3 + 5);
        let left = fs::read_dir(blobs).unwrap().flatten();
        let mut left: Vec<_> = left.map(|blob| blob.file_name()).collect();
        left.sort();
        assert_eq!(left, ["another's", "other's"]);
    }

    #[test]
    fn the_last_file_takes_the_repository_along() {
        let (root, options) = cache(&[('a', "m-q4_0.gguf", "four")]);
        assert_eq!(remove("o/r:q4_0", &options).unwrap(), 4);
        assert!(!root.path().join(REPO).exists());
    }

    #[test]
    fn nothing_outside_the_repository_is_touched() {
        let (root, options) = cache(&[('a', "config.json", "five")]);
        let outside = root.path().join("mine.gguf");
        fs::write(&outside, "mine").unwrap();
        let folder = root
            .path()
            .join(REPO)
            .join("snapshots")
            .join("a".repeat(40));
        symlink(&outside, folder.join("m-q4_0.gguf")).unwrap();
        assert_eq!(remove("o/r:q4_0", &options).unwrap(), 0);
        assert!(outside.exists() && !folder.join("m-q4_0.gguf").exists());
        let real = root.path().join("elsewhere");
        fs::rename(root.path().join(REPO), &real).unwrap();
        symlink(&real, root.path().join(REPO)).unwrap();
        let refused = remove("o/r", &options).unwrap_err();
        assert!(matches!(refused, HubError::Cache { .. }), "{refused}");
        assert!(real.join("blobs/five").exists());
    }

    #[test]
    fn what_is_being_downloaded_stays() {
        let (root, options) = cache(&[('a', "config.json", "five")]);
        let locks = root.path().join(".locks").join(REPO);
        fs::create_dir_all(&locks).unwrap();
        let lock = fs::File::create(locks.join("five.lock")).unwrap();
        lock.lock().unwrap();
        let refused = remove("o/r", &options).unwrap_err();
        assert!(matches!(refused, HubError::Downloading { .. }), "{refused}");
        drop(lock);
        assert_eq!(remove("o/r", &options).unwrap(), 4);
    }
}
