//! One file from the Hub into the cache: wait for other processes, resume or start over, verify, install.
//!
//! `carry` moves the bytes; here is decided from where on, how often, and whether they are the right ones.

use super::cache::{Incoming, at, file_bytes, make_parent};
use super::carry::Carrier;
use super::error::HubError;
use super::progress::{Event, Progress};
use super::remote::{Remote, RemoteFile};
use super::repo::HubRepo;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// A transfer that got this much further is a new one as far as retries are concerned.
const FRESH_START_BYTES: u64 = 16 << 20;

/// How far the attempts at one file have come.
#[derive(Default)]
struct Effort {
    hub_answered: bool,
    gained_bytes: u64,
    failures: u32,
}

/// Downloads one file, trying again where that may help.
///
/// # Errors
/// `BrokenTransfer`, `Cache`, and those of `Remote::file`.
pub(super) fn download(
    repo: &HubRepo,
    file: &str,
    progress: &mut dyn Progress,
) -> Result<PathBuf, HubError> {
    let patience = repo.options.patience;
    let mut effort = Effort::default();
    loop {
        let error = match attempt(repo, file, &mut effort, progress) {
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
        let backoff = patience.backoff.saturating_mul(1 << (attempt - 1).min(10));
        thread::sleep(backoff.min(LONGEST_BACKOFF));
    }
}

fn attempt(
    repo: &HubRepo,
    file: &str,
    effort: &mut Effort,
    progress: &mut dyn Progress,
) -> Result<PathBuf, HubError> {
    effort.gained_bytes = 0;
    let found = &repo.remote.file(&repo.commit, file)?;
    effort.hub_answered = true;
    let lock = repo
        .cache
        .lock(&found.etag, || progress.on(Event::Waiting { file }))?;
    if let Some(path) = repo.cache.find(&repo.commit, file) {
        return Ok(path);
    }
    let (size_bytes, incoming) = (found.size_bytes, &repo.cache.incoming(&found.etag));
    if repo.cache.has_blob(&found.etag, size_bytes) {
        incoming.discard()?;
    } else {
        make_parent(&incoming.part)?;
        let from = prepare(&repo.remote, incoming, found)?;
        let carrier = Carrier {
            repo,
            file,
            found,
            incoming,
        };
        if !incoming.blob.exists() {
            progress.on(Event::Start {
                file,
                at_bytes: from,
                size_bytes,
            });
            let carried = carrier.carry(from, &lock, progress);
            let arrived = file_bytes(&incoming.part).unwrap_or(0);
            effort.gained_bytes = arrived.saturating_sub(from);
            carried?;
        }
        progress.on(Event::Verifying { file, size_bytes });
        if let Err(reason) = verify(&incoming.blob, found) {
            incoming.discard()?;
            // What an earlier run left may be to blame, but not for a transfer that was whole.
            return Err(carrier.broken(reason, from > 0));
        }
    }
    let path = repo.cache.install(&found.etag, &repo.commit, file)?;
    // Only now, as a ref without a snapshot is a damaged cache to Python.
    repo.cache.remember(repo.options.revision(), &repo.commit)?;
    progress.on(Event::Done { file });
    Ok(path)
}

/// Leaves either a whole blob, or a part that can be resumed, or nothing; says where to start.
fn prepare(remote: &Remote, incoming: &Incoming, found: &RemoteFile) -> Result<u64, HubError> {
    let Incoming { part, blob, .. } = incoming;
    if let Some(whole) = file_bytes(blob) {
        return Ok(whole);
    }
    let Some(from) = file_bytes(part).filter(|from| *from > 0) else {
        return Ok(0);
    };
    if from == found.size_bytes {
        // hf-hub would ask for what comes after the end, and fail from then on.
        fs::rename(part, blob).map_err(at(blob))?;
        return Ok(from);
    }
    // hf-hub appends whatever comes, so ask first whether the rest would come and not the whole.
    let resumes = from < found.size_bytes
        && match remote.open(found, from) {
            Ok((_, is_partial)) => is_partial,
            Err(HubError::ServerStatus { status: 416, .. }) => false,
            Err(error) => return Err(error),
        };
    if resumes {
        return Ok(from);
    }
    fs::remove_file(part).map_err(at(part))?;
    Ok(0)
}

/// Compares a blob with what the Hub said of it: the size always, the sha256 where the etag is one.
fn verify(blob: &Path, found: &RemoteFile) -> Result<(), String> {
    let size = file_bytes(blob).unwrap_or(0);
    if size != found.size_bytes {
        return Err(format!(
            "{size} bytes arrived instead of {}",
            found.size_bytes
        ));
    }
    let is_sha256 = found.etag.len() == 64 && found.etag.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_sha256 {
        return Ok(());
    }
    match sha256(blob) {
        Ok(sum) if sum.eq_ignore_ascii_case(&found.etag) => Ok(()),
        Ok(_) => Err("its checksum is wrong".to_owned()),
        Err(error) => Err(format!("it cannot be read back: {error}")),
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => {
                return Ok(hasher
                    .finalize()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect());
            }
            read => hasher.update(&buffer[..read]),
        }
    }
}
