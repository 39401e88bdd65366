//! What is predicted of a position as the sampler looks at it: of all tokens where their logits are
//! here, of the likely ones where they stayed on a device.

use super::confidence::{Algorithm, Candidate};
use super::sampling::{Shaping, draw, surest};
use super::settings::Settings;
use super::summary::Likely;

/// Taken from the logit of a token that cannot be.
const BARRED: f32 = 1e9;

/// Probabilities of tokens.
pub(super) struct Shaped<'a> {
    /// Their ids; where there are none, each token is at its own.
    ids: Option<&'a [u32]>,
    /// Shaped, and 0 where they are filtered out.
    probs: &'a [f32],
    /// With nothing filtered, at another temperature.
    beside: Option<&'a [f32]>,
    /// What the terms of these come to, with 1 for the largest, if the order goes by them.
    terms: Option<f64>,
    /// Negative entropy of those that the order goes by, where these are not all tokens.
    negative_entropy: Option<f32>,
    /// The most probable candidate, where filters may have removed all of them.
    unfiltered: Option<usize>,
}

impl<'a> Shaped<'a> {
    /// Of all tokens `[V]`, but for one that cannot be; their logits are used up. Candidates are
    /// those of `candidates`. `beside` is room for the probabilities at another temperature. `None`
    /// if a logit is not finite.
    pub fn of(
        logits: &'a mut [f32],
        barred: Option<u32>,
        candidates: Candidates,
        settings: &Settings,
        beside: &'a mut Vec<f32>,
    ) -> Option<Self> {
        if let Some(logit) = barred.and_then(|id| logits.get_mut(id as usize)) {
            *logit -= BARRED; // no probability is left of it, and temperatures leave it finite
        }
        let unfiltered = match settings.shaping.filters() {
            true => candidates.surest_unless_kept(logits),
            false => None,
        };
        let temperature = settings.decoding.beside();
        let mut terms = None;
        if let Some(temperature) = temperature {
            beside.clear();
            beside.extend_from_slice(logits);
            terms = Some(Shaping::temperature(temperature).apply(settings.isa, beside)?);
        }
        settings.shaping.apply(settings.isa, logits)?;
        Some(Self {
            ids: None,
            probs: logits,
            beside: temperature.map(|_| &**beside),
            terms: terms.filter(|_| settings.decoding.order_temperature.is_some()),
            negative_entropy: None,
            unfiltered,
        })
    }

    /// Of the likely ones.
    pub fn of_likely(likely: &'a Likely) -> Self {
        Self {
            ids: Some(&likely.tokens),
            probs: &likely.probs,
            beside: likely.beside.as_deref(),
            terms: likely.terms,
            negative_entropy: Some(likely.negative_entropy),
            unfiltered: None, // a candidate is among them
        }
    }

    /// Probabilities by which a threshold reveals.
    pub fn sure(&self) -> &'a [f32] {
        self.beside.unwrap_or(self.probs)
    }

    /// The candidate for a position: the most probable, or one that is drawn, given a uniform draw
    /// from (0, 1).
    pub fn candidate(
        &self,
        position: usize,
        candidates: Candidates,
        uniform: Option<f64>,
        settings: &Settings,
    ) -> Candidate {
        let at = match self.ids {
            None => {
                let probs = candidates.of_all(self.probs);
                choose(
                    probs,
                    |token| token != candidates.excluded as usize,
                    uniform,
                )
            }
            Some(ids) => choose(self.probs, |at| candidates.contain(ids[at]), uniform),
        };
        let removed = self.unfiltered.filter(|_| self.probs[at] == 0.0);
        let at = removed.unwrap_or(at);
        let order = match settings.decoding.order_temperature {
            Some(_) => self.sure(),
            None => self.probs,
        };
        let confidence = match (settings.algorithm, self.negative_entropy) {
            // The reference leaves such a position masked, as sure as it is of the mask.
            _ if order[at] == 0.0 && removed.is_some() => f64::MIN,
            (Algorithm::Entropy, Some(negative_entropy)) => f64::from(negative_entropy),
            (algorithm, _) => algorithm.confidence(settings.isa, order, at, self.terms),
        };
        Candidate {
            position,
            token: self.ids.map_or(at as u32, |ids| ids[at]),
            confidence,
            probability: self.sure()[at],
            is_settled: false,
        }
    }
}

/// The tokens that can be revealed: those below `tokens`, but for one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates {
    pub excluded: u32,
    pub tokens: usize,
}

impl Candidates {
    fn contain(self, token: u32) -> bool {
        token != self.excluded && (token as usize) < self.tokens
    }

    /// Of what all tokens have, that of those below `tokens`.
    fn of_all(self, row: &[f32]) -> &[f32] {
        &row[..self.tokens.min(row.len())]
    }

    /// The one with the largest logit, unless that is the largest of all: then no filter removes it.
    fn surest_unless_kept(self, logits: &[f32]) -> Option<usize> {
        let mine = self.of_all(logits);
        let others = &logits[mine.len()..];
        let excluded = logits.get(self.excluded as usize);
        let most = others.iter().chain(excluded).copied().reduce(f32::max)?;
        let is_kept = mine.iter().any(|&logit| logit > most);
        (!is_kept).then(|| surest(mine, |token| self.contain(token as u32)))
    }
}

fn choose(probs: &[f32], can_be: impl Fn(usize) -> bool, uniform: Option<f64>) -> usize {
    match uniform {
        Some(uniform) => draw(probs, can_be, uniform),
        None => surest(probs, can_be),
    }
}
