//! What is drawn and recorded of a run: the flags of every command that runs one.

use std::path::{Path, PathBuf};

use crate::cli::args::apart::check_apart;
use crate::cli::terminal::progress;
use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;

#[derive(clap::Args)]
pub struct ShownArgs {
    /// Draw the canvas on the terminal while it fills
    #[arg(long)]
    pub watch: bool,
    /// Record every step in a file, as JSON lines; `diffucoder report` makes a page of it
    #[arg(long, value_name = "FILE.jsonl")]
    pub trace: Option<PathBuf>,
}

impl ShownArgs {
    /// Checks that neither the result nor the trace replaces a file that is read, or the other.
    ///
    /// # Errors
    /// Wrong usage.
    pub fn check_apart(&self, read: &[&Path], result: Option<&Path>) -> Result<(), UsageError> {
        let written: Vec<_> = result.into_iter().chain(self.trace.as_deref()).collect();
        check_apart(read, &written)
    }

    /// Wrong usage where there is no terminal to draw on, or where more than the one run that a
    /// trace holds could be recorded: `flags` are those that ask for more.
    pub fn check(&self, ui: &Ui, is_one: bool, flags: &[&'static str]) -> Result<(), UsageError> {
        if self.watch {
            progress::screen(ui)?;
        }
        let Some(trace) = &self.trace else {
            return Ok(());
        };
        if trace == Path::new("-") {
            let message = "--trace writes a file, and `-` is none";
            return Err(UsageError::with_hint(message, "--trace run.jsonl").about(&["trace"]));
        }
        if is_one {
            return Ok(());
        }
        let names: Vec<String> = flags.iter().map(|flag| format!("--{flag}")).collect();
        let message = format!(
            "--trace records one run, not those of {}",
            names.join(" or ")
        );
        Err(UsageError::new(message).about(&["trace"]).about(flags))
    }
}
