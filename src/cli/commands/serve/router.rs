//! Which path is answered by what, behind one door: it asks for keys, writes refusals in the form
//! of each protocol, counts, and logs a line. No text of a request is logged.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::json;

use super::access;
use super::api::{fields, llama, ollama, openai, page};
use super::app::App;
use super::reply::{self, Asked};
use super::response::{Request, Response, json, refused, text};
use super::work::{Client, Refusal};

/// Most bytes of a body. With as many of them as requests may be read, wait, run and be answered,
/// this bounds what requests can make the server hold.
const MOST_BODY_BYTES: usize = 8 << 20;
/// Most bytes of a body that are read for nothing, and the time for it.
const MOST_UNREAD_BYTES: usize = 64 << 20;
const UNREAD_TIME: Duration = Duration::from_secs(5);
/// Most characters of a path in the log.
const MOST_SHOWN: usize = 100;
/// A body is there within this time.
const BODY_TIME: Duration = Duration::from_secs(30);

/// What answers at a path.
enum Handler {
    /// It is known.
    Known(fn(&App) -> Response),
    /// A session writes it: what is asked is read from the body.
    Written(fn(&App, &[u8]) -> Asked),
}
use Handler::{Known, Written};

/// Names of models stand behind it.
const ONE_MODEL: &str = "/v1/models/";

/// The paths that there are, and the method that each takes.
const PATHS: [(&str, &str, Handler); 18] = [
    ("/", "GET", Known(|_| page::page())),
    ("/canvas", "POST", Written(page::canvas)),
    ("/health", "GET", Known(|_| json(&json!({"status": "ok"})))),
    ("/metrics", "GET", Known(metrics)),
    ("/infill", "POST", Written(llama::infill)),
    ("/completion", "POST", Written(llama::completion)),
    ("/props", "GET", Known(llama::props)),
    ("/v1/models", "GET", Known(openai::models)),
    (ONE_MODEL, "GET", Known(openai::model)),
    ("/v1/completions", "POST", Written(openai::completions)),
    ("/v1/fim/completions", "POST", Written(openai::fim)),
    ("/v1/chat/completions", "POST", Written(openai::chat)),
    ("/api/chat", "POST", Written(ollama::chat)),
    ("/api/generate", "POST", Written(ollama::generate)),
    ("/api/ps", "GET", Known(ollama::ps)),
    ("/api/show", "POST", Known(ollama::show)),
    ("/api/tags", "GET", Known(ollama::tags)),
    ("/api/version", "GET", Known(|_| ollama::version())),
];

/// Those of them that need no key.
const PUBLIC: [&str; 2] = ["/", "/health"];

/// Answers a request, whatever it is.
pub async fn answer(app: &App, peer: SocketAddr, mut request: Request) -> Response {
    let started = Instant::now();
    let asked = request.uri().path();
    let named = match asked.starts_with(ONE_MODEL) {
        true => ONE_MODEL,
        false => asked,
    };
    let known = PATHS.iter().find(|(path, ..)| *path == named);
    let path = known.map_or("other", |(path, ..)| path);
    let shown: String = asked.chars().take(MOST_SHOWN).collect();
    let form = if asked.starts_with("/api/") {
        "/api/"
    } else {
        path
    };
    let method = request.method().clone();
    let is_preflight = app.access.cors.is_some() && method == Method::OPTIONS;
    let client = app.access.client(peer, &request);
    let answer = match (client, known) {
        _ if !app.access.is_meant(&request) => Err(Refusal::elsewhere()),
        _ if is_preflight => Ok(access::preflight(&request)),
        (None, _) if !PUBLIC.contains(&path) => Err(Refusal::unauthorized()),
        (_, None) => {
            let message = "there is nothing at this path";
            Err(Refusal::new(StatusCode::NOT_FOUND, message))
        }
        (_, Some((_, wanted, _)))
            if method != *wanted && !(method == Method::HEAD && *wanted == "GET") =>
        {
            Err(Refusal::method(wanted))
        }
        (_, Some((.., Known(known)))) => Ok(known(app)),
        (client, Some((.., Written(read)))) => write(app, path, client, &mut request, *read).await,
    };
    let mut response = answer.unwrap_or_else(|refusal| refused(&refusal, form));
    if !is_read_out(&mut request).await {
        // No other request can follow.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    if let Some(origin) = &app.access.cors {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    let (status, time) = (response.status().as_u16(), started.elapsed());
    app.metrics.count(path, status, time);
    let millis = time.as_secs_f64() * 1e3;
    let method: String = method.as_str().chars().take(MOST_SHOWN).collect();
    app.log
        .line(format!("{method} {shown} {status} {millis:.1} ms"));
    response
}

/// Reads what is left of a body, within bounds: many clients look for an answer only once they have
/// sent all of it. Not of one that waits to be asked for it.
async fn is_read_out(request: &mut Request) -> bool {
    if request.body().is_end_stream() {
        return true;
    }
    if request.headers().contains_key(header::EXPECT) {
        return false;
    }
    let rest = Limited::new(request.body_mut(), MOST_UNREAD_BYTES);
    let mut rest = std::pin::pin!(rest);
    let read = async {
        loop {
            match rest.frame().await {
                None => break true,
                Some(Ok(_)) => {}
                Some(Err(_)) => break false,
            }
        }
    };
    tokio::time::timeout(UNREAD_TIME, read).await == Ok(true)
}

/// From a body to a text, in every protocol.
async fn write(
    app: &App,
    path: &'static str,
    client: Option<Client>,
    request: &mut Request,
    read: fn(&App, &[u8]) -> Asked,
) -> Result<Response, Refusal> {
    let place = app.queue.enter()?; // before there is a body, of which so many are held
    let body = body(request).await?;
    let (ask, reply) = read(app, &body)?;
    fields::check_form(&body)?;
    let is_streamed = ask.is_streamed;
    let running = app.queue.submit(ask, place, client);
    if is_streamed {
        return reply::pieces(running, path, reply).await;
    }
    reply::whole(running, reply).await
}

/// Reads a request's body, within bounds of size and time.
async fn body(request: &mut Request) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!("the body has more than {MOST_BODY_BYTES} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if request.body().size_hint().lower() > MOST_BODY_BYTES as u64 {
        return Err(too_large()); // before a client is asked for it
    }
    let body = Limited::new(request.body_mut(), MOST_BODY_BYTES).collect();
    let body = tokio::time::timeout(BODY_TIME, body).await;
    let body = body
        .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))?;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => too_large(),
        false => Refusal::bad("the body broke off"),
    })?;
    Ok(body.to_bytes())
}

fn metrics(app: &App) -> Response {
    let metrics = app.metrics.text(app.queue.sizes());
    text("text/plain; version=0.0.4", metrics)
}
