//! Where the prompt comes from, flags, files or a pipe, and what is to be done with it.
//!
//! A text in a file or from a pipe is continued, a prompt that is typed is a question to a chat
//! model. Where both are given the question is about the text. Models that are not chat models
//! continue whatever they get: the text with the prompt behind it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::Context;
use diffucoder::package::Package;
use diffucoder::session::asking::{Asking, Subject, Wish, question_about};
use diffucoder::text::{BYTE_ORDER_MARK, encoding, guess, lines};

use crate::cli::terminal::ui::Ui;
use crate::cli::threads;
use crate::cli::usage::UsageError;

const HOW_TO_GIVE_ONE: &str = "give a prompt, --prompt-file FILE, or pipe a text in";

/// Silence after which a person who waits is told what for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The prompt flags.
#[derive(clap::Args)]
pub struct PromptArgs {
    /// The prompt: a question for a chat model, for others a text to continue. `-` is stdin
    #[arg(value_name = "PROMPT", conflicts_with = "prompt")]
    prompt_words: Option<String>,
    /// The prompt, given by a flag
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Continue a file, or ask the prompt about it; `-` is stdin, which is read without this flag
    /// too if something is piped in. Can be given several times
    #[arg(short = 'f', long, value_name = "FILE")]
    prompt_file: Vec<PathBuf>,
    /// Take the prompt as the beginning of a file to continue, also for a chat model
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

/// A prompt as it was given; texts and prompt are not both empty.
pub struct Given {
    texts: Vec<Text>,
    prompt: Option<String>,
    complete: bool,
    ask: bool,
    /// Whether special tokens count by their names where no template is used.
    pub special: bool,
}

/// What a file or a pipe holds.
struct Text {
    file: Option<PathBuf>,
    text: String,
}

impl PromptArgs {
    /// The files that it is read from; stdin can be one without being named.
    pub fn files(&self) -> Vec<&Path> {
        let files = self.prompt_file.iter().map(PathBuf::as_path);
        files.chain([Path::new("-")]).collect()
    }

    /// The prompt, and the texts that it is about.
    ///
    /// # Errors
    /// Wrong usage when there is none, when it is empty or when it is not UTF-8.
    pub fn read(&self, ui: &Ui) -> anyhow::Result<Given> {
        let is_stdin = |text: &&String| *text == "-";
        let typed = self.prompt.as_ref().or(self.prompt_words.as_ref());
        let prompt = typed.filter(|text| !is_stdin(text)).cloned();
        let mut files: Vec<&Path> = self.prompt_file.iter().map(PathBuf::as_path).collect();
        files.extend(typed.filter(is_stdin).map(Path::new));
        check_stdin(&files)?;
        let mut texts = Vec::new();
        for file in &files {
            texts.push(Text::read(file)?);
        }
        if files.is_empty() {
            match &prompt {
                Some(_) => texts.extend(piped(ui)?),
                None if io::stdin().is_terminal() => {
                    return Err(UsageError::with_hint("no prompt", HOW_TO_GIVE_ONE).into());
                }
                None => texts.push(Text::of_stdin(stdin()?)?),
            }
        }
        let is_empty = match &prompt {
            Some(prompt) => prompt.is_empty().then(|| "the command line".to_string()),
            None => {
                let all_empty = texts.iter().all(|text| text.text.is_empty());
                texts.first().filter(|_| all_empty).map(Text::source)
            }
        };
        if let Some(source) = is_empty {
            let message = format!("the prompt from {source} is empty");
            return Err(UsageError::with_hint(message, HOW_TO_GIVE_ONE).into());
        }
        Ok(Given {
            special: self.special || texts.is_empty(),
            texts,
            prompt,
            complete: self.complete,
            ask: self.ask,
        })
    }
}

impl Given {
    /// The last file that has a name: what is written goes on there.
    pub fn file(&self) -> Option<&Path> {
        let mut files = self.texts.iter().rev().map(|text| text.file.as_deref());
        files.find(Option::is_some).flatten()
    }

    /// All of it as one text that goes on: as `cat` puts files together, and the prompt on a line
    /// of its own behind them.
    pub fn whole(&self) -> String {
        self.with_prompt(self.texts.iter().map(|text| text.text.as_str()).collect())
    }

    /// A text with the prompt behind it.
    fn with_prompt(&self, mut text: String) -> String {
        if let Some(prompt) = &self.prompt {
            if !text.is_empty() && !text.ends_with('\n') {
                let is_crlf = lines::is_crlf(text.as_bytes());
                text += if is_crlf { "\r\n" } else { "\n" };
            }
            text += prompt;
        }
        text
    }

    /// The text of which the end can stand for all: the one that a question is about, or else the
    /// whole.
    pub fn text(&self) -> String {
        match self.is_about_text() {
            true => self.texts.iter().map(|text| text.text.as_str()).collect(),
            false => self.whole(),
        }
    }

    /// Whether nothing is given but a question.
    pub fn is_question_alone(&self) -> bool {
        self.texts.is_empty() && self.is_question()
    }

    /// Whether it is a text and a prompt about it.
    pub fn is_about_text(&self) -> bool {
        !self.texts.is_empty() && self.prompt.is_some() && !self.complete
    }

    /// Whether something is given that a chat model would answer.
    fn is_question(&self) -> bool {
        !self.complete && (self.prompt.is_some() || self.ask)
    }

    /// What the model is asked, in `language`, with `shown` of [`Self::text`], its end.
    pub fn asking(
        &self,
        shown: &str,
        package: &Package,
        (raw, code): (bool, bool),
        language: &str,
    ) -> Asking {
        let wish = match (raw, self.is_question(), code) {
            (true, _, _) => Wish::Raw,
            (false, false, _) => Wish::Continuation,
            (false, true, true) => Wish::Code,
            (false, true, false) => Wish::Answer,
        };
        let text = match &self.prompt {
            Some(prompt) if self.is_about_text() && package.is_chat() && !raw => {
                self.question_about_texts(shown.len(), prompt)
            }
            Some(_) if self.is_about_text() => self.with_prompt(shown.to_string()),
            _ => shown.to_string(),
        };
        let asking = Asking::new(package, text, wish, language);
        match self.special {
            true => asking.with_special_tokens(),
            false => asking,
        }
    }

    /// The question, with the last `bytes` of the texts that it is about.
    fn question_about_texts(&self, bytes: usize, question: &str) -> String {
        let all: usize = self.texts.iter().map(|text| text.text.len()).sum();
        let mut left_out = all - bytes;
        let mut shown = Vec::new();
        for text in &self.texts {
            let cut = left_out.min(text.text.len());
            left_out -= cut;
            if cut < text.text.len() || text.text.is_empty() {
                shown.push((text, &text.text[cut..]));
            }
        }
        let named = |(text, _): &(&Text, _)| {
            let name = text.file.as_deref().filter(|_| self.texts.len() > 1);
            let language = guess::fence_word(text.file.as_deref(), &text.text);
            (name.map(|name| name.display().to_string()), language)
        };
        let named: Vec<_> = shown.iter().map(named).collect();
        let subjects = shown.iter().zip(&named);
        let subjects = subjects.map(|(&(_, text), (name, language))| Subject {
            name: name.as_deref(),
            language: language.as_deref().unwrap_or_default(),
            text,
        });
        question_about(&subjects.collect::<Vec<_>>(), question)
    }
}

impl Text {
    fn read(path: &Path) -> anyhow::Result<Self> {
        if is_dash(path) {
            return Ok(Self::of_stdin(stdin()?)?);
        }
        let bytes = fs::read(path)
            .with_context(|| format!("cannot read --prompt-file {}", path.display()))?;
        let mut text = Self {
            file: Some(path.to_path_buf()),
            text: String::new(),
        };
        text.text = utf8(bytes, &text.source())?;
        Ok(text)
    }

    fn of_stdin(bytes: Vec<u8>) -> Result<Self, UsageError> {
        let text = utf8(bytes, "stdin")?;
        Ok(Self { file: None, text })
    }

    /// Where it is from, for a person.
    fn source(&self) -> String {
        match &self.file {
            Some(file) => format!("--prompt-file {}", file.display()),
            None => "stdin".into(),
        }
    }
}

/// Refuses files of which stdin is more than one.
pub fn check_stdin(files: &[&Path]) -> Result<(), UsageError> {
    match files.iter().filter(|file| is_dash(file)).count() {
        0 | 1 => Ok(()),
        _ => Err(UsageError::new(
            "`-` is given twice, but there is one stdin",
        )),
    }
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == OsStr::new("-")
}

/// What is piped in beside a prompt, unless that is nothing.
fn piped(ui: &Ui) -> anyhow::Result<Option<Text>> {
    match stdin_kind() {
        _ if READ.get().is_some() => {}
        Stdin::None => return Ok(None),
        Stdin::Shared => {
            ui.note("stdin is being read by something else, and left alone; `-f -` reads the rest");
            return Ok(None);
        }
        Stdin::Text => {}
    }
    let (sender, receiver) = mpsc::channel();
    threads::start(move || sender.send(stdin()))?;
    let bytes = match receiver.recv_timeout(PATIENCE) {
        Ok(bytes) => bytes,
        Err(_) => {
            ui.note("waiting for the text on stdin to end; with </dev/null there is none");
            receiver.recv().context("cannot read stdin")?
        }
    };
    let text = Text::of_stdin(bytes?)?;
    Ok(Some(text).filter(|text| !text.text.trim().is_empty()))
}

/// What stdin is, for a command that can do without it.
#[cfg_attr(not(unix), allow(dead_code))] // only there can a file be seen to be shared
enum Stdin {
    /// A terminal, the null device or closed.
    None,
    /// A file that somebody has read a part of, such as a loop over its lines.
    Shared,
    Text,
}

#[cfg(unix)]
fn stdin_kind() -> Stdin {
    use std::io::Seek;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileTypeExt;

    let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() else {
        return Stdin::None;
    };
    let mut stdin = fs::File::from(stdin);
    let Ok(about) = stdin.metadata() else {
        return Stdin::None;
    };
    match (about.file_type(), stdin.stream_position()) {
        (kind, _) if kind.is_char_device() => Stdin::None,
        (kind, Ok(at)) if kind.is_file() && at >= about.len() => Stdin::None,
        (kind, Ok(at)) if kind.is_file() && at > 0 => Stdin::Shared,
        _ => Stdin::Text,
    }
}

#[cfg(not(unix))]
fn stdin_kind() -> Stdin {
    match io::stdin().is_terminal() {
        true => Stdin::None,
        false => Stdin::Text,
    }
}

/// What was read of stdin.
static READ: OnceLock<Vec<u8>> = OnceLock::new();

/// All of stdin, which is kept for those who ask again.
pub fn stdin() -> anyhow::Result<Vec<u8>> {
    if let Some(bytes) = READ.get() {
        return Ok(bytes.clone());
    }
    let mut bytes = Vec::new();
    let read = io::stdin().read_to_end(&mut bytes);
    read.context("cannot read stdin")?;
    Ok(READ.get_or_init(|| bytes).clone())
}

/// Wrong usage if a text is in UTF-16 or UTF-32.
pub fn check_encoding(text: &[u8], source: &str) -> Result<(), UsageError> {
    encoding::wide(text).map_or(Ok(()), |encoding| {
        let message = format!("{source} is in {encoding}, and only UTF-8 and its like are read");
        let hint = format!("iconv -f {encoding} -t UTF-8 makes that of it");
        Err(UsageError::with_hint(message, hint))
    })
}

/// The text of a file, without the mark that some editors put in front.
fn utf8(mut bytes: Vec<u8>, source: &str) -> Result<String, UsageError> {
    check_encoding(&bytes, source)?;
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
