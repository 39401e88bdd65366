//! `diffucoder generate`: a prompt in, code out.

use std::time::{Duration, Instant};

use clap::builder::PossibleValue;
use clap::{ArgAction, ValueEnum};
use indicatif::ProgressBar;

use super::download::Download;
use super::prompt::PromptArgs;
use super::report::{Report, SettingsReport, Timing, Usage};
use super::ui::{self, Ui};
use super::values::{Output, at_least_one, inside_unit, share, zero_or_above, zero_or_more};
use super::{ModelArgs, UsageError};
use crate::device::{DeviceChoice, Precision, Quantisation, Storage, free_memory_bytes};
use crate::diffusion::{self, Algorithm, Canvas, Ending, Observer, Settings, Shaping, Step};
use crate::error::Error;
use crate::kernels::Isa;
use crate::model::Target;
use crate::package::{Package, Prompt};
use crate::tokenizer::Specials;

/// Flags of `generate`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,

    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// The system message of the chat template
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "You are a helpful assistant."
    )]
    system: String,

    /// Length of the canvas: the most tokens that can be written
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    #[arg(help_heading = "Sampling")]
    max_new_tokens: usize,
    /// Number of denoising steps [default: as many as new tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Sampling")]
    steps: Option<usize>,
    /// Tokens to reveal at each step, instead of --steps
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "steps")]
    #[arg(help_heading = "Sampling")]
    tokens_per_step: Option<usize>,
    /// What decides the order in which tokens are revealed
    #[arg(long, value_enum, default_value_t = Algorithm::Entropy, help_heading = "Sampling")]
    algorithm: Algorithm,
    /// Randomness of the tokens, and through them of the order; 0 takes the most probable
    /// [default: the authors' for the model, 0.2 to 0.4]
    #[arg(short, long, value_name = "T", value_parser = zero_or_more, allow_negative_numbers = true)]
    #[arg(help_heading = "Sampling")]
    temperature: Option<f32>,
    /// Keep the most probable tokens up to this mass; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share)]
    #[arg(help_heading = "Sampling", allow_negative_numbers = true)]
    top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = zero_or_above)]
    #[arg(help_heading = "Sampling", allow_negative_numbers = true)]
    top_k: usize,
    /// Randomness of the order; 0 reveals the surest first
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = zero_or_more)]
    #[arg(help_heading = "Sampling", allow_negative_numbers = true)]
    alg_temp: f32,
    /// Last timestep of the schedule
    #[arg(long, value_name = "E", default_value_t = 1e-3, value_parser = inside_unit)]
    #[arg(help_heading = "Sampling", allow_negative_numbers = true)]
    eps: f32,
    /// Seed of all randomness; the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    seed: Option<u64>,
    /// Reference mode: fill the whole canvas, as the published sampler does, instead of ending
    /// where the text ends
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Sampling")]
    exact: bool,

    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceChoice::Auto)]
    #[arg(help_heading = "Computing")]
    device: DeviceChoice,
    /// Type of weights and activations: auto, f32, bf16 or f16
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "auto",
        help_heading = "Computing"
    )]
    dtype: Precision,

    /// Quantise the weights while loading them: auto, none, q8_0, q4_0 or q4_k. auto does so only if
    /// float32 weights do not fit the free memory
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "auto",
        help_heading = "Computing"
    )]
    quant: Quantisation,

    /// What to print: the text alone, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl ValueEnum for Algorithm {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(match self {
            Self::Entropy => "lowest entropy first",
            Self::TopkMargin => "largest gap between the two best tokens first",
            Self::MaskgitPlus => "highest probability first",
            Self::Origin => "random order",
        }))
    }
}

/// Runs the command.
///
/// # Errors
/// Wrong usage, or any failure of the library.
pub fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let steps = args.steps()?;
    let text = args.prompt.read()?;
    let device = args.device.open().map_err(Error::from)?;

    // Everything that can be wrong with the request is found before the weights are touched.
    let loading = Instant::now();
    let options = args.model.hub_options();
    let spec = args.model.spec()?;
    let mut download = Download::new(ui, &spec);
    let package = Package::open(&spec, &options, &mut download)?;
    let prompt = if args.raw {
        Prompt::Raw(&text)
    } else {
        package.prompt(&text, &args.system)
    };
    let prompt_ids = package.encode(&prompt)?;
    check_context(
        prompt_ids.len(),
        args.max_new_tokens,
        package.config.max_position_embeddings,
    )?;
    let settings = args.settings(steps, &package);
    let storage = args.storage(&package, &device)?;
    if let (Storage::Quantised(format), Quantisation::Auto) = (storage, args.quant) {
        ui.note(&format!(
            "quantising to {format}: float32 weights do not fit the free memory"
        ));
    }
    let target = Target {
        device,
        storage,
        isa: isa()?,
    };

    let weights = package.fetch_weights(&mut download)?;
    let bar = ui.byte_bar("loading", 0);
    let mut model = package.load(weights, &target, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let load_time = loading.elapsed();

    let started = Instant::now();
    let canvas = Canvas::new(&prompt_ids, args.max_new_tokens, package.mask_id);
    let mut progress = StepProgress {
        bar: ui.step_bar("denoising", steps as u64),
        started,
    };
    let done =
        diffusion::generate(&mut model, canvas, &settings, &mut progress).map_err(Error::from)?;
    progress.bar.finish_and_clear();
    let generate_time = started.elapsed();

    let stop = done.canvas.stop_at(&package.stop_ids);
    let text_ids = &done.canvas.generated()[..stop.unwrap_or(args.max_new_tokens)];
    let text = package.tokenizer.decode(text_ids, Specials::Keep);
    let rate = text_ids.len() as f64 / generate_time.as_secs_f64();
    match args.output {
        Output::Text => ui.result(&text)?,
        Output::Json => {
            let report = Report {
                text: &text,
                token_ids: done.canvas.generated(),
                reveal_step: done.canvas.reveal_step(),
                finish_reason: if stop.is_some() { "stop" } else { "length" },
                usage: Usage::new(prompt_ids.len(), text_ids.len(), &done),
                timing: Timing {
                    load_s: load_time.as_secs_f64(),
                    generate_s: generate_time.as_secs_f64(),
                    tokens_per_s: rate,
                },
                model: package.name(),
                settings: args.report(&settings, &prompt, &target),
            };
            ui.result(&format!("{}\n", serde_json::to_string(&report)?))?;
        }
    }
    ui.status(&format!(
        "{} tokens in {} ({rate:.1} tokens/s) · {} forwards over {} · seed {}",
        text_ids.len(),
        ui::human_time(generate_time),
        done.forwards,
        package.name(),
        settings.seed,
    ));
    Ok(())
}

impl Args {
    /// Number of denoising steps.
    fn steps(&self) -> Result<usize, UsageError> {
        let n = self.max_new_tokens;
        let (flag, value) = match (self.steps, self.tokens_per_step) {
            (Some(steps), _) => ("--steps", steps),
            (None, Some(tokens)) => ("--tokens-per-step", tokens),
            (None, None) => return Ok(n),
        };
        if value > n {
            return Err(UsageError::with_hint(
                format!("{flag} is {value}, but must be from 1 to {n}, the number of new tokens"),
                "-n/--max-new-tokens sets the number of new tokens",
            ));
        }
        Ok(self.steps.unwrap_or_else(|| n.div_ceil(value)))
    }

    /// How to hold the weights.
    fn storage(&self, package: &Package, device: &candle_core::Device) -> anyhow::Result<Storage> {
        if package.is_gguf() {
            let quantises = matches!(self.quant, Quantisation::To(_));
            if quantises || matches!(self.dtype, Precision::Fixed(_)) {
                return Err(UsageError::with_hint(
                    "--quant and --dtype do not apply to a GGUF file",
                    "its weights are used as they are stored",
                )
                .into());
            }
            return Ok(Storage::AsStored);
        }
        let free_bytes = free_memory_bytes(device);
        let parameters = package.config.parameters();
        let storage = Storage::choose(self.dtype, self.quant, device, parameters, free_bytes);
        Ok(storage.map_err(Error::from)?)
    }

    fn settings(&self, steps: usize, package: &Package) -> Settings {
        Settings {
            algorithm: self.algorithm,
            steps,
            eps: self.eps,
            shaping: Shaping {
                temperature: self
                    .temperature
                    .unwrap_or(package.recipe.temperature as f32),
                top_p: Some(self.top_p).filter(|&p| p < 1.0),
                top_k: Some(self.top_k).filter(|&k| k > 0),
            },
            alg_temp: Some(self.alg_temp).filter(|&t| t > 0.0),
            seed: self.seed.unwrap_or_else(new_seed),
            ending: if self.exact {
                Ending::FullCanvas
            } else {
                Ending::AtStop(package.stop_ids.clone())
            },
        }
    }

    fn report<'a>(
        &'a self,
        settings: &Settings,
        prompt: &Prompt<'a>,
        target: &Target,
    ) -> SettingsReport<'a> {
        let system = match prompt {
            Prompt::Raw(_) => None,
            Prompt::Chat { system, .. } => Some(*system),
        };
        SettingsReport {
            max_new_tokens: self.max_new_tokens,
            steps: settings.steps,
            algorithm: settings.algorithm.name(),
            temperature: settings.shaping.temperature,
            top_p: settings.shaping.top_p,
            top_k: settings.shaping.top_k,
            alg_temp: settings.alg_temp,
            eps: settings.eps,
            seed: settings.seed,
            exact: self.exact,
            raw: system.is_none(),
            system,
            device: match target.device.location() {
                candle_core::DeviceLocation::Cpu => DeviceChoice::Cpu,
                candle_core::DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id),
                candle_core::DeviceLocation::Metal { .. } => DeviceChoice::Metal,
            }
            .to_string(),
            dtype: target.storage.dtype().as_str(),
            quant: match target.storage {
                Storage::Dense(_) => "none".into(),
                other => other.to_string(),
            },
        }
    }
}

/// The instructions of the kernels: `DIFFUCODER_ISA`, or the best of this CPU.
fn isa() -> Result<Isa, UsageError> {
    let Ok(name) = std::env::var("DIFFUCODER_ISA") else {
        return Ok(Isa::detect());
    };
    Isa::named(&name).ok_or_else(|| {
        let names: Vec<&str> = Isa::available().map(Isa::name).collect();
        UsageError::with_hint(
            format!("DIFFUCODER_ISA is {name}, which this CPU does not have"),
            format!("it has {}", names.join(", ")),
        )
    })
}

fn check_context(prompt: usize, new: usize, context: usize) -> Result<(), UsageError> {
    if prompt.saturating_add(new) <= context {
        return Ok(());
    }
    let message = format!(
        "the prompt has {prompt} tokens, which with --max-new-tokens {new} exceeds the model's \
         context of {context}"
    );
    Err(match context.checked_sub(prompt) {
        None | Some(0) => UsageError::with_hint(message, "shorten the prompt"),
        Some(room) => UsageError::with_hint(
            message,
            format!("-n/--max-new-tokens can be from 1 to {room}"),
        ),
    })
}

/// A seed that differs from run to run, short enough to be typed again.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// Shows how far the denoising is.
struct StepProgress {
    bar: ProgressBar,
    started: Instant,
}

impl Observer for StepProgress {
    fn on_step(&mut self, step: &Step<'_>) {
        let revealed = step.canvas.reveal_step().iter().flatten().count();
        let rate = revealed as f64
            / self
                .started
                .elapsed()
                .max(Duration::from_millis(1))
                .as_secs_f64();
        self.bar.set_position(step.index as u64 + 1);
        self.bar.set_message(format!(
            "· {revealed}/{} tokens · {rate:.1} tokens/s",
            step.canvas.generated().len()
        ));
    }
}
