//! One file from the Hub into the cache: wait for other processes, resume or start over, verify,
//! install.

use super::cache::{RepoCache, at, file_bytes, make_parent};
use super::cached::begin;
use super::error::HubError;
use super::options::{HubOptions, Patience};
use super::remote::{Remote, RemoteFile};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// A transfer that got this much further is a new one as far as retries are concerned.
const FRESH_START_BYTES: u64 = 16 << 20;
/// Only small text files come without a size.
const UNKNOWN_SIZE_LIMIT_BYTES: u64 = 1 << 30;

/// One step of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants' descriptions name their fields")]
pub enum Event<'a> {
    /// `files` files, of which `first` is one, are about to be downloaded; of their `total_bytes`,
    /// `present_bytes` are here already.
    Plan {
        files: usize,
        first: &'a str,
        total_bytes: u64,
        present_bytes: u64,
    },
    /// Another process is downloading the same file; this one waits for it.
    Waiting { file: &'a str },
    /// A transfer begins, `at_bytes` in (more than 0 when it resumes). Comes again after a
    /// `Retrying`.
    Start {
        file: &'a str,
        at_bytes: u64,
        size_bytes: u64,
    },
    /// The transfer now stands at `at_bytes`.
    At { file: &'a str, at_bytes: u64 },
    /// The transfer broke off and is tried again.
    Retrying {
        file: &'a str,
        attempt: u32,
        reason: &'a str,
    },
    /// All bytes are here and are being checked.
    Verifying { file: &'a str, size_bytes: u64 },
    /// The file is verified and in the cache.
    Done { file: &'a str },
}

/// Receives the steps of a download.
pub trait Progress {
    /// Called on the thread that asked for the file, for transfers at least a few times a second.
    fn on(&mut self, event: Event<'_>);
}

/// Ignores everything.
impl Progress for () {
    fn on(&mut self, _event: Event<'_>) {}
}

/// What moving files of one commit into the cache takes.
#[derive(Clone, Copy)]
pub(super) struct Transfer<'a> {
    pub(super) remote: &'a Remote,
    pub(super) cache: &'a RepoCache,
    pub(super) commit: &'a str,
    pub(super) options: &'a HubOptions,
}

/// How far the attempts at one file have come.
#[derive(Default)]
struct Effort {
    hub_answered: bool,
    gained_bytes: u64,
    failures: u32,
}

impl Transfer<'_> {
    /// Downloads one file, trying again where that may help.
    ///
    /// # Errors
    /// `BrokenTransfer`, `Cache`, and those of `Remote::file`.
    pub(super) fn download(
        self,
        file: &str,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let patience = self.options.patience;
        let mut effort = Effort::default();
        loop {
            let error = match self.attempt(file, &mut effort, progress) {
                Ok(path) => return Ok(path),
                Err(error) => error,
            };
            if effort.gained_bytes >= FRESH_START_BYTES {
                effort.failures = 0;
            }
            effort.failures += 1;
            if effort.failures > patience.retries || !error.may_pass(effort.hub_answered) {
                return Err(error);
            }
            let (attempt, reason) = (effort.failures, &error.to_string());
            progress.on(Event::Retrying {
                file,
                attempt,
                reason,
            });
            thread::sleep(pause(patience.backoff, attempt));
        }
    }

    fn attempt(
        self,
        file: &str,
        effort: &mut Effort,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        effort.gained_bytes = 0;
        let found = self.remote.file(self.commit, file)?;
        effort.hub_answered = true;
        let _lock = self
            .cache
            .lock(&found.etag, || progress.on(Event::Waiting { file }))?;
        if let Some(path) = self.cache.find(self.commit, file)
            && found.fits(&path)
        {
            return Ok(path);
        }
        if !self.cache.has_blob(&found.etag, found.size_bytes) {
            self.fill(file, &found, effort, progress)?;
        }
        let path = self.cache.install(&found.etag, self.commit, file)?;
        // Only now, as a ref without a snapshot is a damaged cache to Python.
        begin(self.cache, self.options.revision(), self.commit)?;
        progress.on(Event::Done { file });
        Ok(path)
    }

    /// Completes what an earlier run, or Python, has left of a blob; checks it and gives it its
    /// name.
    fn fill(
        self,
        file: &str,
        found: &RemoteFile,
        effort: &mut Effort,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let part = &self.cache.part(&found.etag);
        make_parent(part)?;
        let left = file_bytes(part).unwrap_or(0);
        let from = if found.size_bytes.is_some_and(|size| left > size) {
            0
        } else {
            left
        };
        let mut start = from;
        if found.size_bytes != Some(from) || !part.exists() {
            let carried = self.carry(file, found, part, &mut start, progress);
            effort.gained_bytes = file_bytes(part).unwrap_or(0).saturating_sub(start);
            carried?;
        }
        let size_bytes = file_bytes(part).unwrap_or(0);
        progress.on(Event::Verifying { file, size_bytes });
        if let Err(reason) = verify(part, found) {
            fs::remove_file(part).map_err(at(part))?;
            // What an earlier run left may be to blame, but not for a transfer that was whole.
            return Err(self.broken(file, reason, start > 0));
        }
        self.cache.complete(&found.etag)
    }

    /// Appends the rest to the part, which has `start` good bytes, or writes it anew if the server
    /// sends the whole; `start` then becomes 0. The content is not checked.
    fn carry(
        self,
        file: &str,
        found: &RemoteFile,
        part: &Path,
        start: &mut u64,
        progress: &mut dyn Progress,
    ) -> Result<(), HubError> {
        let opened = self.remote.open(found, *start);
        let (mut body, at_bytes) = opened.map_err(|error| match error {
            // Losing the network half-way is a broken transfer.
            HubError::Unreachable { source, .. } => self.broken(file, source.to_string(), true),
            error => error,
        })?;
        *start = at_bytes;
        let size_bytes = found.size_bytes.unwrap_or(0).max(at_bytes);
        progress.on(Event::Start {
            file,
            at_bytes,
            size_bytes,
        });
        let out = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(part);
        let mut out = out.map_err(at(part))?;
        out.set_len(at_bytes).map_err(at(part))?;
        out.seek(SeekFrom::End(0)).map_err(at(part))?;
        let (mut at_bytes, mut buffer) = (at_bytes, vec![0; 1 << 16]);
        let limit = found.size_bytes.unwrap_or(UNKNOWN_SIZE_LIMIT_BYTES);
        while at_bytes <= limit {
            match body.read(&mut buffer) {
                Ok(0) if found.size_bytes.is_some_and(|size| at_bytes < size) => {
                    let reason = "the connection was closed early".to_owned();
                    return Err(self.broken(file, reason, true));
                }
                Ok(0) => break,
                Ok(read) => {
                    out.write_all(&buffer[..read]).map_err(at(part))?;
                    at_bytes += read as u64;
                    progress.on(Event::At { file, at_bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(file, error.to_string(), true)),
            }
        }
        Ok(())
    }

    fn broken(self, file: &str, reason: String, can_retry: bool) -> HubError {
        HubError::BrokenTransfer {
            repo: self.remote.repo().to_string(),
            file: file.to_owned(),
            reason,
            can_retry,
        }
    }
}

/// Asks until there is an answer, or none that waiting for helps.
pub(super) fn patiently<T>(
    patience: Patience,
    ask: impl Fn() -> Result<T, HubError>,
) -> Result<T, HubError> {
    let mut failures = 0;
    loop {
        match ask() {
            Err(error) if failures < patience.retries && error.may_pass(false) => {
                failures += 1;
                thread::sleep(pause(patience.backoff, failures));
            }
            answer => return answer,
        }
    }
}

/// Before the attempt after so many failures: `first` after one, and then twice as long each time.
fn pause(first: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(LONGEST_BACKOFF)
}

/// Compares a blob with what the Hub said of it: the size, and the checksum where the etag is one.
fn verify(part: &Path, found: &RemoteFile) -> Result<(), String> {
    let size = file_bytes(part).unwrap_or(0);
    if let Some(expected) = found.size_bytes.filter(|expected| *expected != size) {
        return Err(format!("{size} bytes arrived instead of {expected}"));
    }
    let sums = match found.etag.len() {
        _ if !found.has_checksum() => return Ok(()),
        // Git's hash; or, from some mirrors, that of the bytes alone.
        40 => hash(
            part,
            [Sha1::new_with_prefix(format!("blob {size}\0")), Sha1::new()],
        ),
        _ => hash(part, [Sha256::new()]),
    };
    match sums {
        Ok(sums) if sums.contains(&found.etag.to_lowercase()) => Ok(()),
        Ok(_) => Err("its checksum is wrong".to_owned()),
        Err(error) => Err(format!("it cannot be read back: {error}")),
    }
}

/// A file's checksums, in hexadecimal.
fn hash<D: Digest>(path: &Path, hashers: impl IntoIterator<Item = D>) -> io::Result<Vec<String>> {
    let mut hashers: Vec<D> = hashers.into_iter().collect();
    let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hashers
                .iter_mut()
                .for_each(|hasher| hasher.update(&buffer[..read])),
        }
    }
    let hex = |hasher: D| {
        hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    Ok(hashers.into_iter().map(hex).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let seconds = |failures| pause(Duration::from_secs(1), failures).as_secs();
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 1000].map(seconds),
            [1, 2, 4, 8, 16, 20, 20]
        );
        assert_eq!(
            pause(Duration::from_millis(1), 9),
            Duration::from_millis(256)
        );
        assert_eq!(pause(Duration::ZERO, 40), Duration::ZERO);
    }
}
