//! `diffucoder bench`: how fast a model runs here, beside what this machine could do at best.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use diffucoder::Error;
use diffucoder::diffusion::{
    Attention, Decoding, Denoiser, Ending, GenerateError, Mode, Pass, Settings, Shaping, Steps,
};
use diffucoder::kernels::limits::{self, Limits, Meter};
use diffucoder::model::Model;
use diffucoder::model::config::Config;
use diffucoder::session::{Conditions, Hole, Job, Work};
use serde::Serialize;

use self::shape::Shape;
use crate::cli::args::compute::{ComputeArgs, Engine, isa};
use crate::cli::args::decoding::about_mode;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::output::OutputArgs;
use crate::cli::args::sampling::as_usage;
use crate::cli::args::values::{at_least_one, one_of};
use crate::cli::terminal::table::{Align, table};
use crate::cli::terminal::ui::{Ui, human_bytes};
use crate::cli::usage::UsageError;

mod shape;

/// Passes are repeated for this long, and at least twice: the first one makes the buffers.
const SPAN: Duration = Duration::from_secs(2);

/// Flags of `bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Random weights in the shapes of a model instead of its files
    #[arg(long, value_enum, value_name = "SHAPE", conflicts_with_all = ["model", "file", "revision", "lora"])]
    synthetic: Option<Shape>,
    /// Numbers of rows (canvas positions) that a pass computes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,32,320",
          value_parser = at_least_one)]
    rows: Vec<usize>,
    /// Also write N tokens behind a prompt of 64, a fixed number at each forward, however the text
    /// ends; and count the rows that each mode would compute for it
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    generate: Option<usize>,
    /// How many tokens each of its forwards reveals
    #[arg(long, value_name = "K", value_parser = at_least_one, default_value_t = 2, requires = "generate")]
    tokens_per_forward: usize,
    /// How many texts are written at the same time, their forward passes run as one
    #[arg(long, value_name = "K", value_parser = at_least_one, default_value_t = 1, requires = "generate")]
    parallel: usize,
    /// The mode to write them in
    #[arg(long, default_value = Mode::Fast.name(), requires = "generate",
          value_parser = one_of(&Mode::ALL, Mode::name, about_mode))]
    mode: Mode,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// The object that `--output json` prints.
#[derive(Serialize)]
struct Report {
    limits: LimitsReport,
    forward: Vec<Forward>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generate: Option<Generated>,
    /// What each mode would compute for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modes: Vec<ModeWork>,
    load_s: f64,
    peak_rss_bytes: Option<u64>,
}

#[derive(Serialize)]
struct LimitsReport {
    int8_tops: f64,
    /// Of bf16 in tiles, where there are such.
    #[serde(skip_serializing_if = "Option::is_none")]
    tile_tops: Option<f64>,
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
    /// Where there are tiles, and rows enough for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    share_of_tiles: Option<f64>,
}

/// Texts written at the same time, each behind a prompt of [`PROMPT`] tokens.
#[derive(Serialize)]
struct Generated {
    /// The prompt included.
    seconds: f64,
    /// Of the text that took most: those of the others are run with them.
    forwards: usize,
    /// Canvas positions that went through the layers, of all forwards.
    rows: usize,
    tokens_per_s: f64,
    ms_per_forward: f64,
    /// Share of the time that is not the network's: sampling, planning, the cache.
    outside_network: f64,
}

/// What a mode computes to write as many tokens, as many at each forward.
#[derive(Serialize)]
struct ModeWork {
    mode: &'static str,
    forwards: usize,
    rows_per_token: f64,
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
    let job = match args.generate {
        Some(n) => {
            if args.tokens_per_forward > n {
                let message = "--tokens-per-forward is above --generate";
                let flags = ["tokens-per-forward", "generate"];
                return Err(UsageError::new(message).about(&flags).into());
            }
            let job = generation(&config, n, args.tokens_per_forward, args.mode);
            job.check(longest).map_err(|error| as_usage(error.into()))?;
            Some(job)
        }
        None => None,
    };
    let isa = isa()?;
    let mut meter = Meter::new(isa, rayon::current_num_threads());
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
    if let Some(job) = job {
        ui.status("measuring a generation");
        let done = Generated::measure(&model, &job, args.parallel);
        generated = Some(done.map_err(Error::from)?);
    }
    // A block-causal model has its authors' way in every mode.
    let modes = match config.attention {
        Attention::Full => &Mode::ALL[..],
        Attention::BlockCausal(_) => &[Mode::Exact],
    };
    let count = |n, mode: &Mode| ModeWork::count(&config, n, args.tokens_per_forward, *mode);
    let work = |n| modes.iter().map(move |mode| count(n, mode));
    let modes = args.generate.into_iter().flat_map(work).collect();
    let limits = (meter.measure(), isa.least_tile_rows());
    let report = Report {
        modes,
        ..Report::new(&config, limits, &passes, generated, load_time)
    };
    args.output.report(&report, || report.table(), ui)
}

impl Args {
    fn subject(&self, ui: &Ui) -> anyhow::Result<Subject> {
        if let Some(shape) = self.synthetic {
            self.compute.start_threads(ui)?;
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

/// A canvas of `rows` positions through all layers, and all of it through the head.
fn shortest_pass(model: &mut Model, config: &Config, rows: usize) -> candle_core::Result<Duration> {
    let ids = token_ids(rows, config);
    let all: Vec<usize> = (0..rows).collect();
    let pass = Pass {
        ids: &ids,
        positions: &all,
        refresh: &all,
        predict: &all,
        attention: config.attention,
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

/// To write `n` tokens behind a prompt, as `--tokens-per-step` does in a mode, or block by block in
/// a model that can nothing else, however the text ends.
fn generation(config: &Config, n: usize, tokens_per_forward: usize, mode: Mode) -> Job {
    let (decoding, ending) = match (config.attention, config.family.blocks) {
        (Attention::BlockCausal(size), Some(blocks)) => (
            Decoding::blocks(blocks, size),
            Ending::AfterBlock(Vec::new()),
        ),
        _ => (mode.decoding(false), Ending::AtStop(Vec::new())),
    };
    let settings = Settings {
        shaping: Shaping::nucleus(0.2, 0.95),
        ending,
        decoding: Decoding {
            threshold: None,
            ..decoding
        },
        steps: Steps::OfTokens(tokens_per_forward),
        ..Settings::reference(1)
    };
    let mask_id = config.vocab_size as u32 - 1; // some token that the prompt has not
    let texts = vec![token_ids(PROMPT, config), Vec::new()];
    Job::new(texts, vec![Hole::Exactly(n)], (mask_id, &[]), settings)
}

/// A network, and the time that it took.
struct Timed<'a> {
    model: &'a mut Model,
    time: Duration,
}

impl<'a> Timed<'a> {
    fn new(model: &'a mut Model) -> Self {
        let time = Duration::ZERO;
        Self { model, time }
    }
}

impl Denoiser for Timed<'_> {
    type Error = candle_core::Error;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> candle_core::Result<usize> {
        let started = Instant::now();
        let rows = self.model.forward(pass, logits);
        self.time += started.elapsed();
        rows
    }

    fn attention(&self) -> Attention {
        self.model.attention()
    }
}

/// Computes nothing, and counts the rows that a network would compute: from left to right, for it
/// is equally sure of all. Another order takes a few more or fewer.
struct Counting {
    shift: usize,
    attention: Attention,
}

impl Denoiser for Counting {
    type Error = Infallible;

    fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
        logits.clear();
        logits.resize(2 * pass.predict.len(), 0.0);
        Ok(pass.computed(self.shift).len())
    }

    fn attention(&self) -> Attention {
        self.attention
    }
}

impl ModeWork {
    fn count(config: &Config, n: usize, tokens_per_forward: usize, mode: Mode) -> Self {
        let mut network = Counting {
            shift: usize::from(config.shift_logits),
            attention: config.attention,
        };
        let mut job = generation(config, n, tokens_per_forward, mode);
        let work = match job.run(&mut network, &mut Conditions::default()) {
            Ok(filling) => filling.work,
            Err(_) => Work::default(), // zeros are finite, and nothing else can fail
        };
        Self {
            mode: mode.name(),
            forwards: work.forwards,
            rows_per_token: work.rows as f64 / n as f64,
        }
    }
}

impl Generated {
    /// `parallel` texts on canvases over the weights of `model`, with seeds that follow.
    fn measure(
        model: &Model,
        job: &Job,
        parallel: usize,
    ) -> Result<Self, GenerateError<candle_core::Error>> {
        // All have a seat before one begins.
        let canvases = (0..parallel).map(|number| {
            let (model, mut job) = (model.beside(), job.clone());
            job.settings.seed += number as u64;
            (model.seat(), model, job)
        });
        let canvases: Vec<_> = canvases.collect();
        let started = Instant::now();
        let done = thread::scope(|scope| {
            let threads = canvases.into_iter().map(|(seat, mut model, mut job)| {
                scope.spawn(move || {
                    let mut timed = Timed::new(&mut model);
                    let filling = job.run(&mut timed, &mut Conditions::default());
                    drop(seat);
                    Ok((filling?.work, timed.time))
                })
            });
            let threads: Vec<_> = threads.collect();
            let done = threads.into_iter().map(ScopedJoinHandle::join);
            let done = done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
            done.collect::<Result<Vec<_>, _>>()
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let forwards = done
            .iter()
            .map(|(work, _)| work.forwards)
            .max()
            .unwrap_or(1);
        let in_network: Duration = done.iter().map(|(_, time)| *time).sum();
        Ok(Self {
            seconds,
            forwards,
            rows: done.iter().map(|(work, _)| work.rows).sum(),
            tokens_per_s: (job.most_new_tokens() * parallel) as f64 / seconds,
            ms_per_forward: 1e3 * seconds / forwards as f64,
            outside_network: 1.0 - in_network.as_secs_f64() / parallel as f64 / seconds,
        })
    }
}

/// Some tokens, never the last of the vocabulary.
fn token_ids(count: usize, config: &Config) -> Vec<u32> {
    let text = config.vocab_size - 1;
    (0..count).map(|i| (i * 7919 % text) as u32).collect()
}

impl Report {
    /// The machine's limits come with the number of rows from which on they are those of tiles.
    fn new(
        config: &Config,
        (limits, tile_rows): (Limits, Option<usize>),
        passes: &[(usize, Duration)],
        generate: Option<Generated>,
        load_time: Duration,
    ) -> Self {
        let weights = config.multiplied_weights() as f64;
        let forward = passes.iter().map(|&(rows, time)| {
            let tops = 2.0 * weights * rows as f64 / time.as_secs_f64() / 1e12;
            let tiled = tile_rows.is_some_and(|least| rows >= least);
            let tile_limit = limits.tile_ops_per_s.filter(|_| tiled);
            Forward {
                rows,
                seconds: time.as_secs_f64(),
                tops,
                share_of_int8: 1e12 * tops / limits.int8_ops_per_s,
                share_of_tiles: tile_limit.map(|limit| 1e12 * tops / limit),
            }
        });
        Self {
            limits: LimitsReport {
                int8_tops: limits.int8_ops_per_s / 1e12,
                tile_tops: limits.tile_ops_per_s.map(|ops_per_s| ops_per_s / 1e12),
                read_gb_s: limits.read_bytes_per_s / 1e9,
            },
            forward: forward.collect(),
            generate,
            modes: Vec::new(),
            load_s: load_time.as_secs_f64(),
            peak_rss_bytes: limits::peak_rss_bytes(),
        }
    }

    fn table(&self) -> String {
        let limits = &self.limits;
        let tops = |limit: f64| format!("{limit:.3} T op/s");
        let tiles = limits.tile_tops.map(|limit| ("tile limit", tops(limit)));
        let machine = std::iter::once(("int8 limit", tops(limits.int8_tops)));
        let machine = machine.chain(tiles).chain([
            ("reading", format!("{:.1} GB/s", limits.read_gb_s)),
            ("loading", format!("{:.1} s", self.load_s)),
            (
                "peak memory",
                self.peak_rss_bytes.map_or("unknown".into(), human_bytes),
            ),
        ]);
        let machine = machine.map(|(name, value)| [name.to_string(), value]);
        let mut rows = vec![["ROWS", "SECONDS", "T OP/S", "OF LIMIT"].map(str::to_string)];
        rows.extend(self.forward.iter().map(|pass| {
            let (share, of) = match pass.share_of_tiles {
                Some(share) => (share, "tile"),
                None => (pass.share_of_int8, "int8"),
            };
            [
                pass.rows.to_string(),
                format!("{:.4}", pass.seconds),
                format!("{:.3}", pass.tops),
                format!("{:.1} % {of}", 100.0 * share),
            ]
        }));
        let (machine, rows) = (
            table([Align::Left; 2], machine),
            table([Align::Right; 4], rows),
        );
        let generated = self.generate.as_ref().map_or(String::new(), |done| {
            format!(
                "\ngenerating   {:.1} s, {:.1} tokens/s: {} forwards of {:.1} rows and {:.0} ms, {:.1} % \
                 outside the network\n",
                done.seconds,
                done.tokens_per_s,
                done.forwards,
                done.rows as f64 / done.forwards as f64,
                done.ms_per_forward,
                100.0 * done.outside_network
            )
        });
        let mut modes = Vec::new();
        if !self.modes.is_empty() {
            modes.push(["MODE", "FORWARDS", "ROWS/TOKEN"].map(str::to_string));
        }
        modes.extend(self.modes.iter().map(|work| {
            let rows = format!("{:.1}", work.rows_per_token);
            [work.mode.to_string(), work.forwards.to_string(), rows]
        }));
        let modes = table([Align::Left, Align::Right, Align::Right], modes);
        format!("{machine}\n{rows}{generated}{modes}")
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// On DiffuCoder's shape, 256 tokens behind 64, two at each forward.
    #[test]
    fn work_of_the_modes() {
        let config = Shape::DiffuCoder7B.config().unwrap();
        let work = |mode| ModeWork::count(&config, 256, 2, mode);
        let rows = |mode| work(mode).rows_per_token;
        let forwards = Mode::ALL.map(|mode| (mode.name(), work(mode).forwards));
        assert!(
            forwards.iter().all(|&(_, forwards)| forwards >= 128),
            "{forwards:?}"
        );
        assert_eq!(rows(Mode::Exact), 320.0 / 2.0);
        assert!(rows(Mode::Balanced) <= 20.0, "{}", rows(Mode::Balanced));
        assert!(rows(Mode::Fast) < 5.0, "{}", rows(Mode::Fast));
    }

    #[test]
    fn shares_are_of_the_limit_of_the_kernels_that_ran() {
        let config = Shape::Tiny.config().unwrap();
        let limits = Limits {
            int8_ops_per_s: 1e12,
            tile_ops_per_s: Some(4e12),
            read_bytes_per_s: 1e9,
        };
        let second = Duration::from_secs(1);
        let passes = [(31, second), (32, second)];
        let report = |limits| Report::new(&config, limits, &passes, None, second);
        let tiles = report((limits, Some(32)));
        assert_eq!(tiles.limits.tile_tops, Some(4.0));
        assert_eq!(tiles.forward[0].share_of_tiles, None);
        let share = tiles.forward[1].share_of_int8;
        assert_eq!(tiles.forward[1].share_of_tiles, Some(share / 4.0));
        assert!(tiles.table().contains("% tile") && tiles.table().contains("tile limit"));
        let none = Limits {
            tile_ops_per_s: None,
            ..limits
        };
        let without = report((none, None));
        assert_eq!(without.forward[1].share_of_tiles, None);
        assert!(!without.table().contains("tile"));
    }

    #[test]
    fn shapes_are_valid() {
        for shape in Shape::value_variants() {
            assert!(shape.config().is_ok(), "{shape:?}");
        }
        let parameters = |shape: Shape| shape.config().unwrap().parameters();
        assert_eq!(parameters(Shape::OpenDCoder), 494_032_768); // as Qwen2.5-0.5B's card has it
    }

    /// Each token once to predict and once to store, and what stands in its block beside it.
    #[test]
    fn work_of_block_causal_models() {
        for (shape, block) in [(Shape::StableDiffCoder, 4.0), (Shape::FastDllm, 32.0)] {
            let work = ModeWork::count(&shape.config().unwrap(), 256, 2, Mode::Exact);
            // Fast-dLLM v2's first token of a block can come alone.
            assert!((128..=129).contains(&work.forwards), "{}", work.forwards);
            let prompt = PROMPT as f64 / 256.0;
            let rows = work.rows_per_token - prompt;
            assert!(rows <= block / 2.0 + 1.1, "{shape:?}: {rows}");
        }
    }
}
