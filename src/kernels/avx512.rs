//! AVX-512 with VNNI: 16 columns x 4 inputs an instruction.
//!
//! Two panels share each broadcast of activations, one unpacked block of weights (16 registers)
//! serves every row of a tile, and the `f32` sums live in the first-level cache. With few rows,
//! where reading weights is the limit, two panels are read faster than one. Rows go 8 at a time:
//! some cores start two dot products a cycle and finish one in six, so that it takes a dozen chains
//! to keep them busy. A block costs a row and panel 8 dot products, one conversion and one or two
//! fused multiply-adds; a group of blocks one more.

use super::activations::{Activations, Block, GroupPosition, TILE};
use super::format::{BlockFormat, Scaling};
use super::packed::{Line, PANEL, PackedMatrix, Panel, PanelBlock, Scales};
use super::prefetch::{Level, prefetch};
use std::arch::x86_64::*;
use std::ops::Range;

pub(super) mod attention;

/// See [`super::matmul_panels`]; `out` is `[panel, row, 16]`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn matmul<F: BlockFormat>(
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    let all_rows = x.rows();
    if all_rows == 0 {
        return;
    }
    for (first, out) in panels.clone().step_by(2).zip(out.chunks_mut(2 * all_rows)) {
        // A last panel without another is its own.
        let pair =
            |first: usize| [first, first + 1].map(|panel| w.panel(panel.min(panels.end - 1)));
        for (first_row, rows, blocks) in x.tiles() {
            let mut sums = [[Sums::ZERO; 2]; TILE];
            let sums = &mut sums[..rows];
            let position = |b| x.group_position(b);
            many_rows::<F>(pair(first), pair(first + 2), blocks, position, sums);
            for (p, out) in out.chunks_exact_mut(all_rows).enumerate() {
                for (out, sums) in out[first_row..].iter_mut().zip(&*sums) {
                    *out = sums[p].total;
                }
            }
        }
    }
}

/// The sums of one row and panel, aligned to cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums {
    total: [f32; PANEL],
    /// Of the group so far, without the scale of the activations.
    part: [f32; PANEL],
}

impl Sums {
    const ZERO: Self = Self {
        total: [0.0; PANEL],
        part: [0.0; PANEL],
    };
}

/// Two panels and a tile of rows; `x` is `[block, row]`. Two others come `then`.
///
/// ```text
/// for each block b of 32 inputs:
///     w = unpack block b of each panel                     8 registers a panel
///     for each group of R = 8, 4, 2, 1 rows:
///         for each part of the block with its own scale:
///             dots[r][p] = start of row r
///             for each word t of 4 inputs of the part:
///                 dots[r][p] += w[p][t] · x[r][t]          2 R independent chains
///             part[r][p] = fma(dots[r][p], scale of w[p], part[r][p])
///     where b is the last of its group of blocks:
///         total[r][p] = fma(part[r][p], scale of x[r], total[r][p])
/// ```
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn many_rows<F: BlockFormat>(
    panels: [Panel<'_>; 2],
    then: [Panel<'_>; 2],
    x: &[Block],
    position: impl Fn(usize) -> GroupPosition,
    sums: &mut [[Sums; 2]],
) {
    let count = x.len() / sums.len();
    for (b, x) in x.chunks_exact(sums.len()).enumerate() {
        for (panel, then) in panels.iter().zip(then) {
            panel.prefetch_then::<F>(then, b, count);
        }
        let w = [
            Weights::unpack::<F>(panels[0], b),
            Weights::unpack::<F>(panels[1], b),
        ];
        let (position, rows) = (position(b), sums.len());
        let rest = rows_of_block::<F, 8>(&w, x, position, &mut *sums, rows);
        let rest = rows_of_block::<F, 4>(&w, rest.0, position, rest.1, rows);
        let rest = rows_of_block::<F, 2>(&w, rest.0, position, rest.1, rows);
        rows_of_block::<F, 1>(&w, rest.0, position, rest.1, rows);
    }
}

/// One block of two panels and the rows, `R` at a time: their `2 R` chains of dot products
/// interleave. Asks for the rows' next blocks, which come from the second-level cache for each pair
/// of panels again: a core does not look ahead that far. Returns the rows left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn rows_of_block<'a, F: BlockFormat, const R: usize>(
    w: &[Weights; 2],
    x: &'a [Block],
    position: GroupPosition,
    sums: &'a mut [[Sums; 2]],
    all_rows: usize,
) -> (&'a [Block], &'a mut [[Sums; 2]]) {
    let (x, x_rest) = x.as_chunks::<R>();
    let (sums, sums_rest) = sums.as_chunks_mut::<R>();
    for (x, sums) in x.iter().zip(sums) {
        for x in x {
            let next = std::ptr::from_ref(x).wrapping_add(all_rows);
            prefetch(Level::First, next, size_of::<Block>());
        }
        half_of_rows::<F, R, 0>(w, x, position, sums);
        if F::LAYOUT.parts == 2 {
            half_of_rows::<F, R, 1>(w, x, position, sums);
        }
    }
    (x_rest, sums_rest)
}

/// A part of a block that has a scale of its own, for two panels and `R` rows: the whole block, or
/// of Q6_K a half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn half_of_rows<F: BlockFormat, const R: usize, const HALF: usize>(
    w: &[Weights; 2],
    x: &[Block; R],
    position: GroupPosition,
    sums: &mut [[Sums; 2]; R],
) {
    let mut dots = [[_mm512_setzero_si512(); 2]; R];
    for r in 0..R {
        dots[r] = [start::<F>(&x[r])[HALF]; 2];
    }
    for t in 0..8 {
        if F::part(t) != HALF {
            continue;
        }
        for r in 0..R {
            let inputs = _mm512_set1_epi32(x[r].words[t]);
            for p in 0..2 {
                dots[r][p] = _mm512_dpbusd_epi32(dots[r][p], w[p].quants[t], inputs);
            }
        }
    }
    for r in 0..R {
        for p in 0..2 {
            let Sums { total, part } = &mut sums[r][p];
            let before = if position.begins && HALF == 0 {
                _mm512_setzero_ps()
            } else {
                load_sums(part)
            };
            let sum = w[p].add::<F, HALF>(&x[r], dots[r][p], before);
            if position.ends && HALF == F::part(7) {
                let scale = _mm512_set1_ps(x[r].scale);
                store(total, _mm512_fmadd_ps(sum, scale, load_sums(total)));
            } else {
                store(part, sum);
            }
        }
    }
}

/// Where the dot products start: at what the offset of the quants would take off later.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn start<F: BlockFormat>(x: &Block) -> [__m512i; 2] {
    let [first, second] = x.start::<F>();
    [_mm512_set1_epi32(*first), _mm512_set1_epi32(*second)]
}

/// One block of a panel, unpacked.
#[derive(Clone, Copy)]
struct Weights {
    /// 4 unsigned inputs of 16 columns each.
    quants: [__m512i; 8],
    /// Of each part of the block.
    scales: [__m512; 2],
    /// As in [`super::stored::Scaled`].
    mins: [__m512; 2],
}

impl Weights {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn unpack<F: BlockFormat>(panel: Panel<'_>, b: usize) -> Self {
        let block = panel.block::<F>(b);
        let (scales, mins) = scales::<F>(block);
        Self {
            quants: quants::<F>(block),
            scales,
            mins,
        }
    }

    /// Adds the dot products of a block, or of its half, to the sums of a row's group, as
    /// [`super::scalar`] defines.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add<F: BlockFormat, const HALF: usize>(
        &self,
        x: &Block,
        dots: __m512i,
        part: __m512,
    ) -> __m512 {
        let part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), self.scales[HALF], part);
        match (F::LAYOUT.scaling, F::LAYOUT.parts, HALF) {
            (Scaling::Half | Scaling::Signed, ..) | (_, 2, 0) => part,
            (Scaling::HalfWithMin | Scaling::WithMin, parts, _) => {
                let part = _mm512_fnmadd_ps(self.mins[0], _mm512_set1_ps(x.sum), part);
                match parts {
                    1 => part,
                    _ => _mm512_fnmadd_ps(self.mins[1], _mm512_set1_ps(x.first_sum), part),
                }
            }
        }
    }
}

/// 4 unsigned inputs of 16 columns each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn quants<F: BlockFormat>(block: PanelBlock<'_>) -> [__m512i; 8] {
    let [low, high] = F::LAYOUT.bits;
    let (low_lines, high_lines) = block.lines.split_at(low);
    let mut quants = [_mm512_setzero_si512(); 8];
    for (t, quants) in quants.iter_mut().enumerate() {
        *quants = bits(low_lines, low, 0, t);
        if high > 0 {
            *quants = _mm512_or_si512(*quants, bits(high_lines, high, low, t));
        }
        if let Some(table) = &F::LAYOUT.table {
            *quants = _mm512_shuffle_epi8(load_table(table), *quants);
        }
    }
    quants
}

/// The `count` bits of word `t` that some lines hold, moved up by `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bits(lines: &[Line], count: usize, to: usize, t: usize) -> __m512i {
    let line = load(&lines[t % count]);
    let down = (count * (t / count)) as i32 - to as i32;
    // Constant where this is inlined, as all of it is.
    let line = match down {
        0 => line,
        1.. => _mm512_srlv_epi32(line, _mm512_set1_epi32(down)),
        _ => _mm512_sllv_epi32(line, _mm512_set1_epi32(-down)),
    };
    _mm512_and_si512(line, _mm512_set1_epi8((((1u32 << count) - 1) << to) as i8))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_table(table: &[u8; 16]) -> __m512i {
    // SAFETY: the table is 16 bytes; the load needs no alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Scales and minimums of a block, as [`super::stored::Scaled`] defines them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn scales<F: BlockFormat>(block: PanelBlock<'_>) -> ([__m512; 2], [__m512; 2]) {
    let none = _mm512_setzero_ps();
    let number = |bits: __m512i| _mm512_cvtepi32_ps(bits);
    match (F::LAYOUT.scaling, F::LAYOUT.parts) {
        (Scaling::Half, _) => ([halves(&block.scales[0]), none], [none; 2]),
        (Scaling::HalfWithMin, _) => (
            [halves(&block.scales[0]), none],
            [halves(&block.scales[1]), none],
        ),
        (Scaling::Signed, _) => {
            let d = halves(&block.supers[0]);
            let packed = _mm512_cvtepi16_epi32(load_scales(&block.scales[0]));
            let first = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(packed));
            let second = _mm512_srai_epi32::<8>(packed);
            let scales = [
                _mm512_mul_ps(d, number(first)),
                _mm512_mul_ps(d, number(second)),
            ];
            (scales, [none; 2])
        }
        (Scaling::WithMin, parts) => {
            let [d, d_min] = [halves(&block.supers[0]), halves(&block.supers[1])];
            let packed = _mm512_cvtepu16_epi32(load_scales(&block.scales[0]));
            if parts == 1 {
                let scale = _mm512_and_si512(packed, _mm512_set1_epi32(0xff));
                let min = _mm512_srli_epi32::<8>(packed);
                return (
                    [_mm512_mul_ps(d, number(scale)), none],
                    [_mm512_mul_ps(d_min, number(min)), none],
                );
            }
            let mask = _mm512_set1_epi32(15);
            let scale = [packed, _mm512_srli_epi32::<8>(packed)];
            let min = _mm512_srli_epi32::<12>(packed);
            let more = _mm512_and_si512(_mm512_srli_epi32::<4>(packed), mask);
            let more = _mm512_sub_epi32(more, min);
            (
                scale.map(|scale| _mm512_mul_ps(d, number(_mm512_and_si512(scale, mask)))),
                [min, more].map(|min| _mm512_mul_ps(d_min, number(min))),
            )
        }
    }
}

/// 16 scales in half precision.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn halves(scales: &Scales) -> __m512 {
    _mm512_cvtph_ps(load_scales(scales))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn load(line: &Line) -> __m512i {
    // SAFETY: a line is 64 bytes and aligned to 64.
    unsafe { _mm512_load_si512((&raw const *line).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn load_scales(scales: &Scales) -> __m256i {
    // SAFETY: scales are 32 bytes and aligned to 32.
    unsafe { _mm256_load_si256((&raw const *scales).cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_sums(sums: &[f32; PANEL]) -> __m512 {
    // SAFETY: the sums are 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [f32; PANEL], sums: __m512) {
    // SAFETY: the output is 64 bytes; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) }
}

/// See `matmul::peak_ops`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn peak_ops(rounds: u64) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 20];
    let [mut a, b] = [_mm512_set1_epi8(3), _mm512_set1_epi8(2)];
    for _ in 0..rounds {
        a = std::hint::black_box(a);
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm512_reduce_add_epi32(sum));
    }
    rounds * 20 * 128
}
