//! AVX2 and AVX-VNNI: 8 columns x 4 inputs an instruction, so a panel is two halves.
//!
//! AVX2 has no 32-bit dot product of bytes. Its 16-bit one saturates at 32767, which nothing here
//! reaches:
//! - 4 bits: a pair adds up to at most `2 * 15 * 127 = 3810`, the 8 pairs of a block to 30480;
//! - 5 bits: the 4 pairs of half a block to `4 * 2 * 31 * 127 = 31496`;
//! - 6 bits: two pairs to `2 * 2 * 63 * 127 = 32004`;
//! - 8 bits: bytes are split into nibbles, summed apart.
//!
//! One block of weights, unpacked into the first-level cache, serves every row of a tile. A few of
//! its rows at a time share what is read: each word of weights serves all of them, and each word of
//! a row both halves.

use super::activations::{Activations, Block, GroupPosition, TILE};
use super::format::{BlockFormat, Scaling};
use super::packed::{Line, PANEL, PackedMatrix, Panel, PanelBlock, Scales};
use std::arch::x86_64::*;
use std::ops::Range;

/// The loops over panels, blocks and rows, for one way to form dot products.
macro_rules! matmul {
    ($features:literal, split: $split:literal, rows: [$narrow:literal, $wide:literal], $dots:ident) => {
        /// See [`crate::kernels::matmul_panels`]; `out` is `[panel, row, 16]`.
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn matmul<F: BlockFormat>(
            w: &PackedMatrix,
            x: &Activations,
            panels: Range<usize>,
            out: &mut [[f32; PANEL]],
        ) {
            for (panel, out) in panels.zip(out.chunks_exact_mut(x.rows().max(1))) {
                for (first_row, rows, blocks) in x.tiles() {
                    let mut sums = [[Sums::ZERO; 2]; TILE];
                    let (panel, sums_of_rows) = (w.panel(panel), &mut sums[..rows]);
                    let position = |b| x.group_position(b);
                    // So many rows that the sums of both halves fit the registers; for one by
                    // itself a block need not be in memory.
                    match (rows, F::LAYOUT.parts, F::LAYOUT.largest()) {
                        (1, ..) => tile::<F, 1>(panel, blocks, position, &mut sums_of_rows[..1]),
                        (_, 1, ..32) => tile::<F, $narrow>(panel, blocks, position, sums_of_rows),
                        _ => tile::<F, $wide>(panel, blocks, position, sums_of_rows),
                    }
                    for (out, sums) in out[first_row..].iter_mut().zip(&sums[..rows]) {
                        out.copy_from_slice(sums.map(|half| half.total).as_flattened());
                    }
                }
            }
        }

        /// One panel and a tile of rows; `x` is `[block, row]`.
        ///
        /// ```text
        /// for each block b of 32 inputs:
        ///     w = unpack block b
        ///     for each few rows, and each half of the panel:
        ///         part[row] = fma(w · x[row], scale of w, part[row])
        ///         where b is the last of its group of blocks:
        ///             total[row] = fma(part[row], scale of x[row], total[row])
        /// ```
        #[inline]
        #[target_feature(enable = $features)]
        fn tile<F: BlockFormat, const R: usize>(
            panel: Panel<'_>,
            x: &[Block],
            position: impl Fn(usize) -> GroupPosition,
            sums: &mut [[Sums; 2]],
        ) {
            for (b, x) in x.chunks_exact(sums.len()).enumerate() {
                panel.prefetch_behind::<F>(b);
                let w = Weights::unpack::<F, $split>(panel, b);
                let position = position(b);
                let (x, sums) = add_rows::<F, R>(&w, x, position, sums);
                let (x, sums) = add_rows::<F, 2>(&w, x, position, sums);
                add_rows::<F, 1>(&w, x, position, sums);
            }
        }

        /// Adds a block's dot products to the sums of its rows, `R` at a time, as
        /// [`crate::kernels::scalar`] defines, and gives what is left of them.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_rows<'x, 's, F: BlockFormat, const R: usize>(
            w: &Weights,
            x: &'x [Block],
            position: GroupPosition,
            sums: &'s mut [[Sums; 2]],
        ) -> (&'x [Block], &'s mut [[Sums; 2]]) {
            let (x, x_rest) = x.as_chunks::<R>();
            let (sums, sums_rest) = sums.as_chunks_mut::<R>();
            for (x, sums) in x.iter().zip(sums) {
                for part in 0..F::LAYOUT.parts {
                    let dots = $dots::<F, R>(w, x, part);
                    for r in 0..R {
                        for half in 0..2 {
                            let begins = position.begins && part == 0;
                            w.add(part, half, dots[r][half], begins, &mut sums[r][half]);
                        }
                    }
                }
                for r in 0..R {
                    for half in 0..2 {
                        w.finish::<F>(half, &x[r], position, &mut sums[r][half]);
                    }
                }
            }
            (x_rest, sums_rest)
        }
    };
}

matmul!("avx2,fma,f16c", split: true, rows: [4, 3], dots);

pub(super) mod vnni;

/// The sums of one row and half a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums {
    total: [f32; 8],
    /// Of the group so far, without the scale of the activations.
    part: [f32; 8],
}

impl Sums {
    const ZERO: Self = Self {
        total: [0.0; 8],
        part: [0.0; 8],
    };
}

/// One block of a panel, unpacked; `[.., half]`.
struct Weights {
    /// 4 unsigned inputs of 8 columns each.
    quants: [[__m256i; 2]; 8],
    /// Where quants are split, the high nibbles; `quants` has the low ones.
    highs: [[__m256i; 2]; 8],
    /// Of each part of the block.
    scales: [[__m256; 2]; 2],
    /// As in [`super::stored::Scaled`].
    mins: [[__m256; 2]; 2],
}

/// Whether quants are too large for the 16-bit instruction.
const fn is_wide<F: BlockFormat>() -> bool {
    F::LAYOUT.largest() > 63
}

impl Weights {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack<F: BlockFormat, const SPLIT: bool>(panel: Panel<'_>, b: usize) -> Self {
        let block = panel.block::<F>(b);
        let [low, high] = F::LAYOUT.bits;
        let (low_lines, high_lines) = block.lines.split_at(low);
        let mut quants = [[_mm256_setzero_si256(); 2]; 8];
        let mut highs = quants;
        let (mut scales, mut mins) = ([[_mm256_setzero_ps(); 2]; 2], [[_mm256_setzero_ps(); 2]; 2]);
        for half in 0..2 {
            for t in 0..8 {
                let mut words = bits(low_lines, low, 0, t, half);
                if high > 0 {
                    let above = bits(high_lines, high, low, t, half);
                    words = _mm256_or_si256(words, above);
                }
                if let Some(table) = &F::LAYOUT.table {
                    words = _mm256_shuffle_epi8(load_table(table), words);
                }
                if SPLIT && is_wide::<F>() {
                    let mask = _mm256_set1_epi8(15);
                    highs[t][half] = _mm256_and_si256(_mm256_srli_epi32::<4>(words), mask);
                    words = _mm256_and_si256(words, mask);
                }
                quants[t][half] = words;
            }
            let (of_scales, of_mins) = scales_of::<F>(block, half);
            for part in 0..2 {
                (scales[part][half], mins[part][half]) = (of_scales[part], of_mins[part]);
            }
        }
        Self {
            quants,
            highs,
            scales,
            mins,
        }
    }

    /// Adds the dot products of a part of the block.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add(&self, part: usize, half: usize, dots: __m256i, begins: bool, sums: &mut Sums) {
        let sum = match begins {
            true => _mm256_setzero_ps(),
            false => load_sums(&sums.part),
        };
        let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), self.scales[part][half], sum);
        store_sums(&mut sums.part, sum);
    }

    /// Takes the minimums of the block off, and adds a group to the total where it ends.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn finish<F: BlockFormat>(
        &self,
        half: usize,
        x: &Block,
        position: GroupPosition,
        sums: &mut Sums,
    ) {
        let mut part = load_sums(&sums.part);
        if let Scaling::HalfWithMin | Scaling::WithMin = F::LAYOUT.scaling {
            let of_parts = [x.sum, x.first_sum];
            for (min, sum) in self.mins.iter().zip(of_parts).take(F::LAYOUT.parts) {
                part = _mm256_fnmadd_ps(min[half], _mm256_set1_ps(sum), part);
            }
            store_sums(&mut sums.part, part);
        }
        if position.ends {
            let total = load_sums(&sums.total);
            let total = _mm256_fmadd_ps(part, _mm256_set1_ps(x.scale), total);
            store_sums(&mut sums.total, total);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_sums(sums: &[f32; 8]) -> __m256 {
    // SAFETY: the sums are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(sums.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_sums(to: &mut [f32; 8], sums: __m256) {
    // SAFETY: the sums are 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), sums) }
}

/// Where the dot products of a part start: at what the offset of the quants would take off later.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn start<F: BlockFormat>(x: &Block, part: usize) -> __m256i {
    _mm256_set1_epi32(*x.start::<F>()[part])
}

/// Words of a part of a block.
const fn words<F: BlockFormat>(part: usize) -> Range<usize> {
    let count = 8 / F::LAYOUT.parts;
    part * count..(part + 1) * count
}

/// The dot products of a part of a block with some rows, by the 16-bit instruction.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<F: BlockFormat, const R: usize>(
    w: &Weights,
    x: &[Block; R],
    part: usize,
) -> [[__m256i; 2]; R] {
    let mut dots = [[_mm256_setzero_si256(); 2]; R];
    for r in 0..R {
        dots[r] = [start::<F>(&x[r], part); 2];
    }
    // So many words add up in 16 bits.
    let count = match F::LAYOUT.largest() {
        _ if is_wide::<F>() => 8,
        32.. => 2,
        16.. => 4,
        _ => 8,
    };
    let words = words::<F>(part);
    for first in words.clone().step_by(count) {
        let (mut lows, mut highs) = (
            [[_mm256_setzero_si256(); 2]; R],
            [[_mm256_setzero_si256(); 2]; R],
        );
        for t in first..words.end.min(first + count) {
            for r in 0..R {
                let inputs = _mm256_set1_epi32(x[r].words[t]);
                for half in 0..2 {
                    let products = _mm256_maddubs_epi16(w.quants[t][half], inputs);
                    lows[r][half] = _mm256_add_epi16(lows[r][half], products);
                    if is_wide::<F>() {
                        let products = _mm256_maddubs_epi16(w.highs[t][half], inputs);
                        highs[r][half] = _mm256_add_epi16(highs[r][half], products);
                    }
                }
            }
        }
        for r in 0..R {
            for half in 0..2 {
                let dot = &mut dots[r][half];
                let ones = _mm256_madd_epi16(lows[r][half], _mm256_set1_epi16(1));
                *dot = _mm256_add_epi32(*dot, ones);
                if is_wide::<F>() {
                    let sixteens = _mm256_madd_epi16(highs[r][half], _mm256_set1_epi16(16));
                    *dot = _mm256_add_epi32(*dot, sixteens);
                }
            }
        }
    }
    dots
}

/// The `count` bits of word `t` that some lines hold, moved up by `to`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits(lines: &[Line], count: usize, to: usize, t: usize, half: usize) -> __m256i {
    let line = load(&lines[t % count], half);
    let down = (count * (t / count)) as i32 - to as i32;
    // Constant where this is inlined, as all of it is.
    let line = match down {
        0 => line,
        1.. => _mm256_srlv_epi32(line, _mm256_set1_epi32(down)),
        _ => _mm256_sllv_epi32(line, _mm256_set1_epi32(-down)),
    };
    _mm256_and_si256(line, _mm256_set1_epi8((((1u32 << count) - 1) << to) as i8))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_table(table: &[u8; 16]) -> __m256i {
    // SAFETY: the table is 16 bytes; the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
}

/// Scales and minimums of a block, as [`super::stored::Scaled`] defines them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_of<F: BlockFormat>(block: PanelBlock<'_>, half: usize) -> ([__m256; 2], [__m256; 2]) {
    let none = _mm256_setzero_ps();
    let halves = |row: &Scales| _mm256_cvtph_ps(load_scales(row, half));
    let scales = load_scales(&block.scales[0], half);
    let number = |bits: __m256i| _mm256_cvtepi32_ps(bits);
    match (F::LAYOUT.scaling, F::LAYOUT.parts) {
        (Scaling::Half, _) => ([halves(&block.scales[0]), none], [none; 2]),
        (Scaling::HalfWithMin, _) => (
            [halves(&block.scales[0]), none],
            [halves(&block.scales[1]), none],
        ),
        (Scaling::Signed, _) => {
            let d = halves(&block.supers[0]);
            let packed = _mm256_cvtepi16_epi32(scales);
            let first = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(packed));
            let second = _mm256_srai_epi32::<8>(packed);
            let scales = [
                _mm256_mul_ps(d, number(first)),
                _mm256_mul_ps(d, number(second)),
            ];
            (scales, [none; 2])
        }
        (Scaling::WithMin, parts) => {
            let [d, d_min] = [halves(&block.supers[0]), halves(&block.supers[1])];
            let packed = _mm256_cvtepu16_epi32(scales);
            if parts == 1 {
                let scale = _mm256_and_si256(packed, _mm256_set1_epi32(0xff));
                let min = _mm256_srli_epi32::<8>(packed);
                return (
                    [_mm256_mul_ps(d, number(scale)), none],
                    [_mm256_mul_ps(d_min, number(min)), none],
                );
            }
            let mask = _mm256_set1_epi32(15);
            let scale = [packed, _mm256_srli_epi32::<8>(packed)];
            let min = _mm256_srli_epi32::<12>(packed);
            let more = _mm256_and_si256(_mm256_srli_epi32::<4>(packed), mask);
            let more = _mm256_sub_epi32(more, min);
            (
                scale.map(|scale| _mm256_mul_ps(d, number(_mm256_and_si256(scale, mask)))),
                [min, more].map(|min| _mm256_mul_ps(d_min, number(min))),
            )
        }
    }
}

/// Columns `8 * half..` of a line.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(line: &Line, half: usize) -> __m256i {
    let columns = &line.0.as_chunks::<8>().0[half];
    // SAFETY: 8 words are 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(columns.as_ptr().cast()) }
}

/// Columns `8 * half..` of some scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_scales(scales: &Scales, half: usize) -> __m128i {
    let columns = &scales.0.as_chunks::<8>().0[half];
    // SAFETY: 8 half words are 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(columns.as_ptr().cast()) }
}

/// See `matmul::peak_ops`: the 16-bit dot product with its addition.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peak_ops(rounds: u64) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 6];
    let inputs = std::hint::black_box([_mm256_set1_epi8(2); 6]);
    let mut w = _mm256_set1_epi8(3);
    for _ in 0..rounds {
        // Other operands each round, or one product would do for all.
        w = _mm256_xor_si256(w, inputs[0]);
        for i in 0..6 {
            sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(w, inputs[i]));
        }
    }
    std::hint::black_box(sums);
    rounds * 6 * 64
}
