//! Wrong usage: what was asked for cannot be done, whatever the model.

/// Wrong usage that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    pub message: String,
    /// Long names of the flags at fault, without the dashes.
    pub flags: Vec<&'static str>,
    pub hint: Option<String>,
}

impl UsageError {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            flags: Vec::new(),
            hint: None,
        }
    }

    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..Self::new(message)
        }
    }

    /// Names the flags at fault: one that was not typed is told with where its value came from.
    pub fn about(mut self, flags: &[&'static str]) -> Self {
        self.flags.extend(flags);
        self
    }
}
