//! Which models the cache holds, for `diffucoder models`.

use super::cache::{RepoCache, at, is_commit};
use super::error::HubError;
use super::options::HubOptions;
use super::registry;
use super::spec::{RepoId, check_name};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A repository in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// Its id on the Hub.
    pub id: RepoId,
    /// Its name in the registry, if it has one.
    pub alias: Option<&'static str>,
    /// Blobs, small files and unfinished downloads together.
    pub bytes: u64,
    /// Config and all weights are here, so that `--offline` works.
    pub is_complete: bool,
    /// Its config.json, for telling whether it is a kind of model this program runs.
    pub config: Option<PathBuf>,
}

/// The known models and any others with a config.json, by id. An absent cache is an empty one.
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

fn describe(root: &Path, id: RepoId) -> Option<CachedModel> {
    let cache = RepoCache::new(root, &id);
    let main = cache
        .commit_of("main")
        .map(|commit| cache.snapshot(&commit));
    let others = fs::read_dir(cache.snapshot(""))
        .into_iter()
        .flatten()
        .flatten();
    let others = others.filter(|entry| is_commit(&entry.file_name().to_string_lossy()));
    let mut with_config: Vec<PathBuf> = main
        .into_iter()
        .chain(others.map(|entry| entry.path()))
        .filter(|dir| dir.join("config.json").is_file())
        .collect();
    // The snapshot that a run would use comes first, unless only another one is complete.
    with_config.sort_by_key(|dir| !is_complete(dir));
    let best = with_config.first();
    let alias = registry::by_hub_id(id.as_str()).map(|model| model.alias);
    if best.is_none() && alias.is_none() {
        return None;
    }
    Some(CachedModel {
        alias,
        bytes: folder_bytes(cache.folder()),
        is_complete: best.is_some_and(|dir| is_complete(dir)),
        config: best.map(|dir| dir.join("config.json")),
        id,
    })
}

/// Whether a snapshot has its config and all the weights that it speaks of.
pub(super) fn is_complete(dir: &Path) -> bool {
    let has = |name: &str| check_name(name).is_ok() && dir.join(name).is_file();
    if !has("config.json") {
        return false;
    }
    if let Ok(index) = fs::read(dir.join("model.safetensors.index.json")) {
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
        let shards = index["weight_map"].as_object();
        return shards.is_some_and(|map| map.values().all(|shard| shard.as_str().is_some_and(has)));
    }
    let is_gguf = |entry: fs::DirEntry| {
        entry.path().extension().is_some_and(|end| end == "gguf") && entry.path().is_file()
    };
    has("model.safetensors")
        || fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .any(is_gguf)
}

/// Links are not followed: their blobs are counted where they lie.
fn folder_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        })
        .sum()
}
