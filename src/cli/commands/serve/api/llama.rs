//! llama-server's `/infill`, for llama.vim and llama.vscode, and its `/completion`.

use std::time::Duration;

use diffucoder::diffusion::Settings;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::{self, Drawing, Whole};
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::reply::{Asked, Reply};
use crate::cli::commands::serve::response::{self, Response};
use crate::cli::commands::serve::work::{Event, Form, Refusal, Stop, Written};

/// Beside those that say how to draw.
#[derive(Debug, Deserialize)]
struct Body {
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    input_extra: Option<Vec<Extra>>,
    prompt: Option<String>,
    #[serde(default)]
    n_indent: Whole,
    #[serde(default)]
    t_max_predict_ms: Whole,
    response_fields: Option<Vec<String>>,
}

/// A part of another file.
#[derive(Debug, Deserialize)]
struct Extra {
    text: String,
}

pub fn infill(app: &App, body: &[u8]) -> Asked {
    let mut asked: Body = fields::read(body)?;
    let before = asked.input_prefix.take().unwrap_or_default();
    let prefix = before + &asked.prompt.take().unwrap_or_default();
    let suffix = asked.input_suffix.take().unwrap_or_default();
    let extra = asked.input_extra.take().unwrap_or_default().into_iter();
    let extra = extra.map(|extra| extra.text).collect();
    let form = fields::between(app, prefix.clone(), ("input_suffix", suffix), extra)?;
    let (mut ask, reply) = asked.drawn(app, body, form, prefix)?;
    ask.replaces_older = true;
    Ok((ask, reply))
}

/// Of a prompt, in which markers can stand round a hole: Tabby's requests.
pub fn completion(app: &App, body: &[u8]) -> Asked {
    let mut asked: Body = fields::read(body)?;
    let prompt = asked.prompt.take();
    let prompt = prompt.ok_or_else(|| Refusal::field("prompt", "is missing"))?;
    let form = fields::hole(app, prompt.clone(), None)?;
    asked.drawn(app, body, form, prompt)
}

impl Body {
    fn drawn(self, app: &App, body: &[u8], form: Form, prompt: String) -> Asked {
        let mut ask = fields::read::<Drawing>(body)?.ask(vec![form])?;
        let whole = |number: Whole| number.0.and_then(|number| u64::try_from(number).ok());
        let indent = whole(self.n_indent).unwrap_or(0);
        ask.ends.least_indent = usize::try_from(indent).unwrap_or(usize::MAX);
        let limit = whole(self.t_max_predict_ms);
        ask.limit = limit.filter(|&ms| ms > 0).map(Duration::from_millis);
        let settings = json!({
            "n_ctx": app.model.context, "n_predict": ask.most.map_or(-1, |most| most as i64),
            "stop": ask.ends.texts, "n_indent": ask.ends.least_indent, "stream": ask.is_streamed,
        });
        let completion = Completion {
            model: app.model.id.clone(),
            settings,
            prompt,
            fields: self.response_fields.unwrap_or_default(),
        };
        Ok((ask, Box::new(completion)))
    }
}

/// What some of its clients ask first.
pub fn props(app: &App) -> Response {
    response::json(&json!({
        "default_generation_settings": {"n_ctx": app.model.context, "params": {}},
        "total_slots": app.parallel, "model_path": app.model.id, "model_alias": app.model.id,
        "chat_template": "", "modalities": {"vision": false, "audio": false},
        "build_info": concat!("diffucoder ", env!("CARGO_PKG_VERSION")),
    }))
}

/// What a reply is made of beside the text.
struct Completion {
    model: String,
    settings: Value,
    prompt: String,
    /// Those that are wanted, by their paths; all of them where none is named.
    fields: Vec<String>,
}

impl Completion {
    fn full(&self, written: &Written, text: &str) -> Value {
        let mut settings = self.settings.clone();
        if let Some(Settings { shaping, seed, .. }) = &written.settings {
            settings["temperature"] = shaping.temperature.into();
            settings["top_p"] = shaping.top_p.unwrap_or(1.0).into();
            settings["top_k"] = shaping.top_k.unwrap_or(0).into();
            settings["seed"] = (*seed).into();
        }
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
            "model": self.model, "tokens_predicted": written.tokens,
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
}

impl Reply for Completion {
    /// An object, or a list of several.
    fn whole(&self, all: &[Written]) -> Value {
        let one = |written: &Written| self.filtered(self.full(written, &written.text));
        match all {
            [written] => one(written),
            _ => all.iter().map(one).collect(),
        }
    }

    fn pieces(&self, event: &Event) -> Vec<Value> {
        match event {
            Event::Text(index, text) => vec![json!({
                "index": index, "content": text, "tokens": [], "stop": false, "id_slot": 0,
            })],
            Event::Written(written) => vec![self.filtered(self.full(written, ""))],
            _ => Vec::new(),
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
