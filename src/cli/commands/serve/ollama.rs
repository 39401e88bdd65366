//! ollama's `/api/generate` and `/api/tags`.

use std::time::Duration;

use diffucoder::chat::Message;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::request::{Drawing, Form, Texts};
use super::router::{self, Answer, App, Request, Response};
use super::stream::{self, Framing, Piece};
use super::worker::Written;

#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    prompt: String,
    suffix: Option<String>,
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

pub async fn generate(app: &App, request: Request) -> Answer {
    let place = app.queue.enter()?;
    let body: Body = app.read(request).await?;
    let is_asked = app.model.is_chat && !body.raw.unwrap_or(false) && body.suffix.is_none();
    let form = match is_asked {
        true => {
            let system = body.system.map(|system| Message::new("system", system));
            let user = Message::new("user", body.prompt);
            Form::Chat(system.into_iter().chain([user]).collect())
        }
        false => Form::of_prompt(body.prompt, body.suffix),
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
        return Ok(router::json(&object(&model, "", true)));
    }
    let is_streamed = ask.is_streamed;
    let running = app.queue.submit(ask, place, None);
    if !is_streamed {
        let all = stream::whole(running).await?;
        let last = all.last().ok_or_else(Refusal::failed)?;
        return Ok(router::json(&done(&model, &last.text, last)));
    }
    let render = Box::new(move |piece: Piece<'_>| match piece {
        Piece::Begin | Piece::End(_) => Vec::new(),
        Piece::Text(_, text) => vec![object(&model, text, false)],
        Piece::Written(written) => vec![done(&model, "", written)],
    });
    stream::pieces(running, Framing::Lines, "/api/generate", render).await
}

fn object(model: &str, text: &str, is_done: bool) -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!({"model": model, "created_at": now, "response": text, "done": is_done})
}

fn done(model: &str, text: &str, written: &Written) -> Value {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let [prompt, predicted] = written.times;
    let mut object = object(model, text, true);
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
    let opened = jiff::Timestamp::from_second(model.opened as i64).unwrap_or_default();
    let tag = json!({
        "name": model.id, "model": model.id, "modified_at": opened.to_string(), "size": 0,
        "digest": "", "details": {
            "parent_model": "", "format": "", "family": "diffucoder", "families": ["diffucoder"],
            "parameter_size": format!("{:.1}B", model.parameters as f64 / 1e9),
            "quantization_level": "",
        },
    });
    router::json(&json!({"models": [tag]}))
}
