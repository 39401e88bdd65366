//! What is to be written: texts, and holes between and behind them.

use std::borrow::Cow;

use super::hole::{Hole, is_between};
use super::job::Job;
use crate::diffusion::Settings;
use crate::error::{Error, RequestError};
use crate::infill::Template;
use crate::package::{Package, Prompt};

/// Texts and holes, and how to fill these.
#[derive(Debug, Clone, PartialEq)]
pub struct Task<'a> {
    /// What the canvas is made of, from left to right.
    pub segments: Vec<Segment<'a>>,
    /// How to denoise; `None` is what follows from the model ([`super::Session::settings`]).
    pub settings: Option<Settings>,
}

/// A part of a canvas.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment<'a> {
    /// Text in which nothing but characters is meant: the names of special tokens are text too.
    Text(Cow<'a, str>),
    /// A prompt, raw or in the model's chat template; special tokens count by their names.
    Prompt(Prompt<'a>),
    /// To be filled.
    Hole(Hole),
}

/// Tokens that [`Task::complete`] writes at most.
const USUAL_TOKENS: usize = 256;

impl<'a> Task<'a> {
    /// The continuation of a text, of up to 256 tokens.
    pub fn complete(text: &'a str) -> Self {
        Self::answer(Prompt::Raw(text), Hole::Exactly(USUAL_TOKENS))
    }

    /// What follows a prompt.
    pub fn answer(prompt: Prompt<'a>, hole: Hole) -> Self {
        Self {
            segments: vec![Segment::Prompt(prompt), Segment::Hole(hole)],
            settings: None,
        }
    }

    /// The holes of a file, those without a length being `open`. [`Template::fill`] makes the file
    /// of what comes out.
    pub fn fill(template: &Template, open: Hole) -> Self {
        let holes = template.holes().iter();
        let mut holes = holes.map(|hole| hole.tokens.map_or(open, Hole::Exactly));
        let mut segments = Vec::new();
        for text in template.texts() {
            segments.push(Segment::Text(text.into()));
            segments.extend(holes.next().map(Segment::Hole));
        }
        Self {
            segments,
            settings: None,
        }
    }

    /// The same with these settings.
    #[must_use]
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// The task in tokens, checked against the model's context. `usual` are the settings where the
    /// task has none, given whether text follows a hole.
    ///
    /// # Errors
    /// [`RequestError`] when it does not fit; failures of template and tokenizer.
    pub(super) fn encode(
        &self,
        package: &Package,
        usual: impl FnOnce(bool) -> Settings,
    ) -> Result<Job, Error> {
        let context = package.config.max_position_embeddings;
        let (mut texts, mut holes) = (vec![Vec::new()], Vec::new());
        for segment in &self.segments {
            let ids = match segment {
                Segment::Text(text) => package.tokenizer.encode_plain(text)?,
                Segment::Prompt(prompt) => package.encode(prompt)?,
                Segment::Hole(hole) => {
                    holes.push(*hole);
                    texts.push(Vec::new());
                    continue;
                }
            };
            if let Some(text) = texts.last_mut() {
                text.extend(ids);
            }
        }
        let given: usize = texts.iter().map(Vec::len).sum();
        let is_last_open = texts.last().is_some_and(Vec::is_empty);
        let settings = self.settings.clone();
        let settings = settings.unwrap_or_else(|| usual(is_between(&texts)));
        let last = holes.len().saturating_sub(1);
        for (number, hole) in holes.iter_mut().enumerate() {
            if let Hole::Growing { up_to } = hole {
                if number != last || !is_last_open {
                    return Err(RequestError::GrowsBetween.into());
                }
                *up_to = (*up_to).min(context.saturating_sub(given)).max(1);
            }
        }
        let job = Job::new(texts, holes, (package.mask_id, &package.stop_ids), settings)
            .of_tokens(package.tokenizer.vocab_size());
        job.check(context)?;
        Ok(job)
    }
}
