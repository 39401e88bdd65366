//! `diffucoder batch`: many prompts in a file, as many results in another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{ArgMatches, Args as _, Command};
use diffucoder::session::{Conditions, Job, Observer, Outcome, Session};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use crate::cli::args::apart::check_apart;
use crate::cli::args::compute::{ComputeArgs, Engine};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::values::at_least_one;
use crate::cli::defaults::Defaults;
use crate::cli::form::Form;
use crate::cli::json::{Asked, Report, RunReport};
use crate::cli::lines::format::LineFormat;
use crate::cli::lines::input::{Lines, Source};
use crate::cli::lines::kept::Kept;
use crate::cli::lines::line::{Line, Parser};
use crate::cli::lines::sink::{ResumeArgs, Sink};
use crate::cli::lines::tally::Tally;
use crate::cli::lines::workers::{Event, Next, Workers};
use crate::cli::terminal::progress::Progress;
use crate::cli::terminal::ui::{Ui, Written};
use crate::cli::usage::UsageError;

/// Flags of `batch`.
#[derive(clap::Args)]
#[command(after_long_help = "Input, a JSON object a line:
  {\"id\": \"a\", \"prompt\": \"def add(a, b):\"}
  {\"id\": \"b\", \"prefix\": \"def add(a, b):\\n    return \", \"suffix\": \"\\n\", \"length\": 3}

Between prefix and suffix lies a hole of `length` tokens, or of as many as the model chooses, up to
max_new_tokens (32 if nothing is said); \"auto\" as the one or the other has it choose, also one that
is given a fixed length else (tiny). Every sampling flag can be a key (temperature, seed …).
An id is a text or a whole number, and the line's number where there is none; system is the chat
template's, meta is copied to the result. Other keys are refused.

Results have the keys of `generate --output json`, and the id. A line whose id has its results in
the output file already is not done again, and half a line that a killed run left is cut off. A
line that fails has no result, and makes the exit code 1; the next run does it once it is mended.
The settings are kept in OUT.jsonl.settings.json, and a run with others is refused.

Examples:
  diffucoder batch in.jsonl -o out.jsonl --model tiny
  seq 4 | parallel diffucoder batch in.jsonl -o out.{}.jsonl --shard {}/4 --model tiny
  diffucoder batch in.jsonl -o out.$I.jsonl --shard $I/$N --model tiny
    (I is $SLURM_ARRAY_TASK_ID of an array from 1, or in an indexed Kubernetes
    job $((JOB_COMPLETION_INDEX + 1)))
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
    /// The form of input and results [default: what the keys of the first line are of]
    #[arg(long, value_enum)]
    format: Option<LineFormat>,
    #[command(flatten)]
    resume: ResumeArgs,
    /// Results of each line, with the seeds that follow its seed
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = at_least_one)]
    num_samples: usize,
    /// Lines that are worked on at the same time: their forward passes are run as one, which takes
    /// little longer while reading the weights takes most of it. The results are the same, and in
    /// the lines' order [default: 4 on a CPU with tiles, else 1]
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    parallel: Option<usize>,
    /// Give the prompts to the model as they are, without the chat template; the names of special
    /// tokens count as tokens
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// The system message of the chat template [default: what the model's authors send]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

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

/// Runs the command. `matches` are those of `args`.
pub fn run(args: &Args, matches: &ArgMatches, defaults: &Defaults, ui: &Ui) -> anyhow::Result<()> {
    args.sampling.check()?;
    check_apart(&[&args.input], &[&args.output])?;
    let source = Source::open(&args.input)?;
    let engine = args.compute.of_several().open(&args.model, ui)?;
    let mut lines = source.lines()?;
    let format = args.format(&mut lines, ui)?;
    let command = Args::augment_args(Command::new("batch"));
    let kept = Kept::of(&engine.session, format, &command, matches);
    let isa = engine.session.target().cpu_isa();
    let parallel = args.parallel.unwrap_or(match isa {
        Some(isa) if isa.has_tiles() => PARALLEL_IN_TILES,
        _ => 1,
    });
    let mut batch = Batch {
        args,
        parallel,
        ui,
        format,
        defaults,
        parser: Parser::new(
            format,
            matches,
            defaults.values(),
            engine.session.usual_hole(),
        ),
        engine,
        sink: Sink::open(&args.output, format, (kept, &args.resume), ui)?,
        seen: HashMap::new(),
        tally: Tally::new(lines.name(), ui),
        bar: None,
        since: None,
    };
    let cancelled = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        let workers = Workers::new(scope, (lines, parallel), &cancelled)?;
        batch.all(workers)
    });
    if let Some(bar) = batch.bar {
        bar.finish_and_clear();
    }
    let tally = batch.tally;
    tally.finish();
    end?;
    if tally.failed > 0 {
        bail!("{} of {} lines failed", tally.failed, tally.lines());
    }
    Ok(())
}

/// Lines at the same time where a pass of 64 rows takes tiles twice as long as one of 9.
const PARALLEL_IN_TILES: usize = 4;

struct Batch<'a> {
    args: &'a Args,
    parallel: usize,
    ui: &'a Ui,
    format: LineFormat,
    defaults: &'a Defaults,
    parser: Parser,
    engine: Engine,
    sink: Sink<'a>,
    /// The line that has an id, by its JSON.
    seen: HashMap<String, usize>,
    tally: Tally<'a>,
    /// Lines that are done, where several are at work: one bar for each would be drawn over the
    /// others.
    bar: Option<ProgressBar>,
    /// When work began, or the last result came; `None` while there is nothing to do.
    since: Option<Instant>,
}

/// A result to write.
struct Sample {
    result: Value,
    tokens: usize,
}

impl<'a> Batch<'a> {
    /// Does all lines of the shard, or those before the reader has gone.
    fn all<'s>(&mut self, mut workers: Workers<'s, '_, Sample>) -> anyhow::Result<()>
    where
        'a: 's,
    {
        loop {
            match workers.next()? {
                Next::Line((number, bytes)) => {
                    if self.args.shard.is_some_and(|shard| !shard.has(number)) {
                        continue;
                    }
                    let prepared = bytes.map_err(Into::into);
                    match prepared.and_then(|bytes| self.prepare(&bytes, number)) {
                        Ok(None) => self.tally.skipped += 1,
                        Ok(Some(work)) => self.begin(work, number, &mut workers)?,
                        Err(error) => workers.end(number, Err(error)),
                    }
                }
                Next::Event(_, Event::Result(sample)) => {
                    if self.sink.write(&sample.result)? == Written::Closed {
                        return Ok(());
                    }
                    let since = self.since.replace(Instant::now());
                    let time = since.map_or(Duration::ZERO, |since| since.elapsed());
                    self.tally.add(sample.tokens, time);
                    if let Some(bar) = &self.bar {
                        bar.set_message(self.tally.rate());
                    }
                }
                Next::Event(number, Event::Ended(ended)) => {
                    match ended {
                        Ok(()) => self.tally.done += 1,
                        Err(error) => self.tally.fail(number, &error),
                    }
                    if let Some(bar) = &self.bar {
                        bar.inc(1);
                    }
                    // To wait for a line is no work.
                    self.since = self.since.filter(|_| !workers.is_idle());
                }
                Next::Nothing => return Ok(()),
            }
        }
    }

    /// What is to be done for a line, unless all of its results are there.
    fn prepare(&mut self, bytes: &[u8], number: usize) -> anyhow::Result<Option<Work<'a>>> {
        let line = self.parser.parse(bytes, number)?;
        match self.seen.entry(line.id.to_string()) {
            Entry::Vacant(entry) => entry.insert(number),
            Entry::Occupied(other) => {
                let (key, id, other) = (self.format.id_key(), other.key(), other.get());
                let message = format!("the {key} {id} is on line {other} already");
                return Err(UsageError::new(message).into());
            }
        };
        let (args, format) = (self.args, self.format);
        let done = self.sink.done(&line.id);
        if done >= args.num_samples {
            return Ok(None);
        }
        let form = Form::of(&line, (args.raw, format), self.engine.session.package());
        let job = self.job(&line, &form, number)?;
        let system = line.system.as_deref().or(args.system.as_deref());
        let asked = Asked::new(&self.engine.session, &job, form.system(system));
        Ok(Some(Work {
            args,
            format,
            line,
            form,
            asked,
            job,
            done,
        }))
    }

    /// Begins with a line.
    fn begin<'s>(
        &mut self,
        mut work: Work<'a>,
        number: usize,
        workers: &mut Workers<'s, '_, Sample>,
    ) -> anyhow::Result<()>
    where
        'a: 's,
    {
        let (args, parallel, ui) = (self.args, self.parallel, self.ui);
        // Not before a line needs it.
        self.engine.load(ui)?;
        self.since.get_or_insert_with(Instant::now);
        if parallel > 1 {
            let bar = self.bar.get_or_insert_with(|| ui.tally("batch", "lines"));
            bar.tick();
        }
        let session = || self.engine.session.beside();
        let cancelled = workers.cancelled();
        workers.begin(number, session, move |session, emit| {
            for sample in work.done..args.num_samples {
                let mut bar = (parallel == 1).then(|| Progress::bar(ui, &format!("line {number}")));
                let outcome = session.run_job(
                    &mut work.job,
                    &mut Conditions {
                        observer: bar.as_mut().map(|bar| bar as &mut dyn Observer),
                        cancel: Some(cancelled),
                        deadline: None,
                    },
                );
                if let Some(bar) = bar {
                    bar.finish();
                }
                emit(work.sample(sample, session, &outcome?)?);
                let seed = &mut work.job.settings.seed;
                *seed = seed.wrapping_add(1);
            }
            Ok(())
        })
    }

    /// The line in tokens with its settings, without the defaults that it cannot have.
    fn job(&mut self, line: &Line, form: &Form, number: usize) -> anyhow::Result<Job> {
        let system = line.system.as_deref().or(self.args.system.as_deref());
        let (mut without, mut notes) = (Vec::new(), Vec::<String>::new());
        loop {
            let sampling = self.parser.sampling(line, &without).map_err(Into::into);
            let job = sampling
                .and_then(|sampling| form.job(line, &sampling, system, &self.engine.session));
            let error = match job {
                Ok((mut job, of_context)) => {
                    for note in notes.into_iter().chain(of_context) {
                        self.tally.note(number, &note);
                    }
                    let done = self.sink.done(&line.id) as u64;
                    job.settings.seed = job.settings.seed.wrapping_add(done);
                    return Ok(job);
                }
                Err(error) => error,
            };
            let Some(name) = self.parser.default_at_fault(line, &error, &without) else {
                return Err(line.in_keys(error));
            };
            let entry = self.defaults.of(name);
            notes.extend(entry.map(|entry| format!("{entry} does not apply here: {error}")));
            without.push(name);
        }
    }
}

/// A line that is worked on.
struct Work<'a> {
    args: &'a Args,
    format: LineFormat,
    line: Line,
    form: Form,
    asked: Asked,
    job: Job,
    /// Results that are there.
    done: usize,
}

impl Work<'_> {
    fn sample(
        &self,
        sample: usize,
        session: &Session,
        outcome: &Outcome,
    ) -> anyhow::Result<Sample> {
        let (line, form) = (&self.line, &self.form);
        let written = outcome.text();
        let text = form.result(&written);
        let result = match self.format {
            LineFormat::Json => {
                let run = RunReport::new(&self.asked, session, &self.job, outcome);
                self.args
                    .result(line, sample, &Report::new(&text, outcome, run))?
            }
            LineFormat::Evalplus => {
                json!({ "task_id": line.id, "solution": form.whole(&text) })
            }
            LineFormat::HumanEval => {
                json!({ "task_id": line.id, "completion": form.completion(&text) })
            }
            LineFormat::Mbpp => json!({ "task_id": line.id, "completion": text }),
        };
        Ok(Sample {
            result,
            tokens: outcome.tokens(),
        })
    }
}

impl Args {
    /// The form that is asked for, or else that of the first line.
    fn format(&self, lines: &mut Lines, ui: &Ui) -> anyhow::Result<LineFormat> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let format = lines.peek()?.map_or(LineFormat::Json, LineFormat::of_line);
        if format != LineFormat::Json {
            let name = format.name();
            ui.note(&format!(
                "the first line is a problem of --format {name}: reading them so"
            ));
        }
        Ok(format)
    }

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
