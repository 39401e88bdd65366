//! What a command prints, and where to.

use std::path::{Path, PathBuf};

use diffucoder::Error;
use diffucoder::atomic;
use serde::Serialize;

use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;

/// The output flags, of every command with a result.
#[derive(clap::Args)]
pub struct OutputArgs {
    /// Write the result to this file, whole or not at all, in the place of what is there; `-` is
    /// stdout. The words json and text choose the form, as --json does
    #[arg(short, long, value_name = "FILE")]
    output: Vec<PathBuf>,
    /// Write JSON instead of text
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    /// Whether JSON is asked for, and not text.
    pub fn is_json(&self) -> bool {
        let mut words = self.output.iter().rev().filter(|value| is_word(value));
        self.json || words.next().is_some_and(|word| word == Path::new("json"))
    }

    /// The file to write, or `None`: stdout.
    pub fn file(&self) -> Option<&Path> {
        let mut places = self.output.iter().rev().filter(|value| !is_word(value));
        places
            .next()
            .map(PathBuf::as_path)
            .filter(|path| *path != Path::new("-"))
    }

    /// Finds out before the work whether the result can be written.
    ///
    /// # Errors
    /// When the file cannot be made, or stdout is closed.
    pub fn check(&self, ui: &Ui) -> anyhow::Result<()> {
        let Some(path) = self.file() else {
            return Ok(ui.check_stdout()?);
        };
        if path.is_dir() {
            let message = format!("--output {} is a folder", path.display());
            return Err(UsageError::new(message).about(&["output"]).into());
        }
        Ok(atomic::check(path, true).map_err(Error::from)?)
    }

    /// Writes the JSON of `report`, or what people are told instead.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn report(
        &self,
        report: &impl Serialize,
        text: impl FnOnce() -> String,
        ui: &Ui,
    ) -> anyhow::Result<()> {
        let text = match self.is_json() {
            true => format!("{}\n", serde_json::to_string(report)?),
            false => text(),
        };
        self.write(text.as_bytes(), ui)
    }

    /// Writes the result.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, bytes: &[u8], ui: &Ui) -> anyhow::Result<()> {
        match self.file() {
            None => Ok(ui.result(bytes)?),
            Some(path) => Ok(atomic::write(path, true, bytes).map_err(Error::from)?),
        }
    }
}

fn is_word(value: &Path) -> bool {
    value == Path::new("json") || value == Path::new("text")
}
