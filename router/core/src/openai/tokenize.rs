//! The request of `/tokenize`: a text or a conversation.

use super::chat;
use super::common::model;
use super::fields::Fields;
use crate::failure::Failure;
use crate::template::{ChatMessage, ChatOptions};

/// A request for token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// Name of the model.
    pub model: String,
    /// What to tokenise.
    pub input: TokenizeInput,
}

/// What is tokenised.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizeInput {
    /// A text; `special` says whether as a prompt, with the beginning-of-sequence token, or plain.
    Text {
        /// The text.
        text: String,
        /// As a prompt.
        special: bool,
    },
    /// A conversation, rendered by the chat template.
    Chat {
        /// Its messages.
        messages: Vec<ChatMessage>,
        /// What the template is told beside them.
        options: ChatOptions,
    },
}

impl TokenizeRequest {
    /// Reads a body with `prompt` or `messages`.
    ///
    /// # Errors
    /// When it is not JSON, has neither or both, or a field is of another type.
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let fields = Fields::of_body(body)?;
        let input = match (fields.raw("messages"), fields.raw("prompt")) {
            (Some(raw), None) => {
                TokenizeInput::Chat { messages: chat::messages(raw)?, options: chat::options(&fields)? }
            }
            (Some(_), Some(_)) => return Err(Failure::invalid("messages", "give prompt or messages, not both")),
            (None, _) => {
                let text = fields.need("prompt", "a string (or give messages)")?;
                let special = fields.get("add_special_tokens", "true or false")?.unwrap_or(true);
                TokenizeInput::Text { text, special }
            }
        };
        Ok(Self { model: model(&fields)?, input })
    }
}
