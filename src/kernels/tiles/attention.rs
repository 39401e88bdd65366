//! Attention in tiles: queries, keys, weights and values in bf16, sums and softmax in f32.
//!
//! It is the algorithm of [`super::super::attention`], with its blocks of keys and its running
//! maximum, and the bits are as much the row's own: they depend neither on other rows nor on how
//! many are taken at a time. Of each 32 numbers that are added up the first and the 17th are a
//! pair, and so on: two registers become a row of pairs without moving a number.

use super::super::attention::{BLOCK_PANELS, HeadKeyValues};
use super::super::isa::{self, Isa, Portable};
use super::super::packed::LANES;
use super::super::portable::{Lanes, exp, sum};
use super::{ROWS, Sums, Tile, Tiles, pair};

/// Keys of a block.
const BLOCK: usize = BLOCK_PANELS * LANES;
/// Numbers that one instruction adds up.
const INPUTS: usize = 2 * LANES;
/// Tiles of keys of a block, where they are added up.
const KEY_TILES: usize = BLOCK / INPUTS;
/// Tiles of queries that share each load of a key or value.
const QUERY_TILES: usize = 2;

/// Keys and values of a head in bf16. Reuse one: it allocates only to grow.
#[derive(Default)]
pub struct TileKeyValues {
    head_dim: usize,   // E
    positions: usize,  // C
    keys: Vec<Tile>,   // [C / 16, ceil(E / 32)]
    values: Vec<Tile>, // [C / 128, ceil(E / 16), 4]
}

impl TileKeyValues {
    /// Takes the first `len` positions of a head.
    ///
    /// # Panics
    /// If they are not there.
    pub fn fill(&mut self, isa: Isa, head: &HeadKeyValues, len: usize) {
        let e = head.head_dim();
        (self.head_dim, self.positions) = (e, len);
        let blocks = len.div_ceil(BLOCK);
        let (inputs, columns) = (e.div_ceil(INPUTS), e.div_ceil(LANES));
        self.keys.resize(blocks * BLOCK_PANELS * inputs, Tile::ZERO);
        self.values.resize(blocks * columns * KEY_TILES, Tile::ZERO);
        isa::run(
            isa,
            Fill {
                to: self,
                head,
                len,
            },
        );
    }
}

struct Fill<'a> {
    to: &'a mut TileKeyValues,
    head: &'a HeadKeyValues,
    len: usize,
}

impl Portable for Fill<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { to, head, len } = self;
        let e = head.head_dim();
        for (panel, tiles) in to.keys.chunks_exact_mut(e.div_ceil(INPUTS)).enumerate() {
            if panel * LANES < len {
                for (tile, lines) in tiles.iter_mut().zip(head.keys(panel).chunks(INPUTS)) {
                    fill_tile(tile, lines);
                }
            }
        }
        let columns = e.div_ceil(LANES);
        for (number, tile) in to.values.iter_mut().enumerate() {
            let (block, column) = (number / KEY_TILES / columns, number / KEY_TILES % columns);
            let first = block * BLOCK + number % KEY_TILES * INPUTS;
            let count = len.saturating_sub(first).min(INPUTS);
            fill_tile(tile, head.values(first, column, count));
        }
    }
}

/// Up to 32 lines, each a number of every column; zeros behind them.
#[inline(always)]
fn fill_tile(tile: &mut Tile, lines: &[Lanes]) {
    const ZERO: Lanes = [0.0; LANES];
    for (i, to) in tile.0.iter_mut().enumerate() {
        let first = lines.get(i).unwrap_or(&ZERO);
        let second = lines.get(i + LANES).unwrap_or(&ZERO);
        write_pairs(to, first, second);
    }
}

#[inline(always)]
fn write_pairs(to: &mut [u32; LANES], first: &Lanes, second: &Lanes) {
    for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
        *to = pair(*first, *second);
    }
}

/// See [`super::super::attend_tiles`].
pub(in super::super) fn attend<T: Tiles>(
    isa: Isa,
    tiles: &mut T,
    key_values: &TileKeyValues,
    len: usize,
    queries: &[f32],
    out: &mut [f32],
) {
    let e = key_values.head_dim;
    assert!(len > 0 && len <= key_values.positions, "no such positions");
    assert!(
        queries.len() == out.len() && out.len().is_multiple_of(e),
        "not whole queries"
    );
    let mut room = Room::new(key_values, len);
    let each = QUERY_TILES * ROWS * e;
    for (queries, out) in queries.chunks(each).zip(out.chunks_mut(each)) {
        match queries.len() <= ROWS * e {
            true => room.attend::<T, 1>(isa, tiles, queries, out),
            false => room.attend::<T, QUERY_TILES>(isa, tiles, queries, out),
        }
    }
}

/// Keys and values, and what is computed of them for some tiles of queries.
struct Room<'a> {
    key_values: &'a TileKeyValues,
    len: usize,
    queries: [Vec<Tile>; QUERY_TILES], // [ceil(E / 32)]
    scores: [[Sums; BLOCK_PANELS]; QUERY_TILES],
    weights: [[Tile; KEY_TILES]; QUERY_TILES],
    out: [Vec<Sums>; QUERY_TILES], // [ceil(E / 16)]
    largest: [[f32; ROWS]; QUERY_TILES],
    total: [Sums; QUERY_TILES], // of each lane
}

impl<'a> Room<'a> {
    fn new(key_values: &'a TileKeyValues, len: usize) -> Box<Self> {
        let e = key_values.head_dim;
        Box::new(Self {
            key_values,
            len,
            queries: [(); QUERY_TILES].map(|()| vec![Tile::ZERO; e.div_ceil(INPUTS)]),
            scores: [[[[0.0; LANES]; ROWS]; BLOCK_PANELS]; QUERY_TILES],
            weights: [[Tile::ZERO; KEY_TILES]; QUERY_TILES],
            out: [(); QUERY_TILES].map(|()| vec![[[0.0; LANES]; ROWS]; e.div_ceil(LANES)]),
            largest: [[0.0; ROWS]; QUERY_TILES],
            total: [[[0.0; LANES]; ROWS]; QUERY_TILES],
        })
    }

    /// Up to `Q` tiles of queries; `queries` and `out` are `[queries, E]`.
    fn attend<T: Tiles, const Q: usize>(
        &mut self,
        isa: Isa,
        tiles: &mut T,
        queries: &[f32],
        out: &mut [f32],
    ) {
        let Self {
            key_values, len, ..
        } = *self;
        let e = key_values.head_dim;
        let room = &mut *self;
        isa::run(isa, Begin::<Q> { room, queries });
        let (inputs, columns) = (e.div_ceil(INPUTS), e.div_ceil(LANES));
        let keys = key_values.keys.chunks_exact(BLOCK_PANELS * inputs);
        let values = key_values.values.chunks_exact(columns * KEY_TILES);
        for ((keys, values), first) in keys.zip(values).zip((0..len).step_by(BLOCK)) {
            let count = (len - first).min(BLOCK);
            let queries = self.queries.each_ref().map(Vec::as_slice);
            let keys = keys.chunks_exact(inputs).take(count.div_ceil(LANES));
            let scores = self.scores.each_mut().map(<[Sums; _]>::as_mut_slice);
            products::<T, Q>(tiles, queries, keys, scores, Before::Nothing);
            isa::run(isa, Softmax::<Q> { room: self, count });
            let used = count.div_ceil(INPUTS);
            let weights = self.weights.each_ref().map(|weights| &weights[..used]);
            let values = values.chunks_exact(KEY_TILES).map(|tiles| &tiles[..used]);
            let out = self.out.each_mut().map(Vec::as_mut_slice);
            products::<T, Q>(tiles, weights, values, out, Before::Sums);
        }
        isa::run(isa, End { room: self, out });
    }
}

/// Rounds queries, `[queries, E]`, and forgets what was computed of others.
struct Begin<'a, 'r, const Q: usize> {
    room: &'a mut Room<'r>,
    queries: &'a [f32],
}

impl<const Q: usize> Portable for Begin<'_, '_, Q> {
    #[inline(always)]
    fn run(self) {
        let Self { room, queries } = self;
        let e = room.key_values.head_dim;
        for q in 0..Q * ROWS {
            let query = queries.chunks_exact(e).nth(q).unwrap_or_default();
            for (i, tile) in room.queries[q / ROWS].iter_mut().enumerate() {
                let mut numbers = [0.0; INPUTS];
                let from = query.chunks(INPUTS).nth(i).unwrap_or_default();
                numbers[..from.len()].copy_from_slice(from);
                let [first, second] = [0, 1].map(|half| &numbers.as_chunks().0[half]);
                write_pairs(&mut tile.0[q % ROWS], first, second);
            }
        }
        for q in 0..Q {
            room.out[q].fill([[0.0; LANES]; ROWS]);
        }
        room.largest = [[f32::NEG_INFINITY; ROWS]; QUERY_TILES];
        room.total = [[[0.0; LANES]; ROWS]; QUERY_TILES];
    }
}

/// Scores to weights of the `count` keys of a block; what was added up before them shrinks as the
/// largest score grows.
struct Softmax<'a, 'r, const Q: usize> {
    room: &'a mut Room<'r>,
    count: usize,
}

impl<const Q: usize> Portable for Softmax<'_, '_, Q> {
    #[inline(always)]
    fn run(self) {
        let Self { room, count } = self;
        for q in 0..Q {
            let scores = &mut room.scores[q];
            for (panel, scores) in scores.iter_mut().enumerate().skip(count / LANES) {
                let seen = count.saturating_sub(panel * LANES);
                for scores in scores {
                    scores[seen..].fill(f32::NEG_INFINITY);
                }
            }
            let mut most = room.largest[q];
            for (row, most) in most.iter_mut().enumerate() {
                let mut lanes = [*most; LANES];
                for scores in scores.iter() {
                    for (most, score) in lanes.iter_mut().zip(&scores[row]) {
                        *most = larger(*most, *score);
                    }
                }
                *most = largest(lanes);
            }
            let mut rescale = room.largest[q];
            for (rescale, most) in rescale.iter_mut().zip(&most) {
                *rescale = exp(*rescale - most);
            }
            for row in 0..ROWS {
                let total = &mut room.total[q][row];
                let mut sums = [0.0; LANES];
                for (tile, pair) in room.weights[q].iter_mut().zip(scores.as_chunks::<2>().0) {
                    let mut weights = [[0.0; LANES]; 2];
                    for (weights, scores) in weights.iter_mut().zip(pair) {
                        for ((weight, score), sum) in
                            weights.iter_mut().zip(&scores[row]).zip(&mut sums)
                        {
                            *weight = exp(*score - most[row]);
                            *sum += *weight;
                        }
                    }
                    write_pairs(&mut tile.0[row], &weights[0], &weights[1]);
                }
                for (total, sum) in total.iter_mut().zip(&sums) {
                    *total = total.mul_add(rescale[row], *sum);
                }
                if rescale[row] != 1.0 {
                    for out in &mut room.out[q] {
                        for out in &mut out[row] {
                            *out *= rescale[row];
                        }
                    }
                }
            }
            room.largest[q] = most;
        }
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[inline(always)]
fn largest(x: Lanes) -> f32 {
    let mut x = x;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            x[i] = larger(x[i], x[i + half]);
        }
    }
    x[0]
}

/// Writes the weighted values of each query, `[queries, E]`.
struct End<'a> {
    room: &'a Room<'a>,
    out: &'a mut [f32],
}

impl Portable for End<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { room, out } = self;
        let e = room.key_values.head_dim;
        for (q, out) in out.chunks_exact_mut(e).enumerate() {
            let total = sum(room.total[q / ROWS][q % ROWS]);
            for (out, from) in out.chunks_mut(LANES).zip(&room.out[q / ROWS]) {
                for (out, from) in out.iter_mut().zip(&from[q % ROWS]) {
                    *out = from / total;
                }
            }
        }
    }
}

/// What products are added to.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Sums,
}

/// The products of `Q` tiles of rows and of each column's tiles, added up over these.
fn products<'a, T: Tiles, const Q: usize>(
    tiles: &mut T,
    rows: [&[Tile]; QUERY_TILES],
    columns: impl Iterator<Item = &'a [Tile]>,
    mut sums: [&mut [Sums]; QUERY_TILES],
    before: Before,
) {
    let mut columns = columns.enumerate();
    while let Some((number, first)) = columns.next() {
        match columns.next() {
            Some((_, second)) => {
                column_products::<T, Q, 2>(tiles, rows, [first, second], number, &mut sums, before);
            }
            None => column_products::<T, Q, 1>(tiles, rows, [first], number, &mut sums, before),
        }
    }
}

/// The same of `C` columns, from `number` on.
#[inline(always)]
fn column_products<T: Tiles, const Q: usize, const C: usize>(
    tiles: &mut T,
    rows: [&[Tile]; QUERY_TILES],
    columns: [&[Tile]; C],
    number: usize,
    sums: &mut [&mut [Sums]; QUERY_TILES],
    before: Before,
) {
    for (q, sums) in sums.iter().enumerate().take(Q) {
        for (c, sums) in sums[number..].iter().enumerate().take(C) {
            match before {
                Before::Nothing => tiles.zero(2 * q + c),
                Before::Sums => tiles.load_sums(2 * q + c, sums),
            }
        }
    }
    for i in 0..columns[0].len() {
        tiles.load::<4>(&rows[0][i]);
        tiles.load::<6>(&columns[0][i]);
        tiles.multiply_add::<0, 4, 6>();
        if C == 2 {
            tiles.load::<7>(&columns[C - 1][i]);
            tiles.multiply_add::<1, 4, 7>();
        }
        if Q == 2 {
            tiles.load::<5>(&rows[1][i]);
            tiles.multiply_add::<2, 5, 6>();
            if C == 2 {
                tiles.multiply_add::<3, 5, 7>();
            }
        }
    }
    for (q, sums) in sums.iter_mut().enumerate().take(Q) {
        for (c, sums) in sums[number..].iter_mut().enumerate().take(C) {
            tiles.store_sums(2 * q + c, sums);
        }
    }
}
