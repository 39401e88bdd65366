//! Which models the cache holds, and how large they are.

use super::cache::{RepoCache, at, below, files_in, some_bytes};
use super::error::HubError;
use super::gguf;
use super::options::HubOptions;
use super::registry;
use super::spec::{RepoId, check_name, is_commit};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// Its id on the Hub.
    pub id: RepoId,
    /// Blobs, small files and unfinished downloads together.
    pub bytes: u64,
    /// Config and all weights are here.
    pub has_checkpoint: bool,
    /// Its GGUF files, those left out of which a part is missing.
    pub ggufs: Vec<CachedFile>,
}

/// A model in one file of a repository, or in several, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedFile {
    /// The file's name in the repository; of parts, the first.
    pub name: String,
    /// Its size; of parts, of all together.
    pub bytes: u64,
}

impl CachedModel {
    /// Config and all weights are here, or a GGUF file, so that `--offline` works.
    pub fn is_complete(&self) -> bool {
        self.has_checkpoint || !self.ggufs.is_empty()
    }

    /// What is here beside GGUF files that are whole.
    pub fn other_bytes(&self) -> u64 {
        let of_ggufs: u64 = self.ggufs.iter().map(|file| file.bytes).sum();
        self.bytes.saturating_sub(of_ggufs)
    }

    /// The only GGUF file of this name or quantization.
    pub fn gguf(&self, wanted: &str) -> Option<&CachedFile> {
        let names: Vec<String> = self.ggufs.iter().map(|file| file.name.clone()).collect();
        let chosen = gguf::choose(self.id.as_str(), &names, Some(wanted)).ok()??;
        self.ggufs.iter().find(|file| chosen.contains(&file.name))
    }
}

/// The known models and any others with a config.json or a GGUF file, by id. An absent cache is an
/// empty one.
///
/// # Errors
/// `Cache` if the folder cannot be read.
pub fn cached(options: &HubOptions) -> Result<Vec<CachedModel>, HubError> {
    let root = &options.cache_dir;
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(root))?,
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| {
        RepoId::parse(&name.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    });
    let mut models: Vec<_> = ids.filter_map(|id| describe(root, id)).collect();
    models.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
    Ok(models)
}

pub(super) fn describe(root: &Path, id: RepoId) -> Option<CachedModel> {
    let cache = RepoCache::new(root, &id);
    let main = cache
        .commit_of("main")
        .map(|commit| cache.snapshot(&commit));
    let others = fs::read_dir(cache.snapshot(""))
        .into_iter()
        .flatten()
        .flatten();
    let others = others.filter(|entry| is_commit(&entry.file_name().to_string_lossy()));
    let mut snapshots: Vec<PathBuf> = main
        .into_iter()
        .chain(others.map(|entry| entry.path()))
        .filter(|dir| {
            dir.join("config.json").is_file() || !gguf::candidates(&files_in(dir)).is_empty()
        })
        .collect();
    // The snapshot that a run would use comes first, unless only another one is complete.
    snapshots.sort_by_key(|dir| !is_complete(dir));
    let best = snapshots.first();
    let is_begun = || {
        files_in(cache.folder())
            .iter()
            .any(|file| file.ends_with(".incomplete"))
    };
    if best.is_none() && registry::in_repo(id.as_str()).is_none() && !is_begun() {
        return None;
    }
    Some(CachedModel {
        bytes: folder_bytes(cache.folder()),
        has_checkpoint: best.is_some_and(|dir| has_checkpoint(dir)),
        ggufs: all_ggufs(&snapshots),
        id,
    })
}

/// Those of all snapshots: each takes its room on the disk.
fn all_ggufs(snapshots: &[PathBuf]) -> Vec<CachedFile> {
    let mut all: Vec<CachedFile> = Vec::new();
    for found in snapshots.iter().flat_map(|dir| ggufs(dir)) {
        if all.iter().all(|file| file.name != found.name) {
            all.push(found);
        }
    }
    all
}

/// The models in GGUF all of whose files are here.
fn ggufs(dir: &Path) -> Vec<CachedFile> {
    let candidates = gguf::candidates(&files_in(dir)).into_iter();
    let whole = candidates.filter_map(|gguf| {
        let files = gguf.files();
        let sizes = files.iter().map(|file| some_bytes(&dir.join(file)));
        let bytes = sizes.sum::<Option<u64>>()?;
        let name = files.into_iter().next()?;
        Some(CachedFile { name, bytes })
    });
    whole.collect()
}

/// Whether a snapshot has a GGUF file, or its config and all the weights that it speaks of.
pub(super) fn is_complete(dir: &Path) -> bool {
    !ggufs(dir).is_empty() || has_checkpoint(dir)
}

/// Lets a revision stand for a commit of which a part is here, unless it stands for another one
/// that is whole: an update that breaks off takes nothing away.
pub(super) fn begin(cache: &RepoCache, revision: &str, commit: &str) -> Result<(), HubError> {
    let is_whole = |commit: &str| is_complete(&cache.snapshot(commit));
    match cache.commit_of(revision) {
        Some(before) if is_whole(&before) && !is_whole(commit) => Ok(()),
        _ => cache.remember(revision, commit),
    }
}

fn has_checkpoint(dir: &Path) -> bool {
    let has = |name: &str| check_name(name).is_ok() && some_bytes(&dir.join(name)).is_some();
    let has_tokenizer = has("tokenizer.json") || (has("vocab.json") && has("merges.txt"));
    if !has("config.json") || !has_tokenizer {
        return false;
    }
    if let Ok(index) = fs::read(dir.join("model.safetensors.index.json")) {
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
        let shards = index["weight_map"].as_object();
        return shards.is_some_and(|map| map.values().all(|shard| shard.as_str().is_some_and(has)));
    }
    has("model.safetensors")
}

/// Links are not followed: their blobs are counted where they lie.
pub(super) fn folder_bytes(dir: &Path) -> u64 {
    let found = below(dir).into_iter();
    let found = found.filter_map(|path| path.symlink_metadata().ok());
    found.filter(Metadata::is_file).map(|file| file.len()).sum()
}
