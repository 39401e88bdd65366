//! The command line: clap types, one file a command, and what is shown of failures.

mod args;
mod commands;
mod defaults;
mod exit;
mod form;
mod habits;
mod help;
mod hints;
mod json;
mod lines;
mod runner;
mod terminal;
mod threads;
mod trace;
mod usage;

use std::mem;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use commands::{
    batch, bench, config, doctor, downloads, eval, generate, infill, licences, models, quantize,
    report, shell,
};
#[cfg(feature = "serve")]
use commands::{lsp, serve};
use defaults::Defaults;
use exit::Exit;
use terminal::signals;
use terminal::ui::{self, Ui};
use usage::UsageError;

/// Write code with a masked-diffusion language model on your own machine
///
/// A canvas of masks is filled in parallel, in the order the model is surest of. The text goes to
/// stdout and nothing else does.
#[derive(Parser)]
#[command(
    name = "diffucoder",
    bin_name = "diffucoder", // whatever the file is called: it is what hints are written with
    version,
    propagate_version = true,
    max_term_width = 100,
    args_override_self = true,
    override_usage = "diffucoder [OPTIONS] <COMMAND>\n       diffucoder [OPTIONS] \"PROMPT\""
)]
#[command(
    after_help = "Try it now, offline: diffucoder --model tiny \"def is_valid(value):\"",
    after_long_help = AFTER_LONG_HELP
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result and errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Read defaults of flags from this file [default: diffucoder/config.toml in the user's folder
    /// for configuration]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The style of the pages that commands make.
const LOOK: &str = include_str!("look.css");

const AFTER_LONG_HELP: &str = "Try it now, offline:
  diffucoder --model tiny \"def is_valid(value):\"
  cat start.py | diffucoder generate --model tiny -n 64 >> start.py
With a model that answers questions:
  diffucoder pull diffucoder:q4_k_m
  cat f.py | diffucoder --model diffucoder:q4_k_m \"Explain this\"
A prompt without a command is for `generate`: `diffucoder help generate` has its flags.

Defaults of flags come from DIFFUCODER_* variables and a configuration file: see `diffucoder config --help`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 written but it does not parse (--check),
128 and the number of a signal (130 Ctrl-C).";

#[derive(Subcommand)]
enum Command {
    /// Write the continuation of a prompt, or the answer to it
    Generate(Box<generate::Args>),
    /// Fill the holes of a file from what stands on both sides of them
    Infill(Box<infill::Args>),
    /// Answer many prompts: JSON lines in, JSON lines out; an interrupted run goes on where it was
    Batch(Box<batch::Args>),
    /// Answer editors over HTTP: infilling and completion for what speaks OpenAI's, llama-server's
    /// or ollama's API
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    /// Suggest code to editors over the Language Server Protocol, on stdin and stdout
    #[cfg(feature = "serve")]
    Lsp(Box<lsp::Args>),
    /// Make a page or a picture of a trace: the denoising to replay, its order and its confidence
    Report(report::Args),
    /// List the models known by name, their sizes and licences, and what is downloaded
    Models(models::Args),
    /// Download a model and check its files, to use it later or offline
    #[command(visible_alias = "download")]
    Pull(downloads::PullArgs),
    /// List what is downloaded, and how much of the disk it takes
    #[command(visible_alias = "ls")]
    List(downloads::ListArgs),
    /// Remove downloaded models
    #[command(visible_alias = "remove", alias = "delete")]
    Rm(downloads::RmArgs),
    /// Measure how fast a model runs here, beside what this machine can do at best
    Bench(Box<bench::Args>),
    /// Measure what each mode writes with a model here, and say which one to use
    Eval(Box<eval::Args>),
    /// Write a model as a smaller GGUF file, which loads faster and takes less memory
    Quantize(quantize::Args),
    /// Show what this machine has, how fast it is, and which model suits it
    Doctor(doctor::Args),
    /// Show every setting, its value and where that came from
    Config(config::Args),
    /// Print a script that lets a shell complete commands and flags
    Completions(shell::CompletionsArgs),
    /// Print a page of the manual
    Man(shell::ManArgs),
    /// Print the licences of this program and of everything that is built into it
    #[command(visible_alias = "licenses")]
    Licences,
    /// Print the version
    Version,
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn main() -> ExitCode {
    let exit = match run() {
        Ok(()) => Exit::Done,
        Err(error) => explain(error),
    };
    exit.into()
}

/// Says what went wrong; or what was asked for, where that is the help.
fn explain(error: anyhow::Error) -> Exit {
    let said = error.downcast::<clap::Error>().map(|mut said| {
        habits::suggest(&mut said);
        ui::print_clap(&said)
    });
    let error = match said {
        Ok(Ok(exit)) => return exit,
        Ok(Err(unwritten)) => unwritten.into(),
        Err(error) => error,
    };
    if exit::is_closed_pipe(&error) {
        return Exit::Done;
    }
    let (exit, hint) = exit::of(&error);
    ui::print_error(&error, hint.as_deref());
    exit
}

fn run() -> anyhow::Result<()> {
    signals::listen()?;
    let command = habits::taking_numbers(help::flowing(Cli::command()));
    let given: Vec<_> = std::env::args_os().collect();
    let args = habits::with_command(given.clone());
    let typed = command.clone().try_get_matches_from(&args)?;
    if args != given {
        habits::check_order(&command, &typed, &given)?;
    }
    let mut defaults = Defaults::load(&command, &typed)?;
    loop {
        // The arguments say where defaults are and which of them step back, and only clap can tell
        // `--config FILE` from a prompt that looks like it: so they are parsed again, if there are
        // any.
        let matches = match defaults.is_empty() {
            true => typed.clone(),
            false => {
                let command = defaults.apply(command.clone(), &typed);
                command.try_get_matches_from(&args)?
            }
        };
        let ui = Ui::new(matches.get_flag("quiet"));
        for note in mem::take(&mut defaults.notes) {
            ui.note(&note);
        }
        let Err(error) = dispatch(&defaults, &command, &matches) else {
            return Ok(());
        };
        let error = error.downcast::<UsageError>()?;
        // Wrong usage is found before anything is written, so that the command can begin again.
        let Some(entry) = defaults.step_back(&error, &command, &typed) else {
            return Err(defaults.blame(error, &command, &typed).into());
        };
        ui.note(&format!("{entry} does not apply here: {error}"));
    }
}

fn dispatch(
    defaults: &Defaults,
    command: &clap::Command,
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    let cli = Cli::from_arg_matches(matches)?;
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let ui = Ui::new(cli.quiet);
    match cli.command {
        Command::Generate(args) => generate::run(&args, matches, &ui),
        Command::Infill(args) => infill::run(&args, matches, &ui),
        Command::Batch(args) => batch::run(&args, matches, defaults, &ui),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args, &ui),
        #[cfg(feature = "serve")]
        Command::Lsp(args) => lsp::run(args, &ui),
        Command::Report(args) => report::run(&args, &ui),
        Command::Bench(args) => bench::run(&args, &ui),
        Command::Eval(args) => eval::run(&args, defaults, &ui),
        Command::Models(args) => models::run(&args, &ui),
        Command::Pull(args) => downloads::pull(&args, &ui),
        Command::List(args) => downloads::list(&args, &ui),
        Command::Rm(args) => downloads::rm(&args, &ui),
        Command::Quantize(args) => quantize::run(&args, &ui),
        Command::Doctor(args) => doctor::run(&args, &ui),
        Command::Config(args) => config::run(&args, command, defaults, &ui),
        Command::Completions(args) => shell::completions(&args, command.clone(), &ui),
        Command::Man(args) => shell::man(&args, command.clone(), &ui),
        Command::Licences => licences::run(&ui),
        Command::Version => Ok(ui.result(command.render_version())?),
    }
}
