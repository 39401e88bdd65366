//! Weights, from llama.cpp's block formats into panels.
//!
//! A panel is 16 columns of the product (16 rows of the weight matrix). For each block of 32 inputs
//! it holds a few [`Line`]s, each with one 32-bit word a column, and a word holds 4 inputs: what a
//! dot-product instruction takes from each side. Quants stay unsigned, without the offset (8, 128,
//! 32) that makes them signed: the kernels start their sums at `-offset * sum(activations)`
//! instead.
//!
//! Bits that are stored together stay together: of a quant's `b` low bits, then of its high bits,
//! word `t` (inputs `4t..`) is in line `t % b`, `b * (t / b)` bits up. So nibbles take 4 lines,
//! line `j` with inputs `4j..` low and `16+4j..` high, single bits one line and bytes 8.
//!
//! Sizes are those of the formats but for 0.5 bytes a column and 256 inputs where 6-bit scales are
//! stored as bytes: a product with few rows is bound by reading them.

pub use super::format::BLOCK;
use super::format::{BlockFormat, Format, Layout, with_format};
use super::stored;
use rayon::prelude::*;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Columns of a panel: what one 512-bit register holds of 4 inputs each.
pub const PANEL: usize = 16;
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
    lines: Part<Line>,
    /// `[panel, block, 1 or 2]`
    scales: Part<Scales>,
    /// `[panel, super-block, 0 to 2]`
    supers: Part<Scales>,
}

/// Something that holds bytes for as long as it lives, such as a mapped file.
pub type Holder = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A part of a packed matrix: made here, or bytes that something else holds.
enum Part<T> {
    Owned(Vec<T>),
    /// As many values as there are, from this byte on, which is aligned for them.
    Held(Holder, Range<usize>),
}

/// Numbers of which every bit pattern is one.
trait Plain: Copy {}
impl Plain for Line {}
impl Plain for Scales {}

#[allow(unsafe_code)]
impl<T: Plain> Part<T> {
    /// `None` where the holder has no such bytes, or not `count` values of them.
    fn held(holder: &Holder, bytes: Range<usize>, count: usize) -> Option<Self> {
        let found = (**holder).as_ref().get(bytes.clone())?;
        // SAFETY: every bit pattern is a value.
        let (before, values, after) = unsafe { found.align_to::<T>() };
        let fits = before.is_empty() && after.is_empty() && values.len() == count;
        fits.then(|| Self::Held(Arc::clone(holder), bytes))
    }

    fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            Self::Held(holder, bytes) => {
                let found = (**holder).as_ref().get(bytes.clone()).unwrap_or_default();
                // SAFETY: every bit pattern is a value. `held` found all of the bytes aligned.
                unsafe { found.align_to::<T>() }.1
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the values have no padding, and every byte may be read.
        unsafe { self.values().align_to::<u8>() }.1
    }
}

/// What a kernel reads of one panel.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// `[block, line]`
    pub lines: &'a [Line],
    /// `[block, 1 or 2]`
    pub scales: &'a [Scales],
    /// `[super-block, 0 to 2]`
    pub supers: &'a [Scales],
}

impl<'a> Panel<'a> {
    /// What there is of block `b`.
    #[inline(always)]
    pub fn block<F: BlockFormat>(self, b: usize) -> PanelBlock<'a> {
        let (lines, (rows, supers)) = (F::LAYOUT.lines(), F::LAYOUT.scale_rows());
        PanelBlock {
            lines: &self.lines[b * lines..][..lines],
            scales: &self.scales[b * rows..][..rows],
            supers: &self.supers[b / 8 * supers..][..supers],
        }
    }
}

/// One block of a panel.
#[derive(Clone, Copy)]
pub(super) struct PanelBlock<'a> {
    pub lines: &'a [Line],
    pub scales: &'a [Scales],
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
        let (lines, (rows, _)) = (F::LAYOUT.lines(), F::LAYOUT.scale_rows());
        let next = self.lines.as_ptr().wrapping_add(b * lines + AHEAD);
        for i in 0..lines {
            #[allow(unused_unsafe, reason = "safe in later versions of Rust")]
            // SAFETY: a prefetch reads nothing and may name any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(i).cast())
            };
        }
        // A line holds two rows of scales.
        if (b * rows).is_multiple_of(2) {
            let next = self
                .scales
                .as_ptr()
                .wrapping_add((b + AHEAD / lines) * rows);
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
        let count = columns.len() * row_blocks;
        let each = (0..count).into_par_iter();
        let each = each.map(|i| (columns[i / row_blocks], i % row_blocks));
        Ok(with_format!(format, F => {
            const LAYOUT: Layout = F::LAYOUT;
            const ROWS: (usize, usize) = LAYOUT.scale_rows();
            let pack = pack::<F, { LAYOUT.blocks() }, { LAYOUT.lines() }, { ROWS.0 }, { ROWS.1 }>;
            let mut packed = (room(count), (room(count), room(count)));
            packed.par_extend(each.map(pack));
            let (lines, (scales, supers)) = packed;
            Self {
                format,
                n,
                k,
                lines: Part::Owned(lines.into_flattened().into_flattened()),
                scales: Part::Owned(scales.into_flattened().into_flattened()),
                supers: Part::Owned(supers.into_flattened()),
            }
        }))
    }

    /// A matrix `[n, k]` out of the [`Self::parts`] of one like it, which `holder` has at these
    /// places; each has to begin at a multiple of 64 bytes. `None` where they are not its parts.
    pub fn of_parts(
        format: Format,
        (n, k): (usize, usize),
        holder: &Holder,
        [lines, scales, supers]: [Range<usize>; 3],
    ) -> Option<Self> {
        if n == 0 || k == 0 || !k.is_multiple_of(format.block_inputs()) {
            return None;
        }
        let blocks = n.div_ceil(PANEL).checked_mul(k / BLOCK)?;
        let layout = format.layout();
        let (rows, super_rows) = layout.scale_rows();
        let supers_count = n.div_ceil(PANEL) * (k / BLOCK / 8 * super_rows);
        Some(Self {
            format,
            n,
            k,
            lines: Part::held(holder, lines, blocks.checked_mul(layout.lines())?)?,
            scales: Part::held(holder, scales, blocks.checked_mul(rows)?)?,
            supers: Part::held(holder, supers, supers_count)?,
        })
    }

    /// Its memory: quants, scales, scales of super-blocks.
    pub fn parts(&self) -> [&[u8]; 3] {
        [self.lines.bytes(), self.scales.bytes(), self.supers.bytes()]
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
        self.parts().iter().map(|part| part.len()).sum()
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let (blocks, layout) = (self.k / BLOCK, self.format.layout());
        let (rows, supers) = layout.scale_rows();
        let part = |per_block: usize| panel * blocks * per_block..(panel + 1) * blocks * per_block;
        let supers_of = blocks / 8 * supers;
        Panel {
            lines: &self.lines.values()[part(layout.lines())],
            scales: &self.scales.values()[part(rows)],
            supers: &self.supers.values()[panel * supers_of..][..supers_of],
        }
    }
}

/// Room for so many values.
fn room<T>(count: usize) -> Vec<T> {
    let room = Vec::with_capacity(count);
    ask_for_large_pages(&room);
    room
}

/// Asks for pages of 2 MiB for a vector of weights that nothing has been written to: memory is had
/// in a fraction of the time then, and fewer addresses are looked up while it is read.
pub(super) fn ask_for_large_pages<T>(room: &Vec<T>) {
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    {
        const PAGE: usize = 2 << 20;
        let end = room.as_ptr().wrapping_add(room.capacity());
        let first = room.as_ptr().addr().next_multiple_of(PAGE);
        let bytes = end.addr().saturating_sub(first) / PAGE * PAGE;
        if bytes > 0 {
            // SAFETY: the range is inside the vector's memory, and the advice changes nothing of
            // what is there. A system that does not take it goes on as before.
            unsafe {
                libc::madvise(
                    room.as_ptr().with_addr(first).cast_mut().cast(),
                    bytes,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

/// Stored rows of one panel: up to 16 columns of the product.
#[derive(Clone, Copy)]
struct Columns<'a> {
    bytes: &'a [u8],
    row_bytes: usize,
}

/// What `S` blocks of 32 inputs take in a panel.
type PackedBlocks<const S: usize, const L: usize, const R: usize, const U: usize> =
    ([[Line; L]; S], ([[Scales; R]; S], [Scales; U]));

/// Packs one stored block of each column: `S` blocks of `L` lines and `R` rows of scales, and `U`
/// rows of super-block scales.
fn pack<F: BlockFormat, const S: usize, const L: usize, const R: usize, const U: usize>(
    (columns, block): (Columns<'_>, usize),
) -> PackedBlocks<S, L, R, U> {
    let bytes = F::FORMAT.block_bytes();
    let (mut lines, mut scales) = ([[Line([0; PANEL]); L]; S], [[Scales([0; PANEL]); R]; S]);
    let mut supers = [Scales([0; PANEL]); U];
    for (c, row) in columns.bytes.chunks_exact(columns.row_bytes).enumerate() {
        let block = &row[block * bytes..][..bytes];
        for (i, row) in supers.iter_mut().enumerate() {
            row.0[c] = stored::super_scale::<F>(block, i);
        }
        for (s, (lines, scales)) in lines.iter_mut().zip(&mut scales).enumerate() {
            for (row, scale) in scales.iter_mut().zip(stored::scales::<F>(block, s)) {
                row.0[c] = scale;
            }
            let words: [u32; 8] = std::array::from_fn(|t| stored::word::<F>(block, s, t));
            let [low, high] = F::LAYOUT.bits;
            let (low_lines, high_lines) = lines.split_at_mut(low);
            for (lines, bits, below) in [(low_lines, low, 0), (high_lines, high, low)] {
                let mask = 0x0101_0101 * ((1 << bits) - 1);
                for (j, line) in lines.iter_mut().enumerate() {
                    let words = words[j..].iter().step_by(bits).enumerate();
                    line.0[c] = words.fold(0, |line, (i, word)| {
                        line | ((word >> below) & mask) << (bits * i)
                    });
                }
            }
        }
    }
    (lines, (scales, supers))
}
