//! How long a hole is, where nobody said so.
//!
//! A canvas has to have a length before the model writes on it, and a hole of the wrong length
//! cannot be filled well. The model is asked once for each of some lengths, and the one is taken at
//! which it is surest of what belongs there.

use super::hole::{Hole, canvas};
use super::seam::{Seam, Seamed};
use crate::diffusion::{Candidate, Denoiser, GenerateError, Observer, Settings, Step, generate};
use crate::kernels::Isa;

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

/// Tokens on each side of a hole that the trials see. Each of them computes all that it sees, so
/// that with a long text they would take far longer than the writing.
const SEEN: usize = 128;

/// What the trials see of a text, given whether holes are before and behind it.
fn seen(text: &[u32], (follows, precedes): (bool, bool)) -> Vec<u32> {
    let first = if follows { SEEN } else { 0 };
    let last = if precedes { SEEN } else { 0 };
    match text.len().checked_sub(first + last) {
        None | Some(0) => text.to_vec(),
        Some(_) => [&text[..first], &text[text.len() - last..]].concat(),
    }
}

/// The lengths that are tried: all the short ones, then steps of a fifth.
pub fn trials(longest: usize) -> Vec<usize> {
    let next = |&length: &usize| Some(length + (length / 5).max(1));
    std::iter::successors(Some(SHORTEST.min(longest)), next)
        .take_while(|&length| length <= longest)
        .collect()
}

/// Chooses the lengths that are open by the model's confidence, hole by hole from the left.
///
/// `on_trial` is told after each forward pass how many of how many are done; once it says `false`,
/// the best lengths so far are taken.
///
/// # Errors
/// As [`generate`].
pub fn by_confidence<D: Denoiser>(
    model: &mut D,
    (texts, holes, seams): (&[Vec<u32>], &[Hole], &[Seam]),
    (mask_id, isa): (u32, Isa),
    on_trial: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Chosen, GenerateError<D::Error>>
where
    D::Error: std::error::Error + 'static,
{
    let settings = Settings {
        isa,
        ..Settings::reference(1)
    };
    let first = |hole: &Hole| match *hole {
        Hole::Exactly(length) => length,
        Hole::Chosen { up_to } => UNDECIDED.min(up_to),
        Hole::Growing { .. } => 1,
        Hole::Resizing { from, .. } => from,
    };
    let trials_of = |hole: &Hole| match *hole {
        Hole::Chosen { up_to } => trials(up_to),
        Hole::Exactly(_) | Hole::Growing { .. } | Hole::Resizing { .. } => Vec::new(),
    };
    let texts = texts.iter().enumerate();
    let texts: Vec<_> = texts
        .map(|(i, text)| seen(text, (i > 0, i < holes.len())))
        .collect();
    let mut chosen = Chosen {
        lengths: holes.iter().map(first).collect(),
        forwards: 0,
        rows: 0,
    };
    let all = holes.iter().map(|hole| trials_of(hole).len()).sum();
    for (number, hole) in holes.iter().enumerate() {
        let mut best = (f64::NEG_INFINITY, chosen.lengths[number]);
        for length in trials_of(hole) {
            chosen.lengths[number] = length;
            let canvas = canvas(&texts, &chosen.lengths, mask_id);
            let place = canvas.holes()[number].clone();
            let mut surest = Surest::default();
            let mut model = Seamed::new(model, &canvas, seams);
            let done = generate(&mut model, canvas, &settings, &mut surest)?;
            chosen.forwards += done.forwards;
            chosen.rows += done.rows;
            let inside = surest.0.iter();
            let inside = inside.filter(|candidate| place.contains(&candidate.position));
            let score = score(inside.map(|candidate| f64::from(candidate.confidence)));
            if score > best.0 {
                best = (score, length);
            }
            if !on_trial(chosen.forwards, all) {
                chosen.lengths[number] = best.1;
                return Ok(chosen);
            }
        }
        chosen.lengths[number] = best.1;
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

    const OPEN: fn(usize) -> Hole = |up_to| Hole::Chosen { up_to };

    fn choose(surest: usize, holes: &[Hole], patience: usize) -> Chosen {
        let texts = vec![vec![1, 2]; holes.len() + 1];
        let mut model = Scripted { surest };
        let mut on_trial = |done, _| done < patience;
        let special = (MASK, Isa::detect());
        by_confidence(&mut model, (&texts, holes, &[]), special, &mut on_trial).unwrap()
    }

    #[test]
    fn the_surest_length_is_taken_for_each_open_hole() {
        let choose_all = |surest, holes: &[Hole]| choose(surest, holes, usize::MAX);
        let chosen = choose_all(12, &[OPEN(32), Hole::Exactly(2), OPEN(32)]);
        assert_eq!(chosen.lengths, [12, 2, 12]);
        assert_eq!(chosen.forwards, 2 * trials(32).len());
        assert_eq!(choose_all(12, &[OPEN(9)]).lengths, [9]);
        let short = choose_all(1, &[OPEN(2)]);
        assert_eq!(short.lengths, [2], "shorter than the shortest");
        let given = choose_all(12, &[Hole::Exactly(1), Hole::Exactly(40)]);
        assert_eq!((given.lengths, given.forwards), (vec![1, 40], 0));
    }

    #[test]
    fn the_trials_see_what_is_near() {
        let text: Vec<u32> = (0..300).collect();
        assert_eq!(seen(&text, (false, true)), text[172..]);
        assert_eq!(seen(&text, (true, false)), text[..128]);
        assert_eq!(
            seen(&text, (true, true)),
            [&text[..128], &text[172..]].concat()
        );
        assert_eq!(seen(&text[..256], (true, true)), text[..256]);
        let mut model = Scripted { surest: 9 };
        let (texts, holes) = (vec![text.clone(), text], [OPEN(12)]);
        let special = (MASK, Isa::detect());
        let job = (&*texts, &holes[..], &[][..]);
        let chosen = by_confidence(&mut model, job, special, &mut |_, _| true).unwrap();
        assert_eq!(chosen.lengths, [9]);
        assert_eq!(
            chosen.rows,
            trials(12).iter().map(|length| 256 + length).sum::<usize>()
        );
    }

    #[test]
    fn out_of_patience_the_best_so_far_is_taken() {
        let chosen = choose(12, &[OPEN(32), OPEN(32)], 3);
        assert_eq!((chosen.lengths, chosen.forwards), (vec![6, 8], 3));
    }

    #[test]
    fn trials_go_up_to_the_longest() {
        assert_eq!(trials(15), [4, 5, 6, 7, 8, 9, 10, 12, 14]);
        assert_eq!(trials(1), [1]);
    }
}
