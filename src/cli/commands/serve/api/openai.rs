//! OpenAI's completions and conversations, and Mistral's infilling.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::request::{Drawing, Form, Said, Texts, conversation};
use super::router::{self, Answer, App, Request, Response};
use super::stream::{self, Framing, Piece};
use super::worker::Written;

/// Fields of all three.
#[derive(Debug, Deserialize)]
struct Body {
    prompt: Option<Texts>,
    suffix: Option<String>,
    messages: Option<Vec<Said>>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n_predict: Option<i64>, // llama-server's, which its editors send here too
    n: Option<i64>,
    stop: Option<Texts>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    seed: Option<i64>,
    stream: Option<bool>,
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

pub async fn completions(app: &App, request: Request) -> Answer {
    answer(app, request, "/v1/completions", Kind::Completion).await
}

pub async fn fim(app: &App, request: Request) -> Answer {
    answer(app, request, "/v1/fim/completions", Kind::Chat).await
}

pub async fn chat(app: &App, request: Request) -> Answer {
    answer(app, request, "/v1/chat/completions", Kind::Chat).await
}

async fn answer(app: &App, request: Request, path: &'static str, kind: Kind) -> Answer {
    let place = app.queue.enter()?;
    let body: Body = app.read(request).await?;
    let form = match path {
        "/v1/chat/completions" => {
            let messages = body.messages;
            let messages = messages.ok_or_else(|| Refusal::field("messages", "is missing"))?;
            Form::Chat(conversation(messages)?)
        }
        _ => {
            let prompt = body.prompt;
            let prompt = prompt.ok_or_else(|| Refusal::field("prompt", "is missing"))?;
            Form::of_prompt(prompt.only("prompt")?, body.suffix)
        }
    };
    let drawing = Drawing {
        most: body
            .max_tokens
            .or(body.max_completion_tokens)
            .or(body.n_predict),
        count: body.n,
        stop: body.stop,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        seed: body.seed,
        stream: body.stream.unwrap_or(false),
    };
    let ask = drawing.ask(form)?;
    let envelope = Envelope::new(kind, &app.model.id);
    if ask.most == Some(0) {
        return Ok(router::json(&envelope.whole(&[])));
    }
    let is_streamed = ask.is_streamed;
    let count = ask.count as usize;
    let running = app.queue.submit(ask, place, None);
    if !is_streamed {
        let all = stream::whole(running).await?;
        return Ok(router::json(&envelope.whole(&all)));
    }
    let options = body.stream_options;
    let has_usage = options.is_some_and(|options| options.include_usage.unwrap_or(false));
    let render = Box::new(move |piece: Piece<'_>| envelope.pieces(&piece, count, has_usage));
    stream::pieces(running, Framing::OpenAi, path, render).await
}

/// What stands round the texts of an answer.
struct Envelope {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

impl Envelope {
    fn new(kind: Kind, model: &str) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let number = RandomState::new().hash_one(SystemTime::now());
        Self {
            kind,
            id: match kind {
                Kind::Completion => format!("cmpl-{number:016x}"),
                Kind::Chat => format!("chatcmpl-{number:016x}"),
            },
            created: unix_seconds(),
            model: model.to_string(),
        }
    }

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

    fn whole(&self, all: &[Written]) -> Value {
        let choice = |written: &Written| {
            let mut choice = match self.kind {
                Kind::Completion => json!({"text": written.text}),
                Kind::Chat => json!({"message": {"role": "assistant", "content": written.text}}),
            };
            choice["index"] = written.index.into();
            choice["logprobs"] = Value::Null;
            choice["finish_reason"] = written.stop.finish_reason().into();
            choice
        };
        let mut object = self.object(false, all.iter().map(choice).collect());
        object["usage"] = usage(all);
        object
    }

    fn pieces(&self, piece: &Piece<'_>, count: usize, has_usage: bool) -> Vec<Value> {
        let choice = |index: usize, delta: Value, finish: Option<&str>| {
            let choice = match self.kind {
                Kind::Completion => json!({"text": delta}),
                Kind::Chat => json!({"delta": delta}),
            };
            let mut choice = choice;
            choice["index"] = index.into();
            choice["logprobs"] = Value::Null;
            choice["finish_reason"] = finish.into();
            self.object(true, vec![choice])
        };
        match (piece, self.kind) {
            (Piece::Begin, Kind::Completion) | (Piece::Shown(_), _) => Vec::new(),
            (Piece::Begin, Kind::Chat) => {
                let role = json!({"role": "assistant", "content": ""});
                (0..count)
                    .map(|index| choice(index, role.clone(), None))
                    .collect()
            }
            (Piece::Text(index, text), Kind::Completion) => {
                vec![choice(*index, json!(text), None)]
            }
            (Piece::Text(index, text), Kind::Chat) => {
                vec![choice(*index, json!({"content": text}), None)]
            }
            (Piece::Written(written), kind) => {
                let delta = match kind {
                    Kind::Completion => json!(""),
                    Kind::Chat => json!({}),
                };
                vec![choice(
                    written.index,
                    delta,
                    Some(written.stop.finish_reason()),
                )]
            }
            (Piece::End(all), _) if has_usage => {
                let mut object = self.object(true, Vec::new());
                object["usage"] = usage(all);
                vec![object]
            }
            (Piece::End(_), _) => Vec::new(),
        }
    }
}

fn usage(all: &[Written]) -> Value {
    let given = all.first().map_or(0, |written| written.given);
    let tokens: usize = all.iter().map(|written| written.tokens).sum();
    json!({"prompt_tokens": given, "completion_tokens": tokens, "total_tokens": given + tokens})
}

/// The only model.
pub fn models(app: &App) -> Response {
    let model = json!({
        "id": app.model.id, "object": "model", "created": app.model.opened, "owned_by": "diffucoder",
        "meta": {"n_ctx_train": app.model.context, "n_params": app.model.parameters},
    });
    router::json(&json!({"object": "list", "data": [model]}))
}

pub fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
