//! How sure a model is of a hole by its length alone.

/// What the mean of the largest probabilities at the masks of a hole comes to where its length says
/// nothing of what belongs there: `a·exp(-b·L) + c·exp(-d·L) + e`. A model is surer of few masks
/// than of many, whatever is missing; divided by this, its confidence peaks at the length of what
/// is (CAL, arXiv 2602.00476, section 4.1 and appendix A).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthBias {
    /// a and b.
    pub fast: [f64; 2],
    /// c and d.
    pub slow: [f64; 2],
    /// e.
    pub floor: f64,
}

impl LengthBias {
    /// As published, the same for LLaDA, DiffuCoder and Dream-Coder.
    pub const PUBLISHED: Self = Self {
        fast: [1.0, 1.77],
        slow: [0.56, 0.06],
        floor: 0.24,
    };

    /// At a length in tokens.
    pub fn at(&self, length: usize) -> f64 {
        let decay = |[from, rate]: [f64; 2]| from * (-rate * length as f64).exp();
        decay(self.fast) + decay(self.slow) + self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_bias_by_hand() {
        for (length, expected) in [(1, 0.93772), (8, 0.58652), (64, 0.25204)] {
            let bias = LengthBias::PUBLISHED.at(length);
            assert!((bias - expected).abs() < 1e-5, "{length}: {bias}");
        }
    }
}
