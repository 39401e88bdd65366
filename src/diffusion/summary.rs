//! What the sampler needs of a row of logits that stays where it was computed: sums over all of the
//! vocabulary, and the few tokens that can be chosen.
//!
//! A row of 152,064 logits is 0.3 to 0.6 MB. From a GPU to the host and through the sampler it
//! takes longer than the network took for it, and what decides is some dozens of its numbers. The
//! kernel for CUDA, `model/card/kernels.cu`, is the algorithm of [`Summary::of`] with a block of
//! threads for each row.

use rayon::prelude::*;

use super::sampling::{Shaping, surest};
use super::{Canvas, GenerateError, Rule, Settings};
use crate::kernels::{Isa, negative_entropy, normalize, softmax_terms};

/// Most tokens that a summary lists.
pub const MOST_LISTED: usize = 1024;

/// Tokens are listed down to a bound, which is one of so many steps below the largest logit.
const STEPS: usize = 256;

/// Steps in a difference of 1 of logits.
const STEPS_PER_UNIT: f32 = 16.0;

/// What the sampler asks about the positions of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// How tokens are chosen.
    pub shaping: Shaping,
    /// Another temperature, at which nothing is filtered, for how sure the model is.
    pub beside: Option<f32>,
    /// Whether the order of the reveals goes by that, too.
    pub orders_beside: bool,
    /// Ids that can be chosen are below it.
    pub tokens: usize,
    /// One of them that cannot.
    pub mask_id: u32,
    /// The token that each position cannot become. `[positions]`
    pub barred: Vec<Option<u32>>,
    /// Instructions to compute with.
    pub isa: Isa,
}

impl Asked {
    /// What a step asks about these positions; `None` if it needs all of their logits.
    pub(super) fn of(settings: &Settings, canvas: &Canvas, positions: &[usize]) -> Option<Self> {
        let decoding = &settings.decoding;
        let barred = positions.iter().map(|&position| canvas.barred(position));
        let asked = Self {
            shaping: settings.shaping,
            beside: decoding.beside(),
            orders_beside: decoding.order_temperature.is_some(),
            tokens: canvas.tokens(),
            mask_id: canvas.mask_id(),
            barred: barred.collect(),
            isa: settings.isa,
        };
        let [divisor, beside] = asked.divisors();
        let filters = asked.shaping.filters();
        let draws_from_all = settings.shaping.temperature > 0.0 && !filters;
        let orders_otherwise = divisor != beside && !asked.orders_beside && !filters;
        let compares_all = decoding.threshold.is_some() && decoding.rule == Rule::Klass;
        (!draws_from_all && !orders_otherwise && !compares_all).then_some(asked)
    }

    /// How probable the most probable tokens are at so many positions; ids from `tokens` on, and
    /// the mask, cannot be chosen.
    pub fn greedy(tokens: usize, mask_id: u32, positions: usize, isa: Isa) -> Self {
        Self {
            shaping: Shaping::temperature(0.0),
            beside: None,
            orders_beside: false,
            tokens,
            mask_id,
            barred: vec![None; positions],
            isa,
        }
    }

    fn can_be(&self, token: u32) -> bool {
        token != self.mask_id && (token as usize) < self.tokens
    }

    /// What logits are divided by: for the choice, and for how sure the model is of it.
    pub fn divisors(&self) -> [f32; 2] {
        let beside = self.beside.map(Shaping::temperature);
        [self.shaping, beside.unwrap_or(self.shaping)].map(|shaping| shaping.divisor())
    }
}

/// What a pass predicts.
#[derive(Debug, Clone, Default)]
pub struct Predicted {
    /// Logits of the positions in their order, unshaped; of those that have none in `likely`, if
    /// there is anything in it. `[positions, V]`, row-major.
    pub logits: Vec<f32>,
    /// What is likely at each position, if the network summarizes its logits. `[positions]`
    pub likely: Vec<Option<Likely>>,
}

impl Predicted {
    /// Whether each of so many positions has a row, all of one length.
    ///
    /// # Errors
    /// [`GenerateError::Misshapen`].
    pub(crate) fn check<E>(&self, positions: usize) -> Result<(), GenerateError<E>>
    where
        E: std::error::Error + 'static,
    {
        let logits = self.logits.len();
        let positions = positions.saturating_sub(self.likely.iter().flatten().count());
        match logits.checked_rem(positions) {
            Some(0) if logits > 0 => Ok(()),
            None => Ok(()),
            Some(_) => Err(GenerateError::Misshapen { logits, positions }),
        }
    }

    /// Of these positions the largest probability of a token that can be chosen.
    ///
    /// # Errors
    /// The first position with a logit that is not finite.
    pub(crate) fn largest(
        &mut self,
        positions: &[usize],
        asked: &Asked,
    ) -> Result<Vec<f32>, usize> {
        let largest = |(row, &position): (Row<'_>, &usize)| match row {
            Row::Likely(Likely { tokens, probs, .. }) => {
                Ok(probs[surest(probs, |at| asked.can_be(tokens[at]))])
            }
            Row::Logits(row) => {
                asked.shaping.apply(asked.isa, row).ok_or(position)?;
                Ok(row[surest(row, |token| asked.can_be(token as u32))])
            }
        };
        let rows = self.rows(positions.len()).into_par_iter();
        rows.zip(positions).map(largest).collect()
    }

    /// What each position has, in their order.
    pub(super) fn rows(&mut self, positions: usize) -> Vec<Row<'_>> {
        let whole = positions - self.likely.iter().flatten().count();
        let vocab_size = self.logits.len() / whole.max(1);
        let mut logits = self.logits.chunks_mut(vocab_size.max(1));
        let mut likely = self.likely.iter();
        let row = |_| match likely.next() {
            Some(Some(likely)) => Some(Row::Likely(likely)),
            _ => logits.next().map(Row::Logits),
        };
        (0..positions).filter_map(row).collect()
    }
}

/// What is predicted of a position.
pub(super) enum Row<'a> {
    Logits(&'a mut [f32]),
    Likely(&'a Likely),
}

/// The tokens that can be chosen at a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Likely {
    /// Their ids, ascending.
    pub tokens: Vec<u32>,
    /// Their shaped probabilities; 0 of those that are filtered out.
    pub probs: Vec<f32>,
    /// Their probabilities with nothing filtered, if another temperature was asked for.
    pub beside: Option<Vec<f32>>,
    /// What the terms of all these come to, with 1 for the largest, if the order goes by them.
    pub terms: Option<f64>,
    /// Negative entropy of all tokens, of the probabilities that the order goes by.
    pub negative_entropy: f32,
}

/// A row of logits in short.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The sum of `e^((x - largest) / divisor)` over all tokens, for each divisor.
    pub sums: [f64; 2],
    /// Negative entropy of the probabilities that the second of them makes of the logits.
    pub negative_entropy: f32,
    /// The tokens with the largest logits, ascending by id.
    pub tokens: Vec<u32>,
    /// Their logits.
    pub logits: Vec<f32>,
    /// No logit that is not listed is larger.
    pub bound: f32,
}

impl Summary {
    /// Of a row, without the token that is barred; `None` if a logit is not finite, or nothing is
    /// left.
    pub fn of(row: &[f32], barred: Option<u32>, divisors: [f32; 2]) -> Option<Self> {
        let all = || {
            let all = (0u32..).zip(row.iter().copied());
            all.filter(|&(token, _)| Some(token) != barred)
        };
        let largest = all().map(|(_, logit)| logit).reduce(f32::max)?;
        if row.iter().any(|logit| !logit.is_finite()) {
            return None;
        }
        let steps_down = |logit: f32| ((largest - logit) * STEPS_PER_UNIT) as usize;
        let mut counts = [0; STEPS];
        for (_, logit) in all() {
            if let Some(count) = counts.get_mut(steps_down(logit)) {
                *count += 1;
            }
        }
        let listed = counts.iter().scan(0, |listed, count| {
            *listed += count;
            Some(*listed)
        });
        let steps = listed.take_while(|&listed| listed <= MOST_LISTED).count();

        let term = |logit: f32, divisor: f32| ((logit - largest) / divisor).exp();
        let terms = |divisor| all().map(move |(_, logit)| term(logit, divisor));
        let sums = divisors.map(|divisor| terms(divisor).map(f64::from).sum::<f64>());
        let [_, (divisor, sum)] = [0, 1].map(|i| (divisors[i], sums[i] as f32));
        let surprise = |term: f32| f64::from(term / sum * (term / sum + 1e-10).ln());
        let negative_entropy: f64 = terms(divisor).map(surprise).sum();
        let listed = all().filter(|&(_, logit)| steps_down(logit) < steps);
        let (tokens, logits): (Vec<u32>, Vec<f32>) = listed.unzip();
        Some(Self {
            sums,
            negative_entropy: negative_entropy as f32,
            tokens,
            logits,
            bound: Self::bound(largest, steps),
        })
    }

    /// What no logit exceeds that is so many steps below the largest.
    pub(crate) fn bound(largest: f32, steps: usize) -> f32 {
        largest - steps as f32 / STEPS_PER_UNIT
    }

    /// What can be chosen; `None` if it cannot be told from what is listed.
    pub fn likely(&self, asked: &Asked) -> Option<Likely> {
        let Asked { shaping, isa, .. } = *asked;
        let [sum, sum_beside] = self.sums;
        // The margin is one between two.
        if self.logits.len() < 2 {
            return None;
        }
        let mut probs = self.logits.clone();
        probs.push(self.bound);
        softmax_terms(isa, &mut probs, shaping.divisor())?;
        let bound = probs.pop()?;
        let kept = shaping.filter(&mut probs, sum, 0.0);
        let is_kept = |term: f32| term > 0.0 && term >= kept.least;
        let can_be =
            |(&token, &term): (&u32, &f32)| is_kept(term) && term > bound && asked.can_be(token);
        let filters = shaping.filters();
        // Large temperatures make equals of logits that are not: some of them may not be listed.
        if !kept.is_within
            || filters && probs.iter().any(|&term| is_kept(term) && term <= bound)
            || !self.tokens.iter().zip(&probs).any(can_be)
        {
            return None;
        }
        normalize(isa, &mut probs, kept.least, kept.sum as f32);
        let beside = asked.beside.map(|temperature| {
            let mut probs = self.logits.clone();
            softmax_terms(isa, &mut probs, Shaping::temperature(temperature).divisor());
            normalize(isa, &mut probs, 0.0, sum_beside as f32);
            probs
        });
        let negative_entropy = match filters && !asked.orders_beside {
            true => negative_entropy(isa, &probs) as f32,
            false => self.negative_entropy,
        };
        Some(Likely {
            tokens: self.tokens.clone(),
            probs,
            beside,
            terms: asked.orders_beside.then_some(sum_beside),
            negative_entropy,
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::super::sampling::Filtering;
    use super::*;

    fn asked(shaping: Shaping) -> Asked {
        Asked {
            shaping,
            ..Asked::greedy(5000, 4999, 1, Isa::detect())
        }
    }

    #[test]
    fn a_row_by_hand() {
        let row = [0.0, 2.0, 9.0, 1.0, -20.0];
        let summary = Summary::of(&row, Some(2), [1.0, 0.5]).unwrap();
        let e = 1f64.exp();
        for (found, expected) in [
            (summary.sums[0], 1.0 + 1.0 / e + 1.0 / (e * e)),
            (summary.sums[1], 1.0 + 1.0 / (e * e) + 1.0 / (e * e * e * e)),
            (summary.bound.into(), 2.0 - 16.0),
            (summary.negative_entropy.into(), -0.441_057),
        ] {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
        assert_eq!(
            (&*summary.tokens, &*summary.logits),
            (&[0, 1, 3][..], &[0.0, 2.0, 1.0][..])
        );
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Summary::of(&[0.0, bad], None, [1.0; 2]), None);
            assert_eq!(Summary::of(&[0.0, bad], Some(1), [1.0; 2]), None);
        }
        assert_eq!(Summary::of(&[1.0], Some(0), [1.0; 2]), None);
    }

    /// 1,024 tokens fit into the list; one more at the same step, and none of that step is in it.
    #[test]
    fn steps_are_listed_whole() {
        let listed = |alike: usize| {
            let mut row = vec![-30.0; 5000];
            row[7] = 1.0;
            row[100..100 + alike].fill(0.5);
            let summary = Summary::of(&row, None, [1.0; 2]).unwrap();
            (summary.tokens.len(), summary.bound)
        };
        assert_eq!(listed(1023), (1024, -15.0));
        assert_eq!(listed(1024), (1, 0.5));
        let flat = Summary::of(&[0.0; 1025], None, [1.0; 2]).unwrap();
        assert!(flat.tokens.is_empty());
    }

    #[test]
    fn what_the_list_does_not_say_is_not_guessed() {
        // Ten tokens of 17 % of the mass together, and a tail that is not listed.
        let mut row: Vec<f32> = (0..5000).map(|i| -0.001 * (i % 50) as f32).collect();
        row[..10].fill(4.6);
        let likely =
            |shaping| Summary::of(&row, None, asked(shaping).divisors())?.likely(&asked(shaping));
        let kept =
            |likely: Option<Likely>| likely.map(|l| l.probs.iter().filter(|&&p| p > 0.0).count());
        let shaping = |temperature, top_p, top_k| Shaping {
            temperature,
            top_p,
            top_k,
            filtering: Filtering::MassFirst,
        };
        assert_eq!(kept(likely(shaping(1.0, Some(0.1), None))), Some(6));
        assert_eq!(
            kept(likely(shaping(1.0, Some(0.9), None))),
            None,
            "a nucleus of the tail"
        );
        assert_eq!(
            kept(likely(shaping(1.0, None, Some(9)))),
            Some(10),
            "all that are alike"
        );
        assert_eq!(kept(likely(shaping(1.0, None, Some(10)))), None);
        // So hot that those that are not listed are as good.
        assert_eq!(kept(likely(shaping(1e9, None, Some(9)))), None);
        assert_eq!(kept(likely(shaping(0.0, None, None))), Some(10));
        // All that is listed is the mask, or no token.
        let mut one = vec![-30.0; 5000];
        one[4999] = 1.0;
        one[6] = 0.99;
        let greedy = asked(Shaping::temperature(0.0));
        let likely_with = |asked: &Asked| Summary::of(&one, None, [1.0; 2])?.likely(asked);
        assert!(likely_with(&greedy).is_some());
        assert_eq!(
            likely_with(&Asked {
                tokens: 6,
                ..greedy.clone()
            }),
            None
        );
        assert_eq!(likely_with(&asked(Shaping::nucleus(0.1, 0.3))), None);
    }

    /// The kernel is another text of the same algorithm, and what the driver gets was made of it.
    #[test]
    fn the_kernel_has_the_same_numbers() {
        let source = include_str!("../model/card/kernels.cu");
        for constant in [
            format!("unsigned MOST_LISTED = {MOST_LISTED};"),
            format!("unsigned STEPS = {STEPS};"),
            format!("float STEPS_PER_UNIT = {STEPS_PER_UNIT:.1}f;"),
        ] {
            assert!(source.contains(&constant), "{constant}");
        }
        let made_of: [u8; 32] = sha2::Sha256::digest(source.as_bytes()).into();
        let made_of: String = made_of.iter().map(|byte| format!("{byte:02x}")).collect();
        let kernel = include_str!("../model/card/kernels.ptx");
        let first_line = kernel.lines().next();
        assert_eq!(
            first_line,
            Some(&*format!("// kernels.cu, SHA-256 {made_of}"))
        );
    }
}
