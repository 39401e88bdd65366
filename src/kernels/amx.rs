//! AMX: eight tiles of 16 rows of 64 bytes, and the products of 16 x 16 x 32 bf16 numbers an
//! instruction.
//!
//! Rust has no stable intrinsics for it. The compiler uses no tiles by itself, so that what one
//! instruction leaves in them is there for the next.

use super::avx512;
use super::format::BlockFormat;
use super::packed::Panel;
use super::tiles::{At, Sums, Tile, Tiles};
use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

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

/// Does something with the number of a tile of sums as a constant.
macro_rules! numbered {
    ($tile:expr, $T:ident => $what:expr) => {
        numbered!($tile, $T => $what; 0 1 2 3 4 5)
    };
    ($tile:expr, $T:ident => $what:expr; $($number:literal)*) => {
        match $tile {
            $($number => {
                const $T: usize = $number;
                $what
            })*
            _ => unreachable!("tiles of sums are the first six"),
        }
    };
}

impl Amx {
    /// Configures the tiles of this thread, and makes them zero.
    ///
    /// # Safety
    /// The CPU must have AMX with bf16 and AVX-512 with VNNI, and the system allow it.
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
    fn zero(&mut self, tile: usize) {
        // SAFETY: `self` proves configured tiles on this thread.
        numbered!(tile, T => unsafe {
            asm!("tilezero tmm{tile}", tile = const T, options(nostack));
        });
    }

    #[inline(always)]
    fn load<const T: usize>(&mut self, from: &Tile) {
        // SAFETY: a tile has 16 rows of 64 bytes.
        unsafe { self.load_rows::<T>((&raw const *from).cast()) };
    }

    #[inline(always)]
    fn load_sums(&mut self, tile: usize, from: &Sums) {
        // SAFETY: so do the sums.
        numbered!(tile, T => unsafe { self.load_rows::<T>((&raw const *from).cast()) });
    }

    #[inline(always)]
    fn store_sums(&self, tile: usize, to: &mut Sums) {
        // SAFETY: `self` proves configured tiles on this thread; there are 16 rows of 64 bytes.
        numbered!(tile, T => unsafe {
            asm!("tilestored [{to} + {stride} * 1], tmm{tile}", tile = const T,
                to = in(reg) &raw mut *to, stride = in(reg) 64usize, options(nostack));
        });
    }

    #[inline(always)]
    fn multiply_add<const C: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: `self` proves configured tiles on this thread.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}", c = const C, a = const A, b = const B,
                options(nostack));
        }
    }

    fn unpack<F: BlockFormat>(
        &self,
        (panel, block): At<'_>,
        half: usize,
        to: &mut Tile,
        soon: At<'_>,
    ) {
        match half {
            0 => {
                soon.0.prefetch::<F>(soon.1);
                // SAFETY: `configure` asked for the features.
                unsafe { unpack::<F, 0>(panel, block, to) }
            }
            // SAFETY: as above.
            _ => unsafe { unpack::<F, 1>(panel, block, to) },
        }
    }
}

/// The first or the last 2 of each 4 words of a block. Formats of 4 bits look their values up, and
/// all that is done to others for that is saved.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn unpack<F: BlockFormat, const HALF: usize>(panel: &Panel<'_>, block: usize, to: &mut Tile) {
    let (scales, mins) = avx512::scales::<F>(panel.block::<F>(block));
    let mins = [_mm512_add_ps(mins[0], mins[1]), mins[0]];
    let rows = &mut to.0;
    if F::LAYOUT.bits == [4, 0] {
        // A word of 32 bits has a pair of inputs 16 bits apart at each of four places; what is
        // above the 4 bits is not looked at.
        // SAFETY: there are 64 bytes; the load needs no alignment.
        let values = unsafe { _mm512_loadu_ps(const { values::<F>() }.as_ptr()) };
        let lines = panel.block::<F>(block).lines.as_chunks::<2>().0;
        for (j, line) in (2 * HALF..).zip(&lines[HALF]) {
            let line = avx512::load(line);
            for place in 0..4 {
                let t = j + place % 2 * 4;
                let part = F::part(t);
                let number = |shift: usize| {
                    let quant = _mm512_srlv_epi32(line, _mm512_set1_epi32(shift as i32));
                    let quant = _mm512_permutexvar_ps(quant, values);
                    _mm512_fmsub_ps(quant, scales[part], mins[part])
                };
                let pair = [number(4 * place), number(4 * place + 16)];
                store(pair, &mut rows[2 * t + place / 2]);
            }
        }
        return;
    }
    // `scale * quant + base`, with every product exact.
    let offset = _mm512_set1_ps(f32::from(F::LAYOUT.offset));
    let base = |part: usize| {
        let minus_min = _mm512_sub_ps(_mm512_setzero_ps(), mins[part]);
        _mm512_fnmadd_ps(offset, scales[part], minus_min)
    };
    let base = [base(0), base(1)];
    let quants = avx512::quants::<F>(panel.block::<F>(block));
    for (t, quants) in quants.into_iter().enumerate() {
        if t % 4 / 2 != HALF {
            continue;
        }
        let part = F::part(t);
        let number = |byte: i32| {
            let quant = _mm512_srlv_epi32(quants, _mm512_set1_epi32(8 * byte));
            let quant = _mm512_and_si512(quant, _mm512_set1_epi32(0xff));
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(quant), scales[part], base[part])
        };
        store([number(0), number(2)], &mut rows[2 * t]);
        store([number(1), number(3)], &mut rows[2 * t + 1]);
    }
}

/// What the 4 bits of a quant stand for.
const fn values<F: BlockFormat>() -> [f32; 16] {
    let mut values = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        let quant = match F::LAYOUT.table {
            Some(table) => table[i] as i16,
            None => i as i16,
        };
        values[i] = (quant - F::LAYOUT.offset as i16) as f32;
        i += 1;
    }
    values
}

/// Rounds pairs to bf16, to nearest and ties away from zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn store(pair: [__m512; 2], to: &mut [u32; 16]) {
    let half = _mm512_set1_epi32(0x8000);
    let [first, second] = pair.map(|x| _mm512_add_epi32(_mm512_castps_si512(x), half));
    let pairs = _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(first), second);
    // SAFETY: a row of a tile is 64 bytes, aligned to as many.
    unsafe { _mm512_store_si512(to.as_mut_ptr().cast(), pairs) };
}
