//! The types that tensors are stored in: number, name and block layout.
//!
//! Source: `ggml.h` and `ggml-common.h` in ggml-org/ggml.

use std::fmt;

macro_rules! ggml_types {
    ($($name:ident = $number:literal, $block:literal elements in $bytes:literal bytes;)*) => {
        /// How a tensor's numbers are stored. Every type known to ggml is here, so that its size
        /// is known; few of them can be computed with.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum GgmlType {
            $(#[doc = concat!("`", stringify!($name), "`")] $name = $number,)*
        }

        impl GgmlType {
            /// Every type.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The type with this number in a file.
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as ggml spells it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Elements in a block.
            pub fn block_len(self) -> usize {
                match self { $(Self::$name => $block,)* }
            }

            /// Bytes in a block.
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$name => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    F32 = 0, 1 elements in 4 bytes;
    F16 = 1, 1 elements in 2 bytes;
    Q4_0 = 2, 32 elements in 18 bytes;
    Q4_1 = 3, 32 elements in 20 bytes;
    Q5_0 = 6, 32 elements in 22 bytes;
    Q5_1 = 7, 32 elements in 24 bytes;
    Q8_0 = 8, 32 elements in 34 bytes;
    Q8_1 = 9, 32 elements in 36 bytes;
    Q2_K = 10, 256 elements in 84 bytes;
    Q3_K = 11, 256 elements in 110 bytes;
    Q4_K = 12, 256 elements in 144 bytes;
    Q5_K = 13, 256 elements in 176 bytes;
    Q6_K = 14, 256 elements in 210 bytes;
    Q8_K = 15, 256 elements in 292 bytes;
    IQ2_XXS = 16, 256 elements in 66 bytes;
    IQ2_XS = 17, 256 elements in 74 bytes;
    IQ3_XXS = 18, 256 elements in 98 bytes;
    IQ1_S = 19, 256 elements in 50 bytes;
    IQ4_NL = 20, 32 elements in 18 bytes;
    IQ3_S = 21, 256 elements in 110 bytes;
    IQ2_S = 22, 256 elements in 82 bytes;
    IQ4_XS = 23, 256 elements in 136 bytes;
    I8 = 24, 1 elements in 1 bytes;
    I16 = 25, 1 elements in 2 bytes;
    I32 = 26, 1 elements in 4 bytes;
    I64 = 27, 1 elements in 8 bytes;
    F64 = 28, 1 elements in 8 bytes;
    IQ1_M = 29, 256 elements in 56 bytes;
    BF16 = 30, 1 elements in 2 bytes;
    TQ1_0 = 34, 256 elements in 54 bytes;
    TQ2_0 = 35, 256 elements in 66 bytes;
    MXFP4 = 39, 32 elements in 17 bytes;
    NVFP4 = 40, 64 elements in 36 bytes;
    Q1_0 = 41, 128 elements in 18 bytes;
    Q2_0 = 42, 64 elements in 18 bytes;
}

impl GgmlType {
    /// The number in a file.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// Bytes that a tensor of these dimensions (columns first) takes, or why there is no such
    /// tensor.
    pub(super) fn tensor_bytes(self, dims: &[usize]) -> Result<usize, String> {
        if dims.is_empty() || dims.len() > super::MAX_DIMS {
            return Err(format!(
                "{} dimensions, not 1 to {}",
                dims.len(),
                super::MAX_DIMS
            ));
        }
        if dims.contains(&0) {
            return Err(format!("a dimension of {dims:?} is zero"));
        }
        if !dims[0].is_multiple_of(self.block_len()) {
            return Err(format!(
                "{} columns are not a multiple of {}, the block of {self}",
                dims[0],
                self.block_len()
            ));
        }
        dims[1..]
            .iter()
            .try_fold(dims[0] / self.block_len(), |product, &dim| {
                product.checked_mul(dim)
            })
            .and_then(|blocks| blocks.checked_mul(self.block_bytes()))
            // Also bounds the number of elements for whoever multiplies the dimensions.
            .filter(|&bytes| bytes <= isize::MAX as usize / 64)
            .ok_or_else(|| format!("the dimensions {dims:?} are too large"))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back() {
        for &ggml_type in GgmlType::ALL {
            assert_eq!(
                GgmlType::from_number(ggml_type.number()),
                Some(ggml_type),
                "{ggml_type}"
            );
        }
        // Removed from ggml: sizes unknown.
        for gone in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::from_number(gone), None);
        }
    }

    #[test]
    fn sizes_of_tensors() {
        assert_eq!(GgmlType::Q4_K.tensor_bytes(&[512, 3]), Ok(2 * 144 * 3));
        assert_eq!(GgmlType::F32.tensor_bytes(&[7]), Ok(28));
        for dims in [
            &[][..],
            &[0],
            &[32, 0],
            &[31],
            &[32; 5],
            &[32, usize::MAX],
            &[32, 1 << 40, 1 << 40],
        ] {
            assert!(GgmlType::Q8_0.tensor_bytes(dims).is_err(), "{dims:?}");
        }
    }
}
