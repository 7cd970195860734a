//! The state machine: events in, commands out, at most one step under way.

use std::collections::BTreeMap;
use std::time::Duration;

use hadal_types::{ChainHash, Ledger, PartSet, RequestId, SamplingParams};

use crate::command::Command;
use crate::config::{Config, ConfigError};
use crate::event::{Event, RequestKey};
use crate::failure::Failure;
use crate::memory::Memory;
use crate::outgoing::SendStore;
use crate::request::{Request, Stage};
use crate::speculation::Speculation;

/// The worker's state machine.
///
/// The shell's step thread owns it, together with the engine and its pages:
///
/// 1. `on(now, event, out)` for whatever happened, at any time, also while a step is under way;
/// 2. `plan(now, plan, out)`; if it says yes, the engine computes the plan, calling `layer_done` after each layer if it
///    can (so that rows leave for the decode worker early), and samples with `sample_inputs`;
/// 3. `step_done` or `step_failed`; then again.
///
/// Planning is tried after every event while no step is under way: it also takes up requests that wait for memory, and
/// may give commands even when it says no. `now` is monotonic time since any fixed start. Commands are pushed to `out` in the order in which to do them.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) stores: Vec<SendStore>,
    pub(crate) memory: Memory,
    /// By age.
    pub(crate) requests: BTreeMap<RequestKey, Request>,
    pub(crate) newest: Option<RequestKey>,
    /// The slices under way, in the plan's order.
    pub(crate) step: Vec<InStep>,
    /// The decodes of the step that is planned.
    pub(crate) decodes: Vec<RequestKey>,
    /// Whether rows of a draft layer are kept.
    pub(crate) drafts: bool,
    pub(crate) speculation: Speculation,
    pub(crate) stats: Stats,
    pub(crate) draining: bool,
    drained: bool,
}

/// A slice under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InStep {
    pub(crate) key: RequestKey,
    /// Tokens of the sequence that have rows when it is computed, a draft left out.
    pub(crate) end: usize,
    pub(crate) sample: bool,
    pub(crate) draft: Option<u32>,
}

/// What sampling needs of a request, beside the logits.
#[derive(Clone, Copy, Debug)]
pub struct SampleInputs<'a> {
    /// The parameters; the key of the draw is (seed, choice, `output.len()`), and one more for the second of a step.
    pub params: &'a SamplingParams,
    /// The prompt.
    pub prompt: &'a [u32],
    /// The output so far; that of a continuation from its very beginning.
    pub output: &'a [u32],
}

/// All blocks that are cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSnapshot {
    /// Number of the last event that it covers.
    pub sequence: u64,
    /// The blocks, parents before children.
    pub blocks: Vec<(ChainHash, PartSet)>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that lost their pages to older ones and were recomputed.
    pub preemptions: u64,
    /// Attempts to prefill elsewhere that failed.
    pub legs_failed: u64,
    /// Prompts that were computed here because the prefill elsewhere failed.
    pub local_fallbacks: u64,
    /// Tokens looked up in the prefix cache.
    pub looked_up_tokens: u64,
    /// Tokens taken from it.
    pub cached_tokens: u64,
    /// Blocks evicted from it.
    pub blocks_evicted: u64,
    /// Drafts that were tried.
    pub drafts_proposed: u64,
    /// Those of them that were what was sampled.
    pub drafts_accepted: u64,
    /// Tokens that outputs got behind these.
    pub drafts_tokens: u64,
}

impl Core {
    /// A worker with empty pools.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            stores: SendStore::in_order(&config.geometry),
            memory: Memory::new(config.incarnation, config.geometry.parts(), config.pages),
            requests: BTreeMap::new(),
            newest: None,
            step: Vec::new(),
            decodes: Vec::new(),
            drafts: config.drafts(),
            speculation: Speculation::default(),
            stats: Stats::default(),
            draining: false,
            drained: false,
            config,
        })
    }

    /// Takes in what happened.
    pub fn on(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Generate(key, generate) => self.admit_generate(now, key, generate, out),
            Event::Prefill(key, prefill) => self.admit_prefill(now, key, prefill, out),
            Event::Cancel(key) => self.fail(key, Failure::cancelled(), out),
            Event::PrefillAccepted { request, leg, cached_tokens } => {
                self.leg_accepted(request, leg, cached_tokens, out);
            }
            Event::BlockArrived { request, leg, block, store } => self.block_arrived(request, leg, block, store),
            Event::PrefillEnded { request, leg } => self.leg_ended(now, request, leg, out),
            Event::PrefillFailed { request, leg, retryable } => self.leg_failed(now, (request, leg), retryable, out),
            Event::SendCredit { request, bytes } => self.send_credit(request, bytes, out),
            Event::SendAcknowledged { request } => self.send_acknowledged(request, out),
            Event::SendFailed { request, message } => self.send_failed(request, &message, out),
            Event::Drain => self.draining = true,
            Event::Tick => self.expire(now, out),
        }
        self.flush(out);
    }

    /// Ends what time has ended: requests, leases, attempts to prefill elsewhere.
    pub(crate) fn expire(&mut self, now: Duration, out: &mut Vec<Command>) {
        let mut after = None;
        while let Some((key, due)) = self.next_due(after, now) {
            after = Some(key);
            match due {
                Due::Request(what) => self.fail(key, Failure::deadline(what), out),
                Due::Leg(leg) => self.leg_failed(now, (key, leg), true, out),
            }
        }
    }

    /// The first request after `after` for which something is due.
    fn next_due(&self, after: Option<RequestKey>, now: Duration) -> Option<(RequestKey, Due)> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.requests.range((from, std::ops::Bound::Unbounded)).find_map(|(&key, request)| {
            if let Some((_, what)) = request.expiry().filter(|(at, _)| *at <= now) {
                return Some((key, Due::Request(what)));
            }
            match &request.stage {
                Stage::Incoming(leg) if leg.until <= now => Some((key, Due::Leg(leg.number))),
                _ => None,
            }
        })
    }

    /// When `Tick` is due next, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let times = |request: &Request| {
            let leg = match &request.stage {
                Stage::Incoming(leg) => Some(leg.until),
                _ => None,
            };
            // One that ends with the step under way has nothing due any more.
            let expiry = request.expiry().filter(|_| request.ending.is_none()).map(|(at, _)| at);
            leg.into_iter().chain(expiry).min()
        };
        self.requests.values().filter_map(times).min()
    }

    /// Ends a request, at once or, if the step under way uses its pages, after that.
    pub(crate) fn fail(&mut self, key: RequestKey, failure: Failure, out: &mut Vec<Command>) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        if request.in_step {
            request.ending.get_or_insert(failure);
            return;
        }
        self.remove(key, out);
        out.push(Command::Failed { request: key, failure });
    }

    /// Forgets a request that no step uses, and gives its pages back.
    pub(crate) fn remove(&mut self, key: RequestKey, out: &mut Vec<Command>) {
        self.give_pages_back(key, out);
        self.requests.remove(&key);
    }

    /// Takes all pages of a request that no step uses. What arrives for it from now on is not wanted.
    pub(crate) fn give_pages_back(&mut self, key: RequestKey, out: &mut Vec<Command>) {
        let Some(request) = self.requests.get_mut(&key) else { return };
        debug_assert!(!request.in_step, "pages of a step under way are not freed");
        if let Stage::Incoming(leg) = &request.stage {
            out.push(Command::StopPrefill { request: key, leg: leg.number });
        }
        request.stage = Stage::Waiting;
        request.computed = 0;
        request.ahead = false;
        let holding = std::mem::take(&mut request.holding);
        self.memory.release(holding, request.chain());
    }

    /// Tells what happened on the way: cache events, and the end of draining.
    pub(crate) fn flush(&mut self, out: &mut Vec<Command>) {
        out.extend(self.memory.take_events().map(Command::Cache));
        if self.draining && !self.drained && self.requests.is_empty() {
            self.drained = true;
            out.push(Command::Drained);
        }
    }

    /// What to sample a slice's last row with. None when the request is not here.
    pub fn sample_inputs(&self, request: RequestKey) -> Option<SampleInputs<'_>> {
        let request = self.requests.get(&request)?;
        let generation = request.generation()?;
        let (prompt, output) = request.tokens.split_at(generation.prompt_tokens);
        Some(SampleInputs { params: &generation.sampling, prompt, output })
    }

    /// What is held and free, exactly.
    pub fn ledger(&self) -> Ledger {
        Ledger {
            weights_bytes: self.config.weights_bytes,
            workspace_bytes: self.config.workspace_bytes,
            parts: self.memory.ledger(&self.config.geometry),
        }
    }

    /// All cached blocks.
    pub fn snapshot(&self) -> CacheSnapshot {
        let (sequence, blocks) = self.memory.snapshot();
        CacheSnapshot { sequence, blocks }
    }

    /// Ids of the requests that are here, oldest first.
    pub fn request_ids(&self) -> impl Iterator<Item = &RequestId> {
        self.requests.values().map(|r| &r.id)
    }

    /// Tokens of prompts that wait to be computed here.
    pub fn prefill_tokens_queued(&self) -> u64 {
        let waits = |r: &&Request| (r.is_computable() && !r.is_decodable()) || r.is_waiting();
        self.requests.values().filter(waits).map(|r| r.remaining() as u64).sum()
    }

    /// Whether the last step with decodes asked for drafts.
    pub fn drafting(&self) -> bool {
        self.drafts && self.speculation.drafting()
    }

    /// Whether new requests are refused.
    pub fn draining(&self) -> bool {
        self.draining
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        Stats { blocks_evicted: self.memory.evicted(), ..self.stats }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// What time ends.
enum Due {
    Request(&'static str),
    Leg(u32),
}
