//! Where the prompt comes from, a flag, a file or a pipe, and what is to be done with it.
//!
//! Models that are not chat models continue whatever they get. For a chat model a text is either a
//! question to be answered or a file to be continued, and where it comes from decides: what is
//! typed at `--prompt` is a question, what is in a file or comes through a pipe is a file.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;
use diffucoder::session::asking::Wish;

use crate::cli::usage::UsageError;

const HOW_TO_GIVE_ONE: &str = "give --prompt TEXT or --prompt-file FILE, or pipe a text in";

/// U+FEFF in UTF-8, at the beginning of a file: nothing of its text.
pub const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The prompt flags.
#[derive(clap::Args)]
pub struct PromptArgs {
    /// The prompt: a question for a chat model, for others a text to continue
    #[arg(
        short,
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "prompt_file"
    )]
    pub prompt: Option<String>,
    /// Continue a file; `-` is stdin, and a text that is piped in needs no flag
    #[arg(short = 'f', long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Take the text of --prompt as the beginning of a file to continue, also for a chat model
    #[arg(long, conflicts_with = "ask")]
    complete: bool,
    /// Take the text of a file or a pipe as a question
    #[arg(long)]
    ask: bool,
    /// Take the names of special tokens (<|im_end|> …) in a file or a pipe for those tokens, as in
    /// --prompt; in a chat template they are text
    #[arg(long)]
    pub special: bool,
}

/// A prompt as it was given.
pub struct Given {
    /// Never empty.
    pub text: String,
    /// Whether a chat model is to continue it, rather than to answer it.
    pub complete: bool,
    /// Whether special tokens count by their names where no template is used.
    pub special: bool,
    /// The file it is from, if it has a name.
    pub file: Option<PathBuf>,
}

impl Given {
    /// What is wanted of it.
    pub fn wish(&self, raw: bool, code: bool) -> Wish {
        match (raw, self.complete, code) {
            (true, _, _) => Wish::Raw,
            (false, true, _) => Wish::Continuation,
            (false, false, true) => Wish::Code,
            (false, false, false) => Wish::Answer,
        }
    }
}

impl PromptArgs {
    /// The prompt, from the flags or else from a pipe; never empty.
    ///
    /// # Errors
    /// Wrong usage when there is none, when it is empty or when it is not UTF-8.
    pub fn read(&self) -> anyhow::Result<Given> {
        let file = self
            .prompt_file
            .as_deref()
            .filter(|path| *path != Path::new("-"));
        let (text, source) = match (&self.prompt, file) {
            (Some(text), _) => (text.clone(), "--prompt".to_string()),
            (None, Some(path)) => {
                let bytes = fs::read(path)
                    .with_context(|| format!("cannot read --prompt-file {}", path.display()))?;
                let source = format!("--prompt-file {}", path.display());
                (utf8(bytes, &source)?, source)
            }
            (None, None) => {
                if self.prompt_file.is_none() && io::stdin().is_terminal() {
                    return Err(UsageError::with_hint("no prompt", HOW_TO_GIVE_ONE).into());
                }
                (utf8(stdin()?, "stdin")?, "stdin".to_string())
            }
        };
        if text.is_empty() {
            let message = format!("the prompt from {source} is empty");
            return Err(UsageError::with_hint(message, HOW_TO_GIVE_ONE).into());
        }
        Ok(Given {
            text,
            special: self.special || self.prompt.is_some(),
            complete: self.complete || (self.prompt.is_none() && !self.ask),
            file: file.map(Path::to_path_buf),
        })
    }
}

/// All of stdin. It is kept: a command that begins again without a default asks for it again.
pub fn stdin() -> anyhow::Result<Vec<u8>> {
    static READ: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(bytes) = READ.get() {
        return Ok(bytes.clone());
    }
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.context("cannot read stdin")?;
    Ok(READ.get_or_init(|| bytes).clone())
}

/// The text of a file, without the mark that some editors put in front.
fn utf8(mut bytes: Vec<u8>, source: &str) -> Result<String, UsageError> {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        UsageError::new(format!(
            "the prompt from {source} is not UTF-8 (byte {place})"
        ))
    })
}
