//! `diffucoder infill`: a file with holes in, the same file without them out.

use std::borrow::Cow;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgMatches, ValueEnum};
use diffucoder::infill::Template;
use diffucoder::session::{Hole, USUAL_HOLE};
use diffucoder::{Error, atomic};

use self::output::{Filled, InfillReport, Show};
use crate::cli::args::check::CheckArgs;
use crate::cli::args::compute::ComputeArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::output::OutputArgs;
use crate::cli::args::prompt;
use crate::cli::args::sampling::{NewTokens, SamplingArgs, holes_as_usage};
use crate::cli::args::shown::ShownArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::runner::Runner;
use crate::cli::terminal::ui::{self, Ui};
use crate::cli::usage::UsageError;

mod output;

/// Flags of `infill`.
#[derive(clap::Args)]
#[command(
    after_help = "Try it now, offline: printf 'def add(a, b):\\n    return <FILL:3>\\n' | diffucoder infill --model tiny",
    after_long_help = "Try it now, offline: printf 'def add(a, b):\\n    return <FILL:3>\\n' | diffucoder infill --model tiny

Keys of --output json: text (the whole file), holes (each with line, column, text, tokens,
token_ids and finish_reason), and usage, parses, timing, model and settings as of generate.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 it does not parse (--check), 130 interrupted."
)]
#[command(mut_arg("max_new_tokens", |arg| arg
    .default_value(USUAL_HOLE.to_string())
    .visible_alias("max-length")
    .help("The longest that a hole without a length can become, in tokens; 64 unless it is given with \
        a model that makes holes longer and shorter (DreamOn). auto is as long as the model chooses, \
        up to these, also with one that is given a fixed length else (tiny)")))]
pub struct Args {
    /// The file; without one, or with `-`, stdin. `<FILL>` marks a hole, `<FILL:40>` one of 40
    /// tokens
    #[arg(id = "template", value_name = "FILE", conflicts_with_all = ["prefix_file", "suffix_file"])]
    file: Option<PathBuf>,
    /// Make a hole at the end of this line, or before a column of it, both counted from 1; markers
    /// are then text. Can be given several times
    #[arg(long, value_name = "LINE[:COL]", value_parser = place_arg)]
    #[arg(conflicts_with_all = ["prefix_file", "suffix_file"])]
    at: Vec<(usize, Option<usize>)>,
    /// The text before the hole; `-` is stdin
    #[arg(long, value_name = "FILE")]
    prefix_file: Option<PathBuf>,
    /// The text behind the hole; `-` is stdin
    #[arg(long, value_name = "FILE")]
    suffix_file: Option<PathBuf>,
    /// Length in tokens of every hole that has none of its own; DreamOn begins with it [default:
    /// the model chooses; 64 masks to begin with in DreamOn]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    length: Option<usize>,
    /// How the model chooses a length: by where it is surest, compared with how sure it is of any
    /// hole so long (CAL), or by where it ends its text in a long hole [default: confidence; always
    /// 8 tokens with tiny, which does not know better, unless -n is auto]
    #[arg(long, value_enum, conflicts_with = "length")]
    length_by: Option<LengthBy>,

    /// Print what was filled in alone, each hole's text ending its line
    #[arg(long, group = "show")]
    only_holes: bool,
    /// Print the change as a unified diff
    #[arg(long, group = "show", conflicts_with_all = ["prefix_file", "suffix_file"])]
    diff: bool,
    /// Write the file instead of printing it: whole or not at all, with its owner and permissions
    #[arg(short, long, group = "show", requires = "template")]
    in_place: bool,
    /// Take the tokens of the text before a hole as they are: else the hole's first token can be
    /// one that begins with the last space or part of a word before it
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    shown: ShownArgs,
    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// `matches` are those of the command: they know which flags were typed.
pub fn run(args: &Args, matches: &ArgMatches, ui: &Ui) -> anyhow::Result<()> {
    let show = args.show()?;
    if show != Show::InPlace || args.output.is_json() {
        args.output.check(ui)?;
    }
    let read: Vec<_> = args.files().collect();
    let result = args.output.file();
    // The whole of what is read may take its own place.
    let is_itself = show == Show::File && !args.output.is_json();
    args.shown
        .check_apart(&read, result.filter(|_| !is_itself))?;
    args.shown.check_apart(&[], result)?;
    let template = args.template()?;
    let check = args.check.check(args.named(), &template.texts().concat())?;
    args.shown.check(ui, check.retries() == 0, &["retries"])?;
    let engine = args.compute.open(&args.model, ui)?;
    let asked = args.sampling.asked_tokens(matches, USUAL_HOLE);
    let longest = match asked {
        Some(NewTokens::Most(tokens)) => tokens,
        Some(NewTokens::Auto) | None => engine.session.usual_hole(),
    };
    let finds_lengths = engine.session.package().infilling.is_some();
    if finds_lengths && args.length_by.is_some() {
        ui.note("--length-by has no effect: this model finds lengths while it fills holes");
    }
    let open = match args.length_by.filter(|_| !finds_lengths) {
        Some(LengthBy::Confidence) => Hole::Chosen { up_to: longest },
        Some(LengthBy::Pads) => Hole::Exactly(longest),
        None if asked == Some(NewTokens::Auto) => Hole::Chosen { up_to: longest },
        None => engine.session.open_hole(longest),
    };
    // Before each of very many is looked at.
    let least = template.holes().iter().map(|hole| hole.tokens.unwrap_or(1));
    let checked = engine.session.check_length(least.sum());
    checked.map_err(|error| holes_as_usage(error.into()))?;
    let task = engine.session.fill(&template, open);
    let mut task = task.within(args.sampling.context());
    task.token_healing = !args.raw;
    let mut job = engine.session.prepare(&task).map_err(holes_as_usage)?;
    for note in args.sampling.context_notes(&engine.session, &job) {
        ui.note(&note);
    }
    job.settings = args.sampling.settings(&engine.session, &job)?;
    check.check_chance(&job.settings)?;
    let mut seed = job.settings.seed;
    let mut runner = Runner::load(engine, (job, None), &args.shown, ui)?;
    let draw = |seed: u64| {
        let filled = Filled::new(&template, runner.draw(seed, None)?);
        let code = filled.bytes.clone();
        Ok((filled, code))
    };
    let (filled, problem) = check.until_it_parses(&mut seed, draw, |text| ui.note(text))?;

    let outcome = &filled.outcome;
    let text = String::from_utf8_lossy(&filled.bytes);
    runner.end(&text, outcome)?;
    // A file that parsed is not replaced by one that does not.
    if let (Show::InPlace, Some(file)) = (show, args.file()) {
        match problem {
            Some(_) => ui.note(&format!("{} is left as it is", file.display())),
            None => {
                if outcome.text().contains(char::REPLACEMENT_CHARACTER) {
                    ui.note("the model wrote bytes that are no characters: they are U+FFFD");
                }
                atomic::replace(file, template.bytes(), &filled.bytes).map_err(Error::from)?;
            }
        }
    }
    match args.output.is_json() {
        true => {
            if matches!(text, Cow::Owned(_)) {
                ui.note("the file is no UTF-8: `text` has U+FFFD in the place of some bytes");
            }
            let mut run = runner.report(outcome);
            run.parses = check.is_on().then_some(problem.is_none());
            let report = InfillReport {
                text: &text,
                holes: &filled.holes,
                run,
            };
            let line = format!("{}\n", serde_json::to_string(&report)?);
            args.output.write(line.as_bytes(), ui)?;
        }
        false => args.print(&template, &filled, show, ui)?,
    }
    let holes = ui::count(filled.holes.len(), "hole");
    let tokens = ui::count(outcome.tokens(), "token");
    runner.status(&format!("{holes}, {tokens}"), outcome);
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
            if self.output.file().is_some() && !self.output.is_json() {
                let message = "--in-place and -o FILE name two places for the result";
                return Err(UsageError::new(message)
                    .about(&["in-place", "output"])
                    .into());
            }
            let Some(file) = self.file() else {
                return Err(UsageError::new("--in-place needs a file: stdin has no place").into());
            };
            atomic::check_replaceable(file).map_err(Error::from)?;
            return Ok(Show::InPlace);
        }
        if self.output.is_json() && (self.only_holes || self.diff) {
            let flag = if self.diff { "--diff" } else { "--only-holes" };
            let message = format!("{flag} prints a text, and --json all there is");
            let hint =
                "leave one of them out: `holes` of the JSON has each text, and `text` the file";
            return Err(UsageError::with_hint(message, hint)
                .about(&["json", "output"])
                .into());
        }
        Ok(match (self.only_holes, self.diff) {
            (true, _) => Show::Holes,
            (_, true) => Show::Diff,
            _ => Show::File,
        })
    }

    /// Prints what is to be shown of the result.
    fn print(
        &self,
        template: &Template,
        filled: &Filled,
        show: Show,
        ui: &Ui,
    ) -> anyhow::Result<()> {
        match show {
            Show::File => self.output.write(&filled.bytes, ui)?,
            Show::Holes => {
                let holes = output::only_holes(&filled.holes);
                self.output.write(holes.as_bytes(), ui)?;
            }
            Show::Diff => {
                let name = self.named().unwrap_or(Path::new("stdin"));
                let diff = output::diff(name, template.bytes(), &filled.bytes)?;
                self.output.write(&diff, ui)?;
            }
            Show::InPlace => {}
        }
        Ok(())
    }

    /// What the text is read from; stdin can be one without being named.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let named = [&self.file, &self.prefix_file, &self.suffix_file];
        let named = named.into_iter().flatten().map(PathBuf::as_path);
        named.chain([Path::new("-")])
    }

    /// The file that names the language, and the result in a diff.
    fn named(&self) -> Option<&Path> {
        self.file().or(self.prefix_file.as_deref())
    }

    /// The text, and where its holes are.
    fn template(&self) -> anyhow::Result<Template> {
        let read = |file: &Path| {
            let (name, bytes) = match file == Path::new("-") {
                true => ("stdin".to_string(), prompt::stdin()?),
                false => {
                    let name = file.display().to_string();
                    let read = fs::read(file).with_context(|| format!("cannot read {name}"));
                    (name, read?)
                }
            };
            prompt::check_encoding(&bytes, &name)?;
            Ok::<_, anyhow::Error>(bytes)
        };
        let sides = [&self.prefix_file, &self.suffix_file].map(Option::as_deref);
        let named: Vec<&Path> = sides.into_iter().flatten().collect();
        let mut template = if !named.is_empty() {
            prompt::check_stdin(&named)?;
            let side = |file: Option<&Path>| file.map_or(Ok(Vec::new()), read);
            Template::between(&side(sides[0])?, &side(sides[1])?)
        } else {
            let bytes = match self.file() {
                Some(file) => read(file)?,
                None if self.file.is_none() && io::stdin().is_terminal() => {
                    let hint = "give a file, or pipe one in";
                    return Err(UsageError::with_hint("no file to fill", hint).into());
                }
                None => read(Path::new("-"))?,
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

/// `LINE` or `LINE:COL`.
fn place_arg(text: &str) -> Result<(usize, Option<usize>), String> {
    let number = |part: &str| part.parse().ok().filter(|&n| n > 0);
    let place = match text.split_once(':') {
        Some((line, column)) => number(line).zip(number(column).map(Some)),
        None => number(text).map(|line| (line, None)),
    };
    place.ok_or_else(|| "must be LINE or LINE:COL, both counted from 1".into())
}

/// How the length of a hole without one is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LengthBy {
    /// the length at which the model is surest
    Confidence,
    /// a long hole, which the model ends itself
    Pads,
}
