//! The types that numbers are stored in, between their three lists: the block formats that there
//! are kernels for, ggml's types, and the tensor library's.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::Stored;
use super::gguf::GgmlType;
use crate::kernels::Format;

impl From<Format> for GgmlType {
    fn from(format: Format) -> Self {
        match format {
            Format::Q4_0 => Self::Q4_0,
            Format::Q8_0 => Self::Q8_0,
            Format::Q4K => Self::Q4_K,
            Format::Q6K => Self::Q6_K,
        }
    }
}

impl From<Format> for GgmlDType {
    fn from(format: Format) -> Self {
        match format {
            Format::Q4_0 => Self::Q4_0,
            Format::Q8_0 => Self::Q8_0,
            Format::Q4K => Self::Q4K,
            Format::Q6K => Self::Q6K,
        }
    }
}

impl From<GgmlType> for Stored {
    fn from(kind: GgmlType) -> Self {
        let blocks = match kind {
            GgmlType::F32 => return Self::Float(DType::F32),
            GgmlType::F16 => return Self::Float(DType::F16),
            GgmlType::BF16 => return Self::Float(DType::BF16),
            GgmlType::Q4_0 => GgmlDType::Q4_0,
            GgmlType::Q4_1 => GgmlDType::Q4_1,
            GgmlType::Q5_0 => GgmlDType::Q5_0,
            GgmlType::Q5_1 => GgmlDType::Q5_1,
            GgmlType::Q8_0 => GgmlDType::Q8_0,
            GgmlType::Q2_K => GgmlDType::Q2K,
            GgmlType::Q3_K => GgmlDType::Q3K,
            GgmlType::Q4_K => GgmlDType::Q4K,
            GgmlType::Q5_K => GgmlDType::Q5K,
            GgmlType::Q6_K => GgmlDType::Q6K,
            other => return Self::Other(other.name().into()),
        };
        Self::Blocks(blocks)
    }
}

impl Stored {
    /// The format, if the numbers are in blocks that there are kernels for.
    pub fn format(&self) -> Option<Format> {
        let is_it = |format: &Format| *self == Self::Blocks((*format).into());
        Format::ALL.into_iter().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_lead_back_and_have_the_same_blocks() {
        for format in Format::ALL {
            let (ggml, candle) = (GgmlType::from(format), GgmlDType::from(format));
            assert_eq!(Stored::from(ggml), Stored::Blocks(candle));
            assert_eq!(Stored::from(ggml).format(), Some(format));
            let block = (format.block_inputs(), format.block_bytes());
            assert_eq!((ggml.block_len(), ggml.block_bytes()), block);
            assert_eq!((candle.block_size(), candle.type_size()), block);
        }
        assert_eq!(Stored::from(GgmlType::Q5_K).format(), None);
        assert_eq!(Stored::from(GgmlType::I8), Stored::Other("I8".into()));
    }
}
