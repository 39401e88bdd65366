//! Moves one file's bytes from the Hub into the folder for incoming files.
//!
//! hf-hub does it for whatever anyone may read. It works in a folder of its own, because by itself it neither
//! checks what it got nor has time limits. It also hands the token to the host that a redirect names (0.5,
//! `Api::metadata`), so it never gets one: what needs the token is carried by our own agent.

use super::cache::{Incoming, at, file_bytes};
use super::error::HubError;
use super::progress::{Event, Progress};
use super::remote::{RemoteFile, bad_answer, escape, request_error};
use super::repo::HubRepo;
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often progress is reported while hf-hub works.
const TICK: Duration = Duration::from_millis(100);

/// One file on its way.
pub(super) struct Carrier<'a> {
    pub(super) repo: &'a HubRepo,
    pub(super) file: &'a str,
    pub(super) found: &'a RemoteFile,
    pub(super) incoming: &'a Incoming,
}

impl Carrier<'_> {
    /// Completes the part, which holds `from` bytes, and makes it the blob. The content is not checked.
    ///
    /// # Errors
    /// `BrokenTransfer`, `Cache`, and those of `Remote::open`.
    pub(super) fn carry(
        &self,
        from: u64,
        lock: &Arc<File>,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        if !self.found.is_public {
            return self.carry_ourselves(from, progress);
        }
        let pointer = self.carry_by_hf_hub(Arc::clone(lock), progress)?;
        let Incoming { part, blob, .. } = self.incoming;
        if !blob.exists() {
            // Where links are not possible, hf-hub moves the blob itself.
            if pointer.is_symlink() || !pointer.is_file() {
                return Err(self.bad_answer("the etag changed between two requests"));
            }
            fs::rename(&pointer, blob).map_err(at(&pointer))?;
        }
        if file_bytes(blob).is_some_and(|bytes| bytes < self.found.size_bytes) {
            // Without a length in the answer, hf-hub takes a cut connection for the end.
            fs::rename(blob, part).map_err(at(part))?;
            return Err(self.cut());
        }
        Ok(())
    }

    /// On a thread of its own: a transfer that stalls can then be given up, and a panic is an error.
    fn carry_by_hf_hub(
        &self,
        lock: Arc<File>,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let (id, commit) = (self.repo.id.to_string(), self.repo.commit.clone());
        let repo = ApiBuilder::from_cache(Cache::new(self.incoming.dir.clone()))
            .with_endpoint(self.repo.options.endpoint.clone())
            .with_token(None)
            .with_progress(false)
            .with_user_agent("diffucoder", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.hf_hub_error(error))?
            .repo(Repo::with_revision(id, RepoType::Model, commit));
        let (name, bytes) = (escape(self.file, "/"), Arc::new(AtomicU64::new(0)));
        let counter = Counter(Arc::clone(&bytes));
        let (done, finished) = mpsc::channel();
        let work = move || {
            // An abandoned thread keeps the lock for as long as it may still write.
            let _lock = lock;
            let _ = done.send(repo.download_with_progress(&name, counter));
        };
        thread::Builder::new()
            .spawn(work)
            .map_err(at(&self.incoming.dir))?;
        self.watch(&finished, &bytes, progress)
    }

    /// Reports progress until hf-hub is done, or nothing has arrived for too long.
    fn watch(
        &self,
        finished: &Receiver<Result<PathBuf, ApiError>>,
        bytes: &AtomicU64,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let (stall, file) = (self.repo.options.patience.stall, self.file);
        let (mut seen, mut last_change) = (0, Instant::now());
        loop {
            match finished.recv_timeout(TICK.min(stall)) {
                Ok(result) => return result.map_err(|error| self.hf_hub_error(error)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.bad_answer("hf-hub panicked"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let at_bytes = bytes.load(Ordering::Relaxed);
            if at_bytes != seen {
                (seen, last_change) = (at_bytes, Instant::now());
                progress.on(Event::At { file, at_bytes });
            } else if last_change.elapsed() >= stall {
                return Err(self.broken(format!("nothing arrived for {stall:?}"), false));
            }
        }
    }

    /// For what hf-hub must not carry. `found` knows whether its address may see the token.
    fn carry_ourselves(&self, from: u64, progress: &mut dyn Progress) -> Result<(), HubError> {
        let Incoming { part, blob, .. } = self.incoming;
        let opened = self.repo.remote.open(self.found, from);
        let (mut response, is_partial) = opened.map_err(|error| self.interrupted(error))?;
        if from > 0 && !is_partial {
            return Err(self.broken("the server no longer resumes".to_owned(), true));
        }
        let mut out = File::options()
            .create(true)
            .append(true)
            .open(part)
            .map_err(at(part))?;
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut at_bytes = from;
        while at_bytes <= self.found.size_bytes {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(self.broken(error.to_string(), true)),
            };
            out.write_all(&buffer[..read]).map_err(at(part))?;
            at_bytes += read as u64;
            progress.on(Event::At {
                file: self.file,
                at_bytes,
            });
        }
        if at_bytes < self.found.size_bytes {
            return Err(self.cut());
        }
        fs::rename(part, blob).map_err(at(blob))
    }

    pub(super) fn broken(&self, reason: String, can_retry: bool) -> HubError {
        let (repo, file) = (self.repo.id.to_string(), self.file.to_owned());
        HubError::BrokenTransfer {
            repo,
            file,
            reason,
            can_retry,
        }
    }

    fn cut(&self) -> HubError {
        self.broken("the connection was closed early".to_owned(), true)
    }

    /// Losing the network half-way is a broken transfer.
    fn interrupted(&self, error: HubError) -> HubError {
        match error {
            HubError::Unreachable { source, .. } => self.broken(source.to_string(), true),
            error => error,
        }
    }

    fn bad_answer(&self, what: &str) -> HubError {
        bad_answer(&self.repo.options.endpoint, what)
    }

    fn hf_hub_error(&self, error: ApiError) -> HubError {
        use ErrorKind as K;
        let url = &self.repo.options.endpoint;
        match error {
            ApiError::IoError(source)
                if matches!(
                    source.kind(),
                    K::StorageFull | K::QuotaExceeded | K::PermissionDenied | K::ReadOnlyFilesystem
                ) =>
            {
                HubError::Cache {
                    path: self.incoming.dir.clone(),
                    source,
                }
            }
            ApiError::RequestError(error) => match *error {
                ureq::Error::StatusCode(status) => HubError::ServerStatus {
                    url: url.clone(),
                    status,
                },
                error => self.interrupted(request_error(url, error)),
            },
            ApiError::MissingHeader(_)
            | ApiError::InvalidHeader(_)
            | ApiError::ParseIntError(_) => self.bad_answer(&error.to_string()),
            error => self.broken(error.to_string(), true),
        }
    }
}

/// hf-hub's view of progress. It begins again at 0 and then counts what was there before.
struct Counter(Arc<AtomicU64>);

impl hf_hub::api::Progress for Counter {
    fn init(&mut self, _size: usize, _file: &str) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn update(&mut self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {}
}
