//! What is asked, whatever the protocol.

use std::time::Duration;

use diffucoder::chat::Message;
use diffucoder::infill::Template;
use diffucoder::session::Ends;
use diffucoder::text::lines;

/// What is wanted.
#[derive(Debug)]
pub struct Ask {
    /// What texts are written for, one after the other; not empty.
    pub forms: Vec<Form>,
    /// Most new tokens of a text.
    pub most: Option<usize>,
    /// How many texts of each.
    pub count: u32,
    pub ends: Ends,
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<usize>,
    pub seed: Option<u64>,
    /// When it is over since the first token, a text ends with the lines that it has.
    pub limit: Option<Duration>,
    pub is_streamed: bool,
    /// Whether the canvas is sent after each step.
    pub is_shown: bool,
    /// Whether it takes the place of its client's older ones of this kind: a suggestion for a text
    /// that has changed is of no use.
    pub replaces_older: bool,
}

impl Ask {
    /// One text of each, drawn as usual.
    pub fn new(forms: Vec<Form>) -> Self {
        Self {
            forms,
            most: None,
            count: 1,
            ends: Ends::default(),
            temperature: None,
            top_p: None,
            top_k: None,
            seed: None,
            limit: None,
            is_streamed: false,
            is_shown: false,
            replaces_older: false,
        }
    }
}

/// What the model is given.
#[derive(Debug)]
pub enum Form {
    /// A hole between two texts, or behind the first where there is no second, with other texts
    /// that can help.
    Code {
        prefix: String,
        suffix: String,
        extra: Vec<String>,
        /// Whether lines end in CR and LF.
        is_crlf: bool,
    },
    /// Holes of a file, which are filled together.
    Holes(Template),
    Chat(Vec<Message>),
}

impl Form {
    pub fn code(prefix: String, suffix: String, extra: Vec<String>) -> Self {
        let is_crlf = lines::is_crlf(format!("{prefix}{suffix}").as_bytes());
        let suffix = match suffix.trim() {
            "" | "<|endoftext|>" => String::new(), // the latter is what Continue sends for none
            _ => suffix,
        };
        Self::Code {
            prefix,
            suffix,
            extra,
            is_crlf,
        }
    }
}
