//! How likely the published sampler finds a text that was written in another way.

use super::{Outcome, Session};
use crate::diffusion::{Algorithm, Denoiser, GenerateError, Shaping};
use crate::error::Error;

/// A score of some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Likelihood {
    /// Negative log-likelihood of all of them, in nats.
    pub nll: f64,
    /// How many there are.
    pub tokens: usize,
}

/// Of what has no probability at all: logits are of float32.
const LEAST: f32 = 1e-9;

impl Session {
    /// The negative log-likelihood of what stands in the holes, each with the token that ends it,
    /// when it is revealed one by one, least entropy first, with everything computed anew: as many
    /// forward passes as there are tokens: the reference's sampler, also for models whose authors
    /// fill blocks. What a canvas has behind the end of a text is left out.
    ///
    /// # Errors
    /// When the network fails, or yields infinities or NaN; those of [`Self::load`].
    pub fn exact_nll(&mut self, outcome: &Outcome) -> Result<Likelihood, Error> {
        let (mask_id, vocabulary) = (self.package().mask_id, self.package().config.vocab_size);
        let isa = self.target().isa;
        let (mut ids, mut tokens, mut masked) = (Vec::new(), Vec::new(), Vec::new());
        let (written, mut from) = (outcome.canvas.ids(), 0);
        for (hole, filled) in outcome.canvas.holes().iter().zip(&outcome.holes) {
            ids.extend(&written[from..hole.start]);
            let text = &filled.ids[..filled.ids.len().min(filled.tokens + 1)];
            // Of a run that was ended early the last may be a mask.
            for &token in text.iter().filter(|&&id| id != mask_id) {
                masked.push(ids.len());
                tokens.push(token);
                ids.push(mask_id);
            }
            from = hole.end;
        }
        ids.extend(&written[from..]);
        let model = self.load(&mut (), &mut |_, _| ())?;
        let mut all = Likelihood {
            nll: 0.0,
            tokens: tokens.len(),
        };
        for step in 0..all.tokens {
            let predictions = model.predict(&ids, &masked);
            let mut logits = predictions.map_err(GenerateError::Model)?.logits;
            let mut best: Option<(f64, usize, f32)> = None;
            for (i, row) in logits.chunks_exact_mut(vocabulary).enumerate() {
                let (position, token) = (masked[i], tokens[i]);
                let shaped = Shaping::temperature(1.0).apply(isa, row);
                shaped.ok_or(GenerateError::NotFinite { position, step })?;
                let confidence = Algorithm::Entropy.confidence(isa, row, token as usize, None);
                // The first of equals, as the sampler has it.
                if best.is_none_or(|(surest, ..)| confidence > surest) {
                    best = Some((confidence, i, row[token as usize]));
                }
            }
            if let Some((_, i, p)) = best {
                all.nll -= f64::from(p.max(LEAST)).ln();
                ids[masked.remove(i)] = tokens.remove(i);
            }
        }
        Ok(all)
    }
}
