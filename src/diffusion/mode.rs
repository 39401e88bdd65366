//! Settings that belong together, by a name.

use super::decoding::Decoding;

/// How fast, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The published sampler, step for step: the whole canvas, to its end.
    Exact,
    /// Windows, a threshold and reused keys, with masks behind the window seen.
    Balanced,
    /// Windows and thresholds, with everything computed anew for each window.
    Quality,
    /// Small windows and nothing behind them, each token computed once with its final value.
    Fast,
    /// Fast-dLLM as it was published, to the canvas's end.
    FastDllm,
    /// d3LLM as it was published, for weights distilled for it.
    D3llm,
}

impl Mode {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 6] = [
        Self::Exact,
        Self::Balanced,
        Self::Quality,
        Self::Fast,
        Self::FastDllm,
        Self::D3llm,
    ];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Balanced => "balanced",
            Self::Quality => "quality",
            Self::Fast => "fast",
            Self::FastDllm => "fast-dllm",
            Self::D3llm => "d3llm",
        }
    }

    /// How the canvas is taken in parts.
    pub fn decoding(self, is_gpu: bool) -> Decoding {
        match self {
            Self::Exact => Decoding::default(),
            Self::Balanced => Decoding::balanced(),
            Self::Quality => Decoding::quality(),
            Self::Fast => Decoding::fast(usual_window(is_gpu)),
            Self::FastDllm => Decoding::fast_dllm(),
            Self::D3llm => Decoding::d3llm(),
        }
    }

    /// The mode whose decoding this is, if it is one's. Block-causal models have one way of their
    /// authors in all modes.
    pub fn of(decoding: &Decoding, is_gpu: bool) -> Option<Self> {
        if decoding.blocks.is_some() {
            return Some(Self::Exact);
        }
        let decoding = Decoding {
            reuse_context: false, // is nobody's
            ..*decoding
        };
        if decoding == Decoding::fast_dllm_of_llada() {
            return Some(Self::FastDllm);
        }
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.decoding(is_gpu) == decoding)
    }

    /// Whether it reproduces a sampler as published.
    pub fn is_published(self) -> bool {
        matches!(self, Self::Exact | Self::FastDllm | Self::D3llm)
    }
}

/// Masks of a window where nobody says how many, in [`Mode::Fast`].
pub fn usual_window(is_gpu: bool) -> usize {
    match is_gpu {
        true => Decoding::GPU_WINDOW,
        false => Decoding::CPU_WINDOW,
    }
}
