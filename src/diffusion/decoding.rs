//! How a canvas is taken in parts: windows, what is seen and reused, and what a threshold reveals.

use super::blocks::{Attention, Blocks};
use super::confidence::Algorithm;

/// What is reused from one pass to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// Nothing: every pass computes all that it sees.
    #[default]
    None,
    /// Keys and values of what lies before the window.
    Prefix,
    /// Keys and values of what lies outside the window.
    Window,
    /// Everything that was computed with the token it now has. A mask is computed again where its
    /// row predicts something, which in a shifted model is wherever a mask follows it. With
    /// [`FirstToken::Committed`], as published: what lies outside the window. In a block-causal
    /// model that is what lies outside the sub-block, in a block that is computed anew while the
    /// first token of its sub-block is a mask.
    Dual,
}

impl Cache {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 4] = [Self::None, Self::Prefix, Self::Window, Self::Dual];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Prefix => "prefix",
            Self::Window => "window",
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

/// Which of the masks behind those of [`Decoding::lookahead`] are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Far {
    /// None.
    #[default]
    Hidden,
    /// The fewer the further from the window, and the last: each an eighth of its distance behind
    /// the one before. A deterministic form of the dropout by distance of DPad (arXiv 2508.14148).
    Thinned,
}

impl Far {
    /// Both, in the order help texts list them.
    pub const ALL: [Self; 2] = [Self::Hidden, Self::Thinned];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Thinned => "thinned",
        }
    }
}

/// Where the first token of a window comes from, where keys and values are reused: a shifted model
/// predicts it from the row before the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirstToken {
    /// That row is computed at each pass, until the token is revealed like any other.
    #[default]
    Predicted,
    /// As in Fast-dLLM: the pass that computes everything reveals it, whatever its probability, and
    /// nothing else; those that follow compute the window alone. In a block-causal model that pass
    /// is the one over the finished block before.
    Committed,
}

impl FirstToken {
    /// Both, in the order help texts list them.
    pub const ALL: [Self; 2] = [Self::Predicted, Self::Committed];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Predicted => "predicted",
            Self::Committed => "committed",
        }
    }
}

/// What a threshold is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rule {
    /// The probability of each candidate.
    #[default]
    Threshold,
    /// The same, of candidates whose distribution has settled: each of the last two passes moved it
    /// by less than 0.001 nats (KLASS, arXiv 2511.05664).
    Klass,
    /// A lower bound of the probability that the surest candidates are right together (Fréchet's;
    /// Fast-dLLM++).
    Frechet,
    /// The entropy of each position's distribution in nats, which has to be below it: d3LLM's, with
    /// [`Algorithm::Entropy`]. At least one is revealed in the first window with masks.
    Entropy,
}

impl Rule {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 4] = [Self::Threshold, Self::Klass, Self::Frechet, Self::Entropy];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Klass => "klass",
            Self::Frechet => "frechet",
            Self::Entropy => "entropy",
        }
    }

    /// The threshold of its authors.
    pub fn usual_threshold(self) -> f32 {
        match self {
            Self::Threshold | Self::Klass => 0.9,
            Self::Frechet => 0.25,
            Self::Entropy => 0.5,
        }
    }
}

/// How a canvas is taken in parts. The default is the reference: all of it at every step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Decoding {
    /// Masks of a window; `None` is the whole canvas. In a block-causal model the window is a block
    /// of the grid: this many positions, or as many as it was trained on.
    pub window: Option<usize>,
    /// Share of a window's positions that must be revealed before the next window opens beside it,
    /// with full attention; `None` is all. What stands behind a stop token then becomes that token.
    pub opens_at: Option<f32>,
    /// Positions seen behind the window, where nothing but masks follows; `None` is all of them.
    pub lookahead: Option<usize>,
    /// What is seen behind these.
    pub far: Far,
    /// What is reused.
    pub cache: Cache,
    /// When what is reused is computed anew.
    pub refresh: Refresh,
    /// Where the first token of a window comes from.
    pub first_token: FirstToken,
    /// Reveal every candidate that reaches this, and one at least, instead of a fixed number.
    pub threshold: Option<f32>,
    /// What the threshold is held against.
    pub rule: Rule,
    /// Whether a threshold reveals no more tokens than the steps so far were to reveal, each as
    /// many: Fast-dLLM's count, which it has where nothing is cached.
    pub is_capped: bool,
    /// Temperature of the confidence that orders the reveals, taken from unfiltered logits and in
    /// float64, as LLaDA's sampler does; `None` takes it from the tempered and filtered ones in
    /// float32, as Dream's does.
    pub order_temperature: Option<f32>,
    /// Temperature of the probabilities that a threshold is held against, taken from unfiltered
    /// logits, where the order is not: `None` takes those that tokens are drawn from.
    pub threshold_temperature: Option<f32>,
    /// Whether keys and values of text that the run before had too are taken from it, wherever it
    /// stands now. They were computed with what stood beside it then: an approximation of the kind
    /// that [`Cache::Dual`] is. Nothing is reused that `cache` has computed in every pass.
    pub reuse_context: bool,
    /// How the authors of a block-causal model fill a block.
    pub blocks: Option<Blocks>,
}

impl Decoding {
    /// Whether anything is taken from the run before: not where every pass computes everything.
    pub(crate) fn reuses_context(&self) -> bool {
        self.reuse_context && self.cache != Cache::None
    }

    /// The temperature at which nothing is filtered, for the order or the threshold.
    pub(super) fn beside(&self) -> Option<f32> {
        self.order_temperature.or(self.threshold_temperature)
    }

    /// Masks of a window on a CPU where nobody says how many: about twice the rows at which
    /// arithmetic takes as long as reading the weights, because a window is half full on average.
    /// Fixed and not measured at each start, so that a seed means a text. With tiles 24 rows take
    /// half as long again as 9, 48 not twice as long, and no larger window was shown to pay.
    pub const CPU_WINDOW: usize = 12;
    /// The same on a GPU, where more rows are free.
    pub const GPU_WINDOW: usize = 32;

    /// Fast-dLLM as published for Dream (`generation_utils_block.py`; arXiv 2505.22618): blocks of
    /// 32 with all masks behind them, everything computed anew for each, and a threshold.
    pub fn fast_dllm() -> Self {
        Self {
            window: Some(32),
            cache: Cache::Prefix,
            first_token: FirstToken::Committed,
            threshold: Some(0.9),
            is_capped: true,
            ..Self::default()
        }
    }

    /// Fast-dLLM as published for LLaDA (`llada/generate.py`): what reaches the threshold of a whole
    /// block from its first pass on, by probabilities of temperature 1.
    pub fn fast_dllm_of_llada() -> Self {
        Self {
            first_token: FirstToken::Predicted,
            is_capped: false,
            order_temperature: Some(1.0),
            ..Self::fast_dllm()
        }
    }

    /// d3LLM as published for Dream-Coder (`_sample_multi_block` in hao-ai-lab/d3LLM, with the
    /// values of its evaluation; arXiv 2601.07568). There a block becomes "fully active" when 95 %
    /// of the one before it are there, which changes nothing: the first unfinished one always is.
    /// Its evaluation keeps keys of blocks that were full 32 forwards ago, and computes everything
    /// while there are younger ones, which at its pace is always.
    pub fn d3llm() -> Self {
        Self {
            window: Some(32),
            opens_at: Some(0.1),
            threshold: Some(Rule::Entropy.usual_threshold()),
            rule: Rule::Entropy,
            order_temperature: Some(1.0),
            ..Self::default()
        }
    }

    /// The sampler of the authors of a block-causal model, on blocks of `size`.
    pub fn blocks(blocks: Blocks, size: usize) -> Self {
        Self {
            window: Some(size),
            lookahead: Some(0),
            cache: Cache::Prefix,
            refresh: Refresh::Never,
            threshold: blocks.threshold,
            order_temperature: blocks.order_temperature,
            blocks: Some(blocks),
            ..Self::default()
        }
    }

    /// Whether pads before a prompt move the grid of blocks to its end.
    pub fn is_padded(&self) -> bool {
        self.blocks.is_some_and(|blocks| blocks.is_padded)
    }

    /// Which positions attend to which in a model that is of this kind: on a grid of windows, where
    /// they have a size.
    pub(crate) fn attention(&self, of_model: Attention) -> Attention {
        match of_model {
            Attention::Full => Attention::Full,
            Attention::BlockCausal(size) => Attention::BlockCausal(self.window.unwrap_or(size)),
        }
    }

    /// For holes that get longer and shorter: the reference, with keys and values of what stands
    /// before the first hole kept. What stands behind it moves and is computed at each pass.
    pub fn resizing() -> Self {
        Self {
            cache: Cache::Prefix,
            ..Self::default()
        }
    }

    /// Windows and a threshold, with everything computed anew for each window.
    pub fn quality() -> Self {
        Self {
            window: Some(32),
            lookahead: Some(32),
            cache: Cache::Prefix,
            threshold: Some(0.9),
            threshold_temperature: Some(1.0),
            ..Self::default()
        }
    }

    /// What is published for models of Dream's family, as far as it costs little: windows of 32 and
    /// reused keys of what is outside them (Fast-dLLM), of the masks behind them the near ones and
    /// a thinned sample of the others (DPad), everything computed anew every 64 passes (dLLM-Cache:
    /// 50 to 100), and a threshold for what has settled (KLASS).
    ///
    /// The order is the authors', by tempered probabilities. By untempered ones, weights of their
    /// recipe, for which a canvas ends in sure ends of text, decide the end first and then write
    /// next to nothing before it (`cargo bench --bench decoding`, `benches/README.md`).
    pub fn balanced() -> Self {
        Self {
            window: Some(32),
            lookahead: Some(16),
            far: Far::Thinned,
            cache: Cache::Window,
            refresh: Refresh::Every(64),
            threshold: Some(0.9),
            rule: Rule::Klass,
            threshold_temperature: Some(1.0),
            ..Self::default()
        }
    }

    /// Windows of so many masks and a threshold, with each token computed once with its final
    /// value.
    pub fn fast(window: usize) -> Self {
        Self {
            window: Some(window),
            lookahead: Some(0),
            cache: Cache::Dual,
            refresh: Refresh::Never,
            threshold: Some(0.9),
            order_temperature: Some(1.0),
            threshold_temperature: Some(1.0),
            ..Self::default()
        }
    }

    /// The order of reveals that loses least: a threshold and an order of one kind, as measured on
    /// the built-in model (`cargo bench --bench decoding`), and the authors' without a threshold.
    pub fn usual_algorithm(&self) -> Algorithm {
        match self.threshold {
            _ if self.blocks.is_some() => Algorithm::MaskgitPlus,
            Some(_) if self.rule == Rule::Entropy => Algorithm::Entropy,
            Some(_) => Algorithm::MaskgitPlus,
            None => Algorithm::Entropy,
        }
    }

    /// Most masks behind the last token that a pass looks at.
    pub fn reach(&self) -> usize {
        let (window, lookahead) = (self.window, self.lookahead);
        window
            .zip(lookahead)
            .map_or(usize::MAX, |(window, lookahead)| {
                window.saturating_add(lookahead)
            })
    }
}
