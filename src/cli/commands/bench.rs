//! `diffucoder bench`: how fast a model runs here, beside what this machine could do at best.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use diffucoder::Error;
use diffucoder::diffusion::{Decoding, Denoiser, Ending, Pass, Settings, Shaping, Steps};
use diffucoder::kernels::limits::{self, Limits, Meter};
use diffucoder::model::Model;
use diffucoder::model::config::{Config, ConfigError};
use diffucoder::package::builtin;
use diffucoder::session::{Conditions, Hole, Job, Work};
use serde::Serialize;

use crate::cli::args::compute::{ComputeArgs, Engine, isa};
use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampling::as_usage;
use crate::cli::args::values::{Output, at_least_one};
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use crate::cli::usage::UsageError;

/// Passes are repeated for this long, and at least twice: the first one makes the buffers.
const SPAN: Duration = Duration::from_secs(2);

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights in the shapes of a model instead of its files
    #[arg(long, value_enum, value_name = "SHAPE", conflicts_with_all = ["model", "file", "revision"])]
    synthetic: Option<Shape>,
    /// Numbers of rows (canvas positions) that a pass computes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,32,320",
          value_parser = at_least_one)]
    rows: Vec<usize>,
    /// Also write N tokens behind a prompt of 64, in fast mode but a fixed number at each forward,
    /// however the text ends
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    generate: Option<usize>,
    /// How many tokens each of its forwards reveals
    #[arg(long, value_name = "K", value_parser = at_least_one, default_value_t = 2, requires = "generate")]
    tokens_per_forward: usize,
    /// What to print: a table, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    compute: ComputeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// DiffuCoder-7B
    #[value(name = "7b")]
    DiffuCoder7B,
    /// The built-in model
    Tiny,
}

/// The object that `--output json` prints.
#[derive(Serialize)]
struct Report {
    limits: LimitsReport,
    forward: Vec<Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generate: Option<Generated>,
    load_s: f64,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct LimitsReport {
    int8_tops: f64,
    read_gb_s: f64,
}

/// One number of rows through all layers and the head.
#[derive(Serialize)]
struct Forward {
    rows: usize,
    /// Of the shortest pass.
    seconds: f64,
    /// 10^12 operations a second: two for each weight that a row is multiplied with. Attention is
    /// not counted.
    tops: f64,
    share_of_int8: f64,
}

/// A generation behind a prompt of [`PROMPT`] tokens.
#[derive(Serialize)]
struct Generated {
    /// The prompt included.
    seconds: f64,
    forwards: usize,
    /// Canvas positions that went through the layers, of all forwards.
    rows: usize,
    tokens_per_s: f64,
    ms_per_forward: f64,
}

/// Tokens of the prompt that is generated behind.
const PROMPT: usize = 64;

/// What is measured.
enum Subject {
    /// What is open, and how long that took.
    Model(Box<Engine>, Duration),
    Synthetic(Config),
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let subject = args.subject(ui)?;
    let config = subject.config().clone();
    let longest = config.max_position_embeddings;
    if let Some(rows) = args.rows.iter().find(|&&rows| rows > longest) {
        let message = format!("--rows {rows}: this model takes up to {longest}");
        return Err(UsageError::new(message).about(&["rows"]).into());
    }
    let mut job = match args.generate {
        Some(n) => {
            if args.tokens_per_forward > n {
                let message = "--tokens-per-forward is above --generate";
                let flags = ["tokens-per-forward", "generate"];
                return Err(UsageError::new(message).about(&flags).into());
            }
            let job = generation(&config, n, args.tokens_per_forward);
            job.check(longest).map_err(|error| as_usage(error.into()))?;
            Some(job)
        }
        None => None,
    };
    let mut meter = Meter::new(isa()?, rayon::current_num_threads());
    ui.status("measuring the machine");
    meter.measure();
    limits::reset_peak_rss(); // the table that was read is not the model's

    let (mut model, load_time) = subject.load(args, ui)?;
    let mut passes = Vec::new();
    for &rows in &args.rows {
        ui.status(&format!("measuring {rows} rows"));
        let time = shortest_pass(&mut model, &config, rows).context("a forward pass failed")?;
        passes.push((rows, time));
    }
    let mut generated = None;
    if let Some(job) = &mut job {
        ui.status("measuring a generation");
        let filling = job.run(&mut model, &mut Conditions::default());
        let work = filling.map_err(Error::from)?.work;
        generated = Some(Generated::new(job.most_new_tokens(), work));
    }
    let report = Report::new(&config, meter.measure(), &passes, generated, load_time);
    match args.output {
        Output::Json => ui.result(&format!("{}\n", serde_json::to_string(&report)?))?,
        Output::Text => ui.result(&report.table())?,
    }
    Ok(())
}

impl Args {
    fn subject(&self, ui: &Ui) -> anyhow::Result<Subject> {
        if let Some(shape) = self.synthetic {
            self.compute.start_threads()?;
            return Ok(Subject::Synthetic(shape.config().map_err(Error::from)?));
        }
        let started = Instant::now();
        let engine = self.compute.open(&self.model, ui)?;
        if !engine.session.target().device.is_cpu() {
            let message = "bench measures the CPU only";
            let error = UsageError::with_hint(message, "add --device cpu");
            return Err(error.about(&["device"]).into());
        }
        Ok(Subject::Model(Box::new(engine), started.elapsed()))
    }
}

impl Subject {
    fn config(&self) -> &Config {
        match self {
            Self::Model(engine, _) => &engine.session.package().config,
            Self::Synthetic(config) => config,
        }
    }

    /// The network, and how long it took to have it.
    fn load(self, args: &Args, ui: &Ui) -> anyhow::Result<(Model, Duration)> {
        let started = Instant::now();
        match self {
            Self::Model(mut engine, open_time) => {
                engine.load(ui)?;
                let model = engine.session.load(&mut (), &mut |_, _| ())?.beside();
                Ok((model, open_time + started.elapsed()))
            }
            Self::Synthetic(config) => {
                let (checkpoint, target) = args.compute.compute()?.synthetic(&config)?;
                let model = Model::load(&config, checkpoint, &target, &mut |_, _| {});
                Ok((model.map_err(Error::from)?, started.elapsed()))
            }
        }
    }
}

impl Shape {
    fn config(self) -> Result<Config, ConfigError> {
        let tiny = || {
            builtin::TINY
                .iter()
                .find(|(name, _)| *name == "config.json")
        };
        Config::from_json(match self {
            Self::DiffuCoder7B => DIFFUCODER_7B,
            Self::Tiny => tiny().map_or(&[][..], |(_, json)| json),
        })
    }
}

/// What the shapes follow from, of DiffuCoder-7B's config.json.
const DIFFUCODER_7B: &[u8] = br#"{
    "model_type": "Dream", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 131072
}"#;

/// A canvas of `rows` positions through all layers, and all of it through the head.
fn shortest_pass(model: &mut Model, config: &Config, rows: usize) -> candle_core::Result<Duration> {
    let ids = token_ids(rows, config);
    let all: Vec<usize> = (0..rows).collect();
    let pass = Pass {
        ids: &ids,
        refresh: &all,
        predict: &all,
    };
    let mut logits = Vec::new();
    let (started, mut shortest, mut passes) = (Instant::now(), Duration::MAX, 0);
    while passes < 2 || started.elapsed() < SPAN {
        let pass_started = Instant::now();
        model.forward(&pass, &mut logits)?;
        shortest = shortest.min(pass_started.elapsed());
        passes += 1;
    }
    Ok(shortest)
}

/// To write `n` tokens behind a prompt, as `--mode fast --tokens-per-step` does, however the text
/// ends.
fn generation(config: &Config, n: usize, tokens_per_forward: usize) -> Job {
    let settings = Settings {
        shaping: Shaping::nucleus(0.2, 0.95),
        ending: Ending::AtStop(Vec::new()),
        decoding: Decoding {
            threshold: None,
            ..Decoding::fast(Decoding::CPU_WINDOW)
        },
        steps: Steps::OfTokens(tokens_per_forward),
        ..Settings::reference(1)
    };
    let mask_id = config.vocab_size as u32 - 1; // some token that the prompt has not
    let texts = vec![token_ids(PROMPT, config), Vec::new()];
    Job::new(texts, vec![Hole::Exactly(n)], (mask_id, &[]), settings)
}

impl Generated {
    fn new(tokens: usize, work: Work) -> Self {
        let seconds = work.time.as_secs_f64();
        Self {
            seconds,
            forwards: work.forwards,
            rows: work.rows,
            tokens_per_s: tokens as f64 / seconds,
            ms_per_forward: 1e3 * seconds / work.forwards as f64,
        }
    }
}

/// Some tokens, never the last of the vocabulary.
fn token_ids(count: usize, config: &Config) -> Vec<u32> {
    let text = config.vocab_size - 1;
    (0..count).map(|i| (i * 7919 % text) as u32).collect()
}

impl Report {
    fn new(
        config: &Config,
        limits: Limits,
        passes: &[(usize, Duration)],
        generate: Option<Generated>,
        load_time: Duration,
    ) -> Self {
        let weights = config.multiplied_weights() as f64;
        let forward = passes.iter().map(|&(rows, time)| {
            let tops = 2.0 * weights * rows as f64 / time.as_secs_f64() / 1e12;
            Forward {
                rows,
                seconds: time.as_secs_f64(),
                tops,
                share_of_int8: 1e12 * tops / limits.int8_ops_per_s,
            }
        });
        Self {
            limits: LimitsReport {
                int8_tops: limits.int8_ops_per_s / 1e12,
                read_gb_s: limits.read_bytes_per_s / 1e9,
            },
            forward: forward.collect(),
            generate,
            load_s: load_time.as_secs_f64(),
            peak_rss_bytes: limits::peak_rss_bytes(),
        }
    }

    fn table(&self) -> String {
        let limits = &self.limits;
        let machine = [
            ("int8 limit", format!("{:.3} T op/s", limits.int8_tops)),
            ("reading", format!("{:.1} GB/s", limits.read_gb_s)),
            ("loading", format!("{:.1} s", self.load_s)),
            (
                "peak memory",
                self.peak_rss_bytes.map_or("unknown".into(), human_bytes),
            ),
        ];
        let machine = machine.map(|(name, value)| [name.to_string(), value]);
        let mut rows = vec![["ROWS", "SECONDS", "T OP/S", "OF INT8 LIMIT"].map(str::to_string)];
        rows.extend(self.forward.iter().map(|pass| {
            [
                pass.rows.to_string(),
                format!("{:.4}", pass.seconds),
                format!("{:.3}", pass.tops),
                format!("{:.1} %", 100.0 * pass.share_of_int8),
            ]
        }));
        let (machine, rows) = (
            table([Align::Left; 2], machine),
            table([Align::Right; 4], rows),
        );
        let generated = self.generate.as_ref().map_or(String::new(), |done| {
            format!(
                "\ngenerating   {:.1} s, {:.1} tokens/s: {} forwards of {:.1} rows and {:.0} ms\n",
                done.seconds,
                done.tokens_per_s,
                done.forwards,
                done.rows as f64 / done.forwards as f64,
                done.ms_per_forward
            )
        });
        format!("{machine}\n{rows}{generated}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_valid() {
        for shape in [Shape::DiffuCoder7B, Shape::Tiny] {
            assert!(shape.config().is_ok());
        }
    }
}
