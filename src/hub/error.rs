//! What can go wrong between a model's name and its files, told apart by what the user can do.

use super::foreign::Foreign;
use super::registry::MODELS;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Any failure of this module. `hint` says what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each message says what its variant and fields are"
)]
#[non_exhaustive]
pub enum HubError {
    #[error("no model is called `{name}`")]
    UnknownModel {
        name: String,
        suggestion: Option<&'static str>,
    },
    #[error("`{id}` cannot be a model on the Hub: {reason}")]
    BadModelId { id: String, reason: &'static str },
    #[error("`{revision}` cannot be a branch, tag or commit")]
    BadRevision { revision: String },
    #[error("`{endpoint}` is not an http address")]
    BadEndpoint { endpoint: String },
    #[error("there is no file or folder {}", path.display())]
    FolderNotFound { path: PathBuf },
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("the model {model} has no {file}")]
    NotInFolder { model: String, file: String },
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the file name {name:?} points outside the model's folder")]
    UnsafeName { name: String },
    #[error("{endpoint} refused access to {repo} (status {status})")]
    AccessRefused {
        endpoint: String,
        repo: String,
        status: u16,
        had_token: bool,
    },
    #[error("{endpoint} has no model {repo}")]
    RepoNotFound { endpoint: String, repo: String },
    #[error("{repo} has no revision {revision}")]
    RevisionNotFound { repo: String, revision: String },
    #[error("{repo} has no file {file} at revision {revision}")]
    FileNotFound {
        repo: String,
        revision: String,
        file: String,
    },
    #[error("no GGUF files of {alias} are known")]
    NoConversion { alias: &'static str },
    #[error("{repo} holds {} GGUF files", files.len())]
    ChooseGguf { repo: String, files: Vec<String> },
    #[error("{repo} has no {}", match &**files { [] => "GGUF file".into(), _ => format!("single GGUF file {wanted}") })]
    NoSuchGguf {
        repo: String,
        wanted: String,
        files: Vec<String>,
    },
    #[error("{model} is not whole without {}", few(files))]
    PartsMissing { model: String, files: Vec<String> },
    #[error("{} holds {} GGUF files", folder.display(), files.len())]
    ChooseInFolder { folder: PathBuf, files: Vec<String> },
    #[error("{model} holds {form}, which cannot be read here")]
    Foreign { model: String, form: Foreign },
    #[error("there is no folder {id} here, nor can it be had from the Hub")]
    NotHereEither { id: String, source: Box<HubError> },
    #[error("{host} cannot be reached")]
    Unreachable {
        host: String,
        model_is_cached: bool,
        source: Box<ureq::Error>,
    },
    #[error("the certificate of {host} cannot be verified: {reason}")]
    Untrusted { host: String, reason: String },
    #[error("{variable} names {}, from which no certificates can be read", path.display())]
    CaSource {
        variable: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{url} redirects to {to}, {how}")]
    Redirected {
        url: String,
        to: String,
        how: &'static str,
    },
    #[error("{url} answered with status {status}")]
    ServerStatus { url: String, status: u16 },
    #[error("{url} did not answer as a model hub does: {what}")]
    BadAnswer { url: String, what: String },
    #[error("{repo} at revision {revision} is not in the cache {} ({file})", cache.display())]
    NotCached {
        repo: String,
        revision: String,
        file: String,
        cache: PathBuf,
    },
    #[error("{model} is not in the cache {}", cache.display())]
    NotDownloaded { model: String, cache: PathBuf },
    #[error("{model} is being downloaded by another process")]
    Downloading { model: String },
    #[error(
        "{} has {} free, but the download needs {}",
        dir.display(), gigabytes(*free_bytes), gigabytes(*needed_bytes)
    )]
    NotEnoughDisk {
        needed_bytes: u64,
        free_bytes: u64,
        dir: PathBuf,
    },
    #[error("the download of {file} from {repo} failed: {reason}")]
    BrokenTransfer {
        repo: String,
        file: String,
        reason: String,
        can_retry: bool,
    },
    #[error("the cache cannot be used at {}", path.display())]
    Cache {
        path: PathBuf,
        source: std::io::Error,
    },
}

impl HubError {
    /// The next thing to try. One arm a variant, however many there are: it is a table.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownModel { suggestion, .. } => {
                let aliases = MODELS.map(|model| model.alias).join(", ");
                let known =
                    format!("known models: {aliases}; on the Hub: owner/name; a folder: ./name");
                return Some(match suggestion {
                    Some(alias) => format!("did you mean `{alias}`? {known}"),
                    None => known,
                });
            }
            Self::AccessRefused {
                endpoint,
                repo,
                had_token,
                ..
            } => {
                let token = match had_token {
                    true => {
                        "check that the token in HF_TOKEN or the token file is valid".to_owned()
                    }
                    false => format!("set HF_TOKEN to a token from {endpoint}/settings/tokens"),
                };
                return Some(format!(
                    "accept the licence at {endpoint}/{repo}, then {token}"
                ));
            }
            Self::BadModelId { .. } => "on the Hub: owner/name; put ./ before a folder",
            Self::BadRevision { .. } => "give a name such as main or v1.0, or a commit's 40 digits",
            Self::BadEndpoint { .. } => {
                "set HF_ENDPOINT to an address such as https://huggingface.co"
            }
            Self::FolderNotFound { .. } => {
                "check the path; a model on the Hub is written owner/name"
            }
            Self::NotAFolder { .. } => {
                "give a .gguf file, or the folder that holds config.json and the weights"
            }
            Self::NotInFolder { file, .. } if file == "adapter_config.json" => {
                "an adapter's folder holds adapter_config.json and adapter_model.safetensors"
            }
            Self::NotInFolder { .. } => {
                "a model's folder holds config.json, the tokenizer's files and the weights"
            }
            Self::PartsMissing { .. } => {
                "all parts of a model must be in one folder: download the missing ones"
            }
            Self::ChooseInFolder { folder, files } => {
                let paths = files
                    .iter()
                    .map(|file| folder.join(file).display().to_string());
                let paths: Vec<String> = paths.collect();
                return Some(format!("give the path of one: {}", paths.join(", ")));
            }
            Self::Foreign { form, .. } => form.hint(),
            Self::NotHereEither { source, .. } => return source.hint(),
            Self::UnsafeName { .. } => "the model's index is damaged or hostile: do not use it",
            Self::RepoNotFound { .. } => {
                "check the spelling; if it is private, set HF_TOKEN to a token that may read it"
            }
            Self::FileNotFound { .. } => "the model may be in a form that this program cannot read",
            Self::Untrusted { .. } => {
                "if a proxy opens TLS here, let SSL_CERT_FILE (or REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE) name a file with \
                 its CA's certificate, or add that to the system's store"
            }
            Self::CaSource { variable, .. } => {
                return Some(format!(
                    "let {variable} name a file of certificates in PEM form, or unset it"
                ));
            }
            Self::Redirected { .. } => {
                "set HF_ENDPOINT to the address where the model hub itself answers"
            }
            // What to do about these is up to the program: it knows which file and version it
            // wants.
            Self::NoConversion { .. }
            | Self::ChooseGguf { .. }
            | Self::NoSuchGguf { .. }
            | Self::RevisionNotFound { .. }
            | Self::Unreachable { .. }
            | Self::NotCached { .. }
            | Self::NotDownloaded { .. } => return None,
            Self::Unreadable { .. } => return None,
            Self::Downloading { .. } => "wait until that is done, or end it",
            Self::ServerStatus { status: 429, .. } => "wait a few minutes, or set HF_TOKEN",
            Self::ServerStatus { .. } if self.may_pass(true) => {
                "try again later; what has arrived is kept"
            }
            Self::ServerStatus { .. } => return None,
            Self::BadAnswer { .. } => "check HF_ENDPOINT and any proxy between here and the Hub",
            Self::BrokenTransfer { .. } => {
                "run the same command again: it resumes what has arrived"
            }
            Self::Cache { source, .. } if source.kind() != ErrorKind::StorageFull => {
                "set HF_HOME to a folder that you may write to"
            }
            Self::NotEnoughDisk { .. } | Self::Cache { .. } => {
                "free some space, or set HF_HOME to a folder on a larger disk"
            }
        };
        Some(hint.to_owned())
    }

    /// Refuses a model of which parts are missing.
    ///
    /// # Errors
    /// `PartsMissing` if there are any `files`.
    pub(crate) fn parts_missing(model: &str, files: Vec<String>) -> Result<(), Self> {
        let model = model.to_owned();
        match files.is_empty() {
            true => Ok(()),
            false => Err(Self::PartsMissing { model, files }),
        }
    }

    /// Whether waiting a moment may help. A Hub that was never reached is not waited for.
    pub(super) fn may_pass(&self, hub_answered: bool) -> bool {
        match self {
            Self::BrokenTransfer { can_retry, .. } => *can_retry,
            Self::ServerStatus { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            Self::Unreachable { .. } => hub_answered,
            _ => false,
        }
    }
}

/// Decimal gigabytes (or megabytes, when small), as the Hub's pages show sizes.
fn gigabytes(bytes: u64) -> String {
    let (divisor, unit) = if bytes < 1_000_000_000 {
        (1e6, "MB")
    } else {
        (1e9, "GB")
    };
    format!("{:.1} {unit}", bytes as f64 / divisor)
}

/// The first of many, and how many more there are.
fn few(files: &[String]) -> String {
    const MOST: usize = 4;
    let named = files[..files.len().min(MOST)].join(", ");
    match files.len().saturating_sub(MOST) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
