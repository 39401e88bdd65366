//! Holes that get longer and shorter while they are filled, as in DreamOn.
//!
//! Two tokens of such a model are no text: one that becomes two masks, and one that is taken out of
//! the hole again. So the length of a hole need not be known: the model finds it. Given text never
//! changes, and a hole can end empty.
//!
//! Source: `batch_generate_with_expand_as_token` in DreamOn's `eval/generator.py`.

use std::ops::Range;

use super::Canvas;

/// The tokens with which a model changes the length of a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resizing {
    /// Becomes two masks.
    pub expand_id: u32,
    /// Is taken out: the end of text, where a mask stood.
    pub delete_id: u32,
}

/// A revealed token that was replaced by masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// Its position before the step's edits.
    pub at: usize,
    /// Masks that stand there now: 2 of an expansion, none of a deletion, 1 of an expansion for
    /// which there was no room.
    pub masks: usize,
}

/// How long a hole can still become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Most positions of the hole.
    pub longest: usize,
    /// Expansions that are left to it. Without this bound a model could expand and delete for ever.
    pub expansions: usize,
}

impl Room {
    /// As in DreamOn's evaluation there are as many expansions as positions; its code on the Hub
    /// has twice as many.
    pub fn new(longest: usize) -> Self {
        Self {
            longest,
            expansions: longest,
        }
    }

    /// Expansions that a hole of this length has room for.
    pub fn left(&self, len: usize) -> usize {
        self.expansions.min(self.longest.saturating_sub(len))
    }
}

impl Canvas {
    /// The canvas as one of a model that has `resizing`, on which holes that have a most length get
    /// longer and shorter: up to `longest[hole]` masks, by as many expansions. One without is as
    /// long as it is, and no expansion is revealed in it.
    #[must_use]
    pub fn resizing(mut self, resizing: Resizing, longest: &[Option<usize>]) -> Self {
        let rooms = longest.iter().map(|most| most.map(Room::new));
        self.rooms = rooms.collect();
        let growth = |(hole, room): (&Range<usize>, &Option<Room>)| {
            room.map_or(0, |room| room.longest.saturating_sub(hole.len()))
        };
        self.limit += self
            .holes
            .iter()
            .zip(&self.rooms)
            .map(growth)
            .sum::<usize>();
        self.resizing = Some(resizing);
        self
    }

    /// Whether some hole gets longer and shorter.
    pub fn is_resizing(&self) -> bool {
        self.rooms.iter().any(Option::is_some)
    }

    /// Whether a hole could be longer than it is.
    pub fn has_room(&self, number: usize) -> bool {
        let room = self.rooms.get(number).copied().flatten();
        room.is_some_and(|room| room.left(self.holes[number].len()) > 0)
    }

    /// The token that no mask at this position can become, if there is one: an expansion without
    /// room.
    pub(in crate::diffusion) fn barred(&self, position: usize) -> Option<u32> {
        let resizing = self.resizing?;
        let number = self.holes.iter().position(|hole| hole.contains(&position));
        let has_room = number.is_some_and(|number| self.has_room(number));
        (!has_room).then_some(resizing.expand_id)
    }

    /// Does what the tokens revealed in a step ask for in holes that get longer and shorter, and
    /// gives what it did, from right to left. In each hole deletions come first: with
    /// `deletes_rest` everything from the first on that was a mask before the step goes, else that
    /// token alone. Of expansions without room the mask is left.
    pub fn resize(&mut self, step: usize, deletes_rest: bool) -> Vec<Edit> {
        let mut edits = Vec::new();
        let Some(resizing) = self.resizing.filter(|_| self.is_resizing()) else {
            return edits;
        };
        let start = self.prompt_len();
        for number in (0..self.holes.len()).rev() {
            let Some(mut room) = self.rooms[number] else {
                continue;
            };
            let hole = self.holes[number].clone();
            let revealed = |at: usize| self.reveal_step[at - start];
            let asks = |at: usize, id| revealed(at) == Some(step) && self.ids[at] == id;
            let first = hole.clone().find(|&at| asks(at, resizing.delete_id));
            let is_gone = |at: usize| match deletes_rest {
                true => {
                    first.is_some_and(|first| at >= first) && revealed(at).is_none_or(|s| s == step)
                }
                false => asks(at, resizing.delete_id),
            };
            let kept = hole.clone().filter(|&at| !is_gone(at)).count();
            let mut left = room.left(kept);
            let edit = |at: usize| {
                let masks = match asks(at, resizing.expand_id) {
                    _ if is_gone(at) => 0,
                    false => return None,
                    true if left == 0 => 1,
                    true => {
                        left -= 1;
                        room.expansions -= 1;
                        2
                    }
                };
                Some(Edit { at, masks })
            };
            let of_hole: Vec<Edit> = hole.clone().filter_map(edit).collect();
            for &Edit { at, masks } in of_hole.iter().rev() {
                self.ids.splice(at..=at, vec![self.mask_id; masks]);
                self.reveal_step
                    .splice(at - start..=at - start, vec![None; masks]);
                edits.push(Edit { at, masks });
            }
            self.rooms[number] = Some(room);
            let len = of_hole
                .iter()
                .fold(hole.len(), |len, edit| len + edit.masks - 1);
            self.holes[number].end = hole.start + len;
            for later in &mut self.holes[number + 1..] {
                *later = later.start + len - hole.len()..later.end + len - hole.len();
            }
        }
        edits
    }
}

#[cfg(test)]
mod tests {
    use crate::diffusion::window::Window;
    use crate::diffusion::{Attention, Cache, Candidate, Decoding, Ending, Kept, Piece, Settings};

    use super::*;

    const MASK: u32 = 9;
    const RESIZING: Resizing = Resizing {
        expand_id: 8,
        delete_id: 7,
    };

    /// `text`, a hole of `first` masks, `text`, one of `second`, `text`.
    fn canvas((first, most): (usize, usize), second: usize, most_second: Option<usize>) -> Canvas {
        let text = Piece::Text(&[1]);
        let pieces = [text, Piece::Hole(first), text, Piece::Hole(second), text];
        Canvas::of(&pieces, MASK).resizing(RESIZING, &[Some(most), most_second])
    }

    fn reveal(canvas: &mut Canvas, step: usize, tokens: &[(usize, u32)]) {
        for &(position, token) in tokens {
            canvas.reveal(&Candidate::of(position, token), step);
        }
    }

    #[test]
    fn an_expansion_is_two_masks_and_a_deletion_takes_the_rest() {
        let mut canvas = canvas((3, 4), 3, Some(8));
        assert_eq!(canvas.limit(), 3 + 4 + 8);
        reveal(&mut canvas, 0, &[(6, 2)]);
        assert!(canvas.resize(0, true).is_empty());
        reveal(&mut canvas, 1, &[(2, 8), (5, 7)]);
        let edits = canvas.resize(1, true);
        let edit = |at, masks| Edit { at, masks };
        assert_eq!(edits, [edit(7, 0), edit(5, 0), edit(2, 2)]);
        assert_eq!(
            canvas.ids(),
            [1, 9, 9, 9, 9, 1, 2, 1],
            "a token that stood stays"
        );
        assert_eq!(canvas.holes(), [1..5, 6..7]);
        assert_eq!(canvas.reveal_step().len(), canvas.generated().len());
        assert_eq!(canvas.masked(), [1, 2, 3, 4]);
        assert_eq!([canvas.has_room(0), canvas.has_room(1)], [false, true]);
        assert_eq!([canvas.barred(1), canvas.barred(6)], [Some(8), None]);
        reveal(&mut canvas, 2, &[(1, 7)]);
        canvas.resize(2, true);
        assert_eq!(canvas.holes(), [1..1, 2..3], "a hole can end empty");
        assert_eq!(canvas.ids(), [1, 1, 2, 1]);
        assert!(canvas.masked().is_empty());
    }

    /// Tokens behind an edit are those that stood at the same index before, but not the same ones.
    #[test]
    fn keys_of_what_moved_are_computed_anew() {
        let settings = Settings {
            decoding: Decoding {
                cache: Cache::Dual,
                ..Decoding::resizing()
            },
            ending: Ending::AtStop(Vec::new()),
            ..Settings::reference(9)
        };
        let pieces = [Piece::Text(&[1, 1]), Piece::Hole(4), Piece::Text(&[5; 6])];
        let mut canvas = Canvas::of(&pieces, MASK).resizing(RESIZING, &[Some(4)]);
        let mut window = Window::new(&canvas, &settings, Attention::Full, &Kept::default());
        assert!(window.plan(&canvas, &settings));
        assert_eq!(window.refresh, (0..12).collect::<Vec<_>>());
        reveal(&mut canvas, 0, &[(3, 7)]);
        let edits = canvas.resize(0, false);
        window.moved(&edits);
        assert!(window.plan(&canvas, &settings));
        assert_eq!(window.refresh, (3..11).collect::<Vec<_>>());
        assert_eq!(window.masked, [2, 3, 4]);
        assert!(window.plan(&canvas, &settings));
        assert!(window.refresh.is_empty(), "and once");
    }

    #[test]
    fn one_place_alone_can_be_deleted() {
        let mut canvas = canvas((3, 4), 1, Some(8));
        reveal(&mut canvas, 0, &[(1, 7), (2, 3)]);
        canvas.resize(0, false);
        assert_eq!(canvas.ids(), [1, 3, 9, 1, 9, 1]);
    }

    #[test]
    fn expansions_without_room_leave_their_mask_and_others_are_as_long_as_they_are() {
        let mut canvas = canvas((2, 3), 2, None);
        assert_eq!(
            canvas.barred(4),
            Some(8),
            "no expansion where nothing can grow"
        );
        reveal(&mut canvas, 0, &[(1, 8), (2, 8), (4, 7)]);
        let edits = canvas.resize(0, true);
        assert_eq!(edits, [Edit { at: 2, masks: 1 }, Edit { at: 1, masks: 2 }]);
        assert_eq!(canvas.ids(), [1, 9, 9, 9, 1, 7, 9, 1]);
        // Three expansions are as many as it had; each deletion makes room for one.
        for step in 1..=2 {
            reveal(&mut canvas, step, &[(1, 7)]);
            canvas.resize(step, false);
            reveal(&mut canvas, step + 10, &[(1, 8)]);
            canvas.resize(step + 10, true);
        }
        reveal(&mut canvas, 3, &[(1, 7)]);
        canvas.resize(3, false);
        assert!(!canvas.has_room(0), "its budget is spent");
    }
}
