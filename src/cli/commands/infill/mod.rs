//! `diffucoder infill`: a file with holes in, the same file without them out.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use self::output::{Filled, HoleReport, InfillReport, Show};
use crate::cli::args::check::CheckArgs;
use crate::cli::args::compute::{ComputeArgs, Engine, Opened};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::prompt;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::values::{Output, at_least_one, one_of};
use crate::cli::json::{SettingsReport, Usage};
use crate::cli::terminal::progress::{self, Observers, Progress};
use crate::cli::terminal::ui::{self, Ui};
use crate::cli::trace::{End, Recorder, Start, TraceFile};
use crate::cli::usage::UsageError;
use diffucoder::Error;
use diffucoder::atomic;
use diffucoder::diffusion::{self, Generation, Settings};
use diffucoder::infill::length::{self, Chosen, LengthBy};
use diffucoder::infill::{self, Template};
use diffucoder::package::Package;
use diffucoder::text::place::{self, Place};
use diffucoder::tokenizer::Specials;

mod output;

/// Flags of `infill`.
#[derive(clap::Args)]
#[command(
    after_help = "Try it now, offline: printf 'def add(a, b):\\n    return <FILL:3>\\n' | diffucoder infill --model tiny"
)]
#[command(mut_arg("max_new_tokens", |arg| arg
    .default_value("32")
    .help("The longest that a hole without a length can become, in tokens")))]
pub struct Args {
    /// The file; without one, or with `-`, stdin. `<FILL>` marks a hole, `<FILL:40>` one of 40 tokens
    #[arg(value_name = "FILE", conflicts_with_all = ["prefix_file", "suffix_file"])]
    file: Option<PathBuf>,
    /// Make a hole at the end of this line, or before a column of it, both counted from 1; markers
    /// are then text. Can be given several times
    #[arg(long, value_name = "LINE[:COL]", value_parser = place_arg)]
    at: Vec<(usize, Option<usize>)>,
    /// The text before the hole
    #[arg(long, value_name = "FILE")]
    prefix_file: Option<PathBuf>,
    /// The text behind the hole
    #[arg(long, value_name = "FILE")]
    suffix_file: Option<PathBuf>,
    /// Length in tokens of every hole that has none of its own [default: the model chooses]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    length: Option<usize>,
    /// How the model chooses a length: by where it ends its text in a long hole, or by where it is
    /// surest among several lengths
    #[arg(long, default_value = "confidence", conflicts_with = "length",
          value_parser = one_of(&LengthBy::ALL, LengthBy::name, about_length_by))]
    length_by: LengthBy,

    /// Print what was filled in alone, each hole's text ending its line
    #[arg(long, group = "show")]
    only_holes: bool,
    /// Print the change as a unified diff
    #[arg(long, group = "show")]
    diff: bool,
    /// Write the file instead of printing it: whole or not at all, with its permissions
    #[arg(short, long, group = "show", requires = "file")]
    in_place: bool,
    /// Draw the canvas on the terminal while it fills
    #[arg(long)]
    watch: bool,
    /// Record every step in a file, as JSON lines; `diffucoder report` makes a page of it
    #[arg(long, value_name = "FILE.jsonl")]
    trace: Option<PathBuf>,
    /// What to print: the text alone, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

    #[command(flatten)]
    model: ModelArgs,
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
    let show = args.show()?;
    if args.watch {
        progress::screen(ui)?;
    }
    let template = args.template()?;
    let named = args.file().or(args.prefix_file.as_deref());
    let check = args.check.check(named)?;
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let package = &opened.package;

    let texts = template.texts();
    let texts = texts
        .iter()
        .map(|text| package.tokenizer.encode_plain(text));
    let texts = texts.collect::<Result<Vec<_>, _>>().map_err(Error::from)?;
    let longest = args.sampling.most_new_tokens()?;
    let given: Vec<_> = template.holes().iter().map(|hole| hole.tokens).collect();
    let text_tokens = texts.iter().map(Vec::len).sum();
    check_context(
        text_tokens,
        &given,
        longest,
        package.config.max_position_embeddings,
    )?;
    let most = given.iter().map(|length| length.unwrap_or(longest)).sum();
    let mut settings = args.sampling.settings_between(package, most)?;
    check.check_chance(&settings)?;
    if args.trace.is_some() && check.retries() > 0 {
        let message = "--trace records one run, not those of --retries";
        return Err(UsageError::new(message).into());
    }
    let trace = args.trace.as_deref().map(TraceFile::create).transpose()?;
    let mut engine = opened.load(ui)?;

    let started = Instant::now();
    let chosen = choose(args, &mut engine, &texts, &given, longest, ui)?;
    settings.steps = settings.steps.min(chosen.lengths.iter().sum());
    let (package, model) = (&engine.package, &mut engine.model);
    let settings_report =
        |settings: &Settings| SettingsReport::new(most, settings, None, &engine.target);
    let mut recorder = None;
    if let Some(file) = trace {
        let report = settings_report(&settings);
        recorder = Some(record(file, package, &texts, &chosen.lengths, &report)?);
    }
    let draw = |settings: &Settings| {
        let canvas = infill::canvas(&texts, &chosen.lengths, package.mask_id);
        let mut progress = match args.watch {
            true => Progress::watch(progress::screen(ui)?, package),
            false => Progress::bar(ui, "denoising"),
        };
        let mut observers = Observers(&mut progress, &mut recorder);
        let done =
            diffusion::generate(model, canvas, settings, &mut observers).map_err(Error::from)?;
        progress.finish(ui);
        let filled = filled(package, &template, done);
        let code = filled.bytes.clone();
        Ok((filled, code))
    };
    let (filled, problem) = check.until_it_parses(&mut settings, draw, |text| ui.note(text))?;
    let generate_time = started.elapsed();

    let tokens: usize = filled.holes.iter().map(|hole| hole.tokens).sum();
    let usage = Usage::new(
        [text_tokens, tokens, chosen.lengths.iter().sum()],
        chosen.forwards + filled.generation.forwards,
        chosen.rows + filled.generation.rows,
    );
    if let Some(recorder) = recorder {
        recorder.finish(end(&filled, &usage, generate_time))?;
    }
    // A file that parsed is not replaced by one that does not.
    if let (Show::InPlace, None, Some(file)) = (show, &problem, args.file()) {
        atomic::replace(file, template.bytes(), &filled.bytes).map_err(Error::from)?;
    }
    match (args.output, show) {
        (Output::Json, _) => {
            let report = InfillReport {
                text: &String::from_utf8_lossy(&filled.bytes),
                holes: &filled.holes,
                parses: check.is_on().then_some(problem.is_none()),
                usage,
                timing: output::timing(engine.load_time, generate_time, tokens),
                model: engine.package.name(),
                settings: settings_report(&settings),
            };
            ui.result(&format!("{}\n", serde_json::to_string(&report)?))?;
        }
        (Output::Text, Show::File) => ui.result_bytes(&filled.bytes)?,
        (Output::Text, Show::Holes) => ui.result(&output::only_holes(&filled.holes))?,
        (Output::Text, Show::Diff) => {
            let name = named.map_or_else(|| "stdin".into(), |path| path.display().to_string());
            ui.result_bytes(&output::diff(&name, template.bytes(), &filled.bytes)?)?;
        }
        (Output::Text, Show::InPlace) => {}
    }
    ui.status(&format!(
        "{}, {} in {} · {} over {} · seed {}",
        ui::count(filled.holes.len(), "hole"),
        ui::count(tokens, "token"),
        ui::human_time(generate_time),
        ui::count(chosen.forwards + filled.generation.forwards, "forward"),
        engine.package.name(),
        settings.seed,
    ));
    problem.map_or(Ok(()), |problem| Err(problem.into()))
}

impl Args {
    /// The file to be filled, if it has a name.
    fn file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|path| *path != Path::new("-"))
    }

    /// What to show. A file that cannot be written in place is found before anything is computed.
    fn show(&self) -> anyhow::Result<Show> {
        if self.in_place {
            let Some(file) = self.file() else {
                return Err(UsageError::new("--in-place needs a file: stdin has no place").into());
            };
            let writable = fs::OpenOptions::new().write(true).open(file);
            writable.with_context(|| format!("cannot write {}", file.display()))?;
            return Ok(Show::InPlace);
        }
        Ok(match (self.only_holes, self.diff) {
            (true, _) => Show::Holes,
            (_, true) => Show::Diff,
            _ => Show::File,
        })
    }

    /// The text, and where its holes are.
    fn template(&self) -> anyhow::Result<Template> {
        let read =
            |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let mut template = if self.prefix_file.is_some() || self.suffix_file.is_some() {
            let side = |file: &Option<PathBuf>| file.as_deref().map_or(Ok(Vec::new()), read);
            Template::between(&side(&self.prefix_file)?, &side(&self.suffix_file)?)
        } else {
            let bytes = match self.file() {
                Some(file) => read(file)?,
                None if self.file.is_none() && io::stdin().is_terminal() => {
                    let hint = "give a file, or pipe one in";
                    return Err(UsageError::with_hint("no file to fill", hint).into());
                }
                None => prompt::stdin()?,
            };
            match self.at.is_empty() {
                true => Template::with_markers(bytes).map_err(|error| {
                    UsageError::with_hint(
                        error.to_string(),
                        "write <FILL>, or <FILL:40> for 40 tokens",
                    )
                })?,
                false => Template::with_holes_at(bytes, &self.at)
                    .map_err(|error| UsageError::new(format!("--at: {error}")))?,
            }
        };
        if template.holes().is_empty() {
            let hint = "mark a place with <FILL>, or give one with --at LINE[:COL]";
            return Err(UsageError::with_hint("the file has no holes", hint).into());
        }
        if let Some(tokens) = self.length {
            template.set_length(tokens);
        }
        Ok(template)
    }
}

/// Lengths for the holes that have none.
fn choose(
    args: &Args,
    engine: &mut Engine,
    texts: &[Vec<u32>],
    given: &[Option<usize>],
    longest: usize,
    ui: &Ui,
) -> Result<Chosen, Error> {
    match args.length_by {
        LengthBy::Pads => Ok(Chosen {
            lengths: given
                .iter()
                .map(|length| length.unwrap_or(longest))
                .collect(),
            forwards: 0,
            rows: 0,
        }),
        LengthBy::Confidence => {
            let open = given.iter().filter(|length| length.is_none()).count();
            let trials = open * length::trials(longest).len();
            let bar = ui.count_bar("choosing lengths", "steps", trials as u64);
            let mask_id = engine.package.mask_id;
            let on_trial = &mut || bar.inc(1);
            let chosen =
                length::by_confidence(&mut engine.model, texts, given, longest, mask_id, on_trial)?;
            bar.finish_and_clear();
            Ok(chosen)
        }
    }
}

/// Starts the trace of a run.
fn record<'a>(
    file: TraceFile,
    package: &'a Package,
    texts: &[Vec<u32>],
    lengths: &[usize],
    settings: &SettingsReport,
) -> anyhow::Result<Recorder<'a>> {
    let (before, behind) = texts.split_first().context("the file has no holes")?;
    let behind = behind.iter().map(Vec::as_slice);
    let holes: Vec<_> = lengths.iter().copied().zip(behind).collect();
    let start = Start {
        settings,
        prompt_ids: before,
        prompt_tokens: texts.iter().map(Vec::len).sum(),
        holes: &holes,
        grows: false,
    };
    Recorder::start(file, &start, package)
}

/// The end of its trace.
fn end(filled: &Filled, usage: &Usage, generate_time: Duration) -> End {
    let is_whole = filled.holes.iter().all(|hole| hole.finish_reason == "stop");
    End {
        finish_reason: if is_whole { "stop" } else { "length" }.into(),
        text: String::from_utf8_lossy(&filled.bytes).into_owned(),
        usage: usage.clone(),
        generate_s: generate_time.as_secs_f64(),
    }
}

/// The file that a finished canvas makes.
fn filled(package: &Package, template: &Template, generation: Generation) -> Filled {
    let canvas = &generation.canvas;
    let mut holes: Vec<HoleReport> = Vec::new();
    for hole in canvas.holes() {
        let ids = &canvas.ids()[hole.clone()];
        let stop = canvas.stop_in(hole, &package.stop_ids);
        let tokens = stop.unwrap_or(ids.len());
        holes.push(HoleReport {
            place: Place { line: 1, column: 1 },
            text: package.tokenizer.decode(&ids[..tokens], Specials::Keep),
            tokens,
            token_ids: ids.to_vec(),
            finish_reason: if stop.is_some() { "stop" } else { "length" },
        });
    }
    let fillings: Vec<&str> = holes.iter().map(|hole| &*hole.text).collect();
    let (bytes, places) = template.fill(&fillings);
    for (hole, place) in holes.iter_mut().zip(places) {
        hole.place = place::place(&bytes, place.start);
        hole.text = String::from_utf8_lossy(&bytes[place]).into_owned();
    }
    Filled {
        bytes,
        holes,
        generation,
    }
}

/// Wrong usage unless text and holes fit the model's context.
fn check_context(
    text: usize,
    given: &[Option<usize>],
    longest: usize,
    context: usize,
) -> Result<(), UsageError> {
    let lengths = given.iter().map(|length| length.unwrap_or(longest));
    let holes = lengths.fold(0, usize::saturating_add);
    if text.saturating_add(holes) <= context {
        return Ok(());
    }
    let message = format!(
        "the text has {text} tokens and its holes up to {holes}, which exceeds the model's context \
         of {context}"
    );
    let hint = match context.checked_sub(text) {
        None | Some(0) => "shorten the text",
        Some(_) => {
            "shorten the text or the holes: -n/--max-new-tokens bounds those without a length"
        }
    };
    Err(UsageError::with_hint(message, hint))
}

/// `LINE` or `LINE:COL`.
fn place_arg(text: &str) -> Result<(usize, Option<usize>), String> {
    let number = |part: &str| part.parse().ok().filter(|&n| n > 0);
    let (line, column) = match text.split_once(':') {
        Some((line, column)) => (number(line), Some(number(column))),
        None => (number(text), None),
    };
    match (line, column) {
        (Some(line), None) => Ok((line, None)),
        (Some(line), Some(Some(column))) => Ok((line, Some(column))),
        _ => Err("must be LINE or LINE:COL, both counted from 1".into()),
    }
}

fn about_length_by(by: LengthBy) -> &'static str {
    match by {
        LengthBy::Confidence => "the length at which the model is surest",
        LengthBy::Pads => "a long hole, which the model ends itself",
    }
}
