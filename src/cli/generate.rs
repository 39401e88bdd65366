//! `diffucoder generate`: a prompt in, code out.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::ModelArgs;
use super::engine::{ComputeArgs, Opened, device_name};
use super::prompt::PromptArgs;
use super::report::{Report, SettingsReport, Timing, Usage};
use super::sampling::{Mode, SamplingArgs, check_context};
use super::ui::{self, Ui};
use super::values::Output;
use crate::device::Storage;
use crate::diffusion::{self, Canvas, Observer, Settings, Step};
use crate::error::Error;
use crate::model::Target;
use crate::package::Prompt;
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

    /// What to print: the text alone, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,

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
    let sampling = &args.sampling;
    sampling.steps()?;
    let text = args.prompt.read()?;
    let opened = Opened::open(&args.model, &args.compute, ui)?;
    let package = &opened.package;
    let prompt = if args.raw {
        Prompt::Raw(&text)
    } else {
        package.prompt(&text, &args.system)
    };
    let prompt_ids = package.encode(&prompt)?;
    check_context(
        prompt_ids.len(),
        sampling.max_new_tokens,
        package.config.max_position_embeddings,
    )?;
    let settings = sampling.settings(package, opened.target.device.is_cpu())?;
    let mut engine = opened.load(ui)?;
    let package = &engine.package;

    let started = Instant::now();
    let canvas = Canvas::new(&prompt_ids, sampling.max_new_tokens, package.mask_id);
    let mut progress = StepProgress {
        bar: ui.step_bar("denoising", settings.steps as u64),
        started,
    };
    let done = diffusion::generate(&mut engine.model, canvas, &settings, &mut progress)
        .map_err(Error::from)?;
    progress.bar.finish_and_clear();
    let generate_time = started.elapsed();

    let stop = done.canvas.stop_at(&package.stop_ids);
    let text_ids = &done.canvas.generated()[..stop.unwrap_or(sampling.max_new_tokens)];
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
                    load_s: engine.load_time.as_secs_f64(),
                    generate_s: generate_time.as_secs_f64(),
                    tokens_per_s: rate,
                },
                model: package.name(),
                settings: args.report(&settings, &prompt, &engine.target),
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
            max_new_tokens: self.sampling.max_new_tokens,
            steps: settings.steps,
            algorithm: settings.algorithm.name(),
            temperature: settings.shaping.temperature,
            top_p: settings.shaping.top_p,
            top_k: settings.shaping.top_k,
            alg_temp: settings.alg_temp,
            eps: settings.eps,
            seed: settings.seed,
            exact: self.sampling.mode() == Mode::Exact,
            raw: system.is_none(),
            system,
            device: device_name(target),
            dtype: target.storage.dtype().as_str(),
            quant: match target.storage {
                Storage::Dense(_) => "none".into(),
                other => other.to_string(),
            },
        }
    }
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
