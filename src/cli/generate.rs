//! `diffucoder generate`: a prompt in, code out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::ModelArgs;
use super::answer::Request;
use super::engine::{ComputeArgs, Opened};
use super::prompt::PromptArgs;
use super::sampling::SamplingArgs;
use super::trace::{Recorder, TraceFile};
use super::ui::{self, Ui};
use super::values::Output;
use crate::diffusion::{Observer, Step};
use crate::package::Prompt;

/// Flags of `generate`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,

    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// The system message of the chat template
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "You are a helpful assistant."
    )]
    system: String,

    /// What to print: the text alone, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Record every step in a file, as JSON lines; `diffucoder report` makes a page of it
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
///
/// # Errors
/// Wrong usage, or any failure of the library.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    sampling.steps()?;
    let text = args.prompt.read()?;
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let package = &opened.package;
    let prompt = if args.raw {
        Prompt::Raw(&text)
    } else {
        package.prompt(&text, &args.system)
    };
    let request = Request::new(package, prompt, sampling)?;
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut engine = opened.load(ui)?;

    let (package, target) = (&engine.package, &engine.target);
    let mut recorder = trace
        .map(|file| Recorder::start(file, &request, package, target))
        .transpose()?;
    let mut progress = StepProgress {
        bar: ui.step_bar("denoising", request.settings.steps as u64),
        started: Instant::now(),
    };
    let mut observers = Observers(&mut progress, &mut recorder);
    let answer = request.answer(package, &mut engine.model, &mut observers)?;
    progress.bar.finish_and_clear();

    match args.output {
        Output::Text => ui.result(&answer.text)?,
        Output::Json => {
            let report = serde_json::to_string(&answer.report(&request, &engine))?;
            ui.result(&format!("{report}\n"))?;
        }
    }
    if let Some(recorder) = recorder {
        recorder.finish(&request, &answer)?;
    }
    ui.status(&format!(
        "{} tokens in {} ({:.1} tokens/s) · {} forwards over {} · seed {}",
        answer.tokens,
        ui::human_time(answer.time),
        answer.rate(),
        answer.generation.forwards,
        engine.package.name(),
        request.settings.seed,
    ));
    Ok(())
}

/// Two observers as one, of which the second may be absent.
struct Observers<'a, A, B>(&'a mut A, &'a mut Option<B>);

impl<A: Observer, B: Observer> Observer for Observers<'_, A, B> {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.on_step(step);
        if let Some(second) = self.1 {
            second.on_step(step);
        }
    }
}

/// Shows how far the denoising is.
struct StepProgress {
    bar: ProgressBar,
    started: Instant,
}

impl Observer for StepProgress {
    fn on_step(&mut self, step: &Step<'_>) {
        let revealed = step.canvas.reveal_step().iter().flatten().count();
        let rate = revealed as f64
            / self
                .started
                .elapsed()
                .max(Duration::from_millis(1))
                .as_secs_f64();
        self.bar.set_position(step.index as u64 + 1);
        self.bar.set_message(format!(
            "· {revealed}/{} tokens · {rate:.1} tokens/s",
            step.canvas.generated().len()
        ));
    }
}
