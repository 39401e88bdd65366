//! Questions to the Hub: which commit, which files, where a file's bytes are.
//!
//! Whatever a header says may end up in a path, so it is checked here.
//! Source: huggingface_hub's `get_hf_file_metadata`, `http_get` and `hf_raise_for_status`.

use super::address::shown;
use super::cache::file_bytes;
use super::error::HubError;
use super::http::{Answer, Http, Question, bad_answer, redirected};
use super::options::HubOptions;
use super::spec::{RepoId, is_commit};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::io::Read;
use std::path::Path;
use ureq::http::Method;

const DESCRIPTION_LIMIT_BYTES: u64 = 16 << 20;
/// All but unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// One repository, asked over the network.
#[derive(Debug)]
pub(super) struct Remote {
    repo: RepoId,
    http: Http,
}

/// What of the Hub's description of a repository is of use here.
#[derive(Deserialize)]
struct Description {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// One file as the Hub describes it, every part checked.
#[derive(Debug)]
pub(super) struct RemoteFile {
    /// Its blob's name: the sha256 of files in large storage, git's hash of the others.
    pub(super) etag: String,
    /// `None` if the server does not tell, as when it compresses what it sends.
    pub(super) size_bytes: Option<u64>,
    /// Where the bytes are: on the Hub, or at a signed address elsewhere.
    url: String,
    needs_token: bool,
}

impl RemoteFile {
    /// Whether a file has its size, as far as that is known.
    pub(super) fn fits(&self, path: &Path) -> bool {
        self.size_bytes
            .is_none_or(|size| file_bytes(path) == Some(size))
    }

    /// Whether the etag tells right bytes from wrong ones.
    pub(super) fn has_checksum(&self) -> bool {
        matches!(self.etag.len(), 40 | 64) && self.etag.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl Remote {
    /// # Errors
    /// `BadEndpoint`.
    pub(super) fn new(repo: &RepoId, options: &HubOptions) -> Result<Self, HubError> {
        Ok(Self {
            repo: repo.clone(),
            http: Http::new(options)?,
        })
    }

    pub(super) fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// The commit behind a revision, and the names of its files.
    ///
    /// # Errors
    /// `RepoNotFound`, `RevisionNotFound`, `AccessRefused`, `ServerStatus`, and those of
    /// `Http::request`.
    pub(super) fn resolve(&self, revision: &str) -> Result<(String, Vec<String>), HubError> {
        let escaped = utf8_percent_encode(revision, RESERVED);
        let url = format!(
            "{}/api/models/{}/revision/{escaped}",
            self.http.endpoint, self.repo
        );
        let answer = self.http.request(Question {
            method: &Method::GET,
            url: &url,
            with_token: true,
            from: 0,
            stay: true,
        })?;
        if let Some(target) = &answer.target {
            return Err(redirected(&answer.url, target, "which is not the Hub"));
        }
        if answer.status() != 200 {
            return Err(self.refusal(&answer, revision, None));
        }
        let (url, mut json) = (answer.url.clone(), Vec::new());
        let read = answer
            .into_reader()?
            .take(DESCRIPTION_LIMIT_BYTES)
            .read_to_end(&mut json);
        read.map_err(|error| bad_answer(&url, error))?;
        match serde_json::from_slice::<Description>(&json) {
            Ok(Description { sha, siblings }) if is_commit(&sha) => Ok((
                sha,
                siblings.into_iter().map(|file| file.rfilename).collect(),
            )),
            Ok(_) => Err(bad_answer(&url, "the commit is malformed")),
            Err(error) => Err(bad_answer(&url, error)),
        }
    }

    /// What the Hub knows about one file. Asked anonymously first, so that the token goes out only
    /// where it is needed.
    ///
    /// # Errors
    /// Those of `resolve`, and `FileNotFound`.
    pub(super) fn file(&self, commit: &str, file: &str) -> Result<RemoteFile, HubError> {
        let escaped = utf8_percent_encode(file, RESERVED_IN_PATH);
        let url = format!(
            "{}/{}/resolve/{commit}/{escaped}",
            self.http.endpoint, self.repo
        );
        let mut question = Question {
            method: &Method::HEAD,
            url: &url,
            with_token: false,
            from: 0,
            stay: true,
        };
        let mut answer = self.http.request(question)?;
        if matches!(answer.status(), 405 | 501) {
            // The answer's head says the same; its body is not read.
            question.method = &Method::GET;
            answer = self.http.request(question)?;
        }
        if self.http.token.is_some() && matches!(answer.status(), 401 | 403 | 404 | 429) {
            question.with_token = true;
            answer = self.http.request(question)?;
        }
        if answer.status() != 200 && answer.target.is_none() {
            return Err(self.refusal(&answer, commit, Some(file)));
        }
        self.describe(&answer, commit, question.with_token)
    }

    fn describe(
        &self,
        answer: &Answer,
        commit: &str,
        needs_token: bool,
    ) -> Result<RemoteFile, HubError> {
        let bad = |what| bad_answer(&answer.url, what);
        let linked_etag = answer.header("x-linked-etag");
        match (answer.header("x-repo-commit"), &answer.target) {
            (Some(found), _) if found == commit => {}
            // Without the Hub's headers it is not the Hub who sends us on.
            (None, Some(target)) => {
                return Err(redirected(&answer.url, target, "which is not the Hub"));
            }
            _ => return Err(bad("x-repo-commit is not the commit asked for")),
        }
        let etag = linked_etag
            .or(answer.header("etag"))
            .and_then(normalize_etag);
        let size_bytes = match answer.header("x-linked-size") {
            Some(size) => Some(size.parse().map_err(|_| bad("the size is malformed"))?),
            None => answer.total_bytes(),
        };
        let found = RemoteFile {
            etag: etag.ok_or_else(|| bad("the etag is missing or malformed"))?,
            size_bytes,
            url: answer.target.as_ref().unwrap_or(&answer.url).clone(),
            needs_token,
        };
        if found.size_bytes.is_none() && !found.has_checksum() {
            return Err(bad("neither a size nor a checksum is given"));
        }
        Ok(found)
    }

    /// The bytes from the returned position on: `from`, or 0 from a server that resumes nothing.
    ///
    /// # Errors
    /// `AccessRefused`, `ServerStatus`, `BadAnswer`, and those of `Http::request`.
    pub(super) fn open(
        &self,
        file: &RemoteFile,
        from: u64,
    ) -> Result<(Box<dyn Read>, u64), HubError> {
        let answer = self.http.request(Question {
            method: &Method::GET,
            url: &file.url,
            with_token: file.needs_token,
            from,
            stay: false,
        })?;
        let starts_at = [from, 0].into_iter().find(|at| answer.starts_at(*at));
        match (
            answer.status(),
            starts_at,
            file.size_bytes,
            answer.total_bytes(),
        ) {
            (_, Some(_), Some(size), Some(total)) if size != total => Err(bad_answer(
                &answer.url,
                format_args!("{total} bytes instead of {size}"),
            )),
            (_, Some(at), ..) => Ok((answer.into_reader()?, at)),
            (206 | 416, ..) if from > 0 => self.open(file, 0),
            (206, ..) => Err(bad_answer(
                &answer.url,
                "content-range is not what was asked for",
            )),
            _ => Err(self.refusal(&answer, "", None)),
        }
    }

    /// The Hub names its reason in a header: it answers 401 for repositories that do not exist.
    fn refusal(&self, answer: &Answer, revision: &str, file: Option<&str>) -> HubError {
        let (endpoint, repo) = (shown(&self.http.endpoint), self.repo.to_string());
        let (revision, status) = (revision.to_owned(), answer.status());
        let is_hub = self.http.is_endpoint(&answer.url);
        match (status, answer.header("x-error-code"), file) {
            (_, Some("RepoNotFound"), _) => HubError::RepoNotFound { endpoint, repo },
            (_, Some("RevisionNotFound"), _) => HubError::RevisionNotFound { repo, revision },
            (401 | 403, _, _) if is_hub => HubError::AccessRefused {
                endpoint,
                repo,
                status,
                had_token: self.http.token.is_some(),
            },
            (404, Some("EntryNotFound"), Some(file)) => HubError::FileNotFound {
                repo,
                revision,
                file: file.to_owned(),
            },
            (404, _, None) if revision == "main" => HubError::RepoNotFound { endpoint, repo },
            (404, _, None) if !revision.is_empty() => HubError::RevisionNotFound { repo, revision },
            _ => HubError::ServerStatus {
                url: shown(&answer.url),
                status,
            },
        }
    }
}

/// An etag as Python's huggingface_hub makes it a blob's name: weak or strong, with or without
/// quotes. `None` if it cannot be one.
fn normalize_etag(etag: &str) -> Option<String> {
    let etag = etag.trim_start_matches(['W', '/']).trim_matches('"');
    let is_safe = |byte: u8| byte.is_ascii_graphic() && !br#"/\:*?"<>|"#.contains(&byte);
    let is_name = (1..=128).contains(&etag.len()) && !etag.starts_with('.');
    (is_name && etag.bytes().all(is_safe)).then(|| etag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_addresses() {
        let escape = |text, set| utf8_percent_encode(text, set).to_string();
        assert_eq!(
            escape("sub/model 1#é~.gguf", RESERVED_IN_PATH),
            "sub/model%201%23%C3%A9~.gguf"
        );
        assert_eq!(escape("refs/pr/1", RESERVED), "refs%2Fpr%2F1");
    }

    #[test]
    fn etags_come_in_pythons_forms() {
        for etag in [
            "abc-1.2_3",
            "\"abc-1.2_3\"",
            "W/\"abc-1.2_3\"",
            "W/abc-1.2_3",
        ] {
            assert_eq!(normalize_etag(etag).as_deref(), Some("abc-1.2_3"), "{etag}");
        }
        for etag in [
            "", "\"\"", "W/\"\"", "\"../x\"", "\"..\"", "a/b", r"a\b", "a b", "C:x",
        ] {
            assert_eq!(normalize_etag(etag), None, "{etag}");
        }
        assert_eq!(normalize_etag(&"a".repeat(129)), None);
    }
}
