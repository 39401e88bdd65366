//! Which positions a pass predicts, sees and computes: the decoding window, and what is known of
//! the rest.
//!
//! The canvas is filled window by window; inside one, the model's confidence decides the order.
//! Keys and values of positions outside it are reused, as in Fast-dLLM (arXiv 2505.22618, section
//! 3), with two differences: a revealed token is computed once with its final value, wherever it
//! is, and the row before a masked position, from which a shifted model predicts it, is computed
//! with it instead of trusting the first token of every window to a full pass.

use super::canvas::Canvas;
use super::settings::{Cache, Refresh, Settings};

/// A window of the canvas, and what the next pass does for it.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Masked positions of the window, left to right: to be predicted.
    pub masked: Vec<usize>,
    /// Positions whose keys and values are computed.
    pub refresh: Vec<usize>,
    /// Length of the canvas that is seen.
    pub visible: usize,
    /// Whether the window was moved.
    pub is_new: bool,
    start: usize,            // of the window
    end: usize,              // of the window
    known: Vec<Option<u32>>, // the token with which each position's keys and values were computed
    reused: usize,           // positions at the start that an earlier run computed
    passes: usize,
}

impl Window {
    /// Before the first pass; `cached` are the tokens with which the network has computed the keys
    /// and values that it keeps.
    pub fn new(canvas: &Canvas, settings: &Settings, cached: &[Option<u32>]) -> Self {
        let prompt = &canvas.ids()[..canvas.prompt_len()];
        let is_same = |(cached, id): &(&Option<u32>, &u32)| **cached == Some(**id);
        let reused = match settings.decoding.reuse_prefix {
            true => cached.iter().zip(prompt).take_while(is_same).count(),
            false => 0,
        };
        Self {
            known: cached[..reused].to_vec(),
            reused,
            ..Self::default()
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
        self.is_new = !open
            .iter()
            .any(|position| (self.start..self.end).contains(position));
        if self.is_new {
            let last = decoding
                .window
                .map_or(open.len(), |size| size.min(open.len()))
                - 1;
            (self.start, self.end) = (first, open[last] + 1);
        }
        self.masked.clear();
        let window = self.start..self.end;
        self.masked
            .extend(open.iter().filter(|position| window.contains(position)));
        let seen = decoding
            .lookahead
            .map_or(usize::MAX, |n| self.end.saturating_add(n));
        self.visible = canvas.visible(stops).min(seen.max(canvas.masks_from()));

        self.known.resize(canvas.ids().len(), None);
        let is_due = match decoding.refresh {
            Refresh::Window => self.is_new,
            Refresh::Every(passes) => self.passes.is_multiple_of(passes),
            Refresh::Never => false,
        };
        let is_stale = |position: usize| self.known[position] != Some(canvas.ids()[position]);
        let is_kept = |position: usize| match decoding.cache {
            Cache::None => false,
            Cache::Prefix => position < self.start,
            Cache::Dual => true,
        };
        let reused = if self.passes == 0 { self.reused } else { 0 };
        let refresh = (0..self.visible).filter(|&position| {
            (is_due && position >= reused) || is_stale(position) || !is_kept(position)
        });
        self.refresh.clear();
        self.refresh.extend(refresh);
        for &position in &self.refresh {
            self.known[position] = Some(canvas.ids()[position]);
        }
        self.passes += 1;
        true
    }
}
