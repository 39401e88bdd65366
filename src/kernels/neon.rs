//! NEON with dot products, and with matrix products (i8mm): 4 columns an instruction, so a panel is
//! four quarters.
//!
//! One quarter of a block of weights, unpacked and with its offset taken off (both sides are signed
//! here), serves every row of a tile; the `f32` sums live in the first-level cache. The three
//! instructions whose intrinsics are not stable yet are inline assembly.

use super::activations::{Activations, Block, GroupPosition, TILE};
use super::format::{BlockFormat, Scaling};
use super::packed::{Line, PANEL, PackedMatrix, Panel, PanelBlock, Scales};
use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

/// The loops over panels, blocks and rows, for one way to form dot products.
macro_rules! matmul {
    ($features:literal) => {
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
                    let mut sums = [[Sums::ZERO; 4]; TILE];
                    let position = |b| x.group_position(b);
                    tile::<F>(w.panel(panel), blocks, position, &mut sums[..rows]);
                    for (out, sums) in out[first_row..].iter_mut().zip(&sums[..rows]) {
                        out.copy_from_slice(sums.map(|quarter| quarter.total).as_flattened());
                    }
                }
            }
        }

        /// One panel and a tile of rows; `x` is `[block, row]`.
        ///
        /// ```text
        /// for each block b of 32 inputs:
        ///     for each quarter of the panel:
        ///         w = unpack block b of the quarter        8 registers
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
            sums: &mut [[Sums; 4]],
        ) {
            for (b, x) in x.chunks_exact(sums.len()).enumerate() {
                let position = position(b);
                for quarter in 0..4 {
                    let mut w = Weights::unpack::<F>(panel, b, quarter);
                    w.quants = arrange(w.quants);
                    let (x_pairs, x_last) = x.as_chunks::<2>();
                    let (sums_pairs, sums_last) = sums.as_chunks_mut::<2>();
                    for (x, sums) in x_pairs.iter().zip(sums_pairs) {
                        let dots = dots::<F, 2>(&w.quants, x);
                        for r in 0..2 {
                            w.add::<F>(&x[r], dots[r], position, &mut sums[r][quarter]);
                        }
                    }
                    for (x, sums) in x_last.as_chunks::<1>().0.iter().zip(sums_last) {
                        let [dots] = dots::<F, 1>(&w.quants, x);
                        w.add::<F>(&x[0], dots, position, &mut sums[quarter]);
                    }
                }
            }
        }
    };
}

/// With `sdot`: 4 columns x 4 inputs an instruction.
pub(super) mod dotprod {
    use super::*;

    matmul!("neon,dotprod");

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn arrange(quants: [int8x16_t; 8]) -> [int8x16_t; 8] {
        quants
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn dots<F: BlockFormat, const R: usize>(
        w: &[int8x16_t; 8],
        x: &[Block; R],
    ) -> [[int32x4_t; 2]; R] {
        let mut dots = [[vdupq_n_s32(0); 2]; R];
        for half in 0..2 {
            let sum = F::part(4 * half);
            for r in 0..R {
                let inputs = load_inputs(&x[r], half);
                dots[r][sum] = sdot_lane::<0>(dots[r][sum], w[4 * half], inputs);
                dots[r][sum] = sdot_lane::<1>(dots[r][sum], w[4 * half + 1], inputs);
                dots[r][sum] = sdot_lane::<2>(dots[r][sum], w[4 * half + 2], inputs);
                dots[r][sum] = sdot_lane::<3>(dots[r][sum], w[4 * half + 3], inputs);
            }
        }
        dots
    }

    /// Adds to each column the product of its 4 inputs with the `LANE`-th 4 of `x`.
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    fn sdot_lane<const LANE: u8>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: works on registers only, with an instruction that the enabled feature provides.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                lane = const LANE,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// See `matmul::peak_ops`.
    #[target_feature(enable = "neon,dotprod")]
    pub(in crate::kernels) fn peak_ops(rounds: u64) -> u64 {
        let mut sums = [vdupq_n_s32(0); 16];
        let [w, x] = [vdupq_n_s8(3), vdupq_n_s8(2)];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sdot_lane::<0>(*sum, w, x);
            }
        }
        for sum in sums {
            std::hint::black_box(vaddvq_s32(sum));
        }
        rounds * 16 * 32
    }
}

/// With `smmla`: 2 columns x 2 rows x 8 inputs an instruction.
pub(super) mod i8mm {
    use super::*;

    matmul!("neon,dotprod,i8mm");

    /// From 4 inputs of 4 columns to 8 inputs of 2 columns: element `2t` has columns 0 and 1, `2t +
    /// 1` columns 2 and 3, of inputs `8t..`.
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn arrange(quants: [int8x16_t; 8]) -> [int8x16_t; 8] {
        let mut pairs = quants;
        for t in 0..4 {
            let [a, b] = [
                vreinterpretq_s32_s8(quants[2 * t]),
                vreinterpretq_s32_s8(quants[2 * t + 1]),
            ];
            pairs[2 * t] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
            pairs[2 * t + 1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
        }
        pairs
    }

    /// A single row is taken twice.
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn dots<F: BlockFormat, const R: usize>(
        w: &[int8x16_t; 8],
        x: &[Block; R],
    ) -> [[int32x4_t; 2]; R] {
        // [half of the block, columns 0 and 1 or 2 and 3]
        let mut products = [[vdupq_n_s32(0); 2]; 2];
        for half in 0..2 {
            let sum = F::part(4 * half);
            let first = vreinterpretq_s64_s8(load_inputs(&x[0], half));
            let second = vreinterpretq_s64_s8(load_inputs(&x[R - 1], half));
            let inputs = [vzip1q_s64(first, second), vzip2q_s64(first, second)];
            for (i, inputs) in inputs.into_iter().enumerate() {
                let inputs = vreinterpretq_s8_s64(inputs);
                for columns in 0..2 {
                    let w = w[2 * (2 * half + i) + columns];
                    products[sum][columns] = smmla(products[sum][columns], inputs, w);
                }
            }
        }
        let mut dots = [[vdupq_n_s32(0); 2]; R];
        for half in 0..2 {
            let [a, b] = [
                vreinterpretq_s64_s32(products[half][0]),
                vreinterpretq_s64_s32(products[half][1]),
            ];
            dots[0][half] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
            if R == 2 {
                dots[R - 1][half] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
            }
        }
        dots
    }

    /// Adds the product of `x`, `[2, 8]`, with the transpose of `w`, `[2, 8]`.
    #[inline]
    #[target_feature(enable = "neon,dotprod,i8mm")]
    fn smmla(mut sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: works on registers only, with an instruction that the enabled feature provides.
        unsafe {
            asm!(
                "smmla {sum:v}.4s, {x:v}.16b, {w:v}.16b",
                sum = inout(vreg) sum,
                x = in(vreg) x,
                w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// See `matmul::peak_ops`.
    #[target_feature(enable = "neon,dotprod,i8mm")]
    pub(in crate::kernels) fn peak_ops(rounds: u64) -> u64 {
        let mut sums = [vdupq_n_s32(0); 16];
        let [w, x] = [vdupq_n_s8(3), vdupq_n_s8(2)];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = smmla(*sum, x, w);
            }
        }
        for sum in sums {
            std::hint::black_box(vaddvq_s32(sum));
        }
        rounds * 16 * 64
    }
}

/// The sums of one row and a quarter of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Sums {
    total: [f32; 4],
    /// Of the group so far, without the scale of the activations.
    part: [f32; 4],
}

impl Sums {
    const ZERO: Self = Self {
        total: [0.0; 4],
        part: [0.0; 4],
    };
}

/// One block of a quarter of a panel, unpacked.
struct Weights {
    /// 4 signed inputs of 4 columns each.
    quants: [int8x16_t; 8],
    /// Of each part of the block.
    scales: [float32x4_t; 2],
    /// As in [`super::stored::Scaled`].
    mins: [float32x4_t; 2],
}

impl Weights {
    #[inline]
    #[target_feature(enable = "neon")]
    fn unpack<F: BlockFormat>(panel: Panel<'_>, b: usize, quarter: usize) -> Self {
        let block = panel.block::<F>(b);
        let [low, high] = F::LAYOUT.bits;
        let (low_lines, high_lines) = block.lines.split_at(low);
        let mut quants = [vdupq_n_s8(0); 8];
        for (t, quants) in quants.iter_mut().enumerate() {
            let mut unsigned = bits(low_lines, low, 0, t, quarter);
            if high > 0 {
                unsigned = vorrq_u8(unsigned, bits(high_lines, high, low, t, quarter));
            }
            if let Some(table) = &F::LAYOUT.table {
                unsigned = vqtbl1q_u8(load_table(table), unsigned);
            }
            let offset = vdupq_n_u8(F::LAYOUT.offset);
            *quants = vreinterpretq_s8_u8(vsubq_u8(unsigned, offset)); // modulo 256
        }
        let (scales, mins) = scales::<F>(block, quarter);
        Self {
            quants,
            scales,
            mins,
        }
    }

    /// Adds a block's dot products to the sums of a row, as [`super::scalar`] defines.
    #[inline]
    #[target_feature(enable = "neon")]
    fn add<F: BlockFormat>(
        &self,
        x: &Block,
        dots: [int32x4_t; 2],
        position: GroupPosition,
        sums: &mut Sums,
    ) {
        let part = if position.begins {
            vdupq_n_f32(0.0)
        } else {
            load_sums(&sums.part)
        };
        let part = vfmaq_f32(part, vcvtq_f32_s32(dots[0]), self.scales[0]);
        let part = match F::LAYOUT.parts {
            1 => part,
            _ => vfmaq_f32(part, vcvtq_f32_s32(dots[1]), self.scales[1]),
        };
        let part = match F::LAYOUT.scaling {
            Scaling::Half | Scaling::Signed => part,
            Scaling::HalfWithMin | Scaling::WithMin => {
                let part = vfmsq_f32(part, self.mins[0], vdupq_n_f32(x.sum));
                match F::LAYOUT.parts {
                    1 => part,
                    _ => vfmsq_f32(part, self.mins[1], vdupq_n_f32(x.first_sum)),
                }
            }
        };
        if position.ends {
            let total = vfmaq_f32(load_sums(&sums.total), part, vdupq_n_f32(x.scale));
            store_sums(&mut sums.total, total);
        } else {
            store_sums(&mut sums.part, part);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_sums(sums: &[f32; 4]) -> float32x4_t {
    // SAFETY: the sums are 16 bytes; the load needs no more alignment than they have.
    unsafe { vld1q_f32(sums.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_sums(to: &mut [f32; 4], sums: float32x4_t) {
    // SAFETY: the sums are 16 bytes; the store needs no more alignment than they have.
    unsafe { vst1q_f32(to.as_mut_ptr(), sums) }
}

/// The `count` bits of word `t` that some lines hold, moved up by `to`.
#[inline]
#[target_feature(enable = "neon")]
fn bits(lines: &[Line], count: usize, to: usize, t: usize, quarter: usize) -> uint8x16_t {
    let line = load(&lines[t % count], quarter);
    let up = to as i8 - (count * (t / count)) as i8;
    // Constant where this is inlined, as all of it is.
    let line = match up {
        0 => line,
        _ => vshlq_u8(line, vdupq_n_s8(up)),
    };
    vandq_u8(line, vdupq_n_u8((((1u32 << count) - 1) << to) as u8))
}

#[inline]
#[target_feature(enable = "neon")]
fn load_table(table: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the table is 16 bytes; the load needs no more alignment than they have.
    unsafe { vld1q_u8(table.as_ptr()) }
}

/// Scales and minimums of a block, as [`super::stored::Scaled`] defines them.
#[inline]
#[target_feature(enable = "neon")]
fn scales<F: BlockFormat>(
    block: PanelBlock<'_>,
    quarter: usize,
) -> ([float32x4_t; 2], [float32x4_t; 2]) {
    let none = vdupq_n_f32(0.0);
    let half = |row: &Scales| halves(load_scales(row, quarter));
    let scales = load_scales(&block.scales[0], quarter);
    match (F::LAYOUT.scaling, F::LAYOUT.parts) {
        (Scaling::Half, _) => ([halves(scales), none], [none; 2]),
        (Scaling::HalfWithMin, _) => ([halves(scales), none], [half(&block.scales[1]), none]),
        (Scaling::Signed, _) => {
            let d = half(&block.supers[0]);
            let packed = vmovl_s16(vreinterpret_s16_u16(scales));
            let first = vshrq_n_s32::<24>(vshlq_n_s32::<24>(packed));
            let second = vshrq_n_s32::<8>(packed);
            let scales = [first, second].map(|scale| vmulq_f32(d, vcvtq_f32_s32(scale)));
            (scales, [none; 2])
        }
        (Scaling::WithMin, parts) => {
            let [d, d_min] = [half(&block.supers[0]), half(&block.supers[1])];
            let packed = vmovl_u16(scales);
            if parts == 1 {
                let scale = vcvtq_f32_u32(vandq_u32(packed, vdupq_n_u32(0xff)));
                let min = vcvtq_f32_u32(vshrq_n_u32::<8>(packed));
                return ([vmulq_f32(d, scale), none], [vmulq_f32(d_min, min), none]);
            }
            let mask = vdupq_n_u32(15);
            let scale = [packed, vshrq_n_u32::<8>(packed)];
            let min = vreinterpretq_s32_u32(vshrq_n_u32::<12>(packed));
            let more = vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32::<4>(packed), mask));
            let more = vsubq_s32(more, min);
            (
                scale.map(|scale| vmulq_f32(d, vcvtq_f32_u32(vandq_u32(scale, mask)))),
                [min, more].map(|min| vmulq_f32(d_min, vcvtq_f32_s32(min))),
            )
        }
    }
}

/// Columns `4 * quarter..` of a line.
#[inline]
#[target_feature(enable = "neon")]
fn load(line: &Line, quarter: usize) -> uint8x16_t {
    let columns = &line.0.as_chunks::<4>().0[quarter];
    // SAFETY: 4 words are 16 bytes; the load needs no more alignment than they have.
    unsafe { vld1q_u8(columns.as_ptr().cast()) }
}

/// Columns `4 * quarter..` of some scales.
#[inline]
#[target_feature(enable = "neon")]
fn load_scales(scales: &Scales, quarter: usize) -> uint16x4_t {
    let columns = &scales.0.as_chunks::<4>().0[quarter];
    // SAFETY: 4 half words are 8 bytes; the load needs no more alignment than they have.
    unsafe { vld1_u16(columns.as_ptr()) }
}

/// 16 inputs: the first or the second half of a block.
#[inline]
#[target_feature(enable = "neon")]
fn load_inputs(x: &Block, half: usize) -> int8x16_t {
    let words = &x.words.as_chunks::<4>().0[half];
    // SAFETY: 4 words are 16 bytes; the load needs no more alignment than they have.
    unsafe { vld1q_s8(words.as_ptr().cast()) }
}

/// 4 scales in half precision.
#[inline]
#[target_feature(enable = "neon")]
fn halves(scales: uint16x4_t) -> float32x4_t {
    let values: float32x4_t;
    // SAFETY: works on registers only, with an instruction that every NEON has.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {scales:v}.4h",
            values = lateout(vreg) values,
            scales = in(vreg) scales,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}
