//! Block formats, as llama.cpp defines them: [`Format`] names one at run time, [`BlockFormat`] is
//! one that a kernel is compiled for.
//!
//! Where formats differ, a kernel matches [`BlockFormat::FORMAT`], never with a `_` and never by
//! `==`: the compiler keeps the one arm, and a format added here does not compile before every
//! kernel handles it. (The arms are not methods of the trait because a safe function that enables
//! features cannot implement one.)

use std::fmt;

/// What there is to know of a format before its bits.
pub(super) struct Layout {
    name: &'static str,
    /// Inputs and bytes of a stored block.
    block_inputs: usize,
    block_bytes: usize,
    /// What is taken off a stored quant to make it signed.
    pub offset: u8,
    /// Parts of 32 inputs with a scale of their own: 1, or 2 halves.
    pub parts: usize,
    /// Lines of a panel for 32 inputs.
    pub lines: usize,
    /// Rows of super-block scales of a panel for 256 inputs.
    pub supers: usize,
    /// Blocks of 32 activations that share a scale.
    scale_group: usize,
}

/// A block format as a type. Private to the kernels: its only types are those of the table below.
pub(super) trait BlockFormat {
    const FORMAT: Format;
    const LAYOUT: Layout;

    /// The part of a block, with a scale of its own, that the `word`-th 4 of its 32 inputs belong
    /// to.
    #[inline(always)]
    fn part(word: usize) -> usize {
        word * Self::LAYOUT.parts / 8
    }
}

/// Defines [`Format`], and each of its variants as a type too.
macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident $layout:tt)*) => {
        /// A block format of llama.cpp, named as there.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Format {
            $($(#[$doc])* $format,)*
        }

        impl Format {
            /// Every format.
            pub const ALL: [Self; [$(stringify!($format)),*].len()] = [$(Self::$format),*];

            const fn layout(self) -> Layout {
                match self {
                    $(Self::$format => <$format as BlockFormat>::LAYOUT,)*
                }
            }
        }

        $(
            pub(super) struct $format;

            impl BlockFormat for $format {
                const FORMAT: Format = Format::$format;
                const LAYOUT: Layout = Layout $layout;
            }
        )*
    };
}

formats! {
    /// 32 inputs: f16 `d`, 32 nibbles; `d * (q - 8)`.
    Q4_0 {
        name: "q4_0", block_inputs: 32, block_bytes: 18, offset: 8, parts: 1,
        lines: 4, supers: 0, scale_group: 4,
    }
    /// 32 inputs: f16 `d`, 32 bytes; `d * q`.
    Q8_0 {
        name: "q8_0", block_inputs: 32, block_bytes: 34, offset: 128, parts: 1,
        lines: 8, supers: 0, scale_group: 1,
    }
    /// 256 inputs: f16 `d` and `dmin`, 8 packed 6-bit scales and minimums, 256 nibbles;
    /// `d * scale * q - dmin * min`.
    Q4K {
        name: "q4_k", block_inputs: 256, block_bytes: 144, offset: 0, parts: 1,
        lines: 4, supers: 2, scale_group: 4,
    }
    /// 256 inputs: 256 values of 6 bits, 16 scales of 8 bits, f16 `d`; `d * scale * (q - 32)`.
    Q6K {
        name: "q6_k", block_inputs: 256, block_bytes: 210, offset: 32, parts: 2,
        lines: 6, supers: 1, scale_group: 4,
    }
}

/// From a [`Format`] to its type: `with_format!(format, F => matmul::<F>(x))`.
macro_rules! with_format {
    ($format:expr, $F:ident => $code:expr) => {{
        use $crate::kernels::format::{self, Format};
        match $format {
            Format::Q4_0 => {
                type $F = format::Q4_0;
                $code
            }
            Format::Q8_0 => {
                type $F = format::Q8_0;
                $code
            }
            Format::Q4K => {
                type $F = format::Q4K;
                $code
            }
            Format::Q6K => {
                type $F = format::Q6K;
                $code
            }
        }
    }};
}
pub(super) use with_format;

impl Format {
    /// Its name: `q4_0`, `q8_0`, `q4_k` or `q6_k`.
    pub const fn name(self) -> &'static str {
        self.layout().name
    }

    /// The format of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Inputs of a stored block: `k` must be a multiple of it.
    pub const fn block_inputs(self) -> usize {
        self.layout().block_inputs
    }

    /// Bytes of a stored block.
    pub const fn block_bytes(self) -> usize {
        self.layout().block_bytes
    }

    /// Blocks of 32 activations that share a scale in products with these weights: one where a
    /// coarser scale would add to the error, several where it is lost in that of weights of 4 or 6
    /// bits.
    pub const fn scale_group(self) -> usize {
        self.layout().scale_group
    }

    /// Lines of a panel for 32 inputs.
    pub(super) const fn lines(self) -> usize {
        self.layout().lines
    }

    /// Rows of super-block scales of a panel for 256 inputs.
    pub(super) const fn supers(self) -> usize {
        self.layout().supers
    }

    /// What is taken off a stored quant to make it signed.
    pub(super) const fn offset(self) -> u8 {
        self.layout().offset
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_go_by_their_names() {
        assert_eq!(Format::named("q4_k"), Some(Format::Q4K));
        assert_eq!(Format::named("Q4_K"), None);
        for format in Format::ALL {
            assert_eq!(Format::named(&format.to_string()), Some(format));
            assert_eq!(with_format!(format, F => F::FORMAT), format);
        }
    }

    #[test]
    fn words_of_a_block_belong_to_its_parts() {
        let parts = |part: fn(usize) -> usize| (0..8).map(part).collect::<Vec<_>>();
        assert_eq!(parts(Q8_0::part), [0; 8]);
        assert_eq!(parts(Q6K::part), [0, 0, 0, 0, 1, 1, 1, 1]);
    }
}
