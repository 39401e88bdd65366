//! OpenAI's completions and conversations, and Mistral's infilling.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{self, Drawing, Said, Texts};
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::reply::{Asked, Framing, Piece, Reply};
use crate::cli::commands::serve::response::{self, Response};
use crate::cli::commands::serve::work::ask::Form;
use crate::cli::commands::serve::work::event::Written;
use crate::cli::commands::serve::work::refusal::Refusal;

/// Beside those that say how to draw.
#[derive(Debug, Deserialize)]
struct Body {
    prompt: Option<Texts>,
    suffix: Option<String>,
    messages: Option<Vec<Said>>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// Which object an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Completion,
    Chat,
}

pub fn completions(app: &App, body: &[u8]) -> Asked {
    asked(app, body, Kind::Completion, hole)
}

pub fn fim(app: &App, body: &[u8]) -> Asked {
    asked(app, body, Kind::Chat, hole)
}

pub fn chat(app: &App, body: &[u8]) -> Asked {
    asked(app, body, Kind::Chat, conversation)
}

fn asked(
    app: &App,
    body: &[u8],
    kind: Kind,
    form: fn(&App, Body) -> Result<Form, Refusal>,
) -> Asked {
    use std::hash::{BuildHasher, RandomState};
    let mut asked: Body = fields::read(body)?;
    let drawing: Drawing = fields::read(body)?;
    let options = asked.stream_options.take();
    let ask = drawing.ask(form(app, asked)?)?;
    let number = RandomState::new().hash_one(SystemTime::now());
    let envelope = Envelope {
        kind,
        id: match kind {
            Kind::Completion => format!("cmpl-{number:016x}"),
            Kind::Chat => format!("chatcmpl-{number:016x}"),
        },
        created: Timestamp::now().as_second(),
        model: app.model.id.clone(),
        count: ask.count as usize,
        has_usage: options.is_some_and(|options| options.include_usage.unwrap_or(false)),
    };
    Ok((ask, Box::new(envelope)))
}

fn hole(app: &App, body: Body) -> Result<Form, Refusal> {
    let prompt = body.prompt;
    let prompt = prompt.ok_or_else(|| Refusal::field("prompt", "is missing"))?;
    fields::hole(app, prompt.only("prompt")?, body.suffix)
}

fn conversation(_: &App, body: Body) -> Result<Form, Refusal> {
    let said = body.messages;
    let said = said.ok_or_else(|| Refusal::field("messages", "is missing"))?;
    Ok(Form::Chat(fields::conversation(said)?))
}

/// What stands round the texts of an answer.
struct Envelope {
    kind: Kind,
    id: String,
    created: i64,
    model: String,
    /// Texts that were asked for.
    count: usize,
    /// Whether a stream ends with what it took.
    has_usage: bool,
}

impl Envelope {
    fn object(&self, is_chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.kind, is_chunk) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: Value, finish: Option<&str>) -> Value {
        let name = match self.kind {
            Kind::Completion => "text",
            Kind::Chat => "delta",
        };
        self.object(true, vec![choice(index, name, delta, finish)])
    }
}

impl Reply for Envelope {
    fn framing(&self) -> Framing {
        Framing::OpenAi
    }

    fn whole(&self, all: &[Written]) -> Value {
        let one = |written: &Written| {
            let (name, text) = match self.kind {
                Kind::Completion => ("text", json!(written.text)),
                Kind::Chat => {
                    let said = json!({"role": "assistant", "content": written.text});
                    ("message", said)
                }
            };
            let finish = written.stop.finish_reason();
            choice(written.index, name, text, Some(finish))
        };
        let mut object = self.object(false, all.iter().map(one).collect());
        object["usage"] = usage(all);
        object
    }

    fn pieces(&self, piece: &Piece<'_>) -> Vec<Value> {
        match (piece, self.kind) {
            (Piece::Begin, Kind::Chat) => {
                let role = json!({"role": "assistant", "content": ""});
                let indices = 0..self.count;
                indices
                    .map(|index| self.chunk(index, role.clone(), None))
                    .collect()
            }
            (Piece::Text(index, text), kind) => {
                let delta = match kind {
                    Kind::Completion => json!(text),
                    Kind::Chat => json!({"content": text}),
                };
                vec![self.chunk(*index, delta, None)]
            }
            (Piece::Written(written), kind) => {
                let delta = match kind {
                    Kind::Completion => json!(""),
                    Kind::Chat => json!({}),
                };
                let finish = written.stop.finish_reason();
                vec![self.chunk(written.index, delta, Some(finish))]
            }
            (Piece::End(all), _) if self.has_usage => {
                let mut object = self.object(true, Vec::new());
                object["usage"] = usage(all);
                vec![object]
            }
            _ => Vec::new(),
        }
    }
}

fn choice(index: usize, name: &str, text: Value, finish: Option<&str>) -> Value {
    json!({name: text, "index": index, "logprobs": null, "finish_reason": finish})
}

fn usage(all: &[Written]) -> Value {
    let given = all.first().map_or(0, |written| written.given);
    let tokens: usize = all.iter().map(|written| written.tokens).sum();
    json!({"prompt_tokens": given, "completion_tokens": tokens, "total_tokens": given + tokens})
}

/// The only model.
pub fn models(app: &App) -> Response {
    let model = json!({
        "id": app.model.id, "object": "model", "created": app.model.opened.as_second(), "owned_by": "diffucoder",
        "meta": {"n_ctx_train": app.model.context, "n_params": app.model.parameters},
    });
    response::json(&json!({"object": "list", "data": [model]}))
}
