//! What a network keeps of the canvas before: keys and values of text that is there again.

use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::blocks::Attention;
use super::canvas::Canvas;
use super::denoiser::Denoiser;

/// Positions of a canvas, of its text, that the network has keys and values of: ascending ranges.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept(Vec<Range<usize>>);

/// Tokens in a row that are not the same by chance, wherever they stand.
const SAME_TEXT: usize = 16;

impl Kept {
    /// Compares a canvas with the one that the network saw last, and moves what it keeps of the
    /// same text to where that stands now.
    ///
    /// An editor asks again after every letter: what follows has moved then. In a long file the
    /// lines that are shown move with the cursor, so that the ends are others too.
    ///
    /// Where blocks see only what stands before them, what was computed behind a change is of no
    /// use.
    pub fn of<D: Denoiser>(model: &mut D, canvas: &Canvas, attention: Attention) -> Self {
        // No masks are the same, and nothing that is not kept.
        let mut ids: Vec<_> = canvas.ids().iter().map(|&id| Ok(id)).collect();
        for position in canvas.holes().iter().cloned().flatten() {
            ids[position] = Err("hole");
        }
        let cached = model.cached_ids(attention).iter();
        let cached: Vec<_> = cached.map(|id| id.ok_or("not kept")).collect();
        if let Attention::BlockCausal(_) = attention {
            let same = cached.iter().zip(&ids).take_while(|(old, new)| old == new);
            return Self(std::iter::once(0..same.count()).collect());
        }
        let (mut kept, mut moved) = (Vec::new(), 0);
        for op in capture_diff_slices(Algorithm::Myers, &cached, &ids) {
            let DiffOp::Equal {
                old_index,
                new_index,
                len,
            } = op
            else {
                continue;
            };
            let is_at_start = (old_index, new_index) == (0, 0);
            let is_at_end = (old_index + len, new_index + len) == (cached.len(), ids.len());
            if len < SAME_TEXT && !is_at_start && !is_at_end {
                continue;
            }
            // All that is behind has moved with what was moved before it.
            let index = old_index.saturating_add_signed(moved);
            let by = new_index as isize - index as isize;
            if by == 0 || model.move_cached(index, by) {
                kept.push(new_index..new_index + len);
                moved += by;
            }
        }
        Self(kept)
    }

    /// Whether a position is one of them.
    pub fn contains(&self, position: usize) -> bool {
        self.0.iter().any(|range| range.contains(&position))
    }

    /// How many there are from the first position on.
    pub fn prefix(&self) -> usize {
        let first = self.0.first().filter(|range| range.start == 0);
        first.map_or(0, |range| range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_begins_at_the_first_position() {
        assert_eq!(Kept(vec![0..3, 5..9]).prefix(), 3);
        assert_eq!(Kept(vec![1..3, 5..9]).prefix(), 0);
        assert_eq!(Kept::default().prefix(), 0);
    }
}
