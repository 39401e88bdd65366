//! A Hub repository at one commit: files from the cache if they are there, else from the network.
//!
//! The revision is resolved once, and everything is asked for by commit after that, so that files
//! from different versions never mix. What is cached is used without any request, as hf-hub and
//! Python do.

use super::cache::RepoCache;
use super::cached::{begin, is_complete};
use super::error::HubError;
use super::gguf;
use super::options::HubOptions;
use super::remote::Remote;
use super::spec::{RepoId, check_name};
use super::transfer::{Event, Progress, Transfer, patiently};
use std::path::PathBuf;

const SAFETENSORS: &str = "model.safetensors";

/// See the header of this file.
#[derive(Debug)]
pub(super) struct HubRepo {
    pub(super) id: RepoId,
    pub(super) commit: String,
    /// Names of the files at that commit, if the Hub was asked.
    files: Option<Vec<String>>,
    cache: RepoCache,
    options: HubOptions,
    remote: Remote,
}

impl HubRepo {
    pub(super) fn open(id: &RepoId, options: &HubOptions) -> Result<Self, HubError> {
        let revision = options.revision();
        check_name(revision).map_err(|_| HubError::BadRevision {
            revision: revision.to_owned(),
        })?;
        let cache = RepoCache::new(&options.cache_dir, id);
        let remote = Remote::new(id, options)?;
        let known = cache.commit_of(revision);
        let is_asked = !options.offline && (options.newest || known.is_none());
        let resolve = || patiently(options.patience, || remote.resolve(revision));
        let resolved = is_asked.then(resolve);
        let (commit, files) = match (resolved, known) {
            (None | Some(Err(HubError::Unreachable { .. })), Some(commit)) => (commit, None),
            (None, None) => return Err(not_cached(id, options, "config.json")),
            (Some(resolved), _) => {
                let (commit, files) = resolved?;
                // Files that came by another name of the commit are found by this one from now on.
                if !cache.files(&commit).is_empty() {
                    let _ = begin(&cache, revision, &commit); // or it is asked again
                }
                (commit, Some(files))
            }
        };
        Ok(Self {
            id: id.clone(),
            commit,
            files,
            cache,
            options: options.clone(),
            remote,
        })
    }

    /// The GGUF files that are the model (see [`gguf::choose`]), or `None` for safetensors. Weights
    /// in the cache decide if they can: only a choice that they leave open is a question to the
    /// Hub.
    pub(super) fn gguf(&self, wanted: Option<&str>) -> Result<Option<Vec<String>>, HubError> {
        let id = self.id.as_str();
        let cached = self.cache.files(&self.commit);
        let is_weights = |file: &String| file.contains(".gguf") || file.contains(".safetensors");
        let has_weights = cached.iter().any(is_weights);
        match gguf::choose(id, &cached, wanted) {
            // A conversion that was asked for by its name is not what the model's own name means.
            Ok(chosen)
                if has_weights
                    && (chosen.is_none() || wanted.is_some() || !self.has_safetensors()) =>
            {
                return Ok(chosen);
            }
            Ok(_) if self.options.offline => return Ok(None),
            Err(HubError::NoSuchGguf { wanted, .. }) if self.options.offline => {
                return Err(not_cached(&self.id, &self.options, &wanted));
            }
            Err(error) if self.options.offline => return Err(error),
            _ => {}
        }
        let files = self.list()?;
        let chosen = gguf::choose(id, &files, wanted)?;
        if let Some(chosen) = &chosen {
            gguf::check_all_there(id, chosen, &files)?;
        }
        Ok(chosen)
    }

    /// Names of all files at the commit, from the Hub.
    fn list(&self) -> Result<Vec<String>, HubError> {
        match &self.files {
            Some(files) => Ok(files.clone()),
            None => {
                let described = self.remote.resolve(&self.commit);
                Ok(described.map_err(|error| self.explain(error))?.1)
            }
        }
    }

    /// Whether the repository is known to hold safetensors.
    fn has_safetensors(&self) -> bool {
        if self.options.offline || self.cache.is_known_absent(&self.commit, SAFETENSORS) {
            return false;
        }
        let Ok(files) = self.list() else {
            return false;
        };
        let has = files.iter().any(|file| file.ends_with(".safetensors"));
        if !has {
            self.cache.mark_absent(&self.commit, SAFETENSORS); // the next run need not ask
        }
        has
    }

    /// Names of the files that can be told without failing: all, or those in the cache.
    pub(super) fn listed(&self) -> Vec<String> {
        let cached = || self.cache.files(&self.commit);
        match self.options.offline {
            true => cached(),
            false => self.list().unwrap_or_else(|_| cached()),
        }
    }

    fn is_listed(&self, file: &str) -> bool {
        self.listed().iter().any(|listed| listed == file)
    }

    /// A file that the repository may lack.
    pub(super) fn optional(
        &self,
        file: &str,
        progress: &mut dyn Progress,
    ) -> Result<Option<PathBuf>, HubError> {
        check_name(file)?;
        if let Some(path) = self.cache.find(&self.commit, file) {
            return Ok(Some(path));
        }
        if self.options.offline || self.cache.is_known_absent(&self.commit, file) {
            return Ok(None);
        }
        match self.download(file, progress) {
            Err(HubError::FileNotFound { .. }) => {
                self.cache.mark_absent(&self.commit, file); // for good, and for Python
                Ok(None)
            }
            // Somebody has nothing at this address, which is not to say that the Hub has not.
            Err(HubError::ServerStatus { status: 404, .. }) if !self.is_listed(file) => Ok(None),
            path => path.map(Some),
        }
    }

    /// All of these: from the cache, or after checking that the disk has room for what is missing.
    pub(super) fn fetch(
        &self,
        files: &[String],
        progress: &mut dyn Progress,
    ) -> Result<Vec<PathBuf>, HubError> {
        files.iter().try_for_each(|file| check_name(file))?;
        let mut missing: Vec<&String> = files
            .iter()
            .filter(|file| self.find_whole(file).is_none())
            .collect();
        missing.sort();
        missing.dedup();
        if let Some(file) = missing.first().filter(|_| self.options.offline) {
            return Err(not_cached(&self.id, &self.options, file));
        }
        let (mut total_bytes, mut present_bytes) = (0_u64, 0_u64);
        for file in &missing {
            let ask = || self.remote.file(&self.commit, file);
            let found =
                patiently(self.options.patience, ask).map_err(|error| self.explain(error))?;
            let size_bytes = found.size_bytes.unwrap_or(0);
            total_bytes = total_bytes.saturating_add(size_bytes);
            present_bytes += self.cache.present_bytes(&found.etag, size_bytes);
        }
        if let Some(first) = missing.first() {
            progress.on(Event::Plan {
                files: missing.len(),
                first,
                total_bytes,
                present_bytes,
            });
            self.cache.check_free(total_bytes - present_bytes)?;
        }
        let path = |file: &String| match self.cache.find(&self.commit, file) {
            Some(path) if !missing.contains(&file) => Ok(path),
            _ => self.download(file, progress),
        };
        let paths = files.iter().map(path).collect::<Result<_, _>>()?;
        if !missing.is_empty() {
            let revision = self.options.revision();
            self.cache.remember(revision, &self.commit)?;
        }
        Ok(paths)
    }

    /// A file in the cache; where the Hub is asked anyway, one that has the size that it says.
    fn find_whole(&self, file: &str) -> Option<PathBuf> {
        let path = self.cache.find(&self.commit, file)?;
        let is_asked = self.files.is_some() && self.options.newest;
        let found = is_asked.then(|| self.remote.file(&self.commit, file));
        match found {
            Some(Ok(found)) if !found.fits(&path) => None,
            _ => Some(path),
        }
    }

    fn download(&self, file: &str, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let transfer = Transfer {
            remote: &self.remote,
            cache: &self.cache,
            commit: &self.commit,
            options: &self.options,
        };
        transfer
            .download(file, progress)
            .map_err(|error| self.explain(error))
    }

    /// Why a file cannot be had: the repository lacks it, or, offline, the cache does.
    pub(super) fn lacks(&self, file: &str) -> HubError {
        if self.options.offline {
            return not_cached(&self.id, &self.options, file);
        }
        let (repo, revision) = (self.id.to_string(), self.options.revision().to_owned());
        HubError::FileNotFound {
            repo,
            revision,
            file: file.to_owned(),
        }
    }

    /// Whoever has the model but no network needs only to be told so.
    fn explain(&self, error: HubError) -> HubError {
        match error {
            HubError::Unreachable { host, source, .. } => {
                let model_is_cached = is_complete(&self.cache.snapshot(&self.commit));
                HubError::Unreachable {
                    host,
                    model_is_cached,
                    source,
                }
            }
            error => error,
        }
    }
}

fn not_cached(id: &RepoId, options: &HubOptions, file: &str) -> HubError {
    HubError::NotCached {
        repo: id.to_string(),
        revision: options.revision().to_owned(),
        file: file.to_owned(),
        cache: options.cache_dir.clone(),
    }
}
