//! Attention of some queries to cached keys and values, one head at a time, and the cache itself.
//!
//! Keys lie in panels of 16 positions, so that a register holds the scores of 16 keys and nothing
//! is added up across lanes. Scores never leave the registers' neighbourhood: keys are taken in
//! blocks, with a running maximum and sum (online softmax; Milakov and Gimelshein, arXiv
//! 1805.02867; Dao et al., arXiv 2205.14135).

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::isa::{self, Isa, Portable};
use super::packed::LANES;
use super::portable::{Lanes, exp, sum};
use std::marker::PhantomData;

/// Keys of a block: their scores for a tile of queries stay in the first-level cache.
pub(super) const BLOCK_PANELS: usize = 8;
const BLOCK: usize = BLOCK_PANELS * LANES;

/// Keys and values of one layer at the positions of a canvas.
#[derive(Default)]
pub struct KeyValues {
    head_dim: usize,
    heads: Vec<HeadKeyValues>,
}

/// Keys and values of one head.
pub struct HeadKeyValues {
    head_dim: usize,    // E
    keys: Vec<Lanes>,   // [C / 16, E, 16]
    values: Vec<Lanes>, // [C / 128, ceil(E / 16), 128, 16]
}

impl KeyValues {
    /// No positions yet.
    pub fn new(heads: usize, head_dim: usize) -> Self {
        let head = || HeadKeyValues {
            head_dim,
            keys: Vec::new(),
            values: Vec::new(),
        };
        Self {
            head_dim,
            heads: (0..heads).map(|_| head()).collect(),
        }
    }

    /// Makes room for `positions`; what is there stays.
    pub fn reserve(&mut self, positions: usize) {
        let panels = positions.div_ceil(LANES);
        for head in &mut self.heads {
            if head.keys.len() < panels * self.head_dim {
                head.keys.resize(panels * self.head_dim, [0.0; LANES]);
                let lines = self.head_dim.div_ceil(LANES);
                let blocks = positions.div_ceil(BLOCK);
                head.values.resize(blocks * lines * BLOCK, [0.0; LANES]);
            }
        }
    }

    /// Numbers of a key, E.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Each head, to be written to and read from on different threads.
    pub fn heads_mut(&mut self) -> &mut [HeadKeyValues] {
        &mut self.heads
    }

    /// Each head.
    pub fn heads(&self) -> &[HeadKeyValues] {
        &self.heads
    }
}

impl HeadKeyValues {
    /// Puts the key and the value of a position, each `[E]`, in their place.
    ///
    /// # Panics
    /// If there is no room for the position, or the lengths differ from the head's.
    pub fn set(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let e = self.head_dim;
        assert!(
            key.len() == e && value.len() == e,
            "not of this head's size"
        );
        let panel = &mut self.keys[position / LANES * e..][..e];
        for (line, key) in panel.iter_mut().zip(key) {
            line[position % LANES] = *key;
        }
        let first = self.first_line(position);
        let lines = self.values[first..].iter_mut().step_by(BLOCK);
        for (line, value) in lines.zip(value.chunks(LANES)) {
            line[..value.len()].copy_from_slice(value);
        }
    }

    /// The key and the value of a position, each `[E]`, as they were put there.
    ///
    /// # Panics
    /// As [`Self::set`].
    pub fn get(&self, position: usize, key: &mut [f32], value: &mut [f32]) {
        let e = self.head_dim;
        let panel = &self.keys[position / LANES * e..][..e];
        for (line, key) in panel.iter().zip(key) {
            *key = line[position % LANES];
        }
        let lines = self.values[self.first_line(position)..]
            .iter()
            .step_by(BLOCK);
        for (line, value) in lines.zip(value.chunks_mut(LANES)) {
            value.copy_from_slice(&line[..value.len()]);
        }
    }

    /// Numbers of a key, E.
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// 16 keys, `[E, 16]`.
    pub(super) fn keys(&self, panel: usize) -> &[Lanes] {
        &self.keys[panel * self.head_dim..][..self.head_dim]
    }

    /// 16 numbers of `count` values of a block from position `first` on, `[count, 16]`.
    pub(super) fn values(&self, first: usize, line: usize, count: usize) -> &[Lanes] {
        &self.values[self.first_line(first) + line * BLOCK..][..count]
    }

    /// Where the value of a position begins. Its lines are a block apart, so that what is added up
    /// together lies side by side.
    fn first_line(&self, position: usize) -> usize {
        position / BLOCK * BLOCK * self.head_dim.div_ceil(LANES) + position % BLOCK
    }

    /// The weighted values of each query, `softmax(q · kᵀ) · v` over the positions `0..len`.
    /// Queries are scaled already; `queries` and `out` are `[queries, E]`.
    ///
    /// # Panics
    /// If fewer than `len` positions are there, `len` is 0, or the lengths do not match.
    pub fn attend(&self, isa: Isa, len: usize, queries: &[f32], out: &mut [f32]) {
        let e = self.head_dim;
        assert!(
            len > 0 && len.div_ceil(LANES) * e <= self.keys.len(),
            "no such positions"
        );
        assert!(
            queries.len() == out.len() && out.len().is_multiple_of(e),
            "not whole queries"
        );
        let head = self;
        #[cfg(target_arch = "x86_64")]
        if isa.has_wide_registers() {
            let attend = Attend::<avx512::attention::Loops, 8> {
                head,
                len,
                queries,
                out,
                loops: PhantomData,
            };
            return isa::run(isa, attend);
        }
        // As many sums as fit the registers beside a key: with one more, AVX2 is half as fast.
        let attend = Attend::<Plain, 6> {
            head,
            len,
            queries,
            out,
            loops: PhantomData,
        };
        isa::run(isa, attend);
    }
}

/// The two products of a block of keys and values with `Q` queries.
pub(super) trait AttentionLoops {
    /// `q · kᵀ` of keys, `[panels, E, 16]`.
    fn scores<const Q: usize>(
        queries: &[&[f32]; Q],
        keys: &[Lanes],
        scores: &mut [[Lanes; BLOCK_PANELS]; Q],
    );

    /// Adds the weighted `values`, `[lines, 128, 16]`, at their first `count` positions to each
    /// query's output, `[Q, E]`.
    fn add_values<const Q: usize>(
        values: &[Lanes],
        count: usize,
        weights: &[[Lanes; BLOCK_PANELS]; Q],
        out: &mut [f32],
    );
}

/// `TILE` queries share each load of a key or value.
struct Attend<'a, L, const TILE: usize> {
    head: &'a HeadKeyValues,
    len: usize,
    queries: &'a [f32],
    out: &'a mut [f32],
    loops: PhantomData<L>,
}

impl<L: AttentionLoops, const TILE: usize> Portable for Attend<'_, L, TILE> {
    #[inline(always)]
    fn run(self) {
        let Self {
            head,
            len,
            queries,
            out,
            ..
        } = self;
        let whole = queries.len() - queries.len() % (TILE * head.head_dim);
        let (tiles, rest) = queries.split_at(whole);
        let (tiles_out, rest_out) = out.split_at_mut(whole);
        attend_tiles::<L, TILE>(head, len, tiles, tiles_out);
        attend_tiles::<L, 1>(head, len, rest, rest_out);
    }
}

/// `Q` queries at a time; `queries` and `out` are `[tiles, Q, E]`.
#[inline(always)]
fn attend_tiles<L: AttentionLoops, const Q: usize>(
    head: &HeadKeyValues,
    len: usize,
    queries: &[f32],
    out: &mut [f32],
) {
    let e = head.head_dim;
    let tiles = queries.chunks_exact(Q * e);
    for (queries, out) in tiles.zip(out.chunks_exact_mut(Q * e)) {
        tile::<L, Q>(head, len, queries, out);
    }
}

/// One tile: `queries` and `out` are `[Q, E]`.
#[inline(always)]
fn tile<L: AttentionLoops, const Q: usize>(
    head: &HeadKeyValues,
    len: usize,
    queries: &[f32],
    out: &mut [f32],
) {
    let e = head.head_dim;
    let queries: [&[f32]; Q] = std::array::from_fn(|q| &queries[q * e..][..e]);
    out.fill(0.0);
    let (mut largest, mut total) = ([f32::NEG_INFINITY; Q], [0.0f32; Q]);
    let mut weights = [[[0.0; LANES]; BLOCK_PANELS]; Q];
    for first in (0..len).step_by(BLOCK) {
        let count = (len - first).min(BLOCK);
        let keys = &head.keys[first / LANES * e..][..count.div_ceil(LANES) * e];
        L::scores(&queries, keys, &mut weights);
        for q in 0..Q {
            let weights = &mut weights[q];
            weights.as_flattened_mut()[count..].fill(f32::NEG_INFINITY);
            let mut most = [largest[q]; LANES];
            for scores in weights.iter() {
                for (most, score) in most.iter_mut().zip(scores) {
                    *most = if *score > *most { *score } else { *most };
                }
            }
            let most = most.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            let rescale = exp(largest[q] - most);
            for weight in weights.as_flattened_mut() {
                *weight = exp(*weight - most);
            }
            let mut sums = [0.0; LANES];
            for weights in weights.iter() {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += *weight;
                }
            }
            total[q] = total[q].mul_add(rescale, sum(sums));
            largest[q] = most;
            if rescale != 1.0 {
                for out in &mut out[q * e..][..e] {
                    *out *= rescale;
                }
            }
        }
        let lines = e.div_ceil(LANES);
        let values = &head.values[first * lines..][..lines * BLOCK];
        L::add_values(values, count, &weights, out);
    }
    for (out, total) in out.chunks_exact_mut(e).zip(total) {
        for out in out {
            *out /= total;
        }
    }
}

/// Plain Rust.
struct Plain;

impl AttentionLoops for Plain {
    #[inline(always)]
    fn scores<const Q: usize>(
        queries: &[&[f32]; Q],
        keys: &[Lanes],
        scores: &mut [[Lanes; BLOCK_PANELS]; Q],
    ) {
        let e = queries[0].len();
        for (panel, keys) in keys.chunks_exact(e).enumerate() {
            let mut sums = [[0.0f32; LANES]; Q];
            for (i, keys) in keys.iter().enumerate() {
                for q in 0..Q {
                    let query = queries[q][i];
                    for (sum, key) in sums[q].iter_mut().zip(keys) {
                        *sum = key.mul_add(query, *sum);
                    }
                }
            }
            for q in 0..Q {
                scores[q][panel] = sums[q];
            }
        }
    }

    #[inline(always)]
    fn add_values<const Q: usize>(
        values: &[Lanes],
        count: usize,
        weights: &[[Lanes; BLOCK_PANELS]; Q],
        out: &mut [f32],
    ) {
        let e = out.len() / Q;
        for (line, values) in values.chunks_exact(BLOCK).enumerate() {
            let at = line * LANES;
            let width = (e - at).min(LANES);
            let mut sums = [[0.0f32; LANES]; Q];
            for q in 0..Q {
                sums[q][..width].copy_from_slice(&out[q * e + at..][..width]);
            }
            for (i, values) in values.iter().take(count).enumerate() {
                let values = *values; // in registers for all queries
                for q in 0..Q {
                    // A block has no more positions; said so that nothing is checked here.
                    let weight = weights[q].as_flattened()[i % BLOCK];
                    for (sum, value) in sums[q].iter_mut().zip(values) {
                        *sum = value.mul_add(weight, *sum);
                    }
                }
            }
            for q in 0..Q {
                out[q * e + at..][..width].copy_from_slice(&sums[q][..width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{TileKeyValues, attend_tiles};
    use super::*;

    /// Head dimension, positions that are seen, and queries.
    const SIZES: [(usize, usize, usize); 6] = [
        (2, 1, 1),
        (16, 16, 8),
        (24, 130, 11),
        (64, 300, 17),
        (6, 40, 9),
        (48, 129, 35),
    ];

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i + seed) * 2_654_435_761 % 4001) as f32 / 1000.0 - 2.0;
        (0..count).map(number).collect()
    }

    /// The definition, in f64.
    fn expected(k: &[f32], v: &[f32], q: &[f32], e: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        q.chunks(e)
            .flat_map(|q| {
                let scores: Vec<f64> = k.chunks(e).map(|k| dot(q, k)).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = weights.iter().sum();
                (0..e)
                    .map(|i| {
                        let values = v.chunks(e).map(|v| f64::from(v[i]));
                        weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / total
                    })
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Two heads, of which the second has these keys and values, and behind them what must not be
    /// seen.
    fn cached(k: &[f32], v: &[f32], e: usize) -> KeyValues {
        let len = k.len() / e;
        let mut cache = KeyValues::new(2, e);
        cache.reserve(len + 40);
        let head = &mut cache.heads_mut()[1];
        for position in len..len + 40 {
            head.set(position, &vec![9.0; e], &vec![1e9; e]);
        }
        for position in (0..len).rev() {
            let at = position * e;
            head.set(position, &k[at..at + e], &v[at..at + e]);
        }
        cache
    }

    #[test]
    fn attention_of_odd_sizes_on_every_instruction_set() {
        for (e, len, queries) in SIZES {
            let (k, v) = (numbers(len * e, 3), numbers(len * e, 11));
            let q = numbers(queries * e, 5);
            let cache = cached(&k, &v, e);
            let expected = expected(&k, &v, &q, e);
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; q.len()];
                cache.heads()[1].attend(isa, len, &q, &mut out);
                for (found, expected) in out.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 3e-5, "{isa} {e} {len}: {found} {expected}");
                }
                assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{isa}");
            }
        }
    }

    /// Numbers are rounded to bf16, and so are the weights of the values, each by less than 2^-8 of
    /// it. That the bits are those of the model of the tiles shows what the machine's own do.
    #[test]
    fn attention_in_tiles_is_that_of_rounded_numbers() {
        for (e, len, queries) in SIZES {
            let half = |x: &f32| half::bf16::from_f32(*x).to_f32();
            let (k, v) = (numbers(len * e, 3), numbers(len * e, 11));
            let q = numbers(queries * e, 5);
            let cache = cached(&k, &v, e);
            let head = &cache.heads()[1];
            let [k, v, rounded] = [&k, &v, &q].map(|x| x.iter().map(half).collect::<Vec<f32>>());
            let expected = expected(&k, &v, &rounded, e);
            let mut first: Option<Vec<f32>> = None;
            for isa in [Isa::SCALAR, Isa::detect()] {
                // As many positions as are seen, or more; queries all together, or each by itself.
                for (there, each) in [(len, queries), (len + 40, queries), (len, 1)] {
                    let mut tiles = TileKeyValues::default();
                    tiles.fill(isa, &cache.heads()[0], len + 40); // what was there is forgotten
                    tiles.fill(isa, head, there);
                    let mut out = vec![f32::NAN; q.len()];
                    for (q, out) in q.chunks(each * e).zip(out.chunks_mut(each * e)) {
                        attend_tiles(isa, &tiles, len, q, out);
                    }
                    for (found, expected) in out.iter().zip(&expected) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error < 2.0 / 256.0, "{isa} {e} {len}: {found} {expected}");
                    }
                    assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{isa} {e}");
                }
            }
        }
    }

    #[test]
    fn scores_far_apart_do_not_overflow() {
        let mut cache = KeyValues::new(1, 2);
        cache.reserve(200);
        for position in 0..200 {
            let score = if position == 150 { 1e4 } else { -1e4 };
            cache.heads_mut()[0].set(position, &[score, 0.0], &[position as f32, 1.0]);
        }
        let (mut out, isa) = ([0.0; 2], Isa::detect());
        cache.heads()[0].attend(isa, 200, &[1.0, 0.0], &mut out);
        assert_eq!(out, [150.0, 1.0]);
        let mut tiles = TileKeyValues::default();
        tiles.fill(isa, &cache.heads()[0], 200);
        attend_tiles(isa, &tiles, 200, &[1.0, 0.0], &mut out);
        assert_eq!(out, [150.0, 1.0]);
    }
}
