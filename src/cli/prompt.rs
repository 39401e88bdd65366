//! Where the prompt comes from: a flag, a file or a pipe.

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::UsageError;

/// The prompt flags, of which one at most is given.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct PromptArgs {
    /// The prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Read the prompt from a file; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt, from the flags or else from a pipe; never empty.
    ///
    /// # Errors
    /// Wrong usage when there is none, when it is empty or when it is not UTF-8.
    pub fn read(&self) -> anyhow::Result<String> {
        let (text, source) = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => (text.clone(), "--prompt".to_string()),
            (None, Some(path)) if path != Path::new("-") => {
                let bytes = fs::read(path)
                    .with_context(|| format!("cannot read --prompt-file {}", path.display()))?;
                let source = format!("--prompt-file {}", path.display());
                (utf8(bytes, &source)?, source)
            }
            (None, file) => {
                if file.is_none() && io::stdin().is_terminal() {
                    return Err(UsageError::with_hint(
                        "no prompt",
                        "give --prompt TEXT or --prompt-file FILE, or pipe a text in",
                    )
                    .into());
                }
                let mut bytes = Vec::new();
                io::stdin()
                    .read_to_end(&mut bytes)
                    .context("cannot read stdin")?;
                (utf8(bytes, "stdin")?, "stdin".to_string())
            }
        };
        if text.is_empty() {
            return Err(UsageError::with_hint(
                format!("the prompt from {source} is empty"),
                "give --prompt TEXT or --prompt-file FILE, or pipe a text in",
            )
            .into());
        }
        Ok(text)
    }
}

fn utf8(bytes: Vec<u8>, source: &str) -> Result<String, UsageError> {
    String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        UsageError::new(format!(
            "the prompt from {source} is not UTF-8 (byte {place})"
        ))
    })
}
