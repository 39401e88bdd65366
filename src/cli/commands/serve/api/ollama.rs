//! ollama's API: texts, conversations, and what is known of the model.

use std::time::Duration;

use diffucoder::chat::Message;
use diffucoder::text::lines;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fields::{self, Drawing, Said};
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::reply::{Asked, Reply};
use crate::cli::commands::serve::response::{self, Response};
use crate::cli::commands::serve::work::{Ask, Event, Form, Written};

#[derive(Debug, Deserialize)]
struct Body {
    prompt: Option<String>,
    suffix: Option<String>,
    messages: Option<Vec<Said>>,
    system: Option<String>,
    raw: Option<bool>,
    stream: Option<bool>,
    options: Option<Drawing>,
    keep_alive: Option<Value>,
}

impl Body {
    /// Of a request without a text, by which clients have a model loaded, or put away. It stays.
    fn load(&self) -> &'static str {
        let is_over = match &self.keep_alive {
            Some(Value::String(time)) => ["0", "0s", "0m", "0h"].contains(&&**time),
            Some(time) => time == 0,
            None => false,
        };
        if is_over { "unload" } else { "load" }
    }

    /// `is_load` where nothing is asked.
    fn drawn(self, app: &App, form: Form, is_load: bool, is_chat: bool) -> Asked {
        let lines = Lines {
            is_chat,
            load: is_load.then(|| self.load()),
            model: app.model.id.clone(),
        };
        let ask = self.options.unwrap_or_default().ask(vec![form])?;
        let ask = Ask {
            count: 1, // an answer has one text
            is_streamed: self.stream.unwrap_or(true),
            most: if is_load { Some(0) } else { ask.most },
            ..ask
        };
        Ok((ask, Box::new(lines)))
    }
}

/// Go's client sends fields that nobody set as empty texts.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

pub fn generate(app: &App, body: &[u8]) -> Asked {
    let mut body: Body = fields::read(body)?;
    let (prompt, suffix) = (
        body.prompt.take().unwrap_or_default(),
        given(body.suffix.take()),
    );
    let is_load = prompt.is_empty() && suffix.is_none();
    let is_asked = app.model.is_chat && !body.raw.unwrap_or(false) && suffix.is_none();
    let form = match is_asked {
        true => {
            let message = |role, text: String| Message::new(role, lines::to_lf(&text));
            let system = given(body.system.take()).map(|system| message("system", system));
            let user = message("user", prompt);
            Form::Chat(system.into_iter().chain([user]).collect())
        }
        false => fields::hole(app, prompt, suffix)?,
    };
    body.drawn(app, form, is_load, false)
}

pub fn chat(app: &App, body: &[u8]) -> Asked {
    let mut body: Body = fields::read(body)?;
    let said = body.messages.take().unwrap_or_default();
    let is_load = said.is_empty();
    let messages = match is_load {
        true => Vec::new(),
        false => fields::conversation(said)?,
    };
    body.drawn(app, Form::Chat(messages), is_load, true)
}

struct Lines {
    /// Whether they are of a conversation.
    is_chat: bool,
    load: Option<&'static str>,
    model: String,
}

impl Lines {
    fn object(&self, text: &str, is_done: bool) -> Value {
        let now = Timestamp::now().to_string();
        let mut object = json!({"model": self.model, "created_at": now, "done": is_done});
        match self.is_chat {
            false => object["response"] = text.into(),
            true => object["message"] = json!({"role": "assistant", "content": text}),
        }
        object
    }

    fn last(&self, text: &str, written: &Written) -> Value {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let [prompt, predicted] = written.times;
        let mut object = self.object(text, true);
        let reason = self.load.unwrap_or(written.stop.finish_reason());
        object["done_reason"] = reason.into();
        if !self.is_chat {
            // Nothing is kept between texts, and clients want the field.
            object["context"] = json!([]);
        }
        object["total_duration"] = nanos(prompt + predicted).into();
        object["load_duration"] = 0.into();
        object["prompt_eval_count"] = written.given.into();
        object["prompt_eval_duration"] = nanos(prompt).into();
        object["eval_count"] = written.tokens.into();
        object["eval_duration"] = nanos(predicted).into();
        object
    }
}

impl Reply for Lines {
    fn whole(&self, all: &[Written]) -> Value {
        let last = all.last();
        last.map_or(Value::Null, |last| self.last(&last.text, last))
    }

    fn is_lines(&self) -> bool {
        true
    }

    fn pieces(&self, event: &Event) -> Vec<Value> {
        match event {
            Event::Text(_, text) => vec![self.object(text, false)],
            Event::Written(written) => vec![self.last("", written)],
            _ => Vec::new(),
        }
    }
}

/// The only model.
pub fn tags(app: &App) -> Response {
    response::json(&json!({"models": [tag(app)]}))
}

/// It is in memory.
pub fn ps(app: &App) -> Response {
    let mut tag = tag(app);
    tag["expires_at"] = "9999-12-31T23:59:59Z".into(); // it stays
    tag["size_vram"] = 0.into();
    response::json(&json!({"models": [tag]}))
}

fn tag(app: &App) -> Value {
    let model = &app.model;
    // Clients cut the digest of a file that is not here to 12 digits, and tell models by it.
    let digest = Sha256::digest(&model.id);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "name": model.id, "model": model.id, "modified_at": model.opened.to_string(), "size": 0, "digest": digest,
        "details": details(app),
    })
}

/// What is known of it, whichever is asked for. Clients look for the suffix in the template to know
/// whether it fills holes, or among what it can do.
pub fn show(app: &App) -> Response {
    let model = &app.model;
    let (template, can) = match model.fills {
        true => ("{{ .Prompt }}{{ .Suffix }}", &["completion", "insert"][..]),
        false => ("{{ .Prompt }}", &["completion"][..]),
    };
    response::json(&json!({
        "modelfile": "", "parameters": "", "template": template, "modified_at": model.opened.to_string(),
        "capabilities": can, "details": details(app), "model_info": {
            "general.architecture": "diffucoder", "general.basename": model.id,
            "general.parameter_count": model.parameters, "diffucoder.context_length": model.context,
        },
    }))
}

/// Of ollama's API. VS Code's Copilot asks for this one or a later one.
const VERSION: &str = "0.6.4";

pub fn version() -> Response {
    response::json(&json!({"version": VERSION}))
}

fn details(app: &App) -> Value {
    json!({
        "parent_model": "", "format": "", "family": "diffucoder", "families": ["diffucoder"],
        "parameter_size": match app.model.parameters as f64 {
            many if many >= 1e9 => format!("{:.1}B", many / 1e9),
            few => format!("{:.1}M", few / 1e6),
        },
        "quantization_level": "",
    })
}
