//! How long a hole is, where nobody said so.
//!
//! A canvas has to have a length before the model writes on it, and a hole of the wrong length
//! cannot be filled well. Two ways to find it: [`LengthBy::Pads`] makes the hole long and lets the
//! model end its text with a stop token; [`LengthBy::Confidence`] asks the model once for each of
//! some lengths, and takes the one at which it is surest of what belongs there.

use crate::diffusion::{Candidate, Denoiser, GenerateError, Observer, Settings, Step, generate};

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthBy {
    /// A long hole, which the model ends itself.
    Pads,
    /// The length at which the model is surest.
    Confidence,
}

impl LengthBy {
    /// Both, in the order help texts list them.
    pub const ALL: [Self; 2] = [Self::Confidence, Self::Pads];

    /// The name that flags and files have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Confidence => "confidence",
            Self::Pads => "pads",
        }
    }
}

/// Lengths, and what finding them took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// In tokens, one for each hole.
    pub lengths: Vec<usize>,
    /// Forward passes run.
    pub forwards: usize,
    /// Positions pushed through the transformer, summed over the forward passes.
    pub rows: usize,
}

/// Length of a hole that is not looked at yet, while another one is.
const UNDECIDED: usize = 8;

/// The shortest that is tried. Between two texts a model is surest of a token or two, whatever is
/// missing: of 103 lines cut out of Python files, the built-in model found the lengths of 1 when
/// single masks were tried too, of 4, 5 and 8 when holes began at 2, 3 and 4.
const SHORTEST: usize = 4;

/// The lengths that are tried: all the short ones, then steps of a fifth.
pub fn trials(longest: usize) -> Vec<usize> {
    let next = |&length: &usize| Some(length + (length / 5).max(1));
    std::iter::successors(Some(SHORTEST.min(longest)), next)
        .take_while(|&length| length <= longest)
        .collect()
}

/// Chooses the lengths that are not given by the model's confidence, hole by hole from the left.
///
/// `on_trial` is called after each forward pass.
///
/// # Errors
/// As [`generate`].
pub fn by_confidence<D: Denoiser>(
    model: &mut D,
    texts: &[Vec<u32>],
    given: &[Option<usize>],
    longest: usize,
    mask_id: u32,
    on_trial: &mut dyn FnMut(),
) -> Result<Chosen, GenerateError<D::Error>>
where
    D::Error: std::error::Error + 'static,
{
    let mut chosen = Chosen {
        lengths: given
            .iter()
            .map(|length| length.unwrap_or(UNDECIDED.min(longest)))
            .collect(),
        forwards: 0,
        rows: 0,
    };
    for hole in (0..given.len()).filter(|&hole| given[hole].is_none()) {
        let mut best = (f64::NEG_INFINITY, chosen.lengths[hole]);
        for length in trials(longest) {
            chosen.lengths[hole] = length;
            let canvas = super::canvas(texts, &chosen.lengths, mask_id);
            let place = canvas.holes()[hole].clone();
            let mut surest = Surest::default();
            let done = generate(model, canvas, &Settings::reference(1), &mut surest)?;
            chosen.forwards += done.forwards;
            chosen.rows += done.rows;
            on_trial();
            let inside = surest
                .0
                .iter()
                .filter(|candidate| place.contains(&candidate.position));
            let score = score(inside.map(|candidate| f64::from(candidate.confidence)));
            if score > best.0 {
                best = (score, length);
            }
        }
        chosen.lengths[hole] = best.1;
    }
    Ok(chosen)
}

/// Mean negative entropy.
fn score(confidences: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = confidences.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    sum / count
}

/// The candidates of a single step.
#[derive(Default)]
struct Surest(Vec<Candidate>);

impl Observer for Surest {
    fn on_step(&mut self, step: &Step<'_>) {
        self.0.extend_from_slice(step.revealed);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::diffusion::Pass;

    const MASK: u32 = 3;

    /// Sure of every mask in a run of `surest` of them, and less so in others.
    struct Scripted {
        surest: usize,
    }

    impl Denoiser for Scripted {
        type Error = Infallible;

        fn forward(&mut self, pass: &Pass<'_>, logits: &mut Vec<f32>) -> Result<usize, Infallible> {
            let ids = pass.ids;
            let run = |position: usize| {
                let left = ids[..position]
                    .iter()
                    .rev()
                    .take_while(|&&id| id == MASK)
                    .count();
                let right = ids[position..].iter().take_while(|&&id| id == MASK).count();
                left + right
            };
            let row = |&position: &usize| {
                let distance = run(position).abs_diff(self.surest) as f32;
                [9.0 / (1.0 + distance), 0.0, 0.0, 0.0]
            };
            *logits = pass.predict.iter().flat_map(row).collect();
            Ok(pass.refresh.len())
        }
    }

    fn choose(surest: usize, given: &[Option<usize>], longest: usize) -> Chosen {
        let texts = vec![vec![1, 2]; given.len() + 1];
        let mut model = Scripted { surest };
        by_confidence(&mut model, &texts, given, longest, MASK, &mut || ()).unwrap()
    }

    #[test]
    fn the_surest_length_is_taken_for_each_open_hole() {
        let chosen = choose(12, &[None, Some(2), None], 32);
        assert_eq!(chosen.lengths, [12, 2, 12]);
        assert_eq!(chosen.forwards, 2 * trials(32).len());
        assert_eq!(choose(12, &[None], 9).lengths, [9]);
        assert_eq!(
            choose(1, &[None], 2).lengths,
            [2],
            "shorter than the shortest"
        );
        let given = choose(12, &[Some(1), Some(40)], 9);
        assert_eq!((given.lengths, given.forwards), (vec![1, 40], 0));
    }

    #[test]
    fn trials_go_up_to_the_longest() {
        assert_eq!(trials(15), [4, 5, 6, 7, 8, 9, 10, 12, 14]);
        assert_eq!(trials(1), [1]);
    }
}
