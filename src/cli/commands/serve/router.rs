//! Which path is answered by what, behind one door: it asks for keys, writes refusals in the form of
//! each API, counts, and logs a line. No text of a request is logged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diffucoder::diffusion::Attention;
use diffucoder::session::Session;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::metrics::Metrics;
use super::queue::{Client, Queue};
use super::refusal::Refusal;
use super::stream::Body;
use super::{llama, ollama, openai, page, request};
use crate::cli::args::model::ModelArgs;
use crate::cli::terminal::ui::Ui;

pub type Request = hyper::Request<Incoming>;
pub type Response = hyper::Response<Body>;

/// Most bytes of a body. With as many of them as requests may be read, wait and run, this bounds
/// what requests can make the server hold.
const MOST_BODY_BYTES: usize = 8 << 20;
/// A body is there within this time.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What a handler gives.
pub type Answer = Result<Response, Refusal>;

/// An object in compact JSON on one line.
pub fn json(value: &Value) -> Response {
    text("application/json", value.to_string())
}

pub fn text(kind: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::whole(text));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A key, as its hash: comparing those tells nothing of how much of a key was right.
pub struct Key([u8; 32]);

impl Key {
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

/// What requests need to know of the model.
pub struct ModelInfo {
    pub id: String,
    /// Tokens that it is shown.
    pub context: usize,
    pub parameters: usize,
    pub is_chat: bool,
    /// Whether it fills holes that text follows.
    pub fills: bool,
    /// In seconds since 1970.
    pub opened: u64,
}

impl ModelInfo {
    /// The id is what was typed, without the folder that a file lies in.
    pub fn new(args: &ModelArgs, session: &Session, context: usize) -> Self {
        let name = args.name().to_string_lossy();
        let is_path = std::path::Path::new(args.name()).exists();
        let last = name.trim_end_matches('/').rsplit(['/', '\\']).next();
        let package = session.package();
        Self {
            id: match last {
                Some(last) if is_path => last.to_string(),
                _ => name.to_string(),
            },
            context,
            parameters: package.config.parameters(),
            is_chat: package.is_chat(),
            fills: package.config.attention == Attention::Full,
            opened: openai::unix_seconds(),
        }
    }
}

/// What all requests share.
pub struct App {
    pub ui: Ui,
    pub queue: Arc<Queue>,
    pub keys: Vec<Key>,
    /// The name that the server was given, where only this machine's programs are meant to ask and
    /// bring no key. A browser is one of them, and a page can give its own name this machine's
    /// address (DNS rebinding): then requests have to be for this name or this machine, and of a
    /// page of its own.
    pub only_host: Option<String>,
    /// The origin whose pages may read the answers.
    pub cors: Option<HeaderValue>,
    pub model: ModelInfo,
    pub metrics: Arc<Metrics>,
}

impl App {
    /// Reads a request's body, within bounds of size and time.
    pub async fn read<T: DeserializeOwned>(&self, request: Request) -> Result<T, Refusal> {
        let body = Limited::new(request.into_body(), MOST_BODY_BYTES).collect();
        let body = tokio::time::timeout(BODY_TIME, body).await;
        let body = body.map_err(|_| {
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")
        })?;
        let body = body.map_err(|_| {
            let message = format!("the body has more than {MOST_BODY_BYTES} bytes, or broke off");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        })?;
        request::read(&body.to_bytes())
    }

    /// Whether a request is for this server, by the name that it was sent to, and not of a page of
    /// some other site: that could not read the answer, but keep this machine at work.
    fn is_meant(&self, request: &Request) -> bool {
        let Some(given) = &self.only_host else {
            return true;
        };
        let headers = request.headers();
        let is_ours = |host: &str| {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let is_this_machine = |ip: IpAddr| ip.to_canonical().is_loopback();
            host.eq_ignore_ascii_case("localhost")
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
    fn client(&self, peer: SocketAddr, request: &Request) -> Option<Client> {
        if self.keys.is_empty() {
            return Some(Client(peer.ip().to_string()));
        }
        let brought = request.headers().get(header::AUTHORIZATION)?;
        let (scheme, brought) = brought.to_str().ok()?.split_once(' ')?;
        let brought = Key::new(brought.trim());
        let is_it = |key: &Key| key.0.ct_eq(&brought.0).into();
        let found = self.keys.iter().position(is_it);
        let found = found.filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Client(format!("key {found}")))
    }
}

/// The paths that there are, and the method that each takes.
const PATHS: [(&str, &str); 15] = [
    ("/", "GET"),
    ("/canvas", "POST"),
    ("/health", "GET"),
    ("/metrics", "GET"),
    ("/infill", "POST"),
    ("/props", "GET"),
    ("/v1/models", "GET"),
    ("/v1/completions", "POST"),
    ("/v1/fim/completions", "POST"),
    ("/v1/chat/completions", "POST"),
    ("/api/chat", "POST"),
    ("/api/generate", "POST"),
    ("/api/show", "POST"),
    ("/api/tags", "GET"),
    ("/api/version", "GET"),
];

/// Those of them that need no key.
const PUBLIC: [&str; 2] = ["/", "/health"];

/// Answers a request, whatever it is.
pub async fn answer(app: &Arc<App>, peer: SocketAddr, request: Request) -> Response {
    let started = Instant::now();
    let mut paths = PATHS.into_iter();
    let known = paths.find(|(path, _)| *path == request.uri().path());
    let (path, wanted) = known.unwrap_or(("other", ""));
    let is_ollama_s = request.uri().path().starts_with("/api/");
    let form = if is_ollama_s { "/api/" } else { path };
    let method = request.method().clone();
    let is_preflight = app.cors.is_some() && method == Method::OPTIONS;
    let client = app.client(peer, &request);
    let answer = match (client, known) {
        _ if !app.is_meant(&request) => Err(Refusal::elsewhere()),
        _ if is_preflight => Ok(preflight(&request)),
        (None, _) if !PUBLIC.contains(&path) => Err(Refusal::unauthorized()),
        (_, None) => {
            let message = "there is nothing at this path";
            Err(Refusal::new(StatusCode::NOT_FOUND, message))
        }
        _ if method != *wanted && !(method == Method::HEAD && wanted == "GET") => {
            Err(Refusal::method(wanted))
        }
        (client, Some(_)) => handle(app, path, client, request).await,
    };
    let mut response = answer.unwrap_or_else(|refusal| refusal.response(form));
    if let Some(origin) = &app.cors {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    let (status, time) = (response.status().as_u16(), started.elapsed());
    app.metrics.count(path, status, time);
    let millis = time.as_secs_f64() * 1e3;
    app.ui
        .log(&format!("{method} {path} {status} {millis:.1} ms"));
    response
}

async fn handle(app: &Arc<App>, path: &str, client: Option<Client>, request: Request) -> Answer {
    match path {
        "/" => Ok(page::page()),
        "/canvas" => page::canvas(app, request).await,
        "/metrics" => {
            let metrics = app.metrics.text(app.queue.sizes());
            Ok(text("text/plain; version=0.0.4", metrics))
        }
        "/infill" => llama::infill(app, client, request).await,
        "/props" => Ok(llama::props(app)),
        "/v1/models" => Ok(openai::models(app)),
        "/v1/completions" => openai::completions(app, request).await,
        "/v1/fim/completions" => openai::fim(app, request).await,
        "/v1/chat/completions" => openai::chat(app, request).await,
        "/api/chat" => ollama::chat(app, request).await,
        "/api/generate" => ollama::generate(app, request).await,
        "/api/show" => Ok(ollama::show(app)),
        "/api/tags" => Ok(ollama::tags(app)),
        "/api/version" => Ok(json(&json!({"version": env!("CARGO_PKG_VERSION")}))),
        _ => Ok(json(&json!({"status": "ok"}))),
    }
}

/// What a browser asks before it lets a page send something.
fn preflight(request: &Request) -> Response {
    let mut response = Response::new(Body::whole(""));
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
