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
//!
//! With a draft layer the rows of `tokens[..computed]` include its own. The step that samples a token also writes that
//! token's draft row (`ahead`), while it has the hidden state of the token before, which nobody keeps. Where that was not
//! so, after rows that were cached, arrived or were computed by an earlier chunk, the next step begins a token early.

use std::time::Duration;

use hadal_types::{Attention, BLOCK_TOKENS, ChainHash, ChainRoot, RequestId, SamplingParams};

use crate::failure::Failure;
use crate::incoming::Leg;
use crate::memory::Holding;
use crate::outgoing::Outgoing;
use crate::plan::Follow;

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    pub(crate) kind: Kind,
    pub(crate) attention: Attention,
    pub(crate) tokens: Vec<u32>,
    pub(crate) computed: usize,
    /// Whether rows of a draft layer are kept.
    drafts: bool,
    /// Whether the draft row of the token after the computed ones is there too.
    pub(crate) ahead: bool,
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
    /// What the draft layer expects to be sampled next.
    pub(crate) draft: Option<u32>,
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
    pub(crate) drafts: bool,
}

impl Request {
    /// A request that holds nothing yet.
    pub(crate) fn new(arrival: Arrival) -> Self {
        let Arrival { id, kind, tokens, arrived, deadline, attention, root, drafts } = arrival;
        let chain = root.chain(&tokens);
        Self {
            id,
            kind,
            attention,
            tokens,
            computed: 0,
            drafts,
            ahead: false,
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

    /// Blocks that all its tokens fill, and the draft row of the token that the step of its last one samples.
    pub(crate) fn blocks(&self) -> usize {
        let ahead = self.drafts && self.tokens_left() > 1;
        (self.tokens.len() + usize::from(ahead)).div_ceil(BLOCK_TOKENS as usize)
    }

    /// Tokens that may still be sampled.
    pub(crate) fn tokens_left(&self) -> usize {
        self.generation().map_or(0, |g| g.prompt_tokens + g.sampling.max_tokens as usize - self.tokens.len())
    }

    /// Tokens before the computed ones' end that the next step computes again, for the hidden state of the last.
    pub(crate) fn again(&self) -> usize {
        usize::from(self.drafts && self.computed > 0 && !self.ahead)
    }

    /// The token to try behind the last one: forced, which is always right, or what the draft layer said. None for a
    /// request that is measured row by row, and where no second token may come.
    pub(crate) fn draft(&self, drafting: bool) -> Option<u32> {
        let generation = self.generation().filter(|g| self.tokens_left() > 1 && !g.sampling.choice_overlap)?;
        self.forced(0).or(generation.draft.filter(|_| drafting))
    }

    /// The token that is forced behind so many more than there are.
    pub(crate) fn forced(&self, more: usize) -> Option<u32> {
        let generation = self.generation()?;
        generation.sampling.forced.get(self.tokens.len() - generation.prompt_tokens + more).copied()
    }

    /// What the draft layer is to do for the last token that the step of the last one samples, `tried` with it or not.
    pub(crate) fn follow(&self, drafting: bool, tried: bool) -> Follow {
        if !self.drafts || self.tokens_left() < 2 {
            return Follow::Nothing;
        }
        let overlap = self.generation().is_some_and(|g| g.sampling.choice_overlap);
        let used = self.tokens_left() > 2 && !overlap && self.forced(1 + usize::from(tried)).is_none();
        if drafting && used { Follow::Draft } else { Follow::Row }
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

    /// Whether one token is left, after which it is sampled.
    pub(crate) fn is_last(&self) -> bool {
        self.is_computable() && self.remaining() == 1 && matches!(self.kind, Kind::Generate(_))
    }

    /// Whether the next step may compute its last token, with one row, and sample.
    pub(crate) fn is_decodable(&self) -> bool {
        self.is_last() && self.again() == 0
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
                draft: None,
            }),
            tokens: g.tokens,
            arrived: Duration::ZERO,
            deadline: None,
            attention: Attention::Sparse,
            root: root(),
            drafts: false,
        }
    }
}
