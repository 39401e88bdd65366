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
    ///
    /// Float32 calls everything certain that is surer than 1 - 3e-8. Where all terms of the softmax
    /// are known to come to `terms`, with 1 for the largest, probabilities are of float64, as in
    /// LLaDA's `generate.py`.
    pub fn confidence(self, isa: Isa, probs: &[f32], at: usize, terms: Option<f64>) -> f64 {
        let exact = |p: f32| match terms {
            // More than a half is the largest.
            Some(terms) if p > 0.5 => 1.0 / terms,
            _ => f64::from(p),
        };
        match self {
            Self::Origin | Self::MaskgitPlus | Self::P2 => exact(probs[at]),
            Self::TopkMargin => {
                let (mut first, mut second) = (0f32, 0f32);
                for &p in probs {
                    if p > first {
                        (first, second) = (p, first);
                    } else if p > second {
                        second = p;
                    }
                }
                match terms {
                    Some(_) => exact(first) - f64::from(second),
                    None => f64::from(first - second),
                }
            }
            Self::Entropy => f64::from(negative_entropy(isa, probs) as f32),
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
    pub confidence: f64,
    /// Probability of the token, by which a threshold reveals.
    pub probability: f32,
    /// Whether the last passes left the position's distribution as it was; without a rule that asks
    /// for it, nobody looks and it is `false`.
    pub is_settled: bool,
}

#[cfg(test)]
impl Candidate {
    /// A token that goes where it goes, however sure it is.
    pub fn of(position: usize, token: u32) -> Self {
        Self {
            position,
            token,
            confidence: 0.0,
            probability: 0.0,
            is_settled: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidences_by_hand() {
        let of = |algorithm: Algorithm, probs: &[f32], at, terms| {
            algorithm.confidence(Isa::detect(), probs, at, terms)
        };
        let probs = [0.5, 0.25, 0.25, 0.0];
        assert_eq!(of(Algorithm::MaskgitPlus, &probs, 1, None), 0.25);
        assert_eq!(of(Algorithm::MaskgitPlus, &probs, 1, Some(2.0)), 0.25);
        assert_eq!(of(Algorithm::TopkMargin, &probs, 1, None), 0.25);
        let entropy = of(Algorithm::Entropy, &probs, 1, None);
        assert!((entropy + 1.5 * std::f64::consts::LN_2).abs() < 1e-6);
        assert_eq!(of(Algorithm::TopkMargin, &[0.5, 0.5], 0, None), 0.0);
        assert!(of(Algorithm::Entropy, &[1.0, 0.0], 0, None).abs() < 1e-6);
    }

    /// The others come to a billionth, which float32 does not see.
    #[test]
    fn nothing_is_certain_whose_terms_are_known() {
        let of = |algorithm: Algorithm, terms| {
            1.0 - algorithm.confidence(Isa::detect(), &[1.0, 1e-9], 0, terms)
        };
        let near = |found: f64, doubt: f64| (found - doubt).abs() < 1e-15;
        assert_eq!(of(Algorithm::MaskgitPlus, None), 0.0);
        assert!(near(of(Algorithm::MaskgitPlus, Some(1.0 + 1e-9)), 1e-9));
        assert_eq!(of(Algorithm::TopkMargin, None), 0.0);
        assert!(near(of(Algorithm::TopkMargin, Some(1.0 + 1e-9)), 2e-9));
    }
}
