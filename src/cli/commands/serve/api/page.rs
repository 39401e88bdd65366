//! The page at `/`, on which one types code with holes and watches them fill, and `/canvas`, which
//! tells it of every step.

use diffucoder::infill::Template;
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{self, Drawing};
use crate::cli::LOOK;
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::reply::{Asked, Reply};
use crate::cli::commands::serve::response::{self, Response};
use crate::cli::commands::serve::work::{Ask, Event, Form, MOST_SHOWN, Refusal, Written};

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
    let mut response = response::text("text/html; charset=utf-8", page);
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
}

/// Fills a text's holes: an event with all of them after each step, and the fillings at the end.
pub fn canvas(_: &App, body: &[u8]) -> Asked {
    let asked: Body = fields::read(body)?;
    let drawing: Drawing = fields::read(body)?;
    let template = Template::with_markers(asked.text.into_bytes())
        .map_err(|error| Refusal::field("text", &error.to_string()))?;
    let form = match (template.holes(), &*template.texts()) {
        ([], _) => return Err(Refusal::field("text", "it has no hole: <FILL> marks one")),
        // Nothing follows: it is as long as it takes.
        ([hole], [before, behind]) if hole.tokens.is_none() && behind.trim().is_empty() => {
            Form::code(before.clone(), String::new(), Vec::new())
        }
        _ => Form::Holes(template),
    };
    let ask = Ask {
        most: Some(MOST_SHOWN),
        count: 1,
        is_streamed: true,
        is_shown: true,
        ..drawing.ask(vec![form])?
    };
    Ok((ask, Box::new(Steps)))
}

/// Of a canvas.
struct Steps;

impl Reply for Steps {
    fn whole(&self, all: &[Written]) -> Value {
        all.iter().map(done).collect()
    }

    fn pieces(&self, event: &Event) -> Vec<Value> {
        match event {
            Event::Shown(shown) => vec![json!({"canvas": shown})],
            Event::Written(written) => vec![json!({"done": done(written)})],
            _ => Vec::new(),
        }
    }
}

fn done(written: &Written) -> Value {
    json!({
        "fillings": written.fillings, "finish_reason": written.stop.finish_reason(),
        "tokens": written.tokens, "forwards": written.work.forwards, "rows": written.work.rows,
        "seconds": written.work.time.as_secs_f64(), "is_cut": written.is_cut,
    })
}
