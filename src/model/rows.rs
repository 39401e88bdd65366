//! Which rows a pass goes through, and which of them the head is asked about.

use crate::diffusion::{Attention, Pass};

/// What a pass computes.
pub(super) struct Rows {
    /// Where their keys and values are kept, ascending. `[R]`
    pub indices: Vec<usize>,
    /// Where they stand on the canvas. `[R]`
    pub positions: Vec<usize>,
    /// Which of them the head is asked about. `[outputs]`
    pub outputs: Vec<usize>,
    /// How many of the canvas's first indices each of them attends to. `[R]`
    pub seen: Vec<usize>,
    /// Length of the canvas up to the last position that is seen.
    pub reach: usize,
}

impl Rows {
    /// The positions whose keys and values are wanted anew, and those whose output predicts
    /// something.
    ///
    /// The published models are fine-tuned from autoregressive ones and keep their offset: what the
    /// head says at position i is about position i + 1. Position 0 has no position before it and
    /// keeps its own (`logits = cat([logits[:, :1], logits[:, :-1]])` in Dream's
    /// `generation_utils.py`).
    pub fn of(pass: &Pass<'_>, shift: usize) -> Self {
        let indices = pass.computed(shift);
        let sources = pass.predict.iter().map(|at| at.saturating_sub(shift));
        let outputs = sources.map(|source| indices.partition_point(|&index| index < source));
        Self {
            outputs: outputs.collect(),
            seen: match pass.attention {
                Attention::Full => vec![pass.positions.len(); indices.len()],
                attention => {
                    let seen = |&index: &usize| {
                        let end = attention.end(pass.positions[index]);
                        pass.positions.partition_point(|&position| position < end)
                    };
                    indices.iter().map(seen).collect()
                }
            },
            positions: indices.iter().map(|&index| pass.positions[index]).collect(),
            indices,
            reach: pass.positions.last().map_or(0, |last| last + 1),
        }
    }
}
