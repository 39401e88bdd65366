//! Answers: in one piece, or in pieces as server-sent events or lines of JSON.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use serde_json::Value;

use super::response::{self, Response};
use super::work::{Ask, Event, Refusal, Running, Written};

/// An answer in the form of one protocol.
pub trait Reply: Send {
    /// All that was written, at once.
    fn whole(&self, all: &[Written]) -> Value;

    /// The objects that tell of an event.
    fn pieces(&self, event: &Event) -> Vec<Value>;

    /// What follows the last of them.
    fn end(&self, _all: &[Written]) -> String {
        String::new()
    }

    /// Whether pieces are lines of JSON; else they are server-sent events.
    fn is_lines(&self) -> bool {
        false
    }
}

/// What a body asks, and the form of the answer.
pub type Asked = Result<(Ask, Box<dyn Reply>), Refusal>;

/// A server-sent event.
pub fn event(data: &dyn Display) -> String {
    format!("data: {data}\n\n")
}

/// An answer once everything is written.
pub async fn whole(mut running: Running, reply: Box<dyn Reply>) -> Result<Response, Refusal> {
    let mut all = Vec::new();
    while let Some(event) = running.events.recv().await {
        match event {
            Event::Begun | Event::Text(..) | Event::Shown(_) => {}
            Event::Written(written) => all.push(*written),
            Event::Failed(refusal) => return Err(refusal),
        }
    }
    if all.is_empty() {
        return Err(Refusal::failed());
    }
    let body = Whole {
        rest: reply.whole(&all).to_string().into(),
        _running: running,
    };
    Ok(response::of("application/json", body))
}

/// An answer in pieces, once it is known that nothing is wrong with the request.
pub async fn pieces(
    mut running: Running,
    path: &'static str,
    reply: Box<dyn Reply>,
) -> Result<Response, Refusal> {
    let first = match running.events.recv().await {
        Some(Event::Failed(refusal)) => return Err(refusal),
        Some(first) => first,
        None => return Err(Refusal::failed()),
    };
    let kind = match reply.is_lines() {
        false => "text/event-stream",
        true => "application/x-ndjson",
    };
    let body = Pieces {
        running,
        path,
        reply,
        first: Some(first),
        all: Vec::new(),
        is_over: false,
    };
    let mut response = response::of(kind, body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// An answer that can repeat a long prompt. It goes out in parts, so that its request keeps its
/// place until the client has read all but the last.
struct Whole {
    rest: Bytes,
    _running: Running,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PART: usize = 64 << 10;
        let len = self.rest.len().min(PART);
        let part = self.rest.split_to(len);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// An answer as it comes. Dropped with its connection, it ends the run.
struct Pieces {
    running: Running,
    path: &'static str,
    reply: Box<dyn Reply>,
    first: Option<Event>,
    all: Vec<Written>,
    is_over: bool,
}

impl Pieces {
    /// What an event becomes; the last one is `None`.
    fn framed(&mut self, event: Option<Event>) -> String {
        self.is_over = matches!(event, None | Some(Event::Failed(_)));
        let objects = match &event {
            Some(Event::Failed(refusal)) => vec![refusal.json(self.path)],
            Some(event) => self.reply.pieces(event),
            None => return self.reply.end(&self.all),
        };
        if let Some(Event::Written(written)) = event {
            self.all.push(*written);
        }
        let framed = objects.iter().map(|object| match self.reply.is_lines() {
            false => self::event(object),
            true => format!("{object}\n"),
        });
        framed.collect()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while !self.is_over {
            let event = match self.first.take() {
                None => ready!(self.running.events.poll_recv(context)),
                first => first,
            };
            let framed = self.framed(event);
            if !framed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(framed.into()))));
            }
        }
        Poll::Ready(None)
    }
}
