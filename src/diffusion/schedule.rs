//! How many steps there are, and how many masks each reveals: the reference's linear timesteps.
//!
//! Timesteps run from 1 down to `eps` in `steps` equal parts, t_0 = 1 … t_steps = eps. Step i
//! reveals the share `1 - t_{i+1} / t_i` of the masks that are left, and all of them at the last
//! step. Source: `_sample` in Dream's `generation_utils.py`, which computes in float32; so do we,
//! because rounding decides the counts (`tests/fixtures/golden/golden.json`, `schedule`).

/// How many steps a canvas takes. With holes that get longer and shorter nobody knows that before:
/// there a count is the most, and each reveals one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// This many, at least 1.
    Count(usize),
    /// As many as it takes to reveal this many tokens, at least 1, in each.
    OfTokens(usize),
}

impl Steps {
    /// Steps for a canvas with so many masks; at least 1.
    pub fn count(self, masks: usize) -> usize {
        match self {
            Self::Count(steps) => steps.max(1),
            Self::OfTokens(tokens) => masks.div_ceil(tokens.max(1)).max(1),
        }
    }
}

/// The timesteps of one generation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    steps: usize,
    eps: f32,
}

impl Schedule {
    /// `steps` denoising steps from t = 1 to t = `eps`; `steps` is at least 1, `eps` in (0, 1).
    pub fn new(steps: usize, eps: f32) -> Self {
        Self { steps, eps }
    }

    /// Timestep 0 to `steps`, by `torch.linspace` in float32: it counts up from the start in the
    /// first half and down from the end in the second, so that both ends are exact. Product and sum
    /// are fused, as in PyTorch's kernels on every processor that can; rounding in between changes
    /// a count now and then.
    fn timestep(&self, i: usize) -> f32 {
        let apart = (self.eps - 1.0) / self.steps as f32;
        match i < self.steps.div_ceil(2) {
            true => apart.mul_add(i as f32, 1.0),
            false => (-apart).mul_add((self.steps - i) as f32, self.eps),
        }
    }

    /// Chance of each mask to be revealed at `step`: `1 - t_{step+1} / t_step`, and 1 at the last.
    pub(crate) fn reveal_share(&self, step: usize) -> f32 {
        if step + 1 >= self.steps {
            1.0
        } else {
            1.0 - self.timestep(step + 1) / self.timestep(step)
        }
    }

    /// Number of the `masked` positions to reveal at `step`; all that are left at the last.
    pub fn reveal_count(&self, step: usize, masked: usize) -> usize {
        (masked as f32 * self.reveal_share(step)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_exact() {
        let schedule = Schedule::new(7, 1e-3);
        assert_eq!([schedule.timestep(0), schedule.timestep(7)], [1.0, 1e-3]);
    }

    #[test]
    fn any_number_of_steps_takes_no_room() {
        let schedule = Schedule::new(usize::MAX, 1e-3);
        assert_eq!(schedule.reveal_count(0, 100), 0);
        assert_eq!(schedule.reveal_count(usize::MAX - 1, 100), 100);
    }

    /// As PyTorch's: the first half from the start, the second from the end.
    #[test]
    fn each_half_is_counted_from_its_own_end() {
        let schedule = Schedule::new(3, 0.1);
        let timesteps = [0, 1, 2, 3].map(|i| schedule.timestep(i));
        assert_eq!(timesteps, [1.0, 0.700_000_05, 0.399_999_98, 0.1]);
    }

    /// PyTorch 2.15 on AVX2 and AVX-512 gives 3 here; without fused products it would be 4.
    #[test]
    fn products_and_sums_are_fused() {
        let schedule = Schedule::new(63, 0.1);
        let left = (0..25).fold(255, |left, step| left - schedule.reveal_count(step, left));
        assert_eq!(schedule.reveal_count(25, left), 3);
    }

    #[test]
    fn every_mask_is_revealed_once_for_any_size() {
        for tokens in [1, 2, 5, 31, 256, 777] {
            for steps in 1..=tokens.min(64) {
                let schedule = Schedule::new(steps, 1e-3);
                let mut left = tokens;
                for step in 0..steps {
                    let count = schedule.reveal_count(step, left);
                    assert!(count <= left);
                    left -= count;
                }
                assert_eq!(left, 0, "{tokens} tokens in {steps} steps");
            }
        }
    }
}
