//! Which positions a pass predicts, sees and computes: the decoding window, and what is known of
//! the rest.
//!
//! The canvas is filled window by window; inside one, the model's confidence decides the order.
//! Keys and values of positions outside it are reused, as in Fast-dLLM (arXiv 2505.22618, section
//! 3), with two differences: a revealed token is computed once with its final value, wherever it
//! is, and the row before a masked position, from which a shifted model predicts it, is computed
//! with it instead of trusting the first token of every window to a full pass. With
//! [`FirstToken::Committed`] there are no differences.
//!
//! In a block-causal model the window is a block of the grid. What was computed in it counts once
//! it is full: all of it is computed anew with the next window, and never again. A first token that
//! is committed is a window by itself, which the pass over the block before it predicts.

use std::ops::Range;

use super::blocks::Attention;
use super::canvas::{Canvas, Edit};
use super::decoding::{Cache, Far, FirstToken, Refresh};
use super::kept::Kept;
use super::settings::Settings;

/// A window of the canvas, and what the next pass does for it.
#[derive(Debug)]
pub(super) struct Window {
    /// Masked positions of the window or of a part of it, left to right: to be predicted. With P2
    /// all of every hole.
    pub masked: Vec<usize>,
    /// Positions that are seen, ascending: all up to somewhere behind the window, and of the masks
    /// that follow some or none.
    pub seen: Vec<usize>,
    /// Where they are on the grid, pads counted.
    pub positions: Vec<usize>,
    /// Their tokens.
    pub ids: Vec<u32>,
    /// Indices of those whose keys and values are computed.
    pub refresh: Vec<usize>,
    /// Masks of the window when it was moved here, if this pass is its first.
    pub begins_with: Option<usize>,
    /// Whether this pass reveals the first mask and no other, whatever its probability.
    pub commits_first: bool,
    /// Which positions attend to which.
    pub attention: Attention,
    /// Where the first window with masks ends, of those that are open.
    pub first_end: usize,
    start: usize,                     // of the window
    end: usize,                       // of the window
    known: Vec<Option<(usize, u32)>>, // position and token of the keys and values at each index
    passes: usize,
    pads: usize, // before the first position
}

impl Window {
    /// Before the first pass; `kept` are the tokens whose keys and values an earlier run left.
    pub fn new(canvas: &Canvas, settings: &Settings, attention: Attention, kept: &Kept) -> Self {
        let (ids, mut pads) = (canvas.ids(), 0);
        let mut is_known: Vec<bool> = (0..ids.len()).map(|at| kept.contains(at)).collect();
        if let Attention::BlockCausal(size) = attention {
            if settings.decoding.is_padded() {
                pads = canvas.prompt_len().next_multiple_of(size) - canvas.prompt_len();
            }
            // A block that more follows in was computed with what followed then; with pads before
            // them all tokens stood elsewhere.
            let whole = match pads {
                0 => kept.prefix() - kept.prefix() % size,
                _ => 0,
            };
            is_known[whole..].fill(false);
        }
        let known = ids.iter().zip(is_known).enumerate();
        let known = known.map(|(at, (&id, is_known))| is_known.then_some((at, id)));
        Self {
            known: known.collect(),
            attention,
            masked: Vec::new(),
            pads,
            seen: Vec::new(),
            positions: Vec::new(),
            ids: Vec::new(),
            refresh: Vec::new(),
            begins_with: None,
            commits_first: false,
            first_end: 0,
            start: 0,
            end: 0,
            passes: 0,
        }
    }

    /// Plans the next pass; `false` if nothing is left to reveal.
    pub fn plan(&mut self, canvas: &Canvas, settings: &Settings) -> bool {
        let decoding = settings.decoding;
        let stops = settings.ending.stop_ids();
        let open = canvas.open(stops);
        let Some(&first) = open.first() else {
            return false;
        };
        let is_committed = decoding.first_token == FirstToken::Committed;
        let block_end = |position| self.attention.end(position + self.pads);
        let is_alone = is_committed && first > 0 && block_end(first - 1) < block_end(first);
        let is_new = !open
            .iter()
            .any(|position| (self.start..self.end).contains(position));
        if is_new {
            (self.start, self.end) = self.place(&open, decoding.window, is_alone);
        }
        let window = self.start..self.end;
        let part = self.part(first, settings);
        self.masked.clear();
        self.masked
            .extend(open.iter().filter(|position| part.contains(position)));
        self.first_end = self.end;
        // A fixed number of tokens is of one window.
        let opens_at = decoding.threshold.and(decoding.opens_at);
        if let (Attention::Full, Some(opens_at)) = (self.attention, opens_at) {
            let size = decoding.window.unwrap_or(usize::MAX);
            self.open_beside(canvas, &open, size, opens_at);
        }
        if settings.is_planned(canvas) {
            self.masked = canvas.holes().iter().cloned().flatten().collect();
        }
        let masks = open.iter().filter(|position| window.contains(position));
        self.begins_with = (is_new && !is_alone).then(|| masks.count());
        self.see(canvas, settings);

        let is_due = match decoding.refresh {
            Refresh::Window => is_new,
            Refresh::Every(passes) => self.passes.is_multiple_of(passes),
            Refresh::Never => false,
        };
        let is_full = self.attention == Attention::Full;
        self.commits_first = is_full && is_committed && is_due && decoding.cache != Cache::None;
        if self.commits_first {
            self.masked.truncate(1);
        }
        let is_whole = is_new || first == part.start; // what is due of a block
        let is_kept = |index: usize| match decoding.cache {
            Cache::None => false,
            Cache::Prefix => index < window.start,
            Cache::Window => !window.contains(&index),
            Cache::Dual if !is_committed => true,
            Cache::Dual => !(part.contains(&index) || is_whole && window.contains(&index)),
        };
        let is_final = |index: usize| {
            let is_block_kept = is_committed && decoding.cache == Cache::Dual;
            is_full || is_block_kept || index < window.start
        };
        // The mask of a window by itself is not seen by the block that predicts it.
        let last = if is_alone {
            window.start
        } else {
            self.seen.len()
        };
        self.renew(last, is_due, is_kept, is_final);
        true
    }

    /// Where a new window starts and ends, of masks of which `open` can become text.
    fn place(&mut self, open: &[usize], size: Option<usize>, is_alone: bool) -> (usize, usize) {
        let first = open[0];
        match self.attention {
            Attention::Full => {
                let size = size.unwrap_or(usize::MAX).min(open.len());
                (first, open[size - 1] + 1)
            }
            Attention::BlockCausal(size) => {
                let of_block = self.known.iter_mut().take(self.end).skip(self.start);
                of_block.for_each(|known| *known = None); // computed among masks
                let end = self.attention.end(first + self.pads) - self.pads;
                let start = end.saturating_sub(size);
                (start, if is_alone { first + 1 } else { end })
            }
        }
    }

    /// Chooses what is computed of the first `last` indices: what is due or changed, and what is
    /// not kept. What is computed with its final neighbours is known from then on.
    fn renew(
        &mut self,
        last: usize,
        is_due: bool,
        is_kept: impl Fn(usize) -> bool,
        is_final: impl Fn(usize) -> bool,
    ) {
        let is_due = is_due && self.passes > 0; // at first nothing is known but what was kept
        self.refresh.clear();
        self.known
            .resize(self.known.len().max(self.seen.len()), None);
        let seen = self.seen.iter().zip(&self.ids).enumerate();
        for (index, (&position, &id)) in seen.take(last) {
            let is_stale = self.known[index] != Some((position, id));
            if is_due || is_stale || !is_kept(index) {
                self.refresh.push(index);
                self.known[index] = is_final(index).then_some((position, id));
            }
        }
        self.passes += 1;
    }

    /// Where the window's masks are predicted: in all of it, or in the sub-block of the first one.
    fn part(&self, first: usize, settings: &Settings) -> Range<usize> {
        let blocks = settings.decoding.blocks;
        match (self.attention, blocks.and_then(|blocks| blocks.sub_block)) {
            (Attention::BlockCausal(_), Some(size)) => {
                let start = first - first.saturating_sub(self.start) % size;
                start..self.end.min(start + size)
            }
            _ => self.start..self.end,
        }
    }

    /// Takes the masks of all windows of `size` positions up to the first of which less than
    /// `opens_at` is revealed. `open` are the masks that can become text.
    fn open_beside(&mut self, canvas: &Canvas, open: &[usize], size: usize, opens_at: f32) {
        let positions: Vec<usize> = canvas.holes().iter().cloned().flatten().collect();
        self.masked.clear();
        for window in positions.chunks(size) {
            let masks = window.iter().filter(|at| open.binary_search(at).is_ok());
            let before = self.masked.len();
            self.masked.extend(masks);
            let count = self.masked.len() - before;
            self.end = window[window.len() - 1] + 1;
            if before == 0 {
                self.first_end = self.end;
            }
            if 1.0 - count as f32 / (window.len() as f32) < opens_at {
                break;
            }
        }
    }

    /// The canvas was edited: the window moves with it, and of what stands behind the first edit
    /// nothing is known any more, since each key was rotated for its position.
    pub fn moved(&mut self, edits: &[Edit]) {
        let moved = |bound: usize| {
            let before = edits.iter().filter(|edit| edit.at < bound);
            before.fold(bound, |bound, edit| bound + edit.masks - 1)
        };
        (self.start, self.end) = (moved(self.start), moved(self.end));
        let first = edits.iter().map(|edit| edit.at).min();
        self.known.truncate(first.unwrap_or(usize::MAX));
    }

    /// Looks at everything up to the last token and at masks behind the window.
    fn see(&mut self, canvas: &Canvas, settings: &Settings) {
        let decoding = settings.decoding;
        let is_planned = settings.is_planned(canvas); // over all positions
        let visible = match is_planned || decoding.opens_at.is_some() {
            true => canvas.ids().len(),
            false => canvas.visible(settings.ending.stop_ids()),
        };
        let lookahead = decoding.lookahead.filter(|_| !is_planned);
        let near = lookahead
            .map_or(usize::MAX, |n| self.end.saturating_add(n))
            .max(canvas.masks_from())
            .min(visible);
        self.seen.clear();
        self.seen.extend(0..near);
        if decoding.far == Far::Thinned && near < visible {
            let next = |&position: &usize| Some(position + 1 + (position - self.end) / 8);
            let far = std::iter::successors(Some(near), next);
            self.seen.extend(far.take_while(|&at| at < visible - 1));
            self.seen.push(visible - 1);
        }
        self.positions.clear();
        self.positions
            .extend(self.seen.iter().map(|&at| at + self.pads));
        self.ids.clear();
        self.ids
            .extend(self.seen.iter().map(|&at| canvas.ids()[at]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_with_the_edits_before_its_bounds() {
        let canvas = Canvas::new(&[1; 3], 7, 5);
        let settings = Settings::reference(1);
        let mut window = Window::new(&canvas, &settings, Attention::Full, &Kept::default());
        (window.start, window.end) = (4, 8);
        window.known = vec![Some((0, 1)); 10];
        let edit = |(at, masks)| Edit { at, masks };
        window.moved(&[(6, 2), (3, 0), (7, 2), (8, 2)].map(edit));
        assert_eq!((window.start, window.end), (4 - 1, 8 - 1 + 1 + 1));
        assert_eq!(window.known.len(), 3, "what stood before the first edit");
    }
}
