//! HTTP as the Hub speaks it: time limits, which redirects to follow, who may see the token.
//!
//! Redirects are followed one by one, because each step decides anew whether the token goes along.
//! Source: huggingface_hub, `_httpx2_follow_hub_redirects_with_backoff` and `_is_same_or_hub_host`.

use super::address::{Origin, join, shown};
use super::certificates::roots;
use super::error::HubError;
use super::options::{CaSource, HubOptions, Patience, Token};
use flate2::read::MultiGzDecoder;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use std::fmt;
use std::io::Read;
use std::sync::{Arc, OnceLock};
use ureq::http::{Method, Request, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

const MAX_REDIRECTS: u32 = 8;
/// Where the Hub itself answers, whatever the endpoint.
const HUB_HOSTS: [&str; 3] = ["huggingface.co", "hf.co", "hub-ci.huggingface.co"];
/// What a server may have left as it is in an address, although it may not stand there.
const RAW: &AsciiSet = &CONTROLS.add(b' ');

/// A client of one endpoint. The network is first touched by `request`.
pub(super) struct Http {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    origin: Origin,
    pub(super) token: Option<Token>,
    patience: Patience,
    ca_sources: Vec<CaSource>,
    agent: OnceLock<Agent>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", shown(&self.endpoint))
    }
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) method: &'a Method,
    pub(super) url: &'a str,
    /// Shows the token, but to the endpoint's host only.
    pub(super) with_token: bool,
    /// Ask for what comes from this byte on.
    pub(super) from: u64,
    /// Stop at a redirect that leads from the Hub to the bytes, and hand that out as the answer.
    pub(super) stay: bool,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// Who answered, after redirects.
    pub(super) url: String,
    /// Where a redirect points that was not followed.
    pub(super) target: Option<String>,
    response: Response<Body>,
}

impl Http {
    /// # Errors
    /// `BadEndpoint`.
    pub(super) fn new(options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = options.endpoint.clone();
        let Some(origin) = Origin::of(&endpoint) else {
            let endpoint = shown(&endpoint);
            return Err(HubError::BadEndpoint { endpoint });
        };
        Ok(Self {
            endpoint,
            origin,
            token: options.token.clone(),
            patience: options.patience,
            ca_sources: options.ca_sources.clone(),
            agent: OnceLock::new(),
        })
    }

    /// Asks, and follows redirects.
    ///
    /// # Errors
    /// `Unreachable`, `Untrusted`, `CaSource`, `Redirected`, `BadAnswer`. Any status is an answer.
    pub(super) fn request(&self, question: Question<'_>) -> Result<Answer, HubError> {
        let mut url = question.url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(question, &url)?;
            let Some((target, origin)) = redirect(&url, &response)? else {
                let target = None;
                return Ok(Answer {
                    url,
                    target,
                    response,
                });
            };
            let here = Origin::of(&url).unwrap_or_default();
            if here.is_https && !origin.is_https {
                return Err(redirected(&url, &target, "which is not encrypted"));
            }
            // The Hub describes a large file itself, and then sends us to the bytes wherever they
            // are.
            let describes = response.headers().contains_key("x-linked-etag");
            if question.stay && (describes || !self.is_hub(&here, &origin)) {
                let target = Some(target);
                return Ok(Answer {
                    url,
                    target,
                    response,
                });
            }
            url = target;
        }
        Err(redirected(question.url, &url, "in a circle"))
    }

    /// Whether the endpoint itself answers at this address, at most by a more secure way.
    pub(super) fn is_endpoint(&self, url: &str) -> bool {
        Origin::of(url).is_some_and(|origin| self.origin.is_same_host(&origin))
    }

    fn is_hub(&self, here: &Origin, target: &Origin) -> bool {
        let is_known = target.is_https && target.port == 443 && HUB_HOSTS.contains(&&*target.host);
        is_known || here.is_same_host(target) || self.origin.is_same_host(target)
    }

    fn send(&self, question: Question<'_>, url: &str) -> Result<Response<Body>, HubError> {
        let mut request = Request::builder().method(question.method).uri(url);
        if question.from > 0 {
            request = request.header("Range", format!("bytes={}-", question.from));
        }
        let token = self
            .token
            .as_ref()
            .filter(|_| question.with_token && self.is_endpoint(url));
        if let Some(token) = token {
            request = request.header("Authorization", token.bearer());
        }
        let request = request.body(()).map_err(|error| bad_answer(url, error))?;
        self.agent()?
            .run(request)
            .map_err(|error| request_error(url, error))
    }

    fn agent(&self) -> Result<&Agent, HubError> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from(roots(&self.ca_sources)?))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let Patience { connect, stall, .. } = self.patience;
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("diffucoder/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .build();
        Ok(self.agent.get_or_init(|| agent.into()))
    }
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header with something in it.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let value = self.response.headers().get(name)?.to_str().ok()?.trim();
        Some(value).filter(|value| !value.is_empty())
    }

    /// Whether the body is the file's bytes as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.header("content-encoding")
            .is_none_or(|encoding| encoding.eq_ignore_ascii_case("identity"))
    }

    /// The size of the whole file, if the answer tells.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        match self.status() {
            _ if !self.is_plain() => None,
            206 => self
                .header("content-range")?
                .rsplit('/')
                .next()?
                .parse()
                .ok(),
            200 => self.header("content-length")?.parse().ok(),
            _ => None,
        }
    }

    /// Whether the body is the file's bytes from `from` on.
    pub(super) fn starts_at(&self, from: u64) -> bool {
        let start = || {
            let (unit, range) = self.header("content-range")?.split_once(' ')?;
            let (start, _) = range.trim().split_once('-')?;
            Some((unit.eq_ignore_ascii_case("bytes"), start.parse().ok()?))
        };
        match self.status() {
            206 => self.is_plain() && start() == Some((true, from)),
            status => status == 200 && from == 0,
        }
    }

    /// The body, unpacked if a server compressed it without being asked to.
    ///
    /// # Errors
    /// `BadAnswer` for a compression other than gzip.
    pub(super) fn into_reader(self) -> Result<Box<dyn Read>, HubError> {
        let encoding = self
            .header("content-encoding")
            .unwrap_or("identity")
            .to_lowercase();
        let body = self.response.into_body().into_reader();
        match &*encoding {
            "identity" => Ok(Box::new(body)),
            "gzip" | "x-gzip" => Ok(Box::new(MultiGzDecoder::new(body))),
            _ => Err(bad_answer(
                &self.url,
                format_args!("it is compressed as {encoding:?}"),
            )),
        }
    }
}

/// Where an answer points to, if it is a redirect.
fn redirect(url: &str, response: &Response<Body>) -> Result<Option<(String, Origin)>, HubError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let nowhere = || bad_answer(url, "it redirects nowhere");
    let location = response.headers().get("location").ok_or_else(nowhere)?;
    let location = percent_encode(location.as_bytes().trim_ascii(), RAW).to_string();
    let target = join(url, &location);
    match Origin::of(&target) {
        Some(origin) if !location.is_empty() => Ok(Some((target, origin))),
        _ => Err(nowhere()),
    }
}

/// A request that got no answer, or none that is HTTP.
fn request_error(url: &str, error: ureq::Error) -> HubError {
    use ureq::Error as E;
    let url = &*shown(url);
    let host = url.split('/').nth(2).unwrap_or(url).to_owned();
    let tls = match &error {
        E::Rustls(error) => Some(error),
        E::Io(error) => error.get_ref().and_then(|error| error.downcast_ref()),
        _ => None,
    };
    if let Some(rustls::Error::InvalidCertificate(reason)) = tls {
        return HubError::Untrusted {
            host,
            reason: reason.to_string(),
        };
    }
    match error {
        E::Http(_)
        | E::BadUri(_)
        | E::Protocol(_)
        | E::LargeResponseHeader(..)
        | E::BodyExceedsLimit(_) => bad_answer(url, error),
        source => HubError::Unreachable {
            host,
            model_is_cached: false,
            source: Box::new(source),
        },
    }
}

pub(super) fn bad_answer(url: &str, what: impl ToString) -> HubError {
    HubError::BadAnswer {
        url: shown(url),
        what: what.to_string(),
    }
}

pub(super) fn redirected(url: &str, to: &str, how: &'static str) -> HubError {
    HubError::Redirected {
        url: shown(url),
        to: shown(to),
        how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_stay_out_of_messages() {
        let error = redirected(
            "https://hub/x",
            "https://cdn/x?Signature=abc",
            "in a circle",
        );
        assert!(!error.to_string().contains("abc"), "{error}");
    }

    #[test]
    fn a_mirror_leads_to_the_hub_and_to_itself() {
        let mut options = HubOptions::new("cache");
        options.endpoint = "https://mirror".into();
        let http = Http::new(&options).expect("an address");
        let is_hub = |here, target| {
            let [here, target] = [here, target].map(|url| Origin::of(url).expect("an address"));
            http.is_hub(&here, &target)
        };
        assert!(is_hub("https://mirror/a", "https://huggingface.co/a"));
        assert!(is_hub("https://mirror/a", "https://mirror/b"));
        assert!(is_hub("https://other/a", "https://other/b"));
        assert!(is_hub("https://other/a", "https://mirror/b"));
        assert!(!is_hub("https://mirror/a", "https://cdn/a"));
        assert!(!is_hub("https://mirror/a", "http://huggingface.co/a"));
        assert!(!is_hub("https://mirror/a", "https://huggingface.co:8443/a"));
        assert!(!is_hub("https://mirror/a", "https://cdn.huggingface.co/a"));
    }
}
