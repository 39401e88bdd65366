//! Fields that the protocols share, under the names of OpenAI, Mistral, llama-server and ollama,
//! and the [`Ask`] that they make. Fields that nobody here knows are skipped, as those servers do.

use diffucoder::chat::Message;
use diffucoder::session::Ends;
use diffucoder::text::{BYTE_ORDER_MARK, lines};
use diffucoder::{Error, RequestError};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

use super::markers;
use crate::cli::commands::serve::app::App;
use crate::cli::commands::serve::work::{Ask, Form, Refusal, whole_characters};

/// Texts of one request: each is drawn by itself, so that more of them only take longer.
const MOST_TEXTS: u32 = 8;
/// Prompts of a request, which wait for each other.
const MOST_PROMPTS: usize = 32;
/// Stop texts of a request; each is looked for at every step.
const MOST_STOPS: usize = 64;

/// A hole between two texts, of which the second stands in the field of that name.
pub fn between(
    app: &App,
    prefix: String,
    (name, suffix): (&str, String),
    extra: Vec<String>,
) -> Result<Form, Refusal> {
    let form = Form::code(prefix, suffix, extra);
    match &form {
        Form::Code { suffix, .. } if !suffix.is_empty() && !app.model.fills => {
            Err(Refusal::from(Error::from(RequestError::WritesForward)).about(name))
        }
        _ => Ok(form),
    }
}

/// The same of a prompt that can have its suffix in itself.
pub fn hole(app: &App, prompt: String, suffix: Option<String>) -> Result<Form, Refusal> {
    let suffix = suffix.unwrap_or_default();
    match markers::parse(&prompt).filter(|_| suffix.is_empty()) {
        Some((prefix, suffix)) => between(app, prefix, ("prompt", suffix), Vec::new()),
        None => between(app, prompt, ("suffix", suffix), Vec::new()),
    }
}

/// A string, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }

    /// Those of prompts.
    pub fn prompts(self) -> Result<Vec<String>, Refusal> {
        let texts = self.into_vec();
        match (1..=MOST_PROMPTS).contains(&texts.len()) {
            true => Ok(texts),
            false => {
                let what = format!("expected a text, or 1 to {MOST_PROMPTS} of them");
                Err(Refusal::field("prompt", &what))
            }
        }
    }
}

/// What somebody said in OpenAI's form.
#[derive(Debug, Deserialize)]
pub struct Said {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string or a list of parts of the type text"
)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text {
        text: String,
    },
    Refusal {
        #[serde(rename = "refusal")]
        text: String,
    },
}

/// Messages as a chat template takes them.
pub fn conversation(said: Vec<Said>) -> Result<Vec<Message>, Refusal> {
    if said.is_empty() {
        return Err(Refusal::field("messages", "at least one, please"));
    }
    let message = |(number, said): (usize, Said)| {
        let role = match &*said.role {
            "developer" => "system",
            "function" => "tool",
            role @ ("system" | "user" | "assistant" | "tool") => role,
            _ => {
                let name = format!("messages[{number}].role");
                let what = "expected system, developer, user, assistant or tool";
                return Err(Refusal::field(&name, what));
            }
        };
        let content = match said.content {
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts
                    .into_iter()
                    .map(|(Part::Text { text } | Part::Refusal { text })| text);
                texts.collect::<Vec<_>>().join("\n")
            }
        };
        Ok(Message::new(role, lines::to_lf(&content)))
    };
    said.into_iter().enumerate().map(message).collect()
}

/// How to draw: the fields are read from the same object as those of one protocol alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Drawing {
    max_tokens: Whole,
    max_completion_tokens: Whole,
    n_predict: Whole, // llama-server's, which its editors send to OpenAI's paths too
    num_predict: Whole,
    n: Whole,
    n_cmpl: Whole,
    stop: Option<Texts>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Whole,
    seed: Whole,
    random_seed: Whole, // Mistral's
    stream: Option<bool>,
}

/// Fields by which a text has a form that clients read it in, which nothing here holds it to.
#[derive(Debug, Deserialize)]
struct Formed {
    response_format: Option<Value>, // OpenAI's
    tool_choice: Option<Value>,
    grammar: Option<Value>, // llama-server's
    json_schema: Option<Value>,
    format: Option<Value>, // ollama's
}

/// Refuses a request for such a form.
pub fn check_form(body: &[u8]) -> Result<(), Refusal> {
    let asked: Formed = read(body)?;
    let is_form = |value: &Value| value != "" && value["type"] != "text";
    let is_call = |value: &Value| value != "auto" && value != "none";
    let found = [
        ("response_format", asked.response_format.filter(is_form)),
        ("tool_choice", asked.tool_choice.filter(is_call)),
        ("grammar", asked.grammar.filter(is_form)),
        ("json_schema", asked.json_schema.filter(is_form)),
        ("format", asked.format.filter(is_form)),
    ];
    match found.iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => Err(Refusal::field(name, "is not supported here")),
        None => Ok(()),
    }
}

/// A whole number, which some write as 16.0.
#[derive(Debug, Default, Clone, Copy)]
pub struct Whole(pub Option<i64>);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let number = Option::<Number>::deserialize(value)?;
        let whole = |number: Number| {
            let float = number.as_f64().filter(|x| x.fract() == 0.0);
            let whole = number.as_i64().or(float.map(|x| x as i64)); // huge ones are the largest
            whole.ok_or_else(|| D::Error::custom("expected a whole number"))
        };
        number.map(whole).transpose().map(Self)
    }
}

impl Drawing {
    /// What is asked, once it is known that it can be.
    pub fn ask(self, forms: Vec<Form>) -> Result<Ask, Refusal> {
        let (name, count) = match self.n_cmpl.0 {
            Some(count) => ("n_cmpl", count),
            None => ("n", self.n.0.unwrap_or(1)),
        };
        let count = u32::try_from(count).ok();
        let count = count.filter(|count| (1..=MOST_TEXTS).contains(count));
        let count = count.ok_or_else(|| {
            Refusal::field(name, &format!("expected a number from 1 to {MOST_TEXTS}"))
        })?;
        let stops = self.stop.map(Texts::into_vec).unwrap_or_default();
        if stops.len() > MOST_STOPS {
            let what = format!("expected at most {MOST_STOPS} texts");
            return Err(Refusal::field("stop", &what));
        }
        let within = |name, value: Option<f64>, most| match value {
            Some(value) if !(0.0..=most).contains(&value) => Err(Refusal::field(
                name,
                &format!("expected a number from 0 to {most}"),
            )),
            value => Ok(value.map(|value| value as f32)),
        };
        let most = self.max_tokens.0.or(self.max_completion_tokens.0);
        let most = most.or(self.n_predict.0).or(self.num_predict.0);
        let seed = self.seed.0.or(self.random_seed.0);
        let stops = stops.iter().map(|stop| lines::to_lf(stop).into_owned());
        Ok(Ask {
            // Below 0 is as many as there is room for.
            most: most.map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
            count,
            ends: Ends {
                texts: stops.collect(),
                ..Ends::default()
            },
            temperature: within("temperature", self.temperature, 100.0)?,
            top_p: within("top_p", self.top_p, 1.0)?.map(|p| p.max(f32::MIN_POSITIVE)),
            top_k: self.top_k.0.map(|k| usize::try_from(k).unwrap_or(0)),
            seed: seed.and_then(|seed| u64::try_from(seed).ok()), // below 0: a new one
            is_streamed: self.stream.unwrap_or(false),
            ..Ask::new(forms)
        })
    }
}

/// Reads a body. What is wrong with it is told with the name of the field.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = whole_characters(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body));
    let mut json = serde_json::Deserializer::from_slice(&body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let what = error.inner().to_string();
        match &*path {
            "." | "?" => Refusal::bad(what), // nowhere, or in what is no JSON
            path => Refusal::field(path, &what),
        }
    })?;
    json.end()
        .map_err(|error| Refusal::bad(error.to_string()))?;
    Ok(read)
}
