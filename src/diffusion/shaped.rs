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
    /// Negative entropy of those that the order goes by, where these are not all tokens.
    negative_entropy: Option<f32>,
}

impl<'a> Shaped<'a> {
    /// Of all tokens `[V]`, but for one that cannot be; their logits are used up. `beside` is room
    /// for the probabilities at another temperature. `None` if a logit is not finite.
    pub fn of(
        logits: &'a mut [f32],
        barred: Option<u32>,
        settings: &Settings,
        beside: &'a mut Vec<f32>,
    ) -> Option<Self> {
        if let Some(logit) = barred.and_then(|id| logits.get_mut(id as usize)) {
            *logit -= BARRED; // no probability is left of it, and temperatures leave it finite
        }
        let temperature = settings.decoding.beside();
        if let Some(temperature) = temperature {
            beside.clear();
            beside.extend_from_slice(logits);
            Shaping::temperature(temperature).apply(settings.isa, beside)?;
        }
        settings.shaping.apply(settings.isa, logits)?;
        Some(Self {
            ids: None,
            probs: logits,
            beside: temperature.map(|_| &**beside),
            negative_entropy: None,
        })
    }

    /// Of the likely ones.
    pub fn of_likely(likely: &'a Likely) -> Self {
        Self {
            ids: Some(&likely.tokens),
            probs: &likely.probs,
            beside: likely.beside.as_deref(),
            negative_entropy: Some(likely.negative_entropy),
        }
    }

    /// Probabilities by which a threshold reveals.
    pub fn sure(&self) -> &'a [f32] {
        self.beside.unwrap_or(self.probs)
    }

    /// The candidate for a position: of the tokens below `tokens` but `excluded` the most probable,
    /// or one that is drawn, given a uniform draw from (0, 1).
    pub fn candidate(
        &self,
        position: usize,
        (excluded, tokens): (u32, usize),
        uniform: Option<f64>,
        settings: &Settings,
    ) -> Candidate {
        let at = match self.ids {
            None => {
                let probs = &self.probs[..tokens.min(self.probs.len())];
                choose(probs, |token| token != excluded as usize, uniform)
            }
            Some(ids) => {
                let can_be = |at: usize| ids[at] != excluded && (ids[at] as usize) < tokens;
                choose(self.probs, can_be, uniform)
            }
        };
        let order = match settings.decoding.order_temperature {
            Some(_) => self.sure(),
            None => self.probs,
        };
        let confidence = match (settings.algorithm, self.negative_entropy) {
            (Algorithm::Entropy, Some(negative_entropy)) => negative_entropy,
            (algorithm, _) => algorithm.confidence(settings.isa, order, at),
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

fn choose(probs: &[f32], can_be: impl Fn(usize) -> bool, uniform: Option<f64>) -> usize {
    match uniform {
        Some(uniform) => draw(probs, can_be, uniform),
        None => surest(probs, can_be),
    }
}
