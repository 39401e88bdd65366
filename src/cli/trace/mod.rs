//! A run on record: one JSON object a line, for `--trace`, and back again for `diffucoder report`.
//!
//! A header, one line a step, an end. Each line is written at once, so that a run that is killed
//! leaves whole lines. Positions count from the start of the generated part.

mod read;
mod record;

use diffucoder::session::{Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::json::Usage;

pub use self::read::Trace;
pub use self::record::{Recorder, TraceFile};

/// Version of the format: a reader refuses what it does not know.
const VERSION: u32 = 1;

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Header(Header),
    Step(StepLine),
    End(End),
}

/// What is known before the first step.
#[derive(Serialize, Deserialize)]
pub struct Header {
    version: u32,
    pub model: String,
    pub settings: Value,
    /// The prompt as the model got it, chat template included.
    pub prompt: String,
    pub prompt_tokens: usize,
    /// The most that it can become, from the first mask on.
    canvas_tokens: usize,
    /// Whether it starts with less.
    #[serde(default)]
    grows: bool,
    /// Texts between the masks and behind them.
    #[serde(default)]
    pub given: Vec<GivenText>,
    pub stop_ids: Vec<u32>,
}

/// A text that the canvas holds from the beginning.
#[derive(Serialize, Deserialize)]
pub struct GivenText {
    /// Its first position.
    pub first: usize,
    /// Its tokens.
    pub len: usize,
    pub text: String,
}

/// What a step revealed, surest first: four or five lists of the same length.
#[derive(Serialize, Deserialize)]
pub struct StepLine {
    pub step: usize,
    /// Since the first step began.
    pub elapsed_s: f64,
    pub positions: Vec<usize>,
    pub tokens: Vec<u32>,
    pub texts: Vec<String>,
    pub confidences: Vec<Option<f32>>,
    /// In hexadecimal, where some token is not whole characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<Vec<String>>,
    /// What of it changed the length of its hole, after which everything behind it stands
    /// elsewhere: positions, and the masks that stand there now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    edits: Vec<(usize, usize)>,
}

/// How it ended.
#[derive(Serialize, Deserialize)]
pub struct End {
    pub finish_reason: String,
    pub text: String,
    pub usage: Usage,
    pub generate_s: f64,
}

impl End {
    /// Of a run that made `text`.
    pub fn new(text: String, job: &Job, outcome: &Outcome) -> Self {
        Self {
            finish_reason: outcome.finish().name().into(),
            text,
            usage: Usage::new(job, outcome),
            generate_s: outcome.work.time.as_secs_f64(),
        }
    }
}

impl StepLine {
    /// Leaves out all but some of its tokens.
    fn keep(&mut self, kept: &[bool]) {
        fn retain<T>(list: &mut Vec<T>, kept: &[bool]) {
            let mut kept = kept.iter();
            list.retain(|_| kept.next() == Some(&true));
        }
        retain(&mut self.tokens, kept);
        retain(&mut self.texts, kept);
        retain(&mut self.confidences, kept);
        if let Some(bytes) = &mut self.bytes {
            retain(bytes, kept);
        }
    }

    /// The bytes of each token.
    pub fn token_bytes(&self) -> Vec<Vec<u8>> {
        let from_hex = |hex: &String| {
            let digit = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            (0..hex.len()).step_by(2).filter_map(digit).collect()
        };
        match &self.bytes {
            Some(bytes) => bytes.iter().map(from_hex).collect(),
            None => self.texts.iter().map(|t| t.clone().into_bytes()).collect(),
        }
    }
}
