//! A task in tokens, and the run that fills it: lengths, canvas, denoising, and where the text
//! ends.

use std::time::{Duration, Instant};

use super::ends::Ends;
use super::excerpt::LeftOut;
use super::hole::{Hole, canvas, is_between};
use super::length::{self, Known};
use super::observer::{Conditions, Ended, Watch};
use super::seam::{Seam, Seamed};
use crate::diffusion::{
    Algorithm, Attention, Canvas, Denoiser, Ending, Extent, GenerateError, LengthBias, Resizing,
    Settings, Steps, generate,
};
use crate::error::RequestError;

/// Texts and holes in tokens, one hole fewer than there are texts: what
/// [`super::Session::prepare`] makes of a task.
#[derive(Debug, Clone)]
pub struct Job {
    /// How to denoise. Another seed draws another text.
    pub settings: Settings,
    /// What ends the texts in the holes, beside the model. A run that looks for text
    /// ([`super::Session::run_job`]) is over once all of them have ended.
    pub ends: Ends,
    texts: Vec<Vec<u32>>,
    holes: Vec<Hole>,
    seams: Vec<Seam>, // one for each hole
    left_out: LeftOut,
    context: usize, // positions that its canvas has at most
    mask_id: u32,
    stop_ids: Vec<u32>,
    tokens: usize, // ids below it are drawn
    resizing: Option<Resizing>,
    length_bias: LengthBias,
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Forward passes.
    pub forwards: usize,
    /// Positions pushed through the transformer, summed over the forward passes.
    pub rows: usize,
    /// From the first pass to the last.
    pub time: Duration,
}

/// A run in tokens.
#[derive(Debug, Clone)]
pub struct Filling {
    /// The canvas at the end.
    pub canvas: Canvas,
    /// What it took; in a job's first run that includes the choice of lengths.
    pub work: Work,
    pub(super) ended: Ended,
}

impl Job {
    /// `texts` are one more than `holes`; `mask_id` and the ids that end a text are the model's.
    pub fn new(
        texts: Vec<Vec<u32>>,
        holes: Vec<Hole>,
        (mask_id, stop_ids): (u32, &[u32]),
        settings: Settings,
    ) -> Self {
        Self {
            settings,
            ends: Ends::default(),
            texts,
            seams: vec![Seam::default(); holes.len()],
            holes,
            left_out: LeftOut::default(),
            context: usize::MAX,
            mask_id,
            stop_ids: stop_ids.to_vec(),
            tokens: usize::MAX,
            resizing: None,
            length_bias: LengthBias::PUBLISHED,
        }
    }

    /// The same for a tokenizer of so many tokens ([`Canvas::of_tokens`]), which the samplers as
    /// published do not know.
    #[must_use]
    pub fn of_tokens(mut self, tokens: usize) -> Self {
        self.tokens = tokens;
        self
    }

    /// The same for a model that can make holes longer and shorter.
    #[must_use]
    pub fn resizing(mut self, resizing: Option<Resizing>) -> Self {
        self.resizing = resizing;
        self
    }

    /// The same for a model that is so sure of holes by their length alone.
    #[must_use]
    pub(crate) fn with_length_bias(mut self, bias: LengthBias) -> Self {
        self.length_bias = bias;
        self
    }

    /// The same with what its holes begin with, and what is not shown of its texts.
    pub(super) fn with(mut self, seams: Vec<Seam>, left_out: LeftOut) -> Self {
        (self.seams, self.left_out) = (seams, left_out);
        self
    }

    /// The same where this is not shown either.
    pub(super) fn with_left_out(mut self, rest: LeftOut) -> Self {
        self.left_out.add(rest);
        self
    }

    /// What is not shown of the texts.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Bytes at the beginning of each hole's first token that stand in the text before the hole.
    pub fn given_bytes(&self) -> Vec<usize> {
        self.seams.iter().map(|seam| seam.piece.len()).collect()
    }

    /// The same for a model that is shown so many tokens at most.
    ///
    /// # Errors
    /// [`RequestError`] with the sizes, where there is nothing to fill or it does not fit.
    pub fn within(mut self, context: usize) -> Result<Self, RequestError> {
        if self.holes.is_empty() || self.holes.iter().any(|hole| hole.most() == 0) {
            return Err(RequestError::NothingToFill);
        }
        let (given, new) = (self.given_tokens(), self.most_new_tokens());
        if given.saturating_add(new) > context {
            return Err(RequestError::TooLong {
                given,
                new,
                context,
            });
        }
        self.context = context;
        Ok(self)
    }

    /// Tokens that a hole can become.
    pub(super) fn most_of(&self, hole: usize) -> usize {
        self.holes[hole].most()
    }

    /// Tokens that are given.
    pub fn given_tokens(&self) -> usize {
        self.texts.iter().map(Vec::len).sum()
    }

    /// Tokens that can be written.
    pub fn most_new_tokens(&self) -> usize {
        let lengths = self.holes.iter().map(|hole| hole.most());
        lengths.fold(0, usize::saturating_add)
    }

    /// Whether text follows a hole.
    pub fn is_between(&self) -> bool {
        is_between(&self.texts)
    }

    /// Whether its canvas grows while it is filled.
    pub fn is_growing(&self) -> bool {
        let mut holes = self.holes.iter();
        holes.any(|hole| matches!(hole, Hole::Growing { .. }))
    }

    /// Whether the model makes holes of it longer and shorter.
    pub fn is_resizing(&self) -> bool {
        let mut holes = self.holes.iter();
        self.resizing.is_some() && holes.any(|hole| matches!(hole, Hole::Resizing { .. }))
    }

    /// Ids that end a text.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Fills the holes. Lengths are chosen in the first run and kept for those that follow.
    ///
    /// # Errors
    /// When the network fails, or yields infinities or NaN.
    pub fn run<D: Denoiser>(
        &mut self,
        model: &mut D,
        conditions: &mut Conditions<'_>,
    ) -> Result<Filling, GenerateError<D::Error>> {
        let chosen_in = self.choose_lengths(model, conditions)?;
        let started = Instant::now();
        let canvas = self.canvas(model.attention());
        let settings = &self.settings;
        conditions.tell(|observer| observer.on_start(&canvas, settings));
        let is_remasked = settings.remask > 0 || settings.algorithm == Algorithm::P2;
        let most = self.holes.iter().map(|hole| hole.most()).collect();
        let mut watch = Watch::new(conditions, &self.stop_ids, most, is_remasked);
        let mut seamed = Seamed::new(model, &canvas, &self.seams);
        let done = generate(&mut seamed, canvas, settings, &mut watch)?;
        let ended = watch.finish(&done);
        Ok(Filling {
            work: Work {
                forwards: chosen_in.forwards + done.forwards,
                rows: chosen_in.rows + done.rows,
                time: chosen_in.time + started.elapsed(),
            },
            canvas: done.canvas,
            ended,
        })
    }

    /// Decides how long the holes are that have no length yet.
    fn choose_lengths<D: Denoiser>(
        &mut self,
        model: &mut D,
        conditions: &mut Conditions<'_>,
    ) -> Result<Work, GenerateError<D::Error>> {
        let mut holes = self.holes.iter();
        let is_open = holes.any(|hole| matches!(hole, Hole::Chosen { .. }));
        if !is_open || conditions.is_over().is_some() {
            return Ok(Work::default());
        }
        let started = Instant::now();
        let goes_on = &mut |done| {
            conditions.tell(|observer| observer.on_trial(done));
            conditions.is_over().is_none()
        };
        let known = Known {
            mask_id: self.mask_id,
            tokens: self.tokens,
            bias: self.length_bias,
            reuses_context: self.settings.decoding.reuses_context(),
            isa: self.settings.isa,
        };
        let chosen = length::by_confidence(
            model,
            (&self.texts, &self.holes, &self.seams),
            known,
            goes_on,
        )?;
        for (hole, length) in self.holes.iter_mut().zip(chosen.lengths) {
            if let Hole::Chosen { .. } = hole {
                *hole = Hole::Exactly(length);
            }
        }
        // A number of steps was meant for the longest that the holes could become.
        let masks = self.most_new_tokens();
        if let Steps::Count(steps) = &mut self.settings.steps {
            *steps = (*steps).min(masks);
        }
        Ok(Work {
            forwards: chosen.forwards,
            rows: chosen.rows,
            time: started.elapsed(),
        })
    }

    /// A prompt and the rest of the block that it ends in, to grow by whole blocks. `None` where
    /// that is not how the model is given its canvas.
    fn in_blocks(&self, attention: Attention) -> Option<Canvas> {
        let decoding = &self.settings.decoding;
        let attention = decoding.attention(attention);
        let (Attention::BlockCausal(size), [hole]) = (attention, &*self.holes) else {
            return None;
        };
        let given = self.given_tokens();
        let extent = decoding
            .blocks
            .map_or(Extent::Tokens, |blocks| blocks.extent);
        // A block that the context ends in is shorter.
        let limit = extent.end(given, hole.most(), size).min(self.context);
        let end = match decoding.is_padded() {
            true => given.saturating_add(size),
            false => attention.end(given),
        };
        let first = limit.min(end) - given;
        Some(canvas(&self.texts, &[first], self.mask_id).growing_to(limit))
    }

    fn canvas(&self, attention: Attention) -> Canvas {
        let canvas = self.in_blocks(attention).unwrap_or_else(|| {
            let lengths: Vec<usize> = self.holes.iter().map(|hole| hole.first()).collect();
            let canvas = canvas(&self.texts, &lengths, self.mask_id);
            match self.holes.last() {
                Some(Hole::Growing { up_to }) => {
                    let limit = canvas.ids().len() - 1 + up_to;
                    canvas.growing_to(limit)
                }
                _ => canvas,
            }
        });
        let canvas = match self.settings.ending {
            // As published: rows without a token are revealed too.
            Ending::FullCanvas | Ending::AfterBlock(_) | Ending::InBlock(_) => canvas,
            Ending::AtStop(_) => canvas.of_tokens(self.tokens),
        };
        if let Some(resizing) = self.resizing {
            let longest = self.holes.iter().map(|hole| match hole {
                Hole::Resizing { .. } => Some(hole.most()),
                Hole::Exactly(_) | Hole::Chosen { .. } | Hole::Growing { .. } => None,
            });
            return canvas.resizing(resizing, &longest.collect::<Vec<_>>());
        }
        canvas
    }
}
