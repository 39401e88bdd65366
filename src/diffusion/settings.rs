//! How to denoise: what decides the order, how many steps there are, and when it ends.

use super::blocks::Behind;
use super::canvas::Canvas;
use super::confidence::Algorithm;
use super::decoding::Decoding;
use super::sampling::Shaping;
use super::schedule::Steps;
use crate::kernels::Isa;

/// How to denoise.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What decides the order of the reveals.
    pub algorithm: Algorithm,
    /// Number of denoising steps.
    pub steps: Steps,
    /// Last timestep, in (0, 1).
    pub eps: f32,
    /// Temperature, top-p and top-k.
    pub shaping: Shaping,
    /// Randomness of the order: `None` or 0 reveals the most confident, else positions are drawn
    /// with weights softmax(confidence / alg_temp).
    pub alg_temp: Option<f32>,
    /// Seed of every draw.
    pub seed: u64,
    /// When to end.
    pub ending: Ending,
    /// How the canvas is taken in parts, and what is reused between passes.
    pub decoding: Decoding,
    /// How many times each token of the text is masked and predicted again once all is there; a
    /// round that changes nothing is the last. The reference has none.
    pub remask: usize,
    /// Whether, in a hole that gets longer and shorter, a deletion takes out all masks of the hole
    /// behind it too: so in DreamOn's evaluation, and off by default in its code on the Hub.
    pub deletes_rest: bool,
    /// Instructions that sampling uses. They do not change a bit of what is sampled.
    pub isa: Isa,
}

impl Settings {
    /// Whether tokens are masked again by P2's plan, which needs to know how many there are.
    pub(super) fn is_planned(&self, canvas: &Canvas) -> bool {
        self.algorithm == Algorithm::P2 && !canvas.is_resizing()
    }

    /// Gives a canvas its next block, of up to `size` masks, once the one at its end is full,
    /// unless the text is at its end.
    pub(super) fn next_block(&self, canvas: &mut Canvas, size: usize) {
        if !self.ending.is_reached(canvas) {
            if canvas.masked().is_empty() {
                canvas.grow(size);
            }
            return;
        }
        let behind_stop = self.decoding.blocks.map(|blocks| blocks.behind_stop);
        match (&self.ending, behind_stop) {
            (Ending::AfterBlock(stop_ids), Some(Behind::Repeated)) => canvas.repeat_stop(stop_ids),
            (Ending::InBlock(stop_ids), Some(Behind::Removed)) => canvas.cut_behind_stop(stop_ids),
            _ => {}
        }
    }

    /// The reference's sampler in so many steps, at least 1: surest first by entropy, with nothing
    /// left to chance and nothing filtered.
    pub fn reference(steps: usize) -> Self {
        Self {
            algorithm: Algorithm::Entropy,
            steps: Steps::Count(steps),
            eps: 1e-3,
            shaping: Shaping::temperature(0.0),
            alg_temp: None,
            seed: 0,
            ending: Ending::FullCanvas,
            decoding: Decoding::default(),
            remask: 0,
            deletes_rest: true,
            isa: Isa::detect(),
        }
    }
}

/// When a generation is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// When every position is revealed, as in the reference.
    FullCanvas,
    /// As soon as one of these tokens is revealed with everything before it: what comes behind the
    /// first stop token is not part of the text.
    AtStop(Vec<u32>),
    /// When a block is full in which one of these tokens stands: the published samplers of
    /// block-causal models.
    AfterBlock(Vec<u32>),
    /// As soon as one of these tokens is revealed with everything before it. Until then masks
    /// behind it are revealed like others (Fast-dLLM v2).
    InBlock(Vec<u32>),
}

impl Ending {
    /// Whether `canvas` is at its end although masks may be left.
    pub(super) fn is_reached(&self, canvas: &Canvas) -> bool {
        match self {
            Self::FullCanvas => false,
            Self::AtStop(stop_ids) | Self::InBlock(stop_ids) => canvas.stop_at(stop_ids).is_some(),
            Self::AfterBlock(stop_ids) => {
                canvas.masked().is_empty() && canvas.stop_at(stop_ids).is_some()
            }
        }
    }

    /// The tokens behind which nothing is predicted; none where all of the canvas is filled, or all
    /// of a block.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        match self {
            Self::FullCanvas | Self::AfterBlock(_) | Self::InBlock(_) => &[],
            Self::AtStop(stop_ids) => stop_ids,
        }
    }
}
