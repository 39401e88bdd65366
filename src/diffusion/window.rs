//! Which positions a pass predicts, sees and computes: the decoding window, and what is known of the rest.
//!
//! The canvas is filled window by window; inside one, the model's confidence decides the order. Keys and
//! values of positions outside it are reused, as in Fast-dLLM (arXiv 2505.22618, section 3), with two
//! differences: a revealed token is computed once with its final value, wherever it is, and the row
//! before a masked position, from which a shifted model predicts it, is computed with it instead of
//! trusting the first token of every window to a full pass.

use super::Settings;
use super::canvas::Canvas;

/// What is reused from one pass to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Nothing: every pass computes all that it sees.
    #[default]
    None,
    /// Keys and values of what lies before the window.
    Prefix,
    /// Everything that was computed with the token it now has. A mask is computed again where its row
    /// predicts something, which in a shifted model is wherever a mask follows it.
    Dual,
}

impl Cache {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 3] = [Self::None, Self::Prefix, Self::Dual];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Prefix => "prefix",
            Self::Dual => "dual",
        }
    }
}

/// When everything is computed anew although it is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// At the start of each window.
    #[default]
    Window,
    /// Every so many passes.
    Every(usize),
    /// Never: each position once as a mask that is seen, and once as a token.
    Never,
}

/// How a canvas is taken in parts. The default is the reference: all of it at every step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Decoding {
    /// Masks of a window; `None` is the whole canvas.
    pub window: Option<usize>,
    /// Positions seen behind the window, where nothing but masks follows; `None` is all of them.
    pub lookahead: Option<usize>,
    /// What is reused.
    pub cache: Cache,
    /// When what is reused is computed anew.
    pub refresh: Refresh,
    /// Reveal every candidate at least this probable, and one at least, instead of a fixed number.
    pub threshold: Option<f32>,
    /// Temperature of the confidence that orders the reveals, taken from unfiltered logits; `None`
    /// takes it from the tempered and filtered ones, as the reference does.
    pub order_temperature: Option<f32>,
}

impl Decoding {
    /// Masks of a window, where nobody says how many: about twice the rows at which arithmetic takes as long as
    /// reading the weights, because a window is half full on average. Fixed and not measured at each start,
    /// so that a seed means a text.
    pub const WINDOW: usize = if cfg!(any(feature = "cuda", feature = "metal")) {
        32
    } else {
        12
    };

    /// Windows and a threshold, with everything computed anew for each window.
    pub fn quality() -> Self {
        Self {
            window: Some(32),
            lookahead: Some(32),
            cache: Cache::Prefix,
            refresh: Refresh::Window,
            threshold: Some(0.9),
            order_temperature: Some(1.0),
        }
    }

    /// Windows and a threshold, with each token computed once with its final value.
    pub fn fast() -> Self {
        Self {
            window: Some(Self::WINDOW),
            lookahead: Some(0),
            cache: Cache::Dual,
            refresh: Refresh::Never,
            threshold: Some(0.9),
            order_temperature: Some(1.0),
        }
    }

    /// Most masks behind the last token that a pass looks at.
    pub fn reach(&self) -> usize {
        let (window, lookahead) = (self.window, self.lookahead);
        window
            .zip(lookahead)
            .map_or(usize::MAX, |(window, lookahead)| window + lookahead)
    }
}

/// What the next pass is about.
#[derive(Debug, Default)]
pub(super) struct Frame {
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
    passes: usize,
}

impl Frame {
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
        let refresh = (0..self.visible)
            .filter(|&position| is_due || is_stale(position) || !is_kept(position));
        self.refresh.clear();
        self.refresh.extend(refresh);
        for &position in &self.refresh {
            self.known[position] = Some(canvas.ids()[position]);
        }
        self.passes += 1;
        true
    }
}
