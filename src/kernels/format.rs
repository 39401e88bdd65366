//! Block formats, as llama.cpp defines them: [`Format`] names one at run time, [`BlockFormat`] is
//! one that a kernel is compiled for.
//!
//! Kernels know nothing of formats but their [`Layout`]: how many bits lie where, whether they go
//! through a table, and what kind of scales there are. What a stored block looks like is for
//! `stored` to say, which matches [`BlockFormat::FORMAT`] without a `_`: a format added here does
//! not compile before its arms are there.

use std::fmt;

/// Inputs that share a scale.
pub const BLOCK: usize = 32;

/// What there is to know of a format before its bits.
pub(super) struct Layout {
    name: &'static str,
    /// Inputs and bytes of a stored block.
    block_inputs: usize,
    block_bytes: usize,
    /// Bits of a quant that lie together: the low ones, then the high ones if they are apart.
    pub bits: [usize; 2],
    /// What the bits stand for, if not for themselves.
    pub table: Option<[u8; 16]>,
    /// What is taken off a quant to make it signed.
    pub offset: u8,
    pub scaling: Scaling,
    /// Parts of 32 inputs with a scale of their own: 1, or 2 halves.
    pub parts: usize,
    /// Blocks of 32 activations that share a scale.
    scale_group: usize,
}

/// How the scales of a block are stored.
#[derive(Clone, Copy)]
pub(super) enum Scaling {
    /// f16 for 32 inputs.
    Half,
    /// The same, and an f16 that is taken off.
    HalfWithMin,
    /// i8 for each part, times an f16 for 256 inputs.
    Signed,
    /// Unsigned for each part, times an f16 for 256 inputs, and a minimum that is made of two
    /// numbers in the same way and taken off.
    WithMin,
}

impl Layout {
    /// Lines of a panel for 32 inputs.
    pub const fn lines(&self) -> usize {
        self.bits[0] + self.bits[1]
    }

    /// Rows of scales of a panel for 32 inputs, and of super-block scales for 256.
    pub const fn scale_rows(&self) -> (usize, usize) {
        match self.scaling {
            Scaling::Half => (1, 0),
            Scaling::HalfWithMin => (2, 0),
            Scaling::Signed => (1, 1),
            Scaling::WithMin => (1, 2),
        }
    }

    /// Blocks of 32 inputs of a stored block.
    pub const fn blocks(&self) -> usize {
        self.block_inputs / BLOCK
    }

    /// The largest quant before the offset is taken off.
    #[cfg(target_arch = "x86_64")]
    pub const fn largest(&self) -> u8 {
        let Some(table) = self.table else {
            return (255u16 >> (8 - self.bits[0] - self.bits[1])) as u8;
        };
        let (mut i, mut largest) = (0, 0);
        while i < table.len() {
            if table[i] > largest {
                largest = table[i];
            }
            i += 1;
        }
        largest
    }
}

/// The values of IQ4_NL and IQ4_XS, plus 128.
const UNEVEN: [u8; 16] = [
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241,
];
/// The values of Q3_K plus 32, not 4: an offset that activations have the sums for.
const RAISED: [u8; 16] = [28, 29, 30, 31, 32, 33, 34, 35, 0, 0, 0, 0, 0, 0, 0, 0];

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

            pub(super) const fn layout(self) -> Layout {
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
        name: "q4_0", block_inputs: 32, block_bytes: 18, bits: [4, 0], table: None,
        offset: 8, scaling: Scaling::Half, parts: 1, scale_group: 4,
    }
    /// 32 inputs: f16 `d` and `m`, 32 nibbles; `d * q + m`.
    Q4_1 {
        name: "q4_1", block_inputs: 32, block_bytes: 20, bits: [4, 0], table: None,
        offset: 0, scaling: Scaling::HalfWithMin, parts: 1, scale_group: 4,
    }
    /// 32 inputs: f16 `d`, 32 high bits, 32 nibbles; `d * (q - 16)`.
    Q5_0 {
        name: "q5_0", block_inputs: 32, block_bytes: 22, bits: [4, 1], table: None,
        offset: 16, scaling: Scaling::Half, parts: 1, scale_group: 4,
    }
    /// 32 inputs: f16 `d` and `m`, 32 high bits, 32 nibbles; `d * q + m`.
    Q5_1 {
        name: "q5_1", block_inputs: 32, block_bytes: 24, bits: [4, 1], table: None,
        offset: 0, scaling: Scaling::HalfWithMin, parts: 1, scale_group: 4,
    }
    /// 32 inputs: f16 `d`, 32 bytes; `d * q`.
    Q8_0 {
        name: "q8_0", block_inputs: 32, block_bytes: 34, bits: [8, 0], table: None,
        offset: 128, scaling: Scaling::Half, parts: 1, scale_group: 1,
    }
    /// 256 inputs: 16 scales and minimums of 4 bits, 256 values of 2 bits, f16 `d` and `dmin`;
    /// `d * scale * q - dmin * min`.
    Q2K {
        name: "q2_k", block_inputs: 256, block_bytes: 84, bits: [2, 0], table: None,
        offset: 0, scaling: Scaling::WithMin, parts: 2, scale_group: 4,
    }
    /// 256 inputs: 256 high bits and pairs of low bits, 16 scales of 6 bits, f16 `d`;
    /// `d * (scale - 32) * (q - 4)`.
    Q3K {
        name: "q3_k", block_inputs: 256, block_bytes: 110, bits: [2, 1], table: Some(RAISED),
        offset: 32, scaling: Scaling::Signed, parts: 2, scale_group: 4,
    }
    /// 256 inputs: f16 `d` and `dmin`, 8 packed 6-bit scales and minimums, 256 nibbles;
    /// `d * scale * q - dmin * min`.
    Q4K {
        name: "q4_k", block_inputs: 256, block_bytes: 144, bits: [4, 0], table: None,
        offset: 0, scaling: Scaling::WithMin, parts: 1, scale_group: 4,
    }
    /// 256 inputs: as Q4_K, with 256 high bits before the nibbles.
    Q5K {
        name: "q5_k", block_inputs: 256, block_bytes: 176, bits: [4, 1], table: None,
        offset: 0, scaling: Scaling::WithMin, parts: 1, scale_group: 4,
    }
    /// 256 inputs: 256 values of 6 bits, 16 scales of 8 bits, f16 `d`; `d * scale * (q - 32)`.
    Q6K {
        name: "q6_k", block_inputs: 256, block_bytes: 210, bits: [4, 2], table: None,
        offset: 32, scaling: Scaling::Signed, parts: 2, scale_group: 4,
    }
    /// 32 inputs: f16 `d`, 32 nibbles; `d * table[q]`, the table finer about zero.
    Iq4Nl {
        name: "iq4_nl", block_inputs: 32, block_bytes: 18, bits: [4, 0], table: Some(UNEVEN),
        offset: 128, scaling: Scaling::Half, parts: 1, scale_group: 4,
    }
    /// 256 inputs: f16 `d`, 8 scales of 6 bits, 256 nibbles; `d * (scale - 32) * table[q]`.
    Iq4Xs {
        name: "iq4_xs", block_inputs: 256, block_bytes: 136, bits: [4, 0], table: Some(UNEVEN),
        offset: 128, scaling: Scaling::Signed, parts: 1, scale_group: 4,
    }
}

/// From a [`Format`] to its type: `with_format!(format, F => matmul::<F>(x))`.
macro_rules! with_format {
    ($format:expr, $F:ident => $code:expr) => {
        $crate::kernels::format::with_format!(
            $format, $F => $code;
            Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs
        )
    };
    ($format:expr, $F:ident => $code:expr; $($name:ident)*) => {
        match $format {
            $($crate::kernels::format::Format::$name => {
                type $F = $crate::kernels::format::$name;
                $code
            })*
        }
    };
}
pub(super) use with_format;

impl Format {
    /// Its name, as llama.cpp spells it, in small letters.
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
