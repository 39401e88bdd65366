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
    /// As in DreamOn's evaluation there are as many expansions as positions; its code on the Hub has
    /// twice as many.
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
