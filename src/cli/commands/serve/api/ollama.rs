//! ollama's API: texts, conversations, and what is known of the model.

use std::time::Duration;

use diffucoder::chat::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::request::{Drawing, Form, Said, Texts, conversation};
use super::router::{self, Answer, App, Request, Response};
use super::stream::{self, Framing, Piece};
use super::worker::Written;

#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    prompt: String,
    suffix: Option<String>,
    messages: Option<Vec<Said>>,
    system: Option<String>,
    raw: Option<bool>,
    stream: Option<bool>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    num_predict: Option<i64>,
    stop: Option<Texts>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    seed: Option<i64>,
}

/// Which object an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Generate,
    Chat,
}

pub async fn generate(app: &App, request: Request) -> Answer {
    answer(app, request, "/api/generate", Kind::Generate).await
}

pub async fn chat(app: &App, request: Request) -> Answer {
    answer(app, request, "/api/chat", Kind::Chat).await
}

async fn answer(app: &App, request: Request, path: &'static str, kind: Kind) -> Answer {
    let place = app.queue.enter()?;
    let body: Body = app.read(request).await?;
    let is_asked = app.model.is_chat && !body.raw.unwrap_or(false) && body.suffix.is_none();
    let form = match kind {
        Kind::Chat => Form::Chat(conversation(body.messages.unwrap_or_default())?),
        Kind::Generate if is_asked => {
            let system = body.system.map(|system| Message::new("system", system));
            let user = Message::new("user", body.prompt);
            Form::Chat(system.into_iter().chain([user]).collect())
        }
        Kind::Generate => Form::of_prompt(body.prompt, body.suffix),
    };
    let drawing = Drawing {
        most: body.options.num_predict,
        count: None,
        stop: body.options.stop,
        temperature: body.options.temperature,
        top_p: body.options.top_p,
        top_k: body.options.top_k,
        seed: body.options.seed,
        stream: body.stream.unwrap_or(true),
    };
    let ask = drawing.ask(form)?;
    let model = app.model.id.clone();
    if ask.most == Some(0) {
        return Ok(router::json(&object(kind, &model, "", true)));
    }
    let is_streamed = ask.is_streamed;
    let running = app.queue.submit(ask, place, None);
    if !is_streamed {
        let all = stream::whole(running).await?;
        let last = all.last().ok_or_else(Refusal::failed)?;
        return Ok(router::json(&done(kind, &model, &last.text, last)));
    }
    let render = Box::new(move |piece: Piece<'_>| match piece {
        Piece::Begin | Piece::Shown(_) | Piece::End(_) => Vec::new(),
        Piece::Text(_, text) => vec![object(kind, &model, text, false)],
        Piece::Written(written) => vec![done(kind, &model, "", written)],
    });
    stream::pieces(running, Framing::Lines, path, render).await
}

fn object(kind: Kind, model: &str, text: &str, is_done: bool) -> Value {
    let now = jiff::Timestamp::now().to_string();
    let mut object = json!({"model": model, "created_at": now, "done": is_done});
    match kind {
        Kind::Generate => object["response"] = text.into(),
        Kind::Chat => object["message"] = json!({"role": "assistant", "content": text}),
    }
    object
}

fn done(kind: Kind, model: &str, text: &str, written: &Written) -> Value {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let [prompt, predicted] = written.times;
    let mut object = object(kind, model, text, true);
    object["done_reason"] = written.stop.finish_reason().into();
    object["total_duration"] = nanos(prompt + predicted).into();
    object["load_duration"] = 0.into();
    object["prompt_eval_count"] = written.given.into();
    object["prompt_eval_duration"] = nanos(prompt).into();
    object["eval_count"] = written.tokens.into();
    object["eval_duration"] = nanos(predicted).into();
    object
}

/// The only model.
pub fn tags(app: &App) -> Response {
    let model = &app.model;
    let tag = json!({
        "name": model.id, "model": model.id, "modified_at": opened(app), "size": 0, "digest": "",
        "details": details(app),
    });
    router::json(&json!({"models": [tag]}))
}

/// What is known of it, whichever is asked for. Clients look for the suffix in the template to know
/// whether it fills holes, or among what it can do.
pub fn show(app: &App) -> Response {
    let model = &app.model;
    let (template, can) = match model.fills {
        true => ("{{ .Prompt }}{{ .Suffix }}", &["completion", "insert"][..]),
        false => ("{{ .Prompt }}", &["completion"][..]),
    };
    router::json(&json!({
        "modelfile": "", "parameters": "", "template": template, "modified_at": opened(app),
        "capabilities": can, "details": details(app), "model_info": {
            "general.architecture": "diffucoder", "general.basename": model.id,
            "general.parameter_count": model.parameters, "diffucoder.context_length": model.context,
        },
    }))
}

fn opened(app: &App) -> String {
    let opened = jiff::Timestamp::from_second(app.model.opened as i64);
    opened.unwrap_or_default().to_string()
}

fn details(app: &App) -> Value {
    json!({
        "parent_model": "", "format": "", "family": "diffucoder", "families": ["diffucoder"],
        "parameter_size": format!("{:.1}B", app.model.parameters as f64 / 1e9),
        "quantization_level": "",
    })
}
