//! How the network holds its weights, and whether they fit.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;

use crate::kernels::Format;

/// A precision asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// What suits the device.
    Auto,
    /// A fixed type.
    Fixed(DType),
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Fixed(DType::F32)),
            "bf16" => Ok(Self::Fixed(DType::BF16)),
            "f16" => Ok(Self::Fixed(DType::F16)),
            _ => Err("expected auto, f32, bf16 or f16".into()),
        }
    }
}

/// A quantization asked for, of weights that are stored as floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// None, or as little as the memory asks for.
    Auto,
    /// None.
    None,
    /// To this format.
    To(Format),
}

impl Quantization {
    /// The formats that weights are quantized to when they are loaded.
    pub const FORMATS: [Format; 3] = [Format::Q8_0, Format::Q4_0, Format::Q4K];
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            _ => Format::named(text)
                .filter(|format| Self::FORMATS.contains(format))
                .map(Self::To)
                .ok_or_else(|| "expected auto, none, q8_0, q4_0 or q4_k".into()),
        }
    }
}

/// How the network holds its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// As floating-point numbers of this type.
    Dense(DType),
    /// Matrices quantized to this format, the rest as float32.
    Quantized(Format),
    /// As the file has them: matrices stay quantized or of 16 bits, the rest is float32.
    AsStored,
}

impl Storage {
    /// Type of the activations.
    pub fn dtype(self) -> DType {
        match self {
            Self::Dense(dtype) => dtype,
            Self::Quantized(_) | Self::AsStored => DType::F32,
        }
    }

    /// How to hold `parameters` weights on the CPU or a GPU, of whose memory `free_bytes` are free
    /// if that is known.
    ///
    /// On a GPU that is bf16, the type the models were trained in: Qwen2.5's activations overflow
    /// f16. On the CPU it is f32, exact. Where that does not fit, it is 8-bit or 4-bit blocks.
    ///
    /// # Errors
    /// [`TooLarge`] when the weights do not fit.
    pub(crate) fn choose(
        precision: Precision,
        quantization: Quantization,
        is_gpu: bool,
        parameters: usize,
        free_bytes: Option<u64>,
    ) -> Result<Self, TooLarge> {
        let fits = |storage: &Self| free_bytes.is_none_or(|free| storage.bytes(parameters) < free);
        let [f32, bf16] = [DType::F32, DType::BF16].map(Self::Dense);
        let [q8_0, q4_0, q4_k] = [Format::Q8_0, Format::Q4_0, Format::Q4K].map(Self::Quantized);
        let candidates = match (precision, quantization) {
            (_, Quantization::To(format)) => vec![Self::Quantized(format)],
            (Precision::Fixed(dtype), _) => vec![Self::Dense(dtype)],
            (Precision::Auto, Quantization::None) if is_gpu => vec![bf16],
            (Precision::Auto, Quantization::None) => vec![f32, bf16],
            (Precision::Auto, Quantization::Auto) if is_gpu => vec![bf16, q8_0, q4_k],
            (Precision::Auto, Quantization::Auto) => vec![f32, q8_0, q4_0],
        };
        match candidates.iter().find(|storage| fits(storage)) {
            Some(storage) => Ok(*storage),
            None => {
                let smallest = candidates[candidates.len() - 1];
                let needed_bytes = smallest.bytes(parameters);
                Err(smallest.too_large(needed_bytes, parameters, free_bytes))
            }
        }
    }

    /// Type of the matrices that a file has as numbers, beside others in blocks. Those of 16 bits
    /// stay so; on a GPU, where the activations have to be of the same type, only bf16 does, since
    /// Qwen2.5's activations overflow f16.
    pub(crate) fn type_beside_blocks(stored: DType, is_gpu: bool) -> DType {
        match stored {
            DType::BF16 => DType::BF16,
            DType::F16 if !is_gpu => DType::F16,
            _ => DType::F32,
        }
    }

    /// [`Self::AsStored`], for a file whose `parameters` weights take `needed_bytes`.
    ///
    /// # Errors
    /// [`TooLarge`] when they do not fit the `free_bytes`, if those are known.
    pub(crate) fn as_stored(
        needed_bytes: u64,
        parameters: usize,
        free_bytes: Option<u64>,
    ) -> Result<Self, TooLarge> {
        if free_bytes.is_none_or(|free| needed_bytes < free) {
            return Ok(Self::AsStored);
        }
        Err(Self::AsStored.too_large(needed_bytes, parameters, free_bytes))
    }

    /// The error that `needed_bytes` for `parameters` weights in this form are not free.
    fn too_large(self, needed_bytes: u64, parameters: usize, free_bytes: Option<u64>) -> TooLarge {
        let free_bytes = free_bytes.unwrap_or_default();
        let quantized = |format| Quantized {
            format,
            bytes: Self::Quantized(format).bytes(parameters),
        };
        let fits = |form: &Quantized| form.bytes < free_bytes && form.bytes < needed_bytes;
        TooLarge {
            needed_bytes,
            free_bytes,
            storage: self,
            fitting: [Format::Q8_0, Format::Q4_0]
                .map(quantized)
                .into_iter()
                .find(fits),
        }
    }

    /// What follows "as" in a sentence about the weights.
    fn in_words(self) -> String {
        match self {
            Self::AsStored => "they are stored".into(),
            Self::Dense(_) | Self::Quantized(_) => self.to_string(),
        }
    }

    /// Memory that `parameters` weights take.
    pub fn bytes(&self, parameters: usize) -> u64 {
        let bytes = match self {
            Self::Dense(dtype) => parameters * dtype.size_in_bytes(),
            Self::Quantized(format) => parameters / format.block_inputs() * format.block_bytes(),
            Self::AsStored => 0,
        };
        bytes as u64
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => f.write_str(dtype.as_str()),
            Self::Quantized(format) => format.fmt(f),
            Self::AsStored => f.write_str("as stored"),
        }
    }
}

/// The weights are larger than the free memory.
#[derive(Debug, thiserror::Error)]
#[error(
    "the weights need {:.1} GB of memory as {}, and {:.1} GB are free",
    *needed_bytes as f64 / 1e9, storage.in_words(), *free_bytes as f64 / 1e9
)]
pub struct TooLarge {
    /// What the weights take.
    pub needed_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
    /// The smallest form that was asked for.
    pub storage: Storage,
    /// The largest quantized form that would fit.
    pub fitting: Option<Quantized>,
}

/// A quantized form of a model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// Format of the blocks.
    pub format: Format,
    /// Memory that the weights take.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitting(error: &TooLarge) -> Option<(Format, u64)> {
        error.fitting.map(|form| (form.format, form.bytes))
    }

    #[test]
    fn storage_follows_the_memory() {
        let choose = |precision, quantization, free_gib: Option<u64>| {
            let free = free_gib.map(|gib| gib << 30);
            Storage::choose(precision, quantization, false, 7_000_000_000, free)
        };
        let auto = |free| choose(Precision::Auto, Quantization::Auto, free).ok();
        assert_eq!(auto(Some(64)), Some(Storage::Dense(DType::F32)));
        assert_eq!(auto(None), Some(Storage::Dense(DType::F32)));
        assert_eq!(auto(Some(20)), Some(Storage::Quantized(Format::Q8_0)));
        assert_eq!(auto(Some(6)), Some(Storage::Quantized(Format::Q4_0)));
        assert_eq!(auto(Some(3)), None);
        let q4_k = Quantization::To(Format::Q4K);
        let chosen = choose(Precision::Auto, q4_k, Some(20)).unwrap();
        assert_eq!(chosen, Storage::Quantized(Format::Q4K));
        let f32 = Precision::Fixed(DType::F32);
        let error = choose(f32, Quantization::Auto, Some(20)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights need 28.0 GB of memory as f32, and 21.5 GB are free"
        );
        assert_eq!(fitting(&error), Some((Format::Q8_0, 7_437_500_000)));
        let error = choose(Precision::Auto, Quantization::Auto, Some(3)).unwrap_err();
        assert_eq!(fitting(&error), None);
    }

    #[test]
    fn storage_follows_the_memory_of_a_gpu() {
        let choose = |precision, quantization, free_gb: Option<u64>| {
            let free = free_gb.map(|gb| gb * 1_000_000_000);
            Storage::choose(precision, quantization, true, 7_070_000_000, free)
        };
        let auto = |free| choose(Precision::Auto, Quantization::Auto, free).ok();
        assert_eq!(auto(None), Some(Storage::Dense(DType::BF16)));
        assert_eq!(auto(Some(15)), Some(Storage::Dense(DType::BF16)));
        assert_eq!(auto(Some(11)), Some(Storage::Quantized(Format::Q8_0)));
        assert_eq!(auto(Some(7)), Some(Storage::Quantized(Format::Q4K)));
        assert_eq!(auto(Some(3)), None);
        let error = choose(Precision::Auto, Quantization::None, Some(11)).unwrap_err();
        assert_eq!(fitting(&error), Some((Format::Q8_0, 7_511_875_000)));
        let asked = choose(Precision::Auto, Quantization::To(Format::Q4_0), Some(7));
        assert_eq!(asked.unwrap(), Storage::Quantized(Format::Q4_0));
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let stored = |needed, free| Storage::as_stored(needed, 7_000_000_000, free);
        assert!(stored(8 << 30, None).is_ok() && stored(8 << 30, Some(9 << 30)).is_ok());
        let error = stored(8_000_000_000, Some(6_000_000_000)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weights need 8.0 GB of memory as they are stored, and 6.0 GB are free"
        );
        assert_eq!(fitting(&error), Some((Format::Q4_0, 3_937_500_000)));
    }
}
