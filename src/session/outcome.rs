//! What a run wrote.

use super::job::{Filling, Job, Work};
use super::observer::{Ended, whole_characters};
use crate::diffusion::Canvas;
use crate::tokenizer::{Specials, Tokenizer};

/// Filled holes, and what they took.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The holes, left to right.
    pub holes: Vec<Filled>,
    /// The canvas at the end.
    pub canvas: Canvas,
    /// What it took.
    pub work: Work,
}

/// A filled hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    /// Its text, up to where that ends; of a run that was ended early the part that is decided.
    /// Where its first token reaches into the text before it, the text begins behind that. Half a
    /// character at the end is left out, and other bytes that are none are U+FFFD.
    pub text: String,
    /// Tokens of the text; the last may reach beyond its end where [`super::Ends`] cut it.
    pub tokens: usize,
    /// All of the hole; the mask's id where nothing was revealed.
    pub ids: Vec<u32>,
    /// Why it ends there.
    pub finish: Finish,
}

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or what the job's [`super::Ends`] look for.
    Stop,
    /// The hole is full.
    Length,
    /// The time was over.
    Deadline,
    /// Somebody ended the run.
    Cancelled,
}

impl Finish {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Outcome {
    pub(super) fn new(filling: Filling, job: &Job, tokenizer: &Tokenizer) -> Self {
        let Filling {
            canvas,
            work,
            ended,
        } = filling;
        let given = job.given_bytes();
        let filled = |(number, hole): (usize, &std::ops::Range<usize>)| {
            let given = given[number];
            let ids = canvas.ids()[hole.clone()].to_vec();
            // Whole blocks of a block-causal model can be more than is wanted.
            let most = job.most_of(number);
            let decided = canvas.decided_in(hole, job.stop_ids());
            let mut tokens = decided.min(most);
            let bytes = ids[..tokens]
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id));
            let bytes: Vec<u8> = bytes.skip(given).collect();
            let text = String::from_utf8_lossy(&bytes[..whole_characters(&bytes)]);
            let mut text = text.into_owned();
            let cut = job.ends.cut(&text);
            if let Some(end) = cut {
                text.truncate(end);
                tokens = tokens_of(&ids[..tokens], given + end, tokenizer);
            }
            Filled {
                text,
                finish: match ended {
                    _ if cut.is_some() => Finish::Stop,
                    _ if decided > most => Finish::Length,
                    _ if canvas.stop_in(hole, job.stop_ids()).is_some() => Finish::Stop,
                    _ if decided == hole.len() && canvas.has_room(number) => Finish::Stop,
                    _ if decided == hole.len() => Finish::Length,
                    Ended::Late => Finish::Deadline,
                    Ended::Whole => Finish::Length, // its steps were over
                    Ended::Enough | Ended::Cancelled => Finish::Cancelled,
                },
                tokens,
                ids,
            }
        };
        Self {
            holes: canvas.holes().iter().enumerate().map(filled).collect(),
            canvas,
            work,
        }
    }

    /// The texts of all holes, one behind the other: of the only one where there is one.
    pub fn text(&self) -> String {
        self.holes.iter().map(|hole| hole.text.as_str()).collect()
    }

    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.holes.iter().map(|hole| hole.tokens).sum()
    }

    /// Positions of all holes.
    pub fn canvas_tokens(&self) -> usize {
        self.holes.iter().map(|hole| hole.ids.len()).sum()
    }

    /// Why the whole of it ends: [`Finish::Stop`] if each of its texts does, else why the first
    /// other one does.
    pub fn finish(&self) -> Finish {
        let mut finishes = self.holes.iter().map(|hole| hole.finish);
        let other = finishes.find(|&finish| finish != Finish::Stop);
        other.unwrap_or(Finish::Stop)
    }

    /// Tokens of text a second.
    pub fn rate(&self) -> f64 {
        self.tokens() as f64 / self.work.time.as_secs_f64()
    }
}

/// How many of `ids` it takes for this many bytes of their text.
fn tokens_of(ids: &[u32], bytes: usize, tokenizer: &Tokenizer) -> usize {
    let text = |count: usize| tokenizer.decode(&ids[..count], Specials::Keep);
    let whole = text(ids.len());
    let wanted = whole.get(..bytes).unwrap_or(&whole);
    let counts: Vec<usize> = (0..ids.len()).collect();
    counts.partition_point(|&count| !text(count).starts_with(wanted))
}
