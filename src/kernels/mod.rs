//! Matrix products of block-quantised weights with a few hundred rows of activations, in 8-bit integers.
//!
//! `Y[rows, n] = X[rows, k] · W[n, k]ᵀ`, where `W` arrives in llama.cpp's block formats and `X` as `f32`. Both sides become small integers, `W`
//! with a scale per block of 32 inputs, `X` with one for up to 4 blocks; a block's dot product is an exact `i32`, and the blocks are added up in
//! `f32` in the order that `scalar` defines.
//! Every version adds them in that order with the same fused operations, so all of them give the same bits.
//!
//! - [`PackedMatrix`] holds the weights as the kernels read them: panels of 16 columns, rearranged once at load.
//! - [`Activations`] holds the rows, quantised once and shared by every matrix that reads them.
//! - [`Isa`] is a proof that this CPU has the instructions that a kernel uses.
//! - [`matmul_panels`] computes a range of panels: the unit that a caller hands to its threads. Its output is panel-major,
//!   `[panel, row, 16]`, so that a range of panels is one slice and threads share nothing; [`copy_rows`] turns it into rows.

mod activations;
mod attention;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx2;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512;
mod dense;
pub mod limits;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
mod packed;
mod portable;
mod scalar;
#[cfg(test)]
mod tests;

pub use activations::{Activations, ActivationsPart};
pub use attention::{HeadKeyValues, KeyValues};
pub use dense::{DenseMatrix, FloatFormat, matmul_dense};
pub use packed::{Format, PackError, PackedMatrix};
pub use portable::{
    LANES, Lanes, Source, negative_entropy, rms_scales, silu, softmax_terms, write_row,
};

use std::fmt;
use std::ops::Range;

/// Columns of a panel: what one 512-bit register holds of 4 inputs each.
pub const PANEL: usize = 16;
/// Inputs that share a scale.
pub const BLOCK: usize = 32;

/// An instruction set that this CPU has. The field is private: only detection makes one, so holding one proves support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Isa {
    /// Every name that [`Isa::named`] knows, on any CPU.
    pub const NAMES: [&str; 6] = [
        "scalar",
        "avx2",
        "avxvnni",
        "avx512vnni",
        "neon-dotprod",
        "neon-i8mm",
    ];

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self(Kind::Scalar))
    }

    /// What this CPU can run, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        KINDS
            .iter()
            .filter(|kind| kind.detected())
            .map(|&kind| Self(kind))
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn named(name: &str) -> Option<Self> {
        Self::available().find(|isa| isa.name() == name)
    }

    /// Its name, as in [`Isa::NAMES`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm => "neon-i8mm",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
const KINDS: &[Kind] = &[Kind::Scalar, Kind::Avx2, Kind::AvxVnni, Kind::Avx512Vnni];
#[cfg(target_arch = "aarch64")]
const KINDS: &[Kind] = &[Kind::Scalar, Kind::NeonDotprod, Kind::NeonI8mm];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const KINDS: &[Kind] = &[Kind::Scalar];

impl Kind {
    /// Whether this CPU has every feature that the kernels of this kind enable.
    fn detected(self) -> bool {
        #[cfg(target_arch = "aarch64")]
        use std::arch::is_aarch64_feature_detected as has;
        #[cfg(target_arch = "x86_64")]
        use std::arch::is_x86_feature_detected as has;
        match self {
            Kind::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => Kind::Avx2.detected() && has!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni => {
                Kind::Avx2.detected() && has!("avx512f") && has!("avx512bw") && has!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotprod => has!("neon") && has!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm => Kind::NeonDotprod.detected() && has!("i8mm"),
        }
    }
}

/// Multiplies the rows of `x` with some panels of `w`: element `[panel, row, column]` of `out` is the product of that row with weight row
/// `16 * (panels.start + panel) + column`.
///
/// # Panics
/// If the inner sizes differ, the panels do not exist or `out` is not `panels.len() * x.rows() * 16` long.
pub fn matmul_panels(
    isa: Isa,
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    out: &mut [f32],
) {
    assert_eq!(
        w.k(),
        x.k(),
        "weights and activations differ in their inner size"
    );
    assert!(
        panels.start <= panels.end && panels.end <= w.panels(),
        "no such panels: {panels:?}"
    );
    assert_eq!(
        out.len(),
        panels.len() * x.rows() * PANEL,
        "the output has the wrong length"
    );
    let (out, _) = out.as_chunks_mut::<PANEL>();
    dispatch(isa, w, x, panels, out);
}

#[allow(unsafe_code)]
fn dispatch(
    isa: Isa,
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    out: &mut [[f32; PANEL]],
) {
    match isa.0 {
        Kind::Scalar => scalar::matmul(w, x, panels, out),
        // SAFETY: an `Isa` of this kind exists only where `Kind::detected` found every feature that the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::matmul(w, x, panels, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::AvxVnni => unsafe { avx2::vnni::matmul(w, x, panels, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni => unsafe { avx512::matmul(w, x, panels, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonDotprod => unsafe { neon::dotprod::matmul(w, x, panels, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonI8mm => unsafe { neon::i8mm::matmul(w, x, panels, out) },
    }
}

/// The machine's limit: runs `rounds` of nothing but the instruction set's dot products, from registers, and returns the operations done
/// (two for each product of 8-bit numbers). Time it on as many threads as the products use.
#[allow(unsafe_code)]
pub fn peak_ops(isa: Isa, rounds: u64) -> u64 {
    match isa.0 {
        // SAFETY: an `Isa` of this kind exists only where `Kind::detected` found every feature that the function enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { avx2::peak_ops(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::AvxVnni => unsafe { avx2::vnni::peak_ops(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512Vnni => unsafe { avx512::peak_ops(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonDotprod => unsafe { neon::dotprod::peak_ops(rounds) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Kind::NeonI8mm => unsafe { neon::i8mm::peak_ops(rounds) },
        Kind::Scalar => scalar::peak_ops(rounds),
    }
}

/// Copies rows `first_row..` of the panel-major product `[panels, rows, 16]` into `out`, `[some rows, n]`: as many as `out` holds.
///
/// # Panics
/// If `out` is not whole rows of `n`, or `product` does not hold `rows` rows of that many columns.
pub fn copy_rows(product: &[f32], rows: usize, n: usize, first_row: usize, out: &mut [f32]) {
    assert_eq!(
        product.len(),
        n.div_ceil(PANEL) * rows * PANEL,
        "the product has the wrong length"
    );
    assert_eq!(out.len() % n, 0, "the output is not whole rows");
    let (product, _) = product.as_chunks::<PANEL>();
    // A few rows at a time: each panel's part of them is contiguous, and so is what is written to each.
    const ROWS: usize = 16;
    for (first, out) in (first_row..).step_by(ROWS).zip(out.chunks_mut(ROWS * n)) {
        for (panel, product) in product.chunks_exact(rows).enumerate() {
            for (out, values) in out.chunks_exact_mut(n).zip(&product[first..]) {
                let columns = &mut out[panel * PANEL..];
                let count = columns.len().min(PANEL);
                columns[..count].copy_from_slice(&values[..count]);
            }
        }
    }
}
