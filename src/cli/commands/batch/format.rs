//! The forms that lines can have, and the keys of each.

use clap::ValueEnum;

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// id, prompt or prefix and suffix; results as of `generate --output json`
    Json,
    /// task_id and prompt; results have task_id and solution, as EvalPlus reads them
    Evalplus,
    /// task_id and prompt; results have task_id and completion, as human-eval reads them
    HumanEval,
}

impl LineFormat {
    pub fn id_key(self) -> &'static str {
        match self {
            Self::Json => "id",
            Self::Evalplus | Self::HumanEval => "task_id",
        }
    }

    pub fn text_key(self) -> &'static str {
        match self {
            Self::Json => "text",
            Self::Evalplus => "solution",
            Self::HumanEval => "completion",
        }
    }
}
