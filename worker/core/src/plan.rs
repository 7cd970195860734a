//! What the engine computes next. The shell owns one [`Plan`] and gives it back each time, so that its buffers are
//! reused.

use std::ops::Range;

use hadal_types::{Attention, BLOCK_TOKENS, Part};

use crate::command::TokenLogprobs;
use crate::event::RequestKey;
use crate::request::Request;

/// A run of tokens of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepSlice {
    /// Whose.
    pub request: RequestKey,
    /// Position of the first token in its sequence.
    pub start: u32,
    /// Whether the row of the last token is to be sampled.
    pub sample: bool,
    /// What its tokens attend to.
    pub attention: Attention,
    /// Whether the overlap of the last row's choice with that of the row before is asked for. Only where it is sampled.
    pub choice_overlap: bool,
    tokens: Range<usize>,
    pages: [Range<usize>; Part::ALL.len()],
}

/// One step: slices of several requests, at most one of each. Decodes come first.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    slices: Vec<StepSlice>,
    tokens: Vec<u32>,
    pages: Vec<u32>,
    load: StepLoad,
}

/// How large a step is, for step-time models and heartbeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepLoad {
    /// Rows of prompts (and recomputed ones).
    pub prefill_tokens: u32,
    /// Rows of decodes.
    pub decode_tokens: u32,
    /// Sum over all rows of the tokens that each attends to, itself included.
    pub context_tokens: u64,
}

/// A token and, if asked for, its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Of it and the best alternatives.
    pub logprobs: Option<TokenLogprobs>,
}

/// What became of a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum SliceResult {
    /// Its rows are in the cache; nothing was to be sampled.
    Computed,
    /// Its rows are in the cache, and this is the next token.
    Token(Sampled),
    /// NaN or infinity: ends this request alone.
    NotFinite,
}

impl Plan {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// The slices, decodes first. Results are reported in this order.
    pub fn slices(&self) -> &[StepSlice] {
        &self.slices
    }

    /// The tokens of a slice, from its start.
    pub fn tokens(&self, slice: &StepSlice) -> &[u32] {
        &self.tokens[slice.tokens.clone()]
    }

    /// The pages of a slice's sequence in the pool of a part, one a block from position 0, up to the block of the
    /// slice's last token; empty for a part that the model has not.
    pub fn pages(&self, slice: &StepSlice, part: Part) -> &[u32] {
        &self.pages[slice.pages[part.index()].clone()]
    }

    /// The size of the step.
    pub fn load(&self) -> StepLoad {
        self.load
    }

    /// Adds the rows `start..end` of a request; sampled when they are its last and it is asked for.
    pub(crate) fn push(&mut self, key: RequestKey, request: &Request, end: usize, sample: bool) {
        let start = request.computed;
        let first = self.tokens.len();
        self.tokens.extend_from_slice(&request.tokens[start..end]);
        let blocks = end.div_ceil(BLOCK_TOKENS as usize);
        let pages = Part::ALL.map(|part| {
            let first = self.pages.len();
            let held = request.holding.pages(part);
            self.pages.extend_from_slice(&held[..blocks.min(held.len())]);
            first..self.pages.len()
        });
        let tokens = first..self.tokens.len();
        let rows = tokens.len() as u64;
        if sample && rows == 1 {
            self.load.decode_tokens += 1;
        } else {
            self.load.prefill_tokens += rows as u32;
        }
        self.load.context_tokens += rows * (start as u64 + 1 + end as u64) / 2;
        self.slices.push(StepSlice {
            request: key,
            start: start as u32,
            sample,
            attention: request.attention,
            choice_overlap: sample && request.generation().is_some_and(|g| g.sampling.choice_overlap),
            tokens,
            pages,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.slices.clear();
        self.tokens.clear();
        self.pages.clear();
        self.load = StepLoad::default();
    }
}
