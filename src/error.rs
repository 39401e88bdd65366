//! Everything that can go wrong in the library, each with what the user can do about it.

use crate::atomic::AtomicError;
use crate::chat::ChatError;
use crate::diffusion::GenerateError;
use crate::hub::HubError;
use crate::hub::registry::MODELS;
use crate::model::config::ConfigError;
use crate::model::device::DeviceError;
use crate::model::lora::LoraError;
use crate::model::quantize::QuantizeError;
use crate::tokenizer::TokenizerError;
use crate::weights::WeightsError;

/// A failure of any part of the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What describes a model was refused, its configuration, tokenizer or chat template; or an
    /// adapter cannot be had.
    #[error("{model} cannot be loaded")]
    Package {
        /// The model: a folder, a file, or its name on the Hub; or "the adapter".
        model: String,
        /// Why.
        source: Box<Error>,
    },
    /// The model's files cannot be had.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// config.json or generation_config.json was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer's files were refused, or a text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights were refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An adapter was refused.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A quantized file could not be made.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// A file could not be replaced.
    #[error(transparent)]
    Write(#[from] AtomicError),
    /// What was asked for cannot be done with this model.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Denoising failed.
    #[error(transparent)]
    Generate(#[from] GenerateError<candle_core::Error>),
}

impl Error {
    /// What the user can do about it, where that does not depend on the program round the library.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Package { source, .. } => source.hint(),
            Self::Hub(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Tokenizer(error) => error.hint(),
            Self::Chat(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::Lora(error) => error.hint(),
            Self::Quantize(error) => error.hint(),
            Self::Write(error) => error.hint(),
            Self::Request(error) => error.hint(),
            Self::Device(_) | Self::Generate(_) => None,
        }
    }
}

/// Why what was asked for cannot be done with this model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Text and holes do not fit the model's context.
    #[error(
        "the text has {given} tokens or more, which with up to {new} new ones exceeds the context of \
         {context}"
    )]
    TooLong {
        /// Tokens that must be shown, counted up to where there are too many.
        given: usize,
        /// Tokens that can be written.
        new: usize,
        /// Tokens that the model is shown at most.
        context: usize,
    },
    /// There is no hole, or one of no tokens.
    #[error("there is nothing to fill: a task needs a hole, and a hole at least one token")]
    NothingToFill,
    /// A hole is to grow although text follows it.
    #[error("only a hole that nothing follows can grow")]
    GrowsBetween,
    /// A model that sees nothing behind the block that it writes got text there.
    #[error("this model is block-causal: it sees nothing behind a hole, and cannot fill one there")]
    WritesForward,
    /// A form was asked for of weights that are used as they are stored.
    #[error("the weights are quantized already, and used in the form in which they are stored")]
    HeldAsStored,
}

impl RequestError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let fillers = MODELS.iter().filter(|model| model.fills_holes());
        let fillers: Vec<_> = fillers.map(|model| model.alias).collect();
        (*self == Self::WritesForward)
            .then(|| format!("models that fill holes: {}", fillers.join(", ")))
    }
}
