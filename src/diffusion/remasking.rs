//! Remasking: when the text is there, each of its tokens is masked by itself and predicted again,
//! from all the others.
//!
//! A token that was revealed early saw masks where text stands now, and the plain sampler never
//! looks at it again. A round over all tokens is one of iterated conditional modes (Besag, "On the
//! Statistical Analysis of Dirty Pictures", 1986) at temperature 0, and of Gibbs sampling above; to
//! mask again what was revealed is what ReMDM does (arXiv 2503.00307).

use std::cmp::Reverse;

use super::canvas::Canvas;

/// What is still to be looked at again.
#[derive(Debug)]
pub(super) struct Remasking {
    rounds: usize,     // not begun
    queue: Vec<usize>, // positions of this round, the next one last
    before: Vec<u32>,  // the canvas when this round began
}

impl Remasking {
    pub fn new(rounds: usize) -> Self {
        Self {
            rounds,
            queue: Vec::new(),
            before: Vec::new(),
        }
    }

    /// Masks the token of a finished canvas that is next, those revealed first before the others;
    /// `false` if there is none: when all rounds are over, or one has changed nothing.
    pub fn next(&mut self, canvas: &mut Canvas, stop_ids: &[u32]) -> bool {
        loop {
            // What a new stop token has cut off is no text any more.
            while let Some(position) = self.queue.pop() {
                if canvas.text(stop_ids).contains(&position) {
                    canvas.remask(position);
                    return true;
                }
            }
            if self.rounds == 0 || self.before == canvas.ids() {
                return false;
            }
            self.rounds -= 1;
            self.before = canvas.ids().to_vec();
            self.queue = canvas.text(stop_ids);
            self.queue.reverse();
            let step = |position| canvas.reveal_step()[position - canvas.prompt_len()];
            // Stable: of those revealed together, the left one comes first.
            self.queue.sort_by_key(|&position| Reverse(step(position)));
        }
    }
}
