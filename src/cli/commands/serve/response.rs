//! Requests and responses of HTTP.

use std::convert::Infallible;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use serde_json::Value;

use super::work::Refusal;

pub type Request = hyper::Request<Incoming>;
pub type Response = hyper::Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An object in compact JSON on one line.
pub fn json(value: &Value) -> Response {
    text("application/json", value.to_string())
}

pub fn text(kind: &'static str, text: String) -> Response {
    of(kind, Full::from(text))
}

pub fn of(
    kind: &'static str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response {
    let mut response = Response::new(body.boxed_unsync());
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A refusal in the form that clients of this path look for.
pub fn refused(refusal: &Refusal, path: &str) -> Response {
    let mut response = json(&refusal.json(path));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    if let Some(method) = refusal.allowed {
        headers.insert(header::ALLOW, HeaderValue::from_static(method));
    }
    if refusal.status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if refusal.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        headers.insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}
