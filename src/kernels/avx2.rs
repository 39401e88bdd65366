//! AVX2 and AVX-VNNI: 8 columns x 4 inputs an instruction, so a panel is two halves.
//!
//! AVX2 has no 32-bit dot product of bytes. Its 16-bit one saturates at 32767, which nothing here
//! reaches:
//! - nibbles: a pair adds up to at most `2 * 15 * 127 = 3810`, the 8 pairs of a block to 30480;
//! - Q6_K: a pair to at most `2 * 63 * 127 = 16002`, two pairs to 32004;
//! - Q8_0: bytes are split into nibbles, summed apart.
//!
//! One block of weights, unpacked, serves every row of a tile; the `f32` sums live in the
//! first-level cache.

use super::activations::{Activations, Block, GroupPosition, TILE};
use super::format::{BlockFormat, Format, with_format};
use super::packed::{Line, PANEL, PackedMatrix, Panel, Scales};
use std::arch::x86_64::*;
use std::ops::Range;

/// The loops over panels, blocks and rows, for one way to form dot products.
macro_rules! matmul {
    ($features:literal, split: $split:literal, $dots:ident) => {
        /// See [`crate::kernels::matmul_panels`]; `out` is `[panel, row, 16]`.
        #[target_feature(enable = $features)]
        pub(in crate::kernels) fn matmul(
            w: &PackedMatrix,
            x: &Activations,
            panels: Range<usize>,
            out: &mut [[f32; PANEL]],
        ) {
            with_format!(w.format(), F => matmul_format::<F>(w, x, panels, out))
        }

        #[target_feature(enable = $features)]
        fn matmul_format<F: BlockFormat>(
            w: &PackedMatrix,
            x: &Activations,
            panels: Range<usize>,
            out: &mut [[f32; PANEL]],
        ) {
            for (panel, out) in panels.zip(out.chunks_exact_mut(x.rows().max(1))) {
                for (first_row, rows, blocks) in x.tiles() {
                    let mut sums = [[Sums::ZERO; 2]; TILE];
                    let position = |b| x.group_position(b);
                    tile::<F>(w.panel(panel), blocks, position, &mut sums[..rows]);
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
        ///     for each half of the panel:
        ///         w = unpack block b of the half        8 registers
        ///         for each pair of rows, then a last row:
        ///             part[row] = fma(w · x[row], scale of w, part[row])
        ///             where b is the last of its group of blocks:
        ///                 total[row] = fma(part[row], scale of x[row], total[row])
        /// ```
        #[inline]
        #[target_feature(enable = $features)]
        fn tile<F: BlockFormat>(
            panel: Panel<'_>,
            x: &[Block],
            position: impl Fn(usize) -> GroupPosition,
            sums: &mut [[Sums; 2]],
        ) {
            for (b, x) in x.chunks_exact(sums.len()).enumerate() {
                panel.prefetch::<F>(b);
                let position = position(b);
                for half in 0..2 {
                    let w = Weights::unpack::<F, $split>(panel, b, half);
                    let (x_pairs, x_last) = x.as_chunks::<2>();
                    let (sums_pairs, sums_last) = sums.as_chunks_mut::<2>();
                    for (x, sums) in x_pairs.iter().zip(sums_pairs) {
                        let dots = $dots::<F, 2>(&w, x);
                        for r in 0..2 {
                            w.add::<F>(&x[r], dots[r], position, &mut sums[r][half]);
                        }
                    }
                    for (x, sums) in x_last.iter().zip(sums_last) {
                        let [dots] = $dots::<F, 1>(&w, &[*x]);
                        w.add::<F>(x, dots, position, &mut sums[half]);
                    }
                }
            }
        }
    };
}

matmul!("avx2,fma,f16c", split: true, dots);

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

/// One block of half a panel, unpacked.
struct Weights {
    /// 4 unsigned inputs of 8 columns each.
    quants: [__m256i; 8],
    /// Of split Q8_0, the high nibbles; `quants` has the low ones.
    highs: [__m256i; 8],
    /// Scale and, by format, minimum or scale of the second half of the block.
    scales: [__m256; 2],
}

impl Weights {
    /// Unpacks block `b`: long, as it shows the four formats side by side.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack<F: BlockFormat, const SPLIT: bool>(panel: Panel<'_>, b: usize, half: usize) -> Self {
        let zero = _mm256_setzero_si256();
        let scales = load_scales(&panel.scales[b], half);
        match F::FORMAT {
            Format::Q4_0 => {
                let lines = &panel.lines.as_chunks::<4>().0[b];
                Self {
                    quants: nibbles(lines, half),
                    highs: [zero; 8],
                    scales: [_mm256_cvtph_ps(scales), _mm256_setzero_ps()],
                }
            }
            Format::Q8_0 => {
                let lines = &panel.lines.as_chunks::<8>().0[b];
                let mask = _mm256_set1_epi8(15);
                let (mut quants, mut highs) = ([zero; 8], [zero; 8]);
                for t in 0..8 {
                    let line = load(&lines[t], half);
                    if SPLIT {
                        quants[t] = _mm256_and_si256(line, mask);
                        highs[t] = _mm256_and_si256(_mm256_srli_epi32::<4>(line), mask);
                    } else {
                        quants[t] = line;
                    }
                }
                Self {
                    quants,
                    highs,
                    scales: [_mm256_cvtph_ps(scales), _mm256_setzero_ps()],
                }
            }
            Format::Q4K => {
                let lines = &panel.lines.as_chunks::<4>().0[b];
                let [d, d_min] = &panel.supers.as_chunks::<2>().0[b / 8];
                let packed = _mm256_cvtepu16_epi32(scales);
                let scale = _mm256_cvtepi32_ps(_mm256_and_si256(packed, _mm256_set1_epi32(0xff)));
                let min = _mm256_cvtepi32_ps(_mm256_srli_epi32::<8>(packed));
                Self {
                    quants: nibbles(lines, half),
                    highs: [zero; 8],
                    scales: [
                        _mm256_mul_ps(_mm256_cvtph_ps(load_scales(d, half)), scale),
                        _mm256_mul_ps(_mm256_cvtph_ps(load_scales(d_min, half)), min),
                    ],
                }
            }
            Format::Q6K => {
                let lines = &panel.lines.as_chunks::<6>().0[b];
                let ([low_nibbles @ .., _, _], [_, _, _, _, high_bits @ ..]) = (lines, lines);
                let mut quants = nibbles(low_nibbles, half);
                let mask = _mm256_set1_epi8(0x30);
                for (i, bits) in high_bits.iter().enumerate() {
                    let bits = load(bits, half);
                    let shifted = [
                        _mm256_slli_epi32::<4>(bits),
                        _mm256_slli_epi32::<2>(bits),
                        bits,
                        _mm256_srli_epi32::<2>(bits),
                    ];
                    for u in 0..4 {
                        quants[4 * i + u] =
                            _mm256_or_si256(quants[4 * i + u], _mm256_and_si256(shifted[u], mask));
                    }
                }
                let d = _mm256_cvtph_ps(load_scales(&panel.supers[b / 8], half));
                let packed = _mm256_cvtepi16_epi32(scales);
                let first = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(packed));
                let second = _mm256_srai_epi32::<8>(packed);
                Self {
                    quants,
                    highs: [zero; 8],
                    scales: [
                        _mm256_mul_ps(d, _mm256_cvtepi32_ps(first)),
                        _mm256_mul_ps(d, _mm256_cvtepi32_ps(second)),
                    ],
                }
            }
        }
    }

    /// Adds a block's dot products to the sums of a row, as [`super::scalar`] defines.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add<F: BlockFormat>(
        &self,
        x: &Block,
        dots: [__m256i; 2],
        position: GroupPosition,
        sums: &mut Sums,
    ) {
        let part = if position.begins {
            _mm256_setzero_ps()
        } else {
            load_sums(&sums.part)
        };
        let part = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[0]), self.scales[0], part);
        let part = match F::FORMAT {
            Format::Q4_0 | Format::Q8_0 => part,
            Format::Q4K => _mm256_fnmadd_ps(self.scales[1], _mm256_set1_ps(x.sum), part),
            Format::Q6K => _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[1]), self.scales[1], part),
        };
        if position.ends {
            let total = load_sums(&sums.total);
            let total = _mm256_fmadd_ps(part, _mm256_set1_ps(x.scale), total);
            store_sums(&mut sums.total, total);
        } else {
            store_sums(&mut sums.part, part);
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

/// Where the dot products start: at what the offset of the quants would take off later.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn start<F: BlockFormat>(x: &Block) -> [__m256i; 2] {
    let [first, second] = x.start::<F>();
    [_mm256_set1_epi32(*first), _mm256_set1_epi32(*second)]
}

/// A block's dot products with the 16-bit instruction.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots<F: BlockFormat, const R: usize>(w: &Weights, x: &[Block; R]) -> [[__m256i; 2]; R] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); 2]; R];
    for r in 0..R {
        dots[r] = start::<F>(&x[r]);
    }
    match F::FORMAT {
        Format::Q6K => {
            // The sums of two products of 6 by 8 bits fit 16 bits twice.
            for t in 0..4 {
                for r in 0..R {
                    let [a, b] = [
                        _mm256_set1_epi32(x[r].words[2 * t]),
                        _mm256_set1_epi32(x[r].words[2 * t + 1]),
                    ];
                    let pairs = _mm256_add_epi16(
                        _mm256_maddubs_epi16(w.quants[2 * t], a),
                        _mm256_maddubs_epi16(w.quants[2 * t + 1], b),
                    );
                    let dot = &mut dots[r][t / 2];
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        Format::Q4_0 | Format::Q8_0 | Format::Q4K => {
            let split = match F::FORMAT {
                Format::Q8_0 => true,
                Format::Q4_0 | Format::Q4K | Format::Q6K => false,
            };
            let (mut lows, mut highs) = ([_mm256_setzero_si256(); R], [_mm256_setzero_si256(); R]);
            for t in 0..8 {
                for r in 0..R {
                    let inputs = _mm256_set1_epi32(x[r].words[t]);
                    lows[r] = _mm256_add_epi16(lows[r], _mm256_maddubs_epi16(w.quants[t], inputs));
                    if split {
                        highs[r] =
                            _mm256_add_epi16(highs[r], _mm256_maddubs_epi16(w.highs[t], inputs));
                    }
                }
            }
            for r in 0..R {
                dots[r][0] = _mm256_add_epi32(dots[r][0], _mm256_madd_epi16(lows[r], ones));
                if split {
                    let sixteens = _mm256_madd_epi16(highs[r], _mm256_set1_epi16(16));
                    dots[r][0] = _mm256_add_epi32(dots[r][0], sixteens);
                }
            }
        }
    }
    dots
}

/// 8 registers of quants from 4 lines: low nibbles, then high nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(lines: &[Line; 4], half: usize) -> [__m256i; 8] {
    let mask = _mm256_set1_epi8(15);
    let mut quants = [mask; 8];
    for j in 0..4 {
        let line = load(&lines[j], half);
        quants[j] = _mm256_and_si256(line, mask);
        quants[j + 4] = _mm256_and_si256(_mm256_srli_epi32::<4>(line), mask);
    }
    quants
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

/// See [`super::peak_ops`]: the 16-bit dot product with its addition.
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
