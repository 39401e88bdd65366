//! `diffucoder generate`: a prompt in, code out.

use clap::{ArgMatches, ValueEnum};
use diffucoder::infill::Template;
use diffucoder::package::Package;
use diffucoder::session::asking::Asking;
use diffucoder::session::{Ends, Function, Hole, Job, Session};
use diffucoder::text::lines;

use crate::cli::args::check::{Check, CheckArgs};
use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::output::OutputArgs;
use crate::cli::args::prompt::{Given, PromptArgs};
use crate::cli::args::sampling::{SamplingArgs, USUAL_TOKENS, as_usage};
use crate::cli::args::shown::ShownArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::defaults::layers::is_typed;
use crate::cli::form::Form;
use crate::cli::json::Report;
use crate::cli::runner::Runner;
use crate::cli::terminal::stream::Stream;
use crate::cli::terminal::ui::{self, Ui, Written};
use crate::cli::usage::UsageError;

/// Flags of `generate`.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  diffucoder generate --model tiny \"def is_valid(value):\" --stop-after function
  cat start.py | diffucoder generate --model diffucoder-base >> start.py
  cat f.py | diffucoder generate \"Explain this\"
  diffucoder generate -f f.py -f test_f.py \"Why does it fail?\" -o answer.md
  diffucoder generate --model tiny \"def area(r):\" --suffix \"print(area(2))\"
  diffucoder generate --model tiny --prompt \"def f(x):\" --json | jq .usage
  diffucoder generate --model tiny --prompt \"class Stack:\" --watch
  diffucoder generate --model tiny --prompt \"class Stack:\" --trace run.jsonl

What is piped in is read beside a prompt too, to its end: give </dev/null to a command that shares
its stdin with others, as in a loop of `while read`. (A file that such a loop has begun to read is
left alone, and so is stdin where -f names the text.) A chat model gets each text in a fence, and the
prompt behind them as the question; other models continue the text, with the prompt behind it.
Texts without a prompt are continued as one, as `cat` puts them together.

Keys of --json, one object a line:
  text           up to the first stop token
  token_ids      all of the canvas; the mask's id where nothing was revealed
  reveal_step    the step that revealed each of them, from 0, or null
  finish_reason  stop (the model's, or --stop), or length: the canvas was full
  usage          prompt_tokens, completion_tokens, canvas_tokens, forwards, rows
                 (positions that went through the network: the measure of work),
                 tokens_per_forward
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
    /// Write what belongs between the prompt and TEXT
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(conflicts_with_all = ["code", "ask"])]
    suffix: Option<String>,
    /// End the text before TEXT comes in it; can be given several times (the end of a line is
    /// $'\n' in most shells)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = not_empty)]
    stop: Vec<String>,
    /// End the text after one function, before the line that begins something new at the left of
    /// it. For python, rust, go, javascript, typescript, kotlin, swift, ruby, php and lua
    #[arg(long, value_name = "WHAT", value_enum)]
    stop_after: Option<StopAfter>,
    /// Print code alone: a chat model's answer begins inside a fence, and is cut where that ends
    #[arg(long, alias = "extract")]
    code: bool,
    #[command(flatten)]
    model: ModelArgs,

    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with_all = ["system", "code", "ask"])]
    raw: bool,
    /// The system message of the chat template [default: what the model's authors send]
    #[arg(long, alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    output: OutputArgs,
    /// Print the text once it is whole, rather than as it is decided
    #[arg(long)]
    no_stream: bool,
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

/// What a text ends behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StopAfter {
    /// the one that the prompt has begun, or else the first
    Function,
}

fn not_empty(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("must not be empty".into()),
        false => Ok(text.to_string()),
    }
}

/// Runs the command; `matches` tells what was typed.
pub fn run(args: &Args, matches: &ArgMatches, ui: &Ui) -> anyhow::Result<()> {
    let sampling = &args.sampling;
    sampling.check()?;
    args.output.check(ui)?;
    let given = args.prompt.read(ui)?;
    let whole = given.whole();
    let check = args.check.check(given.file(), &whole)?;
    let language = args.check.language(given.file(), &whole);
    let is_one = args.num_samples == 1 && check.retries() == 0;
    args.shown.check(ui, is_one, &["num-samples", "retries"])?;
    let read = args.prompt.files();
    args.shown.check_apart(&read, args.output.file())?;
    if let Some(temperature) = sampling.wild_temperature() {
        ui.note(&format!(
            "at --temperature {temperature} tokens are nearly random (--threads counts threads)"
        ));
    }
    let engine = args.compute.open(&args.model, ui)?;
    let hole = args.hole(matches, &engine.session);
    let (form, mut job) = args.prepare(&given, &whole, (hole, &language), &engine.session)?;
    let package = engine.session.package();
    args.note_what_is_vain(matches, &given, package, ui);
    if let Form::Answer(asking) = &form {
        args.note_how_it_is_read(asking, &given, package, ui);
    }
    for note in sampling.context_notes(&engine.session, &job) {
        ui.note(&note);
    }
    job.settings = sampling.settings(&engine.session, &job)?;
    job.ends = args.ends(&form, &language)?;
    check.check_chance(&job.settings)?;
    let first_seed = job.settings.seed;
    let asked = (job, form.system(args.system.as_deref()));
    let mut runner = Runner::load(engine, asked, &args.shown, ui)?;
    args.draw_all(&form, (&check, first_seed), &mut runner, ui)
}

impl Args {
    /// The text behind the hole, if there is one.
    fn suffix(&self) -> Option<&str> {
        self.suffix.as_deref().filter(|suffix| !suffix.is_empty())
    }

    /// Where the text goes: the model chooses its length where something follows.
    fn hole(&self, matches: &ArgMatches, session: &Session) -> Hole {
        if self.suffix().is_none() {
            return self.sampling.hole();
        }
        match self.sampling.asked_tokens(matches, USUAL_TOKENS) {
            Some(_) => self.sampling.open_hole(session),
            None => session.open_hole(session.usual_hole()),
        }
    }

    /// Where the text goes, and the job of it. Of a text that is longer than the context the end is
    /// shown; a question is taken whole.
    fn prepare(
        &self,
        given: &Given,
        whole: &str,
        (hole, language): (Hole, &str),
        session: &Session,
    ) -> anyhow::Result<(Form, Job)> {
        let (context, package) = (self.sampling.context(), session.package());
        let system = self.system.as_deref();
        let prepare =
            |form: &Form| session.prepare(&form.task(hole, system, session).within(context));
        if let Some(suffix) = self.suffix() {
            let form = Form::Fill(Template::between(whole.as_bytes(), suffix.as_bytes()));
            let job = prepare(&form).map_err(as_usage)?;
            return Ok((form, job));
        }
        let asking = |text: &str| given.asking(text, package, (self.raw, self.code), language);
        let prepare = |text| prepare(&Form::Answer(asking(text)));
        let text = given.text();
        let is_whole = package.is_chat() && !self.raw && given.is_question_alone();
        let fitted = match is_whole {
            true => prepare(&text).map(|job| (job, &*text)),
            false => session.fit(&text, context, prepare),
        };
        let (job, shown) = fitted.map_err(as_usage)?;
        let mut asking = asking(shown);
        if !asking.before.is_empty() {
            asking.stands_behind(whole);
        }
        Ok((Form::Answer(asking), job))
    }

    /// Says how a text is read that can be read in other ways.
    fn note_how_it_is_read(&self, asking: &Asking, given: &Given, package: &Package, ui: &Ui) {
        if asking.is_continued_in_chat() {
            ui.status("continuing the given text as a file; --ask takes it as a question");
        }
        let is_spelt = || package.tokenizer.is_spelt_in(&asking.before);
        if self.prompt.special && asking.is_chat() {
            ui.note("--special does nothing in the chat template: tokens in the text stay text");
        } else if !asking.is_chat() && !given.special && is_spelt() {
            ui.note("special tokens in the text are taken as text; --special makes tokens of them");
        }
    }

    /// What ends the text, beside the model.
    fn ends(&self, form: &Form, language: &str) -> Result<Ends, UsageError> {
        // What stands before the text in its file, as the model reads it.
        let (before, fence) = match form {
            Form::Answer(asking) => (lines::to_lf(&asking.before), asking.fence().cloned()),
            Form::Fill(template) => (template.texts().swap_remove(0).into(), None),
        };
        let of_language = || {
            Function::of_language(language, &before).ok_or_else(|| {
                UsageError::with_hint(
                    format!("--stop-after function cannot tell where functions of {language} end"),
                    "--language names another language, --stop TEXT ends the text before that",
                )
                .about(&["stop-after", "language"])
            })
        };
        let stops = self.stop.iter();
        Ok(Ends {
            texts: stops.map(|stop| lines::to_lf(stop).into_owned()).collect(),
            function: self.stop_after.map(|_| of_language()).transpose()?,
            fence,
            ..Ends::default()
        })
    }

    /// Says which of the flags that were typed this model, or this task, has no use for.
    fn note_what_is_vain(&self, matches: &ArgMatches, given: &Given, package: &Package, ui: &Ui) {
        let (name, is_chat) = (package.name(), package.is_chat());
        let reason = match (is_chat, self.suffix()) {
            (false, _) => format!("{name} is no chat model"),
            (true, Some(_)) => "a text between two others is no answer".to_string(),
            (true, None) => return,
        };
        for flag in ["system", "ask", "code"] {
            if is_typed(matches, flag) {
                ui.note(&format!("--{flag} has no effect: {reason}"));
            }
        }
        if given.is_about_text() && !self.raw && !is_chat {
            ui.note(&format!(
                "{reason}: the prompt follows the text, and what is written follows both"
            ));
        }
    }

    /// Draws as many texts as are asked for, with the seeds from `seed` on, and puts them out.
    fn draw_all(
        &self,
        form: &Form,
        (check, mut seed): (&Check, u64),
        runner: &mut Runner<'_>,
        ui: &Ui,
    ) -> anyhow::Result<()> {
        let is_streamed = self.is_streamed() && !check.is_on();
        let mut stream = match form {
            Form::Answer(asking) if is_streamed => Some(Stream::new(ui, asking)),
            _ => None,
        };
        let (mut first_problem, mut for_file) = (None, Vec::new());
        for sample in 0..self.num_samples {
            let draw = |seed: u64| {
                let outcome = runner.draw(seed, stream.as_mut())?;
                let text = form.result(&outcome.text()).into_owned();
                let code = form.whole(&text);
                Ok(((outcome, text), code.into_bytes()))
            };
            let ((outcome, text), problem) =
                check.until_it_parses(&mut seed, draw, |text| ui.note(text))?;
            let printed = match self.output.is_json() {
                false => self.separated(&text, sample, seed),
                true => {
                    let mut run = runner.report(&outcome);
                    run.parses = check.is_on().then_some(problem.is_none());
                    format!(
                        "{}\n",
                        serde_json::to_string(&Report::new(&text, &outcome, run))?
                    )
                }
            };
            let written = match (stream.take(), self.output.file()) {
                (Some(stream), _) => stream.finish(&printed)?,
                (None, None) => ui.one_of_many(&printed)?,
                (None, Some(_)) => {
                    for_file.extend(printed.bytes());
                    Written::Whole
                }
            };
            runner.end(&text, &outcome)?;
            runner.status(&ui::count(outcome.tokens(), "token"), &outcome);
            seed = seed.wrapping_add(1);
            first_problem = first_problem.or(problem);
            if written == Written::Closed {
                break;
            }
        }
        if self.output.file().is_some() {
            self.output.write(&for_file, ui)?;
        }
        first_problem.map_or(Ok(()), |problem| Err(problem.into()))
    }

    /// Whether the text is printed as it is decided, as far as the flags say so: one text, nothing
    /// that is known only of the whole, and no canvas in its place.
    fn is_streamed(&self) -> bool {
        let to_stdout = !self.output.is_json() && self.output.file().is_none();
        !self.no_stream && to_stdout && self.num_samples == 1 && !self.shown.watch
    }

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
