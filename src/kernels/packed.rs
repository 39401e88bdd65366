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
use super::format::{BlockFormat, Format, with_format};
#[cfg(target_arch = "x86_64")]
use super::prefetch::{Level, prefetch};
use super::stored;
use rayon::prelude::*;
use std::fmt;
use std::mem::MaybeUninit;
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

/// Blocks of 8 KiB.
#[cfg(target_arch = "x86_64")]
const fn ahead<F: BlockFormat>() -> usize {
    8192 / size_of::<Line>() / F::LAYOUT.lines()
}

#[cfg(target_arch = "x86_64")]
impl Panel<'_> {
    /// Asks the second-level cache for what is 8 KiB behind block `b`, where panels are read one
    /// after the other: the hardware looks ahead no further than the end of a page. Closer, or into
    /// the first level, was slower with few rows.
    #[inline]
    pub fn prefetch_behind<F: BlockFormat>(self, b: usize) {
        self.prefetch::<F>(b + ahead::<F>());
    }

    /// The same, of the `then` one behind the end of this one, which has `count` blocks: where
    /// several are read beside each other, what lies behind one of them is read already.
    #[inline]
    pub fn prefetch_then<F: BlockFormat>(self, then: Self, b: usize, count: usize) {
        match b + ahead::<F>() {
            b if b < count => self.prefetch::<F>(b),
            b => then.prefetch::<F>((b - count).min(count - 1)),
        }
    }

    /// Asks the second-level cache for block `b`, or for what lies there behind the panel.
    #[inline]
    pub fn prefetch<F: BlockFormat>(self, b: usize) {
        let (lines, (rows, _)) = (F::LAYOUT.lines(), F::LAYOUT.scale_rows());
        let block = self.lines.as_ptr().wrapping_add(b * lines);
        prefetch(Level::Second, block, lines * size_of::<Line>());
        // A line holds two rows of scales.
        if (b * rows).is_multiple_of(2) {
            let scales = self.scales.as_ptr().wrapping_add(b * rows);
            prefetch(Level::Second, scales, size_of::<Scales>());
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
        let [per_lines, per_scales, per_supers] = per_panel(format, k);
        let panels = n.div_ceil(PANEL);
        let mut lines: Vec<Line> = room(panels * per_lines);
        let mut scales: Vec<Scales> = room(panels * per_scales);
        let mut supers: Vec<Scales> = room(panels * per_supers);
        let mut lines_left = lines.spare_capacity_mut();
        let mut scales_left = scales.spare_capacity_mut();
        let mut supers_left = supers.spare_capacity_mut();
        let mut tasks = Vec::with_capacity(panels);
        for columns in blocks.chunks(row_bytes * PANEL) {
            let room = PanelRoom {
                lines: first_of(&mut lines_left, per_lines),
                scales: first_of(&mut scales_left, per_scales),
                supers: first_of(&mut supers_left, per_supers),
            };
            tasks.push((columns, room));
        }
        // A pointer, so that rayon's loop is compiled once and not for every format.
        let pack: fn(&[u8], usize, PanelRoom<'_>) = with_format!(format, F => pack::<F>);
        tasks
            .into_par_iter()
            .for_each(|(columns, room)| pack(columns, row_bytes, room));
        // SAFETY: as many as `pack` wrote, which is all of the room it was given.
        #[allow(unsafe_code)]
        unsafe {
            lines.set_len(panels * per_lines);
            scales.set_len(panels * per_scales);
            supers.set_len(panels * per_supers);
        }
        Ok(Self {
            format,
            n,
            k,
            lines: Part::Owned(lines),
            scales: Part::Owned(scales),
            supers: Part::Owned(supers),
        })
    }

    /// A matrix `[n, k]` out of the [`Self::parts`] of one like it, which `holder` has at these
    /// places; each has to begin at a multiple of 64 bytes. `None` where they are not its parts.
    pub(crate) fn of_parts(
        format: Format,
        (n, k): (usize, usize),
        holder: &Holder,
        [lines, scales, supers]: [Range<usize>; 3],
    ) -> Option<Self> {
        if n == 0 || k == 0 || !k.is_multiple_of(format.block_inputs()) {
            return None;
        }
        let [per_lines, per_scales, per_supers] = per_panel(format, k);
        let count = |per: usize| n.div_ceil(PANEL).checked_mul(per);
        Some(Self {
            format,
            n,
            k,
            lines: Part::held(holder, lines, count(per_lines)?)?,
            scales: Part::held(holder, scales, count(per_scales)?)?,
            supers: Part::held(holder, supers, count(per_supers)?)?,
        })
    }

    /// Its memory: quants, scales, scales of super-blocks.
    pub(crate) fn parts(&self) -> [&[u8]; 3] {
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
        let [lines, scales, supers] = per_panel(self.format, self.k);
        Panel {
            lines: &self.lines.values()[panel * lines..][..lines],
            scales: &self.scales.values()[panel * scales..][..scales],
            supers: &self.supers.values()[panel * supers..][..supers],
        }
    }
}

/// Lines, scales and super-block scales of a panel with `k` inputs.
fn per_panel(format: Format, k: usize) -> [usize; 3] {
    let (layout, blocks) = (format.layout(), k / BLOCK);
    let (rows, super_rows) = layout.scale_rows();
    [
        blocks * layout.lines(),
        blocks * rows,
        blocks / 8 * super_rows,
    ]
}

/// Room for so many values.
pub(super) fn room<T>(count: usize) -> Vec<T> {
    let room = Vec::with_capacity(count);
    ask_for_large_pages(&room);
    room
}

/// Takes the first `count` off.
fn first_of<'a, T>(left: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(left).split_at_mut(count);
    *left = rest;
    first
}

/// Asks for pages of 2 MiB for a vector of weights that nothing has been written to: memory is had
/// in a fraction of the time then, and fewer addresses are looked up while it is read.
fn ask_for_large_pages<T>(room: &Vec<T>) {
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

/// Where the packed weights of some panels go.
struct PanelRoom<'a> {
    /// `[panel, block, line]`
    lines: &'a mut [MaybeUninit<Line>],
    /// `[panel, block, 1 or 2]`
    scales: &'a mut [MaybeUninit<Scales>],
    /// `[panel, super-block, 0 to 2]`
    supers: &'a mut [MaybeUninit<Scales>],
}

/// Packs the stored rows of one panel, up to 16 of `row_bytes` each, and writes all of `room`.
fn pack<F: BlockFormat>(columns: &[u8], row_bytes: usize, room: PanelRoom<'_>) {
    let (rows, super_rows) = F::LAYOUT.scale_rows();
    let bytes = F::FORMAT.block_bytes();
    for b in 0..row_bytes / bytes {
        let stored = columns
            .chunks_exact(row_bytes)
            .map(|row| &row[b * bytes..][..bytes]);
        let mut supers = [[0; PANEL]; 2];
        for (c, block) in stored.clone().enumerate() {
            for (i, row) in supers[..super_rows].iter_mut().enumerate() {
                row[c] = stored::super_scale::<F>(block, i);
            }
        }
        for (i, row) in supers[..super_rows].iter().enumerate() {
            room.supers[b * super_rows + i].write(Scales(*row));
        }
        for s in 0..F::LAYOUT.blocks() {
            let (mut words, mut scales) = ([[0; PANEL]; 8], [[0; PANEL]; 2]);
            for (c, block) in stored.clone().enumerate() {
                for (t, words) in words.iter_mut().enumerate() {
                    words[c] = stored::word::<F>(block, s, t);
                }
                for (row, scale) in scales.iter_mut().zip(stored::scales::<F>(block, s)) {
                    row[c] = scale;
                }
            }
            let at = b * F::LAYOUT.blocks() + s;
            for (i, row) in scales[..rows].iter().enumerate() {
                room.scales[at * rows + i].write(Scales(*row));
            }
            let lines = &mut room.lines[at * F::LAYOUT.lines()..][..F::LAYOUT.lines()];
            let [low, high] = F::LAYOUT.bits;
            let (low_lines, high_lines) = lines.split_at_mut(low);
            for (lines, bits, below) in [(low_lines, low, 0), (high_lines, high, low)] {
                let mask = 0x0101_0101 * ((1 << bits) - 1);
                for (j, line) in lines.iter_mut().enumerate() {
                    let words = words[j..].iter().step_by(bits).enumerate();
                    line.write(Line(words.fold([0; PANEL], |line, (i, words)| {
                        std::array::from_fn(|c| {
                            line[c] | ((words[c] >> below) & mask) << (bits * i)
                        })
                    })));
                }
            }
        }
    }
}
