//! Holes that get longer and shorter while they are filled, as in DreamOn.
//!
//! Two tokens of such a model are no text: one that becomes two masks, and one that is taken out of
//! the hole again. So the length of a hole need not be known: the model finds it. Given text never
//! changes, and a hole can end empty.
//!
//! Source: `batch_generate_with_expand_as_token` in DreamOn's `eval/generator.py`.

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

#[cfg(test)]
mod tests {
    use super::super::window::Window;
    use super::super::{Attention, Cache, Candidate, Canvas, Decoding, Ending, Piece, Settings};
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
            let candidate = Candidate {
                position,
                token,
                confidence: 0.0,
                probability: 0.0,
                is_settled: false,
            };
            canvas.reveal(&candidate, step);
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
        let mut window = Window::new(&canvas, &settings, Attention::Full, &[]);
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
