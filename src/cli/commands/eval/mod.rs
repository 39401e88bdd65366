//! `diffucoder eval`: what each mode writes with a model on this machine, and which one to use.

mod choice;
mod execution;
mod problem;
mod record;
mod report;
mod row;
mod solve;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diffucoder::diffusion::Mode;
use diffucoder::hub::ModelSpec;
use diffucoder::session::Session;
use serde_json::json;

use crate::cli::args::compute::{ComputeArgs, Engine, device_name};
use crate::cli::args::decoding::about_mode;
use crate::cli::args::model::{ModelArgs, named};
use crate::cli::args::sampling::{NewTokens, USUAL_TOKENS, as_usage, new_tokens};
use crate::cli::args::values::{at_least_one, one_of, zero_or_above, zero_or_more};
use crate::cli::defaults::Defaults;
use crate::cli::lines::format::LineFormat;
use crate::cli::lines::kept::Kept;
use crate::cli::lines::sink::{ResumeArgs, Sink};
use crate::cli::terminal::ui::Ui;
use crate::cli::usage::UsageError;
use execution::Python;
use problem::{Problem, Problems};
use record::Record;
use report::Report;
use solve::Eval;

const COLUMNS: &str = "\
Problems are JSON lines as they are published, known by their keys: HumanEval (task_id, prompt,
entry_point, test), its infilling sets (suffix and canonical_solution too) and MBPP (task_id,
prompt or text, test_list). Without --problems there are 24 small functions of our own.

Columns, of each mode:
  PASS@1      share of the problems whose tests pass, one try each (--execute)
  PARSE       share that Python parses, with what stands round it
  LONGER      the same among texts longer than 8 tokens: short ones parse easily
  ENDED       share that the model ended before the canvas was full
  TOKENS      mean length of the texts
  EXACT       share of the holes filled as they were, where they are that long
  EDIT        similarity of these to what was there: 1 is the same
  NLL         nats a token when exact decoding writes them: low is likely
  TOKENS/FW   tokens of text for each forward pass
  ROWS/TOKEN  canvas positions that went through the network, a token of text
  TOKENS/S    tokens of text a second, on this machine
  FAILED      problems that could not be tried";

const RUNNING: &str = "\
--execute runs what a model wrote, in a Python process with limits: 2 GiB of memory, 16 MiB for each
file, no other processes, no changes outside a folder that is removed, and no network where the
system allows that. That keeps off accidents and nobody who means harm: run it as a user with little
to lose, or in a container.

A run with -o that is interrupted goes on where it was. Results that were not executed are executed
when a later run has --execute, and written again: the last of an id counts. All others stay, also
where a problem of that id, or --time-limit, is another than it was: --restart drops them.

Examples:
  diffucoder eval --model tiny
  diffucoder eval --model diffucoder:q4_k_m --problems HumanEval.jsonl.gz --execute -o he.jsonl
  diffucoder eval --model diffucoder:q4_k_m --also diffucoder:q8_0 --limit 40 --execute --save";

/// Flags of `eval`.
#[derive(clap::Args)]
#[command(after_long_help = format!("{COLUMNS}\n\n{}\n\n{RUNNING}", choice::RULE))]
pub struct Args {
    /// The problems, as JSON lines, gzipped or not; `-` is stdin [default: 24 of our own]
    #[arg(long, value_name = "FILE.jsonl")]
    problems: Option<PathBuf>,
    /// The modes to compare, separated by commas
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "exact,balanced,fast",
          value_parser = one_of(&Mode::ALL, Mode::name, about_mode))]
    modes: Vec<Mode>,
    /// Take the first N problems only
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Another model to compare with, such as another quantization; can be repeated
    #[arg(long, value_name = "MODEL")]
    also: Vec<OsString>,
    /// Run the tests of the problems: this executes what the model wrote
    #[arg(long)]
    execute: bool,
    /// Seconds that the tests of a problem have
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = at_least_one)]
    time_limit: usize,
    /// How many texts of each mode to score under exact decoding, which takes a forward pass for
    /// each token
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = zero_or_above::<usize>)]
    nll: usize,
    /// Length of the canvas: the most tokens that can be written. A hole between
    /// texts has as many as infill gives it at most
    #[arg(short = 'n', long, value_name = "N", value_parser = new_tokens)]
    #[arg(default_value = USUAL_TOKENS.to_string())]
    max_new_tokens: NewTokens,
    /// Randomness of the tokens; 0 takes the most probable [default: as in generate]
    #[arg(short, long, value_name = "T", value_parser = zero_or_more)]
    temperature: Option<f32>,
    /// Seed of all randomness
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = zero_or_above::<u64>)]
    seed: u64,
    /// Keep what is written of each problem in this file, and go on where it ends
    #[arg(short, long, value_name = "FILE.jsonl")]
    output: Option<PathBuf>,
    #[command(flatten)]
    resume: ResumeArgs,
    /// Write the report as JSON
    #[arg(long)]
    json: bool,
    /// Make the mode that is found the default, in the configuration file; with --also the model
    /// too
    #[arg(long, conflicts_with = "lora")]
    save: bool,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: &Args, defaults: &Defaults, ui: &Ui) -> anyhow::Result<()> {
    ui.check_stdout()?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let error = UsageError::new("--output - is where the report goes: give a file");
        return Err(error.about(&["output"]).into());
    }
    if args.save && defaults.file.is_none() {
        bail!("there is no folder for configuration here, so that --save has no place");
    }
    let python = match (Python::find(), args.execute) {
        (Err(error), true) => return Err(error.about(&["execute"]).into()),
        (python, _) => python.ok(),
    };
    let problems = Problems::read(args.problems.as_deref(), args.limit.unwrap_or(usize::MAX))?;
    let engines = args.engines(ui)?;
    if let NewTokens::Most(new) = args.max_new_tokens {
        for (_, engine) in &engines {
            let checked = engine.session.check_length(new);
            checked.map_err(|error| as_usage(error.into()))?;
        }
    }
    let without_network = match (&python, args.execute) {
        (Some(python), true) => Some(python.is_alone()?),
        _ => None,
    };
    args.say(&problems, python.as_ref(), without_network, ui);
    let (mut sink, records) = args.results(&problems, &engines, ui)?;
    let mut eval = Eval {
        args,
        ui,
        problems: &problems,
        python: python.as_ref(),
        records,
        sink: sink.as_mut(),
    };
    let mut rows = Vec::new();
    for (name, engine) in engines {
        rows.extend(eval.model(&name, engine)?);
    }
    if rows.iter().all(|row| row.failed == row.problems) {
        bail!("no problem could be tried");
    }
    let choice = choice::choose(&rows);
    let report = Report {
        problems: problems.name.clone(),
        executed: args.execute,
        without_network,
        parser: python
            .as_ref()
            .map(|python| format!("Python {}", python.version)),
        rows,
        no_choice: choice.as_ref().err().cloned(),
        choice: choice.ok(),
    };
    let text = match args.json {
        true => format!("{}\n", serde_json::to_string(&report)?),
        false => report.text(),
    };
    ui.result(&text)?;
    if args.save {
        args.save(&report, defaults, ui)?;
    }
    Ok(())
}

impl Args {
    /// The models, by what they were named.
    fn engines(&self, ui: &Ui) -> anyhow::Result<Vec<(String, Engine)>> {
        let first = (self.model.name(), self.model.spec()?);
        let mut models = vec![first];
        for name in &self.also {
            models.push((name, named("--also", name)?));
        }
        let mut engines: Vec<(String, Engine)> = Vec::new();
        for (name, spec) in models {
            // What is saved is to mean the same elsewhere.
            let name = match &spec {
                ModelSpec::Local(path) => fs::canonicalize(path).unwrap_or(path.clone()).into(),
                _ => name.to_os_string(),
            };
            let name = name.to_string_lossy().into_owned();
            if engines.iter().any(|(other, _)| *other == name) {
                return Err(UsageError::new(format!("{name} is named twice"))
                    .about(&["also"])
                    .into());
            }
            engines.push((name, self.compute.open_as(&self.model, spec, ui)?));
        }
        Ok(engines)
    }

    /// Says what a person should know before the work.
    fn say(
        &self,
        problems: &Problems,
        python: Option<&Python>,
        without_network: Option<bool>,
        ui: &Ui,
    ) {
        if python.is_none() {
            ui.note("there is no python3 here: whether texts parse is not known");
        }
        if without_network == Some(false) {
            ui.note(
                "this system does not let us take the network from the tests: Python refuses \
                 them connections, which is easier to get round",
            );
        }
        let mut tried = problems.all.iter().flat_map(|(_, problem)| problem);
        if self.execute && !tried.any(Problem::has_tests) {
            ui.note(&format!(
                "{} has no tests: there is nothing to execute",
                problems.name
            ));
        }
        if self.output.is_none() {
            ui.note("nothing is kept: with -o FILE.jsonl an interrupted run goes on where it was");
        }
    }

    /// Where results are kept, and those that are there.
    fn results<'a>(
        &self,
        problems: &Problems,
        engines: &[(String, Engine)],
        ui: &'a Ui,
    ) -> anyhow::Result<(Option<Sink<'a>>, HashMap<String, Record>)> {
        let (Some(path), Some((_, first))) = (&self.output, engines.first()) else {
            return Ok((None, HashMap::new()));
        };
        let kept = self.kept(problems, &first.session);
        let mut sink = Sink::open(path, LineFormat::Json, (kept, &self.resume), ui)?;
        let mut records = HashMap::new();
        if !self.resume.restart {
            for (number, line) in sink.before()?.lines().enumerate() {
                let record: Record = serde_json::from_str(line).with_context(|| {
                    let number = number + 1;
                    format!(
                        "{} holds something else than results of eval (line {number})",
                        path.display()
                    )
                })?;
                records.insert(json!(record.id).to_string(), record);
            }
        }
        Ok((Some(sink), records))
    }

    /// What the results depend on, beside what their ids say.
    fn kept(&self, problems: &Problems, session: &Session) -> Kept {
        let target = session.target();
        let temperature = self.temperature.map_or("usual".into(), |t| t.to_string());
        let tiles = target.cpu_isa().filter(|isa| isa.has_tiles());
        let values = [
            ("problems", problems.name.clone()),
            ("nll", self.nll.to_string()),
            ("isa", tiles.map_or("any", |isa| isa.name()).to_string()), // tiles give other text
            ("max-new-tokens", self.canvas().to_string()),
            ("temperature", temperature),
            ("seed", self.seed.to_string()),
            ("device", device_name(target)),
            ("dtype", target.storage.dtype().as_str().to_string()),
        ];
        Kept(values.map(|(name, value)| (name.to_string(), value)).into())
    }

    fn canvas(&self) -> usize {
        match self.max_new_tokens {
            NewTokens::Most(n) => n,
            NewTokens::Auto => USUAL_TOKENS,
        }
    }

    /// Makes what was chosen the default.
    fn save(&self, report: &Report, defaults: &Defaults, ui: &Ui) -> anyhow::Result<()> {
        let Some(choice) = &report.choice else {
            bail!(
                "nothing is saved: {}",
                report.no_choice.as_deref().unwrap_or_default()
            );
        };
        let mut values = vec![("mode", choice.mode)];
        if !self.also.is_empty() {
            values.push(("model", &choice.model));
        }
        let file = defaults.save(&values)?;
        let said: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        ui.note(&format!(
            "{} has {} now",
            file.display(),
            said.join(" and ")
        ));
        for (name, _) in values {
            let variable = format!("DIFFUCODER_{}", name.to_uppercase());
            if std::env::var_os(&variable).is_some_and(|value| !value.is_empty()) {
                ui.note(&format!("{variable} is set, and wins over it"));
            }
        }
        Ok(())
    }
}
