//! What a client asks and what it gets: documents, suggestions, and the beginning and end of it
//! all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use diffucoder::session::Ends;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Input;
use super::document::{self, Encoding, Position, Range};
use super::message::{Code, Failure, Id, Incoming, params, response};
use super::params::{Cancelled, Changed, Completion, Initialize, Opened};
use crate::cli::commands::serve::work::{
    Ask, Cancel, Client, Event, Form, Queue, Refusal, Running,
};
use crate::cli::threads;

/// A suggestion that nobody asked for is there after this time, in the whole lines that are decided
/// then.
const TYPING_TIME: Duration = Duration::from_secs(1);

/// Which messages may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begun,
    Initialized,
    ShutDown,
}

/// What follows a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Say(Value),
    Nothing,
    /// The client is done; whether it said so before.
    Exit {
        was_shut_down: bool,
    },
}

pub struct Server {
    queue: Arc<Queue>,
    /// Where answers come back.
    inputs: SyncSender<Input>,
    /// Whether the model sees what stands behind a hole.
    fills: bool,
    phase: Phase,
    encoding: Encoding,
    /// [`Initialize::invoked`], until the client's requests tell better.
    invoked: u32,
    documents: HashMap<String, String>,
    asked: HashMap<Id, Asked>,
}

/// A request that waits for its text.
struct Asked {
    uri: String,
    cancel: Cancel,
    place: Place,
    /// Whether nothing follows the cursor.
    is_last: bool,
}

/// Where a suggestion belongs.
enum Place {
    /// At the cursor.
    Inline(Position),
    /// At the cursor, in a list in which the editor looks for the word before it.
    Listed { word: String, range: Range },
}

impl Server {
    pub fn new(queue: Arc<Queue>, inputs: SyncSender<Input>, fills: bool) -> Self {
        Self {
            queue,
            inputs,
            fills,
            phase: Phase::Begun,
            encoding: Encoding::default(),
            invoked: 1,
            documents: HashMap::new(),
            asked: HashMap::new(),
        }
    }

    /// Whether the client may be told something that it did not ask.
    pub fn is_initialized(&self) -> bool {
        self.phase != Phase::Begun
    }

    /// What a message of the client brings about.
    pub fn on_message(&mut self, body: &[u8]) -> Next {
        let message = match Incoming::parse(body) {
            Ok(message) => message,
            Err(failure) => return Next::Say(response(None, Err(failure))),
        };
        match (message.method, message.id) {
            (Some(method), Some(id)) => match self.on_request(&method, &id, message.params) {
                Ok(None) => Next::Nothing,
                Ok(Some(result)) => Next::Say(response(Some(&id), Ok(result))),
                Err(failure) => Next::Say(response(Some(&id), Err(failure))),
            },
            (Some(method), None) => self.on_notification(&method, message.params),
            (None, _) => Next::Nothing, // a response: nothing was asked
        }
    }

    /// The result, if it is known at once.
    fn on_request(
        &mut self,
        method: &str,
        id: &Id,
        values: Value,
    ) -> Result<Option<Value>, Failure> {
        match (method, self.phase) {
            ("initialize", Phase::Begun) => Ok(Some(self.initialize(&params(values)?))),
            (_, Phase::Begun) => {
                let message = "the first request is initialize";
                Err(Failure::new(Code::NotInitialized, message))
            }
            (_, Phase::ShutDown) => {
                let message = "the server is shut down";
                Err(Failure::new(Code::InvalidRequest, message))
            }
            ("initialize", Phase::Initialized) => {
                let message = "the server is initialized already";
                Err(Failure::new(Code::InvalidRequest, message))
            }
            ("shutdown", _) => {
                self.phase = Phase::ShutDown;
                self.asked.values().for_each(|asked| asked.cancel.cancel());
                Ok(Some(Value::Null))
            }
            ("textDocument/inlineCompletion", _) => {
                self.suggest(id, params(values)?, true).map(|()| None)
            }
            ("textDocument/completion", _) => {
                self.suggest(id, params(values)?, false).map(|()| None)
            }
            _ => Err(Failure::new(
                Code::MethodNotFound,
                format!("this server has no {method}"),
            )),
        }
    }

    fn on_notification(&mut self, method: &str, values: Value) -> Next {
        if method == "exit" {
            return Next::Exit {
                was_shut_down: self.phase == Phase::ShutDown,
            };
        }
        if self.phase != Phase::Initialized {
            return Next::Nothing;
        }
        match method {
            "textDocument/didOpen" => {
                if let Ok(Opened { text_document }) = params(values) {
                    self.documents.insert(text_document.uri, text_document.text);
                }
            }
            "textDocument/didChange" => {
                if let Ok(changed) = params::<Changed>(values)
                    && let Some(text) = self.documents.get_mut(&changed.text_document.uri)
                {
                    document::change(text, changed.content_changes, self.encoding);
                    // What stands in the text itself would stand in another one. A list goes by the
                    // word, which may only have grown.
                    self.cancel(&changed.text_document.uri, |place| {
                        matches!(place, Place::Inline(_))
                    });
                }
            }
            "textDocument/didClose" => {
                if let Ok(Opened { text_document }) = params(values) {
                    self.documents.remove(&text_document.uri);
                    self.cancel(&text_document.uri, |_| true);
                }
            }
            "$/cancelRequest" => {
                if let Ok(Cancelled { id }) = params(values)
                    && let Some(asked) = self.asked.remove(&id)
                {
                    asked.cancel.cancel();
                    let failure = Failure::new(Code::RequestCancelled, "cancelled");
                    return Next::Say(response(Some(&id), Err(failure)));
                }
            }
            _ => {}
        }
        Next::Nothing
    }

    /// Ends these suggestions of a document; their answer is that there is none.
    fn cancel(&self, uri: &str, is_meant: impl Fn(&Place) -> bool) {
        let of_document = self.asked.values().filter(|asked| asked.uri == uri);
        let meant = of_document.filter(|asked| is_meant(&asked.place));
        meant.for_each(|asked| asked.cancel.cancel());
    }

    fn initialize(&mut self, asked: &Initialize) -> Value {
        self.invoked = asked.invoked();
        self.encoding = asked.encoding();
        self.phase = Phase::Initialized;
        let mut capabilities = json!({
            "positionEncoding": self.encoding,
            "textDocumentSync": {"openClose": true, "change": 2}, // of parts
        });
        // An editor that shows suggestions in the text needs none of them in its lists. To some an
        // empty object is nothing.
        match asked.shows_inline() {
            true => capabilities["inlineCompletionProvider"] = true.into(),
            false => capabilities["completionProvider"] = json!({"resolveProvider": false}),
        }
        let version = env!("CARGO_PKG_VERSION");
        let info = json!({"name": "diffucoder", "version": version});
        json!({"capabilities": capabilities, "serverInfo": info})
    }

    /// Asks for a suggestion at the cursor. It takes the place of the document's last one.
    fn suggest(&mut self, id: &Id, asked: Completion, is_inline: bool) -> Result<(), Failure> {
        // Of lists it is not told: they are asked for the same way by themselves.
        let is_automatic = !is_inline || self.is_automatic(asked.kind());
        let uri = asked.text_document.uri;
        let Some(text) = self.documents.get(&uri) else {
            let message = format!("textDocument.uri: {uri} is not open");
            return Err(Failure::new(Code::InvalidParams, message));
        };
        let cursor = document::offset(text, asked.position, self.encoding);
        let (before, after) = text.split_at(cursor);
        // Where it really is: a place behind a line is its end.
        let cursor = document::end(before, self.encoding);
        let place = match is_inline {
            true => Place::Inline(cursor),
            false => Place::listed(before, cursor, self.encoding),
        };
        let suffix = if self.fills { after } else { "" };
        let is_last = suffix.trim().is_empty();
        let form = Form::code(before.to_string(), suffix.to_string(), Vec::new());
        let ask = Ask {
            // Where nothing follows, the block that the cursor is in ends it.
            ends: Ends {
                least_indent: if is_last { indent(before) } else { 0 },
                ..Ends::default()
            },
            limit: is_automatic.then_some(TYPING_TIME),
            replaces_older: true,
            ..Ask::new(vec![form])
        };
        let failed = |refusal: Refusal| Failure::new(Code::RequestFailed, refusal.message);
        let queue_place = self.queue.enter().map_err(failed)?;
        let running = self
            .queue
            .submit(ask, queue_place, Some(Client(uri.clone())));
        let asked = Asked {
            uri,
            cancel: running.cancel.clone(),
            place,
            is_last,
        };
        let (answered, inputs) = (id.clone(), self.inputs.clone());
        let waiting = threads::start(move || {
            let answer = wait(running);
            let _ = inputs.send(Input::Answered(answered, answer)); // nobody is there at the end
        });
        waiting.map_err(|error| Failure::new(Code::RequestFailed, format!("{error:#}")))?;
        self.asked.insert(id.clone(), asked);
        Ok(())
    }

    /// Whether an editor asks by itself. The kinds 0 and 2 tell from where it counts.
    fn is_automatic(&mut self, kind: Option<u32>) -> bool {
        match kind {
            Some(0) => self.invoked = 0,
            Some(2) => self.invoked = 1,
            _ => {}
        }
        kind != Some(self.invoked)
    }

    /// The response to a request whose text is there, unless it was cancelled.
    pub fn on_answer(&mut self, id: &Id, answer: Result<String, Refusal>) -> Next {
        let Some(asked) = self.asked.remove(id) else {
            return Next::Nothing;
        };
        let items = |text: String| {
            // What follows a character that breaks off is worth no more than it.
            let whole = text.split('\u{fffd}').next().unwrap_or_default();
            match asked.is_last {
                true => asked.place.items(whole.trim_end()),
                false => asked.place.items(whole),
            }
        };
        let answer = match answer {
            Ok(text) => Ok(items(text)),
            // There is nothing to say to a text that is no more. As an error, of which the protocol
            // has one for that, Neovim writes it to its log with every letter that is typed.
            Err(refusal) if refusal.status == StatusCode::CONFLICT => Ok(Value::Null),
            Err(refusal) => Err(Failure::new(Code::RequestFailed, refusal.message)),
        };
        Next::Say(response(Some(id), answer))
    }
}

/// What is written for a request.
fn wait(mut running: Running) -> Result<String, Refusal> {
    loop {
        match running.events.blocking_recv() {
            Some(Event::Begun | Event::Text(..) | Event::Shown(_)) => {}
            Some(Event::Written(written)) => return Ok(written.text),
            Some(Event::Failed(refusal)) => return Err(refusal),
            None => return Err(Refusal::replaced()),
        }
    }
}

/// Blanks at the beginning of the last line.
fn indent(text: &str) -> usize {
    let line = text.rsplit('\n').next().unwrap_or_default();
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

impl Place {
    /// In a list, at `cursor`, which is behind `before`.
    fn listed(before: &str, cursor: Position, encoding: Encoding) -> Self {
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = &before[before.trim_end_matches(is_of_word).len()..];
        let start = Position {
            character: cursor.character.saturating_sub(encoding.count(word)),
            ..cursor
        };
        Self::Listed {
            word: word.to_string(),
            range: Range { start, end: cursor },
        }
    }

    /// A list of the suggestion, if it has one.
    fn items(&self, text: &str) -> Value {
        let is_nothing = text.trim().is_empty();
        match self {
            Self::Inline(_) if is_nothing => json!({"items": []}),
            Self::Listed { .. } if is_nothing => json!({"isIncomplete": true, "items": []}),
            Self::Inline(cursor) => {
                let range = Range {
                    start: *cursor,
                    end: *cursor,
                };
                // Neovim would keep the CR of a CRLF as a character; others write what a file has.
                let text = text.replace("\r\n", "\n");
                json!({"items": [{"insertText": text, "range": range}]})
            }
            Self::Listed { word, range } => {
                let text = format!("{word}{text}");
                let label = text.trim().lines().next().unwrap_or_default();
                json!({"isIncomplete": true, "items": [{
                    "label": label, "kind": 1, "detail": "diffucoder", "documentation": text,
                    "filterText": text, "insertTextMode": 1, // as it is
                    "textEdit": {"range": range, "newText": text},
                }]})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    /// Whether requests of these kinds have a limit of time.
    fn are_limited(client: &str, kinds: &[Value]) -> Vec<bool> {
        let (queue, (inputs, _answers)) = (Queue::new(9), sync_channel(9));
        let mut server = Server::new(Arc::clone(&queue), inputs, true);
        let mut tell = |message: Value| server.on_message(message.to_string().as_bytes());
        let initialize = json!({"capabilities": {}, "clientInfo": {"name": client}});
        tell(json!({"id": 0, "method": "initialize", "params": initialize}));
        let document = json!({"textDocument": {"uri": "a.py", "text": "x = "}});
        tell(json!({"method": "textDocument/didOpen", "params": document}));
        let limited = kinds.iter().map(|kind| {
            let params = json!({
                "textDocument": {"uri": "a.py"}, "position": {"line": 0, "character": 4},
                "context": {"triggerKind": kind},
            });
            let method = "textDocument/inlineCompletion";
            let asked = json!({"id": 1, "method": method, "params": params});
            assert_eq!(tell(asked), Next::Nothing);
            queue
                .next()
                .is_some_and(|ticket| ticket.ask.limit.is_some())
        });
        limited.collect()
    }

    /// Invoked and automatic are 1 and 2, and to VS Code's library 0 and 1.
    #[test]
    fn kinds_are_counted_as_the_client_counts() {
        let kinds = [json!(1), json!(2), json!(1), Value::Null];
        assert_eq!(are_limited("Neovim", &kinds), [false, true, false, true]);
        let kinds = [json!(1), json!(0), json!(1)];
        assert_eq!(
            are_limited("Visual Studio Code", &kinds),
            [true, false, true]
        );
        assert_eq!(are_limited("a fork", &kinds), [false, false, true]);
        let kinds = [json!(2), json!(1)];
        let insiders = "Visual Studio Code - Insiders";
        assert_eq!(are_limited(insiders, &kinds), [true, false]);
    }
}
