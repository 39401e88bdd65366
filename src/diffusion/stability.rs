//! Whether the distribution at a mask has settled: how far each pass moved it (KLASS,
//! arXiv 2511.05664).

/// The mean shift below which a pass has not moved a distribution, in nats.
const SETTLED: f32 = 1e-3;
/// Passes in a row that must not have moved it.
const PASSES: usize = 2;

/// What is remembered of the masks that the pass before predicted.
#[derive(Debug, Default)]
pub(super) struct Stability(Vec<Memory>);

/// Of one mask.
#[derive(Debug)]
pub(super) struct Memory {
    /// Where it is.
    pub position: usize,
    probs: Vec<f32>, // [V], none before the first pass
    settled: usize,  // passes in a row that did not move it
}

impl Stability {
    /// What is remembered of these masks, in their order; others are forgotten.
    pub fn of(&mut self, masked: &[usize]) -> &mut [Memory] {
        let mut before = std::mem::take(&mut self.0).into_iter().peekable();
        for &position in masked {
            while before.next_if(|old| old.position < position).is_some() {}
            let old = before.next_if(|old| old.position == position);
            self.0.push(old.unwrap_or(Memory {
                position,
                probs: Vec::new(),
                settled: 0,
            }));
        }
        &mut self.0
    }
}

impl Memory {
    /// Takes in the probabilities of a pass `[V]`; whether they have settled.
    pub fn see(&mut self, probs: &[f32]) -> bool {
        let is_moved = self.probs.is_empty() || divergence(probs, &self.probs) >= SETTLED;
        self.settled = if is_moved { 0 } else { self.settled + 1 };
        self.probs.clear();
        self.probs.extend_from_slice(probs);
        self.settled >= PASSES
    }
}

/// Kullback-Leibler divergence of `probs` from those before, in nats.
fn divergence(probs: &[f32], before: &[f32]) -> f32 {
    // What is left out is less than V · 1e-8 · ln(1e8): tokens that cannot matter.
    let terms = probs.iter().zip(before).filter(|(p, _)| **p > 1e-8);
    terms
        .map(|(p, q)| p * (p / q.max(f32::MIN_POSITIVE)).ln())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_passes_that_move_nothing_settle_it() {
        let mut stability = Stability::default();
        let mut see = |probs: [f32; 2]| stability.of(&[4]).first_mut().unwrap().see(&probs);
        assert!(!see([0.5, 0.5]));
        assert!(!see([0.51, 0.49]), "moved by 0.0002 nats");
        assert!(see([0.5, 0.5]));
        assert!(!see([0.9, 0.1]), "moved");
        assert!(!see([0.9, 0.1]));
        assert!(see([0.9, 0.1]));
    }

    #[test]
    fn masks_are_remembered_by_their_position() {
        let mut stability = Stability::default();
        let see = |stability: &mut Stability, masked: &[usize]| -> Vec<bool> {
            let memories = stability.of(masked).iter_mut();
            memories.map(|memory| memory.see(&[0.5, 0.5])).collect()
        };
        see(&mut stability, &[3, 5, 9]);
        see(&mut stability, &[5, 9]);
        assert_eq!(see(&mut stability, &[5, 7, 9]), [true, false, true]);
        see(&mut stability, &[7]);
        assert_eq!(see(&mut stability, &[5, 7]), [false, true]);
    }

    #[test]
    fn divergence_by_hand() {
        let found = divergence(&[0.5, 0.5, 0.0], &[0.25, 0.75, 0.0]);
        let expected = 0.5 * 2f32.ln() + 0.5 * (2f32 / 3.0).ln();
        assert!((found - expected).abs() < 1e-6);
        assert!(divergence(&[1.0, 0.0], &[0.0, 1.0]) > 1.0);
    }
}
