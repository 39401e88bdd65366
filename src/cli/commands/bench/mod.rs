//! `diffucoder bench`: how fast a model runs here, beside what this machine could do at best.

use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::Device;
use diffucoder::Error;
use diffucoder::diffusion::{Asked, Attention, Denoiser, Mode, Pass, Predicted};
use diffucoder::kernels::Isa;
use diffucoder::kernels::limits::{self, Meter};
use diffucoder::model::config::Config;
use diffucoder::model::device::free_memory_bytes;
use diffucoder::model::storage::Storage;
use diffucoder::model::{Model, Target};
use diffucoder::weights::Checkpoint;

use self::card::CardLimits;
use self::generation::{Generated, ModeWork, generation, token_ids};
use self::report::{Report, Roof};
use self::shape::Shape;
use crate::cli::args::compute::{ComputeArgs, Engine, note_fallback};
use crate::cli::args::decoding::about_mode;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::output::OutputArgs;
use crate::cli::args::sampling::too_long;
use crate::cli::args::values::{at_least_one, one_of};
use crate::cli::terminal::ui::{self, Ui};
use crate::cli::usage::UsageError;

mod card;
mod generation;
mod report;
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

/// What is measured.
enum Subject {
    /// What is open, and how long that took.
    Model(Box<Engine>, Duration),
    Synthetic(Box<Synthetic>),
}

/// Random weights in the shapes of a model, and how they are held.
struct Synthetic {
    config: Config,
    checkpoint: Checkpoint,
    target: Target,
}

pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let compute = match args.parallel {
        1 => &args.compute,
        _ => &args.compute.of_several(),
    };
    let subject = args.subject(compute, ui)?;
    let config = subject.config().clone();
    let longest = config.max_position_embeddings;
    if let Some(rows) = args.rows.iter().find(|&&rows| rows > longest) {
        let message = format!("--rows {rows}: this model takes up to {longest}");
        return Err(UsageError::new(message).about(&["rows"]).into());
    }
    let (isa, is_gpu) = (compute.isa(), !subject.device().is_cpu());
    let job = match args.generate {
        Some(n) => {
            if args.tokens_per_forward > n {
                let message = "--tokens-per-forward is above --generate";
                let flags = ["tokens-per-forward", "generate"];
                return Err(UsageError::new(message).about(&flags).into());
            }
            let decoding = args.mode.decoding(is_gpu);
            let job = generation(&config, n, args.tokens_per_forward, decoding);
            let job = job.within(longest);
            Some(job.map_err(|error| too_long(error.into(), no_room))?)
        }
        None => None,
    };
    ui.status("measuring the machine");
    let mut meter = (!is_gpu).then(|| Meter::new(isa, rayon::current_num_threads()));
    if let Some(meter) = &mut meter {
        meter.measure();
    }
    limits::reset_peak_rss(); // the table that was read is not the model's

    let device = subject.device().clone();
    let free_before = free_memory_bytes(&device);
    let (mut model, storage, load_time) = subject.load(ui)?;
    let mut passes = Vec::new();
    for &rows in &args.rows {
        ui.status(&format!("measuring {rows} rows"));
        let time =
            shortest_pass(&mut model, &config, rows, isa).context("a forward pass failed")?;
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
    let count = |n, mode| ModeWork::count(&config, n, args.tokens_per_forward, (mode, is_gpu));
    let work = |n| modes.iter().map(move |&mode| count(n, mode));
    let modes = args.generate.into_iter().flat_map(work).collect();
    let free_after = free_memory_bytes(&device);
    let roof = match meter {
        Some(mut meter) => Roof::Cpu(meter.measure(), isa.least_tile_rows()),
        None => {
            let limits = CardLimits::measure(&device).context("the GPU failed")?;
            Roof::Card(limits, storage.bytes(config.multiplied_weights()))
        }
    };
    let mut report = Report::new(&config, &roof, &passes, generated, load_time);
    report.modes = modes;
    if is_gpu {
        report.card_bytes = free_before
            .zip(free_after)
            .map(|(a, b)| a.saturating_sub(b));
    }
    args.output.report(&report, || report.table(), ui)
}

impl Args {
    fn subject(&self, compute: &ComputeArgs, ui: &Ui) -> anyhow::Result<Subject> {
        if let Some(shape) = self.synthetic {
            compute.start_threads(ui)?;
            let config = shape.config().map_err(Error::from)?;
            let (checkpoint, target, fell_back) = compute.compute()?.synthetic(&config)?;
            note_fallback(fell_back.as_ref(), ui);
            return Ok(Subject::Synthetic(Box::new(Synthetic {
                config,
                checkpoint,
                target,
            })));
        }
        let started = Instant::now();
        let engine = compute.open(&self.model, ui)?;
        Ok(Subject::Model(Box::new(engine), started.elapsed()))
    }
}

impl Subject {
    fn config(&self) -> &Config {
        match self {
            Self::Model(engine, _) => &engine.session.package().config,
            Self::Synthetic(synthetic) => &synthetic.config,
        }
    }

    fn device(&self) -> &Device {
        match self {
            Self::Model(engine, _) => &engine.session.target().device,
            Self::Synthetic(synthetic) => &synthetic.target.device,
        }
    }

    /// The network, how it holds its weights, and how long it took to have it.
    fn load(self, ui: &Ui) -> anyhow::Result<(Model, Storage, Duration)> {
        let started = Instant::now();
        match self {
            Self::Model(mut engine, open_time) => {
                engine.load(ui)?;
                let model = engine.session.load(&mut (), &mut |_, _| ())?.beside();
                let storage = engine.session.target().storage;
                Ok((model, storage, open_time + started.elapsed()))
            }
            Self::Synthetic(synthetic) => {
                let Synthetic {
                    config,
                    checkpoint,
                    target,
                } = *synthetic;
                let model = Model::load(&config, checkpoint, &target, &mut |_, _| {});
                let model = model.map_err(Error::from)?;
                Ok((model, target.storage, started.elapsed()))
            }
        }
    }
}

/// More is to be written than the context holds behind the prompt.
fn no_room(given: usize, new: usize, context: usize) -> UsageError {
    let message = format!(
        "--generate {new} and the {} before it exceed the context of {context}",
        ui::count(given, "token")
    );
    let most = context.saturating_sub(given);
    UsageError::with_hint(message, format!("--generate can be from 1 to {most}"))
}

/// A canvas of `rows` positions through all layers, and all of it through the head, up to what the
/// sampler gets of it.
fn shortest_pass(
    model: &mut Model,
    config: &Config,
    rows: usize,
    isa: Isa,
) -> candle_core::Result<Duration> {
    let ids = token_ids(rows, config);
    let all: Vec<usize> = (0..rows).collect();
    let pass = Pass {
        ids: &ids,
        positions: &all,
        refresh: &all,
        predict: &all,
        attention: config.attention,
    };
    let asked = Asked::greedy(config.vocab_size, 0, rows, isa);
    let mut predicted = Predicted::default();
    let (started, mut shortest, mut passes) = (Instant::now(), Duration::MAX, 0);
    while passes < 2 || started.elapsed() < SPAN {
        let pass_started = Instant::now();
        model.forward_likely(&pass, Some(&asked), &mut predicted)?;
        shortest = shortest.min(pass_started.elapsed());
        passes += 1;
    }
    Ok(shortest)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn shapes_are_valid() {
        for shape in Shape::value_variants() {
            assert!(shape.config().is_ok(), "{shape:?}");
        }
        let parameters = |shape: Shape| shape.config().unwrap().parameters();
        assert_eq!(parameters(Shape::OpenDCoder), 494_032_768); // as Qwen2.5-0.5B's card has it
    }
}
