//! What a network keeps of the canvas before: keys and values of the texts round the holes.

use super::canvas::Canvas;
use super::denoiser::Denoiser;

/// How many tokens at the two ends of a canvas are those that the network's keys and values are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    /// Tokens of the text before the first hole, from its beginning on.
    pub before: usize,
    /// Tokens of the text behind the last hole, up to its end.
    pub behind: usize,
}

impl Kept {
    /// Compares a canvas with the one that the network saw last, and moves what it keeps of the end
    /// to where that stands now.
    ///
    /// An editor asks again after every letter: both ends are as they were, and the end has moved.
    pub fn of<D: Denoiser>(model: &mut D, canvas: &Canvas) -> Self {
        let (ids, cached) = (canvas.ids(), model.cached_ids());
        let is_same = |(cached, id): &(&Option<u32>, &u32)| **cached == Some(**id);
        let prompt = ids[..canvas.prompt_len()].iter();
        let before = cached.iter().zip(prompt).take_while(is_same).count();
        let text = &ids[canvas.holes().last().map_or(ids.len(), |hole| hole.end)..];
        let ends = cached[before..].iter().rev().zip(text.iter().rev());
        let behind = ends.take_while(is_same).count();
        let by = ids.len() as isize - cached.len() as isize;
        let first = cached.len() - behind;
        let is_there = behind > 0 && (by == 0 || model.move_cached(first, by));
        Self {
            before,
            behind: if is_there { behind } else { 0 },
        }
    }

    /// Whether a position of a canvas of so many is one of them.
    pub fn contains(self, position: usize, len: usize) -> bool {
        position < self.before || position + self.behind >= len
    }
}
