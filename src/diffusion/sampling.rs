//! From logits to a candidate token: temperature, top-p, top-k, softmax, then argmax or a draw.
//!
//! Source: `sample_tokens`, `top_p_logits` and `top_k_logits` in Dream's `generation_utils.py`.
//! Departure: the mask token is never a candidate. The reference can draw it and would then
//! commit a mask as if it were text; probabilities and confidences stay as the reference has them.

use std::cmp::Ordering;

/// How probabilities are shaped before a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shaping {
    /// Logits are divided by it; 0 leaves them as they are and takes the most probable token.
    pub temperature: f32,
    /// Smallest set of most probable tokens whose mass exceeds this; `None` or 1 keeps all.
    pub top_p: Option<f32>,
    /// Number of most probable tokens to keep (ties at the last place stay); `None` keeps all.
    pub top_k: Option<usize>,
}

impl Shaping {
    /// A temperature alone.
    pub fn temperature(temperature: f32) -> Self {
        Self {
            temperature,
            top_p: None,
            top_k: None,
        }
    }

    /// Turns one row of logits `[V]`, all finite, into probabilities in place; removed tokens get 0.
    pub fn apply(&self, row: &mut [f32]) {
        if self.temperature > 0.0 {
            for logit in row.iter_mut() {
                // Clamped: an infinity would turn into NaN below.
                *logit = (*logit / self.temperature).clamp(f32::MIN, f32::MAX);
            }
        }
        // The largest logit is always kept, so filtering changes only the sum of the softmax.
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = row.iter().map(|logit| (logit - max).exp()).collect();
        if let Some(top_p) = self.top_p.filter(|&p| p < 1.0) {
            remove_beyond_top_p(row, &exps, top_p);
        }
        if let Some(top_k) = self.top_k.filter(|&k| k < row.len()) {
            remove_beyond_top_k(row, top_k);
        }
        let kept = |(&logit, &exp): (&f32, &f32)| if logit == REMOVED { 0.0 } else { exp };
        let sum = row.iter().zip(&exps).map(kept).map(f64::from).sum::<f64>() as f32;
        for (value, exp) in row.iter_mut().zip(&exps) {
            *value = kept((value, exp)) / sum;
        }
    }
}

/// Stands for the logit of a token that is filtered out.
const REMOVED: f32 = f32::NEG_INFINITY;

/// Keeps the most probable tokens up to and including the one that takes their mass over `top_p`.
/// `exps` are the unnormalised probabilities of the logits in `row`.
fn remove_beyond_top_p(row: &mut [f32], exps: &[f32], top_p: f32) {
    let sum = exps.iter().copied().map(f64::from).sum::<f64>() as f32;
    // Most rows need a few tokens of 150,000: look among those within a factor of the best one, and
    // lower the bar only if their mass proves too small.
    let mut bar = 1e-2;
    loop {
        let mut head: Vec<u32> = (0..row.len() as u32)
            .filter(|&token| exps[token as usize] >= bar)
            .collect();
        let whole = head.len() == row.len();
        let mass = |token: u32| f64::from(exps[token as usize] / sum);
        if let Some(last) = crossing(&mut head, row, mass, top_p) {
            let cut = row[last as usize];
            for (token, logit) in row.iter_mut().enumerate() {
                if *logit < cut || (*logit == cut && token > last as usize) {
                    *logit = REMOVED;
                }
            }
            return;
        }
        if whole {
            return;
        }
        bar = if bar < 1e-20 { 0.0 } else { bar * bar };
    }
}

/// The token at which the mass of `tokens`, taken from the highest logit down, exceeds `top_p`. Only
/// the half that holds it is looked at further, so that flat distributions need no full sort.
fn crossing(
    mut tokens: &mut [u32],
    logits: &[f32],
    mass: impl Fn(u32) -> f64,
    top_p: f32,
) -> Option<u32> {
    let descending = |a: &u32, b: &u32| by_value_descending(logits, *a, *b);
    let mut before = 0f64;
    while tokens.len() > 32 {
        let middle = tokens.len() / 2;
        tokens.select_nth_unstable_by(middle, descending);
        let (upper, lower) = tokens.split_at_mut(middle);
        let upper_mass: f64 = upper.iter().map(|&token| mass(token)).sum();
        if (before + upper_mass) as f32 > top_p {
            tokens = upper;
        } else {
            before += upper_mass;
            tokens = lower;
        }
    }
    tokens.sort_unstable_by(descending);
    tokens.iter().copied().find(|&token| {
        before += mass(token);
        before as f32 > top_p
    })
}

/// Keeps the tokens at least as probable as the `top_k`-th.
fn remove_beyond_top_k(row: &mut [f32], top_k: usize) {
    let mut sorted = row.to_vec();
    let (_, &mut threshold, _) = sorted.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
    for logit in row.iter_mut().filter(|logit| **logit < threshold) {
        *logit = REMOVED;
    }
}

fn by_value_descending(values: &[f32], a: u32, b: u32) -> Ordering {
    values[b as usize]
        .total_cmp(&values[a as usize])
        .then(a.cmp(&b))
}

/// The most probable token that is not `mask_id`; the first of equals.
pub fn most_probable(probs: &[f32], mask_id: u32) -> u32 {
    let mut best: Option<(usize, f32)> = None;
    for (token, &p) in probs.iter().enumerate() {
        if token != mask_id as usize && best.is_none_or(|(_, most)| p > most) {
            best = Some((token, p));
        }
    }
    best.map_or(0, |(token, _)| token as u32)
}

/// Draws a token other than `mask_id` in proportion to `probs`, given a uniform draw from (0, 1).
pub fn draw(probs: &[f32], mask_id: u32, uniform: f64) -> u32 {
    let text = |&(token, &p): &(usize, &f32)| token != mask_id as usize && p > 0.0;
    let total: f64 = probs
        .iter()
        .enumerate()
        .filter(text)
        .map(|(_, &p)| f64::from(p))
        .sum();
    let target = uniform * total;
    let mut mass = 0f64;
    let mut last = None;
    for (token, &p) in probs.iter().enumerate().filter(text) {
        mass += f64::from(p);
        last = Some(token as u32);
        if mass > target {
            break;
        }
    }
    // Nothing but the mask is left when filtering kept it alone; the caller sees probability 0.
    last.unwrap_or_else(|| most_probable(probs, mask_id))
}

#[cfg(test)]
mod tests {
    use super::super::random::{Draws, Purpose};
    use super::*;

    const NO_MASK: u32 = u32::MAX;

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
        }
        .apply(&mut row);
        row
    }

    /// ln of the probabilities, so that the softmax gives them back.
    fn logits_of(probs: &[f32]) -> Vec<f32> {
        probs.iter().map(|p| p.ln()).collect()
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

    #[test]
    fn top_k_keeps_ties_and_temperature_sharpens() {
        let kept = |row: Vec<f32>| row.iter().filter(|&&p| p > 0.0).count();
        assert_eq!(kept(shaped(&[1.0, 2.0, 2.0, 3.0], 0.0, None, Some(2))), 3);
        assert_eq!(kept(shaped(&[1.0, 2.0, 2.5, 3.0], 0.0, None, Some(9))), 4);
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
        assert_eq!(most_probable(&probs, NO_MASK), 2);
    }

    #[test]
    fn the_mask_is_never_a_candidate() {
        let probs = [0.0, 0.02, 0.98, 0.0];
        assert_eq!(most_probable(&probs, 2), 1);
        for i in 0..1000 {
            let uniform = Draws::new(i, 0).uniform(Purpose::Token, 0);
            assert_eq!(draw(&probs, 2, uniform), 1);
        }
        assert_ne!(draw(&[0.0, 0.0, 1.0, 0.0], 2, 0.5), 2);
    }

    #[test]
    fn equals_go_to_the_first() {
        assert_eq!(most_probable(&[0.2, 0.4, 0.4], NO_MASK), 1);
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
            counts[draw(&probs, mask_id, uniform) as usize] += 1.0;
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
