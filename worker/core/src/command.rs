//! What the core tells the shell to do.

use std::time::Duration;

use hadal_types::{CacheEvent, StoreId};

use crate::event::RequestKey;
use crate::failure::Failure;

/// Why an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token was sampled. It is the last token of the output and stood in its last `Delta`.
    Stop {
        /// The token.
        token: u32,
    },
    /// `max_tokens` are there.
    Length,
}

/// Log-probabilities of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the token.
    pub logprob: f32,
    /// The most likely tokens, best first.
    pub top: Vec<(u32, f32)>,
    /// Share of the positions chosen for the token's row that had been chosen for the row before, if it is known.
    pub choice_overlap: Option<f32>,
}

/// What the shell does. Each request ends with exactly one of `Finished`, `PrefillFinished` and `Failed`; at that
/// point its pages are free (or cached) and the core has forgotten its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// To the owner's stream: it is reserved here and, if `remote`, at the prefill worker. Once, before any `Delta`.
    Started {
        /// The owner's request.
        request: RequestKey,
        /// Prompt tokens that are cached, here or where it is prefilled.
        cached_tokens: u32,
        /// Whether the prefill worker computes the prompt.
        remote: bool,
    },
    /// To the owner's stream: one more token.
    Delta {
        /// The owner's request.
        request: RequestKey,
        /// Its index in the output; a continuation goes on counting.
        index: u32,
        /// The token; stop tokens are given too.
        token: u32,
        /// If asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// To the owner's stream: the output is complete.
    Finished {
        /// The owner's request.
        request: RequestKey,
        /// Why.
        reason: FinishReason,
        /// Microseconds from arrival to the first token.
        prefill_us: u64,
        /// Microseconds from the first token to the last.
        decode_us: u64,
    },
    /// To the stream, owner's or prefill's: it ends early, or was refused.
    Failed {
        /// The request.
        request: RequestKey,
        /// Why.
        failure: Failure,
    },

    /// Decode side: call Prefill on the placement's prefill worker, under a fresh lease id.
    StartPrefill {
        /// The owner's request.
        request: RequestKey,
        /// Number of this attempt; stands in the events about it.
        leg: u32,
        /// All tokens but the last.
        tokens: Vec<u32>,
        /// Leading full blocks not to send.
        blocks_held: u32,
        /// Duration of the lease, the request's deadline considered.
        lease: Duration,
    },
    /// Decode side: drop that call and its connection; nothing of it may be written any more.
    StopPrefill {
        /// The owner's request.
        request: RequestKey,
        /// The attempt.
        leg: u32,
    },

    /// Prefill side, to the stream: reserved.
    PrefillAccepted {
        /// The prefill.
        request: RequestKey,
        /// Leading tokens that were cached.
        cached_tokens: u32,
    },
    /// Prefill side, to the connection: send this page. Its bytes are complete and stay as they are until the core is
    /// given the next event or step, so they are to be copied (or sent) before that.
    SendBlock {
        /// The prefill.
        request: RequestKey,
        /// Which block of the sequence.
        block: u32,
        /// Which store of it.
        store: StoreId,
        /// Page in the pool of the store's part.
        page: u32,
        /// Rows of it that are filled.
        rows: u32,
    },
    /// Prefill side, to the connection: all is sent.
    SendEnd {
        /// The prefill.
        request: RequestKey,
        /// Blocks of the sequence, held ones included.
        blocks: u32,
    },
    /// Prefill side, to the stream: computed, sent and acknowledged.
    PrefillFinished {
        /// The prefill.
        request: RequestKey,
        /// Tokens computed here; the others were cached.
        computed_tokens: u32,
        /// Microseconds from arrival to the last row computed.
        microseconds: u64,
    },

    /// To the coordinator: a block came or went.
    Cache(CacheEvent),
    /// Draining is over: no request is left.
    Drained,
}
