//! The request of `/v1/chat/completions`.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::common::{Common, elements};
use super::fields::Fields;
use crate::failure::{Failure, FailureKind};
use crate::template::{ChatMessage, ChatOptions};

/// A request to answer a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// Fields of both endpoints.
    pub common: Common,
    /// The conversation, at least one message.
    pub messages: Vec<ChatMessage>,
    /// What the template is told beside it. The time is not set.
    pub chat: ChatOptions,
}

/// Messages of a conversation at most, and parts of a message.
const MESSAGES_MAX: usize = 4096;
const PARTS_MAX: usize = 1024;
/// Bytes of `chat_template_kwargs` at most.
const VARIABLES_BYTES_MAX: usize = 64 << 10;

/// Fields of this endpoint that would change the answer, with the values that change nothing.
const UNSUPPORTED: [(&str, &[&str]); 8] = [
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("audio", &[]),
    ("modalities", &["[\"text\"]"]),
    ("prediction", &[]),
    ("continue_final_message", &["false"]),
];

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// As [`super::CompletionRequest::parse`].
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        let fields = Fields::of_body(body)?;
        for (name, harmless) in UNSUPPORTED {
            fields.refuse(name, harmless)?;
        }
        let mut common = Common::read(&fields)?;
        if let Some(max) = fields.count("max_completion_tokens")? {
            common.sampling.max_tokens = Some(max);
        }
        common.sampling.logprobs = logprobs(&fields)?;
        let messages = messages(fields.need("messages", "a list of messages")?)?;
        Ok(Self { common, messages, chat: options(&fields)? })
    }
}

/// `logprobs` switches them on; `top_logprobs` says how many alternatives.
fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, Failure> {
    let top = fields.count("top_logprobs")?;
    match (fields.flag("logprobs")?, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            Err(Failure::invalid("top_logprobs", "top_logprobs needs logprobs; set logprobs to true or leave it out"))
        }
    }
}

/// What the template is told.
pub(super) fn options(fields: &Fields<'_>) -> Result<ChatOptions, Failure> {
    let name = "chat_template_kwargs";
    if fields.raw(name).is_some_and(|raw| raw.get().len() > VARIABLES_BYTES_MAX) {
        return Err(Failure::invalid(name, format!("{name} is larger than {VARIABLES_BYTES_MAX} bytes")));
    }
    let variables: Map<String, Value> = fields.get(name, "an object")?.unwrap_or_default();
    let add_generation_prompt = fields.get("add_generation_prompt", "true or false")?.unwrap_or(true);
    Ok(ChatOptions { add_generation_prompt, variables, unix_time_s: 0 })
}

/// A conversation from its JSON.
pub(super) fn messages(raw: &RawValue) -> Result<Vec<ChatMessage>, Failure> {
    let list = elements(raw, "messages", MESSAGES_MAX)?;
    if list.is_empty() {
        return Err(Failure::invalid("messages", "messages is empty; it must have at least one message"));
    }
    list.into_iter().enumerate().map(|(i, raw)| message(raw, &format!("messages[{i}]"))).collect()
}

fn message(raw: &RawValue, path: &str) -> Result<ChatMessage, Failure> {
    let fields = Fields::of_value(raw, path)?;
    for name in ["tool_calls", "function_call", "audio"] {
        fields.refuse(name, &["[]"])?;
    }
    let role = role(&fields)?;
    let content = match fields.raw("content") {
        // An assistant may have said nothing.
        None if role == "assistant" => String::new(),
        None => fields.need("content", "a string or a list of text parts")?,
        Some(raw) => content(&fields, raw)?,
    };
    let mut message = ChatMessage::new(role, &content);
    for name in ["name", "reasoning_content", "tool_call_id"] {
        if let Some(text) = fields.get::<String>(name, "a string")? {
            message.0.insert(name.into(), text.into());
        }
    }
    Ok(message)
}

/// A developer is what OpenAI's newer models call the system; templates know only the old name.
fn role(fields: &Fields<'_>) -> Result<&'static str, Failure> {
    let expected = "one of system, developer, user, assistant and tool";
    let role: String = fields.need("role", expected)?;
    match role.as_str() {
        "system" | "developer" => Ok("system"),
        "user" => Ok("user"),
        "assistant" => Ok("assistant"),
        "tool" => Ok("tool"),
        other => {
            let name = fields.name("role");
            let shown: String = other.chars().take(40).collect();
            Err(Failure::invalid(&name, format!("{name} must be {expected}; it is {shown:?}")))
        }
    }
}

/// A text, or the texts of parts one after the other.
fn content(fields: &Fields<'_>, raw: &RawValue) -> Result<String, Failure> {
    let name = fields.name("content");
    if !raw.get().starts_with('[') {
        return fields.need("content", "a string or a list of text parts");
    }
    let mut text = String::new();
    for (i, raw) in elements(raw, &name, PARTS_MAX)?.into_iter().enumerate() {
        let part = Fields::of_value(raw, &format!("{name}[{i}]"))?;
        let kind: String = part.need("type", "\"text\"")?;
        if kind != "text" {
            let name = part.name("type");
            let shown: String = kind.chars().take(40).collect();
            let message = format!("{name} is {shown:?}; only \"text\" is supported");
            return Err(Failure::new(FailureKind::Unsupported, message).with_param(name));
        }
        text.push_str(&part.need::<String>("text", "a string")?);
    }
    Ok(text)
}
