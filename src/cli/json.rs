//! The object that `generate --output json` prints.

use serde::{Deserialize, Serialize};

use crate::cli::args::compute::device_name;
use diffucoder::diffusion::{Ending, Refresh, Settings};
use diffucoder::model::Target;
use diffucoder::model::device::Storage;

/// The object that `--output json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    pub text: &'a str,
    pub token_ids: &'a [u32],
    pub reveal_step: &'a [Option<usize>],
    pub finish_reason: &'static str,
    pub usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parses: Option<bool>,
    pub timing: Timing,
    pub model: String,
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

impl Usage {
    pub fn new(
        [prompt_tokens, completion_tokens, canvas_tokens]: [usize; 3],
        forwards: usize,
        rows: usize,
    ) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            canvas_tokens,
            forwards,
            rows,
            tokens_per_forward: completion_tokens as f64 / forwards.max(1) as f64,
        }
    }
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
    pub window: Option<usize>,
    pub lookahead: Option<usize>,
    pub cache: &'static str,
    pub refresh: String,
    pub threshold: Option<f32>,
    pub order_temperature: Option<f32>,
    pub remask: usize,
    pub raw: bool,
    pub system: Option<String>,
    pub device: String,
    pub dtype: &'static str,
    pub quant: String,
}

impl SettingsReport {
    /// `system` is the chat template's, `None` where that is not used.
    pub fn new(
        max_new_tokens: usize,
        settings: &Settings,
        system: Option<&str>,
        target: &Target,
    ) -> Self {
        let decoding = &settings.decoding;
        Self {
            max_new_tokens,
            steps: settings.steps,
            algorithm: settings.algorithm.name(),
            temperature: settings.shaping.temperature,
            top_p: settings.shaping.top_p,
            top_k: settings.shaping.top_k,
            alg_temp: settings.alg_temp,
            eps: settings.eps,
            seed: settings.seed,
            exact: settings.ending == Ending::FullCanvas,
            window: decoding.window,
            lookahead: decoding.lookahead,
            cache: decoding.cache.name(),
            refresh: match decoding.refresh {
                Refresh::Window => "window".into(),
                Refresh::Every(passes) => passes.to_string(),
                Refresh::Never => "never".into(),
            },
            threshold: decoding.threshold,
            order_temperature: decoding.order_temperature,
            remask: settings.remask,
            raw: system.is_none(),
            system: system.map(str::to_string),
            device: device_name(target),
            dtype: target.storage.dtype().as_str(),
            quant: match target.storage {
                Storage::Dense(_) => "none".into(),
                other => other.to_string(),
            },
        }
    }
}
