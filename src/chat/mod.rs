//! Chat templates: messages to the text, or the ids, that the model was trained on.
//!
//! A template is a Jinja program in `chat_template.jinja`, in `tokenizer_config.json` or, of models
//! that also take pictures, in `chat_template.json`, rendered by MiniJinja in the environment that
//! transformers gives it. Where several have names it is the one named `default`; those in
//! `additional_chat_templates` are for other uses. It comes with the checkpoint, so it is not
//! trusted: its size, work, recursion, stack and time are bounded. (One thing is not: a value made
//! to contain itself, through `namespace`, and then printed, ends the process.)
//!
//! Source: `transformers`, `utils/chat_template_utils.py`.

mod dialect;
mod functions;
mod python;

use std::fmt::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, escape_formatter};

use self::functions::Raised;
use crate::tokenizer::{
    self, CHAT_TEMPLATE, CONFIG, LEGACY_CHAT_TEMPLATE, Literals, SpecialTokens, Tokenizer,
    TokenizerError, TokenizerFiles, quietly,
};

/// Qwen2.5's template has 2.5 KB.
const MAX_TEMPLATE_BYTES: usize = 64 << 10;
/// An instruction costs 1, and so do 64 bytes of data.
const FUEL: u64 = 500_000;
/// More for long messages: a template may go over every byte this many times 64.
const FUEL_PER_BYTE: u64 = 1;
const RECURSION_LIMIT: usize = 100;
/// Reserved, not used: parsing and dropping nested expressions is recursive in MiniJinja, and
/// [`MAX_TEMPLATE_BYTES`] is what limits them.
const STACK_BYTES: usize = 256 << 20;
/// So many bytes of a printed list cost 1: to write one out is slower than all else.
const PRINTED_BYTES: u64 = 16;
/// What filters make of lists of lists is not charged for. Rendering takes about a millisecond.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file of the tokenizer is at fault, or the tokenizer itself.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template is not Jinja.
    #[error("cannot parse the chat template")]
    Syntax(#[source] minijinja::Error),
    /// The template refuses these messages, in its own words.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// The template does not use what the user says, or not all of it.
    #[error("the chat template leaves out the user's message, or a part of it")]
    LeavesOut,
    /// The template needs something that it was not given.
    #[error("the chat template needs something that these messages do not have")]
    Undefined(#[source] minijinja::Error),
    /// The template does more than a template should have to.
    #[error("the chat template takes too much work or time")]
    Exhausted,
    /// The template fails in some other way.
    #[error("the chat template fails")]
    Render(#[source] minijinja::Error),
    /// The template does what its engine does not stand, which panics.
    #[error("the chat template breaks the engine that runs it")]
    Engine,
    /// There is no thread to render in.
    #[error("cannot start a thread for the chat template")]
    Thread(#[source] std::io::Error),
    /// The messages contain every character that could protect them from the template.
    #[error("the messages contain too many unassigned characters")]
    NoStandIn,
}

impl ChatError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tokenizer(error) => error.hint(),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, ChatError>;

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who: `system`, `user` or `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// What was said but for the system message, a message a line: for a model that continues it.
pub fn said(messages: &[Message]) -> String {
    let said = messages.iter().filter(|message| message.role != "system");
    let said: Vec<_> = said.map(|message| &*message.content).collect();
    said.join("\n")
}

/// A checkpoint's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    file: &'static str,
    source: String,
    /// The source as MiniJinja reads it.
    adapted: String,
    specials: SpecialTokens,
    /// `enable_thinking`, where it is defined.
    thinks: Option<bool>,
}

impl ChatTemplate {
    /// The template of a checkpoint, or `None` if it has none, like most base models. Whether it is
    /// Jinja shows when it is used, so that the model can be used without it.
    ///
    /// # Errors
    /// [`ChatError::Tokenizer`] if a file is damaged.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Option<Self>> {
        let specials = SpecialTokens::read(files)?;
        let (file, source) = match files.chat_template_jinja {
            Some(bytes) => (
                CHAT_TEMPLATE,
                tokenizer::text(CHAT_TEMPLATE, bytes)?.to_owned(),
            ),
            None => {
                let legacy = (LEGACY_CHAT_TEMPLATE, files.chat_template_json);
                let mut found = None;
                for (file, bytes) in [(CONFIG, files.tokenizer_config_json), legacy] {
                    if let (None, Some(source)) = (&found, template_in(file, bytes)?) {
                        found = Some((file, source));
                    }
                }
                let Some(found) = found else { return Ok(None) };
                found
            }
        };
        if source.len() > MAX_TEMPLATE_BYTES {
            let reason = format!("the chat template has more than {MAX_TEMPLATE_BYTES} bytes");
            return Err(TokenizerError::Damaged { file, reason }.into());
        }
        Ok(Some(Self {
            file,
            adapted: dialect::adapt(&source),
            source,
            specials,
            thinks: None,
        }))
    }

    /// With the variable by which templates ask whether an answer thinks first.
    #[must_use]
    pub fn thinking(self, thinks: Option<bool>) -> Self {
        Self { thinks, ..self }
    }

    /// The template itself.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's answer
    /// begins.
    ///
    /// Do not encode this text, in which a message can spell a control token: [`Self::encode`]
    /// does both.
    ///
    /// # Errors
    /// [`ChatError::Syntax`], [`ChatError::Refused`], [`ChatError::Undefined`],
    /// [`ChatError::Exhausted`], [`ChatError::Render`], [`ChatError::Engine`] and
    /// [`ChatError::Thread`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let (template, messages) = (self.clone(), messages.to_vec());
        let rendered = apart(move || template.render_here(&messages, add_generation_prompt))?;
        rendered.map_err(|error| {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            while let Some(here) = cause {
                if let Some(Raised(message)) = here.downcast_ref() {
                    return ChatError::Refused(message.clone());
                }
                match here.downcast_ref().map(minijinja::Error::kind) {
                    Some(ErrorKind::SyntaxError) => return ChatError::Syntax(error),
                    Some(ErrorKind::OutOfFuel) => return ChatError::Exhausted,
                    Some(ErrorKind::UndefinedError) => return ChatError::Undefined(error),
                    _ => cause = here.source(),
                }
            }
            ChatError::Render(error)
        })
    }

    /// The ids of a conversation, followed by `answer`, the beginning of the model's answer.
    ///
    /// Added tokens are recognised where the template writes them. In the messages and in `answer`
    /// they are text: a file that contains `<|im_end|>` does not end the turn, and one that
    /// contains `<|mask|>` makes no hole. Without such text the ids are those of the reference,
    /// which tokenises [`Self::render`].
    ///
    /// # Errors
    /// Those of [`Self::render`], [`ChatError::LeavesOut`], [`ChatError::Tokenizer`] and
    /// [`ChatError::NoStandIn`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
        answer: &str,
    ) -> Result<Vec<u32>> {
        let data = messages
            .iter()
            .flat_map(|message| [&*message.role, &*message.content]);
        let data = data.chain([answer]);
        let literals = Literals::choose(tokenizer.added_tokens(), data, &self.source)
            .ok_or(ChatError::NoStandIn)?;
        let protected: Vec<Message> = messages
            .iter()
            .map(|message| {
                let [role, content] =
                    [&message.role, &message.content].map(|text| literals.protect(text));
                Message { role, content }
            })
            .collect();
        let mut text = self.render(&protected, add_generation_prompt)?;
        self.check_uses(protected, add_generation_prompt)?;
        text.push_str(&literals.protect(answer));
        Ok(tokenizer.encode_around(&text, &literals)?)
    }

    /// Checks that the last thing the user says reaches the text: that marks before and behind it
    /// do. A template may trim it, escape it or change its case.
    fn check_uses(&self, mut messages: Vec<Message>, add_generation_prompt: bool) -> Result<()> {
        const MARK: &str = "zqxjvk";
        let Some(said) = messages.iter_mut().rfind(|message| message.role == "user") else {
            return Ok(());
        };
        said.content = format!("{MARK}{}{MARK}", said.content);
        let wanted = said.content.matches(MARK).count();
        match self.render(&messages, add_generation_prompt) {
            Ok(text) if text.to_lowercase().matches(MARK).count() < wanted => {
                Err(ChatError::LeavesOut)
            }
            _ => Ok(()), // it renders the message itself
        }
    }

    fn render_here(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> std::result::Result<String, minijinja::Error> {
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let environment = self.environment(bytes as u64);
        let messages = messages.iter().map(|message| {
            Value::from_pairs([("role", &*message.role), ("content", &*message.content)])
        });
        let mut variables = vec![
            ("messages", Value::from_iter(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        // One that is unknown, and a role without a token, is undefined, not none: templates test
        // for that.
        variables.extend(self.thinks.map(|thinks| ("enable_thinking", thinks.into())));
        let tokens = self.specials.named();
        variables.extend(tokens.map(|(name, token)| (name, Value::from(token))));
        environment
            .template_from_named_str(self.file, &self.adapted)?
            .render(Value::from_pairs(variables))
    }

    fn environment(&self, message_bytes: u64) -> Environment<'_> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .unwrap_or_default(),
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None); // not by the file's name
        environment.set_formatter(print);
        python::add_to(&mut environment);
        environment.add_filter("tojson", functions::tojson);
        environment.add_function("raise_exception", functions::raise_exception);
        environment.add_function("strftime_now", functions::strftime_now);
        environment.set_fuel(Some(FUEL + FUEL_PER_BYTE * message_bytes));
        environment.set_recursion_limit(RECURSION_LIMIT);
        environment.set_debug(true); // names what is undefined
        environment
    }
}

/// Prints a value for which there is fuel; MiniJinja asks for it once a list is written out, and a
/// million times a list is a short template.
fn print(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    if let ValueKind::Seq | ValueKind::Iterable | ValueKind::Map = value.kind() {
        let (_, fuel) = state.fuel_levels().unwrap_or_default();
        let most = fuel.saturating_mul(PRINTED_BYTES);
        let mut room = Room(most);
        match write!(room, "{value}") {
            Ok(()) => state.consume_fuel((most - room.0) / PRINTED_BYTES)?,
            Err(_) => return state.consume_fuel(u64::MAX),
        }
    }
    escape_formatter(out, state, value)
}

/// For so many bytes, which go nowhere.
struct Room(u64);

impl Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_sub(text.len() as u64).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// Runs something on a stack of its own, and leaves it behind if it does not end in time.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (send, receive) = sync_channel(1);
    let thread = thread::Builder::new()
        .name("chat template".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _ = send.send(quietly(work)); // nobody waits any more: nothing to do
        });
    thread.map_err(ChatError::Thread)?;
    match receive.recv_timeout(TIME_LIMIT) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(ChatError::Engine),
        Err(RecvTimeoutError::Timeout) => Err(ChatError::Exhausted),
    }
}

/// `chat_template` of a file: one template, or several with names.
fn template_in(file: &'static str, bytes: Option<&[u8]>) -> Result<Option<String>> {
    let config = tokenizer::object(file, bytes)?;
    let damaged = |reason: String| Err(TokenizerError::Damaged { file, reason }.into());
    match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(source)) => Ok(Some(source.clone())),
        Some(serde_json::Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            match default.map(|entry| &entry["template"]) {
                Some(serde_json::Value::String(source)) => Ok(Some(source.clone())),
                _ => {
                    let names = named.iter().filter_map(|entry| entry["name"].as_str());
                    let names = names.collect::<Vec<_>>().join(", ");
                    damaged(format!("no chat template is named default, only: {names}"))
                }
            }
        }
        Some(_) => damaged("chat_template is neither a string nor a list".to_owned()),
    }
}
