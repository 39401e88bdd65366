//! The object that `generate --output json` prints.

use serde::{Deserialize, Serialize};

use crate::diffusion::Generation;

/// The object that `--output json` prints.
#[derive(Serialize)]
pub struct Report<'a> {
    pub text: &'a str,
    pub token_ids: &'a [u32],
    pub reveal_step: &'a [Option<usize>],
    pub finish_reason: &'static str,
    pub usage: Usage,
    pub timing: Timing,
    pub model: String,
    pub settings: SettingsReport,
}

#[derive(Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub canvas_tokens: usize,
    pub forwards: usize,
    pub rows: usize,
}

impl Usage {
    pub fn new(prompt_tokens: usize, completion_tokens: usize, done: &Generation) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            canvas_tokens: done.canvas.generated().len(),
            forwards: done.forwards,
            rows: done.rows,
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
    pub raw: bool,
    pub system: Option<String>,
    pub device: String,
    pub dtype: &'static str,
    pub quant: String,
}
