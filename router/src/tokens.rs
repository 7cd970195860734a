//! Texts to tokens, without holding up the connections: what takes long runs beside them.

use std::sync::Arc;

use hadal_router_core::openai::Prompt;
use hadal_router_core::{ChatMessage, ChatOptions, Failure, FailureKind};

use crate::service::ServedModel;

/// Bytes from which tokenising leaves the connections' threads: about a millisecond's work.
const LONG_BYTES: usize = 8 << 10;

/// Tokens of a prompt.
pub(crate) async fn prompt(model: &Arc<ServedModel>, prompt: Prompt) -> Result<Vec<u32>, Failure> {
    match prompt {
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Text(text) => {
            check_length(model, text.len(), "prompt")?;
            aside(model, text.len(), move |model| model.text.encode_prompt(&text)).await
        }
    }
}

/// Tokens of a text as it is.
pub(crate) async fn plain(model: &Arc<ServedModel>, text: String) -> Result<Vec<u32>, Failure> {
    aside(model, text.len(), move |model| model.text.encode_plain(&text)).await
}

/// A conversation's text and its tokens.
pub(crate) async fn chat(
    model: &Arc<ServedModel>,
    messages: Vec<ChatMessage>,
    options: ChatOptions,
) -> Result<(String, Vec<u32>), Failure> {
    let length = messages.iter().flat_map(|m| m.0.values()).filter_map(|v| v.as_str()).map(str::len).sum();
    check_length(model, length, "messages")?;
    let work = move |model: &ServedModel| {
        let text = model.text.render_chat(&messages, &options)?;
        let tokens = model.text.encode_plain(&text)?;
        Ok((text, tokens))
    };
    aside(model, length, work).await
}

/// A text that is too long even if each token were the longest is refused before it is tokenised.
fn check_length(model: &ServedModel, bytes: usize, param: &str) -> Result<(), Failure> {
    let context = model.info.context_tokens;
    let longest = model.text.vocabulary().longest();
    if bytes <= (context as usize).saturating_mul(longest) {
        return Ok(());
    }
    let least = bytes / longest;
    let message = format!("the model's context is {context} tokens; the prompt has at least {least}; shorten it");
    Err(Failure::new(FailureKind::TooLong, message).with_param(param))
}

async fn aside<T: Send + 'static>(
    model: &Arc<ServedModel>,
    bytes: usize,
    work: impl FnOnce(&ServedModel) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    if bytes < LONG_BYTES {
        return work(model);
    }
    let model = Arc::clone(model);
    let ended = tokio::task::spawn_blocking(move || work(&model)).await;
    ended.map_err(|e| Failure::internal(format!("tokenising ended early: {e}")))?
}
