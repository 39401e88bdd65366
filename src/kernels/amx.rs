//! AMX: eight tiles of 16 rows of 64 bytes, and the products of 16 x 16 x 32 bf16 numbers an
//! instruction.
//!
//! Rust has no stable intrinsics for it. The compiler uses no tiles by itself, so that what one
//! instruction leaves in them is there for the next.

use super::avx512;
use super::format::BlockFormat;
use super::packed::Panel;
use super::tiles::{Sums, Tile, Tiles};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::transmute;

/// The tiles of this thread, configured; released at the end.
pub(super) struct Amx(PhantomData<*const ()>);

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight whole tiles. A constant: a compiler may forget what was stored just before an instruction
/// that it does not know.
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Amx {
    /// Configures the tiles of this thread, and makes them zero.
    ///
    /// # Safety
    /// The CPU must have AMX with bf16 and AVX-512 with VNNI and bf16, and the system allow it.
    pub unsafe fn configure() -> Self {
        // SAFETY: the caller has made sure of the instruction; it reads the 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack)) };
        Self(PhantomData)
    }

    /// Loads a tile.
    ///
    /// # Safety
    /// There must be 16 rows of 64 bytes.
    #[inline(always)]
    unsafe fn load_rows<const T: usize>(&mut self, from: *const u8) {
        // SAFETY: `self` proves configured tiles on this thread; the caller has the bytes.
        unsafe {
            asm!("tileloadd tmm{tile}, [{from} + {stride} * 1]", tile = const T,
                from = in(reg) from, stride = in(reg) 64usize, options(nostack));
        }
    }
}

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: the instruction is there where `configure` was.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}

impl Tiles for Amx {
    #[inline(always)]
    fn zero<const T: usize>(&mut self) {
        // SAFETY: `self` proves configured tiles on this thread.
        unsafe { asm!("tilezero tmm{tile}", tile = const T, options(nostack)) };
    }

    #[inline(always)]
    fn load<const T: usize>(&mut self, from: &Tile) {
        // SAFETY: a tile has 16 rows of 64 bytes.
        unsafe { self.load_rows::<T>((&raw const *from).cast()) };
    }

    #[inline(always)]
    fn load_sums<const T: usize>(&mut self, from: &Sums) {
        // SAFETY: so do the sums.
        unsafe { self.load_rows::<T>((&raw const *from).cast()) };
    }

    #[inline(always)]
    fn store_sums<const T: usize>(&self, to: &mut Sums) {
        // SAFETY: `self` proves configured tiles on this thread; there are 16 rows of 64 bytes.
        unsafe {
            asm!("tilestored [{to} + {stride} * 1], tmm{tile}", tile = const T,
                to = in(reg) &raw mut *to, stride = in(reg) 64usize, options(nostack));
        }
    }

    #[inline(always)]
    fn multiply_add<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: `self` proves configured tiles on this thread.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack));
        }
    }

    fn unpack<F: BlockFormat>(&self, panel: Panel<'_>, first: usize, to: &mut [Tile]) {
        // SAFETY: `configure` asked for the features.
        unsafe { unpack::<F>(panel, first, to) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx512bf16")]
fn unpack<F: BlockFormat>(panel: Panel<'_>, first: usize, to: &mut [Tile]) {
    // Words 0 to 15 have the first input of a pair, of each column, the others the second.
    let side_by_side: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: both types are 64 bytes.
    let side_by_side = unsafe { transmute::<[u16; 32], __m512i>(side_by_side) };
    let byte = _mm512_set1_epi32(0xff);
    let offset = _mm512_set1_ps(f32::from(F::LAYOUT.offset));
    for (block, tile) in (first..).zip(to) {
        panel.prefetch::<F>(block);
        let w = avx512::Weights::unpack::<F>(panel, block);
        // `scale * quant + base`, with every product exact.
        let mins = [_mm512_add_ps(w.mins[0], w.mins[1]), w.mins[0]];
        let base = |part: usize| {
            let minus_min = _mm512_sub_ps(_mm512_setzero_ps(), mins[part]);
            _mm512_fnmadd_ps(offset, w.scales[part], minus_min)
        };
        let base = [base(0), base(1)];
        let (rows, _) = tile.0.as_chunks_mut::<2>();
        for ((t, quants), rows) in w.quants.into_iter().enumerate().zip(rows) {
            let part = F::part(t);
            let number = |quant: __m512i| {
                let quant = _mm512_cvtepi32_ps(quant);
                _mm512_fmadd_ps(quant, w.scales[part], base[part])
            };
            let numbers = [
                number(_mm512_and_si512(quants, byte)),
                number(_mm512_and_si512(_mm512_srli_epi32::<8>(quants), byte)),
                number(_mm512_and_si512(_mm512_srli_epi32::<16>(quants), byte)),
                number(_mm512_srli_epi32::<24>(quants)),
            ];
            for (row, [even, odd]) in rows.iter_mut().zip(numbers.as_chunks::<2>().0) {
                let halves = _mm512_cvtne2ps_pbh(*odd, *even);
                // SAFETY: both types are 64 bytes of a register.
                let halves = unsafe { transmute::<__m512bh, __m512i>(halves) };
                let pairs = _mm512_permutexvar_epi16(side_by_side, halves);
                // SAFETY: a row is 64 bytes, aligned to as many.
                unsafe { _mm512_store_si512(row.as_mut_ptr().cast(), pairs) };
            }
        }
    }
}
