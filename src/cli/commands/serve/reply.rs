//! Answers: in one piece, or in pieces as server-sent events or lines of JSON.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{self, HeaderValue};
use serde_json::Value;

use super::response::Response;
use super::work::ask::Ask;
use super::work::event::{Event, Written};
use super::work::queue::Running;
use super::work::refusal::Refusal;
use super::work::shown::Shown;

/// An answer in the form of one protocol.
pub trait Reply: Send {
    fn framing(&self) -> Framing;
    /// All that was written, at once.
    fn whole(&self, all: &[Written]) -> Value;
    /// The objects of a piece.
    fn pieces(&self, piece: &Piece<'_>) -> Vec<Value>;
}

/// What a body asks, and the form of the answer.
pub type Asked = Result<(Ask, Box<dyn Reply>), Refusal>;

/// What a piece of an answer is made of.
pub enum Piece<'a> {
    /// The first.
    Begin,
    Text(usize, &'a str),
    Shown(&'a Shown),
    Written(&'a Written),
    /// The last, with all that was written.
    End(&'a [Written]),
}

/// How pieces follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events, with OpenAI's `[DONE]` at the end.
    OpenAi,
    /// Server-sent events.
    Events,
    /// JSON lines.
    Lines,
}

/// Everything that is written, once it is whole.
pub async fn whole(mut running: Running) -> Result<Vec<Written>, Refusal> {
    let mut all = Vec::new();
    while let Some(event) = running.events.recv().await {
        match event {
            Event::Begun | Event::Text(..) | Event::Shown(_) => {}
            Event::Written(written) => all.push(*written),
            Event::Failed(refusal) => return Err(refusal),
        }
    }
    match all.is_empty() {
        true => Err(Refusal::failed()),
        false => Ok(all),
    }
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
    let kind = match reply.framing() {
        Framing::OpenAi | Framing::Events => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
    };
    let body = Pieces {
        running,
        path,
        reply,
        first: Some(first),
        all: Vec::new(),
        is_over: false,
    };
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
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
    fn framed(&mut self, event: Option<Event>) -> Bytes {
        let reply = &self.reply;
        self.is_over = matches!(event, None | Some(Event::Failed(_)));
        let is_last = event.is_none();
        let values = match event {
            Some(Event::Begun) => reply.pieces(&Piece::Begin),
            Some(Event::Text(index, text)) => reply.pieces(&Piece::Text(index, &text)),
            Some(Event::Shown(shown)) => reply.pieces(&Piece::Shown(&shown)),
            Some(Event::Written(written)) => {
                let values = reply.pieces(&Piece::Written(&written));
                self.all.push(*written);
                values
            }
            Some(Event::Failed(refusal)) => vec![refusal.json(self.path)],
            None => reply.pieces(&Piece::End(&self.all)),
        };
        let framing = reply.framing();
        let objects = values.iter().map(|value| match framing {
            Framing::OpenAi | Framing::Events => format!("data: {value}\n\n"),
            Framing::Lines => format!("{value}\n"),
        });
        let end = match framing {
            Framing::OpenAi if is_last => "data: [DONE]\n\n",
            _ => "",
        };
        (objects.collect::<String>() + end).into()
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
            let bytes = self.framed(event);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        Poll::Ready(None)
    }
}
