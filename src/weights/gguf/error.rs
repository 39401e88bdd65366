//! Why a GGUF file was refused.

use super::ValueType;

/// Why a GGUF file was refused. Every message names the part, key or tensor at fault.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum GgufError {
    /// Something else than GGUF.
    #[error("not a GGUF file: it starts with {found:?}")]
    NotGguf { found: String },
    /// A kind of GGUF that is not read here.
    #[error("{what} is not supported")]
    Unsupported { what: String },
    /// The file ends before its content does.
    #[error("cut short: {part} at byte {offset} needs {needs} bytes, but {left} are left")]
    Truncated {
        part: String,
        offset: usize,
        needs: u64,
        left: usize,
    },
    /// The file contradicts itself.
    #[error("damaged: {part} (byte {offset}): {reason}")]
    Damaged {
        part: String,
        offset: usize,
        reason: String,
    },
    /// A key that is needed is not there.
    #[error("the key {key} is missing")]
    MissingKey { key: String },
    /// A key has a value of the wrong type.
    #[error("the key {key} is of type {found}, but must be {expected}")]
    WrongType {
        key: String,
        found: ValueType,
        expected: &'static str,
    },
    /// A value that makes no sense, or asks for something that is not done here.
    #[error("the key {key} is {found}, but must be {expected}")]
    BadValue {
        key: String,
        found: String,
        expected: String,
    },
    /// A network that cannot be run.
    #[error("architecture {found:?} is not supported")]
    UnknownArchitecture {
        /// The value of general.architecture.
        found: String,
        known: String,
    },
    /// A network that autoregressive models have too, and no name that says this is none.
    #[error(
        "the architecture {architecture} is that of autoregressive models too, and neither general.name nor the file's name is that of a diffusion model"
    )]
    NotDiffusion {
        /// The value of general.architecture.
        architecture: String,
        /// Parts of the names of diffusion models that have it.
        names: String,
    },
    /// The network needs a tensor that the file has not.
    #[error("tensor {tensor} is missing")]
    MissingTensor { tensor: String },
    /// The file is not the part of a model that it is named, or its parts are not of one model.
    #[error("{reason}")]
    Part { reason: String },
    /// A tensor's dimensions contradict the metadata.
    #[error("tensor {tensor} has the dimensions {found:?}, but the metadata makes them {expected}")]
    Shape {
        tensor: String,
        /// Its dimensions, columns first.
        found: Vec<usize>,
        expected: String,
    },
}

impl GgufError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotGguf { .. } | Self::Truncated { .. } | Self::Damaged { .. } => Some(
                "the file is probably cut short or not what it claims to be: delete it and \
                 download it again"
                    .into(),
            ),
            Self::Unsupported { .. }
            | Self::MissingKey { .. }
            | Self::WrongType { .. }
            | Self::BadValue { .. }
            | Self::MissingTensor { .. }
            | Self::Shape { .. } => {
                Some("try another conversion of the model, or one made with a newer tool".into())
            }
            Self::Part { .. } => Some(
                "parts are found by their names, NAME-00001-of-00003.gguf and so on, in one folder: \
                 download all of them again, or join them with llama.cpp's gguf-split"
                    .into(),
            ),
            Self::NotDiffusion { names, .. } => Some(format!(
                "if it is one, name the file so: a name with one of these in it is known here: {names}"
            )),
            Self::UnknownArchitecture { known, .. } => Some(format!(
                "only masked-diffusion models of the architectures {known} run here, with a mask token"
            )),
        }
    }
}
