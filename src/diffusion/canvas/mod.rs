//! The canvas: given text, and holes whose positions start as masks and are revealed one by one.
//!
//! A continuation is a prompt and one hole behind it. Infilling has text on both sides, and any
//! number of holes: all of them see all of the text, and each other.

mod resizing;

use std::collections::HashSet;
use std::ops::Range;

use super::confidence::Candidate;
use resizing::Room;
pub use resizing::{Edit, Resizing};

/// A stretch of a canvas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Token ids that stay as they are.
    Text(&'a [u32]),
    /// This many masks.
    Hole(usize),
}

/// Token ids of text and holes, and when each position of a hole was revealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    ids: Vec<u32>,            // [canvas]
    holes: Vec<Range<usize>>, // left to right, disjoint, empty only where all of it was taken out
    mask_id: u32,
    tokens: usize,                   // ids below it can be revealed
    reveal_step: Vec<Option<usize>>, // [generated]
    limit: usize,                    // positions that it can grow to
    resizing: Option<Resizing>,
    rooms: Vec<Option<Room>>, // one for each hole, or none
}

impl Canvas {
    /// `prompt` followed by `max_new_tokens` masks.
    pub fn new(prompt: &[u32], max_new_tokens: usize, mask_id: u32) -> Self {
        Self::of(&[Piece::Text(prompt), Piece::Hole(max_new_tokens)], mask_id)
    }

    /// The pieces, one behind the other.
    pub fn of(pieces: &[Piece<'_>], mask_id: u32) -> Self {
        let (mut ids, mut holes) = (Vec::new(), Vec::new());
        for piece in pieces {
            let start = ids.len();
            match *piece {
                Piece::Text(text) => ids.extend(text),
                Piece::Hole(0) => {}
                Piece::Hole(len) => {
                    ids.resize(start + len, mask_id);
                    holes.push(start..start + len);
                }
            }
        }
        let mut canvas = Self {
            limit: ids.len(),
            ids,
            holes,
            mask_id,
            tokens: usize::MAX,
            reveal_step: Vec::new(),
            resizing: None,
            rooms: Vec::new(),
        };
        canvas.reveal_step = vec![None; canvas.span().len()];
        canvas
    }

    /// The canvas as one that gains masks at its end while it is filled, up to this many positions.
    /// Only a hole at the end grows.
    #[must_use]
    pub fn growing_to(mut self, limit: usize) -> Self {
        let ends_in_hole = self.last_hole().is_some();
        self.limit = if ends_in_hole {
            limit.max(self.ids.len())
        } else {
            self.ids.len()
        };
        self
    }

    /// The canvas as one that only the first `tokens` ids of the vocabulary are revealed on: models
    /// round the rows of their tables up, and no token has the last ones.
    #[must_use]
    pub fn of_tokens(mut self, tokens: usize) -> Self {
        self.tokens = tokens;
        self
    }

    /// Ids that can be revealed are below it.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Most positions that it can have.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Token ids of the whole canvas, text included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The id that marks a position as not yet revealed.
    pub fn mask_id(&self) -> u32 {
        self.mask_id
    }

    /// Number of tokens before the first hole: the first generated position.
    pub fn prompt_len(&self) -> usize {
        self.span().start
    }

    /// Token ids of the generated part, which is all from the first hole to the last, the text
    /// between holes included; the mask's where nothing was revealed.
    pub fn generated(&self) -> &[u32] {
        &self.ids[self.span()]
    }

    /// Step (0-based) at which each position of the generated part got its token.
    pub fn reveal_step(&self) -> &[Option<usize>] {
        &self.reveal_step
    }

    /// Where the holes are, left to right. `ids()[hole]` is what is in one.
    pub fn holes(&self) -> &[Range<usize>] {
        &self.holes
    }

    /// Positions still masked, left to right. Masks inside the text are not ours to fill.
    pub fn masked(&self) -> Vec<usize> {
        let positions = self.holes.iter().cloned().flatten();
        positions
            .filter(|&position| !self.is_revealed(position))
            .collect()
    }

    /// Masked positions that can still become text: those that no stop token of their hole
    /// precedes.
    pub fn open(&self, stop_ids: &[u32]) -> Vec<usize> {
        let positions = self.before_stops(stop_ids);
        positions
            .filter(|&position| !self.is_revealed(position))
            .collect()
    }

    /// Revealed positions that are text: those that no stop token of their hole precedes, left to
    /// right.
    pub fn text(&self, stop_ids: &[u32]) -> Vec<usize> {
        let positions = self.before_stops(stop_ids);
        positions
            .filter(|&position| self.is_revealed(position))
            .collect()
    }

    /// Positions of holes up to the first stop token of each.
    fn before_stops(&self, stop_ids: &[u32]) -> impl Iterator<Item = usize> {
        self.holes.iter().flat_map(move |hole| {
            let end = self.first_stop(hole, stop_ids).unwrap_or(hole.end);
            hole.start..end
        })
    }

    /// Length of the canvas without what lies behind a stop token of a hole at its end.
    pub(crate) fn visible(&self, stop_ids: &[u32]) -> usize {
        self.last_stop(stop_ids)
            .map_or(self.ids.len(), |stop| stop + 1)
    }

    /// Length of the canvas without the masks that nothing follows.
    pub(crate) fn masks_from(&self) -> usize {
        let start = self.last_hole().map_or(self.ids.len(), |hole| hole.start);
        let revealed = (start..self.ids.len()).rfind(|&position| self.is_revealed(position));
        revealed.map_or(start, |position| position + 1)
    }

    /// Adds masks at the end, until `masks` follow the last token or the canvas is at its limit.
    pub(crate) fn grow(&mut self, masks: usize) {
        let old = self.ids.len();
        let new = self.masks_from().saturating_add(masks).min(self.limit);
        if let Some(hole) = self.holes.last_mut().filter(|hole| hole.end == old)
            && new > old
            && self.rooms.iter().all(Option::is_none)
        {
            hole.end = new;
            self.ids.resize(new, self.mask_id);
            let generated = self.span().len();
            self.reveal_step.resize(generated, None);
        }
    }

    /// Makes all that follows the first of these tokens in the hole at the end the same token.
    pub(super) fn repeat_stop(&mut self, stop_ids: &[u32]) {
        if let Some(stop) = self.last_stop(stop_ids) {
            let id = self.ids[stop];
            self.ids[stop..].fill(id);
        }
    }

    /// Takes out all that follows the first of these tokens in the hole at the end.
    pub(super) fn cut_behind_stop(&mut self, stop_ids: &[u32]) {
        let end = self.visible(stop_ids);
        let start = self.prompt_len();
        if let Some(hole) = self
            .holes
            .last_mut()
            .filter(|hole| hole.end == self.ids.len())
        {
            hole.end = end;
            self.ids.truncate(end);
            self.reveal_step.truncate(end - start);
        }
    }

    /// The hole at the end, if nothing follows the last one.
    fn last_hole(&self) -> Option<&Range<usize>> {
        self.holes.last().filter(|hole| hole.end == self.ids.len())
    }

    /// Position of the first stop token that is revealed in a hole.
    fn first_stop(&self, hole: &Range<usize>, stop_ids: &[u32]) -> Option<usize> {
        hole.clone()
            .find(|&position| self.is_revealed(position) && stop_ids.contains(&self.ids[position]))
    }

    /// The same in the hole at the end, if there is one.
    fn last_stop(&self, stop_ids: &[u32]) -> Option<usize> {
        self.first_stop(self.last_hole()?, stop_ids)
    }

    /// Writes a candidate's token into its masked position.
    pub fn reveal(&mut self, candidate: &Candidate, step: usize) {
        let start = self.prompt_len();
        let revealed = &mut self.reveal_step[candidate.position - start];
        debug_assert!(revealed.is_none() && candidate.token != self.mask_id);
        *revealed = Some(step);
        self.ids[candidate.position] = candidate.token;
    }

    /// Takes a revealed token away again.
    pub fn remask(&mut self, position: usize) {
        let start = self.prompt_len();
        self.reveal_step[position - start] = None;
        self.ids[position] = self.mask_id;
    }

    /// Takes the tokens away again at the positions of candidates that are not among the kept ones.
    pub(super) fn mask_others(&mut self, candidates: &[Candidate], kept: &[Candidate]) {
        let kept: HashSet<usize> = kept.iter().map(|candidate| candidate.position).collect();
        for candidate in candidates {
            if self.is_revealed(candidate.position) && !kept.contains(&candidate.position) {
                self.remask(candidate.position);
            }
        }
    }

    /// Length of the text that is decided: the tokens before the first of `stop_ids`, if every
    /// position up to it is revealed. With several holes, the sum of theirs once each is decided,
    /// be it by a stop token or because it is full; `None` if all are full.
    pub fn stop_at(&self, stop_ids: &[u32]) -> Option<usize> {
        let (mut len, mut stops) = (0, false);
        for hole in &self.holes {
            match self.stop_in(hole, stop_ids) {
                Some(text) => (len, stops) = (len + text, true),
                None if hole.clone().all(|position| self.is_revealed(position)) => {
                    len += hole.len()
                }
                None => return None,
            }
        }
        stops.then_some(len)
    }

    /// Length of the part of a hole that is decided: revealed without a gap, up to a stop token.
    pub fn decided_in(&self, hole: &Range<usize>, stop_ids: &[u32]) -> usize {
        hole.clone()
            .take_while(|&at| self.is_revealed(at) && !stop_ids.contains(&self.ids[at]))
            .count()
    }

    /// Length of the decided text of one hole, if a stop token ends it.
    pub fn stop_in(&self, hole: &Range<usize>, stop_ids: &[u32]) -> Option<usize> {
        hole.clone()
            .take_while(|&position| self.is_revealed(position))
            .position(|position| stop_ids.contains(&self.ids[position]))
    }

    /// From the first hole to the last.
    fn span(&self) -> Range<usize> {
        match (self.holes.first(), self.holes.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => self.ids.len()..self.ids.len(),
        }
    }

    /// Whether a position of a hole has its token.
    pub(super) fn is_revealed(&self, position: usize) -> bool {
        self.reveal_step[position - self.prompt_len()].is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reveal(canvas: &mut Canvas, position: usize, token: u32, step: usize) {
        canvas.reveal(&Candidate::of(position, token), step);
    }

    #[test]
    fn reveals_are_recorded() {
        let mut canvas = Canvas::new(&[1, 2], 3, 9);
        assert_eq!(canvas.masked(), [2, 3, 4]);
        reveal(&mut canvas, 3, 7, 5);
        assert_eq!(canvas.masked(), [2, 4]);
        assert_eq!(canvas.ids(), [1, 2, 9, 7, 9]);
        assert_eq!(canvas.reveal_step(), [None, Some(5), None]);
    }

    #[test]
    fn a_mask_in_the_text_is_not_ours() {
        assert_eq!(Canvas::new(&[9], 1, 9).masked(), [1]);
        let pieces = [Piece::Hole(1), Piece::Text(&[9]), Piece::Hole(1)];
        assert_eq!(Canvas::of(&pieces, 9).masked(), [0, 2]);
    }

    #[test]
    fn text_ends_at_a_stop_token_once_all_before_it_is_there() {
        let mut canvas = Canvas::new(&[0], 3, 9);
        reveal(&mut canvas, 2, 0, 0);
        assert_eq!(canvas.stop_at(&[0]), None);
        reveal(&mut canvas, 1, 5, 1);
        assert_eq!(canvas.stop_at(&[0]), Some(1));
        assert_eq!(canvas.stop_at(&[4]), None);
        assert_eq!(canvas.stop_at(&[4, 5]), Some(0));
    }

    #[test]
    fn holes_lie_between_texts() {
        let text: &[u32] = &[1, 0];
        let pieces = [
            Piece::Text(text),
            Piece::Hole(2),
            Piece::Hole(0),
            Piece::Text(text),
            Piece::Hole(1),
            Piece::Text(text),
        ];
        let mut canvas = Canvas::of(&pieces, 9);
        assert_eq!(canvas.ids(), [1, 0, 9, 9, 1, 0, 9, 1, 0]);
        assert_eq!(canvas.holes(), [2..4, 6..7]);
        assert_eq!(canvas.masked(), [2, 3, 6]);
        assert_eq!(canvas.prompt_len(), 2);
        assert_eq!(canvas.generated(), [9, 9, 1, 0, 9]);
        reveal(&mut canvas, 3, 7, 0);
        reveal(&mut canvas, 6, 8, 1);
        assert_eq!(canvas.masked(), [2]);
        assert_eq!(canvas.reveal_step(), [None, Some(0), None, None, Some(1)]);
        reveal(&mut canvas, 2, 6, 2);
        let held: Vec<_> = canvas
            .holes()
            .iter()
            .map(|h| &canvas.ids()[h.clone()])
            .collect();
        assert_eq!(held, [&[6, 7][..], &[8]]);
    }

    #[test]
    fn several_holes_are_decided_when_each_is() {
        let pieces = [Piece::Hole(3), Piece::Text(&[0]), Piece::Hole(2)];
        let mut canvas = Canvas::of(&pieces, 9);
        reveal(&mut canvas, 0, 5, 0);
        reveal(&mut canvas, 1, 0, 1);
        assert_eq!(canvas.stop_in(&canvas.holes()[0], &[0]), Some(1));
        assert_eq!(canvas.stop_at(&[0]), None, "the second hole is not decided");
        reveal(&mut canvas, 4, 5, 2);
        assert_eq!(canvas.stop_at(&[0]), None);
        reveal(&mut canvas, 5, 6, 3);
        assert_eq!(canvas.stop_at(&[0]), Some(3), "the second hole is full");
        assert_eq!(canvas.stop_at(&[7]), None, "a mask is left in the first");
        reveal(&mut canvas, 2, 5, 4);
        assert_eq!(canvas.stop_at(&[7]), None, "full, without a stop token");
    }

    #[test]
    fn a_canvas_grows_at_its_end() {
        let mut canvas = Canvas::new(&[1], 2, 9).growing_to(7);
        reveal(&mut canvas, 1, 7, 0);
        canvas.grow(3);
        assert_eq!(canvas.ids(), [1, 7, 9, 9, 9]);
        assert_eq!(canvas.reveal_step(), [Some(0), None, None, None]);
        assert_eq!(canvas.holes().first(), Some(&(1..5)));
        canvas.grow(2);
        assert_eq!(canvas.ids().len(), 5, "it does not shrink");
        canvas.grow(usize::MAX);
        assert_eq!(canvas.ids().len(), 7);
        let closed = Canvas::of(&[Piece::Hole(1), Piece::Text(&[1])], 9);
        let mut grown = closed.clone().growing_to(99);
        grown.grow(4);
        assert_eq!(grown, closed, "text follows");
    }

    #[test]
    fn a_canvas_without_holes_has_nothing_to_fill() {
        let canvas = Canvas::of(&[Piece::Text(&[1, 2])], 9);
        assert!(canvas.masked().is_empty() && canvas.generated().is_empty());
        assert_eq!(canvas.stop_at(&[0]), None);
    }
}
