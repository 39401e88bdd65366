//! Plain Rust that is compiled once for each instruction set, and the few functions of numbers that
//! it shares.
//!
//! The code works on arrays of 16 lanes, which the compiler turns into whatever registers the
//! instruction set has. Nothing in it may be reordered (Rust never does), and products and sums are
//! fused where [`f32::mul_add`] says so: every instruction set gives the same bits.

use super::isa::{Isa, Portable, run};
use super::packed::{BLOCK, LANES};

/// A register's worth of numbers.
pub type Lanes = [f32; LANES];

/// Rows of numbers that are made on the way to a product: an operation without storing its result.
pub trait LazyRows: Sync {
    /// Writes the numbers of `row` from `first` on, 32 or, at the end of a row, fewer. To be
    /// `#[inline(always)]`, with all that it calls, as it is compiled for each instruction set; a
    /// closure cannot be made to.
    fn write(&self, row: usize, first: usize, values: &mut [f32]);
}

/// Writes a whole row.
pub fn write_row(isa: Isa, source: &impl LazyRows, row: usize, values: &mut [f32]) {
    struct Row<'a, S> {
        source: &'a S,
        row: usize,
        values: &'a mut [f32],
    }
    impl<S: LazyRows> Portable for Row<'_, S> {
        #[inline(always)]
        fn run(self) {
            for (block, values) in self.values.chunks_mut(BLOCK).enumerate() {
                self.source.write(self.row, block * BLOCK, values);
            }
        }
    }
    run(
        isa,
        Row {
            source,
            row,
            values,
        },
    );
}

/// `e^x` with a relative error below 2e-7; what underflows f32's normal numbers is 0, what
/// overflows stays at the largest. (Cody and Waite's reduction, minimax polynomial of Cephes'
/// `expf`.) In a loop over neighbours the compiler takes as many as a register holds.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ];
    let clamped = x.clamp(-88.0, 88.3);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, clamped));
    let tail = POLYNOMIAL.iter().fold(0.0f32, |sum, &c| sum.mul_add(r, c));
    let mantissa = tail.mul_add(r * r, r) + 1.0;
    // 2^n by its exponent bits; n is from -127 to 127.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { mantissa * power }
}

/// `ln(x)` for each lane of positive normal numbers, with an error below 2e-7 of the larger of the
/// result and 1. (Cephes' `logf`.)
#[inline(always)]
fn ln(x: Lanes) -> Lanes {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const HALF_SQRT: u32 = 0x3f35_04f3; // sqrt(1/2)
    const POLYNOMIAL: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let mut y = [0.0; LANES];
    for (y, x) in y.iter_mut().zip(x) {
        // x = mantissa * 2^n, with the mantissa from sqrt(1/2) to sqrt(2).
        let above = x.to_bits().wrapping_sub(HALF_SQRT);
        let n = (above.cast_signed() >> 23) as f32;
        let mantissa = f32::from_bits((above & 0x007f_ffff) + HALF_SQRT);
        let r = mantissa - 1.0;
        let tail = POLYNOMIAL.iter().fold(0.0f32, |sum, &c| sum.mul_add(r, c));
        let low = (tail * r).mul_add(r * r, n * LN_2_LOW);
        *y = n.mul_add(LN_2_HIGH, (-0.5 * r).mul_add(r, low) + r);
    }
    y
}

/// Sum of `p * ln(p + 1e-10)`, the negative entropy as Dream's reference computes it, nats.
pub fn negative_entropy(isa: Isa, probs: &[f32]) -> f64 {
    struct Sum<'a>(&'a [f32]);
    impl Portable<f64> for Sum<'_> {
        #[inline(always)]
        fn run(self) -> f64 {
            let (lanes, rest) = self.0.as_chunks::<LANES>();
            let mut last = [0.0; LANES];
            last[..rest.len()].copy_from_slice(rest);
            let mut sums = [0f64; LANES];
            for p in lanes.iter().chain([&last]) {
                let mut shifted = *p;
                for p in &mut shifted {
                    *p += 1e-10;
                }
                let logs = ln(shifted);
                for ((sum, p), log) in sums.iter_mut().zip(p).zip(logs) {
                    *sum += f64::from(p * log);
                }
            }
            sums.iter().sum()
        }
    }
    run(isa, Sum(probs))
}

/// `x * sigmoid(x)` for each lane.
#[inline(always)]
pub fn silu(x: Lanes) -> Lanes {
    let mut y = [0.0; LANES];
    for (y, x) in y.iter_mut().zip(x) {
        *y = x / (1.0 + exp(-x));
    }
    y
}

/// Sum of the lanes, in a fixed order.
#[inline(always)]
pub(super) fn sum(x: Lanes) -> f32 {
    let mut x = x;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            x[i] += x[i + half];
        }
    }
    x[0]
}

/// The terms of a softmax, in place: `e^(x / divisor)` of each logit over that of the largest, so
/// that they are from 0 to 1. Returns their sum, or `None` if a logit is not finite.
pub fn softmax_terms(isa: Isa, logits: &mut [f32], divisor: f32) -> Option<f64> {
    struct Terms<'a> {
        logits: &'a mut [f32],
        divisor: f32,
    }
    impl Portable<Option<f64>> for Terms<'_> {
        #[inline(always)]
        fn run(self) -> Option<f64> {
            let Self { logits, divisor } = self;
            // Bit patterns of absolute values are ordered as the values are, and those not finite
            // come last.
            let size = |x: f32| x.to_bits() & 0x7fff_ffff;
            let (mut sizes, mut most) = ([0; LANES], [f32::MIN; LANES]);
            let (lanes, rest) = logits.as_chunks::<LANES>();
            for x in lanes {
                for ((most, largest), &x) in most.iter_mut().zip(&mut sizes).zip(x) {
                    *largest = size(x).max(*largest);
                    *most = if x > *most { x } else { *most };
                }
            }
            let rest = rest.iter().copied();
            let largest = sizes.into_iter().chain(rest.clone().map(size));
            if largest.fold(0, u32::max) >= f32::INFINITY.to_bits() {
                return None;
            }
            // Clamped: an infinity would turn into NaN below.
            let scaled = |x: f32| (x / divisor).clamp(f32::MIN, f32::MAX);
            let most = scaled(most.into_iter().chain(rest).fold(f32::MIN, f32::max));

            let mut sums = [0f64; LANES];
            let (lanes, rest) = logits.as_chunks_mut::<LANES>();
            for x in lanes {
                for x in x.iter_mut() {
                    *x = exp(scaled(*x) - most);
                }
                for (sum, &x) in sums.iter_mut().zip(x.iter()) {
                    *sum += f64::from(x);
                }
            }
            let mut last = [f32::NEG_INFINITY; LANES];
            for (to, &x) in last.iter_mut().zip(rest.iter()) {
                *to = scaled(x) - most;
            }
            for x in &mut last {
                *x = exp(*x);
            }
            rest.copy_from_slice(&last[..rest.len()]);
            Some(sums.iter().chain(&last.map(f64::from)).sum())
        }
    }
    run(isa, Terms { logits, divisor })
}

/// Divides terms by their sum; those below `least` become 0.
pub fn normalize(isa: Isa, terms: &mut [f32], least: f32, sum: f32) {
    struct Probabilities<'a> {
        terms: &'a mut [f32],
        least: f32,
        sum: f32,
    }
    impl Portable for Probabilities<'_> {
        #[inline(always)]
        fn run(self) {
            for term in self.terms {
                *term = if *term < self.least {
                    0.0
                } else {
                    *term / self.sum
                };
            }
        }
    }
    run(isa, Probabilities { terms, least, sum });
}

/// `1 / sqrt(mean(x²) + eps)` of each row: what an RMS norm scales it by. `xs` is `[rows, width]`.
///
/// # Panics
/// If `xs` is not `scales.len()` whole rows.
pub fn rms_scales(isa: Isa, xs: &[f32], eps: f32, scales: &mut [f32]) {
    struct Scales<'a> {
        xs: &'a [f32],
        eps: f32,
        scales: &'a mut [f32],
    }
    impl Portable for Scales<'_> {
        #[inline(always)]
        fn run(self) {
            let width = self.xs.len() / self.scales.len();
            for (row, scale) in self.xs.chunks_exact(width).zip(self.scales) {
                let (lanes, rest) = row.as_chunks::<LANES>();
                let mut squares = [0.0; LANES];
                for x in lanes {
                    for (square, x) in squares.iter_mut().zip(x) {
                        *square = x.mul_add(*x, *square);
                    }
                }
                let rest = rest.iter().fold(0.0f32, |sum, x| x.mul_add(*x, sum));
                let mean = (sum(squares) + rest) / width as f32;
                *scale = 1.0 / (mean + self.eps).sqrt();
            }
        }
    }
    if scales.is_empty() {
        return;
    }
    assert!(
        xs.len().is_multiple_of(scales.len()),
        "the numbers are not whole rows"
    );
    run(isa, Scales { xs, eps, scales });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_two_in_ten_million() {
        for i in -8730..=8820 {
            let x = i as f32 / 100.0;
            let (found, expected) = (exp(x), f64::from(x).exp());
            let error = (f64::from(found) - expected).abs() / expected;
            assert!(
                error < 2e-7,
                "exp({x}) = {found}, not {expected}: {error:e}"
            );
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite());
    }

    #[test]
    fn ln_is_exact_to_two_in_ten_million() {
        let bits = (f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits()).step_by(99_991);
        for x in bits.map(f32::from_bits).chain([1e-10, 0.5, 1.0, 2.0]) {
            let (found, expected) = (ln([x; LANES])[5], f64::from(x).ln());
            let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
            assert!(error < 2e-7, "ln({x}) = {found}, not {expected}: {error:e}");
        }
        assert_eq!(ln([1.0; LANES])[0], 0.0);
    }

    #[test]
    fn negative_entropy_is_that_of_the_definition() {
        let probs: Vec<f32> = (0..37).map(|i| (i * 7919 % 100) as f32 / 1813.0).collect();
        let of = |probs: &[f32], isa| negative_entropy(isa, probs);
        let scalar = Isa::SCALAR;
        let terms = probs.iter().map(|&p| f64::from(p));
        let expected: f64 = terms.map(|p| p * (p + 1e-10).ln()).sum();
        assert!((of(&probs, scalar) - expected).abs() < 1e-6);
        assert_eq!(of(&[0.0, 1.0, 0.0], scalar), 0.0);
        for isa in Isa::available() {
            assert_eq!(of(&probs, isa), of(&probs, scalar), "{isa}");
        }
    }

    #[test]
    fn softmax_terms_are_over_the_largest() {
        let logits: Vec<f32> = (0..37).map(|i| (i * 7919 % 100) as f32 / 9.0).collect();
        let most = logits.iter().copied().fold(0.0, f32::max);
        let terms = |isa| {
            let mut row = logits.clone();
            let sum = softmax_terms(isa, &mut row, 0.5).unwrap();
            (row, sum)
        };
        let scalar = terms(Isa::SCALAR);
        for (term, logit) in scalar.0.iter().zip(&logits) {
            let expected = (2.0 * f64::from(logit - most)).exp();
            assert!((f64::from(*term) - expected).abs() < 1e-6 * expected + 1e-9);
        }
        let sum: f64 = scalar.0.iter().copied().map(f64::from).sum();
        assert!((scalar.1 - sum).abs() < 1e-12);
        for isa in Isa::available() {
            assert_eq!(terms(isa), scalar, "{isa}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 20, 36] {
                let mut row = logits.clone();
                row[at] = bad;
                assert_eq!(softmax_terms(Isa::detect(), &mut row, 1.0), None);
            }
        }
    }

    #[test]
    fn silu_of_large_and_small_numbers() {
        for (x, expected) in [
            (0.0, 0.0),
            (100.0, 100.0),
            (-100.0, 0.0),
            (1.0, 0.731_058_6),
        ] {
            assert!((silu([x; LANES])[0] - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let xs: Vec<f32> = (0..3 * 37)
            .map(|i| (i * 7919 % 1000) as f32 / 99.0)
            .collect();
        let scales = |isa| {
            let mut scales = [0.0; 3];
            rms_scales(isa, &xs, 1e-6, &mut scales);
            scales.map(f32::to_bits)
        };
        let expected = xs[..37].iter().map(|x| x * x).sum::<f32>() / 37.0;
        let scalar = scales(Isa::SCALAR);
        assert!((f32::from_bits(scalar[0]) * expected.sqrt() - 1.0).abs() < 1e-5);
        for isa in Isa::available() {
            assert_eq!(scales(isa), scalar, "{isa}");
        }
    }
}
