//! A small Hugging Face Hub on this machine: the real paths, headers and redirects, with faults to order.
//!
//! Two HTTP/1.1 servers on free ports: the "hub", and the "CDN" that large files are redirected to. Each runs
//! a fixed number of threads, answers one request a connection, and stops when dropped.
//! Source: responses of huggingface.co as huggingface_hub reads them.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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
    pub on_cdn: bool,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

type Files = BTreeMap<String, StoredFile>;

struct StoredFile {
    bytes: Vec<u8>,
    sum: String,
    on_cdn: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    commits: BTreeMap<String, Files>,
    refs: BTreeMap<String, String>,
    seen: Vec<Seen>,
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
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl HubServer {
    /// Serves these files as `REPO` at `COMMIT`, which is `main`; `.safetensors` and `.gguf` are large files.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let cdn_state = Arc::clone(&state);
        let cdn = Server::start(move |request, stream, stop| {
            serve_cdn(&cdn_state, request, stream, stop)
        });
        let hub_state = Arc::clone(&state);
        let hub = Server::start(move |request, stream, _| serve_hub(&hub_state, request, stream));
        state.lock().unwrap().cdn = format!("http://{}", cdn.address);
        let server = Self {
            endpoint: format!("http://{}", hub.address),
            state,
            _servers: [hub, cdn],
        };
        server.commit("main", COMMIT, files);
        server
    }

    /// Lets a branch or tag point to a commit with these files.
    pub fn commit(&self, name: &str, commit: &str, files: &[(&str, &[u8])]) {
        let stored = |&(name, bytes): &(&str, &[u8])| {
            let (bytes, sum, on_cdn) = (
                bytes.to_vec(),
                sha256(bytes),
                name.ends_with(".safetensors") || name.ends_with(".gguf"),
            );
            (name.to_owned(), StoredFile { bytes, sum, on_cdn })
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

    /// Transfers from the CDN: requests for more than the first byte.
    pub fn transfers(&self) -> Vec<String> {
        let ranges = self
            .seen()
            .into_iter()
            .filter(|seen| seen.on_cdn)
            .filter_map(|seen| seen.range);
        ranges.filter(|range| range != "bytes=0-0").collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn serve_hub(state: &Mutex<State>, request: Seen, stream: &mut TcpStream) {
    let mut state = state.lock().unwrap();
    state.seen.push(request.clone());
    if let Some(garbage) = state.faults.garbage {
        let _ = stream.write_all(garbage.as_bytes());
        return;
    }
    let reply = hub_reply(&mut state, &request);
    drop(state);
    send(stream, &reply, reply.body.len(), true);
}

fn hub_reply(state: &mut State, request: &Seen) -> Reply {
    let path = percent_decode(request.path.split('?').next().unwrap());
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
    let Some(StoredFile { bytes, sum, on_cdn }) = files.get(name) else {
        return Reply::new(404)
            .with("x-error-code", "EntryNotFound")
            .with("x-repo-commit", commit);
    };
    let mut reply = if *on_cdn {
        Reply::new(302)
            .with(
                "location",
                format!("{}/{sum}?X-Signature=secret", state.cdn),
            )
            .with("x-linked-etag", format!("\"{sum}\""))
            .with("x-linked-size", bytes.len())
            .with("etag", "\"of-the-pointer\"")
    } else {
        ranged(bytes, request, false).with("etag", format!("\"{}\"", &sum[..40]))
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

fn serve_cdn(state: &Mutex<State>, request: Seen, stream: &mut TcpStream, stop: &AtomicBool) {
    let mut state = state.lock().unwrap();
    state.seen.push(request.clone());
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let mut files = state.commits.values().flat_map(BTreeMap::values);
    let file = files.find(|file| path[1..] == file.sum);
    let Some(StoredFile { bytes, .. }) = file.filter(|_| query == "X-Signature=secret") else {
        return send(stream, &Reply::new(403), 0, true);
    };
    let is_question = request.range.as_deref() == Some("bytes=0-0");
    let mut reply = ranged(bytes, &request, state.faults.ignores_ranges);
    if state.faults.wrong_bytes {
        reply.body.iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    let mut limit = reply.body.len();
    let due = |(after, times): &(usize, u32)| !is_question && *times > 0 && limit > *after;
    if let Some((after, times)) = state.faults.cut.filter(due) {
        state.faults.cut = Some((after, times - 1));
        limit = after;
    }
    let (with_length, stalls) = (
        is_question || !state.faults.without_length,
        state.faults.stalls && !is_question,
    );
    drop(state);
    if stalls {
        let _ = stream.write_all(b"HTTP/1.1 206 Partial Content\r\n");
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        return;
    }
    send(stream, &reply, limit, with_length);
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
fn ranged(bytes: &[u8], request: &Seen, only_from_start: bool) -> Reply {
    let range = request
        .range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else {
        return Reply {
            body: bytes.to_vec(),
            ..Reply::new(200)
        };
    };
    let from: usize = from.parse().unwrap();
    if from > 0 && only_from_start {
        return Reply {
            body: bytes.to_vec(),
            ..Reply::new(200)
        };
    }
    if from >= bytes.len() {
        return Reply::new(416).with("content-range", format!("bytes */{}", bytes.len()));
    }
    let end = to
        .parse()
        .map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
    let reply = Reply {
        body: bytes[from..end].to_vec(),
        ..Reply::new(206)
    };
    reply.with(
        "content-range",
        format!("bytes {from}-{}/{}", end - 1, bytes.len()),
    )
}

/// Writes the head and the first `limit` bytes of the body.
fn send(stream: &mut TcpStream, reply: &Reply, limit: usize, with_length: bool) {
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", reply.status);
    if with_length {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // The other side may have heard enough and gone.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&reply.body[..limit]));
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
    fn start(handle: impl Fn(Seen, &mut TcpStream, &AtomicBool) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, handle) = (Arc::new(AtomicBool::new(false)), Arc::new(handle));
        let worker = |listener: TcpListener| {
            let (stop, handle) = (Arc::clone(&stop), Arc::clone(&handle));
            thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some(request) = read_request(&stream) {
                        handle(request, &mut stream, &stop);
                    }
                    let _ = stream.shutdown(Shutdown::Write);
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

fn read_request(stream: &TcpStream) -> Option<Seen> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut seen = Seen {
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
