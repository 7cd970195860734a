//! One choice of an answer: what workers send (numbered tokens, perhaps twice after a worker was lost) becomes text,
//! each token once and in order.
//!
//! States: running → ended. It ends at a stop string, or with what the worker says. Nothing comes after the end.

use std::sync::Arc;

use crate::detokenizer::Detokenizer;
use crate::stop::StopMatcher;
use crate::vocabulary::Vocabulary;

/// Log-probabilities of one output token, as a worker reports them.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct RawLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// (token, log-probability) of the most likely, best first.
    pub top: Vec<(u32, f32)>,
    /// Share of the positions chosen for the token's row that had been chosen for the row before, if it is known.
    pub choice_overlap: Option<f32>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprob {
    /// The token.
    pub token_id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The token's bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
}

impl Logprob {
    /// The token alone as text; broken characters become U+FFFD.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// An output token with its log-probability and those of the alternatives.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token itself.
    pub token: Logprob,
    /// The most likely, best first.
    pub top: Vec<Logprob>,
    /// Characters of the output before this token.
    pub text_offset: u32,
    /// Share of the positions chosen for the token's row that had been chosen for the row before, if it is known.
    pub choice_overlap: Option<f32>,
}

/// New text and tokens of one choice. Text may lag behind tokens while it may be the beginning of a stop string.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TextDelta {
    /// Which choice.
    pub choice: u32,
    /// New text; may be empty.
    pub text: String,
    /// New tokens.
    pub token_ids: Vec<u32>,
    /// One for each token, if the request asks for them.
    pub logprobs: Vec<TokenLogprobs>,
    /// Index in the output of the first new token.
    pub first_token: u32,
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-sequence token, a stop token or a stop string.
    Stop,
    /// `max_tokens`, or the context's end.
    Length,
}

impl FinishReason {
    /// OpenAI's name.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What a request used, over all its choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt, once.
    pub prompt_tokens: u32,
    /// Tokens of all choices.
    pub completion_tokens: u32,
    /// Of the prompt's, those that were cached at the first placement of the first choice.
    pub cached_prompt_tokens: u32,
}

/// What a choice has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum ChoiceEvent {
    /// New text or tokens.
    Text(TextDelta),
    /// The end; `stop` is the stop string that matched. Comes once, last.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The stop string, if one matched.
        stop: Option<String>,
        /// The worker goes on: cancel it.
        cancel: bool,
    },
}

/// Tokens are missing between two deltas: the worker's stream cannot be trusted and must be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker sent output token {got} where {expected} was next")]
pub struct Gap {
    /// Index of the next token.
    pub expected: u32,
    /// Index that came.
    pub got: u32,
}

/// One choice of an answer.
pub struct Choice {
    index: u32,
    vocabulary: Arc<Vocabulary>,
    detokenizer: Detokenizer,
    stop: Vec<String>,
    matcher: StopMatcher,
    tokens: Vec<u32>,
    /// Characters of the text of all tokens, held ones included.
    characters: u32,
    ended: bool,
    piece: String,
}

impl Choice {
    /// Choice `index`, whose output ends at any of the strings `stop`.
    pub fn new(vocabulary: Arc<Vocabulary>, index: u32, stop: &[String]) -> Self {
        Self {
            index,
            detokenizer: Detokenizer::new(vocabulary.clone()),
            vocabulary,
            stop: stop.to_vec(),
            matcher: StopMatcher::new(stop),
            tokens: Vec::new(),
            characters: 0,
            ended: false,
            piece: String::new(),
        }
    }

    /// The output so far: what a continuation starts from, and what usage counts.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether the end was reported.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes tokens from a worker; `first` is the index of `tokens[0]` in the output. Tokens that were had before are
    /// dropped, so that a stream that starts again a little earlier does no harm; after the end all are.
    ///
    /// # Errors
    /// When tokens are missing before these; nothing is taken.
    pub fn on_delta(&mut self, first: u32, tokens: &[u32], logprobs: &[RawLogprobs]) -> Result<Vec<ChoiceEvent>, Gap> {
        let expected = self.tokens.len() as u32;
        if self.ended {
            return Ok(Vec::new());
        }
        if first > expected {
            return Err(Gap { expected, got: first });
        }
        let skip = (expected - first) as usize;
        let mut delta = TextDelta { choice: self.index, first_token: expected, ..Default::default() };
        let mut matched = None;
        for (i, &token) in tokens.iter().enumerate().skip(skip) {
            if let Some(raw) = logprobs.get(i) {
                delta.logprobs.push(self.with_texts(token, raw));
            }
            self.tokens.push(token);
            delta.token_ids.push(token);
            self.piece.clear();
            self.detokenizer.push(token, &mut self.piece);
            matched = self.text(&mut delta.text);
            if matched.is_some() {
                break;
            }
        }
        let mut events = Vec::with_capacity(2);
        if !delta.token_ids.is_empty() {
            events.push(ChoiceEvent::Text(delta));
        }
        if let Some(which) = matched {
            events.push(self.end(FinishReason::Stop, Some(which), true));
        }
        Ok(events)
    }

    /// The worker has ended the choice: what was held back comes out, then the end.
    pub fn on_finished(&mut self, reason: FinishReason) -> Vec<ChoiceEvent> {
        if self.ended {
            return Vec::new();
        }
        let first_token = self.tokens.len() as u32;
        let mut delta = TextDelta { choice: self.index, first_token, ..Default::default() };
        self.piece.clear();
        self.detokenizer.finish(&mut self.piece);
        let matched = self.text(&mut delta.text);
        if matched.is_none() {
            delta.text.push_str(&self.matcher.finish());
        }
        let mut events = Vec::with_capacity(2);
        if !delta.text.is_empty() {
            events.push(ChoiceEvent::Text(delta));
        }
        let reason = if matched.is_some() { FinishReason::Stop } else { reason };
        events.push(self.end(reason, matched, false));
        events
    }

    /// Passes the piece through the matcher.
    fn text(&mut self, out: &mut String) -> Option<usize> {
        self.characters += self.piece.chars().count() as u32;
        self.matcher.push(&self.piece, out)
    }

    fn end(&mut self, reason: FinishReason, matched: Option<usize>, cancel: bool) -> ChoiceEvent {
        self.ended = true;
        ChoiceEvent::Finished { reason, stop: matched.and_then(|i| self.stop.get(i).cloned()), cancel }
    }

    fn with_texts(&self, token: u32, raw: &RawLogprobs) -> TokenLogprobs {
        let named = |token_id: u32, logprob: f32| {
            let bytes = self.vocabulary.bytes(token_id).to_vec();
            Logprob { token_id, logprob, bytes }
        };
        TokenLogprobs {
            token: named(token, raw.logprob),
            top: raw.top.iter().map(|&(token, logprob)| named(token, logprob)).collect(),
            text_offset: self.characters,
            choice_overlap: raw.choice_overlap,
        }
    }
}

#[cfg(test)]
mod tests;
