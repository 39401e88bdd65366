//! Which candidates a step reveals.

use super::confidence::{Algorithm, Candidate};
use super::random::{Draws, Purpose};
use super::settings::Settings;

/// How a step chooses among the candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reveal {
    /// Those at least this probable, and one at least.
    AtLeast(f32),
    /// Each with the same chance, so that the schedule's share of them is expected (`origin`).
    Share,
    /// As many as the schedule says, drawn with weights softmax(confidence / temperature).
    Drawn(f32),
    /// As many as the schedule says, the surest.
    Surest,
}

/// How many masks the schedule has a step reveal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Amount {
    pub count: usize,
    pub share: f32,
}

impl Reveal {
    pub fn of(settings: &Settings) -> Self {
        match (
            settings.decoding.threshold,
            settings.algorithm,
            settings.alg_temp,
        ) {
            (Some(threshold), _, _) => Self::AtLeast(threshold),
            (None, Algorithm::Origin, _) => Self::Share,
            (None, _, Some(alg_temp)) if alg_temp > 0.0 => Self::Drawn(alg_temp),
            (None, _, _) => Self::Surest,
        }
    }

    /// The revealed ones among `candidates`, surest first or in the order in which they were drawn.
    pub fn choose(self, candidates: &[Candidate], amount: Amount, draws: Draws) -> Vec<Candidate> {
        match self {
            Self::AtLeast(threshold) => at_least(candidates, threshold),
            Self::Share => draw_each(candidates, amount.share, draws),
            Self::Drawn(alg_temp) => draw_confident(candidates, amount.count, alg_temp, draws),
            Self::Surest => most_confident(candidates, amount.count),
        }
    }
}

/// The `count` most confident candidates, surest first; of equals the left-most.
fn most_confident(candidates: &[Candidate], count: usize) -> Vec<Candidate> {
    highest(candidates, count, |candidate| {
        f64::from(candidate.confidence)
    })
}

/// The candidates that are at least as probable as `threshold`, surest first; the surest of all if
/// there are none.
fn at_least(candidates: &[Candidate], threshold: f32) -> Vec<Candidate> {
    let probable = |candidate: &Candidate| candidate.probability >= threshold;
    let mut revealed = most_confident(candidates, candidates.len());
    if revealed.iter().any(probable) {
        revealed.retain(probable);
    } else {
        revealed.truncate(1);
    }
    revealed
}

/// `count` candidates drawn without replacement with weights softmax(confidence / `alg_temp`).
///
/// Adding Gumbel noise to the log-weights and taking the highest is the same distribution as
/// drawing one after the other (Kool et al., "Stochastic beams and where to find them", 2019).
fn draw_confident(
    candidates: &[Candidate],
    count: usize,
    alg_temp: f32,
    draws: Draws,
) -> Vec<Candidate> {
    highest(candidates, count, |candidate| {
        let log_weight = f64::from(candidate.confidence) / f64::from(alg_temp);
        log_weight + draws.gumbel(Purpose::Reveal, candidate.position)
    })
}

/// Every candidate with the same chance `share`, in random order (`origin`).
fn draw_each(candidates: &[Candidate], share: f32, draws: Draws) -> Vec<Candidate> {
    let uniform = |candidate: &Candidate| draws.uniform(Purpose::Reveal, candidate.position);
    let mut drawn: Vec<Candidate> = candidates
        .iter()
        .copied()
        .filter(|candidate| uniform(candidate) < f64::from(share))
        .collect();
    drawn.sort_by(|a, b| uniform(a).total_cmp(&uniform(b)));
    drawn
}

/// The `count` candidates with the highest key, highest first; of equals the left-most.
fn highest(
    candidates: &[Candidate],
    count: usize,
    key: impl Fn(&Candidate) -> f64,
) -> Vec<Candidate> {
    let mut keyed: Vec<(f64, Candidate)> = candidates.iter().map(|c| (key(c), *c)).collect();
    keyed.sort_by(|(a, left), (b, right)| b.total_cmp(a).then(left.position.cmp(&right.position)));
    keyed
        .into_iter()
        .take(count)
        .map(|(_, candidate)| candidate)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(confidences: &[f32]) -> Vec<Candidate> {
        confidences
            .iter()
            .enumerate()
            .map(|(i, &confidence)| Candidate {
                position: 10 + i,
                token: 0,
                confidence,
                probability: 0.0,
            })
            .collect()
    }

    fn positions(chosen: &[Candidate]) -> Vec<usize> {
        chosen.iter().map(|candidate| candidate.position).collect()
    }

    #[test]
    fn ties_go_left_to_right() {
        let chosen = most_confident(&candidates(&[0.5, 1.0, 1.0, 0.7, 1.0]), 4);
        assert_eq!(positions(&chosen), [11, 12, 14, 13]);
        assert_eq!(most_confident(&candidates(&[0.5]), 3).len(), 1);
        assert!(most_confident(&candidates(&[0.5]), 0).is_empty());
    }

    /// Chi-square of ordered pairs drawn without replacement against the exact probabilities
    /// w_a · w_b / (1 - w_a).
    #[test]
    fn draws_without_replacement_follow_the_weights() {
        let confidences = [0.9f32, 0.5, 0.2, 0.7];
        let alg_temp = 0.4;
        let candidates = candidates(&confidences);
        let weights: Vec<f64> = confidences
            .iter()
            .map(|&c| f64::from(c / alg_temp).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        let n = 40_000;
        let mut counts = [[0f64; 4]; 4];
        for seed in 0..n {
            let chosen = positions(&draw_confident(
                &candidates,
                2,
                alg_temp,
                Draws::new(seed, 3),
            ));
            counts[chosen[0] - 10][chosen[1] - 10] += 1.0;
        }
        let mut chi2 = 0.0;
        for (a, row) in counts.iter().enumerate() {
            for (b, &count) in row.iter().enumerate() {
                if a == b {
                    assert_eq!(count, 0.0);
                    continue;
                }
                let (pa, pb) = (weights[a] / total, weights[b] / total);
                let expected = n as f64 * pa * pb / (1.0 - pa);
                chi2 += (count - expected).powi(2) / expected;
            }
        }
        // 11 degrees of freedom: 37.4 is exceeded with probability 1e-4.
        assert!(chi2 < 37.4, "chi-square {chi2}");
    }

    #[test]
    fn a_high_alg_temp_is_uniform_and_a_low_one_greedy() {
        let candidates = candidates(&[0.1, 0.9, 0.5]);
        for seed in 0..50 {
            let chosen = draw_confident(&candidates, 3, 1e-3, Draws::new(seed, 0));
            assert_eq!(positions(&chosen), [11, 12, 10]);
        }
        let mut first = [0; 3];
        for seed in 0..3000 {
            first[draw_confident(&candidates, 1, 1e6, Draws::new(seed, 0))[0].position - 10] += 1;
        }
        assert!(
            first.iter().all(|&count| (850..1150).contains(&count)),
            "{first:?}"
        );
    }

    #[test]
    fn origin_reveals_the_share_it_was_asked_for() {
        let candidates = candidates(&[0.0; 100]);
        let drawn: usize = (0..1000)
            .map(|seed| draw_each(&candidates, 0.3, Draws::new(seed, 0)).len())
            .sum();
        // Binomial(100,000, 0.3): standard deviation 145.
        assert!((29_400..30_600).contains(&drawn), "{drawn}");
        assert_eq!(draw_each(&candidates, 1.0, Draws::new(0, 0)).len(), 100);
        assert!(draw_each(&candidates, 0.0, Draws::new(0, 0)).is_empty());
    }

    #[test]
    fn a_threshold_is_of_probabilities_and_the_order_of_confidences() {
        let mut all = candidates(&[-3.0, -1.0, -2.0]);
        for (candidate, probability) in all.iter_mut().zip([0.95, 0.5, 0.9]) {
            candidate.probability = probability;
        }
        let positions = |threshold| -> Vec<usize> {
            let revealed = at_least(&all, threshold);
            revealed
                .iter()
                .map(|candidate| candidate.position)
                .collect()
        };
        assert_eq!(positions(0.9), [12, 10]);
        assert_eq!(
            positions(0.99),
            [11],
            "the surest where none is probable enough"
        );
        assert_eq!(positions(0.0), [11, 12, 10]);
    }
}
