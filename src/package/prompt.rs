//! What a model is asked, in the form in which it gets it.

use crate::chat::Message;

/// A prompt and the form in which the model gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// To be continued as it is; special tokens count by their names.
    Raw(&'a str),
    /// To be continued as it is; the names of special tokens are text.
    Text(&'a str),
    /// A question in the chat template.
    Chat {
        /// The system message; without one the template has its own or none.
        system: Option<&'a str>,
        /// The user's message.
        user: &'a str,
        /// The beginning of the model's answer.
        answer: &'a str,
    },
    /// A conversation in the chat template.
    Conversation {
        /// What was said.
        messages: &'a [Message],
        /// The beginning of the model's answer.
        answer: &'a str,
    },
}

impl<'a> Prompt<'a> {
    /// The system message, where the model gets one.
    pub fn system(&self) -> Option<&'a str> {
        match self {
            Self::Raw(_) | Self::Text(_) | Self::Conversation { .. } => None,
            Self::Chat { system, .. } => *system,
        }
    }

    /// The longest of its parts.
    pub(crate) fn longest_text(&self) -> &'a str {
        match *self {
            Self::Raw(text) | Self::Text(text) => text,
            Self::Conversation { messages, answer } => messages
                .iter()
                .map(|message| &*message.content)
                .chain([answer])
                .max_by_key(|text| text.len())
                .unwrap_or_default(),
            Self::Chat {
                system,
                user,
                answer,
            } => [system.unwrap_or_default(), user, answer]
                .into_iter()
                .max_by_key(|text| text.len())
                .unwrap_or_default(),
        }
    }
}
