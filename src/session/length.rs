//! How long a hole is, where nobody said so.
//!
//! A canvas has to have a length before the model writes on it, and a hole of the wrong length
//! cannot be filled well. From a usual length the search climbs, token by token, to the one at
//! which the model is surest of the masks, against how sure it is at that length of anything (CAL,
//! arXiv 2602.00476, algorithm 1).
//!
//! The texts round the hole are computed once. A longer or shorter hole computes its masks alone:
//! keys and values of what follows move with it, and are as they were beside the first length.

use super::hole::{Hole, canvas};
use super::seam::{Seam, Seamed};
use crate::diffusion::{
    Asked, Attention, Denoiser, GenerateError, Kept, LengthBias, Pass, Predicted,
};
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

/// What is known of a model.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The mask's id.
    pub mask_id: u32,
    /// Ids below it are candidates.
    pub tokens: usize,
    /// How sure it is by length alone.
    pub bias: LengthBias,
    /// Whether what it keeps of the texts is used, and left for the run that follows: then all of
    /// them is seen.
    pub reuses_context: bool,
    /// Instructions that the arithmetic uses.
    pub isa: Isa,
}

/// Where the search begins, and the length of a hole that is not looked at yet, while another one
/// is: as published, and about the median of single lines of code.
pub const USUAL: usize = 8;

/// Lengths in a row at which the model is not surer than before, after which it is not asked about
/// longer, or shorter, ones (`dstep` in the published code).
const PATIENCE: usize = 2;

/// Tokens on each side of a hole that the trials see.
const SEEN: usize = 128;

/// What the trials see of a text, given whether holes are before and behind it.
fn seen(text: &[u32], (follows, precedes): (bool, bool)) -> Vec<u32> {
    let first = if follows { SEEN } else { 0 };
    let last = if precedes { SEEN } else { 0 };
    match text.len().checked_sub(first + last) {
        None => text.to_vec(),
        Some(_) => [&text[..first], &text[text.len() - last..]].concat(),
    }
}

/// Chooses the lengths that are open by the model's confidence, hole by hole from the left.
///
/// `goes_on` is told after each forward pass how many are done; once it says `false`, the best
/// lengths so far are taken.
///
/// # Errors
/// When the network fails, or yields infinities or NaN.
pub fn by_confidence<D: Denoiser>(
    model: &mut D,
    (texts, holes, seams): (&[Vec<u32>], &[Hole], &[Seam]),
    known: Known,
    goes_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Chosen, GenerateError<D::Error>> {
    let first = |hole: &Hole| match *hole {
        Hole::Chosen { up_to } => USUAL.min(up_to),
        other => other.first(),
    };
    let texts = texts.iter().enumerate();
    let texts = texts.map(|(i, text)| match known.reuses_context {
        true => text.clone(),
        false => seen(text, (i > 0, i < holes.len())),
    });
    let mut trials = Trials {
        model,
        texts: &texts.collect::<Vec<_>>(),
        seams,
        known,
        computed_for: None,
        predicted: Predicted::default(),
        chosen: Chosen {
            lengths: holes.iter().map(first).collect(),
            forwards: 0,
            rows: 0,
        },
    };
    for (number, hole) in holes.iter().enumerate() {
        let Hole::Chosen { up_to } = *hole else {
            continue;
        };
        let (length, is_on) = trials.climb(number, up_to, goes_on)?;
        trials.set_length(number, length);
        if !is_on {
            break;
        }
    }
    Ok(trials.chosen)
}

/// Passes over a canvas whose holes change their lengths.
struct Trials<'a, D> {
    model: &'a mut D,
    texts: &'a [Vec<u32>],
    seams: &'a [Seam],
    known: Known,
    /// The hole for which everything round it was computed last.
    computed_for: Option<usize>,
    predicted: Predicted,
    chosen: Chosen,
}

impl<D: Denoiser> Trials<'_, D> {
    /// Looks for the best length of a hole, upwards first, then downwards; and whether the search
    /// goes on.
    fn climb(
        &mut self,
        number: usize,
        up_to: usize,
        goes_on: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(usize, bool), GenerateError<D::Error>> {
        let start = self.chosen.lengths[number];
        let mut best = (self.score(number, start)?, start);
        let mut is_on = goes_on(self.chosen.forwards);
        for step in [1, -1] {
            let (mut length, mut misses) = (start, 0);
            while is_on && misses < PATIENCE {
                length = length.saturating_add_signed(step);
                if length == 0 || length > up_to {
                    break;
                }
                let score = self.score(number, length)?;
                is_on = goes_on(self.chosen.forwards);
                misses += 1;
                if score > best.0 {
                    (best, misses) = ((score, length), 0);
                }
            }
        }
        Ok((best.1, is_on))
    }

    /// Makes a hole so long; what was computed behind it moves. `false` if nothing was that can.
    fn set_length(&mut self, number: usize, length: usize) -> bool {
        let before = std::mem::replace(&mut self.chosen.lengths[number], length);
        let texts = self.texts[..=number].iter().map(Vec::len).sum::<usize>();
        let end = texts + self.chosen.lengths[..number].iter().sum::<usize>() + before;
        self.computed_for == Some(number)
            && self
                .model
                .move_cached(end, length as isize - before as isize)
    }

    /// The mean of the largest probabilities at the masks of a hole of this length, against what it
    /// is usually.
    fn score(&mut self, number: usize, length: usize) -> Result<f64, GenerateError<D::Error>> {
        let is_computed = self.set_length(number, length);
        self.computed_for = Some(number);
        let Known {
            mask_id,
            tokens,
            bias,
            reuses_context,
            isa,
        } = self.known;
        let canvas = canvas(self.texts, &self.chosen.lengths, mask_id);
        let all: Vec<usize> = (0..canvas.ids().len()).collect();
        let masks: Vec<usize> = canvas.holes()[number].clone().collect();
        let refresh = if is_computed {
            masks.clone()
        } else if reuses_context && self.model.attention() == Attention::Full {
            let kept = Kept::of(self.model, &canvas, Attention::Full);
            let anew = all.iter().filter(|&&at| !kept.contains(at));
            anew.copied().collect()
        } else {
            all.clone()
        };
        let mut model = Seamed::new(self.model, &canvas, self.seams);
        let pass = Pass {
            ids: canvas.ids(),
            positions: &all,
            refresh: &refresh,
            predict: &masks,
            attention: model.attention(),
        };
        let asked = Asked::greedy(tokens, mask_id, length, isa);
        let rows = model.forward_likely(&pass, Some(&asked), &mut self.predicted);
        self.chosen.rows += rows.map_err(GenerateError::Model)?;
        self.chosen.forwards += 1;
        self.predicted.check(masks.len())?;
        let largest = self.predicted.largest(&masks, &asked);
        let largest = largest.map_err(|position| GenerateError::NotFinite { position, step: 0 })?;
        let sum: f64 = largest.into_iter().map(f64::from).sum();
        Ok(sum / length as f64 / bias.at(length))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const MASK: u32 = 3;

    /// Sure of every mask in a run of `surest` of them, and less so in others.
    struct Scripted {
        surest: usize,
        can_move: bool,
        moved: Vec<(usize, isize)>,
        cached: Vec<Option<u32>>,
        refreshed: Vec<Vec<usize>>,
        attention: Attention,
        /// The position at which it yields NaN.
        broken: Option<usize>,
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
                if self.broken == Some(position) {
                    return [f32::NAN; 4];
                }
                let distance = run(position).abs_diff(self.surest) as f32;
                [9.0 / (1.0 + distance), 0.0, 0.0, 0.0]
            };
            *logits = pass.predict.iter().flat_map(row).collect();
            self.refreshed.push(pass.refresh.to_vec());
            Ok(pass.refresh.len())
        }

        fn cached_ids(&self, _attention: Attention) -> &[Option<u32>] {
            &self.cached
        }

        fn move_cached(&mut self, first: usize, by: isize) -> bool {
            self.moved.push((first, by));
            self.can_move
        }

        fn attention(&self) -> Attention {
            self.attention
        }
    }

    const OPEN: fn(usize) -> Hole = |up_to| Hole::Chosen { up_to };
    const FLAT: LengthBias = LengthBias {
        fast: [0.0; 2],
        slow: [0.0; 2],
        floor: 1.0,
    };

    fn scripted(surest: usize) -> Scripted {
        Scripted {
            surest,
            can_move: true,
            moved: Vec::new(),
            cached: Vec::new(),
            refreshed: Vec::new(),
            attention: Attention::Full,
            broken: None,
        }
    }

    fn known() -> Known {
        Known {
            mask_id: MASK,
            tokens: usize::MAX,
            bias: FLAT,
            reuses_context: false,
            isa: Isa::detect(),
        }
    }

    fn choose(
        model: &mut Scripted,
        text: &[u32],
        holes: &[Hole],
        bias: LengthBias,
        patience: usize,
    ) -> Chosen {
        let texts = vec![text.to_vec(); holes.len() + 1];
        let known = Known {
            bias,
            reuses_context: !model.cached.is_empty(),
            ..known()
        };
        let mut goes_on = |done| done < patience;
        by_confidence(model, (&texts, holes, &[]), known, &mut goes_on).unwrap()
    }

    /// Both texts are seen whole, so that the run behind the search finds them where they were.
    #[test]
    fn what_is_kept_of_the_texts_is_not_computed_again() {
        let text: Vec<u32> = (0..300).map(|at| at % 3).collect();
        let mut model = scripted(8);
        let before = [&text[..], &[4; 9], &text[..]].concat(); // with a hole of 9
        model.cached = before.into_iter().map(Some).collect();
        model.cached[290] = None;
        choose(&mut model, &text, &[OPEN(32)], FLAT, usize::MAX);
        assert_eq!(model.moved[0], (309, -1));
        assert_eq!(model.refreshed[0], (290..308).collect::<Vec<_>>());
        assert_eq!(model.refreshed[1].len(), 9, "then the masks alone");

        let mut model = scripted(8);
        choose(&mut model, &text, &[OPEN(32)], FLAT, usize::MAX);
        assert_eq!(model.refreshed[0].len(), SEEN + 8 + SEEN);
    }

    /// What it has of an earlier run is of no use to who did not ask for it, and in a network whose
    /// positions do not see what follows their block.
    #[test]
    fn what_must_not_be_reused_is_computed() {
        for (reuses_context, attention) in
            [(false, Attention::Full), (true, Attention::BlockCausal(4))]
        {
            let mut model = Scripted {
                cached: [1, 2, 4, 4, 1, 2].map(Some).to_vec(),
                attention,
                ..scripted(8)
            };
            let known = Known {
                reuses_context,
                ..known()
            };
            let texts = [vec![1, 2], vec![1, 2]];
            by_confidence(&mut model, (&texts, &[OPEN(9)], &[]), known, &mut |_| true).unwrap();
            assert_eq!(model.refreshed[0].len(), 2 + USUAL + 2, "{attention:?}");
        }
    }

    #[test]
    fn a_network_that_yields_no_number_is_an_error() {
        let mut model = scripted(8);
        model.broken = Some(4);
        let texts = [vec![1, 2], vec![1, 2]];
        let found = by_confidence(&mut model, (&texts, &[OPEN(9)], &[]), known(), &mut |_| {
            true
        });
        let Err(GenerateError::NotFinite { position, step }) = found else {
            panic!("{found:?}");
        };
        assert_eq!((position, step), (4, 0));
    }

    #[test]
    fn the_surest_length_is_taken_for_each_open_hole() {
        let choose_all = |surest, holes: &[Hole]| {
            choose(&mut scripted(surest), &[1, 2], holes, FLAT, usize::MAX)
        };
        let chosen = choose_all(12, &[OPEN(32), Hole::Exactly(2), OPEN(32)]);
        assert_eq!(chosen.lengths, [12, 2, 12]);
        assert_eq!(chosen.forwards, 2 * (1 + 6 + 2), "8, up to 14, down to 6");
        assert_eq!(choose_all(3, &[OPEN(32)]).lengths, [3]);
        assert_eq!(choose_all(12, &[OPEN(9)]).lengths, [9]);
        assert_eq!(choose_all(1, &[OPEN(2)]).lengths, [1]);
        let one = Hole::Growing { up_to: 40 };
        assert_eq!(choose_all(12, &[OPEN(32), one]).lengths, [12, 1]);
        let given = choose_all(12, &[Hole::Exactly(1), Hole::Exactly(40)]);
        assert_eq!((given.lengths, given.forwards), (vec![1, 40], 0));
    }

    #[test]
    fn where_no_length_is_surer_it_stays_the_usual_one() {
        let chosen = choose(
            &mut scripted(usize::MAX),
            &[1, 2],
            &[OPEN(32)],
            FLAT,
            usize::MAX,
        );
        assert_eq!((chosen.lengths, chosen.forwards), (vec![USUAL], 1 + 2 + 2));
    }

    /// At 10 tokens it is surer than at any other length, and less than is usual for 10.
    #[test]
    fn confidence_counts_against_what_is_usual() {
        let steep = LengthBias {
            fast: [0.0; 2],
            slow: [2.0, -0.5],
            floor: 0.0,
        };
        let chosen = |bias| choose(&mut scripted(10), &[1, 2], &[OPEN(32)], bias, usize::MAX);
        assert_eq!(chosen(FLAT).lengths, [10]);
        assert_eq!(chosen(steep).lengths, [1]);
    }

    #[test]
    fn what_stands_round_a_hole_is_near_and_computed_once() {
        let text: Vec<u32> = (0..300).map(|id| id + 10).collect();
        assert_eq!(seen(&text, (false, true)), text[172..]);
        assert_eq!(seen(&text, (true, false)), text[..128]);
        assert_eq!(
            seen(&text, (true, true)),
            [&text[..128], &text[172..]].concat()
        );
        assert_eq!(seen(&text[..256], (true, true)), text[..256]);
        let mut model = scripted(9);
        let chosen = choose(&mut model, &text, &[OPEN(12)], FLAT, usize::MAX);
        assert_eq!(chosen.lengths, [9]);
        assert_eq!(chosen.rows, 256 + 8 + (9 + 10 + 11) + (7 + 6));
        let end = |length: usize| 128 + length;
        let moves = [(end(8), 1), (end(9), 1), (end(10), 1), (end(11), -4)];
        assert_eq!(model.moved[..4], moves);
        let mut second = scripted(9);
        let holes = [Hole::Exactly(5), OPEN(12)];
        choose(&mut second, &[1, 2], &holes, FLAT, usize::MAX);
        assert_eq!(second.moved[0], (2 + 5 + 2 + 8, 1), "behind both holes");
        let mut fixed = Scripted {
            can_move: false,
            ..scripted(9)
        };
        let chosen = choose(&mut fixed, &text, &[OPEN(12)], FLAT, usize::MAX);
        assert_eq!(chosen.rows, 6 * 256 + (8 + 9 + 10 + 11 + 7 + 6));
    }

    #[test]
    fn out_of_patience_the_best_so_far_is_taken() {
        let chosen = choose(&mut scripted(12), &[1, 2], &[OPEN(32), OPEN(32)], FLAT, 3);
        assert_eq!((chosen.lengths, chosen.forwards), (vec![10, 8], 3));
    }
}
