//! One request on this worker.
//!
//! ```text
//! Generate:  reserve ─┬─► Incoming (prefilled elsewhere) ─┬─► Computing ──► ends
//!                     └──────────────────────────────────►┘      │ ▲
//!                                          memory is short ▼      │ memory again
//!                                                        Waiting ─┘
//! Prefill:   reserve ──► Computing ──► (all computed, sending) ──► ends
//! ```
//!
//! `tokens[..computed]` have their rows here. A `Generate` always has at least one token more, the last one: its row is
//! computed by the step that samples the next. So a decode is a request with one token left, and a prompt, a
//! continuation and a preempted request are the same thing with more.

use std::time::Duration;

use hadal_types::{Attention, BLOCK_TOKENS, ChainHash, ChainRoot, RequestId, SamplingParams};

use crate::failure::Failure;
use crate::incoming::Leg;
use crate::memory::Holding;
use crate::outgoing::Outgoing;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) kind: Kind,
    pub(crate) attention: Attention,
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    pub(crate) holding: Holding,
    pub(crate) stage: Stage,
    pub(crate) arrived: Duration,
    pub(crate) deadline: Option<Duration>,
    /// The step under way uses its pages.
    pub(crate) in_step: bool,
    /// It ends like this when the step under way is over.
    pub(crate) ending: Option<Failure>,
    root: ChainRoot,
    chain: Vec<ChainHash>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Generate(Generation),
    Prefill(Outgoing),
}

#[derive(Debug)]
pub(crate) enum Stage {
    /// It holds pages for all its tokens and is given steps while tokens are left.
    Computing,
    /// Another worker computes all but the last token; pages for all are reserved.
    Incoming(Leg),
    /// It lost its pages and waits for memory.
    Waiting,
}

/// What only an owned request has.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) prompt_tokens: usize,
    pub(crate) sampling: SamplingParams,
    /// Attempts to have it prefilled elsewhere that may still be made, and that were made.
    pub(crate) legs_left: u32,
    pub(crate) legs_made: u32,
    /// Tokens of the prompt that were cached when it came.
    pub(crate) cached_tokens: usize,
    pub(crate) started: bool,
    pub(crate) first_token_at: Option<Duration>,
}

/// What a request is made of.
pub(crate) struct Arrival {
    pub(crate) id: RequestId,
    pub(crate) kind: Kind,
    pub(crate) tokens: Vec<u32>,
    pub(crate) arrived: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) attention: Attention,
    pub(crate) root: ChainRoot,
}

impl Request {
    /// A request that holds nothing yet.
    pub(crate) fn new(arrival: Arrival) -> Self {
        let Arrival { id, kind, tokens, arrived, deadline, attention, root } = arrival;
        let chain = root.chain(&tokens);
        Self {
            id,
            kind,
            attention,
            tokens,
            computed: 0,
            holding: Holding::default(),
            stage: Stage::Waiting,
            arrived,
            deadline,
            in_step: false,
            ending: None,
            root,
            chain,
        }
    }

    /// Tokens whose rows are not here.
    pub(crate) fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// The hashes of all full blocks of its tokens.
    pub(crate) fn chain(&self) -> &[ChainHash] {
        &self.chain
    }

    /// The hashes of the leading blocks whose rows are all here.
    pub(crate) fn chain_computed(&self) -> &[ChainHash] {
        &self.chain[..self.computed / BLOCK_TOKENS as usize]
    }

    /// The hashes of the blocks that may come from the cache: an owned request computes one token at least.
    pub(crate) fn chain_reusable(&self) -> &[ChainHash] {
        let tokens = match self.kind {
            Kind::Generate(_) => self.tokens.len() - 1,
            Kind::Prefill(_) => self.tokens.len(),
        };
        &self.chain[..tokens / BLOCK_TOKENS as usize]
    }

    /// Blocks that all its tokens fill.
    pub(crate) fn blocks(&self) -> usize {
        self.tokens.len().div_ceil(BLOCK_TOKENS as usize)
    }

    /// One block for growth, unless it cannot grow so far.
    pub(crate) fn growth_blocks(&self) -> usize {
        let Kind::Generate(generation) = &self.kind else { return 0 };
        let tokens_max = generation.prompt_tokens + generation.sampling.max_tokens as usize;
        usize::from(tokens_max.div_ceil(BLOCK_TOKENS as usize) > self.blocks())
    }

    /// One more token of the output.
    pub(crate) fn push_token(&mut self, token: u32) {
        self.tokens.push(token);
        let block = BLOCK_TOKENS as usize;
        if self.tokens.len().is_multiple_of(block) {
            let last = &self.tokens[self.tokens.len() - block..];
            self.chain.push(self.root.block(self.chain.last().copied(), last));
        }
    }

    pub(crate) fn generation(&self) -> Option<&Generation> {
        match &self.kind {
            Kind::Generate(generation) => Some(generation),
            Kind::Prefill(_) => None,
        }
    }

    pub(crate) fn generation_mut(&mut self) -> Option<&mut Generation> {
        match &mut self.kind {
            Kind::Generate(generation) => Some(generation),
            Kind::Prefill(_) => None,
        }
    }

    /// An owned request that memory can be taken from.
    pub(crate) fn is_preemptible(&self) -> bool {
        matches!(self.kind, Kind::Generate(_)) && !self.is_waiting()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// Whether the next step may compute tokens of it.
    pub(crate) fn is_computable(&self) -> bool {
        matches!(self.stage, Stage::Computing) && self.remaining() > 0
    }

    /// Whether the next step may compute its last token and sample.
    pub(crate) fn is_decodable(&self) -> bool {
        self.is_computable() && self.remaining() == 1 && matches!(self.kind, Kind::Generate(_))
    }

    /// When time ends it, and what is over then.
    pub(crate) fn expiry(&self) -> Option<(Duration, &'static str)> {
        let lease = match &self.kind {
            Kind::Prefill(outgoing) => Some((outgoing.until, "lease of the prefill")),
            Kind::Generate(_) => None,
        };
        let deadline = self.deadline.map(|d| (d, "request's deadline"));
        lease.into_iter().chain(deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{generate, tokens};

    #[test]
    fn the_chain_grows_with_the_output_and_spares_the_last_token() {
        let mut request = Request::new(Arrival { root: root(), ..arrival(127) });
        assert_eq!(request.chain().len(), 1);
        request.push_token(5);
        assert_eq!(request.chain(), root().chain(&request.tokens));
        assert_eq!((request.chain().len(), request.chain_reusable().len()), (2, 1));
        request.push_token(6);
        assert_eq!(request.chain_reusable().len(), 2);
    }

    #[test]
    fn growth_ends_with_the_longest_output() {
        let mut arrival = arrival(60);
        let Kind::Generate(generation) = &mut arrival.kind else { unreachable!() };
        generation.sampling.max_tokens = 4;
        assert_eq!(Request::new(arrival).growth_blocks(), 0);
        let mut longer = self::arrival(60);
        let Kind::Generate(generation) = &mut longer.kind else { unreachable!() };
        generation.sampling.max_tokens = 5;
        assert_eq!(Request::new(longer).growth_blocks(), 1);
    }

    fn root() -> ChainRoot {
        ChainRoot::new(hadal_types::NumericsClass([1; 16]), b"", Attention::Sparse)
    }

    fn arrival(n: usize) -> Arrival {
        let g = generate("r", tokens(1, n), 8);
        Arrival {
            id: g.id,
            kind: Kind::Generate(Generation {
                prompt_tokens: n,
                sampling: g.sampling,
                legs_left: 0,
                legs_made: 0,
                cached_tokens: 0,
                started: false,
                first_token_at: None,
            }),
            tokens: g.tokens,
            arrived: Duration::ZERO,
            deadline: None,
            attention: Attention::Sparse,
            root: root(),
        }
    }
}
