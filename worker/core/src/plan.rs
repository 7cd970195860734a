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
    /// Whether the last token is a draft. Then there is one token before it, and the rows of both are to be sampled: the
    /// second where the first yields the draft.
    pub draft: bool,
    /// What the draft layer is to do for the last token that is sampled.
    pub follow: Follow,
    /// What its tokens attend to.
    pub attention: Attention,
    /// Whether the overlap of the last row's choice with that of the row before is asked for. Only where it is sampled.
    pub choice_overlap: bool,
    tokens: Range<usize>,
    pages: [Range<usize>; Part::ALL.len()],
}

/// What the draft layer does for a token that was just sampled.
///
/// The draft row of a token needs the main model's last hidden state of the token before, which no engine keeps from one
/// step to the next. For a sampled token it is there at the end of the step. A slice of a prompt that does not begin the
/// sequence begins one token early instead, and writes that token's rows again, with the same bits; its draft rows are
/// those of its other tokens. So a sequence's draft rows are always complete as far as its others are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// Nothing: there is none, or the output cannot go on.
    #[default]
    Nothing,
    /// It writes the token's row.
    Row,
    /// It writes the row and drafts the token after it.
    Draft,
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
    /// Rows of decodes, one for each request.
    pub decode_tokens: u32,
    /// Rows more for drafting: the drafts, and the rows that are computed again (see `Follow`).
    pub draft_tokens: u32,
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

/// What was sampled of a slice, and drafted behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The next token.
    pub first: Sampled,
    /// The one after it, where the first is the slice's draft.
    pub second: Option<Sampled>,
    /// What the draft layer expects after these.
    pub draft: Option<u32>,
}

/// What became of a slice.
#[derive(Clone, Debug, PartialEq)]
pub enum SliceResult {
    /// Its rows are in the cache; nothing was to be sampled.
    Computed,
    /// Its rows are in the cache, and these are the next tokens.
    Tokens(Tokens),
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
    /// slice's last token, or that of the token sampled behind it where its draft row is to be written; empty for a part
    /// that the model has not.
    pub fn pages(&self, slice: &StepSlice, part: Part) -> &[u32] {
        &self.pages[slice.pages[part.index()].clone()]
    }

    /// The size of the step.
    pub fn load(&self) -> StepLoad {
        self.load
    }

    /// Adds rows of a request.
    pub(crate) fn push(&mut self, key: RequestKey, request: &Request, rows: Rows) {
        let Rows { start, end, sample, draft, follow } = rows;
        let first = self.tokens.len();
        self.tokens.extend_from_slice(&request.tokens[start..end]);
        self.tokens.extend(draft);
        let tokens = first..self.tokens.len();
        let last = start + tokens.len() + usize::from(follow != Follow::Nothing);
        let blocks = last.div_ceil(BLOCK_TOKENS as usize);
        let pages = Part::ALL.map(|part| {
            let first = self.pages.len();
            let held = request.holding.pages(part);
            self.pages.extend_from_slice(&held[..blocks.min(held.len())]);
            first..self.pages.len()
        });
        let new = end - request.computed;
        if sample && new == 1 {
            self.load.decode_tokens += 1;
        } else {
            self.load.prefill_tokens += new as u32;
        }
        self.load.draft_tokens += (tokens.len() - new) as u32;
        let count = tokens.len() as u64;
        self.load.context_tokens += count * (2 * start as u64 + 1 + count) / 2;
        self.slices.push(StepSlice {
            request: key,
            start: start as u32,
            sample,
            draft: draft.is_some(),
            follow,
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

/// Rows of a request for a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// Positions of its tokens.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether the row of the last of them is sampled.
    pub(crate) sample: bool,
    /// The token to try behind them.
    pub(crate) draft: Option<u32>,
    pub(crate) follow: Follow,
}

impl StepLoad {
    /// Rows of all kinds.
    pub fn rows(&self) -> u32 {
        self.prefill_tokens + self.decode_tokens + self.draft_tokens
    }
}
