//! The command line: clap types, one file a command, and the exit codes.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

mod download;
mod engine;
mod generate;
mod models;
mod prompt;
mod quantize;
mod report;
mod sampling;
mod ui;
mod values;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::hub::registry::DEFAULT_ALIAS;
use crate::hub::{HubOptions, ModelSpec};
use ui::Ui;

/// Write code with a masked-diffusion language model on your own machine
///
/// A canvas of masks is filled in parallel, in the order the model is surest of. The text goes to
/// stdout and nothing else does.
#[derive(Parser)]
#[command(
    name = "diffucoder",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Try it now, offline: diffucoder generate --model tiny --prompt \"def fibonacci(n):\""
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Write the continuation of a prompt, or the answer to it
    Generate(Box<generate::Args>),
    /// List the models known by name, their sizes and licences, and what is downloaded
    Models(models::Args),
    /// Write a model as a smaller GGUF file, which loads faster and takes less memory
    Quantize(quantize::Args),
}

/// Which model, and where from.
#[derive(clap::Args)]
struct ModelArgs {
    /// An alias (see `diffucoder models`), an id on the Hugging Face Hub (owner/name), a folder or a .gguf
    /// file. An alias or id may end in the quantisation of one of its GGUF files: diffucoder:q4_k_m
    #[arg(short, long, value_name = "MODEL", default_value = DEFAULT_ALIAS, help_heading = "Model")]
    model: String,
    /// GGUF file of the model on the Hub, in any letter case
    #[arg(long, value_name = "NAME.gguf", help_heading = "Model")]
    file: Option<String>,
    /// Branch, tag or commit on the Hub [default: main]
    #[arg(long, value_name = "REVISION", help_heading = "Model")]
    revision: Option<String>,
    /// Use what is downloaded already and no network
    #[arg(long, help_heading = "Model")]
    offline: bool,
}

impl ModelArgs {
    /// Where to get the model: the flags over the environment of huggingface_hub.
    fn hub_options(&self) -> HubOptions {
        let mut options = HubOptions::from_env();
        options.revision.clone_from(&self.revision);
        options.offline |= self.offline;
        options
    }

    /// What `--model` names. A name that cannot be one is wrong usage.
    fn spec(&self) -> Result<ModelSpec, UsageError> {
        let mut spec = ModelSpec::parse(&self.model).map_err(|error| UsageError {
            message: format!("--model: {error}"),
            hint: error.hint(),
        })?;
        if let Some(file) = &self.file {
            let message = match &mut spec {
                ModelSpec::Hub(model) if model.gguf.is_none() => {
                    model.gguf = Some(file.clone());
                    return Ok(spec);
                }
                ModelSpec::Hub(_) => format!("--file and --model {} name two files", self.model),
                _ => format!(
                    "--file is for models on the Hub, which {} is not",
                    self.model
                ),
            };
            return Err(UsageError::new(message));
        }
        if self.revision.is_some() && !matches!(spec, ModelSpec::Hub(_)) {
            let message = format!(
                "--revision is for models on the Hub, which {} is not",
                self.model
            );
            return Err(UsageError::new(message));
        }
        Ok(spec)
    }
}

/// Wrong usage that clap cannot see: exits with 2.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct UsageError {
    message: String,
    hint: Option<String>,
}

impl UsageError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let usage = error.downcast_ref::<UsageError>();
            let hint = match usage {
                Some(usage) => usage.hint.clone(),
                None => error
                    .downcast_ref::<crate::Error>()
                    .and_then(crate::Error::hint),
            };
            ui::print_error(&error, hint.as_deref());
            ExitCode::from(if usage.is_some() { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    ui::exit_on_interrupt()?;
    let ui = Ui::new(cli.quiet);
    match cli.command {
        Command::Generate(args) => generate::run(&args, &ui),
        Command::Models(args) => models::run(&args, &ui),
        Command::Quantize(args) => quantize::run(&args, &ui),
    }
}
