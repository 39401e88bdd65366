//! `diffucoder generate`: a prompt in, code out.

use diffucoder::session::Task;
use diffucoder::session::asking::Asking;

use crate::cli::args::check::CheckArgs;
use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::prompt::PromptArgs;
use crate::cli::args::sampling::{SamplingArgs, as_usage};
use crate::cli::args::shown::ShownArgs;
use crate::cli::args::values::{Output, at_least_one};
use crate::cli::json::Report;
use crate::cli::runner::{Runner, Shown};
use crate::cli::terminal::ui::{self, Ui, Written};

/// Flags of `generate`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  diffucoder generate --model tiny --prompt \"def is_valid(value):\" -n 48
  cat start.py | diffucoder generate --model diffucoder-base >> start.py
  diffucoder generate --model tiny --prompt \"def f(x):\" --output json | jq .usage
  diffucoder generate --model tiny --prompt \"class Stack:\" --watch
  diffucoder generate --model tiny --prompt \"class Stack:\" --trace run.jsonl

Keys of --output json, one object a line:
  text           up to the first stop token
  token_ids      all of the canvas; the mask's id where nothing was revealed
  reveal_step    the step that revealed each of them, from 0, or null
  finish_reason  stop, or length where the canvas was too short
  usage          prompt_tokens, completion_tokens, canvas_tokens, forwards, rows (positions
                 that went through the network: the measure of work), tokens_per_forward
  timing         load_s, generate_s, tokens_per_s
  parses         with --check: whether it does
  model          what was run
  settings       how, the seed included

Lines of --trace: a header (model, settings, prompt, and texts given between holes), one for
each step (positions from the first mask on, tokens, texts, confidences, surest first), and an
end.

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
    #[command(flatten)]
    shown: ShownArgs,
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

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    sampling.check()?;
    let given = args.prompt.read()?;
    let check = args.check.check(given.file.as_deref())?;
    let language = args.check.language(given.file.as_deref());
    let is_one = args.num_samples == 1 && check.retries() == 0;
    args.shown.check(ui, is_one, &["num-samples", "retries"])?;
    let engine = args.compute.open(&args.model, ui)?;
    let wish = given.wish(args.raw, args.code);
    let package = engine.session.package();
    let spells_token = package.tokenizer.is_spelt_in(&given.text);
    let asking = Asking::new(package, given.text, wish, &language);
    let asking = match given.special {
        true => asking.with_special_tokens(),
        false => asking,
    };
    if args.prompt.special && asking.is_chat() {
        ui.note("--special does nothing in the chat template: tokens in the text stay text");
    } else if spells_token && !given.special && !asking.is_chat() {
        ui.note("special tokens in the text are taken as text; --special makes tokens of them");
    }
    if asking.is_continued_in_chat() {
        ui.status("continuing the given text as a file; --ask takes it as a question");
    }
    let prompt = asking.prompt(&args.system);
    let task = Task::answer(prompt, sampling.hole());
    let mut job = engine.session.prepare(&task).map_err(as_usage)?;
    job.settings = sampling.settings(&engine.session, &job)?;
    check.check_chance(&job.settings)?;
    let mut seed = job.settings.seed;
    let shown = Shown {
        args: &args.shown,
        system: prompt.system(),
    };
    let mut runner = Runner::load(engine, job, shown, ui)?;

    let mut first_problem = None;
    for sample in 0..args.num_samples {
        let draw = |seed: u64| {
            let outcome = runner.draw(seed)?;
            let text = asking.result(&outcome.text()).to_string();
            let code = [asking.before.as_bytes(), text.as_bytes()].concat();
            Ok(((outcome, text), code))
        };
        let ((outcome, text), problem) =
            check.until_it_parses(&mut seed, draw, |text| ui.note(text))?;
        let written = ui.one_of_many(&match args.output {
            Output::Text => args.separated(&text, sample, seed),
            Output::Json => {
                let mut run = runner.report(&outcome);
                run.parses = check.is_on().then_some(problem.is_none());
                format!(
                    "{}\n",
                    serde_json::to_string(&Report::new(&text, &outcome, run))?
                )
            }
        })?;
        runner.end(&text, &outcome)?;
        runner.status(&ui::count(outcome.tokens(), "token"), &outcome);
        seed = seed.wrapping_add(1);
        first_problem = first_problem.or(problem);
        if written == Written::Closed {
            break;
        }
    }
    first_problem.map_or(Ok(()), |problem| Err(problem.into()))
}

impl Args {
    /// One of several texts gets a line above that tells it from the others, as in `head`.
    fn separated(&self, text: &str, sample: usize, seed: u64) -> String {
        if self.num_samples == 1 {
            return text.to_string();
        }
        let blank = if sample > 0 { "\n" } else { "" };
        let end = if text.ends_with('\n') { "" } else { "\n" };
        format!(
            "{blank}==> {} of {}, seed {seed} <==\n{text}{end}",
            sample + 1,
            self.num_samples
        )
    }
}
