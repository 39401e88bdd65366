//! Which candidates a step reveals.

use super::confidence::{Algorithm, Candidate};
use super::decoding::Rule;
use super::random::{Draws, Purpose};
use super::schedule::Steps;
use super::settings::Settings;

/// How a step chooses among the candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reveal {
    /// Those at least this probable, and one at least.
    AtLeast(f32),
    /// The same, of those whose distribution has settled.
    Settled(f32),
    /// The most that are right together with more than this probability, and one at least.
    Together(f32),
    /// Those with an entropy below this many nats, and one at least of the first window.
    Below(f32),
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
    /// What a threshold reveals at least, if there is so much.
    pub least: usize,
    /// What a threshold reveals at most.
    pub most: usize,
    /// Where the first window with masks ends, of several.
    pub first_end: usize,
}

impl Amount {
    /// The same in every step, where nobody knows how many masks there will be.
    pub fn each(steps: Steps, masked: usize) -> Self {
        let count = match steps {
            Steps::OfTokens(tokens) => tokens.max(1),
            Steps::Count(_) => 1,
        };
        Self {
            count,
            share: count as f32 / masked.max(1) as f32,
            most: usize::MAX,
            ..Self::default()
        }
    }

    /// P2's, of so many positions, tokens among them: those that are not masked again. In float32,
    /// as published.
    pub fn planned(step: usize, steps: usize, positions: usize) -> Self {
        let masked = (1.0 - (step + 1) as f64 / steps as f64).max(0.0) as f32;
        let masked = (positions as f32 * masked).floor() as usize;
        Self {
            count: positions - masked.min(positions),
            ..Self::default()
        }
    }
}

impl Reveal {
    pub fn of(settings: &Settings) -> Self {
        let decoding = &settings.decoding;
        if settings.algorithm == Algorithm::P2 {
            return Self::Surest;
        }
        match (decoding.threshold, settings.algorithm, settings.alg_temp) {
            (Some(threshold), _, _) => match decoding.rule {
                Rule::Threshold if decoding.blocks.is_some_and(|blocks| blocks.is_strict) => {
                    Self::AtLeast(threshold.next_up())
                }
                Rule::Threshold => Self::AtLeast(threshold),
                Rule::Klass => Self::Settled(threshold),
                Rule::Frechet => Self::Together(threshold),
                Rule::Entropy => Self::Below(threshold),
            },
            (None, Algorithm::Origin, _) => Self::Share,
            (None, _, Some(alg_temp)) if alg_temp > 0.0 => Self::Drawn(alg_temp),
            (None, _, _) => Self::Surest,
        }
    }

    /// The revealed ones among `candidates`, surest first or in the order in which they were drawn.
    pub fn choose(self, candidates: &[Candidate], amount: Amount, draws: Draws) -> Vec<Candidate> {
        match self {
            Self::AtLeast(threshold) => {
                let is_sure = |candidate: &Candidate| candidate.probability >= threshold;
                all_or_surest(candidates, amount, is_sure)
            }
            Self::Settled(threshold) => all_or_surest(candidates, amount, |candidate| {
                candidate.is_settled && candidate.probability >= threshold
            }),
            Self::Below(bound) => below(candidates, bound, amount),
            Self::Together(bound) => together(candidates, bound, amount.most),
            Self::Share => draw_each(candidates, amount.share, draws),
            Self::Drawn(alg_temp) => draw_confident(candidates, amount.count, alg_temp, draws),
            Self::Surest => most_confident(candidates, amount.count),
        }
    }
}

/// The `count` most confident candidates, surest first; of equals the left-most.
fn most_confident(candidates: &[Candidate], count: usize) -> Vec<Candidate> {
    highest(candidates, count, |candidate| candidate.confidence)
}

/// The candidates that are sure enough, surest first and up to so many; the surest of all, as many
/// as are wanted at least, if there are fewer.
fn all_or_surest(
    candidates: &[Candidate],
    amount: Amount,
    is_sure: impl Fn(&Candidate) -> bool,
) -> Vec<Candidate> {
    let mut revealed = most_confident(candidates, candidates.len());
    let least = amount.least.max(1);
    let sure = candidates.iter().filter(|&candidate| is_sure(candidate));
    if sure.count() >= least {
        revealed.retain(is_sure);
        revealed.truncate(amount.most);
    } else {
        revealed.truncate(least);
    }
    revealed
}

/// The candidates whose entropy, the negative of their confidence, is below `bound`, surest first;
/// if there are none in the first window, its surest too.
fn below(candidates: &[Candidate], bound: f32, amount: Amount) -> Vec<Candidate> {
    let mut revealed = most_confident(candidates, candidates.len());
    let is_first = |candidate: &Candidate| candidate.position < amount.first_end;
    let surest = revealed.iter().find(|&candidate| is_first(candidate));
    let surest = surest.map(|candidate| candidate.position);
    revealed.retain(|candidate| {
        -candidate.confidence < f64::from(bound) || Some(candidate.position) == surest
    });
    revealed.truncate(amount.most);
    revealed
}

/// The largest number of the most probable candidates, up to `most`, that are right together with a
/// probability above `bound`: at least `1 - sum(1 - p)` by Fréchet's inequality, from which
/// Fast-dLLM++ takes what the least probable of them is short of certainty once more.
fn together(candidates: &[Candidate], bound: f32, most: usize) -> Vec<Candidate> {
    let probability = |candidate: &Candidate| f64::from(candidate.probability);
    let mut revealed = highest(candidates, candidates.len(), probability);
    let mut doubt = 0.0;
    let holds = |candidate: &Candidate| {
        let missing = 1.0 - candidate.probability;
        doubt += missing;
        1.0 - doubt - missing > bound
    };
    let count = revealed
        .iter()
        .map(holds)
        .take_while(|&holds| holds)
        .count();
    revealed.truncate(count.clamp(1, most.max(1)));
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
        let log_weight = candidate.confidence / f64::from(alg_temp);
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
    use crate::diffusion::blocks::Blocks;
    use crate::diffusion::decoding::Decoding;

    fn candidates(confidences: &[f32]) -> Vec<Candidate> {
        confidences
            .iter()
            .enumerate()
            .map(|(i, &confidence)| Candidate {
                confidence: confidence.into(),
                ..Candidate::of(10 + i, 0)
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

    fn with_probabilities(confidences: &[f32], probabilities: &[f32]) -> Vec<Candidate> {
        let mut all = candidates(confidences);
        for (candidate, &probability) in all.iter_mut().zip(probabilities) {
            candidate.probability = probability;
        }
        all
    }

    fn chosen(reveal: Reveal, candidates: &[Candidate], most: usize) -> Vec<usize> {
        let amount = Amount {
            most,
            ..Amount::default()
        };
        positions(&reveal.choose(candidates, amount, Draws::new(0, 0)))
    }

    #[test]
    fn a_canvas_that_changes_its_length_reveals_as_many_in_each_step() {
        let each = |steps, masked| {
            let amount = Amount::each(steps, masked);
            (amount.count, amount.share, amount.most)
        };
        assert_eq!(each(Steps::Count(9), 8), (1, 0.125, usize::MAX));
        assert_eq!(each(Steps::OfTokens(2), 8), (2, 0.25, usize::MAX));
        assert_eq!(each(Steps::OfTokens(0), 0), (1, 1.0, usize::MAX));
    }

    /// Of 8 positions 6, 4, 2 and 0 stay masked. Of 10, seven tenths are 7 in float32, where
    /// 0.7 is less than that.
    #[test]
    fn a_plan_ends_with_every_position() {
        let planned = |step, steps, positions| Amount::planned(step, steps, positions).count;
        let counts = [0, 1, 2, 3, 4, 9].map(|step| planned(step, 4, 8));
        assert_eq!(counts, [2, 4, 6, 8, 8, 8]);
        assert_eq!((planned(2, 10, 10), planned(0, 3, 7)), (3, 3));
    }

    #[test]
    fn settings_say_how_to_choose() {
        let of = |algorithm, alg_temp, decoding: Decoding| {
            Reveal::of(&Settings {
                algorithm,
                alg_temp,
                decoding,
                ..Settings::reference(1)
            })
        };
        let (entropy, plain) = (Algorithm::Entropy, Decoding::default());
        assert_eq!(of(entropy, None, plain), Reveal::Surest);
        assert_eq!(of(entropy, Some(0.0), plain), Reveal::Surest);
        assert_eq!(of(entropy, Some(0.5), plain), Reveal::Drawn(0.5));
        assert_eq!(of(Algorithm::Origin, Some(0.5), plain), Reveal::Share);
        let sure = |rule| Decoding {
            threshold: Some(0.5),
            rule,
            ..plain
        };
        for (rule, reveal) in [
            (Rule::Threshold, Reveal::AtLeast(0.5)),
            (Rule::Klass, Reveal::Settled(0.5)),
            (Rule::Frechet, Reveal::Together(0.5)),
            (Rule::Entropy, Reveal::Below(0.5)),
        ] {
            assert_eq!(of(entropy, Some(0.5), sure(rule)), reveal);
            assert_eq!(of(Algorithm::P2, None, sure(rule)), Reveal::Surest);
        }
        let strict = |is_strict| {
            let blocks = Some(Blocks {
                is_strict,
                ..Blocks::PLAIN
            });
            let decoding = sure(Rule::Threshold);
            of(entropy, None, Decoding { blocks, ..decoding })
        };
        assert_eq!(strict(false), Reveal::AtLeast(0.5));
        assert_eq!(strict(true), Reveal::AtLeast(0.5f32.next_up()));
    }

    #[test]
    fn as_many_as_are_wanted_at_least_are_the_surest() {
        let all = with_probabilities(&[0.9, 0.8, 0.7], &[0.9, 0.8, 0.7]);
        let chosen = |threshold, least| {
            let amount = Amount {
                least,
                most: 3,
                ..Amount::default()
            };
            let chosen = Reveal::AtLeast(threshold).choose(&all, amount, Draws::new(0, 0));
            positions(&chosen)
        };
        assert_eq!(chosen(0.85, 2), [10, 11]);
        assert_eq!(chosen(0.75, 2), [10, 11]);
        assert_eq!(chosen(0.65, 2), [10, 11, 12]);
    }

    /// Confidences are entropies below zero; positions 10 and 11 are of the first window.
    #[test]
    fn what_is_below_the_bound_is_revealed_in_every_window_and_one_in_the_first() {
        let all = candidates(&[-0.5, -0.4, -0.3, -0.1]);
        let chosen = |bound, first_end, most| {
            let amount = Amount {
                first_end,
                most,
                ..Amount::default()
            };
            positions(&Reveal::Below(bound).choose(&all, amount, Draws::new(0, 0)))
        };
        assert_eq!(chosen(0.2, 12, 9), [13, 11]);
        assert_eq!(chosen(0.3, 12, 9), [13, 11], "0.3 is not below it");
        assert_eq!(chosen(0.45, 12, 9), [13, 12, 11]);
        assert_eq!(chosen(0.45, 12, 2), [13, 12]);
        assert_eq!(chosen(0.0, 11, 9), [10]);
        assert_eq!(chosen(9.0, 12, 9), [13, 12, 11, 10]);
    }

    #[test]
    fn a_threshold_is_of_probabilities_and_the_order_of_confidences() {
        let all = with_probabilities(&[-3.0, -1.0, -2.0], &[0.95, 0.5, 0.9]);
        let chosen = |threshold, most| chosen(Reveal::AtLeast(threshold), &all, most);
        assert_eq!(chosen(0.9, 9), [12, 10]);
        assert_eq!(chosen(0.9, 1), [12]);
        assert_eq!(chosen(0.99, 9), [11], "the surest where none is enough");
        assert_eq!(chosen(0.0, 9), [11, 12, 10]);
    }

    #[test]
    fn what_has_not_settled_waits() {
        let mut all = with_probabilities(&[0.95, 0.92, 0.5], &[0.95, 0.92, 0.5]);
        let reveal = Reveal::Settled(0.9);
        assert_eq!(chosen(reveal, &all, 9), [10], "the surest, settled or not");
        all[1].is_settled = true;
        all[2].is_settled = true;
        assert_eq!(chosen(reveal, &all, 9), [11]);
    }

    /// 1 - (doubts so far) - (the last one's again): 0.98, 0.85, 0.65 and 0.15 for probabilities of
    /// 0.99, 0.93, 0.87 and 0.6, whose doubts add up to 0.01, 0.08, 0.21 and 0.61.
    #[test]
    fn together_they_are_right_at_least_as_often_as_the_bound_says() {
        let all = with_probabilities(&[0.0; 4], &[0.87, 0.99, 0.6, 0.93]);
        let chosen = |bound, most| chosen(Reveal::Together(bound), &all, most);
        assert_eq!(chosen(0.9, 9), [11]);
        assert_eq!(chosen(0.7, 9), [11, 13]);
        assert_eq!(chosen(0.25, 9), [11, 13, 10]);
        assert_eq!(chosen(0.25, 2), [11, 13]);
        assert_eq!(chosen(0.99, 9), [11], "one at least");
        let all = with_probabilities(&[0.0; 2], &[1.0, 0.75]);
        let chosen = |bound| self::chosen(Reveal::Together(bound), &all, 9);
        assert_eq!(chosen(0.5), [10], "a half is not above it");
        assert_eq!(chosen(0.5f32.next_down()), [10, 11]);
    }
}
