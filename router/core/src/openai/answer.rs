//! Answers: whole, collected from deltas, or one JSON text a delta.

use super::shape::{Body, ChatLogprobs, Choice, CompletionLogprobs, Message, Piece};
use crate::choice::{FinishReason, TextDelta, TokenLogprobs, Usage};

/// Which of the two shapes an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
}

/// What is the same in every piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Which shape.
    pub endpoint: Endpoint,
    /// The request's id; the answer's is this after `cmpl-` or `chatcmpl-`.
    pub request_id: String,
    /// Seconds since the epoch.
    pub created: u64,
    /// The name under which the model was asked for.
    pub model: String,
    /// The client asked for token ids.
    pub return_token_ids: bool,
    /// The client asked for log-probabilities.
    pub logprobs: bool,
}

impl Head {
    fn id(&self) -> String {
        let prefix = match self.endpoint {
            Endpoint::Completion => "cmpl",
            Endpoint::Chat => "chatcmpl",
        };
        format!("{prefix}-{}", self.request_id)
    }
}

/// A whole answer.
pub struct Answer {
    head: Head,
    choices: Vec<Collected>,
}

#[derive(Default)]
struct Collected {
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    finish_reason: Option<&'static str>,
}

impl Answer {
    /// Nothing collected yet; `choices` is their number.
    pub fn new(head: Head, choices: u32) -> Self {
        Self { head, choices: (0..choices).map(|_| Collected::default()).collect() }
    }

    /// Adds to a choice.
    pub fn on_delta(&mut self, delta: TextDelta) {
        let Some(choice) = self.choices.get_mut(delta.choice as usize) else { return };
        choice.text.push_str(&delta.text);
        choice.token_ids.extend(delta.token_ids);
        choice.logprobs.extend(delta.logprobs);
    }

    /// Ends a choice.
    pub fn on_finished(&mut self, choice: u32, reason: FinishReason) {
        if let Some(choice) = self.choices.get_mut(choice as usize) {
            choice.finish_reason = Some(reason.name());
        }
    }

    /// The body.
    pub fn body(&self, usage: Usage) -> String {
        let object = match self.head.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion",
        };
        let choices = self.choices.iter().enumerate().map(|(i, c)| self.choice(i as u32, c)).collect();
        write(&self.head, object, choices, Some(Some(usage)))
    }

    fn choice<'a>(&'a self, index: u32, from: &'a Collected) -> Choice<'a> {
        let token_ids = self.head.return_token_ids.then_some(from.token_ids.as_slice());
        let finish_reason = from.finish_reason;
        match self.head.endpoint {
            Endpoint::Completion => {
                let logprobs = self.head.logprobs.then(|| CompletionLogprobs::new(&from.logprobs));
                Choice::Completion { index, text: &from.text, logprobs, finish_reason, token_ids }
            }
            Endpoint::Chat => {
                let message = Message { role: "assistant", content: &from.text, refusal: None };
                let logprobs = self.head.logprobs.then(|| ChatLogprobs::new(&from.logprobs));
                Choice::Message { index, message, logprobs, finish_reason, token_ids }
            }
        }
    }
}

/// An answer in pieces, each a JSON text.
#[derive(Clone, Debug)]
pub struct Chunks {
    head: Head,
    include_usage: bool,
}

impl Chunks {
    /// Pieces of one answer; with `include_usage` each has `usage`, null in all but the last.
    pub fn new(head: Head, include_usage: bool) -> Self {
        Self { head, include_usage }
    }

    /// The first piece of a choice: in a chat it names the role.
    pub fn begin(&self, choice: u32) -> Option<String> {
        let Endpoint::Chat = self.head.endpoint else { return None };
        let delta = Piece { role: Some("assistant"), content: Some("") };
        let (logprobs, finish_reason, token_ids) = (None, None, None);
        Some(self.write(Choice::Piece { index: choice, delta, logprobs, finish_reason, token_ids }))
    }

    /// A delta's piece; none when nothing in it is for this client (text that is held back).
    pub fn delta(&self, delta: &TextDelta) -> Option<String> {
        let token_ids = self.head.return_token_ids.then_some(delta.token_ids.as_slice());
        let logprobs = self.head.logprobs && !delta.logprobs.is_empty();
        if delta.text.is_empty() && token_ids.is_none_or(<[u32]>::is_empty) && !logprobs {
            return None;
        }
        let (index, text, finish_reason) = (delta.choice, delta.text.as_str(), None);
        Some(self.write(match self.head.endpoint {
            Endpoint::Completion => {
                let logprobs = logprobs.then(|| CompletionLogprobs::new(&delta.logprobs));
                Choice::Completion { index, text, logprobs, finish_reason, token_ids }
            }
            Endpoint::Chat => {
                let logprobs = logprobs.then(|| ChatLogprobs::new(&delta.logprobs));
                let delta = Piece { role: None, content: Some(text) };
                Choice::Piece { index, delta, logprobs, finish_reason, token_ids }
            }
        }))
    }

    /// The last piece of a choice.
    pub fn finished(&self, choice: u32, reason: FinishReason) -> String {
        let (index, finish_reason) = (choice, Some(reason.name()));
        self.write(match self.head.endpoint {
            Endpoint::Completion => {
                Choice::Completion { index, text: "", logprobs: None, finish_reason, token_ids: None }
            }
            Endpoint::Chat => {
                let delta = Piece { role: None, content: None };
                Choice::Piece { index, delta, logprobs: None, finish_reason, token_ids: None }
            }
        })
    }

    /// The piece after all choices, if the client asked for it.
    pub fn usage(&self, usage: Usage) -> Option<String> {
        self.include_usage.then(|| write(&self.head, self.object(), Vec::new(), Some(Some(usage))))
    }

    fn write(&self, choice: Choice<'_>) -> String {
        write(&self.head, self.object(), vec![choice], self.include_usage.then_some(None))
    }

    fn object(&self) -> &'static str {
        match self.head.endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat => "chat.completion.chunk",
        }
    }
}

fn write(head: &Head, object: &'static str, choices: Vec<Choice<'_>>, usage: Option<Option<Usage>>) -> String {
    let usage = usage.map(|usage| usage.map(Into::into));
    let body = Body { id: &head.id(), object, created: head.created, model: &head.model, choices, usage };
    // Plain structures of texts and finite numbers: there is nothing in them that JSON could not say.
    serde_json::to_string(&body).unwrap_or_default()
}
