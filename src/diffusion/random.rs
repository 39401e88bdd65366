//! Our own seeded randomness: each draw is a pure function of what it is for.
//!
//! A stateful generator would make results depend on the order in which threads ask. Here a draw
//! is a hash of (seed, purpose, step, position), so any number of threads in any order, and any
//! set of other positions, give the same value. The hash chains the SplitMix64 finaliser (Steele,
//! Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

/// What a draw decides; draws for different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Which token a position takes.
    Token,
    /// Which positions are revealed.
    Reveal,
}

/// The draws of one denoising step.
#[derive(Debug, Clone, Copy)]
pub struct Draws {
    seed: u64,
    step: usize,
}

impl Draws {
    /// Draws of `step` (0-based) of the generation seeded with `seed`.
    pub fn new(seed: u64, step: usize) -> Self {
        Self { seed, step }
    }

    /// A number drawn uniformly from the open interval (0, 1) for one canvas position.
    pub fn uniform(&self, purpose: Purpose, position: usize) -> f64 {
        let key = [purpose as u64 + 1, self.step as u64, position as u64];
        let hash = key
            .iter()
            .fold(mix(self.seed), |hash, &part| mix(hash ^ mix(part)));
        // 52 bits, centred in their cell: never 0, never 1, so logarithms of it are finite.
        ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// A draw from the standard Gumbel distribution, for choosing without replacement.
    pub fn gumbel(&self, purpose: Purpose, position: usize) -> f64 {
        -(-self.uniform(purpose, position).ln()).ln()
    }
}

/// SplitMix64's next value for the state `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published first outputs of SplitMix64 seeded with 0 (its state advances by the constant).
    #[test]
    fn mix_is_splitmix64() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    /// Chi-square over 64 cells for neighbouring positions, steps, seeds and purposes: the keys
    /// that occur differ in few bits, which is where a weak hash shows.
    #[test]
    fn uniform_over_each_part_of_the_key() {
        let streams: [&dyn Fn(usize) -> f64; 4] = [
            &|i| Draws::new(1, 0).uniform(Purpose::Token, i),
            &|i| Draws::new(1, i).uniform(Purpose::Token, 7),
            &|i| Draws::new(i as u64, 3).uniform(Purpose::Token, 7),
            &|i| {
                let draws = Draws::new(5, i);
                (draws.uniform(Purpose::Token, i) - draws.uniform(Purpose::Reveal, i))
                    .rem_euclid(1.0)
            },
        ];
        for (which, stream) in streams.iter().enumerate() {
            let (cells, n) = (64, 64_000);
            let mut counts = vec![0f64; cells];
            for i in 0..n {
                let u = stream(i);
                assert!(u > 0.0 && u < 1.0);
                counts[(u * cells as f64) as usize] += 1.0;
            }
            let expected = n as f64 / cells as f64;
            let chi2: f64 = counts
                .iter()
                .map(|c| (c - expected).powi(2) / expected)
                .sum();
            // 63 degrees of freedom: 117 is exceeded with probability 5e-5.
            assert!(chi2 < 117.0, "stream {which}: chi-square {chi2}");
        }
    }
}
