//! What a file as a whole is stored in, and llama.cpp's mixtures: which of its tensors get more
//! bits than the rest.
//!
//! Source: `llama_tensor_get_type_impl` in llama.cpp's `llama-quant.cpp`.

use super::GgmlType;

/// How most of a file's numbers are stored, as llama.cpp names it.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// 8 bits.
    Q8_0,
    /// 6 bits.
    Q6_K,
    /// 5 bits, with 6 in half of the layers' `attn_v` and `ffn_down`.
    Q5_K_M,
    /// 4 bits, with 6 in half of the layers' `attn_v` and `ffn_down`.
    Q4_K_M,
    /// 4 bits in all layers.
    Q4_K,
    /// 4 bits, with coarser scales.
    Q4_0,
}

impl FileType {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_K_M,
        Self::Q4_K_M,
        Self::Q4_K,
        Self::Q4_0,
    ];

    /// The name in small letters.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The number that stands for it in a file (`general.file_type`).
    pub(crate) fn number(self) -> u32 {
        self.row().1
    }

    /// What most matrices are stored as.
    pub(crate) fn matrices(self) -> GgmlType {
        self.row().2
    }

    fn row(self) -> (&'static str, u32, GgmlType) {
        match self {
            Self::F32 => ("f32", 0, GgmlType::F32),
            Self::F16 => ("f16", 1, GgmlType::F16),
            Self::BF16 => ("bf16", 32, GgmlType::BF16),
            Self::Q8_0 => ("q8_0", 7, GgmlType::Q8_0),
            Self::Q6_K => ("q6_k", 18, GgmlType::Q6_K),
            Self::Q5_K_M => ("q5_k_m", 17, GgmlType::Q5_K),
            Self::Q4_K_M => ("q4_k_m", 15, GgmlType::Q4_K),
            Self::Q4_K => ("q4_k", 14, GgmlType::Q4_K), // Q4_K_S there
            Self::Q4_0 => ("q4_0", 2, GgmlType::Q4_0),
        }
    }

    /// What a tensor of that name and shape (rows first) is stored as, in a network of `layers`.
    /// Rows that do not fill the blocks get those of 8 bits, or stay float32.
    pub(crate) fn of_tensor(
        self,
        name: &str,
        is_head: bool,
        shape: &[usize],
        layers: usize,
    ) -> GgmlType {
        let &[_, columns] = shape else {
            return GgmlType::F32;
        };
        let layer = name.split('.').nth(1).and_then(|part| part.parse().ok());
        let has_more = ["attn_v", "ffn_down"]
            .iter()
            .any(|kind| name.contains(kind))
            && layer.is_some_and(|layer| gets_more_bits(layer, layers));
        let wanted = match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q8_0 => self.matrices(),
            _ if is_head => GgmlType::Q6_K,
            Self::Q5_K_M | Self::Q4_K_M if has_more => GgmlType::Q6_K,
            _ => self.matrices(),
        };
        let fitting = [wanted, GgmlType::Q8_0].into_iter();
        let mut fitting = fitting.filter(|kind| columns.is_multiple_of(kind.block_len()));
        fitting.next().unwrap_or(GgmlType::F32)
    }
}

/// The first and the last eighth of the layers, and every third between them.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What llama-quantize writes for the shape of DiffuCoder-7B (28 layers).
    #[test]
    fn the_mixture_is_that_of_llama_cpp() {
        let more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27];
        for layer in 0..28 {
            let expected = match more.contains(&layer) {
                true => GgmlType::Q6_K,
                false => GgmlType::Q4_K,
            };
            let of = |kind: &str, file: FileType| {
                file.of_tensor(
                    &format!("blk.{layer}.{kind}.weight"),
                    false,
                    &[512, 3584],
                    28,
                )
            };
            assert_eq!(of("attn_v", FileType::Q4_K_M), expected, "{layer}");
            assert_eq!(of("ffn_down", FileType::Q4_K_M), expected, "{layer}");
            assert_eq!(of("ffn_down", FileType::Q4_K), GgmlType::Q4_K);
            assert_eq!(of("ffn_up", FileType::Q4_K_M), GgmlType::Q4_K);
            assert_eq!(of("attn_q", FileType::Q5_K_M), GgmlType::Q5_K);
        }
    }

    /// An eighth that is no multiple of three.
    #[test]
    fn every_third_layer_is_counted_behind_the_first_eighth() {
        let more: Vec<usize> = (0..32).filter(|&layer| gets_more_bits(layer, 32)).collect();
        let third = [6, 9, 12, 15, 18, 21, 24, 27];
        assert_eq!(
            more,
            [&[0, 1, 2, 3], &third[..], &[28, 29, 30, 31]].concat()
        );
    }

    /// `llama_ftype` in `include/llama.h`.
    #[test]
    fn numbers_are_those_of_llama_cpp() {
        let numbers = FileType::ALL.map(|each| (each.name(), each.number()));
        let expected = [
            ("f32", 0),
            ("f16", 1),
            ("bf16", 32),
            ("q8_0", 7),
            ("q6_k", 18),
            ("q5_k_m", 17),
            ("q4_k_m", 15),
            ("q4_k", 14),
            ("q4_0", 2),
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn heads_vectors_and_odd_rows_have_types_of_their_own() {
        let of = |file: FileType, is_head, shape: &[usize]| file.of_tensor("x", is_head, shape, 28);
        for file in [
            FileType::Q4_0,
            FileType::Q4_K_M,
            FileType::Q5_K_M,
            FileType::Q6_K,
        ] {
            assert_eq!(of(file, true, &[9, 512]), GgmlType::Q6_K);
            assert_eq!(of(file, true, &[9, 96]), GgmlType::Q8_0);
            assert_eq!(of(file, false, &[9, 33]), GgmlType::F32);
            assert_eq!(of(file, false, &[512]), GgmlType::F32);
        }
        assert_eq!(of(FileType::Q8_0, true, &[9, 512]), GgmlType::Q8_0);
        assert_eq!(of(FileType::BF16, true, &[9, 33]), GgmlType::BF16);
        assert_eq!(of(FileType::F16, false, &[512]), GgmlType::F32);
    }
}
