//! Questions to the Hub: which commit, which files, where a file's bytes are.
//!
//! Asked with our own agent, which has time limits, before hf-hub gets to work: hf-hub 0.5 panics on
//! some malformed answers and puts whatever the headers say into paths, so they are checked here first.
//! Source: huggingface_hub's `get_hf_file_metadata` and `hf_raise_for_status`.

use super::cache::is_commit;
use super::error::HubError;
use super::options::{HubOptions, Token};
use super::spec::RepoId;
use serde::Deserialize;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

const DESCRIPTION_LIMIT_BYTES: u64 = 16 << 20;
const MAX_REDIRECTS: u32 = 8;

/// One repository, asked over the network.
#[derive(Debug)]
pub(super) struct Remote {
    repo: RepoId,
    endpoint: String,
    token: Option<Token>,
    /// Follows no redirect by itself.
    agent: Agent,
    /// Follows them all, so it is never given the token.
    stranger: Agent,
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
    /// The sha256 of files in large storage, 40 digits of git for the others.
    pub(super) etag: String,
    pub(super) size_bytes: u64,
    /// Where the bytes are: on the Hub, or at a signed address elsewhere.
    url: String,
    send_token: bool,
    /// Whether anyone may read it.
    pub(super) is_public: bool,
}

impl Remote {
    /// # Errors
    /// `BadEndpoint`.
    pub(super) fn new(repo: &RepoId, options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.clone();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(HubError::BadEndpoint { endpoint });
        }
        let agent = |max_redirects| -> Agent {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(max_redirects)
                .user_agent(concat!("diffucoder/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .timeout_resolve(Some(options.patience.connect))
                .timeout_connect(Some(options.patience.connect))
                .timeout_recv_response(Some(options.patience.stall))
                .timeout_per_read(Some(options.patience.stall))
                .build()
                .into()
        };
        let (token, repo) = (options.token.clone(), repo.clone());
        Ok(Self {
            repo,
            endpoint,
            token,
            agent: agent(0),
            stranger: agent(MAX_REDIRECTS),
        })
    }

    /// The commit behind a revision, and the names of its files.
    ///
    /// # Errors
    /// `RepoNotFound`, `RevisionNotFound`, `AccessRefused`, `Unreachable`, `ServerStatus`, `BadAnswer`.
    pub(super) fn resolve(&self, revision: &str) -> Result<(String, Vec<String>), HubError> {
        let path = format!("api/models/{}/revision/{}", self.repo, escape(revision, ""));
        let url = format!("{}/{path}", self.endpoint);
        let (url, mut response) = self.ask(&url, self.token.as_ref(), None)?;
        if !response.status().is_success() {
            return Err(self.refusal(&url, &response, revision, None));
        }
        let body = response
            .body_mut()
            .with_config()
            .limit(DESCRIPTION_LIMIT_BYTES)
            .read_to_vec();
        let body = body.map_err(|error| request_error(&url, error))?;
        match serde_json::from_slice::<Description>(&body) {
            Ok(description) if is_commit(&description.sha) => {
                let siblings = description.siblings.into_iter();
                Ok((
                    description.sha,
                    siblings.map(|file| file.rfilename).collect(),
                ))
            }
            Ok(_) => Err(bad_answer(&url, "the commit is malformed")),
            Err(error) => Err(bad_answer(&url, &error.to_string())),
        }
    }

    /// What the Hub knows about one file. Asked anonymously first, so that the token goes out only
    /// where it is needed.
    ///
    /// # Errors
    /// Those of `resolve`, and `FileNotFound`.
    pub(super) fn file(&self, commit: &str, file: &str) -> Result<RemoteFile, HubError> {
        let path = format!("{}/resolve/{commit}/{}", self.repo, escape(file, "/"));
        let url = format!("{}/{path}", self.endpoint);
        let (mut at, mut response) = self.ask(&url, None, Some("bytes=0-0"))?;
        let needs_token =
            self.token.is_some() && matches!(response.status().as_u16(), 401 | 403 | 404 | 429);
        if needs_token {
            (at, response) = self.ask(&url, self.token.as_ref(), Some("bytes=0-0"))?;
        }
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(&at, &response, commit, Some(file)));
        }
        if header(&response, "x-repo-commit") != Some(commit) {
            return Err(bad_answer(&at, "x-repo-commit is not the commit asked for"));
        }
        let etag = header(&response, "x-linked-etag")
            .or(header(&response, "etag"))
            .unwrap_or_default();
        let etag = etag.trim_matches('"').to_owned();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(1..=128).contains(&etag.len()) || !etag.bytes().all(is_plain) {
            return Err(bad_answer(&at, "the etag is missing or malformed"));
        }
        let size = match header(&response, "x-linked-size") {
            Some(size) => size.parse().ok(),
            None => total_bytes(&response),
        };
        let size_bytes = size.ok_or_else(|| bad_answer(&at, "the size is missing or malformed"))?;
        let url = if status.is_redirection() {
            self.location(&at, &response)?
        } else {
            at
        };
        let send_token = needs_token && url.starts_with(&format!("{}/", self.endpoint));
        Ok(RemoteFile {
            etag,
            size_bytes,
            url,
            send_token,
            is_public: !needs_token,
        })
    }

    /// The bytes from `from` on, and whether they are that: a server that ignores ranges sends all.
    ///
    /// # Errors
    /// `Unreachable`, `AccessRefused`, `ServerStatus`, `BadAnswer`.
    pub(super) fn open(
        &self,
        file: &RemoteFile,
        from: u64,
    ) -> Result<(Response<Body>, bool), HubError> {
        let wanted = format!("bytes={from}-");
        let (agent, token) = match file.send_token {
            true => (&self.agent, self.token.as_ref()),
            false => (&self.stranger, None),
        };
        let response = send(agent, &file.url, token, Some(&wanted))?;
        let range = header(&response, "content-range").unwrap_or_default();
        let is_partial = response.status() == 206 && range.starts_with(&format!("bytes {from}-"));
        match response.status().as_u16() {
            206 if !is_partial => Err(bad_answer(
                &file.url,
                "content-range is not what was asked for",
            )),
            200 | 206 => Ok((response, is_partial)),
            _ => Err(self.refusal(&file.url, &response, "", None)),
        }
    }

    /// Follows redirects within the Hub, as Python and hf-hub do, and says where it ended.
    fn ask(
        &self,
        url: &str,
        token: Option<&Token>,
        range: Option<&str>,
    ) -> Result<(String, Response<Body>), HubError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = send(&self.agent, &url, token, range)?;
            if !response.status().is_redirection() || !is_relative(&response) {
                return Ok((url, response));
            }
            url = self.location(&url, &response)?;
        }
        Err(bad_answer(&url, "too many redirects"))
    }

    /// Where a redirect points, as a whole address.
    fn location(&self, url: &str, response: &Response<Body>) -> Result<String, HubError> {
        let location = header(response, "location").unwrap_or_default();
        let secure = self.endpoint.starts_with("https://");
        if location.parse::<Uri>().is_err() {
            Err(bad_answer(url, "it redirects nowhere"))
        } else if is_relative(response) {
            let origin = url
                .match_indices('/')
                .nth(2)
                .map_or(url, |(end, _)| &url[..end]);
            Ok(format!("{origin}{location}"))
        } else if location.starts_with("https://") || (location.starts_with("http://") && !secure) {
            Ok(location.to_owned())
        } else {
            Err(bad_answer(url, "it redirects nowhere"))
        }
    }

    /// The Hub names its reason in a header: it answers 401 for repositories that do not exist.
    fn refusal(
        &self,
        url: &str,
        response: &Response<Body>,
        revision: &str,
        file: Option<&str>,
    ) -> HubError {
        let (endpoint, repo) = (self.endpoint.clone(), self.repo.to_string());
        let revision = revision.to_owned();
        let status = response.status().as_u16();
        match (status, header(response, "x-error-code"), file) {
            (_, Some("RepoNotFound"), _) => HubError::RepoNotFound { endpoint, repo },
            (_, Some("RevisionNotFound"), _) => HubError::RevisionNotFound { repo, revision },
            (401 | 403, _, _) => {
                let had_token = self.token.is_some();
                HubError::AccessRefused {
                    endpoint,
                    repo,
                    status,
                    had_token,
                }
            }
            (404, _, Some(file)) => HubError::FileNotFound {
                repo,
                revision,
                file: file.to_owned(),
            },
            (404, _, None) if revision == "main" => HubError::RepoNotFound { endpoint, repo },
            (404, _, None) if !revision.is_empty() => HubError::RevisionNotFound { repo, revision },
            _ => HubError::ServerStatus {
                url: without_query(url),
                status,
            },
        }
    }
}

fn send(
    agent: &Agent,
    url: &str,
    token: Option<&Token>,
    range: Option<&str>,
) -> Result<Response<Body>, HubError> {
    let mut request = agent.get(url);
    if let Some(range) = range {
        request = request.header("Range", range);
    }
    if let Some(token) = token {
        request = request.header("Authorization", token.bearer());
    }
    request.call().map_err(|error| request_error(url, error))
}

/// A request that got no answer, or none that is HTTP.
pub(super) fn request_error(url: &str, error: ureq::Error) -> HubError {
    use ureq::Error as E;
    let is_answer = matches!(
        error,
        E::Http(_)
            | E::BadUri(_)
            | E::Protocol(_)
            | E::LargeResponseHeader(..)
            | E::TooManyRedirects
            | E::RedirectFailed
            | E::BodyExceedsLimit(_)
    );
    if is_answer {
        return bad_answer(url, &error.to_string());
    }
    let host = url.split('/').nth(2).unwrap_or(url).to_owned();
    HubError::Unreachable {
        host,
        model_is_cached: false,
        source: Box::new(error),
    }
}

pub(super) fn bad_answer(url: &str, what: &str) -> HubError {
    HubError::BadAnswer {
        url: without_query(url),
        what: what.to_owned(),
    }
}

/// Signatures of signed addresses are nobody's business.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn is_relative(response: &Response<Body>) -> bool {
    header(response, "location")
        .is_some_and(|location| location.starts_with('/') && !location.starts_with("//"))
}

/// The whole file's size, from the answer to a question for part of it.
fn total_bytes(response: &Response<Body>) -> Option<u64> {
    match response.status().as_u16() {
        206 => header(response, "content-range")?
            .rsplit('/')
            .next()?
            .parse()
            .ok(),
        200 => header(response, "content-length")?.parse().ok(),
        _ => None,
    }
}

/// Percent-encodes all but unreserved characters and those in `keep`.
pub(super) fn escape(text: &str, keep: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            escaped.push(c);
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_addresses() {
        assert_eq!(
            escape("sub/model 1#é.gguf", "/"),
            "sub/model%201%23%C3%A9.gguf"
        );
        assert_eq!(escape("refs/pr/1", ""), "refs%2Fpr%2F1");
    }

    #[test]
    fn signatures_stay_out_of_messages() {
        assert_eq!(
            without_query("https://cdn/x?Signature=abc"),
            "https://cdn/x"
        );
    }
}
