//! The objects that `--output json` prints, and their parts.

use diffucoder::diffusion::{Decoding, Ending, Mode, Refresh, Settings};
use diffucoder::kernels::Isa;
use diffucoder::model::Target;
use diffucoder::model::storage::Storage;
use diffucoder::session::{Job, Outcome, Session};
use serde::{Deserialize, Serialize};

use crate::cli::args::compute::device_name;

/// What `generate --output json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    pub text: &'a str,
    pub token_ids: &'a [u32],
    pub reveal_step: &'a [Option<usize>],
    pub finish_reason: &'static str,
    #[serde(flatten)]
    pub run: RunReport,
}

/// What any run is described by.
#[derive(Serialize)]
pub struct RunReport {
    pub usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parses: Option<bool>,
    pub timing: Timing,
    pub model: String,
    /// What was merged into its weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    pub settings: SettingsReport,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub canvas_tokens: usize,
    pub forwards: usize,
    pub rows: usize,
    #[serde(default)]
    pub tokens_per_forward: f64,
}

#[derive(Serialize)]
pub struct Timing {
    pub load_s: f64,
    pub generate_s: f64,
    pub tokens_per_s: f64,
}

#[derive(Serialize)]
pub struct SettingsReport {
    pub max_new_tokens: usize,
    pub steps: usize,
    pub algorithm: &'static str,
    pub temperature: f32,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub alg_temp: Option<f32>,
    pub eps: f32,
    pub seed: u64,
    pub exact: bool,
    /// The mode that these settings are, `None` where flags have changed it.
    pub mode: Option<&'static str>,
    pub window: Option<usize>,
    pub lookahead: Option<usize>,
    pub far: &'static str,
    pub cache: &'static str,
    pub refresh: String,
    pub first_token: &'static str,
    pub threshold: Option<f32>,
    pub rule: &'static str,
    pub order_temperature: Option<f32>,
    pub threshold_temperature: Option<f32>,
    pub remask: usize,
    pub raw: bool,
    pub system: Option<String>,
    pub device: String,
    pub dtype: &'static str,
    pub quant: String,
    /// Instruction set of the kernels, `None` on a GPU.
    pub isa: Option<&'static str>,
}

/// What the model was asked for, beside the settings.
#[derive(Debug, Clone)]
pub struct Asked {
    pub max_new_tokens: usize,
    /// The system message of the chat template, where that is used.
    pub system: Option<String>,
    pub target: Target,
}

impl Asked {
    pub fn new(session: &Session, job: &Job, system: Option<&str>) -> Self {
        Self {
            max_new_tokens: job.most_new_tokens(),
            system: system.map(str::to_string),
            target: session.target().clone(),
        }
    }
}

impl<'a> Report<'a> {
    /// `text` is what was made of the outcome's.
    pub fn new(text: &'a str, outcome: &'a Outcome, run: RunReport) -> Self {
        Self {
            text,
            token_ids: outcome.canvas.generated(),
            reveal_step: outcome.canvas.reveal_step(),
            finish_reason: outcome.finish().name(),
            run,
        }
    }
}

impl RunReport {
    pub fn new(asked: &Asked, session: &Session, job: &Job, outcome: &Outcome) -> Self {
        Self {
            usage: Usage::new(job, outcome),
            parses: None,
            timing: Timing {
                load_s: session.load_time().as_secs_f64(),
                generate_s: outcome.work.time.as_secs_f64(),
                tokens_per_s: outcome.rate(),
            },
            model: session.package().name(),
            adapter: session.package().adapter().map(str::to_owned),
            settings: SettingsReport::new(asked, &job.settings, job.most_new_tokens()),
        }
    }
}

impl Usage {
    pub fn new(job: &Job, outcome: &Outcome) -> Self {
        let (tokens, work) = (outcome.tokens(), outcome.work);
        Self {
            prompt_tokens: job.given_tokens(),
            completion_tokens: tokens,
            canvas_tokens: outcome.canvas_tokens(),
            forwards: work.forwards,
            rows: work.rows,
            tokens_per_forward: tokens as f64 / work.forwards.max(1) as f64,
        }
    }
}

impl SettingsReport {
    /// Settings of a run that fills `masks` positions.
    pub fn new(asked: &Asked, settings: &Settings, masks: usize) -> Self {
        let (decoding, target) = (&settings.decoding, &asked.target);
        let mode = mode_name(decoding, !target.device.is_cpu());
        let is_exact = !matches!(settings.ending, Ending::AtStop(_));
        Self {
            max_new_tokens: asked.max_new_tokens,
            steps: settings.steps.count(masks),
            algorithm: settings.algorithm.name(),
            temperature: settings.shaping.temperature,
            top_p: settings.shaping.top_p,
            top_k: settings.shaping.top_k,
            alg_temp: settings.alg_temp,
            eps: settings.eps,
            seed: settings.seed,
            exact: is_exact && mode == Some(Mode::Exact.name()) && settings.remask == 0,
            mode,
            window: decoding.window,
            lookahead: decoding.lookahead,
            far: decoding.far.name(),
            cache: decoding.cache.name(),
            refresh: match decoding.refresh {
                Refresh::Window => "window".into(),
                Refresh::Every(passes) => passes.to_string(),
                Refresh::Never => "never".into(),
            },
            first_token: decoding.first_token.name(),
            threshold: decoding.threshold,
            rule: decoding.rule.name(),
            order_temperature: decoding.order_temperature,
            threshold_temperature: decoding.threshold.and(
                decoding
                    .order_temperature
                    .or(decoding.threshold_temperature),
            ),
            remask: settings.remask,
            raw: asked.system.is_none(),
            system: asked.system.clone(),
            device: device_name(target),
            dtype: target.storage.dtype().as_str(),
            quant: quant_name(target),
            isa: target.cpu_isa().map(Isa::name),
        }
    }
}

/// The mode whose decoding this is, or what runs in DreamOn's holes in most modes.
fn mode_name(decoding: &Decoding, is_gpu: bool) -> Option<&'static str> {
    let is_resizing = *decoding == Decoding::resizing();
    let mode = Mode::of(decoding, is_gpu).map(Mode::name);
    mode.or(is_resizing.then_some("resizing"))
}

/// The format that a model's weights are held in, or `none`.
pub fn quant_name(target: &Target) -> String {
    match target.storage {
        Storage::Dense(_) => "none".into(),
        other => other.to_string(),
    }
}
