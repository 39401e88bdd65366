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
//! it is full: all of it is computed anew with the next window, and never again.

use super::blocks::Attention;
use super::canvas::Canvas;
use super::resizing::Edit;
use super::settings::{Cache, Far, FirstToken, Refresh, Settings};

/// A window of the canvas, and what the next pass does for it.
#[derive(Debug)]
pub(super) struct Window {
    /// Masked positions of the window, left to right: to be predicted. With P2 all of every hole.
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
    /// Which positions attend to which.
    pub attention: Attention,
    start: usize,                     // of the window
    end: usize,                       // of the window
    known: Vec<Option<(usize, u32)>>, // position and token of the keys and values at each index
    reused: usize,                    // positions at the start that an earlier run computed
    passes: usize,
    pads: usize, // before the first position
}

impl Window {
    /// Before the first pass; `cached` are the tokens with which the network has computed the keys
    /// and values that it keeps.
    pub fn new(
        canvas: &Canvas,
        settings: &Settings,
        attention: Attention,
        cached: &[Option<u32>],
    ) -> Self {
        let prompt = &canvas.ids()[..canvas.prompt_len()];
        let is_same = |(cached, id): &(&Option<u32>, &u32)| **cached == Some(**id);
        let reused = match settings.decoding.reuse_prefix {
            true => cached.iter().zip(prompt).take_while(is_same).count(),
            false => 0,
        };
        // A block that more follows in was computed with what followed then.
        let reused = match attention {
            Attention::Full => reused,
            Attention::BlockCausal(size) => reused - reused % size,
        };
        let pads = match attention {
            Attention::BlockCausal(size) if settings.decoding.is_padded() => {
                canvas.prompt_len().next_multiple_of(size) - canvas.prompt_len()
            }
            _ => 0,
        };
        let reused = if pads > 0 { 0 } else { reused }; // it stood elsewhere
        let known = prompt[..reused].iter().copied().enumerate();
        Self {
            known: known.map(Some).collect(),
            reused,
            attention,
            masked: Vec::new(),
            pads,
            seen: Vec::new(),
            positions: Vec::new(),
            ids: Vec::new(),
            refresh: Vec::new(),
            begins_with: None,
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
        let is_new = !open
            .iter()
            .any(|position| (self.start..self.end).contains(position));
        if is_new {
            (self.start, self.end) = match self.attention {
                Attention::Full => {
                    let size = decoding.window.unwrap_or(usize::MAX).min(open.len());
                    (first, open[size - 1] + 1)
                }
                Attention::BlockCausal(size) => {
                    let end = self.attention.end(first + self.pads) - self.pads;
                    (end.saturating_sub(size), end)
                }
            };
        }
        let window = self.start..self.end;
        self.masked.clear();
        self.masked
            .extend(open.iter().filter(|position| window.contains(position)));
        if settings.is_planned(canvas) {
            self.masked = canvas.holes().iter().cloned().flatten().collect();
        }
        self.begins_with = is_new.then_some(self.masked.len());
        self.see(canvas, settings);

        let is_due = match decoding.refresh {
            Refresh::Window => is_new,
            Refresh::Every(passes) => self.passes.is_multiple_of(passes),
            Refresh::Never => false,
        };
        let is_committed =
            decoding.first_token == FirstToken::Committed && decoding.cache != Cache::None;
        if is_committed && is_due {
            self.masked.truncate(1);
        }
        let is_kept = |index: usize| match decoding.cache {
            Cache::None => false,
            Cache::Prefix => index < window.start,
            Cache::Dual => !is_committed || !window.contains(&index),
        };
        let reused = if self.passes == 0 { self.reused } else { 0 };
        self.refresh.clear();
        self.known
            .resize(self.known.len().max(self.seen.len()), None);
        for (index, (&position, &id)) in self.seen.iter().zip(&self.ids).enumerate() {
            let is_stale = self.known[index] != Some((position, id));
            if (is_due && index >= reused) || is_stale || !is_kept(index) {
                self.refresh.push(index);
                let is_final = self.attention == Attention::Full || index < window.start;
                self.known[index] = is_final.then_some((position, id));
            }
        }
        self.passes += 1;
        true
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
        let visible = canvas.visible(settings.ending.stop_ids());
        let near = decoding
            .lookahead
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
