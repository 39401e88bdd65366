//! Block by block: how models are sampled whose positions do not see the blocks behind their own.
//!
//! What stands in a finished block never changes again, so that its keys and values are computed
//! once with its last tokens and are exact from then on. The published loops spend a forward on
//! that; here it goes with the first of the next block, since a pass can do both.
//!
//! In a shifted model the last row of a block predicts the first token of the next, which it does
//! not see: that pass is over the finished block alone, and reveals the token by itself.
//!
//! Sources: `generate.py` in JetLM/SDAR; `modeling_stable_diffcoder.py` in ByteDance-Seed's
//! Stable-DiffCoder; `dllm/core/samplers` in ZHZisZZ/dllm; `generate` in Fast-dLLM v2's
//! `modeling.py` (arXiv 2509.26328). Departure from the last: it does not show the model a prompt
//! of exactly one block, which is a slip.

use super::sampling::{Filtering, Shaping};
use super::schedule::Steps;

/// Which positions attend to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Every position to every position.
    Full,
    /// Every position to its own block and those before it, on a grid of blocks of so many
    /// positions (at least 1) from position 0.
    BlockCausal(usize),
}

impl Attention {
    /// Where the positions end that one attends to.
    pub fn end(self, position: usize) -> usize {
        match self {
            Self::Full => usize::MAX,
            Self::BlockCausal(size) => (position / size).saturating_add(1).saturating_mul(size),
        }
    }
}

/// What the authors' samplers differ in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blocks {
    /// What is revealed in each step where no threshold decides it.
    pub share: Share,
    /// The usual threshold, if there is one.
    pub threshold: Option<f32>,
    /// Whether a probability has to be above the threshold and not only reach it.
    pub is_strict: bool,
    /// Temperature of the confidence that orders the reveals, and of what the threshold is held
    /// against; `None` is that of the draws.
    pub order_temperature: Option<f32>,
    /// The usual nucleus, if there is one.
    pub top_p: Option<f32>,
    /// Which tokens it and `top_k` keep.
    pub filtering: Filtering,
    /// Where the canvas ends.
    pub extent: Extent,
    /// Positions of a block that are filled before those behind them are; `None` is all. With full
    /// attention the canvas is one block.
    pub sub_block: Option<usize>,
    /// Whether the prompt is padded on its left to whole blocks. Nothing attends to the pads; they
    /// only move the grid.
    pub is_padded: bool,
    /// What becomes of what stands behind a stop token.
    pub behind_stop: Behind,
}

/// Where a canvas ends, by the tokens that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Behind so many, so that the last block can be short.
    Tokens,
    /// Behind the block that the last of them is in.
    WholeBlocks,
    /// Behind as many blocks as so many tokens fill, the one that the prompt ends in counted, and
    /// the token that the last of them predicts (Fast-dLLM v2). Fewer than a block are as many as
    /// they are, where the published loop would write nothing.
    CountedBlocks,
}

/// What becomes of what stands behind a stop token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// It stays.
    Kept,
    /// It becomes that token.
    Repeated,
    /// It goes, and the rest of the block is not filled first.
    Removed,
}

/// How the tokens of a block are shared out among its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// A number of steps is that of each block, and shares out the positions of a block, given ones
    /// too. A threshold reveals no less (SDAR).
    Positions,
    /// A number of steps is that of all blocks, and shares out the masks of each
    /// (Stable-DiffCoder).
    Masks,
    /// The same of the number of steps, of which each reveals its share of the masks that are left,
    /// rounded; where that is none there is no step (dllm).
    Rounded,
}

impl Extent {
    /// Positions of a canvas with so many `given` and `new` tokens, in blocks of `size`.
    pub(crate) fn end(self, given: usize, new: usize, size: usize) -> usize {
        let end = given.saturating_add(new);
        match self {
            Self::Tokens => end,
            Self::WholeBlocks => end.checked_next_multiple_of(size).unwrap_or(end),
            Self::CountedBlocks if new < size => end,
            Self::CountedBlocks => {
                let blocks = (given / size).saturating_add(new / size);
                blocks.saturating_mul(size).saturating_add(1)
            }
        }
    }
}

impl Blocks {
    /// A number of steps shares out the masks of each block, and everything is as elsewhere.
    pub const PLAIN: Self = Self {
        share: Share::Masks,
        threshold: None,
        is_strict: false,
        order_temperature: None,
        top_p: None,
        filtering: Filtering::MassFirst,
        extent: Extent::Tokens,
        sub_block: None,
        is_padded: false,
        behind_stop: Behind::Kept,
    };

    /// What the authors make of a temperature.
    pub(crate) fn shaping(&self, temperature: f32) -> Shaping {
        Shaping {
            top_p: self.top_p,
            filtering: self.filtering,
            ..Shaping::temperature(temperature)
        }
    }

    /// Tokens of each step in a block of `size` positions and so many `masks`, on a canvas that had
    /// `total` of them: the least of each where there is a threshold. What is left after them goes
    /// one by one.
    pub(super) fn counts(
        &self,
        steps: Steps,
        threshold: Option<f32>,
        (size, total, masks): (usize, usize, usize),
    ) -> Vec<usize> {
        if self.share == Share::Rounded {
            let blocks = total.div_ceil(size);
            return rounded(steps.count(total).div_ceil(blocks), masks);
        }
        let steps = match (self.share, steps) {
            (Share::Masks, _) if threshold.is_some() => return vec![1],
            (_, Steps::OfTokens(tokens)) => size.div_ceil(tokens.max(1)),
            (Share::Positions, Steps::Count(steps)) => steps,
            (_, Steps::Count(steps)) => steps / (total / size).max(1),
        };
        let steps = steps.clamp(1, size);
        let shared = match self.share {
            Share::Positions => size,
            Share::Masks | Share::Rounded => masks,
        };
        let count = |step| shared / steps + usize::from(step < shared % steps);
        (0..steps).map(count).collect()
    }
}

/// What each of `steps` reveals of `masks` that get fewer, without those that reveal none.
fn rounded(steps: usize, masks: usize) -> Vec<usize> {
    let mut left = masks;
    let share = |steps: usize| {
        let count = (left as f64 / steps as f64).round_ties_even() as usize;
        left -= count;
        count
    };
    let counts = (1..=steps).rev().map(share);
    counts.filter(|&count| count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_sees_its_block() {
        let ends = [0, 3, 4, 9].map(|position| Attention::BlockCausal(4).end(position));
        assert_eq!(ends, [4, 4, 8, 12]);
        assert_eq!(Attention::Full.end(3), usize::MAX);
    }

    #[test]
    fn a_canvas_ends_with_its_tokens_or_its_blocks() {
        let ends = |extent: Extent| {
            [(3, 9), (3, 8), (8, 8), (3, 4), (3, 3)].map(|(given, new)| extent.end(given, new, 4))
        };
        assert_eq!(ends(Extent::Tokens), [12, 11, 16, 7, 6]);
        assert_eq!(ends(Extent::WholeBlocks), [12, 12, 16, 8, 8]);
        assert_eq!(ends(Extent::CountedBlocks), [9, 9, 17, 5, 6]);
    }

    #[test]
    fn tokens_are_shared_out_among_the_steps_of_a_block() {
        let blocks = |share| Blocks {
            share,
            threshold: Some(0.9),
            ..Blocks::PLAIN
        };
        let counts = |share, steps, masks| blocks(share).counts(steps, None, (4, 16, masks));
        assert_eq!(counts(Share::Positions, Steps::Count(3), 2), [2, 1, 1]);
        assert_eq!(counts(Share::Masks, Steps::Count(8), 3), [2, 1]);
        assert_eq!(counts(Share::Masks, Steps::Count(3), 3), [3]);
        assert_eq!(counts(Share::Masks, Steps::OfTokens(2), 4), [2, 2]);
        assert_eq!(counts(Share::Masks, Steps::OfTokens(1), 3), [1, 1, 1, 0]);
        assert_eq!(counts(Share::Rounded, Steps::Count(8), 4), [2, 2]);
        assert_eq!(counts(Share::Rounded, Steps::Count(16), 2), [1, 1]);
        let short = blocks(Share::Masks).counts(Steps::Count(2), None, (4, 3, 3));
        assert_eq!(short, [2, 1], "less than a block is one");
        let least = blocks(Share::Masks).counts(Steps::Count(2), Some(0.9), (4, 16, 4));
        assert_eq!(least, [1], "a threshold decides it");
    }
}
