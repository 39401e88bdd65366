//! A small Hugging Face Hub on this machine: the real paths, headers and redirects, with faults to
//! order.
//!
//! Two HTTP/1.1 servers on free ports: the "hub", and the "CDN" that large files are redirected to.
//! Each runs a fixed number of threads, answers one request a connection, and stops when dropped.
//! Source: responses of huggingface.co as huggingface_hub reads them.

use flate2::{Compression, write::GzEncoder};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::binary::program;

pub const REPO: &str = "some-one/Model-7B";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const THREADS: usize = 4;

/// What goes wrong, and how often. The default is a Hub that works.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// Everything needs this token.
    pub token: Option<&'static str>,
    /// Only files do: the listing stays public, as for gated models.
    pub gated: bool,
    /// The CDN closes the connection after this many bytes, this many times.
    pub cut: Option<(usize, u32)>,
    /// No content-length: the end of the connection is the end of the file.
    pub without_length: bool,
    /// The CDN answers a range that starts after 0 with the whole file.
    pub ignores_ranges: bool,
    /// The CDN sends other bytes of the same length.
    pub wrong_bytes: bool,
    /// The CDN sends half of the headers and then nothing.
    pub stalls: bool,
    /// The CDN sends half of the body and then nothing.
    pub stalls_half_way: bool,
    /// Every range that starts after 0 is refused.
    pub refuses_ranges: bool,
    /// Whole files go out compressed so, whatever the request accepts.
    pub encoding: Option<&'static str>,
    /// Bodies come in chunks, without a length.
    pub chunked: bool,
    /// HEAD is not known.
    pub no_head: bool,
    /// All of the hub's addresses answer this status and location; in it `{hub}`, `{cdn}` and
    /// `{path}` stand for what they say. Addresses below `/real` are served.
    pub moved: Option<(u16, &'static str)>,
    /// The first requests for files get this status.
    pub failing: Option<(u16, u32)>,
    /// Another value (or none) for a header of the hub's file answers.
    pub header: Option<(&'static str, Option<String>)>,
    /// Requests for this id are redirected to the real one.
    pub renamed_from: Option<&'static str>,
    /// The hub sends this and nothing else.
    pub garbage: Option<&'static str>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub on_cdn: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

type Files = BTreeMap<String, StoredFile>;

struct StoredFile {
    bytes: Vec<u8>,
    /// As the Hub has them: sha256 on the CDN, else git's.
    etag: String,
    on_cdn: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    commits: BTreeMap<String, Files>,
    refs: BTreeMap<String, String>,
    seen: Vec<Seen>,
    hub: String,
    cdn: String,
}

pub struct HubServer {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    _servers: [Server; 2],
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The program, which may ask the Hub at `endpoint` and keeps what it gets in `home`.
pub fn online(args: &[&str], endpoint: &str, home: &Path) -> Command {
    let mut command = program(args);
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home);
    command.env_remove("HF_HUB_OFFLINE").stdin(Stdio::null());
    command
}

/// Git's hash of a file with this content.
pub fn git_hash(bytes: &[u8]) -> String {
    let head = format!("blob {}\0", bytes.len());
    hex(&Sha1::new_with_prefix(head).chain_update(bytes).finalize())
}

fn hex(sum: &[u8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl HubServer {
    /// Serves these files as `REPO` at `COMMIT`, which is `main`; `.safetensors` and `.gguf` are
    /// large files.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        Self::start_with(files, None)
    }

    /// The same over TLS, with the certificate in `tests/fixtures/hub`.
    pub fn start_tls(files: &[(&str, &[u8])]) -> Self {
        let fixture = |name| crate::fixture("hub").join(name);
        let certificate = CertificateDer::from_pem_file(fixture("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::start_with(files, Some(Arc::new(config)))
    }

    fn start_with(files: &[(&str, &[u8])], tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Mutex::new(State::default()));
        let (hub_state, cdn_state) = (Arc::clone(&state), Arc::clone(&state));
        let cdn = Server::start(tls.clone(), move |request, stream, stop| {
            serve_cdn(&cdn_state, request, stream, stop)
        });
        let hub = Server::start(tls, move |request, stream, _| {
            serve_hub(&hub_state, request, stream)
        });
        let endpoint = format!("{scheme}://{}", hub.address);
        {
            let mut state = state.lock().unwrap();
            state.hub.clone_from(&endpoint);
            state.cdn = format!("{scheme}://{}", cdn.address);
        }
        let server = Self {
            endpoint,
            state,
            _servers: [hub, cdn],
        };
        server.commit("main", COMMIT, files);
        server
    }

    /// Lets a branch or tag point to a commit with these files.
    pub fn commit(&self, name: &str, commit: &str, files: &[(&str, &[u8])]) {
        let stored = |&(name, bytes): &(&str, &[u8])| {
            let on_cdn = name.ends_with(".safetensors") || name.ends_with(".gguf");
            let etag = if on_cdn {
                sha256(bytes)
            } else {
                git_hash(bytes)
            };
            let bytes = bytes.to_vec();
            (
                name.to_owned(),
                StoredFile {
                    bytes,
                    etag,
                    on_cdn,
                },
            )
        };
        let mut state = self.state();
        state
            .commits
            .insert(commit.to_owned(), files.iter().map(stored).collect());
        state.refs.insert(name.to_owned(), commit.to_owned());
    }

    pub fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Transfers from the CDN: the ranges asked for, or `whole`.
    pub fn transfers(&self) -> Vec<String> {
        let on_cdn = self.seen().into_iter().filter(|seen| seen.on_cdn);
        on_cdn
            .map(|seen| seen.range.unwrap_or_else(|| "whole".to_owned()))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn serve_hub(state: &Mutex<State>, request: Seen, stream: &mut dyn Stream) {
    let mut state = state.lock().unwrap();
    state.seen.push(request.clone());
    if let Some(garbage) = state.faults.garbage {
        let _ = stream.write_all(garbage.as_bytes());
        return;
    }
    let reply = hub_reply(&mut state, &request);
    let chunked = state.faults.chunked;
    drop(state);
    let limit = if request.method == "HEAD" {
        0
    } else {
        reply.body.len()
    };
    send(
        stream,
        &reply,
        limit,
        if chunked {
            Length::Chunks
        } else {
            Length::Header
        },
    );
}

fn hub_reply(state: &mut State, request: &Seen) -> Reply {
    let path = percent_decode(request.path.split('?').next().unwrap());
    if state.faults.no_head && request.method == "HEAD" {
        return Reply::new(405);
    }
    let path = match (path.strip_prefix("/real"), state.faults.moved) {
        (Some(path), _) => path.to_owned(),
        (None, Some((status, template))) => {
            let location = template
                .replace("{hub}", &state.hub)
                .replace("{cdn}", &state.cdn)
                .replace("{path}", &request.path);
            return Reply::new(status).with("location", location);
        }
        (None, None) => path,
    };
    if let Some(old) = state.faults.renamed_from.filter(|old| path.contains(old)) {
        return Reply::new(307).with("location", request.path.replace(old, REPO));
    }
    let allowed = state
        .faults
        .token
        .is_none_or(|token| request.authorization == Some(format!("Bearer {token}")));
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let Some(revision) = rest.strip_prefix(&format!("{REPO}/revision/")) else {
            return Reply::new(404).with("x-error-code", "RepoNotFound");
        };
        if !allowed && !state.faults.gated {
            return Reply::new(401).with("x-error-code", "RepoNotFound");
        }
        let Some((commit, files)) = state.resolve(revision) else {
            return Reply::new(404).with("x-error-code", "RevisionNotFound");
        };
        let siblings: Vec<_> = files
            .keys()
            .map(|name| serde_json::json!({ "rfilename": name }))
            .collect();
        let body = serde_json::json!({ "id": REPO, "sha": commit, "siblings": siblings });
        return Reply {
            body: body.to_string().into_bytes(),
            ..Reply::new(200)
        };
    }
    let Some((revision, name)) = path
        .strip_prefix(&format!("/{REPO}/resolve/"))
        .and_then(|rest| rest.split_once('/'))
    else {
        return Reply::new(404).with("x-error-code", "RepoNotFound");
    };
    if !allowed {
        let (status, code) = if state.faults.gated {
            (403, "GatedRepo")
        } else {
            (401, "RepoNotFound")
        };
        return Reply::new(status).with("x-error-code", code);
    }
    if let Some((status, times)) = state.faults.failing.filter(|(_, times)| *times > 0) {
        state.faults.failing = Some((status, times - 1));
        return Reply::new(status);
    }
    let Some((commit, files)) = state.resolve(revision) else {
        return Reply::new(404).with("x-error-code", "RevisionNotFound");
    };
    let Some(StoredFile {
        bytes,
        etag,
        on_cdn,
    }) = files.get(name)
    else {
        return Reply::new(404)
            .with("x-error-code", "EntryNotFound")
            .with("x-repo-commit", commit);
    };
    let mut reply = if *on_cdn {
        Reply::new(302)
            .with(
                "location",
                format!("{}/{etag}?X-Signature=secret", state.cdn),
            )
            .with("x-linked-etag", format!("\"{etag}\""))
            .with("x-linked-size", bytes.len())
            .with("etag", "\"of-the-pointer\"")
    } else {
        ranged(bytes, request, &state.faults).with("etag", format!("\"{etag}\""))
    };
    reply = reply.with("x-repo-commit", commit);
    if let Some((name, value)) = &state.faults.header {
        reply.headers.retain(|(known, _)| known != name);
        reply
            .headers
            .extend(value.clone().map(|value| (name.to_string(), value)));
    }
    reply
}

fn serve_cdn(state: &Mutex<State>, request: Seen, stream: &mut dyn Stream, stop: &AtomicBool) {
    let mut state = state.lock().unwrap();
    state.seen.push(request.clone());
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut files = state.commits.values().flat_map(BTreeMap::values);
    let file = files.find(|file| path[1..] == file.etag);
    let Some(StoredFile { bytes, .. }) = file.filter(|_| query == "X-Signature=secret") else {
        return send(stream, &Reply::new(403), 0, Length::Header);
    };
    let mut reply = ranged(bytes, &request, &state.faults);
    if state.faults.wrong_bytes {
        reply.body.iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    let mut limit = reply.body.len();
    let due = |(after, times): &(usize, u32)| *times > 0 && limit > *after;
    if let Some((after, times)) = state.faults.cut.filter(due) {
        state.faults.cut = Some((after, times - 1));
        limit = after;
    }
    let faults = state.faults.clone();
    drop(state);
    let length = match (faults.without_length, faults.chunked) {
        (true, _) => Length::Unknown,
        (_, true) => Length::Chunks,
        _ => Length::Header,
    };
    if faults.stalls {
        let _ = stream.write_all(b"HTTP/1.1 206 Partial Content\r\n");
    } else if faults.stalls_half_way {
        send(stream, &reply, limit / 2, length);
    } else {
        return send(stream, &reply, limit, length);
    }
    let _ = stream.flush();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
}

impl State {
    fn resolve(&self, revision: &str) -> Option<(&String, &Files)> {
        let commit = self.refs.get(revision).map_or(revision, String::as_str);
        self.commits.get_key_value(commit)
    }
}

impl Reply {
    fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// The part of the file that was asked for.
fn ranged(bytes: &[u8], request: &Seen, faults: &Faults) -> Reply {
    let range = request.range.as_deref();
    let from: usize = range.map_or(0, |range| range[6..].trim_end_matches('-').parse().unwrap());
    if from > 0 && faults.refuses_ranges
        || from > 0 && from >= bytes.len() && !faults.ignores_ranges
    {
        return Reply::new(416).with("content-range", format!("bytes */{}", bytes.len()));
    }
    if range.is_none() || faults.ignores_ranges {
        return match faults.encoding {
            Some(encoding) => Reply {
                body: gzip(bytes),
                ..Reply::new(200).with("content-encoding", encoding)
            },
            None => Reply {
                body: bytes.to_vec(),
                ..Reply::new(200)
            },
        };
    }
    let reply = Reply {
        body: bytes[from..].to_vec(),
        ..Reply::new(206)
    };
    reply.with(
        "content-range",
        format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
    )
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// How the other side learns where a body ends.
#[derive(PartialEq)]
enum Length {
    Header,
    Chunks,
    Unknown,
}

/// Writes the head and the first `limit` bytes of the body.
fn send(stream: &mut dyn Stream, reply: &Reply, limit: usize, length: Length) {
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", reply.status);
    match length {
        Length::Header => head.push_str(&format!("content-length: {}\r\n", reply.body.len())),
        Length::Chunks => head.push_str("transfer-encoding: chunked\r\n"),
        Length::Unknown => {}
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut message = head.into_bytes();
    if length == Length::Chunks {
        for chunk in reply.body[..limit].chunks(1000) {
            message.extend(format!("{:x}\r\n", chunk.len()).bytes());
            message.extend_from_slice(chunk);
            message.extend(b"\r\n");
        }
        if limit == reply.body.len() {
            message.extend(b"0\r\n\r\n");
        }
    } else {
        message.extend_from_slice(&reply.body[..limit]);
    }
    // The other side may have heard enough and gone.
    let _ = stream.write_all(&message).and_then(|()| stream.flush());
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => (bytes.push(decoded), rest = &tail[2..]),
            None => (bytes.push(byte), rest = tail),
        };
    }
    String::from_utf8(bytes).unwrap()
}

struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(
        tls: Option<Arc<ServerConfig>>,
        handle: impl Fn(Seen, &mut dyn Stream, &AtomicBool) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, handle) = (Arc::new(AtomicBool::new(false)), Arc::new(handle));
        let worker = |listener: TcpListener| {
            let (stop, handle, tls) = (Arc::clone(&stop), Arc::clone(&handle), tls.clone());
            thread::spawn(move || {
                while let Ok((tcp, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    let mut stream: Box<dyn Stream> = match &tls {
                        Some(config) => {
                            let session = ServerConnection::new(Arc::clone(config)).unwrap();
                            Box::new(StreamOwned::new(session, tcp.try_clone().unwrap()))
                        }
                        None => Box::new(tcp.try_clone().unwrap()),
                    };
                    if let Some(request) = read_request(&mut *stream) {
                        handle(request, &mut *stream, &stop);
                    }
                    let _ = tcp.shutdown(Shutdown::Write);
                }
            })
        };
        let threads = (0..THREADS)
            .map(|_| worker(listener.try_clone().unwrap()))
            .collect();
        Self {
            address,
            stop,
            threads,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for _ in &self.threads {
            let _ = TcpStream::connect(self.address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A connection, plain or not.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

fn read_request(stream: &mut dyn Stream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split(' ').next()?.to_owned();
    let mut seen = Seen {
        method: method.to_owned(),
        on_cdn: path.contains("X-Signature"),
        path,
        range: None,
        authorization: None,
    };
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_lowercase().as_str() {
            "range" => seen.range = Some(value.to_owned()),
            "authorization" => seen.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(seen)
}
