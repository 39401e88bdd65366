//! How sure the model is of a candidate, and which positions are revealed on the strength of it.
//!
//! Source: `sample_tokens` and `_sample` in Dream's `generation_utils.py`. Confidences are taken
//! from the tempered and filtered probabilities, as there: that is why a raised temperature changes
//! the order of the reveals and not only the tokens (DiffuCoder, section 4.3).

use std::fmt;

use crate::kernels::{Isa, negative_entropy};

/// What decides the order of the reveals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Every mask has the same chance: the original discrete diffusion sampler.
    Origin,
    /// Probability of the candidate (MaskGIT).
    MaskgitPlus,
    /// Gap between the two most probable tokens.
    TopkMargin,
    /// Negative entropy.
    Entropy,
    /// Probability of the candidate, at tokens too: at each step the least probable positions are
    /// masked again, fewer each time (P2, "path planning", arXiv 2502.03540; Open-dCoder). A token
    /// that stays is the one that was revealed, and is judged by the new candidate.
    P2,
}

impl Algorithm {
    /// All of them, in the order help texts list them.
    pub const ALL: [Self; 5] = [
        Self::Entropy,
        Self::TopkMargin,
        Self::MaskgitPlus,
        Self::Origin,
        Self::P2,
    ];

    /// The reference's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::MaskgitPlus => "maskgit_plus",
            Self::TopkMargin => "topk_margin",
            Self::Entropy => "entropy",
            Self::P2 => "p2",
        }
    }

    /// Confidence in the candidate whose probability is at `at`, given those of all tokens; higher
    /// is surer. `origin` does not look at confidence for its order; the candidate's probability is
    /// reported.
    pub fn confidence(self, isa: Isa, probs: &[f32], at: usize) -> f32 {
        match self {
            Self::Origin | Self::MaskgitPlus | Self::P2 => probs[at],
            Self::TopkMargin => {
                let (mut first, mut second) = (0f32, 0f32);
                for &p in probs {
                    if p > first {
                        (first, second) = (p, first);
                    } else if p > second {
                        second = p;
                    }
                }
                first - second
            }
            Self::Entropy => negative_entropy(isa, probs) as f32,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The token a masked position would take if it were revealed now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Canvas position.
    pub position: usize,
    /// Token id; never the mask.
    pub token: u32,
    /// Confidence by the chosen [`Algorithm`]: the order of the reveals.
    pub confidence: f32,
    /// Probability of the token, by which a threshold reveals.
    pub probability: f32,
    /// Whether the last passes left the position's distribution as it was; without a rule that asks
    /// for it, nobody looks and it is `false`.
    pub is_settled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidences_by_hand() {
        let probs = [0.5, 0.25, 0.25, 0.0];
        assert_eq!(
            Algorithm::MaskgitPlus.confidence(Isa::detect(), &probs, 1),
            0.25
        );
        assert_eq!(
            Algorithm::TopkMargin.confidence(Isa::detect(), &probs, 1),
            0.25
        );
        let entropy = Algorithm::Entropy.confidence(Isa::detect(), &probs, 1);
        assert!((entropy + 1.5 * std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!(
            Algorithm::TopkMargin.confidence(Isa::detect(), &[0.5, 0.5], 0),
            0.0
        );
        assert!(
            Algorithm::Entropy
                .confidence(Isa::detect(), &[1.0, 0.0], 0)
                .abs()
                < 1e-6
        );
    }
}
