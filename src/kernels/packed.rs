//! Weights, from llama.cpp's block formats into panels.
//!
//! A panel is 16 columns of the product (16 rows of the weight matrix). For each block of 32 inputs
//! it holds a few [`Line`]s, each with one 32-bit word a column, and a word holds 4 inputs: what a
//! dot-product instruction takes from each side. Quants stay unsigned, without the offset (8, 128,
//! 32) that makes them signed: the kernels start their sums at `-offset * sum(activations)`
//! instead.
//!
//! | format | lines of a block | scales of a block, per column | of a super-block of 256 |
//! |---|---|---|---|
//! | Q4_0 | 4: line `j` has inputs `4j..` in its low and `16+4j..` in its high nibbles | f16 | |
//! | Q8_0 | 8: line `t` has inputs `4t..`, plus 128 | f16 | |
//! | Q4_K | 4, as Q4_0 | 6-bit scale, 6-bit minimum in the high byte | f16 scale, f16 minimum |
//! | Q6_K | 4, as Q4_0, then 2 of high bits: bits `2u..` of line `i` belong to inputs `16i+4u..` | i8 scales of both halves | f16 scale |
//!
//! Sizes are those of the formats but for 0.5 bytes a column and super-block in Q4_K: a product
//! with few rows is bound by reading them.

#[cfg(target_arch = "x86_64")]
use super::format::BlockFormat;
use super::format::Format;
use rayon::prelude::*;
use std::fmt;

/// Columns of a panel: what one 512-bit register holds of 4 inputs each.
pub const PANEL: usize = 16;
/// Inputs that share a scale.
pub const BLOCK: usize = 32;
/// Lanes of an array that becomes one 512-bit register, or more that are narrower.
pub const LANES: usize = 16;

/// Why blocks could not be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackError {
    /// `n` or `k` is zero, or `k` is not whole blocks.
    Shape {
        /// The blocks' format.
        format: Format,
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
    },
    /// The bytes are not those of `n * k` weights.
    Length {
        /// What `n * k` weights take.
        expected_bytes: usize,
        /// What was given.
        actual_bytes: usize,
    },
}

impl fmt::Display for PackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { format, n, k } => {
                write!(
                    f,
                    "a {format} matrix of {n} x {k} is not whole blocks of {} inputs",
                    format.block_inputs()
                )
            }
            Self::Length {
                expected_bytes,
                actual_bytes,
            } => {
                write!(
                    f,
                    "expected {expected_bytes} bytes of weights, got {actual_bytes}"
                )
            }
        }
    }
}

impl std::error::Error for PackError {}

/// 4 inputs of each of 16 columns; aligned so that every load is of one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u32; PANEL]);

/// One 16-bit scale, or two of 8 bits, of each of 16 columns.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Scales(pub [u16; PANEL]);

/// A weight matrix `[n, k]` in panels of 16 columns of the product; missing columns of the last
/// panel are zero.
pub struct PackedMatrix {
    format: Format,
    n: usize,
    k: usize,
    /// `[panel, block, line]`
    lines: Vec<Line>,
    /// `[panel, block]`
    scales: Vec<Scales>,
    /// `[panel, super-block, 1 or 2]`
    supers: Vec<Scales>,
}

/// What a kernel reads of one panel.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// `[block, line]`
    pub lines: &'a [Line],
    /// `[block]`
    pub scales: &'a [Scales],
    /// `[super-block, 1 or 2]`
    pub supers: &'a [Scales],
}

#[cfg(target_arch = "x86_64")]
impl Panel<'_> {
    /// Asks the second-level cache for the lines 8 KiB behind those of block `b`: the hardware
    /// looks ahead no further than the end of a page. Closer, or into the first level, was slower
    /// with few rows.
    #[inline]
    #[allow(unsafe_code)]
    pub fn prefetch<F: BlockFormat>(self, b: usize) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        const AHEAD: usize = 8192 / size_of::<Line>();
        let lines = F::LAYOUT.lines;
        let next = self.lines.as_ptr().wrapping_add(b * lines + AHEAD);
        for i in 0..lines {
            #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
            // SAFETY: a prefetch reads nothing and may name any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(i).cast())
            };
        }
        // A line holds the scales of two blocks.
        if b.is_multiple_of(2) {
            let next = self.scales.as_ptr().wrapping_add(b + AHEAD / lines);
            #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
            // SAFETY: as above.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(next.cast())
            };
        }
    }
}

impl PackedMatrix {
    /// Rearranges the blocks of a matrix `[n, k]`, stored row after row, on all threads.
    ///
    /// # Errors
    /// If `k` is not whole blocks or `blocks` has not the bytes of `n * k` weights.
    pub fn pack(format: Format, blocks: &[u8], n: usize, k: usize) -> Result<Self, PackError> {
        if n == 0 || k == 0 || !k.is_multiple_of(format.block_inputs()) {
            return Err(PackError::Shape { format, n, k });
        }
        let row_bytes = k / format.block_inputs() * format.block_bytes();
        let expected_bytes = row_bytes
            .checked_mul(n)
            .ok_or(PackError::Shape { format, n, k })?;
        if blocks.len() != expected_bytes {
            return Err(PackError::Length {
                expected_bytes,
                actual_bytes: blocks.len(),
            });
        }
        let columns = blocks.chunks(row_bytes * PANEL);
        let columns: Vec<Columns<'_>> = columns.map(|bytes| Columns { bytes, row_bytes }).collect();
        let row_blocks = k / format.block_inputs();
        // `[panel, stored block]`: every one of them is packed by itself, whichever thread does it.
        let each = (0..columns.len() * row_blocks).into_par_iter();
        let each = each.map(|i| (columns[i / row_blocks], i % row_blocks));
        let (mut scales, mut supers) = (Vec::new(), Vec::new());
        let lines = match format {
            Format::Q4_0 => {
                let mut lines = Vec::new();
                each.map(|(columns, block)| pack_q4_0(columns, block))
                    .unzip_into_vecs(&mut lines, &mut scales);
                lines.into_flattened()
            }
            Format::Q8_0 => {
                let mut lines = Vec::new();
                each.map(|(columns, block)| pack_q8_0(columns, block))
                    .unzip_into_vecs(&mut lines, &mut scales);
                lines.into_flattened()
            }
            Format::Q4K => {
                let (lines, (block_scales, super_scales)): (Vec<_>, (Vec<_>, Vec<_>)) = each
                    .map(|(columns, block)| pack_q4_k(columns, block))
                    .unzip();
                (scales, supers) = (block_scales.into_flattened(), super_scales.into_flattened());
                lines.into_flattened().into_flattened()
            }
            Format::Q6K => {
                let (lines, (block_scales, super_scales)): (Vec<_>, (Vec<_>, Vec<_>)) = each
                    .map(|(columns, block)| pack_q6_k(columns, block))
                    .unzip();
                (scales, supers) = (block_scales.into_flattened(), super_scales);
                lines.into_flattened().into_flattened()
            }
        };
        Ok(Self {
            format,
            n,
            k,
            lines,
            scales,
            supers,
        })
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Columns of the product: rows of the weight matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs of each column.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Panels of 16 columns, the last one padded.
    pub fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Memory of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.scales[..]) + size_of_val(&self.supers[..])
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let blocks = self.k / BLOCK;
        let (lines, supers) = (
            blocks * self.format.lines(),
            blocks / 8 * self.format.supers(),
        );
        Panel {
            lines: &self.lines[panel * lines..][..lines],
            scales: &self.scales[panel * blocks..][..blocks],
            supers: &self.supers[panel * supers..][..supers],
        }
    }
}

/// Stored rows of one panel: up to 16 columns of the product.
#[derive(Clone, Copy)]
struct Columns<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

impl<'a> Columns<'a> {
    /// A stored block of `N` bytes of each column.
    fn blocks<const N: usize>(self, block: usize) -> impl Iterator<Item = (usize, &'a [u8; N])> {
        let rows = self.bytes.chunks_exact(self.row_bytes);
        rows.map(move |row| fixed::<N>(row, block * N)).enumerate()
    }
}

const ZERO: Line = Line([0; PANEL]);
const NO_SCALES: Scales = Scales([0; PANEL]);

fn pack_q4_0(columns: Columns<'_>, block: usize) -> ([Line; 4], Scales) {
    let (mut lines, mut scales) = ([ZERO; 4], NO_SCALES);
    for (c, block) in columns.blocks::<18>(block) {
        scales.0[c] = half_at(block, 0);
        for (j, line) in lines.iter_mut().enumerate() {
            line.0[c] = word_at(block, 2 + 4 * j);
        }
    }
    (lines, scales)
}

fn pack_q8_0(columns: Columns<'_>, block: usize) -> ([Line; 8], Scales) {
    // Missing columns are zero, which is stored as 128.
    let (mut lines, mut scales) = ([Line([0x8080_8080; PANEL]); 8], NO_SCALES);
    for (c, block) in columns.blocks::<34>(block) {
        scales.0[c] = half_at(block, 0);
        for (t, line) in lines.iter_mut().enumerate() {
            line.0[c] = word_at(block, 2 + 4 * t) ^ 0x8080_8080;
        }
    }
    (lines, scales)
}

type PackedQ4K = ([[Line; 4]; 8], ([Scales; 8], [Scales; 2]));

fn pack_q4_k(columns: Columns<'_>, block: usize) -> PackedQ4K {
    let mut lines = [[ZERO; 4]; 8];
    let (mut scales, mut supers) = ([NO_SCALES; 8], [NO_SCALES; 2]);
    for (c, block) in columns.blocks::<144>(block) {
        supers[0].0[c] = half_at(block, 0);
        supers[1].0[c] = half_at(block, 2);
        for (s, scales) in scales.iter_mut().enumerate() {
            scales.0[c] = q4_k_scales(fixed::<12>(block, 4), s);
        }
        for (s, lines) in lines.iter_mut().enumerate() {
            // 32 bytes hold two blocks of 32: one in the low, one in the high nibbles.
            let nibbles = |t: usize| {
                (word_at(block, 16 + 32 * (s / 2) + 4 * t) >> (4 * (s % 2))) & 0x0f0f_0f0f
            };
            for (j, line) in lines.iter_mut().enumerate() {
                line.0[c] = nibbles(j) | (nibbles(j + 4) << 4);
            }
        }
    }
    (lines, (scales, supers))
}

type PackedQ6K = ([[Line; 6]; 8], ([Scales; 8], Scales));

fn pack_q6_k(columns: Columns<'_>, block: usize) -> PackedQ6K {
    let mut lines = [[ZERO; 6]; 8];
    let (mut scales, mut supers) = ([NO_SCALES; 8], NO_SCALES);
    for (c, block) in columns.blocks::<210>(block) {
        supers.0[c] = half_at(block, 208);
        for (s, scales) in scales.iter_mut().enumerate() {
            scales.0[c] = half_at(block, 192 + 2 * s);
        }
        for (s, lines) in lines.iter_mut().enumerate() {
            // 128 inputs have 64 bytes of nibbles and 32 bytes of high bits.
            let (half, quarter) = (s / 4, s % 4);
            let nibbles = |t: usize| {
                let word = word_at(block, 64 * half + 32 * (quarter % 2) + 4 * t);
                (word >> (4 * (quarter / 2))) & 0x0f0f_0f0f
            };
            let highs =
                |t: usize| (word_at(block, 128 + 32 * half + 4 * t) >> (2 * quarter)) & 0x0303_0303;
            for (j, line) in lines[..4].iter_mut().enumerate() {
                line.0[c] = nibbles(j) | (nibbles(j + 4) << 4);
            }
            for (i, line) in lines[4..].iter_mut().enumerate() {
                line.0[c] = (0..4).fold(0, |bits, u| bits | (highs(4 * i + u) << (2 * u)));
            }
        }
    }
    (lines, (scales, supers))
}

/// Scale of sub-block `s` in the low byte, minimum in the high byte: both have 6 bits, the upper
/// two of the last four stored apart.
fn q4_k_scales(packed: &[u8; 12], s: usize) -> u16 {
    let (scale, min) = if s < 4 {
        (packed[s] & 63, packed[s + 4] & 63)
    } else {
        (
            (packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4),
            (packed[s + 4] >> 4) | (packed[s] >> 6 << 4),
        )
    };
    u16::from_le_bytes([scale, min])
}

#[inline]
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    let (chunks, _) = bytes[at..at + N].as_chunks::<N>();
    &chunks[0]
}

#[inline]
fn half_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*fixed(bytes, at))
}

#[inline]
fn word_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*fixed(bytes, at))
}

/// The value of an IEEE half: exact.
pub(super) fn half_to_f32(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff));
    let magnitude = match rest >> 10 {
        0 => (rest as f32) * 2f32.powi(-24),
        31 => f32::from_bits(0x7f80_0000 | (rest << 13)),
        _ => f32::from_bits((rest << 13) + (112 << 23)),
    };
    f32::from_bits(sign | magnitude.to_bits())
}
