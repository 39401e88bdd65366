//! Settings that belong together, by a name.

use super::decoding::Decoding;
use crate::kernels::Isa;

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

    /// How the canvas is taken in parts, where so many rows are free ([`free_rows`]).
    pub fn decoding(self, free_rows: usize) -> Decoding {
        match self {
            Self::Exact => Decoding::default(),
            Self::Balanced => Decoding::balanced(),
            Self::Quality => Decoding::quality(),
            Self::Fast => Decoding::fast(free_rows),
            Self::FastDllm => Decoding::fast_dllm(),
            Self::D3llm => Decoding::d3llm(),
        }
    }

    /// The mode whose decoding this is, if it is one's. Block-causal models have one way of their
    /// authors in all modes.
    pub fn of(decoding: &Decoding, free_rows: usize) -> Option<Self> {
        if decoding.blocks.is_some() {
            return Some(Self::Exact);
        }
        let decoding = Decoding {
            reuse_prefix: false, // is nobody's
            ..*decoding
        };
        let mut modes = Self::ALL.into_iter();
        modes.find(|mode| mode.decoding(free_rows) == decoding)
    }

    /// Whether it reproduces a sampler as published, which looks at no token twice.
    pub fn is_published(self) -> bool {
        matches!(self, Self::Exact | Self::FastDllm | Self::D3llm)
    }

    /// How often each token is looked at again. Between texts the number of tokens is fixed and may
    /// be wrong, so that the first ones revealed often do not fit the last.
    pub fn remask(self, is_between: bool) -> usize {
        usize::from(is_between && !self.is_published())
    }
}

/// Rows of a forward that cost little beside the reading of the weights, about twice as many as take
/// as long to compute: a window is half full on average. `cpu` is what a CPU computes with, `None` is
/// a GPU. It is what [`Mode::Fast`] has for a window.
///
/// The number is fixed for a kind of machine and not measured at each start, so that a seed means a
/// text.
///
/// That of tiles is an estimate, from a server of two cores that reads the 4 GB of a 7B model in
/// 0.17 s: a plain kernel of bf16 tiles took 0.55 s for 64 rows and 0.95 for 128, 6 ms each, so that
/// 27 take as long as the reading, and twice that is 54; of these, whole tiles of 16. It is also what
/// a pass of [`Mode::Balanced`] has, whose window and lookahead are the same on every machine. So is
/// when that computes everything anew: by the same figures, every 64 passes costs 7 % of the time
/// with tiles and 10 % without.
pub fn free_rows(cpu: Option<Isa>) -> usize {
    match cpu {
        None => 32,
        Some(isa) if isa.has_tiles() => 48,
        Some(_) => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_rows_that_are_free() {
        assert_eq!(free_rows(None), 32);
        for isa in Isa::available() {
            let expected = if isa.name() == "amx" { 48 } else { 12 };
            assert_eq!(free_rows(Some(isa)), expected, "{isa}");
        }
        for rows in [12, 32, 48] {
            assert_eq!(Mode::Fast.decoding(rows).window, Some(rows));
            for mode in Mode::ALL {
                assert_eq!(Mode::of(&mode.decoding(rows), rows), Some(mode));
            }
        }
        let (balanced, quality) = (Mode::Balanced.decoding(48), Mode::Quality.decoding(48));
        assert_eq!((balanced.reach(), quality.reach()), (48, 64));
        assert_eq!(Mode::of(&Mode::Fast.decoding(48), 12), None);
    }
}
