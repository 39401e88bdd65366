//! `diffucoder generate`: a prompt in, code out.

use std::ops::Range;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::ModelArgs;
use super::check::CheckArgs;
use super::code::Request;
use super::engine::{ComputeArgs, Opened};
use super::prompt::PromptArgs;
use super::report::{Report, SettingsReport, Timing, Usage};
use super::sampling::{SamplingArgs, check_context};
use super::ui::{self, Ui};
use super::values::Output;
use crate::diffusion::{self, Canvas, Observer, Settings, Step};
use crate::error::Error;
use crate::tokenizer::Specials;

/// Flags of `generate`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    /// Print code alone: a chat model's answer begins inside a fence, and is cut where that ends
    #[arg(long)]
    code: bool,
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

    #[command(flatten)]
    check: CheckArgs,
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
    let given = args.prompt.read()?;
    let check = args.check.check(given.file.as_deref())?;
    let language = args.check.language(given.file.as_deref());
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let package = &opened.package;
    let request = Request::new(package, given, args.raw, args.code, &language);
    if request.is_continued_in_chat() {
        ui.status("continuing the given text as a file; --ask takes it as a question");
    }
    let prompt = request.prompt(&args.system);
    let prompt_ids = package.encode(&prompt)?;
    check_context(
        prompt_ids.len(),
        sampling.max_new_tokens,
        package.config.max_position_embeddings,
    )?;
    let mut settings = sampling.settings(package)?;
    check.check_chance(&settings)?;
    let mut engine = opened.load(ui)?;
    let package = &engine.package;

    let draw = |settings: &Settings| {
        let started = Instant::now();
        let canvas = Canvas::new(&prompt_ids, sampling.max_new_tokens, package.mask_id);
        let mut progress = StepProgress::start(ui, settings.steps);
        let done = diffusion::generate(&mut engine.model, canvas, settings, &mut progress)
            .map_err(Error::from)?;
        progress.bar.finish_and_clear();
        let stop = done.canvas.stop_at(&package.stop_ids);
        let text_len = stop.unwrap_or(sampling.max_new_tokens);
        let text_ids = &done.canvas.generated()[..text_len];
        let text = package.tokenizer.decode(text_ids, Specials::Keep);
        let text = request.result(&text).to_string();
        let code = [request.before.as_bytes(), text.as_bytes()].concat();
        let time = started.elapsed();
        Ok(((text, text_len, stop.is_some(), done, time), code))
    };
    let ((text, text_len, stops, done, generate_time), problem) =
        check.until_it_parses(&mut settings, draw, |text| ui.note(text))?;

    let rate = text_len as f64 / generate_time.as_secs_f64();
    match args.output {
        Output::Text => ui.result(&text)?,
        Output::Json => {
            let report = Report {
                text: &text,
                token_ids: done.canvas.generated(),
                reveal_step: done.canvas.reveal_step(),
                finish_reason: if stops { "stop" } else { "length" },
                usage: Usage::new(prompt_ids.len(), text_len, &done),
                parses: check.is_on().then_some(problem.is_none()),
                timing: Timing {
                    load_s: engine.load_time.as_secs_f64(),
                    generate_s: generate_time.as_secs_f64(),
                    tokens_per_s: rate,
                },
                model: package.name(),
                settings: SettingsReport::new(
                    sampling.max_new_tokens,
                    sampling.exact,
                    &settings,
                    prompt.system(),
                    &engine.target,
                ),
            };
            ui.result(&format!("{}\n", serde_json::to_string(&report)?))?;
        }
    }
    ui.status(&format!(
        "{} tokens in {} ({rate:.1} tokens/s) · {} forwards over {} · seed {}",
        text_len,
        ui::human_time(generate_time),
        done.forwards,
        package.name(),
        settings.seed,
    ));
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

/// Shows how far the denoising is.
pub struct StepProgress {
    pub bar: ProgressBar,
    started: Instant,
}

impl StepProgress {
    pub fn start(ui: &Ui, steps: usize) -> Self {
        Self {
            bar: ui.step_bar("denoising", steps as u64),
            started: Instant::now(),
        }
    }
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
            step.canvas.holes().iter().map(Range::len).sum::<usize>()
        ));
    }
}
