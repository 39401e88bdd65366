//! Masked-diffusion generation: the denoising loop, and the pure parts it is made of.
//!
//! A canvas of masks is filled over a number of steps. Each step runs the network once, proposes a
//! token for every mask, and reveals the proposals it is surest of. This is the sampler of Dream
//! and DiffuCoder (arXiv 2506.20639; `_sample` in Dream's `generation_utils.py`), step for step.
//! Nothing here knows tensors or files: the network is a [`Denoiser`].
//!
//! At each step every mask gets a token, drawn from its tempered and truncated distribution, and a
//! confidence. The surest are revealed: a fixed number, as published, or all above a threshold. A
//! raised temperature changes the confidences and through them the order, not only the tokens
//! (DiffuCoder, section 4.3). A window bounds what is predicted, and keys and values of what lies
//! outside it are reused. In a hole between texts the first tokens often do not fit the last, so
//! that remasking predicts each once more. Models that can change the length of a hole do so
//! between two steps, and those with block-causal attention are given one block after the other.
//!
//! [`generate`] is the loop. What its next pass looks at is `run` and `window`; what the logits
//! become is `shaped`, `sampling` and `confidence`, with `summary` where they stay on a device;
//! which candidates are revealed is `reveal`, `schedule` and `stability`. A way of decoding is a
//! [`Decoding`], and those that have a name are [`Mode`]s: none has a loop of its own.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use diffucoder::diffusion::{Canvas, Denoiser, Observer, Pass, Settings, Step, generate};
//!
//! const VOCABULARY: usize = 10;
//! const MASK: u32 = 9;
//!
//! /// A network that expects at each position its number.
//! struct Counting;
//!
//! impl Denoiser for Counting {
//!     type Error = Infallible;
//!
//!     fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
//!         logits.clear();
//!         for &at in pass.predict {
//!             logits.extend((0..VOCABULARY).map(|token| if token == at { 5.0 } else { 0.0 }));
//!         }
//!         Ok(pass.ids.len())
//!     }
//! }
//!
//! /// How many tokens each step revealed.
//! struct Counts(Vec<usize>);
//!
//! impl Observer for Counts {
//!     fn on_step(&mut self, step: &Step<'_>) {
//!         self.0.push(step.revealed.len());
//!     }
//! }
//!
//! let mut counts = Counts(Vec::new());
//! let canvas = Canvas::new(&[0, 1], 4, MASK);
//! let done = generate(&mut Counting, canvas, &Settings::reference(2), &mut counts)?;
//! assert_eq!(done.canvas.generated(), [2, 3, 4, 5]);
//! assert_eq!(counts.0, [1, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod arness;
mod bias;
mod blocks;
mod canvas;
mod confidence;
mod decoding;
mod denoiser;
mod kept;
mod mode;
mod random;
mod remasking;
mod reveal;
mod run;
mod sampling;
mod schedule;
mod settings;
mod shaped;
mod stability;
mod summary;
mod window;

pub use bias::LengthBias;
pub use blocks::{Attention, Behind, Blocks, Extent, Share};
pub use canvas::{Canvas, Edit, Piece, Resizing};
pub use confidence::{Algorithm, Candidate};
pub use decoding::{Cache, Decoding, Far, FirstToken, Refresh, Rule};
pub use denoiser::{Denoiser, Pass, Predictions};
pub(crate) use kept::Kept;
pub use mode::{Mode, usual_window};
pub use sampling::{Filtering, Shaping};
pub use schedule::{Schedule, Steps};
pub use settings::{Ending, Settings};
pub use summary::{Asked, Likely, MOST_LISTED, Predicted, Summary};

use rayon::prelude::*;

use random::Purpose;
use run::{Frame, Run};
use shaped::{Candidates, Shaped};
use stability::{Memory, Stability};
use summary::Row;

/// One finished step, for whoever watches.
#[derive(Debug)]
pub struct Step<'a> {
    /// Step number, 0-based.
    pub index: usize,
    /// The canvas after the step.
    pub canvas: &'a Canvas,
    /// What was revealed, surest first, where it stood before `edits`.
    pub revealed: &'a [Candidate],
    /// What of it changed the length of its hole, from right to left.
    pub edits: &'a [Edit],
}

/// Is told of every step, and can end the run.
pub trait Observer {
    /// Called after each step.
    fn on_step(&mut self, step: &Step<'_>);

    /// Asked before each forward pass; `false` ends the run with the canvas as it is.
    fn goes_on(&mut self) -> bool {
        true
    }
}

/// Watches nothing.
impl Observer for () {
    fn on_step(&mut self, _: &Step<'_>) {}
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The final canvas.
    pub canvas: Canvas,
    /// Forward passes run.
    pub forwards: usize,
    /// Positions pushed through the transformer, summed over the forward passes.
    pub rows: usize,
}

/// Why a generation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError<E: std::error::Error + 'static> {
    /// The forward pass failed.
    #[error("the forward pass failed")]
    Model(#[source] E),
    /// The network gave logits that are not as many for each position.
    #[error("the network gave {logits} logits for {positions} positions")]
    Misshapen {
        /// Numbers that it gave.
        logits: usize,
        /// Positions that it was asked for.
        positions: usize,
    },
    /// The network's output is not numbers: broken weights, or a precision that overflows.
    #[error("the model's output at position {position} is not finite (step {step})")]
    NotFinite {
        /// Canvas position.
        position: usize,
        /// Step, 0-based.
        step: usize,
    },
}

/// Fills the masks of `canvas`.
///
/// # Errors
/// When the network fails, or yields infinities, NaN or rows of no one length.
pub fn generate<D: Denoiser>(
    model: &mut D,
    mut canvas: Canvas,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<Generation, GenerateError<D::Error>> {
    let attention = settings.decoding.attention(model.attention());
    let kept = match settings.decoding.reuses_context() {
        true => Kept::of(model, &canvas, attention),
        false => Kept::default(),
    };
    let mut run = Run::new(&canvas, settings, attention, &kept);
    let (mut predicted, mut rows) = (Predicted::default(), 0);
    let mut stability = Stability::default();
    while observer.goes_on()
        && let Some(frame) = run.next(&mut canvas)
    {
        let asked = Asked::of(settings, &canvas, frame.masked());
        let computed = model.forward_likely(&frame.pass(), asked.as_ref(), &mut predicted);
        rows += computed.map_err(GenerateError::Model)?;
        predicted.check(frame.masked().len())?;
        let memories = stability.of(frame.masked());
        let candidates = propose(&mut predicted, memories, frame, &canvas, settings)?;
        let mut revealed = frame.reveals(&candidates);
        if settings.is_planned(&canvas) {
            canvas.mask_others(&candidates, &revealed);
            revealed.retain(|candidate| !canvas.is_revealed(candidate.position));
        }
        for candidate in &revealed {
            canvas.reveal(candidate, frame.step);
        }
        let edits = canvas.resize(frame.step, settings.deletes_rest);
        observer.on_step(&Step {
            index: frame.step,
            canvas: &canvas,
            revealed: &revealed,
            edits: &edits,
        });
        if !edits.is_empty() {
            run.moved(&edits);
            stability = Stability::default();
        }
    }
    Ok(Generation {
        canvas,
        forwards: run.steps(),
        rows,
    })
}

/// An id that no vocabulary has.
const NO_TOKEN: u32 = u32::MAX;

/// A candidate for each masked position of the frame, from what is predicted of it, which is used
/// up, and what is remembered of it.
fn propose<E: std::error::Error + 'static>(
    predicted: &mut Predicted,
    memories: &mut [Memory],
    frame: &Frame,
    canvas: &Canvas,
    settings: &Settings,
) -> Result<Vec<Candidate>, GenerateError<E>> {
    let decoding = &settings.decoding;
    let asks_settled = decoding.threshold.is_some() && decoding.rule == Rule::Klass;
    let candidate = |room: &mut Vec<f32>, (row, memory): (Row<'_>, &mut Memory)| {
        let position = memory.position;
        // Like the mask, ids without a token keep their probability and are no candidates.
        let candidates = Candidates {
            // Where a token stands already, P2 looks only at how sure the draw is, be it of the
            // mask.
            excluded: match canvas.is_revealed(position) {
                true => NO_TOKEN,
                false => canvas.mask_id(),
            },
            tokens: canvas.tokens(),
        };
        let shaped = match row {
            Row::Likely(likely) => Shaped::of_likely(likely),
            Row::Logits(logits) => {
                let barred = canvas.barred(position);
                Shaped::of(logits, barred, candidates, settings, room).ok_or(position)?
            }
        };
        let is_drawn = settings.shaping.temperature > 0.0;
        let uniform = is_drawn.then(|| frame.draws.uniform(Purpose::Token, position));
        Ok(Candidate {
            is_settled: asks_settled && memory.see(shaped.sure()),
            ..shaped.candidate(position, candidates, uniform, settings)
        })
    };
    let rows = predicted.rows(memories.len()).into_par_iter();
    let candidates = rows.zip(memories).map_init(Vec::new, candidate);
    let candidates: Result<_, usize> = candidates.collect();
    candidates.map_err(|position| GenerateError::NotFinite {
        position,
        step: frame.step,
    })
}

#[cfg(test)]
mod tests;
