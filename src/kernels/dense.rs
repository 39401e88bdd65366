//! Products with weights that are floating-point numbers, stored as f32, f16 or bf16.
//!
//! The weights lie in panels as the quantized ones do ([`super::packed`]): 16 columns of the
//! product side by side for each input. A tile of rows keeps its sums in registers, one fused
//! product and sum an input, in the order of the inputs.

use super::isa::{self, Isa, Portable};
use super::packed::{BLOCK, LANES, PANEL, room};
use super::portable::Lanes;
use super::prefetch::{Level, prefetch};
use rayon::prelude::*;
use std::fmt;
use std::ops::Range;

/// How floating-point weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl fmt::Display for FloatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// A weight matrix `[n, k]` of floating-point numbers in panels of 16 columns of the product;
/// missing columns of the last panel are zero.
pub struct DenseMatrix {
    n: usize,
    k: usize,
    panels: Panels,
}

/// `[panel, input, 16]`
enum Panels {
    F32(Vec<Line<f32>>),
    F16(Vec<Line<u16>>),
    Bf16(Vec<Line<u16>>),
}

/// An input's weights for the columns of a panel. Aligned, so that no load is of two cache lines:
/// else every second one of AVX2 may be.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
struct Line<T>([T; PANEL]);

impl DenseMatrix {
    /// Packs single-precision numbers, `[n, k]`.
    ///
    /// # Panics
    /// If they are not `n * k`.
    pub fn from_f32(values: &[f32], n: usize, k: usize) -> Self {
        let panels = Panels::F32(pack(values, n, k));
        Self { n, k, panels }
    }

    /// Packs the bits of half-precision numbers of either kind, `[n, k]`; those of IEEE must be
    /// finite.
    ///
    /// # Panics
    /// If they are not `n * k`, or the format is f32.
    pub(crate) fn from_halves(format: FloatFormat, bits: &[u16], n: usize, k: usize) -> Self {
        let packed = pack(bits, n, k);
        let panels = match format {
            FloatFormat::F16 => Panels::F16(packed),
            FloatFormat::Bf16 => Panels::Bf16(packed),
            FloatFormat::F32 => panic!("single precision is not a half"),
        };
        Self { n, k, panels }
    }

    /// How the weights are stored.
    pub(crate) fn format(&self) -> FloatFormat {
        match self.panels {
            Panels::F32(_) => FloatFormat::F32,
            Panels::F16(_) => FloatFormat::F16,
            Panels::Bf16(_) => FloatFormat::Bf16,
        }
    }

    /// Columns of the product: rows of the weight matrix.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Inputs of each column.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Panels of 16 columns, the last one padded.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }
}

/// `[n, k]` to `[panel, input, 16]`, on all threads.
fn pack<T: Copy + Default + Send + Sync>(values: &[T], n: usize, k: usize) -> Vec<Line<T>> {
    assert_eq!(values.len(), n * k, "the weights have the wrong length");
    let count = n.div_ceil(PANEL) * k;
    let mut packed: Vec<Line<T>> = room(count);
    let panels = packed.spare_capacity_mut()[..count].par_chunks_exact_mut(k);
    panels
        .zip(values.par_chunks(PANEL * k))
        .for_each(|(panel, columns)| {
            let columns: Vec<&[T]> = columns.chunks_exact(k).collect();
            for (i, line) in panel.iter_mut().enumerate() {
                let mut lanes = [T::default(); PANEL];
                for (lane, column) in lanes.iter_mut().zip(&columns) {
                    *lane = column[i];
                }
                line.write(Line(lanes));
            }
        });
    // SAFETY: there are as many panels as chunks of 16 columns, and every line of them was written.
    #[allow(unsafe_code)]
    unsafe {
        packed.set_len(count);
    }
    packed
}

/// Multiplies rows `x`, `[rows, k]`, with some panels of `w`: element `[panel, row, column]` of
/// `out` is the product of that row with weight row `16 * (panels.start + panel) + column`.
///
/// # Panics
/// If `x` is not whole rows, the panels do not exist or `out` has the wrong length.
pub fn matmul_dense(isa: Isa, w: &DenseMatrix, x: &[f32], panels: Range<usize>, out: &mut [f32]) {
    assert!(x.len().is_multiple_of(w.k), "the inputs are not whole rows");
    let rows = x.len() / w.k;
    assert!(
        panels.start <= panels.end && panels.end <= w.panels(),
        "no such panels: {panels:?}"
    );
    assert_eq!(
        out.len(),
        panels.len() * rows * PANEL,
        "the output has the wrong length"
    );
    let (out, _) = out.as_chunks_mut::<PANEL>();
    let (k, lines) = (w.k, panels.start * w.k..panels.end * w.k);
    match &w.panels {
        Panels::F32(w) => product(isa, k, &w[lines], x, out, |line| line),
        Panels::F16(w) => product(isa, k, &w[lines], x, out, f16_to_f32),
        Panels::Bf16(w) => product(isa, k, &w[lines], x, out, bf16_to_f32),
    }
}

fn product<T: Copy, U: Fn([T; PANEL]) -> Lanes>(
    isa: Isa,
    k: usize,
    lines: &[Line<T>],
    x: &[f32],
    out: &mut [Lanes],
    widen: U,
) {
    struct Product<'a, const TILE: usize, T, U> {
        k: usize,
        lines: &'a [Line<T>],
        x: &'a [f32],
        out: &'a mut [Lanes],
        widen: U,
    }
    impl<const TILE: usize, T: Copy, U: Fn([T; PANEL]) -> Lanes> Portable for Product<'_, TILE, T, U> {
        #[inline(always)]
        fn run(self) {
            let rows = self.x.len() / self.k;
            let panels = self.lines.chunks_exact(self.k);
            for (lines, out) in panels.zip(self.out.chunks_exact_mut(rows.max(1))) {
                let (x, out) = tiles::<TILE, T>(lines, self.x, out, &self.widen);
                let (x, out) = tiles::<4, T>(lines, x, out, &self.widen);
                let (x, out) = tiles::<2, T>(lines, x, out, &self.widen);
                tiles::<1, T>(lines, x, out, &self.widen);
            }
        }
    }
    macro_rules! product {
        ($tile:literal) => {{
            let product = Product::<$tile, T, U> {
                k,
                lines,
                x,
                out,
                widen,
            };
            isa::run(isa, product);
        }};
    }
    // As many sums as stay in registers beside a line of weights and an input: 12 + 2 + 1 of 16
    // with AVX2, 24 + 4 + 1 of 32 with NEON. Wide ones take 8 at once, or wait for each other.
    match isa.has_wide_registers() {
        true => product!(8),
        false => product!(6),
    }
}

/// One panel and as many whole tiles of `R` rows as there are; gives back the rows behind them.
#[inline(always)]
fn tiles<'a, const R: usize, T: Copy>(
    lines: &[Line<T>],
    x: &'a [f32],
    out: &'a mut [Lanes],
    widen: &impl Fn([T; PANEL]) -> Lanes,
) -> (&'a [f32], &'a mut [Lanes]) {
    let (tiles, out_rest) = out.as_chunks_mut::<R>();
    let (x, x_rest) = x.split_at(tiles.len() * R * lines.len());
    for (x, out) in x.chunks_exact(R * lines.len()).zip(tiles) {
        tile(lines, x, out, widen);
    }
    (x_rest, out_rest)
}

/// One panel, `R` rows; `x` is `[R, k]`.
#[inline(always)]
fn tile<T: Copy, const R: usize>(
    lines: &[Line<T>],
    x: &[f32],
    out: &mut [Lanes; R],
    widen: &impl Fn([T; PANEL]) -> Lanes,
) {
    let k = lines.len();
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * k..][..k]);
    let mut sums = [[0.0f32; LANES]; R];
    for (i, line) in lines.iter().enumerate() {
        let weights = widen(line.0);
        for r in 0..R {
            let input = rows[r][i];
            for (sum, weight) in sums[r].iter_mut().zip(weights) {
                *sum = weight.mul_add(input, *sum);
            }
        }
    }
    *out = sums;
}

impl DenseMatrix {
    /// Asks the second-level cache for a block of a panel from input `first` on.
    pub(super) fn prefetch(&self, panel: usize, first: usize) {
        let (start, size) = match &self.panels {
            Panels::F32(w) => (w.as_ptr().cast::<u8>(), 4 * PANEL),
            Panels::F16(w) | Panels::Bf16(w) => (w.as_ptr().cast::<u8>(), 2 * PANEL),
        };
        let start = start.wrapping_add((panel * self.k + first) * size);
        prefetch(Level::Second, start, BLOCK * size);
    }

    /// Inputs of a panel's columns from `first` on, rounded to bf16: a row for two of them with one
    /// between, those of a column side by side. Zero behind the last input.
    pub(super) fn bf16_pairs(&self, isa: Isa, panel: usize, first: usize, to: &mut [[u32; PANEL]]) {
        let begin = panel * self.k + first;
        let lines = begin..(begin + 2 * to.len()).min((panel + 1) * self.k);
        match &self.panels {
            Panels::F32(w) => pairs(isa, &w[lines], to, rounded),
            Panels::F16(w) => pairs(isa, &w[lines], to, |line| rounded(f16_to_f32(line))),
            Panels::Bf16(w) => pairs(isa, &w[lines], to, |line| line),
        }
    }
}

fn pairs<T: Copy, U: Fn([T; PANEL]) -> [u16; PANEL]>(
    isa: Isa,
    lines: &[Line<T>],
    to: &mut [[u32; PANEL]],
    round: U,
) {
    struct Pairs<'a, T, U> {
        lines: &'a [Line<T>],
        to: &'a mut [[u32; PANEL]],
        round: U,
    }
    impl<T: Copy, U: Fn([T; PANEL]) -> [u16; PANEL]> Portable for Pairs<'_, T, U> {
        #[inline(always)]
        fn run(self) {
            for (i, to) in self.to.iter_mut().enumerate() {
                let mut halves = [[0; PANEL]; 2];
                let first = i / 2 * 4 + i % 2;
                for (half, line) in halves
                    .iter_mut()
                    .zip(self.lines.iter().skip(first).step_by(2))
                {
                    *half = (self.round)(line.0);
                }
                for (c, to) in to.iter_mut().enumerate() {
                    *to = u32::from(halves[0][c]) | u32::from(halves[1][c]) << 16;
                }
            }
        }
    }
    isa::run(isa, Pairs { lines, to, round });
}

#[inline(always)]
fn rounded(numbers: Lanes) -> [u16; PANEL] {
    let mut halves = [0; PANEL];
    for (half, number) in halves.iter_mut().zip(numbers) {
        *half = to_bf16(number);
    }
    halves
}

/// To nearest, ties to even; what is not a number stays that.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let bits = if x.is_nan() { 0x7fc0_0000 } else { rounded };
    (bits >> 16) as u16
}

#[inline(always)]
fn bf16_to_f32(bits: [u16; PANEL]) -> Lanes {
    bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
}

/// Exact for finite numbers: the bits, moved to where f32 has them, are the number divided by
/// 2^112.
#[inline(always)]
fn f16_to_f32(bits: [u16; PANEL]) -> Lanes {
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    bits.map(|bits| {
        let shifted = i32::from(bits.cast_signed()) << 13; // the sign is in four places
        f32::from_bits(shifted.cast_unsigned() & 0x8fff_e000) * TWO_TO_112
    })
}

#[cfg(test)]
mod tests {
    use super::super::stored::half_to_f32;
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i + seed) * 2_654_435_761 % 2003) as f32 / 1001.0 - 1.0;
        (0..count).map(number).collect()
    }

    /// `[panel, row, 16]` by the definition, in f64.
    fn expected(w: &[f32], x: &[f32], n: usize, k: usize) -> Vec<f64> {
        let rows = x.len() / k;
        let mut out = vec![0.0; n.div_ceil(PANEL) * rows * PANEL];
        for row in 0..rows {
            for column in 0..n {
                let pairs = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
                let sum = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                out[(column / PANEL * rows + row) * PANEL + column % PANEL] = sum;
            }
        }
        out
    }

    #[test]
    fn products_of_odd_sizes_on_every_instruction_set() {
        for (n, k, rows) in [
            (1, 1, 1),
            (16, 7, 3),
            (33, 40, 8),
            (70, 129, 21),
            (5, 64, 10),
        ] {
            let (w, x) = (numbers(n * k, 1), numbers(rows * k, 7));
            let halves: Vec<u16> = w.iter().map(|w| (w.to_bits() >> 16) as u16).collect();
            let truncated: Vec<f32> = halves.iter().map(|h| bf16_to_f32([*h; 16])[0]).collect();
            for (matrix, w) in [
                (DenseMatrix::from_f32(&w, n, k), &w),
                (
                    DenseMatrix::from_halves(FloatFormat::Bf16, &halves, n, k),
                    &truncated,
                ),
            ] {
                let expected = expected(w, &x, n, k);
                let mut first: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let mut out = vec![f32::NAN; expected.len()];
                    let (start, end) = out.split_at_mut(rows * PANEL);
                    matmul_dense(isa, &matrix, &x, 0..1, start);
                    matmul_dense(isa, &matrix, &x, 1..matrix.panels(), end);
                    // k additions of numbers below 1 in absolute value, each rounded once.
                    let bound = (k * k) as f64 * f64::from(f32::EPSILON);
                    for (found, expected) in out.iter().zip(&expected) {
                        assert!(
                            (f64::from(*found) - expected).abs() <= bound,
                            "{isa} {n} {k}"
                        );
                    }
                    assert_eq!(*first.get_or_insert_with(|| out.clone()), out, "{isa}");
                }
            }
        }
    }

    #[test]
    fn every_finite_half_is_exact() {
        for bits in (0..=u16::MAX).filter(|bits| bits >> 10 & 31 != 31) {
            assert_eq!(
                f16_to_f32([bits; 16])[5].to_bits(),
                half_to_f32(bits).to_bits()
            );
        }
    }
}
