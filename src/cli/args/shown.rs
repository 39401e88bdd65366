//! What is drawn and recorded of a run: the flags of every command that runs one.

use std::path::PathBuf;

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
    /// Wrong usage where there is no terminal to draw on, or where more than the one run that a
    /// trace holds could be recorded: `flags` are those that ask for more.
    pub fn check(&self, ui: &Ui, is_one: bool, flags: &[&'static str]) -> Result<(), UsageError> {
        if self.watch {
            progress::screen(ui)?;
        }
        if self.trace.is_none() || is_one {
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
