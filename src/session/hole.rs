//! Holes: how long each is to be, and the canvas that they make with the texts round them.

use crate::diffusion::{Canvas, Piece};

/// The length of a hole, in tokens; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hole {
    /// So many. The text in it may end before.
    Exactly(usize),
    /// The length at which the model is surest of what belongs there.
    Chosen {
        /// The longest.
        up_to: usize,
    },
    /// As many as the text takes, for a hole that nothing follows.
    Growing {
        /// The longest; more than the model's context is all of that.
        up_to: usize,
    },
}

impl Hole {
    /// Tokens that it can become.
    pub fn most(self) -> usize {
        match self {
            Self::Exactly(tokens) => tokens,
            Self::Chosen { up_to } | Self::Growing { up_to } => up_to,
        }
    }
}

/// Tokens that a hole between texts has at most where nobody says how many.
pub const USUAL_HOLE: usize = 32;

/// A canvas of texts with holes of these lengths between them, one fewer than there are texts.
pub(super) fn canvas(texts: &[Vec<u32>], lengths: &[usize], mask_id: u32) -> Canvas {
    let mut pieces = Vec::with_capacity(texts.len() + lengths.len());
    for (i, text) in texts.iter().enumerate() {
        pieces.push(Piece::Text(text));
        pieces.extend(lengths.get(i).map(|&length| Piece::Hole(length)));
    }
    Canvas::of(&pieces, mask_id)
}

/// Whether one of these texts follows a hole.
pub(super) fn is_between(texts: &[Vec<u32>]) -> bool {
    texts.iter().skip(1).any(|text| !text.is_empty())
}
