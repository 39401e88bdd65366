//! Who may ask: by the keys that they bring or, where there are none, by the name that they ask
//! for.

use std::net::{IpAddr, SocketAddr};

use hyper::Uri;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::response::{self, Request, Response};
use super::work::Client;

/// A key, as its hash: comparing those tells nothing of how much of a key was right.
pub struct Key([u8; 32]);

impl Key {
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// Who is let in.
pub struct Access {
    pub keys: Vec<Key>,
    /// The name that the server was given, where only this machine's programs are meant to ask and
    /// bring no key. A browser is one of them, and a page can give its own name this machine's
    /// address (DNS rebinding): then requests have to be for this name or this machine, and of a
    /// page of its own.
    pub only_host: Option<String>,
    /// The origin whose pages may read the answers.
    pub cors: Option<HeaderValue>,
}

impl Access {
    /// Whether a request is for this server, by the name that it was sent to, and not of a page of
    /// some other site: that could not read the answer, but keep this machine at work.
    pub fn is_meant(&self, request: &Request) -> bool {
        let Some(given) = &self.only_host else {
            return true;
        };
        let headers = request.headers();
        let is_ours = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_this_machine = |ip: IpAddr| ip.to_canonical().is_loopback();
            // A name under localhost is this machine too (RFC 6761): http://tauri.localhost.
            let name = host.to_ascii_lowercase();
            name == "localhost"
                || name.ends_with(".localhost")
                || host.eq_ignore_ascii_case(given)
                || host.parse().is_ok_and(is_this_machine)
        };
        let is_welcome = headers.get(header::ORIGIN).is_none_or(|origin| {
            let is_let_in = |cors: &HeaderValue| cors == "*" || cors == origin;
            let origin = Uri::try_from(origin.as_bytes()).unwrap_or_default();
            let is_own_page = match (origin.scheme_str(), origin.host()) {
                (Some("http" | "https"), Some(host)) => is_ours(host),
                (Some(_), Some(_)) => true, // an editor's own: vscode-file://vscode-app
                _ => false,                 // `null`: who hides where it is from
            };
            is_own_page || self.cors.as_ref().is_some_and(is_let_in)
        });
        let header = headers.get(header::HOST);
        let header = header.map(|host| Authority::try_from(host.as_bytes()));
        is_welcome
            && match (request.uri().host(), &header) {
                (Some(host), _) => is_ours(host),
                (None, Some(Ok(authority))) => is_ours(authority.host()),
                (None, Some(Err(_))) => false,
                (None, None) => true, // no browser leaves it out
            }
    }

    /// Who asks; `None` where a key is needed and not brought.
    pub fn client(&self, peer: SocketAddr, request: &Request) -> Option<Client> {
        if self.keys.is_empty() {
            return Some(Client(peer.ip().to_string()));
        }
        let brought = request.headers().get(header::AUTHORIZATION)?;
        let (scheme, brought) = brought.to_str().ok()?.split_once(' ')?;
        let brought = Key::new(brought.trim());
        let is_it = |key: &Key| key.0.ct_eq(&brought.0).into();
        let found = self.keys.iter().position(is_it);
        let found = found.filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Client(format!("key {found} of {}", peer.ip()))) // a team can share one
    }
}

/// What a browser asks before it lets a page send something.
pub fn preflight(request: &Request) -> Response {
    let mut response = response::text("text/plain", String::new());
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(wanted) = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
    {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}
