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
            Format::Q4_1 => Self::Q4_1,
            Format::Q5_0 => Self::Q5_0,
            Format::Q5_1 => Self::Q5_1,
            Format::Q8_0 => Self::Q8_0,
            Format::Q2K => Self::Q2_K,
            Format::Q3K => Self::Q3_K,
            Format::Q4K => Self::Q4_K,
            Format::Q5K => Self::Q5_K,
            Format::Q6K => Self::Q6_K,
            Format::Iq4Nl => Self::IQ4_NL,
            Format::Iq4Xs => Self::IQ4_XS,
        }
    }
}

/// The tensor library's name for a format, if it has one.
pub(super) fn library_type(format: Format) -> Option<GgmlDType> {
    Some(match format {
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q2K => GgmlDType::Q2K,
        Format::Q3K => GgmlDType::Q3K,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
        Format::Iq4Nl | Format::Iq4Xs => return None,
    })
}

impl From<GgmlType> for Stored {
    fn from(kind: GgmlType) -> Self {
        match kind {
            GgmlType::F32 => Self::Float(DType::F32),
            GgmlType::F16 => Self::Float(DType::F16),
            GgmlType::BF16 => Self::Float(DType::BF16),
            other => {
                let format = Format::ALL
                    .into_iter()
                    .find(|&format| other == format.into());
                format.map_or_else(|| Self::Other(other.name().into()), Self::Blocks)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_lead_back_and_have_the_same_blocks() {
        for format in Format::ALL {
            let ggml = GgmlType::from(format);
            assert_eq!(Stored::from(ggml), Stored::Blocks(format));
            assert_eq!(ggml.name().to_lowercase(), format.name());
            let block = (format.block_inputs(), format.block_bytes());
            assert_eq!((ggml.block_len(), ggml.block_bytes()), block);
            if let Some(library) = library_type(format) {
                assert_eq!((library.block_size(), library.type_size()), block);
            }
        }
        assert_eq!(Stored::from(GgmlType::IQ3_S), Stored::Other("IQ3_S".into()));
    }
}
