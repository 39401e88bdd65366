//! What is to be written: texts, and holes between and behind them.

use std::borrow::Cow;

use super::excerpt::{self, LeftOut, Source};
use super::hole::{Hole, is_between};
use super::job::Job;
use super::seam::Seam;
use crate::diffusion::{Attention, Settings};
use crate::error::{Error, RequestError};
use crate::infill::Template;
use crate::package::{Package, Prompt};
use crate::tokenizer::Added;

/// Texts and holes, and how to fill these.
#[derive(Debug, Clone, PartialEq)]
pub struct Task<'a> {
    /// What the canvas is made of, from left to right.
    pub segments: Vec<Segment<'a>>,
    /// How to denoise; `None` is what follows from the model ([`super::Session::settings`]).
    pub settings: Option<Settings>,
    /// Tokens that the model is shown at most, holes included; `None` is as many as it can see and
    /// as pay off ([`super::Session::usual_context`]). Of longer texts, what is nearest to the
    /// holes is shown ([`Job::left_out`]).
    pub context: Option<usize>,
    /// Whether the first token of a hole can reach into the text before it, which writes better
    /// than a text that ends inside of a word; the samplers as published have no such thing.
    pub token_healing: bool,
}

/// A part of a canvas.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment<'a> {
    /// Text in which nothing but characters is meant: the names of special tokens are text too.
    /// Its end and the hole behind it are fitted together: the hole's first token can be one that
    /// begins with the space or the part of a word before it. Two in a row are not, and are shown
    /// whole.
    Text(Cow<'a, str>),
    /// A prompt, as it is or in the model's chat template; special tokens count by their names in
    /// [`Prompt::Raw`] alone. One in the template is shown whole or not at all ([`super::Session::fit`]).
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
            context: None,
            token_healing: true,
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
            context: None,
            token_healing: true,
        }
    }

    /// The same with these settings.
    #[must_use]
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// The same with so many tokens of context, or as many as usual.
    #[must_use]
    pub fn within(mut self, context: Option<usize>) -> Self {
        self.context = context;
        self
    }

    /// The task in tokens, at most `context` with those to be written. `usual` are the settings
    /// where the task has none, given whether text follows a hole.
    ///
    /// # Errors
    /// [`RequestError`] when it does not fit; failures of template and tokenizer.
    pub(super) fn encode(
        &self,
        package: &Package,
        context: usize,
        usual: impl FnOnce(bool) -> Settings,
    ) -> Result<Job, Error> {
        let hole = |segment: &Segment<'_>| match segment {
            Segment::Hole(hole) => Some(*hole),
            Segment::Text(_) | Segment::Prompt(_) => None,
        };
        let mut holes: Vec<Hole> = self.segments.iter().filter_map(hole).collect();
        let stretches = self.segments.split(|segment| hole(segment).is_some());
        let is_resizing = holes
            .iter()
            .any(|hole| matches!(hole, Hole::Resizing { .. }));
        let around = package.infilling.filter(|_| is_resizing);
        let ends = around.map_or(0, |around| 1 + usize::from(around.first_id.is_some()));
        let reserved = reserved_tokens(&holes, context).saturating_add(ends);
        let room = context.saturating_sub(reserved);
        let mut seams = vec![Seam::default(); holes.len()];
        let texts = stretches.enumerate().map(|(i, segments)| {
            let text = Text::of(segments, package, [reserved, context])?;
            match (text, seams.get_mut(i), segments.last()) {
                (Text::Long(text, Added::Plain), Some(seam), Some(Segment::Text(_)))
                    if self.token_healing && around.is_none() =>
                {
                    *seam = Seam::behind(&package.tokenizer, text)?;
                    let end = text.len() - seam.piece.len();
                    Ok(Text::Long(&text[..end], Added::Plain))
                }
                (text, ..) => Ok(text),
            }
        });
        let texts = texts.collect::<Result<Vec<_>, Error>>()?;
        let (mut texts, left_out) = shown(texts, package, room)?;
        let is_forward = package.config.attention != Attention::Full;
        if is_forward && (is_between(&texts) || holes.len() > 1) {
            return Err(RequestError::WritesForward.into());
        }
        let given: usize = texts.iter().map(Vec::len).sum();
        if given == 0 && !left_out.is_nothing() {
            return Err(too_long(1, reserved, context));
        }
        if let (Some(around), [first, .., last]) = (around, &mut *texts) {
            first.splice(0..0, around.first_id);
            last.push(around.resizing.delete_id);
        }
        let is_last_open = texts.last().is_some_and(Vec::is_empty);
        let settings = self.settings.clone();
        let settings = settings.unwrap_or_else(|| usual(is_between(&texts)));
        let last = holes.len().saturating_sub(1);
        let others = holes.iter().take(last);
        let others = others.fold(0, |sum: usize, hole| sum.saturating_add(hole.most()));
        let room = context.saturating_sub(given).saturating_sub(others);
        for (number, hole) in holes.iter_mut().enumerate() {
            if let Hole::Growing { up_to } = hole {
                if number != last || !is_last_open {
                    return Err(RequestError::GrowsBetween.into());
                }
                *up_to = (*up_to).min(room.max(1)); // of no room the check below tells
            }
        }
        let special = (package.mask_id, &*package.stop_ids);
        let job = Job::new(texts, holes, special, settings)
            .of_tokens(package.tokenizer.vocab_size())
            .with_length_bias(package.recipe.lengths.bias)
            .resizing(package.infilling.map(|infilling| infilling.resizing))
            .with(seams, left_out)
            .within(context)?;
        Ok(job)
    }
}

/// Tokens of a context that are kept for what is written. A hole that grows takes what the text
/// leaves, and of a text that leaves nothing half of the context.
fn reserved_tokens(holes: &[Hole], context: usize) -> usize {
    let most = holes.iter().map(|hole| match *hole {
        Hole::Growing { up_to } => up_to.min(USUAL_TOKENS).min(context / 2),
        Hole::Exactly(_) | Hole::Chosen { .. } | Hole::Resizing { .. } => hole.most(),
    });
    most.fold(0, usize::saturating_add)
}

/// What stands before, between or behind holes.
enum Text<'t> {
    /// Tokens that are all shown.
    Whole(Vec<u32>),
    /// A text of any length.
    Long(&'t str, Added),
}

impl<'t> Text<'t> {
    /// One text can be cut; several in a row, and what is in a template, cannot.
    /// `sizes` are the tokens that can be written, and those of the context.
    fn of(
        segments: &'t [Segment<'_>],
        package: &Package,
        sizes: [usize; 2],
    ) -> Result<Self, Error> {
        match segments {
            [] => Ok(Self::Long("", Added::Plain)),
            [Segment::Text(text)] => Ok(Self::Long(text, Added::Plain)),
            [Segment::Prompt(Prompt::Text(text))] => Ok(Self::Long(text, Added::Plain)),
            [Segment::Prompt(Prompt::Raw(text))] => {
                package.tokenizer.check_prompt(text, package.mask_id)?;
                Ok(Self::Long(text, Added::Recognised))
            }
            several => {
                let mut ids = Vec::new();
                for segment in several {
                    ids.extend(match segment {
                        Segment::Text(text) => package.tokenizer.encode_plain(text)?,
                        Segment::Prompt(prompt) => {
                            // No template is rendered with what is far too long.
                            let (text, [new, context]) = (prompt.longest_text(), sizes);
                            let given = excerpt::tokens_up_to(&package.tokenizer, text, context)?;
                            if given > context {
                                return Err(too_long(given, new, context));
                            }
                            package.encode(prompt)?
                        }
                        Segment::Hole(_) => Vec::new(),
                    });
                }
                Ok(Self::Whole(ids))
            }
        }
    }
}

/// The texts in at most `room` tokens, and what is left out of those that can be cut.
fn shown(
    texts: Vec<Text<'_>>,
    package: &Package,
    room: usize,
) -> Result<(Vec<Vec<u32>>, LeftOut), Error> {
    let whole = texts.iter().map(|text| match text {
        Text::Whole(ids) => ids.len(),
        Text::Long(..) => 0,
    });
    let room = room.saturating_sub(whole.sum());
    let last = texts.len() - 1;
    let sources = texts
        .iter()
        .enumerate()
        .filter_map(|(i, text)| match *text {
            Text::Whole(_) => None,
            Text::Long(text, added) => Some(Source {
                text,
                added,
                follows: i > 0,
                precedes: i < last,
            }),
        });
    let sources: Vec<_> = sources.collect();
    let (kept, left_out) = excerpt::cut(&package.tokenizer, &sources, room)?;
    let mut kept = kept.into_iter();
    let texts = texts.into_iter().map(|text| match text {
        Text::Whole(ids) => ids,
        Text::Long(..) => kept.next().unwrap_or_default(),
    });
    Ok((texts.collect(), left_out))
}

fn too_long(given: usize, new: usize, context: usize) -> Error {
    RequestError::TooLong {
        given,
        new,
        context,
    }
    .into()
}
