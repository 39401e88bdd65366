//! The page at `/`, on which one types code with holes and watches them fill, and `/canvas`, which
//! tells it of every step.

use diffucoder::infill::Template;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::refusal::Refusal;
use super::request::{Drawing, Form};
use super::router::{self, Answer, App, Request, Response};
use super::shown::MOST_SHOWN;
use super::stream::{self, Framing, Piece};
use crate::cli::LOOK;

/// The page; `LOOK` stands where the style of all pages goes, `NONCE` where the word of a response
/// is by which a browser knows that script and style are ours.
const PAGE: &str = include_str!("page.html");

/// The page. It may speak with this server and nobody else, and no other page may frame it.
pub fn page() -> Response {
    use std::hash::{BuildHasher, RandomState};
    let nonce = format!("{:016x}", RandomState::new().hash_one(0));
    let page = PAGE.replacen("LOOK", LOOK, 1).replace("NONCE", &nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = router::text("text/html; charset=utf-8", page);
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed: [(HeaderName, &str); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"), // the word is for one response
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Debug, Deserialize)]
struct Body {
    /// A file in which `<FILL>` and `<FILL:n>` mark holes.
    text: String,
    temperature: Option<f64>,
    seed: Option<i64>,
}

/// Fills a text's holes: an event with all of them after each step, and the fillings at the end.
pub async fn canvas(app: &App, request: Request) -> Answer {
    let place = app.queue.enter()?;
    let body: Body = app.read(request).await?;
    let template = Template::with_markers(body.text.into_bytes())
        .map_err(|error| Refusal::field("text", &error.to_string()))?;
    let form = match (template.holes(), &*template.texts()) {
        ([], _) => return Err(Refusal::field("text", "it has no hole: <FILL> marks one")),
        // Nothing follows: it is as long as it takes.
        ([hole], [before, behind]) if hole.tokens.is_none() && behind.trim().is_empty() => {
            Form::code(before.clone(), String::new(), Vec::new())
        }
        _ => Form::Holes(template),
    };
    let drawing = Drawing {
        most: Some(MOST_SHOWN as i64),
        temperature: body.temperature,
        seed: body.seed,
        ..Drawing::default()
    };
    let mut ask = drawing.ask(form)?;
    ask.is_shown = true;
    let running = app.queue.submit(ask, place, None);
    let render = Box::new(|piece: Piece<'_>| match piece {
        Piece::Begin | Piece::Text(..) | Piece::End(_) => Vec::new(),
        Piece::Shown(shown) => vec![json!({"canvas": shown})],
        Piece::Written(written) => vec![json!({"done": {
            "fillings": written.fillings, "finish_reason": written.stop.finish_reason(),
            "tokens": written.tokens, "forwards": written.work.forwards,
            "rows": written.work.rows, "seconds": written.work.time.as_secs_f64(),
            "is_cut": written.is_cut,
        }})],
    });
    stream::pieces(running, Framing::Events, "/canvas", render).await
}
