//! Answers that come in pieces: server-sent events, or lines of JSON.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use serde_json::Value;

use super::queue::Running;
use super::refusal::Refusal;
use super::router::Response;
use super::shown::Shown;
use super::worker::{Event, Written};

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

/// Makes the objects of a piece.
pub type Render = Box<dyn FnMut(Piece<'_>) -> Vec<Value> + Send>;

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
    framing: Framing,
    path: &'static str,
    mut render: Render,
) -> Result<Response, Refusal> {
    match running.events.recv().await {
        Some(Event::Begun) => {}
        Some(Event::Failed(refusal)) => return Err(refusal),
        _ => return Err(Refusal::failed()),
    }
    let first = framed(framing, &render(Piece::Begin));
    let body = Pieces {
        running,
        framing,
        path,
        render,
        first: Some(first).filter(|first| !first.is_empty()),
        all: Vec::new(),
        is_over: false,
    };
    let mut response = Response::new(Body::Pieces(Box::new(body)));
    let kind = match framing {
        Framing::OpenAi | Framing::Events => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn framed(framing: Framing, values: &[Value]) -> Bytes {
    let one = |value: &Value| match framing {
        Framing::OpenAi | Framing::Events => format!("data: {value}\n\n"),
        Framing::Lines => format!("{value}\n"),
    };
    values.iter().map(one).collect::<String>().into()
}

/// The body of a response.
pub enum Body {
    Whole(Option<Bytes>),
    Pieces(Box<Pieces>),
}

impl Body {
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.poll(context).map(|frame| frame.map(Ok)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// An answer as it comes. Dropped with its connection, it ends the run.
pub struct Pieces {
    running: Running,
    framing: Framing,
    path: &'static str,
    render: Render,
    first: Option<Bytes>,
    all: Vec<Written>,
    is_over: bool,
}

impl Pieces {
    /// What an event becomes; the last one is `None`.
    fn frame(&mut self, event: Option<Event>) -> Bytes {
        let values = match event {
            Some(Event::Begun) => Vec::new(),
            Some(Event::Text(index, text)) => (self.render)(Piece::Text(index, &text)),
            Some(Event::Shown(shown)) => (self.render)(Piece::Shown(&shown)),
            Some(Event::Written(written)) => {
                let values = (self.render)(Piece::Written(&written));
                self.all.push(*written);
                values
            }
            Some(Event::Failed(refusal)) => {
                self.is_over = true;
                vec![refusal.json(self.path)]
            }
            None => {
                self.is_over = true;
                let values = (self.render)(Piece::End(&self.all));
                let mut bytes = framed(self.framing, &values).to_vec();
                if self.framing == Framing::OpenAi {
                    bytes.extend(b"data: [DONE]\n\n");
                }
                return bytes.into();
            }
        };
        framed(self.framing, &values)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(first) = self.first.take() {
                return Poll::Ready(Some(Frame::data(first)));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let event = ready!(self.running.events.poll_recv(context));
            let bytes = self.frame(event);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Frame::data(bytes)));
            }
        }
    }
}
