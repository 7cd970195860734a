//! The JSON of OpenAI's answers, as the `openai` Python package reads them. Fields are in the order in which they are
//! written.

use serde::{Serialize, Serializer};

use crate::choice::{Logprob, TokenLogprobs, Usage};

/// A choice of either endpoint.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Choice<'a> {
    /// Text, whole or a piece.
    Completion {
        index: u32,
        text: &'a str,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_ids: Option<&'a [u32]>,
    },
    /// A whole message.
    Message {
        index: u32,
        message: Message<'a>,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_ids: Option<&'a [u32]>,
    },
    /// A piece of a message.
    Piece {
        index: u32,
        delta: Piece<'a>,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        token_ids: Option<&'a [u32]>,
    },
}

/// A whole answer, or a piece of one.
#[derive(Serialize)]
pub(super) struct Body<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<Choice<'a>>,
    /// Absent, null in the pieces before it comes, or there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<UsageBody>>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    pub(super) content: &'a str,
    pub(super) refusal: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Piece<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_prompt_tokens },
        }
    }
}

/// Log-probabilities of `/v1/completions`: four lists of equal length.
#[derive(Serialize)]
pub(super) struct CompletionLogprobs {
    text_offset: Vec<u32>,
    token_logprobs: Vec<f32>,
    tokens: Vec<String>,
    top_logprobs: Vec<Top>,
}

impl CompletionLogprobs {
    pub(super) fn new(tokens: &[TokenLogprobs]) -> Self {
        Self {
            text_offset: tokens.iter().map(|t| t.text_offset).collect(),
            token_logprobs: tokens.iter().map(|t| finite(t.token.logprob)).collect(),
            tokens: tokens.iter().map(|t| t.token.text()).collect(),
            top_logprobs: tokens.iter().map(top).collect(),
        }
    }
}

/// Alternatives by text, the likeliest first.
struct Top(Vec<(String, f32)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(text, logprob)| (text, logprob)))
    }
}

/// The chosen token is among the alternatives even when it is not likely. Two tokens of the same text (broken
/// characters) share an entry, the likelier one's.
fn top(token: &TokenLogprobs) -> Top {
    let mut entries: Vec<(String, f32)> = Vec::with_capacity(token.top.len() + 1);
    for entry in token.top.iter().chain([&token.token]) {
        let text = entry.text();
        if entries.iter().all(|(known, _)| *known != text) {
            entries.push((text, finite(entry.logprob)));
        }
    }
    Top(entries)
}

/// Log-probabilities of `/v1/chat/completions`.
#[derive(Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken {
    #[serde(flatten)]
    token: ChatAlternative,
    top_logprobs: Vec<ChatAlternative>,
}

#[derive(Serialize)]
struct ChatAlternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    pub(super) fn new(tokens: &[TokenLogprobs]) -> Self {
        let token = |t: &TokenLogprobs| ChatToken {
            token: ChatAlternative::new(&t.token),
            top_logprobs: t.top.iter().map(ChatAlternative::new).collect(),
        };
        Self { content: tokens.iter().map(token).collect(), refusal: None }
    }
}

impl ChatAlternative {
    fn new(entry: &Logprob) -> Self {
        Self { token: entry.text(), logprob: finite(entry.logprob), bytes: entry.bytes.clone() }
    }
}

/// JSON has no infinity; OpenAI writes this for what is impossible.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
