//! What a client sends with its messages, as far as it is looked at.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::document::{Change, Encoding, Position};
use super::message::Id;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initialize {
    #[serde(default)]
    capabilities: Capabilities,
    #[serde(default)]
    client_info: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Capabilities {
    general: Option<General>,
    text_document: Option<TextDocumentCapabilities>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct General {
    position_encodings: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TextDocumentCapabilities {
    /// Emacs says it with `null`.
    #[serde(deserialize_with = "is_there")]
    inline_completion: bool,
}

fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Initialize {
    /// What characters are counted in: the first that is known here of those that the client names,
    /// the best for it first.
    pub fn encoding(&self) -> Encoding {
        let general = self.capabilities.general.as_ref();
        let named = general.and_then(|general| general.position_encodings.as_ref());
        let mut known = named.into_iter().flatten();
        let agreed = known.find_map(|name| Encoding::deserialize(name).ok());
        agreed.unwrap_or_default()
    }

    /// Whether the editor shows suggestions in the text.
    pub fn shows_inline(&self) -> bool {
        let of_texts = self.capabilities.text_document.as_ref();
        of_texts.is_some_and(|of_texts| of_texts.inline_completion)
    }

    /// The kind of a request that somebody made by hand. The protocol counts kinds from 1. Its
    /// draft had them from 0, as VS Code's library for clients before version 10.
    pub fn invoked(&self) -> u32 {
        match self.client_info["name"].as_str() {
            Some(name) if name.starts_with("Visual Studio Code") => 0,
            _ => 1,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    pub text_document: TextDocument,
}

#[derive(Deserialize)]
pub struct TextDocument {
    pub uri: String,
    #[serde(default)]
    pub text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    pub text_document: TextDocument,
    pub content_changes: Vec<Change>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    pub text_document: TextDocument,
    pub position: Position,
    context: Option<Context>,
}

impl Completion {
    /// How it came about.
    pub fn kind(&self) -> Option<u32> {
        self.context
            .as_ref()
            .and_then(|context| context.trigger_kind)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    trigger_kind: Option<u32>,
}

#[derive(Deserialize)]
pub struct Cancelled {
    pub id: Id,
}
