//! Products of packed matrices: the one place that goes from an [`Isa`] and a format to a kernel.

use super::activations::Activations;
use super::format::with_format;
use super::isa::{Isa, Kind};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::packed::{PANEL, PackedMatrix};
use super::scalar;
use super::tiles::{self, Model, TileKeyValues, TileRows, TileWeights, attention};
#[cfg(target_arch = "x86_64")]
use super::{amx::Amx, avx2, avx512};
use std::ops::Range;

/// Calls a function of the kernels of an instruction set.
macro_rules! dispatch {
    ($isa:expr, $function:ident $(::<$F:ident>)? ($($argument:expr),*)) => {
        match $isa.kind() {
            Kind::Scalar => scalar::$function$(::<$F>)?($($argument),*),
            // SAFETY: an `Isa` of this kind exists only where detection found every feature that
            // the kernels enable.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::$function$(::<$F>)?($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => unsafe { avx2::vnni::$function$(::<$F>)?($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Vnni | Kind::AmxAlways | Kind::Amx => unsafe {
                avx512::$function$(::<$F>)?($($argument),*)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDotprod => unsafe { neon::dotprod::$function$(::<$F>)?($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::NeonI8mm => unsafe { neon::i8mm::$function$(::<$F>)?($($argument),*) },
        }
    };
}

/// Multiplies the rows of `x` with some panels of `w`: element `[panel, row, column]` of `out` is
/// the product of that row with weight row `16 * (panels.start + panel) + column`.
///
/// # Panics
/// If the inner sizes differ, the panels do not exist or `out` is not `panels.len() * x.rows() *
/// 16` long.
#[allow(unsafe_code)]
pub fn matmul_panels(
    isa: Isa,
    w: &PackedMatrix,
    x: &Activations,
    panels: Range<usize>,
    out: &mut [f32],
) {
    check((w.k(), w.panels()), (x.k(), x.rows()), &panels, out);
    let (out, _) = out.as_chunks_mut::<PANEL>();
    with_format!(w.format(), F => dispatch!(isa, matmul::<F>(w, x, panels, out)))
}

/// Panics unless weights `(k, panels)` and rows `(k, rows)` belong together, and the output is
/// theirs.
fn check(w: (usize, usize), x: (usize, usize), panels: &Range<usize>, out: &[f32]) {
    assert_eq!(
        w.0, x.0,
        "weights and activations differ in their inner size"
    );
    assert!(
        panels.start <= panels.end && panels.end <= w.1,
        "no such panels: {panels:?}"
    );
    assert_eq!(
        out.len(),
        panels.len() * x.1 * PANEL,
        "the output has the wrong length"
    );
}

/// The machine's limit: runs `rounds` of nothing but the instruction set's dot products, from
/// registers, and returns the operations done (two for each product of 8-bit numbers). Time it on
/// as many threads as the products use.
#[allow(unsafe_code)]
pub fn peak_ops(isa: Isa, rounds: u64) -> u64 {
    dispatch!(isa, peak_ops(rounds))
}

/// Multiplies rows in bf16 with some panels of weights that become bf16 on the way, as
/// [`matmul_panels`] does; by [`Isa::least_tile_rows`] one knows whether that is faster. Without
/// tiles it is the definition that runs, to the same bits and slowly.
///
/// # Panics
/// If the inner sizes differ, the panels do not exist or `out` is not `panels.len() * x.rows() *
/// 16` long.
#[allow(unsafe_code)]
pub fn matmul_tiles(
    isa: Isa,
    w: TileWeights<'_>,
    x: &TileRows,
    panels: Range<usize>,
    out: &mut [f32],
) {
    check((w.k(), w.panels()), (x.k(), x.rows()), &panels, out);
    let (out, _) = out.as_chunks_mut::<PANEL>();
    #[cfg(target_arch = "x86_64")]
    if isa.has_tiles() {
        // SAFETY: an `Isa` of this kind exists only where detection found every feature.
        let mut tiles = unsafe { Amx::configure() };
        return tiles::matmul(isa, &mut tiles, w, x, panels, out);
    }
    tiles::matmul(isa, &mut Model::new(), w, x, panels, out);
}

/// The weighted values of each query over the positions `0..len`, as
/// [`HeadKeyValues::attend`](super::attention::HeadKeyValues::attend) has them, in tiles.
///
/// # Panics
/// If fewer than `len` positions are there, `len` is 0, or the lengths do not match.
#[allow(unsafe_code)]
pub fn attend_tiles(
    isa: Isa,
    key_values: &TileKeyValues,
    len: usize,
    queries: &[f32],
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_tiles() {
        // SAFETY: an `Isa` of this kind exists only where detection found every feature.
        let mut tiles = unsafe { Amx::configure() };
        return attention::attend(isa, &mut tiles, key_values, len, queries, out);
    }
    attention::attend(isa, &mut Model::new(), key_values, len, queries, out);
}

/// The limit of tiles, as [`peak_ops`] has that of dot products: none without tiles.
#[allow(unsafe_code)]
#[cfg(target_arch = "x86_64")]
pub fn peak_tile_ops(isa: Isa, rounds: u64) -> Option<u64> {
    (isa.has_tiles()).then(|| {
        // SAFETY: as above.
        let mut tiles = unsafe { Amx::configure() };
        tiles::peak_ops(&mut tiles, rounds)
    })
}

/// The limit of tiles, of which there are none on this kind of processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn peak_tile_ops(_isa: Isa, _rounds: u64) -> Option<u64> {
    None
}

/// Copies rows `first_row..` of the panel-major product `[panels, rows, 16]` into `out`,
/// `[some rows, n]`: as many as `out` holds.
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
    // A few rows at a time: each panel's part of them is contiguous, and so is what is written to
    // each.
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
