//! From logits to a candidate token: temperature, top-p, top-k, softmax, then argmax or a draw.
//!
//! Source: `sample_tokens`, `top_p_logits` and `top_k_logits` in Dream's `generation_utils.py`.
//! Departure: the mask token is never a candidate. The reference can draw it and would then
//! commit a mask as if it were text; probabilities and confidences stay as the reference has them.

use crate::kernels::{Isa, normalize, softmax_terms};

/// How probabilities are shaped before a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shaping {
    /// Logits are divided by it; 0 leaves them as they are and takes the most probable token.
    pub temperature: f32,
    /// Smallest set of most probable tokens whose mass exceeds this; `None` or 1 keeps all.
    pub top_p: Option<f32>,
    /// Number of most probable tokens to keep (ties at the last place stay); `None` keeps all.
    pub top_k: Option<usize>,
    /// Which tokens these two keep.
    pub filtering: Filtering,
}

/// How a mass and a number of tokens filter together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// The mass is of all tokens, and the number of what is left (Dream).
    MassFirst,
    /// The mass is of so many tokens (SDAR's `generate.py`).
    CountFirst,
    /// As the first where tokens are drawn; at temperature 0 nothing is removed (Fast-dLLM v2).
    OfDraws,
}

impl Shaping {
    /// A temperature alone.
    pub fn temperature(temperature: f32) -> Self {
        Self {
            temperature,
            top_p: None,
            top_k: None,
            filtering: Filtering::MassFirst,
        }
    }

    /// A temperature, and the most probable tokens up to a mass.
    pub fn nucleus(temperature: f32, top_p: f32) -> Self {
        Self {
            top_p: Some(top_p),
            ..Self::temperature(temperature)
        }
    }

    /// As somebody asks for it who may leave anything open; a mass of 1 and no tokens are all.
    pub fn asked(self, temperature: Option<f32>, top_p: Option<f32>, top_k: Option<usize>) -> Self {
        Self {
            temperature: temperature.unwrap_or(self.temperature),
            top_p: top_p.or(self.top_p).filter(|&p| p < 1.0),
            top_k: top_k.or(self.top_k).filter(|&k| k > 0),
            ..self
        }
    }

    /// Whether it removes tokens.
    pub(super) fn filters(&self) -> bool {
        if self.filtering == Filtering::OfDraws && self.temperature <= 0.0 {
            return false;
        }
        self.top_p.is_some_and(|p| p < 1.0) || self.top_k.is_some()
    }

    /// What logits are divided by. What is so cold that they would become infinite is as warm as
    /// takes the most probable token.
    pub(super) fn divisor(&self) -> f32 {
        const COLDEST: f32 = 1e-30;
        if self.temperature > 0.0 {
            self.temperature.max(COLDEST)
        } else {
            1.0
        }
    }

    /// Turns one row of logits `[V]` into probabilities in place; removed tokens get 0. Gives what
    /// the terms of the softmax that are kept come to, with 1 for the largest; `None` if the row is
    /// not finite.
    pub fn apply(&self, isa: Isa, row: &mut [f32]) -> Option<f64> {
        let sum = softmax_terms(isa, row, self.divisor())?;
        // So small that all the smaller ones together are but half of what top-p removes at least.
        let removed = 1.0 - self.top_p.unwrap_or(1.0);
        let negligible = 0.5 * f64::from(removed) * sum / row.len() as f64;
        let kept = self.filter(row, sum, negligible as f32);
        normalize(isa, row, kept.least, kept.sum as f32);
        Some(kept.sum)
    }

    /// Which of these terms of a softmax are kept, where those of the whole vocabulary come to
    /// `sum`. Terms below `negligible` are not looked at.
    pub(super) fn filter(&self, terms: &mut [f32], sum: f64, negligible: f32) -> Kept {
        let mut kept = Kept {
            least: 0.0,
            sum,
            is_within: true,
        };
        if !self.filters() {
            return kept;
        }
        if let Some(top_p) = self.top_p.filter(|&p| p < 1.0) {
            let counts_first = self.filtering == Filtering::CountFirst;
            let first = self.top_k.filter(|&k| counts_first && k < terms.len());
            let mass = f64::from(top_p) * first.map_or(sum, |k| sum_of_largest(terms, k));
            match remove_beyond_mass(terms, mass, negligible) {
                Some((least, sum)) => (kept.least, kept.sum) = (least, sum),
                None => kept.is_within = false,
            }
        }
        match self.top_k {
            Some(top_k) if top_k < terms.len() => {
                kept.least = kept.least.max(largest(terms, top_k));
                let terms = terms.iter().filter(|&&term| term >= kept.least);
                kept.sum = terms.copied().map(f64::from).sum();
            }
            Some(_) => kept.is_within = false,
            None => {}
        }
        kept
    }
}

/// The sum of the `k` largest terms, ties at the last place included.
fn sum_of_largest(terms: &[f32], k: usize) -> f64 {
    let least = largest(terms, k);
    let terms = terms.iter().filter(|&&term| term >= least);
    terms.copied().map(f64::from).sum()
}

/// What filters keep.
pub(super) struct Kept {
    /// Smaller terms are removed.
    pub least: f32,
    /// Sum of what is kept.
    pub sum: f64,
    /// Whether what each filter keeps ends within the terms that it was given.
    pub is_within: bool,
}

/// Finds the largest terms, up to and including the one that takes their sum over `mass`, and gives
/// their sum behind a bound: terms below it are to be removed. Of equals the first come first:
/// those at the bound that are too many become zero. `None` if all of them that are not
/// `negligible` are not more than the mass, which rounding can do to a whole vocabulary, too.
fn remove_beyond_mass(terms: &mut [f32], mass: f64, negligible: f32) -> Option<(f32, f64)> {
    // Terms are from 0 to 1, where their bits are ordered as they are: 64 buckets an octave, so
    // that a few of them have to be sorted, and not the vocabulary.
    const fn bucket(term: f32) -> usize {
        (term.to_bits() >> 17) as usize
    }
    // Buckets begin there: those of all octaves are 64 KiB, for each row.
    let first = bucket(negligible.min(1.0));
    let mut masses = vec![0f64; bucket(1.0) - first + 1];
    for (_, term) in within(terms, negligible, f32::INFINITY) {
        masses[bucket(term) - first] += f64::from(term);
    }
    let mut above = 0f64;
    let crossing = masses.iter().rposition(|bucket_mass| {
        above += bucket_mass;
        above > mass
    })?;
    above -= masses[crossing];
    let edge = |bucket: usize| f32::from_bits(((first + bucket) as u32) << 17);
    let last = within(terms, edge(crossing), edge(crossing + 1));
    let mut last: Vec<usize> = last.map(|(token, _)| token).collect();
    last.sort_by(|&a, &b| terms[b].total_cmp(&terms[a]));
    let kept = last.iter().position(|&token| {
        above += f64::from(terms[token]);
        above > mass
    });
    // Rounding can leave the crossing just behind the bucket: then all of it is kept.
    let removed = kept.map_or(last.len(), |at| at + 1);
    for &token in &last[removed..] {
        terms[token] = 0.0;
    }
    Some((edge(crossing), above))
}

/// The tokens with terms of at least `low` and below `high`. Few are, so whole runs are passed over
/// at once.
fn within(terms: &[f32], low: f32, high: f32) -> impl Iterator<Item = (usize, f32)> {
    const RUN: usize = 32;
    let is_within = move |term: f32| term >= low && term < high;
    let runs = terms.chunks(RUN).enumerate();
    runs.filter(move |(_, run)| run.iter().fold(false, |any, &term| any | is_within(term)))
        .flat_map(|(i, run)| (i * RUN..).zip(run.iter().copied()))
        .filter(move |&(_, term)| is_within(term))
}

/// The `top_k`-th largest term.
fn largest(terms: &[f32], top_k: usize) -> f32 {
    let mut sorted = terms.to_vec();
    let (_, &mut least, _) = sorted.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
    least
}

/// Where the largest probability is of those that can be chosen; the first of equals.
pub(super) fn surest(probs: &[f32], can_be: impl Fn(usize) -> bool) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (at, &p) in probs.iter().enumerate() {
        if can_be(at) && best.is_none_or(|(_, most)| p > most) {
            best = Some((at, p));
        }
    }
    best.map_or(0, |(at, _)| at)
}

/// Draws one of those that can be chosen in proportion to `probs`, and gives where it is, for a
/// uniform draw from (0, 1).
pub(super) fn draw(probs: &[f32], can_be: impl Fn(usize) -> bool, uniform: f64) -> usize {
    let kept = || {
        within(probs, f32::MIN_POSITIVE, f32::INFINITY)
            .filter(|&(at, _)| can_be(at))
            .map(|(at, p)| (at, f64::from(p)))
    };
    let target = uniform * kept().map(|(_, p)| p).sum::<f64>();
    let mut mass = 0f64;
    let drawn = kept().find(|&(_, p)| {
        mass += p;
        mass > target
    });
    // Nothing but the mask is left when filtering kept it alone; the caller sees probability 0.
    let drawn = drawn.or_else(|| kept().last()).map(|(at, _)| at);
    drawn.unwrap_or_else(|| surest(probs, can_be))
}

#[cfg(test)]
mod tests {
    use super::super::random::{Draws, Purpose};
    use super::*;

    fn shaped(
        logits: &[f32],
        temperature: f32,
        top_p: Option<f32>,
        top_k: Option<usize>,
    ) -> Vec<f32> {
        let mut row = logits.to_vec();
        Shaping {
            temperature,
            top_p,
            top_k,
            filtering: Filtering::MassFirst,
        }
        .apply(Isa::detect(), &mut row);
        row
    }

    /// ln of the probabilities, so that the softmax gives them back.
    fn logits_of(probs: &[f32]) -> Vec<f32> {
        probs.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_coldest_temperature_takes_the_most_probable() {
        for temperature in [1e-20, 1e-30, 1e-38, f32::from_bits(1)] {
            let probs = shaped(&[3.0, 5.0, 4.9, -2.0], temperature, Some(0.95), None);
            assert_eq!(probs, [0.0, 1.0, 0.0, 0.0], "{temperature}");
        }
    }

    /// Three, of which two have six tenths of the mass of the three.
    #[test]
    fn the_mass_is_of_all_tokens_or_of_the_first() {
        let mut probs = vec![0.01; 43];
        (probs[3], probs[20], probs[30]) = (0.3, 0.2, 0.1);
        for (filtering, kept) in [(Filtering::MassFirst, 3), (Filtering::CountFirst, 2)] {
            let shaping = Shaping {
                top_k: Some(3),
                filtering,
                ..Shaping::nucleus(0.0, 0.6)
            };
            let mut row = logits_of(&probs);
            shaping.apply(Isa::detect(), &mut row);
            assert_eq!(row.iter().filter(|&&p| p > 0.0).count(), kept);
        }
    }

    #[test]
    fn what_filters_draws_leaves_the_most_probable_as_probable_as_it_is() {
        for (temperature, filtering, kept) in [
            (0.0, Filtering::MassFirst, 1),
            (0.0, Filtering::OfDraws, 3),
            (1.0, Filtering::OfDraws, 1),
        ] {
            let shaping = Shaping {
                top_k: Some(1),
                filtering,
                ..Shaping::nucleus(temperature, 0.6)
            };
            let mut row = logits_of(&[0.5, 0.3, 0.2]);
            shaping.apply(Isa::detect(), &mut row);
            assert_eq!(row.iter().filter(|&&p| p > 0.0).count(), kept);
        }
    }

    #[test]
    fn what_is_asked_for_wins() {
        let usual = Shaping {
            top_k: Some(5),
            ..Shaping::nucleus(0.2, 0.9)
        };
        assert_eq!(usual.asked(None, None, None), usual);
        let asked = usual.asked(Some(0.0), Some(1.0), Some(0));
        assert_eq!(asked, Shaping::temperature(0.0));
        let asked = usual.asked(None, Some(0.5), Some(3));
        assert_eq!((asked.top_p, asked.top_k), (Some(0.5), Some(3)));
    }

    #[test]
    fn top_p_keeps_the_token_that_crosses() {
        let probs = shaped(&logits_of(&[0.1, 0.5, 0.3, 0.1]), 0.0, Some(0.6), None);
        let expected = [0.0, 0.625, 0.375, 0.0];
        for (p, e) in probs.iter().zip(expected) {
            assert!((p - e).abs() < 1e-6, "{probs:?}");
        }
    }

    #[test]
    fn top_p_keeps_at_least_one_and_the_long_head_agrees_with_a_full_sort() {
        assert_eq!(
            shaped(&[0.0, 9.0, 0.0], 0.0, Some(1e-6), None),
            [0.0, 1.0, 0.0]
        );
        // Nearly flat over 2,000 tokens: needs far more than the first head of 64.
        let logits: Vec<f32> = (0..2000).map(|i| ((i * 37) % 2000) as f32 * 1e-4).collect();
        let kept = shaped(&logits, 0.0, Some(0.9), None)
            .iter()
            .filter(|&&p| p > 0.0)
            .count();
        let mut probs = shaped(&logits, 0.0, None, None);
        probs.sort_by(|a, b| b.total_cmp(a));
        let mut mass = 0f64;
        let expected = 1 + probs
            .iter()
            .take_while(|&&p| {
                mass += f64::from(p);
                mass as f32 <= 0.9
            })
            .count();
        assert_eq!(kept, expected);
    }

    /// One token of weight 1 and 99 of 0.005: nine tenths of 1.495 are 1.3455, so 70 of them are
    /// needed, each a third of the mean.
    #[test]
    fn a_long_tail_counts() {
        let mut logits = [0.005f32.ln(); 100];
        logits[40] = 0.0;
        let probs = shaped(&logits, 0.0, Some(0.9), None);
        let kept: Vec<usize> = (0..100).filter(|&token| probs[token] > 0.0).collect();
        assert_eq!(kept, (0..71).collect::<Vec<_>>());
        assert!((probs[40] - 1.0 / 1.35).abs() < 1e-6);
    }

    /// A half is where a bucket begins, and just below it where one ends.
    #[test]
    fn a_mass_that_is_just_reached_is_not_exceeded() {
        let kept = |terms: &[f32], top_p, sum| {
            let mut terms = terms.to_vec();
            let (least, sum) = remove_beyond_mass(&mut terms, top_p * sum, 0.0).unwrap();
            let kept = terms.iter().filter(|&&term| term >= least && term > 0.0);
            (kept.count(), sum)
        };
        assert_eq!(kept(&[1.0; 4], 0.5, 4.0), (3, 3.0));
        assert_eq!(kept(&[1.0, 0.5, 0.5], 0.5, 2.0), (2, 1.5));
        let (count, sum) = kept(&[0.498, 1.0, 0.499, 0.5], 0.761, 2.497);
        assert_eq!(count, 3);
        assert!((sum - 1.999).abs() < 1e-6);
        let both = Shaping {
            temperature: 0.5,
            top_p: Some(0.9),
            top_k: None,
            filtering: Filtering::MassFirst,
        };
        assert_eq!(Shaping::nucleus(0.5, 0.9), both);
    }

    #[test]
    fn a_draw_at_the_bound_of_two_tokens_is_the_second() {
        assert_eq!(draw(&[0.5, 0.5], |_| true, 0.5), 1);
        assert_eq!(draw(&[0.5, 0.5], |_| true, 0.4999), 0);
    }

    #[test]
    fn top_k_keeps_ties_and_temperature_sharpens() {
        let kept = |row: Vec<f32>| row.iter().filter(|&&p| p > 0.0).count();
        assert_eq!(kept(shaped(&[1.0, 2.0, 2.0, 3.0], 0.0, None, Some(2))), 3);
        assert_eq!(kept(shaped(&[1.0, 2.0, 2.5, 3.0], 0.0, None, Some(9))), 4);
        let two = shaped(&logits_of(&[0.2, 0.3, 0.5]), 0.0, None, Some(2));
        assert_eq!(two[0], 0.0);
        assert!((two[1] - 0.375).abs() < 1e-6 && (two[2] - 0.625).abs() < 1e-6);
        let logits = [0.0, 1.0];
        assert!(shaped(&logits, 0.5, None, None)[1] > shaped(&logits, 1.0, None, None)[1]);
        assert_eq!(
            shaped(&logits, 0.0, None, None),
            shaped(&logits, 1.0, None, None)
        );
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let probs = shaped(&[f32::MIN, 0.0, f32::MAX], 1e-3, Some(0.95), Some(2));
        assert!(probs.iter().all(|p| p.is_finite()), "{probs:?}");
        assert_eq!(surest(&probs, |_| true), 2);
    }

    #[test]
    fn the_mask_is_never_a_candidate() {
        let probs = [0.0, 0.02, 0.98, 0.0];
        assert_eq!(surest(&probs, |token| token != 2), 1);
        for i in 0..1000 {
            let uniform = Draws::new(i, 0).uniform(Purpose::Token, 0);
            assert_eq!(draw(&probs, |token| token != 2, uniform), 1);
        }
        assert_ne!(draw(&[0.0, 0.0, 1.0, 0.0], |token| token != 2, 0.5), 2);
    }

    #[test]
    fn equals_go_to_the_first() {
        assert_eq!(surest(&[0.2, 0.4, 0.4], |_| true), 1);
    }

    /// Chi-square of 60,000 drawn tokens against their probabilities, the mask's share spread.
    #[test]
    fn tokens_are_drawn_in_proportion() {
        let probs = [0.05f32, 0.3, 0.0, 0.25, 0.15, 0.25];
        let mask_id = 5;
        let n = 60_000;
        let mut counts = [0f64; 6];
        for i in 0..n {
            let uniform = Draws::new(42, i % 100).uniform(Purpose::Token, i / 100);
            counts[draw(&probs, |token| token != mask_id, uniform)] += 1.0;
        }
        assert_eq!((counts[2], counts[5]), (0.0, 0.0));
        let chi2: f64 = [0, 1, 3, 4]
            .iter()
            .map(|&token| {
                let expected = n as f64 * f64::from(probs[token]) / 0.75;
                (counts[token] - expected).powi(2) / expected
            })
            .sum();
        // 3 degrees of freedom: 21.1 is exceeded with probability 1e-4.
        assert!(chi2 < 21.1, "chi-square {chi2}, counts {counts:?}");
    }
}
