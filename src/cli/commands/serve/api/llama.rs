//! llama-server's `/infill`, for llama.vim and llama.vscode.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::queue::Client;
use super::request::{Ask, Drawing, Form, Texts};
use super::router::{self, Answer, App, Request, Response};
use super::stream::{self, Framing, Piece};
use super::worker::{Stop, Written};

#[derive(Debug, Deserialize)]
struct Body {
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    input_extra: Option<Vec<Extra>>,
    prompt: Option<String>,
    n_predict: Option<i64>,
    n_cmpl: Option<i64>,
    n_indent: Option<usize>,
    t_max_predict_ms: Option<i64>,
    stop: Option<Texts>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    seed: Option<i64>,
    stream: Option<bool>,
    response_fields: Option<Vec<String>>,
}

/// A part of another file.
#[derive(Debug, Deserialize)]
struct Extra {
    text: String,
}

pub async fn infill(app: &Arc<App>, client: Option<Client>, request: Request) -> Answer {
    let place = app.queue.enter()?;
    let body: Body = app.read(request).await?;
    let prefix = body.input_prefix.unwrap_or_default() + &body.prompt.unwrap_or_default();
    let extra = body.input_extra.unwrap_or_default().into_iter();
    let extra = extra.map(|extra| extra.text).collect();
    let form = Form::code(prefix.clone(), body.input_suffix.unwrap_or_default(), extra);
    let drawing = Drawing {
        most: body.n_predict,
        count: body.n_cmpl,
        stop: body.stop,
        temperature: body.temperature,
        top_p: body.top_p,
        top_k: body.top_k,
        seed: body.seed,
        stream: body.stream.unwrap_or(false),
    };
    let mut ask = drawing.ask(form)?;
    ask.ends.least_indent = body.n_indent.unwrap_or(0);
    let limit = body.t_max_predict_ms.and_then(|ms| u64::try_from(ms).ok());
    ask.limit = limit.filter(|&ms| ms > 0).map(Duration::from_millis);
    let reply = Reply {
        app: Arc::clone(app),
        settings: generation_settings(&ask, app),
        prompt: prefix,
        fields: body.response_fields.unwrap_or_default(),
    };
    if ask.most == Some(0) {
        // A warm-up: there is nothing that could be kept for the request that follows.
        return Ok(router::json(&reply.filtered(reply.empty())));
    }
    let is_streamed = ask.is_streamed;
    let running = app.queue.submit(ask, place, client);
    if is_streamed {
        let render = Box::new(move |piece: Piece<'_>| reply.pieces(&piece));
        return stream::pieces(running, Framing::Events, "/infill", render).await;
    }
    let all = stream::whole(running).await?;
    let mut replies: Vec<_> = all.iter().map(|written| reply.whole(written)).collect();
    Ok(router::json(&match replies.len() {
        1 => replies.remove(0),
        _ => Value::Array(replies),
    }))
}

/// What some of its clients ask first.
pub fn props(app: &App) -> Response {
    router::json(&json!({
        "default_generation_settings": {"n_ctx": app.model.context, "params": {}},
        "total_slots": 1, "model_path": app.model.id, "model_alias": app.model.id,
        "chat_template": "", "modalities": {"vision": false, "audio": false},
        "build_info": concat!("diffucoder ", env!("CARGO_PKG_VERSION")),
    }))
}

fn generation_settings(ask: &Ask, app: &App) -> Value {
    json!({
        "n_ctx": app.model.context, "n_predict": ask.most.map_or(-1, |most| most as i64),
        "stop": ask.ends.texts, "n_indent": ask.ends.least_indent, "stream": ask.is_streamed,
    })
}

/// What a reply is made of beside the text.
struct Reply {
    app: Arc<App>,
    settings: Value,
    prompt: String,
    /// Those that are wanted, by their paths; all of them where none is named.
    fields: Vec<String>,
}

impl Reply {
    fn whole(&self, written: &Written) -> Value {
        self.filtered(self.full(written, &written.text))
    }

    fn full(&self, written: &Written, text: &str) -> Value {
        let mut settings = self.settings.clone();
        let shaping = &written.settings.shaping;
        settings["temperature"] = shaping.temperature.into();
        settings["top_p"] = shaping.top_p.unwrap_or(1.0).into();
        settings["top_k"] = shaping.top_k.unwrap_or(0).into();
        settings["seed"] = written.settings.seed.into();
        let (stop_type, word) = match &written.stop {
            Stop::End => ("eos", ""),
            Stop::Word(word) => ("word", &**word),
            Stop::Limit => ("limit", ""),
        };
        let [prompt, predicted] = written.times;
        let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        let each = |tokens: usize, time: Duration| millis(time) / tokens.max(1) as f64;
        json!({
            "index": written.index, "content": text, "tokens": [], "id_slot": 0, "stop": true,
            "model": self.app.model.id, "tokens_predicted": written.tokens,
            "tokens_evaluated": written.given, "generation_settings": settings,
            "prompt": self.prompt, "has_new_line": written.text.contains('\n'),
            "truncated": written.is_cut, "stop_type": stop_type, "stopping_word": word,
            "tokens_cached": written.given + written.tokens,
            "timings": {
                "prompt_n": written.given, "prompt_ms": millis(prompt),
                "prompt_per_token_ms": each(written.given, prompt),
                "prompt_per_second": rate(written.given, prompt),
                "predicted_n": written.tokens, "predicted_ms": millis(predicted),
                "predicted_per_token_ms": each(written.tokens, predicted),
                "predicted_per_second": rate(written.tokens, predicted),
            },
        })
    }

    /// The reply to a request for no tokens.
    fn empty(&self) -> Value {
        json!({
            "index": 0, "content": "", "tokens": [], "id_slot": 0, "stop": true,
            "model": self.app.model.id, "tokens_predicted": 0, "tokens_evaluated": 0,
            "generation_settings": self.settings, "prompt": self.prompt, "has_new_line": false,
            "truncated": false, "stop_type": "limit", "stopping_word": "", "tokens_cached": 0,
            "timings": {"prompt_n": 0, "prompt_ms": 0.0, "predicted_n": 0, "predicted_ms": 0.0},
        })
    }

    /// The fields that are wanted, each by its whole path; those that are not there are left out.
    fn filtered(&self, reply: Value) -> Value {
        if self.fields.is_empty() {
            return reply;
        }
        let field = |path: &String| {
            let value = reply.pointer(&format!("/{path}"))?;
            (!path.is_empty()).then(|| (path.clone(), value.clone()))
        };
        Value::Object(self.fields.iter().filter_map(field).collect::<Map<_, _>>())
    }

    fn pieces(&self, piece: &Piece<'_>) -> Vec<Value> {
        match piece {
            Piece::Begin | Piece::Shown(_) | Piece::End(_) => Vec::new(),
            Piece::Text(index, text) => vec![json!({
                "index": index, "content": text, "tokens": [], "stop": false, "id_slot": 0,
            })],
            Piece::Written(written) => vec![self.filtered(self.full(written, ""))],
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
