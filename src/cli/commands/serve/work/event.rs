//! What comes of a request, as it comes.

use std::time::Duration;

use diffucoder::diffusion::Settings;
use diffucoder::session::Work;

use super::refusal::Refusal;
use super::shown::Shown;

/// What happens to a request.
#[derive(Debug)]
pub enum Event {
    /// Its text is about to be written: nothing is wrong with the request.
    Begun,
    /// A piece of the text with this number.
    Text(usize, String),
    /// The canvas after a step.
    Shown(Box<Shown>),
    Written(Box<Written>),
    Failed(Refusal),
}

/// A text that is written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Its number among those of the request.
    pub index: usize,
    pub text: String,
    /// The texts of all holes, where there can be several.
    pub fillings: Vec<String>,
    pub stop: Stop,
    pub given: usize,
    pub tokens: usize,
    /// Whether not all of the request's text was shown to the model.
    pub is_cut: bool,
    /// Until the first token, and from there.
    pub times: [Duration; 2],
    pub work: Work,
    /// `None` where nothing was drawn.
    pub settings: Option<Settings>,
}

/// Why a text ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stop {
    /// The model ended it.
    End,
    /// One of the given texts follows.
    Word(String),
    /// There is no more room, or no more time.
    #[default]
    Limit,
}

impl Stop {
    /// OpenAI's word for it.
    pub fn finish_reason(&self) -> &'static str {
        match self {
            Self::End | Self::Word(_) => "stop",
            Self::Limit => "length",
        }
    }
}
