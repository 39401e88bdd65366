//! `diffucoder generate`: a prompt in, code out.

use std::path::PathBuf;

use crate::cli::answer::Request;
use crate::cli::args::check::CheckArgs;
use crate::cli::args::compute::{ComputeArgs, Opened};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::prompt::PromptArgs;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::values::{Output, at_least_one};
use crate::cli::code;
use crate::cli::terminal::progress::{self, Observers, Progress};
use crate::cli::terminal::ui::{self, Ui, Written};
use crate::cli::trace::TraceFile;
use crate::cli::usage::UsageError;
use diffucoder::diffusion::Settings;

/// Flags of `generate`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  diffucoder generate --model tiny --prompt \"def is_valid(value):\" -n 48
  cat start.py | diffucoder generate --model diffucoder-base >> start.py
  diffucoder generate --model tiny --prompt \"def f(x):\" --output json | jq .usage
  diffucoder generate --model tiny --prompt \"class Stack:\" --watch
  diffucoder generate --model tiny --prompt \"class Stack:\" --trace run.jsonl

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 it does not parse (--check), 130 interrupted.")]
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
    /// Record every step in a file, as JSON lines; `diffucoder report` makes a page of it
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,
    /// Draw the canvas on the terminal while it fills
    #[arg(long)]
    watch: bool,
    /// Write this many texts, with the seeds that follow --seed
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    num_samples: usize,

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
    sampling.check()?;
    let given = args.prompt.read()?;
    let check = args.check.check(given.file.as_deref())?;
    let language = args.check.language(given.file.as_deref());
    if args.watch {
        progress::screen(ui)?;
    }
    if args.trace.is_some() && (args.num_samples > 1 || check.retries() > 0) {
        let message = "--trace records one run, not those of --num-samples or --retries";
        return Err(UsageError::new(message).into());
    }
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let package = &opened.package;
    let asked = code::Request::new(package, given, args.raw, args.code, &language);
    if asked.is_continued_in_chat() {
        ui.status("continuing the given text as a file; --ask takes it as a question");
    }
    let mut request = Request::new(package, asked.prompt(&args.system), sampling)?;
    check.check_chance(&request.settings)?;
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut engine = opened.load(ui)?;

    let (package, target) = (&engine.package, &engine.target);
    let mut recorder = trace
        .map(|file| request.record(file, package, target))
        .transpose()?;
    let mut seeds = request.settings.clone();
    let mut first_problem = None;
    for sample in 0..args.num_samples {
        let draw = |settings: &Settings| {
            request.settings = settings.clone();
            let mut progress = match args.watch {
                true => Progress::watch(progress::screen(ui)?, &engine.package),
                false => Progress::bar(ui, "denoising"),
            };
            let mut observers = Observers(&mut progress, &mut recorder);
            let mut answer = request.answer(&engine.package, &mut engine.model, &mut observers)?;
            progress.finish(ui);
            answer.text = asked.result(&answer.text).to_string();
            let code = [asked.before.as_bytes(), answer.text.as_bytes()].concat();
            Ok((answer, code))
        };
        let (answer, problem) = check.until_it_parses(&mut seeds, draw, |text| ui.note(text))?;
        seeds.seed = seeds.seed.wrapping_add(1);

        let written = match args.output {
            Output::Text => ui.one_of_many(&args.separated(&answer.text, sample, &request))?,
            Output::Json => {
                let about = (&engine.package, &engine.target, engine.load_time);
                let mut report = answer.report(&request, about);
                report.parses = check.is_on().then_some(problem.is_none());
                ui.one_of_many(&format!("{}\n", serde_json::to_string(&report)?))?
            }
        };
        if let Some(recorder) = recorder.take() {
            recorder.finish(answer.end(&request))?;
        }
        ui.status(&format!(
            "{} in {} ({:.1} tokens/s) · {} over {} · seed {}",
            ui::count(answer.tokens, "token"),
            ui::human_time(answer.time),
            answer.rate(),
            ui::count(answer.generation.forwards, "forward"),
            engine.package.name(),
            request.settings.seed,
        ));
        first_problem = first_problem.or(problem);
        if written == Written::Closed {
            break;
        }
    }
    first_problem.map_or(Ok(()), |problem| Err(problem.into()))
}

impl Args {
    /// One of several texts gets a line above that tells it from the others, as in `head`.
    fn separated(&self, text: &str, sample: usize, request: &Request<'_>) -> String {
        if self.num_samples == 1 {
            return text.to_string();
        }
        let (blank, seed) = (if sample > 0 { "\n" } else { "" }, request.settings.seed);
        let end = if text.ends_with('\n') { "" } else { "\n" };
        format!(
            "{blank}==> {} of {}, seed {seed} <==\n{text}{end}",
            sample + 1,
            self.num_samples
        )
    }
}
