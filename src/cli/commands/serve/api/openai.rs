//! OpenAI's completions and conversations, and Mistral's infilling.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{self, Drawing, Said, Texts};
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::reply::{self, Asked, Reply};
use crate::cli::commands::serve::response::{self, Response};
use crate::cli::commands::serve::work::{Event, Form, Refusal, Written};

/// Beside those that say how to draw.
#[derive(Debug, Deserialize)]
struct Body {
    prompt: Option<Texts>,
    suffix: Option<String>,
    messages: Option<Vec<Said>>,
    stream_options: Option<StreamOptions>,
    echo: Option<bool>,
    logprobs: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

pub fn completions(app: &App, body: &[u8]) -> Asked {
    asked(app, body, false, holes)
}

pub fn fim(app: &App, body: &[u8]) -> Asked {
    asked(app, body, true, holes)
}

pub fn chat(app: &App, body: &[u8]) -> Asked {
    asked(app, body, true, conversation)
}

fn asked(
    app: &App,
    body: &[u8],
    is_chat: bool,
    forms: fn(&App, Body) -> Result<Vec<Form>, Refusal>,
) -> Asked {
    use std::hash::{BuildHasher, RandomState};
    let mut asked: Body = fields::read(body)?;
    let drawing: Drawing = fields::read(body)?;
    check(&asked)?;
    let options = asked.stream_options.take();
    let ask = drawing.ask(forms(app, asked)?)?;
    let kind = if is_chat { "chatcmpl" } else { "cmpl" };
    let number = RandomState::new().hash_one(SystemTime::now());
    let envelope = Envelope {
        is_chat,
        id: format!("{kind}-{number:016x}"),
        created: Timestamp::now().as_second(),
        model: app.model.id.clone(),
        prompts: ask.forms.len(),
        count: ask.count as usize,
        has_usage: options.is_some_and(|options| options.include_usage.unwrap_or(false)),
    };
    Ok((ask, Box::new(envelope)))
}

/// Other fields that are not known only leave out what nobody misses.
fn check(body: &Body) -> Result<(), Refusal> {
    // 0 are those of the tokens themselves.
    let is_asked = |value: &Value| *value != Value::Bool(false);
    let asked = [
        ("echo", body.echo == Some(true)),
        ("logprobs", body.logprobs.as_ref().is_some_and(is_asked)),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        Some((name, _)) => Err(Refusal::field(name, "is not supported here")),
        None => Ok(()),
    }
}

fn holes(app: &App, body: Body) -> Result<Vec<Form>, Refusal> {
    let prompt = body.prompt;
    let prompt = prompt.ok_or_else(|| Refusal::field("prompt", "is missing"))?;
    let prompts = prompt.prompts()?.into_iter();
    let forms = prompts.map(|prompt| fields::hole(app, prompt, body.suffix.clone()));
    forms.collect()
}

fn conversation(_: &App, body: Body) -> Result<Vec<Form>, Refusal> {
    let said = body.messages;
    let said = said.ok_or_else(|| Refusal::field("messages", "is missing"))?;
    Ok(vec![Form::Chat(fields::conversation(said)?)])
}

/// What stands round the texts of an answer.
struct Envelope {
    /// Whether it is a conversation's, as Mistral's infilling is too.
    is_chat: bool,
    id: String,
    created: i64,
    model: String,
    prompts: usize,
    /// Texts that were asked for of each.
    count: usize,
    /// Whether a stream ends with what it took.
    has_usage: bool,
}

impl Envelope {
    fn object(&self, is_chunk: bool, choices: Vec<Value>) -> Value {
        let object = match (self.is_chat, is_chunk) {
            (false, _) => "text_completion",
            (true, false) => "chat.completion",
            (true, true) => "chat.completion.chunk",
        };
        let mut object = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        });
        if is_chunk && self.has_usage {
            object["usage"] = Value::Null; // until the last
        }
        object
    }

    /// A prompt counts once, however many texts there are of it.
    fn usage(&self, all: &[Written]) -> Value {
        let first = |written: &&Written| written.index.is_multiple_of(self.count);
        let given: usize = all.iter().filter(first).map(|written| written.given).sum();
        let tokens: usize = all.iter().map(|written| written.tokens).sum();
        json!({"prompt_tokens": given, "completion_tokens": tokens, "total_tokens": given + tokens})
    }

    /// A part of a text: of a conversation `delta`, else what `delta` has in `content`.
    fn chunk(&self, index: usize, delta: Value, finish: Option<&str>) -> Value {
        let choice = match self.is_chat {
            true => choice(index, "delta", delta, finish),
            false => {
                let text = delta.get("content").cloned();
                choice(index, "text", text.unwrap_or_else(|| json!("")), finish)
            }
        };
        self.object(true, vec![choice])
    }
}

impl Reply for Envelope {
    fn whole(&self, all: &[Written]) -> Value {
        let choices = all.iter().map(
            |Written {
                 index, text, stop, ..
             }| {
                let (name, text) = match self.is_chat {
                    true => ("message", json!({"role": "assistant", "content": text})),
                    false => ("text", json!(text)),
                };
                choice(*index, name, text, Some(stop.finish_reason()))
            },
        );
        let mut object = self.object(false, choices.collect());
        object["usage"] = self.usage(all);
        object
    }

    fn pieces(&self, event: &Event) -> Vec<Value> {
        match event {
            Event::Begun if self.is_chat => {
                let role = json!({"role": "assistant", "content": ""});
                let indices = 0..self.prompts * self.count;
                let chunks = indices.map(|index| self.chunk(index, role.clone(), None));
                chunks.collect()
            }
            Event::Text(index, text) => vec![self.chunk(*index, json!({"content": text}), None)],
            Event::Written(written) => {
                let finish = written.stop.finish_reason();
                vec![self.chunk(written.index, json!({}), Some(finish))]
            }
            _ => Vec::new(),
        }
    }

    fn end(&self, all: &[Written]) -> String {
        let mut object = self.object(true, Vec::new());
        object["usage"] = self.usage(all);
        let usage = self.has_usage.then(|| reply::event(&object));
        usage.unwrap_or_default() + &reply::event(&"[DONE]")
    }
}

fn choice(index: usize, name: &str, text: Value, finish: Option<&str>) -> Value {
    json!({name: text, "index": index, "logprobs": null, "finish_reason": finish})
}

/// The only model.
pub fn models(app: &App) -> Response {
    response::json(&json!({"object": "list", "data": [described(app)]}))
}

/// The same, whichever is asked for.
pub fn model(app: &App) -> Response {
    response::json(&described(app))
}

fn described(app: &App) -> Value {
    json!({
        "id": app.model.id, "object": "model", "created": app.model.opened.as_second(), "owned_by": "diffucoder",
        "meta": {"n_ctx_train": app.model.context, "n_params": app.model.parameters},
    })
}
