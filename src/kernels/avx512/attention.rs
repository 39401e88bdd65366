//! Attention of 16 numbers an instruction, two panels of keys or lines of values at a time.

use super::super::attention::{AttentionLoops, BLOCK_PANELS};
use super::super::packed::PANEL;
use super::super::portable::Lanes;
use super::{load_sums, store};
use std::arch::x86_64::*;

/// The loops of attention. The compiler's own, with registers as wide as these, gather numbers from
/// everywhere and are ten times as slow.
pub(in super::super) struct Loops;

impl AttentionLoops for Loops {
    #[inline(always)]
    fn scores<const Q: usize>(
        queries: &[&[f32]; Q],
        keys: &[Lanes],
        scores: &mut [[Lanes; BLOCK_PANELS]; Q],
    ) {
        let e = queries[0].len();
        let (pairs, last) = keys.split_at(keys.len() - keys.len() % (2 * e));
        for (i, pair) in pairs.chunks_exact(2 * e).enumerate() {
            let (first, second) = pair.split_at(e);
            // SAFETY: only an `Isa` with these registers has these loops.
            unsafe { score_panels(queries, [first, second], 2 * i, scores) };
        }
        if !last.is_empty() {
            // SAFETY: as above.
            unsafe { score_panels(queries, [last], pairs.len() / e, scores) };
        }
    }

    #[inline(always)]
    fn add_values<const Q: usize>(
        values: &[Lanes],
        count: usize,
        weights: &[[Lanes; BLOCK_PANELS]; Q],
        out: &mut [f32],
    ) {
        let lines = values.len() / (BLOCK_PANELS * PANEL);
        for first in (0..lines).step_by(2) {
            match first + 1 < lines {
                // SAFETY: only an `Isa` with these registers has these loops.
                true => unsafe { add_lines::<Q, 2>(values, count, weights, first, out) },
                // SAFETY: as above.
                false => unsafe { add_lines::<Q, 1>(values, count, weights, first, out) },
            }
        }
    }
}

/// Adds the products of each line's registers and each query's numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products<const Q: usize, const L: usize>(
    lines: [&[Lanes]; L],
    queries: &[&[f32]; Q],
    mut sums: [[__m512; L]; Q],
) -> [[__m512; L]; Q] {
    let count = queries[0].len();
    let queries: [&[f32]; Q] = std::array::from_fn(|q| &queries[q][..count]);
    let lines: [&[Lanes]; L] = std::array::from_fn(|l| &lines[l][..count]);
    for i in 0..count {
        let mut values = [_mm512_setzero_ps(); L];
        for l in 0..L {
            values[l] = load_sums(&lines[l][i]);
        }
        for q in 0..Q {
            let number = _mm512_set1_ps(queries[q][i]);
            for l in 0..L {
                sums[q][l] = _mm512_fmadd_ps(values[l], number, sums[q][l]);
            }
        }
    }
    sums
}

/// The scores of `P` panels of keys, from panel `first` of the block on.
#[target_feature(enable = "avx512f")]
fn score_panels<const Q: usize, const P: usize>(
    queries: &[&[f32]; Q],
    keys: [&[Lanes]; P],
    first: usize,
    scores: &mut [[Lanes; BLOCK_PANELS]; Q],
) {
    let zero = [[_mm512_setzero_ps(); P]; Q];
    let sums = add_products(keys, queries, zero);
    for q in 0..Q {
        for p in 0..P {
            store(&mut scores[q][first + p], sums[q][p]);
        }
    }
}

/// `L` lines of the values, from line `first` on.
#[target_feature(enable = "avx512f")]
fn add_lines<const Q: usize, const L: usize>(
    values: &[Lanes],
    count: usize,
    weights: &[[Lanes; BLOCK_PANELS]; Q],
    first: usize,
    out: &mut [f32],
) {
    const BLOCK: usize = BLOCK_PANELS * PANEL;
    let e = out.len() / Q;
    let lines: [&[Lanes]; L] = std::array::from_fn(|l| &values[(first + l) * BLOCK..][..count]);
    let at = |q: usize, l: usize| {
        let column = (first + l) * PANEL;
        q * e + column..q * e + e.min(column + PANEL)
    };
    let mut sums = [[_mm512_setzero_ps(); L]; Q];
    for q in 0..Q {
        for l in 0..L {
            let mut lanes = [0.0; PANEL];
            let out = &out[at(q, l)];
            lanes[..out.len()].copy_from_slice(out);
            sums[q][l] = load_sums(&lanes);
        }
    }
    let weights = std::array::from_fn(|q| &weights[q].as_flattened()[..count]);
    let sums = add_products(lines, &weights, sums);
    for q in 0..Q {
        for l in 0..L {
            let mut lanes = [0.0; PANEL];
            store(&mut lanes, sums[q][l]);
            let out = &mut out[at(q, l)];
            let count = out.len();
            out.copy_from_slice(&lanes[..count]);
        }
    }
}
