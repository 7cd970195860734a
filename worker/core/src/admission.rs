//! Taking a request in, or refusing it at once: nothing waits here for memory but what was preempted.

use std::time::Duration;

use hadal_types::{BLOCK_TOKENS, ChainRoot};

use crate::command::Command;
use crate::core::Core;
use crate::event::{Generate, Prefill, RequestKey};
use crate::failure::Failure;
use crate::outgoing::Outgoing;
use crate::request::{Arrival, Generation, Kind, Request, Stage};

/// Attempts to have a prompt prefilled elsewhere before it is computed here.
const LEGS_MAX: u32 = 2;

impl Core {
    pub(crate) fn admit_generate(&mut self, now: Duration, key: RequestKey, g: Generate, out: &mut Vec<Command>) {
        let admitted = self.check_generate(now, key, &g).and_then(|()| {
            let generation = Generation {
                prompt_tokens: g.prompt_tokens as usize,
                sampling: g.sampling,
                legs_left: if g.prefill { LEGS_MAX } else { 0 },
                legs_made: 0,
                cached_tokens: 0,
                started: false,
                first_token_at: None,
                draft: None,
            };
            self.insert(
                key,
                Request::new(Arrival {
                    id: g.id,
                    kind: Kind::Generate(generation),
                    tokens: g.tokens,
                    arrived: now,
                    deadline: g.deadline,
                    attention: g.attention,
                    root: ChainRoot::new(self.config.numerics_class, &g.salt, g.attention),
                    drafts: self.drafts,
                }),
            )
        });
        match admitted {
            Ok(()) => self.begin(now, key, out),
            Err(failure) => out.push(Command::Failed { request: key, failure }),
        }
    }

    pub(crate) fn admit_prefill(&mut self, now: Duration, key: RequestKey, p: Prefill, out: &mut Vec<Command>) {
        let admitted = self.check_prefill(now, key, &p).and_then(|()| {
            let outgoing = Outgoing::new(p.lease, p.lease_until, p.blocks_held as usize, self.stores.len());
            self.insert(
                key,
                Request::new(Arrival {
                    id: p.id,
                    kind: Kind::Prefill(outgoing),
                    tokens: p.tokens,
                    arrived: now,
                    deadline: p.deadline,
                    attention: p.attention,
                    root: ChainRoot::new(self.config.numerics_class, &p.salt, p.attention),
                    drafts: self.drafts,
                }),
            )
        });
        match admitted {
            Ok(()) => self.begin_prefill(now, key, out),
            Err(failure) => out.push(Command::Failed { request: key, failure }),
        }
    }

    fn check_generate(&mut self, now: Duration, key: RequestKey, g: &Generate) -> Result<(), Failure> {
        self.check_new(key)?;
        if self.requests.values().any(|r| r.id == g.id && r.generation().is_some()) {
            // No fault of the request: a stream that was just dropped holds its id until its pages are free.
            let id = &g.id;
            return Err(Failure::busy(format!("request id {id} is in use on this worker still; place it elsewhere")));
        }
        g.sampling.validate().map_err(|e| Failure::invalid(e.to_string()))?;
        let (prompt, tokens) = (g.prompt_tokens as usize, g.tokens.len());
        if prompt == 0 || prompt > tokens {
            let message = format!("the prompt is {prompt} of {tokens} tokens; it must have at least 1");
            return Err(Failure::invalid(message));
        }
        let max_tokens = g.sampling.max_tokens as usize;
        if tokens - prompt >= max_tokens {
            let message = format!("{} of max_tokens {max_tokens} tokens are there already", tokens - prompt);
            return Err(Failure::invalid(message));
        }
        self.check_tokens(&g.tokens, prompt + max_tokens)?;
        self.check_forced(&g.sampling.forced, max_tokens)?;
        check_time(now, g.deadline)
    }

    fn check_prefill(&mut self, now: Duration, key: RequestKey, p: &Prefill) -> Result<(), Failure> {
        self.check_new(key)?;
        let same = |r: &Request| matches!(&r.kind, Kind::Prefill(o) if o.lease == p.lease);
        if self.requests.values().any(same) {
            let message = format!("lease {} is in use on this worker; draw another", p.lease);
            return Err(Failure::invalid(message));
        }
        let full = p.tokens.len() / BLOCK_TOKENS as usize;
        if p.tokens.is_empty() || p.blocks_held as usize > full {
            let (held, tokens) = (p.blocks_held, p.tokens.len());
            return Err(Failure::invalid(format!("{held} blocks of {tokens} tokens cannot be held already")));
        }
        self.check_tokens(&p.tokens, p.tokens.len())?;
        let ends = p.deadline.map_or(p.lease_until, |d| d.min(p.lease_until));
        check_time(now, Some(ends))
    }

    fn check_new(&mut self, key: RequestKey) -> Result<(), Failure> {
        if self.newest.is_some_and(|newest| key <= newest) {
            return Err(Failure::internal(format!("request key {} does not count up", key.0)));
        }
        self.newest = Some(key);
        if self.draining { Err(Failure::draining()) } else { Ok(()) }
    }

    fn check_tokens(&self, tokens: &[u32], length_max: usize) -> Result<(), Failure> {
        let vocabulary = self.config.vocab_tokens;
        if let Some((i, token)) = tokens.iter().enumerate().find(|(_, t)| **t >= vocabulary) {
            let message = format!("token {i} is {token}; ids of this model are below {vocabulary}");
            return Err(Failure::invalid(message));
        }
        let context = self.config.context_tokens as usize;
        let capacity = self.memory.capacity() * BLOCK_TOKENS as usize;
        if length_max > context.min(capacity) {
            let message = format!(
                "{length_max} tokens, prompt and output, are more than this worker can hold: its model takes {context}, \
                 its memory {capacity}; shorten the prompt or max_tokens"
            );
            return Err(Failure::invalid(message));
        }
        Ok(())
    }

    /// A forced token becomes one of the sequence, so it must be one that the model has.
    fn check_forced(&self, forced: &[u32], max_tokens: usize) -> Result<(), Failure> {
        if forced.len() > max_tokens {
            let message = format!("{} forced tokens are more than max_tokens, which is {max_tokens}", forced.len());
            return Err(Failure::invalid(message));
        }
        let vocabulary = self.config.vocab_tokens;
        match forced.iter().find(|t| **t >= vocabulary) {
            Some(token) => {
                let message = format!("forced token {token} is out of range; ids of this model are below {vocabulary}");
                Err(Failure::invalid(message))
            }
            None => Ok(()),
        }
    }

    /// Reserves pages and keeps the request. While a preempted one waits for memory nothing new takes it away.
    fn insert(&mut self, key: RequestKey, mut request: Request) -> Result<(), Failure> {
        let limit = self.config.requests_max as usize;
        if self.requests.len() >= limit {
            return Err(Failure::busy(format!("the worker has {limit} requests, its limit")));
        }
        if self.requests.values().any(Request::is_waiting) {
            return Err(Failure::busy("requests of this worker wait for memory themselves".into()));
        }
        if !self.reserve(&mut request, 0) {
            let (blocks, available) = (request.blocks() + request.growth_blocks(), self.memory.available());
            return Err(Failure::busy(format!("{blocks} blocks are needed, {available} available")));
        }
        self.stats.looked_up_tokens += request.tokens.len() as u64;
        self.stats.cached_tokens += request.computed as u64;
        let cached = request.computed;
        if let Some(generation) = request.generation_mut() {
            generation.cached_tokens = cached;
        }
        self.requests.insert(key, request);
        Ok(())
    }

    /// Takes pages for all tokens, cached ones where they can be reused, and leaves room to grow and `headroom`.
    pub(crate) fn reserve(&mut self, request: &mut Request, headroom: usize) -> bool {
        let headroom = headroom + request.growth_blocks();
        let reserved = self.memory.reserve(request.chain_reusable(), request.blocks(), headroom);
        let Some(holding) = reserved else { return false };
        request.computed = holding.shared() * BLOCK_TOKENS as usize;
        request.holding = holding;
        request.stage = Stage::Computing;
        true
    }
}

fn check_time(now: Duration, ends: Option<Duration>) -> Result<(), Failure> {
    if ends.is_some_and(|at| at <= now) { Err(Failure::deadline("request's deadline")) } else { Ok(()) }
}
